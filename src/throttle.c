/*
 * throttle.c: how fast background work may go, and when it must not.
 *
 * Arithmetic, the signals that tell of load and locks, and the table of all signals; no table of the extension is read here
 * but for settings.  A signal is one function and one row, governed by one setting.  One that cannot be read counts as
 * tripped: a monitoring failure must never mean full speed.
 */
#include "postgres.h"

#include "attempt.h"
#include "owner.h"
#include "settings.h"
#include "signals.h"
#include "throttle.h"

#include <unistd.h>

#include "access/transam.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* How old an observation of other sessions may be, ms. */
#define DW_MOMENT_MS 50
/* Time that throttle_query may take, ms. */
#define DW_QUERY_MS 1000

int
dw_throttle_resize(int blocks, double took_ms, double wanted_ms)
{
	double		next = blocks * (wanted_ms / Max(took_ms, 0.1));

	next = Min(next, blocks * 1.25 + 1);
	next = Max(next, 1);
	return (int) Min(next, DW_MAX_BATCH_BLOCKS);
}

long
dw_throttle_rest(double took_ms, double ratio)
{
	return (long) Min(took_ms / ratio - took_ms, DW_MAX_CYCLE_MS);
}

/* Client sessions other than this one that are running a statement, for each processor. */
static DwSignalState
signal_active_backends(const DwSignalArgs *args)
{
	double		limit = dw_setting_real(args->migration_id, "throttle_max_active_per_core");
	long		cores = sysconf(_SC_NPROCESSORS_ONLN);
	int			active = 0;

	if (limit <= 0)
		return DW_SIGNAL_CLEAR;
	if (cores < 1)
		return DW_SIGNAL_UNREADABLE;
	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		PgBackendStatus *status = &dw_backend_status(i)->backendStatus;

		if (status->st_backendType != B_BACKEND || status->st_procpid == MyProcPid)
			continue;
		/* track_activities is off for it */
		if (status->st_state == STATE_DISABLED)
			return DW_SIGNAL_UNREADABLE;
		if (status->st_state == STATE_RUNNING || status->st_state == STATE_FASTPATH)
			active++;
	}
	return active > limit * cores ? DW_SIGNAL_TRIPPED : DW_SIGNAL_CLEAR;
}

/* Sessions whose state changed this long ago, ms, may be at work between two of our looks. */
#define DW_LATELY_MS 1000

/* Does this session, which says that it is active, sleep in an extension? */
static bool
waits_in_extension(int pid)
{
	PGPROC	   *proc = BackendPidGetProc(pid);

	return proc != NULL && (*(volatile uint32 *) &proc->wait_event_info & 0xFF000000) == PG_WAIT_EXTENSION;
}

bool
dw_throttle_in_company(void)
{
	TimestampTz now = GetCurrentTimestamp();

	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		PgBackendStatus *status = &dw_backend_status(i)->backendStatus;

		if (status->st_backendType != B_BACKEND || status->st_procpid == MyProcPid)
			continue;
		if (status->st_state == STATE_DISABLED ||
			!TimestampDifferenceExceeds(status->st_state_start_timestamp, now, DW_LATELY_MS))
			return true;
		if ((status->st_state == STATE_RUNNING || status->st_state == STATE_FASTPATH) &&
			!waits_in_extension(status->st_procpid))
			return true;
	}
	return false;
}

/* Is the lock on one of these tables, on a page or on a row of them? */
static bool
lock_is_on(const LockInstanceData *lock, List *relids)
{
	if (lock->locktag.locktag_type != LOCKTAG_RELATION &&
		lock->locktag.locktag_type != LOCKTAG_PAGE &&
		lock->locktag.locktag_type != LOCKTAG_TUPLE)
		return false;
	return lock->locktag.locktag_field1 == MyDatabaseId && list_member_oid(relids, lock->locktag.locktag_field2);
}

/* Has this process anything to do with these tables?  A wait for a row is a wait for a transaction, which tells no table. */
static bool
holds_lock_on(const LockData *locks, int pid, List *relids)
{
	for (int i = 0; i < locks->nelements; i++)
		if (locks->locks[i].pid == pid && lock_is_on(&locks->locks[i], relids))
			return true;
	return false;
}

/*
 * Sessions that wait for a lock on the tables, or hold one and wait for something.  Whoever waits that long is in trouble, or
 * means to lock the table: get out of his way.
 */
