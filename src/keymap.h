/*
 * keymap.h: keys of one side made from those of the other; for compile.c.  What others call is in mapping.h.
 */
#ifndef DW_KEYMAP_H
#define DW_KEYMAP_H

#include "expression.h"
#include "mapping.h"

typedef struct DwKeyMap DwKeyMap;

/* From the flow's source key to its target key, in the current memory context; no column is known yet. */
extern DwKeyMap *dw_keymap_make(DwFlow *flow);
/* The next column of the target key: its expression, planned, and what has been found out about it. */
extern void dw_keymap_add(DwKeyMap *map, Node *node, const DwExpression *parsed);

#endif							/* DW_KEYMAP_H */
