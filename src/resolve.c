/*
 * resolve.c: from what a user declares to checked columns and filter.
 *
 * Decides what a definition may contain, column by column.  Reads nothing of the extension's, writes nothing at all;
 * how a mapping gets along with other mappings is declare.c's.
 */
#include "postgres.h"

#include "resolve.h"
#include "tables.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

/* Longest distance at which a column counts as a misspelling of another, as parse_relation.c has it. */
#define DW_FUZZY_DISTANCE 3
/* How many columns a hint lists. */
#define DW_LISTED_COLUMNS 20

static void
bad_item(const char *argument, const char *column, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s: column \"%s\": %s", argument, column, problem),
			 errhint("Write \"column\": \"SQL expression\", \"column\": null, or"
					 " \"column\": {\"expr\": \"SQL expression\", \"on\": \"insert\"}.")));
}

static char *
json_string(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* Members of {"lookup_table": "SELECT …"}; list of DwItemDependency. */
static List *
depends_from_object(const DwItem *item, const char *argument, JsonbContainer *object)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	DwItemDependency *depends = NULL;
	List	   *list = NIL;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			depends = palloc0(sizeof(DwItemDependency));
			depends->table = json_string(&value);
		}
		else if (token == WJB_VALUE)
		{
			if (value.type != jbvString)
				bad_item(argument, item->column, psprintf("the query for table \"%s\" must be a string", depends->table));
			depends->query = json_string(&value);
			list = lappend(list, depends);
		}
	}
	return list;
}

/* One member of {"expr": …, "on": …}. */
static void
item_member(DwItem *item, const char *argument, const char *member, const JsonbValue *value)
{
	if (strcmp(member, "expr") == 0)
	{
		if (value->type != jbvString)
			bad_item(argument, item->column, "\"expr\" must be a string");
		item->text = json_string(value);
	}
	else if (strcmp(member, "on") == 0)
	{
		if (value->type != jbvString || strcmp(json_string(value), "insert") != 0)
			bad_item(argument, item->column, "the only value of \"on\" is \"insert\"");
		item->insert_only = true;
	}
	else if (strcmp(member, "depends") == 0)
	{
		if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
			bad_item(argument, item->column, "\"depends\" must be an object: table -> SELECT of the keys that depend on a row of it");
		item->depends = depends_from_object(item, argument, value->val.binary.data);
	}
	else if (strcmp(member, "not_null") == 0)
	{
		if (value->type != jbvBool)
			bad_item(argument, item->column, "\"not_null\" must be true or false");
		item->not_null = value->val.boolean;
	}
	else
		bad_item(argument, item->column, psprintf("unknown member \"%s\"", member));
}

static void
item_from_object(DwItem *item, const char *argument, JsonbContainer *object)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *member = NULL;

	if (!JsonContainerIsObject(object))
		bad_item(argument, item->column, "an array is no expression");
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			member = json_string(&value);
		else if (token == WJB_VALUE)
			item_member(item, argument, member, &value);
	}
	if (item->text == NULL)
		bad_item(argument, item->column, "\"expr\" is missing");
}

static DwItem *
make_item(const char *argument, char *column, const JsonbValue *value)
{
	DwItem	   *item = palloc0(sizeof(DwItem));

	item->column = column;
	switch (value->type)
	{
		case jbvNull:
			break;
		case jbvString:
			item->text = json_string(value);
			break;
		case jbvBinary:
			item_from_object(item, argument, value->val.binary.data);
			break;
		default:
			bad_item(argument, column, "write the expression as a string");
	}
	return item;
}

List *
dw_items_from_json(Jsonb *json, const char *argument)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *column = NULL;
	List	   *items = NIL;

	if (json == NULL)
		return NIL;
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a JSON object", argument),
				 errhint("Write {\"column\": \"SQL expression\", ...}.")));
	iterator = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			column = json_string(&value);
		else if (token == WJB_VALUE)
			items = lappend(items, make_item(argument, column, &value));
	}
	return items;
}

