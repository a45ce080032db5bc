/*
 * blocks.c: which blocks of the old heaps are still to be copied, and who is at them.
 *
 * A row of _dualwrite.backfill is a range of blocks.  A worker holds the row's lock for the length of a batch and moves
 * next_block on in the batch's own transaction: whatever happens to the worker, the range goes on where the last batch
 * that was committed ended, and two workers are never at the same blocks.  There is one range a heap to begin with; whoever
 * holds one gives half of what is left of it away when there are more workers than ranges.  So the rows are few, each is
 * updated once a batch, and no index covers what changes.
 *
 * Nothing here may wait for a lock on a row: workers step aside for each other.
 */
#include "postgres.h"

#include "mapping.h"
#include "blocks.h"
#include "sql.h"
#include "worker.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/lsyscache.h"

/* A range with fewer blocks than this left is not divided: that is a batch or two. */
#define DW_DIVIDE_BLOCKS 512

/* Of a table without partitions there is a range without blocks: whoever closes it looks for what was attached meanwhile. */
static void
note_heap(int32 mapping_id, int32 ordinal, Oid heap)
{
	Relation	rel = table_open(heap, AccessShareLock);
	int64		blocks = RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind) ? RelationGetNumberOfBlocks(rel) : 0;
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.backfill (mapping_id, heap, ordinal, relfilenode, end_block) "
				  "VALUES ($1, $2, $3, $4, $5)",
				  5, (DwArg[]) {DW_INT4(mapping_id), DW_OID(heap), DW_INT4(ordinal), DW_OID(rel->rd_rel->relfilenode),
				  DW_INT8(blocks)});
	dw_sql_end(&sql);
	table_close(rel, NoLock);
}

/* The relations that hold the table's rows; the table itself where none does. */
static List *
heaps_to_read(Oid old_table)
{
	List	   *all = dw_heaps_of(old_table, AccessShareLock);
	List	   *heaps = NIL;
	ListCell   *lc;

	foreach(lc, all)
		if (RELKIND_HAS_TABLE_AM(get_rel_relkind(lfirst_oid(lc))))
			heaps = lappend_oid(heaps, lfirst_oid(lc));
	return heaps != NIL || all == NIL ? heaps : list_make1_oid(old_table);
}

int
dw_blocks_note(int32 mapping_id, int32 ordinal, Oid old_table)
{
	int			noted = 0;
	ListCell   *lc;

	foreach(lc, heaps_to_read(old_table))
	{
		Oid			heap = lfirst_oid(lc);
		DwSql		sql;
		bool		known;

		dw_sql_begin(&sql);
		known = dw_sql("SELECT FROM _dualwrite.backfill WHERE mapping_id = $1 AND heap = $2",
					   2, (DwArg[]) {DW_INT4(mapping_id), DW_OID(heap)}) > 0;
		dw_sql_end(&sql);
		if (known)
			continue;
		note_heap(mapping_id, ordinal, heap);
		noted++;
	}
	return noted;
}

/* Give the later half of what is left of the range away. */
static void
divide(DwBlockRange *range)
{
	int64		middle = range->next_block + (range->end_block - range->next_block + 1) / 2;
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.backfill "
				  "(mapping_id, heap, ordinal, relfilenode, first_block, next_block, end_block, started_at) "
				  "SELECT mapping_id, heap, ordinal, relfilenode, $4, $4, end_block, started_at "
				  "FROM _dualwrite.backfill WHERE mapping_id = $1 AND heap = $2 AND first_block = $3",
				  4, (DwArg[]) {DW_INT4(range->mapping_id), DW_OID(range->heap), DW_INT8(range->first_block), DW_INT8(middle)});
	(void) dw_sql("UPDATE _dualwrite.backfill SET end_block = $4 WHERE mapping_id = $1 AND heap = $2 AND first_block = $3",
				  4, (DwArg[]) {DW_INT4(range->mapping_id), DW_OID(range->heap), DW_INT8(range->first_block), DW_INT8(middle)});
	dw_sql_end(&sql);
	range->end_block = middle;
	range->divided = true;
}

