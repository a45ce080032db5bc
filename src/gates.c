/*
 * gates.c: what has to hold before a migration climbs.
 *
 * Each gate is one function that looks and says how things stand and what to do about it; which gates a rung has is in
 * ladder.c.  A gate of judgement guards quality; any other guards rows, and nothing passes it.
 *
 * Gates change nothing and wait for nobody: the status view asks them, too.
 */
#include "postgres.h"

#include "absorb.h"
#include "backfill.h"
#include "enforce.h"
#include "gates.h"
#include "indexes.h"
#include "ladder.h"
#include "mapping.h"
#include "queue.h"
#include "recheck.h"
#include "reconcile.h"
#include "sequences.h"
#include "settings.h"
#include "shadowstats.h"
#include "sql.h"
#include "stats.h"
#include "swap.h"
#include "swapplan.h"
#include "triggers.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Looks, and fills detail, next_step, passed; may clear waitable, or name where the gate does not apply. */
typedef void (*DwGateCheck) (const DwMigration *migration, DwGate *gate);

/* A call of one of our functions for a migration, as the user would write it; further arguments begin with a comma. */
static char *
call_of(const char *function, const DwMigration *migration, const char *arguments)
{
	return psprintf("SELECT dualwrite.%s(%s%s)", function, quote_literal_cstr(migration->name), arguments);
}

static char *
counted(int64 n, const char *one, const char *many)
{
	return psprintf(INT64_FORMAT " %s", n, n == 1 ? one : many);
}

/* A point in time, as short as can be. */
static char *
short_time(DwSql *sql, TimestampTz when)
{
	dw_sql("SELECT to_char($1, CASE WHEN $1::date = current_date THEN 'HH24:MI' ELSE 'MM-DD HH24:MI' END)",
		   1, (DwArg[]) {DW_TIME(when)});
	return dw_sql_cstring(sql, 0, 1);
}

static void
check_mappings(const DwMigration *migration, DwGate *gate)
{
	int			count = list_length(dw_mappings_of(migration->id));

	gate->passed = count > 0;
	gate->detail = counted(count, "mapping", "mappings");
	gate->next_step = call_of("add_mapping", migration, ", old_table => ..., new_table => ...");
}

/* The lock that compiling needs, if it can be had at once: NULL, or why not. */
static char *
glance_at_tables(const DwMigration *migration, bool *gone)
{
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);
		Oid			relids[2] = {mapping->old_table, mapping->new_table};

		for (int i = 0; i < 2; i++)
		{
			const char *name = i == 0 ? mapping->old_name : mapping->new_name;

			if (!ConditionalLockRelationOid(relids[i], AccessShareLock))
				return psprintf("table %s is locked by somebody else", name);
			if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relids[i])))
			{
				*gone = true;
				return psprintf("table %s does not exist any more", name);
			}
		}
	}
	return NULL;
}

static void
compile(void *arg)
{
	(void) dw_compiled_of(((const DwMigration *) arg)->id);
}

/* Why the migration does not compile; NULL when it does.  What is no fault of the definition goes on as an error. */
static char *
compile_error(const DwMigration *migration)
{
	DwError		error;

	return dw_try(compile, unconstify(DwMigration *, migration), false, NULL, &error) ? NULL : error.message;
}

static void
check_definition(const DwMigration *migration, DwGate *gate)
{
	bool		gone = false;
	char	   *busy = glance_at_tables(migration, &gone);

	gate->waitable = busy != NULL && !gone;
	gate->detail = busy != NULL ? busy : compile_error(migration);
	gate->passed = gate->detail == NULL;
	if (gate->passed)
		gate->detail = pstrdup(dw_mappings_of(migration->id) == NIL ? "nothing to look at yet" : "every mapping fits its tables");
	gate->next_step = gate->waitable ? pstrdup("wait until that lock is gone") :
		gone ? call_of("drop_migration", migration, "") :
		psprintf("%s, or alter the table back", call_of("alter_mapping", migration, ", ..."));
}

