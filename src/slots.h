/*
 * slots.h: which background processes are wanted, and which run.
 */
#ifndef DW_SLOTS_H
#define DW_SLOTS_H

#include "shmem.h"

/* What a worker is told when it is started (bgw_extra). */
typedef struct DwStart
{
	int			slot;
	uint32		generation;
	Oid			database;
} DwStart;

/* What a process is there for. */
typedef struct DwPost
{
	int32		migration_id;	/* DW_SCOUT: it has yet to look */
	DwRole		helps;			/* DW_ROLE_NONE: everything; else this role alone, beside the migration's first process */
	int			number;			/* of the helper, from 1; 0 for the first process */
} DwPost;

/*
 * Wake the workers of a database, or have one started that looks what there is to do.  Returns true when there is no
 * launcher to start it and the caller shall see to that: it alone is told so, for a while.
 */
extern bool dw_slots_wake(DwShared *shared, Oid database);
/* The same for a database where nobody is known to want anything; only where it has no slot.  false: no slot is free. */
extern bool dw_slots_visit(DwShared *shared, Oid database);
/* A slot for each of these migrations of this database that has none. */
extern void dw_slots_add(DwShared *shared, const int32 *migrations, int n);

/*
 * So many helpers for one role of a migration of this database, neither fewer nor more: those that are missing are asked
 * for, those that are asked for and not started yet are given up.  One that runs and is too many leaves by itself.
 * Returns how many of them could not be started: no process is free.
 */
extern int	dw_slots_help(DwShared *shared, int32 migration_id, DwRole role, int helpers);
/*
 * Processes at work in this role on a migration of this database: its helpers and the first process, and this one in any
 * case.  Their pids go into pids, which takes DW_WORKER_SLOTS + 1 (NULL: not asked for).
 */
extern int	dw_slots_sharing(DwShared *shared, int32 migration_id, DwRole role, int *pids);

/* Processes of this database that build an index for this migration (0: any) shall break that off. */
extern void dw_slots_stop_builds(DwShared *shared, Oid database, int32 migration_id);
/* The first database after this one in which an index is built; InvalidOid: none. */
extern Oid	dw_slots_next_build(DwShared *shared, Oid after);

/* No process for this database any more: it is gone. */
extern void dw_slots_forget(DwShared *shared, Oid database);
extern bool dw_slots_running(DwShared *shared, Oid database, int32 migration_id);

/* For the process in a slot.  Attach: false when the slot is no longer meant for it.  Exits detach by themselves. */
extern bool dw_slot_attach(DwShared *shared, const DwStart *start, DwPost *post);
/* Processes in this slot that were ended by somebody or by an error, in a row, before this one. */
extern int	dw_slot_failures(DwShared *shared);
/* A scout takes on the first of these migrations that has no slot; DW_SCOUT: there is none. */
extern int32 dw_slot_adopt(DwShared *shared, const int32 *migrations, int n);
/*
 * Nothing left to do: gives the slot up, unless somebody has asked to look again in the meantime.  The first process of a
 * migration gives those of helpers up that have not been started.
 */
extern bool dw_slot_finish(DwShared *shared);
/* Leave at the next exit, to be started again then. */
extern void dw_slot_yield(DwShared *shared, TimestampTz due);
/* Show what the process is doing; locks only for a change. */
extern void dw_slot_show(DwShared *shared, DwRole role, DwActivity activity);
/* This process begins, or ends, to build an index; stopped: it shall break that off.  The latter may be asked in a signal handler. */
extern void dw_slot_build(DwShared *shared, bool builds);
extern bool dw_slot_stopped(void);
/* Was this process asked to look again?  ask asks itself, look answers and clears it. */
extern void dw_slot_ask(DwShared *shared);
extern bool dw_slot_asked(const DwShared *shared);
extern bool dw_slot_look(DwShared *shared);

extern const char *dw_role_name(DwRole role);
extern const char *dw_activity_name(DwActivity activity);

/* Change of state, under the lock. */
extern void dw_slot_set(DwWorkerSlot *slot, DwSlotState state, TimestampTz due);

#endif							/* DW_SLOTS_H */
