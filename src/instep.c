/*
 * instep.c: both sides of a mapping read in step, where their key indexes have the same order.
 *
 * Only rows that have not met their counterpart are looked up.  So nothing is decided by order: were the orders not the
 * same after all, or the ends of a range not the same key on both sides, it would only be slow.
 */
#include "postgres.h"

#include "instep.h"
#include "expression.h"
#include "meter.h"
#include "owner.h"

#include "access/nbtree.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

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

bool
dw_instep_possible(DwCompare *compare)
{
	DwCompiled *compiled = compare->self->compiled;
	DwLookup   *old = compare->self->old;
	DwLookup   *new = compare->new;
	DwOwnerScope scope;
	bool		result;

	if (new == NULL || old->partitioned || new->partitioned || !dw_compare_decides_existence(compare))
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
	DwMeter	meter;
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
	step->projected = dw_compare_project(compare, step->old_row, &step->old_key);
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
	DwDifference *found;
	bool		has_key = true;

	if (step->projected)
	{
		slice->rows_compared++;
		found = dw_compare_pair(compare, &step->old_key, step->old_row,
								new_row ? new_row : dw_compare_find_new(compare, &step->old_key));
	}
	else
	{
		slice->rows_compared += compare->failed;
		found = dw_compare_unprojected(compare, step->old_row, &has_key);
	}
	slice->rows_failed += !has_key;
	dw_meter_keep(&step->meter, found);
}

/* A new row that has not met its counterpart: looking for that projects another old row into the same place. */
static void
take_new(Step *step)
{
	DwDifference *found = dw_compare_new_row(step->compare, step->new_row);

	step->meter.slice->rows_compared += found != NULL;
	dw_meter_keep(&step->meter, found);
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
		step->projected = dw_compare_project(step->compare, step->old_row, &step->old_key);
	}
	if (order <= 0)
		next_old(step);
	if (order >= 0)
		next_new(step);
}

Jsonb *
dw_instep_position(Jsonb *old, Jsonb *new)
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

/* One side of a range, from its own part of the position. */
static DwWalk *
begin_walk(DwCompare *compare, DwDirection side, const DwRange *range, Jsonb *position)
{
	DwFlow	   *flow = &compare->self->compiled->flow[side];
	Oid			table = flow->source_key->relid;
	DwSpan		span = {
		.heap = position ? table : InvalidOid, .last_key = position,
		.end_heap = range->span.end_key ? table : InvalidOid, .end_key = range->span.end_key
	};

	return dw_walk_begin(flow->source_key, flow->source_desc, flow->source_owner, compare->snapshot, &span);
}

/* Where the range goes on.  What is left of each side has met nothing that is done. */
static void
note_position(Step *step, DwRange *range)
{
	Jsonb	   *old_position = part_of_pair(range->span.last_key, 0);
	Jsonb	   *new_position = part_of_pair(range->span.last_key, 1);
	Oid			heap;

	dw_walk_position(step->old_walk, &heap, &old_position);
	dw_walk_position(step->new_walk, &heap, &new_position);
	if (step->old_row != NULL)
	{
		range->span.last_key = dw_instep_position(old_position, new_position);
		return;
	}
	heap = step->compare->new->shape->relid;
	range->reading = DW_READ_NEW;
	range->span.heap = new_position ? heap : InvalidOid;
	range->span.last_key = new_position;
	range->span.end_heap = range->span.end_key ? heap : InvalidOid;
}

void
dw_instep_slice(DwCompare *compare, DwSlice *slice, MemoryContext results)
{
	DwRange    *range = &slice->range;
	bool		stop = false;
	Step		step = {
		.compare = compare,
		.meter = dw_meter_start(slice, results),
		.leaf = dw_lookup_leaf(compare->new, compare->new->shape->relid),
		.old_walk = begin_walk(compare, DW_FORWARD, range, part_of_pair(range->span.last_key, 0)),
		.new_walk = begin_walk(compare, DW_REVERSE, range, part_of_pair(range->span.last_key, 1))
	};

	MemoryContextSwitchTo(compare->row_context);
	next_old(&step);
	next_new(&step);
	while (step.old_row != NULL && !stop)
	{
		CHECK_FOR_INTERRUPTS();
		take_first(&step);
		MemoryContextReset(compare->row_context);
		stop = dw_meter_full(&step.meter, 1);
	}
	/* the rows that were read ahead are looked up, as their counterparts will be when they are met */
	if (step.old_row != NULL)
		take_old(&step, NULL);
	if (step.new_row != NULL)
		take_new(&step);
	MemoryContextSwitchTo(results);

	slice->finished = step.old_row == NULL && step.new_row == NULL;
	note_position(&step, range);
	dw_walk_end(step.new_walk);
	dw_walk_end(step.old_walk);
}
