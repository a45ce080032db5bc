/*
 * compare.c: both sides of a mapping under one snapshot.
 *
 * Every transaction that writes one side writes the other before it commits, so under one snapshot they agree on every
 * key, whatever is going on: no row is locked, nothing is waited for and nothing is looked at twice.  The exception is a
 * foreign table, which has no part in the snapshot; a difference there counts only if it is still the same one under a
 * newer snapshot.  The locks come before the snapshot: one that is older than a rewrite of the table would find it empty.
 *
 * Missing and different keys are found from the old side, extra ones from the new.  Nothing here writes anything.
 */
#include "postgres.h"

#include "compare.h"
#include "apply.h"
#include "attempt.h"
#include "queue.h"
#include "walk.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* Differences are kept in memory until the slice ends; past so many bytes it ends early. */
#define DW_SLICE_BYTES (16 * 1024 * 1024)

/* How many rows pass between looks at the clock. */
#define DW_CLOCK_ROWS 64

/* A mapping with its old side open. */
typedef struct DwSide
{
	DwCompiled *compiled;
	DwLookup   *old;
	TupleTableSlot *projected;	/* new layout: what the mapping makes of the old row */
	TupleTableSlot *reversed;	/* old layout: what it makes of the new row */
	TupleTableSlot *returned;	/* new layout: what it makes of that, there and back */
} DwSide;

struct DwCompare
{
	DwSide	   *self;
	List	   *owners;			/* of DwSide: mappings that own rows of this new table, by ordinal, self in its place */
	bool		in_place;		/* both sides are one table: neither row can be without the other */
	DwLookup   *new;			/* NULL for a foreign table */
	DwTarget   *target;			/* NULL unless it is one */
	Snapshot	snapshot;
	bool		see_queued;
	bool		careful;		/* catch errors of expressions row by row */
	bool		failed;			/* the row in hand raised one */
	MemoryContext context;
	MemoryContext row_context;
};

bool
dw_error_is_of_row(int sqlstate)
{
	int			class = ERRCODE_TO_CATEGORY(sqlstate);

	/* 55: a lock that could not be had, a table that no longer fits; 25: the transaction's own state */
	return dw_error_is_absorbable(sqlstate) && !dw_error_is_connection(sqlstate) &&
		class != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE && class != ERRCODE_INVALID_TRANSACTION_STATE;
}

/* Opening and closing */

static DwSide *
open_side(int32 mapping_id)
{
	DwSide	   *side = palloc0(sizeof(DwSide));

	side->compiled = dw_compiled_get(mapping_id);
	if (side->compiled == NULL)
		return NULL;
	side->old = dw_lookup_open(&side->compiled->old_key, AccessShareLock);
	side->projected = MakeSingleTupleTableSlot(side->compiled->flow[DW_FORWARD].target_desc, &TTSOpsVirtual);
	side->reversed = MakeSingleTupleTableSlot(side->compiled->flow[DW_REVERSE].target_desc, &TTSOpsVirtual);
	side->returned = MakeSingleTupleTableSlot(side->compiled->flow[DW_FORWARD].target_desc, &TTSOpsVirtual);
	return side;
}

static void
close_side(DwSide *side)
{
	dw_lookup_close(side->old);
	ExecDropSingleTupleTableSlot(side->projected);
	ExecDropSingleTupleTableSlot(side->reversed);
	ExecDropSingleTupleTableSlot(side->returned);
}

/* Mappings whose rows live in the same new table and which bring them into being, this one included. */
static List *
owners_of(const DwMapping *mapping)
{
	List	   *owners = NIL;
	ListCell   *lc;

	foreach(lc, dw_mappings_of(mapping->migration_id))
	{
		DwMapping  *other = lfirst(lc);

		if (other->new_table == mapping->new_table && (other->owns & DW_OWNS_NEW))
			owners = lappend(owners, other);
	}
	return owners;
}

