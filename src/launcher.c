/*
 * launcher.c: the process that starts the workers of all databases.
 *
 * It is connected to no database, so that it is in nobody's way.  When it comes up it has each database visited once, by
 * a scout; databases that get work later announce themselves in shared memory.  It decides when a worker is started
 * and never what the worker does.
 *
 * It must not start a process into a database that is being dropped, renamed or copied: whoever does that holds a lock
 * on the database, which is asked for first.
 */
#include "postgres.h"

#include "launcher.h"
#include "settings.h"
#include "slots.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Seconds after which the postmaster starts a launcher again that was terminated. */
#define RESTART_SECONDS		5
/* A worker that has not attached by then will not come. */
#define START_PATIENCE_MS	60000
#define NO_ROOM_RETRY_MS	5000
#define BUSY_DATABASE_RETRY_MS	1000
/* Between two messages about the same lack of room. */
#define NO_ROOM_SILENCE_MS	600000

typedef enum DwDatabaseState
{
	DW_DATABASE_READY,
	DW_DATABASE_BUSY,			/* being dropped, renamed or copied */
	DW_DATABASE_GONE			/* or not to be connected to */
} DwDatabaseState;

static BackgroundWorkerHandle *handles[DW_WORKER_SLOTS];
static uint32 handle_generation[DW_WORKER_SLOTS];
static List *to_visit = NIL;	/* databases, in TopMemoryContext */
static TimestampTz said_no_room = 0;

bool
dw_database_lockable(Oid database)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	return LockAcquire(&tag, RowExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

static void
describe_launcher(BackgroundWorker *process)
{
	memset(process, 0, sizeof(*process));
	process->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	process->bgw_start_time = BgWorkerStart_RecoveryFinished;
	process->bgw_restart_time = RESTART_SECONDS;
	strlcpy(process->bgw_library_name, "dualwrite", sizeof(process->bgw_library_name));
	strlcpy(process->bgw_function_name, "dw_launcher_main", sizeof(process->bgw_function_name));
	strlcpy(process->bgw_name, "dualwrite launcher", sizeof(process->bgw_name));
	strlcpy(process->bgw_type, "dualwrite launcher", sizeof(process->bgw_type));
}

void
dw_launcher_register(void)
{
	BackgroundWorker process;

	describe_launcher(&process);
	RegisterBackgroundWorker(&process);
}

bool
dw_launcher_start(void)
{
	BackgroundWorker process;

	describe_launcher(&process);
	return RegisterDynamicBackgroundWorker(&process, NULL);
}

static void
forget_launcher(int code, Datum arg)
{
	DwShared   *shared = (DwShared *) DatumGetPointer(arg);

	(void) code;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (shared->launcher_pid == MyProcPid)
	{
		shared->launcher_pid = 0;
		shared->launcher_proc = NULL;
	}
	LWLockRelease(&shared->lock);
}

/* Take the office; false when another one holds it. */
static bool
become_launcher(DwShared *shared)
{
	bool		first;

	before_shmem_exit(forget_launcher, PointerGetDatum(shared));
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	first = shared->launcher_pid == 0;
	if (first)
	{
		shared->launcher_pid = MyProcPid;
		shared->launcher_proc = MyProc;
	}
	LWLockRelease(&shared->lock);
	return first;
}

/* Note all databases that one can work in.  Templates are not looked at: a connection would be in CREATE DATABASE's way. */
static void
list_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!database->datallowconn || database->datistemplate || database_is_invalid_form(database))
			continue;
		old = MemoryContextSwitchTo(TopMemoryContext);
		to_visit = list_append_unique_oid(to_visit, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Put databases to be visited into free slots, as many as there are. */
static void
visit_databases(DwShared *shared)
{
	bool		everywhere;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	everywhere = shared->look_everywhere || !shared->looked_everywhere;
	shared->look_everywhere = false;
	shared->looked_everywhere = true;
	LWLockRelease(&shared->lock);
	if (everywhere)
		list_databases();
	while (to_visit != NIL && dw_slots_visit(shared, linitial_oid(to_visit)))
		to_visit = list_delete_first(to_visit);
}

/* May a process be started into this database?  The lock is the one that it takes itself when it connects. */
static DwDatabaseState
database_state(Oid database)
{
	DwDatabaseState state = DW_DATABASE_GONE;
	HeapTuple	tuple;

	StartTransactionCommand();
	if (!dw_database_lockable(database))
		state = DW_DATABASE_BUSY;
	else if (HeapTupleIsValid(tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database))))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datallowconn && !database_is_invalid_form(form))
			state = DW_DATABASE_READY;
		ReleaseSysCache(tuple);
	}
	CommitTransactionCommand();
	return state;
}

