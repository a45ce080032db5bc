/*
 * stride.c: rows by a key of one column, where the next key wanted is mostly close to the last one.
 *
 * A statement that writes many rows mostly comes to them in the order of their key, or of something that goes along with
 * it, and to descend the index for each of them costs as much as the write.  So some hundred entries from the key
 * wanted on are read at once and kept as hints: "a row with this key was at this place".  A hint may be out of date by the time
 * it is needed, since neither the page that it is from nor the row is held; what is found at its place counts only if the
 * snapshot sees it and it has the key.  There is no more than one such row, whatever has happened meanwhile.  "Not
 * found" means that the hints do not help, and the caller looks into the index.
 *
 * Hints are read from the leaf pages themselves: an index scan would hold each entry against the scan's keys, which costs
 * more than all the rest, and be exact, which hints need not be.
 *
 * Where few of the hints are ever wanted, no more are read.
 *
 * Between look-ups it holds no page of the index, and only until told to rest one of the heap: somebody who waits for such a
 * page is not seen by the deadlock detector.
 */
#include "postgres.h"

#include "compat.h"
#include "probe.h"
#include "stride.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* Hints read at a time: some at first, then up to a few pages of the index. */
#define MIN_HINTS 64
#define MAX_HINTS 1024
/* Reading that many of them costs more than it saves if fewer than this are wanted ... */
#define MIN_HITS 4
/* ... and that was so several times in a row: no more are read. */
#define MAX_WASTED 3
/* Pages to look for them on: more than as many as are wanted take, few where there is page after page of rows long gone. */
#define MAX_PAGES 16

typedef struct Hint
{
	Datum		key;
	ItemPointerData tid;
} Hint;

struct DwStride
{
	Relation	index;
	AttrNumber	column;			/* the key's, in the table */
	bool		byval;
	int16		length;
	SortSupportData order;
	BTScanInsert from;			/* where in the index to begin */
	IndexFetchTableData *fetch;
	Snapshot	snapshot;
	MemoryContext key_memory;	/* of the hints' keys */
	Hint	   *hints;			/* in the order of the index */
	int			nhints;
	int			next;			/* likely to be wanted next */
	int			wanted;			/* how many to read */
	int			hits;			/* of those that were read last */
	int			wasted;			/* how often there were too few */
	BlockNumber block;			/* of the row last found */
	Buffer		buffer;			/* that block, pinned by dw_stride_run */
};

bool
dw_stride_possible(Relation rel, Relation index)
{
	AttrNumber	column = index->rd_index->indkey.values[0];

	return index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indnkeyatts == 1 && column > 0 &&
		TupleDescAttr(RelationGetDescr(index), 0)->atttypid == TupleDescAttr(RelationGetDescr(rel), column - 1)->atttypid;
}

static bool
is_descending(Relation index)
{
	return (index->rd_indoption[0] & INDOPTION_DESC) != 0;
}

static Oid
operator_of(Relation index, int strategy)
{
	return get_opfamily_member(index->rd_opfamily[0], index->rd_opcintype[0], index->rd_opcintype[0], strategy);
}

void
dw_stride_order(Relation index, SortSupport order)
{
	memset(order, 0, sizeof(*order));
	order->ssup_cxt = CurrentMemoryContext;
	order->ssup_collation = index->rd_indcollation[0];
	PrepareSortSupportFromOrderingOp(operator_of(index, is_descending(index) ? BTGreaterStrategyNumber :
												 BTLessStrategyNumber), order);
}

DwStride *
dw_stride_begin(Relation rel, Relation index, Snapshot snapshot)
{
	DwStride   *stride = palloc0(sizeof(DwStride));
	Form_pg_attribute att;

	stride->index = index;
	stride->column = index->rd_index->indkey.values[0];
	att = TupleDescAttr(RelationGetDescr(rel), stride->column - 1);
	stride->byval = att->attbyval;
	stride->length = att->attlen;
	dw_stride_order(index, &stride->order);
	stride->from = dw_search_key(index);
	stride->fetch = table_index_fetch_begin(rel);
	stride->snapshot = snapshot;
	stride->key_memory = AllocSetContextCreate(CurrentMemoryContext, "dualwrite hints", ALLOCSET_SMALL_SIZES);
	stride->hints = palloc(sizeof(Hint) * MAX_HINTS);
	stride->wanted = MIN_HINTS;
	stride->hits = MIN_HITS;	/* nothing wasted yet */
	stride->block = InvalidBlockNumber;
	stride->buffer = InvalidBuffer;
	return stride;
}

bool
dw_is_of_this_command(HeapTupleHeader version)
{
	return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(version)) &&
		HeapTupleHeaderGetCmin(version) >= GetCurrentCommandId(false);
}

