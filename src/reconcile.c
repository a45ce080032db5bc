/*
 * reconcile.c: passes over a mapping, a chunk at a time.
 *
 * A pass compares the old side, then the new side, or both in step and then what is left of the new; then it looks again at every key of the drift list that it did not meet,
 * and, where that is wanted, repairs what is left.  Where it stands is kept in its row, changed in the transaction that
 * did the work, so that it goes on after a crash or a restart.  A pass belongs to the epoch in which it began: after a
 * change of phase it is given up, because what it found before proves nothing about what holds now.
 *
 * Only the last stage writes user tables, and only through repair.c.
 */
#include "postgres.h"

#include "reconcile.h"
#include "attempt.h"
#include "drift.h"
#include "pass.h"
#include "repair.h"
#include "settings.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

/* Rows of one chunk, at most, in the background and in the foreground: the time limit usually comes first. */
#define DW_CHUNK_ROWS 10000
#define DW_CHUNK_ROWS_FOREGROUND 100000
#define DW_CHUNK_MS_FOREGROUND 1000

/* Keys of the drift list looked at again in one chunk, and repaired in one group. */
#define DW_RECHECK_KEYS 500

/* How long to leave a mapping alone that a foreground comparison or repair works on. */
#define DW_YIELD_MS 1000

static bool
is_full(const DwPass *pass)
{
	return pass->sample_percent >= 100;
}

/* The next stage, at its beginning. */
static void
enter_stage(DwPass *pass, DwStage stage)
{
	pass->stage = stage;
	pass->heap = InvalidOid;
	pass->last_key = NULL;
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

/* Both sides can no longer be walked in step: what the pass has seen of the new side is not all up to any key of the old. */
static void
begin_anew(DwPass *pass)
{
	pass->rows_compared = 0;
	memset(&pass->found, 0, sizeof(pass->found));
	enter_stage(pass, DW_STAGE_OLD);
}

/* Has the pass yet to find out whether both sides can be walked in step, or found that they can?  A sample draws by key. */
static bool
both_wanted(const DwPass *pass)
{
	return pass->stage == DW_STAGE_BOTH ||
		(pass->stage == DW_STAGE_OLD && !OidIsValid(pass->heap) && is_full(pass));
}

static void
leave_stage(DwPass *pass)
{
	switch (pass->stage)
	{
		case DW_STAGE_OLD:
			enter_stage(pass, DW_STAGE_NEW);
			break;
		case DW_STAGE_BOTH:
			/* from where that got to on the new side */
			pass->stage = DW_STAGE_NEW;
			break;
		default:
			enter_stage(pass, is_full(pass) ? DW_STAGE_RECHECK : DW_STAGE_DONE);
			break;
	}
}

/* Stages old, both and new: compare a slice.  false: the pass is void. */
static bool
compare_chunk(const DwMigration *migration, DwPass *pass)
{
	DwSlice		slice = {
		.side = pass->stage == DW_STAGE_NEW ? DW_REVERSE : DW_FORWARD,
		.both = both_wanted(pass),
		.heap = pass->heap,
		.last_key = pass->last_key,
		.max_rows = pass->background ? DW_CHUNK_ROWS : DW_CHUNK_ROWS_FOREGROUND,
		.max_ms = pass->background ? (int) dw_setting_int(migration->id, "reconcile_chunk_ms") : DW_CHUNK_MS_FOREGROUND,
		.percent = pass->sample_percent,
		.seed = (uint32) pass->id,
	};

	/* read after the snapshot: if the phase is the same still, it was so when the snapshot was taken */
	if (!dw_compare_slice(pass->mapping_id, &slice) || epoch_has_changed(migration))
		return false;
	if (pass->stage == DW_STAGE_BOTH && !slice.both)
	{
		begin_anew(pass);
		return true;
	}
	if (slice.both)
		pass->stage = DW_STAGE_BOTH;
	dw_drift_record(dw_compiled_get(pass->mapping_id), pass->id, slice.differences, &pass->found);
	pass->rows_compared += slice.rows_compared;
	pass->found.kinds[DW_DRIFT_DIFFERENT] += slice.rows_failed;
	pass->heap = slice.heap;
	pass->last_key = slice.last_key;
	if (slice.finished)
		leave_stage(pass);
	return true;
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
static bool
recheck_chunk(const DwMigration *migration, DwPass *pass)
{
	List	   *keys = dw_drift_unseen(pass->mapping_id, pass->id, pass->last_key, DW_RECHECK_KEYS);
	List	   *agreeing = NIL;
	List	   *differing = NIL;

	compare_keys(pass, keys, &agreeing, &differing);
	if (epoch_has_changed(migration))
		return false;
	dw_drift_gone(pass->mapping_id, agreeing);
	if (differing != NIL)
		dw_drift_record(dw_compiled_get(pass->mapping_id), pass->id, differing, &pass->found);
	if (list_length(keys) == DW_RECHECK_KEYS)
		pass->last_key = llast(keys);
	else
		enter_stage(pass, repair_wanted(migration, pass) ? DW_STAGE_REPAIR : DW_STAGE_DONE);
	return true;
}

/* Stage repair: one key a transaction.  The caller has locked the migration. */
static bool
repair_chunk(const DwMigration *migration, DwPass *pass)
{
	DwRepair	repair = {.migration = migration, .mapping_id = pass->mapping_id, .skip_level = DEBUG1};
	List	   *keys = NIL;

	if (repair_wanted(migration, pass))
		keys = dw_drift_list(pass->mapping_id, pass->id, pass->last_key, 1);
	if (keys == NIL)
	{
		enter_stage(pass, DW_STAGE_DONE);
		return true;
	}
	dw_repair_keys(&repair, keys);
	pass->repaired += repair.repaired;
	pass->last_key = linitial(keys);
	return true;
}

/* One chunk of whatever stage the pass is in.  false: the pass is void. */
static bool
run_chunk(const DwMigration *migration, DwPass *pass)
{
	switch (pass->stage)
	{
		case DW_STAGE_OLD:
		case DW_STAGE_BOTH:
		case DW_STAGE_NEW:
			return compare_chunk(migration, pass);
		case DW_STAGE_RECHECK:
			return recheck_chunk(migration, pass);
		case DW_STAGE_REPAIR:
			return repair_chunk(migration, pass);
		case DW_STAGE_DONE:
			break;
	}
	return true;
}

/* Tell the log and whoever listens, when a pass has found more than the alert rate allows. */
static void
alert_if_due(const DwMigration *migration, const DwPass *pass)
{
	int64		found = dw_pass_found(pass);
	double		rate = (double) found / Max(pass->rows_compared, 1);
	DwMapping  *mapping = dw_mapping_by_id(pass->mapping_id);
	StringInfoData payload;

	if (mapping == NULL || found == 0 || rate <= dw_setting_real(migration->id, "drift_alert_rate"))
		return;
	ereport(WARNING,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("migration \"%s\": " INT64_FORMAT " of " INT64_FORMAT " rows differ between %s and %s",
					migration->name, found, pass->rows_compared, mapping->old_name, mapping->new_name),
			 errhint("Inspect dualwrite.drift, then call dualwrite.repair(%s).", quote_literal_cstr(migration->name))));
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"alert\": \"drift\", \"migration\": ");
	escape_json(&payload, migration->name);
	appendStringInfoString(&payload, ", \"old_table\": ");
	escape_json(&payload, mapping->old_name);
	appendStringInfoString(&payload, ", \"new_table\": ");
	escape_json(&payload, mapping->new_name);
	appendStringInfo(&payload, ", \"differing\": " INT64_FORMAT ", \"rows_compared\": " INT64_FORMAT "}",
					 found, pass->rows_compared);
	Async_Notify("dualwrite", payload.data);
}

