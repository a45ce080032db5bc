/*
 * diagnose.c: what is off with a migration now, and what to do about it.
 *
 * Each check is a function that looks at one thing and reports what it does not like; a migration that is well gets no
 * row.  Checks wait for nobody and change nothing.
 */
#include "postgres.h"

#include "attempt.h"
#include "enforce.h"
#include "mapping.h"
#include "queue.h"
#include "reconcile.h"
#include "sequences.h"
#include "settings.h"
#include "sql.h"
#include "triggers.h"
#include "worker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dw_diagnose_sql);

/* Work that nobody has done for so long is not merely waiting its turn. */
#define DW_STALLED_MS 60000

/* A comparison is late when it is overdue by another interval. */
#define DW_LATE_INTERVALS 2

typedef struct Diagnosis
{
	const DwMigration *migration;
	char	   *name;			/* the migration's, as a literal */
	List	   *mappings;
	ReturnSetInfo *result;
} Diagnosis;

#define DW_ERROR "error"
#define DW_WARNING "warning"
#define DW_INFO "info"

static void
report(Diagnosis *diagnosis, const char *severity, const char *what, const char *detail, const char *hint)
{
	Datum		values[4] = {
		CStringGetTextDatum(severity), CStringGetTextDatum(what), CStringGetTextDatum(detail), CStringGetTextDatum(hint)
	};
	bool		nulls[4] = {0};

	tuplestore_putvalues(diagnosis->result->setResult, diagnosis->result->setDesc, values, nulls);
}

/* Are mirrors meant to be on? */
static bool
is_mirroring(const DwMigration *migration)
{
	return migration->phase >= DW_PHASE_SHADOW && migration->phase <= DW_PHASE_CUTOVER;
}

static void
check_origin(Diagnosis *diagnosis)
{
	if (diagnosis->migration->restored)
		report(diagnosis, DW_ERROR, "restored from a dump",
			   "The migration comes from another server or database; what was copied and compared there does not count here.",
			   diagnosis->migration->phase > DW_PHASE_VERIFY ?
			   psprintf("Call dualwrite.rollback(%s, 'backfill'): from there it is copied and compared again.", diagnosis->name) :
			   psprintf("Call dualwrite.resume(%s): what is there is copied and compared again.", diagnosis->name));
}

static void
compile(void *arg)
{
	(void) dw_compiled_get(((DwMapping *) arg)->id);
}

/* A table that is there and can be looked at without waiting. */
static bool
table_at_hand(Oid relid)
{
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return false;
	return get_rel_name(relid) != NULL;
}

static void
check_definition(Diagnosis *diagnosis, DwMapping *mapping)
{
	const char *gone = NULL;
	DwError		error;

	if (diagnosis->migration->old_dropped)
		return;
	if (get_rel_name(mapping->old_table) == NULL)
		gone = mapping->old_name;
	else if (get_rel_name(mapping->new_table) == NULL)
		gone = mapping->new_name;
	if (gone != NULL)
		report(diagnosis, DW_ERROR, "table dropped", psprintf("Table %s does not exist any more.", gone),
			   psprintf("Call dualwrite.rollback(%s, 'defined'), then dualwrite.drop_mapping or drop_migration.",
						diagnosis->name));
	else if (table_at_hand(mapping->old_table) && table_at_hand(mapping->new_table) &&
			 !dw_try(compile, mapping, false, NULL, &error))
		report(diagnosis, DW_ERROR, "mapping does not fit its tables", psprintf("%s.", error.message),
			   "Undo the change of the table, or call dualwrite.alter_mapping.");
}

static void
check_triggers_of(Diagnosis *diagnosis, Oid table)
{
	char	   *problem = NULL;

	if (get_rel_name(table) != NULL && dw_triggers_needed(table))
		problem = dw_triggers_problem(table);
	if (problem != NULL)
		report(diagnosis, DW_ERROR, "writes are not mirrored", psprintf("%s.", problem),
			   psprintf("Call dualwrite.install_triggers(%s), then dualwrite.reconcile to find what was missed.",
						diagnosis->name));
}