#define BACKFILL_TIMES \
	"SELECT CASE WHEN sum(least(next_block, end_block)) > 0 AND sum(end_block) > 0 THEN" \
	" clock_timestamp() + (max(updated_at) - min(started_at))" \
	" * ((sum(end_block) - sum(least(next_block, end_block)))::float8 / sum(least(next_block, end_block))::float8) END," \
	" (SELECT string_agg(DISTINCT t, ', ') FROM _dualwrite.backfill c JOIN _dualwrite.mapping q ON q.id = c.mapping_id," \
	" unnest(c.throttled_by) t WHERE q.migration_id = $1 AND c.finished_at IS NULL)" \
	" FROM _dualwrite.backfill b JOIN _dualwrite.mapping p ON p.id = b.mapping_id WHERE p.migration_id = $1"

/* "wait: done about 04:10; throttled by replica lag" */
static char *
backfill_outlook(const DwMigration *migration)
{
	StringInfoData text;
	DwSql		sql;
	bool		isnull;
	Datum		done;
	char	   *throttled;

	initStringInfo(&text);
	appendStringInfoString(&text, "wait");
	dw_sql_begin(&sql);
	dw_sql(BACKFILL_TIMES, 1, (DwArg[]) {DW_INT4(migration->id)});
	throttled = dw_sql_cstring(&sql, 0, 2);
	done = dw_sql_value(0, 1, &isnull);
	if (!isnull)
		appendStringInfo(&text, ": done about %s", short_time(&sql, DatumGetTimestampTz(done)));
	if (throttled != NULL)
		appendStringInfo(&text, "%s throttled by %s", isnull ? ":" : ";", throttled);
	dw_sql_end(&sql);
	return text.data;
}

static void
check_backfill(const DwMigration *migration, DwGate *gate)
{
	double		percent = 0;
	bool		finished = dw_backfill_progress(migration->id, &percent);
	int64		waiting;
	int64		dead;

	dw_queue_counts(migration->id, &waiting, &dead);
	waiting += dw_recheck_pending(migration->id, migration->phase == DW_PHASE_CUTOVER);
	gate->passed = finished && waiting == 0;
	/* never 100.0 while there is something left */
	if (!finished)
		percent = Min(percent, 99.9);
	gate->detail = psprintf("%.1f %% copied, %s queued", percent, counted(waiting, "key", "keys"));
	gate->next_step = backfill_outlook(migration);
}

/* Readers of the new side rely on them, and so does whoever created them. */
static void
check_indexes(const DwMigration *migration, DwGate *gate)
{
	DwIndexesOwed owed;

	gate->passed = !dw_indexes_owed(migration->id, &owed);
	if (gate->passed)
	{
		gate->name = NULL;
		return;
	}
	gate->detail = psprintf(INT64_FORMAT " of %s built again%s", owed.all - owed.away,
							counted(owed.all, "index that was taken away is", "indexes that were taken away are"),
							owed.away == 0 ? ", ANALYZE is to follow" : "");
	if (owed.example != NULL)
		gate->detail = psprintf("%s; %s", gate->detail, owed.example);
	gate->waitable = owed.failing == 0;
	gate->next_step = gate->waitable ? pstrdup("wait: indexes are being built; see dualwrite.indexes") :
		psprintf("read dualwrite.indexes, mend what is in the way, then call dualwrite.retry_indexes(%s)",
				 quote_literal_cstr(migration->name));
}

/* The usual steps of a canary. */
static void
check_read_percent(const DwMigration *migration, DwGate *gate)
{
	static const int steps[] = {1, 5, 25, 50, 100};
	int			next = 100;

	for (int i = (int) lengthof(steps) - 1; i >= 0; i--)
		if (steps[i] > migration->read_percent)
			next = steps[i];
	gate->passed = migration->read_percent >= 100;
	gate->detail = psprintf("%g %% of reads come from the new side, 100 %% wanted", migration->read_percent);
	gate->next_step = call_of("set_read_percent", migration, psprintf(", %d", next));
}

