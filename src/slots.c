/*
 * slots.c: which background processes are wanted, and which run.
 *
 * Each active migration of any database has a slot; so has a database that somebody wants looked at (a scout, which
 * becomes the worker of the first migration that it finds).  A migration's first process asks for helpers, each for one
 * role and with a slot of its own.  Backends announce, the launcher starts, workers attach and detach.  All of it under the
 * one lock, held for a walk over the slots; nothing may raise an error meanwhile.
 */
#include "postgres.h"

#include "slots.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

/* A process that ran for this long was no failure to start. */
#define PROVEN_MS		10000
#define MAX_BACKOFF_MS	60000
/* A dynamic launcher that has not come up by then is asked for again. */
#define LAUNCHER_PATIENCE_MS	10000

static int	my_slot = -1;
static volatile bool *my_stop = NULL; /* of that slot */
static uint32 my_generation;

void
dw_slot_set(DwWorkerSlot *slot, DwSlotState state, TimestampTz due)
{
	slot->state = state;
	slot->due = due;
	slot->changed_at = GetCurrentTimestamp();
	slot->since = slot->changed_at;
	slot->pid = 0;
	slot->proc = NULL;
	slot->builds = false;
	slot->stop = false;
	slot->activity = DW_ACTIVITY_STARTING;
	if (state != DW_SLOT_WANTED)
		slot->no_room = false;
}

static DwWorkerSlot *
find_slot(DwShared *shared, Oid database, int32 migration_id, DwRole helps, int number)
{
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->state != DW_SLOT_FREE && slot->database == database && slot->migration_id == migration_id &&
			slot->helps == helps && slot->number == number)
			return slot;
	}
	return NULL;
}

/* A new wanted slot; NULL when all are taken. */
static DwWorkerSlot *
new_slot(DwShared *shared, Oid database, int32 migration_id, DwRole helps, int number)
{
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->state != DW_SLOT_FREE)
			continue;
		slot->database = database;
		slot->migration_id = migration_id;
		slot->helps = helps;
		slot->number = number;
		slot->generation++;
		slot->failures = 0;
		slot->look = true;
		slot->role = helps;
		dw_slot_set(slot, DW_SLOT_WANTED, GetCurrentTimestamp());
		return slot;
	}
	return NULL;
}

static void
wake_launcher(DwShared *shared)
{
	if (shared->launcher_proc != NULL)
		SetLatch(&shared->launcher_proc->procLatch);
}

/* Is the caller the one to ask for a launcher? */
static bool
launcher_missing(DwShared *shared)
{
	TimestampTz now = GetCurrentTimestamp();

	if (shared->launcher_pid != 0 ||
		!TimestampDifferenceExceeds(shared->launcher_asked_at, now, LAUNCHER_PATIENCE_MS))
		return false;
	shared->launcher_asked_at = now;
	return true;
}

/* Tell what is there of a database's processes to look again.  false: there is nothing. */
static bool
wake_database(DwShared *shared, Oid database)
{
	bool		found = false;

	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->state == DW_SLOT_FREE || slot->database != database)
			continue;
		found = true;
		slot->look = true;
		if (slot->proc != NULL)
			SetLatch(&slot->proc->procLatch);
		else if (slot->state == DW_SLOT_WANTED && slot->failures == 0)
			slot->due = GetCurrentTimestamp();
	}
	return found;
}

/*
 * Are all processes of a database, of which there is one, asked already?  The asked one clears the mark before it looks,
 * so it will see what the caller has committed.
 */
static bool
asked_already(DwShared *shared, Oid database)
{
	bool		running = false;
	bool		asked = true;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->state == DW_SLOT_FREE || slot->database != database)
			continue;
		running |= slot->state == DW_SLOT_RUNNING;
		asked &= slot->look;
	}
	LWLockRelease(&shared->lock);
	return running && asked;
}

bool
dw_slots_wake(DwShared *shared, Oid database)
{
	bool		missing;

	if (asked_already(shared, database))
		return false;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (!wake_database(shared, database) && new_slot(shared, database, DW_SCOUT, DW_ROLE_NONE, 0) == NULL)
		shared->look_everywhere = true;
	wake_launcher(shared);
	missing = launcher_missing(shared);
	LWLockRelease(&shared->lock);
	return missing;
}

bool
dw_slots_visit(DwShared *shared, Oid database)
{
	bool		done;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	done = wake_database(shared, database) || new_slot(shared, database, DW_SCOUT, DW_ROLE_NONE, 0) != NULL;
	LWLockRelease(&shared->lock);
	return done;
}

