/*
 * share.h: which share of the time a comparison works while applications want the machine.
 */
#ifndef DW_SHARE_H
#define DW_SHARE_H

#include "postgres.h"

#include "portability/instr_time.h"

/* A step under way. */
typedef struct DwShare
{
	double		ratio;			/* of the time, for this process */
	bool		company;		/* client sessions were at work when it began */
	int64		rested_us;		/* within its slice */
	instr_time	start;
} DwShare;

/* helper: does this process share the ranges of a pass with other helpers, and the migration's first process has no part in it? */
extern DwShare dw_share_begin(int32 migration_id, bool helper);
/* How long a slice may be that could take so long, and for which share of that time it is at work. */
extern int	dw_share_slice_ms(const DwShare *share, int longest_ms);
extern double dw_share_within_slice(const DwShare *share);
/* The step ends: milliseconds to rest before the next one, for there are client sessions at work; 0: there are none. */
extern long dw_share_rest(const DwShare *share);

#endif							/* DW_SHARE_H */
