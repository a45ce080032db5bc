/*
 * lookup.c: rows by unique key, in a plain or partitioned table.
 *
 * "Newest" look-ups use a dirty snapshot, since a mirror must see what others are about to commit, and since the writer
 * of a new row holds the old one, so that newest wins whatever the isolation level.  A dirty index scan can overlook a
 * row that moves while it runs; whoever needs "none" to be exact asks for confirmation under an MVCC snapshot.
 *
 * Scans are kept open between look-ups.  The caller sees to it that the resource owner of dw_lookup_open is current in
 * each call.
 */
#include "postgres.h"

#include "lookup.h"
#include "probe.h"
#include "stride.h"

#include "access/heapam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* So many look-ups, and there are going to be more of them. */
#define MANY_LOOKUPS 16

/* An executor state that knows the root table: constraint errors and trigger events ask it for permissions. */
static EState *
make_estate(Relation root, LOCKMODE lock)
{
	EState	   *estate = CreateExecutorState();
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(root);
	rte->relkind = root->rd_rel->relkind;
	rte->rellockmode = lock;
	dw_init_range_table(estate, rte);
	MemoryContextSwitchTo(old);
	return estate;
}

DwLookup *
dw_lookup_open(const DwKeyShape *shape, LOCKMODE lock)
{
	DwLookup   *lookup = palloc0(sizeof(DwLookup));
	ListCell   *lc;

	lookup->shape = shape;
	lookup->lock = lock;
	lookup->context = CurrentMemoryContext;
	lookup->root = table_open(shape->relid, lock);
	lookup->partitioned = lookup->root->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	lookup->estate = make_estate(lookup->root, lock);
	lookup->root_rri = makeNode(ResultRelInfo);
	InitResultRelInfo(lookup->root_rri, lookup->root, 1, NULL, 0);
	lookup->desc = CreateTupleDescCopyConstr(RelationGetDescr(lookup->root));
	lookup->key_slot = MakeSingleTupleTableSlot(lookup->desc, &TTSOpsVirtual);
	lookup->root_slot = MakeSingleTupleTableSlot(lookup->desc, &TTSOpsVirtual);
	InitDirtySnapshot(lookup->dirty);
	foreach(lc, dw_heaps_of(shape->relid, NoLock))
		if (get_rel_relkind(lfirst_oid(lc)) != RELKIND_PARTITIONED_TABLE)
			lookup->heaps = lappend_oid(lookup->heaps, lfirst_oid(lc));
	return lookup;
}

static void
end_scans(DwLeaf *leaf)
{
	if (leaf->scan != NULL)
		index_endscan(leaf->scan);
	if (leaf->stride != NULL)
		dw_stride_end(leaf->stride);
	leaf->scan = NULL;
	leaf->stride = NULL;
	leaf->on_page = false;
	leaf->looked_up = 0;
}

static void
close_leaf(DwLookup *lookup, DwLeaf *leaf)
{
	/* slots first: they hold pins, and references to the relation's descriptor */
	ExecDropSingleTupleTableSlot(leaf->slot);
	ExecDropSingleTupleTableSlot(leaf->write_slot);
	end_scans(leaf);
	if (leaf->writable)
		ExecCloseIndices(leaf->rri);
	index_close(leaf->index, NoLock);
	if (lookup->partitioned)
		table_close(leaf->rel, NoLock);
}

void
dw_lookup_close(DwLookup *lookup)
{
	ListCell   *lc;

	foreach(lc, lookup->leaves)
		close_leaf(lookup, lfirst(lc));
	lookup->leaves = NIL;
	ExecResetTupleTable(lookup->estate->es_tupleTable, false);
	FreeExecutorState(lookup->estate);
	ExecDropSingleTupleTableSlot(lookup->key_slot);
	ExecDropSingleTupleTableSlot(lookup->root_slot);
	table_close(lookup->root, NoLock);
}

