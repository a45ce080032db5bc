/*
 * backfill.c: copy of history, one batch at a time.
 *
 * Part (b) of the invariant.  The mirror is on and older writers have ended, so what is owed is what the old table's
 * heaps hold now, up to their size at the start.  They are walked by ranges of blocks, leaf by leaf; a batch is:
 *
 *	1. lock the heap, its table and the new table, and look whether the heap is still the file that was noted:
 *	   a rewritten one has other TIDs, and is walked again;
 *	2. only then take the snapshot: an older one would see nothing in a file rewritten since;
 *	3. read, project, insert if absent (bulk.c), heap and index entries both;
 *	4. look at each source row again, by its TID: a row that is gone, or that somebody is at, may have been deleted or
 *	   updated by a writer whose mirror found no new row yet.  Our row is taken back and the key queued.  Any later writer
 *	   finds our row and waits for us;
 *	5. the checkpoint, in the same transaction.
 *
 * The snapshot of 2 stays until the batch ends, so that no TID is given to another row before 4.
 *
 * It must never wait for an application, never overwrite a row that it finds, and never leave out a row without an entry
 * in the queue.
 */
#include "postgres.h"

#include "apply.h"
#include "attempt.h"
#include "backfill.h"
#include "converge.h"
#include "follow.h"
#include "mapping.h"
#include "override.h"
#include "owner.h"
#include "queue.h"
#include "settings.h"
#include "sql.h"
#include "throttle.h"
#include "worker.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Rows read, and inserted, at a time. */
#define DW_CHUNK_ROWS 1000
/* Blocks of the first batch that a backend does. */
#define DW_FIRST_BLOCKS 16
/* A chunk that fails is tried in this many parts, down to the single row. */
#define DW_PARTS 10
/* Batches given up for a lock before the rows behind it are queued, and attempts in a batch that may then run into one. */
#define DW_LOCK_RETRIES 3
#define DW_LOCK_FAILURES 8
/* Pauses, ms: throttled; a table locked by somebody else; another worker at the same mapping; no foreign server. */
#define DW_THROTTLED_MS 1000
#define DW_LOCKED_MS 100
#define DW_BESIDE_MS 100
#define DW_UNREACHABLE_MS 5000

/* One heap as _dualwrite.backfill has it. */
typedef struct DwHeap
{
	int32		mapping_id;
	Oid			relid;
	int32		ordinal;
	Oid			relfilenode;
	int64		next_block;
	int64		end_block;
	bool		overridden;		/* somebody's word stands against the signals: */
	double		ratio;			/* be at work for this share of the time */
} DwHeap;

typedef struct DwCounts
{
	int64		done;
	int64		copied;
	int64		queued;
} DwCounts;

typedef enum DwCopied
{
	DW_COPIED,
	DW_COPY_LOCKED,				/* somebody holds what we need: give the batch up, come back */
	DW_COPY_UNREACHABLE
} DwCopied;

/* A batch under way. */
typedef struct DwBatch
{
	DwHeap	   *place;
	DwFlow	   *flow;
	Relation	heap;
	TupleConversionMap *to_root;	/* NULL where leaf and table look the same */
	TupleTableSlot *root_slot;
	TupleTableSlot *recheck_slot;
	TupleTableSlot **rows;		/* of the chunk, copies in the heap's layout */
	int			first;			/* the part of the chunk that is being tried */
	int			count;
	DwCounts	part;			/* what trying it did; counts once it has succeeded */
	DwCounts	total;
	List	   *followers;
	bool		by_key;			/* converge key by key instead of bulk insert */
	bool		insist;			/* queue rows behind locks instead of giving up */
	int			lock_failures;
	MemoryContext chunk_context;
} DwBatch;

/* What this backend has learnt about speed. */
static struct
{
	int			blocks;
	double		rows_per_block;
	double		bytes_per_block;	/* read or written, whichever is more */
	int			locked;			/* batches given up for a lock, in a row */
}			pace = {DW_FIRST_BLOCKS, 0, BLCKSZ, 0};

/* ---- where the walk stands ---- */

static void
note_heap(int32 mapping_id, int32 ordinal, Oid heap)
{
	Relation	rel = table_open(heap, AccessShareLock);
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.backfill (mapping_id, heap, ordinal, relfilenode, end_block) "
				  "VALUES ($1, $2, $3, $4, $5)",
				  5, (DwArg[]) {DW_INT4(mapping_id), DW_OID(heap), DW_INT4(ordinal), DW_OID(rel->rd_rel->relfilenode),
				  DW_INT8((int64) RelationGetNumberOfBlocks(rel))});
	dw_sql_end(&sql);
	table_close(rel, NoLock);
}