/* All locks that the comparison needs. */
static void
lock_tables(const DwMapping *mapping, List *owners)
{
	ListCell   *lc;

	dw_heaps_of(mapping->old_table, AccessShareLock);
	dw_heaps_of(mapping->new_table, AccessShareLock);
	foreach(lc, owners)
		dw_heaps_of(((DwMapping *) lfirst(lc))->old_table, AccessShareLock);
}

static void
open_sides(DwCompare *compare, const DwMapping *mapping, List *owners)
{
	ListCell   *lc;

	compare->self = open_side(mapping->id);
	if (compare->self == NULL)
		return;
	foreach(lc, owners)
	{
		DwMapping  *other = lfirst(lc);
		DwSide	   *side = other->id == mapping->id ? compare->self : open_side(other->id);

		if (side != NULL)
			compare->owners = lappend(compare->owners, side);
	}
}

static void
take_snapshot(DwCompare *compare)
{
	compare->snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(compare->snapshot);
}

static void
drop_snapshot(DwCompare *compare)
{
	PopActiveSnapshot();
	UnregisterSnapshot(compare->snapshot);
}

DwCompare *
dw_compare_open(int32 mapping_id)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite compare", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwCompare  *compare = palloc0(sizeof(DwCompare));
	DwMapping  *mapping = dw_mapping_by_id(mapping_id);
	List	   *owners = mapping ? owners_of(mapping) : NIL;

	compare->context = context;
	compare->row_context = AllocSetContextCreate(context, "dualwrite compare row", ALLOCSET_DEFAULT_SIZES);
	if (mapping != NULL)
	{
		lock_tables(mapping, owners);
		open_sides(compare, mapping, owners);
	}
	if (compare->self == NULL)
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		return NULL;
	}
	compare->in_place = mapping->old_table == mapping->new_table;
	take_snapshot(compare);
	if (compare->self->compiled->new_is_foreign)
		compare->target = dw_target_open(&compare->self->compiled->flow[DW_FORWARD], false);
	else
		compare->new = dw_lookup_open(&compare->self->compiled->new_key, AccessShareLock);
	MemoryContextSwitchTo(old);
	return compare;
}

void
dw_compare_close(DwCompare *compare)
{
	ListCell   *lc;

	if (compare->target != NULL)
		dw_target_close(compare->target);
	else
		dw_lookup_close(compare->new);
	foreach(lc, compare->owners)
		if (lfirst(lc) != compare->self)
			close_side(lfirst(lc));
	close_side(compare->self);
	drop_snapshot(compare);
	MemoryContextDelete(compare->context);
}

void
dw_compare_refresh(DwCompare *compare)
{
	drop_snapshot(compare);
	CommandCounterIncrement();
	take_snapshot(compare);
}

DwCompiled *
dw_compare_compiled(DwCompare *compare)
{
	return compare->self->compiled;
}

/* One row */

/* Are these the same key, as the index of the new table sees it? */
static bool
keys_equal(DwCompiled *compiled, const DwKey *a, const DwKey *b)
{
	for (int i = 0; i < compiled->new_key.ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(compiled->flow[DW_FORWARD].target_desc, compiled->new_key.columns[i] - 1);
		TypeCacheEntry *type;

		if (datum_image_eq(a->values[i], b->values[i], att->attbyval, att->attlen))
			continue;
		type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR_FINFO);
		if (!OidIsValid(type->eq_opr_finfo.fn_oid) ||
			!DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, att->attcollation, a->values[i], b->values[i])))
			return false;
	}
	return true;
}

/* Something that runs expressions of a mapping on one row. */
typedef struct DwAttempt
{
	DwSide	   *side;
	Snapshot	snapshot;
	DwDirection direction;
	TupleTableSlot *row;		/* to project */
	TupleTableSlot *out;
	const DwKey *key;			/* to compute the old key from */
	DwKey		key_made;
	bool		result;
} DwAttempt;

/* Into out; forward, with its key in key_made. */
static void
attempt_project(void *arg)
{
	DwAttempt  *attempt = arg;
	DwSide	   *side = attempt->side;

	attempt->result = dw_project(&side->compiled->flow[attempt->direction], attempt->row, attempt->out, attempt->snapshot);
	if (attempt->result && attempt->direction == DW_FORWARD)
		dw_key_of_new(side->compiled, attempt->out, &attempt->key_made);
}

