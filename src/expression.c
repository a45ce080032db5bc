/*
 * expression.c: from the text of a mapping to something that can be evaluated.
 *
 * An expression is analysed as the target list of "SELECT <text>" over one row of its source, coerced as an assignment
 * to the target column would be, then deparsed with every name qualified.  Nothing here runs the expression, looks at
 * the extension's tables or decides what a definition may contain: that is declare.c's.
 */
#include "postgres.h"

#include "expression.h"
#include "owner.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* What the user's text is put behind, and its length in characters. */
#define DW_PREFIX		"SELECT "
#define DW_PREFIX_CHARS	((int) sizeof(DW_PREFIX) - 1)

/* What an error inside the analysis is about. */
typedef struct DwErrorContext
{
	const char *text;
	const char *what;
} DwErrorContext;

/* What is found on a walk over an analysed expression. */
typedef struct DwWalk
{
	int			depth;			/* of sub-selects around the node */
	int			natts;			/* of the source, for whole-row references */
	const char *what;			/* the expression is for */
	Bitmapset  *columns;
	List	   *domains;
	bool		user_code;
	bool		whole_row;
} DwWalk;

/* Point at the place in the user's own text, as plpgsql and parse_type.c do for text that is not the client's query. */
static void
add_error_context(void *arg)
{
	DwErrorContext *context = arg;
	int			position = geterrposition();

	if (position > DW_PREFIX_CHARS)
	{
		errposition(0);
		internalerrposition(position - DW_PREFIX_CHARS);
		internalerrquery(context->text);
	}
	errcontext("expression for %s", context->what);
}

/* The one expression in the text; anything that is more than that is a syntax error. */
static Node *
parse_raw(const char *query, const char *what)
{
	List	   *statements = raw_parser(query, RAW_PARSE_DEFAULT);
	SelectStmt *select = NULL;
	ResTarget  *target;
	ColumnRef  *reference;

	if (list_length(statements) == 1)
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (select == NULL || !IsA(select, SelectStmt) || select->op != SETOP_NONE ||
		list_length(select->targetList) != 1 || select->distinctClause || select->intoClause ||
		select->fromClause || select->whereClause || select->groupClause || select->havingClause ||
		select->windowClause || select->valuesLists || select->sortClause || select->limitOffset ||
		select->limitCount || select->lockingClause || select->withClause)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("what is given for %s is not one SQL expression", what),
				 errhint("Write what could stand between SELECT and FROM; put a whole SELECT into parentheses.")));

	target = linitial_node(ResTarget, select->targetList);
	reference = (ColumnRef *) target->val;
	if (target->name != NULL || target->indirection != NIL ||
		(IsA(reference, ColumnRef) && IsA(llast(reference->fields), A_Star)))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("what is given for %s is not one SQL expression", what),
				 errhint("Leave out the alias, or name one column instead of \"*\".")));
	return target->val;
}

/* The row answers to a further name: a copy of its namespace item whose columns need that name as prefix. */
static void
add_row_name(ParseState *pstate, ParseNamespaceItem *row, const char *name)
{
	ParseNamespaceItem *item;

	if (name == NULL || strcmp(name, row->p_names->aliasname) == 0)
		return;
	item = palloc(sizeof(ParseNamespaceItem));
	*item = *row;
	item->p_names = makeAlias(name, row->p_names->colnames);
	/* with an alias, so that "schema.table.column" goes on finding only the table itself */
	item->p_rte = copyObject(row->p_rte);
	item->p_rte->alias = makeAlias(name, NIL);
	/* a whole-row reference is one only through the names that are the entry's own */
	item->p_rte->eref = item->p_names;
	addNSItemToQuery(pstate, item, false, true, false);
}

static ParseState *
make_pstate(const char *query, Relation source, const char *source_alias)
{
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *row;

	pstate->p_sourcetext = query;
	row = addRangeTableEntryForRelation(pstate, source, AccessShareLock, NULL, false, true);
	addNSItemToQuery(pstate, row, true, true, true);
	add_row_name(pstate, row, DW_ROW_ALIAS);
	add_row_name(pstate, row, source_alias);
	return pstate;
}