void
dw_lookup_let_go(DwLookup *lookup)
{
	ListCell   *lc;

	Assert(!lookup->partitioned);
	foreach(lc, lookup->leaves)
	{
		DwLeaf	   *leaf = lfirst(lc);

		ExecClearTuple(leaf->slot);
		ExecClearTuple(leaf->write_slot);
		end_scans(leaf);
		if (leaf->writable)
			ExecCloseIndices(leaf->rri);
		leaf->writable = false;
		index_close(leaf->index, NoLock);
		leaf->rri->ri_TrigOldSlot = leaf->rri->ri_TrigNewSlot = NULL;
	}
	ExecClearTuple(lookup->key_slot);
	ExecClearTuple(lookup->root_slot);
	/* slots that firing triggers took */
	ExecResetTupleTable(lookup->estate->es_tupleTable, true);
	lookup->estate->es_tupleTable = NIL;
	ResetPerTupleExprContext(lookup->estate);
	table_close(lookup->root, NoLock);
}

void
dw_lookup_take_up(DwLookup *lookup)
{
	ListCell   *lc;

	lookup->root = table_open(lookup->shape->relid, lookup->lock);
	lookup->root_rri->ri_RelationDesc = lookup->root;
	foreach(lc, lookup->leaves)
	{
		DwLeaf	   *leaf = lfirst(lc);

		leaf->rel = lookup->root;
		leaf->rri->ri_RelationDesc = leaf->rel;
		leaf->index = index_open(leaf->index_oid, lookup->lock);
	}
}

static AttrNumber
leaf_column(DwLeaf *leaf, AttrNumber root_column)
{
	return leaf->to_root ? leaf->to_root->attnums[root_column - 1] : root_column;
}

/* Equality on every column of the index, in its order; the values come from the key's. */
static void
init_scankey(DwLookup *lookup, DwLeaf *leaf)
{
	Relation	index = leaf->index;

	for (int i = 0; i < lookup->shape->ncolumns; i++)
	{
		AttrNumber	column = index->rd_index->indkey.values[i];
		Oid			operator = get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i],
												   index->rd_opcintype[i], BTEqualStrategyNumber);

		for (int k = 0; k < lookup->shape->ncolumns; k++)
			if (leaf_column(leaf, lookup->shape->columns[k]) == column)
				leaf->key_position[i] = k;
		ScanKeyEntryInitialize(&leaf->scankey[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i], get_opcode(operator), (Datum) 0);
	}
}

/* The leaf's part of the root's index, however many levels of partitions are between them; InvalidOid without one. */
static Oid
leaf_index(Relation leaf, Oid root_index)
{
	List	   *indexes = RelationGetIndexList(leaf);
	Oid			result = InvalidOid;
	ListCell   *lc;

	foreach(lc, indexes)
		if (get_rel_relispartition(lfirst_oid(lc)) &&
			list_member_oid(get_partition_ancestors(lfirst_oid(lc)), root_index))
			result = lfirst_oid(lc);
	list_free(indexes);
	return result;
}

