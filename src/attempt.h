/*
 * attempt.h: background work that may fail without taking the transaction with it.
 */
#ifndef DW_ATTEMPT_H
#define DW_ATTEMPT_H

#include "absorb.h"

/*
 * Run work(arg) in a subtransaction, as background work: beside what a mirror absorbs, lock failures are reported, too.
 * true: it is done, and with undo undone again, as a trial.  false: it was undone, and *error says why.
 */
extern bool dw_attempt(void (*work) (void *arg), void *arg, bool undo, DwError *error);

/* Somebody else holds it: lock timeout, deadlock, serialization failure.  Trying again later is all that helps. */
extern bool dw_error_is_lock(int sqlstate);
/* Class 08, or it shuts down: the other end of a foreign table cannot be reached.  No row is to blame. */
extern bool dw_error_is_connection(int sqlstate);

/*
 * Settings of background work, until the end of the transaction: lock waits end long before the deadlock detector would
 * look, commits do not wait for standbys, row security raises an error instead of hiding rows, constraints are immediate.
 */
extern void dw_attempt_settings(void);

/*
 * Commit this transaction without waiting for its WAL to be written, once that of the one before it is: a crash takes one
 * commit back at most, and whoever waits for our locks waits for no disk.
 */
extern void dw_attempt_lazy_commit(void);

#endif							/* DW_ATTEMPT_H */
