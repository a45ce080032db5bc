/*
 * viewquery.c: the text of a read view.
 *
 * A read view has the columns of one table, its target: of the new table (shape "new", rows of the old side come through
 * the forward expressions) or of the old one (shape "old", reverse expressions).  Either side is one or more SELECTs of
 * that shape, glued together by UNION ALL.
 *
 * What keeps a read view as fast as the tables: the parts of the UNION ALL have no WHERE of their own, or the planner would
 * plan each as a sub-query, which no join could give a key (is_safe_append_member in prepjointree.c).  Which side a row
 * comes from, and whether its mapping has it at all, are columns of the part instead; conditions on them stand outside,
 * reach each part as constants, and become a one-time filter there: a side that serves nothing is not touched.
 *
 * Nothing here runs what it writes.  The caller has set a search_path without user schemas: stored expressions mean what
 * they say under that only.
 */
#include "postgres.h"

#include "expression.h"
#include "mapping.h"
#include "tables.h"
#include "viewquery.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

/* Columns of each part beside those of the target. */
#define SIDE_COLUMN "dualwrite_side"
#define MAPPED_COLUMN "dualwrite_mapped"

/* A part that makes target rows from another table. */
typedef struct DwPartSource
{
	DwMapping  *mapping;
	Relation	rel;
} DwPartSource;

static Oid
source_of(const DwViewPlan *plan, const DwMapping *mapping)
{
	return plan->direction == DW_FORWARD ? mapping->old_table : mapping->new_table;
}

static bool
owns_target(const DwViewPlan *plan, const DwMapping *mapping)
{
	return (mapping->owns & (plan->direction == DW_FORWARD ? DW_OWNS_NEW : DW_OWNS_OLD)) != 0;
}

/* Columns of the target that identify a row: those of the first mapping that brings rows into being. */
static List *
key_columns(const DwViewPlan *plan)
{
	ListCell   *lc;

	foreach(lc, plan->mappings)
	{
		DwMapping  *mapping = lfirst(lc);

		if (owns_target(plan, mapping))
			return plan->direction == DW_FORWARD ? mapping->key_columns : mapping->old_key_columns;
	}
	elog(ERROR, "no mapping of migration \"%s\" owns rows of relation %u", plan->migration->name, plan->target);
}

