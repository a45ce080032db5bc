/*
 * queue.c: keys to be brought to agreement later.
 *
 * Writers only ever append: a unique index, or an update of an entry that is there already, would be a lock order of
 * its own, with the application as deadlock victim.  Workers coalesce instead: one key at a time, all its entries that
 * are there, and afterwards exactly these are deleted, so that what was appended meanwhile is looked at again.
 *
 * Part (a) of the invariant where converge finds a source row, part (d) where it finds none.  No value is kept here,
 * only keys: what is written is what the source says at that moment.
 */
#include "postgres.h"

#include "attempt.h"
#include "converge.h"
#include "follow.h"
#include "queue.h"
#include "settings.h"
#include "sql.h"
#include "worker.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Longest time between two attempts at a key, ms. */
#define DW_MAX_BACKOFF_MS (60 * 60 * 1000.0)
/* A key that somebody holds is tried again after a tenth of its age, within these limits, ms. */
#define DW_MIN_BUSY_MS 50.0
#define DW_MAX_BUSY_MS 5000.0
/* When a table of the migration is locked, ms. */
#define DW_TABLE_BUSY_MS 250

/* A key picked for processing, with all its entries that this transaction could lock. */
typedef struct DwQueued
{
	int64		id;				/* the entry that was due */
	int32		mapping_id;
	Jsonb	   *key;
	int			attempts;
	TimestampTz enqueued_at;
	bool		forward;		/* an entry of this direction waits */
	bool		reverse;
	Datum	   *ids;			/* all of them, dead ones included */
	int			nids;
} DwQueued;

static const char *
direction_name(DwDirection direction)
{
	return direction == DW_FORWARD ? "forward" : "reverse";
}

void
dw_queue_append_json(int32 mapping_id, DwDirection direction, Jsonb *key, int sqlstate, const char *message)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.queue (mapping_id, direction, key, sqlstate, message) VALUES ($1, $2, $3, $4, $5)",
				  5, (DwArg[]) {DW_INT4(mapping_id), DW_TEXT(direction_name(direction)), DW_JSONB(key),
				  DW_TEXT(sqlstate == 0 ? NULL : unpack_sql_state(sqlstate)), DW_TEXT(message)});
	dw_sql_end(&sql);
	dw_worker_wake();
}

void
dw_queue_append(DwFlow *flow, const DwKey *key, int sqlstate, const char *message)
{
	dw_queue_append_json(flow->compiled->mapping_id, flow->direction, dw_key_to_jsonb(flow->compiled, key),
						 sqlstate, message);
}

/*
 * A row written in the background is not mirrored any further: agreement of those that follow comes a moment later, as
 * it does for the row itself.
 */
void
dw_follow_later(List *followers, DwFlow *flow, const DwKey *key)
{
	DwKey		target_key;
	ListCell   *lc;

	if (followers == NIL || !dw_target_key(flow, key, &target_key))
		return;
	foreach(lc, followers)
	{
		DwFlow	   *next = lfirst(lc);
		DwKey		next_key = target_key;

		if (next->direction == DW_REVERSE || dw_key_of_old(next->compiled, &target_key, &next_key))
			dw_queue_append(next, &next_key, 0, NULL);
	}
}

/* A due entry of the mapping, locked; NULL when there is none that nobody else is at. */
static DwQueued *
pick_entry(int32 mapping_id, TimestampTz now)
{
	DwQueued   *entry = NULL;
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT id, attempts, enqueued_at, key FROM _dualwrite.queue "
			   "WHERE mapping_id = $1 AND NOT dead AND next_attempt_at <= $2 "
			   "ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED",
			   2, (DwArg[]) {DW_INT4(mapping_id), DW_TIME(now)}) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(sql.caller);

		entry = palloc0(sizeof(DwQueued));
		entry->mapping_id = mapping_id;
		entry->id = DatumGetInt64(dw_sql_value(0, 1, &isnull));
		entry->attempts = DatumGetInt32(dw_sql_value(0, 2, &isnull));
		entry->enqueued_at = DatumGetTimestampTz(dw_sql_value(0, 3, &isnull));
		entry->key = DatumGetJsonbPCopy(dw_sql_value(0, 4, &isnull));
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return entry;
}

