/*
 * pending.h: keys that the end of a statement brings to agreement.
 */
#ifndef DW_PENDING_H
#define DW_PENDING_H

#include "statement.h"

/* Are two source keys the same, byte for byte? */
extern bool dw_pending_same_key(DwFlow *flow, const DwKey *a, const DwKey *b);
/* The row with key from has another one.  What it had before that, if the statement has changed it already, is remembered. */
extern void dw_pending_move(DwStatement *statement, DwFlow *flow, const DwKey *from, const DwKey *to);
/* A foreign key of the target has written the counterpart. */
extern void dw_pending_cascaded(DwStatement *statement, DwFlow *flow, const DwKey *source_key);
/* Is this key one of them, whatever its row is by then? */
extern bool dw_pending_includes(DwStatement *statement, DwFlow *flow, const DwKey *source_key);
/* All moves, or all that foreign keys have written, in the order in which they came; none are left. */
extern List *dw_pending_take_moves(DwStatement *statement);
extern List *dw_pending_take_cascaded(DwStatement *statement);

#endif							/* DW_PENDING_H */
