/*
 * copy.c: rows of a heap to the new table: insert what is absent, queue what cannot be settled.
 *
 * Part (b) of the invariant.  For each chunk of rows: project, insert if absent (bulk.c), heap and index entries both; then
 * look at each source row again (reader.c).  A row that is gone, or that somebody is at, may have been deleted or updated by a
 * writer whose mirror found no new row yet: our row is taken back and the key queued.  Any later writer finds our row and
 * waits for us.  The snapshot that the rows were read with stays until the batch ends, so that no TID is given to another
 * row before the second look.
 *
 * A batch runs in one subtransaction.  When that fails it is done again, chunk by chunk and then in ever smaller parts, until
 * the rows to blame stand alone.
 *
 * It must never wait for an application, never overwrite a row that it finds, and never leave out a row without an entry
 * in the queue.
 */
#include "postgres.h"

#include "apply.h"
#include "attempt.h"
#include "converge.h"
#include "copy.h"
#include "follow.h"
#include "queue.h"
#include "reader.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A chunk that fails is tried in this many parts, down to the single row. */
#define DW_PARTS 10
/* Attempts in a batch that may run into somebody's lock, where rows behind locks are queued. */
#define DW_LOCK_FAILURES 8
/* After a failure, so many batches are done chunk by chunk from the start, each of so many chunks at most: a subtransaction each. */
#define DW_CAREFUL_BATCHES 8
#define DW_CAREFUL_CHUNKS 16

/* Rows waiting to be inserted: origin[i] is the row of the chunk that row i of the bulk came from. */
typedef struct DwPending
{
	DwBulk	   *bulk;
	DwTarget   *target;
	int			origin[DW_READER_ROWS];
	bool		conflicts[DW_READER_ROWS];
	int			count;
} DwPending;

/* A batch under way. */
typedef struct DwBatch
{
	DwFlow	   *flow;
	Relation	heap;
	const DwPace *pace;
	DwReader   *reader;
	DwPending  *pending;		/* to write with: this, */
	DwConverge *converge;		/* or, by key, these two */
	TupleTableSlot *projected;
	TupleConversionMap *to_root;	/* NULL where leaf and table look the same */
	TupleTableSlot *root_slot;
	int			first;			/* the part of the chunk that is being tried */
	int			count;
	DwCounts	part;			/* what trying it did; counts once it has succeeded */
	DwCounts   *total;
	List	   *followers;
	bool		by_key;			/* converge key by key instead of bulk insert */
	bool		insist;			/* queue rows behind locks instead of giving up */
	int			lock_failures;
	MemoryContext chunk_context;	/* reset after each chunk */
} DwBatch;

/* Batches that this process still does chunk by chunk. */
static int	careful = 0;