/* All entries of the key that are there now, locked: those that another worker is at are his. */
static void
collect_entries(DwQueued *entry)
{
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	entry->nids = (int) dw_sql("SELECT id, direction = 'forward', dead FROM _dualwrite.queue "
							   "WHERE mapping_id = $1 AND key = $2 FOR UPDATE SKIP LOCKED",
							   2, (DwArg[]) {DW_INT4(entry->mapping_id), DW_JSONB(entry->key)});
	entry->ids = MemoryContextAlloc(sql.caller, sizeof(Datum) * Max(1, entry->nids));
	for (int i = 0; i < entry->nids; i++)
	{
		entry->ids[i] = Int64GetDatum(DatumGetInt64(dw_sql_value(i, 1, &isnull)));
		if (DatumGetBool(dw_sql_value(i, 3, &isnull)))
			continue;
		if (DatumGetBool(dw_sql_value(i, 2, &isnull)))
			entry->forward = true;
		else
			entry->reverse = true;
	}
	dw_sql_end(&sql);
}

/* Mappings in declared order, and in each of them what is due longest: a parent's key before its children's. */
static DwQueued *
pick_key(int32 migration_id)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration_id))
	{
		DwQueued   *entry = pick_entry(((DwMapping *) lfirst(lc))->id, now);

		if (entry != NULL)
		{
			collect_entries(entry);
			return entry;
		}
	}
	return NULL;
}

/*
 * Which way to converge.  While only forward mirrors are on, the old side is right, whatever an entry of another time
 * says.  With both on, an entry's direction names the side that took a write which the other has not got; the truth
 * decides only where both sides took one.
 */
static DwDirection
direction_for(const DwQueued *entry, DwPhase phase)
{
	if (phase < DW_PHASE_READ_SWITCH)
		return DW_FORWARD;
	if (entry->forward && entry->reverse)
		return DW_TRUTH_DIRECTION(phase);
	return entry->reverse ? DW_REVERSE : DW_FORWARD;
}

typedef struct DwQueueWork
{
	const DwQueued *entry;
	DwDirection direction;
	DwConverged result;
} DwQueueWork;

static void
converge_key(void *arg)
{
	DwQueueWork *work = arg;
	DwCompiled *compiled = dw_compiled_get(work->entry->mapping_id);
	DwConverge *converge;
	DwFlow	   *flow;
	DwKey		key;

	work->result = DW_CONVERGED_ALREADY;
	if (compiled == NULL)
		return;
	flow = &compiled->flow[work->direction];
	dw_key_from_jsonb(compiled, work->entry->key, &key);
	dw_write_begin();
	converge = dw_converge_open(flow, false);
	work->result = dw_converge(converge, &key);
	dw_converge_close(converge);
	if (work->result == DW_CONVERGED_WROTE)
		dw_follow_later(dw_followers_of(flow), flow, &key);
	dw_write_end(flow->target_owner);
}

static DwArg
ids_arg(const DwQueued *entry)
{
	ArrayType  *array = construct_array(entry->ids, entry->nids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);

	return DW_DATUM(INT8ARRAYOID, PointerGetDatum(array), false);
}

static void
forget_entries(const DwQueued *entry)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.queue WHERE id = ANY ($1)", 1, (DwArg[]) {ids_arg(entry)});
	dw_sql_end(&sql);
}

/* A time delay_ms from now, give or take a quarter, so that keys that failed together do not come back together. */
static TimestampTz
after(double delay_ms)
{
	double		jitter = 0.75 + pg_prng_double(&pg_global_prng_state) * 0.5;

	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) (delay_ms * jitter));
}

/* Somebody holds the key: no attempt, and nothing to complain about. */
static void
put_off(const DwQueued *entry)
{
	double		age_ms = TimestampDifferenceMilliseconds(entry->enqueued_at, GetCurrentTimestamp());
	TimestampTz next = after(Min(DW_MAX_BUSY_MS, Max(DW_MIN_BUSY_MS, age_ms / 10)));
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.queue SET next_attempt_at = $2 WHERE id = ANY ($1) AND NOT dead",
				  2, (DwArg[]) {ids_arg(entry), DW_TIME(next)});
	dw_sql_end(&sql);
}

