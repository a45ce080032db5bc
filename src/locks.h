/*
 * locks.h: strong locks, politely.
 */
#ifndef DW_LOCKS_H
#define DW_LOCKS_H

#include "dualwrite.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/* A relation to be locked, with its partitions at all levels. */
typedef struct DwLockWish
{
	Oid			relid;
	LOCKMODE	mode;			/* of the whole tree; NoLock: only the root is wanted */
	LOCKMODE	root_mode;		/* of the root; never weaker than mode */
} DwLockWish;

/* Append a wish, or strengthen the one that is there; the order of first wishes is kept.  NoLock adds nothing. */
extern List *dw_lock_wish(List *wishes, Oid relid, LOCKMODE mode);
/* The same without partitions, for what is done to the relation alone; a wish for the whole tree stays one. */
extern List *dw_lock_wish_alone(List *wishes, Oid relid, LOCKMODE mode);

/*
 * Lock everything in a list of DwLockWish within one budget of time, retrying from scratch after pauses in which none of
 * it is held.  Partitions need not be named.  Relations that are gone are passed over.  Gives up with 55P03, which
 * names the table and, in DETAIL, each blocker's pid, application, state and age, or its gid when it is a prepared transaction.
 */
extern void dw_lock_wishes(List *wishes, int budget_ms, int attempts);
/* The same for a list of OIDs and one mode. */
extern void dw_lock_politely(List *relids, LOCKMODE mode, int budget_ms, int attempts);

/* One attempt.  false: somebody is in the way, and nothing is held. */
extern bool dw_lock_attempt(List *wishes, int budget_ms);

/* Budget of one attempt for a migration: setting lock_timeout_ms, but always less than half of deadlock_timeout. */
extern int	dw_lock_budget(int32 migration_id);
/* Attempts that a control function makes before it gives up: with their pauses, 3 to 15 seconds. */
#define DW_LOCK_TRIES	8

/*
 * Say, until the end of the transaction, that somebody other than the extension writes the new side: for the reverse mirror.
 * Costs a look-up of a lock already held from the second row on.
 */
extern void dw_note_new_side_writer(int32 migration_id);
/* Who does, as text for DETAIL: roles and pids; NULL when nobody does at this moment. */
extern char *dw_new_side_writers(int32 migration_id);

#endif							/* DW_LOCKS_H */
