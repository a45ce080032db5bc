/*
 * walk.h: the rows of one side of a mapping in key order, from where an earlier transaction stopped.
 */
#ifndef DW_WALK_H
#define DW_WALK_H

#include "lookup.h"

typedef struct DwWalk DwWalk;	/* private to walk.c */

/* A part of a table in the order of its key; leaves come one after the other by OID. */
typedef struct DwSpan
{
	Oid			heap;			/* begin behind this key of this leaf; InvalidOid: with the first row; no key: with its first */
	Jsonb	   *last_key;
	Oid			end_heap;		/* end with this key of this leaf; InvalidOid: with the last row; no key: before its first */
	Jsonb	   *end_key;		/* not for foreign tables */
} DwSpan;

/*
 * Begin to walk a span.  A heap that is gone by now is skipped: the walk goes on with the next one.  The caller holds
 * ACCESS SHARE on the table and all its partitions and took the snapshot after that; it stays registered until
 * dw_walk_end.  owner: whose types' input functions may run.
 */
extern DwWalk *dw_walk_begin(const DwKeyShape *shape, TupleDesc desc, Oid owner, Snapshot snapshot, const DwSpan *span);

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
