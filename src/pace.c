/*
 * pace.c: how large the backfill's next batch is, and when it may begin.
 *
 * A batch is as many blocks as can be copied in backfill_batch_ms, by what this process has seen of speed; the limits in rows
 * and megabytes a second hold for all processes of the migration together (budget.c).  Where there is such a limit, somebody
 * wants the copy to go unnoticed: batches are small then and many.  A process keeps its processor for up to a scheduler's
 * slice (3 ms of Linux'), and who is woken there meanwhile waits; of batches that take less than a millisecond others see
 * next to nothing (test/bench/latency).
 */
#include "postgres.h"

#include "pace.h"
#include "settings.h"
#include "throttle.h"
#include "worker.h"

#include "executor/instrument.h"

/* Blocks of the first batch that a process does. */
#define DW_FIRST_BLOCKS 16
/* Where rows or megabytes are limited: a batch is no more than what they allow in this time, ms, and takes this long at most. */
#define DW_LIMITED_SPAN_MS 10
#define DW_LIMITED_BATCH_MS 20
/* Longest wait before the limits are looked at again, ms: they may have been changed. */
#define DW_LONGEST_WAIT_MS 1000

/* What this process has learnt about speed. */
static struct
{
	int			blocks;			/* in a batch's time */
	double		rows_per_block;
	double		bytes_per_block;	/* read or written, whichever is more */
}			learnt = {DW_FIRST_BLOCKS, 0, BLCKSZ};

static bool
is_limited(const DwLimits *limits)
{
	return limits->rates.rows > 0 || limits->rates.bytes > 0;
}

void
dw_pace_limits(int32 migration_id, bool overridden, double ratio, DwLimits *limits)
{
	limits->migration_id = migration_id;
	limits->rates.rows = (double) dw_setting_int(migration_id, "backfill_max_rows_per_second");
	limits->rates.bytes = dw_setting_real(migration_id, "backfill_max_mb_per_second") * 1024 * 1024;
	limits->sharing = dw_worker_sharing(migration_id, DW_ROLE_BACKFILL, NULL);
	limits->batch_ms = (double) dw_setting_int(migration_id, "backfill_batch_ms");
	limits->overridden = overridden;
	limits->ratio = ratio;
	if (is_limited(limits))
		limits->batch_ms = Min(limits->batch_ms, DW_LIMITED_BATCH_MS);
	if (overridden)
		limits->batch_ms = Max(1, Min(limits->batch_ms, DW_MAX_CYCLE_MS * ratio));
}

/* What a batch's time allows, and no more than this process's share of a moment of the limits. */
static int64
batch_blocks(const DwLimits *limits)
{
	int64		blocks = learnt.blocks;
	double		part = DW_LIMITED_SPAN_MS / 1000.0 / limits->sharing;

	if (limits->rates.rows > 0 && learnt.rows_per_block > 0)
		blocks = Min(blocks, (int64) (limits->rates.rows * part / learnt.rows_per_block));
	if (limits->rates.bytes > 0)
		blocks = Min(blocks, (int64) (limits->rates.bytes * part / learnt.bytes_per_block));
	return Max(1, blocks);
}

static long
wait_ms(long ms)
{
	return Min(ms, DW_LONGEST_WAIT_MS);
}

long
dw_pace_begin(DwPace *pace, const DwLimits *limits, int64 blocks)
{
	memset(pace, 0, sizeof(DwPace));
	pace->limits = *limits;
	pace->blocks = Min(blocks, batch_blocks(limits));
	if (is_limited(limits))
	{
		long		ms;

		pace->rows_booked = pace->blocks * learnt.rows_per_block;
		pace->bytes_booked = pace->blocks * learnt.bytes_per_block;
		ms = dw_budget_book(limits->migration_id, &limits->rates, pace->rows_booked, pace->bytes_booked);
		if (ms > 0)
			return wait_ms(ms);
	}
	pace->wal_before = pgWalUsage.wal_bytes;
	INSTR_TIME_SET_CURRENT(pace->start);
	return 0;
}

static double
elapsed_ms(const DwPace *pace)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, pace->start);
	return INSTR_TIME_GET_MILLISEC(now);
}

bool
dw_pace_time_is_up(const DwPace *pace)
{
	return elapsed_ms(pace) > pace->limits.batch_ms;
}

long
dw_pace_end(const DwPace *pace, int64 blocks, int64 rows)
{
	const DwLimits *limits = &pace->limits;
	double		took_ms = elapsed_ms(pace);
	double		bytes = Max((double) blocks * BLCKSZ, (double) (pgWalUsage.wal_bytes - pace->wal_before));
	long		delay_ms = 0;

	learnt.rows_per_block = (double) rows / Max(1, blocks);
	learnt.bytes_per_block = Max(BLCKSZ, bytes / Max(1, blocks));
	/* a batch that was short for another reason than time says nothing about a longer one, unless it was too long */
	if (blocks >= learnt.blocks || took_ms > limits->batch_ms)
		learnt.blocks = dw_throttle_resize((int) blocks, took_ms, limits->batch_ms);
	if (is_limited(limits))
	{
		dw_budget_correct(limits->migration_id, &limits->rates, rows - pace->rows_booked, bytes - pace->bytes_booked);
		delay_ms = wait_ms(dw_budget_wait(limits->migration_id, &limits->rates));
	}
	if (limits->overridden)
		delay_ms = Max(delay_ms, dw_throttle_rest(took_ms, limits->ratio));
	return delay_ms;
}

void
dw_pace_give_up(const DwPace *pace)
{
	const DwLimits *limits = &pace->limits;

	if (is_limited(limits))
		dw_budget_correct(limits->migration_id, &limits->rates, -pace->rows_booked, -pace->bytes_booked);
}
