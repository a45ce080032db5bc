/*
 * compile.c: from a stored definition to something that makes rows, and the making of them.
 *
 * Expressions are the stored, fully qualified texts, parsed under a search_path without user schemas and run as the
 * source's owner.  Plain expressions are compiled once and evaluated on the trigger's slot.  Since a sub-select cannot be
 * compiled without a plan around it, those of a flow are looked up by one prepared statement a row; what it returns is
 * the outer tuple of the same projection, which casts it as an assignment would.
 */
#include "postgres.h"

#include "execution.h"
#include "expression.h"
#include "keymap.h"
#include "mapping.h"
#include "nesting.h"
#include "owner.h"
#include "scope.h"
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
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

struct DwProjection
{
	ExprContext *context[2][DW_MAX_NESTING];	/* taken in turn, so that two images can be held together */
	int			turn;
	ProjectionInfo *info;
	ProjectionInfo *mapped;		/* without what is for inserts only; the same where nothing is */
	bool		mapped_looks_up;
	ExprState  *filter;			/* forward only; NULL without one */
	SPIPlanPtr	statement;		/* of the expressions with sub-selects; NULL without any */
	TupleTableSlot *looked_up;	/* what it returned */
	bool		user_code;
	bool		personal;		/* what is for inserts looks at how the session is set */
};

static ExprContext *
projection_context(DwFlow *flow)
{
	DwProjection *projection = flow->projection;

	return dw_nested_context(projection->context[projection->turn], flow->compiled->context);
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

/* Has the table a constraint, checked at once, by which two rows with different keys exclude each other? */
static bool
has_rivals(Relation rel, Oid key_index)
{
	bool		result = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (lfirst_oid(lc) != key_index && (index->rd_index->indisunique || index->rd_index->indisexclusion))
			result |= index->rd_index->indimmediate;
		index_close(index, AccessShareLock);
	}
	return result;
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

/* The constants of forward, which a new row must bear to be this mapping's. */
static void
compile_scope(DwFlow *reverse, const DwMapping *mapping, Relation old_table, Relation new_table)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwColumn   *column = lfirst(lc);
		AttrNumber	attno;
		DwExpression *parsed;
		Node	   *node;
		Datum		value;
		bool		isnull;

		if (!column->is_constant || column->insert_only)
			continue;
		attno = column_number(mapping, new_table, column->name);
		reverse->used = bms_add_member(reverse->used, attno);
		node = plan_expression(mapping, column->expression, old_table, TupleDescAttr(RelationGetDescr(new_table), attno - 1),
							   &parsed);
		value = ExecEvalExprSwitchContext(ExecInitExpr((Expr *) node, NULL), projection_context(reverse), &isnull);
		reverse->scope = dw_scope_add(reverse->scope, RelationGetDescr(new_table), attno, value, isnull);
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
	flow->target_has_rivals = has_rivals(target, flow->target_key->index);
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
	DwKeyMap   *map = dw_keymap_make(flow);
	int			i = 0;
	ListCell   *lc;

	foreach(lc, target_names)
	{
		DwColumn   *column = column_named(mapping->columns[direction], lfirst(lc));
		AttrNumber	attno = flow->target_key->columns[i++];
		DwExpression *parsed;
		Node	   *node = NULL;

		if (column != NULL)
			node = plan_expression(mapping, column->expression, source,
								   TupleDescAttr(RelationGetDescr(target), attno - 1), &parsed);
		if (node == NULL)
			altered(mapping, "plain expression of key column", lfirst(lc));
		dw_keymap_add(map, node, parsed);
		note_domains(compiled, parsed->domains);
		compiled->computed_key |= parsed->column != 0 ? !parsed->lossless : !parsed->is_constant;
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
passes(DwFlow *flow, TupleTableSlot *source, ExprContext *econtext)
{
	ExprState  *filter = flow->projection->filter;

	return dw_scope_has_row(flow->scope, source) && (filter == NULL || ExecQual(filter, econtext));
}

bool
dw_in_mapping(DwFlow *flow, TupleTableSlot *source)
{
	DwProjection *projection = flow->projection;
	ExprContext *econtext = projection_context(flow);
	DwOwnerScope scope;
	bool		result;

	if (projection->filter == NULL && flow->scope == NULL)
		return true;
	ResetExprContext(econtext);
	econtext->ecxt_scantuple = source;
	if (!projection->user_code)
		return passes(flow, source, econtext);

	dw_owner_enter(&scope, flow->source_owner, true);
	result = passes(flow, source, econtext);
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

	if (!passes(flow, source, econtext))
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