/* Say it once: to the log, and to whoever listens.  The key may be nobody's business, so no notification shows it. */
static void
announce_death(const DwMigration *migration, const DwQueued *entry, int attempts, const char *message)
{
	StringInfoData payload;

	ereport(WARNING,
			(errmsg("migration \"%s\": key %s could not be brought to agreement in %d attempts",
					migration->name, JsonbToCString(NULL, &entry->key->root, VARSIZE(entry->key)), attempts),
			 errdetail("The last error was: %s", message),
			 errhint("Read dualwrite.dead_letters, remove the cause, then call dualwrite.retry or dualwrite.discard_dead.")));
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"alert\": \"dead_letter\", \"migration\": ");
	escape_json(&payload, migration->name);
	appendStringInfoChar(&payload, '}');
	Async_Notify("dualwrite", payload.data);
}

/* Note a failed attempt on the entry that was due; the others said no more than that. */
static void
note_failure(const DwMigration *migration, const DwQueued *entry, DwDirection direction, const DwError *failure)
{
	bool		unreachable = dw_error_is_connection(failure->sqlstate);
	int			attempts = entry->attempts + (unreachable ? 0 : 1);
	bool		dead = attempts >= dw_setting_int(migration->id, "queue_max_attempts") && !unreachable;
	double		backoff_ms = dw_setting_int(migration->id, "queue_backoff");
	DwSql		sql;

	for (int i = 1; i < attempts && backoff_ms < DW_MAX_BACKOFF_MS; i++)
		backoff_ms *= 2;
	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.queue SET attempts = $2, next_attempt_at = $3, sqlstate = $4, message = $5, dead = $6, "
				  "direction = $7 WHERE id = $1",
				  7, (DwArg[]) {DW_INT8(entry->id), DW_INT4(attempts),
				  DW_TIME(after(Min(backoff_ms, DW_MAX_BACKOFF_MS))),
				  DW_TEXT(unpack_sql_state(failure->sqlstate)), DW_TEXT(failure->message), DW_BOOL(dead),
				  DW_TEXT(direction_name(direction))});
	(void) dw_sql("DELETE FROM _dualwrite.queue WHERE id = ANY ($1) AND id <> $2",
				  2, (DwArg[]) {ids_arg(entry), DW_INT8(entry->id)});
	dw_sql_end(&sql);
	if (dead)
		announce_death(migration, entry, attempts, failure->message);
}

/* When the next entry is due. */
static TimestampTz
next_due_at(int32 migration_id)
{
	TimestampTz due = DT_NOEND;
	DwSql		sql;
	bool		isnull;
	Datum		value;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT min((SELECT min(q.next_attempt_at) FROM _dualwrite.queue q WHERE q.mapping_id = m.id AND NOT q.dead)) "
				  "FROM _dualwrite.mapping m WHERE m.migration_id = $1", 1, (DwArg[]) {DW_INT4(migration_id)});
	value = dw_sql_value(0, 1, &isnull);
	if (!isnull)
		due = DatumGetTimestampTz(value);
	dw_sql_end(&sql);
	return due;
}

/* Lock both tables against a change of phase, without waiting for one that is under way. */
static bool
lock_tables(int32 mapping_id)
{
	DwMapping  *mapping = dw_mapping_by_id(mapping_id);

	return mapping == NULL ||
		(ConditionalLockRelationOid(mapping->old_table, RowExclusiveLock) &&
		 ConditionalLockRelationOid(mapping->new_table, RowExclusiveLock));
}

static DwStep
process(const DwMigration *migration, const DwQueued *entry)
{
	DwQueueWork work = {entry, direction_for(entry, migration->phase), DW_CONVERGED_BUSY};
	DwError		failure;
	bool		done;

	PushActiveSnapshot(GetLatestSnapshot());
	done = dw_attempt(converge_key, &work, &failure);
	PopActiveSnapshot();
	if (done && work.result != DW_CONVERGED_BUSY)
		forget_entries(entry);
	else if (done || dw_error_is_lock(failure.sqlstate))
		put_off(entry);
	else
		note_failure(migration, entry, work.direction, &failure);
	return DW_STEP_WORKED;
}