static DwSignalState
signal_lock_waiters(const DwSignalArgs *args)
{
	int64		limit_ms = dw_setting_int(args->migration_id, "throttle_max_lock_wait");
	TimestampTz now = GetCurrentTimestamp();
	LockData   *locks;

	if (limit_ms <= 0)
		return DW_SIGNAL_CLEAR;
	locks = GetLockStatusData();
	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *lock = &locks->locks[i];

		if (lock->waitLockMode == NoLock || lock->pid == MyProcPid || lock->waitStart == 0 ||
			!TimestampDifferenceExceeds(lock->waitStart, now, limit_ms))
			continue;
		if (lock_is_on(lock, args->relids) || holds_lock_on(locks, lock->pid, args->relids))
			return DW_SIGNAL_TRIPPED;
	}
	return DW_SIGNAL_CLEAR;
}

/* An autovacuum (or its ANALYZE) of one of the tables that has been at it for too long. */
static DwSignalState
signal_autovacuum(const DwSignalArgs *args)
{
	int64		limit_ms = dw_setting_int(args->migration_id, "throttle_max_autovacuum");
	TimestampTz now = GetCurrentTimestamp();

	if (limit_ms <= 0)
		return DW_SIGNAL_CLEAR;
	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		PgBackendStatus *status = &dw_backend_status(i)->backendStatus;

		if (status->st_backendType != B_AUTOVAC_WORKER || status->st_databaseid != MyDatabaseId)
			continue;
		/* track_activities is off for it: nobody can tell what it works on */
		if (status->st_state == STATE_DISABLED)
			return DW_SIGNAL_UNREADABLE;
		if (status->st_progress_command != PROGRESS_COMMAND_INVALID &&
			list_member_oid(args->relids, status->st_progress_command_target) &&
			TimestampDifferenceExceeds(status->st_xact_start_timestamp, now, limit_ms))
			return DW_SIGNAL_TRIPPED;
	}
	return DW_SIGNAL_CLEAR;
}

/*
 * Transactions begun since the oldest one that VACUUM must still think of: a session, a prepared transaction, a slot or a
 * standby, of any database.
 */
static DwSignalState
signal_oldest_xmin(const DwSignalArgs *args)
{
	int64		limit = dw_setting_int(args->migration_id, "throttle_max_xmin_age");
	TransactionId oldest;

	if (limit <= 0)
		return DW_SIGNAL_CLEAR;
	oldest = GetOldestNonRemovableTransactionId(NULL);
	if (!TransactionIdIsNormal(oldest))
		return DW_SIGNAL_UNREADABLE;
	return (int32) (ReadNextTransactionId() - oldest) > limit ? DW_SIGNAL_TRIPPED : DW_SIGNAL_CLEAR;
}

static volatile sig_atomic_t query_timed_out = false;

/* Signal handler: end the query as a cancel would. */
static void
query_timeout(void)
{
	query_timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

typedef struct DwUserQuery
{
	const char *text;
	Oid			owner;
	DwSignalState state;
} DwUserQuery;

static void
run_user_query(void *arg)
{
	DwUserQuery *query = arg;
	DwOwnerScope scope;
	bool		stop = false;

	(void) set_config_option("transaction_read_only", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	dw_owner_enter(&scope, query->owner, true);
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (SPI_execute(query->text, true, 1) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("throttle_query is not a SELECT")));
	query->state = DW_SIGNAL_CLEAR;
	if (SPI_processed > 0)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		if (value != NULL && !parse_bool(value, &stop))
			query->state = DW_SIGNAL_UNREADABLE;
		else if (stop)
			query->state = DW_SIGNAL_TRIPPED;
	}
	SPI_finish();
	PopActiveSnapshot();
	dw_owner_leave(&scope);
}

/* Our own cancel, and any error of the query, only mean that the signal cannot be read. */
static bool
query_may_fail(int sqlstate)
{
	return dw_error_is_absorbable(sqlstate) || dw_error_is_lock(sqlstate) ||
		(query_timed_out && sqlstate == ERRCODE_QUERY_CANCELED);
}

