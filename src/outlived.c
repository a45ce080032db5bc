/*
 * outlived.c: failures in the queue that a later write has put right.
 *
 * A write that is queued finds the failed entries of its key when it is delivered.  One that is mirrored at once does not
 * look: a trigger never reads the queue.  So a worker looks from time to time whether keys that have failed agree by now;
 * else a dead letter would stand in the way of the next rung for a row that has long been mended.
 *
 * Entries are locked before the snapshot of the comparison is taken: whoever queued them had committed by then, so that
 * agreement under it is agreement after them.  Nothing but the queue is written.
 */
#include "postgres.h"

#include "outlived.h"
#include "attempt.h"
#include "compare.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/* Entries looked at in one step. */
#define DW_LOOK_KEYS 200
/* Time between two rounds, ms. */
#define DW_LOOK_MS 10000

/* Where this process goes on, and when the next round begins. */
static int64 looked_at = 0;
static TimestampTz next_round = 0;

/* Entries of one mapping. */
typedef struct Failed
{
	int32		mapping_id;
	int			count;
	int64	   *ids;
	Jsonb	  **keys;
	int			outlived;		/* result: so many of them, moved to the front of ids */
} Failed;

/* The next failed entries, of one mapping, in the current memory.  NULL: there are none behind the last ones. */
static Failed *
next_failed(const DwMigration *migration)
{
	Failed	   *failed = NULL;
	MemoryContext memory = CurrentMemoryContext;
	DwSql		sql;
	uint64		rows;
	bool		isnull;

	dw_sql_begin(&sql);
	dw_sql_by_index();
	rows = dw_sql("SELECT q.id, q.key, q.mapping_id FROM _dualwrite.mapping AS m JOIN _dualwrite.queue AS q ON q.mapping_id = m.id"
				  " WHERE m.migration_id = $1 AND (q.dead OR q.attempts > 0) AND q.id > $2 ORDER BY q.id LIMIT $3"
				  " FOR UPDATE OF q SKIP LOCKED",
				  3, (DwArg[]) {DW_INT4(migration->id), DW_INT8(looked_at), DW_INT8(DW_LOOK_KEYS)});
	MemoryContextSwitchTo(memory);
	if (rows > 0)
	{
		failed = palloc0(sizeof(Failed));
		failed->mapping_id = DatumGetInt32(dw_sql_value(0, 3, &isnull));
		failed->ids = palloc(sizeof(int64) * rows);
		failed->keys = palloc(sizeof(Jsonb *) * rows);
	}
	for (uint64 i = 0; i < rows && DatumGetInt32(dw_sql_value(i, 3, &isnull)) == failed->mapping_id; i++)
	{
		failed->ids[failed->count] = DatumGetInt64(dw_sql_value(i, 1, &isnull));
		failed->keys[failed->count++] = DatumGetJsonbPCopy(dw_sql_value(i, 2, &isnull));
	}
	dw_sql_end(&sql);
	return failed;
}

/* Work of dw_attempt. */
static void
find_outlived(void *arg)
{
	Failed	   *failed = arg;
	DwCompare  *compare = dw_compare_open(failed->mapping_id);

	failed->outlived = 0;
	if (compare == NULL)
		return;
	for (int i = 0; i < failed->count; i++)
	{
		DwKey		key;

		CHECK_FOR_INTERRUPTS();
		dw_key_from_jsonb(dw_compare_compiled(compare), failed->keys[i], &key);
		if (dw_compare_key(compare, &key, true) == NULL)
			failed->ids[failed->outlived++] = failed->ids[i];
	}
	dw_compare_close(compare);
}

static void
remove_entries(const Failed *failed)
{
	Datum	   *ids = palloc(sizeof(Datum) * Max(failed->outlived, 1));
	DwSql		sql;

	if (failed->outlived == 0)
		return;
	for (int i = 0; i < failed->outlived; i++)
		ids[i] = Int64GetDatum(failed->ids[i]);
	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.queue WHERE id = ANY ($1)",
				  1, (DwArg[]) {DW_DATUM(INT8ARRAYOID,
										 PointerGetDatum(construct_array(ids, failed->outlived, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
										 false)});
	dw_sql_end(&sql);
}

DwStep
dw_outlived_step(const DwMigration *migration, TimestampTz *next_due)
{
	Failed	   *failed;
	DwError		error;

	*next_due = next_round;
	if (next_round > GetCurrentTimestamp())
		return DW_STEP_IDLE;
	dw_attempt_settings();
	failed = next_failed(migration);
	if (failed == NULL)
	{
		*next_due = next_round = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DW_LOOK_MS);
		if (looked_at == 0)
			*next_due = DT_NOEND;
		looked_at = 0;
		return DW_STEP_IDLE;
	}
	looked_at = failed->ids[failed->count - 1];
	/* a server that is away, or a table that somebody holds, is for the next round */
	if (dw_attempt(find_outlived, failed, false, &error))
		remove_entries(failed);
	return DW_STEP_WORKED;
}
