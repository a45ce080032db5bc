/*
 * slice.c: the rows that one transaction compares.
 *
 * Missing and different keys are found from the old side, extra ones from the new, each row by looking its counterpart
 * up.  Where both key indexes have the same order, both sides are read in step instead (instep.c), and of a table that
 * was compared before, only what has changed since may be read (touched.c).
 *
 * It runs in a subtransaction, which is undone when a row cannot be evaluated: then once more from the same place, with
 * a subtransaction for every row.
 */
#include "postgres.h"

#include "slice.h"
#include "comparing.h"
#include "instep.h"
#include "meter.h"
#include "touched.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

static bool
drawn(DwWalk *walk, const DwSlice *slice)
{
	return slice->percent >= 100 ||
		hash_combine(dw_walk_hash(walk), slice->seed) < (double) PG_UINT32_MAX * slice->percent / 100;
}

static DwDifference *
compare_old_row(DwCompare *compare, DwSlice *slice, TupleTableSlot *row)
{
	DwDifference *found;
	DwKey		key;
	bool		has_key;

	if (dw_compare_project(compare, row, &key))
	{
		slice->rows_compared++;
		return dw_compare_pair(compare, &key, row, compare->in_place ? row : dw_compare_find_new(compare, &key));
	}
	slice->rows_compared += compare->failed;
	found = dw_compare_unprojected(compare, row, &has_key);
	slice->rows_failed += !has_key;
	return found;
}

static DwDifference *
compare_walked_row(DwCompare *compare, DwSlice *slice, TupleTableSlot *row)
{
	DwDifference *found;

	if (slice->range.reading == DW_READ_OLD)
		return compare_old_row(compare, slice, row);
	found = dw_compare_new_row(compare, row);
	slice->rows_compared += found != NULL;
	return found;
}

/* Only for foreign tables: keep what is still so. */
static void
confirm_slice(DwCompare *compare, DwSlice *slice)
{
	List	   *found = slice->differences;
	ListCell   *lc;

	slice->differences = NIL;
	dw_compare_refresh(compare);
	foreach(lc, found)
	{
		MemoryContext old = MemoryContextSwitchTo(compare->row_context);
		bool		stands;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(compare->row_context);
		stands = dw_compare_confirm(compare, lfirst(lc)) != NULL;
		MemoryContextSwitchTo(old);
		if (stands)
			slice->differences = lappend(slice->differences, lfirst(lc));
		else if (((DwDifference *) lfirst(lc))->kind == DW_DRIFT_EXTRA)
			slice->rows_compared--;
	}
}

/* Walk one side from where the range stands until a limit or the end. */
static void
walk_slice(DwCompare *compare, DwSlice *slice, MemoryContext results)
{
	DwRange    *range = &slice->range;
	DwFlow	   *flow = &compare->self->compiled->flow[range->reading == DW_READ_OLD ? DW_FORWARD : DW_REVERSE];
	DwWalk	   *walk = dw_walk_begin(flow->source_key, flow->source_desc, flow->source_owner, compare->snapshot, &range->span);
	DwMeter		meter = dw_meter_start(slice, results);
	bool		stop = false;
	TupleTableSlot *row;

	while (!stop && (row = dw_walk_next(walk)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(compare->row_context);
		MemoryContextSwitchTo(compare->row_context);
		if (drawn(walk, slice))
			dw_meter_keep(&meter, compare_walked_row(compare, slice, row));
		MemoryContextSwitchTo(results);
		stop = dw_meter_full(&meter, 1);
	}
	slice->finished = !stop;
	if (stop)
		dw_walk_position(walk, &range->span.heap, &range->span.last_key);
	dw_walk_end(walk);
	if (compare->target != NULL && slice->differences != NIL)
		confirm_slice(compare, slice);
}

static void
read_slice(DwCompare *compare, DwSlice *slice)
{
	MemoryContext results = CurrentMemoryContext;

	switch (slice->range.reading)
	{
		case DW_READ_BOTH:
			slice->out_of_step = !dw_instep_possible(compare);
			if (!slice->out_of_step)
				dw_instep_slice(compare, slice, results);
			break;
		case DW_READ_OLD:
			walk_slice(compare, slice, results);
			break;
		case DW_READ_NEW:
			slice->finished = true;
			if (dw_compare_decides_existence(compare))
				walk_slice(compare, slice, results);
			break;
		case DW_READ_TOUCHED_OLD:
		case DW_READ_TOUCHED_NEW:
			dw_touched_slice(compare, slice, results);
			break;
	}
}

typedef struct SliceWork
{
	int32		mapping_id;
	DwSlice    *slice;
	bool		careful;
	bool		gone;			/* result: there is no such mapping */
} SliceWork;

/* One attempt at the slice. */
static void
work_slice(void *arg)
{
	SliceWork  *work = arg;
	DwSlice    *slice = work->slice;
	DwCompare  *compare = dw_compare_open(work->mapping_id);

	slice->rows_compared = 0;
	slice->rows_failed = 0;
	slice->differences = NIL;
	slice->finished = slice->out_of_step = false;
	work->gone = compare == NULL;
	if (compare == NULL)
		return;
	compare->careful = work->careful;
	read_slice(compare, slice);
	dw_compare_close(compare);
}

bool
dw_slice_run(int32 mapping_id, DwSlice *slice)
{
	SliceWork	work = {.mapping_id = mapping_id, .slice = slice};
	DwRange		before = slice->range;
	DwError		error;

	if (dw_try(work_slice, &work, false, dw_error_is_of_row, &error))
		return !work.gone;

	/* some row cannot be evaluated: once more from the same place, telling such rows apart */
	slice->range = before;
	work.careful = true;
	work_slice(&work);
	return !work.gone;
}
