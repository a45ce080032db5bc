/*
 * reconcile.c: passes over a mapping, a chunk at a time.
 *
 * A pass is cut into ranges, which together are all of both sides, or all that has changed since an earlier pass.  When all
 * of them are compared it looks again at every key of the drift list that it did not meet, and, where that is wanted,
 * repairs what is left.  Where it stands is kept in its row and in those of its ranges, changed in the transaction that did
 * the work, so that it goes on after a crash or a restart.  A pass belongs to the epoch in which it began: after a
 * change of phase it is given up, because what it found before proves nothing about what holds now.
 *
 * Any number of processes work on the ranges of one pass, holding the lock on the mapping's drift in common; all else is
 * done by one that has it alone.  Those that do nothing else may be of low priority: ranges are only read, so that nobody
 * waits for a row of theirs.  In the foreground all of it is one transaction, and its ranges are never stored.
 *
 * Only the last stage writes user tables, and only through repair.c.
 */
#include "postgres.h"

#include "reconcile.h"
#include "attempt.h"
#include "bundle.h"
#include "cut.h"
#include "drift.h"
#include "owner.h"
#include "pass.h"
#include "ranges.h"
#include "repair.h"
#include "settings.h"
#include "share.h"
#include "sql.h"
#include "throttle.h"
#include "touched.h"
#include "worker.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

/* Time of a chunk in the foreground, where it only bounds what is kept in memory. */
#define DW_CHUNK_MS_FOREGROUND 1000

/* Ranges of a background pass, a side: enough for many processes to end at about the same time. */
#define DW_MOST_RANGES 64

/* A pass of what has changed that meets more than this share of all rows is dearer than a full one. */
#define DW_INCREMENTAL_SHARE 0.2

/* Keys of the drift list looked at again in one chunk, and repaired in one group. */
#define DW_RECHECK_KEYS 500

/* Keys repaired in one transaction: whoever writes one of them waits for it. */
#define DW_REPAIR_KEYS 100

/* How long a pass waits for older writers: without their end it works, but the next one cannot rest on it. */
#define DW_SETTLE_MS 5000
#define DW_SETTLE_POLL_MS 50

/* How long to wait for other processes at the same pass, for those at its other part, and while there is too much load. */
#define DW_BESIDE_MS 20
#define DW_OTHER_PART_MS 100
#define DW_THROTTLED_MS 1000

/* How long to leave a mapping alone that a foreground comparison or repair works on. */
#define DW_YIELD_MS 1000

static bool
is_full(const DwPass *pass)
{
	return pass->sample_percent >= 100;
}

static bool
is_incremental(const DwPass *pass)
{
	return pass->sample_percent == DW_INCREMENTAL;
}

/* The next stage, at its beginning. */
static void
enter_stage(DwPass *pass, DwStage stage)
{
	pass->stage = stage;
	pass->last_key = NULL;
}

/* From the beginning, as nothing of it holds. */
static void
begin_anew(DwPass *pass)
{
	pass->rows_compared = 0;
	memset(&pass->found, 0, sizeof(pass->found));
	enter_stage(pass, DW_STAGE_BEGIN);
}

static bool
repair_wanted(const DwMigration *migration, const DwPass *pass)
{
	return pass->background && !migration->repair_suspended && dw_setting_bool(migration->id, "reconcile_repair");
}

/* Has the phase changed since the migration was read?  What was compared since may have been neither here nor there. */
static bool
epoch_has_changed(const DwMigration *migration)
{
	DwMigration *now = dw_migration_by_id(migration->id, false);

	return now == NULL || now->epoch != migration->epoch;
}

static void
leave_compare(DwPass *pass)
{
	enter_stage(pass, is_full(pass) || is_incremental(pass) ? DW_STAGE_RECHECK : DW_STAGE_DONE);
}

typedef enum DwProgress
{
	DW_PROGRESS_VOID,			/* the phase has changed, or the mapping is gone */
	DW_PROGRESS_ANEW,			/* the pass has to begin anew */
	DW_PROGRESS_MORE,
	DW_PROGRESS_FINISHED		/* the range is through */
} DwProgress;

/* How many keys more have their drift kept with values. */
static int64
room_left(const DwMigration *migration, const DwPass *pass)
{
	if (!is_full(pass) && !is_incremental(pass))
		return PG_INT64_MAX;	/* a sample replaces nothing */
	return Max(0, dw_setting_int(migration->id, "drift_max_keys") - pass->found_before - dw_pass_found(pass));
}

