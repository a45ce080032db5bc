/*
 * bundle.c: keys that differ, many in a row of the catalog.
 *
 * A table that was emptied, or filled, by mistake makes a million differences: a row each, with the values of both sides, would take longer to write than the table took
 * to compare, and more space than it.  So behind drift_max_keys a pass keeps keys alone, some hundred in a row, compressed; the values
 * are where they always were, in the tables.  Every key is still there by name, and leaves one by one or with its bundle.
 *
 * A full pass meets every key, so that its bundles replace those of earlier ones when it has ended; until then the old ones
 * stand.  Whoever writes here holds the lock on the mapping's drift.
 */
#include "postgres.h"

#include "bundle.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"

/* Keys in one bundle: repaired in one transaction. */
#define DW_BUNDLE_KEYS 500

void
dw_bundle_add(int32 mapping_id, int64 pass, const char *kind, List *keys)
{
	Datum	   *values = palloc(sizeof(Datum) * DW_BUNDLE_KEYS);
	int			count = 0;
	DwSql		sql;
	ListCell   *lc;

	dw_sql_begin(&sql);
	foreach(lc, keys)
	{
		ArrayType  *array;

		values[count++] = PointerGetDatum(lfirst(lc));
		if (count < DW_BUNDLE_KEYS && lnext(keys, lc) != NULL)
			continue;
		array = construct_array(values, count, JSONBOID, -1, false, TYPALIGN_INT);
		dw_sql("INSERT INTO _dualwrite.drift_bundle (mapping_id, pass, kind, keys) VALUES ($1, $2, $3, $4)",
			   4, (DwArg[]) {DW_INT4(mapping_id), DW_INT8(pass), DW_TEXT(kind),
			   DW_DATUM(JSONBARRAYOID, PointerGetDatum(array), false)});
		pfree(array);
		count = 0;
	}
	dw_sql_end(&sql);
	pfree(values);
}

void
dw_bundle_discard(int32 mapping_id)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("DELETE FROM _dualwrite.drift_bundle WHERE mapping_id = $1 AND NOT settled", 1, (DwArg[]) {DW_INT4(mapping_id)});
	dw_sql_end(&sql);
}

void
dw_bundle_settle(int32 mapping_id, int64 pass, bool full)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	if (full)
		dw_sql("DELETE FROM _dualwrite.drift_bundle WHERE mapping_id = $1 AND pass <> $2 AND settled",
			   2, (DwArg[]) {DW_INT4(mapping_id), DW_INT8(pass)});
	dw_sql("UPDATE _dualwrite.drift_bundle SET settled = true WHERE mapping_id = $1 AND pass = $2 AND NOT settled",
		   2, (DwArg[]) {DW_INT4(mapping_id), DW_INT8(pass)});
	dw_sql_end(&sql);
}

bool
dw_bundle_exists(int32 mapping_id)
{
	DwSql		sql;
	bool		exists;

	dw_sql_begin(&sql);
	exists = dw_sql("SELECT FROM _dualwrite.drift_bundle WHERE mapping_id = $1 LIMIT 1", 1, (DwArg[]) {DW_INT4(mapping_id)}) > 0;
	dw_sql_end(&sql);
	return exists;
}

List *
dw_bundle_next(int32 mapping_id, int64 *id)
{
	List	   *keys = NIL;
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT id, keys FROM _dualwrite.drift_bundle WHERE mapping_id = $1 AND settled AND id > $2 ORDER BY id LIMIT 1",
			   2, (DwArg[]) {DW_INT4(mapping_id), DW_INT8(*id)}) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(sql.caller);
		ArrayType  *array = DatumGetArrayTypePCopy(dw_sql_value(0, 2, &isnull));
		Datum	   *values;
		int			count;

		*id = DatumGetInt64(dw_sql_value(0, 1, &isnull));
		deconstruct_array(array, JSONBOID, -1, false, TYPALIGN_INT, &values, NULL, &count);
		for (int i = 0; i < count; i++)
			keys = lappend(keys, DatumGetJsonbP(values[i]));
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return keys;
}

void
dw_bundle_forget(int64 id)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("DELETE FROM _dualwrite.drift_bundle WHERE id = $1", 1, (DwArg[]) {DW_INT8(id)});
	dw_sql_end(&sql);
}

void
dw_bundle_remove(int32 mapping_id, Jsonb *key)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT FROM _dualwrite.drift_bundle WHERE mapping_id = $1 LIMIT 1", 1, (DwArg[]) {DW_INT4(mapping_id)}) > 0)
		dw_sql("UPDATE _dualwrite.drift_bundle SET keys = array_remove(keys, $2) WHERE mapping_id = $1 AND keys @> ARRAY[$2]",
			   2, (DwArg[]) {DW_INT4(mapping_id), DW_JSONB(key)});
	dw_sql("DELETE FROM _dualwrite.drift_bundle WHERE mapping_id = $1 AND keys = '{}'", 1, (DwArg[]) {DW_INT4(mapping_id)});
	dw_sql_end(&sql);
}
