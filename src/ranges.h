/*
 * ranges.h: the parts of a background pass that are still to be compared.
 */
#ifndef DW_RANGES_H
#define DW_RANGES_H

#include "slice.h"

/* Instead of those that there are: a list of DwRange *. */
extern void dw_ranges_replace(int64 pass, List *ranges);

typedef enum DwClaim
{
	DW_CLAIMED,
	DW_CLAIM_ALL_TAKEN,			/* other processes have what is left */
	DW_CLAIM_NONE_LEFT
} DwClaim;

/* A range that nobody else is at, until the end of the transaction. */
extern DwClaim dw_range_claim(int64 pass, DwRange *range);
/* How far it has got; finished: it is no more. */
extern void dw_range_store(int64 pass, const DwRange *range, bool finished);

/* Ranges left of the passes of a migration; uncut: as many as one counts for that is not cut yet. */
extern int	dw_ranges_left(int32 migration_id, int uncut);

#endif							/* DW_RANGES_H */
