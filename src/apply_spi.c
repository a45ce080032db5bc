/*
 * apply_spi.c: the engine of prepared statements, for targets that are not heap tables of this database.
 *
 * UPDATE first and INSERT when that met no row, so that columns outside the mapping keep what the other side gave them.
 * The plans belong to the target, that is to one statement of the application or one step of a worker.
 */
#include "postgres.h"

#include "apply_spi.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

typedef struct StatementTarget
{
	SPIPlanPtr	insert;			/* $n: column n of insert_columns */
	SPIPlanPtr	update;			/* mapped columns beside the key, then the key; NULL: the key is all there is */
	SPIPlanPtr	exists;			/* for targets without anything beside the key */
	SPIPlanPtr	delete;
	SPIPlanPtr	reset;			/* mapped columns back to their defaults */
	SPIPlanPtr	move;			/* all mapped columns, then the old key */
	SPIPlanPtr	select;			/* all columns of one key */
	int			ninserted;
	AttrNumber *inserted;
	int			nupdated;
	AttrNumber *updated;		/* mapped, not of the key */
	int			nmapped;
	AttrNumber *mapped;
	MemoryContextCallback release;
} StatementTarget;

/* Set while a statement of ours runs, so that the table's own mirror triggers know it. */
static Oid	writing = InvalidOid;

Oid
dw_statement_writing(void)
{
	return writing;
}

static Form_pg_attribute
attribute(DwTarget *target, AttrNumber attno)
{
	return TupleDescAttr(target->flow->target_desc, attno - 1);
}

static const char *
column(DwTarget *target, AttrNumber attno)
{
	return quote_identifier(NameStr(attribute(target, attno)->attname));
}

static AttrNumber *
column_array(const Bitmapset *columns, int *count)
{
	AttrNumber *result = palloc(sizeof(AttrNumber) * (bms_num_members(columns) + 1));
	int			attno = -1;

	*count = 0;
	while ((attno = bms_next_member(columns, attno)) >= 0)
		result[(*count)++] = attno;
	return result;
}

static SPIPlanPtr
prepare(DwTarget *target, const char *sql, int ncolumns, const AttrNumber *columns, bool with_key)
{
	const DwKeyShape *key = target->flow->target_key;
	Oid		   *types = palloc(sizeof(Oid) * (ncolumns + key->ncolumns));
	SPIPlanPtr	plan;
	int			n = 0;

	for (int i = 0; i < ncolumns; i++)
		types[n++] = attribute(target, columns[i])->atttypid;
	for (int i = 0; with_key && i < key->ncolumns; i++)
		types[n++] = attribute(target, key->columns[i])->atttypid;
	/* of partitions on other servers only the key's own may be asked: the others may be away */
	plan = SPI_prepare_cursor(sql, n, types,
							  get_rel_relkind(target->flow->target) == RELKIND_PARTITIONED_TABLE ? CURSOR_OPT_CUSTOM_PLAN : 0);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	return plan;
}

/* " WHERE key = $n AND …", the parameters starting after first. */
static void
append_key(DwTarget *target, StringInfo sql, int first)
{
	const DwKeyShape *key = target->flow->target_key;

	for (int i = 0; i < key->ncolumns; i++)
		appendStringInfo(sql, "%s%s = $%d", i ? " AND " : " WHERE ", column(target, key->columns[i]), first + i + 1);
}

static void
append_assignments(DwTarget *target, StringInfo sql, int ncolumns, const AttrNumber *columns)
{
	for (int i = 0; i < ncolumns; i++)
		appendStringInfo(sql, "%s%s = $%d", i ? ", " : "", column(target, columns[i]), i + 1);
}

static void
prepare_insert(DwTarget *target, StatementTarget *statements, const char *table)
{
	StringInfoData sql;
	StringInfoData values;

	initStringInfo(&sql);
	initStringInfo(&values);
	appendStringInfo(&sql, "INSERT INTO %s (", table);
	for (int i = 0; i < statements->ninserted; i++)
	{
		appendStringInfo(&sql, "%s%s", i ? ", " : "", column(target, statements->inserted[i]));
		appendStringInfo(&values, "%s$%d", i ? ", " : "", i + 1);
	}
	appendStringInfo(&sql, ") VALUES (%s)", values.data);
	statements->insert = prepare(target, sql.data, statements->ninserted, statements->inserted, false);
}