static void
check_triggers(Diagnosis *diagnosis, DwMapping *mapping)
{
	ListCell   *lc;

	check_triggers_of(diagnosis, mapping->old_table);
	check_triggers_of(diagnosis, mapping->new_table);
	foreach(lc, mapping->dependencies)
	{
		DwDependency *dependency = lfirst(lc);

		if (get_rel_name(dependency->lookup) == NULL)
			report(diagnosis, DW_ERROR, "table dropped",
				   psprintf("Table %s, which column \"%s\" depends on, does not exist any more.", dependency->lookup_name,
							dependency->column),
				   "Call dualwrite.alter_mapping to make the column of something else.");
		else
			check_triggers_of(diagnosis, dependency->lookup);
	}
}

static void
check_switches(Diagnosis *diagnosis)
{
	const DwMigration *migration = diagnosis->migration;

	if (migration->paused && is_mirroring(migration))
		report(diagnosis, DW_WARNING, "paused", "No background work is done; mirrors go on.",
			   psprintf("Call dualwrite.resume(%s).", diagnosis->name));
	if (migration->repair_suspended && is_mirroring(migration))
		report(diagnosis, DW_WARNING, "repair suspended",
			   "A rollback has changed the truth; the side that repair would overwrite may be the only good copy.",
			   psprintf("Inspect dualwrite.drift, then call dualwrite.resume(%s).", diagnosis->name));
}

static void
check_dead_letters(Diagnosis *diagnosis)
{
	int64		waiting;
	int64		dead;

	dw_queue_counts(diagnosis->migration->id, &waiting, &dead);
	if (dead > 0)
		report(diagnosis, DW_ERROR, "dead letters",
			   psprintf(INT64_FORMAT " queued %s could not be delivered.", dead, dead == 1 ? "key" : "keys"),
			   psprintf("Read dualwrite.dead_letters, mend the rows or the mapping, then call dualwrite.retry(%s).",
						diagnosis->name));
}

static void
check_drift(Diagnosis *diagnosis)
{
	int64		open = dw_drift_open(diagnosis->migration->id);

	if (open > 0)
		report(diagnosis, DW_ERROR, "drift",
			   psprintf(INT64_FORMAT " %s on the two sides.", open, open == 1 ? "key differs" : "keys differ"),
			   psprintf("Inspect dualwrite.drift, then call dualwrite.repair(%s).", diagnosis->name));
}

static void
check_constraints(Diagnosis *diagnosis)
{
	DwEnforced	enforced;

	if (diagnosis->migration->phase < DW_PHASE_VERIFY || diagnosis->migration->phase > DW_PHASE_CUTOVER)
		return;
	enforced = dw_enforced(diagnosis->migration);
	if (enforced.violated > 0)
		report(diagnosis, DW_WARNING, "constraints violated",
			   psprintf(INT64_FORMAT " of %s that the new side should have %s not hold: %s.", enforced.violated,
						enforced.all == 1 ? "1 constraint" : psprintf(INT64_FORMAT " constraints", enforced.all),
						enforced.violated == 1 ? "does" : "do", enforced.example),
			   psprintf("Read dualwrite.constraints, mend the rows, then call dualwrite.check_constraints(%s).", diagnosis->name));
}

