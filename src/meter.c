/*
 * meter.c: what a slice has found so far, when it takes a rest, and whether it has to end.
 */
#include "postgres.h"

#include "meter.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* Differences are kept in memory until the slice ends; past so many bytes it ends early. */
#define DW_SLICE_BYTES (16 * 1024 * 1024)

/*
 * A slice that rests does so after so much work, µs.  A process keeps its processor for up to a scheduler's slice (3 ms of
 * Linux') before whoever is woken there gets it; one that stops by itself after half a millisecond is hardly noticed.
 */
#define DW_SPELL_US 500

/* How many rows pass between looks at the clock. */
#define DW_CLOCK_ROWS 64

DwMeter
dw_meter_start(DwSlice *slice, MemoryContext results)
{
	TimestampTz now = GetCurrentTimestamp();
	DwMeter		meter = {.slice = slice, .results = results, .start = now, .spell = now};

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

/* A latch cannot be awaited for less than a millisecond; a signal ends this sleep, too, and the caller looks for interrupts. */
static void
rest(DwMeter *meter, int64 us)
{
	TimestampTz before = GetCurrentTimestamp();

	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	pg_usleep(us);
	pgstat_report_wait_end();
	meter->spell = GetCurrentTimestamp();
	meter->slice->rested_us += Max(0, meter->spell - before);
}

/* How long to rest for the work since the last rest, µs. */
static int64
rest_due(const DwMeter *meter, TimestampTz now)
{
	int64		worked = now - meter->spell;
	double		ratio = meter->slice->ratio;

	return ratio < 1 && worked >= DW_SPELL_US ? (int64) (worked / ratio) - worked : 0;
}

static bool
time_is_up(DwMeter *meter)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		due = rest_due(meter, now);

	meter->unwatched = 0;
	/* a rest that would outlast the slice is taken behind it */
	if (now - meter->start + due >= meter->slice->max_ms * INT64CONST(1000))
		return true;
	if (due > 0)
		rest(meter, due);
	return false;
}

bool
dw_meter_full(DwMeter *meter, int rows)
{
	meter->unwatched += rows;
	return meter->bytes >= DW_SLICE_BYTES || (meter->unwatched >= DW_CLOCK_ROWS && time_is_up(meter));
}