DwItem *
dw_item_find(List *items, const char *column)
{
	ListCell   *lc;

	foreach(lc, items)
		if (strcmp(((DwItem *) lfirst(lc))->column, column) == 0)
			return lfirst(lc);
	return NULL;
}

DwResolvedColumn *
dw_resolved_column(const DwResolved *mapping, DwDirection direction, AttrNumber attno)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[direction])
		if (((DwResolvedColumn *) lfirst(lc))->attno == attno)
			return lfirst(lc);
	return NULL;
}

/* "Perhaps you meant …", or all columns. */
static char *
column_hint(Relation rel, const char *name)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData list;
	int			best = DW_FUZZY_DISTANCE + 1;
	int			listed = 0;
	const char *nearest = NULL;

	initStringInfo(&list);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		int			distance;

		if (att->attisdropped)
			continue;
		if (listed++ < DW_LISTED_COLUMNS)
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", NameStr(att->attname));
		if (strlen(name) >= NAMEDATALEN)
			continue;
		distance = varstr_levenshtein_less_equal(name, strlen(name), NameStr(att->attname), strlen(NameStr(att->attname)),
												 1, 1, 1, best - 1, true);
		if (distance < best && distance <= (int) strlen(name) / 2)
		{
			best = distance;
			nearest = NameStr(att->attname);
		}
	}
	if (nearest != NULL)
		return psprintf("Perhaps you meant the column \"%s\".", nearest);
	return psprintf("Its columns are %s%s.", list.data, listed > DW_LISTED_COLUMNS ? ", ..." : "");
}

AttrNumber
dw_column_number(Relation rel, const char *name)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), name);

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table %s does not exist", name, dw_table_name(RelationGetRelid(rel))),
				 errhint("%s", column_hint(rel, name))));
	return attno;
}

/*
 * What the server takes NOT NULL from is CHECK (column IS NOT NULL), which says something else of a row type; and of what
 * was written there before, a table on another server knows nothing.
 */
static void
check_not_null(Relation target, const DwItem *item, AttrNumber attno, bool forward)
{
	Oid			type = TupleDescAttr(RelationGetDescr(target), attno - 1)->atttypid;

	if (!item->not_null)
		return;
	if (!forward)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reverse: column \"%s\": \"not_null\" is for columns of the new side", item->column),
				 errhint("Leave it out, or alter the old table yourself.")));
	if (target->rd_rel->relkind == RELKIND_FOREIGN_TABLE || type_is_rowtype(getBaseType(type)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("forward: column \"%s\": \"not_null\" is not supported for %s", item->column,
						target->rd_rel->relkind == RELKIND_FOREIGN_TABLE ? "foreign tables" : "row types"),
				 errhint("Declare the column NOT NULL when the new table is created.")));
}

/* Every member must name a column that can be written. */
static void
check_items(Relation target, List *items, bool forward)
{
	ListCell   *lc;

	foreach(lc, items)
	{
		DwItem	   *item = lfirst(lc);
		AttrNumber	attno = dw_column_number(target, item->column);

		check_not_null(target, item, attno, forward);
		if (TupleDescAttr(RelationGetDescr(target), attno - 1)->attgenerated && item->text != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("column \"%s\" of table %s is a generated column", item->column,
							dw_table_name(RelationGetRelid(target))),
					 errhint("Leave it out: the table computes it.")));
	}
}

/* How to say the same without depending on the session. */
static char *
immutable_hint(const DwExpression *expression, Relation source, Oid target_type)
{
	Form_pg_attribute att;
	const char *column;

	if (expression->column != 0)
	{
		att = TupleDescAttr(RelationGetDescr(source), expression->column - 1);
		column = quote_identifier(NameStr(att->attname));
		if ((att->atttypid == TIMESTAMPOID && target_type == TIMESTAMPTZOID) ||
			(att->atttypid == TIMESTAMPTZOID && (target_type == TIMESTAMPOID || target_type == DATEOID)))
			return psprintf("Say which time zone is meant, for example: %s AT TIME ZONE 'UTC'.", column);
		if (att->atttypid == DATEOID && target_type == TIMESTAMPTZOID)
			return psprintf("Say which time zone is meant, for example: %s::timestamp AT TIME ZONE 'UTC'.", column);
	}
	return pstrdup("Use immutable functions, for example created_at AT TIME ZONE 'UTC' instead of a cast,"
				   " or make it {\"expr\": \"...\", \"on\": \"insert\"}.");
}

