/*
 * preview.c: what a migration would make of the rows that are there.
 *
 * Uses the compiled mapping that the mirror uses, so that what is shown is what will be written.  Reads only.
 */
#include "postgres.h"

#include "preview.h"

#include "mapping.h"
#include "owner.h"
#include "walk.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define DW_PREVIEW_COLUMNS 5

/* Columns whose values are in the row: neither dropped nor computed when read. */
static Bitmapset *
stored_columns(TupleDesc desc)
{
	Bitmapset  *columns = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && !dw_is_virtual(att))
			columns = bms_add_member(columns, att->attnum);
	}
	return columns;
}

/* Whose row it was, for an error of an expression. */
static void
add_row_context(void *arg)
{
	errcontext("old row %s", (const char *) arg);
}

static void
preview_row(DwFlow *flow, TupleTableSlot *row, TupleTableSlot *out, const Bitmapset *columns,
			Tuplestorestate *store, TupleDesc desc)
{
	Datum		values[DW_PREVIEW_COLUMNS] = {0};
	bool		nulls[DW_PREVIEW_COLUMNS] = {0};
	Jsonb	   *shown = dw_row_to_jsonb(flow->source_desc, row, columns);
	ErrorContextCallback callback = {
		error_context_stack, add_row_context, JsonbToCString(NULL, &shown->root, VARSIZE(shown))
	};
	DwKey		key;

	values[0] = ObjectIdGetDatum(flow->source);
	values[1] = ObjectIdGetDatum(flow->target);
	values[3] = PointerGetDatum(shown);
	error_context_stack = &callback;
	if (dw_project(flow, row, out, NULL))
	{
		dw_key_of_new(flow->compiled, out, &key);
		values[2] = PointerGetDatum(dw_key_to_jsonb(flow->compiled, &key));
		values[4] = PointerGetDatum(dw_row_to_jsonb(flow->target_desc, out, flow->inserted));
	}
	else
		nulls[2] = nulls[4] = true;
	error_context_stack = callback.previous;
	tuplestore_putvalues(store, desc, values, nulls);
}

static void
preview_mapping(DwCompiled *compiled, int rows, Tuplestorestate *store, TupleDesc desc)
{
	DwFlow	   *flow = &compiled->flow[DW_FORWARD];
	Bitmapset  *columns = stored_columns(flow->source_desc);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite preview", ALLOCSET_DEFAULT_SIZES);
	TupleTableSlot *out = MakeSingleTupleTableSlot(flow->target_desc, &TTSOpsVirtual);
	TupleTableSlot *row;
	const DwSpan whole = {InvalidOid, NULL, InvalidOid, NULL};
	DwWalk	   *walk;

	/* taken after the locks: a table rewritten before them must not look empty */
	PushActiveSnapshot(GetLatestSnapshot());
	walk = dw_walk_begin(compiled->flow[DW_FORWARD].source_key, flow->source_desc, dw_relation_owner(flow->source),
						 GetActiveSnapshot(), &whole);
	while (rows-- > 0 && (row = dw_walk_next(walk)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		preview_row(flow, row, out, columns, store, desc);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	dw_walk_end(walk);
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(out);
	MemoryContextDelete(row_context);
}

void
dw_preview(const DwMigration *migration, int rows, Tuplestorestate *store, TupleDesc desc)
{
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);
		DwCompiled *compiled;

		(void) dw_heaps_of(mapping->old_table, AccessShareLock);
		(void) dw_heaps_of(mapping->new_table, AccessShareLock);
		compiled = dw_compiled_get(mapping->id);
		if (compiled != NULL)
			preview_mapping(compiled, rows, store, desc);
	}
}
