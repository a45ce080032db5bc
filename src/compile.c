/*
 * compile.c: from a stored definition to something that makes rows, and the making of them.
 *
 * Expressions are the stored, fully qualified texts, parsed under a search_path without user schemas and run as the
 * source's owner.  Plain expressions are compiled once and evaluated on the trigger's slot.  Since a sub-select cannot be
 * compiled without a plan around it, those of a flow are looked up by one prepared statement a row; what it returns is
 * the outer tuple of the same projection, which casts it as an assignment would.
 */
#include "postgres.h"

#include "absorb.h"
#include "execution.h"
#include "expression.h"
#include "mapping.h"
#include "nesting.h"
#include "owner.h"
#include "settings.h"
#include "usercode.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* A constant of forward: new rows without it belong to another mapping. */
typedef struct ScopeColumn
{
	AttrNumber	column;			/* of the new table */
	Datum		value;
	bool		isnull;
	Oid			collation;
	FmgrInfo	equal;
} ScopeColumn;

struct DwProjection
{
	ExprContext *context[DW_MAX_NESTING][2];	/* taken in turn, so that two images can be held together */
	int			turn;
	ProjectionInfo *info;
	ProjectionInfo *mapped;		/* without what is for inserts only; the same where nothing is */
	bool		mapped_looks_up;
	ExprState  *filter;			/* forward only; NULL without one */
	ScopeColumn *scope;			/* reverse only */
	int			nscope;
	SPIPlanPtr	statement;		/* of the expressions with sub-selects; NULL without any */
	TupleTableSlot *looked_up;	/* what it returned */
	bool		user_code;
	bool		personal;		/* what is for inserts looks at how the session is set */
};

/* How one side's key is computed from the other's. */
typedef struct DwKeyMap
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
} DwKeyMap;

/* The context for this depth, made when it is first needed, in the mapping's memory. */
static ExprContext *
own_context(ExprContext **slot, MemoryContext memory)
{
	if (*slot == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(memory);

		*slot = CreateStandaloneExprContext();
		MemoryContextSwitchTo(old);
	}
	return *slot;
}

static ExprContext *
projection_context(DwFlow *flow)
{
	DwProjection *projection = flow->projection;

	return own_context(&projection->context[dw_nesting()][projection->turn], flow->compiled->context);
}

static void
altered(const DwMapping *mapping, const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("mapping from %s to %s no longer fits its tables: %s \"%s\" is missing",
					mapping->old_name, mapping->new_name, what, name),
			 errhint("Undo the change of the table, or call dualwrite.alter_mapping.")));
}

static AttrNumber
column_number(const DwMapping *mapping, Relation rel, const char *name)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), name);

	if (attno <= 0)
		altered(mapping, "column", name);
	return attno;
}

/* Is this a unique index over exactly these columns that can be trusted for look-ups? */
static bool
index_fits(Relation index, const Bitmapset *columns)
{
	Form_pg_index form = index->rd_index;
	Bitmapset  *has = NULL;

	if (!form->indisunique || !form->indisvalid || !form->indimmediate ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		if (form->indkey.values[i] == 0)
			return false;
		has = bms_add_member(has, form->indkey.values[i]);
	}
	return bms_equal(has, columns);
}

static Oid
find_key_index(Relation rel, const Bitmapset *columns)
{
	Oid			result = InvalidOid;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (!OidIsValid(result) && index_fits(index, columns))
			result = lfirst_oid(lc);
		index_close(index, AccessShareLock);
	}
	return result;
}

static void
compile_key(DwKeyShape *shape, const DwMapping *mapping, Relation rel, List *names)
{
	Bitmapset  *columns = NULL;
	ListCell   *lc;

	shape->relid = RelationGetRelid(rel);
	shape->ncolumns = 0;
	foreach(lc, names)
	{
		AttrNumber	attno = column_number(mapping, rel, lfirst(lc));

		shape->columns[shape->ncolumns++] = attno;
		columns = bms_add_member(columns, attno);
	}
	shape->index = InvalidOid;
	if (dw_is_foreign(shape->relid))
		return;
	shape->index = find_key_index(rel, columns);
	if (!OidIsValid(shape->index))
		altered(mapping, "unique index over the key of", RelationGetRelationName(rel));
}

/*
 * In place an expression runs before the row's stored generated columns are computed, so it gets what they are computed
 * from instead.
 */
