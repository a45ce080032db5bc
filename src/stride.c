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
 * Where few of the hints are ever wanted, no more are read.
 *
 * Between look-ups it holds no page of the index, and only until told to rest one of the heap: somebody who waits for such a
 * page is not seen by the deadlock detector.
 */
#include "postgres.h"

#include "compat.h"
#include "stride.h"

#include "access/itup.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "pgstat.h"
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

typedef struct Hint
{
	Datum		key;
	ItemPointerData tid;
} Hint;

struct DwStride
{
	Relation	rel;
	AttrNumber	column;			/* the key's, in the table */
	bool		byval;
	int16		length;
	SortSupportData order;
	IndexScanDesc scan;
	ScanKeyData from;
	MemoryContext context;
	MemoryContext key_memory;	/* of the hints' keys */
	Hint	   *hints;			/* in the order of the index */
	int			nhints;
	int			next;			/* likely to be wanted next */
	int			wanted;			/* how many to read */
	int			hits;			/* of those that were read last */
	int			wasted;			/* how often there were too few */
	BlockNumber block;			/* of the row last found */
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
	int			strategy = is_descending(index) ? BTLessEqualStrategyNumber : BTGreaterEqualStrategyNumber;
	Form_pg_attribute att;

	stride->rel = rel;
	stride->column = index->rd_index->indkey.values[0];
	att = TupleDescAttr(RelationGetDescr(rel), stride->column - 1);
	stride->byval = att->attbyval;
	stride->length = att->attlen;
	dw_stride_order(index, &stride->order);
	ScanKeyEntryInitialize(&stride->from, 0, 1, strategy, InvalidOid, index->rd_indcollation[0],
						   get_opcode(operator_of(index, strategy)), (Datum) 0);
	stride->scan = dw_index_beginscan(rel, index, snapshot, 1);
	stride->scan->xs_want_itup = true;
	stride->context = CurrentMemoryContext;
	stride->key_memory = AllocSetContextCreate(CurrentMemoryContext, "dualwrite hints", ALLOCSET_SMALL_SIZES);
	stride->hints = palloc(sizeof(Hint) * MAX_HINTS);
	stride->wanted = MIN_HINTS;
	stride->hits = MIN_HITS;	/* nothing wasted yet */
	stride->block = InvalidBlockNumber;
	return stride;
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

/* Read hints from the key on. */
static void
read_hints(DwStride *stride, Datum key)
{
	/* the access method keeps what it allocates */
	MemoryContext old = MemoryContextSwitchTo(stride->context);
	bool		isnull;

	MemoryContextReset(stride->key_memory);
	stride->nhints = stride->next = stride->hits = 0;
	stride->from.sk_argument = key;
	index_rescan(stride->scan, &stride->from, 1, NULL, 0);
	while (stride->nhints < stride->wanted && index_getnext_tid(stride->scan, ForwardScanDirection) != NULL)
	{
		Hint	   *hint = &stride->hints[stride->nhints++];
		Datum		value = index_getattr(stride->scan->xs_itup, 1, stride->scan->xs_itupdesc, &isnull);

		hint->tid = stride->scan->xs_heaptid;
		MemoryContextSwitchTo(stride->key_memory);
		hint->key = datumCopy(value, stride->byval, stride->length);
		MemoryContextSwitchTo(stride->context);
	}
	/* lets go of the page */
	index_rescan(stride->scan, &stride->from, 1, NULL, 0);
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

/* Hints of the key are first .. last - 1; false: none. */
static bool
locate(DwStride *stride, Datum key, int *first, int *last)
{
	*first = stride->next;
	if (!is_hint_of(stride, *first, key))
	{
		*first = lower_bound(stride, key);
		if (*first == stride->nhints || (*first == 0 && !is_hint_of(stride, 0, key)))
		{
			if (!is_worthwhile(stride))
			{
				stride->nhints = 0;
				return false;
			}
			read_hints(stride, key);
			*first = 0;
		}
		if (!is_hint_of(stride, *first, key))
			return false;
	}
	*last = *first + 1;
	while (is_hint_of(stride, *last, key))
		(*last)++;
	stride->next = *last;
	return true;
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

	if (!table_index_fetch_tuple(stride->scan->xs_heapfetch, &tid, stride->scan->xs_snapshot, slot, &call_again, &all_dead))
		return false;
	pgstat_count_heap_fetch(stride->scan->indexRelation);
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
	int			near = -1;

	if (stride->wasted >= MAX_WASTED || !locate(stride, key, &first, &last))
		return false;
	for (int i = first; i < last && near < 0 && last - first > 1; i++)
		if (ItemPointerGetBlockNumber(&stride->hints[i].tid) - stride->block <= 1)
			near = i;
	if (near >= 0 && is_there(stride, &stride->hints[near].tid, key, slot))
		return true;
	for (int i = last - 1; i >= first; i--)
		if (i != near && is_there(stride, &stride->hints[i].tid, key, slot))
			return true;
	ExecClearTuple(slot);
	return false;
}

void
dw_stride_rest(DwStride *stride)
{
	table_index_fetch_reset(stride->scan->xs_heapfetch);
}

void
dw_stride_end(DwStride *stride)
{
	index_endscan(stride->scan);
	MemoryContextDelete(stride->key_memory);
	pfree(stride->hints);
	pfree(stride);
}
