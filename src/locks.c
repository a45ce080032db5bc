/*
 * locks.c: strong locks, politely.
 *
 * A phase change waits for everybody who has written its tables, and whoever comes later queues behind it.  So it
 * waits for a moment only, lets go of everything, pauses and tries again: nobody queues for longer than one budget.
 *
 * Deadlocks.  An application may hold new and want old (a reverse mirror) while we hold old and want new.  Its deadlock
 * check runs deadlock_timeout after it began to wait; all waits of one attempt together are shorter than half of that,
 * and what was locked goes back when the attempt fails (a subtransaction sees to it).  Our own check runs early in
 * the wait: in a deadlock we are the victim and try again, and an autovacuum in the way is asked to leave, by the lock
 * manager itself, as it does for any waiting DDL.
 *
 * Nothing here may take locks outside the subtransaction of an attempt, or end anybody's work.
 */
#include "postgres.h"

#include <math.h>

#include "locks.h"
#include "settings.h"
#include "sql.h"
#include "tables.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Longest pause between attempts, in budgets and in ms. */
#define MAX_PAUSE_BUDGETS	4
#define MAX_PAUSE_MS		2000

/* Marks our locks among those on extensions; a sub-object number that no extension has. */
#define WRITER_SUBID		0xDA7A

/* What an attempt ended at. */
typedef struct Obstacle
{
	Oid			relid;
	LOCKMODE	mode;
	char	   *name;
	char	   *blockers;		/* for DETAIL; NULL: nobody was seen */
	bool		prepared;		/* one of them is a prepared transaction */
} Obstacle;

static List *
add_wish(List *wishes, Oid relid, LOCKMODE mode, LOCKMODE root_mode)
{
	DwLockWish *wish;
	ListCell   *lc;

	foreach(lc, wishes)
	{
		wish = lfirst(lc);
		if (wish->relid == relid)
		{
			wish->mode = Max(wish->mode, mode);
			wish->root_mode = Max(wish->root_mode, root_mode);
			return wishes;
		}
	}
	wish = palloc(sizeof(DwLockWish));
	wish->relid = relid;
	wish->mode = mode;
	wish->root_mode = root_mode;
	return lappend(wishes, wish);
}

List *
dw_lock_wish(List *wishes, Oid relid, LOCKMODE mode)
{
	return mode == NoLock ? wishes : add_wish(wishes, relid, mode, mode);
}

List *
dw_lock_wish_alone(List *wishes, Oid relid, LOCKMODE mode)
{
	return mode == NoLock ? wishes : add_wish(wishes, relid, NoLock, mode);
}

int
dw_lock_budget(int32 migration_id)
{
	int64		wanted = dw_setting_int(migration_id, "lock_timeout_ms");

	return (int) Max(1, Min(wanted, DeadlockTimeout / 2 - 1));
}

/* Set a setting to a number of ms until the GUC nest level ends, whatever the role may set itself. */
static void
pin_timeout(const char *name, long ms)
{
	char		value[32];

	snprintf(value, sizeof(value), "%ld", ms);
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* One relation.  false: it is gone. */
static bool
lock_relation(Oid relid, LOCKMODE mode, TimestampTz deadline, Obstacle *obstacle)
{
	obstacle->relid = relid;
	obstacle->mode = mode;
	if (!ConditionalLockRelationOid(relid, mode))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		pin_timeout("lock_timeout", Max(left, 1));
		LockRelationOid(relid, mode);
	}
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return true;
	UnlockRelationOid(relid, mode);
	return false;
}

/*
 * A relation and its partitions.  The lock on a parent keeps others from attaching any, so the list is complete once
 * its last member is locked.
 */
