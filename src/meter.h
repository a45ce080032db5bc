/*
 * meter.h: what a slice has found so far, and whether it has to end.
 */
#ifndef DW_METER_H
#define DW_METER_H

#include "slice.h"

typedef struct DwMeter
{
	DwSlice    *slice;
	MemoryContext results;
	TimestampTz start;
	TimestampTz spell;			/* at work without a rest since */
	Size		bytes;			/* of the differences */
	int64		unwatched;		/* rows since the last look at the clock */
} DwMeter;

/* Differences are copied to results. */
extern DwMeter dw_meter_start(DwSlice *slice, MemoryContext results);
/* NULL is allowed: it agrees. */
extern void dw_meter_keep(DwMeter *meter, const DwDifference *found);
/* So many rows more are done: enough?  Rests now and then where the slice asks for it. */
extern bool dw_meter_full(DwMeter *meter, int rows);

#endif							/* DW_METER_H */
