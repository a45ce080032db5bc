/*
 * rowcheck.h: would the table take this row?
 */
#ifndef DW_ROWCHECK_H
#define DW_ROWCHECK_H

#include "mapping.h"

/*
 * Compute the stored generated columns of a tuple in the layout of rel, and hold NOT NULL and CHECK constraints against it,
 * as the executor does before it stores a row.  ERROR 23502, 23514 as there.  Nothing is stored.
 */
extern void dw_row_check(DwTable *table, Relation rel, HeapTuple tuple);

#endif							/* DW_ROWCHECK_H */
