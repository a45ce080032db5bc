/*
 * rebuild.c: indexes that were taken away before a copy are built again.
 *
 * One after the other, by CREATE INDEX CONCURRENTLY, which keeps no writer waiting.  It commits as it goes, so it runs outside of
 * any transaction of ours, as the table's owner, and may end half-way: by an error, a crash, or because somebody wants its
 * lock.  What it leaves behind is an index that is not valid; the next attempt drops it and begins anew.  Whether an index is
 * there is always read from the catalog and never from what we remember to have done: a crash may come between.  The row
 * that describes it is closed in the end, together with its comment and its statistics targets.
 *
 * A table that has all of its indexes again is analyzed.
 *
 * It must not touch an index that it does not know to be the one that was taken away.
 */
#include "postgres.h"

#include "analyze.h"
#include "backfill.h"
#include "indexes.h"
#include "owner.h"
#include "rebuild.h"
#include "settings.h"
#include "slots.h"
#include "sql.h"
#include "throttle.h"
#include "worker.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/tablespace.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* A build that failed is tried again after a minute, doubled each time, up to an hour. */
#define FIRST_PAUSE_S 60
#define MAX_PAUSE_S 3600
/* Somebody has the table or the migration locked, or a signal asks us to wait, ms. */
#define LOCK_PAUSE_MS 1000
/* While an index is built, look this often whether somebody wants it broken off, ms. */
#define LOOK_MS 200

/* What is there under the name of an index. */
typedef enum Found
{
	FOUND_NOTHING,
	FOUND_INDEX,				/* the index */
	FOUND_LEFTOVER,				/* of a build that did not come to its end */
	FOUND_OTHER_INDEX,			/* of the same table: somebody's own */
	FOUND_STRANGER				/* something else, or an index that is neither */
} Found;

/* An index that is owed. */
typedef struct Owed
{
	int32		id;
	int32		migration_id;
	char	   *migration;
	Oid			table;
	char	   *table_name;
	char	   *name;
	char	   *qualified;
	char	   *body;
	char	   *tablespace;		/* NULL: the database's */
	char	   *comment;
	int			nstatistics;
	int32	   *statistics;
	int			failures;
	TimestampTz next_attempt;
	Found		found;
} Owed;

/* What the last step of this process has claimed; id 0: nothing. */
static struct
{
	int32		id;
	int32		migration_id;
}			claimed;

/*
 * Indexes that are owed, the one that was tried last at the end, with what is there under their names.  The definition is compared without the names of table and
 * index, which may have been altered.
 */
#define OWED \
	"SELECT a.id, a.migration_id, m.name, t.oid, format('%I.%I', n.nspname, t.relname), a.index_name, format('%I.%I', n.nspname, a.index_name)," \
	" a.body, a.tablespace, a.comment, a.statistics, a.failures, a.next_attempt_at," \
	" CASE WHEN c.oid IS NULL THEN 0" \
	" WHEN i.indrelid = t.oid AND d.body = a.body AND i.indisvalid THEN 1" \
	" WHEN i.indrelid = t.oid AND d.body = a.body THEN 2" \
	" WHEN i.indrelid = t.oid AND i.indisvalid THEN 3 ELSE 4 END" \
	" FROM _dualwrite.index_away a JOIN _dualwrite.migration m ON m.id = a.migration_id" \
	" JOIN pg_class t ON t.oid = a.new_table JOIN pg_namespace n ON n.oid = t.relnamespace" \
	" LEFT JOIN pg_class c ON c.relnamespace = t.relnamespace AND c.relname = a.index_name" \
	" LEFT JOIN pg_index i ON i.indexrelid = c.oid" \
	" LEFT JOIN LATERAL substr(pg_get_indexdef(i.indexrelid)," \
	" length(format('CREATE INDEX %I ON %s ', a.index_name, t.oid::regclass)) + 1) AS d (body) ON true" \
	" WHERE a.migration_id = $1 AND a.built_at IS NULL AND ($2 = 0 OR a.id = $2) ORDER BY a.started_at NULLS FIRST, a.id"

