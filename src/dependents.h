/*
 * dependents.h: rows that depend on a row of a table that a mapping looks up.
 */
#ifndef DW_DEPENDENTS_H
#define DW_DEPENDENTS_H

#include "mapping.h"

/* A row of the table has changed (either image may be NULL): bring what depends on it up to date. */
extern void dw_dependents_follow(DwLookedUp *looked_up, TupleTableSlot *old_row, TupleTableSlot *new_row);

/* All rows of one heap of the table are about to go: what depends on them is looked at in the background. */
extern void dw_dependents_truncate(DwLookedUp *looked_up, DwTable *table, Relation heap);

#endif							/* DW_DEPENDENTS_H */
