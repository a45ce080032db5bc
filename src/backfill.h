/*
 * backfill.h: copy of history, one batch at a time.
 */
#ifndef DW_BACKFILL_H
#define DW_BACKFILL_H

#include "catalog.h"

/* Note the heaps to walk and their sizes now.  On entering phase backfill, under its locks: older writers have ended. */
extern void dw_backfill_start(const DwMigration *migration);

/* Processes that could find something to copy at the same time. */
extern int	dw_backfill_openings(const DwMigration *migration);

/*
 * One batch in the current transaction, checkpoint included.  delay_ms: how long to wait, outside a transaction, before the next
 * (rate limit).  DONE once, when the last heap is through.  Errors of single rows end in the queue; anything else is raised.
 */
extern DwStep dw_backfill_step(const DwMigration *migration, long *delay_ms);

/* Share done, 0 to 100; true when every heap is finished. */
extern bool dw_backfill_progress(int32 migration_id, double *percent);

#endif							/* DW_BACKFILL_H */
