/*
 * walsignals.c: signals from those who have to take in what the backfill writes: standbys, slots, the archive.
 *
 * They read shared memory and the archive's directory, never a table, and wait for nobody.  A server in recovery does no
 * background work: there is nothing to hold back.
 */
#include "postgres.h"

#include "settings.h"
#include "signals.h"

#include <dirent.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

/* Marks of (time, WAL position) to date a standby's position by: one every DW_MARK_MS, so half an hour of them. */
#define DW_MARKS 360
#define DW_MARK_MS 5000

typedef struct DwWalMark
{
	TimestampTz at;
	XLogRecPtr	position;
} DwWalMark;

/* One replication slot as it is now. */
typedef struct DwSlotState
{
	bool		physical;
	bool		active;
	bool		lost;
	XLogRecPtr	restart;		/* oldest WAL that is kept for it; invalid: none */
} DwSlotState;

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
DwSignalState
dw_signal_replication_lag(const DwSignalArgs *args)
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

/* The slots of the server that outlive their session, palloc'd; their number, or -1 where they cannot be read. */
static int
read_slots(DwSlotState **slots)
{
	int			count = 0;

	*slots = palloc0(sizeof(DwSlotState) * Max(max_replication_slots, 1));
	if (max_replication_slots == 0)
		return 0;
	if (ReplicationSlotCtl == NULL)
		return -1;
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		DwSlotState *state = &(*slots)[count];

		if (!slot->in_use)
			continue;
		SpinLockAcquire(&slot->mutex);
		state->physical = SlotIsPhysical(slot);
		state->active = slot->active_pid != 0;
		state->lost = dw_slot_is_lost(slot);
		state->restart = slot->data.restart_lsn;
		if (slot->data.persistency == RS_PERSISTENT)
			count++;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(ReplicationSlotControlLock);
	return count;
}

/*
 * A standby that is away: a physical slot that nobody is connected to, and for which WAL has been kept for too long.
 * No slot remembers through a restart that somebody once used it; that WAL is kept for it is what tells, so a slot that was
 * made with its WAL reserved counts from the beginning.  A standby without a slot cannot be known once it is gone.
 */
DwSignalState
dw_signal_standby_absence(const DwSignalArgs *args)
{
	int64		limit_ms = dw_setting_int(args->migration_id, "throttle_max_standby_absence");
	TimestampTz now = GetCurrentTimestamp();
	XLogRecPtr	written;
	DwSlotState *slots;
	int			count;

	if (limit_ms <= 0 || RecoveryInProgress())
		return DW_SIGNAL_CLEAR;
	written = GetXLogInsertRecPtr();
	count = read_slots(&slots);
	for (int i = 0; i < count; i++)
	{
		TimestampTz passed_at;

		if (!slots[i].physical || slots[i].active || slots[i].lost ||
			XLogRecPtrIsInvalid(slots[i].restart) || slots[i].restart >= written)
			continue;
		passed_at = wal_passed_at(slots[i].restart, written, now);
		if (passed_at != 0 && TimestampDifferenceExceeds(passed_at, now, limit_ms))
			return DW_SIGNAL_TRIPPED;
	}
	return count < 0 ? DW_SIGNAL_UNREADABLE : DW_SIGNAL_CLEAR;
}

/*
 * WAL kept for a slot.  Where the server gives up slots at max_slot_wal_keep_size, half of that is the limit if it is less:
 * the backfill shall not be what costs somebody his slot.
 */
DwSignalState
dw_signal_slot_retention(const DwSignalArgs *args)
{
	int64		limit = dw_setting_int(args->migration_id, "throttle_max_slot_retention");
	XLogRecPtr	written;
	DwSlotState *slots;
	int			count;

	if (limit <= 0 || RecoveryInProgress())
		return DW_SIGNAL_CLEAR;
	if (max_slot_wal_keep_size_mb > 0)
		limit = Min(limit, (int64) max_slot_wal_keep_size_mb * (1024 * 1024 / 2));
	written = GetXLogInsertRecPtr();
	count = read_slots(&slots);
	for (int i = 0; i < count; i++)
	{
		XLogRecPtr	restart = slots[i].restart;

		if (!slots[i].lost && !XLogRecPtrIsInvalid(restart) && restart < written && (int64) (written - restart) > limit)
			return DW_SIGNAL_TRIPPED;
	}
	return count < 0 ? DW_SIGNAL_UNREADABLE : DW_SIGNAL_CLEAR;
}

/* A slot that was given up: somebody has lost his place, and should know before more is written. */
DwSignalState
dw_signal_lost_slot(const DwSignalArgs *args)
{
	DwSlotState *slots;
	int			count;

	if (dw_setting_int(args->migration_id, "throttle_max_slot_retention") <= 0 || RecoveryInProgress())
		return DW_SIGNAL_CLEAR;
	count = read_slots(&slots);
	for (int i = 0; i < count; i++)
		if (slots[i].lost)
			return DW_SIGNAL_TRIPPED;
	return count < 0 ? DW_SIGNAL_UNREADABLE : DW_SIGNAL_CLEAR;
}

/* WAL segments that wait for the archiver, counted up to enough; -1 where that cannot be read. */
static int64
count_ready(int64 enough)
{
	DIR		   *dir = AllocateDir(XLOGDIR "/archive_status");
	struct dirent *entry;
	int64		count = 0;

	if (dir == NULL)
		return -1;
	errno = 0;
	while (count < enough && (entry = readdir(dir)) != NULL)
	{
		size_t		length = strlen(entry->d_name);

		if (length > strlen(".ready") && strcmp(entry->d_name + length - strlen(".ready"), ".ready") == 0)
			count++;
	}
	if (errno != 0)
		count = -1;
	FreeDir(dir);
	return count;
}

/* Too much waits to be archived, or what was tried last has failed and waits still. */
DwSignalState
dw_signal_archive(const DwSignalArgs *args)
{
	int64		limit = dw_setting_int(args->migration_id, "throttle_max_archive_backlog");
	PgStat_ArchiverStats *archiver;
	int64		ready;

	if (limit <= 0 || RecoveryInProgress() || !XLogArchivingActive())
		return DW_SIGNAL_CLEAR;
	ready = count_ready(limit + 1);
	if (ready < 0)
		return DW_SIGNAL_UNREADABLE;
	archiver = pgstat_fetch_stat_archiver();
	if (ready > limit || (ready > 0 && archiver->last_failed_timestamp > archiver->last_archived_timestamp))
		return DW_SIGNAL_TRIPPED;
	return DW_SIGNAL_CLEAR;
}

/* WAL written by the whole server since this backend last asked. */
DwSignalState
dw_signal_wal_rate(const DwSignalArgs *args)
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
