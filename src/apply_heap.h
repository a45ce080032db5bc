/*
 * apply_heap.h: what the bulk insert shares with the direct engine.
 */
#ifndef DW_APPLY_HEAP_H
#define DW_APPLY_HEAP_H

#include "apply.h"

extern const DwEngine dw_direct_engine;

/* Leave only those triggers in the leaf's rri that a mirrored write fires. */
extern void dw_leaf_prepare(DwTarget *target, DwLeaf *leaf);
/* The same, and open its indexes. */
extern void dw_leaf_open_for_write(DwTarget *target, DwLeaf *leaf);
/* Give the columns of a row (target layout) that the mapping does not write their defaults. */
extern void dw_fill_defaults(DwTarget *target, TupleTableSlot *row);
/*
 * Everything that has to be right about a row of the leaf before it is stored: BEFORE triggers, generated columns,
 * constraints.  ERROR 09000 when a trigger suppresses it.
 */
extern void dw_leaf_check_row(DwTarget *target, DwLeaf *leaf, TupleTableSlot *row);
/* See dw_target_rewrite. */
extern DwApplied dw_direct_rewrite(DwTarget *target, TupleTableSlot *version, TupleTableSlot *row);

#endif							/* DW_APPLY_HEAP_H */
