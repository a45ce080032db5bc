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
/* A foreign key of the target has written the counterpart.  depth: as in DwPostponed. */
extern void dw_pending_cascaded(DwStatement *statement, DwFlow *flow, const DwKey *source_key, int depth);
/* Is this key one of them, whatever its row is by then? */
extern bool dw_pending_includes(DwStatement *statement, DwFlow *flow, const DwKey *source_key);
/* Does any of them wait for the end of a statement as deep as this, or deeper? */
extern bool dw_pending_any(const DwPending *pending, int depth);
/* Those that do, in the order in which they came; they wait no more. */
extern List *dw_pending_take(DwPending *pending, int depth);
/* What has been taken is done with. */
extern void dw_pending_free(DwPending *pending);

#endif							/* DW_PENDING_H */
