/*
 * cut.c: a comparison cut into ranges, which several processes can work on.
 *
 * A key index says itself where its middle is: the upper levels of a B-tree have an entry for each page below, so that
 * entries taken at equal distances cut it into equal parts, whatever its columns are.  An upper entry may lack columns;
 * the first entry of the leaf page that it leads to has them all.
 *
 * Nothing depends on the cuts being good ones, or on the keys being there: a range ends with its key and the next one begins
 * behind it, so that every row lies in one range.
 */
#include "postgres.h"

#include "cut.h"
#include "comparing.h"
#include "instep.h"
#include "position.h"
#include "touched.h"

#include "access/nbtree.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"

/* Pages of an index that are worth a range of their own. */
#define DW_RANGE_PAGES 32
/* Blocks of a heap in one range of a comparison of what has changed. */
#define DW_RANGE_BLOCKS 131072

/* Pages of a B-tree */

static Page
read_page(Relation index, BlockNumber block, Buffer *buffer)
{
	*buffer = ReadBuffer(index, block);
	LockBuffer(*buffer, BUFFER_LOCK_SHARE);
	_bt_checkpage(index, *buffer);
	return BufferGetPage(*buffer);
}

/* The page below which everything is.  false: the index is empty. */
static bool
find_root(Relation index, BlockNumber *root)
{
	Buffer		buffer;
	Page		page = read_page(index, BTREE_METAPAGE, &buffer);

	*root = BTPageGetMeta(page)->btm_fastroot;
	UnlockReleaseBuffer(buffer);
	return *root != P_NONE;
}

/* Blocks of the pages below this one are added to blocks.  false: it is a leaf page, or not in use any more. */
static bool
add_children(Relation index, BlockNumber block, List **blocks)
{
	Buffer		buffer;
	Page		page = read_page(index, block, &buffer);
	BTPageOpaque opaque = BTPageGetOpaque(page);
	bool		inner = !P_ISLEAF(opaque) && !P_IGNORE(opaque);

	for (OffsetNumber i = P_FIRSTDATAKEY(opaque); inner && i <= PageGetMaxOffsetNumber(page); i++)
	{
		IndexTuple	entry = (IndexTuple) PageGetItem(page, PageGetItemId(page, i));

		*blocks = lappend_oid(*blocks, BTreeTupleGetDownLink(entry));
	}
	UnlockReleaseBuffer(buffer);
	return inner;
}

/* Pages of the highest level that has so many, or of the lowest; at most that many pages are read for it. */
static List *
level_of_at_least(Relation index, int count)
{
	List	   *level = NIL;
	BlockNumber root;

	if (!find_root(index, &root))
		return NIL;
	level = list_make1_oid(root);
	while (list_length(level) < count)
	{
		List	   *below = NIL;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		foreach(lc, level)
			(void) add_children(index, lfirst_oid(lc), &below);
		if (below == NIL)
			break;
		level = below;
	}
	return level;
}

/* The first entry of a leaf page as a position.  NULL: it has none. */
static Jsonb *
first_entry(Relation index, Oid owner, Page page)
{
	BTPageOpaque opaque = BTPageGetOpaque(page);
	int			ncolumns = IndexRelationGetNumberOfKeyAttributes(index);
	Oid			types[INDEX_MAX_KEYS];
	Datum		values[INDEX_MAX_KEYS];
	IndexTuple	entry;

	if (P_IGNORE(opaque) || PageGetMaxOffsetNumber(page) < P_FIRSTDATAKEY(opaque))
		return NULL;
	entry = CopyIndexTuple((IndexTuple) PageGetItem(page, PageGetItemId(page, P_FIRSTDATAKEY(opaque))));
	for (int i = 0; i < ncolumns; i++)
	{
		bool		isnull;

		types[i] = TupleDescAttr(RelationGetDescr(index), i)->atttypid;
		values[i] = index_getattr(entry, i + 1, RelationGetDescr(index), &isnull);
		if (isnull)
			return NULL;
	}
	return dw_position_write(owner, ncolumns, types, values);
}

/* The same of the leftmost leaf below this page. */
static Jsonb *
first_entry_below(Relation index, Oid owner, BlockNumber block)
{
	for (;;)
	{
		List	   *below = NIL;
		Buffer		buffer;
		Page		copy;

		CHECK_FOR_INTERRUPTS();
		if (add_children(index, block, &below))
		{
			block = linitial_oid(below);
			continue;
		}
		/* what the types' output functions do must not be done under the lock of a page */
		copy = palloc(BLCKSZ);
		memcpy(copy, read_page(index, block, &buffer), BLCKSZ);
		UnlockReleaseBuffer(buffer);
		return P_ISLEAF(BTPageGetOpaque(copy)) ? first_entry(index, owner, copy) : NULL;
	}
}