static void
check_mutability(const DwExpression *expression, bool insert_only, Relation source, Oid type, const char *what)
{
	if (!expression->is_mutable || insert_only)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("expression for %s is %s", what,
					expression->is_volatile ? "volatile" : "not immutable: it depends on the session or the time"),
			 errdetail("The expression is: %s", expression->text),
			 errhint("%s", immutable_hint(expression, source, type))));
}

/* Parse text of the catalog, which means the same to everybody. */
static DwExpression *
parse_stored(const char *text, Relation source, Form_pg_attribute att, Oid type, const char *what)
{
	int			nest = NewGUCNestLevel();
	DwExpression *expression;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	expression = dw_expression_parse(text, source, NULL, type, att ? att->atttypmod : -1,
									 att ? att->attcollation : InvalidOid, what);
	AtEOXact_GUC(true, nest);
	return expression;
}

/* Parse text of the user's, as he would mean it in a query of his.  Errors of the parser get a hint, if they have none. */
static DwExpression *
parse_with_hint(const char *text, Relation source, Form_pg_attribute att, Oid type, const char *what)
{
	MemoryContext context = CurrentMemoryContext;
	DwExpression *expression = NULL;

	PG_TRY();
	{
		expression = dw_expression_parse(text, source, NULL, type, att ? att->atttypmod : -1,
										 att ? att->attcollation : InvalidOid, what);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->hint == NULL)
			error->hint = psprintf("Correct the expression for %s; it may use the columns of table %s.", what,
								   dw_table_name(RelationGetRelid(source)));
		ReThrowError(error);
	}
	PG_END_TRY();
	return expression;
}

/* The same, and make sure that what will be stored means the same to everybody else. */
static DwExpression *
parse_declared(const char *text, Relation source, Form_pg_attribute att, Oid type, const char *what)
{
	DwExpression *expression = parse_with_hint(text, source, att, type, what);
	DwExpression *stored = parse_stored(expression->text, source, att, type, what);

	if (strcmp(expression->text, stored->text) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("expression for %s cannot be stored", what),
				 errdetail("It is read back as %s, and that as %s.", expression->text, stored->text),
				 errhint("Put it into an immutable function.")));
	return expression;
}

static DwResolvedColumn *
make_column(Form_pg_attribute att, DwExpression *expression, bool insert_only, bool given)
{
	DwResolvedColumn *column = palloc0(sizeof(DwResolvedColumn));

	column->attno = att->attnum;
	column->name = pstrdup(NameStr(att->attname));
	column->expression = expression;
	column->insert_only = insert_only;
	column->given = given;
	return column;
}

static char *
column_name_of(Relation rel, Form_pg_attribute att)
{
	return psprintf("column \"%s\" of table %s", NameStr(att->attname), dw_table_name(RelationGetRelid(rel)));
}

/* A constant is the mapping's scope: new rows are told by it, so it must be possible to compare them with it. */
static void
check_constant(const DwResolvedColumn *column, Relation target, Form_pg_attribute att)
{
	if (column->insert_only || !column->expression->is_constant ||
		OidIsValid(lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR)->eq_opr))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("%s is given a constant of type %s, which has no equality operator", column_name_of(target, att),
					format_type_be(att->atttypid)),
			 errhint("A constant tells this mapping's rows of the new side from others; make it"
					 " {\"expr\": \"...\", \"on\": \"insert\"} if it is a mere default.")));
}

