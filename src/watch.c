/*
 * watch.c: SQL functions behind configure() and the views that need more than tables: settings, counters, workers.
 */
#include "postgres.h"

#include "catalog.h"
#include "mapping.h"
#include "settings.h"
#include "slots.h"
#include "sql.h"
#include "stats.h"
#include "worker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dw_configure_sql);
PG_FUNCTION_INFO_V1(dw_reset_stats_sql);
PG_FUNCTION_INFO_V1(dw_setting_list_sql);
PG_FUNCTION_INFO_V1(dw_mirror_counters_sql);
PG_FUNCTION_INFO_V1(dw_worker_list_sql);
PG_FUNCTION_INFO_V1(dw_origin_sql);

static void
refuse_null(const char *argument, const char *view)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("argument \"%s\" must not be null", argument),
			 errhint("Name one of dualwrite.%s.", view)));
}

/* The migration named by argument 0, locked, which the caller may drive. */
static DwMigration *
migration_argument(FunctionCallInfo fcinfo)
{
	DwMigration *migration;

	if (PG_ARGISNULL(0))
		refuse_null("migration", "status");
	migration = dw_migration_get(text_to_cstring(PG_GETARG_TEXT_PP(0)), true);
	dw_migration_check_owner(migration);
	return migration;
}

/* Store the value, or remove it (NULL). */
static void
store_setting(const DwMigration *migration, const char *setting, const char *value)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	if (value == NULL)
		(void) dw_sql("DELETE FROM _dualwrite.setting "
					  "WHERE migration_id OPERATOR(pg_catalog.=) $1 AND setting OPERATOR(pg_catalog.=) $2",
					  2, (DwArg[]) {DW_INT4(migration->id), DW_TEXT(setting)});
	else
		(void) dw_sql("INSERT INTO _dualwrite.setting (migration_id, setting, value) VALUES ($1, $2, $3) "
					  "ON CONFLICT (migration_id, setting) DO UPDATE SET value = excluded.value",
					  3, (DwArg[]) {DW_INT4(migration->id), DW_TEXT(setting), DW_TEXT(value)});
	dw_sql_end(&sql);
}

static void
record_configure(const DwMigration *migration, const char *setting, const char *value)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfoString(&detail, "{\"setting\": ");
	escape_json(&detail, setting);
	appendStringInfoString(&detail, ", \"value\": ");
	if (value == NULL)
		appendStringInfoString(&detail, "null");
	else
		escape_json(&detail, value);
	appendStringInfoChar(&detail, '}');
	dw_event_record(migration->name, "configure", -1, -1, NIL, NULL, detail.data);
}

/* configure(migration, setting, value) */
Datum
dw_configure_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration = migration_argument(fcinfo);
	char	   *value = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	char	   *setting;

	if (PG_ARGISNULL(1))
		refuse_null("setting", "settings");
	setting = text_to_cstring(PG_GETARG_TEXT_PP(1));
	dw_setting_check_migration(setting, value);
	store_setting(migration, setting, value);
	record_configure(migration, setting, value);
	dw_mapping_invalidate(migration->id);
	dw_worker_wake();
	PG_RETURN_VOID();
}

/* reset_stats(migration) */
Datum
dw_reset_stats_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration = migration_argument(fcinfo);
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
		dw_stats_reset(((DwMapping *) lfirst(lc))->id);
	dw_event_record(migration->name, "reset_stats", -1, -1, NIL, NULL, NULL);
	PG_RETURN_VOID();
}

static Datum
text_datum(const char *value, bool *isnull)
{
	*isnull = value == NULL;
	return value == NULL ? (Datum) 0 : CStringGetTextDatum(value);
}