/* Of helpers the process that has asked for them tells, which knows the migration's name. */
static void
say_no_room(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (said_no_room != 0 && !TimestampDifferenceExceeds(said_no_room, now, NO_ROOM_SILENCE_MS))
		return;
	said_no_room = now;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker slot is free for dualwrite"),
			 errhint("Raise max_worker_processes and restart the server, or do the work in a session of your own: CALL dualwrite.backfill('<migration>').")));
}

/* Register the worker of a slot that is in state STARTING. */
static bool
register_worker(int i, Oid database, uint32 generation)
{
	BackgroundWorker process;
	DwStart		start = {.slot = i, .generation = generation, .database = database};
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		registered;

	StaticAssertStmt(sizeof(DwStart) <= BGW_EXTRALEN, "DwStart does not fit");
	memset(&process, 0, sizeof(process));
	process.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	process.bgw_start_time = BgWorkerStart_RecoveryFinished;
	process.bgw_restart_time = BGW_NEVER_RESTART;
	process.bgw_notify_pid = MyProcPid;
	strlcpy(process.bgw_library_name, "dualwrite", sizeof(process.bgw_library_name));
	strlcpy(process.bgw_function_name, "dw_worker_main", sizeof(process.bgw_function_name));
	snprintf(process.bgw_name, sizeof(process.bgw_name), "dualwrite worker in database %u", database);
	strlcpy(process.bgw_type, "dualwrite worker", sizeof(process.bgw_type));
	memcpy(process.bgw_extra, &start, sizeof(start));
	if (handles[i] != NULL)
		pfree(handles[i]);
	handles[i] = NULL;
	registered = RegisterDynamicBackgroundWorker(&process, &handles[i]);
	handle_generation[i] = generation;
	MemoryContextSwitchTo(old);
	return registered;
}

/* Back to waiting, if the slot is still as we left it. */
static void
postpone(DwShared *shared, int i, uint32 generation, int ms, bool no_room)
{
	DwWorkerSlot *slot = &shared->workers[i];

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (slot->state == DW_SLOT_STARTING && slot->generation == generation)
	{
		dw_slot_set(slot, DW_SLOT_WANTED, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms));
		slot->no_room = no_room;
	}
	LWLockRelease(&shared->lock);
}

/* First processes come before helpers; among equals the one that has been due for longer. */
static bool
goes_first(const DwWorkerSlot *a, const DwWorkerSlot *b)
{
	bool		a_helps = a->helps != DW_ROLE_NONE;
	bool		b_helps = b->helps != DW_ROLE_NONE;

	return a_helps == b_helps ? a->due < b->due : b_helps;
}

/*
 * No further process is allowed.  Where a first one is due, those that have nothing to do at the moment make room when
 * they see that it is crowded; nobody makes room for a helper.  Returns when to look again.
 */
static TimestampTz
refuse_all(DwShared *shared)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->state != DW_SLOT_WANTED || slot->due > now)
			continue;
		if (slot->helps == DW_ROLE_NONE)
		{
			shared->crowded = true;
			continue;
		}
		slot->no_room = true;
		slot->due = TimestampTzPlusMilliseconds(now, NO_ROOM_RETRY_MS);
	}
	return TimestampTzPlusMilliseconds(now, shared->crowded ? BUSY_DATABASE_RETRY_MS : NO_ROOM_RETRY_MS);
}

/*
 * Under the lock: the slot that is to be started next, made STARTING; -1 when none is due or no further process is
 * allowed.  *next is when one will be due.
 */