static DwResolvedColumn *
resolve_item(const DwItem *item, Relation source, Relation target, Form_pg_attribute att)
{
	char	   *what = column_name_of(target, att);
	DwExpression *expression;
	DwResolvedColumn *column;

	if (item->stored)
		expression = parse_stored(item->text, source, att, att->atttypid, what);
	else
		expression = parse_declared(item->text, source, att, att->atttypid, what);
	check_mutability(expression, item->insert_only, source, att->atttypid, what);
	column = make_column(att, expression, item->insert_only, true);
	column->item = item;
	return column;
}

/* The new column takes the old one of the same name; NULL when there is none. */
static DwResolvedColumn *
resolve_namesake(Relation source, Relation target, Form_pg_attribute att)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(source), NameStr(att->attname));
	char	   *what = column_name_of(target, att);
	DwExpression *expression;

	if (attno <= 0)
		return NULL;
	expression = dw_expression_column(source, attno, att->atttypid, att->atttypmod, att->attcollation);
	if (expression == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("%s is of type %s but the old column of that name is of type %s", what,
						format_type_be(att->atttypid),
						format_type_be(TupleDescAttr(RelationGetDescr(source), attno - 1)->atttypid)),
				 errhint("Give an expression in forward, or null to leave the column out.")));
	check_mutability(expression, false, source, att->atttypid, what);
	return make_column(att, expression, false, false);
}

/* Does the type, or a domain under it, refuse NULL? */
static bool
type_refuses_null(Oid type)
{
	while (get_typtype(type) == TYPTYPE_DOMAIN)
	{
		HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
		bool		not_null;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for type %u", type);
		not_null = ((Form_pg_type) GETSTRUCT(tuple))->typnotnull;
		type = ((Form_pg_type) GETSTRUCT(tuple))->typbasetype;
		ReleaseSysCache(tuple);
		if (not_null)
			return true;
	}
	return false;
}

/* An unmapped column that must have a value and has no default: no row could ever be inserted. */
static bool
lacks_value(Relation rel, Form_pg_attribute att)
{
	if (att->attgenerated || !(att->attnotnull || type_refuses_null(att->atttypid)))
		return false;
	return build_column_default(rel, att->attnum) == NULL;
}

static bool
is_key(const DwResolved *mapping, const char *name)
{
	ListCell   *lc;

	foreach(lc, mapping->key)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* In place the key stands for itself, and nothing else is mapped that was not declared. */
static DwResolvedColumn *
resolve_key_in_place(const DwResolved *mapping, Form_pg_attribute att)
{
	if (!is_key(mapping, NameStr(att->attname)))
		return NULL;
	return make_column(att, dw_expression_column(mapping->new_rel, att->attnum, att->atttypid, att->atttypmod,
												 att->attcollation), false, false);
}

static void
resolve_forward(DwResolved *mapping, List *items)
{
	TupleDesc	desc = RelationGetDescr(mapping->new_rel);

	check_items(mapping->new_rel, items, true);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		DwItem	   *item;
		DwResolvedColumn *column = NULL;

		CHECK_FOR_INTERRUPTS();
		if (att->attisdropped || att->attgenerated)
			continue;
		item = dw_item_find(items, NameStr(att->attname));
		if (item == NULL && mapping->in_place)
			column = resolve_key_in_place(mapping, att);
		else if (item == NULL)
			column = resolve_namesake(mapping->old_rel, mapping->new_rel, att);
		else if (item->text != NULL)
		{
			column = resolve_item(item, mapping->old_rel, mapping->new_rel, att);
			if (!mapping->in_place)
				check_constant(column, mapping->new_rel, att);
		}
		if (column != NULL)
			mapping->columns[DW_FORWARD] = lappend(mapping->columns[DW_FORWARD], column);
		else if (!mapping->in_place && (mapping->owns & DW_OWNS_NEW) != 0 && lacks_value(mapping->new_rel, att))
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("%s is NOT NULL, has no default and is not mapped", column_name_of(mapping->new_rel, att)),
					 errhint("Give an expression for it in forward, or the column a default.")));
	}
}

/*
 * The forward column that is this old column, renamed or cast so that nothing is lost.  Of several, one that updates keep
 * equal comes before one that only inserts fill, then one of the same name before others.
 */
