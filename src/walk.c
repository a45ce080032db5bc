/*
 * walk.c: the rows of one side of a mapping in key order, from where an earlier transaction stopped.
 *
 * A table is walked leaf by leaf, leaves by OID, each by its own index of the key; a foreign table by SELECTs on it.  To go
 * on behind (a, b, c) takes three scans, one after the other: (= a, = b, > c), (= a, > b), (> a).  Each is an ordinary
 * range of the index, whatever mix of ascending and descending columns it has, which one row comparison could not express.
 * Where the walk ends before the index does, its first column says so, and the others are held against each row.
 *
 * The rows of a page of an ordinary table are fetched together, which is what makes a walk faster than an index scan.
 * Under an MVCC snapshot that reads the same: what it sees stays where it is.
 *
 * Nothing here locks a row or writes anything.
 */
#include "postgres.h"

#include "walk.h"
#include "owner.h"
#include "position.h"

#include "access/heapam.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* Rows that one SELECT on a foreign table asks for. */
#define DW_FOREIGN_FETCH 5000

/* Entries of an index read ahead; those of them that follow one another on a page of the table are fetched together. */
#define DW_READ_AHEAD 128

typedef struct ReadAhead
{
	ItemPointerData tids[DW_READ_AHEAD];
	int			ntids;
	int			next_tid;
	bool		exhausted;		/* the index has no more: asked again, it would begin anew */
	Buffer		buffer;			/* pinned: the page that the rows are on */
	HeapTupleData rows[DW_READ_AHEAD];
	int			nrows;
	int			next_row;
} ReadAhead;

struct DwWalk
{
	const DwKeyShape *shape;
	TupleDesc	desc;			/* of the table */
	Oid			owner;
	Snapshot	snapshot;
	Oid			end_heap;		/* the last one to be walked, or (without end_key) the first that is not; InvalidOid: all */
	Jsonb	   *end_key;
	List	   *heaps;			/* still to be walked, the current one first */
	bool		resumed;		/* the current heap is entered behind start */
	int			depth;			/* column of the current scan that is a range; -1: the last or only scan */
	Datum		start[INDEX_MAX_KEYS];
	bool		bounded;		/* the current heap is left behind end */
	Datum		end[INDEX_MAX_KEYS];
	int			ncolumns;		/* of the key, in the order walked */
	AttrNumber	columns[INDEX_MAX_KEYS];	/* in the layout of row */
	TupleTableSlot *row;		/* last row in the layout of the leaf */
	MemoryContext context;

	/* heap tables */
	DwLookup   *lookup;
	DwLeaf	   *leaf;
	IndexScanDesc scan;			/* NULL: none under way */
	ReadAhead  *ahead;			/* NULL: the table is of another kind, and fetches its rows itself */

	/* foreign tables */
	bool		foreign;
	SPITupleTable *fetched;		/* NULL: none under way */
	uint64		next;			/* row of it to return next */
};

/* Type of a key column, whose text form is kept: domains as what they are over. */
static Oid
column_type(DwWalk *walk, int i)
{
	return getBaseType(TupleDescAttr(walk->row->tts_tupleDescriptor, walk->columns[i] - 1)->atttypid);
}

static void
column_types(DwWalk *walk, Oid *types)
{
	for (int i = 0; i < walk->ncolumns; i++)
		types[i] = column_type(walk, i);
}

/* A stored position to values.  false: it has another number of columns, the index is another one. */
static bool
read_position(DwWalk *walk, Jsonb *position, Datum *values)
{
	Oid			types[INDEX_MAX_KEYS];

	column_types(walk, types);
	return dw_position_read(walk->owner, position, walk->ncolumns, types, values);
}

bool
dw_walk_position(DwWalk *walk, Oid *heap, Jsonb **last_key)
{
	Oid			types[INDEX_MAX_KEYS];
	Datum		values[INDEX_MAX_KEYS];

	if (walk->row == NULL || TTS_EMPTY(walk->row))
		return false;
	column_types(walk, types);
	for (int i = 0; i < walk->ncolumns; i++)
	{
		bool		isnull;

		values[i] = slot_getattr(walk->row, walk->columns[i], &isnull);
	}
	*heap = walk->foreign ? walk->shape->relid : walk->leaf->relid;
	*last_key = dw_position_write(walk->owner, walk->ncolumns, types, values);
	return true;
}

