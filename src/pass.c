/*
 * pass.c: one comparison of a mapping from end to end, as it is stored.
 *
 * Rows of _dualwrite.reconcile_pass and nothing else.
 */
#include "postgres.h"

#include "pass.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

static const char *const stage_names[DW_NUM_STAGES] = {"old", "both", "new", "recheck", "repair", "done"};

int64
dw_pass_found(const DwPass *pass)
{
	int64		sum = 0;

	for (int kind = 0; kind < DW_NUM_DRIFT_KINDS; kind++)
		sum += pass->found.kinds[kind];
	return sum;
}

void
dw_pass_begin(const DwMigration *migration, int32 mapping_id, bool background, double sample_percent, DwPass *pass)
{
	DwSql		sql;
	bool		isnull;

	memset(pass, 0, sizeof(DwPass));
	pass->mapping_id = mapping_id;
	pass->background = background;
	pass->sample_percent = sample_percent;
	pass->stage = DW_STAGE_OLD;
	dw_sql_begin(&sql);
	dw_sql("INSERT INTO _dualwrite.reconcile_pass (mapping_id, epoch, background, sample_percent)"
		   " VALUES ($1, $2, $3, $4) RETURNING id",
		   4, (DwArg[]) {DW_INT4(mapping_id), DW_INT4(migration->epoch), DW_BOOL(background), DW_FLOAT8(sample_percent)});
	pass->id = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
}

/* Nobody looks at more than the latest few. */
static void
clear_old_passes(int32 mapping_id)
{
	dw_sql("DELETE FROM _dualwrite.reconcile_pass WHERE mapping_id = $1 AND finished_at IS NOT NULL AND id <"
		   " (SELECT p.id FROM _dualwrite.reconcile_pass AS p WHERE p.mapping_id = $1 AND p.finished_at IS NOT NULL"
		   "   AND p.sample_percent = 100 ORDER BY p.id DESC OFFSET 99 LIMIT 1)",
		   1, (DwArg[]) {DW_INT4(mapping_id)});
}

void
dw_pass_store(const DwPass *pass)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.reconcile_pass SET stage = $2, heap = $3, last_key = $4, rows_compared = $5, missing = $6,"
		   " extra = $7, different = $8, repaired = $9, updated_at = clock_timestamp(),"
		   " finished_at = CASE WHEN $2 = 'done' THEN clock_timestamp() END WHERE id = $1",
		   9, (DwArg[])
		   {
			   DW_INT8(pass->id), DW_TEXT(stage_names[pass->stage]),
			   DW_DATUM(REGCLASSOID, ObjectIdGetDatum(pass->heap), !OidIsValid(pass->heap)),
			   DW_JSONB(pass->last_key), DW_INT8(pass->rows_compared),
			   DW_INT8(pass->found.kinds[DW_DRIFT_MISSING]), DW_INT8(pass->found.kinds[DW_DRIFT_EXTRA]),
			   DW_INT8(pass->found.kinds[DW_DRIFT_DIFFERENT]), DW_INT8(pass->repaired)
		   });
	if (pass->stage == DW_STAGE_DONE)
		clear_old_passes(pass->mapping_id);
	dw_sql_end(&sql);
}

static DwStage
stage_from_name(const char *name)
{
	for (int stage = 0; stage < DW_NUM_STAGES; stage++)
		if (strcmp(name, stage_names[stage]) == 0)
			return (DwStage) stage;
	elog(ERROR, "unknown stage \"%s\" of a comparison", name);
}