static void
lock_tree(const DwLockWish *wish, TimestampTz deadline, Obstacle *obstacle)
{
	List	   *todo = list_make1_oid(wish->relid);

	while (todo != NIL)
	{
		Oid			relid = linitial_oid(todo);

		todo = list_delete_first(todo);
		if (lock_relation(relid, relid == wish->relid ? wish->root_mode : wish->mode, deadline, obstacle) &&
			wish->mode != NoLock && get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
			todo = list_concat(todo, find_inheritance_children(relid, NoLock));
	}
}

static void
lock_all(List *wishes, int budget_ms, Obstacle *obstacle)
{
	int			nest = NewGUCNestLevel();
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), budget_ms);
	ListCell   *lc;

	pin_timeout("deadlock_timeout", Max(budget_ms / 4, 1));
	foreach(lc, wishes)
		lock_tree(lfirst(lc), deadline, obstacle);
	AtEOXact_GUC(true, nest);
}

/* One attempt.  false: somebody is in the way (obstacle says where), and nothing is held. */
static bool
try_all(List *wishes, int budget_ms, Obstacle *obstacle)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool locked = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		lock_all(wishes, budget_ms, obstacle);
		ReleaseCurrentSubTransaction();
		locked = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return locked;
}

/* text[] of the modes that keep others from getting this one. */
static DwArg
conflicting_modes(LOCKMODE mode)
{
	Datum		names[MaxLockMode];
	int			count = 0;

	for (LOCKMODE other = AccessShareLock; other <= AccessExclusiveLock; other++)
		if (DoLockModesConflict(mode, other))
			names[count++] = CStringGetTextDatum(GetLockmodeName(DEFAULT_LOCKMETHOD, other));
	return DW_DATUM(TEXTARRAYOID,
					PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT)), false);
}

/* A prepared transaction has no process; what it is called shows by the lock that it holds on its own id. */
#define PREPARED \
	" LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid' AND x.granted" \
	" AND x.virtualtransaction = l.virtualtransaction" \
	" LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid"

#define BLOCKERS \
	"SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.state, a.backend_type, 'unknown'), p.gid, l.mode," \
	" date_trunc('second', clock_timestamp() - coalesce(a.xact_start, p.prepared))::text" \
	" FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid" PREPARED \
	" WHERE l.locktype = 'relation' AND l.relation = $1" \
	" AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())" \
	" AND l.granted AND l.mode = ANY ($2) AND l.pid IS DISTINCT FROM pg_backend_pid()" \
	" ORDER BY coalesce(a.xact_start, p.prepared) LIMIT 5"

static void
describe_blocker(StringInfo text, DwSql *sql, uint64 row, bool *prepared)
{
	char	   *gid = dw_sql_cstring(sql, row, 4);
	char	   *age = dw_sql_cstring(sql, row, 6);

	if (text->len > 0)
		appendStringInfoChar(text, '\n');
	if (gid != NULL)
	{
		appendStringInfo(text, "Prepared transaction \"%s\" holds %s; it is %s old.",
						 gid, dw_sql_cstring(sql, row, 5), age);
		*prepared = true;
		return;
	}
	appendStringInfo(text, "Process %s (application \"%s\", %s) holds %s",
					 dw_sql_cstring(sql, row, 1), dw_sql_cstring(sql, row, 2), dw_sql_cstring(sql, row, 3),
					 dw_sql_cstring(sql, row, 5));
	if (age != NULL)
		appendStringInfo(text, "; its transaction is %s old", age);
	appendStringInfoChar(text, '.');
}

/* Note who is in the way; whom an earlier attempt met stays when nobody is to be seen now. */
static void
identify(Obstacle *obstacle)
{
	StringInfoData text;
	DwSql		sql;
	uint64		count;
	bool		prepared = false;

	initStringInfo(&text);
	if (get_rel_name(obstacle->relid) != NULL)
		obstacle->name = dw_table_name(obstacle->relid);
	dw_sql_begin(&sql);
	count = dw_sql(BLOCKERS, 2, (DwArg[]) {DW_OID(obstacle->relid), conflicting_modes(obstacle->mode)});
	for (uint64 i = 0; i < count; i++)
		describe_blocker(&text, &sql, i, &prepared);
	dw_sql_end(&sql);
	if (count == 0)
		return;
	obstacle->blockers = text.data;
	obstacle->prepared = prepared;
}