static int
pick_slot(DwShared *shared, TimestampTz *next)
{
	TimestampTz now = GetCurrentTimestamp();
	int			alive = 0;
	int			picked = -1;

	*next = DT_NOEND;
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->state == DW_SLOT_STARTING || slot->state == DW_SLOT_RUNNING)
			alive++;
		if (slot->state == DW_SLOT_STARTING)
			*next = Min(*next, TimestampTzPlusMilliseconds(slot->changed_at, START_PATIENCE_MS));
		if (slot->state != DW_SLOT_WANTED)
			continue;
		if (slot->due > now)
			*next = Min(*next, slot->due);
		else if (picked < 0 || goes_first(slot, &shared->workers[picked]))
			picked = i;
	}
	shared->crowded = false;
	if (picked >= 0 && alive >= dw_max_workers())
	{
		TimestampTz again = refuse_all(shared);

		*next = Min(*next, again);
		return -1;
	}
	if (picked >= 0)
	{
		shared->workers[picked].generation++;
		dw_slot_set(&shared->workers[picked], DW_SLOT_STARTING, 0);
	}
	return picked;
}

/* Start what is due; returns when something will be due. */
static TimestampTz
start_workers(DwShared *shared)
{
	for (;;)
	{
		TimestampTz next;
		Oid			database = InvalidOid;
		uint32		generation = 0;
		bool		first = true;
		int			i;

		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		i = pick_slot(shared, &next);
		if (i >= 0)
		{
			database = shared->workers[i].database;
			generation = shared->workers[i].generation;
			first = shared->workers[i].helps == DW_ROLE_NONE;
		}
		LWLockRelease(&shared->lock);
		if (i < 0)
			return next;
		switch (database_state(database))
		{
			case DW_DATABASE_GONE:
				dw_slots_forget(shared, database);
				break;
			case DW_DATABASE_BUSY:
				postpone(shared, i, generation, BUSY_DATABASE_RETRY_MS, false);
				break;
			case DW_DATABASE_READY:
				if (register_worker(i, database, generation))
					break;
				if (first)
					say_no_room();
				postpone(shared, i, generation, NO_ROOM_RETRY_MS, true);
				break;
		}
	}
}

/* Workers that ended before they had attached, or never came. */
static void
reap_workers(DwShared *shared)
{
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];
		uint32		generation = slot->generation;
		pid_t		pid;

		if (slot->state != DW_SLOT_STARTING)
			continue;
		if ((handles[i] != NULL && handle_generation[i] == generation &&
			 GetBackgroundWorkerPid(handles[i], &pid) == BGWH_STOPPED) ||
			TimestampDifferenceExceeds(slot->changed_at, GetCurrentTimestamp(), START_PATIENCE_MS))
			postpone(shared, i, generation, NO_ROOM_RETRY_MS, false);
	}
}

/* Leave the office if nobody wants anything; what is announced from then on makes a new launcher. */
static bool
retire(DwShared *shared)
{
	bool		idle = to_visit == NIL;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < DW_WORKER_SLOTS && idle; i++)
		idle = shared->workers[i].state == DW_SLOT_FREE;
	idle = idle && !shared->look_everywhere;
	if (idle)
	{
		shared->launcher_pid = 0;
		shared->launcher_proc = NULL;
		shared->launcher_asked_at = 0;
	}
	LWLockRelease(&shared->lock);
	return idle;
}

/*
 * An index is built in one go, so its process cannot look for itself whether somebody drops, renames or copies the
 * database.  Returns when to look again.
 */
static TimestampTz
watch_builds(DwShared *shared)
{
	TimestampTz next = DT_NOEND;

	for (Oid database = dw_slots_next_build(shared, InvalidOid); OidIsValid(database);
		 database = dw_slots_next_build(shared, database))
	{
		if (database_state(database) == DW_DATABASE_BUSY)
			dw_slots_stop_builds(shared, database, 0);
		next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_DATABASE_RETRY_MS);
	}
	return next;
}

static void
wait_until(TimestampTz next)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	long		ms = -1;

	if (next != DT_NOEND)
	{
		events |= WL_TIMEOUT;
		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next) + 1;
	}
	(void) WaitLatch(MyLatch, events, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

void
dw_launcher_main(Datum arg)
{
	DwShared   *shared;

	(void) arg;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	shared = dw_shared();
	if (shared == NULL || !become_launcher(shared))
		proc_exit(0);
	pgstat_report_appname("dualwrite launcher");
	for (;;)
	{
		TimestampTz next;
		TimestampTz look;

		reap_workers(shared);
		visit_databases(shared);
		next = start_workers(shared);
		look = watch_builds(shared);
		next = Min(next, look);
		if (!dw_preloaded() && retire(shared))
			proc_exit(0);
		wait_until(next);
	}
}
