/*
 * rowkey.h: the mapping's key of a source row, when the rest of the row cannot be projected.
 */
#ifndef DW_ROWKEY_H
#define DW_ROWKEY_H

#include "mapping.h"

/*
 * Key of a row of the flow's source (layout of the table, not of the leaf), from the key columns' expressions alone: an error in another
 * column's expression does not matter.  Compiles them anew, so for the exception, not for every row.  The values live in the current memory.
 * false: a key column is null.  ERROR: the key's own expressions fail.
 */
extern bool dw_row_key(DwFlow *flow, TupleTableSlot *source, DwKey *key);

#endif							/* DW_ROWKEY_H */