static void
check_soak(const DwMigration *migration, DwGate *gate)
{
	int64		soak = dw_setting_int(migration->id, "gate_soak");
	TimestampTz until = TimestampTzPlusMilliseconds(migration->phase_since, soak);
	DwSql		sql;

	gate->passed = GetCurrentTimestamp() >= until;
	dw_sql_begin(&sql);
	dw_sql("SELECT date_trunc('second', clock_timestamp() - $1)::text || ' in cutover, '"
		   " || justify_interval($2 * interval '1 millisecond')::text || ' wanted'",
		   2, (DwArg[]) {DW_TIME(migration->phase_since), DW_FLOAT8((double) soak)});
	gate->detail = dw_sql_cstring(&sql, 0, 1);
	gate->next_step = MemoryContextStrdup(sql.caller, psprintf("wait until %s; undo: %s", short_time(&sql, until),
															   call_of("rollback", migration, "")));
	dw_sql_end(&sql);
}

#define LAST_PASSES \
	"SELECT count(*), count(r.id), coalesce(sum(r.rows_compared), 0)::int8," \
	" coalesce(sum(r.missing + r.extra + r.different), 0)::int8" \
	" FROM _dualwrite.mapping p LEFT JOIN LATERAL (SELECT * FROM _dualwrite.reconcile_pass r WHERE r.mapping_id = p.id" \
	" AND r.epoch = $2 AND r.finished_at IS NOT NULL AND r.sample_percent = 100 ORDER BY r.id DESC LIMIT 1) r ON true" \
	" WHERE p.migration_id = $1"

bool
dw_rows_compared(const DwMigration *migration, int64 *compared, int64 *differ)
{
	DwSql		sql;
	bool		isnull;
	bool		all;

	dw_sql_begin(&sql);
	dw_sql(LAST_PASSES, 2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)});
	all = DatumGetInt64(dw_sql_value(0, 1, &isnull)) == DatumGetInt64(dw_sql_value(0, 2, &isnull));
	*compared = DatumGetInt64(dw_sql_value(0, 3, &isnull));
	*differ = DatumGetInt64(dw_sql_value(0, 4, &isnull));
	dw_sql_end(&sql);
	return all;
}

/* Rows that unfinished passes of this epoch have compared; -1: none is under way. */
static int64
rows_under_way(const DwMigration *migration)
{
	DwSql		sql;
	bool		isnull;
	int64		rows;

	dw_sql_begin(&sql);
	dw_sql("SELECT coalesce(sum(r.rows_compared), -1)::int8 FROM _dualwrite.reconcile_pass r"
		   " JOIN _dualwrite.mapping p ON p.id = r.mapping_id"
		   " WHERE p.migration_id = $1 AND r.epoch = $2 AND r.finished_at IS NULL AND r.background",
		   2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)});
	rows = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
	return rows;
}

/*
 * A full pass that begins and ends in this phase.  One that found differences counts here for as long as they are open:
 * then gate drift is what says so.  Once they are closed, a repair is not a verification: the next pass has to be clean.
 */
static void
check_reconcile(const DwMigration *migration, DwGate *gate)
{
	TimestampTz finished;
	int64		compared;
	int64		differ;
	int64		under_way;

	gate->passed = true;
	if (dw_reconcile_clean_pass(migration, &finished))
	{
		(void) dw_rows_compared(migration, &compared, &differ);
		gate->detail = psprintf("%s compared, 0 differ", counted(compared, "row", "rows"));
		return;
	}
	if (dw_rows_compared(migration, &compared, &differ) && dw_drift_open(migration->id) > 0)
	{
		gate->detail = psprintf("%s compared, " INT64_FORMAT " differed", counted(compared, "row", "rows"), differ);
		return;
	}
	gate->passed = false;
	under_way = rows_under_way(migration);
	gate->detail = under_way < 0 ?
		psprintf("no clean pass since phase %s began", dw_phase_name(migration->phase)) :
		psprintf("a pass has compared %s so far", counted(under_way, "row", "rows"));
	gate->next_step = under_way >= 0 ? pstrdup("wait: a comparison is under way") :
		psprintf("SELECT * FROM dualwrite.reconcile(%s, background => true)", quote_literal_cstr(migration->name));
}