/* Note the heaps of the mapping's old table that are not noted yet; their number. */
static int
note_new_heaps(int32 mapping_id, int32 ordinal, Oid old_table)
{
	int			noted = 0;
	ListCell   *lc;

	foreach(lc, dw_heaps_of(old_table, AccessShareLock))
	{
		Oid			heap = lfirst_oid(lc);
		char		relkind = get_rel_relkind(heap);
		DwSql		sql;
		bool		known;

		if (!RELKIND_HAS_TABLE_AM(relkind))
			continue;
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

void
dw_backfill_start(const DwMigration *migration)
{
	int32		ordinal = 0;
	ListCell   *lc;
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.backfill b USING _dualwrite.mapping m "
				  "WHERE m.id = b.mapping_id AND m.migration_id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	foreach(lc, dw_compiled_of(migration->id))
	{
		DwCompiled *compiled = lfirst(lc);

		(void) note_new_heaps(compiled->mapping_id, ++ordinal, compiled->old_key.relid);
	}
}

/*
 * The heap to go on with, its row locked.  Mappings one after the other, parents first; in a mapping any heap that no
 * other worker is at, those that are read through last.
 */
static DwHeap *
pick_heap(int32 migration_id)
{
	DwHeap	   *place = NULL;
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT b.mapping_id, b.heap::oid, b.ordinal, b.relfilenode, b.next_block, b.end_block "
			   "FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id "
			   "WHERE m.migration_id = $1 AND b.finished_at IS NULL AND b.ordinal = "
			   "(SELECT min(u.ordinal) FROM _dualwrite.backfill u JOIN _dualwrite.mapping n ON n.id = u.mapping_id "
			   "WHERE n.migration_id = $1 AND u.finished_at IS NULL) "
			   "ORDER BY b.next_block >= b.end_block, b.heap::oid LIMIT 1 FOR UPDATE OF b SKIP LOCKED",
			   1, (DwArg[]) {DW_INT4(migration_id)}) > 0)
	{
		place = MemoryContextAllocZero(sql.caller, sizeof(DwHeap));
		place->mapping_id = DatumGetInt32(dw_sql_value(0, 1, &isnull));
		place->relid = DatumGetObjectId(dw_sql_value(0, 2, &isnull));
		place->ordinal = DatumGetInt32(dw_sql_value(0, 3, &isnull));
		place->relfilenode = DatumGetObjectId(dw_sql_value(0, 4, &isnull));
		place->next_block = DatumGetInt64(dw_sql_value(0, 5, &isnull));
		place->end_block = DatumGetInt64(dw_sql_value(0, 6, &isnull));
	}
	dw_sql_end(&sql);
	return place;
}

static int64
count_unfinished(int32 migration_id)
{
	DwSql		sql;
	bool		isnull;
	int64		result;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT count(*) FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id "
				  "WHERE m.migration_id = $1 AND b.finished_at IS NULL", 1, (DwArg[]) {DW_INT4(migration_id)});
	result = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
	return result;
}

/* Walk the heap from its first block (again), as it is now. */
static void
restart_heap(const DwHeap *place, Relation heap)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET relfilenode = $3, next_block = 0, end_block = $4, updated_at = clock_timestamp() "
				  "WHERE mapping_id = $1 AND heap = $2",
				  4, (DwArg[]) {DW_INT4(place->mapping_id), DW_OID(place->relid), DW_OID(heap->rd_rel->relfilenode),
				  DW_INT8((int64) RelationGetNumberOfBlocks(heap))});
	dw_sql_end(&sql);
}

/* Nothing more is owed from this heap: it was dropped, or belongs to another table now. */
static void
abandon_heap(const DwHeap *place)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET end_block = next_block, updated_at = clock_timestamp() "
				  "WHERE mapping_id = $1 AND heap = $2", 2, (DwArg[]) {DW_INT4(place->mapping_id), DW_OID(place->relid)});
	dw_sql_end(&sql);
}

/* What throttled_by shall say, a line each: an override first, it comes on top of any other reason. */
static char *
joined_reasons(const DwHeap *place, List *reasons)
{
	StringInfoData joined;
	ListCell   *lc;

	initStringInfo(&joined);
	if (place->overridden)
		appendStringInfoString(&joined, "override");
	foreach(lc, reasons)
		appendStringInfo(&joined, "%s%s", joined.len > 0 ? "\n" : "", (char *) lfirst(lc));
	return joined.data;
}

static void
checkpoint(const DwHeap *place, int64 next_block, const DwCounts *counts)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET next_block = $3, rows_done = rows_done + $4, rows_copied = rows_copied + $5, "
				  "rows_queued = rows_queued + $6, updated_at = clock_timestamp(), throttled_by = string_to_array($7, E'\\n') "
				  "WHERE mapping_id = $1 AND heap = $2",
				  7, (DwArg[]) {DW_INT4(place->mapping_id), DW_OID(place->relid), DW_INT8(next_block),
				  DW_INT8(counts->done), DW_INT8(counts->copied), DW_INT8(counts->queued),
				  DW_TEXT(joined_reasons(place, NIL))});
	dw_sql_end(&sql);
}

