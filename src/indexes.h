/*
 * indexes.h: secondary indexes of new tables, taken away before a copy and owed after it.
 */
#ifndef DW_INDEXES_H
#define DW_INDEXES_H

#include "catalog.h"

/*
 * New tables of the migration whose indexes are to be taken away for a copy that begins now: list of OIDs, each to be locked
 * ACCESS EXCLUSIVE.  NIL where setting backfill_indexes says keep.
 */
extern List *dw_indexes_to_take(const DwMigration *migration);
/* Take them away and write them down, in the caller's transaction, which holds those locks; says so. */
extern void dw_indexes_take(const DwMigration *migration, List *tables);

/* What is owed: indexes of tables that are there and that are not built again, or not followed by an ANALYZE. */
typedef struct DwIndexesOwed
{
	int64		all;			/* that were taken away */
	int64		away;
	int64		failing;		/* of those: more than once in a row */
	bool		analyze;		/* some table has yet to be analyzed */
	char	   *example;		/* the last failure, without its message, which may hold values of rows; NULL: none */
} DwIndexesOwed;

/* false: nothing. */
extern bool dw_indexes_owed(int32 migration_id, DwIndexesOwed *owed);
/* Is an index of this table still owed? */
extern bool dw_indexes_away_from(Oid table);
/* ERROR 55000 while one is: who drops the migration, or a mapping, would lose its definition. */
extern void dw_indexes_check_drop(const DwMigration *migration);

#endif							/* DW_INDEXES_H */