uint32
dw_walk_hash(DwWalk *walk)
{
	uint32		hash = 0;

	for (int i = 0; i < walk->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(walk->row->tts_tupleDescriptor, walk->columns[i] - 1);
		bool		isnull;
		Datum		value = slot_getattr(walk->row, walk->columns[i], &isnull);

		hash = hash_combine(hash, datum_image_hash(value, att->attbyval, att->attlen));
	}
	return hash;
}

/* Heap tables */

/* One condition on column i of the index; strategy: as in the order of the index. */
static void
init_scankey(DwWalk *walk, int i, StrategyNumber strategy, Datum value, ScanKey key)
{
	Relation	index = walk->leaf->index;
	Oid			type = index->rd_opcintype[i];
	Oid			operator;

	if (index->rd_indoption[i] & INDOPTION_DESC)
		strategy = BTCommuteStrategyNumber(strategy);
	operator = get_opfamily_member(index->rd_opfamily[i], type, type, strategy);
	if (!OidIsValid(operator))
		elog(ERROR, "missing operator %d(%u,%u) in opfamily %u", strategy, type, type, index->rd_opfamily[i]);
	ScanKeyEntryInitialize(key, 0, i + 1, strategy, type, index->rd_indcollation[i], get_opcode(operator), value);
}

static void
begin_index_scan(DwWalk *walk)
{
	ScanKeyData keys[INDEX_MAX_KEYS + 1];
	int			nkeys = 0;

	if (walk->bounded)
		init_scankey(walk, 0, BTLessEqualStrategyNumber, walk->end[0], &keys[nkeys++]);
	for (int i = 0; i <= walk->depth; i++)
		init_scankey(walk, i, i == walk->depth ? BTGreaterStrategyNumber : BTEqualStrategyNumber, walk->start[i], &keys[nkeys++]);
	walk->scan = dw_index_beginscan(walk->leaf->rel, walk->leaf->index, walk->snapshot, nkeys);
	index_rescan(walk->scan, keys, nkeys, NULL, 0);
	walk->ahead = NULL;
	if (walk->leaf->rel->rd_tableam == GetHeapamTableAmRoutine() && IsMVCCSnapshot(walk->snapshot))
		walk->ahead = palloc0(sizeof(ReadAhead));
}

/* Does the row lie behind the end, where the condition on the first column alone does not tell? */
static bool
is_behind_end(DwWalk *walk)
{
	Relation	index = walk->leaf->index;

	for (int i = 0; i < walk->ncolumns; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(walk->row, walk->columns[i], &isnull);
		int			order;

		order = DatumGetInt32(FunctionCall2Coll(index_getprocinfo(index, i + 1, BTORDER_PROC), index->rd_indcollation[i],
												value, walk->end[i]));
		if (order != 0)
			return (index->rd_indoption[i] & INDOPTION_DESC) ? order < 0 : order > 0;
	}
	return false;
}

static void
end_index_scan(DwWalk *walk)
{
	/* the slot may hold a pin that the scan shares; the position is still in it */
	if (!TTS_EMPTY(walk->row))
		ExecMaterializeSlot(walk->row);
	if (walk->ahead != NULL)
	{
		if (BufferIsValid(walk->ahead->buffer))
			ReleaseBuffer(walk->ahead->buffer);
		pfree(walk->ahead);
		walk->ahead = NULL;
	}
	index_endscan(walk->scan);
	walk->scan = NULL;
}

/* More entries of the index.  false: there are none. */
static bool
read_entries(IndexScanDesc scan, ReadAhead *ahead)
{
	ItemPointer tid;

	ahead->ntids = ahead->next_tid = 0;
	while (ahead->ntids < DW_READ_AHEAD && !ahead->exhausted)
	{
		tid = index_getnext_tid(scan, ForwardScanDirection);
		if (tid != NULL)
			ahead->tids[ahead->ntids++] = *tid;
		else
			ahead->exhausted = true;
	}
	return ahead->ntids > 0;
}