/* Say why nothing happens, once: all reasons that are known. */
static void
note_reasons(const DwHeap *place, List *reasons)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET throttled_by = string_to_array($3, E'\\n') "
				  "WHERE mapping_id = $1 AND heap = $2 AND throttled_by <> string_to_array($3, E'\\n')",
				  3, (DwArg[]) {DW_INT4(place->mapping_id), DW_OID(place->relid), DW_TEXT(joined_reasons(place, reasons))});
	dw_sql_end(&sql);
}

static DwStep
wait_because(const DwHeap *place, const char *reason, long pause_ms, long *delay_ms)
{
	note_reasons(place, list_make1(unconstify(char *, reason)));
	*delay_ms = pause_ms;
	return DW_STEP_WAIT;
}

/* ---- rows ---- */

/* Row i of the chunk in the layout of the table. */
static TupleTableSlot *
source_row(DwBatch *batch, int i)
{
	if (batch->to_root == NULL)
		return batch->rows[i];
	return execute_attr_map_slot(batch->to_root->attrMap, batch->rows[i], batch->root_slot);
}

/* For rows that project: leave it to the queue. */
static void
queue_projected(DwBatch *batch, TupleTableSlot *projected)
{
	DwKey		key;

	dw_key_of_new(batch->flow->compiled, projected, &key);
	dw_queue_append(batch->flow, &key, 0, NULL);
	batch->part.queued++;
}

/* The mapping's key of row i, whether it projects or not. */
static void
key_of_source(DwBatch *batch, int i, DwKey *key)
{
	DwKey		source_key;

	if (!dw_key_of_row(batch->flow->source_key, source_row(batch, i), &source_key) ||
		!dw_key_across(batch->flow, &source_key, key))
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("row (%u,%u) of table \"%s\" has no key in %s",
						ItemPointerGetBlockNumber(&batch->rows[i]->tts_tid), ItemPointerGetOffsetNumber(&batch->rows[i]->tts_tid),
						RelationGetRelationName(batch->heap), batch->flow->compiled->mapping->new_name),
				 errhint("Correct the row or the mapping; the backfill goes on from there.")));
}

/* For rows that do not project, or whose insert fails. */
static void
queue_unprojected(DwBatch *batch, int i, const DwError *error)
{
	DwKey		key;

	key_of_source(batch, i, &key);
	dw_queue_append(batch->flow, &key, error ? error->sqlstate : 0, error ? error->message : NULL);
}

/*
 * Is the row that we read still the newest version, with nobody at it?  Exactly this version, no chain: a version that
 * was updated is not it any more.  Row locks do not count: SnapshotDirty does not report them.
 */
static bool
source_unchanged(DwBatch *batch, ItemPointer tid)
{
	SnapshotData dirty;
	bool		found;

	InitDirtySnapshot(dirty);
	found = table_tuple_fetch_row_version(batch->heap, tid, &dirty, batch->recheck_slot);
	ExecClearTuple(batch->recheck_slot);
	return found && !TransactionIdIsValid(dirty.xmin) && !TransactionIdIsValid(dirty.xmax);
}

/* The row was written: it may be the source of another mapping's. */
static void
follow(DwBatch *batch, int i)
{
	DwKey		key;

	if (batch->followers == NIL)
		return;
	key_of_source(batch, i, &key);
	dw_follow_later(batch->followers, batch->flow, &key);
}

/* Rows waiting in the bulk: origin[i] is the row of the chunk that row i of the bulk came from. */
typedef struct DwPending
{
	DwBulk	   *bulk;
	DwTarget   *target;
	int			origin[DW_CHUNK_ROWS];
	bool		conflicts[DW_CHUNK_ROWS];
	int			count;
} DwPending;

/*
 * While nothing of a mapping's history is found on the new side, looking for every row first is a quarter of the work and
 * tells nothing: the unique index notices the exception, which is then taken back and queued.  The first exception
 * makes this backend look again.
 */
#define DW_ABSENT_STREAK 5000
static struct
{
	int32		mapping_id;
	int64		rows;			/* in succession that were not there */
	int			again;			/* rows of the block that a batch stopped in: it is read again, and they are there */
}			absent;

static void
note_absent(DwBatch *batch, bool was_absent)
{
	if (absent.mapping_id != batch->flow->compiled->mapping_id)
	{
		absent.mapping_id = batch->flow->compiled->mapping_id;
		absent.rows = 0;
	}
	absent.rows = was_absent ? absent.rows + 1 : 0;
}

/* Insert, look again at where the rows came from, queue those that could not stay. */
static void
flush(DwBatch *batch, DwPending *pending)
{
	if (pending->count == 0)
		return;
	dw_bulk_flush(pending->bulk, pending->conflicts);
	for (int i = 0; i < pending->count; i++)
	{
		int			origin = pending->origin[i];

		if (pending->conflicts[i])
			note_absent(batch, false);
		else
		{
			if (source_unchanged(batch, &batch->rows[origin]->tts_tid))
			{
				batch->part.copied++;
				follow(batch, origin);
				continue;
			}
			dw_bulk_take_back(pending->bulk, i);
		}
		queue_unprojected(batch, origin, NULL);
		batch->part.queued++;
	}
	pending->count = 0;
}