/* Differences that are open from an earlier phase may be gone by now: the comparison under way will tell. */
static void
check_drift(const DwMigration *migration, DwGate *gate)
{
	int64		open = dw_drift_open(migration->id);
	char	   *name = quote_literal_cstr(migration->name);
	int64		compared;
	int64		differ;

	/* before the first comparison it is the reconcile gate that is not met, where the rung has one */
	gate->passed = open == 0 || (open < 0 && migration->phase < DW_PHASE_CUTOVER);
	gate->detail = open < 0 ? pstrdup("not known before the first comparison has ended") :
		psprintf(INT64_FORMAT " open, 0 allowed", open);
	gate->next_step = pstrdup("wait: a comparison has to end");
	if (open <= 0 || !dw_rows_compared(migration, &compared, &differ))
		return;
	gate->waitable = dw_setting_bool(migration->id, "reconcile_repair") && !migration->repair_suspended;
	gate->next_step = gate->waitable ? pstrdup("wait: the next comparison repairs them") :
		migration->repair_suspended ?
		psprintf("inspect dualwrite.drift, then call dualwrite.resume(%s) and dualwrite.repair(%s)", name, name) :
		psprintf("inspect dualwrite.drift, then call dualwrite.repair(%s)", name);
}

static void
check_queue(const DwMigration *migration, DwGate *gate)
{
	int64		waiting;
	int64		dead;

	dw_queue_counts(migration->id, &waiting, &dead);
	waiting += dw_recheck_pending(migration->id, migration->phase == DW_PHASE_CUTOVER);
	gate->passed = waiting == 0;
	gate->detail = psprintf("%s queued", counted(waiting, "key", "keys"));
	gate->next_step = pstrdup("wait: queued keys are being delivered; see dualwrite.queue");
}

static void
check_dead_letters(const DwMigration *migration, DwGate *gate)
{
	int64		waiting;
	int64		dead;

	dw_queue_counts(migration->id, &waiting, &dead);
	gate->passed = dead == 0;
	gate->detail = psprintf("%s, 0 allowed", counted(dead, "dead letter", "dead letters"));
	gate->next_step = pstrdup("read dualwrite.dead_letters, then alter_mapping or retry");
}

/* Counters begin anew when the phase is entered, and by reset_stats. */
static void
check_shadow_failures(const DwMigration *migration, DwGate *gate)
{
	double		wanted = dw_setting_real(migration->id, "gate_shadow_success");
	double		success;
	int64		failed = 0;
	int64		all = 0;
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);
		DwStatsEntry entry;

		if (!dw_stats_get(mapping->id, DW_FORWARD, &entry))
			continue;
		failed += entry.counters[DW_COUNT_FAILED];
		all += entry.counters[DW_COUNT_FAILED] + entry.counters[DW_COUNT_INSERT] +
			entry.counters[DW_COUNT_UPDATE] + entry.counters[DW_COUNT_DELETE];
	}
	success = all == 0 ? 1 : (double) (all - failed) / (double) all;
	gate->passed = success >= wanted;
	gate->detail = psprintf(INT64_FORMAT " of %s failed", failed, counted(all, "mirrored write", "mirrored writes"));
	if (failed > 0)
		gate->detail = psprintf("%s; %.8g %% succeeded, %.8g %% wanted", gate->detail, success * 100, wanted * 100);
	gate->next_step = psprintf("read dualwrite.queue and dead_letters, then alter_mapping; count anew: %s",
							   call_of("reset_stats", migration, ""));
}