static Node *
expand_generated(Node *node, Relation rel)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varlevelsup == 0 && var->varattno > 0 &&
			TupleDescAttr(RelationGetDescr(rel), var->varattno - 1)->attgenerated == ATTRIBUTE_GENERATED_STORED)
			return build_column_default(rel, var->varattno);
		return (Node *) copyObject(var);
	}
	return expression_tree_mutator(node, expand_generated, rel);
}

/* Parsed and planned, over rows of rel, for a column of the target. */
static Node *
plan_expression(const DwMapping *mapping, const char *text, Relation rel, Form_pg_attribute target, DwExpression **parsed)
{
	DwExpression *expression = dw_expression_parse(text, rel, NULL, target->atttypid, target->atttypmod,
												   target->attcollation, NameStr(target->attname));

	*parsed = expression;
	if (expression->has_sublink)
		return NULL;
	if (DW_IN_PLACE(mapping))
		expression->node = expand_generated(expression->node, rel);
	return (Node *) expression_planner((Expr *) dw_expand_virtual_columns(expression->node, rel));
}

/* Column i of what the statement returns, of the expression's own type, cast as an assignment would. */
static Node *
looked_up_column(const char *text, Relation source, Form_pg_attribute target, TupleDesc desc, int i)
{
	DwExpression *own = dw_expression_parse(text, source, NULL, InvalidOid, -1, InvalidOid, NameStr(target->attname));
	Oid			type = exprType(own->node);
	Node	   *node = (Node *) makeVar(OUTER_VAR, i, type, exprTypmod(own->node), exprCollation(own->node), 0);

	TupleDescInitEntry(desc, i, NULL, type, exprTypmod(own->node), 0);
	TupleDescInitEntryCollation(desc, i, exprCollation(own->node));
	node = coerce_to_target_type(NULL, node, type, target->atttypid, target->atttypmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (node == NULL)
		elog(ERROR, "expression of column \"%s\" no longer assigns", NameStr(target->attname));
	assign_expr_collations(NULL, node);
	return (Node *) expression_planner((Expr *) node);
}

/* One statement that evaluates the expressions (char *) over a source row given as parameters. */
static void
prepare_statement(DwFlow *flow, List *expressions)
{
	DwProjection *projection = flow->projection;
	TupleDesc	desc = flow->source_desc;
	Oid		   *types = palloc(sizeof(Oid) * desc->natts);
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	foreach(lc, expressions)
		appendStringInfo(&sql, "%s(%s)", lc == list_head(expressions) ? "" : ", ", (char *) lfirst(lc));
	appendStringInfoString(&sql, " FROM (SELECT ");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		types[i] = att->attisdropped ? INT4OID : att->atttypid;
		if (att->attisdropped)
			appendStringInfo(&sql, "%s$%d", i ? ", " : "", i + 1);
		else
			appendStringInfo(&sql, "%s$%d AS %s", i ? ", " : "", i + 1, quote_identifier(NameStr(att->attname)));
	}
	appendStringInfoString(&sql, ") AS " DW_ROW_ALIAS);

	SPI_connect();
	projection->statement = SPI_prepare(sql.data, desc->natts, types);
	if (projection->statement == NULL || SPI_keepplan(projection->statement) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", sql.data, SPI_result_code_string(SPI_result));
	SPI_finish();
}

static void
free_statement(void *arg)
{
	SPIPlanPtr	plan = *(SPIPlanPtr *) arg;

	if (plan != NULL)
		SPI_freeplan(plan);
}

/* Which columns of the source does this look at?  Those of a sub-select, or of the whole row, are not told apart. */
static void
note_used_columns(DwFlow *flow, Node *node)
{
	Bitmapset  *found = NULL;
	int			attno = -1;
	bool		all = node == NULL;

	pull_varattnos(node, 1, &found);
	while ((attno = bms_next_member(found, attno)) >= 0)
	{
		if (attno + FirstLowInvalidHeapAttributeNumber > 0)
			flow->used = bms_add_member(flow->used, attno + FirstLowInvalidHeapAttributeNumber);
		else
			all = true;
	}
	for (int i = 0; all && i < flow->source_desc->natts; i++)
		if (!TupleDescAttr(flow->source_desc, i)->attisdropped)
			flow->used = bms_add_member(flow->used, i + 1);
}

/* What a value has to satisfy is compiled into a cast to a domain: its own constraints, and those of the domains under it. */
static void
note_domains(DwCompiled *compiled, List *domains)
{
	ListCell   *lc;

	foreach(lc, domains)
	{
		Oid			type = lfirst_oid(lc);

		while (get_typtype(type) == TYPTYPE_DOMAIN)
		{
			HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));

			if (!HeapTupleIsValid(tuple))
				break;
			compiled->domains = list_append_unique_int(compiled->domains,
													   (int) GetSysCacheHashValue1(TYPEOID, ObjectIdGetDatum(type)));
			type = ((Form_pg_type) GETSTRUCT(tuple))->typbasetype;
			ReleaseSysCache(tuple);
		}
	}
}

