/*
 * override.c: somebody's word against the throttle's signals, for a while.
 *
 * While it holds no signal is looked at; the caps in rows and megabytes a second are limits, not signals, and stay.  It must
 * always come to an end by itself: what was right for tonight is wrong in the morning.
 */
#include "postgres.h"

#include "catalog.h"
#include "override.h"
#include "sql.h"
#include "worker.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

/* Less than this would be a batch now and then, and minutes until a change is noticed. */
#define DW_LOWEST_RATIO 0.01

PG_FUNCTION_INFO_V1(dw_throttle_sql);

bool
dw_override_get(int32 migration_id, double *ratio)
{
	DwSql		sql;
	bool		found;
	bool		isnull;

	dw_sql_begin(&sql);
	found = dw_sql("SELECT o.ratio FROM _dualwrite.throttle_override o "
				   "WHERE o.migration_id OPERATOR(pg_catalog.=) $1 "
				   "AND o.until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
				   1, (DwArg[]) {DW_INT4(migration_id)}) > 0;
	if (found)
		*ratio = DatumGetFloat8(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
	return found;
}

static void
store_override(int32 migration_id, double ratio, TimestampTz until)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.throttle_override (migration_id, ratio, until) VALUES ($1, $2, $3) "
				  "ON CONFLICT (migration_id) DO UPDATE SET ratio = excluded.ratio, until = excluded.until",
				  3, (DwArg[]) {DW_INT4(migration_id), DW_FLOAT8(ratio), DW_TIME(until)});
	dw_sql_end(&sql);
}

static void
remove_override(int32 migration_id)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.throttle_override WHERE migration_id OPERATOR(pg_catalog.=) $1",
				  1, (DwArg[]) {DW_INT4(migration_id)});
	dw_sql_end(&sql);
}

static double
ratio_argument(Datum argument)
{
	double		ratio = DatumGetFloat8(DirectFunctionCall1(numeric_float8, argument));

	if (isnan(ratio) || ratio > 1 || (ratio != 0 && ratio < DW_LOWEST_RATIO))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"ratio\" is out of range"),
				 errhint("It takes 0 to stop, a number from %g to 1 for a share of the full speed, or NULL to go by the signals again.",
						 DW_LOWEST_RATIO)));
	return ratio;
}

/* The end of the time that it shall hold for. */
static TimestampTz
until_argument(FunctionCallInfo fcinfo, int n)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = now;

	if (!PG_ARGISNULL(n))
		until = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), PG_GETARG_DATUM(n)));
	if (until <= now || TIMESTAMP_NOT_FINITE(until))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"until\" must be an interval above zero that ends"),
				 errhint("Say for how long, such as '1 hour'.")));
	return until;
}

/* throttle(migration, ratio, until) */
Datum
dw_throttle_sql(PG_FUNCTION_ARGS)
{
	DwMigration *migration;
	TimestampTz until;
	double		ratio;
	char		end[MAXDATELEN + 1];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"migration\" must not be null"),
				 errhint("Name one of dualwrite.status.")));
	migration = dw_migration_get(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	dw_migration_check_owner(migration);
	if (PG_ARGISNULL(1))
	{
		remove_override(migration->id);
		dw_event_record(migration->name, "throttle", -1, -1, NIL, NULL, "{\"ratio\": null}");
		dw_worker_wake();
		PG_RETURN_NULL();
	}
	ratio = ratio_argument(PG_GETARG_DATUM(1));
	until = until_argument(fcinfo, 2);
	store_override(migration->id, ratio, until);
	JsonEncodeDateTime(end, TimestampTzGetDatum(until), TIMESTAMPTZOID, NULL);
	dw_event_record(migration->name, "throttle", -1, -1, NIL, NULL,
					psprintf("{\"ratio\": %s, \"until\": \"%s\"}",
							 DatumGetCString(DirectFunctionCall1(numeric_out, PG_GETARG_DATUM(1))), end));
	dw_worker_wake();
	PG_RETURN_TIMESTAMPTZ(until);
}
