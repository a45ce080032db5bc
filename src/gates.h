/*
 * gates.h: what has to hold before a migration climbs.
 */
#ifndef DW_GATES_H
#define DW_GATES_H

#include "catalog.h"

typedef struct DwGate
{
	const char *name;
	bool		passed;
	bool		judgement;		/* may be waived or forced: its breach loses no data */
	bool		waitable;		/* background work or time can make it pass */
	bool		background;		/* background work it is, so that pause holds it up */
	char	   *detail;			/* how things stand, no full stop */
	char	   *next_step;		/* what to do about it, as the status view words it */
} DwGate;

/*
 * Gates for the step from the migration's phase to the one above; list of DwGate, without those that do not apply.
 * Reads newest committed state.  Takes ACCESS SHARE on the tables for the definition, if it gets it at once.
 */
extern List *dw_gates_check(const DwMigration *migration);
/* Those of a list that are not passed. */
extern List *dw_gates_unmet(List *gates);

/* Is there a gate of that name, on any rung?  judgement: may it be waived? */
extern bool dw_gate_known(const char *name, bool *judgement);
/* Names of all gates that may be waived, for hints. */
extern char *dw_gates_waivable(void);

/* Gates as text for DETAIL, one a line; the text for HINT that goes with the first that needs the user. */
extern char *dw_gates_detail(List *unmet);
extern char *dw_gates_hint(List *unmet);

/* What to do now, whatever the phase, as the status view words it. */
extern char *dw_next_step(const DwMigration *migration);

/* Rows compared, and those that differ, by the last finished passes of this epoch; false before there are any. */
extern bool dw_rows_compared(const DwMigration *migration, int64 *compared, int64 *differ);

#endif							/* DW_GATES_H */
