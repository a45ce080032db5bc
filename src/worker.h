/*
 * worker.h: how sessions get background work done.
 */
#ifndef DW_WORKER_H
#define DW_WORKER_H

#include "shmem.h"

/*
 * See to it, at commit, that background work of this database goes on: wakes the launcher, or starts one.
 * WARNING with a hint when max_worker_processes leaves no room.
 */
extern void dw_worker_wake(void);
/* Is a worker for this migration running? */
extern bool dw_worker_running(int32 migration_id);

/*
 * Processes that share the migration's work of this role: its workers, and this session in any case.  Their pids go into
 * pids, which takes DW_WORKER_SLOTS + 1 (NULL: not asked for).
 */
extern int	dw_worker_sharing(int32 migration_id, DwRole role, int *pids);

/*
 * Have builds of indexes for this migration broken off, now and once more at commit, when nobody can miss why.  They begin
 * again as soon as they may.
 */
extern void dw_worker_stop_builds(int32 migration_id);

extern void dw_worker_init(void);	/* from _PG_init */

#endif							/* DW_WORKER_H */