/* Of a page all of whose rows are visible to everybody: no row has more than one version there.  false: it is gone. */
static bool
take_visible_row(Relation rel, Page page, ItemPointer tid, HeapTuple row)
{
	OffsetNumber number = ItemPointerGetOffsetNumber(tid);
	ItemId		item;

	if (number > PageGetMaxOffsetNumber(page))
		return false;
	item = PageGetItemId(page, number);
	if (ItemIdIsRedirected(item))
	{
		number = ItemIdGetRedirect(item);
		item = PageGetItemId(page, number);
	}
	if (!ItemIdIsNormal(item))
		return false;
	row->t_data = (HeapTupleHeader) PageGetItem(page, item);
	row->t_len = ItemIdGetLength(item);
	row->t_tableOid = RelationGetRelid(rel);
	ItemPointerSet(&row->t_self, ItemPointerGetBlockNumber(tid), number);
	return true;
}

/* Does every snapshot see every row of the page? */
static bool
is_all_visible(Page page, Snapshot snapshot)
{
	return PageIsAllVisible(page) && !snapshot->takenDuringRecovery && !IsolationIsSerializable();
}

/* The rows of the next entries, as long as they are on one page. */
static void
fetch_page(Relation rel, Snapshot snapshot, ReadAhead *ahead)
{
	BlockNumber block = ItemPointerGetBlockNumber(&ahead->tids[ahead->next_tid]);
	Page		page;
	bool		all_visible;

	ahead->nrows = ahead->next_row = 0;
	ahead->buffer = ReleaseAndReadBuffer(ahead->buffer, rel, block);
	LockBuffer(ahead->buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(ahead->buffer);
	all_visible = is_all_visible(page, snapshot);
	while (ahead->next_tid < ahead->ntids && ItemPointerGetBlockNumber(&ahead->tids[ahead->next_tid]) == block)
	{
		/* the walk's slot may still be on one of the rows: they change only where there is a new one for it */
		HeapTupleData row;
		ItemPointer tid = &ahead->tids[ahead->next_tid++];

		if (all_visible ? take_visible_row(rel, page, tid, &row) :
			heap_hot_search_buffer(tid, rel, ahead->buffer, snapshot, &row, NULL, true))
		{
			/* it will be read soon, and waiting for memory is what a walk spends much of its time with */
			__builtin_prefetch(row.t_data);
			ahead->rows[ahead->nrows++] = row;
			pgstat_count_heap_fetch(rel);
		}
	}
	LockBuffer(ahead->buffer, BUFFER_LOCK_UNLOCK);
}

/* The next row of the scan, into walk->row. */
static bool
fetch_row(DwWalk *walk)
{
	ReadAhead  *ahead = walk->ahead;

	if (ahead == NULL)
		return index_getnext_slot(walk->scan, ForwardScanDirection, walk->row);
	while (ahead->next_row == ahead->nrows)
	{
		if (ahead->next_tid == ahead->ntids && !read_entries(walk->scan, ahead))
			return false;
		fetch_page(walk->leaf->rel, walk->snapshot, ahead);
	}
	ExecStoreBufferHeapTuple(&ahead->rows[ahead->next_row++], walk->row, ahead->buffer);
	return true;
}

/* Make the first of walk->heaps current, behind last_key if that is not NULL. */
static void
enter_leaf(DwWalk *walk, Jsonb *last_key)
{
	Relation	index;

	walk->leaf = dw_lookup_leaf(walk->lookup, linitial_oid(walk->heaps));
	walk->row = walk->leaf->slot;
	index = walk->leaf->index;
	walk->ncolumns = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < walk->ncolumns; i++)
		walk->columns[i] = index->rd_index->indkey.values[i];
	walk->resumed = last_key != NULL && read_position(walk, last_key, walk->start);
	walk->bounded = walk->end_key != NULL && walk->end_heap == walk->leaf->relid &&
		read_position(walk, walk->end_key, walk->end);
	walk->depth = walk->resumed ? walk->ncolumns - 1 : -1;
	begin_index_scan(walk);
}

/* The scan is through: the next one of this leaf, or the next leaf.  false: that was all. */
static bool
next_index_scan(DwWalk *walk)
{
	end_index_scan(walk);
	if (walk->resumed && walk->depth > 0)
	{
		walk->depth--;
		begin_index_scan(walk);
		return true;
	}
	walk->heaps = list_delete_first(walk->heaps);
	if (walk->heaps == NIL)
		return false;
	enter_leaf(walk, NULL);
	return true;
}