void
dw_slots_add(DwShared *shared, const int32 *migrations, int n)
{
	bool		added = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
	{
		if (find_slot(shared, MyDatabaseId, migrations[i], DW_ROLE_NONE, 0) != NULL)
			continue;
		if (new_slot(shared, MyDatabaseId, migrations[i], DW_ROLE_NONE, 0) != NULL)
			added = true;
		else
			shared->look_everywhere = true; /* when a slot is given up */
	}
	if (added)
		wake_launcher(shared);
	LWLockRelease(&shared->lock);
}

/* Helpers beyond the first so many of a role (DW_ROLE_NONE: of any) that have not been started need not be. */
static void
give_up_helpers(DwShared *shared, Oid database, int32 migration_id, DwRole role, int helpers)
{
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->state == DW_SLOT_WANTED && slot->database == database && slot->migration_id == migration_id &&
			slot->helps != DW_ROLE_NONE && (role == DW_ROLE_NONE || slot->helps == role) && slot->number > helpers)
			dw_slot_set(slot, DW_SLOT_FREE, 0);
	}
}

int
dw_slots_help(DwShared *shared, int32 migration_id, DwRole role, int helpers)
{
	int			lacking = 0;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	give_up_helpers(shared, MyDatabaseId, migration_id, role, helpers);
	for (int number = 1; number <= helpers; number++)
	{
		DwWorkerSlot *slot = find_slot(shared, MyDatabaseId, migration_id, role, number);

		if (slot == NULL && new_slot(shared, MyDatabaseId, migration_id, role, number) != NULL)
			wake_launcher(shared);
		else if (slot == NULL || slot->no_room)
			lacking++;
	}
	LWLockRelease(&shared->lock);
	return lacking;
}

void
dw_slots_stop_builds(DwShared *shared, Oid database, int32 migration_id)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->builds && slot->database == database && (migration_id == 0 || slot->migration_id == migration_id))
			slot->stop = true;
	}
	LWLockRelease(&shared->lock);
}

Oid
dw_slots_next_build(DwShared *shared, Oid after)
{
	Oid			next = InvalidOid;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->builds && slot->database > after && (!OidIsValid(next) || slot->database < next))
			next = slot->database;
	}
	LWLockRelease(&shared->lock);
	return next;
}

void
dw_slots_forget(DwShared *shared, Oid database)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->database == database && slot->proc == NULL)
			dw_slot_set(slot, DW_SLOT_FREE, 0);
	}
	for (int i = 0; i < shared->nstats; i++)
		if (shared->stats[i].database == database)
			shared->stats[i].database = InvalidOid;
	LWLockRelease(&shared->lock);
}

bool
dw_slots_running(DwShared *shared, Oid database, int32 migration_id)
{
	DwWorkerSlot *slot;
	bool		running;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = find_slot(shared, database, migration_id, DW_ROLE_NONE, 0);
	running = slot != NULL && slot->state == DW_SLOT_RUNNING;
	LWLockRelease(&shared->lock);
	return running;
}

int
dw_slots_sharing(DwShared *shared, int32 migration_id, DwRole role, int *pids)
{
	int			found[DW_WORKER_SLOTS + 1];
	int			sharing = 0;

	found[sharing++] = MyProcPid;
	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &shared->workers[i];

		if (slot->state == DW_SLOT_RUNNING && slot->database == MyDatabaseId && slot->migration_id == migration_id &&
			(slot->helps == DW_ROLE_NONE || slot->helps == role) && slot->pid != MyProcPid)
			found[sharing++] = slot->pid;
	}
	LWLockRelease(&shared->lock);
	if (pids != NULL)
		memcpy(pids, found, sharing * sizeof(int));
	return sharing;
}

/* The slot that this process holds, under the lock; NULL when it has given it up. */
static DwWorkerSlot *
own_slot(DwShared *shared)
{
	DwWorkerSlot *slot;

	if (my_slot < 0)
		return NULL;
	slot = &shared->workers[my_slot];
	return slot->generation == my_generation && slot->pid == MyProcPid ? slot : NULL;
}

