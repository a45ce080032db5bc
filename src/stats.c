/*
 * stats.c: counters of the mirrors.
 *
 * A backend counts into entries of its own, one for each mapping, direction and level of subtransaction, and adds the
 * outermost to shared memory when the transaction commits.  Counting must stay far below the cost of a mirrored row:
 * no allocation, lock or look-up while the same mapping is counted again.  Nothing here may raise an error at commit.
 */
#include "postgres.h"

#include "shmem.h"
#include "stats.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

typedef struct DwPending
{
	struct DwPending *next;
	int32		mapping_id;
	DwDirection direction;
	int			level;			/* of nested transactions */
	bool		counted;		/* holds anything */
	int			slot;			/* in shared memory, when last looked up; -1: not yet */
	uint32		slot_owner;
	uint64		counters[DW_NUM_COUNTERS];
	uint64		total_ns;
	int			low;			/* buckets in use: low .. high */
	int			high;
	uint32		histogram[DW_HISTOGRAM_BUCKETS];
} DwPending;

static DwMirrored mirrored = {0};	/* of the statement that runs */
static DwPending *pending = NULL;	/* in use, innermost level first */
static DwPending *spare = NULL; /* to be used again */

/* Bucket of a time: 3 bits of mantissa below the leading one, of units of 128 ns. */
static inline int
bucket_of(uint64 ns)
{
	uint64		units = ns >> 7;
	int			exponent;
	int			bucket;

	if (units < 8)
		return (int) units;
	exponent = pg_leftmost_one_pos64(units) - 3;
	bucket = (exponent << 3) + (int) (units >> exponent);
	return Min(bucket, DW_HISTOGRAM_BUCKETS - 1);
}

/* Middle of a bucket, in ns. */
static double
bucket_middle(int bucket)
{
	int			exponent = bucket < 8 ? 0 : (bucket >> 3) - 1;
	uint64		units = bucket < 8 ? (uint64) bucket : (uint64) ((bucket & 7) + 8) << exponent;

	return ((double) units + (double) (UINT64CONST(1) << exponent) / 2) * 128;
}

static void
clear_pending(DwPending *entry)
{
	entry->counted = false;
	memset(entry->counters, 0, sizeof(entry->counters));
	entry->total_ns = 0;
	if (entry->low <= entry->high)
		memset(&entry->histogram[entry->low], 0, (entry->high - entry->low + 1) * sizeof(uint32));
	entry->low = DW_HISTOGRAM_BUCKETS;
	entry->high = -1;
}

static DwPending *
pending_find(int32 mapping_id, DwDirection direction, int level)
{
	for (DwPending *entry = pending; entry != NULL; entry = entry->next)
		if (entry->mapping_id == mapping_id && entry->direction == direction && entry->level == level)
			return entry;
	return NULL;
}

/* The entry to count into, brought to the front. */
static DwPending *
pending_get(int32 mapping_id, DwDirection direction, int level)
{
	DwPending  *entry = pending_find(mapping_id, direction, level);

	if (entry != NULL)
	{
		DwPending **link = &pending;

		while (*link != entry)
			link = &(*link)->next;
		*link = entry->next;
	}
	else
	{
		(void) dw_shared();		/* attach now: not at commit */
		if (spare != NULL)
		{
			entry = spare;
			spare = spare->next;
		}
		else
			entry = MemoryContextAllocZero(TopMemoryContext, sizeof(DwPending));
		clear_pending(entry);
		entry->mapping_id = mapping_id;
		entry->direction = direction;
		entry->level = level;
		entry->slot = -1;
	}
	entry->next = pending;
	pending = entry;
	return entry;
}

/* Under the exclusive lock: make the slot this mapping's. */
static void
slot_assign(DwStatsSlot *slot, int32 mapping_id, DwDirection direction)
{
	pg_atomic_fetch_add_u32(&slot->owner, 1);
	slot->database = MyDatabaseId;
	slot->mapping_id = mapping_id;
	slot->direction = direction;
	slot->since = GetCurrentTimestamp();
	pg_atomic_write_u64(&slot->used_at, (uint64) slot->since);
	pg_atomic_write_u64(&slot->total_ns, 0);
	for (int c = 0; c < DW_NUM_COUNTERS; c++)
		pg_atomic_write_u64(&slot->counters[c], 0);
	for (int b = 0; b < DW_HISTOGRAM_BUCKETS; b++)
		pg_atomic_write_u64(&slot->histogram[b], 0);
}

/* Under the lock: index of the mapping's slot, or -1. */
static int
slot_find(DwShared *shared, int32 mapping_id, DwDirection direction)
{
	for (int i = 0; i < shared->nstats; i++)
		if (shared->stats[i].mapping_id == mapping_id && shared->stats[i].direction == direction &&
			shared->stats[i].database == MyDatabaseId)
			return i;
	return -1;
}

