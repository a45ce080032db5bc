/*
 * viewwrite.c: writes through a read view.
 *
 * A read view has the columns of one table, its target.  What is written through the view is written to that table, with the
 * rights of the caller, and the mirror brings it to the other side in the same transaction; so it works from the moment on
 * that writes to the target are mirrored, and is refused before.
 *
 * An INSTEAD OF trigger is handed rows that nobody has locked.  A write must not overwrite what somebody else has written
 * since: the row must still have the values that were read, in the columns that both sides have, or the statement fails with
 * a serialization failure, as it does elsewhere under REPEATABLE READ.
 */
#include "postgres.h"

#include "readview.h"
#include "tables.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_attribute.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(dw_write_read_view);

/* What one statement on a view needs: parameters $1 ... $n are the new row, $n+1 ... $2n the one that was read. */
typedef struct DwViewWriter
{
	const char *view;			/* name, for messages */
	DwViewTarget *target;
	TupleDesc	desc;			/* of the view */
	Oid		   *types;			/* of the parameters */
	Bitmapset  *writable;		/* columns that the target has and does not generate, from 0 */
	Bitmapset  *key;
	Bitmapset  *compared;
	bool		always_identity;
	SPIPlanPtr	insert;
	SPIPlanPtr	update;
	Bitmapset  *updated;		/* columns that "update" sets */
	SPIPlanPtr	delete;
	MemoryContextCallback callback;
} DwViewWriter;

static void
free_plans(void *arg)
{
	DwViewWriter *writer = arg;

	if (writer->insert != NULL)
		SPI_freeplan(writer->insert);
	if (writer->update != NULL)
		SPI_freeplan(writer->update);
	if (writer->delete != NULL)
		SPI_freeplan(writer->delete);
}

static char *
column_name(const DwViewWriter *writer, int column)
{
	return NameStr(TupleDescAttr(writer->desc, column)->attname);
}

static bool
is_named(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* Which columns of the view are what in the target. */
static void
find_columns(DwViewWriter *writer)
{
	Relation	rel = table_open(writer->target->table, AccessShareLock);

	for (int i = 0; i < writer->desc->natts; i++)
	{
		AttrNumber	attno = get_attnum(writer->target->table, column_name(writer, i));
		Form_pg_attribute column;

		if (attno <= 0)
			continue;
		column = TupleDescAttr(RelationGetDescr(rel), attno - 1);
		if (column->attgenerated == '\0')
			writer->writable = bms_add_member(writer->writable, i);
		writer->always_identity |= column->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
		if (is_named(writer->target->key_columns, NameStr(column->attname)))
			writer->key = bms_add_member(writer->key, i);
		if (is_named(writer->target->mapped_columns, NameStr(column->attname)))
			writer->compared = bms_add_member(writer->compared, i);
	}
	table_close(rel, AccessShareLock);
}

static void
check_phase(const DwViewWriter *writer)
{
	const DwMigration *migration = writer->target->migration;

	if (writer->target->direction == DW_REVERSE || migration->phase >= DW_PHASE_READ_SWITCH)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("read view \"%s\" takes no writes in phase %s of migration \"%s\"",
					writer->view, dw_phase_name(migration->phase), migration->name),
			 errhint("Write to the old table, or through a view of its shape; this one takes writes from read_switch on.")));
}

static DwViewWriter *
writer_make(Relation view, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	DwViewWriter *writer = palloc0(sizeof(DwViewWriter));
	int			count = RelationGetDescr(view)->natts;

	writer->view = pstrdup(RelationGetRelationName(view));
	writer->target = dw_read_view_target(RelationGetRelid(view));
	writer->desc = CreateTupleDescCopy(RelationGetDescr(view));
	writer->types = palloc(sizeof(Oid) * 2 * count);
	for (int i = 0; i < 2 * count; i++)
		writer->types[i] = TupleDescAttr(writer->desc, i % count)->atttypid;
	find_columns(writer);
	check_phase(writer);
	writer->callback = (MemoryContextCallback) {free_plans, writer, NULL};
	MemoryContextRegisterResetCallback(context, &writer->callback);
	MemoryContextSwitchTo(old);
	return writer;
}

/* " RETURNING every column of the view", null where the target has it no more. */
static void
append_returning(StringInfo text, const DwViewWriter *writer)
{
	for (int i = 0; i < writer->desc->natts; i++)
		appendStringInfo(text, "%s%s", i == 0 ? " RETURNING " : ", ",
						 get_attnum(writer->target->table, column_name(writer, i)) > 0 ?
						 psprintf("t.%s", quote_identifier(column_name(writer, i))) : "NULL");
}

