/*
 * wait.c: CALL dualwrite.wait and CALL dualwrite.run.
 *
 * Procedures that look at the gates, commit, sleep and look again.  Between two looks they hold no snapshot, no lock and no
 * transaction id, for days if need be: so they are C functions that commit through SPI, without a SET clause and not
 * SECURITY DEFINER, either of which would forbid it.  (A procedure in PL/pgSQL that commits and sleeps holds a
 * snapshot all the same.)
 *
 * Nothing here may keep a pointer from one look to the next that the commit in between takes away.
 */
#include "postgres.h"

#include "gates.h"
#include "ladder.h"
#include "phase.h"
#include "reconcile.h"
#include "sql.h"
#include "worker.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dualwrite_wait);
PG_FUNCTION_INFO_V1(dualwrite_run);

/* Time between two looks. */
#define POLL_MS			200
/* Time between two lines of progress, the first of which comes as late. */
#define PROGRESS_MS		3000
/* Time without a worker, while there is work for one, after which nobody is going to do it. */
#define NO_WORKER_MS	30000

/* What is remembered from one look to the next; in memory of the procedure. */
typedef struct DwWatch
{
	char	   *migration;
	TimestampTz deadline;		/* DT_NOEND: none */
	TimestampTz reported_at;	/* last line of progress */
	int64		rows_reported;	/* rows copied by then */
	TimestampTz worker_seen_at;
	bool		show_progress;
	int32		asked_epoch;	/* a comparison was asked for in this epoch */
	int64		asked_after;	/* ... after this pass */
	bool		told;			/* the result of the comparison was printed */
	MemoryContext look;			/* what one look allocates */
} DwWatch;

static void
require_nonatomic(FunctionCallInfo fcinfo, const char *procedure)
{
	bool		nonatomic = fcinfo->context != NULL && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic;

	PreventCommandIfReadOnly(procedure);
	if (!nonatomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", procedure),
				 errhint("Call it by itself: it commits as it goes.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s needs isolation level READ COMMITTED", procedure),
				 errhint("Run SET default_transaction_isolation = 'read committed' and call it again.")));
}

static DwWatch *
begin_watch(FunctionCallInfo fcinfo, int timeout_arg, bool show_progress)
{
	DwWatch    *watch = palloc0(sizeof(DwWatch));

	watch->look = AllocSetContextCreate(CurrentMemoryContext, "dualwrite look", ALLOCSET_DEFAULT_SIZES);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("migration must not be null"),
				 errhint("See dualwrite.status for the migrations of this database.")));
	watch->migration = text_to_cstring(PG_GETARG_TEXT_PP(0));
	watch->deadline = DT_NOEND;
	watch->reported_at = watch->worker_seen_at = GetCurrentTimestamp();
	watch->rows_reported = -1;
	watch->show_progress = show_progress;
	if (!PG_ARGISNULL(timeout_arg))
		watch->deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
																  TimestampTzGetDatum(GetCurrentTimestamp()),
																  PG_GETARG_DATUM(timeout_arg)));
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(watch->look);
	return watch;
}

static void
end_watch(void)
{
	PopActiveSnapshot();
	SPI_finish();
}

/* A migration that the caller may drive. */
static DwMigration *
look_up(const DwWatch *watch)
{
	DwMigration *migration = dw_migration_get(watch->migration, false);

	dw_migration_check_owner(migration);
	return migration;
}

