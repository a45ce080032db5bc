/*
 * preview.h: what a migration would make of the rows that are there.
 */
#ifndef DW_PREVIEW_H
#define DW_PREVIEW_H

#include "catalog.h"
#include "access/tupdesc.h"
#include "utils/tuplestore.h"

/*
 * Put the first rows of each mapping, in the order of the old key, and what they become into the store: old_table, new_table,
 * key, old_row, new_row; key and new_row are NULL for a row that the filter leaves out.  Evaluates the mapping as the mirror does, and raises
 * what its expressions raise; writes nothing.  The caller has checked that the user owns the tables.
 */
extern void dw_preview(const DwMigration *migration, int rows, Tuplestorestate *store, TupleDesc desc);

#endif							/* DW_PREVIEW_H */