/* The key alone of a row that cannot be projected. */
static void
attempt_row_key(void *arg)
{
	DwAttempt  *attempt = arg;
	DwCompiled *compiled = attempt->side->compiled;
	DwKey		old_key;

	attempt->result = dw_key_of_row(&compiled->old_key, attempt->row, &old_key) &&
		dw_key_of_old(compiled, &old_key, &attempt->key_made);
}

static void
attempt_old_key(void *arg)
{
	DwAttempt  *attempt = arg;

	attempt->result = dw_old_key(attempt->side->compiled, attempt->key, &attempt->key_made);
}

/* Run it; when careful, in a subtransaction, so that an error only marks the row as failed. */
static bool
run_attempt(DwCompare *compare, void (*function) (void *), DwAttempt *attempt)
{
	const DwMapping *mapping = attempt->side->compiled->mapping;
	DwError		error;

	attempt->snapshot = compare->snapshot;
	if (!compare->careful)
	{
		function(attempt);
		return attempt->result;
	}
	if (dw_try(function, attempt, false, dw_error_is_of_row, &error))
		return attempt->result;
	compare->failed = true;
	ereport(WARNING,
			(errcode(error.sqlstate),
			 errmsg("a row cannot be compared between %s and %s: %s", mapping->old_name, mapping->new_name, error.message),
			 errhint("Change the row, or the mapping with dualwrite.alter_mapping.")));
	return false;
}

/* What the mapping makes of an old row, in side->projected, and its key.  false: nothing, or an error. */
static bool
project(DwCompare *compare, DwSide *side, TupleTableSlot *old_row, DwKey *key)
{
	DwAttempt	attempt = {.side = side, .direction = DW_FORWARD, .row = old_row, .out = side->projected};

	if (!run_attempt(compare, attempt_project, &attempt))
		return false;
	*key = attempt.key_made;
	return true;
}

/* The old row that this mapping turns into the new row with this key, which is left in side->projected; or NULL. */
static TupleTableSlot *
counterpart(DwCompare *compare, DwSide *side, const DwKey *key)
{
	DwAttempt	attempt = {.side = side, .key = key};
	DwLeaf	   *leaf;
	DwKey		again;
	TupleTableSlot *row;

	if (!run_attempt(compare, attempt_old_key, &attempt))
	{
		/* no old key leads to this new one */
		compare->failed = false;
		return NULL;
	}
	if (!dw_lookup_visible(side->old, &attempt.key_made, compare->snapshot, &leaf))
		return NULL;
	row = dw_leaf_row(side->old, leaf);
	if (!project(compare, side, row, &again))
		return NULL;
	return keys_equal(side->compiled, key, &again) ? row : NULL;
}

static TupleTableSlot *
find_new(DwCompare *compare, const DwKey *key)
{
	DwLeaf	   *leaf;

	if (compare->target != NULL)
		return dw_target_fetch(compare->target, key, compare->snapshot);
	return dw_lookup_visible(compare->new, key, compare->snapshot, &leaf) ? dw_leaf_row(compare->new, leaf) : NULL;
}

static bool
queued(DwCompare *compare, DwSide *side, Jsonb *key)
{
	return !compare->see_queued && dw_queue_has(side->compiled->mapping_id, key, compare->snapshot);
}

static List *
column_names(TupleDesc desc, const Bitmapset *columns)
{
	List	   *names = NIL;
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
		names = lappend(names, pstrdup(NameStr(TupleDescAttr(desc, attno - 1)->attname)));
	return names;
}