DwLeaf *
dw_lookup_leaf(DwLookup *lookup, Oid relid)
{
	MemoryContext old;
	DwLeaf	   *leaf;
	TupleDesc	desc;
	ListCell   *lc;
	Oid			index;

	foreach(lc, lookup->leaves)
		if (((DwLeaf *) lfirst(lc))->relid == relid)
			return lfirst(lc);

	old = MemoryContextSwitchTo(lookup->context);
	leaf = palloc0(sizeof(DwLeaf));
	leaf->relid = relid;
	leaf->rel = lookup->partitioned ? table_open(relid, lookup->lock) : lookup->root;
	index = lookup->partitioned ? leaf_index(leaf->rel, lookup->shape->index) : lookup->shape->index;
	if (!OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" lacks an index that belongs to the key index of \"%s\"",
						RelationGetRelationName(leaf->rel), RelationGetRelationName(lookup->root)),
				 errhint("Create the index and attach it.")));
	leaf->index_oid = index;
	leaf->index = index_open(index, lookup->lock);
	leaf->rri = makeNode(ResultRelInfo);
	if (lookup->partitioned)
	{
		leaf->to_root = dw_attrmap_if_required(RelationGetDescr(leaf->rel), RelationGetDescr(lookup->root));
		leaf->from_root = dw_attrmap_if_required(RelationGetDescr(lookup->root), RelationGetDescr(leaf->rel));
		InitResultRelInfo(leaf->rri, leaf->rel, 0, lookup->root_rri, 0);
	}
	else
		InitResultRelInfo(leaf->rri, leaf->rel, 1, NULL, 0);
	desc = lookup->partitioned ? CreateTupleDescCopyConstr(RelationGetDescr(leaf->rel)) : lookup->desc;
	leaf->slot = MakeSingleTupleTableSlot(desc, table_slot_callbacks(leaf->rel));
	leaf->write_slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	init_scankey(lookup, leaf);
	lookup->leaves = lappend(lookup->leaves, leaf);
	MemoryContextSwitchTo(old);
	return leaf;
}

TupleTableSlot *
dw_leaf_layout(DwLeaf *leaf, TupleTableSlot *root_row)
{
	if (leaf->from_root == NULL)
		return root_row;
	return execute_attr_map_slot(leaf->from_root, root_row, leaf->write_slot);
}

TupleTableSlot *
dw_leaf_row(DwLookup *lookup, DwLeaf *leaf)
{
	if (leaf->to_root == NULL)
		return leaf->slot;
	return execute_attr_map_slot(leaf->to_root, leaf->slot, lookup->root_slot);
}

static bool
leaf_takes(DwLookup *lookup, DwLeaf *leaf, TupleTableSlot *row)
{
	bool		result = ExecPartitionCheck(leaf->rri, dw_leaf_layout(leaf, row), lookup->estate, false);

	ResetPerTupleExprContext(lookup->estate);
	return result;
}

/* Index of the partition that takes these values of the partition key, as get_partition_for_tuple finds it; -1: none. */
static int
find_partition(PartitionKey key, PartitionDesc desc, Datum *values, bool *nulls)
{
	PartitionBoundInfo bound = desc->boundinfo;
	int			index = -1;
	int			offset;
	bool		equal = false;
	bool		any_null = false;

	for (int i = 0; i < key->partnatts; i++)
		any_null |= nulls[i];
	switch (key->strategy)
	{
		case PARTITION_STRATEGY_HASH:
			return bound->indexes[compute_partition_hash_value(key->partnatts, key->partsupfunc, key->partcollation,
															   values, nulls) % bound->nindexes];
		case PARTITION_STRATEGY_LIST:
			if (any_null && partition_bound_accepts_nulls(bound))
				index = bound->null_index;
			else if (!any_null)
			{
				offset = partition_list_bsearch(key->partsupfunc, key->partcollation, bound, values[0], &equal);
				index = offset >= 0 && equal ? bound->indexes[offset] : -1;
			}
			break;
		case PARTITION_STRATEGY_RANGE:
			if (!any_null)
			{
				offset = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, bound, key->partnatts,
													   values, &equal);
				index = bound->indexes[offset + 1];
			}
			break;
	}
	return index >= 0 ? index : bound->default_index;
}

/*
 * The leaf by the bounds of the root's partitions, without opening the others: each would have to be locked, and somebody
 * else's lock on a leaf that is not concerned is nothing to wait for.  false: not to be had this way, with expressions in
 * the partition key or partitions of partitions.
 */
static bool
leaf_by_bounds(DwLookup *lookup, TupleTableSlot *row, Oid *leaf)
{
	PartitionKey key = RelationGetPartitionKey(lookup->root);
	PartitionDesc desc = RelationGetPartitionDesc(lookup->root, true);
	Datum		values[PARTITION_MAX_KEYS];
	bool		nulls[PARTITION_MAX_KEYS];
	int			index;

	if (key->partexprs != NIL || desc->nparts == 0)
		return false;
	for (int i = 0; i < key->partnatts; i++)
		values[i] = slot_getattr(row, key->partattrs[i], &nulls[i]);
	index = find_partition(key, desc, values, nulls);
	*leaf = index >= 0 ? desc->oids[index] : InvalidOid;
	return index < 0 || desc->is_leaf[index];
}