/* Pids of those that copy for this migration, as an array. */
static Datum
pids_at_work(int32 migration_id)
{
	int			pids[DW_WORKER_SLOTS + 1];
	Datum		values[DW_WORKER_SLOTS + 1];
	int			n = dw_worker_sharing(migration_id, DW_ROLE_BACKFILL, pids);

	for (int i = 0; i < n; i++)
		values[i] = Int32GetDatum(pids[i]);
	return PointerGetDatum(construct_array(values, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

DwBlockRange *
dw_blocks_claim(int32 migration_id, int workers)
{
	DwBlockRange *range = NULL;
	int64		open = 0;
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	/* mappings one after the other; a row that somebody has moved on meanwhile is read again before it is locked */
	if (dw_sql("SELECT b.mapping_id, b.heap::oid, b.ordinal, b.relfilenode, b.first_block, b.next_block, b.end_block, u.open "
			   "FROM (SELECT o.ordinal, count(*) FILTER (WHERE o.next_block < o.end_block) AS open "
			   "FROM _dualwrite.backfill o JOIN _dualwrite.mapping n ON n.id = o.mapping_id "
			   "WHERE n.migration_id = $1 AND o.finished_at IS NULL GROUP BY o.ordinal ORDER BY o.ordinal LIMIT 1) u "
			   "JOIN _dualwrite.backfill b ON b.ordinal = u.ordinal JOIN _dualwrite.mapping m ON m.id = b.mapping_id "
			   "WHERE m.migration_id = $1 AND b.finished_at IS NULL "
			   "ORDER BY b.next_block >= b.end_block, b.pid IS DISTINCT FROM $2, coalesce(b.pid = ANY ($3), false), "
			   "b.heap::oid, b.first_block LIMIT 1 FOR UPDATE OF b SKIP LOCKED",
			   3, (DwArg[]) {DW_INT4(migration_id), DW_INT4(MyProcPid), DW_DATUM(INT4ARRAYOID, pids_at_work(migration_id), false)}) > 0)
	{
		range = MemoryContextAllocZero(sql.caller, sizeof(DwBlockRange));
		range->mapping_id = DatumGetInt32(dw_sql_value(0, 1, &isnull));
		range->heap = DatumGetObjectId(dw_sql_value(0, 2, &isnull));
		range->ordinal = DatumGetInt32(dw_sql_value(0, 3, &isnull));
		range->relfilenode = DatumGetObjectId(dw_sql_value(0, 4, &isnull));
		range->first_block = DatumGetInt64(dw_sql_value(0, 5, &isnull));
		range->next_block = DatumGetInt64(dw_sql_value(0, 6, &isnull));
		range->end_block = DatumGetInt64(dw_sql_value(0, 7, &isnull));
		open = DatumGetInt64(dw_sql_value(0, 8, &isnull));
	}
	dw_sql_end(&sql);
	if (range != NULL && open < workers && range->end_block - range->next_block >= DW_DIVIDE_BLOCKS)
		divide(range);
	return range;
}

void
dw_blocks_checkpoint(const DwBlockRange *range, int64 next_block, const DwCounts *counts, const char *reasons)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET next_block = $4, rows_done = rows_done + $5, rows_copied = rows_copied + $6, "
				  "rows_queued = rows_queued + $7, pid = $8, updated_at = clock_timestamp(), "
				  "throttled_by = string_to_array($9, E'\\n') "
				  "WHERE mapping_id = $1 AND heap = $2 AND first_block = $3",
				  9, (DwArg[]) {DW_INT4(range->mapping_id), DW_OID(range->heap), DW_INT8(range->first_block), DW_INT8(next_block),
				  DW_INT8(counts->done), DW_INT8(counts->copied), DW_INT8(counts->queued), DW_INT4(MyProcPid),
				  DW_TEXT(reasons)});
	dw_sql_end(&sql);
}

void
dw_blocks_hold(const DwBlockRange *range, const char *reasons)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET throttled_by = string_to_array($4, E'\\n') "
				  "WHERE mapping_id = $1 AND heap = $2 AND first_block = $3 AND throttled_by <> string_to_array($4, E'\\n')",
				  4, (DwArg[]) {DW_INT4(range->mapping_id), DW_OID(range->heap), DW_INT8(range->first_block), DW_TEXT(reasons)});
	dw_sql_end(&sql);
}

/* Lock all ranges of the heap (InvalidOid: of the mapping) that are not closed; false: somebody is at one of them. */
static bool
lock_siblings(const DwBlockRange *range, Oid heap)
{
	DwSql		sql;
	uint64		locked;
	uint64		all;

	dw_sql_begin(&sql);
	locked = dw_sql("SELECT FROM _dualwrite.backfill WHERE mapping_id = $1 AND ($2 = 0::oid OR heap = $2) "
					"AND finished_at IS NULL FOR UPDATE SKIP LOCKED",
					2, (DwArg[]) {DW_INT4(range->mapping_id), DW_OID(heap)});
	all = dw_sql("SELECT FROM _dualwrite.backfill WHERE mapping_id = $1 AND ($2 = 0::oid OR heap = $2) AND finished_at IS NULL",
				 2, (DwArg[]) {DW_INT4(range->mapping_id), DW_OID(heap)});
	dw_sql_end(&sql);
	return locked == all;
}

