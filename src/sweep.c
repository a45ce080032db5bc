/*
 * sweep.c: many rows of a table removed in the order of the index of its key.
 *
 * To look for each key by itself costs more than to delete its row.  In the order of the index a look-up mostly goes on where
 * the last one has ended (stride.c).
 *
 * A look-up may overlook a row; so "not there" is left to the caller's to confirm, and so is every row that is in anybody
 * else's hands.  It never waits, since it rests on a page of the table.  It runs no code of users.
 */
#include "postgres.h"

#include "apply_heap.h"
#include "owner.h"
#include "stride.h"

#include "access/heapam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

bool
dw_sweep_possible(DwTarget *target)
{
	DwLookup   *lookup = target->lookup;
	DwLeaf	   *leaf;

	if (lookup == NULL || lookup->partitioned || lookup->shape->ncolumns != 1)
		return false;
	leaf = dw_lookup_leaf(lookup, lookup->shape->relid);
	dw_leaf_prepare(target, leaf);
	return !target->pinned && leaf->actions == NULL && leaf->rel->rd_tableam == GetHeapamTableAmRoutine() &&
		(leaf->rri->ri_TrigDesc == NULL || !leaf->rri->ri_TrigDesc->trig_delete_before_row) &&
		dw_stride_possible(leaf->rel, leaf->index);
}

static int
compare_keys(const void *a, const void *b, void *arg)
{
	return ApplySortComparator(*(const Datum *) a, false, *(const Datum *) b, false, arg);
}

static void
sort_keys(DwLeaf *leaf, Datum *keys, int nkeys)
{
	SortSupportData order;

	dw_stride_order(leaf->index, &order);
	for (int i = 1; i < nkeys; i++)
		if (compare_keys(&keys[i - 1], &keys[i], &order) > 0)
		{
			qsort_arg(keys, nkeys, sizeof(Datum), compare_keys, &order);
			return;
		}
}

/* false: somebody was faster. */
static bool
delete_version(DwLookup *lookup, DwLeaf *leaf, ItemPointer place)
{
	TM_FailureData failure;

	if (table_tuple_delete(leaf->rel, place, GetCurrentCommandId(true), GetActiveSnapshot(), InvalidSnapshot, false,
						   &failure, false) != TM_Ok)
		return false;
	ExecARDeleteTriggers(lookup->estate, leaf->rri, place, NULL, NULL, false);
	return true;
}

/* Delete the rows of the first keys that are on one page.  Returns of how many; those left over are put in front of left. */
static int
sweep_page(DwLookup *lookup, DwLeaf *leaf, Datum *keys, int nkeys, Datum **left)
{
	ItemPointerData places[DW_STRIDE_RUN];
	int			n;

	if (leaf->stride == NULL)
		return 0;
	n = dw_stride_run(leaf->stride, keys, nkeys, places);
	for (int i = 0; i < n; i++)
		if (!delete_version(lookup, leaf, &places[i]))
			*(*left)++ = keys[i];
	return n;
}

static bool
sweep_row(DwLookup *lookup, DwLeaf *leaf, Datum value)
{
	DwKey		key;
	ItemPointerData place;

	key.values[0] = value;
	if (dw_lookup_newest(lookup, &key, false, false, &leaf) != DW_FIND_FOUND ||
		dw_is_of_this_command(((BufferHeapTupleTableSlot *) leaf->slot)->base.tuple->t_data))
		return false;
	place = leaf->slot->tts_tid;
	return delete_version(lookup, leaf, &place);
}

int
dw_sweep(DwTarget *target, Datum *keys, int nkeys)
{
	DwLookup   *lookup = target->lookup;
	DwLeaf	   *leaf = dw_lookup_leaf(lookup, lookup->shape->relid);
	DwOwnerScope scope;
	Datum	   *left = keys;
	int			i = 0;

	dw_owner_enter(&scope, target->flow->target_owner, false);
	sort_keys(leaf, keys, nkeys);
	dw_lookup_hurry(lookup);
	while (i < nkeys)
	{
		int			swept = sweep_page(lookup, leaf, &keys[i], nkeys - i, &left);

		CHECK_FOR_INTERRUPTS();
		if (swept == 0 && !sweep_row(lookup, leaf, keys[i]))
			*left++ = keys[i];
		i += swept > 0 ? swept : 1;
	}
	ExecClearTuple(leaf->slot);
	dw_lookup_rest(lookup);
	dw_owner_leave(&scope);
	return nkeys - (left - keys);
}
