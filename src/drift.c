/*
 * drift.c: the list of keys whose sides disagree.
 *
 * It knows nothing of tables: it keeps what compare.c found, and what became of it.  A closed row is never opened again;
 * a key that differs once more gets a row of its own, so that the list is also a history.
 */
#include "postgres.h"

#include "drift.h"
#include "bundle.h"
#include "queue.h"
#include "settings.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

/* Advisory locks of users have 1 or 2 here. */
#define DW_LOCK_CLASS 0x6477

static const char *const kind_names[DW_NUM_DRIFT_KINDS] = {"missing", "extra", "different"};

const char *
dw_drift_kind_name(DwDriftKind kind)
{
	return kind_names[kind];
}

static bool
acquire(int32 mapping_id, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) mapping_id, 0, DW_LOCK_CLASS);
	if (LockAcquire(&tag, mode, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	/* whoever locks the list is about to compare, and writes it by what he sees */
	dw_queue_hold(mapping_id);
	return true;
}

bool
dw_drift_lock(int32 mapping_id, bool wait)
{
	return acquire(mapping_id, ExclusiveLock, wait);
}

bool
dw_drift_share(int32 mapping_id)
{
	return acquire(mapping_id, ShareLock, false);
}

static void
begin_by_index(DwSql *sql)
{
	dw_sql_begin(sql);
	dw_sql_by_index();
}

/* Arrays for unnest, one element a difference. */
typedef struct DriftArrays
{
	int			count;
	Datum	   *key;
	Datum	   *kind;
	Datum	   *columns;
	Datum	   *old_values;
	bool	   *old_null;
	Datum	   *new_values;
	bool	   *new_null;
} DriftArrays;

static ArrayType *
name_array(List *names)
{
	Datum	   *values = palloc(sizeof(Datum) * (list_length(names) + 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, names)
		values[n++] = CStringGetTextDatum(lfirst(lc));
	return construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT);
}

/* As text: an array of arrays would have to be rectangular. */
static Datum
name_array_text(List *names)
{
	return CStringGetTextDatum(OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(name_array(names))));
}

static void
fill_arrays(DriftArrays *arrays, List *differences, bool with_values)
{
	int			n = list_length(differences);
	int			i = 0;
	ListCell   *lc;

	arrays->count = n;
	arrays->key = palloc(sizeof(Datum) * n);
	arrays->kind = palloc(sizeof(Datum) * n);
	arrays->columns = palloc(sizeof(Datum) * n);
	arrays->old_values = palloc(sizeof(Datum) * n);
	arrays->old_null = palloc(sizeof(bool) * n);
	arrays->new_values = palloc(sizeof(Datum) * n);
	arrays->new_null = palloc(sizeof(bool) * n);
	foreach(lc, differences)
	{
		DwDifference *difference = lfirst(lc);

		arrays->key[i] = PointerGetDatum(difference->key);
		arrays->kind[i] = CStringGetTextDatum(kind_names[difference->kind]);
		arrays->columns[i] = name_array_text(difference->columns);
		arrays->old_values[i] = PointerGetDatum(difference->old_values);
		arrays->old_null[i] = !with_values || difference->old_values == NULL;
		arrays->new_values[i] = PointerGetDatum(difference->new_values);
		arrays->new_null[i] = !with_values || difference->new_values == NULL;
		i++;
	}
}

static DwArg
array_arg(Oid element, Datum *values, bool *nulls, int count)
{
	int			dims[1] = {count};
	int			lower[1] = {1};
	ArrayType  *array = construct_md_array(values, nulls, 1, dims, lower, element, -1, false, TYPALIGN_INT);

	return DW_DATUM(element == JSONBOID ? JSONBARRAYOID : TEXTARRAYOID, PointerGetDatum(array), false);
}

static void
add_tally(DwTally *tally)
{
	bool		isnull;

	if (tally == NULL)
		return;
	for (int kind = 0; kind < DW_NUM_DRIFT_KINDS; kind++)
		tally->kinds[kind] += DatumGetInt64(dw_sql_value(0, kind + 1, &isnull));
}

