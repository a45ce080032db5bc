/*
 * otherside.c: a query of the old table, made to read the new one.
 *
 * The statement is analysed anew from its text, so that nothing of the plan that answers the client is touched, and
 * rewritten, so that views and row security are in it; then each reference to the old table becomes a sub-query with the
 * old table's columns over the new side, the one that a read view of shape "old" has.
 *
 * Nothing here may run code that the reader of the old table has not asked for: the new side's owner would run it with the
 * reader's rights.  So whatever a mapping, a policy or a domain calls must be built in.
 */
#include "postgres.h"

#include "compat.h"
#include "otherside.h"
#include "readview.h"
#include "tables.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "rewrite/rewriteDefine.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* What the walk over a statement looks for. */
typedef struct DwWalk
{
	Oid			old_table;
	Bitmapset  *known;			/* columns of the old table that the new side has, too */
	Bitmapset  *key;			/* its key columns */
} DwWalk;

/* Raw statement at a place in the text; NULL where it is no plain SELECT. */
static RawStmt *
parse_statement(const DwReadText *read)
{
	char	   *text = read->length > 0 ? pnstrdup(read->source + read->location, read->length) :
		pstrdup(read->source + Max(read->location, 0));
	List	   *parsed = raw_parser(text, RAW_PARSE_DEFAULT);
	RawStmt    *raw;

	if (list_length(parsed) != 1)
		return NULL;
	raw = linitial_node(RawStmt, parsed);
	return IsA(raw->stmt, SelectStmt) ? raw : NULL;
}

static Query *
analyse(const DwReadText *read)
{
	RawStmt    *raw = parse_statement(read);
	int			count = read->params ? read->params->numParams : 0;
	Oid		   *types = palloc(sizeof(Oid) * Max(count, 1));
	List	   *rewritten;

	if (raw == NULL)
		return NULL;
	for (int i = 0; i < count; i++)
		types[i] = read->params->params[i].ptype;
	rewritten = pg_analyze_and_rewrite_fixedparams(raw, read->source, types, count, NULL);
	return list_length(rewritten) == 1 ? linitial_node(Query, rewritten) : NULL;
}

static bool
is_old_table(const RangeTblEntry *rte, Oid old_table)
{
	return rte->rtekind == RTE_RELATION && rte->relid == old_table;
}

/* Aggregates whose result is the same in whatever order the rows come. */
static bool
is_orderless(const Aggref *aggregate)
{
	static const char *const orderless[] = {
		"count", "min", "max", "sum", "avg", "every", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor",
		"stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp"
	};
	char	   *name = get_func_name(aggregate->aggfnoid);
	int			i = 0;
	ListCell   *lc;

	if (aggregate->aggorder != NIL || aggregate->aggkind != AGGKIND_NORMAL)
		return true;
	if (aggregate->aggfnoid >= FirstNormalObjectId || name == NULL)
		return false;
	while (i < (int) lengthof(orderless) && strcmp(orderless[i], name) != 0)
		i++;
	if (i == (int) lengthof(orderless))
		return false;
	/* sums of floating point numbers are rounded on the way; the first three do not add */
	foreach(lc, aggregate->aggargtypes)
		if (i >= 3 && (lfirst_oid(lc) == FLOAT4OID || lfirst_oid(lc) == FLOAT8OID))
			return false;
	return true;
}

/* Is it the old table alone, in an order without ties? */
static bool
is_in_order_of_key(const Query *query, const DwWalk *walk)
{
	Bitmapset  *missing = bms_copy(walk->key);
	ListCell   *lc;

	if (list_length(query->rtable) != 1 || !is_old_table(linitial(query->rtable), walk->old_table) || query->groupClause != NIL)
		return false;
	foreach(lc, query->sortClause)
	{
		Node	   *node = get_sortgroupclause_expr(lfirst(lc), query->targetList);

		if (IsA(node, Var))
			missing = bms_del_member(missing, ((Var *) node)->varattno);
	}
	return bms_is_empty(missing);
}

static bool
looks_at_what_is_known(const Query *query, const RangeTblEntry *rte, const DwWalk *walk)
{
	Bitmapset  *columns = dw_selected_columns(query, rte);
	int			i = -1;

	if (rte->tablesample != NULL || (!rte->inh && rte->relkind == RELKIND_PARTITIONED_TABLE))
		return false;
	while ((i = bms_next_member(columns, i)) >= 0)
		if (!bms_is_member(i, walk->known))
			return false;
	return true;
}

static bool
query_is_comparable(const Query *query, const DwWalk *walk)
{
	ListCell   *lc;

	if (query->commandType != CMD_SELECT || query->hasModifyingCTE || query->hasForUpdate || query->rowMarks != NIL ||
		query->hasWindowFuncs || query->hasDistinctOn)
		return false;
	if ((query->limitCount != NULL || query->limitOffset != NULL) && !is_in_order_of_key(query, walk))
		return false;
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (is_old_table(rte, walk->old_table) && !looks_at_what_is_known(query, rte, walk))
			return false;
	}
	return true;
}

/* true: found something that is not comparable. */
static bool
find_incomparable(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Aggref) && !is_orderless((Aggref *) node))
		return true;
	if (IsA(node, Query))
		return !query_is_comparable((Query *) node, context) ||
			query_tree_walker((Query *) node, find_incomparable, context, 0);
	return expression_tree_walker(node, find_incomparable, context);
}