/* The same by the partition constraint of each leaf. */
static DwLeaf *
leaf_by_constraint(DwLookup *lookup, TupleTableSlot *row)
{
	ListCell   *lc;

	if (lookup->last != NULL && leaf_takes(lookup, lookup->last, row))
		return lookup->last;
	foreach(lc, lookup->heaps)
	{
		DwLeaf	   *leaf = dw_lookup_leaf(lookup, lfirst_oid(lc));

		if (leaf != lookup->last && leaf_takes(lookup, leaf, row))
			return lookup->last = leaf;
	}
	return NULL;
}

DwLeaf *
dw_lookup_leaf_for(DwLookup *lookup, TupleTableSlot *row, bool must)
{
	DwLeaf	   *leaf = NULL;
	Oid			relid;

	if (!lookup->partitioned)
		return dw_lookup_leaf(lookup, lookup->shape->relid);
	if (!leaf_by_bounds(lookup, row, &relid))
		leaf = leaf_by_constraint(lookup, row);
	else if (OidIsValid(relid))
		leaf = dw_lookup_leaf(lookup, relid);
	if (leaf == NULL && must)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("no partition of relation \"%s\" found for row", RelationGetRelationName(lookup->root)),
				 errhint("Create the partition, or a default one."),
				 errtable(lookup->root)));
	return leaf;
}

/* A row that has nothing but the key, to be routed. */
static TupleTableSlot *
key_row(DwLookup *lookup, const DwKey *key)
{
	TupleTableSlot *row = lookup->key_slot;

	ExecClearTuple(row);
	memset(row->tts_isnull, true, row->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < lookup->shape->ncolumns; i++)
	{
		row->tts_values[lookup->shape->columns[i] - 1] = key->values[i];
		row->tts_isnull[lookup->shape->columns[i] - 1] = false;
	}
	return ExecStoreVirtualTuple(row);
}

/*
 * As index_getnext_slot for a heap and an MVCC snapshot, but it leaves the page as it is: who only compares must not prune away
 * what a comparison of changes has yet to read.
 */
static bool
fetch_untouched(DwLeaf *leaf, Snapshot snapshot)
{
	BufferHeapTupleTableSlot *slot = (BufferHeapTupleTableSlot *) leaf->slot;
	ItemPointer tid;

	ExecClearTuple(leaf->slot);
	while ((tid = index_getnext_tid(leaf->scan, ForwardScanDirection)) != NULL)
	{
		ItemPointerData row = *tid;
		Buffer		buffer = ReadBuffer(leaf->rel, ItemPointerGetBlockNumber(&row));
		bool		found;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		found = heap_hot_search_buffer(&row, leaf->rel, buffer, snapshot, &slot->base.tupdata, NULL, true);
		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		if (found)
		{
			pgstat_count_heap_fetch(leaf->rel);
			slot->base.tupdata.t_tableOid = leaf->relid;
			ExecStorePinnedBufferHeapTuple(&slot->base.tupdata, leaf->slot, buffer);
			return true;
		}
		ReleaseBuffer(buffer);
	}
	return false;
}