void
dw_drift_record(DwCompiled *compiled, int64 pass, List *differences, DwTally *tally)
{
	DriftArrays arrays;
	DwSql		sql;

	if (differences == NIL)
		return;
	dw_sql_begin(&sql);
	fill_arrays(&arrays, differences, dw_setting_bool(compiled->migration_id, "drift_values"));
	dw_sql("WITH seen AS ("
		   "INSERT INTO _dualwrite.drift AS d (mapping_id, last_pass, key, kind, columns, old_values, new_values)"
		   " SELECT DISTINCT ON (u.key) $1, $2, u.key, u.kind, u.columns::text[], u.old_values, u.new_values"
		   "  FROM unnest($3, $4, $5, $6, $7) AS u (key, kind, columns, old_values, new_values)"
		   "  ORDER BY u.key"
		   " ON CONFLICT (mapping_id, digest) WHERE state IN ('open', 'ignored') DO UPDATE SET"
		   "  last_pass = excluded.last_pass, kind = excluded.kind, columns = excluded.columns,"
		   "  old_values = excluded.old_values, new_values = excluded.new_values,"
		   "  (state, reason, detected_at) = (SELECT"
		   "    CASE WHEN same THEN d.state ELSE 'open' END, CASE WHEN same THEN d.reason END,"
		   "    CASE WHEN same OR d.state = 'open' THEN d.detected_at ELSE excluded.detected_at END"
		   "   FROM (SELECT (d.kind, d.columns, d.old_values, d.new_values) IS NOT DISTINCT FROM"
		   "      (excluded.kind, excluded.columns, excluded.old_values, excluded.new_values) AS same) AS s)"
		   " RETURNING kind, state)"
		   "SELECT count(*) FILTER (WHERE kind = 'missing'), count(*) FILTER (WHERE kind = 'extra'),"
		   " count(*) FILTER (WHERE kind = 'different') FROM seen WHERE state = 'open'",
		   7, (DwArg[])
		   {
			   DW_INT4(compiled->mapping_id), DW_INT8(pass),
			   array_arg(JSONBOID, arrays.key, NULL, arrays.count),
			   array_arg(TEXTOID, arrays.kind, NULL, arrays.count),
			   array_arg(TEXTOID, arrays.columns, NULL, arrays.count),
			   array_arg(JSONBOID, arrays.old_values, arrays.old_null, arrays.count),
			   array_arg(JSONBOID, arrays.new_values, arrays.new_null, arrays.count)
		   });
	add_tally(tally);
	dw_sql_end(&sql);
}

/* Of keys (by position), those that have a row of their own. */
static Bitmapset *
listed_keys(int32 mapping_id, List *differences, int from)
{
	int			count = list_length(differences) - from;
	Datum	   *keys = palloc(sizeof(Datum) * count);
	Bitmapset  *listed = NULL;
	DwSql		sql;
	uint64		rows;
	bool		isnull;

	for (int i = 0; i < count; i++)
		keys[i] = PointerGetDatum(((DwDifference *) list_nth(differences, from + i))->key);
	begin_by_index(&sql);
	/* LIMIT: a probe of the index a key, not a join */
	rows = dw_sql("SELECT u.i::int FROM unnest($2) WITH ORDINALITY AS u (key, i) CROSS JOIN LATERAL (SELECT FROM _dualwrite.drift AS d"
				  " WHERE d.mapping_id = $1 AND d.digest = _dualwrite.key_digest(u.key) AND d.state IN ('open', 'ignored') LIMIT 1) AS l",
				  2, (DwArg[]) {DW_INT4(mapping_id), array_arg(JSONBOID, keys, NULL, count)});
	MemoryContextSwitchTo(sql.caller);
	for (uint64 i = 0; i < rows; i++)
		listed = bms_add_member(listed, from + DatumGetInt32(dw_sql_value(i, 1, &isnull)) - 1);
	dw_sql_end(&sql);
	return listed;
}

