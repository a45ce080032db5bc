/*
 * duties.h: what a worker does for its migration.
 */
#ifndef DW_DUTIES_H
#define DW_DUTIES_H

#include "slots.h"

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
 * Each duty that is due, for a slice of time; a helper has but those of its role.  *next: when another will be.  Outside of
 * transactions; raises no error.
 *
 * A duty that several processes may share names in the table of duties the setting that says how many, and a function that
 * says how many could find something to do just now.  The first process asks for the helpers.  Of the step function this
 * asks that each call claims what it works on (a row lock, SKIP LOCKED) until its transaction ends, and returns WAIT where
 * all is claimed, IDLE or DONE where nothing is left: then a helper leaves.
 */
extern DwTurn dw_duties_turn(DwShared *shared, const DwPost *post, TimestampTz *next);
/* Woken: what waits for work is due at once; what holds back, or has failed, is not. */
extern void dw_duties_wake(void);
/* Read the configuration again if the server was told to, which wakes, too.  Outside of transactions; false: it was not. */
extern bool dw_duties_reconfigure(void);

#endif							/* DW_DUTIES_H */
