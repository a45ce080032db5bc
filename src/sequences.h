/*
 * sequences.h: keys that both sides may hand out.
 */
#ifndef DW_SEQUENCES_H
#define DW_SEQUENCES_H

#include "catalog.h"

/*
 * Up to verify only the old side gives out new keys, in complete only the new side; in between, both.  Then the sequences
 * behind key columns that are one and the same value on both sides take turns: with n of them, each counts in steps of n
 * increments from a start of its own, past the highest key ever given by any.  An increment that keeps several servers
 * apart (10, offset 3) still does.  Where it starts when it is restarted (TRUNCATE … RESTART IDENTITY) is one of its own numbers,
 * too.  Leaving that state gives them back their own increments and starts, again past the highest key.
 * A sequence without a counterpart is moved past the highest key.
 *
 * It is done by ALTER SEQUENCE, under SHARE ROW EXCLUSIVE on the sequences: transactions that have drawn a number have
 * ended, numbers that sessions have cached (CACHE) are thrown away because the sequence has new storage, and a rollback
 * undoes it.  Keys that an application makes up itself are its own affair.
 */

/* Sequences that the three functions below alter: to be locked SHARE ROW EXCLUSIVE with the tables.  List of OIDs. */
extern List *dw_sequences_of(const DwMigration *migration);
extern void dw_sequences_share(const DwMigration *migration);
extern void dw_sequences_move(const DwMigration *migration);
extern void dw_sequences_restore(const DwMigration *migration);

/*
 * How few keys are left that the old side can hold, where the new side could go on beyond them: then its inserts would fail in
 * the mirror.  NULL while there are plenty.
 */
extern char *dw_sequences_shortage(const DwMigration *migration);

/* Why both sides might hand out the same key in spite of all that; NULL when they will not. */
extern char *dw_sequences_problem(const DwMigration *migration);

#endif							/* DW_SEQUENCES_H */
