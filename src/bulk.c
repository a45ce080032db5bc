/*
 * bulk.c: many rows into a heap table at once, without ever waiting for anybody.
 *
 * Part (b) of the invariant: insert if absent.  The rows go into the heap first; then every unique index takes their
 * entries under UNIQUE_CHECK_PARTIAL (ExecInsertIndexTuples with noDupErr and no arbiters, as deferrable constraints do),
 * which puts the entry in and says whether it may not be the only one, instead of waiting for the other's transaction or
 * raising an error.  A row that may not be the only one is deleted again.  Two inserters of a key cannot both find
 * nothing: the later one to lock the index page sees the earlier one's entry.  Exclusion constraints are checked after
 * their entry is in, in the same way; there the check waits for a speculative insertion, but not for a transaction.
 *
 * After-row triggers are queued only once it is settled which rows stay, so that none runs for a row that was taken
 * back.
 *
 * It must never update or delete a row that it did not insert.
 */
#include "postgres.h"

#include "apply_heap.h"
#include "owner.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Rows kept in memory until the flush: no more than this, whatever their number. */
#define DW_BULK_BYTES (8 * 1024 * 1024)

/* Rows bound for one leaf. */
typedef struct DwBulkLeaf
{
	DwLeaf	   *leaf;
	TupleDesc	desc;			/* a copy: a thousand slots on the relation's own would each be noted by the resource owner */
	TupleTableSlot **slots;		/* made when first needed, then used again */
	int		   *rows;			/* which row of the bulk each is */
	int			nslots;
	int			nrows;
} DwBulkLeaf;

typedef struct DwBulkRow
{
	DwBulkLeaf *leaf;
	TupleTableSlot *slot;
	bool		kept;
} DwBulkRow;

struct DwBulk
{
	DwTarget   *target;
	int			capacity;
	int			nrows;
	Size		bytes;
	bool		of_statement;	/* see dw_bulk_begin_statement */
	bool		flushed;		/* rows are in the table; their after-row triggers are not yet queued */
	bool		next_command;	/* ... and may be deleted again */
	DwBulkRow  *rows;
	List	   *leaves;			/* of DwBulkLeaf */
	MemoryContext context;
	MemoryContext flush_context;
};