/* First row of the leaf with the key under the snapshot, into leaf->slot. */
static bool
scan_leaf(DwLookup *lookup, DwLeaf *leaf, const DwKey *key, Snapshot snapshot)
{
	/* btgettuple allocates in the current context, and keeps what it allocated */
	MemoryContext old = MemoryContextSwitchTo(lookup->context);
	bool		is_heap = leaf->rel->rd_tableam == GetHeapamTableAmRoutine();
	bool		found;

	for (int i = 0; i < lookup->shape->ncolumns; i++)
		leaf->scankey[i].sk_argument = key->values[leaf->key_position[i]];
	if (leaf->scan == NULL)
		leaf->scan = dw_index_beginscan(leaf->rel, leaf->index, snapshot, lookup->shape->ncolumns);
	leaf->scan->xs_snapshot = snapshot;
	leaf->on_page = true;
	index_rescan(leaf->scan, leaf->scankey, lookup->shape->ncolumns, NULL, 0);
	if (is_heap && IsMVCCSnapshot(snapshot))
		found = fetch_untouched(leaf, snapshot);
	else
		found = index_getnext_slot(leaf->scan, ForwardScanDirection, leaf->slot);
	MemoryContextSwitchTo(old);
	return found;
}

/* Is the next look-up to begin where the last one ended? */
static bool
strides(DwLookup *lookup, DwLeaf *leaf)
{
	MemoryContext old;

	if (leaf->stride != NULL)
		return true;
	if (lookup->shape->ncolumns != 1 || ++leaf->looked_up <= MANY_LOOKUPS || !dw_stride_possible(leaf->rel, leaf->index))
		return false;
	old = MemoryContextSwitchTo(lookup->context);
	leaf->stride = dw_stride_begin(leaf->rel, leaf->index, &lookup->dirty);
	MemoryContextSwitchTo(old);
	return true;
}

static DwProbed
probe_leaf(DwLookup *lookup, DwLeaf *leaf, const DwKey *key)
{
	int			ncolumns = lookup->shape->ncolumns;
	Datum		values[INDEX_MAX_KEYS];

	if (!dw_probe_possible(leaf->rel, leaf->index, ncolumns))
		return DW_PROBE_UNKNOWN;
	if (leaf->probe == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(lookup->context);

		leaf->probe = dw_probe_make(leaf->index);
		MemoryContextSwitchTo(old);
	}
	for (int i = 0; i < ncolumns; i++)
		values[i] = key->values[leaf->key_position[i]];
	return dw_probe_find(leaf->probe, leaf->rel, leaf->index, values, &lookup->dirty, leaf->slot);
}

/* As scan_leaf, under the dirty snapshot. */
static bool
find_newest(DwLookup *lookup, DwLeaf *leaf, const DwKey *key)
{
	DwProbed	probed;

	if (strides(lookup, leaf) && dw_stride_find(leaf->stride, key->values[0], leaf->slot))
		return true;
	probed = probe_leaf(lookup, leaf, key);
	return probed == DW_PROBE_UNKNOWN ? scan_leaf(lookup, leaf, key, &lookup->dirty) : probed == DW_PROBE_FOUND;
}

/* Let go of the pages that the scans rest on, before waiting or leaving. */
static void
rest_scan(DwLookup *lookup, DwLeaf *leaf)
{
	if (leaf->on_page)
		index_rescan(leaf->scan, leaf->scankey, lookup->shape->ncolumns, NULL, 0);
	leaf->on_page = false;
	if (leaf->stride != NULL && !lookup->hurried)
		dw_stride_rest(leaf->stride);
}

void
dw_lookup_hurry(DwLookup *lookup)
{
	lookup->hurried = true;
}

void
dw_lookup_rest(DwLookup *lookup)
{
	ListCell   *lc;

	lookup->hurried = false;
	foreach(lc, lookup->leaves)
		rest_scan(lookup, lfirst(lc));
}

/* The row is in another transaction's hands: wait for it. */
static void
wait_for_other(DwLookup *lookup, DwLeaf *leaf)
{
	TransactionId other = TransactionIdIsValid(lookup->dirty.xmin) ? lookup->dirty.xmin : lookup->dirty.xmax;
	uint32		token = TransactionIdIsValid(lookup->dirty.xmin) ? lookup->dirty.speculativeToken : 0;
	ItemPointerData tid = leaf->slot->tts_tid;

	ExecClearTuple(leaf->slot);
	rest_scan(lookup, leaf);
	if (token != 0)
		SpeculativeInsertionWait(other, token);
	else
		XactLockTableWait(other, leaf->rel, &tid, XLTW_FetchUpdated);
}