/* The target list of a flow, and that of updates; notes which columns they write, and which expressions (char *) have to be looked up. */
static List *
compile_columns(DwFlow *flow, const DwMapping *mapping, Relation source, Relation target, List **sought, List **mapped)
{
	DwProjection *projection = flow->projection;
	TupleDesc	desc = CreateTemplateTupleDesc(list_length(mapping->columns[flow->direction]));
	List	   *tlist = NIL;
	ListCell   *lc;

	*mapped = NIL;
	foreach(lc, mapping->columns[flow->direction])
	{
		DwColumn   *column = lfirst(lc);
		AttrNumber	attno = column_number(mapping, target, column->name);
		Form_pg_attribute att = TupleDescAttr(flow->target_desc, attno - 1);
		DwExpression *parsed;
		Node	   *node = plan_expression(mapping, column->expression, source, att, &parsed);

		flow->inserted = bms_add_member(flow->inserted, attno);
		if (!column->insert_only)
		{
			flow->mapped = bms_add_member(flow->mapped, attno);
			note_used_columns(flow, node);
		}
		projection->user_code |= parsed->user_code;
		projection->personal |= parsed->is_personal;
		note_domains(flow->compiled, parsed->domains);
		if (parsed->has_sublink)
		{
			*sought = lappend(*sought, column->expression);
			projection->mapped_looks_up |= !column->insert_only;
			node = looked_up_column(column->expression, source, att, desc, list_length(*sought));
		}
		tlist = lappend(tlist, makeTargetEntry((Expr *) node, attno, NULL, false));
		if (!column->insert_only)
			*mapped = lappend(*mapped, llast(tlist));
	}
	/* what is left over stays null */
	for (int i = list_length(*sought) + 1; i <= desc->natts; i++)
		TupleDescInitEntry(desc, i, NULL, INT4OID, -1, 0);
	if (*sought != NIL)
		projection->looked_up = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	return tlist;
}

static void
compile_filter(DwFlow *flow, const DwMapping *mapping, Relation source)
{
	DwExpression *parsed;
	Node	   *node;

	if (mapping->filter == NULL || flow->direction != DW_FORWARD)
		return;
	parsed = dw_expression_parse(mapping->filter, source, NULL, BOOLOID, -1, InvalidOid, "filter");
	node = (Node *) expression_planner((Expr *) dw_expand_virtual_columns(parsed->node, source));
	note_used_columns(flow, node);
	flow->projection->filter = ExecInitQual(make_ands_implicit((Expr *) node), NULL);
	flow->projection->user_code |= parsed->user_code;
	note_domains(flow->compiled, parsed->domains);
}

static Oid
equality_function(Form_pg_attribute att)
{
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR_FINFO);

	if (!OidIsValid(type->eq_opr_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("constant for column \"%s\" has type %s, which has no equality operator",
						NameStr(att->attname), format_type_be(att->atttypid)),
				 errhint("A constant is the mapping's scope on the new side; use {\"expr\": …, \"on\": \"insert\"} for a mere default.")));
	return type->eq_opr_finfo.fn_oid;
}

/* The constants of forward, which a new row must bear to be this mapping's. */
static void
compile_scope(DwFlow *reverse, const DwMapping *mapping, Relation old_table, Relation new_table)
{
	DwProjection *projection = reverse->projection;
	ListCell   *lc;

	projection->scope = palloc0(sizeof(ScopeColumn) * (list_length(mapping->columns[DW_FORWARD]) + 1));
	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwColumn   *column = lfirst(lc);
		ScopeColumn *scope = &projection->scope[projection->nscope];
		Form_pg_attribute att;
		DwExpression *parsed;
		ExprState  *state;
		Node	   *node;

		if (!column->is_constant || column->insert_only)
			continue;
		scope->column = column_number(mapping, new_table, column->name);
		reverse->used = bms_add_member(reverse->used, scope->column);
		att = TupleDescAttr(RelationGetDescr(new_table), scope->column - 1);
		node = plan_expression(mapping, column->expression, old_table, att, &parsed);
		state = ExecInitExpr((Expr *) node, NULL);
		scope->value = ExecEvalExprSwitchContext(state, projection_context(reverse), &scope->isnull);
		if (!scope->isnull)
			scope->value = datumCopy(scope->value, att->attbyval, att->attlen);
		scope->collation = att->attcollation;
		fmgr_info(equality_function(att), &scope->equal);
		projection->nscope++;
	}
}