/* A slice of a range, of that time at most; what it finds is recorded, and added to the pass.  share: NULL for all the time. */
static DwProgress
compare_chunk(const DwMigration *migration, DwPass *pass, DwRange *range, int max_ms, DwShare *share)
{
	DwSlice		slice = {
		.range = *range,
		.mark = pass->since,
		.max_ms = share ? dw_share_slice_ms(share, max_ms) : max_ms,
		.ratio = share ? dw_share_within_slice(share) : 1,
		.percent = pass->sample_percent,
		.seed = (uint32) pass->id,
	};
	bool		there = dw_slice_run(pass->mapping_id, &slice);

	if (share != NULL)
		share->rested_us += slice.rested_us;
	/* read after the snapshot: if the phase is the same still, it was so when the snapshot was taken */
	if (!there || epoch_has_changed(migration))
		return DW_PROGRESS_VOID;
	if (slice.out_of_step)
		return DW_PROGRESS_ANEW;
	dw_drift_record_some(dw_compiled_get(pass->mapping_id), pass->id, slice.differences, room_left(migration, pass), &pass->found);
	pass->rows_compared += slice.rows_compared;
	pass->found.kinds[DW_DRIFT_DIFFERENT] += slice.rows_failed;
	*range = slice.range;
	return slice.finished ? DW_PROGRESS_FINISHED : DW_PROGRESS_MORE;
}

/* Look at these keys again; those that agree and those that do not. */
static void
compare_keys(DwPass *pass, List *keys, List **agreeing, List **differing)
{
	DwCompare  *compare = dw_compare_open(pass->mapping_id);
	ListCell   *lc;

	if (compare == NULL)
		return;
	foreach(lc, keys)
	{
		DwKey		key;
		DwDifference *found;

		CHECK_FOR_INTERRUPTS();
		dw_key_from_jsonb(dw_compare_compiled(compare), lfirst(lc), &key);
		found = dw_compare_key(compare, &key, false);
		if (found == NULL)
			*agreeing = lappend(*agreeing, lfirst(lc));
		else
			*differing = lappend(*differing, found);
	}
	dw_compare_close(compare);
}

/* Stage recheck: keys of the drift list that neither side has led to. */
static DwProgress
recheck_chunk(const DwMigration *migration, DwPass *pass)
{
	List	   *keys = dw_drift_unseen(pass->mapping_id, pass->id, pass->last_key, DW_RECHECK_KEYS);
	List	   *agreeing = NIL;
	List	   *differing = NIL;

	compare_keys(pass, keys, &agreeing, &differing);
	if (epoch_has_changed(migration))
		return DW_PROGRESS_VOID;
	dw_drift_gone(pass->mapping_id, agreeing);
	if (differing != NIL)
		dw_drift_record(dw_compiled_get(pass->mapping_id), pass->id, differing, &pass->found);
	if (list_length(keys) == DW_RECHECK_KEYS)
		pass->last_key = llast(keys);
	else
	{
		dw_bundle_settle(pass->mapping_id, pass->id, is_full(pass));
		enter_stage(pass, repair_wanted(migration, pass) ? DW_STAGE_REPAIR : DW_STAGE_DONE);
	}
	return DW_PROGRESS_MORE;
}

/* Stage repair: some keys a transaction.  The caller has locked the migration. */
static DwProgress
repair_chunk(const DwMigration *migration, DwPass *pass)
{
	DwRepair	repair = {.migration = migration, .mapping_id = pass->mapping_id, .skip_level = DEBUG1};
	List	   *keys = NIL;

	if (repair_wanted(migration, pass))
		keys = dw_drift_list(pass->mapping_id, pass->id, pass->last_key, DW_REPAIR_KEYS);
	if (keys == NIL)
	{
		if (repair_wanted(migration, pass) && dw_repair_bundle(&repair))
		{
			pass->repaired += repair.repaired;
			return DW_PROGRESS_MORE;
		}
		enter_stage(pass, DW_STAGE_DONE);
		return DW_PROGRESS_MORE;
	}
	dw_repair_keys(&repair, keys);
	pass->repaired += repair.repaired;
	pass->last_key = llast(keys);
	return DW_PROGRESS_MORE;
}