static DwFind
probe(DwBatch *batch, DwTarget *target, DwLeaf **leaf)
{
	DwKey		key;
	DwFind		find;
	bool		again = absent.again > 0;

	if (again)
		absent.again--;
	else if (absent.mapping_id == batch->flow->compiled->mapping_id && absent.rows >= DW_ABSENT_STREAK)
		return DW_FIND_NONE;
	dw_key_of_new(batch->flow->compiled, target->row, &key);
	find = dw_lookup_newest(target->lookup, &key, false, false, leaf);
	if (!again)
		note_absent(batch, find == DW_FIND_NONE);
	return find;
}

/* The row is projected into the target's slot: insert it later, leave it or queue it. */
static void
place_row(DwBatch *batch, DwPending *pending, int i)
{
	DwTarget   *target = pending->target;
	DwLeaf	   *leaf;

	switch (probe(batch, target, &leaf))
	{
		case DW_FIND_FOUND:
			if (dw_rows_differ(batch->flow, target->row, dw_leaf_row(target->lookup, leaf)) != NULL)
				queue_projected(batch, target->row);
			break;
		case DW_FIND_BUSY:
			queue_projected(batch, target->row);
			break;
		case DW_FIND_NONE:
			while (!dw_bulk_add(pending->bulk, target->row))
			{
				/* the flush projects other rows into the same slot */
				flush(batch, pending);
				(void) dw_project(batch->flow, source_row(batch, i), target->row, NULL);
			}
			pending->origin[pending->count++] = i;
			break;
	}
}

static void
copy_in_bulk(DwBatch *batch)
{
	DwPending  *pending = palloc(sizeof(DwPending));
	DwTarget   *target = dw_target_open(batch->flow, false);

	pending->target = target;
	pending->bulk = dw_bulk_begin(target, DW_CHUNK_ROWS);
	pending->count = 0;
	for (int i = batch->first; i < batch->first + batch->count; i++)
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(target->row_context);
		old = MemoryContextSwitchTo(target->row_context);
		batch->part.done++;
		if (dw_project(batch->flow, source_row(batch, i), target->row, NULL))
			place_row(batch, pending, i);
		MemoryContextSwitchTo(old);
	}
	flush(batch, pending);
	dw_bulk_end(pending->bulk);
	dw_target_close(target);
}

/*
 * Where the mapping does not own the row, or the target cannot be probed (foreign tables):
 * the row's own lock instead of insert-if-absent, and never two waits at once, because there is none.
 */
static void
copy_by_key(DwBatch *batch)
{
	DwConverge *converge = dw_converge_open(batch->flow, false);
	TupleTableSlot *projected = MakeSingleTupleTableSlot(batch->flow->target_desc, &TTSOpsVirtual);

	for (int i = batch->first; i < batch->first + batch->count; i++)
	{
		DwKey		key;
		Jsonb	   *json;

		CHECK_FOR_INTERRUPTS();
		batch->part.done++;
		if (!dw_project(batch->flow, source_row(batch, i), projected, NULL))
			continue;
		/* converging projects, too: keep the key apart from what is projected */
		dw_key_of_new(batch->flow->compiled, projected, &key);
		json = dw_key_to_jsonb(batch->flow->compiled, &key);
		dw_key_from_jsonb(batch->flow->compiled, json, &key);
		switch (dw_converge(converge, &key))
		{
			case DW_CONVERGED_ALREADY:
				break;
			case DW_CONVERGED_WROTE:
				batch->part.copied++;
				follow(batch, i);
				break;
			case DW_CONVERGED_BUSY:
				dw_queue_append_json(batch->flow->compiled->mapping_id, batch->flow->direction, json, 0, NULL);
				batch->part.queued++;
				break;
		}
	}
	ExecDropSingleTupleTableSlot(projected);
	dw_converge_close(converge);
}

/*
 * Where both sides are one row: only rows that lack something are written, each in its place, if it is still the version that was
 * read.  A newer one has been completed by its writer.
 */
static void
copy_in_place(DwBatch *batch)
{
	DwTarget   *target = dw_target_open(batch->flow, false);

	target->quiet_unchanged = true;
	for (int i = batch->first; i < batch->first + batch->count; i++)
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(target->row_context);
		old = MemoryContextSwitchTo(target->row_context);
		batch->part.done++;
		(void) dw_project(batch->flow, source_row(batch, i), target->row, NULL);
		switch (dw_target_rewrite(target, batch->rows[i], target->row))
		{
			case DW_APPLIED_BUSY:
				queue_projected(batch, target->row);
				break;
			case DW_APPLIED_NOTHING:
				break;
			default:
				batch->part.copied++;
				break;
		}
		MemoryContextSwitchTo(old);
	}
	dw_target_close(target);
}