/* Row i of the chunk in the layout of the table; valid until the next call. */
static TupleTableSlot *
source_row(DwBatch *batch, int i)
{
	TupleTableSlot *row = dw_reader_row(batch->reader, i);

	if (batch->to_root == NULL)
		return row;
	return execute_attr_map_slot(batch->to_root->attrMap, row, batch->root_slot);
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

/* For rows that do not project, or whose insert fails.  Where it is the key that fails, the old one has to do. */
static void
queue_unprojected(DwBatch *batch, int i, const DwError *error)
{
	DwFlow	   *flow = batch->flow;
	DwKey		source_key;
	DwKey		key;

	/* none of its columns can be null */
	(void) dw_key_of_row(flow->source_key, source_row(batch, i), &source_key);
	dw_queue_append_json(flow->compiled->mapping_id, flow->direction,
						 dw_key_across(flow, &source_key, &key) ? dw_key_to_jsonb(flow->compiled, &key) :
						 dw_key_material(flow, &source_key),
						 error ? error->sqlstate : 0, error ? error->message : NULL);
}

/* The row was written: it may be the source of another mapping's. */
static void
follow(DwBatch *batch, int i)
{
	DwKey		source_key;
	DwKey		key;

	if (batch->followers != NIL && dw_key_of_row(batch->flow->source_key, source_row(batch, i), &source_key) &&
		dw_key_across(batch->flow, &source_key, &key))
		dw_follow_later(batch->followers, batch->flow, &key);
}

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
	dw_reader_look_again(batch->reader);
	for (int i = 0; i < pending->count; i++)
	{
		int			origin = pending->origin[i];

		if (pending->conflicts[i])
			note_absent(batch, false);
		else
		{
			if (dw_reader_unchanged(batch->reader, origin))
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

	if (absent.mapping_id == batch->flow->compiled->mapping_id && absent.rows >= DW_ABSENT_STREAK)
		return DW_FIND_NONE;
	dw_key_of_new(batch->flow->compiled, target->row, &key);
	find = dw_lookup_newest(target->lookup, &key, false, false, leaf);
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
	DwPending  *pending = batch->pending;
	DwTarget   *target = pending->target;

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
	dw_bulk_settle(pending->bulk);
}

/*
 * Where the mapping does not own the row, or the target cannot be probed (foreign tables):
 * the row's own lock instead of insert-if-absent, and never two waits at once, because there is none.
 */
static void
copy_by_key(DwBatch *batch)
{
	TupleTableSlot *projected = batch->projected;

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
		switch (dw_converge(batch->converge, &key))
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
	ExecClearTuple(projected);
}

/*
 * Where both sides are one row: only rows that lack something are written, each in its place, if it is still the version that was
 * read.  A newer one has been completed by its writer.
 */
static void
copy_in_place(DwBatch *batch)
{
	DwTarget   *target = batch->pending->target;

	for (int i = batch->first; i < batch->first + batch->count; i++)
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(target->row_context);
		old = MemoryContextSwitchTo(target->row_context);
		batch->part.done++;
		(void) dw_project(batch->flow, source_row(batch, i), target->row, NULL);
		switch (dw_target_rewrite(target, dw_reader_row(batch->reader, i), target->row))
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
}

/* What the rows are written with, for a part of the chunk or for many chunks: it lives in the subtransaction. */
static void
open_writer(DwBatch *batch)
{
	if (batch->by_key)
	{
		batch->converge = dw_converge_open(batch->flow, false);
		batch->projected = MakeSingleTupleTableSlot(batch->flow->target_desc, &TTSOpsVirtual);
		return;
	}
	batch->pending = palloc(sizeof(DwPending));
	batch->pending->target = dw_target_open(batch->flow, false);
	batch->pending->target->quiet_unchanged = DW_FLOW_IN_PLACE(batch->flow);
	batch->pending->bulk = dw_bulk_begin(batch->pending->target, DW_READER_ROWS);
	batch->pending->count = 0;
}

static void
close_writer(DwBatch *batch)
{
	if (batch->by_key)
	{
		ExecDropSingleTupleTableSlot(batch->projected);
		dw_converge_close(batch->converge);
		return;
	}
	dw_bulk_end(batch->pending->bulk);
	dw_target_close(batch->pending->target);
}

static void
write_rows(DwBatch *batch, int first, int count)
{
	batch->first = first;
	batch->count = count;
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

/* Work of dw_attempt: a part of the chunk. */
static void
copy_part(void *arg)
{
	DwBatch    *batch = arg;

	open_writer(batch);
	write_rows(batch, batch->first, batch->count);
	close_writer(batch);
}

/* Work of dw_attempt: chunk after chunk, as long as there is time. */
static void
copy_stream(void *arg)
{
	DwBatch    *batch = arg;
	int			count;

	open_writer(batch);
	while ((count = dw_reader_next(batch->reader)) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(batch->chunk_context);

		write_rows(batch, 0, count);
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch->chunk_context);
		if (dw_pace_time_is_up(batch->pace))
			break;
	}
	close_writer(batch);
}

static bool
attempt(DwBatch *batch, void (*work) (void *arg), DwError *failure)
{
	memset(&batch->part, 0, sizeof(batch->part));
	if (!dw_attempt(work, batch, false, failure))
		return false;
	batch->total->done += batch->part.done;
	batch->total->copied += batch->part.copied;
	batch->total->queued += batch->part.queued;
	return true;
}

static bool
attempt_part(DwBatch *batch, int first, int count, DwError *failure)
{
	MemoryContext context = AllocSetContextCreate(batch->chunk_context, "dualwrite part", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		done;

	batch->first = first;
	batch->count = count;
	done = attempt(batch, copy_part, failure);
	MemoryContextSwitchTo(old);
	if (done)
		MemoryContextDelete(context);
	return done;
}

static void
queue_part(DwBatch *batch, int first, int count, const DwError *failure)
{
	for (int i = first; i < first + count; i++)
		queue_unprojected(batch, i, failure);
	batch->total->queued += count;
	batch->total->done += count;
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

/* Chunk by chunk.  Returns at the first that cannot be copied now. */
static DwCopied
copy_chunks(DwBatch *batch)
{
	int			count;

	for (int chunks = 0; chunks < DW_CAREFUL_CHUNKS && (count = dw_reader_next(batch->reader)) > 0; chunks++)
	{
		DwCopied	copied = copy_rows(batch, 0, count);

		MemoryContextReset(batch->chunk_context);
		if (copied != DW_COPIED)
			return copied;
		if (dw_pace_time_is_up(batch->pace))
			break;
	}
	return DW_COPIED;
}

/* The whole batch at once, or, when that fails or has failed a short while ago, chunk by chunk. */
static DwCopied
copy_batch(DwBatch *batch, int64 from)
{
	DwError		failure;

	if (careful > 0)
	{
		careful--;
		return copy_chunks(batch);
	}
	if (attempt(batch, copy_stream, &failure))
		return DW_COPIED;
	MemoryContextReset(batch->chunk_context);
	if (dw_error_is_connection(failure.sqlstate))
		return DW_COPY_UNREACHABLE;
	if (dw_error_is_lock(failure.sqlstate) && !batch->insist)
		return DW_COPY_LOCKED;
	careful = DW_CAREFUL_BATCHES;
	dw_reader_rewind(batch->reader, from);
	return copy_chunks(batch);
}

static void
open_batch(DwBatch *batch, DwCompiled *compiled, Relation heap)
{
	DwFlow	   *flow = &compiled->flow[DW_FORWARD];

	memset(batch, 0, sizeof(DwBatch));
	batch->flow = flow;
	batch->heap = heap;
	batch->to_root = convert_tuples_by_name(RelationGetDescr(heap), flow->source_desc);
	batch->root_slot = MakeSingleTupleTableSlot(flow->source_desc, &TTSOpsVirtual);
	batch->followers = dw_followers_of(flow);
	batch->by_key = !flow->owns_target || compiled->new_is_foreign;
	batch->chunk_context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite chunk", ALLOCSET_DEFAULT_SIZES);
}

DwCopied
dw_copy_blocks(DwCompiled *compiled, Relation heap, int64 from, int64 *end, bool insist, const DwPace *pace, DwCounts *counts)
{
	DwBatch		batch;
	DwCopied	copied;

	memset(counts, 0, sizeof(DwCounts));
	open_batch(&batch, compiled, heap);
	batch.reader = dw_reader_open(heap, GetActiveSnapshot(), from, *end);
	batch.insist = insist;
	batch.pace = pace;
	batch.total = counts;
	copied = copy_batch(&batch, from);
	*end = dw_reader_position(batch.reader);
	dw_reader_close(batch.reader);
	ExecDropSingleTupleTableSlot(batch.root_slot);
	return copied;
}