/* What makes sense only over many rows, or gives many, is no value of a column. */
static void
refuse_sets(ParseState *pstate, const char *what)
{
	if (pstate->p_hasAggs)
		ereport(ERROR,
				(errcode(ERRCODE_GROUPING_ERROR),
				 errmsg("aggregate functions are not allowed in the expression for %s", what),
				 errhint("A mapping looks at one row; an aggregate may stand in a sub-select.")));
	if (pstate->p_hasWindowFuncs)
		ereport(ERROR,
				(errcode(ERRCODE_WINDOWING_ERROR),
				 errmsg("window functions are not allowed in the expression for %s", what),
				 errhint("A mapping looks at one row; a window function may stand in a sub-select.")));
	if (pstate->p_hasTargetSRFs)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-returning functions are not allowed in the expression for %s", what),
				 errhint("Write an expression that gives one value a row.")));
}

/* Coerce as an assignment would; the type InvalidOid leaves everything but literals alone. */
static Node *
coerce_node(ParseState *pstate, Node *node, Oid type, int32 typmod, const char *what)
{
	Oid			from = exprType(node);
	Node	   *coerced;

	if (!OidIsValid(type))
	{
		if (from != UNKNOWNOID)
			return node;
		type = TEXTOID;
		typmod = -1;
	}
	coerced = coerce_to_target_type(pstate, node, from, type, typmod, COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (coerced == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("%s is of type %s but its expression is of type %s",
						what, format_type_be(type), format_type_be(from)),
				 errhint("Rewrite or cast the expression."),
				 parser_errposition(pstate, exprLocation(node))));
	return coerced;
}

static bool
is_user_code(Oid function, void *arg)
{
	DwWalk	   *walk = arg;
	HeapTuple	tuple;
	Oid			language;

	if (function < FirstNormalObjectId)
		return false;
	if (isAnyTempNamespace(get_func_namespace(function)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("temporary functions are not allowed in the expression for %s", walk->what),
				 errhint("Other sessions cannot see them; create the function in a permanent schema.")));
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
	ReleaseSysCache(tuple);
	return language != INTERNALlanguageId && language != ClanguageId;
}

/* Not immutable, and yet the same whoever calls it and however his session is set. */
static bool
is_impersonal(Oid function)
{
	static const char *const names[] = {"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "random",
	"gen_random_uuid", "uuidv4", "uuidv7", "enum_in", "enum_out"};

	for (int i = 0; i < (int) lengthof(names); i++)
		if (strcmp(get_func_name(function), names[i]) == 0)
			return true;
	return false;
}

static bool
is_personal_function(Oid function, void *arg)
{
	(void) arg;
	return function < FirstNormalObjectId && func_volatile(function) != PROVOLATILE_IMMUTABLE && !is_impersonal(function);
}

/*
 * Does it call a built-in function that asks who calls it (nextval: may he use the sequence?), or how his session is set?  Only what is
 * for inserts alone may; it is run as the owner then, as in the background.
 */
static bool
depends_on_caller(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, depends_on_caller, arg, 0);
	if (IsA(node, SQLValueFunction))
		return ((SQLValueFunction *) node)->op != SVFOP_CURRENT_TIMESTAMP && ((SQLValueFunction *) node)->op != SVFOP_CURRENT_TIMESTAMP_N;
	return check_functions_in_node(node, is_personal_function, NULL) || expression_tree_walker(node, depends_on_caller, arg);
}

static void
note_column(const Var *var, DwWalk *walk)
{
	if (var->varlevelsup != (Index) walk->depth)
		return;
	if (var->varattno < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("system columns are not allowed in the expression for %s", walk->what),
				 errhint("Their values say where a row is stored, not what is in it.")));
	if (var->varattno > 0)
		walk->columns = bms_add_member(walk->columns, var->varattno);
	else
	{
		walk->columns = bms_add_range(walk->columns, 1, walk->natts);
		walk->whole_row = true;
	}
}

/* A sub-select must not lock rows, and must not read what other sessions cannot see. */
static void
check_subselect(const Query *query, const char *what)
{
	if (query->rowMarks != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a sub-select that locks rows is not allowed in the expression for %s", what),
				 errhint("Leave out FOR UPDATE or FOR SHARE.")));
	if (isQueryUsingTempRelation(unconstify(Query *, query)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("temporary tables are not allowed in the expression for %s", what),
				 errhint("Other sessions cannot see them; use a permanent table.")));
}

