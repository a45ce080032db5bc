/*
 * meter.c: what a slice has found so far, and whether it has to end.
 */
#include "postgres.h"

#include "meter.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Differences are kept in memory until the slice ends; past so many bytes it ends early. */
#define DW_SLICE_BYTES (16 * 1024 * 1024)

/* How many rows pass between looks at the clock. */
#define DW_CLOCK_ROWS 64

DwMeter
dw_meter_start(DwSlice *slice, MemoryContext results)
{
	DwMeter		meter = {.slice = slice, .results = results, .start = GetCurrentTimestamp()};

	return meter;
}

static Size
difference_bytes(const DwDifference *found)
{
	return sizeof(DwDifference) + VARSIZE(found->key) +
		(found->old_values ? VARSIZE(found->old_values) : 0) + (found->new_values ? VARSIZE(found->new_values) : 0);
}

void
dw_meter_keep(DwMeter *meter, const DwDifference *found)
{
	MemoryContext old;

	if (found == NULL)
		return;
	old = MemoryContextSwitchTo(meter->results);
	meter->slice->differences = lappend(meter->slice->differences, dw_difference_copy(found));
	meter->bytes += difference_bytes(found);
	MemoryContextSwitchTo(old);
}

bool
dw_meter_full(DwMeter *meter)
{
	meter->rows++;
	return meter->bytes >= DW_SLICE_BYTES ||
		(meter->rows % DW_CLOCK_ROWS == 0 &&
		 TimestampDifferenceExceeds(meter->start, GetCurrentTimestamp(), meter->slice->max_ms));
}
