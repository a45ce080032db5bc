/*
 * instep.h: both sides of a mapping read in step.
 */
#ifndef DW_INSTEP_H
#define DW_INSTEP_H

#include "comparing.h"
#include "slice.h"

/* Can both sides be read in step, and does that say whether new rows are extra? */
extern bool dw_instep_possible(DwCompare *compare);
/* Where a range of both sides goes on: behind one key of the old side and one of the new (NULL: at its beginning). */
extern Jsonb *dw_instep_position(Jsonb *old, Jsonb *new);
/* A slice of a range of both sides: what is found goes to results. */
extern void dw_instep_slice(DwCompare *compare, DwSlice *slice, MemoryContext results);

#endif							/* DW_INSTEP_H */