static int
compare(DwStride *stride, Datum a, Datum b)
{
	return ApplySortComparator(a, false, b, false, &stride->order);
}

/* Have the hints that were read last been worth it?  Says how many to read next. */
static bool
is_worthwhile(DwStride *stride)
{
	if (stride->hits < MIN_HITS)
		stride->wasted++;
	else
		stride->wasted = 0;
	stride->wanted = stride->hits * 2 > stride->nhints ? Min(stride->wanted * 2, MAX_HINTS) : MIN_HINTS;
	return stride->wasted < MAX_WASTED;
}

static void
add_hint(DwStride *stride, Datum key, ItemPointer tid)
{
	if (stride->nhints == stride->wanted)
		return;
	stride->hints[stride->nhints].key = key;
	stride->hints[stride->nhints++].tid = *tid;
}

/* Add the entries of a leaf page from this one on. */
static void
read_page(DwStride *stride, Page page, OffsetNumber from)
{
	OffsetNumber last = PageGetMaxOffsetNumber(page);

	for (OffsetNumber i = from; i <= last && stride->nhints < stride->wanted; i = OffsetNumberNext(i))
	{
		ItemId		item = PageGetItemId(page, i);
		IndexTuple	entry = (IndexTuple) PageGetItem(page, item);
		bool		isnull;
		Datum		key;

		if (ItemIdIsDead(item))
			continue;
		key = index_getattr(entry, 1, RelationGetDescr(stride->index), &isnull);
		if (isnull)
			continue;
		if (!stride->byval)
			key = datumCopy(key, false, stride->length);
		if (!BTreeTupleIsPosting(entry))
			add_hint(stride, key, &entry->t_tid);
		else
			for (int n = 0; n < BTreeTupleGetNPosting(entry); n++)
				add_hint(stride, key, BTreeTupleGetPostingN(entry, n));
	}
}

/*
 * Read hints from the key on.  Between two pages none is locked: one that is split or deleted meanwhile costs some hints.
 */
static void
read_hints(DwStride *stride, Datum key)
{
	MemoryContext old = MemoryContextSwitchTo(stride->key_memory);
	Buffer		buffer;
	int			pages = 0;

	MemoryContextReset(stride->key_memory);
	stride->nhints = stride->next = stride->hits = 0;
	stride->from->scankeys[0].sk_argument = key;
	pgstat_count_index_scan(stride->index);
	_bt_freestack(dw_bt_search(stride->index, stride->fetch->rel, stride->from, &buffer));
	while (BufferIsValid(buffer))
	{
		Page		page = BufferGetPage(buffer);
		BTPageOpaque opaque = BTPageGetOpaque(page);

		if (!P_IGNORE(opaque))
			read_page(stride, page, pages == 0 ? dw_first_entry(stride->index, stride->from, page) : P_FIRSTDATAKEY(opaque));
		if (P_RIGHTMOST(opaque) || stride->nhints == stride->wanted || ++pages == MAX_PAGES)
			break;
		buffer = _bt_relandgetbuf(stride->index, buffer, opaque->btpo_next, BT_READ);
	}
	if (BufferIsValid(buffer))
		_bt_relbuf(stride->index, buffer);
	MemoryContextSwitchTo(old);
}