static char *
type_name(Form_pg_attribute column, int32 typmod)
{
	return format_type_extended(column->atttypid, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

static DwColumn *
mapped_column(const DwMapping *mapping, DwDirection direction, const char *name)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[direction])
		if (strcmp(((DwColumn *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

/*
 * Give an expression the type of a column of the view, length and all.  A plain column of the source (plain) only gets the
 * type: a cast to a length would keep the planner from using its index; the view's column then has no length.
 */
static char *
as_column(Form_pg_attribute column, const char *text, const Node *node, bool plain)
{
	Oid			type = exprType(node);
	int32		typmod = exprTypmod(node);
	bool		relabel = plain && (type == column->atttypid || IsBinaryCoercible(type, column->atttypid));
	char	   *result = psprintf("(%s)", text);

	if (relabel && (type != column->atttypid || (column->atttypmod < 0 && typmod >= 0)))
		result = psprintf("CAST(%s AS %s)", result, type_name(column, -1));
	else if (!relabel && (type != column->atttypid || typmod != column->atttypmod))
		result = psprintf("CAST(%s AS %s)", result, type_name(column, column->atttypmod));
	if (OidIsValid(column->attcollation) && exprCollation(node) != column->attcollation)
		result = psprintf("(%s COLLATE %s)", result, generate_collation_name(column->attcollation));
	return result;
}

/* The same for a column of the target itself; NULL cast to its type where it is gone by now. */
static char *
target_column(const DwViewPlan *plan, Form_pg_attribute column)
{
	AttrNumber	attno = get_attnum(plan->target, NameStr(column->attname));
	Oid			type;
	int32		typmod;
	Oid			collation;

	if (attno <= 0)
		return psprintf("CAST(NULL AS %s)", type_name(column, column->atttypmod));
	get_atttypetypmodcoll(plan->target, attno, &type, &typmod, &collation);
	return as_column(column, psprintf("t.%s", quote_identifier(NameStr(column->attname))),
					 (Node *) makeVar(1, attno, type, typmod, collation, 0), true);
}

/* Default or generation expression of a column of the target as text; NULL without one, or where it may give another value each time. */
static char *
column_default(Relation target, AttrNumber attno)
{
	TupleConstr *constr = RelationGetDescr(target)->constr;

	for (int i = 0; constr != NULL && i < constr->num_defval; i++)
	{
		Node	   *node;

		if (constr->defval[i].adnum != attno)
			continue;
		node = stringToNode(constr->defval[i].adbin);
		if (contain_mutable_functions(node))
			return NULL;
		return deparse_expression(node, deparse_context_for(RelationGetRelationName(target), RelationGetRelid(target)),
								  false, false);
	}
	return NULL;
}

static bool
is_generated(Relation target, AttrNumber attno)
{
	return attno > 0 && TupleDescAttr(RelationGetDescr(target), attno - 1)->attgenerated != '\0';
}

/* Value of a mapped column in a part; NULL where no row could be given the same value twice. */
static char *
mapped_value(const DwPartSource *source, Form_pg_attribute column, const DwColumn *mapped)
{
	DwExpression *expression = dw_expression_parse(mapped->expression, source->rel, NULL, InvalidOid, -1, InvalidOid,
												   psprintf("column \"%s\"", NameStr(column->attname)));

	if (mapped->insert_only && expression->is_mutable)
		return NULL;
	return as_column(column, mapped->expression, expression->node, expression->column != 0);
}

/*
 * Condition for a source row to have a counterpart: the filter of its mapping (forward), or the mapping's scope, its constants
 * on the new side (reverse).
 */
static char *
mapped_condition(const DwViewPlan *plan, const DwMapping *mapping)
{
	StringInfoData text;
	ListCell   *lc;

	if (plan->direction == DW_FORWARD)
		return mapping->filter != NULL ? psprintf("(%s) IS TRUE", mapping->filter) : pstrdup("true");
	initStringInfo(&text);
	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwColumn   *column = lfirst(lc);

		if (column->is_constant && !column->insert_only)
			appendStringInfo(&text, "%s" DW_ROW_ALIAS ".%s = (%s)", text.len > 0 ? " AND " : "",
							 quote_identifier(column->name), column->expression);
	}
	return text.len > 0 ? text.data : pstrdup("true");
}

/* Mappings that only fill columns of rows which others own. */
static List *
fillers_of(const DwViewPlan *plan)
{
	List	   *fillers = NIL;
	ListCell   *lc;

	foreach(lc, plan->mappings)
		if (!owns_target(plan, lfirst(lc)))
			fillers = lappend(fillers, lfirst(lc));
	return fillers;
}

/* "SELECT key and mapped columns FROM source WHERE mapped" of a filler, to be joined on the key. */
static void
append_filler(StringInfo text, const DwViewPlan *plan, DwMapping *mapping, int number)
{
	DwPartSource	source = {mapping, table_open(source_of(plan, mapping), AccessShareLock)};
	const char *separator = "";
	ListCell   *lc;

	appendStringInfoString(text, " LEFT JOIN (SELECT ");
	for (int i = 0; i < plan->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(plan->columns, i);
		DwColumn   *mapped = mapped_column(mapping, plan->direction, NameStr(column->attname));
		char	   *value = mapped ? mapped_value(&source, column, mapped) : NULL;

		if (value == NULL)
			continue;
		appendStringInfo(text, "%s%s AS %s", separator, value, quote_identifier(NameStr(column->attname)));
		separator = ", ";
	}
	appendStringInfo(text, " FROM %s AS " DW_ROW_ALIAS " WHERE %s) AS f%d ON true",
					 dw_table_name(RelationGetRelid(source.rel)), mapped_condition(plan, mapping), number);
	foreach(lc, key_columns(plan))
		appendStringInfo(text, " AND f%d.%s = s.%s", number, quote_identifier(lfirst(lc)), quote_identifier(lfirst(lc)));
	table_close(source.rel, AccessShareLock);
}

/* Which filler has this column: "f1.column", or NULL. */
static char *
filled_value(const DwViewPlan *plan, List *fillers, const char *name)
{
	int			number = 1;
	ListCell   *lc;

	foreach(lc, fillers)
	{
		if (mapped_column(lfirst(lc), plan->direction, name) != NULL)
			return psprintf("f%d.%s", number, quote_identifier(name));
		number++;
	}
	return NULL;
}

/* Is the part to be written in two storeys: because a column is computed from others, or comes from a filler? */
static bool
needs_storeys(const DwViewPlan *plan, const DwMapping *mapping, Relation target)
{
	/* the row has them already */
	if (DW_IN_PLACE(mapping))
		return false;
	if (fillers_of(plan) != NIL)
		return true;
	for (int i = 0; i < RelationGetNumberOfAttributes(target); i++)
		if (is_generated(target, i + 1) && !TupleDescAttr(RelationGetDescr(target), i)->attisdropped)
			return true;
	return false;
}

/* Values of the target's columns from one source row: "value AS column, …". */
static void
append_values(StringInfo text, const DwViewPlan *plan, const DwPartSource *source, Relation target, bool lower_storey)
{
	const char *separator = "";

	for (int i = 0; i < plan->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(plan->columns, i);
		const char *name = NameStr(column->attname);
		AttrNumber	attno = get_attnum(plan->target, name);
		DwColumn   *mapped = mapped_column(source->mapping, plan->direction, name);
		char	   *value = NULL;

		if (mapped == NULL && lower_storey && is_generated(target, attno))
			continue;
		if (mapped != NULL && !(mapped->insert_only && DW_IN_PLACE(source->mapping)))
			value = mapped_value(source, column, mapped);
		else if (attno > 0 && DW_IN_PLACE(source->mapping))
			value = psprintf(DW_ROW_ALIAS ".%s", quote_identifier(name));
		else if (attno > 0 && !is_generated(target, attno))
			value = column_default(target, attno);
		if (mapped == NULL && value != NULL && !DW_IN_PLACE(source->mapping))
			value = psprintf("CAST(%s AS %s)", value, type_name(column, column->atttypmod));
		if (value == NULL)
			value = psprintf("CAST(NULL AS %s)", type_name(column, column->atttypmod));
		appendStringInfo(text, "%s%s AS %s", separator, value, quote_identifier(name));
		separator = ", ";
	}
}

/* Columns of the upper storey: those of the lower one, of fillers, and what is generated from either. */
static void
append_upper_values(StringInfo text, const DwViewPlan *plan, const DwPartSource *source, Relation target, List *fillers)
{
	for (int i = 0; i < plan->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(plan->columns, i);
		const char *name = NameStr(column->attname);
		AttrNumber	attno = get_attnum(plan->target, name);
		char	   *value = NULL;

		if (mapped_column(source->mapping, plan->direction, name) == NULL)
		{
			value = filled_value(plan, fillers, name);
			if (value == NULL && is_generated(target, attno))
				value = column_default(target, attno);
		}
		appendStringInfo(text, "%s%s AS %s", i > 0 ? ", " : "",
						 value ? psprintf("(%s)", value) : psprintf("s.%s", quote_identifier(name)),
						 quote_identifier(name));
	}
}

/* One part: rows of the target made from the source of a mapping. */
static void
append_source_part(StringInfo text, const DwViewPlan *plan, DwMapping *mapping, const char *side)
{
	Relation	target = table_open(plan->target, AccessShareLock);
	DwPartSource	source = {mapping, table_open(source_of(plan, mapping), AccessShareLock)};
	bool		storeys = needs_storeys(plan, mapping, target);
	List	   *fillers = fillers_of(plan);

	appendStringInfoString(text, "SELECT ");
	if (storeys)
	{
		append_upper_values(text, plan, &source, target, fillers);
		appendStringInfoString(text, ", s." SIDE_COLUMN ", s." MAPPED_COLUMN " FROM (SELECT ");
	}
	append_values(text, plan, &source, target, storeys);
	appendStringInfo(text, ", '%s'::pg_catalog.text AS " SIDE_COLUMN ", %s AS " MAPPED_COLUMN " FROM %s AS " DW_ROW_ALIAS,
					 side, mapped_condition(plan, mapping), dw_table_name(RelationGetRelid(source.rel)));
	if (storeys)
	{
		int			number = 1;
		ListCell   *lc;

		appendStringInfoString(text, ") AS s");
		foreach(lc, fillers)
			append_filler(text, plan, lfirst(lc), number++);
	}
	table_close(source.rel, AccessShareLock);
	table_close(target, AccessShareLock);
}

/* The other part: rows of the target itself. */
static void
append_target_part(StringInfo text, const DwViewPlan *plan, const char *side)
{
	appendStringInfoString(text, "SELECT ");
	for (int i = 0; i < plan->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(plan->columns, i);

		appendStringInfo(text, "%s AS %s, ", target_column(plan, column), quote_identifier(NameStr(column->attname)));
	}
	appendStringInfo(text, "'%s'::pg_catalog.text AS " SIDE_COLUMN ", true AS " MAPPED_COLUMN " FROM %s AS t",
					 side, dw_table_name(plan->target));
}

/* All rows of one side in the shape of the target: a parenthesis for FROM. */
static char *
side_rows(const DwViewPlan *plan, bool new_side)
{
	const char *side = new_side ? "new" : "old";
	StringInfoData text;
	const char *separator = "";
	ListCell   *lc;

	initStringInfo(&text);
	if (new_side == (plan->direction == DW_FORWARD))
	{
		append_target_part(&text, plan, side);
		return text.data;
	}
	foreach(lc, plan->mappings)
	{
		if (!owns_target(plan, lfirst(lc)))
			continue;
		appendStringInfoString(&text, separator);
		append_source_part(&text, plan, lfirst(lc), side);
		separator = " UNION ALL ";
	}
	return text.data;
}

/* "SELECT u.columns FROM (rows) AS u WHERE those that are mapped". */
static void
append_select(StringInfo text, const DwViewPlan *plan, const char *rows)
{
	appendStringInfoString(text, "SELECT ");
	for (int i = 0; i < plan->columns->natts; i++)
		appendStringInfo(text, "%su.%s", i > 0 ? ", " : "", quote_identifier(NameStr(TupleDescAttr(plan->columns, i)->attname)));
	appendStringInfo(text, " FROM (%s) AS u WHERE u." MAPPED_COLUMN, rows);
}

/* " AND NOT EXISTS (a row of the same key in the other rows)". */
static void
append_anti_join(StringInfo text, const DwViewPlan *plan, const char *rows)
{
	ListCell   *lc;

	appendStringInfo(text, " AND NOT EXISTS (SELECT FROM (%s) AS x WHERE x." MAPPED_COLUMN, rows);
	foreach(lc, key_columns(plan))
	{
		char	   *name = psprintf(".%s", quote_identifier(lfirst(lc)));
		Oid			type = get_atttype(plan->target, get_attnum(plan->target, lfirst(lc)));

		appendStringInfoString(text, " AND ");
		generate_operator_clause(text, psprintf("x%s", name), type, lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr,
								 psprintf("u%s", name), type);
	}
	appendStringInfoChar(text, ')');
}

/* The first rows, and of the second those whose key the first have not. */
static void
append_preferred(StringInfo text, const DwViewPlan *plan, const char *first, const char *second, const char *guard)
{
	append_select(text, plan, first);
	appendStringInfo(text, "%s UNION ALL ", guard);
	append_select(text, plan, second);
	appendStringInfoString(text, guard);
	append_anti_join(text, plan, first);
}

static void
append_switch(StringInfo text, const DwViewPlan *plan, const char *new_rows, const char *old_rows)
{
	char	   *migration = quote_literal_cstr(plan->migration->name);
	ListCell   *lc;

	append_select(text, plan, psprintf("%s UNION ALL %s", new_rows, old_rows));
	appendStringInfo(text, " AND dualwrite.serves(%s, u." SIDE_COLUMN ") AND dualwrite.serves(%s, u." SIDE_COLUMN,
					 migration, migration);
	foreach(lc, key_columns(plan))
		appendStringInfo(text, ", u.%s", quote_identifier(lfirst(lc)));
	appendStringInfoChar(text, ')');
}

/* Text of the view by strategy.  ERROR 22023 for a word that is none. */
char *
dw_view_query(const DwViewPlan *plan, const char *strategy)
{
	char	   *new_rows = side_rows(plan, true);
	char	   *old_rows = side_rows(plan, false);
	char	   *truth = psprintf(" AND dualwrite.truth(%s) = ", quote_literal_cstr(plan->migration->name));
	StringInfoData text;

	initStringInfo(&text);
	if (strcmp(strategy, "switch") == 0)
		append_switch(&text, plan, new_rows, old_rows);
	else if (strcmp(strategy, "new") == 0)
		append_select(&text, plan, new_rows);
	else if (strcmp(strategy, "old") == 0)
		append_select(&text, plan, old_rows);
	else if (strcmp(strategy, "fallback") == 0)
		append_preferred(&text, plan, new_rows, old_rows, "");
	else if (strcmp(strategy, "merge") == 0)
	{
		append_preferred(&text, plan, new_rows, old_rows, psprintf("%s'new'", truth));
		appendStringInfoString(&text, " UNION ALL ");
		append_preferred(&text, plan, old_rows, new_rows, psprintf("%s'old'", truth));
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("read view strategy \"%s\" does not exist", strategy),
				 errhint("Strategies are switch, old, new, fallback and merge.")));
	return text.data;
}

/* The new side alone, in the fewest words: what is left of a read view when the migration is complete. */
char *
dw_view_plain_query(const DwViewPlan *plan)
{
	StringInfoData text;

	initStringInfo(&text);
	if (plan->direction == DW_REVERSE)
	{
		append_select(&text, plan, side_rows(plan, true));
		return text.data;
	}
	appendStringInfoString(&text, "SELECT ");
	for (int i = 0; i < plan->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(plan->columns, i);

		appendStringInfo(&text, "%s%s AS %s", i > 0 ? ", " : "", target_column(plan, column),
						 quote_identifier(NameStr(column->attname)));
	}
	appendStringInfo(&text, " FROM %s AS t", dw_table_name(plan->target));
	return text.data;
}

/* Does an index of the relation begin with this column, or, column 0, with this expression? */
static bool
has_index_on(Relation rel, AttrNumber column, Node *expression)
{
	bool		found = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		AttrNumber	first = index->rd_index->indkey.values[0];

		if (!index->rd_index->indisvalid)
			found |= false;
		else if (first == 0 && expression != NULL)
			found |= equal(linitial(RelationGetIndexExpressions(index)), expression);
		else
			found |= first != 0 && first == column;
		index_close(index, AccessShareLock);
	}
	return found;
}

/* What the planner will compare with index expressions. */
static Node *
planner_form(Node *node)
{
	node = eval_const_expressions(NULL, copyObject(node));
	fix_opfuncids(node);
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return node;
}

/* Look-ups by this column of the view cannot use an index of the source as it stands: say which one would do. */
static void
advise_index(const DwViewPlan *plan, const DwPartSource *source, Form_pg_attribute column, const DwColumn *mapped)
{
	char	   *value = mapped_value(source, column, mapped);
	const char *table = dw_table_name(RelationGetRelid(source->rel));
	DwExpression *expression;
	Node	   *node;

	if (value == NULL)
		return;
	expression = dw_expression_parse(value, source->rel, NULL, InvalidOid, -1, InvalidOid,
									 psprintf("column \"%s\"", NameStr(column->attname)));
	node = planner_form(expression->node);
	if (IsA(node, Var) || IsA(node, Const) || has_index_on(source->rel, 0, node))
		return;
	if (expression->has_sublink || expression->is_mutable)
		ereport(NOTICE,
				(errmsg("read view \"%s\" cannot look rows of %s up by column \"%s\"",
						plan->name, table, NameStr(column->attname)),
				 errdetail("Its expression there cannot be indexed.")));
	else
		ereport(NOTICE,
				(errmsg("read view \"%s\" needs an index to look rows of %s up by column \"%s\"",
						plan->name, table, NameStr(column->attname)),
				 errhint("CREATE INDEX %sON %s ((%s));",
						 source->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? "" : "CONCURRENTLY ",
						 table, deparse_expression(expression->node,
												   deparse_context_for(RelationGetRelationName(source->rel), RelationGetRelid(source->rel)),
												   false, false))));
}

/* For each column that the target has an index on: can the sources be searched by it as well? */
void
dw_view_advise_indexes(const DwViewPlan *plan)
{
	Relation	target = table_open(plan->target, AccessShareLock);
	ListCell   *lc;

	foreach(lc, plan->mappings)
	{
		DwPartSource	source = {lfirst(lc), table_open(source_of(plan, lfirst(lc)), AccessShareLock)};

		for (int i = 0; i < plan->columns->natts && source.rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE; i++)
		{
			Form_pg_attribute column = TupleDescAttr(plan->columns, i);
			DwColumn   *mapped = mapped_column(source.mapping, plan->direction, NameStr(column->attname));

			if (mapped != NULL && has_index_on(target, get_attnum(plan->target, NameStr(column->attname)), NULL))
				advise_index(plan, &source, column, mapped);
		}
		table_close(source.rel, AccessShareLock);
	}
	table_close(target, AccessShareLock);
}