/* Work that was due a while ago, in words; NULL when there is none. */
static char *
stalled_work(const DwMigration *migration)
{
	DwSql		sql;
	char	   *work;

	dw_sql_begin(&sql);
	dw_sql("SELECT CASE"
		   " WHEN EXISTS (SELECT FROM _dualwrite.queue q JOIN _dualwrite.mapping m ON m.id = q.mapping_id"
		   "  WHERE m.migration_id = $1 AND NOT q.dead AND q.next_attempt_at < $3) THEN 'queued keys are not delivered'"
		   " WHEN $2 AND EXISTS (SELECT FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id"
		   "  WHERE m.migration_id = $1 AND b.finished_at IS NULL)"
		   "  AND NOT EXISTS (SELECT FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id"
		   "  WHERE m.migration_id = $1 AND b.updated_at >= $3) THEN 'the backfill does not go on'"
		   " WHEN EXISTS (SELECT FROM _dualwrite.reconcile_pass p JOIN _dualwrite.mapping m ON m.id = p.mapping_id"
		   "  WHERE m.migration_id = $1 AND p.background AND p.finished_at IS NULL AND p.updated_at < $3)"
		   "  THEN 'a comparison does not go on' END",
		   3, (DwArg[]) {DW_INT4(migration->id), DW_BOOL(migration->phase == DW_PHASE_BACKFILL),
		   DW_TIME(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -DW_STALLED_MS))});
	work = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	return work;
}

static void
check_worker(Diagnosis *diagnosis)
{
	const DwMigration *migration = diagnosis->migration;
	char	   *work;

	if (!is_mirroring(migration) || migration->paused)
		return;
	work = stalled_work(migration);
	if (work == NULL)
		return;
	if (dw_worker_running(migration->id))
		report(diagnosis, DW_WARNING, "background work stalled",
			   psprintf("For more than a minute %s, although the worker runs.", work),
			   "See dualwrite.workers and dualwrite.progress: it may be throttled, or fail again and again.");
	else
		report(diagnosis, DW_ERROR, "no worker",
			   psprintf("For more than a minute %s, and no worker runs.", work),
			   psprintf("Add dualwrite to shared_preload_libraries and restart, or raise max_worker_processes; see the server's log. "
							"Or do the work in a session of your own: CALL dualwrite.backfill(%s), CALL dualwrite.deliver(%s).",
							diagnosis->name, diagnosis->name));
}

/* May the caller read all rows of this table?  One that is gone has none to be read. */
static bool
may_read(Oid relid, Oid user)
{
	return get_rel_name(relid) == NULL ||
		(pg_class_aclcheck(relid, user, ACL_SELECT) == ACLCHECK_OK && check_enable_rls(relid, user, true) != RLS_ENABLED);
}

/* Errors quote values of rows: they are for those who may read the tables. */
static bool
may_see_errors(const Diagnosis *diagnosis)
{
	ListCell   *lc;

	foreach(lc, diagnosis->mappings)
	{
		DwMapping  *mapping = lfirst(lc);

		if (!may_read(mapping->old_table, GetUserId()) || !may_read(mapping->new_table, GetUserId()))
			return false;
	}
	return true;
}

/* Errors of background work that has not succeeded since. */
static void
check_worker_errors(Diagnosis *diagnosis)
{
	bool		visible = may_see_errors(diagnosis);
	DwSql		sql;
	uint64		rows;

	dw_sql_begin(&sql);
	rows = dw_sql("SELECT role, last_error FROM _dualwrite.worker WHERE migration_id = $1 AND last_error IS NOT NULL ORDER BY role",
				  1, (DwArg[]) {DW_INT4(diagnosis->migration->id)});
	for (uint64 i = 0; i < rows; i++)
		report(diagnosis, DW_ERROR, psprintf("%s fails", dw_sql_cstring(&sql, i, 1)),
			   visible ? psprintf("%s.", dw_sql_cstring(&sql, i, 2)) : "The error is shown to those who may read the tables.",
			   "Remove the cause: the worker tries again by itself. See dualwrite.workers.");
	dw_sql_end(&sql);
}