/* Those skipped were not compared and count for nothing; an error of the other side counts as disagreement. */
static void
check_shadow_reads(const DwMigration *migration, DwGate *gate)
{
	int64		wanted = dw_setting_int(migration->id, "gate_shadow_min_reads");
	double		agreement = dw_setting_real(migration->id, "gate_shadow_agreement");
	DwShadowTotals totals;
	int64		compared;
	double		share;

	if (wanted == 0)
	{
		gate->name = NULL;
		return;
	}
	dw_shadow_totals(migration, &totals);
	compared = totals.counters[DW_SHADOW_AGREED] + totals.counters[DW_SHADOW_MISMATCHED] + totals.counters[DW_SHADOW_ERRORS];
	share = compared == 0 ? 0 : (double) totals.counters[DW_SHADOW_AGREED] / (double) compared;
	gate->passed = compared >= wanted && share >= agreement;
	gate->detail = psprintf(INT64_FORMAT " of %s", compared, counted(wanted, "shadow read", "shadow reads"));
	if (compared > 0)
		gate->detail = psprintf("%s; " INT64_FORMAT " mismatched, " INT64_FORMAT " failed; %.8g %% agreed, %.8g %% wanted", gate->detail,
								totals.counters[DW_SHADOW_MISMATCHED], totals.counters[DW_SHADOW_ERRORS],
								share * 100, agreement * 100);
	if ((double) (compared - totals.counters[DW_SHADOW_AGREED]) > (1 - agreement) * (double) Max(wanted, compared) + 1e-9)
	{
		/* too many already: waiting for the rest of the reads would not help */
		gate->waitable = false;
		gate->next_step = psprintf("read dualwrite.shadow_read_mismatches, mend what differs, and count anew: %s",
								   call_of("reset_shadow_reads", migration, ""));
	}
	else
		gate->next_step = pstrdup("let the application read by dualwrite.shadow_read, and wait");
}

#define UNFILLED_OLD_COLUMN \
	"SELECT a.attname::text FROM pg_attribute a JOIN _dualwrite.mapping p ON p.old_table::oid = a.attrelid" \
	" WHERE p.id = $1 AND p.owns IN ('both', 'old') AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef" \
	" AND a.attidentity = '' AND a.attgenerated = '' AND a.attname <> ALL (p.old_key_columns)" \
	" AND NOT EXISTS (SELECT FROM _dualwrite.mapping_column c WHERE c.mapping_id = p.id AND c.direction = 'reverse'" \
	" AND c.column_name = a.attname) ORDER BY a.attnum LIMIT 1"

/* A way back that fails on every insert is none. */
static void
check_reverse(const DwMigration *migration, DwGate *gate)
{
	ListCell   *lc;

	gate->passed = true;
	gate->detail = pstrdup("inserts into the new side can be mirrored back");
	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);
		DwSql		sql;
		char	   *column;

		if (mapping->old_table == mapping->new_table)
			continue;
		dw_sql_begin(&sql);
		column = dw_sql(UNFILLED_OLD_COLUMN, 1, (DwArg[]) {DW_INT4(mapping->id)}) > 0 ? dw_sql_cstring(&sql, 0, 1) : NULL;
		dw_sql_end(&sql);
		if (column == NULL)
			continue;
		gate->passed = false;
		gate->detail = psprintf("column %s of %s is NOT NULL, has no default and nothing in reverse fills it",
								quote_identifier(column), mapping->old_name);
		gate->next_step = psprintf("%s, or give the column a default",
								   call_of("alter_mapping", migration, ", ..., reverse => ..."));
		return;
	}
}

/* Gates that read the tables do not wait for them; one that is gone is for gate definition to say. */
static bool
tables_are_busy(const DwMigration *migration, DwGate *gate)
{
	bool		gone = false;
	char	   *busy = glance_at_tables(migration, &gone);

	if (busy == NULL || gone)
		return false;
	gate->waitable = true;
	gate->detail = busy;
	gate->next_step = pstrdup("wait until that lock is gone");
	return true;
}

static void
check_sequences(const DwMigration *migration, DwGate *gate)
{
	if (tables_are_busy(migration, gate))
		return;
	gate->detail = dw_sequences_problem(migration);
	gate->passed = gate->detail == NULL;
	if (gate->passed)
		gate->name = NULL;
	gate->next_step = pstrdup("see to it that both sides cannot give out the same key, then waive this gate");
}

/* From read_switch on a key that the old side cannot hold makes the write fail that brings it. */
static void
check_key_range(const DwMigration *migration, DwGate *gate)
{
	if (tables_are_busy(migration, gate))
		return;
	gate->detail = dw_sequences_shortage(migration);
	gate->passed = gate->detail == NULL;
	if (gate->passed)
		gate->name = NULL;
	gate->next_step = pstrdup("widen that column, or be done with phases read_switch and cutover while they last, and waive this gate");
}