/* Tell the log and whoever listens, when a pass has found more than the alert rate allows. */
static void
alert_if_due(const DwMigration *migration, const DwPass *pass)
{
	int64		found = dw_pass_found(pass);
	int64		rows = is_incremental(pass) ? Max(pass->rows_total, pass->rows_compared) : pass->rows_compared;
	double		rate = (double) found / Max(rows, 1);
	DwMapping  *mapping = dw_mapping_by_id(pass->mapping_id);
	StringInfoData payload;

	if (mapping == NULL || found == 0 || rate <= dw_setting_real(migration->id, "drift_alert_rate"))
		return;
	ereport(WARNING,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("migration \"%s\": " INT64_FORMAT " of " INT64_FORMAT " rows differ between %s and %s",
					migration->name, found, rows, mapping->old_name, mapping->new_name),
			 errhint("Inspect dualwrite.drift, then call dualwrite.repair(%s).", quote_literal_cstr(migration->name))));
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"alert\": \"drift\", \"migration\": ");
	escape_json(&payload, migration->name);
	appendStringInfoString(&payload, ", \"old_table\": ");
	escape_json(&payload, mapping->old_name);
	appendStringInfoString(&payload, ", \"new_table\": ");
	escape_json(&payload, mapping->new_name);
	appendStringInfo(&payload, ", \"differing\": " INT64_FORMAT ", \"rows_compared\": " INT64_FORMAT "}",
					 found, rows);
	Async_Notify("dualwrite", payload.data);
}

/* The next pass: of what has changed where there is a clean full one that it can rest on, and not too old. */
static void
begin_next_pass(const DwMigration *migration, const DwPass *base, DwPass *pass)
{
	/* what is bundled only a full pass brings up to date */
	bool		rests = !XLogRecPtrIsInvalid(base->mark.lsn) && dw_mark_usable(&base->mark) && !dw_bundle_exists(base->mapping_id);

	dw_pass_begin(migration, base->mapping_id, true, rests ? DW_INCREMENTAL : 100, pass);
	if (!rests)
		return;
	pass->since = base->mark;
	pass->files = base->files;
	pass->rows_total = base->rows_total;
	dw_pass_store(pass);
}

/* The unfinished background pass of this epoch, or the next one that is due.  false: none; *next_due says when. */
static bool
current_pass(const DwMigration *migration, DwPass *pass, TimestampTz *next_due)
{
	int64		interval = dw_setting_int(migration->id, "reconcile_interval");
	int64		full_interval = dw_setting_int(migration->id, "reconcile_full_interval");
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz last;
	DwPass		base;

	dw_pass_abandon(migration);
	if (dw_pass_unfinished(migration, pass))
		return true;
	if (migration->phase < DW_PHASE_VERIFY || interval == 0 ||
		!dw_pass_oldest(migration, TimestampTzPlusMilliseconds(now, -full_interval), &last, &base))
		return false;
	if (last != DT_NOBEGIN)
	{
		*next_due = TimestampTzPlusMilliseconds(last, interval);
		if (*next_due > now)
			return false;
	}
	/* another process may have begun one in the meantime */
	if (dw_drift_lock(base.mapping_id, false) && !dw_pass_unfinished(migration, pass))
		begin_next_pass(migration, &base, pass);
	else if (!dw_pass_unfinished(migration, pass))
	{
		*next_due = TimestampTzPlusMilliseconds(now, DW_YIELD_MS);
		return false;
	}
	return true;
}

/* One step of background work. */
typedef struct StepWork
{
	const DwMigration *migration;
	DwPass	   *pass;
	DwReconcilePart part;
	DwShare		share;
	long		wait_ms;		/* result: nothing to do before then */
	bool		done;			/* result: the pass has ended */
} StepWork;

/* Nobody else is at the pass, and it stands as *pass says, read again.  false: not so, come back. */
static bool
take_alone(StepWork *work)
{
	DwPass	   *pass = work->pass;
	int64		id = pass->id;
	DwStage		stage = pass->stage;

	if (!dw_drift_lock(pass->mapping_id, false))
	{
		work->wait_ms = DW_BESIDE_MS;
		return false;
	}
	return dw_pass_unfinished(work->migration, pass) && pass->id == id && pass->stage == stage;
}