static void
prepare_updates(DwTarget *target, StatementTarget *statements, const char *table)
{
	StringInfoData sql;

	initStringInfo(&sql);
	if (statements->nupdated > 0)
	{
		appendStringInfo(&sql, "UPDATE %s SET ", table);
		append_assignments(target, &sql, statements->nupdated, statements->updated);
		append_key(target, &sql, statements->nupdated);
		statements->update = prepare(target, sql.data, statements->nupdated, statements->updated, true);

		resetStringInfo(&sql);
		appendStringInfo(&sql, "UPDATE %s SET ", table);
		for (int i = 0; i < statements->nupdated; i++)
			appendStringInfo(&sql, "%s%s = DEFAULT", i ? ", " : "", column(target, statements->updated[i]));
		append_key(target, &sql, 0);
		statements->reset = prepare(target, sql.data, 0, NULL, true);
	}
	resetStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s SET ", table);
	append_assignments(target, &sql, statements->nmapped, statements->mapped);
	append_key(target, &sql, statements->nmapped);
	statements->move = prepare(target, sql.data, statements->nmapped, statements->mapped, true);
}

static void
prepare_reads(DwTarget *target, StatementTarget *statements, const char *table)
{
	StringInfoData sql;
	TupleDesc	desc = target->flow->target_desc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < desc->natts; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "",
						 TupleDescAttr(desc, i)->attisdropped ? "NULL" : column(target, i + 1));
	appendStringInfo(&sql, " FROM %s", table);
	append_key(target, &sql, 0);
	statements->select = prepare(target, sql.data, 0, NULL, true);

	resetStringInfo(&sql);
	appendStringInfo(&sql, "SELECT 1 FROM %s", table);
	append_key(target, &sql, 0);
	statements->exists = prepare(target, sql.data, 0, NULL, true);

	resetStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s", table);
	append_key(target, &sql, 0);
	statements->delete = prepare(target, sql.data, 0, NULL, true);
}

static void
release_plans(void *arg)
{
	StatementTarget *statements = arg;
	SPIPlanPtr	plans[] = {statements->insert, statements->update, statements->exists, statements->delete,
	statements->reset, statements->move, statements->select};

	for (size_t i = 0; i < lengthof(plans); i++)
		if (plans[i] != NULL)
			SPI_freeplan(plans[i]);
}

static void
statement_open(DwTarget *target)
{
	StatementTarget *statements = palloc0(sizeof(StatementTarget));
	const DwFlow *flow = target->flow;
	Bitmapset  *beside_key = bms_copy(flow->mapped);
	char	   *table = quote_qualified_identifier(get_namespace_name(get_rel_namespace(flow->target)),
												   get_rel_name(flow->target));

	for (int i = 0; i < flow->target_key->ncolumns; i++)
		beside_key = bms_del_member(beside_key, flow->target_key->columns[i]);
	statements->inserted = column_array(flow->inserted, &statements->ninserted);
	statements->updated = column_array(beside_key, &statements->nupdated);
	statements->mapped = column_array(flow->mapped, &statements->nmapped);
	target->private = statements;
	statements->release.func = release_plans;
	statements->release.arg = statements;
	MemoryContextRegisterResetCallback(target->context, &statements->release);

	SPI_connect();
	prepare_insert(target, statements, table);
	prepare_updates(target, statements, table);
	prepare_reads(target, statements, table);
	SPI_finish();
}

static void
statement_close(DwTarget *target)
{
	(void) target;				/* the memory context's callback frees the plans */
}

/* Columns of row, then the key, as parameters. */
static uint64
run(DwTarget *target, SPIPlanPtr plan, int ncolumns, const AttrNumber *columns, TupleTableSlot *row, const DwKey *key,
	Snapshot snapshot)
{
	int			nkey = key ? target->flow->target_key->ncolumns : 0;
	Datum	   *values = palloc(sizeof(Datum) * (ncolumns + nkey + 1));
	char	   *nulls = palloc(ncolumns + nkey + 1);
	Oid			outer = writing;
	int			rc;

	for (int i = 0; i < ncolumns; i++)
	{
		values[i] = row->tts_values[columns[i] - 1];
		nulls[i] = row->tts_isnull[columns[i] - 1] ? 'n' : ' ';
	}
	for (int i = 0; i < nkey; i++)
	{
		values[ncolumns + i] = key->values[i];
		nulls[ncolumns + i] = ' ';
	}
	writing = target->flow->target;
	PG_TRY();
	{
		rc = SPI_execute_snapshot(plan, values, nulls, snapshot ? snapshot : GetLatestSnapshot(), InvalidSnapshot,
								  snapshot != NULL, true, 0);
	}
	PG_FINALLY();
	{
		writing = outer;
	}
	PG_END_TRY();
	if (rc < 0)
		elog(ERROR, "could not write %s: %s", target->flow->compiled->mapping->new_name, SPI_result_code_string(rc));
	return SPI_processed;
}