/* One of the two gates of a swap of names, from the problems of one kind. */
static void
check_swap(const DwMigration *migration, DwGate *gate, bool refused, const char *well)
{
	DwSwapPlan *plan;

	if (!dw_swap_wanted(migration))
	{
		gate->name = NULL;
		gate->passed = true;
		return;
	}
	plan = dw_swap_plan(migration);
	gate->detail = dw_swap_problems(plan, refused);
	gate->passed = gate->detail == NULL;
	if (gate->passed)
		gate->detail = pstrdup(well);
	gate->next_step = psprintf("see dualwrite.swap_plan(%s) for what to do about each", quote_literal_cstr(migration->name));
}

static void
check_swap_names(const DwMigration *migration, DwGate *gate)
{
	check_swap(migration, gate, true, "the new tables can take the names of the old ones");
}

static void
check_swap_dependents(const DwMigration *migration, DwGate *gate)
{
	check_swap(migration, gate, false, "whatever is used by those names follows them");
}

/* The application that writes the new side from here on relies on them. */
static void
check_constraints(const DwMigration *migration, DwGate *gate)
{
	DwEnforced	enforced = dw_enforced(migration);

	if (enforced.all == 0)
	{
		gate->name = NULL;
		return;
	}
	gate->passed = enforced.unmet == 0;
	gate->detail = psprintf(INT64_FORMAT " of " INT64_FORMAT " hold", enforced.all - enforced.unmet, enforced.all);
	if (gate->passed)
		return;
	gate->detail = psprintf("%s; %s", gate->detail, enforced.example);
	gate->waitable = enforced.violated == 0;
	gate->next_step = gate->waitable ? pstrdup("wait: constraints are being validated; see dualwrite.constraints") :
		psprintf("read dualwrite.constraints, mend the rows, then call dualwrite.check_constraints(%s)",
				 quote_literal_cstr(migration->name));
}

#define OUTSIDE_REFERENCE \
	"SELECT format('foreign key %I of table %s references old table %s', k.conname, k.conrelid::regclass, k.confrelid::regclass)," \
	" format('reference the new table instead: ALTER TABLE %s ADD FOREIGN KEY ..., DROP CONSTRAINT %I', k.conrelid::regclass, k.conname)" \
	" FROM pg_constraint k JOIN _dualwrite.mapping p ON p.old_table::oid = k.confrelid AND p.old_table::oid <> p.new_table::oid" \
	" WHERE p.migration_id = $1 AND k.contype = 'f' AND k.conparentid = 0" \
	" AND NOT EXISTS (SELECT FROM _dualwrite.mapping q WHERE q.migration_id = $1 AND q.old_table::oid = k.conrelid) ORDER BY 1 LIMIT 1"

/* Nobody adds rows to the old tables any more: a row that references a new one would find nothing there, and fail. */
static void
check_references(const DwMigration *migration, DwGate *gate)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	gate->passed = dw_sql(OUTSIDE_REFERENCE, 1, (DwArg[]) {DW_INT4(migration->id)}) == 0;
	gate->detail = gate->passed ? NULL : dw_sql_cstring(&sql, 0, 1);
	gate->next_step = gate->passed ? NULL : dw_sql_cstring(&sql, 0, 2);
	dw_sql_end(&sql);
	if (gate->passed)
		gate->name = NULL;
}

