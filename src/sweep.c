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

#include "access/htup_details.h"
#include "access/xact.h"
#include "executor/executor.h"
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
	return !target->pinned && leaf->actions == NULL &&
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

/* Did an earlier event of this command store the version?  Then the heap does not let us at it yet. */
static bool
is_of_this_command(TupleTableSlot *slot)
{
	HeapTupleHeader header = ((BufferHeapTupleTableSlot *) slot)->base.tuple->t_data;

	return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(header)) &&
		HeapTupleHeaderGetCmin(header) >= GetCurrentCommandId(false);
}

/* The version that the look-up has found. */
static bool
delete_version(DwLookup *lookup, DwLeaf *leaf)
{
	ItemPointerData tid = leaf->slot->tts_tid;
	TM_FailureData failure;

	if (is_of_this_command(leaf->slot) ||
		table_tuple_delete(leaf->rel, &tid, GetCurrentCommandId(true), GetActiveSnapshot(), InvalidSnapshot, false,
						   &failure, false) != TM_Ok)
		return false;
	ExecARDeleteTriggers(lookup->estate, leaf->rri, &tid, NULL, NULL, false);
	return true;
}

int
dw_sweep(DwTarget *target, Datum *keys, int nkeys)
{
	DwLookup   *lookup = target->lookup;
	DwLeaf	   *leaf = dw_lookup_leaf(lookup, lookup->shape->relid);
	DwOwnerScope scope;
	int			left = 0;

	dw_owner_enter(&scope, target->flow->target_owner, false);
	sort_keys(leaf, keys, nkeys);
	dw_lookup_hurry(lookup);
	for (int i = 0; i < nkeys; i++)
	{
		DwKey		key;

		key.values[0] = keys[i];
		if (dw_lookup_newest(lookup, &key, false, false, &leaf) != DW_FIND_FOUND || !delete_version(lookup, leaf))
			keys[left++] = keys[i];
	}
	ExecClearTuple(leaf->slot);
	dw_lookup_rest(lookup);
	dw_owner_leave(&scope);
	return nkeys - left;
}
