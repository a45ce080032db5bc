/*
 * keymap.c: keys of one side made from those of the other.
 *
 * Most are columns of the other side's key, or casts of them from integer to integer, and need not be evaluated.  Where an
 * expression is, one that fails says that there is no such key; for what cannot fail no subtransaction is spent.
 */
#include "postgres.h"

#include "absorb.h"
#include "keymap.h"
#include "nesting.h"
#include "owner.h"
#include "scope.h"

#include "executor/executor.h"
#include "utils/fmgroids.h"

struct DwKeyMap
{
	const DwKeyShape *from;
	ExprContext *context[DW_MAX_NESTING];
	TupleTableSlot *row;		/* a source row of which only the key is known */
	int			ncolumns;
	ExprState  *expression[INDEX_MAX_KEYS];
	AttrNumber	narrowed_from[INDEX_MAX_KEYS];	/* source column, when the expression is int8 -> int4 … of it */
	Oid			narrowed_by[INDEX_MAX_KEYS];	/* the cast */
	bool		copied;			/* each column is a column of the source's key, or that cast from integer to integer: */
	int			copied_from[INDEX_MAX_KEYS];	/* position in the source's key */
	Oid			copied_by[INDEX_MAX_KEYS];	/* the cast; 0: none */
	AttrNumber	made_of[INDEX_MAX_KEYS];	/* the one source column that the expression reads; 0: none, or several */
	bool		may_fail;		/* some value of the source may raise an error */
	bool		user_code;
	Oid			owner;			/* of the source */
};

/* A cast that narrows an integer column raises an error for values that cannot be; it is asked beforehand instead. */
static void
note_narrowing(DwKeyMap *map, int i, Node *node)
{
	if (IsA(node, FuncExpr))
	{
		FuncExpr   *call = (FuncExpr *) node;
		Node	   *arg = list_length(call->args) == 1 ? linitial(call->args) : NULL;

		if (arg != NULL && IsA(arg, Var) &&
			(call->funcid == F_INT4_INT8 || call->funcid == F_INT2_INT8 || call->funcid == F_INT2_INT4))
		{
			map->narrowed_from[i] = ((Var *) arg)->varattno;
			map->narrowed_by[i] = call->funcid;
		}
	}
}