static bool
walk_expression(Node *node, void *arg)
{
	DwWalk	   *walk = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
		note_column((Var *) node, walk);
	else if (IsA(node, Query))
	{
		bool		result;

		check_subselect((Query *) node, walk->what);
		walk->depth++;
		result = query_tree_walker((Query *) node, walk_expression, walk, 0);
		walk->depth--;
		return result;
	}
	else if (IsA(node, CoerceToDomain))
	{
		Oid			domain = ((CoerceToDomain *) node)->resulttype;

		walk->domains = list_append_unique_oid(walk->domains, domain);
		walk->user_code |= domain >= FirstNormalObjectId && DomainHasConstraints(domain);
	}
	else if (check_functions_in_node(node, is_user_code, walk))
		walk->user_code = true;
	return expression_tree_walker(node, walk_expression, walk);
}

/*
 * A function call inside a sub-select whose defaults the planner would still fill in: give them, to see whether one of
 * them is mutable.  (Outside sub-selects expression_planner does it.)
 */
static bool
find_mutable_defaults(Node *node, void *arg)
{
	DwExpression *expression = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_mutable_defaults, expression, 0);
	if (IsA(node, FuncExpr) &&
		list_length(((FuncExpr *) node)->args) < get_func_nargs(((FuncExpr *) node)->funcid))
	{
		Node	   *call = eval_const_expressions(NULL, copyObject(node));

		expression->is_volatile |= contain_volatile_functions(call);
		expression->is_mutable |= contain_mutable_functions(call);
	}
	return expression_tree_walker(node, find_mutable_defaults, expression);
}

/* Pairs of built-in types whose casts to the right and back give the same value or an error. */
static bool
is_lossless_builtin(Oid from, Oid to)
{
	static const Oid pairs[][2] = {
		{INT8OID, INT2OID}, {INT8OID, INT4OID}, {INT8OID, NUMERICOID},
		{INT2OID, INT4OID}, {INT2OID, INT8OID}, {INT2OID, FLOAT4OID}, {INT2OID, FLOAT8OID}, {INT2OID, NUMERICOID},
		{INT4OID, INT2OID}, {INT4OID, INT8OID}, {INT4OID, FLOAT8OID}, {INT4OID, NUMERICOID},
		{NAMEOID, TEXTOID}, {NAMEOID, VARCHAROID}, {FLOAT4OID, FLOAT8OID}, {DATEOID, TIMESTAMPOID},
		{TEXTOID, BPCHAROID}, {VARCHAROID, BPCHAROID}, {BPCHAROID, TEXTOID}, {BPCHAROID, VARCHAROID},
		{JSONOID, JSONBOID}, {JSONBOID, JSONOID}, {CIDROID, INETOID}, {MACADDROID, MACADDR8OID}
	};

	for (size_t i = 0; i < lengthof(pairs); i++)
		if (pairs[i][0] == from && pairs[i][1] == to)
			return true;
	return false;
}

/*
 * Does a cast keep the value, or fail?  An implicit one of a user's own type does, by convention; the built-in types are
 * listed, because some of their implicit casts round.
 */