static DwResolvedColumn *
forward_of_old(const DwResolved *mapping, Form_pg_attribute att)
{
	DwResolvedColumn *best = NULL;
	int			best_rank = -1;
	ListCell   *lc;

	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwResolvedColumn *column = lfirst(lc);
		int			rank = (column->insert_only ? 0 : 2) + (strcmp(column->name, NameStr(att->attname)) == 0 ? 1 : 0);

		if (column->expression->column != att->attnum || !column->expression->lossless || rank <= best_rank)
			continue;
		best = column;
		best_rank = rank;
	}
	return best;
}

/* The inverse of a plain forward reference; NULL where there is none. */
static DwResolvedColumn *
invert(const DwResolved *mapping, Form_pg_attribute att)
{
	DwResolvedColumn *forward = forward_of_old(mapping, att);
	DwExpression *expression;

	if (forward == NULL)
		return NULL;
	expression = dw_expression_column(mapping->new_rel, forward->attno, att->atttypid, att->atttypmod, att->attcollation);
	if (expression == NULL || expression->is_mutable)
		return NULL;
	return make_column(att, expression, forward->insert_only, false);
}

/* A new column that forward leaves at its default would overwrite old values, once the new side is written. */
static void
warn_unfilled(const DwResolved *mapping, const DwResolvedColumn *column)
{
	int			attno = -1;

	/* in place it has the old row as well, of which it may keep a part */
	if (column->insert_only || mapping->in_place)
		return;
	while ((attno = bms_next_member(column->expression->columns, attno)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(mapping->new_rel), attno - 1);

		if (att->attgenerated || att->attisdropped || dw_resolved_column(mapping, DW_FORWARD, attno) != NULL)
			continue;
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("reverse expression for %s reads new column \"%s\", which forward does not fill",
						column_name_of(mapping->old_rel, TupleDescAttr(RelationGetDescr(mapping->old_rel), column->attno - 1)),
						NameStr(att->attname)),
				 errhint("Updates on the new side would write its default over old values: give it an expression in forward,"
						 " or make the reverse one {\"expr\": \"...\", \"on\": \"insert\"}.")));
	}
}

static bool
is_read_by_forward(const DwResolved *mapping, AttrNumber attno)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[DW_FORWARD])
		if (bms_is_member(attno, ((DwResolvedColumn *) lfirst(lc))->expression->columns))
			return true;
	return false;
}

static void
notice_unreached(const DwResolved *mapping, List *names)
{
	StringInfoData list;
	ListCell   *lc;

	if (names == NIL)
		return;
	initStringInfo(&list);
	foreach(lc, names)
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	ereport(NOTICE,
			(errmsg("writes of the new side will not reach these columns of table %s: %s",
					dw_table_name(RelationGetRelid(mapping->old_rel)), list.data),
			 errhint("Give expressions for them in reverse, or null to keep it so.")));
}

static void
resolve_reverse(DwResolved *mapping, List *items)
{
	TupleDesc	desc = RelationGetDescr(mapping->old_rel);
	List	   *unreached = NIL;

	check_items(mapping->old_rel, items, false);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		DwItem	   *item;
		DwResolvedColumn *column = NULL;

		CHECK_FOR_INTERRUPTS();
		if (att->attisdropped || att->attgenerated)
			continue;
		item = dw_item_find(items, NameStr(att->attname));
		if (item == NULL && mapping->in_place)
			column = resolve_key_in_place(mapping, att);
		if (item == NULL && column == NULL)
			column = invert(mapping, att);
		else if (item != NULL && item->text != NULL)
		{
			column = resolve_item(item, mapping->new_rel, mapping->old_rel, att);
			warn_unfilled(mapping, column);
		}
		if (column != NULL)
			mapping->columns[DW_REVERSE] = lappend(mapping->columns[DW_REVERSE], column);
		else if (item == NULL && is_read_by_forward(mapping, att->attnum))
			unreached = lappend(unreached, NameStr(att->attname));
	}
	notice_unreached(mapping, unreached);
}