/* A free slot, or else the one that has been unused for longest. */
static int
slot_choose(DwShared *shared)
{
	int			oldest = 0;

	for (int i = 0; i < shared->nstats; i++)
	{
		if (!OidIsValid(shared->stats[i].database))
			return i;
		if (pg_atomic_read_u64(&shared->stats[i].used_at) < pg_atomic_read_u64(&shared->stats[oldest].used_at))
			oldest = i;
	}
	return oldest;
}

/*
 * The slot of an entry.  Should it be given away between this and the adding, the counts of one transaction go to another
 * mapping: that is cheaper than a lock on each commit.
 */
static DwStatsSlot *
slot_of(DwShared *shared, DwPending *entry)
{
	int			i = entry->slot;

	if (i >= 0 && pg_atomic_read_u32(&shared->stats[i].owner) == entry->slot_owner)
		return &shared->stats[i];
	LWLockAcquire(&shared->lock, LW_SHARED);
	i = slot_find(shared, entry->mapping_id, entry->direction);
	LWLockRelease(&shared->lock);
	if (i < 0)
	{
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		i = slot_find(shared, entry->mapping_id, entry->direction);
		if (i < 0)
		{
			i = slot_choose(shared);
			slot_assign(&shared->stats[i], entry->mapping_id, entry->direction);
		}
		LWLockRelease(&shared->lock);
	}
	entry->slot = i;
	entry->slot_owner = pg_atomic_read_u32(&shared->stats[i].owner);
	return &shared->stats[i];
}

static void
flush_pending(DwShared *shared, DwPending *entry)
{
	DwStatsSlot *slot = slot_of(shared, entry);

	for (int c = 0; c < DW_NUM_COUNTERS; c++)
		if (entry->counters[c] != 0)
			pg_atomic_fetch_add_u64(&slot->counters[c], (int64) entry->counters[c]);
	if (entry->total_ns != 0)
		pg_atomic_fetch_add_u64(&slot->total_ns, (int64) entry->total_ns);
	for (int b = entry->low; b <= entry->high; b++)
		if (entry->histogram[b] != 0)
			pg_atomic_fetch_add_u64(&slot->histogram[b], entry->histogram[b]);
	pg_atomic_write_u64(&slot->used_at, (uint64) GetCurrentTransactionStopTimestamp());
}

/*
 * What an abort must not forget.  Failures are seldom, so the entry is searched for; its slot number is all that is
 * wanted of it.
 */
static void
count_failure(int32 mapping_id, DwDirection direction)
{
	DwShared   *shared = dw_shared();

	if (shared != NULL)
	{
		DwPending  *entry = pending_get(mapping_id, direction, GetCurrentTransactionNestLevel());
		DwStatsSlot *slot = slot_of(shared, entry);

		pg_atomic_fetch_add_u64(&slot->counters[DW_COUNT_FAILED], 1);
		pg_atomic_write_u64(&slot->used_at, (uint64) GetCurrentTimestamp());
	}
}

/* The entry of this level, which is the first one while the same mapping is counted again. */
static inline DwPending *
current_entry(int32 mapping_id, DwDirection direction)
{
	int			level = GetCurrentTransactionNestLevel();
	DwPending  *entry = pending;

	if (entry == NULL || entry->mapping_id != mapping_id || entry->direction != direction || entry->level != level)
		entry = pending_get(mapping_id, direction, level);
	entry->counted = true;
	return entry;
}

/* One row event of the statement that runs. */
static inline void
note_mirrored(int32 mapping_id, DwDirection direction, int64 n)
{
	for (int i = 0; i < mirrored.count; i++)
		if (mirrored.mappings[i].mapping_id == mapping_id && mirrored.mappings[i].direction == direction)
		{
			mirrored.mappings[i].rows += n;
			return;
		}
	if (mirrored.count == DW_STATS_MEMORY)
		return;
	mirrored.mappings[mirrored.count].mapping_id = mapping_id;
	mirrored.mappings[mirrored.count].direction = direction;
	mirrored.mappings[mirrored.count++].rows = n;
}

DwMirrored
dw_stats_begin(void)
{
	DwMirrored	before = mirrored;

	mirrored.count = 0;
	mirrored.ns = 0;
	return before;
}

DwMirrored
dw_stats_end(const DwMirrored *before)
{
	DwMirrored	noted = mirrored;

	mirrored = *before;
	return noted;
}

void
dw_stats_own(const DwMirrored *noted, uint64 ns)
{
	uint64		own = ns > noted->ns ? ns - noted->ns : 0;

	for (int i = 0; i < noted->count; i++)
		if (noted->mappings[i].rows > 0)
			dw_stats_time(noted->mappings[i].mapping_id, DW_OWN_WRITES(noted->mappings[i].direction),
						  noted->mappings[i].rows, own / noted->mappings[i].rows);
}

void
dw_stats_count(int32 mapping_id, DwDirection direction, DwCounter counter, int64 n)
{
	if (counter == DW_COUNT_FAILED)
		count_failure(mapping_id, direction);
	else
		current_entry(mapping_id, direction)->counters[counter] += n;
	if (counter <= DW_COUNT_SKIPPED)
		note_mirrored(mapping_id, direction, n);
}

