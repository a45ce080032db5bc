/*
 * repairall.c: CALL dualwrite.repair_all.
 *
 * What dualwrite.repair does in one transaction, in many: whoever writes a row that is repaired waits for some hundred keys
 * at most, and what was done stays done when it is cancelled.  It yields to the same signals as a comparison.
 *
 * Between two transactions it holds nothing, neither a lock nor a snapshot; whether repair is allowed is looked at in each.
 */
#include "postgres.h"

#include "attempt.h"
#include "drift.h"
#include "owner.h"
#include "reconcile.h"
#include "repair.h"
#include "throttle.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(dw_repair_all_sql);

/* Keys of one transaction, where they have rows of their own; else a bundle. */
#define DW_REPAIR_KEYS 256
/* Time to wait while there is too much load, ms. */
#define DW_THROTTLED_MS 1000
/* Time between two NOTICEs of progress, ms. */
#define DW_NOTICE_MS 3000

/* What is remembered from one transaction to the next, in memory of the procedure. */
typedef struct DwWhole
{
	char	   *name;
	Oid			new_table;		/* InvalidOid: all */
	int			keys_per_second;	/* 0: as fast as may be */
	int32	   *mappings;		/* parents before children */
	int			nmappings;
	int			at;				/* the one under way */
	DwRepair	repair;			/* of that one */
	int64		repaired;		/* of those before */
	char	   *waits_for;		/* a signal, or NULL */
	TimestampTz told_at;
	MemoryContext memory;
	MemoryContext step;			/* what one transaction allocates */
} DwWhole;

static void
check_may_commit(FunctionCallInfo fcinfo)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) || castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("CALL dualwrite.repair_all cannot run inside a transaction block"),
				 errhint("Call it by itself: it commits as it goes. In a transaction, SELECT dualwrite.repair(...).")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("CALL dualwrite.repair_all needs isolation level READ COMMITTED"),
				 errhint("Run SET default_transaction_isolation = 'read committed' and call it again.")));
}

/* The migration, locked: the truth must not change while a transaction repairs. */
static DwMigration *
look_up(const DwWhole *whole)
{
	DwMigration *migration = dw_migration_get(whole->name, true);

	dw_migration_check_owner(migration);
	dw_repair_check_allowed(migration);
	return migration;
}

static void
read_arguments(FunctionCallInfo fcinfo, DwWhole *whole)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"migration\" of dualwrite.repair_all must not be null"),
				 errhint("See dualwrite.status for the migrations of this database.")));
	whole->name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	whole->new_table = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	whole->keys_per_second = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	if (!PG_ARGISNULL(2) && whole->keys_per_second <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_keys_per_second must be positive"),
				 errhint("NULL sets no limit.")));
}

/* The mappings that the call is about.  ERROR 22023: none is into that table. */
static void
list_mappings(DwWhole *whole, const DwMigration *migration)
{
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
	{
		dw_heaps_of(((DwMapping *) lfirst(lc))->old_table, AccessShareLock);
		dw_heaps_of(((DwMapping *) lfirst(lc))->new_table, AccessShareLock);
	}
	foreach(lc, dw_compiled_of(migration->id))
	{
		DwCompiled *compiled = lfirst(lc);

		if (OidIsValid(whole->new_table) && compiled->mapping->new_table != whole->new_table)
			continue;
		if (whole->mappings == NULL)
			whole->mappings = MemoryContextAlloc(whole->memory, sizeof(int32) * list_length(dw_compiled_of(migration->id)));
		whole->mappings[whole->nmappings++] = compiled->mapping_id;
	}
	if (whole->nmappings == 0 && OidIsValid(whole->new_table))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("migration \"%s\" has no mapping into table %s", migration->name,
						DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(whole->new_table)))),
				 errhint("See dualwrite.mappings for its tables.")));
}