/* "t.column = $n": what an index of the key can be searched by. */
static void
append_key(StringInfo text, const DwViewWriter *writer, int column)
{
	Oid			type = writer->types[column];

	generate_operator_clause(text, psprintf("t.%s", quote_identifier(column_name(writer, column))), type,
							 lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr,
							 psprintf("$%d", writer->desc->natts + column + 1), type);
}

/* Is the column what it was?  By the type's own equality; by its text where it has none. */
static void
append_same(StringInfo text, const DwViewWriter *writer, int column)
{
	Oid			type = writer->types[column];
	Oid			equal = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	char	   *value = psprintf("t.%s", quote_identifier(column_name(writer, column)));
	char	   *param = psprintf("$%d", writer->desc->natts + column + 1);

	appendStringInfo(text, "(%s IS NULL AND %s IS NULL OR ", value, param);
	if (OidIsValid(equal))
		generate_operator_clause(text, value, type, equal, param, type);
	else
		appendStringInfo(text, "%s::pg_catalog.text OPERATOR(pg_catalog.=) %s::pg_catalog.text", value, param);
	appendStringInfoChar(text, ')');
}

static void
append_where(StringInfo text, const DwViewWriter *writer)
{
	Bitmapset  *columns = bms_union(writer->key, writer->compared);
	const char *separator = " WHERE ";
	int			i = -1;

	while ((i = bms_next_member(columns, i)) >= 0)
	{
		appendStringInfoString(text, separator);
		separator = " AND ";
		if (bms_is_member(i, writer->key))
			append_key(text, writer, i);
		else
			append_same(text, writer, i);
	}
}

static SPIPlanPtr
plan_make(DwViewWriter *writer, StringInfo text)
{
	SPIPlanPtr	plan;

	append_returning(text, writer);
	plan = SPI_prepare(text->data, 2 * writer->desc->natts, writer->types);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", text->data, SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	return plan;
}

static SPIPlanPtr
insert_plan(DwViewWriter *writer)
{
	StringInfoData text;
	StringInfoData values;
	const char *separator = "";
	int			i = -1;

	if (writer->insert != NULL)
		return writer->insert;
	initStringInfo(&text);
	initStringInfo(&values);
	appendStringInfo(&text, "INSERT INTO %s AS t (", dw_table_name(writer->target->table));
	while ((i = bms_next_member(writer->writable, i)) >= 0)
	{
		appendStringInfo(&text, "%s%s", separator, quote_identifier(column_name(writer, i)));
		appendStringInfo(&values, "%s$%d", separator, i + 1);
		separator = ", ";
	}
	appendStringInfo(&text, ")%s VALUES (%s)", writer->always_identity ? " OVERRIDING SYSTEM VALUE" : "", values.data);
	writer->insert = plan_make(writer, &text);
	return writer->insert;
}

static SPIPlanPtr
update_plan(DwViewWriter *writer, Bitmapset *columns, MemoryContext context)
{
	StringInfoData text;
	const char *separator = "";
	int			i = -1;

	if (writer->update != NULL && bms_equal(columns, writer->updated))
		return writer->update;
	if (writer->update != NULL)
		SPI_freeplan(writer->update);
	writer->update = NULL;
	initStringInfo(&text);
	appendStringInfo(&text, "UPDATE %s AS t SET ", dw_table_name(writer->target->table));
	while ((i = bms_next_member(columns, i)) >= 0)
	{
		appendStringInfo(&text, "%s%s = $%d", separator, quote_identifier(column_name(writer, i)), i + 1);
		separator = ", ";
	}
	append_where(&text, writer);
	writer->update = plan_make(writer, &text);
	MemoryContextSwitchTo(context);
	writer->updated = bms_copy(columns);
	return writer->update;
}

static SPIPlanPtr
delete_plan(DwViewWriter *writer)
{
	StringInfoData text;

	if (writer->delete != NULL)
		return writer->delete;
	initStringInfo(&text);
	appendStringInfo(&text, "DELETE FROM %s AS t", dw_table_name(writer->target->table));
	append_where(&text, writer);
	writer->delete = plan_make(writer, &text);
	return writer->delete;
}

