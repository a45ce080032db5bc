/*
 * stride.h: rows by a key of one column, where the next key wanted is mostly close to the last one.
 */
#ifndef DW_STRIDE_H
#define DW_STRIDE_H

#include "access/genam.h"
#include "access/htup.h"
#include "executor/tuptable.h"
#include "utils/sortsupport.h"
#include "utils/snapshot.h"

typedef struct DwStride DwStride;

/* Is the index a B-tree over one column, which stores it as the table does? */
extern bool dw_stride_possible(Relation rel, Relation index);
/* Memory and resource owner current at begin; snapshot: a dirty one, which stays where it is. */
extern DwStride *dw_stride_begin(Relation rel, Relation index, Snapshot snapshot);
/* false: not found where it was expected, which says nothing about whether there is such a row. */
extern bool dw_stride_find(DwStride *stride, Datum key, TupleTableSlot *slot);
/* Rows that dw_stride_run finds at most: some more than a page holds. */
#define DW_STRIDE_RUN 300
/*
 * Of keys in the order of the index, rows of the first ones that are on one page and free to be deleted by this command.  places:
 * of DW_STRIDE_RUN; returns how many there are.  0 says nothing about the first key's row; so it is with keys of varying length, which are
 * not compared while a page is locked.
 */
extern int	dw_stride_run(DwStride *stride, const Datum *keys, int nkeys, ItemPointerData *places);
/* Was the version stored by this command, or a later one of this transaction?  Then the heap does not let us at it yet. */
extern bool dw_is_of_this_command(HeapTupleHeader version);
/* Let go of the page of the row last found. */
extern void dw_stride_rest(DwStride *stride);
extern void dw_stride_end(DwStride *stride);
/* The order of the index's first column, in the current memory context. */
extern void dw_stride_order(Relation index, SortSupport order);

#endif							/* DW_STRIDE_H */