static bool
is_lossless(Oid from, Oid to)
{
	HeapTuple	tuple;
	bool		implicit;

	from = getBaseType(from);
	to = getBaseType(to);
	if (from == to || IsBinaryCoercible(from, to) || is_lossless_builtin(from, to))
		return true;
	if (OidIsValid(get_element_type(from)) && OidIsValid(get_element_type(to)))
		return is_lossless(get_element_type(from), get_element_type(to));
	if (from < FirstNormalObjectId && to < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache2(CASTSOURCETARGET, ObjectIdGetDatum(from), ObjectIdGetDatum(to));
	if (!HeapTupleIsValid(tuple))
		return false;
	implicit = ((Form_pg_cast) GETSTRUCT(tuple))->castcontext == COERCION_CODE_IMPLICIT;
	ReleaseSysCache(tuple);
	return implicit;
}

/* What a cast is of, NULL for a node that is no cast. */
static Node *
cast_argument(Node *node)
{
	switch (nodeTag(node))
	{
		case T_RelabelType:
			return (Node *) ((RelabelType *) node)->arg;
		case T_CoerceViaIO:
			return (Node *) ((CoerceViaIO *) node)->arg;
		case T_ArrayCoerceExpr:
			return (Node *) ((ArrayCoerceExpr *) node)->arg;
		case T_CoerceToDomain:
			return (Node *) ((CoerceToDomain *) node)->arg;
		case T_CollateExpr:
			return (Node *) ((CollateExpr *) node)->arg;
		case T_FuncExpr:
			if (((FuncExpr *) node)->funcformat == COERCE_IMPLICIT_CAST ||
				((FuncExpr *) node)->funcformat == COERCE_EXPLICIT_CAST)
				return linitial(((FuncExpr *) node)->args);
			return NULL;
		default:
			return NULL;
	}
}

/*
 * Note in the expression whether it is a reference to a column, possibly through casts, and whether they all keep the
 * value.  A cast of the user's to the same type with a length or precision cuts or rounds; that of the assignment itself
 * is what every INSERT does.
 */
static void
find_plain_column(DwExpression *expression)
{
	Node	   *node = expression->node;
	Node	   *argument;
	bool		lossless = true;

	while ((argument = cast_argument(node)) != NULL)
	{
		lossless &= is_lossless(exprType(argument), exprType(node));
		if (IsA(node, FuncExpr) && ((FuncExpr *) node)->funcformat == COERCE_EXPLICIT_CAST &&
			exprType(argument) == exprType(node))
			lossless = false;
		node = argument;
	}
	if (!IsA(node, Var) || ((Var *) node)->varattno <= 0)
		return;
	expression->column = ((Var *) node)->varattno;
	expression->lossless = lossless;
}

/*
 * A copy in which casts between enums and strings are none: the server calls them stable, because labels can be renamed, but
 * neither the session nor the time has a say in what they give.  It is to be looked at, not to be run.
 */
static Node *
without_enum_casts(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
		return (Node *) query_tree_mutator((Query *) node, without_enum_casts, context, 0);
	if (IsA(node, CoerceViaIO))
	{
		CoerceViaIO *cast = (CoerceViaIO *) node;
		Oid			from = getBaseType(exprType((Node *) cast->arg));
		Oid			to = getBaseType(cast->resulttype);

		if ((type_is_enum(from) && TypeCategory(to) == TYPCATEGORY_STRING) ||
			(type_is_enum(to) && TypeCategory(from) == TYPCATEGORY_STRING))
			return (Node *) makeRelabelType((Expr *) without_enum_casts((Node *) cast->arg, context), cast->resulttype, -1,
											cast->resultcollid, COERCE_EXPLICIT_CAST);
	}
	return expression_tree_mutator(node, without_enum_casts, context);
}

/*
 * Volatility and the rest.  The planner sees more than the parser: defaults of arguments, bodies of SQL functions.  It
 * also evaluates immutable functions of constants, hence as the owner of the table.
 */
static void
classify(DwExpression *expression, Relation source, const char *what)
{
	DwWalk		walk = {.natts = RelationGetNumberOfAttributes(source), .what = what};
	DwOwnerScope scope;
	Node	   *planned;

	(void) walk_expression(expression->node, &walk);
	expression->columns = walk.columns;
	if (walk.whole_row && expression->has_sublink)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a sub-select and a reference to the whole row are not allowed together in the expression for %s", what),
				 errhint("Name the columns that are needed.")));

	dw_owner_enter(&scope, source->rd_rel->relowner, true);
	planned = (Node *) expression_planner((Expr *) copyObject(expression->node));
	expression->is_volatile = contain_volatile_functions(planned);
	expression->is_mutable = expression->is_volatile || contain_mutable_functions(without_enum_casts(planned, NULL));
	if (expression->has_sublink)
		(void) find_mutable_defaults(planned, expression);
	dw_owner_leave(&scope);

	/* what the planner added (defaults) is as much code of users as what it took away (by inlining it) */
	(void) walk_expression(planned, &walk);
	expression->is_personal = expression->is_mutable && depends_on_caller(planned, NULL);
	expression->user_code = walk.user_code || expression->has_sublink || expression->is_personal;
	expression->domains = walk.domains;
	expression->is_constant = !expression->has_sublink && !expression->is_mutable && expression->columns == NULL;
	find_plain_column(expression);
}