/* The first row of the result. */
static void
read_pass(DwSql *sql, DwPass *pass)
{
	bool		isnull;
	Datum		value;

	memset(pass, 0, sizeof(DwPass));
	pass->id = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	pass->mapping_id = DatumGetInt32(dw_sql_value(0, 2, &isnull));
	pass->background = DatumGetBool(dw_sql_value(0, 3, &isnull));
	pass->sample_percent = DatumGetFloat8(dw_sql_value(0, 4, &isnull));
	pass->stage = stage_from_name(dw_sql_cstring(sql, 0, 5));
	value = dw_sql_value(0, 6, &isnull);
	pass->heap = isnull ? InvalidOid : DatumGetObjectId(value);
	value = dw_sql_value(0, 7, &isnull);
	if (!isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(sql->caller);

		pass->last_key = DatumGetJsonbPCopy(value);
		MemoryContextSwitchTo(old);
	}
	pass->rows_compared = DatumGetInt64(dw_sql_value(0, 8, &isnull));
	pass->found.kinds[DW_DRIFT_MISSING] = DatumGetInt64(dw_sql_value(0, 9, &isnull));
	pass->found.kinds[DW_DRIFT_EXTRA] = DatumGetInt64(dw_sql_value(0, 10, &isnull));
	pass->found.kinds[DW_DRIFT_DIFFERENT] = DatumGetInt64(dw_sql_value(0, 11, &isnull));
	pass->repaired = DatumGetInt64(dw_sql_value(0, 12, &isnull));
}

bool
dw_pass_unfinished(const DwMigration *migration, DwPass *pass)
{
	DwSql		sql;
	bool		found;

	dw_sql_begin(&sql);
	found = dw_sql("SELECT p.id, p.mapping_id, p.background, p.sample_percent::float8, p.stage, p.heap::oid, p.last_key,"
				   " p.rows_compared, p.missing, p.extra, p.different, p.repaired"
				   " FROM _dualwrite.reconcile_pass AS p JOIN _dualwrite.mapping AS m ON m.id = p.mapping_id"
				   " WHERE m.migration_id = $1 AND p.epoch = $2 AND p.background AND p.stage <> 'done' ORDER BY p.id LIMIT 1",
				   2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)}) > 0;
	if (found)
		read_pass(&sql, pass);
	dw_sql_end(&sql);
	return found;
}

void
dw_pass_abandon(const DwMigration *migration)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("DELETE FROM _dualwrite.reconcile_pass AS p USING _dualwrite.mapping AS m WHERE m.id = p.mapping_id"
		   " AND m.migration_id = $1 AND p.epoch < $2 AND p.background AND p.stage <> 'done'",
		   2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)});
	dw_sql_end(&sql);
}

bool
dw_pass_oldest(const DwMigration *migration, int32 *mapping_id, TimestampTz *finished_at)
{
	DwSql		sql;
	bool		found;
	bool		isnull;

	dw_sql_begin(&sql);
	found = dw_sql("SELECT m.id, coalesce((SELECT max(p.finished_at) FROM _dualwrite.reconcile_pass AS p"
				   "  WHERE p.mapping_id = m.id AND p.epoch = $2 AND p.sample_percent = 100), '-infinity') AS last"
				   " FROM _dualwrite.mapping AS m WHERE m.migration_id = $1 ORDER BY last, m.ordinal LIMIT 1",
				   2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)}) > 0;
	if (found)
	{
		*mapping_id = DatumGetInt32(dw_sql_value(0, 1, &isnull));
		*finished_at = DatumGetTimestampTz(dw_sql_value(0, 2, &isnull));
	}
	dw_sql_end(&sql);
	return found;
}

void
dw_pass_request(const DwMigration *migration, double sample_percent)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("INSERT INTO _dualwrite.reconcile_pass (mapping_id, epoch, background, sample_percent)"
		   " SELECT m.id, $2, true, $3 FROM _dualwrite.mapping AS m WHERE m.migration_id = $1"
		   "  AND NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass AS p WHERE p.mapping_id = m.id AND p.epoch = $2"
		   "   AND p.background AND p.stage <> 'done') ORDER BY m.ordinal",
		   3, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch), DW_FLOAT8(sample_percent)});
	dw_sql_end(&sql);
}
