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
	int64		bundle;			/* dw_repair_bundle: the last one */
	List	   *given;			/* the keys of the call under way */
	List	   *left;			/* result of the last call: keys (of those given) that could not be done */
} DwRepair;

/* ERROR 55000 where the phase, or a rollback not yet followed by resume, forbids it. */
extern void dw_repair_check_allowed(const DwMigration *migration);

/*
 * Repair these keys (List of Jsonb *).  Waits for nobody: a key in other hands, or one with an entry in the queue that goes
 * against the truth, is left alone.  The caller has locked the migration and then the mapping's drift.
 */
extern void dw_repair_keys(DwRepair *repair, List *keys);
/* One key, likewise, wherever it is listed. */
extern void dw_repair_single(DwRepair *repair, Jsonb *key);
/*
 * Repair the next bundle of keys, likewise.  Those that cannot be done get rows of their own.  false: there is none.
 */
extern bool dw_repair_bundle(DwRepair *repair);

#endif							/* DW_REPAIR_H */