static void
check_comparison(Diagnosis *diagnosis)
{
	const DwMigration *migration = diagnosis->migration;
	int64		interval = dw_setting_int(migration->id, "reconcile_interval");
	DwSql		sql;
	bool		late;

	if (migration->phase < DW_PHASE_VERIFY || migration->phase > DW_PHASE_CUTOVER || migration->paused || interval == 0)
		return;
	dw_sql_begin(&sql);
	late = dw_sql("SELECT FROM _dualwrite.mapping m WHERE m.migration_id = $1 AND $2 > greatest($3,"
				  " (SELECT max(p.finished_at) FROM _dualwrite.reconcile_pass p"
				  "   WHERE p.mapping_id = m.id AND p.epoch = $4 AND p.sample_percent IN (0, 100)))"
				  " AND NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass p WHERE p.mapping_id = m.id AND p.epoch = $4"
				  "  AND p.finished_at IS NULL) LIMIT 1",
				  4, (DwArg[]) {DW_INT4(migration->id),
				  DW_TIME(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -DW_LATE_INTERVALS * interval)),
				  DW_TIME(migration->phase_since), DW_INT4(migration->epoch)}) > 0;
	dw_sql_end(&sql);
	if (late)
		report(diagnosis, DW_WARNING, "not compared for long",
			   "The last complete comparison is older than twice reconcile_interval.",
			   psprintf("See dualwrite.workers, or call dualwrite.reconcile(%s) now.", diagnosis->name));
}

static void
check_throttle(Diagnosis *diagnosis)
{
	DwSql		sql;
	char	   *signals;

	if (diagnosis->migration->phase != DW_PHASE_BACKFILL)
		return;
	dw_sql_begin(&sql);
	dw_sql("SELECT string_agg(DISTINCT t, ', ' ORDER BY t) FROM _dualwrite.backfill b JOIN _dualwrite.mapping m"
		   " ON m.id = b.mapping_id, unnest(b.throttled_by) AS t WHERE m.migration_id = $1 AND b.finished_at IS NULL",
		   1, (DwArg[]) {DW_INT4(diagnosis->migration->id)});
	signals = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	if (signals != NULL)
		report(diagnosis, DW_INFO, "backfill throttled", psprintf("It waits because of: %s.", signals),
			   psprintf("It goes on by itself; the limits are settings, see dualwrite.configure(%s, …).", diagnosis->name));
}

/* Where both sides take inserts already, the gate that asks for it is behind. */
static void
check_keys_left(Diagnosis *diagnosis)
{
	char	   *shortage;

	if (diagnosis->migration->phase < DW_PHASE_READ_SWITCH || diagnosis->migration->phase > DW_PHASE_CUTOVER)
		return;
	shortage = dw_sequences_shortage(diagnosis->migration);
	if (shortage != NULL)
		report(diagnosis, DW_WARNING, "keys of the old side run out", psprintf("There are not many %s.", shortage),
			   "Be done with these phases while they last: writes of the new side whose keys the old one cannot hold fail.");
}

/* diagnose(migration text) returns table (severity text, what text, detail text, hint text) */
Datum
dw_diagnose_sql(PG_FUNCTION_ARGS)
{
	Diagnosis	diagnosis = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	ListCell   *lc;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"migration\" of dualwrite.diagnose must not be null"),
				 errhint("See dualwrite.status for the migrations of this database.")));
	diagnosis.migration = dw_migration_get(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	diagnosis.name = quote_literal_cstr(diagnosis.migration->name);
	diagnosis.mappings = dw_mappings_of(diagnosis.migration->id);
	InitMaterializedSRF(fcinfo, 0);

	check_origin(&diagnosis);
	foreach(lc, diagnosis.mappings)
	{
		check_definition(&diagnosis, lfirst(lc));
		check_triggers(&diagnosis, lfirst(lc));
	}
	check_dead_letters(&diagnosis);
	check_drift(&diagnosis);
	check_constraints(&diagnosis);
	check_worker(&diagnosis);
	check_worker_errors(&diagnosis);
	check_comparison(&diagnosis);
	check_switches(&diagnosis);
	check_throttle(&diagnosis);
	check_keys_left(&diagnosis);
	return (Datum) 0;
}
