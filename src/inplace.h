/*
 * inplace.h: a row of a table whose columns move inside it, before it is stored.
 */
#ifndef DW_INPLACE_H
#define DW_INPLACE_H

#include "mapping.h"

typedef struct DwInPlaceRow
{
	DwCompiled *compiled;
	DwTable    *table;
	Relation	rel;			/* as fired: may be a leaf */
	HeapTuple	tuple;			/* to be stored, in the layout of rel */
	TupleTableSlot *before;		/* in the layout of the table; NULL for an insert */
	TupleTableSlot *after;
} DwInPlaceRow;

/*
 * Let one side's columns follow what was written to the other's.  The tuple to be stored: the same, or one allocated in the current
 * context.  ERROR 23514 when both sides were written and disagree, 55000 for a side that is not to be written in this
 * phase, and whatever an expression raises, unless the key is queued by policy.
 */
extern HeapTuple dw_in_place_row(const DwInPlaceRow *row);

#endif							/* DW_INPLACE_H */
