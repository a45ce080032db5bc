/*
 * heaps.c: the relations under a table that hold its rows.
 *
 * Looks at the system catalogs only.
 */
#include "postgres.h"

#include "heaps.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* The table first, then its leaves and intermediate partitions in the order of their OIDs. */
List *
dw_heaps_of(Oid relid, LOCKMODE lock)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return NIL;
	if (lock != NoLock)
		LockRelationOid(relid, lock);
	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(relid);
	return find_all_inheritors(relid, lock, NULL);
}

bool
dw_is_foreign(Oid relid)
{
	ListCell   *lc;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE;
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			return true;
	return false;
}