DwStep
dw_queue_step(const DwMigration *migration, TimestampTz *next_due)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite queue step", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwQueued   *entry;
	DwStep		result = DW_STEP_IDLE;

	*next_due = DT_NOEND;
	dw_attempt_settings();
	entry = pick_key(migration->id);
	if (entry == NULL)
		*next_due = next_due_at(migration->id);
	else if (!lock_tables(entry->mapping_id))
	{
		*next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DW_TABLE_BUSY_MS);
		result = DW_STEP_WAIT;
	}
	else
	{
		/* the phase that counts is the one under these locks */
		DwMigration *current = dw_migration_by_id(migration->id, false);

		if (current != NULL && current->phase >= DW_PHASE_SHADOW && current->phase <= DW_PHASE_CUTOVER)
			result = process(current, entry);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

void
dw_queue_counts(int32 migration_id, int64 *waiting, int64 *dead)
{
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT count(*) FILTER (WHERE NOT q.dead), count(*) FILTER (WHERE q.dead) "
				  "FROM _dualwrite.queue q JOIN _dualwrite.mapping m ON m.id = q.mapping_id WHERE m.migration_id = $1",
				  1, (DwArg[]) {DW_INT4(migration_id)});
	*waiting = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	*dead = DatumGetInt64(dw_sql_value(0, 2, &isnull));
	dw_sql_end(&sql);
}

bool
dw_queue_has(int32 mapping_id, Jsonb *key, Snapshot snapshot)
{
	DwSql		sql;
	bool		found;

	dw_sql_begin(&sql);
	found = dw_sql_snapshot("SELECT FROM _dualwrite.queue WHERE mapping_id = $1 AND key = $2 AND NOT dead LIMIT 1",
							2, (DwArg[]) {DW_INT4(mapping_id), DW_JSONB(key)}, snapshot) > 0;
	dw_sql_end(&sql);
	return found;
}

int64
dw_queue_retry(const DwMigration *migration, Jsonb *key)
{
	DwSql		sql;
	int64		dead;

	dw_sql_begin(&sql);
	dead = (int64) dw_sql("UPDATE _dualwrite.queue q SET dead = false, attempts = 0, next_attempt_at = clock_timestamp() "
						  "FROM _dualwrite.mapping m WHERE m.id = q.mapping_id AND m.migration_id = $1 AND q.dead "
						  "AND ($2 IS NULL OR q.key = $2)",
						  2, (DwArg[]) {DW_INT4(migration->id), DW_JSONB(key)});
	(void) dw_sql("UPDATE _dualwrite.queue q SET next_attempt_at = clock_timestamp() "
				  "FROM _dualwrite.mapping m WHERE m.id = q.mapping_id AND m.migration_id = $1 AND NOT q.dead "
				  "AND q.next_attempt_at > clock_timestamp() AND ($2 IS NULL OR q.key = $2)",
				  2, (DwArg[]) {DW_INT4(migration->id), DW_JSONB(key)});
	dw_sql_end(&sql);
	return dead;
}

int64
dw_queue_discard(const DwMigration *migration, Jsonb *key, const char *reason)
{
	DwSql		sql;
	int64		dead;
	char	   *detail;

	dw_sql_begin(&sql);
	dead = (int64) dw_sql("DELETE FROM _dualwrite.queue q USING _dualwrite.mapping m "
						  "WHERE m.id = q.mapping_id AND m.migration_id = $1 AND q.dead AND q.key = $2",
						  2, (DwArg[]) {DW_INT4(migration->id), DW_JSONB(key)});
	dw_sql_end(&sql);
	if (dead > 0)
	{
		detail = psprintf("{\"key\": %s, \"entries\": " INT64_FORMAT "}",
						  JsonbToCString(NULL, &key->root, VARSIZE(key)), dead);
		dw_event_record(migration->name, "discard_dead", -1, -1, NIL, reason, detail);
	}
	return dead;
}