/* End the transaction of this look, hold nothing for a moment, and begin the next one.  What the look knew is gone. */
static void
rest(DwWatch *watch, long ms)
{
	PopActiveSnapshot();
	SPI_commit();
	MemoryContextReset(watch->look);
	if (ms > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* Rows copied so far. */
static int64
rows_copied(const DwMigration *migration)
{
	DwSql		sql;
	bool		isnull;
	int64		rows;

	dw_sql_begin(&sql);
	dw_sql("SELECT coalesce(sum(b.rows_done), 0)::int8 FROM _dualwrite.backfill b JOIN _dualwrite.mapping p ON p.id = b.mapping_id"
		   " WHERE p.migration_id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	rows = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
	return rows;
}

/* "backfill: 41.7 % copied, 3 keys queued; 120000 rows/s; done about 04:10" */
static void
report_progress(DwWatch *watch, const DwMigration *migration, List *unmet)
{
	TimestampTz now = GetCurrentTimestamp();
	long		ms = TimestampDifferenceMilliseconds(watch->reported_at, now);
	StringInfoData text;
	ListCell   *lc;

	if (!watch->show_progress || ms < PROGRESS_MS)
		return;
	initStringInfo(&text);
	foreach(lc, unmet)
		appendStringInfo(&text, "%s%s", text.len > 0 ? "; " : "", ((DwGate *) lfirst(lc))->detail);
	if (migration->phase == DW_PHASE_BACKFILL)
	{
		int64		rows = rows_copied(migration);
		const char *outlook = ((DwGate *) linitial(unmet))->next_step;

		if (watch->rows_reported >= 0)
			appendStringInfo(&text, "; %.0f rows/s", (double) Max(rows - watch->rows_reported, 0) * 1000 / ms);
		if (strncmp(outlook, "wait: ", 6) == 0)
			appendStringInfo(&text, "; %s", outlook + 6);
		watch->rows_reported = rows;
	}
	watch->reported_at = now;
	ereport(NOTICE, (errmsg("%s: %s", dw_phase_name(migration->phase), text.data)));
}

/* Highest finished full pass of this epoch, and whether one is under way. */
static int64
last_pass(const DwMigration *migration, bool *under_way)
{
	DwSql		sql;
	bool		isnull;
	int64		last;

	dw_sql_begin(&sql);
	dw_sql("SELECT coalesce(max(r.id) FILTER (WHERE r.finished_at IS NOT NULL), 0),"
		   " coalesce(bool_or(r.finished_at IS NULL), false)"
		   " FROM _dualwrite.reconcile_pass r JOIN _dualwrite.mapping p ON p.id = r.mapping_id"
		   " WHERE p.migration_id = $1 AND r.epoch = $2 AND r.background",
		   2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)});
	last = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	*under_way = DatumGetBool(dw_sql_value(0, 2, &isnull));
	dw_sql_end(&sql);
	return last;
}

static bool
waits_for(List *unmet, const char *name)
{
	ListCell   *lc;

	foreach(lc, unmet)
		if (strcmp(((DwGate *) lfirst(lc))->name, name) == 0)
			return true;
	return false;
}

/* The next comparison may be an hour away by its interval: ask for one, once after each that ended. */
static void
ask_for_comparison(DwWatch *watch, const DwMigration *migration, List *unmet)
{
	bool		under_way;
	int64		last;

	if (!waits_for(unmet, "reconcile") && !waits_for(unmet, "drift"))
		return;
	last = last_pass(migration, &under_way);
	if (under_way || (watch->asked_epoch == migration->epoch && watch->asked_after == last))
		return;
	dw_reconcile_request(migration);
	dw_worker_wake();
	watch->asked_epoch = migration->epoch;
	watch->asked_after = last;
}

static bool
needs_worker(List *unmet)
{
	ListCell   *lc;

	foreach(lc, unmet)
		if (((DwGate *) lfirst(lc))->background)
			return true;
	return false;
}

/* There is work, and nobody to do it. */
static void
check_worker(DwWatch *watch, const DwMigration *migration, List *unmet)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!needs_worker(unmet) || dw_worker_running(migration->id))
	{
		watch->worker_seen_at = now;
		return;
	}
	if (!TimestampDifferenceExceeds(watch->worker_seen_at, now, NO_WORKER_MS))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("no background worker runs for migration \"%s\"", migration->name),
			 errdetail_internal("%s", dw_gates_detail(unmet)),
			 errhint("Raise max_worker_processes or dualwrite.max_workers, or run CALL dualwrite.backfill(%s) to do the work in this session.",
					 quote_literal_cstr(migration->name))));
}

/* What can be waited for is; anything else is an error now. */
static void
check_waitable(const DwMigration *migration, List *gates, List *unmet)
{
	ListCell   *lc;

	foreach(lc, unmet)
		if (!((DwGate *) lfirst(lc))->waitable)
			dw_phase_refuse(migration, gates, unmet, false);
}

static void
check_deadline(const DwWatch *watch, List *unmet)
{
	if (watch->deadline == DT_NOEND || GetCurrentTimestamp() < watch->deadline)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("timed out waiting for migration \"%s\"", watch->migration),
			 errdetail_internal("%s", dw_gates_detail(unmet)),
			 errhint("%s", dw_gates_hint(unmet))));
}

/* One look at gates that are not met: errors, progress, and whatever moves things on. */
static void
attend(DwWatch *watch, const DwMigration *migration, List *gates, List *unmet)
{
	check_waitable(migration, gates, unmet);
	check_deadline(watch, unmet);
	ask_for_comparison(watch, migration, unmet);
	check_worker(watch, migration, unmet);
	report_progress(watch, migration, unmet);
}