static TupleTableSlot *
next_heap_row(DwWalk *walk)
{
	while (walk->scan != NULL)
	{
		MemoryContext old;
		bool		more;

		if (fetch_row(walk))
		{
			if (walk->bounded && walk->ncolumns > 1 && is_behind_end(walk))
			{
				end_index_scan(walk);
				break;
			}
			return dw_leaf_row(walk->lookup, walk->leaf);
		}
		old = MemoryContextSwitchTo(walk->context);
		more = next_index_scan(walk);
		MemoryContextSwitchTo(old);
		if (!more)
			break;
	}
	return NULL;
}

/* Leaves to be walked, by OID, beginning with heap (InvalidOid: all). */
static List *
leaves_of(DwWalk *walk, Oid heap)
{
	List	   *leaves = NIL;
	ListCell   *lc;

	foreach(lc, dw_heaps_of(walk->shape->relid, AccessShareLock))
	{
		Oid			leaf = lfirst_oid(lc);

		if (get_rel_relkind(leaf) != RELKIND_RELATION || leaf < heap)
			continue;
		if (OidIsValid(walk->end_heap) && (walk->end_key ? leaf > walk->end_heap : leaf >= walk->end_heap))
			continue;
		leaves = lappend_oid(leaves, leaf);
	}
	list_sort(leaves, list_oid_cmp);
	return leaves;
}

/* Foreign tables */

static char *
qualified_operator(Oid type, int strategy)
{
	TypeCacheEntry *cache = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY);
	Oid			operator = InvalidOid;
	HeapTuple	tuple;
	Form_pg_operator form;
	char	   *result;

	if (OidIsValid(cache->btree_opf))
		operator = get_opfamily_member(cache->btree_opf, cache->btree_opintype, cache->btree_opintype, strategy);
	if (!OidIsValid(operator))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("key column of type %s cannot be sorted", format_type_be(type)),
				 errhint("Name key_columns of sortable types for the foreign table.")));
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/* Column as it is sorted and compared: where the other server sorts texts its own way, both must be done here. */
static char *
sorted_column(DwWalk *walk, int i)
{
	Form_pg_attribute att = TupleDescAttr(walk->desc, walk->columns[i] - 1);

	return psprintf("%s%s", quote_identifier(NameStr(att->attname)),
					OidIsValid(att->attcollation) ? " COLLATE pg_catalog.\"C\"" : "");
}

static char *
foreign_query(DwWalk *walk)
{
	StringInfoData sql;
	const char *separator = "";

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < walk->desc->natts; i++)
	{
		if (TupleDescAttr(walk->desc, i)->attisdropped)
			continue;
		appendStringInfo(&sql, "%s%s", separator, quote_identifier(NameStr(TupleDescAttr(walk->desc, i)->attname)));
		separator = ", ";
	}
	appendStringInfo(&sql, " FROM %s",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(walk->shape->relid)),
												get_rel_name(walk->shape->relid)));
	/* nothing but the declaration says that its key is never null */
	separator = "WHERE";
	for (int i = 0; i < walk->ncolumns; i++)
	{
		appendStringInfo(&sql, " %s %s IS NOT NULL", separator, sorted_column(walk, i));
		separator = "AND";
	}
	for (int i = 0; i <= walk->depth; i++)
		appendStringInfo(&sql, " AND %s %s $%d", sorted_column(walk, i),
						 qualified_operator(column_type(walk, i),
											i == walk->depth ? BTGreaterStrategyNumber : BTEqualStrategyNumber), i + 1);
	separator = " ORDER BY ";
	for (int i = 0; i < walk->ncolumns; i++)
	{
		appendStringInfo(&sql, "%s%s USING %s", separator, sorted_column(walk, i),
						 qualified_operator(column_type(walk, i), BTLessStrategyNumber));
		separator = ", ";
	}
	appendStringInfo(&sql, " LIMIT %d", DW_FOREIGN_FETCH);
	return sql.data;
}