/* A chunk of a range.  What is found is added to the pass last: others wait for its row until this transaction ends. */
static void
work_range(StepWork *work, DwRange *range)
{
	DwPass		part = *work->pass;
	DwPass	   *pass = work->pass;
	int			longest_ms = (int) dw_setting_int(work->migration->id, "reconcile_chunk_ms");

	part.rows_compared = 0;
	part.found_before = dw_pass_found(pass);
	memset(&part.found, 0, sizeof(part.found));
	switch (compare_chunk(work->migration, &part, range, longest_ms, &work->share))
	{
		case DW_PROGRESS_VOID:
			break;
		case DW_PROGRESS_ANEW:
			dw_pass_restart(pass->id);
			break;
		case DW_PROGRESS_MORE:
			dw_range_store(pass->id, range, false);
			dw_pass_add(&part);
			break;
		case DW_PROGRESS_FINISHED:
			dw_range_store(pass->id, range, true);
			dw_pass_add(&part);
			break;
	}
	if (is_incremental(pass) && pass->rows_compared + part.rows_compared > 1000 + pass->rows_total * DW_INCREMENTAL_SHARE)
		dw_pass_restart(pass->id);
}

/* Stage compare. */
static void
work_ranges(StepWork *work)
{
	DwPass	   *pass = work->pass;
	DwRange		range;

	if (!dw_drift_share(pass->mapping_id))
	{
		work->wait_ms = DW_YIELD_MS;
		return;
	}
	switch (dw_range_claim(pass->id, &range))
	{
		case DW_CLAIMED:
			work_range(work, &range);
			break;
		case DW_CLAIM_ALL_TAKEN:
			work->wait_ms = DW_BESIDE_MS;
			break;
		case DW_CLAIM_NONE_LEFT:
			if (take_alone(work))
			{
				leave_compare(pass);
				dw_pass_store(pass);
				if (work->part == DW_RECONCILE_RANGES)
					dw_worker_wake();	/* the rest is for the first process */
			}
			break;
	}
}

/* Note from where on a later pass would have to look.  false: wait for writers that are older than that. */
static bool
make_mark(StepWork *work)
{
	DwPass	   *pass = work->pass;
	char	   *files;

	if (!XLogRecPtrIsInvalid(pass->mark.lsn))
	{
		if (dw_mark_settled(&pass->mark))
			return true;
		work->wait_ms = DW_SETTLE_POLL_MS;
		if (!TimestampDifferenceExceeds(pass->started_at, GetCurrentTimestamp(), DW_SETTLE_MS))
			return false;
		work->wait_ms = 0;
		memset(&pass->mark, 0, sizeof(pass->mark));
		return true;
	}
	/* the files before the mark: one that is written anew later is another one */
	files = dw_setting_int(work->migration->id, "reconcile_full_interval") > 0 ? dw_touched_files(pass->mapping_id) : NULL;
	if (is_incremental(pass) && (files == NULL || pass->files == NULL || strcmp(files, pass->files) != 0))
		pass->sample_percent = 100;
	pass->files = files;
	if (files == NULL)
		return true;
	pass->mark = dw_mark_now();
	dw_pass_store(pass);
	return false;
}

static DwProgress
begin_pass(StepWork *work)
{
	DwPass	   *pass = work->pass;
	List	   *ranges;

	if (!make_mark(work))
		return DW_PROGRESS_MORE;
	ranges = is_incremental(pass) ? dw_cut_by_block(pass->mapping_id) :
		dw_cut_by_key(pass->mapping_id, is_full(pass), DW_MOST_RANGES);
	if ((ranges == NIL && !is_incremental(pass)) || epoch_has_changed(work->migration))
		return DW_PROGRESS_VOID;
	begin_anew(pass);
	dw_bundle_discard(pass->mapping_id);
	enter_stage(pass, DW_STAGE_COMPARE);
	dw_ranges_replace(pass->id, ranges);
	return DW_PROGRESS_MORE;
}

/* Stages in which only one process has something to do. */
static void
work_alone(StepWork *work)
{
	const DwMigration *migration = work->migration;
	DwPass	   *pass = work->pass;
	DwProgress	progress = DW_PROGRESS_VOID;

	if (pass->stage == DW_STAGE_REPAIR)
	{
		/* the truth must not change under a repair; locked before the drift, as dualwrite.repair does */
		migration = dw_migration_by_id(work->migration->id, true);
		if (migration == NULL || migration->epoch != work->migration->epoch || migration->paused)
			return;
	}
	if (!take_alone(work))
		return;
	switch (pass->stage)
	{
		case DW_STAGE_BEGIN:
			progress = begin_pass(work);
			break;
		case DW_STAGE_RECHECK:
			progress = recheck_chunk(migration, pass);
			break;
		case DW_STAGE_REPAIR:
			progress = repair_chunk(migration, pass);
			break;
		case DW_STAGE_COMPARE:
		case DW_STAGE_DONE:
			break;
	}
	if (progress == DW_PROGRESS_VOID)
		return;
	dw_pass_store(pass);
	work->done = pass->stage == DW_STAGE_DONE;
}