/* Work of dw_attempt. */
static void
copy_part(void *arg)
{
	DwBatch    *batch = arg;

	memset(&batch->part, 0, sizeof(batch->part));
	dw_write_begin();
	if (DW_FLOW_IN_PLACE(batch->flow))
		copy_in_place(batch);
	else if (batch->by_key)
		copy_by_key(batch);
	else
		copy_in_bulk(batch);
	/* foreign keys of the new side are checked here */
	dw_write_end(batch->flow->target_owner);
}

static bool
attempt_part(DwBatch *batch, int first, int count, DwError *failure)
{
	MemoryContext context = AllocSetContextCreate(batch->chunk_context, "dualwrite part", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		done;

	batch->first = first;
	batch->count = count;
	done = dw_attempt(copy_part, batch, false, failure);
	MemoryContextSwitchTo(old);
	if (done)
	{
		batch->total.done += batch->part.done;
		batch->total.copied += batch->part.copied;
		batch->total.queued += batch->part.queued;
		MemoryContextDelete(context);
	}
	return done;
}

static void
queue_part(DwBatch *batch, int first, int count, const DwError *failure)
{
	for (int i = first; i < first + count; i++)
		queue_unprojected(batch, i, failure);
	batch->total.queued += count;
	batch->total.done += count;
}

/*
 * Copy rows first .. first + count - 1 of the chunk.  When that fails, in parts, until the rows to blame stand alone:
 * they are queued with the error, and the rest goes on.
 */
static DwCopied
copy_rows(DwBatch *batch, int first, int count)
{
	DwError		failure;
	int			part = (count + DW_PARTS - 1) / DW_PARTS;
	bool		give_up = count == 1;

	if (attempt_part(batch, first, count, &failure))
		return DW_COPIED;
	if (dw_error_is_connection(failure.sqlstate))
		return DW_COPY_UNREACHABLE;
	if (dw_error_is_lock(failure.sqlstate))
	{
		if (!batch->insist)
			return DW_COPY_LOCKED;
		give_up |= ++batch->lock_failures > DW_LOCK_FAILURES;
	}
	if (give_up)
	{
		queue_part(batch, first, count, &failure);
		return DW_COPIED;
	}
	for (int i = 0; i < count; i += part)
	{
		DwCopied	copied = copy_rows(batch, first + i, Min(part, count - i));

		if (copied != DW_COPIED)
			return copied;
	}
	return DW_COPIED;
}

/* ---- a batch ---- */

static void
open_batch(DwBatch *batch, DwHeap *place, DwCompiled *compiled, Relation heap)
{
	DwFlow	   *flow = &compiled->flow[DW_FORWARD];

	memset(batch, 0, sizeof(DwBatch));
	batch->place = place;
	batch->flow = flow;
	batch->heap = heap;
	batch->to_root = convert_tuples_by_name(RelationGetDescr(heap), flow->source_desc);
	batch->root_slot = MakeSingleTupleTableSlot(flow->source_desc, &TTSOpsVirtual);
	batch->recheck_slot = table_slot_create(heap, NULL);
	batch->rows = palloc(sizeof(TupleTableSlot *) * DW_CHUNK_ROWS);
	for (int i = 0; i < DW_CHUNK_ROWS; i++)
		batch->rows[i] = table_slot_create(heap, NULL);
	batch->followers = dw_followers_of(flow);
	batch->by_key = !flow->owns_target || compiled->new_is_foreign;
	batch->insist = pace.locked >= DW_LOCK_RETRIES;
	batch->chunk_context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite chunk", ALLOCSET_DEFAULT_SIZES);
}

static void
close_batch(DwBatch *batch)
{
	for (int i = 0; i < DW_CHUNK_ROWS; i++)
		ExecDropSingleTupleTableSlot(batch->rows[i]);
	ExecDropSingleTupleTableSlot(batch->recheck_slot);
	ExecDropSingleTupleTableSlot(batch->root_slot);
}

/* Copies, so that no page stays pinned while the application may want to prune it. */
static int
read_chunk(DwBatch *batch, TableScanDesc scan)
{
	int			count = 0;

	while (count < DW_CHUNK_ROWS && table_scan_getnextslot_tidrange(scan, ForwardScanDirection, batch->rows[count]))
		ExecMaterializeSlot(batch->rows[count++]);
	return count;
}

/*
 * Where to go on when a batch that takes too long stops behind a chunk: at the block of its last row, which is read
 * again then, so that its rows do not count as done.  -1 when that would be no progress.
 */
static int64
stop_at(DwBatch *batch, int count)
{
	BlockNumber block = ItemPointerGetBlockNumber(&batch->rows[count - 1]->tts_tid);

	if ((int64) block <= batch->place->next_block)
		return -1;
	absent.again = 0;
	for (int i = count - 1; i >= 0 && ItemPointerGetBlockNumber(&batch->rows[i]->tts_tid) == block; i--)
	{
		batch->total.done--;
		absent.again++;
	}
	return block;
}

static double
elapsed_ms(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* Copy the blocks up to end, or as many as there is time for: *end is where it stopped. */
static DwCopied
copy_blocks(DwBatch *batch, int64 *end, double time_ms, instr_time start)
{
	ItemPointerData mintid;
	ItemPointerData maxtid;
	TableScanDesc scan;
	DwCopied	copied = DW_COPIED;
	int			count;

	ItemPointerSet(&mintid, (BlockNumber) batch->place->next_block, FirstOffsetNumber);
	ItemPointerSet(&maxtid, (BlockNumber) (*end - 1), MaxOffsetNumber);
	scan = table_beginscan_tidrange(batch->heap, GetActiveSnapshot(), &mintid, &maxtid);
	do
	{
		/* a scan that has said that it is through must not be asked again: it would begin anew */
		count = read_chunk(batch, scan);
		if (count == 0)
			break;
		copied = copy_rows(batch, 0, count);
		MemoryContextReset(batch->chunk_context);
		if (copied == DW_COPIED && count == DW_CHUNK_ROWS && elapsed_ms(start) > time_ms)
		{
			int64		block = stop_at(batch, count);

			if (block >= 0)
			{
				*end = block;
				break;
			}
		}
	} while (copied == DW_COPIED && count == DW_CHUNK_ROWS);
	table_endscan(scan);
	return copied;
}

/* What one batch, and a second of batches, may be: this worker's share of the caps, 0 = none. */
typedef struct DwLimits
{
	double		rows_per_second;
	double		bytes_per_second;
	double		batch_ms;
} DwLimits;

static void
read_limits(int32 migration_id, const DwHeap *place, DwLimits *limits)
{
	int			sharing = dw_worker_sharing(migration_id, DW_ROLE_BACKFILL);
	int64		rows = dw_setting_int(migration_id, "backfill_max_rows_per_second");

	limits->rows_per_second = rows > 0 ? Max(1, rows / sharing) : 0;
	limits->bytes_per_second = dw_setting_real(migration_id, "backfill_max_mb_per_second") * 1024 * 1024 / sharing;
	limits->batch_ms = dw_setting_int(migration_id, "backfill_batch_ms");
	if (place->overridden)
		limits->batch_ms = Max(1, Min(limits->batch_ms, DW_MAX_CYCLE_MS * place->ratio));
}

/* End of the next batch's range: what a batch's time allows, and no more than a second of the rates. */
static int64
batch_end(const DwHeap *place, const DwLimits *limits)
{
	int64		blocks = pace.blocks;

	if (limits->rows_per_second > 0 && pace.rows_per_block > 0)
		blocks = Min(blocks, Max(1, (int64) (limits->rows_per_second / pace.rows_per_block)));
	if (limits->bytes_per_second > 0)
		blocks = Min(blocks, Max(1, (int64) (limits->bytes_per_second / pace.bytes_per_block)));
	return Min(place->end_block, place->next_block + blocks);
}

/* After a batch of that many blocks: learn from it, and say how long to wait before the next one. */
static long
keep_pace(const DwHeap *place, const DwLimits *limits, int64 blocks, int64 rows, uint64 wal_bytes, double took_ms)
{
	double		bytes = Max((double) blocks * BLCKSZ, (double) wal_bytes);
	long		delay_ms;

	pace.locked = 0;
	pace.rows_per_block = (double) rows / Max(1, blocks);
	pace.bytes_per_block = Max(BLCKSZ, bytes / Max(1, blocks));
	/* a batch that was short for another reason than time says nothing about a longer one, unless it was too long */
	if (blocks >= pace.blocks || took_ms > limits->batch_ms)
		pace.blocks = dw_throttle_resize((int) blocks, took_ms, limits->batch_ms);
	delay_ms = Max(dw_throttle_delay(rows, took_ms, limits->rows_per_second),
				   dw_throttle_delay(bytes, took_ms, limits->bytes_per_second));
	if (place->overridden)
		delay_ms = Max(delay_ms, dw_throttle_rest(took_ms, place->ratio));
	return delay_ms;
}

/* The batch itself, under its locks and with the snapshot active. */
static DwStep
run_batch(const DwMigration *migration, DwHeap *place, DwCompiled *compiled, Relation heap, long *delay_ms)
{
	DwLimits	limits;
	uint64		wal_before = pgWalUsage.wal_bytes;
	int64		end;
	instr_time	start;
	DwBatch		batch;
	DwCopied	copied;

	INSTR_TIME_SET_CURRENT(start);
	read_limits(migration->id, place, &limits);
	end = batch_end(place, &limits);
	open_batch(&batch, place, compiled, heap);
	copied = copy_blocks(&batch, &end, limits.batch_ms, start);
	close_batch(&batch);
	if (copied == DW_COPY_UNREACHABLE)
		return wait_because(place, "foreign server", DW_UNREACHABLE_MS, delay_ms);
	if (copied == DW_COPY_LOCKED)
	{
		/* what was copied before the lock stays, and is found there next time */
		pace.locked++;
		return wait_because(place, "row lock", DW_LOCKED_MS, delay_ms);
	}
	checkpoint(place, end, &batch.total);

	*delay_ms = keep_pace(place, &limits, end - place->next_block, batch.total.done,
						  pgWalUsage.wal_bytes - wal_before, elapsed_ms(start));
	return DW_STEP_WORKED;
}

/* ---- a step ---- */

/* Is the heap still a leaf of the old table, or the table itself? */
static bool
belongs_to(Relation heap, Oid old_table)
{
	if (RelationGetRelid(heap) == old_table)
		return true;
	return heap->rd_rel->relispartition &&
		list_member_oid(get_partition_ancestors(RelationGetRelid(heap)), old_table);
}

/*
 * Do our row triggers fire on every write to the heap, whatever session_replication_role says?  Where they do not, what is
 * copied is out of date at once.
 */
static bool
is_mirrored(Relation heap, bool in_place)
{
	const int16 wanted = TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | (in_place ? 0 : TRIGGER_TYPE_DELETE);
	TriggerDesc *triggers = heap->trigdesc;
	int16		found = 0;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		/* the first letter only sorts them */
		if (strncmp(trigger->tgname + 1, "dualwrite_", strlen("dualwrite_")) == 0 &&
			trigger->tgenabled == TRIGGER_FIRES_ALWAYS && TRIGGER_FOR_ROW(trigger->tgtype))
			found |= trigger->tgtype & wanted;
	}
	return found == wanted;
}

/*
 * Lock the tables of the batch without waiting: whoever is in line for a strong lock goes first.  On the new table the
 * lock conflicts with that of a change of phase.
 */
static bool
lock_tables(const DwMapping *mapping, Oid heap)
{
	return ConditionalLockRelationOid(mapping->old_table, AccessShareLock) &&
		ConditionalLockRelationOid(heap, AccessShareLock) &&
		ConditionalLockRelationOid(mapping->new_table, RowExclusiveLock);
}

/*
 * Is there still a backfill to do?  Certain only under the locks of the batch.  In verify and read_switch, where old is the
 * truth as well, it is for mappings that were altered there.
 */
static bool
still_wanted(int32 migration_id)
{
	DwMigration *current = dw_migration_by_id(migration_id, false);

	return current != NULL && current->phase >= DW_PHASE_BACKFILL && current->phase <= DW_PHASE_READ_SWITCH;
}

/* Under the locks: a batch, unless the heap is not what it was. */
static DwStep
step_in_heap(const DwMigration *migration, const DwMapping *mapping, DwHeap *place, long *delay_ms)
{
	Relation	heap = try_table_open(place->relid, NoLock);
	DwStep		result = DW_STEP_WORKED;

	if (heap == NULL || !belongs_to(heap, mapping->old_table))
		abandon_heap(place);
	else if (heap->rd_rel->relfilenode != place->relfilenode)
		restart_heap(place, heap);
	else if (!is_mirrored(heap, DW_IN_PLACE(mapping)))
		result = wait_because(place, "triggers missing or disabled", DW_THROTTLED_MS, delay_ms);
	else
	{
		DwCompiled *compiled;

		/* not before the locks: a rewrite that ended meanwhile hides all rows from an older snapshot */
		PushActiveSnapshot(GetLatestSnapshot());
		compiled = dw_compiled_get(place->mapping_id);
		if (compiled == NULL)
			abandon_heap(place);
		else
			result = run_batch(migration, place, compiled, heap, delay_ms);
		PopActiveSnapshot();
	}
	if (heap != NULL)
		table_close(heap, NoLock);
	return result;
}

/* Lock the rows of all heaps of this mapping; false: another worker is at one of them. */
static bool
lock_siblings(const DwHeap *place)
{
	DwSql		sql;
	uint64		locked;
	uint64		all;

	dw_sql_begin(&sql);
	locked = dw_sql("SELECT FROM _dualwrite.backfill WHERE mapping_id = $1 AND finished_at IS NULL "
					"AND next_block >= end_block FOR UPDATE SKIP LOCKED", 1, (DwArg[]) {DW_INT4(place->mapping_id)});
	all = dw_sql("SELECT FROM _dualwrite.backfill WHERE mapping_id = $1 AND finished_at IS NULL",
				 1, (DwArg[]) {DW_INT4(place->mapping_id)});
	dw_sql_end(&sql);
	return locked == all;
}

static void
analyze_table(void *arg)
{
	const DwMapping *mapping = arg;
	Oid			owner = dw_relation_owner(mapping->new_table);
	DwOwnerScope scope;
	StringInfoData command;

	initStringInfo(&command);
	appendStringInfo(&command, "ANALYZE (SKIP_LOCKED) %s",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(mapping->new_table)),
												get_rel_name(mapping->new_table)));
	PushActiveSnapshot(GetLatestSnapshot());
	dw_owner_enter(&scope, owner, true);
	SPI_connect();
	if (SPI_execute(command.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command.data);
	SPI_finish();
	dw_owner_leave(&scope);
	PopActiveSnapshot();
}