/* Read the next rows behind walk->start, as the owner of the table, whose user mapping counts. */
static void
fetch_foreign(DwWalk *walk)
{
	DwOwnerScope scope;
	Oid			types[INDEX_MAX_KEYS];
	MemoryContext old = CurrentMemoryContext;

	for (int i = 0; i <= walk->depth; i++)
		types[i] = column_type(walk, i);
	if (walk->fetched != NULL)
		SPI_freetuptable(walk->fetched);
	walk->fetched = NULL;
	dw_owner_enter(&scope, walk->owner, true);
	if (SPI_execute_with_args(foreign_query(walk), walk->depth + 1, types, walk->start, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read foreign table %u", walk->shape->relid);
	dw_owner_leave(&scope);
	walk->fetched = SPI_tuptable;
	walk->next = 0;
	MemoryContextSwitchTo(old);
}

/* The row fetched last becomes the start of what is read next. */
static void
restart_behind_last(DwWalk *walk)
{
	for (int i = 0; i < walk->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(walk->desc, walk->columns[i] - 1);
		bool		isnull;

		walk->start[i] = datumCopy(slot_getattr(walk->row, walk->columns[i], &isnull), att->attbyval, att->attlen);
	}
	walk->resumed = true;
	walk->depth = walk->ncolumns - 1;
}

static void
store_foreign_row(DwWalk *walk, HeapTuple tuple)
{
	int			column = 0;

	ExecClearTuple(walk->row);
	for (int i = 0; i < walk->desc->natts; i++)
	{
		walk->row->tts_isnull[i] = true;
		if (!TupleDescAttr(walk->desc, i)->attisdropped)
			walk->row->tts_values[i] = SPI_getbinval(tuple, walk->fetched->tupdesc, ++column, &walk->row->tts_isnull[i]);
	}
	ExecStoreVirtualTuple(walk->row);
}

static TupleTableSlot *
next_foreign_row(DwWalk *walk)
{
	MemoryContext old = MemoryContextSwitchTo(walk->context);

	while (walk->next >= walk->fetched->numvals)
	{
		if (walk->fetched->numvals == DW_FOREIGN_FETCH)
			restart_behind_last(walk);
		else if (walk->depth > 0)
			walk->depth--;
		else
		{
			MemoryContextSwitchTo(old);
			return NULL;
		}
		fetch_foreign(walk);
	}
	store_foreign_row(walk, walk->fetched->vals[walk->next++]);
	MemoryContextSwitchTo(old);
	return walk->row;
}

static void
begin_foreign(DwWalk *walk, Jsonb *last_key)
{
	walk->foreign = true;
	walk->row = MakeSingleTupleTableSlot(walk->desc, &TTSOpsVirtual);
	walk->ncolumns = walk->shape->ncolumns;
	memcpy(walk->columns, walk->shape->columns, sizeof(walk->columns));
	walk->resumed = last_key != NULL && read_position(walk, last_key, walk->start);
	walk->depth = walk->resumed ? walk->ncolumns - 1 : -1;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	MemoryContextSwitchTo(walk->context);
	fetch_foreign(walk);
}

DwWalk *
dw_walk_begin(const DwKeyShape *shape, TupleDesc desc, Oid owner, Snapshot snapshot, const DwSpan *span)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite walk", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwWalk	   *walk = palloc0(sizeof(DwWalk));

	walk->shape = shape;
	walk->desc = desc;
	walk->owner = owner;
	walk->snapshot = snapshot;
	walk->context = context;
	walk->end_heap = span->end_heap;
	walk->end_key = span->end_key;
	if (dw_is_foreign(shape->relid))
		begin_foreign(walk, span->last_key);
	else
	{
		walk->lookup = dw_lookup_open(shape, AccessShareLock);
		walk->heaps = leaves_of(walk, span->heap);
		if (walk->heaps != NIL)
			enter_leaf(walk, linitial_oid(walk->heaps) == span->heap ? span->last_key : NULL);
	}
	MemoryContextSwitchTo(old);
	return walk;
}

TupleTableSlot *
dw_walk_next(DwWalk *walk)
{
	return walk->foreign ? next_foreign_row(walk) : next_heap_row(walk);
}

void
dw_walk_end(DwWalk *walk)
{
	MemoryContext old = CurrentMemoryContext;

	if (walk->foreign)
	{
		ExecDropSingleTupleTableSlot(walk->row);
		SPI_finish();
		MemoryContextSwitchTo(old);
	}
	else
	{
		if (walk->scan != NULL)
			end_index_scan(walk);
		dw_lookup_close(walk->lookup);
	}
	MemoryContextDelete(walk->context);
}