#define OLDER_THAN_CUTOVER \
	"SELECT t FROM (SELECT cutover_xid, age(cutover_xid::xid) AS cutover_age, phase_since FROM _dualwrite.migration" \
	" WHERE id = $1 AND cutover_xid IS NOT NULL) m," \
	" LATERAL (SELECT 1, format('process %s (application \"%s\", %s) began before the cutover', a.pid, a.application_name, a.state) AS t" \
	" FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid() AND a.datname = current_database()" \
	" AND a.backend_type NOT LIKE 'autovacuum%' AND a.backend_type NOT LIKE 'dualwrite%' AND (age(a.backend_xmin) >= m.cutover_age OR age(a.backend_xid) >= m.cutover_age" \
	" OR a.xact_start <= m.phase_since)" \
	" UNION ALL SELECT 2, format('prepared transaction \"%s\" began before the cutover', p.gid) FROM pg_prepared_xacts p" \
	" WHERE p.database = current_database() AND age(p.transaction) >= m.cutover_age" \
	" UNION ALL SELECT 3, format('standby \"%s\" runs a query that began before the cutover', r.application_name)" \
	" FROM pg_stat_replication r WHERE age(r.backend_xmin) >= m.cutover_age" \
	" UNION ALL SELECT 4, format('replication slot \"%s\" holds a snapshot from before the cutover', s.slot_name)" \
	" FROM pg_replication_slots s WHERE age(s.xmin) >= m.cutover_age ORDER BY 1 LIMIT 1) x (kind, t)"

/* One that was told "old" would read rows that nobody keeps up any more. */
static void
check_snapshots(const DwMigration *migration, DwGate *gate)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	gate->passed = dw_sql(OLDER_THAN_CUTOVER, 1, (DwArg[]) {DW_INT4(migration->id)}) == 0;
	gate->detail = gate->passed ? NULL : dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	if (gate->passed)
		gate->detail = pstrdup("no transaction is older than the cutover");
	gate->next_step = pstrdup("wait until it has ended, or end it");
}

static void
check_origin(const DwMigration *migration, DwGate *gate)
{
	gate->passed = !migration->restored;
	if (gate->passed)
		gate->name = NULL;
	gate->detail = pstrdup("restored from a dump of another database: nothing counts as copied");
	gate->next_step = migration->phase > DW_PHASE_VERIFY ? call_of("rollback", migration, ", 'backfill'") :
		call_of("resume", migration, "");
}

static void
check_triggers(const DwMigration *migration, DwGate *gate)
{
	List	   *mappings = dw_mappings_of(migration->id);
	char	   *problem = NULL;
	ListCell   *lc;

	foreach(lc, mappings)
	{
		DwMapping  *mapping = lfirst(lc);

		if (problem == NULL)
			problem = dw_triggers_problem(mapping->old_table);
		if (problem == NULL)
			problem = dw_triggers_problem(mapping->new_table);
	}
	foreach(lc, dw_lookups_of(mappings))
		if (problem == NULL)
			problem = dw_triggers_problem(lfirst_oid(lc));
	gate->passed = problem == NULL;
	gate->detail = problem ? problem : pstrdup("present and enabled");
	gate->next_step = call_of("install_triggers", migration, "");
}

static const struct
{
	const char *name;
	DwGateCheck check;
	bool		judgement;
	bool		waitable;
	bool		background;
}			gates[DW_NUM_GATES] =
{
	[DW_GATE_ORIGIN] = {"origin", check_origin, false, false, false},
	[DW_GATE_MAPPINGS] = {"mappings", check_mappings, false, false, false},
	[DW_GATE_DEFINITION] = {"definition", check_definition, false, false, false},
	[DW_GATE_BACKFILL] = {"backfill", check_backfill, false, true, true},
	[DW_GATE_INDEXES] = {"indexes", check_indexes, false, true, true},
	[DW_GATE_READ_PERCENT] = {"read_percent", check_read_percent, true, false, false},
	[DW_GATE_SOAK] = {"soak", check_soak, true, true, false},
	[DW_GATE_RECONCILE] = {"reconcile", check_reconcile, false, true, true},
	[DW_GATE_DRIFT] = {"drift", check_drift, false, true, true},
	[DW_GATE_QUEUE] = {"queue", check_queue, false, true, true},
	[DW_GATE_DEAD_LETTERS] = {"dead_letters", check_dead_letters, false, false, false},
	[DW_GATE_SHADOW_FAILURES] = {"shadow_failures", check_shadow_failures, true, false, false},
	[DW_GATE_SHADOW_READS] = {"shadow_reads", check_shadow_reads, true, true, false},
	[DW_GATE_REVERSE] = {"reverse", check_reverse, false, false, false},
	[DW_GATE_SEQUENCES] = {"sequences", check_sequences, true, false, false},
	[DW_GATE_KEY_RANGE] = {"key_range", check_key_range, true, false, false},
	[DW_GATE_SWAP_NAMES] = {"swap_names", check_swap_names, false, false, false},
	[DW_GATE_SWAP_DEPENDENTS] = {"swap_dependents", check_swap_dependents, true, false, false},
	[DW_GATE_CONSTRAINTS] = {"constraints", check_constraints, true, true, true},
	[DW_GATE_REFERENCES] = {"references", check_references, true, false, false},
	[DW_GATE_SNAPSHOTS] = {"snapshots", check_snapshots, false, true, false},
	[DW_GATE_TRIGGERS] = {"triggers", check_triggers, false, false, false},
};

