/*
 * viewquery.h: the text of a read view.
 */
#ifndef DW_VIEWQUERY_H
#define DW_VIEWQUERY_H

#include "catalog.h"
#include "access/tupdesc.h"

/* What a view is made from. */
typedef struct DwViewPlan
{
	const DwMigration *migration;
	List	   *mappings;		/* of DwMapping: all of the migration that make rows of the target */
	DwDirection direction;		/* that leads to the target: forward for shape "new" */
	Oid			target;
	TupleDesc	columns;		/* that the view is to have */
	const char *name;			/* of the view, for notices */
} DwViewPlan;

/* The query of the view.  ERROR 22023 for a word that is no strategy. */
extern char *dw_view_query(const DwViewPlan *plan, const char *strategy);
/* The new side alone, in the fewest words: what is left of a read view when the migration is complete. */
extern char *dw_view_plain_query(const DwViewPlan *plan);
/* NOTICEs that name the indexes by which the other side's rows could be looked up as the target's can. */
extern void dw_view_advise_indexes(const DwViewPlan *plan);

#endif							/* DW_VIEWQUERY_H */
