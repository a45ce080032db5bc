/*
 * otherside.h: a query of the old table, made to read the new one.
 */
#ifndef DW_OTHERSIDE_H
#define DW_OTHERSIDE_H

#include "catalog.h"

#include "nodes/params.h"
#include "nodes/parsenodes.h"

/* A statement as it was sent, and what it shall be made of. */
typedef struct DwReadText
{
	const char *source;			/* text of the statement, or of several */
	int			location;		/* of the statement in it, as in PlannedStmt */
	int			length;
	ParamListInfo params;		/* may be NULL */
	const DwMigration *migration;
	Oid			old_table;
} DwReadText;

/*
 * The statement analysed and rewritten as the caller, for planning; NULL where the answers of two sides that agree need not be
 * the same: it is more than a read, its rows depend on the order in which they are met, or it looks at what only the old
 * side has.
 */
extern Query *dw_comparable_query(const DwReadText *read);

/*
 * Replace the old table by the rows of the new side, in place.  false: that would run functions of users, which a reader of
 * the old table has not asked for.  The caller's rights and row security hold for the new tables.
 */
extern bool dw_read_other_side(Query *query, const DwReadText *read);

#endif							/* DW_OTHERSIDE_H */