/* setting_list() -> (setting, value, default_value, unit, meaning), server-wide */
Datum
dw_setting_list_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	DwSettingInfo info;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; dw_setting_describe(i, &info); i++)
	{
		Datum		values[5];
		bool		nulls[5];

		values[0] = text_datum(info.name, &nulls[0]);
		values[1] = text_datum(info.value, &nulls[1]);
		values[2] = text_datum(info.default_value, &nulls[2]);
		values[3] = text_datum(info.unit, &nulls[3]);
		values[4] = text_datum(info.meaning, &nulls[4]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* Time in all and two percentiles, of which there are none where nothing was timed: three columns. */
static int
put_times(const DwStatsEntry *entry, Datum *values, bool *nulls, int n)
{
	values[n++] = Float8GetDatum(entry->total_ms);
	nulls[n] = entry->p50_us < 0;
	values[n++] = Float8GetDatum(entry->p50_us);
	nulls[n] = entry->p99_us < 0;
	values[n++] = Float8GetDatum(entry->p99_us);
	return n;
}

/* mirror_counters(mapping, direction) -> at most one row, in the order of the view */
Datum
dw_mirror_counters_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	DwDirection direction = strcmp(text_to_cstring(PG_GETARG_TEXT_PP(1)), "reverse") == 0 ? DW_REVERSE : DW_FORWARD;
	DwStatsEntry entry;
	DwStatsEntry own = {.p50_us = -1, .p99_us = -1};

	InitMaterializedSRF(fcinfo, 0);
	if (dw_stats_get(PG_GETARG_INT32(0), direction, &entry))
	{
		Datum		values[DW_NUM_COUNTERS + 7];
		bool		nulls[DW_NUM_COUNTERS + 7] = {0};
		int			n = 0;

		(void) dw_stats_get(PG_GETARG_INT32(0), DW_OWN_WRITES(direction), &own);
		for (int counter = 0; counter < DW_NUM_COUNTERS; counter++)
			values[n++] = Int64GetDatum(entry.counters[counter]);
		n = put_times(&entry, values, nulls, n);
		values[n++] = TimestampTzGetDatum(entry.since);
		(void) put_times(&own, values, nulls, n);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* What the view says about a slot that has no process. */
static const char *
waiting_state(const DwWorkerSlot *slot, bool crowded)
{
	if (slot->state == DW_SLOT_STARTING)
		return "starting";
	if (slot->no_room)
		return "no free process";
	if (slot->failures > 0)
		return "restarting";
	if (slot->due > GetCurrentTimestamp())
		return "waiting";
	return crowded ? "waiting for a process" : "starting";
}

/* worker_list() -> (pid, migration_id, role, state, since), those of this database */
Datum
dw_worker_list_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	DwShared   *shared = dw_shared();
	DwWorkerSlot *slots = palloc(sizeof(DwWorkerSlot) * DW_WORKER_SLOTS);
	bool		crowded = false;

	InitMaterializedSRF(fcinfo, 0);
	if (shared == NULL)
		return (Datum) 0;
	LWLockAcquire(&shared->lock, LW_SHARED);
	memcpy(slots, shared->workers, sizeof(DwWorkerSlot) * DW_WORKER_SLOTS);
	crowded = shared->crowded;
	LWLockRelease(&shared->lock);
	for (int i = 0; i < DW_WORKER_SLOTS; i++)
	{
		DwWorkerSlot *slot = &slots[i];
		bool		running = slot->state == DW_SLOT_RUNNING;
		Datum		values[5];
		bool		nulls[5] = {0};

		if (slot->state == DW_SLOT_FREE || slot->database != MyDatabaseId || slot->migration_id == DW_SCOUT)
			continue;
		nulls[0] = !running;
		values[0] = Int32GetDatum(slot->pid);
		values[1] = Int32GetDatum(slot->migration_id);
		values[2] = CStringGetTextDatum(dw_role_name(slot->role));
		values[3] = CStringGetTextDatum(running ? dw_activity_name(slot->activity) : waiting_state(slot, crowded));
		values[4] = TimestampTzGetDatum(slot->since);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* origin() -> what tells this database from the one that a dump came from */
Datum
dw_origin_sql(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	PG_RETURN_TEXT_P(cstring_to_text(dw_origin()));
}
