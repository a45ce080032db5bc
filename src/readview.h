/*
 * readview.h: views that read from whichever side serves.
 */
#ifndef DW_READVIEW_H
#define DW_READVIEW_H

#include "catalog.h"

/*
 * Create a view of the columns of one table of the migration (new_table, or InvalidOid where there is only one; shape
 * "old": the old table that goes with it), as the current user, and note it as a read view.  name: possibly qualified,
 * as it would be written in SQL.  Returns the view.  Raises NOTICEs that name the indexes it lacks.
 * ERROR 22023 for words that are no strategy or shape, or a table that cannot be chosen; 42P07 when the name is taken.
 */
extern Oid	dw_read_view_create(const DwMigration *migration, const char *name, Oid new_table,
								const char *strategy, const char *shape);
/* What such a view of a target (the new table forward, the old one in reverse) says.  The caller has pinned the search_path. */
extern char *dw_read_view_text(const DwMigration *migration, Oid target, DwDirection direction, const char *strategy);
/* The table that a read view has the columns of. */
typedef struct DwViewTarget
{
	const DwMigration *migration;
	Oid			table;
	DwDirection direction;		/* that leads to it: forward for shape "new" */
	List	   *key_columns;	/* char *: what its rows are named by */
	List	   *mapped_columns; /* char *: what the other side has of them, too */
} DwViewTarget;

/* ERROR 42809 where the relation is no read view. */
extern DwViewTarget *dw_read_view_target(Oid view);
/* Drop one, as the current user.  ERROR 42P01 where there is none, 42809 where it is something else. */
extern void dw_read_view_drop(const char *name);

/* Views of a migration that still exist; list of OIDs. */
extern List *dw_read_views_of(int32 migration_id);
/*
 * Make them plain views of the new side, which then depend on nothing of the extension and not on the old table.
 * Takes ACCESS EXCLUSIVE on each: the caller locks them (dw_read_views_of) with its other relations, politely.
 */
extern void dw_read_views_complete(int32 migration_id);

#endif							/* DW_READVIEW_H */
