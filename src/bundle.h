/*
 * bundle.h: keys that differ, many in a row of the catalog.
 */
#ifndef DW_BUNDLE_H
#define DW_BUNDLE_H

#include "dualwrite.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* Keys (List of Jsonb *) of one kind that this pass has found. */
extern void dw_bundle_add(int32 mapping_id, int64 pass, const char *kind, List *keys);

/* A background pass begins: those of one that has not ended are void. */
extern void dw_bundle_discard(int32 mapping_id);
/* It has ended: from now on its own are shown, and, as it was a full one, no others. */
extern void dw_bundle_settle(int32 mapping_id, int64 pass, bool full);

/* Is anything bundled of the mapping? */
extern bool dw_bundle_exists(int32 mapping_id);
/* Keys of the first bundle behind *id, which is moved on; NIL: there is none. */
extern List *dw_bundle_next(int32 mapping_id, int64 *id);
extern void dw_bundle_forget(int64 id);
/* Take one key out: it gets a row of its own, or agrees. */
extern void dw_bundle_remove(int32 mapping_id, Jsonb *key);

#endif							/* DW_BUNDLE_H */