static void
work_step(void *arg)
{
	StepWork   *work = arg;

	work->wait_ms = 0;
	if (work->pass->stage == DW_STAGE_COMPARE)
		work_ranges(work);
	else
		work_alone(work);
}

/* Too much load, or somebody waits for the tables. */
static bool
is_held_back(const DwMigration *migration, const DwPass *pass)
{
	DwMapping  *mapping = dw_mapping_by_id(pass->mapping_id);
	List	   *tripped;

	if (mapping == NULL)
		return false;
	tripped = dw_throttle_read_signals(migration->id, list_concat(dw_heaps_of(mapping->old_table, NoLock),
																  dw_heaps_of(mapping->new_table, NoLock)),
									   dw_relation_owner(mapping->old_table));
	if (tripped != NIL)
		dw_pass_throttled(pass->id, tripped);
	return tripped != NIL;
}

/* Is the pass at a stage that others do?  A helper waits for as long as it may be wanted again, *idle: it is not. */
static bool
is_for_others(const DwMigration *migration, DwReconcilePart part, const DwPass *pass, bool *idle)
{
	*idle = false;
	if (part == DW_RECONCILE_ALL || (pass->stage == DW_STAGE_COMPARE) == (part == DW_RECONCILE_RANGES))
		return false;
	*idle = part == DW_RECONCILE_RANGES && dw_ranges_left(migration->id, 1) == 0;
	return true;
}

static TimestampTz
in_ms(long ms)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

DwStep
dw_reconcile_step(const DwMigration *migration, DwReconcilePart part, TimestampTz *next_due)
{
	DwPass		pass;
	StepWork	work = {.migration = migration, .pass = &pass, .part = part};
	DwError		error;
	long		rest_ms;
	bool		idle;

	*next_due = DT_NOEND;
	if (migration->phase < DW_PHASE_SHADOW || migration->phase > DW_PHASE_CUTOVER || migration->paused)
		return DW_STEP_IDLE;
	dw_attempt_settings();
	if (part == DW_RECONCILE_RANGES ? !dw_pass_unfinished(migration, &pass) : !current_pass(migration, &pass, next_due))
		return DW_STEP_IDLE;
	if (is_for_others(migration, part, &pass, &idle))
	{
		*next_due = in_ms(DW_OTHER_PART_MS);
		return idle ? DW_STEP_IDLE : DW_STEP_BESIDE;
	}
	if (is_held_back(migration, &pass))
	{
		*next_due = in_ms(DW_THROTTLED_MS);
		return DW_STEP_WAIT;
	}
	work.share = dw_share_begin(migration->id, part == DW_RECONCILE_RANGES);
	if (!dw_try(work_step, &work, false, dw_error_is_lock, &error))
		work.wait_ms = DW_YIELD_MS;
	if (work.wait_ms > 0)
	{
		*next_due = in_ms(work.wait_ms);
		return DW_STEP_WAIT;
	}
	if (work.done)
		alert_if_due(migration, &pass);
	rest_ms = dw_share_rest(&work.share);
	if (!work.done)
		dw_pass_throttled(pass.id, rest_ms > 0 ? list_make1("share") : NIL);
	*next_due = in_ms(rest_ms);
	return DW_STEP_WORKED;
}

int
dw_reconcile_openings(const DwMigration *migration)
{
	/* processes take some time to start */
	return dw_ranges_left(migration->id, DW_MOST_RANGES);
}

void
dw_reconcile_request(const DwMigration *migration)
{
	dw_pass_request(migration, 100);
}

static Jsonb *
copy_key(const Jsonb *key)
{
	return key ? memcpy(palloc(VARSIZE(key)), key, VARSIZE(key)) : NULL;
}

static void
refuse_changed(const DwMigration *migration)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration \"%s\" has changed during the comparison", migration->name),
			 errhint("Call dualwrite.reconcile again.")));
}