static void
key_of_row(DwTarget *target, TupleTableSlot *row, DwKey *key)
{
	for (int i = 0; i < target->flow->target_key->ncolumns; i++)
		key->values[i] = row->tts_values[target->flow->target_key->columns[i] - 1];
}

static DwApplied
statement_put(DwTarget *target, TupleTableSlot *row, TupleTableSlot *made_of)
{
	StatementTarget *statements = target->private;
	DwApplied	applied = DW_APPLIED_UPDATE;
	DwKey		key;
	uint64		found;

	key_of_row(target, row, &key);
	SPI_connect();
	if (statements->update != NULL)
		found = run(target, statements->update, statements->nupdated, statements->updated, row, &key, NULL);
	else
	{
		found = run(target, statements->exists, 0, NULL, NULL, &key, NULL);
		applied = DW_APPLIED_NOTHING;
	}
	if (found == 0)
	{
		applied = DW_APPLIED_NOTHING;
		if (target->flow->owns_target)
		{
			if (made_of != NULL)
				(void) dw_project(target->flow, made_of, row, NULL);
			run(target, statements->insert, statements->ninserted, statements->inserted, row, NULL, NULL);
			applied = DW_APPLIED_INSERT;
		}
	}
	SPI_finish();
	return applied;
}

static DwApplied
statement_remove(DwTarget *target, const DwKey *key)
{
	StatementTarget *statements = target->private;
	SPIPlanPtr	plan = target->flow->owns_target ? statements->delete : statements->reset;
	uint64		found;

	if (plan == NULL)
		return DW_APPLIED_NOTHING;
	SPI_connect();
	found = run(target, plan, 0, NULL, NULL, key, NULL);
	SPI_finish();
	if (found == 0)
		return DW_APPLIED_NOTHING;
	return target->flow->owns_target ? DW_APPLIED_DELETE : DW_APPLIED_UPDATE;
}

static DwApplied
statement_move(DwTarget *target, const DwKey *from, TupleTableSlot *row)
{
	StatementTarget *statements = target->private;
	DwKey		key;
	uint64		taken;
	uint64		moved = 0;

	/* an UPDATE does not take a row from one server to another */
	if (get_rel_relkind(target->flow->target) == RELKIND_PARTITIONED_TABLE)
		return DW_APPLIED_NOTHING;
	key_of_row(target, row, &key);
	SPI_connect();
	taken = run(target, statements->exists, 0, NULL, NULL, &key, NULL);
	if (taken == 0)
		moved = run(target, statements->move, statements->nmapped, statements->mapped, row, from, NULL);
	SPI_finish();
	return moved > 0 ? DW_APPLIED_UPDATE : DW_APPLIED_NOTHING;
}

static TupleTableSlot *
statement_fetch(DwTarget *target, const DwKey *key, Snapshot snapshot)
{
	StatementTarget *statements = target->private;
	TupleTableSlot *row = target->old_row;
	MemoryContext caller = CurrentMemoryContext;
	uint64		found;

	SPI_connect();
	found = run(target, statements->select, 0, NULL, NULL, key, snapshot);
	ExecClearTuple(row);
	for (int i = 0; found > 0 && i < row->tts_tupleDescriptor->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(row->tts_tupleDescriptor, i);
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &row->tts_isnull[i]);
		MemoryContext spi = MemoryContextSwitchTo(caller);

		row->tts_values[i] = row->tts_isnull[i] ? (Datum) 0 : datumCopy(value, att->attbyval, att->attlen);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return found > 0 ? ExecStoreVirtualTuple(row) : NULL;
}

const DwEngine dw_statement_engine = {
	.open = statement_open,
	.close = statement_close,
	.put = statement_put,
	.remove = statement_remove,
	.move = statement_move,
	.fetch = statement_fetch
};
