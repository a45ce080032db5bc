/*
 * swap.h: the new table takes the old one's name, and gives it back.
 */
#ifndef DW_SWAP_H
#define DW_SWAP_H

#include "catalog.h"

/* Does a step to cutover swap names?  The setting says so, and they are not swapped yet. */
extern bool dw_swap_wanted(const DwMigration *migration);

/*
 * Relations to be locked ACCESS EXCLUSIVE for a swap, or for the way back, without their partitions; list of OIDs, tables first:
 * in the order old, new for a swap and new, old for the way back, as writers have it then.
 */
extern List *dw_swap_locks(const DwMigration *migration);

/*
 * Swap names, with all that follows them, and note how to take it back.  What cannot follow stays with the old table: gates have
 * refused it, or were waived.  The caller holds the locks.  Any error is an error of the change of phase.
 */
extern void dw_swap_names(const DwMigration *migration);
/*
 * Take it back.  ERROR 55000 where somebody has renamed one of the tables since, and whatever the server raises where a name
 * is taken; what else cannot be taken back becomes a WARNING with the statement to run by hand.
 */
extern void dw_swap_names_back(const DwMigration *migration);
/* There is no way back any more: forget it. */
extern void dw_swap_forget(const DwMigration *migration);

#endif							/* DW_SWAP_H */
