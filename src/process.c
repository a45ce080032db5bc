/*
 * process.c: the process that does a migration's background work.
 *
 * One process a migration, from shadow to cutover, and the helpers that it asks for.  Between steps of work it waits outside of any transaction: a worker
 * that has nothing to do holds neither a snapshot nor a lock.  It must not be in the way of DROP DATABASE: while it
 * waits it looks every other second whether somebody holds the lock that this takes, and leaves.
 */
#include "postgres.h"

#include "alerts.h"
#include "duties.h"
#include "launcher.h"
#include "slots.h"
#include "sql.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

/* Who drops a database gives up after five seconds. */
#define DATABASE_CHECK_MS	2000
/* A worker that leaves for others' sake comes back no sooner. */
#define YIELD_MS			1000
/* Where there are more migrations with work than processes, a busy worker gives way after this. */
#define TURN_MS				30000

extern PGDLLEXPORT void dw_worker_main(Datum arg);

/* Settings of other versions need not exist. */
static void
set_option(const char *name, const char *value)
{
	if (GetConfigOption(name, true, false) != NULL)
		SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * What the database's or the superuser's settings say for sessions is not meant for this process.  It waits for locks
 * for less than deadlock_timeout, so that it gives way and not an application.
 */
static void
set_session(void)
{
	set_option("default_transaction_isolation", "read committed");
	set_option("default_transaction_read_only", "off");
	set_option("default_transaction_deferrable", "off");
	/* a commit that waits for a standby would keep writers of the same rows waiting */
	set_option("synchronous_commit", "local");
	set_option("row_security", "off");
	set_option("session_replication_role", "origin");
	set_option("search_path", "pg_catalog, pg_temp");
	set_option("lock_timeout", "400ms");
	set_option("statement_timeout", "0");
	set_option("idle_in_transaction_session_timeout", "0");
	set_option("transaction_timeout", "0");
	set_option("jit", "off");
	set_option("max_parallel_workers_per_gather", "0");
}

/* Ids of the migrations of this database that have background work; indexes that were taken away are owed in every phase. */
static int
active_migrations(int32 **ids)
{
	DwSql		sql;
	int			n;

	dw_sql_begin(&sql);
	n = (int) dw_sql("SELECT m.id FROM _dualwrite.migration m "
					 "WHERE m.phase OPERATOR(pg_catalog.<>) ALL (ARRAY['defined', 'complete']) OR EXISTS "
					 "(SELECT FROM _dualwrite.index_away a JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.new_table "
					 "WHERE a.migration_id OPERATOR(pg_catalog.=) m.id AND a.analyzed_at IS NULL) ORDER BY m.id",
					 0, NULL);
	*ids = MemoryContextAlloc(sql.caller, Max(n, 1) * sizeof(int32));
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		(*ids)[i] = DatumGetInt32(dw_sql_value(i, 1, &isnull));
	}
	dw_sql_end(&sql);
	return n;
}

/*
 * See which migrations of this database have work, and have processes started for those that have none.  A scout takes
 * the first of them itself.  Returns the migration that this process is for, DW_SCOUT when there is none for it.
 */
static int32
look_around(DwShared *shared, int32 migration_id)
{
	int32	   *ids = NULL;
	int			n = 0;

	dw_turn_begin();
	if (dw_extension_exists())
		n = active_migrations(&ids);
	if (migration_id == DW_SCOUT)
		migration_id = dw_slot_adopt(shared, ids, n);
	dw_slots_add(shared, ids, n);
	dw_turn_end();
	return migration_id;
}

/* This process follows one that was ended by somebody or by an error. */
static void
tell_restart(int32 migration_id)
{
	DwMigration *migration;

	dw_turn_begin();
	migration = dw_extension_exists() ? dw_migration_by_id(migration_id, false) : NULL;
	if (migration != NULL)
	{
		ereport(WARNING,
				(errcode(ERRCODE_OPERATOR_INTERVENTION),
				 errmsg("the worker of migration \"%s\" was stopped; this one goes on", migration->name),
				 errhint("Why it was is above in the log.")));
		dw_alert("worker_stopped", migration->name, NULL);
	}
	dw_turn_end();
}

static void
leave(DwShared *shared, TimestampTz next)
{
	dw_slot_yield(shared, Max(next, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), YIELD_MS)));
	proc_exit(0);
}

/*
 * Does anybody drop, rename or copy this database?  Then this process is in the way; it comes back when the lock is free
 * and the database is still there.  The extension's having gone counts as being woken.
 */
static void
check_database(DwShared *shared, TimestampTz next)
{
	static TimestampTz checked_at = 0;
	bool		stay;
	bool		extension;

	if (!TimestampDifferenceExceeds(checked_at, GetCurrentTimestamp(), DATABASE_CHECK_MS / 2))
		return;
	StartTransactionCommand();
	stay = dw_database_lockable(MyDatabaseId);
	extension = dw_extension_exists();
	CommitTransactionCommand();
	if (!stay)
		leave(shared, next);
	if (!extension)
		dw_slot_ask(shared);
	checked_at = GetCurrentTimestamp();
}

/* Others wait for a process to be free: has this one had its share? */
static void
check_crowd(DwShared *shared, const DwPost *post)
{
	static TimestampTz began = 0;

	if (began == 0)
		began = GetCurrentTimestamp();
	if (!shared->crowded)
		return;
	/* a helper is not missed, and will be asked for again */
	if (post->helps != DW_ROLE_NONE && dw_slot_finish(shared))
		proc_exit(0);
	if (post->helps == DW_ROLE_NONE && TimestampDifferenceExceeds(began, GetCurrentTimestamp(), TURN_MS))
		leave(shared, 0);
}

/* Wait outside of any transaction: until the time, until woken, until the configuration changes. */
static void
wait_for_work(DwShared *shared, TimestampTz next)
{
	while (next > GetCurrentTimestamp() && !dw_slot_asked(shared))
	{
		long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);

		if (shared->crowded && ms > DATABASE_CHECK_MS)
			leave(shared, next);
		pgstat_report_stat(true);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(ms + 1, DATABASE_CHECK_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (dw_duties_reconfigure())
			return;
		check_database(shared, next);
	}
}

/* Connected: work until nothing is left to do. */
static void
work(DwShared *shared, DwPost *post)
{
	if (post->migration_id != DW_SCOUT && dw_slot_failures(shared) > 0)
		tell_restart(post->migration_id);
	for (;;)
	{
		TimestampTz next = 0;
		DwTurn		turn = DW_TURN_FINISHED;

		CHECK_FOR_INTERRUPTS();
		check_database(shared, 0);
		if (dw_slot_look(shared))
		{
			if (post->helps == DW_ROLE_NONE)
				post->migration_id = look_around(shared, post->migration_id);
			dw_duties_wake();
		}
		if (post->migration_id != DW_SCOUT)
			turn = dw_duties_turn(shared, post, &next);
		if (turn == DW_TURN_FINISHED)
		{
			if (dw_slot_finish(shared))
				return;
		}
		else
		{
			check_crowd(shared, post);
			wait_for_work(shared, next);
		}
	}
}

void
dw_worker_main(Datum arg)
{
	DwShared   *shared;
	DwStart		start;
	DwPost		post;

	(void) arg;
	memcpy(&start, MyBgworkerEntry->bgw_extra, sizeof(start));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	shared = dw_shared();
	if (shared == NULL || !dw_slot_attach(shared, &start, &post))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(start.database, InvalidOid, 0);
	set_session();
	work(shared, &post);
	proc_exit(0);
}