DwBulk *
dw_bulk_begin(DwTarget *target, int capacity)
{
	MemoryContext context = AllocSetContextCreate(target->context, "dualwrite bulk", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwBulk	   *bulk = palloc0(sizeof(DwBulk));

	bulk->target = target;
	bulk->capacity = capacity;
	bulk->rows = palloc0(sizeof(DwBulkRow) * capacity);
	bulk->context = context;
	bulk->flush_context = AllocSetContextCreate(context, "dualwrite bulk flush", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(old);
	return bulk;
}

DwBulk *
dw_bulk_begin_statement(DwTarget *target, int capacity)
{
	DwBulk	   *bulk = dw_bulk_begin(target, capacity);

	bulk->of_statement = true;
	return bulk;
}

bool
dw_bulk_possible(DwTarget *target)
{
	DwLookup   *lookup = target->lookup;
	DwLeaf	   *leaf;

	if (lookup->partitioned)
		return false;
	leaf = dw_lookup_leaf(lookup, lookup->shape->relid);
	dw_leaf_open_for_write(target, leaf);
	return !target->pinned &&
		(leaf->rri->ri_TrigDesc == NULL || !leaf->rri->ri_TrigDesc->trig_insert_before_row);
}

bool
dw_bulk_full(DwBulk *bulk)
{
	return bulk->nrows == bulk->capacity || bulk->bytes >= DW_BULK_BYTES;
}

void
dw_bulk_row(DwBulk *bulk, int i, TupleTableSlot *row)
{
	TupleTableSlot *slot = bulk->rows[i].slot;
	int			natts = row->tts_tupleDescriptor->natts;

	slot_getallattrs(slot);
	ExecClearTuple(row);
	memcpy(row->tts_values, slot->tts_values, natts * sizeof(Datum));
	memcpy(row->tts_isnull, slot->tts_isnull, natts * sizeof(bool));
	ExecStoreVirtualTuple(row);
}

static void
enter_owner(DwBulk *bulk, DwOwnerScope *scope)
{
	dw_owner_enter(scope, bulk->target->flow->target_owner, bulk->target->pinned);
	bulk->target->scope = scope;
}

/* Queue the after-row triggers (foreign keys above all) of the rows that stayed, and forget them all. */
void
dw_bulk_settle(DwBulk *bulk)
{
	EState	   *estate = bulk->target->lookup->estate;
	DwOwnerScope scope;
	ListCell   *lc;

	if (bulk->flushed)
	{
		enter_owner(bulk, &scope);
		for (int i = 0; i < bulk->nrows; i++)
			if (bulk->rows[i].kept)
				ExecARInsertTriggers(estate, bulk->rows[i].leaf->leaf->rri, bulk->rows[i].slot, NIL, NULL);
		ResetPerTupleExprContext(estate);
		dw_owner_leave(&scope);
	}
	foreach(lc, bulk->leaves)
	{
		DwBulkLeaf *leaf = lfirst(lc);

		for (int i = 0; i < leaf->nrows; i++)
			ExecClearTuple(leaf->slots[i]);
		leaf->nrows = 0;
	}
	bulk->nrows = 0;
	bulk->bytes = 0;
	bulk->flushed = bulk->next_command = false;
}

static DwBulkLeaf *
leaf_for(DwBulk *bulk, TupleTableSlot *row)
{
	DwTarget   *target = bulk->target;
	DwLeaf	   *leaf = dw_lookup_leaf_for(target->lookup, row, true);
	MemoryContext old;
	DwBulkLeaf *entry;
	ListCell   *lc;

	foreach(lc, bulk->leaves)
		if (((DwBulkLeaf *) lfirst(lc))->leaf == leaf)
			return lfirst(lc);

	if (!leaf->writable)
		dw_leaf_open_for_write(target, leaf);
	old = MemoryContextSwitchTo(bulk->context);
	entry = palloc0(sizeof(DwBulkLeaf));
	entry->leaf = leaf;
	entry->desc = CreateTupleDescCopyConstr(RelationGetDescr(leaf->rel));
	bulk->leaves = lappend(bulk->leaves, entry);
	MemoryContextSwitchTo(old);
	return entry;
}

/* The next free slot of the leaf. */
static TupleTableSlot *
next_slot(DwBulk *bulk, DwBulkLeaf *leaf)
{
	if (leaf->nrows == leaf->nslots)
	{
		MemoryContext old = MemoryContextSwitchTo(bulk->context);
		int			more = Min(Max(16, leaf->nslots * 2), bulk->capacity);

		leaf->slots = leaf->slots ? repalloc(leaf->slots, sizeof(TupleTableSlot *) * more) :
			palloc(sizeof(TupleTableSlot *) * more);
		leaf->rows = leaf->rows ? repalloc(leaf->rows, sizeof(int) * more) : palloc(sizeof(int) * more);
		for (int i = leaf->nslots; i < more; i++)
			leaf->slots[i] = MakeSingleTupleTableSlot(leaf->desc, &TTSOpsHeapTuple);
		leaf->nslots = more;
		MemoryContextSwitchTo(old);
	}
	return leaf->slots[leaf->nrows];
}

/*
 * Keep a copy of row, defaults of its unmapped columns filled in.  Row numbers count from 0 after each flush.
 * Errors: those of default expressions; 23514 when no partition takes the row.
 */
bool
dw_bulk_add(DwBulk *bulk, TupleTableSlot *row)
{
	DwBulkLeaf *leaf;
	TupleTableSlot *leaf_row;
	TupleTableSlot *slot;
	DwBulkRow  *entry;
	DwOwnerScope scope;

	if (bulk->flushed)
		dw_bulk_settle(bulk);
	if (dw_bulk_full(bulk))
		return false;

	enter_owner(bulk, &scope);
	ResetPerTupleExprContext(bulk->target->lookup->estate);
	dw_fill_defaults(bulk->target, row);
	leaf = leaf_for(bulk, row);
	leaf_row = dw_leaf_layout(leaf->leaf, row);
	if (bulk->of_statement)
		dw_leaf_check_row(bulk->target, leaf->leaf, leaf_row);
	slot = next_slot(bulk, leaf);
	ExecCopySlot(slot, leaf_row);
	dw_owner_leave(&scope);
	bulk->bytes += ExecFetchSlotHeapTuple(slot, true, NULL)->t_len;
	slot->tts_tableOid = leaf->leaf->relid;

	leaf->rows[leaf->nrows++] = bulk->nrows;
	entry = &bulk->rows[bulk->nrows++];
	entry->leaf = leaf;
	entry->slot = slot;
	entry->kept = true;
	return true;
}

/* What happens to a row before it goes into the heap, in the executor's order (see ExecInsert). */
static void
prepare_row(DwBulk *bulk, DwLeaf *leaf, TupleTableSlot *slot)
{
	EState	   *estate = bulk->target->lookup->estate;
	bool		before = leaf->rri->ri_TrigDesc != NULL && leaf->rri->ri_TrigDesc->trig_insert_before_row;

	if (before)
	{
		if (!ExecBRInsertTriggers(estate, leaf->rri, slot))
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
					 errmsg("a BEFORE trigger of table \"%s\" suppressed a mirrored row", RelationGetRelationName(leaf->rel)),
					 errhint("Enable that trigger for ORIGIN only, so that mirrored writes do not fire it.")));
		ExecMaterializeSlot(slot);
	}
	dw_leaf_check_row(bulk->target, leaf, slot);
	/* a trigger may have moved the row elsewhere; a table that is itself a partition was not chosen by routing */
	if (leaf->rel->rd_rel->relispartition && (before || !bulk->target->lookup->partitioned))
		(void) ExecPartitionCheck(leaf->rri, slot, estate, true);
}