static Owed *
read_owed(DwSql *sql, uint64 row)
{
	Owed	   *owed = MemoryContextAllocZero(sql->caller, sizeof(Owed));
	MemoryContext old;
	ArrayType  *statistics;
	bool		isnull;

	owed->id = DatumGetInt32(dw_sql_value(row, 1, &isnull));
	owed->migration_id = DatumGetInt32(dw_sql_value(row, 2, &isnull));
	owed->migration = dw_sql_cstring(sql, row, 3);
	owed->table = DatumGetObjectId(dw_sql_value(row, 4, &isnull));
	owed->table_name = dw_sql_cstring(sql, row, 5);
	owed->name = dw_sql_cstring(sql, row, 6);
	owed->qualified = dw_sql_cstring(sql, row, 7);
	owed->body = dw_sql_cstring(sql, row, 8);
	owed->tablespace = dw_sql_cstring(sql, row, 9);
	owed->comment = dw_sql_cstring(sql, row, 10);
	old = MemoryContextSwitchTo(sql->caller);
	statistics = DatumGetArrayTypePCopy(dw_sql_value(row, 11, &isnull));
	MemoryContextSwitchTo(old);
	owed->nstatistics = ArrayGetNItems(ARR_NDIM(statistics), ARR_DIMS(statistics));
	owed->statistics = (int32 *) ARR_DATA_PTR(statistics);
	owed->failures = DatumGetInt32(dw_sql_value(row, 12, &isnull));
	owed->next_attempt = DatumGetTimestampTz(dw_sql_value(row, 13, &isnull));
	owed->found = (Found) DatumGetInt32(dw_sql_value(row, 14, &isnull));
	return owed;
}

/* All that is owed of a migration, or the one with this id; list of Owed. */
static List *
owed_of(int32 migration_id, int32 id)
{
	List	   *list = NIL;
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql(OWED, 2, (DwArg[]) {DW_INT4(migration_id), DW_INT4(id)});
	for (uint64 i = 0; i < count; i++)
	{
		Owed	   *owed = read_owed(&sql, i);
		MemoryContext old = MemoryContextSwitchTo(sql.caller);

		list = lappend(list, owed);
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return list;
}

static char *
create_statement(const Owed *owed)
{
	return psprintf("CREATE INDEX CONCURRENTLY %s ON %s %s", quote_identifier(owed->name), owed->table_name, owed->body);
}

static void
record_event(const Owed *owed, const char *event, const char *reason)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"table\": ");
	escape_json(&json, owed->table_name);
	appendStringInfoString(&json, ", \"index\": ");
	escape_json(&json, owed->name);
	appendStringInfoString(&json, ", \"definition\": ");
	escape_json(&json, create_statement(owed));
	appendStringInfoChar(&json, '}');
	dw_event_record(owed->migration, event, -1, -1, NIL, reason, json.data);
}

/* The index is there again (message NULL), or nobody will build it any more, and message says why. */
static void
close_row(const Owed *owed, const char *message)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.index_away SET built_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp()),"
				  " failures = 0, message = $2 WHERE id = $1",
				  2, (DwArg[]) {DW_INT4(owed->id), DW_TEXT(message)});
	dw_sql_end(&sql);
}

static void
execute(const char *command)
{
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command);
}

/* What CREATE INDEX does not say. */
static void
dress(const Owed *owed)
{
	DwOwnerScope scope;

	dw_owner_enter(&scope, dw_relation_owner(owed->table), true);
	SPI_connect();
	for (int i = 0; i < owed->nstatistics; i++)
		if (owed->statistics[i] >= 0)
			execute(psprintf("ALTER INDEX %s ALTER COLUMN %d SET STATISTICS %d", owed->qualified, i + 1, owed->statistics[i]));
	if (owed->comment != NULL)
		execute(psprintf("COMMENT ON INDEX %s IS %s", owed->qualified, quote_literal_cstr(owed->comment)));
	SPI_finish();
	dw_owner_leave(&scope);
}

