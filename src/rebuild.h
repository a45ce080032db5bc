/*
 * rebuild.h: indexes that were taken away before a copy are built again.
 */
#ifndef DW_REBUILD_H
#define DW_REBUILD_H

#include "catalog.h"

/*
 * A duty of the worker, in two parts.  The step, in the worker's transaction: looks what is owed, sees to an index that is
 * there again and to ANALYZE, and claims an index that has to be built (WORKED).  next_due as for dw_deliver_step.
 */
extern DwStep dw_rebuild_step(const DwMigration *migration, TimestampTz *next_due);
/*
 * The rest of it, outside of any transaction: builds what the step has claimed, if anything, in transactions of its own.  The
 * error of a build that failed is raised once it is written down.  WAIT: it was broken off, by dw_worker_stop_builds.
 */
extern DwStep dw_rebuild_outside(void);
/* How many processes could find something to do: one at most. */
extern int	dw_rebuild_openings(const DwMigration *migration);

/*
 * For a session that does a worker's part, in its transaction: notes which indexes are there again, and tells (NOTICE) the statements
 * that build the others.
 */
extern void dw_rebuild_settle(const DwMigration *migration);

/* Try what has failed again now.  Returns the number of indexes that are not built. */
extern int64 dw_rebuild_request(const DwMigration *migration);
/* Give an index up.  ERROR 42704 when no such one is owed. */
extern void dw_rebuild_forget(const DwMigration *migration, Oid table, const char *index, const char *reason);

#endif							/* DW_REBUILD_H */