/* Heap, then indexes.  Sets conflicts of rows that may not be the only ones of their key. */
static void
insert_rows(DwBulk *bulk, DwBulkLeaf *entry, bool *conflicts)
{
	EState	   *estate = bulk->target->lookup->estate;
	DwLeaf	   *leaf = entry->leaf;
	BulkInsertState bistate = bulk->of_statement ? NULL : GetBulkInsertState();

	for (int i = 0; !bulk->of_statement && i < entry->nrows; i++)
	{
		ResetPerTupleExprContext(estate);
		prepare_row(bulk, leaf, entry->slots[i]);
	}
	CHECK_FOR_INTERRUPTS();
	table_multi_insert(leaf->rel, entry->slots, entry->nrows, GetCurrentCommandId(true), 0, bistate);
	if (bistate != NULL)
		FreeBulkInsertState(bistate);
	for (int i = 0; i < entry->nrows; i++)
	{
		CHECK_FOR_INTERRUPTS();
		ResetPerTupleExprContext(estate);
		if (dw_insert_index_entries(leaf->rri, entry->slots[i], estate, false, true, NULL, NIL, DW_ALL_INDEXES) != NIL)
			conflicts[entry->rows[i]] = true;
	}
	ResetPerTupleExprContext(estate);
	table_finish_bulk_insert(leaf->rel, 0);
}

/* Deleting a row needs a command later than the one that inserted it. */
static void
next_command(DwBulk *bulk)
{
	if (!bulk->next_command)
		CommandCounterIncrement();
	bulk->next_command = true;
}

/*
 * Insert what was added.  conflicts: one for each row, in the order of dw_bulk_add.
 * Errors: those of constraints, triggers and generated columns of the target, which the caller absorbs.
 */
void
dw_bulk_flush(DwBulk *bulk, bool *conflicts)
{
	MemoryContext old = MemoryContextSwitchTo(bulk->flush_context);
	DwOwnerScope scope;
	ListCell   *lc;

	Assert(!bulk->flushed);
	memset(conflicts, false, sizeof(bool) * bulk->nrows);
	enter_owner(bulk, &scope);
	foreach(lc, bulk->leaves)
		if (((DwBulkLeaf *) lfirst(lc))->nrows > 0)
			insert_rows(bulk, lfirst(lc), conflicts);
	dw_owner_leave(&scope);

	if (!bulk->of_statement)
		next_command(bulk);
	bulk->flushed = true;
	for (int i = 0; i < bulk->nrows; i++)
		if (conflicts[i])
			dw_bulk_take_back(bulk, i);
	MemoryContextSwitchTo(old);
	MemoryContextReset(bulk->flush_context);
}

void
dw_bulk_take_back(DwBulk *bulk, int i)
{
	DwBulkRow  *row = &bulk->rows[i];
	TM_FailureData failure;
	TM_Result	result;

	Assert(bulk->flushed && i < bulk->nrows && row->kept);
	next_command(bulk);
	result = table_tuple_delete(row->leaf->leaf->rel, &row->slot->tts_tid, GetCurrentCommandId(true),
								GetActiveSnapshot(), InvalidSnapshot, false, &failure, false);
	if (result != TM_Ok)
		elog(ERROR, "could not take back a row of \"%s\": result %d",
			 RelationGetRelationName(row->leaf->leaf->rel), (int) result);
	row->kept = false;
}

void
dw_bulk_end(DwBulk *bulk)
{
	ListCell   *lc;

	Assert(bulk->flushed || bulk->nrows == 0);
	dw_bulk_settle(bulk);
	foreach(lc, bulk->leaves)
	{
		DwBulkLeaf *leaf = lfirst(lc);

		for (int i = 0; i < leaf->nslots; i++)
			ExecDropSingleTupleTableSlot(leaf->slots[i]);
	}
	MemoryContextDelete(bulk->context);
}
