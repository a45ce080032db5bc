/*
 * pairing.h: in place, which old and new columns of a table belong together.
 */
#ifndef DW_PAIRING_H
#define DW_PAIRING_H

#include "mapping.h"

/*
 * Columns, by attribute number in the layout of the table, that depend on each other: a write to some of them decides which
 * of the others follow, and says nothing about columns of another pair.
 */
typedef struct DwPair
{
	Bitmapset  *new_columns;	/* kept equal to what forward makes of the row */
	Bitmapset  *filled_once;	/* "on": "insert": filled where NULL, otherwise left alone */
	Bitmapset  *old_columns;	/* kept equal to what reverse makes of it; NULL: nothing leads back */
	Bitmapset  *old_filled_once;	/* the same, filled by inserts that write the new side */
	Bitmapset  *read;			/* what else forward reads */
} DwPair;

typedef struct DwPairing
{
	int			npairs;
	DwPair	   *pairs;
	int			nwatched;
	AttrNumber *watched;		/* all columns of all pairs: where none of them changes, nothing follows */
	AttrNumber	last_watched;	/* the highest of them */
	ExprState **defaults;		/* of mapped columns, by attribute number - 1; NULL: null */
	Bitmapset  *erratic;		/* columns whose default is another one each time, so that nobody can tell it from a value */
	ExprContext *context;		/* to evaluate them in */
	TupleTableSlot *made[2];	/* what a projection makes of a row, by DwDirection */
} DwPairing;

/* The pairs of a mapping in place; the caller holds a lock on its table.  They live as long as the compiled mapping. */
extern const DwPairing *dw_pairing_of(DwCompiled *compiled);

/*
 * Of new columns that are not what forward makes of a row, those that a write of the new side does not account for: the old
 * columns of the pair are not what reverse makes of the row, or there are none.  old_differing: what reverse would change.
 */
extern Bitmapset *dw_pairing_unaccounted(DwCompiled *compiled, const Bitmapset *new_differing,
										 const Bitmapset *old_differing);

#endif							/* DW_PAIRING_H */