/* Too much load, or somebody waits for the tables: which signal says so, or NULL. */
static const char *
held_back(const DwMigration *migration, const DwMapping *mapping)
{
	List	   *tripped = dw_throttle_read_signals(migration->id,
												   list_concat(dw_heaps_of(mapping->old_table, NoLock),
															   dw_heaps_of(mapping->new_table, NoLock)),
												   dw_relation_owner(mapping->old_table));

	return tripped == NIL ? NULL : linitial(tripped);
}

/* Some keys, or on to the next mapping.  Milliseconds to rest after this transaction. */
static long
step(DwWhole *whole)
{
	DwMigration *migration = look_up(whole);
	DwMapping  *mapping = dw_mapping_by_id(whole->mappings[whole->at]);
	int64		tried = whole->repair.tried;
	int			limit = whole->keys_per_second > 0 ? Min(DW_REPAIR_KEYS, whole->keys_per_second) : DW_REPAIR_KEYS;
	const char *signal = mapping ? held_back(migration, mapping) : NULL;
	instr_time	took;
	instr_time	start;

	whole->waits_for = signal ? MemoryContextStrdup(whole->memory, signal) : NULL;
	if (signal != NULL)
		return DW_THROTTLED_MS;
	INSTR_TIME_SET_CURRENT(start);
	whole->repair.migration = migration;
	whole->repair.mapping_id = whole->mappings[whole->at];
	whole->repair.skip_level = DEBUG1;
	whole->repair.memory = whole->memory;
	if (mapping != NULL)
	{
		dw_drift_lock(mapping->id, true);
		dw_attempt_settings();
	}
	if (mapping == NULL || !dw_repair_next(&whole->repair, limit))
	{
		whole->at++;
		whole->repaired += whole->repair.repaired;
		memset(&whole->repair, 0, sizeof(whole->repair));
		return 0;
	}
	if (whole->keys_per_second == 0)
		return 0;
	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, start);
	return (long) Max(0, (whole->repair.tried - tried) * 1000.0 / whole->keys_per_second - INSTR_TIME_GET_MILLISEC(took));
}

static void
report_progress(DwWhole *whole)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(whole->told_at, now, DW_NOTICE_MS))
		return;
	whole->told_at = now;
	ereport(NOTICE,
			(errmsg("migration \"%s\": " INT64_FORMAT " keys repaired%s%s", whole->name,
					whole->repaired + whole->repair.repaired, whole->waits_for ? "; waits: " : "",
					whole->waits_for ? whole->waits_for : "")));
}

/* End this transaction, hold nothing for so long, and begin the next one. */
static void
rest(DwWhole *whole, long ms)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);

	PopActiveSnapshot();
	SPI_commit();
	MemoryContextReset(whole->step);
	while (ms > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
	}
	CHECK_FOR_INTERRUPTS();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* CALL dualwrite.repair_all(migration, new_table, max_keys_per_second) */
Datum
dw_repair_all_sql(PG_FUNCTION_ARGS)
{
	DwWhole    *whole;
	DwMigration *migration;

	check_may_commit(fcinfo);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	whole = palloc0(sizeof(DwWhole));
	whole->memory = CurrentMemoryContext;
	whole->step = AllocSetContextCreate(whole->memory, "dualwrite repair step", ALLOCSET_DEFAULT_SIZES);
	whole->told_at = GetCurrentTimestamp();
	read_arguments(fcinfo, whole);
	PushActiveSnapshot(GetTransactionSnapshot());
	list_mappings(whole, look_up(whole));
	while (whole->at < whole->nmappings)
	{
		long		ms;

		MemoryContextSwitchTo(whole->step);
		ms = step(whole);
		report_progress(whole);
		MemoryContextSwitchTo(whole->memory);
		rest(whole, ms);
	}
	migration = look_up(whole);
	dw_repair_record(migration, NULL, whole->repaired);
	ereport(NOTICE,
			(errmsg("migration \"%s\": " INT64_FORMAT " keys repaired, " INT64_FORMAT " still open", whole->name,
					whole->repaired, Max(dw_drift_open(migration->id), 0))));
	PopActiveSnapshot();
	SPI_finish();
	PG_RETURN_VOID();
}
