/*
 * touched.c: rows that may have changed since an earlier comparison.
 *
 * Every change of a heap page sets its LSN to that of the change's record in WAL, whoever makes it and whatever triggers do
 * or do not fire; every version of a row carries the ids of the transactions that made it and that ended it.  So a page
 * whose LSN is not behind the mark has not changed, and on another one a version has not if none of its ids is.  A stretch
 * of pages need not even be read where the visibility map says that all its rows are visible to all, and the page of the
 * map has not been written since the mark: a change would have taken the bit away, and giving it back is written to WAL.
 *
 * The keys of what has changed are compared on both sides.  A version that was deleted tells its key until it is pruned;
 * a row that was deleted on one side alone and pruned since has left nothing that could be found here, which is why a
 * full comparison comes round.
 *
 * Nothing here writes anything, and nothing depends on a page being read twice or for nothing.
 */
#include "postgres.h"

#include "touched.h"
#include "meter.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/visibilitymap.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Transactions since the mark beyond which their ids cannot safely be held against it. */
#define DW_MARK_MAX_AGE (UINT64CONST(1) << 30)

DwMark
dw_mark_now(void)
{
	DwMark		mark;

	/* in this order: whoever gets an id behind this one writes behind the LSN */
	mark.lsn = GetXLogInsertRecPtr();
	mark.xid = ReadNextFullTransactionId();
	return mark;
}

bool
dw_mark_settled(const DwMark *mark)
{
	Snapshot	snapshot = GetLatestSnapshot();

	return !TransactionIdPrecedes(snapshot->xmin, XidFromFullTransactionId(mark->xid));
}

bool
dw_mark_usable(const DwMark *mark)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());
	uint64		then = U64FromFullTransactionId(mark->xid);

	return mark->lsn <= GetXLogInsertRecPtr() && then <= next && next - then < DW_MARK_MAX_AGE;
}

/* Files of the table and its partitions; false: some of them is not of a kind whose pages tell of changes. */
static bool
add_files(Oid table, StringInfo files)
{
	ListCell   *lc;

	foreach(lc, dw_heaps_of(table, AccessShareLock))
	{
		Relation	rel;
		bool		tells;

		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_PARTITIONED_TABLE)
			continue;
		if (get_rel_relkind(lfirst_oid(lc)) != RELKIND_RELATION)
			return false;
		rel = table_open(lfirst_oid(lc), NoLock);
		tells = rel->rd_tableam == GetHeapamTableAmRoutine() && rel->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT;
		appendStringInfo(files, "%u:%u ", RelationGetRelid(rel), dw_relfilenode(rel));
		table_close(rel, NoLock);
		if (!tells)
			return false;
	}
	return true;
}

char *
dw_touched_files(int32 mapping_id)
{
	DwMapping  *mapping = dw_mapping_by_id(mapping_id);
	DwCompiled *compiled;
	StringInfoData files;

	initStringInfo(&files);
	if (mapping == NULL || !add_files(mapping->old_table, &files) || !add_files(mapping->new_table, &files))
		return NULL;
	compiled = dw_compiled_get(mapping_id);
	return compiled == NULL || compiled->reads_tables ? NULL : files.data;
}

static DwLookup *
side_of(DwCompare *compare, DwReading reading)
{
	return reading == DW_READ_TOUCHED_OLD ? compare->self->old : compare->new;
}

BlockNumber
dw_touched_blocks(DwCompare *compare, DwReading reading, Oid heap, Oid *file)
{
	Relation	rel = dw_lookup_leaf(side_of(compare, reading), heap)->rel;

	*file = dw_relfilenode(rel);
	return RelationGetNumberOfBlocks(rel);
}

/* A heap being read. */
typedef struct Reader
{
	DwCompare  *compare;
	DwMeter		meter;
	DwMark		mark;
	bool		old;			/* the side */
	DwLookup   *table;
	DwLeaf	   *leaf;
	Buffer		map;			/* page of the visibility map */
	BufferAccessStrategy strategy;
	int			nrows;			/* of the page in hand that may have changed */
	OffsetNumber rows[MaxHeapTuplesPerPage];
	bool		visible[MaxHeapTuplesPerPage];
} Reader;

/*
 * Does the visibility map say that the page has not changed since the mark?  The bit first: had it been taken away and given
 * back after that, the LSN would say so.
 */
static bool
is_unchanged_by_map(Reader *reader, BlockNumber block)
{
	return VM_ALL_VISIBLE(reader->leaf->rel, block, &reader->map) && BufferIsValid(reader->map) &&
		BufferGetLSNAtomic(reader->map) <= reader->mark.lsn;
}

static bool
is_behind_mark(Reader *reader, TransactionId xid)
{
	return TransactionIdFollowsOrEquals(xid, XidFromFullTransactionId(reader->mark.xid));
}

/* Was this version made or ended by a transaction behind the mark? */
static bool
has_changed(Reader *reader, HeapTupleHeader row)
{
	if (is_behind_mark(reader, HeapTupleHeaderGetRawXmin(row)))
		return true;
	if ((row->t_infomask & HEAP_XMAX_INVALID) || HEAP_XMAX_IS_LOCKED_ONLY(row->t_infomask))
		return false;
	return (row->t_infomask & HEAP_XMAX_IS_MULTI) || is_behind_mark(reader, HeapTupleHeaderGetRawXmax(row));
}

