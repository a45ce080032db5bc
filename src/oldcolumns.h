/*
 * oldcolumns.h: the old columns of tables whose columns move inside them.
 */
#ifndef DW_OLDCOLUMNS_H
#define DW_OLDCOLUMNS_H

#include "catalog.h"

/* Names (char *) of the columns that go with the old side, those that reverse names, as far as the table still has them. */
extern List *dw_old_columns_of(const DwMapping *mapping);

/*
 * At complete nobody fills the old columns any more: they may be null from here on.  The caller holds ACCESS EXCLUSIVE locks on the
 * tables of the migration with all their partitions.
 */
extern void dw_old_columns_relax(const DwMigration *migration);

/* What would go with the old columns although it also has to do with others; a line each, NULL when there is nothing. */
extern char *dw_old_columns_shared(const DwMapping *mapping, List *columns);

#endif							/* DW_OLDCOLUMNS_H */