/* All heaps of a mapping are read through: close it, after a look for leaves that were attached meanwhile. */
static DwStep
finish_mapping(const DwMigration *migration, DwMapping *mapping, const DwHeap *place, long *delay_ms)
{
	DwError		failure;
	DwSql		sql;

	if (!lock_siblings(place))
	{
		*delay_ms = DW_BESIDE_MS;
		return DW_STEP_WAIT;
	}
	if (!ConditionalLockRelationOid(mapping->old_table, AccessShareLock))
		return wait_because(place, "table lock", DW_LOCKED_MS, delay_ms);
	if (note_new_heaps(mapping->id, place->ordinal, mapping->old_table) > 0)
		return DW_STEP_WORKED;
	/* statistics are a courtesy: without them autovacuum does it later */
	if (!dw_attempt(analyze_table, mapping, false, &failure))
		ereport(LOG,
				(errmsg("could not analyze %s after the backfill: %s", mapping->new_name, failure.message)));

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.backfill SET finished_at = clock_timestamp(), updated_at = clock_timestamp(), "
				  "throttled_by = '{}' WHERE mapping_id = $1 AND finished_at IS NULL",
				  1, (DwArg[]) {DW_INT4(mapping->id)});
	dw_sql_end(&sql);
	return count_unfinished(migration->id) == 0 ? DW_STEP_DONE : DW_STEP_WORKED;
}