/* Can no value make it raise an error?  Those that narrow are asked beforehand. */
static bool
is_infallible(const DwKeyMap *map, int i, Node *node)
{
	if (IsA(node, FuncExpr))
	{
		FuncExpr   *call = (FuncExpr *) node;

		if (map->narrowed_from[i] != 0)
			return true;
		if (call->funcid != F_INT8_INT4 && call->funcid != F_INT8_INT2 && call->funcid != F_INT4_INT2)
			return false;
		node = linitial(call->args);
	}
	else if (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return IsA(node, Var) || IsA(node, Const);
}

/* Is it a column of the source's key, which need not be evaluated to be known? */
static bool
note_copy(DwKeyMap *map, int i, Node *node)
{
	if (IsA(node, FuncExpr))
	{
		FuncExpr   *call = (FuncExpr *) node;

		switch (call->funcid)
		{
			case F_INT8_INT4:
			case F_INT8_INT2:
			case F_INT4_INT2:
			case F_INT4_INT8:
			case F_INT2_INT8:
			case F_INT2_INT4:
				map->copied_by[i] = call->funcid;
				node = linitial(call->args);
				break;
			default:
				return false;
		}
	}
	if (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	for (int k = 0; IsA(node, Var) && k < map->from->ncolumns; k++)
		if (map->from->columns[k] == ((Var *) node)->varattno)
		{
			map->copied_from[i] = k;
			return true;
		}
	return false;
}

DwKeyMap *
dw_keymap_make(DwFlow *flow)
{
	DwKeyMap   *map = palloc0(sizeof(DwKeyMap));

	map->from = flow->source_key;
	map->owner = flow->source_owner;
	map->row = MakeSingleTupleTableSlot(flow->source_desc, &TTSOpsVirtual);
	map->copied = true;
	return map;
}

void
dw_keymap_add(DwKeyMap *map, Node *node, const DwExpression *parsed)
{
	int			i = map->ncolumns++;

	note_narrowing(map, i, node);
	map->may_fail |= !is_infallible(map, i, node);
	map->copied &= note_copy(map, i, node);
	if (bms_membership(parsed->columns) == BMS_SINGLETON)
		map->made_of[i] = bms_singleton_member(parsed->columns);
	map->user_code |= parsed->user_code;
	map->expression[i] = ExecInitExpr((Expr *) node, NULL);
}

/* Would the cast raise an error? */
static bool
out_of_range(Oid cast, Datum value)
{
	switch (cast)
	{
		case F_INT4_INT8:
			return DatumGetInt64(value) < PG_INT32_MIN || DatumGetInt64(value) > PG_INT32_MAX;
		case F_INT2_INT8:
			return DatumGetInt64(value) < PG_INT16_MIN || DatumGetInt64(value) > PG_INT16_MAX;
		case F_INT2_INT4:
			return DatumGetInt32(value) < PG_INT16_MIN || DatumGetInt32(value) > PG_INT16_MAX;
		default:
			return false;
	}
}

static Datum
cast_integer(Oid cast, Datum value)
{
	switch (cast)
	{
		case F_INT8_INT4:
			return Int64GetDatum(DatumGetInt32(value));
		case F_INT8_INT2:
			return Int64GetDatum(DatumGetInt16(value));
		case F_INT4_INT2:
			return Int32GetDatum(DatumGetInt16(value));
		case F_INT4_INT8:
			return Int32GetDatum((int32) DatumGetInt64(value));
		case F_INT2_INT8:
			return Int16GetDatum((int16) DatumGetInt64(value));
		case F_INT2_INT4:
			return Int16GetDatum((int16) DatumGetInt32(value));
		default:
			return value;
	}
}

/* Most keys are columns of the other side's.  false: there is no such key. */
static bool
copy_key(const DwKeyMap *map, const DwKey *source_key, DwKey *target_key)
{
	for (int i = 0; i < map->ncolumns; i++)
	{
		Datum		value = source_key->values[map->copied_from[i]];

		if (out_of_range(map->copied_by[i], value))
			return false;
		target_key->values[i] = cast_integer(map->copied_by[i], value);
	}
	return true;
}

/* The expressions of a target key over map->row. */
typedef struct KeyWork
{
	DwKeyMap   *map;
	ExprContext *econtext;
	DwKey	   *target_key;
	bool		found;
} KeyWork;

static bool
evaluate_key(KeyWork *work)
{
	DwKeyMap   *map = work->map;

	for (int i = 0; i < map->ncolumns; i++)
	{
		bool		isnull;

		if (map->narrowed_from[i] != 0 &&
			out_of_range(map->narrowed_by[i], map->row->tts_values[map->narrowed_from[i] - 1]))
			return false;
		work->target_key->values[i] = ExecEvalExprSwitchContext(map->expression[i], work->econtext, &isnull);
		if (isnull)
			return false;
	}
	return true;
}

/* The same as work of dw_try, and as the owner where users' code runs. */
static void
evaluate_key_as_owner(void *arg)
{
	KeyWork    *work = arg;
	DwOwnerScope scope;

	if (work->map->user_code)
		dw_owner_enter(&scope, work->map->owner, true);
	work->found = evaluate_key(work);
	if (work->map->user_code)
		dw_owner_leave(&scope);
}

/*
 * An expression that fails says that there is no such key, whether it is a cast or a function of users; it is tried in a
 * subtransaction, which without a write of its own costs a microsecond and no transaction id.
 */
bool
dw_key_across(DwFlow *flow, const DwKey *source_key, DwKey *target_key)
{
	DwKeyMap   *map = flow->compiled->key_map[flow->direction];
	ExprContext *econtext;
	TupleTableSlot *row = map->row;
	KeyWork		work = {map, NULL, target_key, false};
	DwError		error;

	if (!dw_scope_has_key(flow->scope, flow->source_key, source_key))
		return false;		/* it names another mapping's row, and nothing of ours */
	if (map->copied)
		return copy_key(map, source_key, target_key);
	work.econtext = econtext = dw_nested_context(map->context, flow->compiled->context);
	ResetExprContext(econtext);
	ExecClearTuple(row);
	memset(row->tts_isnull, true, row->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < map->from->ncolumns; i++)
	{
		row->tts_values[map->from->columns[i] - 1] = source_key->values[i];
		row->tts_isnull[map->from->columns[i] - 1] = false;
	}
	ExecStoreVirtualTuple(row);
	econtext->ecxt_scantuple = row;
	if (!map->may_fail)
		evaluate_key_as_owner(&work);
	else if (!dw_try(evaluate_key_as_owner, &work, false, NULL, &error))
		return false;
	return work.found;
}

bool
dw_key_may_fail(const DwFlow *flow)
{
	return flow->compiled->key_map[flow->direction]->may_fail;
}

AttrNumber
dw_key_made_of(const DwFlow *flow, int i)
{
	return flow->compiled->key_map[flow->direction]->made_of[i];
}

bool
dw_old_key(DwCompiled *compiled, const DwKey *key, DwKey *old_key)
{
	return dw_key_across(&compiled->flow[DW_REVERSE], key, old_key);
}

bool
dw_key_of_old(DwCompiled *compiled, const DwKey *old_key, DwKey *key)
{
	return dw_key_across(&compiled->flow[DW_FORWARD], old_key, key);
}

bool
dw_key_of_row(const DwKeyShape *shape, TupleTableSlot *row, DwKey *key)
{
	for (int i = 0; i < shape->ncolumns; i++)
	{
		bool		isnull;

		key->values[i] = slot_getattr(row, shape->columns[i], &isnull);
		if (isnull)
			return false;
	}
	return true;
}

void
dw_key_of_new(DwCompiled *compiled, TupleTableSlot *new_row, DwKey *key)
{
	if (!dw_key_of_row(&compiled->new_key, new_row, key))
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("null value in a key column of %s", compiled->mapping->new_name),
				 errhint("The mapping must give every key column a value.")));
}

bool
dw_source_key(DwFlow *flow, const DwKey *key, DwKey *source_key)
{
	if (flow->direction == DW_FORWARD)
		return dw_old_key(flow->compiled, key, source_key);
	dw_key_set(flow->source_key, key, source_key);
	return true;
}

bool
dw_target_key(DwFlow *flow, const DwKey *key, DwKey *target_key)
{
	if (flow->direction == DW_REVERSE)
		return dw_old_key(flow->compiled, key, target_key);
	dw_key_set(flow->target_key, key, target_key);
	return true;
}
