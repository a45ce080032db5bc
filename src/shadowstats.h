/*
 * shadowstats.h: counters of shadow reads, in shared memory.
 */
#ifndef DW_SHADOWSTATS_H
#define DW_SHADOWSTATS_H

#include "catalog.h"

/* In the order of the columns of _dualwrite.shadow_read; the first four are what a shadow read can come to. */
typedef enum DwShadowCounter
{
	DW_SHADOW_AGREED,
	DW_SHADOW_MISMATCHED,
	DW_SHADOW_ERRORS,			/* of the side that is not authoritative */
	DW_SHADOW_SKIPPED,			/* over its budget, or not to be compared */
	DW_SHADOW_OLD_US,
	DW_SHADOW_NEW_US,
	DW_SHADOW_OLD_BUFFERS,
	DW_SHADOW_NEW_BUFFERS,
	DW_SHADOW_FAILED_IN_A_ROW,
	DW_SHADOW_NUM_COUNTERS
} DwShadowCounter;

/* What shadow reads of a migration came to since its phase was entered, or dw_shadow_reset was called. */
typedef struct DwShadowTotals
{
	int64		counters[DW_SHADOW_NUM_COUNTERS];
	TimestampTz since;			/* 0: nothing was counted */
} DwShadowTotals;

/*
 * Add one shadow read.  cost: microseconds and buffers of the old and the new side, as the counters have them.  failure: it
 * counts towards switching off.  Returns the failures in a row, this one included.  Writes to shared memory only, at once.
 */
extern int64 dw_shadow_count(const DwMigration *migration, DwShadowCounter outcome, const int64 cost[4], bool failure);
extern void dw_shadow_totals(const DwMigration *migration, DwShadowTotals *totals);
/* Begin anew, and forget mismatches. */
extern void dw_shadow_reset(const DwMigration *migration);
/* Duty of a worker: write down what was counted, for a restart to find, and cut the ring of mismatches. */
extern DwStep dw_shadow_step(const DwMigration *migration, TimestampTz *next_due);

#endif							/* DW_SHADOWSTATS_H */
