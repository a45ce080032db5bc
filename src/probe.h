/*
 * probe.h: a row by the whole of a unique key, by one descent of a B-tree.
 */
#ifndef DW_PROBE_H
#define DW_PROBE_H

#include "access/nbtree.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

typedef struct DwProbe DwProbe;

typedef enum DwProbed
{
	DW_PROBE_NONE,
	DW_PROBE_FOUND,
	DW_PROBE_UNKNOWN			/* for an index scan to find out */
} DwProbed;

/* Is the table a heap, and the index a B-tree over so many columns? */
extern bool dw_probe_possible(Relation rel, Relation index, int ncolumns);
/* In the current memory context; it may be used until the index is another one. */
extern DwProbe *dw_probe_make(Relation index);
/*
 * The row with the key (values in the order of the index) that a dirty snapshot sees, into the slot, which is of the heap's kind.
 * Nothing but the slot holds a page when it returns.
 */
extern DwProbed dw_probe_find(DwProbe *probe, Relation rel, Relation index, const Datum *values, Snapshot snapshot,
							  TupleTableSlot *slot);

/* To descend an index by values of all its key columns, which are yet to be put in. */
extern BTScanInsert dw_search_key(Relation index);
/* The first entry of a leaf page, which is locked, that does not come before the key. */
extern OffsetNumber dw_first_entry(Relation index, BTScanInsert key, Page page);

#endif							/* DW_PROBE_H */
