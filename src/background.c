/*
 * background.c: SQL entry points of backfill and queue.
 *
 * Arguments are checked here, the work is in backfill.c, deliver.c and queue.c.  dualwrite.backfill does in the foreground what a
 * worker does: it holds no snapshot between batches, and can be called beside a worker, or while the migration's
 * background work is paused.
 */
#include "postgres.h"

#include "backfill.h"
#include "deliver.h"
#include "enforce.h"
#include "rebuild.h"
#include "queue.h"
#include "recheck.h"
#include "worker.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* Time between two NOTICEs of progress, ms. */
#define DW_NOTICE_MS 2000
/* Longest wait for keys of the queue at the end, ms. */
#define DW_SETTLE_MS 1000

PG_FUNCTION_INFO_V1(dw_backfill);
PG_FUNCTION_INFO_V1(dw_deliver);
PG_FUNCTION_INFO_V1(dw_retry);
PG_FUNCTION_INFO_V1(dw_retry_indexes_sql);
PG_FUNCTION_INFO_V1(dw_forget_index_sql);
PG_FUNCTION_INFO_V1(dw_discard_dead);

/* A text argument that must not be null or empty. */
static char *
text_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	char	   *value = PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));

	if (value == NULL || value[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null or empty", name)));
	return value;
}

static DwMigration *
owned_migration(FunctionCallInfo fcinfo)
{
	DwMigration *migration = dw_migration_get(text_argument(fcinfo, 0, "migration"), false);

	dw_migration_check_owner(migration);
	return migration;
}

static void
check_may_commit(FunctionCallInfo fcinfo, const char *procedure)
{
	CallContext *context = castNode(CallContext, fcinfo->context);

	if (context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block or a function", procedure),
				 errhint("CALL it on its own: it commits after each batch.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s must run at isolation level READ COMMITTED", procedure),
				 errhint("SET default_transaction_isolation = 'read committed'.")));
}

/* Above phase backfill there is something to copy where a mapping was altered. */
static void
check_phase(const DwMigration *migration)
{
	if (migration->phase < DW_PHASE_BACKFILL || migration->phase > DW_PHASE_READ_SWITCH)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is in phase \"%s\": there is nothing to copy",
						migration->name, dw_phase_name(migration->phase)),
				 errhint("Rows are copied from phase \"backfill\" on, up to \"read_switch\".")));
}

/*
 * Wait in a transaction that has neither a snapshot nor an xid.  All the time: whatever else sets the latch must not let a
 * batch go that a limit holds back.
 */
static void
pause_for(long delay_ms)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);

	while (delay_ms > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, delay_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		delay_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
	}
}

static void
report_progress(const DwMigration *migration, TimestampTz *last)
{
	TimestampTz now = GetCurrentTimestamp();
	double		percent;

	if (!TimestampDifferenceExceeds(*last, now, DW_NOTICE_MS))
		return;
	*last = now;
	(void) dw_backfill_progress(migration->id, &percent);
	ereport(NOTICE,
			(errmsg("migration \"%s\": backfill at %.1f %%", migration->name, percent)));
}

/* Batches until the last one, a transaction each. */
static void
run_batches(const char *name)
{
	TimestampTz last = GetCurrentTimestamp();

	for (;;)
	{
		DwMigration *migration = dw_migration_get(name, false);
		long		delay_ms;
		DwStep		step;

		check_phase(migration);
		step = dw_backfill_step(migration, &delay_ms);
		report_progress(migration, &last);
		SPI_commit();
		if (step == DW_STEP_DONE || step == DW_STEP_IDLE)
			return;
		CHECK_FOR_INTERRUPTS();
		pause_for(delay_ms);
	}
}

/*
 * What is due in the queue, a transaction each.  Keys that somebody held, or whose next attempt is near, are waited for,
 * but not for long: somebody may hold them for hours.
 */
static void
run_queue(const char *name)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DW_SETTLE_MS);

	for (;;)
	{
		TimestampTz next_due;
		TimestampTz next_look;
		DwStep		step;

		CHECK_FOR_INTERRUPTS();
		/* what it finds goes to the queue */
		step = dw_recheck_step(dw_migration_get(name, false), &next_look);
		SPI_commit();
		if (step == DW_STEP_WORKED)
			continue;
		step = dw_deliver_step(dw_migration_get(name, false), &next_due);
		SPI_commit();
		if (step == DW_STEP_WORKED)
			continue;
		next_due = Min(next_due, next_look);
		if (next_due > deadline)
			return;
		pause_for(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_due) + 1);
	}
}

