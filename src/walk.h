/*
 * walk.h: the rows of one side of a mapping in key order, from where an earlier transaction stopped.
 */
#ifndef DW_WALK_H
#define DW_WALK_H

#include "lookup.h"

typedef struct DwWalk DwWalk;	/* private to walk.c */

/*
 * Begin behind the row that heap and last_key name (from dw_walk_position), or with the first row: heap InvalidOid.  A
 * heap that is gone by now is skipped: the walk goes on with the next one.  The caller holds ACCESS SHARE on the table and all its
 * partitions and took the snapshot after that; it stays registered until dw_walk_end.  owner: whose types' input
 * functions may run.
 */
extern DwWalk *dw_walk_begin(const DwKeyShape *shape, TupleDesc desc, Oid owner, Snapshot snapshot,
							 Oid heap, Jsonb *last_key);

/* The next row, in the layout of the table, valid until the next call; NULL behind the last one. */
extern TupleTableSlot *dw_walk_next(DwWalk *walk);

/*
 * Where the walk has got to: behind the row last returned, also when there was none after it in this heap.  false: it has
 * returned none yet, and is where it began.
 */
extern bool dw_walk_position(DwWalk *walk, Oid *heap, Jsonb **last_key);

/* Hash of the key of the row last returned: the same for the same key values, to draw samples by. */
extern uint32 dw_walk_hash(DwWalk *walk);

extern void dw_walk_end(DwWalk *walk);

#endif							/* DW_WALK_H */