/* A disagreement, put down for good; NULL when the key is queued. */
static DwDifference *
difference(DwCompare *compare, DwDriftKind kind, const DwKey *key, const Bitmapset *columns,
		   TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	DwCompiled *compiled = compare->self->compiled;
	DwFlow	   *forward = &compiled->flow[DW_FORWARD];
	Jsonb	   *json = dw_key_to_jsonb(compiled, key);
	DwDifference *result;

	if (queued(compare, compare->self, json))
		return NULL;
	result = palloc0(sizeof(DwDifference));
	result->kind = kind;
	result->key = json;
	result->columns = column_names(forward->target_desc, columns);
	if (old_row != NULL)
		result->old_values = dw_row_to_jsonb(forward->target_desc, old_row, forward->mapped);
	if (new_row != NULL)
		result->new_values = dw_row_to_jsonb(forward->target_desc, new_row, forward->mapped);
	return result;
}

/*
 * Of the columns in which a new row is not what forward makes of the old one, those that a write of the new side does not
 * account for.  After one, the old row is what reverse makes of the new.  While old is the truth that alone is not enough:
 * there and back must also lead to where forward leads now.  (Forward is lower(email), reverse email: 'Foo' was written,
 * the old row has it, and forward makes 'foo' of either.)
 */
static Bitmapset *
not_from_reverse(DwCompare *compare, Bitmapset *columns, TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	DwSide	   *self = compare->self;
	DwFlow	   *forward = &self->compiled->flow[DW_FORWARD];
	DwFlow	   *reverse = &self->compiled->flow[DW_REVERSE];
	DwAttempt	back = {.side = self, .direction = DW_REVERSE, .row = new_row, .out = self->reversed};
	DwAttempt	there = {.side = self, .direction = DW_FORWARD, .row = self->reversed, .out = self->returned};

	if (!run_attempt(compare, attempt_project, &back) || dw_rows_differ(reverse, self->reversed, old_row) != NULL)
		return columns;
	if (DW_TRUTH_DIRECTION(self->compiled->phase) == DW_REVERSE)
		return NULL;
	if (!run_attempt(compare, attempt_project, &there))
		return columns;
	columns = bms_int_members(columns, dw_rows_differ(forward, self->projected, self->returned));
	return bms_is_empty(columns) ? NULL : columns;
}

/* Columns in which the two rows disagree, side->projected being what becomes of the old one. */
static Bitmapset *
differing_columns(DwCompare *compare, TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	DwCompiled *compiled = compare->self->compiled;
	Bitmapset  *columns = dw_rows_differ(&compiled->flow[DW_FORWARD], compare->self->projected, new_row);

	if (columns != NULL && compiled->phase >= DW_PHASE_READ_SWITCH)
		columns = not_from_reverse(compare, columns, old_row, new_row);
	return columns;
}

/* An old row that the mapping has a new row for, in self->projected, against that. */
static DwDifference *
compare_pair(DwCompare *compare, const DwKey *key, TupleTableSlot *old_row)
{
	DwSide	   *self = compare->self;
	TupleTableSlot *new_row = find_new(compare, key);
	Bitmapset  *columns;

	if (new_row == NULL)
	{
		/* a part of a merge fills columns of a row that another mapping may not have made yet */
		if (!self->compiled->flow[DW_FORWARD].owns_target || compare->in_place)
			return NULL;
		return difference(compare, DW_DRIFT_MISSING, key, NULL, self->projected, NULL);
	}
	columns = differing_columns(compare, old_row, new_row);
	if (columns == NULL)
		return NULL;
	return difference(compare, DW_DRIFT_DIFFERENT, key, columns, self->projected, new_row);
}

/*
 * A new row: does any mapping that owns rows of this table vouch for it?  If none does, it is reported by the first
 * whose scope it lies in, so that it is reported once.
 */
static DwDifference *
compare_new_row(DwCompare *compare, TupleTableSlot *new_row)
{
	DwSide	   *first = NULL;
	DwKey		key;
	ListCell   *lc;

	foreach(lc, compare->owners)
	{
		DwSide	   *side = lfirst(lc);

		dw_key_of_new(side->compiled, new_row, &key);
		/* an old row that cannot be evaluated is there nevertheless */
		if (counterpart(compare, side, &key) != NULL || compare->failed)
			return NULL;
		if (!dw_in_mapping(&side->compiled->flow[DW_REVERSE], new_row))
			continue;
		if (queued(compare, side, dw_key_to_jsonb(side->compiled, &key)))
			return NULL;
		if (first == NULL)
			first = side;
	}
	if (first != compare->self)
		return NULL;
	dw_key_of_new(compare->self->compiled, new_row, &key);
	return difference(compare, DW_DRIFT_EXTRA, &key, NULL, NULL, new_row);
}

