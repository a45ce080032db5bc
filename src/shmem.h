/*
 * shmem.h: what launcher, workers and counters share.
 *
 * One struct.  Counters are added to without a lock; everything else is read and written under its LWLock.
 */
#ifndef DW_SHMEM_H
#define DW_SHMEM_H

#include "shadowstats.h"
#include "stats.h"

#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

/* Latencies: buckets of an eighth of an octave, from 128 ns upwards; the last one holds all that took longer. */
#define DW_HISTOGRAM_BUCKETS	216

typedef struct DwStatsSlot
{
	Oid			database;		/* InvalidOid: free */
	int32		mapping_id;
	DwDirection direction;
	pg_atomic_uint32 owner;		/* counts how often the slot has changed hands: holders of its number look */
	pg_atomic_uint64 used_at;	/* TimestampTz of the last counts: the longest unused one is given away first */
	TimestampTz since;
	pg_atomic_uint64 counters[DW_NUM_COUNTERS];
	pg_atomic_uint64 total_ns;
	pg_atomic_uint64 histogram[DW_HISTOGRAM_BUCKETS];
} DwStatsSlot;

#define DW_SHADOW_SLOTS		32

/* Shadow reads of one migration, in one phase. */
typedef struct DwShadowSlot
{
	Oid			database;		/* InvalidOid: free */
	int32		migration_id;
	TimestampTz phase_since;	/* of the migration when it was counted */
	TimestampTz since;			/* counted since */
	pg_atomic_uint64 used_at;	/* as above */
	pg_atomic_uint64 counters[DW_SHADOW_NUM_COUNTERS];
} DwShadowSlot;

typedef enum DwSlotState
{
	DW_SLOT_FREE,
	DW_SLOT_WANTED,				/* to be started, not before "due" */
	DW_SLOT_STARTING,			/* registered with the postmaster */
	DW_SLOT_RUNNING
} DwSlotState;

/* What a worker process is at; the view shows it. */
typedef enum DwRole
{
	DW_ROLE_NONE,
	DW_ROLE_QUEUE,
	DW_ROLE_BACKFILL,
	DW_ROLE_INDEXES,
	DW_ROLE_RECONCILE
} DwRole;

typedef enum DwActivity
{
	DW_ACTIVITY_STARTING,
	DW_ACTIVITY_RUNNING,
	DW_ACTIVITY_WAITING,		/* for work */
	DW_ACTIVITY_THROTTLED,		/* has work, holds back */
	DW_ACTIVITY_PAUSED,
	DW_ACTIVITY_BACKING_OFF		/* after an error */
} DwActivity;

#define DW_SCOUT	0			/* migration_id of a worker that has yet to look what there is to do */

/* A background process, wanted or alive. */
typedef struct DwWorkerSlot
{
	DwSlotState state;
	Oid			database;
	int32		migration_id;
	DwRole		helps;			/* DW_ROLE_NONE: its migration's first process, which does everything; others help with this */
	int			number;			/* of the helper, from 1; 0 for the first process */
	uint32		generation;		/* a process that was started for an earlier use of the slot must not take it */
	TimestampTz due;			/* while it runs: when it wants to be started again after it exits; 0 = not said */
	TimestampTz changed_at;		/* state: last change */
	int			failures;		/* in a row */
	bool		no_room;		/* could not be started: max_worker_processes, or dualwrite.max_workers */
	bool		look;			/* look for further migrations of this database */
	bool		builds;			/* an index, which takes long and waits for others */
	volatile bool stop;			/* break that off */
	int			pid;
	PGPROC	   *proc;			/* for its latch */
	DwRole		role;
	DwActivity	activity;
	TimestampTz since;			/* role and activity: last change */
} DwWorkerSlot;

#define DW_WORKER_SLOTS		64

/* What the workers of one migration owe to its limits, together. */
typedef struct DwBudgetSlot
{
	Oid			database;		/* InvalidOid: free */
	int32		migration_id;
	TimestampTz at;				/* the amounts are as of then */
	double		rows;
	double		bytes;
} DwBudgetSlot;

#define DW_BUDGET_SLOTS		64

typedef struct DwShared
{
	LWLock		lock;
	int			launcher_pid;	/* 0: none */
	PGPROC	   *launcher_proc;
	TimestampTz launcher_asked_at;	/* a dynamic launcher was registered then */
	bool		look_everywhere;	/* an announcement found no slot: visit every database */
	bool		looked_everywhere;	/* each database was visited since the server started */
	bool		crowded;		/* dualwrite.max_workers is reached and others want to start */
	DwWorkerSlot workers[DW_WORKER_SLOTS];
	DwShadowSlot shadow[DW_SHADOW_SLOTS];
	DwBudgetSlot budgets[DW_BUDGET_SLOTS];
	int			nstats;
	DwStatsSlot stats[FLEXIBLE_ARRAY_MEMBER];
} DwShared;

/*
 * The shared struct; attached at first use where the library is not preloaded.  NULL when shared memory has no room
 * left, which is said once, as a WARNING.  Not to be called first at commit.
 */
extern DwShared *dw_shared(void);
/* Loaded by shared_preload_libraries? */
extern bool dw_preloaded(void);
extern void dw_shmem_init(void);	/* from _PG_init */

#endif							/* DW_SHMEM_H */
