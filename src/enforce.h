/*
 * enforce.h: constraints that the new side should have, on their way there.
 */
#ifndef DW_ENFORCE_H
#define DW_ENFORCE_H

#include "catalog.h"

/* A duty of the worker: one look, or one step, of one constraint.  next_due as for dw_deliver_step. */
extern DwStep dw_enforce_step(const DwMigration *migration, TimestampTz *next_due);

/* How things stand, over all mappings of a migration. */
typedef struct DwEnforced
{
	int64		all;
	int64		unmet;
	int64		violated;		/* of those: rows are known to be in the way */
	char	   *example;		/* of those, or of the unmet, in words */
} DwEnforced;

extern DwEnforced dw_enforced(const DwMigration *migration);

/* Look at all of them again, now. */
extern void dw_enforce_request(const DwMigration *migration);
/* Our own constraints go from all new tables; the caller holds ACCESS EXCLUSIVE on them. */
extern void dw_enforce_retract(const DwMigration *migration);

#endif							/* DW_ENFORCE_H */
