/*
 * triggers.h: our triggers on users' tables.
 */
#ifndef DW_TRIGGERS_H
#define DW_TRIGGERS_H

#include "dualwrite.h"

/*
 * See to it that a table and its partitions carry those of our triggers that some migration, in the phase that it has now, needs
 * on it, ENABLE ALWAYS; what is right already stays as it is.
 * Returns the number of triggers made or enabled.  The caller holds SHARE ROW EXCLUSIVE on all of them.
 */
extern int	dw_triggers_install(Oid table);
/* Drop those that no migration needs any more.  The caller holds ACCESS EXCLUSIVE on the table and its partitions. */
extern void dw_triggers_remove(Oid table);
/* Does any migration, in the phase that it has now, need one of them on this table? */
extern bool dw_triggers_needed(Oid table);
/* What is needed, but missing or not firing, on a table or its partitions, in words; NULL when all is well. */
extern char *dw_triggers_problem(Oid table);

#endif							/* DW_TRIGGERS_H */
