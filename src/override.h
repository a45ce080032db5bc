/*
 * override.h: somebody's word against the throttle's signals, for a while.
 */
#ifndef DW_OVERRIDE_H
#define DW_OVERRIDE_H

#include "dualwrite.h"

/* Is there an override for the migration just now?  Then *ratio is the share of the time to work for: 0 to 1. */
extern bool dw_override_get(int32 migration_id, double *ratio);

#endif							/* DW_OVERRIDE_H */