/* Constraints that can be seen to now, a step a transaction; what rows or others are in the way of waits for a worker. */
static void
run_constraints(const char *name)
{
	TimestampTz next_due;
	DwStep		step;

	do
	{
		CHECK_FOR_INTERRUPTS();
		step = dw_enforce_step(dw_migration_get(name, false), &next_due);
		SPI_commit();
	} while (step == DW_STEP_WORKED);
}

static void
report_end(const char *name)
{
	DwMigration *migration = dw_migration_get(name, false);
	int64		waiting;
	int64		dead;
	double		percent;

	if (!dw_backfill_progress(migration->id, &percent))
		return;
	dw_queue_counts(migration->id, &waiting, &dead);
	ereport(NOTICE,
			(errmsg("migration \"%s\": backfill finished, " INT64_FORMAT " keys queued, " INT64_FORMAT " dead letters",
					migration->name, waiting, dead)));
}

/* CALL dualwrite.backfill(migration) */
Datum
dw_backfill(PG_FUNCTION_ARGS)
{
	char	   *name;

	check_may_commit(fcinfo, "dualwrite.backfill");
	name = MemoryContextStrdup(PortalContext, owned_migration(fcinfo)->name);
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	run_batches(name);
	run_queue(name);
	run_constraints(name);
	dw_rebuild_settle(dw_migration_get(name, false));
	SPI_commit();
	report_end(name);
	SPI_finish();
	PG_RETURN_VOID();
}

/* CALL dualwrite.deliver(migration) */
Datum
dw_deliver(PG_FUNCTION_ARGS)
{
	DwMigration *migration;
	char	   *name;
	int64		waiting;
	int64		dead;

	check_may_commit(fcinfo, "dualwrite.deliver");
	migration = owned_migration(fcinfo);
	if (migration->phase < DW_PHASE_SHADOW || migration->phase > DW_PHASE_CUTOVER)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is in phase \"%s\": nothing is delivered",
						migration->name, dw_phase_name(migration->phase)),
				 errhint("Keys are queued and delivered from shadow to cutover.")));
	name = MemoryContextStrdup(PortalContext, migration->name);
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	run_queue(name);
	migration = dw_migration_get(name, false);
	dw_queue_counts(migration->id, &waiting, &dead);
	ereport(NOTICE,
			(errmsg("migration \"%s\": " INT64_FORMAT " keys queued, " INT64_FORMAT " dead letters", name, waiting, dead)));
	SPI_finish();
	PG_RETURN_VOID();
}

/* dualwrite.retry_indexes(migration) */
Datum
dw_retry_indexes_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(dw_rebuild_request(owned_migration(fcinfo)));
}

/* dualwrite.forget_index(migration, new_table, index_name, reason) */
Datum
dw_forget_index_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration = owned_migration(fcinfo);

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"new_table\" must not be null"),
				 errhint("See dualwrite.indexes for the tables.")));
	dw_rebuild_forget(migration, PG_GETARG_OID(1), text_argument(fcinfo, 2, "index_name"), text_argument(fcinfo, 3, "reason"));
	PG_RETURN_VOID();
}

/* dualwrite.retry(migration, key) */
Datum
dw_retry(PG_FUNCTION_ARGS)
{
	DwMigration *migration = owned_migration(fcinfo);
	int64		retried = dw_queue_retry(migration, PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1));

	dw_worker_wake();
	PG_RETURN_INT64(retried);
}

/* dualwrite.discard_dead(migration, key, reason) */
Datum
dw_discard_dead(PG_FUNCTION_ARGS)
{
	DwMigration *migration = owned_migration(fcinfo);

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"key\" must not be null"),
				 errhint("See dualwrite.dead_letters for the keys.")));
	PG_RETURN_INT64(dw_queue_discard(migration, PG_GETARG_JSONB_P(1), text_argument(fcinfo, 2, "reason")));
}
