/*
 * probe.c: a row by the whole of a unique key, by one descent of a B-tree.
 *
 * An index scan is made for much that this is not: it gets its keys in order, copies what matches of a page, and marks what is
 * dead.  That costs as much as the descent, which a statement of one row notices.  So the server's own functions descend
 * (_bt_search), the few entries with the key are taken from the leaf page, and their rows looked at while the page is pinned, which
 * keeps VACUUM from giving their places to others, as in a scan that does not go by MVCC.
 *
 * Where there may be entries on the next page, or more than a few, as of a row that is updated again and again, it says that it does not
 * know: the scan that is made then marks the dead ones, and the next probe does not see them.
 */
#include "postgres.h"

#include "compat.h"
#include "probe.h"

#include "access/heapam.h"
#include "catalog/pg_am.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

/* Entries of one key whose rows are looked at. */
#define MAX_ENTRIES 4

struct DwProbe
{
	BTScanInsert key;
};

BTScanInsert
dw_search_key(Relation index)
{
	BTScanInsert key = _bt_mkscankey(index, NULL);

	_bt_metaversion(index, &key->heapkeyspace, &key->allequalimage);
	key->keysz = IndexRelationGetNumberOfKeyAttributes(index);
	key->anynullkeys = false;
	for (int i = 0; i < key->keysz; i++)
		key->scankeys[i].sk_flags &= ~SK_ISNULL;
	return key;
}

OffsetNumber
dw_first_entry(Relation index, BTScanInsert key, Page page)
{
	OffsetNumber low = P_FIRSTDATAKEY(BTPageGetOpaque(page));
	OffsetNumber high = OffsetNumberNext(PageGetMaxOffsetNumber(page));

	while (low < high)
	{
		OffsetNumber middle = low + (high - low) / 2;

		if (_bt_compare(index, key, page, middle) > 0)
			low = OffsetNumberNext(middle);
		else
			high = middle;
	}
	return low;
}

bool
dw_probe_possible(Relation rel, Relation index, int ncolumns)
{
	return rel->rd_tableam == GetHeapamTableAmRoutine() && index->rd_rel->relam == BTREE_AM_OID &&
		IndexRelationGetNumberOfKeyAttributes(index) == ncolumns;
}

DwProbe *
dw_probe_make(Relation index)
{
	DwProbe    *probe = palloc(sizeof(DwProbe));

	probe->key = dw_search_key(index);
	return probe;
}

/* Where the rows of the key are, by its entries on the leaf page, which is locked: how many; -1: that is not for us to find out. */
static int
entries_on(Relation index, BTScanInsert key, Page page, ItemPointerData *places)
{
	OffsetNumber last = PageGetMaxOffsetNumber(page);
	int			n = 0;

	for (OffsetNumber i = dw_first_entry(index, key, page); i <= last; i = OffsetNumberNext(i))
	{
		ItemId		item = PageGetItemId(page, i);
		IndexTuple	entry = (IndexTuple) PageGetItem(page, item);
		int			rows;

		if (ItemIdIsDead(item))
			continue;
		if (_bt_compare(index, key, page, i) != 0)
			return n;
		rows = BTreeTupleIsPosting(entry) ? BTreeTupleGetNPosting(entry) : 1;
		if (n + rows > MAX_ENTRIES)
			return -1;
		for (int r = 0; r < rows; r++)
			places[n++] = BTreeTupleIsPosting(entry) ? *BTreeTupleGetPostingN(entry, r) : entry->t_tid;
	}
	/* there may be more on the next page */
	if (!P_RIGHTMOST(BTPageGetOpaque(page)) && _bt_compare(index, key, page, P_HIKEY) >= 0)
		return -1;
	return n;
}

/* The version at this place, or one that follows it on its page, that the snapshot sees. */
static bool
fetch(Relation rel, ItemPointerData place, Snapshot snapshot, TupleTableSlot *slot)
{
	HeapTuple	tuple = &((BufferHeapTupleTableSlot *) slot)->base.tupdata;
	Buffer		buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(&place));
	bool		found;

	/* nobody else does it where all that comes is writes by key */
	heap_page_prune_opt(rel, buffer);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	found = heap_hot_search_buffer(&place, rel, buffer, snapshot, tuple, NULL, true);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (!found)
	{
		ReleaseBuffer(buffer);
		return false;
	}
	tuple->t_tableOid = RelationGetRelid(rel);
	ExecStorePinnedBufferHeapTuple(tuple, slot, buffer);
	return true;
}

DwProbed
dw_probe_find(DwProbe *probe, Relation rel, Relation index, const Datum *values, Snapshot snapshot, TupleTableSlot *slot)
{
	ItemPointerData places[MAX_ENTRIES];
	bool		found = false;
	Buffer		leaf;
	int			n;

	ExecClearTuple(slot);
	for (int i = 0; i < probe->key->keysz; i++)
		probe->key->scankeys[i].sk_argument = values[i];
	_bt_freestack(dw_bt_search(index, rel, probe->key, &leaf));
	if (!BufferIsValid(leaf))
		return DW_PROBE_NONE;
	n = entries_on(index, probe->key, BufferGetPage(leaf), places);
	LockBuffer(leaf, BUFFER_LOCK_UNLOCK);
	for (int i = 0; i < n && !found; i++)
		found = fetch(rel, places[i], snapshot, slot);
	ReleaseBuffer(leaf);
	if (n < 0)
		return DW_PROBE_UNKNOWN;
	pgstat_count_index_scan(index);
	pgstat_count_index_tuples(index, n);
	if (found)
		pgstat_count_heap_fetch(index);
	return found ? DW_PROBE_FOUND : DW_PROBE_NONE;
}