void
dw_stats_time(int32 mapping_id, DwDirection direction, int64 n, uint64 ns)
{
	DwPending  *entry = current_entry(mapping_id, direction);
	int			bucket = bucket_of(ns);

	mirrored.ns += ns * n;
	entry->total_ns += ns * n;
	entry->histogram[bucket] += n;
	entry->low = Min(entry->low, bucket);
	entry->high = Max(entry->high, bucket);
}

uint64
dw_stats_since(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return dw_stats_between(start, now);
}

uint64
dw_stats_between(instr_time start, instr_time end)
{
	INSTR_TIME_SUBTRACT(end, start);
	return (uint64) (INSTR_TIME_GET_DOUBLE(end) * 1e9);
}

/* The subtransaction has become part of its parent, and so have its counts. */
static void
merge_pending(DwPending *into, const DwPending *from)
{
	into->counted |= from->counted;
	for (int c = 0; c < DW_NUM_COUNTERS; c++)
		into->counters[c] += from->counters[c];
	into->total_ns += from->total_ns;
	for (int b = from->low; b <= from->high; b++)
		into->histogram[b] += from->histogram[b];
	into->low = Min(into->low, from->low);
	into->high = Max(into->high, from->high);
}

static void
end_of_subtransaction(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			level;
	DwPending **link = &pending;

	(void) subid;
	(void) parent;
	(void) arg;
	if (pending == NULL || (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
		return;
	level = GetCurrentTransactionNestLevel();
	while (*link != NULL)
	{
		DwPending  *entry = *link;

		if (entry->level < level)
		{
			link = &entry->next;
			continue;
		}
		if (event == SUBXACT_EVENT_COMMIT_SUB)
		{
			DwPending  *outer = pending_find(entry->mapping_id, entry->direction, level - 1);

			if (outer == NULL)
			{
				entry->level = level - 1;
				link = &entry->next;
				continue;
			}
			merge_pending(outer, entry);
		}
		*link = entry->next;
		entry->next = spare;
		spare = entry;
	}
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	DwShared   *shared;

	(void) arg;
	if (pending == NULL ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_PREPARE && event != XACT_EVENT_ABORT))
		return;
	shared = dw_shared();
	/* Entries stay for the next transaction, which most likely counts the same; those of levels below are dropped. */
	for (DwPending **link = &pending; *link != NULL;)
	{
		DwPending  *entry = *link;

		if (entry->counted && event != XACT_EVENT_ABORT && shared != NULL && entry->level == 1)
			flush_pending(shared, entry);
		if (entry->counted)
			clear_pending(entry);
		if (entry->level == 1)
			link = &entry->next;
		else
		{
			*link = entry->next;
			entry->next = spare;
			spare = entry;
		}
	}
}

/* Time below which the share lies, in us; negative when nothing was timed. */
static double
percentile(const uint64 *histogram, uint64 total, double share)
{
	uint64		wanted = (uint64) (share * (double) total);
	uint64		seen = 0;

	for (int b = 0; b < DW_HISTOGRAM_BUCKETS; b++)
	{
		seen += histogram[b];
		if (seen > wanted)
			return bucket_middle(b) / 1000;
	}
	return -1;
}

bool
dw_stats_get(int32 mapping_id, DwDirection direction, DwStatsEntry *entry)
{
	DwShared   *shared = dw_shared();
	uint64		histogram[DW_HISTOGRAM_BUCKETS];
	uint64		timed = 0;
	int			i;

	if (shared == NULL)
		return false;
	LWLockAcquire(&shared->lock, LW_SHARED);
	i = slot_find(shared, mapping_id, direction);
	if (i >= 0)
	{
		DwStatsSlot *slot = &shared->stats[i];

		for (int c = 0; c < DW_NUM_COUNTERS; c++)
			entry->counters[c] = (int64) pg_atomic_read_u64(&slot->counters[c]);
		entry->total_ms = (double) pg_atomic_read_u64(&slot->total_ns) / 1e6;
		entry->since = slot->since;
		for (int b = 0; b < DW_HISTOGRAM_BUCKETS; b++)
			timed += histogram[b] = pg_atomic_read_u64(&slot->histogram[b]);
	}
	LWLockRelease(&shared->lock);
	if (i < 0)
		return false;
	entry->p50_us = percentile(histogram, timed, 0.50);
	entry->p99_us = percentile(histogram, timed, 0.99);
	return true;
}

void
dw_stats_reset(int32 mapping_id)
{
	DwShared   *shared = dw_shared();

	if (shared == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int direction = DW_FORWARD; direction <= (int) DW_OWN_WRITES(DW_REVERSE); direction++)
	{
		int			i = slot_find(shared, mapping_id, (DwDirection) direction);

		if (i >= 0)
			slot_assign(&shared->stats[i], mapping_id, (DwDirection) direction);
	}
	LWLockRelease(&shared->lock);
}

void
dw_stats_init(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
}