/* The unfinished background pass of this epoch, or the next one that is due.  false: none; *next_due says when. */
static bool
current_pass(const DwMigration *migration, DwPass *pass, TimestampTz *next_due)
{
	int64		interval = dw_setting_int(migration->id, "reconcile_interval");
	int32		mapping_id;
	TimestampTz last;

	dw_pass_abandon(migration);
	if (dw_pass_unfinished(migration, pass))
		return true;
	if (migration->phase < DW_PHASE_VERIFY || interval == 0 || !dw_pass_oldest(migration, &mapping_id, &last))
		return false;
	if (last != DT_NOBEGIN)
	{
		*next_due = TimestampTzPlusMilliseconds(last, interval);
		if (*next_due > GetCurrentTimestamp())
			return false;
	}
	dw_pass_begin(migration, mapping_id, true, 100, pass);
	return true;
}

typedef struct ChunkWork
{
	const DwMigration *migration;
	DwPass	   *pass;
	bool		yielded;		/* results: a foreground comparison or repair has the list */
	bool		stands;			/* the pass is not void */
} ChunkWork;

static void
work_chunk(void *arg)
{
	ChunkWork  *work = arg;
	const DwMigration *migration = work->migration;

	if (work->pass->stage == DW_STAGE_REPAIR)
	{
		/* the truth must not change under a repair; locked before the drift, as dualwrite.repair does */
		migration = dw_migration_by_id(work->migration->id, true);
		if (migration == NULL || migration->epoch != work->migration->epoch || migration->paused)
			return;
	}
	work->yielded = !dw_drift_lock(work->pass->mapping_id, false);
	work->stands = !work->yielded && run_chunk(migration, work->pass);
}

DwStep
dw_reconcile_step(const DwMigration *migration, TimestampTz *next_due)
{
	DwPass		pass;
	ChunkWork	work = {.migration = migration, .pass = &pass};
	DwError		error;

	*next_due = DT_NOEND;
	if (migration->phase < DW_PHASE_SHADOW || migration->phase > DW_PHASE_CUTOVER || migration->paused)
		return DW_STEP_IDLE;
	dw_attempt_settings();
	if (!current_pass(migration, &pass, next_due))
		return DW_STEP_IDLE;

	*next_due = GetCurrentTimestamp();
	if (!dw_try(work_chunk, &work, false, dw_error_is_lock, &error) || work.yielded)
	{
		*next_due = TimestampTzPlusMilliseconds(*next_due, DW_YIELD_MS);
		return DW_STEP_WAIT;
	}
	if (work.stands)
		dw_pass_store(&pass);
	if (work.stands && pass.stage == DW_STAGE_DONE)
		alert_if_due(migration, &pass);
	return DW_STEP_WORKED;
}

void
dw_reconcile_request(const DwMigration *migration)
{
	dw_pass_request(migration, 100);
}

void
dw_reconcile_foreground(const DwMigration *migration, int32 mapping_id, double sample_percent, DwPass *pass)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite reconcile", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;

	dw_drift_lock(mapping_id, true);
	dw_pass_begin(migration, mapping_id, false, sample_percent, pass);
	while (pass->stage != DW_STAGE_DONE)
	{
		MemoryContext chunk = AllocSetContextCreate(old, "dualwrite reconcile chunk", ALLOCSET_DEFAULT_SIZES);

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(chunk);
		if (!run_chunk(migration, pass))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("phase of migration \"%s\" has changed during the comparison", migration->name),
					 errhint("Call dualwrite.reconcile again.")));
		/* the position is in the old chunk's memory */
		MemoryContextDelete(context);
		context = chunk;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	pass->last_key = NULL;
	dw_pass_store(pass);
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
		   "  WHERE m.migration_id = $1 AND d.state = 'open'),"
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
