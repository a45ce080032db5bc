/*
 * dependency.c: "depends" of a mapping, from what a user declares to what is stored.
 *
 * {"lookup_table": "SELECT old_key FROM old_table WHERE … = changed.column"} says which rows of the source side have to be
 * brought up to date when a row of a table that a sub-select reads changes.  The query is analysed as a sub-select over one
 * row of that table, which answers to "changed", and stored with every name in it qualified.
 *
 * Nothing here runs the query, or looks at the extension's tables.
 */
#include "postgres.h"

#include "resolve.h"
#include "tables.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/varlena.h"

/* The row of the table that is looked up, in the query. */
#define CHANGED_ALIAS "changed"

/* How a sub-select is deparsed. */
#define DEPARSED_BEFORE "(EXISTS ("
#define DEPARSED_AFTER "))"

static char *
key_list(List *names)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, names)
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	return list.data;
}

static void
bad_query(const char *what, const char *problem, Relation source, List *key)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("%s %s", what, problem),
			 errhint("Write SELECT %s FROM %s WHERE ... = " CHANGED_ALIAS ".column.", key_list(key),
					 dw_table_name(RelationGetRelid(source)))));
}

/* What the query returns must be the key, in its order. */
static void
check_key(const Query *query, Relation source, List *key, const char *what)
{
	int			n = 0;
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		AttrNumber	attno;
		Oid			wanted;
		Oid			given = exprType((Node *) entry->expr);

		if (entry->resjunk)
			continue;
		if (n >= list_length(key))
			bad_query(what, "returns more columns than the key has", source, key);
		attno = get_attnum(RelationGetRelid(source), list_nth(key, n));
		wanted = TupleDescAttr(RelationGetDescr(source), attno - 1)->atttypid;
		if (!can_coerce_type(1, &given, &wanted, COERCION_ASSIGNMENT))
			bad_query(what, psprintf("returns a column of type %s for key column \"%s\" of type %s", format_type_be(given),
									 (char *) list_nth(key, n), format_type_be(wanted)), source, key);
		/* a permutation of the key would name other rows */
		if (entry->resname != NULL && list_length(key) > 1 && strcmp(entry->resname, list_nth(key, n)) != 0)
			bad_query(what, "does not return the columns of the key in their order", source, key);
		n++;
	}
	if (n < list_length(key))
		bad_query(what, "returns fewer columns than the key has", source, key);
}

/* A trigger sees rows as they are stored. */
static void
refuse_virtual(const Bitmapset *columns, Relation lookup, const char *what)
{
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
		if (dw_is_virtual(TupleDescAttr(RelationGetDescr(lookup), attno - 1)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s reads virtual generated column \"%s\" of \"" CHANGED_ALIAS "\"", what,
							NameStr(TupleDescAttr(RelationGetDescr(lookup), attno - 1)->attname)),
					 errhint("Write its expression instead.")));
}

/* The query as it will be stored. */
static char *
resolve_query(const char *text, bool stored, Relation lookup, Relation source, List *key, const char *what)
{
	int			nest = NewGUCNestLevel();
	DwExpression *expression;
	size_t		length;

	if (stored)
		(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	expression = dw_expression_parse(psprintf("EXISTS (%s)", text), lookup, stored ? NULL : CHANGED_ALIAS,
									 BOOLOID, -1, InvalidOid, what);
	AtEOXact_GUC(true, nest);
	if (!IsA(expression->node, SubLink) || ((SubLink *) expression->node)->subLinkType != EXISTS_SUBLINK)
		bad_query(what, "is not one SELECT", source, key);
	if (expression->is_mutable)
		bad_query(what, "is not immutable", source, key);
	if (expression->columns == NULL)
		bad_query(what, "does not refer to \"" CHANGED_ALIAS "\"", source, key);
	refuse_virtual(expression->columns, lookup, what);
	check_key(castNode(Query, ((SubLink *) expression->node)->subselect), source, key, what);

	length = strlen(expression->text);
	if (strncmp(expression->text, DEPARSED_BEFORE, strlen(DEPARSED_BEFORE)) != 0 ||
		strcmp(expression->text + length - strlen(DEPARSED_AFTER), DEPARSED_AFTER) != 0)
		elog(ERROR, "unexpected text of a sub-select: %s", expression->text);
	return pnstrdup(expression->text + strlen(DEPARSED_BEFORE),
					length - strlen(DEPARSED_BEFORE) - strlen(DEPARSED_AFTER));
}

static DwDependency *
resolve_dependency(const DwResolved *mapping, DwDirection direction, const DwResolvedColumn *column,
				   const DwItemDependency *depends)
{
	Relation	source = direction == DW_FORWARD ? mapping->old_rel : mapping->new_rel;
	Relation	target = direction == DW_FORWARD ? mapping->new_rel : mapping->old_rel;
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(depends->table))),
										 AccessShareLock, false);
	Relation	lookup = dw_table_open_for_definition(relid, true);
	DwDependency *dependency = palloc0(sizeof(DwDependency));

	dependency->direction = direction;
	dependency->column = column->name;
	dependency->lookup = relid;
	dependency->lookup_name = dw_table_name(relid);
	dependency->query = resolve_query(depends->query, column->item->stored, lookup, source,
									  direction == DW_FORWARD ? mapping->old_key : mapping->key,
									  psprintf("query of \"depends\" for column \"%s\" of table %s on table %s", column->name,
											   dw_table_name(RelationGetRelid(target)), dependency->lookup_name));
	table_close(lookup, NoLock);
	return dependency;
}

/* Only what is looked up, and kept up to date, can depend on another table. */
static void
check_column(const DwResolved *mapping, DwDirection direction, const DwResolvedColumn *column)
{
	Relation	target = direction == DW_FORWARD ? mapping->new_rel : mapping->old_rel;

	if (column->expression->has_sublink && !column->insert_only)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("column \"%s\" of table %s cannot depend on another table", column->name,
					dw_table_name(RelationGetRelid(target))),
			 column->insert_only ? errdetail("It is written by inserts only.") :
			 errdetail("Its expression contains no sub-select."),
			 errhint("Leave \"depends\" out, or look the value up: {\"expr\": \"(SELECT ...)\", \"depends\": {...}}.")));
}

void
dw_resolve_dependencies(DwResolved *mapping)
{
	for (DwDirection direction = DW_FORWARD; direction <= DW_REVERSE; direction++)
	{
		ListCell   *lc;

		foreach(lc, mapping->columns[direction])
		{
			DwResolvedColumn *column = lfirst(lc);
			ListCell   *d;

			if (column->item == NULL || column->item->depends == NIL)
				continue;
			check_column(mapping, direction, column);
			foreach(d, column->item->depends)
				mapping->dependencies = lappend(mapping->dependencies,
												resolve_dependency(mapping, direction, column, lfirst(d)));
		}
	}
}
