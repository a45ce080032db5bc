/*
 * locks.h: strong locks, politely.
 */
#ifndef DW_LOCKS_H
#define DW_LOCKS_H

#include "dualwrite.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/*
 * Lock all relations (list of OIDs, leaves included by the caller) within one budget, retrying from scratch after a pause in which nothing is
 * held.  Gives up with 55P03 that names table, blocker's pid, application, state and age.
 */
extern void dw_lock_politely(List *relids, LOCKMODE mode, int budget_ms, int attempts);

#endif							/* DW_LOCKS_H */