/* Columns of the old table that come back from the new side, numbered as selectedCols are. */
static Bitmapset *
known_columns(const DwReadText *read)
{
	Bitmapset  *known = NULL;
	ListCell   *lc;

	foreach(lc, dw_mappings_of(read->migration->id))
	{
		DwMapping  *mapping = lfirst(lc);
		ListCell   *column;

		if (mapping->old_table != read->old_table)
			continue;
		foreach(column, mapping->columns[DW_REVERSE])
		{
			DwColumn   *mapped = lfirst(column);
			AttrNumber	attno = get_attnum(read->old_table, mapped->name);

			if (!mapped->insert_only && attno > 0)
				known = bms_add_member(known, attno - FirstLowInvalidHeapAttributeNumber);
		}
	}
	return known;
}

static Bitmapset *
old_key(const DwReadText *read)
{
	Bitmapset  *key = NULL;
	ListCell   *lc;

	foreach(lc, dw_mappings_of(read->migration->id))
	{
		DwMapping  *mapping = lfirst(lc);
		ListCell   *column;

		if (mapping->old_table == read->old_table)
			foreach(column, mapping->old_key_columns)
				key = bms_add_member(key, get_attnum(read->old_table, lfirst(column)));
	}
	return key;
}

Query *
dw_comparable_query(const DwReadText *read)
{
	DwWalk		walk = {read->old_table, known_columns(read), old_key(read)};
	Query	   *query = analyse(read);

	if (query == NULL || contain_volatile_functions((Node *) query) || find_incomparable((Node *) query, &walk))
		return NULL;
	return query;
}

/*
 * "SELECT column, ... FROM (rows of the new side)" with the columns where the old table has them: a null stands for one
 * that was dropped.
 */
static char *
new_rows_text(const DwReadText *read)
{
	Relation	rel = table_open(read->old_table, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "SELECT ");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		appendStringInfoString(&text, i > 0 ? ", " : "");
		if (column->attisdropped)
			appendStringInfoString(&text, "NULL::pg_catalog.int4");
		else
			appendStringInfo(&text, "u.%s", quote_identifier(NameStr(column->attname)));
	}
	appendStringInfo(&text, " FROM (%s) AS u", dw_read_view_text(read->migration, read->old_table, DW_REVERSE, "new"));
	table_close(rel, AccessShareLock);
	return text.data;
}

/* The rows of the new side as a sub-query, read with the rights of the given user (InvalidOid: who runs it). */
static Query *
new_rows(const DwReadText *read, Oid user)
{
	int			nest = NewGUCNestLevel();
	List	   *parsed;
	Query	   *query;
	char	   *text;

	/* stored expressions mean what they say under this search_path only */
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	text = new_rows_text(read);
	parsed = raw_parser(text, RAW_PARSE_DEFAULT);
	query = parse_analyze_fixedparams(linitial_node(RawStmt, parsed), text, NULL, 0, NULL);
	if (OidIsValid(user))
		setRuleCheckAsUser((Node *) query, user);
	query = linitial_node(Query, pg_rewrite_query(query));
	AtEOXact_GUC(false, nest);
	return query;
}

static bool
is_user_function(Oid function, void *context)
{
	(void) context;
	return function >= FirstNormalObjectId;
}

/* Foreign tables are read with whatever rights their server's owner has arranged for. */
static bool
find_user_code(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, CoerceToDomain) || check_functions_in_node(node, is_user_function, NULL))
		return true;
	if (IsA(node, RangeTblEntry))
		return ((RangeTblEntry *) node)->rtekind == RTE_RELATION && ((RangeTblEntry *) node)->relkind == RELKIND_FOREIGN_TABLE;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_user_code, context, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, find_user_code, context);
}

/* What replacing needs, and whether it went well. */
typedef struct DwReplacement
{
	const DwReadText *read;
	bool		refused;
} DwReplacement;

static void
replace(Query *query, RangeTblEntry *rte, DwReplacement *replacement)
{
	Query	   *rows = new_rows(replacement->read, dw_check_as_user(query, rte));

	replacement->refused |= find_user_code((Node *) rows, NULL);
	query->hasRowSecurity |= rows->hasRowSecurity;
	dw_forget_permissions(rte);
	rte->rtekind = RTE_SUBQUERY;
	rte->relid = InvalidOid;
	rte->relkind = '\0';
	rte->rellockmode = NoLock;
	rte->inh = false;
	/* the policies of the old table are about its columns; the new one has its own, in rows */
	rte->securityQuals = NIL;
	rte->subquery = rows;
}

static bool
replace_walker(Node *node, void *context)
{
	DwReplacement *replacement = context;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;
		ListCell   *lc;

		/* further down first: what is put in must not be looked at again */
		(void) query_tree_walker(query, replace_walker, context, 0);
		foreach(lc, query->rtable)
			if (is_old_table(lfirst(lc), replacement->read->old_table))
				replace(query, lfirst(lc), replacement);
		return false;
	}
	return expression_tree_walker(node, replace_walker, context);
}

bool
dw_read_other_side(Query *query, const DwReadText *read)
{
	DwReplacement replacement = {read, false};

	(void) replace_walker((Node *) query, &replacement);
	return !replacement.refused;
}
