/*
 * follow.c: mappings that start where another one ends.
 *
 * The engines leave our own triggers out, so a row that is written to a table that is itself a source is not mirrored
 * any further by itself: whoever writes it asks here who has to follow.
 */
#include "postgres.h"

#include "follow.h"

#include "access/table.h"
#include "utils/rel.h"

static bool
is_other(const DwCompiled *other, const DwFlow *flow)
{
	return other->mapping_id != flow->compiled->mapping_id && other->phase < DW_PHASE_COMPLETE && !other->broken;
}

List *
dw_followers_of(const DwFlow *flow)
{
	Relation	rel = table_open(flow->target, RowExclusiveLock);
	DwTable    *table = dw_table_get(rel);
	List	   *followers = NIL;
	ListCell   *lc;

	foreach(lc, table->as_old)
		if (is_other(lfirst(lc), flow))
			followers = lappend(followers, &((DwCompiled *) lfirst(lc))->flow[DW_FORWARD]);
	foreach(lc, table->as_new)
		if (is_other(lfirst(lc), flow) && ((DwCompiled *) lfirst(lc))->phase >= DW_PHASE_READ_SWITCH)
			followers = lappend(followers, &((DwCompiled *) lfirst(lc))->flow[DW_REVERSE]);
	table_close(rel, NoLock);
	return followers;
}