static bool
scan_confirmed(DwLookup *lookup, DwLeaf *leaf, const DwKey *key)
{
	Snapshot	snapshot;
	bool		found;

	/*
	 * Reading under an MVCC snapshot leaves predicate locks behind in a serializable transaction, and with them
	 * serialization failures that the application did not earn.
	 */
	if (IsolationIsSerializable())
		return false;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	/* as the dirty snapshot: with what this command itself has done, or its own deletes would be "confirmed" for ever */
	snapshot->curcid = InvalidCommandId;
	found = scan_leaf(lookup, leaf, key, snapshot);
	leaf->scan->xs_snapshot = &lookup->dirty;
	UnregisterSnapshot(snapshot);
	ExecClearTuple(leaf->slot);
	return found;
}

DwFind
dw_lookup_newest(DwLookup *lookup, const DwKey *key, bool wait, bool confirm, DwLeaf **leaf_out)
{
	DwLeaf	   *leaf = dw_lookup_leaf_for(lookup, lookup->partitioned ? key_row(lookup, key) : NULL, false);

	*leaf_out = leaf;
	if (leaf == NULL)
		return DW_FIND_NONE;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (!find_newest(lookup, leaf, key))
		{
			if (confirm && scan_confirmed(lookup, leaf, key))
				continue;
			rest_scan(lookup, leaf);
			return DW_FIND_NONE;
		}
		if (!TransactionIdIsValid(lookup->dirty.xmin) && !TransactionIdIsValid(lookup->dirty.xmax))
		{
			rest_scan(lookup, leaf);
			return DW_FIND_FOUND;
		}
		if (!wait)
		{
			ExecClearTuple(leaf->slot);
			rest_scan(lookup, leaf);
			return DW_FIND_BUSY;
		}
		wait_for_other(lookup, leaf);
	}
}

bool
dw_lookup_visible(DwLookup *lookup, const DwKey *key, Snapshot snapshot, DwLeaf **leaf_out)
{
	DwLeaf	   *leaf = dw_lookup_leaf_for(lookup, lookup->partitioned ? key_row(lookup, key) : NULL, false);
	bool		found;

	*leaf_out = leaf;
	if (leaf == NULL)
		return false;
	found = scan_leaf(lookup, leaf, key, snapshot);
	leaf->scan->xs_snapshot = &lookup->dirty;
	return found;
}

/* Was this version written by our own transaction?  Then we hold it already. */
static bool
is_own_version(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

DwFind
dw_lookup_lock(DwLookup *lookup, const DwKey *key, bool wait, bool strong, DwLeaf **leaf_out)
{
	for (;;)
	{
		DwFind		find = dw_lookup_newest(lookup, key, wait, true, leaf_out);
		DwLeaf	   *leaf = *leaf_out;
		ItemPointerData tid;
		TM_FailureData failure;
		TM_Result	result;

		if (find != DW_FIND_FOUND || is_own_version(leaf->slot))
			return find;
		tid = leaf->slot->tts_tid;
		PushActiveSnapshot(GetLatestSnapshot());
		result = table_tuple_lock(leaf->rel, &tid, GetActiveSnapshot(), leaf->slot, GetCurrentCommandId(false),
								  strong ? LockTupleExclusive : LockTupleNoKeyExclusive,
								  wait ? LockWaitBlock : LockWaitSkip, 0, &failure);
		PopActiveSnapshot();
		if (result == TM_Ok)
			return DW_FIND_FOUND;
		if (result == TM_WouldBlock)
		{
			ExecClearTuple(leaf->slot);
			return DW_FIND_BUSY;
		}
		/* TM_Updated, TM_Deleted and the like: somebody was faster; look again */
	}
}