/* A range of a foreground pass.  What it needs lives in chunk, which is reset between chunks. */
static void
compare_range(const DwMigration *migration, DwPass *pass, DwRange *range, MemoryContext chunk)
{
	MemoryContext old = CurrentMemoryContext;
	DwProgress	progress = DW_PROGRESS_MORE;

	while (progress == DW_PROGRESS_MORE)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(chunk);
		progress = compare_chunk(migration, pass, range, DW_CHUNK_MS_FOREGROUND, NULL);
		MemoryContextSwitchTo(old);
		range->span.last_key = copy_key(range->span.last_key);
		MemoryContextReset(chunk);
	}
	if (progress != DW_PROGRESS_FINISHED)
		refuse_changed(migration);
}

/* The keys of the drift list that it has not met, in the same way. */
static void
recheck_all(const DwMigration *migration, DwPass *pass, MemoryContext chunk)
{
	MemoryContext old = CurrentMemoryContext;

	while (pass->stage == DW_STAGE_RECHECK)
	{
		DwProgress	progress;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(chunk);
		progress = recheck_chunk(migration, pass);
		MemoryContextSwitchTo(old);
		if (progress == DW_PROGRESS_VOID)
			refuse_changed(migration);
		pass->last_key = copy_key(pass->last_key);
		MemoryContextReset(chunk);
	}
}

void
dw_reconcile_foreground(const DwMigration *migration, int32 mapping_id, double sample_percent, DwPass *pass)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite reconcile", ALLOCSET_DEFAULT_SIZES);
	MemoryContext chunk = AllocSetContextCreate(context, "dualwrite reconcile chunk", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	ListCell   *lc;

	dw_drift_lock(mapping_id, true);
	dw_pass_begin(migration, mapping_id, false, sample_percent, pass);
	foreach(lc, dw_cut_by_key(mapping_id, is_full(pass), 1))
		compare_range(migration, pass, lfirst(lc), chunk);
	leave_compare(pass);
	recheck_all(migration, pass, chunk);
	pass->last_key = NULL;
	dw_pass_store(pass);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

int64
dw_drift_open(int32 migration_id)
{
	DwSql		sql;
	bool		isnull;
	bool		compared;
	int64		open;

	dw_sql_begin(&sql);
	dw_sql("SELECT (SELECT count(*) FROM _dualwrite.drift AS d JOIN _dualwrite.mapping AS m ON m.id = d.mapping_id"
		   "  WHERE m.migration_id = $1 AND d.state = 'open')"
		   " + (SELECT coalesce(sum(cardinality(b.keys)), 0)::bigint FROM _dualwrite.drift_bundle AS b JOIN _dualwrite.mapping AS m"
		   "  ON m.id = b.mapping_id WHERE m.migration_id = $1 AND b.settled),"
		   " (SELECT bool_and(EXISTS (SELECT FROM _dualwrite.reconcile_pass AS p"
		   "   WHERE p.mapping_id = m.id AND p.epoch = g.epoch AND p.finished_at IS NOT NULL))"
		   "  FROM _dualwrite.mapping AS m JOIN _dualwrite.migration AS g ON g.id = m.migration_id WHERE g.id = $1)",
		   1, (DwArg[]) {DW_INT4(migration_id)});
	open = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	compared = DatumGetBool(dw_sql_value(0, 2, &isnull)) && !isnull;
	dw_sql_end(&sql);
	return open > 0 || compared ? open : -1;
}

bool
dw_reconcile_clean_pass(const DwMigration *migration, TimestampTz *finished_at)
{
	DwSql		sql;
	bool		isnull;
	bool		clean;

	dw_sql_begin(&sql);
	dw_sql("SELECT bool_and(p.missing + p.extra + p.different = 0 AND p.finished_at IS NOT NULL), min(p.finished_at)"
		   " FROM _dualwrite.mapping AS m LEFT JOIN LATERAL ("
		   "  SELECT * FROM _dualwrite.reconcile_pass AS p WHERE p.mapping_id = m.id AND p.epoch = $2"
		   "   AND p.sample_percent = 100 AND p.finished_at IS NOT NULL ORDER BY p.finished_at DESC LIMIT 1) AS p ON true"
		   " WHERE m.migration_id = $1",
		   2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)});
	clean = DatumGetBool(dw_sql_value(0, 1, &isnull)) && !isnull;
	*finished_at = DatumGetTimestampTz(dw_sql_value(0, 2, &isnull));
	if (isnull)
		*finished_at = 0;
	dw_sql_end(&sql);
	return clean;
}
