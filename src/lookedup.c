/*
 * lookedup.c: which source rows depend on a row of a table that a mapping looks up.
 *
 * The mapping's author has written a query for that, over the changed row; it is kept as a plan with the compiled mapping and
 * runs as the owner of the source.  Nothing here changes anything.
 */
#include "postgres.h"

#include "expression.h"
#include "lookedup.h"
#include "owner.h"
#include "tables.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Keys that are fetched at a time. */
#define KEYS_AT_ONCE 500

static DwFlow *
flow_of(const DwLookedUp *looked_up)
{
	return &looked_up->compiled->flow[looked_up->dependency->direction];
}

/* Text of the query, of the changed row as one jsonb parameter. */
static char *
query_text(const DwLookedUp *looked_up)
{
	DwFlow	   *flow = flow_of(looked_up);
	StringInfoData names;
	StringInfoData sql;

	initStringInfo(&names);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < flow->source_key->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(flow->source_desc, flow->source_key->columns[i] - 1);

		appendStringInfo(&sql, "%sq.k%d::%s", i ? ", " : "", i, format_type_be_qualified(att->atttypid));
		appendStringInfo(&names, "%sk%d", i ? ", " : "", i);
	}
	appendStringInfo(&sql, " FROM pg_catalog.jsonb_populate_record(NULL::%s, $1) AS " DW_ROW_ALIAS ", LATERAL (%s) AS q (%s)",
					 dw_table_name(looked_up->dependency->lookup), looked_up->dependency->query, names.data);
	return sql.data;
}

static DwExpression *
parse_query(const DwLookedUp *looked_up, Relation lookup)
{
	return dw_expression_parse(psprintf("EXISTS (%s)", looked_up->dependency->query), lookup, NULL, BOOLOID, -1, InvalidOid,
							   "depends");
}

static DwColumn *
column_named(const DwMapping *mapping, DwDirection direction, const char *name)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[direction])
		if (strcmp(((DwColumn *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	elog(ERROR, "column \"%s\" of mapping %d is not mapped", name, mapping->id);
}

/*
 * Columns whose change can make a difference: those that the query reads, and those that the expressions of the columns
 * with the same query read.  NULL: any.
 */
static Bitmapset *
relevant_columns(const DwLookedUp *looked_up, Relation lookup, const Bitmapset *read)
{
	const DwMapping *mapping = looked_up->compiled->mapping;
	Relation	source = table_open(flow_of(looked_up)->source, AccessShareLock);
	Bitmapset  *relevant = bms_copy(read);
	ListCell   *lc;

	foreach(lc, mapping->dependencies)
	{
		DwDependency *other = lfirst(lc);
		DwExpression *expression;
		Bitmapset  *columns;

		if (other->direction != looked_up->dependency->direction || other->lookup != looked_up->dependency->lookup ||
			strcmp(other->query, looked_up->dependency->query) != 0)
			continue;
		expression = dw_expression_parse(column_named(mapping, other->direction, other->column)->expression, source, NULL,
										 InvalidOid, -1, InvalidOid, other->column);
		columns = dw_expression_reads(expression, lookup);
		relevant = columns == NULL ? NULL : bms_add_members(relevant, columns);
		if (relevant == NULL)
			break;
	}
	table_close(source, NoLock);
	return relevant;
}

/* The plan, made when first needed; as the source's owner. */
static SPIPlanPtr
plan_of(DwLookedUp *looked_up)
{
	SPIPlanPtr	plan;
	MemoryContext old;
	Relation	lookup;
	Bitmapset  *columns;
	Bitmapset  *relevant;
	char	   *sql;

	if (looked_up->plan != NULL)
		return looked_up->plan;
	lookup = table_open(looked_up->dependency->lookup, AccessShareLock);
	columns = parse_query(looked_up, lookup)->columns;
	relevant = relevant_columns(looked_up, lookup, columns);
	table_close(lookup, NoLock);
	sql = query_text(looked_up);
	SPI_connect();
	plan = SPI_prepare(sql, 1, (Oid[]) {JSONBOID});
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	SPI_finish();
	old = MemoryContextSwitchTo(looked_up->context);
	looked_up->columns = bms_copy(columns);
	looked_up->relevant = bms_copy(relevant);
	looked_up->plan = plan;
	MemoryContextSwitchTo(old);
	return plan;
}

void
dw_lookedup_prepare(DwLookedUp *looked_up)
{
	DwOwnerScope scope;

	dw_owner_enter(&scope, flow_of(looked_up)->source_owner, true);
	(void) plan_of(looked_up);
	dw_owner_leave(&scope);
}

/* The next keys of the cursor; an array of copies in the current context.  NULL keys name nothing. */
static int
fetch_keys(Portal portal, DwFlow *flow, DwKey *keys, bool *more)
{
	MemoryContext caller = CurrentMemoryContext;
	DwOwnerScope scope;
	int			count = 0;

	dw_owner_enter(&scope, flow->source_owner, true);
	SPI_cursor_fetch(portal, true, KEYS_AT_ONCE);
	dw_owner_leave(&scope);
	*more = SPI_processed == KEYS_AT_ONCE;
	MemoryContextSwitchTo(caller);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		DwKey		key;
		bool		isnull = false;

		for (int i = 0; i < flow->source_key->ncolumns && !isnull; i++)
			key.values[i] = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1, &isnull);
		if (!isnull)
			dw_key_copy(flow->source_desc, flow->source_key, &key, &keys[count++]);
	}
	SPI_freetuptable(SPI_tuptable);
	return count;
}

void
dw_lookedup_keys(DwLookedUp *looked_up, Jsonb *image, void (*found) (DwFlow *flow, const DwKey *source_key))
{
	DwFlow	   *flow = flow_of(looked_up);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite dependents", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	DwOwnerScope scope;
	Portal		portal;
	bool		more;

	dw_lookedup_prepare(looked_up);
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	dw_owner_enter(&scope, flow->source_owner, true);
	portal = SPI_cursor_open(NULL, looked_up->plan, (Datum[]) {JsonbPGetDatum(image)}, NULL, true);
	dw_owner_leave(&scope);
	do
	{
		DwKey	   *keys;
		int			count;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		keys = palloc(sizeof(DwKey) * KEYS_AT_ONCE);
		count = fetch_keys(portal, flow, keys, &more);
		for (int i = 0; i < count; i++)
			found(flow, &keys[i]);
	} while (more);
	SPI_cursor_close(portal);
	SPI_finish();
	PopActiveSnapshot();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
