/*
 * throttle.c: how fast background work may go, and when it must not.
 *
 * Arithmetic, and one function for each signal; no table of the extension is read here.  A signal that cannot be read
 * counts as tripped: a monitoring failure must never mean full speed.
 */
#include "postgres.h"

#include "attempt.h"
#include "owner.h"
#include "settings.h"
#include "throttle.h"

#include <unistd.h>

#include "access/xlog.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* A session that waits longer than this is in trouble, or means to lock the table: get out of its way. */
#define DW_WAITER_MS 250
/* Time that throttle_query may take, ms. */
#define DW_QUERY_MS 1000
/* Marks of (time, WAL position) to date a standby's replay position by: one every DW_MARK_MS, so half an hour of them. */
#define DW_MARKS 360
#define DW_MARK_MS 5000

typedef enum DwSignalState
{
	DW_SIGNAL_CLEAR,
	DW_SIGNAL_TRIPPED,
	DW_SIGNAL_UNREADABLE
} DwSignalState;

/* What the signals are asked about. */
typedef struct DwSignalArgs
{
	int32		migration_id;
	List	   *relids;
	Oid			owner;
} DwSignalArgs;

typedef struct DwWalMark
{
	TimestampTz at;
	XLogRecPtr	position;
} DwWalMark;

int
dw_throttle_resize(int blocks, double took_ms, double wanted_ms)
{
	double		next = blocks * (wanted_ms / Max(took_ms, 0.1));

	next = Min(next, blocks * 1.25 + 1);
	next = Max(next, 1);
	return (int) Min(next, DW_MAX_BATCH_BLOCKS);
}

long
dw_throttle_delay(int64 rows, double took_ms, int64 max_rows_per_second)
{
	double		due_ms;

	if (max_rows_per_second <= 0)
		return 0;
	due_ms = rows * 1000.0 / max_rows_per_second;
	return due_ms > took_ms ? (long) (due_ms - took_ms) : 0;
}

/*
 * Remember where WAL was written to when, and say when it passed a position: 0 when that is not known to be past.
 * A walsender's own measure (applyLag) stands still while the standby does, so a stuck one must be dated from here.
 */
static TimestampTz
wal_passed_at(XLogRecPtr position, XLogRecPtr written, TimestampTz now)
{
	static DwWalMark marks[DW_MARKS];
	static int	newest = -1;
	static int	count = 0;

	if (count == 0 || TimestampDifferenceExceeds(marks[newest].at, now, DW_MARK_MS))
	{
		newest = (newest + 1) % DW_MARKS;
		count = Min(count + 1, DW_MARKS);
		marks[newest].at = now;
		marks[newest].position = written;
	}
	for (int i = count - 1; i >= 0; i--)
	{
		DwWalMark  *mark = &marks[(newest + DW_MARKS - i) % DW_MARKS];

		if (mark->position > position)
			return mark->at;
	}
	return 0;
}

/* Replay lag of the standby or subscriber that is furthest behind. */
static DwSignalState
signal_replication_lag(const DwSignalArgs *args)
{
	int64		limit_ms = dw_setting_int(args->migration_id, "throttle_max_replication_lag");
	TimestampTz now = GetCurrentTimestamp();
	XLogRecPtr	written;

	if (limit_ms <= 0 || RecoveryInProgress())
		return DW_SIGNAL_CLEAR;
	if (WalSndCtl == NULL)
		return DW_SIGNAL_UNREADABLE;
	written = GetXLogInsertRecPtr();
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *sender = &WalSndCtl->walsnds[i];
		bool		replays;
		XLogRecPtr	applied;
		TimeOffset	lag_us;
		TimestampTz passed_at;

		SpinLockAcquire(&sender->mutex);
		replays = sender->pid != 0 && (sender->state == WALSNDSTATE_CATCHUP || sender->state == WALSNDSTATE_STREAMING);
		applied = sender->apply;
		lag_us = sender->applyLag;
		SpinLockRelease(&sender->mutex);

		/* a receiver that never replays (pg_receivewal) reports no position */
		if (!replays || XLogRecPtrIsInvalid(applied) || applied >= written)
			continue;
		if (lag_us / 1000 > limit_ms)
			return DW_SIGNAL_TRIPPED;
		passed_at = wal_passed_at(applied, written, now);
		if (passed_at != 0 && TimestampDifferenceExceeds(passed_at, now, limit_ms))
			return DW_SIGNAL_TRIPPED;
	}
	return DW_SIGNAL_CLEAR;
}

/* WAL written by the whole server since this backend last asked. */
static DwSignalState
signal_wal_rate(const DwSignalArgs *args)
{
	static TimestampTz last_at = 0;
	static XLogRecPtr last_position = InvalidXLogRecPtr;
	static double rate = 0;
	int64		limit = dw_setting_int(args->migration_id, "throttle_max_wal_rate");
	TimestampTz now = GetCurrentTimestamp();

	if (limit <= 0 || RecoveryInProgress())
		return DW_SIGNAL_CLEAR;
	/* over less than a fifth of a second a rate means nothing: go by the last one */
	if (last_at == 0 || TimestampDifferenceExceeds(last_at, now, 200))
	{
		XLogRecPtr	position = GetXLogInsertRecPtr();

		rate = last_at == 0 ? 0 : (position - last_position) * 1000000.0 / (now - last_at);
		last_at = now;
		last_position = position;
	}
	return rate > limit ? DW_SIGNAL_TRIPPED : DW_SIGNAL_CLEAR;
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

static DwSignalState
signal_lock_waiters(const DwSignalArgs *args)
{
	LockData   *locks = GetLockStatusData();
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *lock = &locks->locks[i];

		if (lock->waitLockMode == NoLock || lock->pid == MyProcPid || lock->waitStart == 0 ||
			!TimestampDifferenceExceeds(lock->waitStart, now, DW_WAITER_MS))
			continue;
		if (lock_is_on(lock, args->relids) || holds_lock_on(locks, lock->pid, args->relids))
			return DW_SIGNAL_TRIPPED;
	}
	return DW_SIGNAL_CLEAR;
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
}			signals[] =
{
	{"replica lag", signal_replication_lag},
	{"WAL rate", signal_wal_rate},
	{"active backends", signal_active_backends},
	{"lock waiters", signal_lock_waiters},
	{"throttle query", signal_throttle_query},
};

List *
dw_throttle_signals(int32 migration_id, List *relids, Oid owner)
{
	DwSignalArgs args = {migration_id, relids, owner};
	List	   *tripped = NIL;

	for (size_t i = 0; i < lengthof(signals); i++)
	{
		DwSignalState state = signals[i].read(&args);

		if (state == DW_SIGNAL_TRIPPED)
			tripped = lappend(tripped, pstrdup(signals[i].name));
		else if (state == DW_SIGNAL_UNREADABLE)
			tripped = lappend(tripped, psprintf("%s (unreadable)", signals[i].name));
	}
	return tripped;
}