/* What is there decides.  true: nothing more is owed. */
static bool
settle(const Owed *owed)
{
	if (owed->found == FOUND_INDEX)
	{
		dress(owed);
		close_row(owed, NULL);
		record_event(owed, "index_built", NULL);
		ereport(LOG,
				(errmsg("migration \"%s\" has built index %s again", owed->migration, owed->qualified)));
		return true;
	}
	if (owed->found == FOUND_OTHER_INDEX)
	{
		const char *reason = "its name has another index of the table by now, which is taken for what is wanted";

		close_row(owed, reason);
		record_event(owed, "index_given_up", reason);
		ereport(LOG,
				(errmsg("migration \"%s\" does not build index %s again: there is another one of that name on %s",
						owed->migration, owed->qualified, owed->table_name),
				 errdetail("%s", create_statement(owed))));
		return true;
	}
	return false;
}

/* The next table that has its indexes and not been analyzed since; InvalidOid: none. */
static Oid
table_to_analyze(int32 migration_id, char **name)
{
	Oid			table = InvalidOid;
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT a.new_table::oid, a.new_table::regclass::text FROM _dualwrite.index_away a JOIN pg_class c ON c.oid = a.new_table"
			   " WHERE a.migration_id = $1 GROUP BY a.new_table HAVING bool_and(a.built_at IS NOT NULL) AND bool_or(a.analyzed_at IS NULL) LIMIT 1",
			   1, (DwArg[]) {DW_INT4(migration_id)}) > 0)
	{
		table = DatumGetObjectId(dw_sql_value(0, 1, &isnull));
		*name = dw_sql_cstring(&sql, 0, 2);
	}
	dw_sql_end(&sql);
	return table;
}

static void
note_analyzed(int32 migration_id, Oid table)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.index_away SET analyzed_at = clock_timestamp() WHERE migration_id = $1 AND new_table = $2",
				  2, (DwArg[]) {DW_INT4(migration_id), DW_OID(table)});
	dw_sql_end(&sql);
}

/* ANALYZE of one table; false: none is owed. */
static bool
analyze_next(int32 migration_id)
{
	char	   *name = NULL;
	Oid			table = table_to_analyze(migration_id, &name);

	if (!OidIsValid(table))
		return false;
	dw_analyze(table, name);
	note_analyzed(migration_id, table);
	return true;
}

/* Before the copy is over there is nothing to be built, unless the setting has been taken back. */
static bool
must_wait_for_copy(const DwMigration *migration)
{
	double		percent;

	return migration->phase == DW_PHASE_BACKFILL && !dw_backfill_progress(migration->id, &percent) &&
		strcmp(dw_setting_string(migration->id, "backfill_indexes"), "afterwards") == 0;
}

/* The first that is due; else when the next will be. */
static Owed *
next_of(List *list, TimestampTz *next_due)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, list)
	{
		Owed	   *owed = lfirst(lc);

		if (owed->next_attempt <= now)
			return owed;
		*next_due = Min(*next_due, owed->next_attempt);
	}
	return NULL;
}

/*
 * A change of phase has the migration's row, and will want our table; one that came between our looks at the migration and at
 * what is owed has made it wait for a copy that we know nothing of.  Whoever has the table locked may be building an index
 * himself: this very one, in another process of ours.
 */
static bool
may_begin(const DwMigration *migration, const Owed *owed)
{
	DwSql		sql;
	bool		available;

	dw_sql_begin(&sql);
	available = dw_sql("SELECT FROM _dualwrite.migration WHERE id = $1 AND epoch = $2 FOR KEY SHARE SKIP LOCKED",
					   2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)}) > 0;
	dw_sql_end(&sql);
	return available && ConditionalLockRelationOid(owed->table, ShareUpdateExclusiveLock);
}

static void
claim(const Owed *owed)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.index_away SET started_at = clock_timestamp(), pid = $2 WHERE id = $1",
				  2, (DwArg[]) {DW_INT4(owed->id), DW_INT4(MyProcPid)});
	dw_sql_end(&sql);
	claimed.id = owed->id;
	claimed.migration_id = owed->migration_id;
}

DwStep
dw_rebuild_step(const DwMigration *migration, TimestampTz *next_due)
{
	List	   *list;
	Owed	   *owed;

	claimed.id = 0;
	*next_due = DT_NOEND;
	if (must_wait_for_copy(migration))
		return DW_STEP_IDLE;
	list = owed_of(migration->id, 0);
	owed = next_of(list, next_due);
	if (owed == NULL)
		return analyze_next(migration->id) ? DW_STEP_WORKED : DW_STEP_IDLE;
	if (dw_throttle_signals(migration->id, list_make1_oid(owed->table), dw_relation_owner(owed->table)) != NIL || !may_begin(migration, owed))
	{
		*next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCK_PAUSE_MS);
		return DW_STEP_WAIT;
	}
	if (!settle(owed))
		claim(owed);
	*next_due = 0;
	return DW_STEP_WORKED;
}