/* Text that means the same wherever and by whomever it is parsed: names qualified, dates and intervals in ISO form. */
static char *
deparse(const DwExpression *expression, Relation source)
{
	static const char *const pinned[][2] = {
		{"search_path", "pg_catalog, pg_temp"}, {"DateStyle", "ISO, YMD"}, {"IntervalStyle", "postgres"},
		{"bytea_output", "hex"}, {"extra_float_digits", "1"}
	};
	int			nest = NewGUCNestLevel();
	char	   *text;

	for (size_t i = 0; i < lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	text = deparse_expression(expression->node, deparse_context_for(DW_ROW_ALIAS, RelationGetRelid(source)),
							  expression->has_sublink, false);
	AtEOXact_GUC(true, nest);
	return text;
}

DwExpression *
dw_expression_parse(const char *text, Relation source, const char *source_alias,
					Oid type, int32 typmod, Oid collation, const char *what)
{
	DwExpression *expression = palloc0(sizeof(DwExpression));
	char	   *query = psprintf(DW_PREFIX "%s", text);
	DwErrorContext context = {text, what};
	ErrorContextCallback callback = {error_context_stack, add_error_context, &context};
	DwOwnerScope scope;
	ParseState *pstate;
	Node	   *node;

	(void) collation;			/* an assignment takes the value whatever its collation */
	error_context_stack = &callback;
	node = parse_raw(query, what);
	pstate = make_pstate(query, source, source_alias);
	/* the input function of a literal's type may check domains, which is code of users: not as a superuser who reads it again */
	dw_owner_enter(&scope, source->rd_rel->relowner, false);
	node = transformExpr(pstate, node, EXPR_KIND_SELECT_TARGET);
	refuse_sets(pstate, what);
	node = coerce_node(pstate, node, type, typmod, what);
	dw_owner_leave(&scope);
	assign_expr_collations(pstate, node);

	expression->node = node;
	expression->has_sublink = pstate->p_hasSubLinks;
	classify(expression, source, what);
	expression->text = deparse(expression, source);
	free_parsestate(pstate);
	error_context_stack = callback.previous;
	return expression;
}

DwExpression *
dw_expression_column(Relation source, AttrNumber attno, Oid type, int32 typmod, Oid collation)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(source), attno - 1);
	DwExpression *expression = palloc0(sizeof(DwExpression));
	Node	   *node = (Node *) makeVar(1, attno, att->atttypid, att->atttypmod, att->attcollation, 0);

	(void) collation;
	if (OidIsValid(type))
		node = coerce_to_target_type(NULL, node, att->atttypid, type, typmod,
									 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (node == NULL)
		return NULL;
	assign_expr_collations(NULL, node);
	expression->node = node;
	classify(expression, source, NameStr(att->attname));
	expression->text = deparse(expression, source);
	return expression;
}

/* What dw_expression_reads looks for, and finds. */
typedef struct DwReads
{
	Oid			relid;
	int			natts;
	List	   *queries;		/* around the node, innermost first */
	Bitmapset  *columns;
	bool		unknown;
} DwReads;

static bool
is_foreign_code(Oid function, void *arg)
{
	(void) arg;
	return function >= FirstNormalObjectId;
}

static void
note_read(const Var *var, DwReads *reads)
{
	RangeTblEntry *rte;

	/* beyond the outermost query is the source row */
	if ((int) var->varlevelsup >= list_length(reads->queries))
		return;
	rte = rt_fetch(var->varno, ((Query *) list_nth(reads->queries, var->varlevelsup))->rtable);
	if (rte->rtekind == RTE_JOIN)
		reads->unknown = true;
	else if (rte->rtekind != RTE_RELATION || rte->relid != reads->relid)
		return;
	else if (var->varattno > 0)
		reads->columns = bms_add_member(reads->columns, var->varattno);
	else
		reads->columns = bms_add_range(reads->columns, 1, reads->natts);
}

static bool
reads_of_relations(const Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && rte->relkind != RELKIND_RELATION && rte->relkind != RELKIND_PARTITIONED_TABLE)
			return false;
	}
	return true;
}

static bool
walk_reads(Node *node, void *arg)
{
	DwReads    *reads = arg;
	bool		result;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
		note_read((Var *) node, reads);
	else if (IsA(node, Query))
	{
		reads->unknown |= !reads_of_relations((Query *) node);
		reads->queries = lcons(node, reads->queries);
		result = query_tree_walker((Query *) node, walk_reads, reads, QTW_IGNORE_JOINALIASES);
		reads->queries = list_delete_first(reads->queries);
		return result;
	}
	else if (check_functions_in_node(node, is_foreign_code, NULL))
		reads->unknown = true;
	return expression_tree_walker(node, walk_reads, reads);
}

Bitmapset *
dw_expression_reads(const DwExpression *expression, Relation table)
{
	DwReads		reads = {.relid = RelationGetRelid(table), .natts = RelationGetNumberOfAttributes(table)};
	int			attno = -1;

	(void) walk_reads(expression->node, &reads);
	/* a virtual generated column is read without being stored */
	while ((attno = bms_next_member(reads.columns, attno)) >= 0)
		reads.unknown |= dw_is_virtual(TupleDescAttr(RelationGetDescr(table), attno - 1));
	return reads.unknown ? NULL : reads.columns;
}
