/*
 * throttle.h: how fast background work may go, and when it must not.
 */
#ifndef DW_THROTTLE_H
#define DW_THROTTLE_H

#include "dualwrite.h"
#include "nodes/pg_list.h"

/*
 * Size of the next batch so that it takes about wanted_ms, after one of that size took took_ms: grows by a quarter at most, shrinks at
 * once.  Between 1 and DW_MAX_BATCH_BLOCKS.
 */
#define DW_MAX_BATCH_BLOCKS 16384
extern int	dw_throttle_resize(int blocks, double took_ms, double wanted_ms);

/*
 * Milliseconds to rest after a batch that took took_ms, to be at work for that share of the time (above 0, up to 1).  A batch
 * with its rest shall take DW_MAX_CYCLE_MS at most, so that an override that ends is noticed: make batches short enough.
 */
#define DW_MAX_CYCLE_MS 10000
extern long dw_throttle_rest(double took_ms, double ratio);

/*
 * Signals that ask background work of a migration to stop just now: list of their names (char *, in the current memory), NIL = go on.
 * relids: the tables concerned, leaves included where they matter; owner: whom throttle_query runs as.
 * A signal that cannot be read is in the list, with " (unreadable)" behind its name.
 */
extern List *dw_throttle_signals(int32 migration_id, List *relids, Oid owner);

/* The same for work that only reads: load and locks, nothing about WAL. */
extern List *dw_throttle_read_signals(int32 migration_id, List *relids, Oid owner);

/*
 * Is any client session of this server at work, or was within the last second?  Sessions that wait in an extension, such as
 * in dualwrite.wait, are not.
 */
extern bool dw_throttle_in_company(void);

#endif							/* DW_THROTTLE_H */
