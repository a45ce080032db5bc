/*
 * dependents.c: rows that depend on a row of a table that a mapping looks up.
 *
 * A column of the target may be made by a sub-select on another table, and the mapping may declare which source rows
 * depend on a row of it.  When one changes, they are converged in the same transaction, in the same way as a row that is
 * written itself.
 *
 * Nobody is waited for: whoever writes the looked-up table takes rows of another table in an order that the application
 * knows nothing of, and would be in deadlocks that it has not earned.  A key that somebody holds is queued.
 *
 * That does not catch everything.  While this transaction is open, another one may write a source row that our query
 * does not see yet, and its mirror does not see our change.  Each change therefore wants a second look (recheck.c), which
 * is taken once everybody who could not see it has ended.  It costs writers of the looked-up table one insert a row, and
 * writers of the source, of whom there are many more, nothing.
 */
#include "postgres.h"

#include "dependents.h"
#include "expression.h"
#include "mirror.h"
#include "owner.h"
#include "recheck.h"
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

static void
ensure_plan(DwLookedUp *looked_up)
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
dw_dependents_find(DwLookedUp *looked_up, Jsonb *image, void (*found) (DwFlow *flow, const DwKey *source_key))
{
	DwFlow	   *flow = flow_of(looked_up);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite dependents", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	DwOwnerScope scope;
	Portal		portal;
	bool		more;

	ensure_plan(looked_up);
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

/* In the columns given; NULL: in all. */
static bool
rows_equal(TupleTableSlot *a, TupleTableSlot *b, const Bitmapset *columns)
{
	slot_getallattrs(a);
	slot_getallattrs(b);
	for (int i = 0; i < a->tts_tupleDescriptor->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(a->tts_tupleDescriptor, i);

		if (att->attisdropped || (columns != NULL && !bms_is_member(i + 1, columns)))
			continue;
		if (a->tts_isnull[i] != b->tts_isnull[i] ||
			(!a->tts_isnull[i] && !datum_image_eq(a->tts_values[i], b->tts_values[i], att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

static Jsonb *
image_of(const DwLookedUp *looked_up, TupleTableSlot *row)
{
	return dw_row_to_jsonb(row->tts_tupleDescriptor, row, looked_up->columns);
}

static void
follow(DwLookedUp *looked_up, Jsonb *image)
{
	dw_recheck_append(looked_up->dependency->id, looked_up->compiled->mapping_id, image);
	dw_dependents_find(looked_up, image, dw_mirror_dependent);
}

void
dw_dependents_follow(DwLookedUp *looked_up, TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	Jsonb	   *before = NULL;
	Jsonb	   *after = NULL;

	ensure_plan(looked_up);
	if (old_row != NULL && new_row != NULL && rows_equal(old_row, new_row, looked_up->relevant))
		return;
	if (old_row != NULL)
		before = image_of(looked_up, old_row);
	if (new_row != NULL)
		after = image_of(looked_up, new_row);
	if (before != NULL)
		follow(looked_up, before);
	if (after != NULL && (before == NULL || compareJsonbContainers(&before->root, &after->root) != 0))
		follow(looked_up, after);
}

void
dw_dependents_truncate(DwLookedUp *looked_up, DwTable *table, Relation heap)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	TableScanDesc scan = table_beginscan(heap, snapshot, 0, NULL);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite truncate", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;

	ensure_plan(looked_up);
	old = MemoryContextSwitchTo(context);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		TupleTableSlot *row = table->to_root ? execute_attr_map_slot(table->to_root->attrMap, slot, table->root_slot_old) : slot;

		CHECK_FOR_INTERRUPTS();
		dw_recheck_append(looked_up->dependency->id, looked_up->compiled->mapping_id, image_of(looked_up, row));
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
}