static bool
reads_generated(Relation rel, const Bitmapset *columns)
{
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
		if (TupleDescAttr(RelationGetDescr(rel), attno - 1)->attgenerated)
			return true;
	return false;
}

/* Is the column part of the key by which rows find their partition, on any level? */
static bool
routes_rows(Relation rel, const char *name)
{
	List	   *tables = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ?
		find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL) : NIL;
	bool		result = false;
	ListCell   *lc;

	foreach(lc, tables)
	{
		Relation	table = table_open(lfirst_oid(lc), AccessShareLock);
		AttrNumber	attno = get_attnum(lfirst_oid(lc), name);
		bool		in_expression;

		result |= attno > 0 && has_partition_attrs(table, bms_make_singleton(attno - FirstLowInvalidHeapAttributeNumber),
												   &in_expression);
		table_close(table, NoLock);
	}
	return result;
}

static void
refuse_in_place(const DwResolved *mapping, const char *column, const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("column \"%s\" of table %s %s", column, dw_table_name(RelationGetRelid(mapping->new_rel)), problem),
			 errhint("%s", hint)));
}

/* Where both sides are one row, a column is of one of them, and no write of ours may take the row elsewhere. */
static void
check_in_place(const DwResolved *mapping)
{
	bool		any = false;

	for (DwDirection direction = DW_FORWARD; direction <= DW_REVERSE; direction++)
	{
		ListCell   *lc;

		foreach(lc, mapping->columns[direction])
		{
			DwResolvedColumn *column = lfirst(lc);

			if (is_key(mapping, column->name))
				continue;
			any |= direction == DW_FORWARD;
			if (direction == DW_REVERSE && dw_resolved_column(mapping, DW_FORWARD, column->attno) != NULL)
				refuse_in_place(mapping, column->name, "would be both old and new",
								"In place the new columns stand beside the old ones: add a column for the new values.");
			if (routes_rows(mapping->new_rel, column->name))
				refuse_in_place(mapping, column->name, "is part of the partition key, and cannot be written in place",
								"Create a new table beside it, and map the one to the other.");
			if (column->expression->has_sublink && reads_generated(mapping->new_rel, column->expression->columns))
				refuse_in_place(mapping, column->name, "comes from a sub-select that reads a generated column",
								"Write what the column is generated from instead: it is computed after the mapping.");
		}
	}
	if (!any)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("no column of table %s is mapped", dw_table_name(RelationGetRelid(mapping->new_rel))),
				 errdetail("Old and new table are the same: its new columns are those that forward names."),
				 errhint("Add the new columns to the table, then give expressions for them in forward.")));
}

void
dw_resolve_columns(DwResolved *mapping, List *forward, List *reverse)
{
	resolve_forward(mapping, forward);
	if (mapping->in_place)
	{
		resolve_reverse(mapping, reverse);
		check_in_place(mapping);
		return;
	}
	if (mapping->columns[DW_FORWARD] == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("no column of table %s is mapped", dw_table_name(RelationGetRelid(mapping->new_rel))),
				 errhint("Give expressions for its columns in forward.")));
	resolve_reverse(mapping, reverse);
}

void
dw_resolve_filter(DwResolved *mapping, char *text, bool stored)
{
	char	   *what = psprintf("the filter of table %s", dw_table_name(RelationGetRelid(mapping->old_rel)));

	if (text == NULL)
		return;
	if (stored)
		mapping->filter = parse_stored(text, mapping->old_rel, NULL, BOOLOID, what);
	else
		mapping->filter = parse_declared(text, mapping->old_rel, NULL, BOOLOID, what);
	if (mapping->filter->has_sublink)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s contains a sub-select", what),
				 errhint("Whether a row exists on the new side must depend on that row alone.")));
	if (mapping->filter->is_mutable)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("%s is not immutable", what),
				 errdetail("The expression is: %s", mapping->filter->text),
				 errhint("Compare with constants: rows must not come and go by themselves.")));
}
