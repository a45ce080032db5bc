/*
 * comparing.h: a comparison from the inside.  Only for compare.c and for what reads the rows that are held against one
 * another: slice.c, instep.c, touched.c and cut.c.
 */
#ifndef DW_COMPARING_H
#define DW_COMPARING_H

#include "apply.h"
#include "attempt.h"
#include "compare.h"

/* A mapping with its old side open. */
typedef struct DwSide
{
	DwCompiled *compiled;
	DwLookup   *old;
	TupleTableSlot *projected;	/* new layout: what the mapping makes of the old row */
	TupleTableSlot *reversed;	/* old layout: what it makes of the new row */
	TupleTableSlot *returned;	/* new layout: what it makes of that, there and back */
	bool		queue_known;	/* under the snapshot in hand: */
	bool		queue_empty;
} DwSide;

/* How the bytes of a column are held against one another. */
typedef struct DwSameColumn
{
	int			index;
	int16		length;
	bool		by_value;
} DwSameColumn;

struct DwCompare
{
	DwSide	   *self;
	List	   *owners;			/* of DwSide: mappings that own rows of this new table, by ordinal, self in its place */
	bool		in_place;		/* both sides are one table: neither row can be without the other */
	DwLookup   *new;			/* NULL for a foreign table */
	DwTarget   *target;			/* NULL unless it is one */
	Snapshot	snapshot;
	int			ncolumns;		/* mapped columns of the new table */
	struct DwSameColumn *columns;
	bool		see_queued;
	bool		careful;		/* catch errors of expressions row by row */
	bool		failed;			/* the row in hand raised one */
	MemoryContext context;
	MemoryContext row_context;
};

/*
 * What the mapping makes of an old row, in self->projected, and its key.  false: nothing, or (compare->failed) an error.
 */
extern bool dw_compare_project(DwCompare *compare, TupleTableSlot *old_row, DwKey *key);
/* An old row of which it makes nothing: NULL, or the difference that an error amounts to.  has_key = false: not even that. */
extern DwDifference *dw_compare_unprojected(DwCompare *compare, TupleTableSlot *row, bool *has_key);
/* An old row, what becomes of it in self->projected, and the new row with that key, or NULL. */
extern DwDifference *dw_compare_pair(DwCompare *compare, const DwKey *key, TupleTableSlot *old_row, TupleTableSlot *new_row);
/* A new row: does any mapping that owns rows of this table vouch for it?  Looking for that projects other old rows. */
extern DwDifference *dw_compare_new_row(DwCompare *compare, TupleTableSlot *new_row);
/* Whatever rows there are with this key; as dw_compare_key, in the row's memory. */
extern DwDifference *dw_compare_one(DwCompare *compare, const DwKey *key);
extern TupleTableSlot *dw_compare_find_new(DwCompare *compare, const DwKey *key);
/* Whether new rows may be extra at all. */
extern bool dw_compare_decides_existence(DwCompare *compare);
/* Only for foreign tables: NULL when it is not so any more under a newer snapshot, taken by dw_compare_refresh. */
extern DwDifference *dw_compare_confirm(DwCompare *compare, DwDifference *found);

#endif							/* DW_COMPARING_H */