void
dw_drift_record_some(DwCompiled *compiled, int64 pass, List *differences, int64 room, DwTally *tally)
{
	List	   *single = NIL;
	List	   *bundled[DW_NUM_DRIFT_KINDS] = {NIL};
	Bitmapset  *listed;

	if (list_length(differences) <= room)
	{
		dw_drift_record(compiled, pass, differences, tally);
		return;
	}
	listed = listed_keys(compiled->mapping_id, differences, (int) room);
	for (int i = 0; i < list_length(differences); i++)
	{
		DwDifference *difference = list_nth(differences, i);

		if (i < room || bms_is_member(i, listed))
			single = lappend(single, difference);
		else
			bundled[difference->kind] = lappend(bundled[difference->kind], difference->key);
	}
	dw_drift_record(compiled, pass, single, tally);
	for (int kind = 0; kind < DW_NUM_DRIFT_KINDS; kind++)
	{
		dw_bundle_add(compiled->mapping_id, pass, kind_names[kind], bundled[kind]);
		if (tally != NULL)
			tally->kinds[kind] += list_length(bundled[kind]);
	}
}

/* First column of the result, jsonb, copied to the caller's memory. */
static List *
key_list(DwSql *sql, uint64 count)
{
	MemoryContext old = MemoryContextSwitchTo(sql->caller);
	List	   *keys = NIL;

	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;

		keys = lappend(keys, DatumGetJsonbPCopy(dw_sql_value(i, 1, &isnull)));
	}
	MemoryContextSwitchTo(old);
	return keys;
}

/* In the order of the index: what is behind the key of argument 3, all of it where that is null. */
#define BEHIND_KEY_3 \
	"digest > coalesce(_dualwrite.key_digest($3), '00000000-0000-0000-0000-000000000000') ORDER BY digest"

List *
dw_drift_unseen(int32 mapping_id, int64 pass, Jsonb *after, int limit)
{
	List	   *keys;
	DwSql		sql;

	begin_by_index(&sql);
	keys = key_list(&sql, dw_sql("SELECT key FROM _dualwrite.drift WHERE mapping_id = $1 AND state IN ('open', 'ignored')"
								 " AND last_pass <> $2 AND " BEHIND_KEY_3 " LIMIT $4",
								 4, (DwArg[]) {DW_INT4(mapping_id), DW_INT8(pass), DW_JSONB(after), DW_INT4(limit)}));
	dw_sql_end(&sql);
	return keys;
}

List *
dw_drift_list(int32 mapping_id, int64 pass, Jsonb *after, int limit)
{
	List	   *keys;
	DwSql		sql;

	begin_by_index(&sql);
	keys = key_list(&sql, dw_sql("SELECT key FROM _dualwrite.drift WHERE mapping_id = $1 AND state IN ('open', 'ignored')"
								 " AND state = 'open' AND ($2 = 0 OR last_pass = $2) AND " BEHIND_KEY_3 " LIMIT $4",
								 4, (DwArg[]) {DW_INT4(mapping_id), DW_INT8(pass), DW_JSONB(after), DW_INT4(limit)}));
	dw_sql_end(&sql);
	return keys;
}

void
dw_drift_gone(int32 mapping_id, List *keys)
{
	Datum	   *values = palloc(sizeof(Datum) * (list_length(keys) + 1));
	int			n = 0;
	DwSql		sql;
	ListCell   *lc;

	foreach(lc, keys)
		values[n++] = PointerGetDatum(lfirst(lc));
	if (n == 0)
		return;
	begin_by_index(&sql);
	dw_sql("UPDATE _dualwrite.drift AS d SET state = 'gone', closed_at = clock_timestamp() FROM unnest($2) AS k (key)"
		   " WHERE d.mapping_id = $1 AND d.digest = _dualwrite.key_digest(k.key) AND d.state IN ('open', 'ignored')",
		   2, (DwArg[]) {DW_INT4(mapping_id), array_arg(JSONBOID, values, NULL, n)});
	dw_sql_end(&sql);
}

