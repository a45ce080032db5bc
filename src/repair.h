/*
 * repair.h: keys that differ, brought to agreement from the truth.
 */
#ifndef DW_REPAIR_H
#define DW_REPAIR_H

#include "catalog.h"
#include "utils/jsonb.h"

typedef struct DwRepair
{
	const DwMigration *migration;
	int32		mapping_id;
	bool		dry_run;		/* count what would be written, write nothing */
	bool		raise;			/* an error of a key is the caller's; otherwise a WARNING, and the key stays open */
	int			skip_level;		/* message level for keys that others are writing */
	int64		repaired;		/* result */
} DwRepair;

/* ERROR 55000 where the phase, or a rollback not yet followed by resume, forbids it. */
extern void dw_repair_check_allowed(const DwMigration *migration);

/*
 * Repair these keys (List of Jsonb *).  Waits for nobody: a key in other hands, or one with an entry in the queue that goes
 * against the truth, is left alone.  The caller has locked the migration and then the mapping's drift.
 */
extern void dw_repair_keys(DwRepair *repair, List *keys);

#endif							/* DW_REPAIR_H */