static DwGate *
check_gate(DwGateId id, const DwMigration *migration)
{
	DwGate	   *gate = palloc0(sizeof(DwGate));

	gate->name = gates[id].name;
	gate->judgement = gates[id].judgement;
	gate->waitable = gates[id].waitable;
	gate->background = gates[id].background;
	gates[id].check(migration, gate);
	if (gate->background && gate->waitable && migration->paused && !gate->passed)
	{
		gate->waitable = false;
		gate->next_step = psprintf("paused: %s", call_of("resume", migration, ""));
	}
	return gate;
}

List *
dw_gates_check(const DwMigration *migration)
{
	const DwRung *rung = dw_rung_up(migration->phase);
	List	   *result = NIL;

	for (int id = 0; rung != NULL && id < DW_NUM_GATES; id++)
	{
		DwGate	   *gate;

		if (!(rung->gates & (UINT32_C(1) << id)))
			continue;
		gate = check_gate((DwGateId) id, migration);
		if (gate->name != NULL)
			result = lappend(result, gate);
	}
	return result;
}

List *
dw_gates_unmet(List *all)
{
	List	   *unmet = NIL;
	ListCell   *lc;

	foreach(lc, all)
		if (!((DwGate *) lfirst(lc))->passed)
			unmet = lappend(unmet, lfirst(lc));
	return unmet;
}

bool
dw_gate_known(const char *name, bool *judgement)
{
	for (int id = 0; id < DW_NUM_GATES; id++)
		if (strcmp(gates[id].name, name) == 0)
		{
			*judgement = gates[id].judgement;
			return true;
		}
	return false;
}

char *
dw_gates_waivable(void)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int id = 0; id < DW_NUM_GATES; id++)
		if (gates[id].judgement)
			appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", gates[id].name);
	return text.data;
}

char *
dw_gates_detail(List *unmet)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, unmet)
	{
		DwGate	   *gate = lfirst(lc);

		appendStringInfo(&text, "%s%s: %s.", text.len > 0 ? "\n" : "", gate->name, gate->detail);
	}
	return text.data;
}

/* Of several gates that are not met, the first that does not pass by waiting; else the first. */
static DwGate *
most_pressing(List *unmet)
{
	ListCell   *lc;

	foreach(lc, unmet)
		if (!((DwGate *) lfirst(lc))->waitable)
			return lfirst(lc);
	return linitial(unmet);
}

char *
dw_gates_hint(List *unmet)
{
	DwGate	   *gate = most_pressing(unmet);
	char	   *hint;

	if (strncmp(gate->next_step, "SELECT ", 7) == 0)
		return psprintf("Run: %s", gate->next_step);
	hint = psprintf("%s.", gate->next_step);
	hint[0] = pg_toupper((unsigned char) hint[0]);
	return hint;
}

char *
dw_next_step(const DwMigration *migration)
{
	List	   *unmet;
	char	   *advance;

	if (migration->phase == DW_PHASE_COMPLETE)
		return migration->old_dropped ? call_of("drop_migration", migration, "") : call_of("drop_old", migration, "");
	unmet = dw_gates_unmet(dw_gates_check(migration));
	if (unmet != NIL)
		return most_pressing(unmet)->next_step;
	advance = call_of("advance", migration, "");
	if (migration->phase == DW_PHASE_CUTOVER)
		advance = psprintf("%s; undo: %s", advance, call_of("rollback", migration, ""));
	return advance;
}
