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
	char	   *detail;
	char	   *next_step;		/* what to do about it */
} DwGate;

/* Gates for the step from the migration's phase to the one above; list of DwGate.  Reads newest committed state. */
extern List *dw_gates_check(const DwMigration *migration);

#endif							/* DW_GATES_H */
