/*
 * duties.h: what a worker does for its migration.
 */
#ifndef DW_DUTIES_H
#define DW_DUTIES_H

#include "shmem.h"

typedef enum DwTurn
{
	DW_TURN_GOES_ON,
	DW_TURN_PAUSED,
	DW_TURN_FINISHED			/* nothing for this process to do any more */
} DwTurn;

/* A transaction of the worker: its own memory (reset by the next begin), a snapshot.  end commits. */
extern void dw_turn_begin(void);
extern void dw_turn_end(void);
/* Is the extension there?  In a transaction. */
extern bool dw_extension_exists(void);

/*
 * Each duty that is due, for a slice of time; a process beside the first (number > 0) has but one.  *next: when another
 * will be.  Outside of transactions; raises no error.
 */
extern DwTurn dw_duties_turn(DwShared *shared, int32 migration_id, int number, TimestampTz *next);
/* Woken: what waits for work is due at once; what holds back, or has failed, is not. */
extern void dw_duties_wake(void);

#endif							/* DW_DUTIES_H */