static bool
is_any(const Trigger *trigger)
{
	(void) trigger;
	return true;
}

static ProjectionInfo *
build_projection(DwFlow *flow, List *tlist)
{
	return ExecBuildProjectionInfo(tlist, projection_context(flow),
								   MakeSingleTupleTableSlot(flow->target_desc, &TTSOpsVirtual), NULL, NULL);
}

static void
compile_flow(DwCompiled *compiled, DwDirection direction, Relation source, Relation target)
{
	DwFlow	   *flow = &compiled->flow[direction];
	const DwMapping *mapping = compiled->mapping;
	DwProjection *projection = palloc0(sizeof(DwProjection));
	List	   *sought = NIL;
	List	   *mapped;
	List	   *tlist;

	flow->compiled = compiled;
	flow->direction = direction;
	flow->source = RelationGetRelid(source);
	flow->target = RelationGetRelid(target);
	flow->source_owner = source->rd_rel->relowner;
	flow->target_owner = target->rd_rel->relowner;
	flow->target_has_triggers = dw_has_other_trigger(target, is_any);
	flow->target_runs_code = dw_relation_runs_user_code(target);
	flow->source_key = direction == DW_FORWARD ? &compiled->old_key : &compiled->new_key;
	flow->target_key = direction == DW_FORWARD ? &compiled->new_key : &compiled->old_key;
	flow->source_desc = CreateTupleDescCopyConstr(RelationGetDescr(source));
	flow->target_desc = CreateTupleDescCopyConstr(RelationGetDescr(target));
	flow->owns_target = (mapping->owns & (direction == DW_FORWARD ? DW_OWNS_NEW : DW_OWNS_OLD)) != 0;
	flow->projection = projection;

	for (int i = 0; i < flow->source_key->ncolumns; i++)
		flow->used = bms_add_member(flow->used, flow->source_key->columns[i]);
	tlist = compile_columns(flow, mapping, source, target, &sought, &mapped);
	compile_filter(flow, mapping, source);
	flow->runs_queries = sought != NIL;
	if (sought != NIL)
	{
		MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

		callback->func = free_statement;
		callback->arg = &projection->statement;
		MemoryContextRegisterResetCallback(compiled->context, callback);
		prepare_statement(flow, sought);
	}
	projection->info = build_projection(flow, tlist);
	projection->mapped = list_length(mapped) == list_length(tlist) ? projection->info : build_projection(flow, mapped);
	compiled->user_code |= projection->user_code;
	compiled->reads_tables |= projection->user_code || projection->statement != NULL;
}

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

