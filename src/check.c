/*
 * check.c: SQL functions that compare and repair: arguments are checked here, the work is done elsewhere.
 */
#include "postgres.h"

#include "bundle.h"
#include "drift.h"
#include "enforce.h"
#include "pass.h"
#include "reconcile.h"
#include "repair.h"
#include "sql.h"
#include "worker.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(dw_check_constraints_sql);
PG_FUNCTION_INFO_V1(dw_reconcile_sql);
PG_FUNCTION_INFO_V1(dw_repair_sql);
PG_FUNCTION_INFO_V1(dw_ignore_drift_sql);

/* Keys repaired by one call of the core function. */
#define DW_REPAIR_BATCH 256

static void
refuse_null(const char *function, const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("argument \"%s\" of dualwrite.%s must not be null", argument, function),
			 errhint("Give it a value: %s => ….", argument)));
}

/* The migration named by argument 0, which the caller may drive. */
static DwMigration *
migration_argument(FunctionCallInfo fcinfo, const char *function, bool lock)
{
	DwMigration *migration;

	if (PG_ARGISNULL(0))
		refuse_null(function, "migration");
	migration = dw_migration_get(text_to_cstring(PG_GETARG_TEXT_PP(0)), lock);
	dw_migration_check_owner(migration);
	return migration;
}

/* reconcile */

static void
check_may_reconcile(const DwMigration *migration, bool background)
{
	if (migration->phase < DW_PHASE_SHADOW || migration->phase > DW_PHASE_CUTOVER)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is in phase \"%s\": nothing keeps its sides in agreement",
						migration->name, dw_phase_name(migration->phase)),
				 errhint("Both sides can be compared from shadow to cutover.")));
	if (background && migration->phase < DW_PHASE_VERIFY)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is in phase \"%s\": it is not compared in the background before \"verify\"",
						migration->name, dw_phase_name(migration->phase)),
				 errhint("Call dualwrite.reconcile without background to compare it now.")));
}

static double
sample_argument(FunctionCallInfo fcinfo)
{
	double		percent;

	if (PG_ARGISNULL(1))
		refuse_null("reconcile", "sample_percent");
	percent = DatumGetFloat8(DirectFunctionCall1(numeric_float8, PG_GETARG_DATUM(1)));
	if (!(percent > 0 && percent <= 100))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sample_percent must be above 0 and at most 100"),
				 errhint("100 compares every row.")));
	return percent;
}

static void
put_result(ReturnSetInfo *result, Oid old_table, Oid new_table, int64 rows, const DwTally *found)
{
	Datum		values[6] = {
		ObjectIdGetDatum(old_table), ObjectIdGetDatum(new_table), Int64GetDatum(rows),
		Int64GetDatum(found->kinds[DW_DRIFT_MISSING]), Int64GetDatum(found->kinds[DW_DRIFT_EXTRA]),
		Int64GetDatum(found->kinds[DW_DRIFT_DIFFERENT])
	};
	bool		nulls[6] = {0};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* What the last finished passes of this epoch have found. */
static void
put_last_passes(ReturnSetInfo *result, const DwMigration *migration)
{
	DwSql		sql;
	uint64		rows;

	dw_sql_begin(&sql);
	rows = dw_sql("SELECT m.old_table::oid, m.new_table::oid, p.rows_compared, p.missing, p.extra, p.different"
				  " FROM _dualwrite.mapping AS m JOIN LATERAL (SELECT * FROM _dualwrite.reconcile_pass AS p"
				  "  WHERE p.mapping_id = m.id AND p.epoch = $2 AND p.sample_percent = 100 AND p.finished_at IS NOT NULL"
				  "  ORDER BY p.finished_at DESC LIMIT 1) AS p ON true WHERE m.migration_id = $1 ORDER BY m.ordinal",
				  2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)});
	for (uint64 i = 0; i < rows; i++)
	{
		bool		isnull;
		DwTally		found;

		for (int kind = 0; kind < DW_NUM_DRIFT_KINDS; kind++)
			found.kinds[kind] = DatumGetInt64(dw_sql_value(i, 4 + kind, &isnull));
		put_result(result, DatumGetObjectId(dw_sql_value(i, 1, &isnull)), DatumGetObjectId(dw_sql_value(i, 2, &isnull)),
				   DatumGetInt64(dw_sql_value(i, 3, &isnull)), &found);
	}
	dw_sql_end(&sql);
}

