/*
 * pass.h: one comparison of a mapping from end to end, as it is stored.
 */
#ifndef DW_PASS_H
#define DW_PASS_H

#include "drift.h"

typedef enum DwStage
{
	DW_STAGE_OLD,
	DW_STAGE_BOTH,				/* instead of old, where both sides can be walked in step; new has only the end left then */
	DW_STAGE_NEW,
	DW_STAGE_RECHECK,
	DW_STAGE_REPAIR,
	DW_STAGE_DONE
} DwStage;

#define DW_NUM_STAGES (DW_STAGE_DONE + 1)

typedef struct DwPass
{
	int64		id;
	int32		mapping_id;
	bool		background;
	double		sample_percent;
	DwStage		stage;
	Oid			heap;			/* where it stands: see walk.h and compare.h; in later stages only the key of drift counts */
	Jsonb	   *last_key;
	int64		rows_compared;
	DwTally		found;			/* open drift that it saw */
	int64		repaired;
} DwPass;

/* Keys that a pass has found to differ. */
extern int64 dw_pass_found(const DwPass *pass);

/* Store a new one, or where it has got to; a finished one also clears away old ones of the mapping. */
extern void dw_pass_begin(const DwMigration *migration, int32 mapping_id, bool background, double sample_percent, DwPass *pass);
extern void dw_pass_store(const DwPass *pass);

/* The background pass under way of a migration, if any; and forget those that began before the phase last changed. */
extern bool dw_pass_unfinished(const DwMigration *migration, DwPass *pass);
extern void dw_pass_abandon(const DwMigration *migration);

/* The mapping whose last full pass of this epoch ended longest ago, DT_NOBEGIN for never.  false: there is no mapping. */
extern bool dw_pass_oldest(const DwMigration *migration, int32 *mapping_id, TimestampTz *finished_at);

/* Begin a background pass for every mapping that has none under way. */
extern void dw_pass_request(const DwMigration *migration, double sample_percent);

/* In reconcile.c: a whole pass in the caller's transaction. */
extern void dw_reconcile_foreground(const DwMigration *migration, int32 mapping_id, double sample_percent, DwPass *pass);

#endif							/* DW_PASS_H */
