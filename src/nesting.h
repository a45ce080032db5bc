/*
 * nesting.h: mirrored writes within mirrored writes.
 */
#ifndef DW_NESTING_H
#define DW_NESTING_H

#include "nodes/execnodes.h"

#define DW_MAX_NESTING 32

/* Around a write that may run code of users.  ERROR 54001 beyond DW_MAX_NESTING. */
extern void dw_nesting_enter(void);
extern void dw_nesting_leave(void);
/* How deep: 0 .. DW_MAX_NESTING - 1. */
extern int	dw_nesting(void);
/* After an error: back to what dw_nesting returned before. */
extern void dw_nesting_set(int depth);
/* How deep triggers are nested, of whatever kind: 1 in the triggers of a client's statement. */
extern int	dw_trigger_depth(void);
/* Of DW_MAX_NESTING contexts to evaluate expressions in, that of this depth, made in memory when it is first needed. */
extern ExprContext *dw_nested_context(ExprContext *contexts[], MemoryContext memory);

#endif							/* DW_NESTING_H */