static void
point_at(Reader *reader, Buffer buffer, OffsetNumber i, HeapTuple tuple)
{
	Page		page = BufferGetPage(buffer);
	ItemId		item = PageGetItemId(page, i);

	tuple->t_tableOid = reader->leaf->relid;
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple->t_len = ItemIdGetLength(item);
	ItemPointerSet(&tuple->t_self, BufferGetBlockNumber(buffer), i);
}

/* The rows of a page that may have changed.  Its lock is held: what they are is looked at when it is not. */
static void
collect_rows(Reader *reader, Buffer buffer)
{
	Page		page = BufferGetPage(buffer);

	reader->nrows = 0;
	for (OffsetNumber i = FirstOffsetNumber; i <= PageGetMaxOffsetNumber(page); i++)
	{
		HeapTupleData tuple;
		bool		visible;

		if (!ItemIdIsNormal(PageGetItemId(page, i)))
			continue;
		point_at(reader, buffer, i, &tuple);
		if (!has_changed(reader, tuple.t_data))
			continue;
		visible = HeapTupleSatisfiesVisibility(&tuple, reader->compare->snapshot, buffer);
		/* the next version is on this page, and has the same key */
		if (!visible && HeapTupleIsHotUpdated(&tuple))
			continue;
		reader->rows[reader->nrows] = i;
		reader->visible[reader->nrows++] = visible;
	}
}

/* Of a version that nobody sees any more, values that lie elsewhere may be gone. */
static bool
key_is_at_hand(const DwKeyShape *shape, TupleTableSlot *row)
{
	for (int i = 0; i < shape->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(row->tts_tupleDescriptor, shape->columns[i] - 1);
		bool		isnull;
		Datum		value = slot_getattr(row, shape->columns[i], &isnull);

		if (isnull || (att->attlen == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(value))))
			return false;
	}
	return true;
}

/* The mapping's key of the row in the leaf's slot. */
static bool
key_of_row(Reader *reader, bool visible, DwKey *key)
{
	DwCompiled *compiled = reader->compare->self->compiled;
	TupleTableSlot *row = dw_leaf_row(reader->table, reader->leaf);
	DwKey		old_key;

	if (!visible && !key_is_at_hand(reader->table->shape, row))
		return false;
	if (!reader->old)
	{
		dw_key_of_new(compiled, row, key);
		return true;
	}
	return dw_key_of_row(&compiled->old_key, row, &old_key) && dw_key_of_old(compiled, &old_key, key);
}

static void
compare_row(Reader *reader, Buffer buffer, OffsetNumber i, bool visible)
{
	DwCompare  *compare = reader->compare;
	TupleTableSlot *row = reader->leaf->slot;
	HeapTupleData tuple;
	DwKey		found;
	DwKey		key;

	point_at(reader, buffer, i, &tuple);
	ExecStoreBufferHeapTuple(&tuple, row, buffer);
	MemoryContextSwitchTo(compare->row_context);
	if (key_of_row(reader, visible, &found))
	{
		/* the comparison uses the same slots */
		dw_key_copy(compare->self->compiled->flow[DW_FORWARD].target_desc, &compare->self->compiled->new_key, &found, &key);
		compare->failed = false;
		reader->meter.slice->rows_compared++;
		dw_meter_keep(&reader->meter, dw_compare_one(compare, &key));
	}
	MemoryContextSwitchTo(reader->meter.results);
	MemoryContextReset(compare->row_context);
}

/* Returns how many rows of it were compared. */
static int
read_block(Reader *reader, BlockNumber block)
{
	Buffer		buffer;
	int			compared = 0;

	if (is_unchanged_by_map(reader, block))
		return 0;
	buffer = ReadBufferExtended(reader->leaf->rel, MAIN_FORKNUM, block, RBM_NORMAL, reader->strategy);
	if (BufferGetLSNAtomic(buffer) > reader->mark.lsn)
	{
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		collect_rows(reader, buffer);
		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		/* the pin keeps everybody from pruning them */
		for (int i = 0; i < reader->nrows; i++)
			compare_row(reader, buffer, reader->rows[i], reader->visible[i]);
		compared = reader->nrows;
		ExecClearTuple(reader->leaf->slot);
	}
	ReleaseBuffer(buffer);
	return compared;
}

void
dw_touched_slice(DwCompare *compare, DwSlice *slice, MemoryContext results)
{
	DwRange    *range = &slice->range;
	DwLookup   *table = side_of(compare, range->reading);
	bool		stop = false;
	BlockNumber end;
	Reader		reader = {
		.compare = compare, .meter = dw_meter_start(slice, results), .mark = slice->mark,
		.old = range->reading == DW_READ_TOUCHED_OLD, .table = table, .map = InvalidBuffer,
		.strategy = GetAccessStrategy(BAS_BULKREAD)
	};

	/* a heap that is another file by now, or gone, is for a full pass */
	slice->out_of_step = !list_member_oid(table->heaps, range->span.heap);
	if (!slice->out_of_step)
	{
		reader.leaf = dw_lookup_leaf(table, range->span.heap);
		slice->out_of_step = dw_relfilenode(reader.leaf->rel) != range->file;
	}
	if (slice->out_of_step)
		return;
	end = Min(range->end_block, RelationGetNumberOfBlocks(reader.leaf->rel));
	while (range->next_block < end && !stop)
	{
		int			compared;

		CHECK_FOR_INTERRUPTS();
		compared = read_block(&reader, range->next_block++);
		/* a block to pass over counts as a row */
		stop = dw_meter_full(&reader.meter, Max(1, compared));
	}
	slice->finished = range->next_block >= end;
	if (BufferIsValid(reader.map))
		ReleaseBuffer(reader.map);
	FreeAccessStrategy(reader.strategy);
}