/* Values of the new row and of the one that was read, either of which may be missing. */
typedef struct DwViewRow
{
	Datum	   *values;
	bool	   *nulls;
} DwViewRow;

static DwViewRow
deform(const DwViewWriter *writer, HeapTuple old, HeapTuple new)
{
	int			count = writer->desc->natts;
	DwViewRow	row = {palloc0(sizeof(Datum) * 2 * count), palloc(sizeof(bool) * 2 * count)};

	memset(row.nulls, true, sizeof(bool) * 2 * count);
	if (new != NULL)
		heap_deform_tuple(new, writer->desc, row.values, row.nulls);
	if (old != NULL)
		heap_deform_tuple(old, writer->desc, row.values + count, row.nulls + count);
	return row;
}

/* Columns that the statement changes; where it changes none, what it read, so that the target's triggers have their say. */
static Bitmapset *
changed_columns(const DwViewWriter *writer, const DwViewRow *row)
{
	Bitmapset  *changed = NULL;
	int			count = writer->desc->natts;
	int			i = -1;

	while ((i = bms_next_member(writer->writable, i)) >= 0)
	{
		Form_pg_attribute column = TupleDescAttr(writer->desc, i);

		if (row->nulls[i] != row->nulls[count + i] ||
			(!row->nulls[i] && !datum_image_eq(row->values[i], row->values[count + i], column->attbyval, column->attlen)))
			changed = bms_add_member(changed, i);
	}
	if (changed == NULL)
		changed = bms_difference(bms_intersect(writer->compared, writer->writable), writer->key);
	if (bms_is_empty(changed))
		changed = bms_copy(writer->key);
	return changed;
}

/* Run it; the row as the target has it now, in the given context. */
static HeapTuple
execute(const DwViewWriter *writer, SPIPlanPtr plan, const DwViewRow *row, MemoryContext context)
{
	int			count = writer->desc->natts;
	char	   *nulls = palloc(2 * count);
	Datum	   *values = palloc(sizeof(Datum) * count);
	bool	   *isnull = palloc(sizeof(bool) * count);
	HeapTuple	result;

	for (int i = 0; i < 2 * count; i++)
		nulls[i] = row->nulls[i] ? 'n' : ' ';
	if (SPI_execute_plan(plan, row->values, nulls, false, 0) < 0)
		elog(ERROR, "could not execute a statement: %s", SPI_result_code_string(SPI_result));
	if (SPI_processed == 0)
		return NULL;
	heap_deform_tuple(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, values, isnull);
	MemoryContextSwitchTo(context);
	result = heap_form_tuple(writer->desc, values, isnull);
	return result;
}

static void
raise_changed(const DwViewWriter *writer)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not write a row of read view \"%s\": it was changed meanwhile", writer->view),
			 errdetail("Table %s does not have the row as it was read.", dw_table_name(writer->target->table)),
			 errhint("Try the transaction again.")));
}

static HeapTuple
write_row(DwViewWriter *writer, TriggerData *trigger, MemoryContext statement, MemoryContext context)
{
	HeapTuple	result;
	DwViewRow	row;

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		row = deform(writer, NULL, trigger->tg_trigtuple);
		/* NULL: a trigger of the target suppressed it, which the application may know of there, too */
		return execute(writer, insert_plan(writer), &row, context);
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		row = deform(writer, trigger->tg_trigtuple, trigger->tg_newtuple);
		result = execute(writer, update_plan(writer, changed_columns(writer, &row), statement), &row, context);
	}
	else
	{
		row = deform(writer, trigger->tg_trigtuple, NULL);
		result = execute(writer, delete_plan(writer), &row, context);
	}
	if (result == NULL)
		raise_changed(writer);
	return result;
}

/* Trigger INSTEAD OF INSERT OR UPDATE OR DELETE on a read view, for each row. */
Datum
dw_write_read_view(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext statement = fcinfo->flinfo->fn_mcxt;
	HeapTuple	result;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_INSTEAD(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by an INSTEAD OF trigger", "write_read_view"),
				 errhint("dualwrite.create_read_view creates the triggers that call it.")));
	if (fcinfo->flinfo->fn_extra == NULL)
		fcinfo->flinfo->fn_extra = writer_make(trigger->tg_relation, statement);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	SPI_register_trigger_data(trigger);
	result = write_row(fcinfo->flinfo->fn_extra, trigger, statement, context);
	SPI_finish();
	return PointerGetDatum(result);
}