/* The first hint that does not come before the key. */
static int
lower_bound(DwStride *stride, Datum key)
{
	int			low = 0;
	int			high = stride->nhints;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (compare(stride, stride->hints[middle].key, key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool
is_hint_of(DwStride *stride, int i, Datum key)
{
	return i < stride->nhints && compare(stride, stride->hints[i].key, key) == 0;
}

/* Hints of the key are first .. last - 1; false: none among those that have been read. */
static bool
locate(DwStride *stride, Datum key, int *first, int *last)
{
	*first = stride->next;
	if (!is_hint_of(stride, *first, key))
	{
		*first = lower_bound(stride, key);
		if (!is_hint_of(stride, *first, key))
			return false;
	}
	*last = *first + 1;
	while (is_hint_of(stride, *last, key))
		(*last)++;
	stride->next = *last;
	return true;
}

/* The same; hints are read where the key is beyond those that have been. */
static bool
locate_or_read(DwStride *stride, Datum key, int *first, int *last)
{
	if (stride->wasted >= MAX_WASTED)
		return false;
	if (locate(stride, key, first, last))
		return true;
	if (*first > 0 && *first < stride->nhints)
		return false;
	if (!is_worthwhile(stride))
	{
		stride->nhints = 0;
		return false;
	}
	read_hints(stride, key);
	return locate(stride, key, first, last);
}

/* Of the hints of a key, one next to the row found last; -1: none, or there is only one anyway. */
static int
nearest(DwStride *stride, int first, int last)
{
	for (int i = first; i < last && last - first > 1; i++)
		if (ItemPointerGetBlockNumber(&stride->hints[i].tid) - stride->block <= 1)
			return i;
	return -1;
}

/* Is there a row with the key at this place?  Others may have come there since. */
static bool
is_there(DwStride *stride, ItemPointer place, Datum key, TupleTableSlot *slot)
{
	ItemPointerData tid = *place;
	bool		call_again = false;
	bool		all_dead = false;
	bool		isnull;
	Datum		value;

	if (!table_index_fetch_tuple(stride->fetch, &tid, stride->snapshot, slot, &call_again, &all_dead))
		return false;
	pgstat_count_heap_fetch(stride->index);
	value = slot_getattr(slot, stride->column, &isnull);
	if (isnull || compare(stride, value, key) != 0)
		return false;
	stride->block = ItemPointerGetBlockNumber(place);
	stride->hits++;
	return true;
}

/*
 * Of the versions of a row all but one are gone: most likely it is next to the row found last, or else behind the others.
 */
bool
dw_stride_find(DwStride *stride, Datum key, TupleTableSlot *slot)
{
	int			first;
	int			last;
	int			near;

	if (!locate_or_read(stride, key, &first, &last))
		return false;
	near = nearest(stride, first, last);
	if (near >= 0 && is_there(stride, &stride->hints[near].tid, key, slot))
		return true;
	for (int i = last - 1; i >= first; i--)
		if (i != near && is_there(stride, &stride->hints[i].tid, key, slot))
			return true;
	ExecClearTuple(slot);
	return false;
}

/* Where the rows of the first keys are likely to be, as far as that is on one page.  Returns how many. */
static int
likely_places(DwStride *stride, const Datum *keys, int nkeys, ItemPointerData *places)
{
	int			n;
	int			first;
	int			last;

	if (!locate_or_read(stride, keys[0], &first, &last))
		return 0;
	for (n = 0; n < nkeys && n < DW_STRIDE_RUN; n++)
	{
		int			near;

		if (n > 0 && !locate(stride, keys[n], &first, &last))
			break;
		near = nearest(stride, first, last);
		places[n] = stride->hints[near >= 0 ? near : last - 1].tid;
		if (ItemPointerGetBlockNumber(&places[n]) != ItemPointerGetBlockNumber(&places[0]))
		{
			stride->next = first;
			break;
		}
	}
	return n;
}

/*
 * Is the row with the key at this place, on the page that is locked, in nobody's hands, and older than this command?  Then
 * place is that of its version.
 */
static bool
is_free(DwStride *stride, Buffer buffer, Datum key, ItemPointer place)
{
	Relation	rel = stride->fetch->rel;
	Snapshot	snapshot = stride->snapshot;
	HeapTupleData tuple;
	bool		isnull;
	Datum		value;

	if (!heap_hot_search_buffer(place, rel, buffer, snapshot, &tuple, NULL, true) ||
		TransactionIdIsValid(snapshot->xmin) || TransactionIdIsValid(snapshot->xmax))
		return false;
	value = heap_getattr(&tuple, stride->column, RelationGetDescr(rel), &isnull);
	return !isnull && compare(stride, value, key) == 0 && !dw_is_of_this_command(tuple.t_data);
}

/* Can the key be compared while a page is locked, and is that a page of a heap? */
static bool
can_run(const DwStride *stride)
{
	return stride->length > 0 && stride->fetch->rel->rd_tableam == GetHeapamTableAmRoutine();
}

/*
 * What makes up most of a look-up by hint is to find the page, lock it and let go of it; rows that are written together are mostly
 * stored together.
 */
int
dw_stride_run(DwStride *stride, const Datum *keys, int nkeys, ItemPointerData *places)
{
	int			nplaces = can_run(stride) ? likely_places(stride, keys, nkeys, places) : 0;
	int			n = 0;

	if (nplaces == 0)
		return 0;
	stride->block = ItemPointerGetBlockNumber(&places[0]);
	stride->buffer = ReleaseAndReadBuffer(stride->buffer, stride->fetch->rel, stride->block);
	LockBuffer(stride->buffer, BUFFER_LOCK_SHARE);
	while (n < nplaces && is_free(stride, stride->buffer, keys[n], &places[n]))
		n++;
	LockBuffer(stride->buffer, BUFFER_LOCK_UNLOCK);
	stride->hits += n;
	return n;
}

void
dw_stride_rest(DwStride *stride)
{
	if (BufferIsValid(stride->buffer))
		ReleaseBuffer(stride->buffer);
	stride->buffer = InvalidBuffer;
	table_index_fetch_reset(stride->fetch);
}

void
dw_stride_end(DwStride *stride)
{
	dw_stride_rest(stride);
	table_index_fetch_end(stride->fetch);
	MemoryContextDelete(stride->key_memory);
	pfree(stride->from);
	pfree(stride->hints);
	pfree(stride);
}
