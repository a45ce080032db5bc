/*
 * heaps.h: the relations under a table that hold its rows.
 */
#ifndef DW_HEAPS_H
#define DW_HEAPS_H

#include "dualwrite.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/* The table itself, then its partitions at all levels, locked as asked; list of OIDs; NIL when it is gone. */
extern List *dw_heaps_of(Oid relid, LOCKMODE lock);
/* Is the table, or one of its partitions, on another server?  Then only statements read and write it. */
extern bool dw_is_foreign(Oid relid);

#endif							/* DW_HEAPS_H */
