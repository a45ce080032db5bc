/*
 * propagate.h: keys brought to agreement inside the application's transaction, and on to the mappings behind.
 */
#ifndef DW_PROPAGATE_H
#define DW_PROPAGATE_H

#include "statement.h"
#include "stats.h"

/* What a write counts as. */
extern DwCounter dw_counter_for(DwApplied applied);
/* Converge; what another session is writing is waited for. */
extern DwCounter dw_propagate_key(DwStatement *statement, DwFlow *flow, const DwKey *source_key);
/* Converge, unless somebody holds one of the rows: then the key is queued. */
extern DwCounter dw_propagate_unless_busy(DwStatement *statement, DwFlow *flow, const DwKey *source_key);
/*
 * A target row has come into being under this key, or left it: columns that other mappings fill are brought to agreement, too.
 * What another session holds is queued: it may be waiting for us.
 */
extern void dw_propagate_fillers(DwStatement *statement, DwFlow *flow, const DwKey *source_key);
/* The source row is about to be truncated: what it has on the other side goes. */
extern DwCounter dw_propagate_truncated(DwStatement *statement, DwFlow *flow, const DwKey *source_key);
/*
 * Rows whose key changed (list of DwPostponed with a from key): target rows move, so that columns outside the mapping
 * stay with them; then both keys of each are converged, which settles whatever could not move, as in a swap.  A row may move from a
 * key to the same one: it is brought over in its turn.  at: the source key that is being worked on.
 */
extern void dw_propagate_moves(DwStatement *statement, List *moves, DwKey *at);
/* The target row of this source key has been written: followers bring their side of it to agreement, too. */
extern void dw_propagate_followers(DwStatement *statement, DwFlow *flow, const DwKey *source_key);

#endif							/* DW_PROPAGATE_H */