static void
check_tables(const DwMapping *mapping)
{
	bool		has_old = get_rel_name(mapping->old_table) != NULL;

	if (!has_old || get_rel_name(mapping->new_table) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s of a mapping does not exist any more", has_old ? mapping->new_name : mapping->old_name),
				 errhint("Call dualwrite.rollback and drop the mapping or the migration.")));
}

/* The tables of a mapping with their leaves: those that somebody may wait for, or vacuum. */
static List *
tables_concerned(const DwMapping *mapping)
{
	return list_concat(dw_heaps_of(mapping->old_table, NoLock), dw_heaps_of(mapping->new_table, NoLock));
}

/*
 * Must there be no batch just now?  An override stands against all signals, even one that cannot be read.
 */
static bool
is_held_back(int32 migration_id, const DwMapping *mapping, DwHeap *place)
{
	List	   *tripped = NIL;

	place->overridden = dw_override_get(migration_id, &place->ratio);
	if (!place->overridden)
		tripped = dw_throttle_signals(migration_id, tables_concerned(mapping), dw_relation_owner(mapping->old_table));
	if (tripped == NIL && !(place->overridden && place->ratio <= 0))
		return false;
	note_reasons(place, tripped);
	return true;
}

/* What to do with the heap that was picked. */
static DwStep
step_at(const DwMigration *migration, DwHeap *place, long *delay_ms)
{
	DwMapping  *mapping = dw_mapping_by_id(place->mapping_id);

	if (mapping == NULL || !still_wanted(migration->id))
		return DW_STEP_IDLE;
	if (place->next_block >= place->end_block)
		return finish_mapping(migration, mapping, place, delay_ms);
	check_tables(mapping);
	if (is_held_back(migration->id, mapping, place))
	{
		*delay_ms = DW_THROTTLED_MS;
		return DW_STEP_WAIT;
	}
	if (!lock_tables(mapping, place->relid))
		return wait_because(place, "table lock", DW_LOCKED_MS, delay_ms);
	/* the phase that counts is the one under these locks */
	if (!still_wanted(migration->id))
		return DW_STEP_IDLE;
	return step_in_heap(migration, mapping, place, delay_ms);
}

