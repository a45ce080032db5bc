/*
 * worker.h: how sessions get background work done.
 */
#ifndef DW_WORKER_H
#define DW_WORKER_H

#include "dualwrite.h"

/*
 * See to it, at commit, that background work of this database goes on: wakes the launcher, or starts one.
 * WARNING with a hint when max_worker_processes leaves no room.
 */
extern void dw_worker_wake(void);
/* Is a worker for this migration running? */
extern bool dw_worker_running(int32 migration_id);

/* Processes among which the migration's rates are to be shared: those at work on it; 1 in any other session. */
extern int	dw_worker_sharing(void);

extern void dw_worker_init(void);	/* from _PG_init */

#endif							/* DW_WORKER_H */
