/*
 * moves.h: rows whose key a statement has changed, until their target rows follow.
 */
#ifndef DW_MOVES_H
#define DW_MOVES_H

#include "statement.h"

/* Are two source keys the same, byte for byte? */
extern bool dw_moves_same_key(DwFlow *flow, const DwKey *a, const DwKey *b);
/* The row with key from has another one.  What it had before that, if the statement has changed it already, is remembered. */
extern void dw_moves_add(DwStatement *statement, DwFlow *flow, const DwKey *from, const DwKey *to);
/* Will one of the moves bring this key to agreement, whatever its row is by then? */
extern bool dw_moves_include(DwStatement *statement, DwFlow *flow, const DwKey *source_key);
/* All of them, in the order in which they were added; none are left. */
extern List *dw_moves_take(DwStatement *statement);

#endif							/* DW_MOVES_H */
