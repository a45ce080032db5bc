/*
 * sweep.c: many rows of a table removed by one walk along the index of its key.
 *
 * To look for each key by itself costs more than to delete its row.  In the order of the index the next key is mostly the
 * next entry, or a few on; where it is not, the walk starts again from the key, so that a few keys of a large table cost
 * what they did before.
 *
 * A walk under a dirty snapshot sees what a look-up does, and as a look-up it may overlook a row; so "not there" is left to
 * the caller's look-up to confirm, and so is every row that is in anybody else's hands.  It never waits, since it rests on
 * a page of the index.  It runs no code of users.
 */
#include "postgres.h"

#include "apply_heap.h"
#include "owner.h"

#include "access/htup_details.h"
#include "access/itup.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Entries stepped over before the walk starts again: about what a descent costs. */
#define MAX_STEPS 12

typedef struct Sweep
{
	DwTarget   *target;
	DwLeaf	   *leaf;
	FmgrInfo   *order;
	Oid			collation;
	bool		descending;
	IndexScanDesc scan;
	ScanKeyData from;
	bool		at_entry;		/* entry is valid */
	bool		at_end;
	Datum		entry;			/* key of the entry that the scan is at */
} Sweep;

bool
dw_sweep_possible(DwTarget *target)
{
	DwLookup   *lookup = target->lookup;
	DwLeaf	   *leaf;
	Form_pg_attribute column;

	if (lookup == NULL || lookup->partitioned || lookup->shape->ncolumns != 1)
		return false;
	leaf = dw_lookup_leaf(lookup, lookup->shape->relid);
	dw_leaf_prepare(target, leaf);
	column = TupleDescAttr(RelationGetDescr(leaf->rel), lookup->shape->columns[0] - 1);
	return !target->pinned && leaf->actions == NULL &&
		(leaf->rri->ri_TrigDesc == NULL || !leaf->rri->ri_TrigDesc->trig_delete_before_row) &&
		leaf->index->rd_rel->relam == BTREE_AM_OID &&
		TupleDescAttr(RelationGetDescr(leaf->index), 0)->atttypid == column->atttypid;
}

/* Where two keys come in the index. */
static int
compare(const Sweep *sweep, Datum a, Datum b)
{
	int			result = DatumGetInt32(FunctionCall2Coll(sweep->order, sweep->collation, a, b));

	return sweep->descending ? -result : result;
}

static int
compare_keys(const void *a, const void *b, void *arg)
{
	return compare(arg, *(const Datum *) a, *(const Datum *) b);
}

static void
sort_keys(Sweep *sweep, Datum *keys, int nkeys)
{
	for (int i = 1; i < nkeys; i++)
		if (compare(sweep, keys[i - 1], keys[i]) > 0)
		{
			qsort_arg(keys, nkeys, sizeof(Datum), compare_keys, sweep);
			return;
		}
}

static void
begin(Sweep *sweep, DwTarget *target)
{
	DwLeaf	   *leaf = dw_lookup_leaf(target->lookup, target->lookup->shape->relid);
	Relation	index = leaf->index;
	Oid			operator;

	memset(sweep, 0, sizeof(*sweep));
	sweep->target = target;
	sweep->leaf = leaf;
	sweep->order = index_getprocinfo(index, 1, BTORDER_PROC);
	sweep->collation = index->rd_indcollation[0];
	sweep->descending = (index->rd_indoption[0] & INDOPTION_DESC) != 0;
	operator = get_opfamily_member(index->rd_opfamily[0], index->rd_opcintype[0], index->rd_opcintype[0],
								   sweep->descending ? BTLessEqualStrategyNumber : BTGreaterEqualStrategyNumber);
	ScanKeyEntryInitialize(&sweep->from, 0, 1,
						   sweep->descending ? BTLessEqualStrategyNumber : BTGreaterEqualStrategyNumber,
						   InvalidOid, sweep->collation, get_opcode(operator), (Datum) 0);
	sweep->scan = dw_index_beginscan(leaf->rel, index, &target->lookup->dirty, 1);
	sweep->scan->xs_want_itup = true;
}

static void
advance(Sweep *sweep)
{
	/* the access method keeps what it allocates */
	MemoryContext old = MemoryContextSwitchTo(sweep->target->lookup->context);
	bool		isnull;

	sweep->at_entry = index_getnext_tid(sweep->scan, ForwardScanDirection) != NULL;
	sweep->at_end = !sweep->at_entry;
	if (sweep->at_entry)
		sweep->entry = index_getattr(sweep->scan->xs_itup, 1, sweep->scan->xs_itupdesc, &isnull);
	MemoryContextSwitchTo(old);
}

static void
start_at(Sweep *sweep, Datum key)
{
	MemoryContext old = MemoryContextSwitchTo(sweep->target->lookup->context);

	sweep->from.sk_argument = key;
	index_rescan(sweep->scan, &sweep->from, 1, NULL, 0);
	MemoryContextSwitchTo(old);
	advance(sweep);
}

/* Go to the first entry of the key, which is not before the last one; false: there is none. */
static bool
seek(Sweep *sweep, Datum key)
{
	for (int steps = 0; sweep->at_entry && steps < MAX_STEPS; steps++)
	{
		int			order = compare(sweep, sweep->entry, key);

		if (order >= 0)
			return order == 0;
		advance(sweep);
	}
	if (!sweep->at_end)
		start_at(sweep, key);
	return sweep->at_entry && compare(sweep, sweep->entry, key) == 0;
}

/* Did an earlier event of this command store the version?  Then the heap does not let us at it yet. */
static bool
is_of_this_command(TupleTableSlot *slot)
{
	HeapTupleHeader header = ((BufferHeapTupleTableSlot *) slot)->base.tuple->t_data;

	return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(header)) &&
		HeapTupleHeaderGetCmin(header) >= GetCurrentCommandId(false);
}

static bool
delete_version(Sweep *sweep)
{
	DwLookup   *lookup = sweep->target->lookup;
	DwLeaf	   *leaf = sweep->leaf;
	ItemPointerData tid = leaf->slot->tts_tid;
	TM_FailureData failure;

	if (TransactionIdIsValid(lookup->dirty.xmin) || TransactionIdIsValid(lookup->dirty.xmax) ||
		is_of_this_command(leaf->slot) ||
		table_tuple_delete(leaf->rel, &tid, GetCurrentCommandId(true), GetActiveSnapshot(), InvalidSnapshot, false,
						   &failure, false) != TM_Ok)
		return false;
	ExecARDeleteTriggers(lookup->estate, leaf->rri, &tid, NULL, NULL, false);
	return true;
}

/* The row of the key that the scan is at: entries of versions that are gone may come before it. */
static bool
remove_row(Sweep *sweep, Datum key)
{
	do
	{
		if (index_fetch_heap(sweep->scan, sweep->leaf->slot))
			return delete_version(sweep);
		advance(sweep);
	} while (sweep->at_entry && compare(sweep, sweep->entry, key) == 0);
	return false;
}

int
dw_sweep(DwTarget *target, Datum *keys, int nkeys)
{
	Sweep		sweep;
	DwOwnerScope scope;
	int			left = 0;

	dw_owner_enter(&scope, target->flow->target_owner, false);
	begin(&sweep, target);
	sort_keys(&sweep, keys, nkeys);
	for (int i = 0; i < nkeys; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!seek(&sweep, keys[i]) || !remove_row(&sweep, keys[i]))
			keys[left++] = keys[i];
	}
	ExecClearTuple(sweep.leaf->slot);
	index_endscan(sweep.scan);
	dw_owner_leave(&scope);
	return nkeys - left;
}
