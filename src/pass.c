/*
 * pass.c: one comparison of a mapping from end to end, as it is stored.
 *
 * Rows of _dualwrite.reconcile_pass and nothing else.
 */
#include "postgres.h"

#include "pass.h"
#include "settings.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

static const char *const stage_names[DW_NUM_STAGES] = {"begin", "compare", "recheck", "repair", "done"};

int64
dw_pass_found(const DwPass *pass)
{
	int64		sum = 0;

	for (int kind = 0; kind < DW_NUM_DRIFT_KINDS; kind++)
		sum += pass->found.kinds[kind];
	return sum;
}

static DwArg
lsn_arg(DwMark mark)
{
	return DW_DATUM(PG_LSNOID, LSNGetDatum(mark.lsn), XLogRecPtrIsInvalid(mark.lsn));
}

static DwArg
xid_arg(DwMark mark)
{
	return DW_DATUM(XID8OID, FullTransactionIdGetDatum(mark.xid), XLogRecPtrIsInvalid(mark.lsn));
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
	pass->stage = DW_STAGE_BEGIN;
	pass->started_at = GetCurrentTimestamp();
	dw_sql_begin(&sql);
	dw_sql("INSERT INTO _dualwrite.reconcile_pass (mapping_id, epoch, background, sample_percent)"
		   " VALUES ($1, $2, $3, $4) RETURNING id",
		   4, (DwArg[]) {DW_INT4(mapping_id), DW_INT4(migration->epoch), DW_BOOL(background), DW_FLOAT8(sample_percent)});
	pass->id = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
}

/* A row a pass is its history; the last few stay, however old. */
static void
clear_old_passes(int32 mapping_id)
{
	DwMapping  *mapping = dw_mapping_by_id(mapping_id);
	int64		keep_ms = mapping ? dw_setting_int(mapping->migration_id, "reconcile_retention") : 0;

	if (keep_ms == 0)
		return;
	dw_sql("DELETE FROM _dualwrite.reconcile_pass WHERE mapping_id = $1 AND finished_at < $2 AND id <"
		   " (SELECT p.id FROM _dualwrite.reconcile_pass AS p WHERE p.mapping_id = $1 AND p.finished_at IS NOT NULL"
		   "   AND p.sample_percent = 100 ORDER BY p.id DESC OFFSET 1 LIMIT 1)",
		   2, (DwArg[]) {DW_INT4(mapping_id), DW_TIME(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -keep_ms))});
}

void
dw_pass_store(const DwPass *pass)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.reconcile_pass SET stage = $2, last_key = $3, rows_compared = $4, missing = $5, extra = $6,"
		   " different = $7, repaired = $8, sample_percent = $9, mark_lsn = $10, mark_xid = $11, since_lsn = $12,"
		   " since_xid = $13, files = $14, rows_total = CASE WHEN $9 = 0 THEN $15 WHEN $2 = 'done' THEN $4 END,"
		   " updated_at = clock_timestamp(), finished_at = CASE WHEN $2 = 'done' THEN clock_timestamp() END"
		   " WHERE id = $1",
		   15, (DwArg[])
		   {
			   DW_INT8(pass->id), DW_TEXT(stage_names[pass->stage]), DW_JSONB(pass->last_key), DW_INT8(pass->rows_compared),
			   DW_INT8(pass->found.kinds[DW_DRIFT_MISSING]), DW_INT8(pass->found.kinds[DW_DRIFT_EXTRA]),
			   DW_INT8(pass->found.kinds[DW_DRIFT_DIFFERENT]), DW_INT8(pass->repaired), DW_FLOAT8(pass->sample_percent),
			   lsn_arg(pass->mark), xid_arg(pass->mark), lsn_arg(pass->since), xid_arg(pass->since),
			   DW_TEXT(pass->files), DW_INT8(pass->rows_total)
		   });
	if (pass->stage == DW_STAGE_DONE)
		clear_old_passes(pass->mapping_id);
	dw_sql_end(&sql);
}

void
dw_pass_add(const DwPass *part)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.reconcile_pass SET rows_compared = rows_compared + $2, missing = missing + $3,"
		   " extra = extra + $4, different = different + $5, updated_at = clock_timestamp() WHERE id = $1",
		   5, (DwArg[])
		   {
			   DW_INT8(part->id), DW_INT8(part->rows_compared), DW_INT8(part->found.kinds[DW_DRIFT_MISSING]),
			   DW_INT8(part->found.kinds[DW_DRIFT_EXTRA]), DW_INT8(part->found.kinds[DW_DRIFT_DIFFERENT])
		   });
	dw_sql_end(&sql);
}

void
dw_pass_restart(int64 id)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.reconcile_pass SET stage = 'begin',"
		   " sample_percent = CASE sample_percent WHEN 0 THEN 100 ELSE sample_percent END WHERE id = $1",
		   1, (DwArg[]) {DW_INT8(id)});
	dw_sql_end(&sql);
}

void
dw_pass_throttled(int64 id, List *reasons)
{
	StringInfoData joined;
	ListCell   *lc;
	DwSql		sql;

	initStringInfo(&joined);
	foreach(lc, reasons)
		appendStringInfo(&joined, "%s%s", joined.len > 0 ? "\n" : "", (char *) lfirst(lc));
	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.reconcile_pass SET throttled_by = string_to_array($2, E'\\n'), updated_at = clock_timestamp()"
		   " WHERE id = $1 AND throttled_by <> string_to_array($2, E'\\n')",
		   2, (DwArg[]) {DW_INT8(id), DW_TEXT(joined.data)});
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