Datum
dw_reconcile_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration = migration_argument(fcinfo, "reconcile", false);
	double		percent = sample_argument(fcinfo);
	bool		background = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	check_may_reconcile(migration, background);
	InitMaterializedSRF(fcinfo, 0);
	if (background)
	{
		dw_pass_request(migration, percent);
		dw_worker_wake();
		put_last_passes(result, migration);
		return (Datum) 0;
	}
	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);
		DwPass		pass;

		dw_reconcile_foreground(migration, mapping->id, percent, &pass);
		put_result(result, mapping->old_table, mapping->new_table, pass.rows_compared, &pass.found);
	}
	return (Datum) 0;
}

/* repair */

/* The drift of all mappings, in the order in which dualwrite.reconcile takes them: two callers never deadlock over it. */
static void
lock_drift(const DwMigration *migration)
{
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
		dw_drift_lock(((DwMapping *) lfirst(lc))->id, true);
}

/* Has this key exactly the mapping's key columns? */
static bool
key_fits(const DwMapping *mapping, Jsonb *key)
{
	ListCell   *lc;

	if (!JB_ROOT_IS_OBJECT(key) || (int) JB_ROOT_COUNT(key) != list_length(mapping->key_columns))
		return false;
	foreach(lc, mapping->key_columns)
	{
		JsonbValue	buffer;

		if (getKeyJsonValueFromContainer(&key->root, lfirst(lc), strlen(lfirst(lc)), &buffer) == NULL)
			return false;
	}
	return true;
}

/*
 * Mappings that a call is about, compiled, parents before children: those into new_table (InvalidOid: all), and, with a
 * key, those that have such a key.  Where no key fits, the first: reading the key will tell what is wrong with it.
 */
static List *
mappings_for(const DwMigration *migration, Oid new_table, Jsonb *key)
{
	List	   *into = NIL;
	List	   *fitting = NIL;
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
	{
		dw_heaps_of(((DwMapping *) lfirst(lc))->old_table, AccessShareLock);
		dw_heaps_of(((DwMapping *) lfirst(lc))->new_table, AccessShareLock);
	}
	foreach(lc, dw_compiled_of(migration->id))
	{
		DwCompiled *compiled = lfirst(lc);

		if (OidIsValid(new_table) && compiled->mapping->new_table != new_table)
			continue;
		into = lappend(into, compiled);
		if (key == NULL || key_fits(compiled->mapping, key))
			fitting = lappend(fitting, compiled);
	}
	if (into == NIL && OidIsValid(new_table))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("migration \"%s\" has no mapping into table %s", migration->name,
						DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(new_table)))),
				 errhint("See dualwrite.mappings for its tables.")));
	return fitting != NIL || into == NIL ? fitting : list_make1(linitial(into));
}

/* The key as it is stored.  ERROR 22023 for one that does not fit. */
static Jsonb *
stored_key(DwCompiled *compiled, Jsonb *json)
{
	DwKey		key;

	dw_key_from_jsonb(compiled, json, &key);
	return dw_key_to_jsonb(compiled, &key);
}

/* Open drift of a mapping, about so many keys (0: all). */
static void
repair_keys(DwRepair *repair, int64 most)
{
	while (most == 0 || repair->tried < most)
	{
		int			limit = most == 0 ? DW_REPAIR_BATCH : (int) Min(most - repair->tried, DW_REPAIR_BATCH);

		CHECK_FOR_INTERRUPTS();
		if (!dw_repair_next(repair, limit))
			break;
	}
}