/* true in the first column of the first row means stop. */
static DwSignalState
signal_throttle_query(const DwSignalArgs *args)
{
	static TimeoutId timeout = MAX_TIMEOUTS;
	const char *text = dw_setting_string(args->migration_id, "throttle_query");
	DwUserQuery query = {text, args->owner, DW_SIGNAL_UNREADABLE};
	DwError		failure;

	if (text == NULL || text[0] == '\0')
		return DW_SIGNAL_CLEAR;
	if (timeout == MAX_TIMEOUTS)
		timeout = RegisterTimeout(USER_TIMEOUT, query_timeout);
	query_timed_out = false;
	PG_TRY();
	{
		enable_timeout_after(timeout, DW_QUERY_MS);
		if (!dw_try(run_user_query, &query, true, query_may_fail, &failure))
			query.state = DW_SIGNAL_UNREADABLE;
	}
	PG_FINALLY();
	{
		disable_timeout(timeout, false);
		/* the timer may have gone off behind the query's last look */
		if (query_timed_out)
			QueryCancelPending = false;
	}
	PG_END_TRY();
	return query.state;
}

static const struct
{
	const char *name;			/* as throttled_by shows it */
	DwSignalState (*read) (const DwSignalArgs *args);
	bool		readers;		/* work that only reads yields to it, too */
	const char *observes;		/* by this setting it looks at all other sessions */
}			signals[] =
{
	{"replica lag", dw_signal_replication_lag, false, NULL},
	{"disconnected standby", dw_signal_standby_absence, false, NULL},
	{"slot retention", dw_signal_slot_retention, false, NULL},
	{"lost slot", dw_signal_lost_slot, false, NULL},
	{"WAL archive", dw_signal_archive, false, NULL},
	{"WAL rate", dw_signal_wal_rate, false, NULL},
	{"active backends", signal_active_backends, true, "throttle_max_active_per_core"},
	{"lock waiters", signal_lock_waiters, true, "throttle_max_lock_wait"},
	{"autovacuum", signal_autovacuum, false, "throttle_max_autovacuum"},
	{"oldest xmin", signal_oldest_xmin, false, NULL},
	{"throttle query", signal_throttle_query, true, NULL},
};

/*
 * Looking at all sessions holds each of them up for a moment (locks stand still while they are listed), and batches may be
 * a hundred in a second: what was clear lately, by the same setting, is taken to be so still.
 */
static DwSignalState
read_signal(int i, const DwSignalArgs *args)
{
	static struct
	{
		TimestampTz at;
		int32		migration_id;
		Oid			table;
		char		limit[32];
	}			clear[lengthof(signals)];
	TimestampTz now = GetCurrentTimestamp();
	Oid			table = args->relids == NIL ? InvalidOid : linitial_oid(args->relids);
	const char *limit;
	DwSignalState state;

	if (signals[i].observes == NULL)
		return signals[i].read(args);
	limit = dw_setting_string(args->migration_id, signals[i].observes);
	if (clear[i].migration_id == args->migration_id && clear[i].table == table && strcmp(clear[i].limit, limit) == 0 &&
		now >= clear[i].at && !TimestampDifferenceExceeds(clear[i].at, now, DW_MOMENT_MS))
		return DW_SIGNAL_CLEAR;
	clear[i].at = 0;
	state = signals[i].read(args);
	if (state == DW_SIGNAL_CLEAR)
	{
		clear[i].at = now;
		clear[i].migration_id = args->migration_id;
		clear[i].table = table;
		strlcpy(clear[i].limit, limit, sizeof(clear[i].limit));
	}
	return state;
}

static List *
read_signals(int32 migration_id, List *relids, Oid owner, bool readers_only)
{
	DwSignalArgs args = {migration_id, relids, owner};
	List	   *tripped = NIL;

	for (size_t i = 0; i < lengthof(signals); i++)
	{
		DwSignalState state;

		if (readers_only && !signals[i].readers)
			continue;
		state = read_signal((int) i, &args);
		if (state == DW_SIGNAL_TRIPPED)
			tripped = lappend(tripped, pstrdup(signals[i].name));
		else if (state == DW_SIGNAL_UNREADABLE)
			tripped = lappend(tripped, psprintf("%s (unreadable)", signals[i].name));
	}
	return tripped;
}

List *
dw_throttle_signals(int32 migration_id, List *relids, Oid owner)
{
	return read_signals(migration_id, relids, owner, false);
}

List *
dw_throttle_read_signals(int32 migration_id, List *relids, Oid owner)
{
	return read_signals(migration_id, relids, owner, true);
}