/* Two columns of the first row of the result, the first of them the LSN. */
static DwMark
read_mark(int column)
{
	DwMark		mark = {0};
	bool		isnull;
	Datum		lsn = dw_sql_value(0, column, &isnull);

	if (isnull)
		return mark;
	mark.lsn = DatumGetLSN(lsn);
	mark.xid = DatumGetFullTransactionId(dw_sql_value(0, column + 1, &isnull));
	return mark;
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
	if (!isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(sql->caller);

		pass->last_key = DatumGetJsonbPCopy(value);
		MemoryContextSwitchTo(old);
	}
	pass->rows_compared = DatumGetInt64(dw_sql_value(0, 7, &isnull));
	pass->found.kinds[DW_DRIFT_MISSING] = DatumGetInt64(dw_sql_value(0, 8, &isnull));
	pass->found.kinds[DW_DRIFT_EXTRA] = DatumGetInt64(dw_sql_value(0, 9, &isnull));
	pass->found.kinds[DW_DRIFT_DIFFERENT] = DatumGetInt64(dw_sql_value(0, 10, &isnull));
	pass->repaired = DatumGetInt64(dw_sql_value(0, 11, &isnull));
	pass->rows_total = DatumGetInt64(dw_sql_value(0, 12, &isnull));
	pass->mark = read_mark(13);
	pass->since = read_mark(15);
	pass->files = dw_sql_cstring(sql, 0, 17);
	pass->started_at = DatumGetTimestampTz(dw_sql_value(0, 18, &isnull));
}

#define PASS_COLUMNS \
	"p.id, p.mapping_id, p.background, p.sample_percent::float8, p.stage, p.last_key," \
	" p.rows_compared, p.missing, p.extra, p.different, p.repaired, coalesce(p.rows_total, 0)," \
	" p.mark_lsn, p.mark_xid, p.since_lsn, p.since_xid, p.files, p.started_at"

bool
dw_pass_unfinished(const DwMigration *migration, DwPass *pass)
{
	DwSql		sql;
	bool		found;

	dw_sql_begin(&sql);
	found = dw_sql("SELECT " PASS_COLUMNS
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

/* A pass that was complete, with a mark, behind a full one that was clean; of this mapping, the last one. */
static void
find_base(const DwMigration *migration, int32 mapping_id, TimestampTz full_since, DwPass *base)
{
	DwSql		sql;

	memset(base, 0, sizeof(DwPass));
	dw_sql_begin(&sql);
	if (dw_sql("WITH last AS (SELECT p.* FROM _dualwrite.reconcile_pass AS p WHERE p.mapping_id = $1 AND p.epoch = $2"
			   "  AND p.finished_at IS NOT NULL AND p.sample_percent = 100 ORDER BY p.id DESC LIMIT 1)"
			   "SELECT " PASS_COLUMNS " FROM _dualwrite.reconcile_pass AS p"
			   " JOIN last AS f ON f.started_at > $3 AND f.missing + f.extra + f.different = 0"
			   " WHERE p.mapping_id = $1 AND p.epoch = $2 AND p.finished_at IS NOT NULL AND p.sample_percent IN (0, 100)"
			   "  AND p.mark_lsn IS NOT NULL AND p.id >= f.id ORDER BY p.id DESC LIMIT 1",
			   3, (DwArg[]) {DW_INT4(mapping_id), DW_INT4(migration->epoch), DW_TIME(full_since)}) > 0)
		read_pass(&sql, base);
	dw_sql_end(&sql);
	base->mapping_id = mapping_id;
}

bool
dw_pass_oldest(const DwMigration *migration, TimestampTz full_since, TimestampTz *finished_at, DwPass *base)
{
	DwSql		sql;
	bool		found;
	bool		isnull;
	int32		mapping_id = 0;

	dw_sql_begin(&sql);
	found = dw_sql("SELECT m.id, coalesce((SELECT max(p.finished_at) FROM _dualwrite.reconcile_pass AS p"
				   "  WHERE p.mapping_id = m.id AND p.epoch = $2 AND p.sample_percent IN (0, 100)), '-infinity') AS last"
				   " FROM _dualwrite.mapping AS m WHERE m.migration_id = $1 ORDER BY last, m.ordinal LIMIT 1",
				   2, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch)}) > 0;
	if (found)
	{
		mapping_id = DatumGetInt32(dw_sql_value(0, 1, &isnull));
		*finished_at = DatumGetTimestampTz(dw_sql_value(0, 2, &isnull));
	}
	dw_sql_end(&sql);
	if (found)
		find_base(migration, mapping_id, full_since, base);
	return found;
}

void
dw_pass_request(const DwMigration *migration, double sample_percent)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	/* what looks at changes only is not what was asked for */
	dw_sql("UPDATE _dualwrite.reconcile_pass AS p SET sample_percent = $3, stage = 'begin' FROM _dualwrite.mapping AS m"
		   " WHERE m.id = p.mapping_id AND m.migration_id = $1 AND p.epoch = $2 AND p.background AND p.sample_percent = 0"
		   " AND p.stage <> 'done'",
		   3, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch), DW_FLOAT8(sample_percent)});
	dw_sql("INSERT INTO _dualwrite.reconcile_pass (mapping_id, epoch, background, sample_percent)"
		   " SELECT m.id, $2, true, $3 FROM _dualwrite.mapping AS m WHERE m.migration_id = $1"
		   "  AND NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass AS p WHERE p.mapping_id = m.id AND p.epoch = $2"
		   "   AND p.background AND p.stage <> 'done') ORDER BY m.ordinal",
		   3, (DwArg[]) {DW_INT4(migration->id), DW_INT4(migration->epoch), DW_FLOAT8(sample_percent)});
	dw_sql_end(&sql);
}
