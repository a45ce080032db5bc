/*
 * shadow.c: SQL functions for shadow reads.
 *
 * shadow_read may be called by anybody: it runs its caller's queries with his own rights.
 */
#include "postgres.h"

#include "shadowread.h"
#include "shadowstats.h"
#include "settings.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dw_shadow_read_sql);
PG_FUNCTION_INFO_V1(dw_shadow_counters_sql);
PG_FUNCTION_INFO_V1(dw_reset_shadow_reads_sql);

static char *
required(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
	return text_to_cstring(PG_GETARG_TEXT_PP(i));
}

static void
read_args(DwShadowRequest *request, ArrayType *array)
{
	Datum	   *elements;
	bool	   *nulls;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &request->nargs);
	request->args = palloc0(sizeof(char *) * Max(request->nargs, 1));
	for (int i = 0; i < request->nargs; i++)
		if (!nulls[i])
			request->args[i] = TextDatumGetCString(elements[i]);
}

/* The rows are returned whole; both need the columns that the caller lists. */
static ReturnSetInfo *
result_info(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;

	if (info == NULL || !IsA(info, ReturnSetInfo) || !(info->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("shadow_read was called where a set of rows cannot be returned"),
				 errhint("Call it in FROM.")));
	if (info->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("shadow_read was called without a list of columns"),
				 errhint("Call it in FROM, with its columns: SELECT * FROM dualwrite.shadow_read(...) AS t (id bigint, ...).")));
	return info;
}

static DwQueryText
query_of(const DwShadowRequest *request, int side)
{
	static const char *const names[2] = {"old_query", "new_query"};

	return (DwQueryText) {names[side], request->queries[side], request->nargs, request->args};
}

static void
answer_by_text(const DwShadowRequest *request, int side, DwAnswer *answer, uint64 limit)
{
	DwQueryText query = query_of(request, side);

	dw_answer_get(answer, &query, request->desc, limit);
}

static char *
plan_by_text(const DwShadowRequest *request, int side)
{
	DwQueryText query = query_of(request, side);

	return dw_answer_plan(&query);
}

static List *
names_of(ArrayType *array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *names = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
		if (!nulls[i])
			names = lappend(names, TextDatumGetCString(elements[i]));
	return names;
}

/* The rows of the side that is the truth, whether or not the other one is run beside it. */
static void
run_request(const DwShadowRequest *request, Tuplestorestate *rows)
{
	int			truth;
	DwShadowRun *run = dw_shadow_begin(request, &truth);
	DwAnswer	answer = {.rows = rows};

	if (run != NULL)
		dw_shadow_run(run, rows);
	else
		answer_by_text(request, truth, &answer, 0);
}

/* shadow_read(migration, old_query, new_query, args, compare, ignore, normalise) */
Datum
dw_shadow_read_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *info = result_info(fcinfo);
	DwShadowRequest request = {
		.migration = required(fcinfo, 0, "migration"),
		.queries = {required(fcinfo, 1, "old_query"), required(fcinfo, 2, "new_query")},
		.compare = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4)),
		.ignored = PG_ARGISNULL(5) ? NIL : names_of(PG_GETARG_ARRAYTYPE_P(5)),
		.normalised = PG_ARGISNULL(6) ? NULL : PG_GETARG_JSONB_P(6),
		.answer = answer_by_text,
		.plan = plan_by_text,
	};
	MemoryContext old = MemoryContextSwitchTo(info->econtext->ecxt_per_query_memory);
	Tuplestorestate *rows = tuplestore_begin_heap(true, false, work_mem);

	request.desc = BlessTupleDesc(CreateTupleDescCopy(info->expectedDesc));
	MemoryContextSwitchTo(old);
	if (!PG_ARGISNULL(3))
		read_args(&request, PG_GETARG_ARRAYTYPE_P(3));
	run_request(&request, rows);
	tuplestore_rescan(rows);
	info->returnMode = SFRM_Materialize;
	info->setResult = rows;
	info->setDesc = request.desc;
	return (Datum) 0;
}

/* _dualwrite.shadow_counters(migration): a row where anything was counted in this phase. */
Datum
dw_shadow_counters_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration = dw_migration_get(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	int64		most = dw_setting_int(migration->id, "shadow_read_max_failures");
	DwShadowTotals totals;
	Datum		row[DW_SHADOW_NUM_COUNTERS + 1];
	bool		nulls[DW_SHADOW_NUM_COUNTERS + 1] = {false};

	InitMaterializedSRF(fcinfo, 0);
	dw_shadow_totals(migration, &totals);
	if (totals.since == 0)
		return (Datum) 0;
	for (int c = 0; c < DW_SHADOW_FAILED_IN_A_ROW; c++)
		row[c] = Int64GetDatum(totals.counters[c]);
	row[DW_SHADOW_FAILED_IN_A_ROW] = BoolGetDatum(most != 0 && totals.counters[DW_SHADOW_FAILED_IN_A_ROW] >= most);
	row[DW_SHADOW_NUM_COUNTERS] = TimestampTzGetDatum(totals.since);
	tuplestore_putvalues(((ReturnSetInfo *) fcinfo->resultinfo)->setResult,
						 ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc, row, nulls);
	return (Datum) 0;
}

/* reset_shadow_reads(migration) */
Datum
dw_reset_shadow_reads_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration = dw_migration_get(required(fcinfo, 0, "migration"), false);

	dw_migration_check_owner(migration);
	dw_shadow_reset(migration);
	dw_event_record(migration->name, "reset_shadow_reads", -1, -1, NIL, NULL, NULL);
	PG_RETURN_VOID();
}