int
dw_rebuild_openings(const DwMigration *migration)
{
	TimestampTz next_due = DT_NOEND;
	char	   *name;

	if (must_wait_for_copy(migration))
		return 0;
	return next_of(owed_of(migration->id, 0), &next_due) != NULL || OidIsValid(table_to_analyze(migration->id, &name)) ? 1 : 0;
}

/* Handler of a timer: nobody else asks us to stop while the server's own code builds. */
static void
look_whether_to_stop(void)
{
	if (dw_slot_stopped())
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
}

/* Settings and signals of a build, on and off.  Outside of transactions: it begins and ends several. */
static void
set_building(bool building)
{
	static TimeoutId timer = MAX_TIMEOUTS;
	static char lock_timeout[32];

	if (timer == MAX_TIMEOUTS)
		timer = RegisterTimeout(USER_TIMEOUT, look_whether_to_stop);
	if (building)
	{
		/* it waits for every transaction that is older, without a lock that would keep a writer waiting */
		strlcpy(lock_timeout, GetConfigOption("lock_timeout", false, false), sizeof(lock_timeout));
		SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
		dw_slot_build(dw_shared(), true);
		enable_timeout_every(timer, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_MS), LOOK_MS);
		return;
	}
	disable_timeout(timer, false);
	SetConfigOption("lock_timeout", lock_timeout, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * A statement that commits as it goes, as a client would send it.  The server starts transactions in between, which must find no
 * security context set: the owner is just the current user, and what is his code the server itself restricts.
 */
static void
run_statement(const char *text, Node *statement, Oid owner)
{
	MemoryContext context = CurrentMemoryContext;
	PlannedStmt *planned = makeNode(PlannedStmt);
	Oid			saved_user;
	int			saved_context;

	planned->commandType = CMD_UTILITY;
	planned->canSetTag = true;
	planned->utilityStmt = statement;
	pgstat_report_activity(STATE_RUNNING, text);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	GetUserIdAndSecContext(&saved_user, &saved_context);
	SetUserIdAndSecContext(owner, saved_context);
	ProcessUtility(planned, text, false, PROCESS_UTILITY_TOPLEVEL, NULL, NULL, None_Receiver, NULL);
	SetUserIdAndSecContext(saved_user, saved_context);
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

static Node *
parse(const char *text)
{
	return linitial_node(RawStmt, raw_parser(text, RAW_PARSE_DEFAULT))->stmt;
}

/* In a transaction: the index as it is owed now; NULL: nothing is. */
static Owed *
look_again(int32 migration_id, int32 id)
{
	List	   *list = owed_of(migration_id, id);

	return list == NIL ? NULL : linitial(list);
}

/* A tablespace that is no more must not be the reason that there is no index. */
static char *
tablespace_for(const Owed *owed)
{
	if (owed->tablespace != NULL && OidIsValid(get_tablespace_oid(owed->tablespace, true)))
		return owed->tablespace;
	return get_tablespace_name(MyDatabaseTableSpace);
}

/* A build, from what is found at its beginning to what is there at its end.  Each part commits. */
static void
build(int32 migration_id, int32 id)
{
	MemoryContext context = CurrentMemoryContext;
	Owed	   *owed;
	IndexStmt  *create = NULL;
	char	   *text = NULL;
	Oid			owner = InvalidOid;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	owed = look_again(migration_id, id);
	if (owed != NULL && owed->found == FOUND_STRANGER)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("cannot build index %s of %s again: something else has its name", owed->qualified, owed->table_name),
				 errhint("Rename or drop that, or give the index up: SELECT dualwrite.forget_index(%s, %s, %s, 'reason').",
						 quote_literal_cstr(owed->migration), quote_literal_cstr(owed->table_name), quote_literal_cstr(owed->name))));
	if (owed != NULL)
	{
		text = create_statement(owed);
		create = castNode(IndexStmt, parse(text));
		create->tableSpace = tablespace_for(owed);
		owner = dw_relation_owner(owed->table);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (owed == NULL || (owed->found != FOUND_NOTHING && owed->found != FOUND_LEFTOVER))
		return;
	if (owed->found == FOUND_LEFTOVER)
	{
		char	   *drop = psprintf("DROP INDEX CONCURRENTLY %s", owed->qualified);

		run_statement(drop, parse(drop), owner);
	}
	run_statement(text, (Node *) create, owner);
}

/* How long to leave it alone after so many failures in a row. */
static int64
pause_ms(int failures)
{
	int64		seconds = FIRST_PAUSE_S;

	for (int i = 1; i < failures && seconds < MAX_PAUSE_S; i++)
		seconds *= 2;
	return Min(seconds, MAX_PAUSE_S) * 1000;
}

static void
note_failure(int32 migration_id, int32 id, const char *message)
{
	Owed	   *owed;
	DwSql		sql;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	owed = look_again(migration_id, id);
	if (owed != NULL)
	{
		dw_sql_begin(&sql);
		(void) dw_sql("UPDATE _dualwrite.index_away SET failures = failures + 1, message = $2, next_attempt_at = $3 WHERE id = $1",
					  3, (DwArg[]) {DW_INT4(id), DW_TEXT(message),
					  DW_TIME(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause_ms(owed->failures + 1)))});
		dw_sql_end(&sql);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* The build is over, well or not: what it may have left set. */
static bool
end_build(Oid user)
{
	bool		stopped;

	HOLD_INTERRUPTS();
	set_building(false);
	stopped = dw_slot_stopped();
	dw_slot_build(dw_shared(), false);
	if (stopped)
		QueryCancelPending = false;
	SetUserIdAndSecContext(user, 0);
	RESUME_INTERRUPTS();
	return stopped;
}

/* Returns the error of a build that failed. */
static ErrorData *
try_build(int32 migration_id, int32 id)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		build(migration_id, id);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		HOLD_INTERRUPTS();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return error;
}

DwStep
dw_rebuild_outside(void)
{
	MemoryContext context = CurrentMemoryContext;
	int32		id = claimed.id;
	Oid			user = GetUserId();
	ErrorData  *error;

	claimed.id = 0;
	if (id == 0)
		return DW_STEP_WORKED;
	set_building(true);
	error = try_build(claimed.migration_id, id);
	if (end_build(user) && error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		return DW_STEP_WAIT;
	if (error == NULL)
		return DW_STEP_WORKED;
	note_failure(claimed.migration_id, id, error->message);
	MemoryContextSwitchTo(context);
	ReThrowError(error);
}

void
dw_rebuild_settle(const DwMigration *migration)
{
	ListCell   *lc;

	if (must_wait_for_copy(migration))
		return;
	foreach(lc, owed_of(migration->id, 0))
	{
		Owed	   *owed = lfirst(lc);

		if (settle(owed))
			continue;
		ereport(NOTICE,
				(errmsg("index %s of %s was taken away for the copy and is not built again yet", quote_identifier(owed->name), owed->table_name),
				 dw_worker_running(migration->id) && !migration->paused ? errhint("A worker builds it; see dualwrite.indexes.") :
				 errhint("Run: %s; then call dualwrite.backfill again.", create_statement(owed))));
	}
	while (analyze_next(migration->id))
		;
}

int64
dw_rebuild_request(const DwMigration *migration)
{
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql("UPDATE _dualwrite.index_away SET next_attempt_at = clock_timestamp() WHERE migration_id = $1 AND built_at IS NULL",
				   1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	dw_worker_wake();
	return (int64) count;
}

void
dw_rebuild_forget(const DwMigration *migration, Oid table, const char *index, const char *reason)
{
	ListCell   *lc;

	foreach(lc, owed_of(migration->id, 0))
	{
		Owed	   *owed = lfirst(lc);

		if (owed->table != table || strcmp(owed->name, index) != 0)
			continue;
		dw_worker_stop_builds(migration->id);
		close_row(owed, reason);
		record_event(owed, "index_given_up", reason);
		dw_worker_wake();
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("migration \"%s\" has no index \"%s\" of that table to build again", migration->name, index),
			 errhint("See dualwrite.indexes.")));
}
