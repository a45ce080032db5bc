/*
 * kept.c: targets that are kept from one statement of the application to the next.
 *
 * Working out what has to be known of a table in order to write it (columns, indexes, triggers, how to look for a key)
 * costs as much as the write itself, and most statements write one row.  A kept target holds no lock, no reference to a
 * relation and no pin: only memory, which belongs to its mapping.  It is thrown away when any of its relations has
 * changed, which is found out after they have been locked again.
 *
 * Nothing of a transaction may be kept: what runs code of users, which keeps what it likes, is not.
 */
#include "postgres.h"

#include "kept.h"

#include "catalog/pg_am.h"
#include "lib/ilist.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

typedef struct DwKept
{
	dlist_node	node;			/* in "all", while kept */
	DwTarget   *target;			/* NULL while a statement has it */
	bool		stale;
	MemoryContextCallback callback;
} DwKept;

static dlist_head all = DLIST_STATIC_INIT(all);

static bool
concerns(DwTarget *target, Oid relid)
{
	DwLeaf	   *leaf = linitial(target->lookup->leaves);

	if (relid == InvalidOid || relid == leaf->relid || relid == leaf->index_oid)
		return true;
	for (int i = 0; leaf->indexes != NULL && i < leaf->rri->ri_NumIndices; i++)
		if (relid == leaf->indexes[i])
			return true;
	return false;
}

static void
relcache_callback(Datum arg, Oid relid)
{
	dlist_iter	iter;

	(void) arg;
	dlist_foreach(iter, &all)
	{
		DwKept	   *kept = dlist_container(DwKept, node, iter.cur);

		if (concerns(kept->target, relid))
			kept->stale = true;
	}
}

/* The mapping's memory goes. */
static void
forget(void *arg)
{
	DwKept	   *kept = arg;

	if (kept->target != NULL)
		dlist_delete(&kept->node);
}

/* The flow's place for a target. */
static DwKept *
place_of(DwFlow *flow)
{
	if (flow->kept == NULL)
	{
		DwKept	   *kept = MemoryContextAllocZero(flow->compiled->context, sizeof(DwKept));

		kept->callback.func = forget;
		kept->callback.arg = kept;
		MemoryContextRegisterResetCallback(flow->compiled->context, &kept->callback);
		flow->kept = kept;
	}
	return flow->kept;
}

DwTarget *
dw_kept_take(DwFlow *flow)
{
	DwKept	   *kept = place_of(flow);
	DwTarget   *target = kept->target;

	if (target == NULL)
		return dw_target_open(flow, true);

	/* it stays kept until it is whole again, and to hear of changes; from then on an error frees it with the statement */
	dw_lookup_take_up(target->lookup);
	dlist_delete(&kept->node);
	kept->target = NULL;
	MemoryContextSetParent(target->context, CurrentMemoryContext);
	if (!kept->stale)
		return target;
	dw_target_close(target);
	return dw_target_open(flow, true);
}

/* An index of another access method may keep things of the statement with what is known about it. */
static bool
has_plain_indexes(DwLeaf *leaf)
{
	for (int i = 0; leaf->writable && i < leaf->rri->ri_NumIndices; i++)
		if (leaf->rri->ri_IndexRelationDescs[i]->rd_rel->relam != BTREE_AM_OID)
			return false;
	return true;
}

static bool
has_user_triggers(ResultRelInfo *rri)
{
	TriggerDesc *triggers = rri->ri_TrigDesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (triggers->triggers[i].tgenabled != TRIGGER_DISABLED && !triggers->triggers[i].tgisinternal)
			return true;
	return false;
}

static bool
can_be_kept(DwTarget *target)
{
	DwLookup   *lookup = target->lookup;
	DwLeaf	   *leaf;

	if (!target->flow->compiled->valid || target->pinned || lookup == NULL || lookup->partitioned ||
		list_length(lookup->leaves) != 1)
		return false;
	leaf = linitial(lookup->leaves);
	return has_plain_indexes(leaf) && !has_user_triggers(leaf->rri);
}

void
dw_kept_give_back(DwTarget *target)
{
	DwKept	   *kept = place_of(target->flow);

	if (kept->target != NULL || !can_be_kept(target))
	{
		dw_target_close(target);
		return;
	}
	ExecClearTuple(target->row);
	ExecClearTuple(target->old_row);
	MemoryContextReset(target->row_context);
	dw_lookup_let_go(target->lookup);
	MemoryContextSetParent(target->context, target->flow->compiled->context);
	target->scope = NULL;
	kept->target = target;
	kept->stale = false;
	dlist_push_head(&all, &kept->node);
}

void
dw_kept_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
}
