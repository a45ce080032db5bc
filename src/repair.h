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
	int			warnings;		/* keys whose errors were told */
	int64		tried;			/* result of dw_repair_next: keys that were looked at */
	Jsonb	   *after;			/* dw_repair_next: the last key with a row of its own */
	MemoryContext memory;		/* where that is kept; NULL: the current one */
	bool		singles_done;	/* dw_repair_next: there is none behind it */
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
/* The next of the mapping's open keys, at most so many with rows of their own, or a bundle.  false: all have been looked at. */
extern bool dw_repair_next(DwRepair *repair, int limit);
/* The audit's record of a repair of this many keys; key: of this one, or NULL. */
extern void dw_repair_record(const DwMigration *migration, Jsonb *key, int64 repaired);

#endif							/* DW_REPAIR_H */
