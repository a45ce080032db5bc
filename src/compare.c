/*
 * compare.c: a row, or a key, of a mapping on both sides under one snapshot.
 *
 * Every transaction that writes one side writes the other before it commits, so under one snapshot they agree on every
 * key, whatever is going on: no row is locked, nothing is waited for and nothing is looked at twice.  The exception is a
 * foreign table, which has no part in the snapshot; a difference there counts only if it is still the same one under a
 * newer snapshot.  The locks come before the snapshot: one that is older than a rewrite of the table would find it empty.
 *
 * Nothing here writes anything.
 */
#include "postgres.h"

#include "comparing.h"
#include "pairing.h"
#include "queue.h"
#include "told.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

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
	ListCell   *lc;

	compare->self->queue_known = false;
	foreach(lc, compare->owners)
		((DwSide *) lfirst(lc))->queue_known = false;
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

	attempt->result = dw_project_mapped(&side->compiled->flow[attempt->direction], attempt->row, attempt->out, attempt->snapshot);
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
	static DwTold told;
	const DwMapping *mapping = attempt->side->compiled->mapping;
	bool		last = false;
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
	/* a session is told of every row, the log is not */
	if (MyBackendType == B_BG_WORKER && !dw_may_tell(&told, &last))
		return false;
	ereport(WARNING,
			(errcode(error.sqlstate),
			 errmsg("a row cannot be compared between %s and %s: %s", mapping->old_name, mapping->new_name, error.message),
			 last ? errdetail("Other rows of which this is true in the next minute are not logged.") : 0,
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
	if (!dw_project_mapped(&side->compiled->flow[DW_FORWARD], old_row, side->projected, compare->snapshot))
		return false;
	dw_key_of_new(side->compiled, side->projected, key);
	return true;
}

bool
dw_compare_project(DwCompare *compare, TupleTableSlot *old_row, DwKey *key)
{
	compare->failed = false;
	return project(compare, compare->self, old_row, key);
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

TupleTableSlot *
dw_compare_find_new(DwCompare *compare, const DwKey *key)
{
	DwLeaf	   *leaf;

	if (compare->target != NULL)
		return dw_target_fetch(compare->target, key, compare->snapshot);
	return dw_lookup_visible(compare->new, key, compare->snapshot, &leaf) ? dw_leaf_row(compare->new, leaf) : NULL;
}

/* Of a million keys that differ each is looked for, mostly in a queue that has nothing. */
static bool
queued(DwCompare *compare, DwSide *side, Jsonb *key)
{
	if (compare->see_queued)
		return false;
	if (!side->queue_known)
	{
		side->queue_empty = dw_queue_is_empty(side->compiled->mapping_id, compare->snapshot);
		side->queue_known = true;
	}
	return !side->queue_empty && dw_queue_has(side->compiled->mapping_id, key, compare->snapshot);
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

DwDifference *
dw_compare_pair(DwCompare *compare, const DwKey *key, TupleTableSlot *old_row, TupleTableSlot *new_row)
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
 * If no mapping vouches for the row, it is reported by the first whose scope it lies in, so that it is reported once.
 */
DwDifference *
dw_compare_new_row(DwCompare *compare, TupleTableSlot *new_row)
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

bool
dw_compare_decides_existence(DwCompare *compare)
{
	return compare->self->compiled->flow[DW_FORWARD].owns_target && !compare->in_place;
}

/* An old row whose expressions fail: whatever the new side has for it, it is not what it should be. */
static DwDifference *
unknown_pair(DwCompare *compare, const DwKey *key)
{
	TupleTableSlot *new_row = dw_compare_find_new(compare, key);

	return difference(compare, new_row == NULL ? DW_DRIFT_MISSING : DW_DRIFT_DIFFERENT, key, NULL, NULL, new_row);
}

DwDifference *
dw_compare_unprojected(DwCompare *compare, TupleTableSlot *row, bool *has_key)
{
	DwAttempt	attempt = {.side = compare->self, .row = row};

	*has_key = true;
	if (!compare->failed)
		return NULL;
	if (run_attempt(compare, attempt_row_key, &attempt))
		return unknown_pair(compare, &attempt.key_made);
	*has_key = false;
	return NULL;
}

DwDifference *
dw_compare_one(DwCompare *compare, const DwKey *key)
{
	TupleTableSlot *row = counterpart(compare, compare->self, key);

	if (row != NULL)
		return dw_compare_pair(compare, key, row, dw_compare_find_new(compare, key));
	if (compare->failed)
		return unknown_pair(compare, key);
	if (!dw_compare_decides_existence(compare))
		return NULL;
	row = dw_compare_find_new(compare, key);
	return row == NULL ? NULL : dw_compare_new_row(compare, row);
}

static Jsonb *
copy_json(const Jsonb *json)
{
	return json ? memcpy(palloc(VARSIZE(json)), json, VARSIZE(json)) : NULL;
}

DwDifference *
dw_difference_copy(const DwDifference *from)
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
 * The other server's snapshot was taken between the two.  If the old row has not changed meanwhile and was not queued, what
 * was read there had to agree with it.
 */
DwDifference *
dw_compare_confirm(DwCompare *compare, DwDifference *found)
{
	DwDifference *again;
	DwKey		key;

	dw_key_from_jsonb(compare->self->compiled, found->key, &key);
	again = dw_compare_one(compare, &key);
	return again != NULL && again->kind == found->kind && same_json(again->old_values, found->old_values) ? again : NULL;
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
	found = dw_compare_one(compare, key);
	if (found != NULL && compare->target != NULL)
	{
		dw_compare_refresh(compare);
		found = dw_compare_confirm(compare, found);
	}
	compare->see_queued = compare->careful = false;
	MemoryContextSwitchTo(old);
	return found == NULL ? NULL : dw_difference_copy(found);
}
