/*
 * ranges.c: the parts of a background pass that are still to be compared.
 *
 * Rows of _dualwrite.reconcile_range and nothing else.  A process claims one by its row lock for the length of one
 * transaction, so that a range is free again whatever becomes of the process.
 */
#include "postgres.h"

#include "ranges.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

static const char *const reading_names[] = {"old", "both", "new", "touched_old", "touched_new"};

static DwArg
heap_arg(Oid heap)
{
	return DW_DATUM(REGCLASSOID, ObjectIdGetDatum(heap), !OidIsValid(heap));
}

static void
insert_range(int64 pass, const DwRange *range)
{
	const DwSpan *span = &range->span;

	dw_sql("INSERT INTO _dualwrite.reconcile_range (pass, ordinal, reading, heap, last_key, end_heap, end_key, file, next_block, end_block)"
		   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
		   10, (DwArg[])
		   {
			   DW_INT8(pass), DW_INT4(range->ordinal), DW_TEXT(reading_names[range->reading]), heap_arg(span->heap),
			   DW_JSONB(span->last_key), heap_arg(span->end_heap), DW_JSONB(span->end_key),
			   DW_OID(range->file), DW_INT8((int64) range->next_block), DW_INT8((int64) range->end_block)
		   });
}

void
dw_ranges_replace(int64 pass, List *ranges)
{
	ListCell   *lc;
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("DELETE FROM _dualwrite.reconcile_range WHERE pass = $1", 1, (DwArg[]) {DW_INT8(pass)});
	foreach(lc, ranges)
		insert_range(pass, lfirst(lc));
	dw_sql("UPDATE _dualwrite.reconcile_pass SET ranges = $2, in_step ="
		   " EXISTS (SELECT FROM _dualwrite.reconcile_range WHERE pass = $1 AND reading = 'both') WHERE id = $1",
		   2, (DwArg[]) {DW_INT8(pass), DW_INT4(list_length(ranges))});
	dw_sql_end(&sql);
}

static DwReading
reading_from_name(const char *name)
{
	for (int reading = 0; reading < (int) lengthof(reading_names); reading++)
		if (strcmp(name, reading_names[reading]) == 0)
			return (DwReading) reading;
	elog(ERROR, "unknown reading \"%s\" of a range", name);
}

static Oid
read_heap(int column)
{
	bool		isnull;
	Datum		value = dw_sql_value(0, column, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

static Jsonb *
read_key(DwSql *sql, int column)
{
	MemoryContext old = MemoryContextSwitchTo(sql->caller);
	bool		isnull;
	Datum		value = dw_sql_value(0, column, &isnull);
	Jsonb	   *key = isnull ? NULL : DatumGetJsonbPCopy(value);

	MemoryContextSwitchTo(old);
	return key;
}

DwClaim
dw_range_claim(int64 pass, DwRange *range)
{
	DwSql		sql;
	bool		isnull;
	DwClaim		result = DW_CLAIMED;

	memset(range, 0, sizeof(DwRange));
	dw_sql_begin(&sql);
	if (dw_sql("SELECT ordinal, reading, heap::oid, last_key, end_heap::oid, end_key, file, next_block, end_block"
			   " FROM _dualwrite.reconcile_range WHERE pass = $1 ORDER BY ordinal LIMIT 1 FOR UPDATE SKIP LOCKED",
			   1, (DwArg[]) {DW_INT8(pass)}) > 0)
	{
		range->ordinal = DatumGetInt32(dw_sql_value(0, 1, &isnull));
		range->reading = reading_from_name(dw_sql_cstring(&sql, 0, 2));
		range->span.heap = read_heap(3);
		range->span.last_key = read_key(&sql, 4);
		range->span.end_heap = read_heap(5);
		range->span.end_key = read_key(&sql, 6);
		range->file = DatumGetObjectId(dw_sql_value(0, 7, &isnull));
		range->next_block = (BlockNumber) DatumGetInt64(dw_sql_value(0, 8, &isnull));
		range->end_block = (BlockNumber) DatumGetInt64(dw_sql_value(0, 9, &isnull));
	}
	else if (dw_sql("SELECT FROM _dualwrite.reconcile_range WHERE pass = $1 LIMIT 1", 1, (DwArg[]) {DW_INT8(pass)}) > 0)
		result = DW_CLAIM_ALL_TAKEN;
	else
		result = DW_CLAIM_NONE_LEFT;
	dw_sql_end(&sql);
	return result;
}

void
dw_range_store(int64 pass, const DwRange *range, bool finished)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	if (finished)
		dw_sql("DELETE FROM _dualwrite.reconcile_range WHERE pass = $1 AND ordinal = $2",
			   2, (DwArg[]) {DW_INT8(pass), DW_INT4(range->ordinal)});
	else
		dw_sql("UPDATE _dualwrite.reconcile_range SET reading = $3, heap = $4, last_key = $5, end_heap = $6, next_block = $7"
			   " WHERE pass = $1 AND ordinal = $2",
			   7, (DwArg[])
			   {
				   DW_INT8(pass), DW_INT4(range->ordinal), DW_TEXT(reading_names[range->reading]), heap_arg(range->span.heap),
				   DW_JSONB(range->span.last_key), heap_arg(range->span.end_heap), DW_INT8((int64) range->next_block)
			   });
	dw_sql_end(&sql);
}

int
dw_ranges_left(int32 migration_id, int uncut)
{
	DwSql		sql;
	bool		isnull;
	int64		left;

	dw_sql_begin(&sql);
	dw_sql("SELECT coalesce(sum(CASE p.stage WHEN 'begin' THEN $2 ELSE (SELECT count(*) FROM _dualwrite.reconcile_range AS r"
		   "  WHERE r.pass = p.id) END), 0)::int8 FROM _dualwrite.reconcile_pass AS p"
		   " JOIN _dualwrite.mapping AS m ON m.id = p.mapping_id WHERE m.migration_id = $1 AND p.finished_at IS NULL",
		   2, (DwArg[]) {DW_INT4(migration_id), DW_INT4(uncut)});
	left = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
	return (int) left;
}
