/*
 * stride.h: rows by a key of one column, where the next key wanted is mostly close to the last one.
 */
#ifndef DW_STRIDE_H
#define DW_STRIDE_H

#include "access/genam.h"
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
/* Let go of the page of the row last found. */
extern void dw_stride_rest(DwStride *stride);
extern void dw_stride_end(DwStride *stride);
/* The order of the index's first column, in the current memory context. */
extern void dw_stride_order(Relation index, SortSupport order);

#endif							/* DW_STRIDE_H */