/* Keys that cut an index, in its order: the more, the larger it is, but fewer than most. */
static List *
cut_index(Relation index, Oid owner, int most)
{
	int			parts = (int) Min(RelationGetNumberOfBlocks(index) / DW_RANGE_PAGES, (BlockNumber) most);
	List	   *level;
	List	   *keys = NIL;

	if (parts < 2)
		return NIL;
	level = level_of_at_least(index, parts);
	parts = Min(parts, list_length(level));
	for (int i = 1; i < parts; i++)
	{
		Jsonb	   *key = first_entry_below(index, owner, list_nth_oid(level, (int) ((int64) i * list_length(level) / parts)));

		if (key != NULL)
			keys = lappend(keys, key);
	}
	return keys;
}

/* Ranges */

static DwRange *
add_range(List **ranges, DwReading reading)
{
	DwRange    *range = palloc0(sizeof(DwRange));

	range->ordinal = list_length(*ranges) + 1;
	range->reading = reading;
	*ranges = lappend(*ranges, range);
	return range;
}

/* One range ends and the next begins. */
static DwRange *
cut_here(List **ranges, DwRange *range, Oid heap, Jsonb *key)
{
	DwRange    *next = add_range(ranges, range->reading);

	range->span.end_heap = next->span.heap = heap;
	range->span.end_key = next->span.last_key = key;
	return next;
}

/* Leaves of a table in the order in which they are walked. */
static List *
leaves_in_order(DwLookup *table)
{
	List	   *leaves = list_copy(table->heaps);

	list_sort(leaves, list_oid_cmp);
	return leaves;
}

/* One side on its own.  table: NULL for a foreign one. */
static void
cut_side(List **ranges, DwReading reading, DwLookup *table, Oid owner, int most)
{
	DwRange    *range = add_range(ranges, reading);
	List	   *leaves = table ? leaves_in_order(table) : NIL;
	int			count = list_length(leaves);

	for (int i = 0; i < count; i++)
	{
		Oid			leaf = list_nth_oid(leaves, i);
		ListCell   *key;

		/* many small leaves share a range */
		if (i > 0 && (int64) i * most / count > (int64) (i - 1) * most / count)
			range = cut_here(ranges, range, leaf, NULL);
		if (count < most)
			foreach(key, cut_index(dw_lookup_leaf(table, leaf)->index, owner, most / count))
				range = cut_here(ranges, range, leaf, lfirst(key));
	}
}

/* Both sides in step: the same keys cut both, and each side begins behind them and ends with them. */
static void
cut_both(List **ranges, DwCompare *compare, Oid owner, int most)
{
	DwRange    *range = add_range(ranges, DW_READ_BOTH);
	DwLookup   *old = compare->self->old;
	ListCell   *key;

	foreach(key, cut_index(dw_lookup_leaf(old, old->shape->relid)->index, owner, most))
	{
		DwRange    *next = add_range(ranges, DW_READ_BOTH);

		range->span.end_key = lfirst(key);
		next->span.last_key = dw_instep_position(lfirst(key), lfirst(key));
		range = next;
	}
}

List *
dw_cut_by_key(int32 mapping_id, bool in_step, int most)
{
	DwCompare  *compare = dw_compare_open(mapping_id);
	List	   *ranges = NIL;
	DwFlow	   *flow;

	if (compare == NULL)
		return NIL;
	flow = compare->self->compiled->flow;
	if (in_step && dw_instep_possible(compare))
		cut_both(&ranges, compare, flow[DW_FORWARD].source_owner, most);
	else
	{
		cut_side(&ranges, DW_READ_OLD, compare->self->old, flow[DW_FORWARD].source_owner, most);
		if (dw_compare_decides_existence(compare))
			cut_side(&ranges, DW_READ_NEW, compare->new, flow[DW_REVERSE].source_owner, most);
	}
	dw_compare_close(compare);
	return ranges;
}

/* The blocks of one side. */
static void
cut_blocks(List **ranges, DwCompare *compare, DwReading reading, DwLookup *table)
{
	ListCell   *lc;

	foreach(lc, table->heaps)
	{
		Oid			file;
		BlockNumber blocks = dw_touched_blocks(compare, reading, lfirst_oid(lc), &file);

		for (BlockNumber begin = 0; begin < blocks; begin += Min(DW_RANGE_BLOCKS, blocks - begin))
		{
			DwRange    *range = add_range(ranges, reading);

			range->span.heap = lfirst_oid(lc);
			range->file = file;
			range->next_block = begin;
			range->end_block = begin + Min(DW_RANGE_BLOCKS, blocks - begin);
		}
	}
}

List *
dw_cut_by_block(int32 mapping_id)
{
	DwCompare  *compare = dw_compare_open(mapping_id);
	List	   *ranges = NIL;

	if (compare == NULL)
		return NIL;
	cut_blocks(&ranges, compare, DW_READ_TOUCHED_OLD, compare->self->old);
	if (!compare->in_place)
		cut_blocks(&ranges, compare, DW_READ_TOUCHED_NEW, compare->new);
	dw_compare_close(compare);
	return ranges;
}