/*
 * wait(migration text, timeout interval): procedure.  ERROR 55000 when a gate cannot pass by waiting, 57014 when the time is
 * up, 53000 when no background worker can run, 25001 inside a transaction block.
 */
Datum
dualwrite_wait(PG_FUNCTION_ARGS)
{
	DwWatch    *watch;

	require_nonatomic(fcinfo, "CALL dualwrite.wait");
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	watch = begin_watch(fcinfo, 1, false);
	for (;;)
	{
		DwMigration *migration = look_up(watch);
		List	   *gates = dw_gates_check(migration);
		List	   *unmet = dw_gates_unmet(gates);

		if (unmet == NIL)
			break;
		attend(watch, migration, gates, unmet);
		rest(watch, POLL_MS);
	}
	end_watch();
	PG_RETURN_VOID();
}

/* "1000000 rows compared, 0 differ", once: when nothing differs, or when nothing is going to change that by itself. */
static void
tell_comparison(DwWatch *watch, const DwMigration *migration, List *unmet)
{
	int64		compared;
	int64		differ;
	ListCell   *lc;

	if (watch->told || waits_for(unmet, "reconcile") || !dw_rows_compared(migration, &compared, &differ))
		return;
	foreach(lc, unmet)
		if (strcmp(((DwGate *) lfirst(lc))->name, "drift") == 0 && ((DwGate *) lfirst(lc))->waitable)
			return;
	watch->told = true;
	ereport(NOTICE, (errmsg(INT64_FORMAT " rows compared, " INT64_FORMAT " differ", compared, differ)));
}

/* In verify, waiting is over when a comparison has ended here, whatever else the next rung wants. */
static List *
gates_of_verify(List *gates)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, gates)
	{
		DwGate	   *gate = lfirst(lc);

		if (strcmp(gate->name, "reconcile") == 0 || strcmp(gate->name, "drift") == 0 || strcmp(gate->name, "origin") == 0)
			result = lappend(result, gate);
	}
	return result;
}

/* The last canary step is part of the way to cutover. */
static void
open_reads(const DwMigration *migration, DwPhase target)
{
	if (migration->phase == DW_PHASE_READ_SWITCH && target > DW_PHASE_READ_SWITCH && migration->read_percent < 100)
		dw_phase_set_read_percent(migration->name, 100);
}

/* One look.  true: arrived. */
static bool
run_once(DwWatch *watch, DwPhase target)
{
	DwMigration *migration = look_up(watch);
	List	   *gates;
	List	   *unmet;
	bool		arrived = migration->phase >= target;

	/* who asks for verify wants to know that both sides agree */
	if (arrived && !(target == DW_PHASE_VERIFY && migration->phase == DW_PHASE_VERIFY))
		return true;
	open_reads(migration, target);
	migration = look_up(watch);
	gates = dw_gates_check(migration);
	unmet = dw_gates_unmet(arrived ? gates_of_verify(gates) : gates);
	if (migration->phase == DW_PHASE_VERIFY)
		tell_comparison(watch, migration, unmet);
	if (unmet == NIL && arrived)
		return true;
	if (unmet == NIL)
		unmet = dw_phase_try_advance(watch->migration, "CALL dualwrite.run");
	if (unmet == NIL)
	{
		DwPhase		reached = migration->phase + 1;

		rest(watch, 0);
		ereport(NOTICE, (errmsg("migration \"%s\" has reached phase %s", watch->migration, dw_phase_name(reached))));
		watch->reported_at = watch->worker_seen_at = GetCurrentTimestamp();
		return false;
	}
	attend(watch, migration, gates, unmet);
	rest(watch, POLL_MS);
	return false;
}

/* run(migration text, to_phase text, timeout interval): procedure.  Errors as wait's, and those of advance. */
Datum
dualwrite_run(PG_FUNCTION_ARGS)
{
	DwWatch    *watch;
	DwPhase		target;

	require_nonatomic(fcinfo, "CALL dualwrite.run");
	target = PG_ARGISNULL(1) ? DW_PHASE_VERIFY : dw_phase_from_name(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (target > DW_PHASE_CUTOVER)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("run goes to \"cutover\" at most"),
				 errhint("From complete there is no way back: take that step by SELECT dualwrite.advance(...).")));
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	watch = begin_watch(fcinfo, 2, true);
	while (!run_once(watch, target))
		CHECK_FOR_INTERRUPTS();
	end_watch();
	PG_RETURN_VOID();
}
