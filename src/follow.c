/*
 * follow.c: mappings that start where another one ends.
 *
 * The engines leave our own triggers out, so a row that is written in the background is not mirrored any further.  Where
 * its table is itself a source, the key is queued for those mappings: agreement comes a moment later, as it does for
 * the row itself.
 */
#include "postgres.h"

#include "follow.h"
#include "queue.h"

#include "access/table.h"
#include "utils/rel.h"

static bool
is_other(const DwCompiled *other, const DwFlow *flow)
{
	return other->mapping_id != flow->compiled->mapping_id && other->phase < DW_PHASE_COMPLETE;
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

void
dw_follow_later(List *followers, DwFlow *flow, const DwKey *key)
{
	DwKey		target_key;
	ListCell   *lc;

	if (followers == NIL || !dw_target_key(flow, key, &target_key))
		return;
	foreach(lc, followers)
	{
		DwFlow	   *next = lfirst(lc);
		DwKey		next_key = target_key;

		if (next->direction == DW_REVERSE || dw_key_of_old(next->compiled, &target_key, &next_key))
			dw_queue_append(next, &next_key, 0, NULL);
	}
}
