/*
 * reconcile.h: compare both sides, keep the list of differing keys, repair them.
 */
#ifndef DW_RECONCILE_H
#define DW_RECONCILE_H

#include "mapping.h"

struct DwPass;

/* Which part of a pass a process does. */
typedef enum DwReconcilePart
{
	DW_RECONCILE_ALL,
	DW_RECONCILE_RANGES,		/* a helper at low priority: it compares ranges, reading only */
	DW_RECONCILE_REST			/* what is left to the first process beside such helpers: it begins passes, looks again, repairs */
} DwReconcilePart;

/*
 * One chunk of the background pass that is under way or due by reconcile_interval (or asked for), in the current transaction and under one snapshot.
 * next_due: when to call again: after WORKED, when it has rested; after IDLE, when the next pass begins.
 */
extern DwStep dw_reconcile_step(const DwMigration *migration, DwReconcilePart part, TimestampTz *next_due);
/* How many processes could find something to do in a pass just now. */
extern int	dw_reconcile_openings(const DwMigration *migration);
/* Ask for a background pass now. */
extern void dw_reconcile_request(const DwMigration *migration);

/* A whole pass in the caller's transaction, and what came of it. */
extern void dw_reconcile_foreground(const DwMigration *migration, int32 mapping_id, double sample_percent, struct DwPass *pass);

/* Bring one key to agreement from the truth, or say that it would be (dry_run); the overwritten image goes to drift. */
extern bool dw_repair_key(const DwMigration *migration, DwCompiled *compiled, const DwKey *key, bool dry_run);

/* What gates and status ask.  clean_pass: a full pass of every mapping began and ended in this epoch and found nothing. */
extern int64 dw_drift_open(int32 migration_id);	/* -1: none is known, and no pass of this epoch has ended yet */
extern bool dw_reconcile_clean_pass(const DwMigration *migration, TimestampTz *finished_at);

#endif							/* DW_RECONCILE_H */