DwStep
dw_backfill_step(const DwMigration *migration, long *delay_ms)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite backfill step", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwStep		result;
	DwHeap	   *place;

	*delay_ms = 0;
	dw_attempt_settings();
	place = pick_heap(migration->id);
	if (place != NULL)
		result = step_at(migration, place, delay_ms);
	else if (count_unfinished(migration->id) > 0)
	{
		result = DW_STEP_WAIT;
		*delay_ms = DW_BESIDE_MS;
	}
	else
		result = DW_STEP_IDLE;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

bool
dw_backfill_progress(int32 migration_id, double *percent)
{
	DwSql		sql;
	bool		finished;
	double		total;
	double		done;
	bool		isnull;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT coalesce(bool_and(b.finished_at IS NOT NULL), false), coalesce(sum(b.end_block), 0)::float8, "
				  "coalesce(sum(least(b.next_block, b.end_block)), 0)::float8 "
				  "FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id WHERE m.migration_id = $1",
				  1, (DwArg[]) {DW_INT4(migration_id)});
	finished = DatumGetBool(dw_sql_value(0, 1, &isnull));
	total = DatumGetFloat8(dw_sql_value(0, 2, &isnull));
	done = DatumGetFloat8(dw_sql_value(0, 3, &isnull));
	dw_sql_end(&sql);
	*percent = finished ? 100 : total > 0 ? 100 * done / total : 0;
	return finished;
}