bool
dw_blocks_restart(const DwBlockRange *range, Relation heap)
{
	DwSql		sql;

	if (!lock_siblings(range, range->heap))
		return false;
	dw_sql_begin(&sql);
	(void) dw_sql("WITH gone AS (DELETE FROM _dualwrite.backfill WHERE mapping_id = $1 AND heap = $2 "
				  "RETURNING ordinal, rows_copied, rows_queued, started_at) "
				  "SELECT ordinal, sum(rows_copied)::int8, sum(rows_queued)::int8, min(started_at) FROM gone GROUP BY ordinal",
				  2, (DwArg[]) {DW_INT4(range->mapping_id), DW_OID(range->heap)});
	{
		bool		isnull;
		DwArg		kept[] = {DW_INT4(range->mapping_id), DW_OID(range->heap), DW_OID(heap->rd_rel->relfilenode),
			DW_INT8((int64) RelationGetNumberOfBlocks(heap)),
			DW_DATUM(INT4OID, dw_sql_value(0, 1, &isnull), false), DW_DATUM(INT8OID, dw_sql_value(0, 2, &isnull), false),
		DW_DATUM(INT8OID, dw_sql_value(0, 3, &isnull), false), DW_DATUM(TIMESTAMPTZOID, dw_sql_value(0, 4, &isnull), false)};

		(void) dw_sql("INSERT INTO _dualwrite.backfill "
					  "(mapping_id, heap, relfilenode, end_block, ordinal, rows_copied, rows_queued, started_at) "
					  "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", lengthof(kept), kept);
	}
	dw_sql_end(&sql);
	return true;
}

void
dw_blocks_abandon(const DwBlockRange *range)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET end_block = next_block, updated_at = clock_timestamp() "
				  "WHERE mapping_id = $1 AND heap = $2 AND first_block = $3",
				  3, (DwArg[]) {DW_INT4(range->mapping_id), DW_OID(range->heap), DW_INT8(range->first_block)});
	dw_sql_end(&sql);
}

DwMappingEnd
dw_blocks_finish(const DwBlockRange *range, Oid old_table)
{
	DwSql		sql;
	bool		unread;

	if (!lock_siblings(range, InvalidOid))
		return DW_MAPPING_BESIDE;
	dw_sql_begin(&sql);
	/* another range may have been let go, unread, since ours was the only one to be had */
	unread = dw_sql("SELECT FROM _dualwrite.backfill WHERE mapping_id = $1 AND finished_at IS NULL AND next_block < end_block LIMIT 1",
					1, (DwArg[]) {DW_INT4(range->mapping_id)}) > 0;
	dw_sql_end(&sql);
	if (unread)
		return DW_MAPPING_BESIDE;
	if (dw_blocks_note(range->mapping_id, range->ordinal, old_table) > 0)
		return DW_MAPPING_GREW;
	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET finished_at = clock_timestamp(), updated_at = clock_timestamp(), "
				  "throttled_by = '{}' WHERE mapping_id = $1 AND finished_at IS NULL",
				  1, (DwArg[]) {DW_INT4(range->mapping_id)});
	dw_sql_end(&sql);
	return DW_MAPPING_ENDED;
}

int64
dw_blocks_left(int32 migration_id, int *openings)
{
	DwSql		sql;
	bool		isnull;
	int64		left;
	int64		could;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT count(*), coalesce(sum(greatest((b.end_block - b.next_block) / $2, 1)) FILTER (WHERE b.next_block < b.end_block "
				  "AND b.ordinal = (SELECT min(u.ordinal) FROM _dualwrite.backfill u JOIN _dualwrite.mapping n ON n.id = u.mapping_id "
				  "WHERE n.migration_id = $1 AND u.finished_at IS NULL)), 0)::int8 "
				  "FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id "
				  "WHERE m.migration_id = $1 AND b.finished_at IS NULL",
				  2, (DwArg[]) {DW_INT4(migration_id), DW_INT4(DW_DIVIDE_BLOCKS / 2)});
	left = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	could = DatumGetInt64(dw_sql_value(0, 2, &isnull));
	dw_sql_end(&sql);
	*openings = (int) Min(could, PG_INT16_MAX);
	return left;
}
