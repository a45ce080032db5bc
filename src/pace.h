/*
 * pace.h: how large the backfill's next batch is, and when it may begin.
 */
#ifndef DW_PACE_H
#define DW_PACE_H

#include "budget.h"
#include "portability/instr_time.h"

/* What one batch, and a second of batches, may be. */
typedef struct DwLimits
{
	int32		migration_id;
	DwRates		rates;			/* of all processes together */
	int			sharing;		/* so many they are */
	double		batch_ms;
	bool		overridden;		/* somebody's word stands against the signals: */
	double		ratio;			/* be at work for this share of the time */
} DwLimits;

/* A batch under way. */
typedef struct DwPace
{
	DwLimits	limits;
	int64		blocks;			/* it may have */
	double		rows_booked;
	double		bytes_booked;
	uint64		wal_before;
	instr_time	start;
} DwPace;

extern void dw_pace_limits(int32 migration_id, bool overridden, double ratio, DwLimits *limits);
/* Size a batch of no more than that many blocks and begin it.  0: begin; otherwise wait so many ms, and ask again. */
extern long dw_pace_begin(DwPace *pace, const DwLimits *limits, int64 blocks);
/* Has the batch had its time? */
extern bool dw_pace_time_is_up(const DwPace *pace);
/* It ended after so many blocks and rows: learn from it.  Milliseconds to wait before the next one. */
extern long dw_pace_end(const DwPace *pace, int64 blocks, int64 rows);
/* It was given up; nothing was done. */
extern void dw_pace_give_up(const DwPace *pace);

#endif							/* DW_PACE_H */