/* Whether new rows may be extra at all. */
static bool
decides_existence(DwCompare *compare)
{
	return compare->self->compiled->flow[DW_FORWARD].owns_target && !compare->in_place;
}

/* An old row whose expressions fail: whatever the new side has for it, it is not what it should be. */
static DwDifference *
unknown_pair(DwCompare *compare, const DwKey *key)
{
	TupleTableSlot *new_row = find_new(compare, key);

	return difference(compare, new_row == NULL ? DW_DRIFT_MISSING : DW_DRIFT_DIFFERENT, key, NULL, NULL, new_row);
}

static DwDifference *
compare_one_key(DwCompare *compare, const DwKey *key)
{
	TupleTableSlot *row = counterpart(compare, compare->self, key);

	if (row != NULL)
		return compare_pair(compare, key, row);
	if (compare->failed)
		return unknown_pair(compare, key);
	if (!decides_existence(compare))
		return NULL;
	row = find_new(compare, key);
	return row == NULL ? NULL : compare_new_row(compare, row);
}

static Jsonb *
copy_json(const Jsonb *json)
{
	return json ? memcpy(palloc(VARSIZE(json)), json, VARSIZE(json)) : NULL;
}

/* To the current context, from the row's. */
static DwDifference *
copy_difference(const DwDifference *from)
{
	DwDifference *to = palloc0(sizeof(DwDifference));
	ListCell   *lc;

	to->kind = from->kind;
	to->key = copy_json(from->key);
	to->old_values = copy_json(from->old_values);
	to->new_values = copy_json(from->new_values);
	foreach(lc, from->columns)
		to->columns = lappend(to->columns, pstrdup(lfirst(lc)));
	return to;
}

static bool
same_json(Jsonb *a, Jsonb *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return compareJsonbContainers(&a->root, &b->root) == 0;
}

/*
 * Only for foreign tables: is it still so, under a newer snapshot?  The other server's snapshot was taken between the two.  If
 * the old row has not changed meanwhile and was not queued, what was read there had to agree with it.
 */
static DwDifference *
confirm(DwCompare *compare, DwDifference *found)
{
	DwDifference *again;
	DwKey		key;

	dw_key_from_jsonb(compare->self->compiled, found->key, &key);
	again = compare_one_key(compare, &key);
	return again != NULL && again->kind == found->kind && same_json(again->old_values, found->old_values) ? again : NULL;
}

/* The same for all that a slice has found. */
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
		stands = confirm(compare, lfirst(lc)) != NULL;
		MemoryContextSwitchTo(old);
		if (stands)
			slice->differences = lappend(slice->differences, lfirst(lc));
		else if (((DwDifference *) lfirst(lc))->kind == DW_DRIFT_EXTRA)
			slice->rows_compared--;
	}
}

DwDifference *
dw_compare_key(DwCompare *compare, const DwKey *key, bool see_queued)
{
	MemoryContext old = MemoryContextSwitchTo(compare->row_context);
	DwDifference *found;

	MemoryContextReset(compare->row_context);
	compare->see_queued = see_queued;
	compare->careful = true;
	compare->failed = false;
	found = compare_one_key(compare, key);
	if (found != NULL && compare->target != NULL)
	{
		dw_compare_refresh(compare);
		found = confirm(compare, found);
	}
	compare->see_queued = compare->careful = false;
	MemoryContextSwitchTo(old);
	return found == NULL ? NULL : copy_difference(found);
}

/* A slice */

