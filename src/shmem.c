/*
 * shmem.c: the shared memory of launcher, workers and counters.
 *
 * Preloaded, the space is reserved at server start.  Otherwise the first user takes it from what the server keeps
 * spare, which is little: fewer counters then.  Never an ERROR: this is called from an application's write.
 */
#include "postgres.h"

#include "shmem.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#define STATS_SLOTS_PRELOADED	256
#define STATS_SLOTS_SPARE		20	/* together below 48 kB; the server keeps some 100 kB for everybody */

/* The layout is part of the name: after an update without a restart, new sessions must not use the old struct. */
#define STRUCT_NAME "dualwrite 3"

static DwShared *shared = NULL;
static bool preloaded = false;
static bool refused = false;	/* there was no room: not asked again in this backend */

static shmem_request_hook_type next_shmem_request_hook = NULL;
static shmem_startup_hook_type next_shmem_startup_hook = NULL;

static int
stats_slots(void)
{
	return preloaded ? STATS_SLOTS_PRELOADED : STATS_SLOTS_SPARE;
}

static Size
shared_size(void)
{
	return add_size(offsetof(DwShared, stats), mul_size(stats_slots(), sizeof(DwStatsSlot)));
}

static void
init_shared(DwShared *fresh)
{
	memset(fresh, 0, shared_size());
	LWLockInitialize(&fresh->lock, LWLockNewTrancheId());
	for (int i = 0; i < DW_SHADOW_SLOTS; i++)
	{
		pg_atomic_init_u64(&fresh->shadow[i].used_at, 0);
		for (int c = 0; c < DW_SHADOW_NUM_COUNTERS; c++)
			pg_atomic_init_u64(&fresh->shadow[i].counters[c], 0);
	}
	fresh->nstats = stats_slots();
	for (int i = 0; i < fresh->nstats; i++)
	{
		DwStatsSlot *slot = &fresh->stats[i];

		pg_atomic_init_u32(&slot->owner, 0);
		pg_atomic_init_u64(&slot->used_at, 0);
		pg_atomic_init_u64(&slot->total_ns, 0);
		for (int c = 0; c < DW_NUM_COUNTERS; c++)
			pg_atomic_init_u64(&slot->counters[c], 0);
		for (int b = 0; b < DW_HISTOGRAM_BUCKETS; b++)
			pg_atomic_init_u64(&slot->histogram[b], 0);
	}
}

/* As contrib/pg_prewarm's apw_init_shmem: whoever comes first makes it.  ERROR when there is no room. */
static void
attach_shared(void)
{
	bool		found;
	DwShared   *struct_address;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	struct_address = ShmemInitStruct(STRUCT_NAME, shared_size(), &found);
	if (!found)
		init_shared(struct_address);
	LWLockRelease(AddinShmemInitLock);
	LWLockRegisterTranche(struct_address->lock.tranche, "dualwrite");
	shared = struct_address;
}

/*
 * The same, with a failure absorbed.  ShmemInitStruct has cleaned up after itself when it raises; what is left to undo
 * is our lock, and errfinish's having zeroed the count of held-off interrupts, which releasing a lock counts down.
 */
static void
attach_shared_or_warn(void)
{
	MemoryContext context = CurrentMemoryContext;
	uint32		interrupt_holdoff = InterruptHoldoffCount;
	uint32		cancel_holdoff = QueryCancelHoldoffCount;

	PG_TRY();
	{
		attach_shared();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (LWLockHeldByMe(AddinShmemInitLock))
		{
			InterruptHoldoffCount = interrupt_holdoff + 1;
			LWLockRelease(AddinShmemInitLock);
		}
		InterruptHoldoffCount = interrupt_holdoff;
		QueryCancelHoldoffCount = cancel_holdoff;
		refused = true;
		ereport(WARNING,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("dualwrite has no counters and starts no background work in this server"),
				 errdetail_internal("%s", error->message),
				 errhint("Add dualwrite to shared_preload_libraries and restart the server.")));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

DwShared *
dw_shared(void)
{
	if (shared == NULL && !refused && IsUnderPostmaster)
		attach_shared_or_warn();
	return shared;
}

bool
dw_preloaded(void)
{
	return preloaded;
}

static void
request_shared(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
}

static void
start_shared(void)
{
	if (next_shmem_startup_hook)
		next_shmem_startup_hook();
	shared = NULL;				/* after a crash the postmaster makes all shared memory anew */
	attach_shared();
}

void
dw_shmem_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	preloaded = true;
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shared;
}
