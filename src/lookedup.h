/*
 * lookedup.h: which source rows depend on a row of a table that a mapping looks up.
 */
#ifndef DW_LOOKEDUP_H
#define DW_LOOKEDUP_H

#include "mapping.h"

/* Plan the query, where that has not been done, and learn which columns of the row it reads (looked_up->columns). */
extern void dw_lookedup_prepare(DwLookedUp *looked_up);

/*
 * Call back with each source key that depends on a row with these columns, by the newest snapshot and with what this
 * transaction has written.  The key lives until the call returns.  Errors: those of the user's query.
 */
extern void dw_lookedup_keys(DwLookedUp *looked_up, Jsonb *image,
							 void (*found) (DwFlow *flow, const DwKey *source_key));

#endif							/* DW_LOOKEDUP_H */