static bool
drawn(DwWalk *walk, const DwSlice *slice)
{
	return slice->percent >= 100 ||
		hash_combine(dw_walk_hash(walk), slice->seed) < (double) PG_UINT32_MAX * slice->percent / 100;
}

static DwDifference *
compare_old_row(DwCompare *compare, DwSlice *slice, TupleTableSlot *row)
{
	DwAttempt	attempt = {.side = compare->self, .row = row};
	DwKey		key;

	if (project(compare, compare->self, row, &key))
	{
		slice->rows_compared++;
		return compare_pair(compare, &key, row);
	}
	if (!compare->failed)
		return NULL;
	slice->rows_compared++;
	if (run_attempt(compare, attempt_row_key, &attempt))
		return unknown_pair(compare, &attempt.key_made);
	slice->rows_failed++;
	return NULL;
}

static DwDifference *
compare_walked_row(DwCompare *compare, DwSlice *slice, TupleTableSlot *row)
{
	DwDifference *found;

	compare->failed = false;
	if (slice->side == DW_FORWARD)
		return compare_old_row(compare, slice, row);
	found = compare_new_row(compare, row);
	slice->rows_compared += found != NULL;
	return found;
}

static Size
difference_bytes(const DwDifference *found)
{
	return sizeof(DwDifference) + VARSIZE(found->key) +
		(found->old_values ? VARSIZE(found->old_values) : 0) + (found->new_values ? VARSIZE(found->new_values) : 0);
}

/* Walk from where the slice stands until a limit or the end. */
static void
walk_slice(DwCompare *compare, DwSlice *slice, MemoryContext results)
{
	DwFlow	   *flow = &compare->self->compiled->flow[slice->side];
	DwWalk	   *walk = dw_walk_begin(flow->source_key, flow->source_desc, flow->source_owner, compare->snapshot,
									 slice->heap, slice->last_key);
	TimestampTz start = GetCurrentTimestamp();
	Size		bytes = 0;
	int64		rows = 0;
	bool		stop = false;
	TupleTableSlot *row;

	while (!stop && (row = dw_walk_next(walk)) != NULL)
	{
		DwDifference *found = NULL;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(compare->row_context);
		MemoryContextSwitchTo(compare->row_context);
		if (drawn(walk, slice))
			found = compare_walked_row(compare, slice, row);
		MemoryContextSwitchTo(results);
		if (found != NULL)
		{
			slice->differences = lappend(slice->differences, copy_difference(found));
			bytes += difference_bytes(found);
		}
		rows++;
		stop = rows >= slice->max_rows || bytes >= DW_SLICE_BYTES ||
			(rows % DW_CLOCK_ROWS == 0 && TimestampDifferenceExceeds(start, GetCurrentTimestamp(), slice->max_ms));
	}
	slice->finished = !stop;
	if (stop)
		dw_walk_position(walk, &slice->heap, &slice->last_key);
	dw_walk_end(walk);
	if (compare->target != NULL && slice->differences != NIL)
		confirm_slice(compare, slice);
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
	MemoryContext results = CurrentMemoryContext;
	DwCompare  *compare = dw_compare_open(work->mapping_id);

	slice->rows_compared = 0;
	slice->rows_failed = 0;
	slice->differences = NIL;
	slice->finished = true;
	work->gone = compare == NULL;
	if (compare == NULL)
		return;
	compare->careful = work->careful;
	if (slice->side == DW_FORWARD || decides_existence(compare))
		walk_slice(compare, slice, results);
	dw_compare_close(compare);
}

bool
dw_compare_slice(int32 mapping_id, DwSlice *slice)
{
	SliceWork	work = {.mapping_id = mapping_id, .slice = slice};
	Oid			heap = slice->heap;
	Jsonb	   *last_key = slice->last_key;
	DwError		error;

	if (dw_try(work_slice, &work, false, dw_error_is_of_row, &error))
		return !work.gone;

	/* some row cannot be evaluated: once more from the same place, telling such rows apart */
	slice->heap = heap;
	slice->last_key = last_key;
	work.careful = true;
	work_slice(&work);
	return !work.gone;
}