static DwColumn *
column_named(List *columns, const char *name)
{
	ListCell   *lc;

	foreach(lc, columns)
		if (strcmp(((DwColumn *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

static void
compile_key_map(DwCompiled *compiled, DwDirection direction, Relation source, Relation target, List *target_names)
{
	const DwMapping *mapping = compiled->mapping;
	DwFlow	   *flow = &compiled->flow[direction];
	DwKeyMap   *map = palloc0(sizeof(DwKeyMap));
	ListCell   *lc;

	map->from = flow->source_key;
	map->owner = flow->source_owner;
	map->row = MakeSingleTupleTableSlot(flow->source_desc, &TTSOpsVirtual);
	map->copied = true;
	foreach(lc, target_names)
	{
		DwColumn   *column = column_named(mapping->columns[direction], lfirst(lc));
		AttrNumber	attno = flow->target_key->columns[map->ncolumns];
		DwExpression *parsed;
		Node	   *node = NULL;

		if (column != NULL)
			node = plan_expression(mapping, column->expression, source,
								   TupleDescAttr(RelationGetDescr(target), attno - 1), &parsed);
		if (node == NULL)
			altered(mapping, "plain expression of key column", lfirst(lc));
		note_narrowing(map, map->ncolumns, node);
		map->may_fail |= !is_infallible(map, map->ncolumns, node);
		map->copied &= note_copy(map, map->ncolumns, node);
		if (bms_membership(parsed->columns) == BMS_SINGLETON)
			map->made_of[map->ncolumns] = bms_singleton_member(parsed->columns);
		map->user_code |= parsed->user_code;
		note_domains(compiled, parsed->domains);
		compiled->computed_key |= parsed->column != 0 ? !parsed->lossless : !parsed->is_constant;
		map->expression[map->ncolumns++] = ExecInitExpr((Expr *) node, NULL);
	}
	compiled->key_map[direction] = map;
}

/* Is there a foreign key from the new table, or to it? */
static bool
has_references(Relation new_table)
{
	TriggerDesc *triggers = new_table->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (RI_FKey_trigger_type(triggers->triggers[i].tgfoid) != RI_TRIGGER_NONE)
			return true;
	return new_table->rd_rel->relkind != RELKIND_FOREIGN_TABLE && RelationGetFKeyList(new_table) != NIL;
}

static void
compile_policy(DwCompiled *compiled, const DwMigration *migration)
{
	compiled->phase = migration->phase;
	compiled->filled = migration->filled;
	compiled->queue_errors = migration->phase == DW_PHASE_SHADOW ||
		strcmp(dw_setting_string(migration->id, "mirror_on_error"), "queue") == 0;
	compiled->discard = migration->phase == DW_PHASE_SHADOW && dw_setting_bool(migration->id, "shadow_discard");
}

DwCompiled *
dw_compile(const DwMapping *mapping, const DwMigration *migration, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	DwCompiled *compiled = palloc0(sizeof(DwCompiled));
	Relation	old_table = try_table_open(mapping->old_table, AccessShareLock);
	Relation	new_table = try_table_open(mapping->new_table, AccessShareLock);
	DwOwnerScope scope;

	if (old_table == NULL)
		altered(mapping, "table", mapping->old_name);
	if (new_table == NULL)
		altered(mapping, "table", mapping->new_name);
	compiled->mapping = mapping;
	compiled->migration = migration->name;
	compiled->mapping_id = mapping->id;
	compiled->migration_id = migration->id;
	compiled->context = context;
	compiled->new_is_foreign = dw_is_foreign(RelationGetRelid(new_table));
	compile_policy(compiled, migration);

	/* planning folds constants, and so may run functions of the owner */
	dw_owner_enter(&scope, old_table->rd_rel->relowner, true);
	compile_key(&compiled->old_key, mapping, old_table, mapping->old_key_columns);
	compile_key(&compiled->new_key, mapping, new_table, mapping->key_columns);
	compile_flow(compiled, DW_FORWARD, old_table, new_table);
	compile_flow(compiled, DW_REVERSE, new_table, old_table);
	compile_scope(&compiled->flow[DW_REVERSE], mapping, old_table, new_table);
	compile_key_map(compiled, DW_FORWARD, old_table, new_table, mapping->key_columns);
	compile_key_map(compiled, DW_REVERSE, new_table, old_table, mapping->old_key_columns);
	compiled->early_children = (!compiled->filled || dw_execution_is_initial_copy()) && has_references(new_table);
	dw_owner_leave(&scope);

	table_close(new_table, NoLock);
	table_close(old_table, NoLock);
	compiled->valid = true;
	MemoryContextSwitchTo(old);
	return compiled;
}

static bool
in_scope(DwProjection *projection, TupleTableSlot *row)
{
	for (int i = 0; i < projection->nscope; i++)
	{
		ScopeColumn *scope = &projection->scope[i];
		bool		isnull;
		Datum		value = slot_getattr(row, scope->column, &isnull);

		if (isnull != scope->isnull)
			return false;
		if (!isnull && !DatumGetBool(FunctionCall2Coll(&scope->equal, scope->collation, value, scope->value)))
			return false;
	}
	return true;
}

static bool
passes(DwProjection *projection, TupleTableSlot *source, ExprContext *econtext)
{
	return in_scope(projection, source) && (projection->filter == NULL || ExecQual(projection->filter, econtext));
}

bool
dw_in_mapping(DwFlow *flow, TupleTableSlot *source)
{
	DwProjection *projection = flow->projection;
	ExprContext *econtext = projection_context(flow);
	DwOwnerScope scope;
	bool		result;

	if (projection->filter == NULL && projection->nscope == 0)
		return true;
	ResetExprContext(econtext);
	econtext->ecxt_scantuple = source;
	if (!projection->user_code)
		return passes(projection, source, econtext);

	dw_owner_enter(&scope, flow->source_owner, true);
	result = passes(projection, source, econtext);
	dw_owner_leave(&scope);
	return result;
}

/* Run the flow's statement on a source row; its one row of results becomes the outer tuple. */
static void
look_up(DwFlow *flow, TupleTableSlot *source, ExprContext *econtext, Snapshot snapshot)
{
	DwProjection *projection = flow->projection;
	TupleTableSlot *result = projection->looked_up;
	MemoryContext old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	char	   *nulls = palloc(flow->source_desc->natts);

	slot_getallattrs(source);
	for (int i = 0; i < flow->source_desc->natts; i++)
		nulls[i] = source->tts_isnull[i] ? 'n' : ' ';
	SPI_connect();
	if (SPI_execute_snapshot(projection->statement, source->tts_values, nulls, snapshot ? snapshot : GetLatestSnapshot(),
							 InvalidSnapshot, true, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "expressions of mapping %d did not return a row", flow->compiled->mapping_id);
	ExecClearTuple(result);
	memset(result->tts_isnull, true, result->tts_tupleDescriptor->natts * sizeof(bool));
	MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	for (int i = 0; i < SPI_tuptable->tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(SPI_tuptable->tupdesc, i);
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &isnull);

		result->tts_isnull[i] = isnull;
		result->tts_values[i] = isnull ? (Datum) 0 : datumCopy(value, att->attbyval, att->attlen);
	}
	SPI_finish();
	ExecStoreVirtualTuple(result);
	econtext->ecxt_outertuple = result;
	MemoryContextSwitchTo(old);
}

/* The evaluation itself, as whoever runs it. */
static bool
project_row(DwFlow *flow, ProjectionInfo *info, TupleTableSlot *source, TupleTableSlot *out, ExprContext *econtext, Snapshot snapshot)
{
	DwProjection *projection = flow->projection;

	if (!passes(projection, source, econtext))
		return false;
	if (projection->statement != NULL && (info == projection->info || projection->mapped_looks_up))
		look_up(flow, source, econtext, snapshot);
	info->pi_exprContext = econtext;
	info->pi_state.resultslot = out;
	ExecProject(info);
	return true;
}

static bool
project(DwFlow *flow, ProjectionInfo *info, TupleTableSlot *source, TupleTableSlot *out, Snapshot snapshot)
{
	DwProjection *projection = flow->projection;
	ExprContext *econtext = projection_context(flow);
	DwOwnerScope scope;
	bool		result;

	projection->turn = 1 - projection->turn;
	ResetExprContext(econtext);
	econtext->ecxt_scantuple = source;
	ExecClearTuple(out);
	memset(out->tts_isnull, true, flow->target_desc->natts * sizeof(bool));
	if (!projection->user_code)
		return project_row(flow, info, source, out, econtext, snapshot);

	dw_owner_enter(&scope, flow->source_owner, true);
	if (projection->personal && info == projection->info)
		dw_pin_formats();
	result = project_row(flow, info, source, out, econtext, snapshot);
	dw_owner_leave(&scope);
	return result;
}

bool
dw_project(DwFlow *flow, TupleTableSlot *source, TupleTableSlot *out, Snapshot snapshot)
{
	return project(flow, flow->projection->info, source, out, snapshot);
}

bool
dw_project_mapped(DwFlow *flow, TupleTableSlot *source, TupleTableSlot *out, Snapshot snapshot)
{
	return project(flow, flow->projection->mapped, source, out, snapshot);
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

/* A key that lacks the constants of the mapping names another mapping's row, and nothing of ours. */
static bool
key_in_scope(DwFlow *flow, const DwKey *key)
{
	DwProjection *projection = flow->projection;

	for (int i = 0; i < projection->nscope; i++)
		for (int k = 0; k < flow->source_key->ncolumns; k++)
		{
			ScopeColumn *scope = &projection->scope[i];

			if (flow->source_key->columns[k] == scope->column && !scope->isnull &&
				!DatumGetBool(FunctionCall2Coll(&scope->equal, scope->collation, key->values[k], scope->value)))
				return false;
		}
	return true;
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

	if (!key_in_scope(flow, source_key))
		return false;
	if (map->copied)
		return copy_key(map, source_key, target_key);
	work.econtext = econtext = own_context(&map->context[dw_nesting()], flow->compiled->context);
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
	*source_key = *key;
	return true;
}

bool
dw_target_key(DwFlow *flow, const DwKey *key, DwKey *target_key)
{
	if (flow->direction == DW_REVERSE)
		return dw_old_key(flow->compiled, key, target_key);
	*target_key = *key;
	return true;
}