/*
 * A key without a row gets one all the same, as the overwritten values must be somewhere; unless there was nothing to be
 * overwritten.
 */
void
dw_drift_repaired(DwCompiled *compiled, const DwDifference *overwritten)
{
	bool		with_values = dw_setting_bool(compiled->migration_id, "drift_values");
	DwSql		sql;

	begin_by_index(&sql);
	dw_sql("WITH known AS ("
		   "UPDATE _dualwrite.drift SET state = 'repaired', closed_at = clock_timestamp(), reason = NULL,"
		   "  kind = $3, columns = $4, old_values = $5, new_values = $6"
		   " WHERE mapping_id = $1 AND digest = _dualwrite.key_digest($2) AND state IN ('open', 'ignored') RETURNING key)"
		   "INSERT INTO _dualwrite.drift (mapping_id, key, kind, columns, old_values, new_values, last_pass, state, closed_at)"
		   " SELECT $1, $2, $3, $4, $5, $6, 0, 'repaired', clock_timestamp() WHERE $7 AND NOT EXISTS (SELECT FROM known)",
		   7, (DwArg[])
		   {
			   DW_INT4(compiled->mapping_id), DW_JSONB(overwritten->key),
			   DW_TEXT(kind_names[overwritten->kind]),
			   DW_DATUM(TEXTARRAYOID, PointerGetDatum(name_array(overwritten->columns)), false),
			   DW_DATUM(JSONBOID, PointerGetDatum(overwritten->old_values), !with_values || overwritten->old_values == NULL),
			   DW_DATUM(JSONBOID, PointerGetDatum(overwritten->new_values), !with_values || overwritten->new_values == NULL),
			   DW_BOOL((DW_TRUTH_DIRECTION(compiled->phase) == DW_FORWARD ? overwritten->new_values : overwritten->old_values) != NULL)
		   });
	dw_sql_end(&sql);
}

void
dw_drift_failed(int32 mapping_id, Jsonb *key, const char *message)
{
	DwSql		sql;

	begin_by_index(&sql);
	dw_sql("UPDATE _dualwrite.drift SET reason = $3 WHERE mapping_id = $1 AND digest = _dualwrite.key_digest($2) AND state IN ('open', 'ignored')",
		   3, (DwArg[]) {DW_INT4(mapping_id), DW_JSONB(key), DW_TEXT(message)});
	dw_sql_end(&sql);
}

bool
dw_drift_ignore(int32 mapping_id, Jsonb *key, const char *reason)
{
	uint64		found;
	DwSql		sql;

	begin_by_index(&sql);
	found = dw_sql("UPDATE _dualwrite.drift SET state = 'ignored', reason = $3"
				   " WHERE mapping_id = $1 AND digest = _dualwrite.key_digest($2) AND state IN ('open', 'ignored')",
				   3, (DwArg[]) {DW_INT4(mapping_id), DW_JSONB(key), DW_TEXT(reason)});
	dw_sql_end(&sql);
	return found > 0;
}

/* A batch of a few hundred milliseconds at most. */
#define DW_MOST_EXPIRED 10000

bool
dw_drift_expire(int32 migration_id, TimestampTz before)
{
	int64		removed;
	DwSql		sql;

	begin_by_index(&sql);
	removed = (int64) dw_sql("DELETE FROM _dualwrite.drift WHERE id = ANY (ARRAY("
							 "SELECT d.id FROM _dualwrite.mapping AS m JOIN _dualwrite.drift AS d ON d.mapping_id = m.id"
							 " WHERE m.migration_id = $1 AND d.closed_at < $2 LIMIT $3))",
							 3, (DwArg[]) {DW_INT4(migration_id), DW_TIME(before), DW_INT8(DW_MOST_EXPIRED)});
	dw_sql_end(&sql);
	return removed == DW_MOST_EXPIRED;
}