/* Between attempts: longer from one to the next, and by chance, so that two callers do not keep meeting. */
static void
pause_before_next(int attempt, int budget_ms)
{
	double		longest = Min(MAX_PAUSE_MS, MAX_PAUSE_BUDGETS * budget_ms);
	double		ms = Min(longest, ldexp(budget_ms / 2.0, attempt));

	ms *= 0.75 + 0.5 * pg_prng_double(&pg_global_prng_state);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long) Max(ms, 1), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
give_up(const Obstacle *obstacle, int budget_ms, int attempts)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not lock table %s within %d ms, in %d attempts",
					obstacle->name ? obstacle->name : "that has been dropped", budget_ms, attempts),
			 obstacle->blockers ? errdetail_internal("%s", obstacle->blockers) :
			 errdetail("Whoever held it has let go since."),
			 obstacle->prepared ?
			 errhint("Nothing was changed. COMMIT PREPARED or ROLLBACK PREPARED that transaction, then call again.") :
			 errhint("Nothing was changed. Wait until that transaction has ended, or end it, then call again.")));
}

void
dw_lock_wishes(List *wishes, int budget_ms, int attempts)
{
	Obstacle	obstacle = {0};

	for (int attempt = 0; attempt < attempts; attempt++)
	{
		if (try_all(wishes, budget_ms, &obstacle))
			return;
		identify(&obstacle);
		if (attempt + 1 < attempts)
			pause_before_next(attempt, budget_ms);
	}
	give_up(&obstacle, budget_ms, attempts);
}

bool
dw_lock_attempt(List *wishes, int budget_ms)
{
	Obstacle	obstacle = {0};

	return try_all(wishes, budget_ms, &obstacle);
}

void
dw_lock_politely(List *relids, LOCKMODE mode, int budget_ms, int attempts)
{
	List	   *wishes = NIL;
	ListCell   *lc;

	foreach(lc, relids)
		wishes = dw_lock_wish(wishes, lfirst_oid(lc), mode);
	dw_lock_wishes(wishes, budget_ms, attempts);
}

void
dw_note_new_side_writer(int32 migration_id)
{
	LOCKTAG		tag;

	/* conflicts with nothing: it is there to be seen in pg_locks */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, (Oid) migration_id, WRITER_SUBID);
	(void) LockAcquire(&tag, AccessShareLock, false, false);
}

/* A table lock would not tell: the mirror of a writer of the old side holds it, too. */
#define WRITERS \
	"SELECT DISTINCT coalesce(a.usename, p.owner, 'unknown'), l.pid, coalesce(a.application_name, ''), p.gid" \
	" FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid" PREPARED \
	" WHERE l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())" \
	" AND l.locktype = 'object' AND l.classid = 'pg_extension'::regclass AND l.objid = $1 AND l.objsubid::int & 65535 = $2" \
	" AND l.pid IS DISTINCT FROM pg_backend_pid() ORDER BY 1, 2 LIMIT 10"

char *
dw_new_side_writers(int32 migration_id)
{
	StringInfoData text;
	DwSql		sql;
	uint64		count;

	initStringInfo(&text);
	dw_sql_begin(&sql);
	count = dw_sql(WRITERS, 2, (DwArg[]) {DW_OID((Oid) migration_id), DW_INT4(WRITER_SUBID)});
	for (uint64 i = 0; i < count; i++)
	{
		char	   *gid = dw_sql_cstring(&sql, i, 4);

		appendStringInfo(&text, "%sRole %s", i > 0 ? "\n" : "", dw_sql_cstring(&sql, i, 1));
		if (gid != NULL)
			appendStringInfo(&text, ", prepared transaction \"%s\".", gid);
		else
			appendStringInfo(&text, ", process %s (application \"%s\").",
							 dw_sql_cstring(&sql, i, 2), dw_sql_cstring(&sql, i, 3));
	}
	dw_sql_end(&sql);
	return count > 0 ? text.data : NULL;
}