/* Argument 4: 0 for NULL. */
static int64
max_keys_argument(FunctionCallInfo fcinfo)
{
	int64		most = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT64(4);

	if (!PG_ARGISNULL(4) && most <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_keys must be positive"),
				 errhint("NULL repairs all keys.")));
	return most;
}

Datum
dw_repair_sql(PG_FUNCTION_ARGS)
{
	/* locked: the truth must not change meanwhile */
	DwMigration *migration = migration_argument(fcinfo, "repair", true);
	Jsonb	   *key = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	Oid			new_table = PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2);
	bool		dry_run = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	int64		most = max_keys_argument(fcinfo);
	int64		repaired = 0;
	int64		tried = 0;
	ListCell   *lc;

	dw_repair_check_allowed(migration);
	if (!dry_run)
		lock_drift(migration);
	foreach(lc, mappings_for(migration, new_table, key))
	{
		DwCompiled *compiled = lfirst(lc);
		DwRepair	repair = {
			.migration = migration, .mapping_id = compiled->mapping_id,
			.dry_run = dry_run, .raise = key != NULL, .skip_level = NOTICE
		};

		if (key != NULL)
			dw_repair_single(&repair, stored_key(compiled, key));
		else if (most == 0 || tried < most)
			repair_keys(&repair, most == 0 ? 0 : most - tried);
		repaired += repair.repaired;
		tried += repair.tried;
	}
	if (!dry_run)
		dw_repair_record(migration, key, repaired);
	PG_RETURN_INT64(repaired);
}

/* ignore_drift */

static void
record_ignore(const DwMigration *migration, Jsonb *key, const char *reason)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfoString(&detail, "{\"key\": ");
	JsonbToCString(&detail, &key->root, VARSIZE(key));
	appendStringInfoChar(&detail, '}');
	dw_event_record(migration->name, "ignore_drift", -1, -1, NIL, reason, detail.data);
}

/* One that has no row of its own gets one now: it is ignored for as long as its values are those. */
static bool
ignore_key(DwCompiled *compiled, Jsonb *json, const char *reason)
{
	DwCompare  *compare;
	DwDifference *found = NULL;
	DwKey		key;

	if (dw_drift_ignore(compiled->mapping_id, json, reason))
		return true;
	compare = dw_compare_open(compiled->mapping_id);
	if (compare != NULL)
	{
		dw_key_from_jsonb(dw_compare_compiled(compare), json, &key);
		found = dw_compare_key(compare, &key, false);
		if (found != NULL)
			dw_drift_record(dw_compare_compiled(compare), 0, list_make1(found), NULL);
		dw_compare_close(compare);
	}
	dw_bundle_remove(compiled->mapping_id, json);
	return found != NULL && dw_drift_ignore(compiled->mapping_id, json, reason);
}

Datum
dw_ignore_drift_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration = migration_argument(fcinfo, "ignore_drift", false);
	Jsonb	   *key;
	char	   *reason;
	bool		found = false;
	ListCell   *lc;

	if (PG_ARGISNULL(1))
		refuse_null("ignore_drift", "key");
	if (PG_ARGISNULL(2))
		refuse_null("ignore_drift", "reason");
	key = PG_GETARG_JSONB_P(1);
	reason = text_to_cstring(PG_GETARG_TEXT_PP(2));
	lock_drift(migration);
	foreach(lc, mappings_for(migration, InvalidOid, key))
	{
		DwCompiled *compiled = lfirst(lc);

		found |= ignore_key(compiled, stored_key(compiled, key), reason);
	}
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("migration \"%s\" has no open drift for key %s", migration->name,
						JsonbToCString(NULL, &key->root, VARSIZE(key))),
				 errhint("See dualwrite.drift for the keys that differ.")));
	record_ignore(migration, key, reason);
	PG_RETURN_VOID();
}

/* dualwrite.check_constraints(migration) */
Datum
dw_check_constraints_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration = migration_argument(fcinfo, "check_constraints", false);

	dw_enforce_request(migration);
	PG_RETURN_INT64(dw_enforced(migration).unmet);
}