/* Time to the next start after so many failures in a row. */
static TimestampTz
backoff_until(int failures)
{
	int			ms = failures >= 7 ? MAX_BACKOFF_MS : Min(1000 << failures, MAX_BACKOFF_MS);

	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

/*
 * On exit, however it came about: unless the work is finished or the time of the next start is settled, the process was
 * ended by somebody or by an error, and another one is to follow it.
 */
static void
detach(int code, Datum arg)
{
	DwShared   *shared = (DwShared *) DatumGetPointer(arg);
	DwWorkerSlot *slot;

	(void) code;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = own_slot(shared);
	if (slot != NULL)
	{
		TimestampTz due = slot->due;

		if (due == 0)
		{
			if (TimestampDifferenceExceeds(slot->changed_at, GetCurrentTimestamp(), PROVEN_MS))
				slot->failures = 0;
			due = backoff_until(slot->failures++);
		}
		dw_slot_set(slot, DW_SLOT_WANTED, due);
	}
	my_slot = -1;
	wake_launcher(shared);
	LWLockRelease(&shared->lock);
}

bool
dw_slot_attach(DwShared *shared, const DwStart *start, DwPost *post)
{
	DwWorkerSlot *slot = &shared->workers[start->slot];
	bool		mine;

	before_shmem_exit(detach, PointerGetDatum(shared));
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	mine = slot->state == DW_SLOT_STARTING && slot->generation == start->generation;
	if (mine)
	{
		dw_slot_set(slot, DW_SLOT_RUNNING, 0);
		slot->pid = MyProcPid;
		slot->proc = MyProc;
		my_slot = start->slot;
		my_stop = &slot->stop;
		my_generation = start->generation;
		post->migration_id = slot->migration_id;
		post->helps = slot->helps;
		post->number = slot->number;
	}
	LWLockRelease(&shared->lock);
	return mine;
}

int
dw_slot_failures(DwShared *shared)
{
	DwWorkerSlot *slot;
	int			failures;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = own_slot(shared);
	failures = slot == NULL ? 0 : slot->failures;
	LWLockRelease(&shared->lock);
	return failures;
}

int32
dw_slot_adopt(DwShared *shared, const int32 *migrations, int n)
{
	DwWorkerSlot *slot;
	int32		adopted = DW_SCOUT;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = own_slot(shared);
	for (int i = 0; slot != NULL && i < n && adopted == DW_SCOUT; i++)
		if (find_slot(shared, slot->database, migrations[i], DW_ROLE_NONE, 0) == NULL)
			slot->migration_id = adopted = migrations[i];
	LWLockRelease(&shared->lock);
	return adopted;
}

bool
dw_slot_finish(DwShared *shared)
{
	DwWorkerSlot *slot;
	bool		finished = true;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = own_slot(shared);
	if (slot != NULL && slot->look)
		finished = false;
	else if (slot != NULL)
	{
		if (slot->helps == DW_ROLE_NONE)
			give_up_helpers(shared, slot->database, slot->migration_id, DW_ROLE_NONE, 0);
		dw_slot_set(slot, DW_SLOT_FREE, 0);
		my_slot = -1;
		wake_launcher(shared);
	}
	LWLockRelease(&shared->lock);
	return finished;
}

void
dw_slot_build(DwShared *shared, bool builds)
{
	DwWorkerSlot *slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = own_slot(shared);
	if (slot != NULL)
	{
		slot->builds = builds;
		slot->stop = false;
	}
	if (builds)
		wake_launcher(shared);
	LWLockRelease(&shared->lock);
}

bool
dw_slot_stopped(void)
{
	return my_slot >= 0 && *my_stop;
}

void
dw_slot_yield(DwShared *shared, TimestampTz due)
{
	DwWorkerSlot *slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = own_slot(shared);
	if (slot != NULL)
	{
		slot->due = due;
		slot->failures = 0;
	}
	LWLockRelease(&shared->lock);
}

void
dw_slot_show(DwShared *shared, DwRole role, DwActivity activity)
{
	DwWorkerSlot *slot;

	if (my_slot < 0 || (shared->workers[my_slot].role == role && shared->workers[my_slot].activity == activity))
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = own_slot(shared);
	if (slot != NULL)
	{
		slot->role = role;
		slot->activity = activity;
		slot->since = GetCurrentTimestamp();
	}
	LWLockRelease(&shared->lock);
}

bool
dw_slot_asked(const DwShared *shared)
{
	return my_slot >= 0 && shared->workers[my_slot].look;
}

void
dw_slot_ask(DwShared *shared)
{
	DwWorkerSlot *slot;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = own_slot(shared);
	if (slot != NULL)
		slot->look = true;
	LWLockRelease(&shared->lock);
}

bool
dw_slot_look(DwShared *shared)
{
	DwWorkerSlot *slot;
	bool		look = false;

	if (!dw_slot_asked(shared))
		return false;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = own_slot(shared);
	if (slot != NULL)
	{
		look = slot->look;
		slot->look = false;
	}
	LWLockRelease(&shared->lock);
	return look;
}

const char *
dw_role_name(DwRole role)
{
	static const char *const names[] = {"worker", "queue", "backfill", "indexes", "reconcile"};

	return names[role];
}

const char *
dw_activity_name(DwActivity activity)
{
	static const char *const names[] = {"starting", "running", "waiting", "throttled", "paused", "failing"};

	return names[activity];
}
