/*
 * compare.c: both sides of a mapping under one snapshot.
 *
 * Every transaction that writes one side writes the other before it commits, so under one snapshot they agree on every
 * key, whatever is going on: no row is locked, nothing is waited for and nothing is looked at twice.  The exception is a
 * foreign table, which has no part in the snapshot; a difference there counts only if it is still the same one under a
 * newer snapshot.  The locks come before the snapshot: one that is older than a rewrite of the table would find it empty.
 *
 * Missing and different keys are found from the old side, extra ones from the new, each row by looking its counterpart
 * up.  Where both key indexes have the same order, both sides are walked in step instead, and only rows that have not met
 * their counterpart are looked up.  So it decides nothing by order: were the orders not the same after all, it would only be slow.
 *
 * Nothing here writes anything.
 */
#include "postgres.h"

#include "compare.h"
#include "apply.h"
#include "attempt.h"
#include "expression.h"
#include "owner.h"
#include "pairing.h"
#include "queue.h"
#include "walk.h"

#include "access/nbtree.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
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

/* How the bytes of a column are held against one another. */
typedef struct DwSameColumn
{
	int			index;
	int16		length;
	bool		by_value;
} DwSameColumn;

struct DwCompare
{
	DwSide	   *self;
	List	   *owners;			/* of DwSide: mappings that own rows of this new table, by ordinal, self in its place */
	bool		in_place;		/* both sides are one table: neither row can be without the other */
	DwLookup   *new;			/* NULL for a foreign table */
	DwTarget   *target;			/* NULL unless it is one */
	Snapshot	snapshot;
	int			ncolumns;		/* mapped columns of the new table */
	struct DwSameColumn *columns;
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
note_columns(DwCompare *compare)
{
	DwFlow	   *flow = &compare->self->compiled->flow[DW_FORWARD];
	int			attno = -1;

	compare->columns = palloc0(sizeof(DwSameColumn) * (bms_num_members(flow->mapped) + 1));
	while ((attno = bms_next_member(flow->mapped, attno)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(flow->target_desc, attno - 1);
		DwSameColumn *column = &compare->columns[compare->ncolumns++];

		column->index = attno - 1;
		column->length = att->attlen;
		column->by_value = att->attbyval;
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
	note_columns(compare);
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
	if (compare->careful)
	{
		DwAttempt	attempt = {.side = side, .direction = DW_FORWARD, .row = old_row, .out = side->projected};

		if (!run_attempt(compare, attempt_project, &attempt))
			return false;
		*key = attempt.key_made;
		return true;
	}
	if (!dw_project(&side->compiled->flow[DW_FORWARD], old_row, side->projected, compare->snapshot))
		return false;
	dw_key_of_new(side->compiled, side->projected, key);
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

	if (!run_attempt(compare, attempt_project, &back))
		return columns;
	if (compare->in_place)
		return dw_pairing_unaccounted(self->compiled, columns, dw_rows_differ(reverse, self->reversed, old_row));
	if (dw_rows_differ(reverse, self->reversed, old_row) != NULL)
		return columns;
	if (DW_TRUTH_DIRECTION(self->compiled->phase) == DW_REVERSE)
		return NULL;
	if (!run_attempt(compare, attempt_project, &there))
		return columns;
	columns = bms_int_members(columns, dw_rows_differ(forward, self->projected, self->returned));
	return bms_is_empty(columns) ? NULL : columns;
}

static inline bool
same_bytes(const DwSameColumn *column, Datum a, Datum b)
{
	struct varlena *left;
	struct varlena *right;

	if (column->by_value)
		return a == b;
	if (column->length != -1)
		return datum_image_eq(a, b, false, column->length);
	left = (struct varlena *) DatumGetPointer(a);
	right = (struct varlena *) DatumGetPointer(b);
	if (VARATT_IS_EXTENDED(left) && !VARATT_IS_SHORT(left))
		return datum_image_eq(a, b, false, -1);
	if (VARATT_IS_EXTENDED(right) && !VARATT_IS_SHORT(right))
		return datum_image_eq(a, b, false, -1);
	return VARSIZE_ANY_EXHDR(left) == VARSIZE_ANY_EXHDR(right) &&
		memcmp(VARDATA_ANY(left), VARDATA_ANY(right), VARSIZE_ANY_EXHDR(left)) == 0;
}

/* Do the two rows have the same bytes in all mapped columns?  Most have, and then nothing else need be asked. */
static bool
same_rows(DwCompare *compare, TupleTableSlot *a, TupleTableSlot *b)
{
	slot_getallattrs(a);
	slot_getallattrs(b);
	for (int i = 0; i < compare->ncolumns; i++)
	{
		const DwSameColumn *column = &compare->columns[i];

		if (a->tts_isnull[column->index] != b->tts_isnull[column->index])
			return false;
		if (!a->tts_isnull[column->index] &&
			!same_bytes(column, a->tts_values[column->index], b->tts_values[column->index]))
			return false;
	}
	return true;
}

/* Columns in which the two rows disagree, side->projected being what becomes of the old one. */
static Bitmapset *
differing_columns(DwCompare *compare, TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	DwCompiled *compiled = compare->self->compiled;
	Bitmapset  *columns;

	if (same_rows(compare, compare->self->projected, new_row))
		return NULL;
	columns = dw_rows_differ(&compiled->flow[DW_FORWARD], compare->self->projected, new_row);
	if (columns != NULL && compiled->phase >= DW_PHASE_READ_SWITCH)
		columns = not_from_reverse(compare, columns, old_row, new_row);
	return columns;
}

/* An old row, what becomes of it in self->projected, and the new row with that key, or NULL. */
static DwDifference *
compare_pair(DwCompare *compare, const DwKey *key, TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	DwSide	   *self = compare->self;
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
		return compare_pair(compare, key, row, find_new(compare, key));
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

/* An old row that the mapping makes nothing of. */
static DwDifference *
compare_unprojected(DwCompare *compare, DwSlice *slice, TupleTableSlot *row)
{
	DwAttempt	attempt = {.side = compare->self, .row = row};

	if (!compare->failed)
		return NULL;
	slice->rows_compared++;
	if (run_attempt(compare, attempt_row_key, &attempt))
		return unknown_pair(compare, &attempt.key_made);
	slice->rows_failed++;
	return NULL;
}

static DwDifference *
compare_old_row(DwCompare *compare, DwSlice *slice, TupleTableSlot *row)
{
	DwKey		key;

	compare->failed = false;
	if (!project(compare, compare->self, row, &key))
		return compare_unprojected(compare, slice, row);
	slice->rows_compared++;
	return compare_pair(compare, &key, row, compare->in_place ? row : find_new(compare, &key));
}

static DwDifference *
compare_walked_row(DwCompare *compare, DwSlice *slice, TupleTableSlot *row)
{
	DwDifference *found;

	if (slice->side == DW_FORWARD)
		return compare_old_row(compare, slice, row);
	compare->failed = false;
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

/* What a slice has found so far, and whether it has to end. */
typedef struct SliceMeter
{
	DwSlice    *slice;
	MemoryContext results;
	TimestampTz start;
	Size		bytes;			/* of the differences */
	int64		rows;
} SliceMeter;

static SliceMeter
start_meter(DwSlice *slice, MemoryContext results)
{
	SliceMeter	meter = {.slice = slice, .results = results, .start = GetCurrentTimestamp()};

	return meter;
}

/* NULL is allowed: it agrees. */
static void
keep_difference(SliceMeter *meter, const DwDifference *found)
{
	MemoryContext old;

	if (found == NULL)
		return;
	old = MemoryContextSwitchTo(meter->results);
	meter->slice->differences = lappend(meter->slice->differences, copy_difference(found));
	meter->bytes += difference_bytes(found);
	MemoryContextSwitchTo(old);
}

/* One more row is done: enough? */
static bool
slice_is_full(SliceMeter *meter)
{
	meter->rows++;
	return meter->rows >= meter->slice->max_rows || meter->bytes >= DW_SLICE_BYTES ||
		(meter->rows % DW_CLOCK_ROWS == 0 &&
		 TimestampDifferenceExceeds(meter->start, GetCurrentTimestamp(), meter->slice->max_ms));
}

static DwWalk *
begin_walk(DwCompare *compare, DwDirection side, Oid heap, Jsonb *last_key)
{
	DwFlow	   *flow = &compare->self->compiled->flow[side];

	return dw_walk_begin(flow->source_key, flow->source_desc, flow->source_owner, compare->snapshot, heap, last_key);
}

/* Walk from where the slice stands until a limit or the end. */
static void
walk_slice(DwCompare *compare, DwSlice *slice, MemoryContext results)
{
	DwWalk	   *walk = begin_walk(compare, slice->side, slice->heap, slice->last_key);
	SliceMeter	meter = start_meter(slice, results);
	bool		stop = false;
	TupleTableSlot *row;

	while (!stop && (row = dw_walk_next(walk)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(compare->row_context);
		MemoryContextSwitchTo(compare->row_context);
		if (drawn(walk, slice))
			keep_difference(&meter, compare_walked_row(compare, slice, row));
		MemoryContextSwitchTo(results);
		stop = slice_is_full(&meter);
	}
	slice->finished = !stop;
	if (stop)
		dw_walk_position(walk, &slice->heap, &slice->last_key);
	dw_walk_end(walk);
	if (compare->target != NULL && slice->differences != NIL)
		confirm_slice(compare, slice);
}

/* Both sides in step */

/* Is the new column with this number the old column with that number, under another type at most? */
static bool
is_same_column(DwCompiled *compiled, Relation old, AttrNumber new_column, AttrNumber old_column)
{
	Form_pg_attribute att = TupleDescAttr(compiled->flow[DW_FORWARD].target_desc, new_column - 1);
	ListCell   *lc;

	foreach(lc, compiled->mapping->columns[DW_FORWARD])
	{
		DwColumn   *column = lfirst(lc);

		if (strcmp(column->name, NameStr(att->attname)) == 0)
		{
			DwExpression *parsed = dw_expression_parse(column->expression, old, NULL, att->atttypid, att->atttypmod,
													   att->attcollation, column->name);

			return parsed->column == old_column && parsed->lossless;
		}
	}
	return false;
}

/* Do these indexes put their rows in the same order, column by column? */
static bool
same_order(DwCompiled *compiled, DwLeaf *old, DwLeaf *new)
{
	int			n = IndexRelationGetNumberOfKeyAttributes(new->index);

	if (IndexRelationGetNumberOfKeyAttributes(old->index) != n)
		return false;
	for (int i = 0; i < n; i++)
		if (old->index->rd_opfamily[i] != new->index->rd_opfamily[i] ||
			old->index->rd_indcollation[i] != new->index->rd_indcollation[i] ||
			old->index->rd_indoption[i] != new->index->rd_indoption[i] ||
			!is_same_column(compiled, old->rel, new->index->rd_index->indkey.values[i],
							old->index->rd_index->indkey.values[i]))
			return false;
	return true;
}

/* Can both sides be walked in step, and does that say whether new rows are extra? */
static bool
share_order(DwCompare *compare)
{
	DwCompiled *compiled = compare->self->compiled;
	DwLookup   *old = compare->self->old;
	DwLookup   *new = compare->new;
	DwOwnerScope scope;
	bool		result;

	if (new == NULL || old->partitioned || new->partitioned || !decides_existence(compare))
		return false;
	dw_owner_enter(&scope, compiled->flow[DW_FORWARD].source_owner, true);
	result = same_order(compiled, dw_lookup_leaf(old, old->shape->relid), dw_lookup_leaf(new, new->shape->relid));
	dw_owner_leave(&scope);
	return result;
}

/* In the order of the new side's index. */
static int
order_keys(DwLeaf *leaf, int ncolumns, const DwKey *a, const DwKey *b)
{
	for (int i = 0; i < ncolumns; i++)
	{
		int			column = leaf->key_position[i];
		int			order;

		/* of a type passed by value, mostly: the same number, so the same key */
		if (a->values[column] == b->values[column])
			continue;
		order = DatumGetInt32(FunctionCall2Coll(index_getprocinfo(leaf->index, i + 1, BTORDER_PROC),
															leaf->index->rd_indcollation[i],
															a->values[column], b->values[column]));

		if (order != 0)
			return (leaf->index->rd_indoption[i] & INDOPTION_DESC) ? -order : order;
	}
	return 0;
}

/* Two walks, each one row ahead of what has been compared. */
typedef struct Step
{
	DwCompare  *compare;
	SliceMeter	meter;
	DwLeaf	   *leaf;			/* of the new side, for its index */
	DwWalk	   *old_walk;
	DwWalk	   *new_walk;
	TupleTableSlot *old_row;	/* NULL: that side is through */
	TupleTableSlot *new_row;
	bool		projected;		/* the old row leads to a new one, with this key */
	DwKey		old_key;		/* as a key of the new side */
	DwKey		new_key;
} Step;

/* What a scan allocates stays in use. */
static TupleTableSlot *
walk_on(Step *step, DwWalk *walk)
{
	MemoryContext old = MemoryContextSwitchTo(step->meter.results);
	TupleTableSlot *row = dw_walk_next(walk);

	MemoryContextSwitchTo(old);
	return row;
}

static void
next_old(Step *step)
{
	DwCompare  *compare = step->compare;

	step->old_row = walk_on(step, step->old_walk);
	if (step->old_row == NULL)
		return;
	compare->failed = false;
	step->projected = project(compare, compare->self, step->old_row, &step->old_key);
}

static void
next_new(Step *step)
{
	step->new_row = walk_on(step, step->new_walk);
	if (step->new_row != NULL)
		dw_key_of_new(step->compare->self->compiled, step->new_row, &step->new_key);
}

/* The old row, with its counterpart where they have met. */
static void
take_old(Step *step, TupleTableSlot *new_row)
{
	DwCompare  *compare = step->compare;
	DwSlice    *slice = step->meter.slice;

	if (step->projected)
	{
		slice->rows_compared++;
		keep_difference(&step->meter, compare_pair(compare, &step->old_key, step->old_row,
												   new_row ? new_row : find_new(compare, &step->old_key)));
	}
	else
		keep_difference(&step->meter, compare_unprojected(compare, slice, step->old_row));
}

/* A new row that has not met its counterpart: looking for that projects another old row into the same place. */
static void
take_new(Step *step)
{
	DwCompare  *compare = step->compare;
	DwDifference *found;

	compare->failed = false;
	found = compare_new_row(compare, step->new_row);
	step->meter.slice->rows_compared += found != NULL;
	keep_difference(&step->meter, found);
}

/* Whatever comes first; both if they meet. */
static void
take_first(Step *step)
{
	int			order = -1;

	if (step->new_row != NULL && step->projected)
		order = order_keys(step->leaf, step->compare->self->compiled->new_key.ncolumns, &step->old_key, &step->new_key);
	if (order <= 0)
		take_old(step, order == 0 ? step->new_row : NULL);
	else
	{
		take_new(step);
		step->compare->failed = false;
		step->projected = project(step->compare, step->compare->self, step->old_row, &step->old_key);
	}
	if (order <= 0)
		next_old(step);
	if (order >= 0)
		next_new(step);
}

static Jsonb *
pair_positions(Jsonb *old, Jsonb *new)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	JsonbToCString(&json, &old->root, VARSIZE(old));
	appendStringInfoString(&json, ", ");
	if (new != NULL)
		JsonbToCString(&json, &new->root, VARSIZE(new));
	else
		appendStringInfoString(&json, "null");
	appendStringInfoChar(&json, ']');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* Part i of a pair, NULL for null. */
static Jsonb *
part_of_pair(Jsonb *pair, uint32 i)
{
	JsonbValue *value = pair ? getIthJsonbValueFromContainer(&pair->root, i) : NULL;

	return value == NULL || value->type == jbvNull ? NULL : JsonbValueToJsonb(value);
}

/* As walk_slice, both sides in one go.  Where it ends, what is left of each side has met nothing that is done. */
static void
walk_both(DwCompare *compare, DwSlice *slice, MemoryContext results)
{
	Oid			old_table = compare->self->old->shape->relid;
	Oid			new_table = compare->new->shape->relid;
	Jsonb	   *old_position = part_of_pair(slice->last_key, 0);
	Jsonb	   *new_position = part_of_pair(slice->last_key, 1);
	bool		stop = false;
	Step		step = {
		.compare = compare,
		.meter = start_meter(slice, results),
		.leaf = dw_lookup_leaf(compare->new, new_table),
		.old_walk = begin_walk(compare, DW_FORWARD, old_position ? old_table : InvalidOid, old_position),
		.new_walk = begin_walk(compare, DW_REVERSE, new_position ? new_table : InvalidOid, new_position)
	};

	MemoryContextSwitchTo(compare->row_context);
	next_old(&step);
	next_new(&step);
	while (step.old_row != NULL && !stop)
	{
		CHECK_FOR_INTERRUPTS();
		take_first(&step);
		MemoryContextReset(compare->row_context);
		stop = slice_is_full(&step.meter);
	}
	/* the rows that were read ahead are looked up, as their counterparts will be when they are met */
	if (step.old_row != NULL)
		take_old(&step, NULL);
	if (step.new_row != NULL)
		take_new(&step);
	MemoryContextSwitchTo(results);

	slice->finished = step.old_row == NULL;
	dw_walk_position(step.new_walk, &slice->heap, &new_position);
	if (slice->finished)
	{
		slice->heap = new_position ? new_table : InvalidOid;
		slice->last_key = new_position;
	}
	else
	{
		dw_walk_position(step.old_walk, &slice->heap, &old_position);
		slice->last_key = pair_positions(old_position, new_position);
	}
	dw_walk_end(step.new_walk);
	dw_walk_end(step.old_walk);
}

typedef struct SliceWork
{
	int32		mapping_id;
	DwSlice    *slice;
	bool		both;			/* what the caller wants: slice->both */
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
	slice->both = work->both;
	work->gone = compare == NULL;
	if (compare == NULL)
		return;
	compare->careful = work->careful;
	if (slice->both)
		slice->both = share_order(compare);
	if (slice->both)
		walk_both(compare, slice, results);
	else if (work->both && slice->last_key != NULL)
		slice->finished = false;
	else if (slice->side == DW_FORWARD || decides_existence(compare))
		walk_slice(compare, slice, results);
	dw_compare_close(compare);
}

bool
dw_compare_slice(int32 mapping_id, DwSlice *slice)
{
	SliceWork	work = {.mapping_id = mapping_id, .slice = slice, .both = slice->both};
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
