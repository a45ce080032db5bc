/*
 * deliver.c: queued keys are brought to agreement, some in a transaction, by one process or several.
 *
 * Keys that have not failed yet go together: a commit, and to another server some round trips, are shared by all of them.
 * Their rows stay locked until then, so there is a limit of time; nothing waits for anybody meanwhile, so that nobody
 * deadlocks with it.  A batch that fails is undone and done by halves, down to the keys to blame; these come back one by one,
 * each at its own time, and never hold up others.
 *
 * An entry of a key says no more than that the key may disagree.  All entries of it that are there are settled by one look, and exactly
 * these are deleted, so that what was appended meanwhile is looked at again.  What one process has in hand others pass over
 * (SKIP LOCKED); where a key of theirs depends on it, it waits like one that was queued later.
 *
 * Part (a) of the invariant where converge finds a source row, part (d) where it finds none.
 */
#include "postgres.h"

#include "deliver.h"

#include "attempt.h"
#include "backfill.h"
#include "converge.h"
#include "follow.h"
#include "queue.h"
#include "settings.h"
#include "sql.h"
#include "throttle.h"
#include "told.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Keys of one batch, at most, and at first. */
#define DW_BATCH_KEYS 256
#define DW_FIRST_BATCH_KEYS 16
/* Time of one batch, ms: so long may somebody who writes one of its rows have to wait. */
#define DW_BATCH_MS 50.0

/* Longest time between two attempts at a key, ms. */
#define DW_MAX_BACKOFF_MS (60 * 60 * 1000.0)
/* A key that somebody holds is tried again after a tenth of its age, within these limits, ms. */
#define DW_MIN_BUSY_MS 50.0
#define DW_MAX_BUSY_MS 5000.0
/* One that waits for another row, or for another server, after a quarter of its age, ms. */
#define DW_MIN_LAG_MS 250.0
#define DW_MAX_LAG_MS (10 * 60 * 1000.0)
/* Longest time for which a mapping is left alone whose server cannot be reached, ms. */
#define DW_MAX_UNREACHABLE_MS 30000.0
/* Keys that were queued no further apart may have been written together: parents that go before their children, ms. */
#define DW_TOGETHER_MS 1000
/* When a table of the migration is locked, or compared with one on another server, ms. */
#define DW_TABLE_BUSY_MS 100

/* A key, with all its entries that this transaction could lock. */
typedef struct DwQueued
{
	Jsonb	   *key;
	int64		id;				/* its first entry: a failure is noted there */
	int			attempts;
	TimestampTz enqueued_at;
	bool		forward;		/* an entry of this direction waits */
	bool		reverse;
	ArrayType  *ids;			/* int8: all of them, dead ones included */
	DwConverged result;
} DwQueued;

/* Keys of one mapping that are brought to agreement in one direction. */
typedef struct DwBatch
{
	const DwMigration *migration;
	int32		mapping_id;
	DwDirection direction;
	DwQueued  **keys;
	int			count;
	int			from;			/* those of the subtransaction */
	int			to;
	bool		trial;			/* shadow_discard: the new side stays as it is */
	bool		stopped;		/* for lack of time: what is left waits for the next batch */
	instr_time	start;
} DwBatch;

/* A mapping whose new table is on a server that cannot be reached: it is left alone for a while. */
typedef struct DwUnreachable
{
	int32		mapping_id;
	double		delay_ms;
	TimestampTz until;
} DwUnreachable;

static List *unreachable = NIL; /* of DwUnreachable, in TopMemoryContext */
static int	batch_keys = DW_FIRST_BATCH_KEYS;

static double
elapsed_ms(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* A time delay_ms from now, give or take a quarter, so that keys that failed together do not come back together. */
static TimestampTz
after(double delay_ms)
{
	double		jitter = 0.75 + pg_prng_double(&pg_global_prng_state) * 0.5;

	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) (delay_ms * jitter));
}

static void
begin_by_index(DwSql *sql)
{
	dw_sql_begin(sql);
	dw_sql_by_index();
}

/* ---- servers that cannot be reached ---- */

static DwUnreachable *
unreachable_entry(int32 mapping_id)
{
	ListCell   *lc;

	foreach(lc, unreachable)
		if (((DwUnreachable *) lfirst(lc))->mapping_id == mapping_id)
			return lfirst(lc);
	return NULL;
}

static void
note_unreachable(int32 mapping_id)
{
	DwUnreachable *entry = unreachable_entry(mapping_id);

	if (entry == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		entry = palloc0(sizeof(DwUnreachable));
		entry->mapping_id = mapping_id;
		unreachable = lappend(unreachable, entry);
		MemoryContextSwitchTo(old);
	}
	entry->delay_ms = Min(DW_MAX_UNREACHABLE_MS, Max(DW_MIN_LAG_MS, entry->delay_ms * 2));
	entry->until = after(entry->delay_ms);
}

static void
note_reached(int32 mapping_id)
{
	DwUnreachable *entry = unreachable_entry(mapping_id);

	if (entry == NULL)
		return;
	unreachable = list_delete_ptr(unreachable, entry);
	pfree(entry);
}

/* ---- what is due ---- */

/* A mapping with something in the queue. */
typedef struct DwDue
{
	int32		mapping_id;
	TimestampTz at;				/* when the first of it is due, and the mapping may be worked on */
} DwDue;

/*
 * What has been due longest first: keys are delivered about in the order in which they were queued, a parent's before its
 * children's, and no mapping starves another.
 */
static List *
due_mappings(int32 migration_id)
{
	List	   *result = NIL;
	DwSql		sql;
	uint64		rows;

	dw_sql_begin(&sql);
	rows = dw_sql("SELECT m.id, q.at FROM _dualwrite.mapping m CROSS JOIN LATERAL (SELECT min(e.next_attempt_at) AS at "
				  "FROM _dualwrite.queue e WHERE e.mapping_id = m.id AND NOT e.dead) q "
				  "WHERE m.migration_id = $1 AND q.at IS NOT NULL ORDER BY q.at, m.ordinal",
				  1, (DwArg[]) {DW_INT4(migration_id)});
	for (uint64 i = 0; i < rows; i++)
	{
		DwDue	   *due = MemoryContextAlloc(sql.caller, sizeof(DwDue));
		DwUnreachable *entry;
		MemoryContext spi;
		bool		isnull;

		due->mapping_id = DatumGetInt32(dw_sql_value(i, 1, &isnull));
		due->at = DatumGetTimestampTz(dw_sql_value(i, 2, &isnull));
		entry = unreachable_entry(due->mapping_id);
		if (entry != NULL)
			due->at = Max(due->at, entry->until);
		spi = MemoryContextSwitchTo(sql.caller);
		result = lappend(result, due);
		MemoryContextSwitchTo(spi);
	}
	dw_sql_end(&sql);
	return result;
}

/*
 * Keys of due entries of a mapping, locked; null when there is none that nobody else is at.  One that has failed before
 * comes alone.
 */
static ArrayType *
pick_keys(int32 mapping_id)
{
	ArrayType  *keys = NULL;
	DwSql		sql;
	uint64		rows;
	int			count = 0;
	bool		isnull;

	begin_by_index(&sql);
	rows = dw_sql("SELECT key, attempts FROM _dualwrite.queue WHERE mapping_id = $1 AND NOT dead AND next_attempt_at <= $2 "
				  "ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED",
				  3, (DwArg[]) {DW_INT4(mapping_id), DW_TIME(GetCurrentTimestamp()), DW_INT8((int64) batch_keys)});
	if (rows > 0)
	{
		Datum	   *values = palloc(sizeof(Datum) * rows);
		bool		alone = DatumGetInt32(dw_sql_value(0, 2, &isnull)) > 0;

		for (uint64 i = 0; i < rows && !(alone && count == 1); i++)
			if (alone || DatumGetInt32(dw_sql_value(i, 2, &isnull)) == 0)
				values[count++] = dw_sql_value(i, 1, &isnull);
		MemoryContextSwitchTo(sql.caller);
		keys = construct_array(values, count, JSONBOID, -1, false, TYPALIGN_INT);
	}
	dw_sql_end(&sql);
	return keys;
}

/* The keys with all their entries that are there now, locked: those that another worker is at are his. */
static void
collect_entries(DwBatch *batch, ArrayType *keys)
{
	DwSql		sql;
	uint64		rows;
	bool		isnull;

	begin_by_index(&sql);
	rows = dw_sql("WITH e AS MATERIALIZED (SELECT q.id, q.key, q.direction, q.dead, q.attempts, q.enqueued_at "
				  "FROM (SELECT DISTINCT u.key FROM unnest($2) AS u (key)) AS k "
				  "JOIN _dualwrite.queue AS q ON q.mapping_id = $1 "
				  "AND jsonb_hash_extended(q.key, 0) = jsonb_hash_extended(k.key, 0) AND q.key = k.key FOR UPDATE OF q SKIP LOCKED) "
				  "SELECT key, min(id) FILTER (WHERE NOT dead), coalesce(max(attempts) FILTER (WHERE NOT dead), 0), min(enqueued_at), "
				  "coalesce(bool_or(direction = 'forward') FILTER (WHERE NOT dead), false), "
				  "coalesce(bool_or(direction = 'reverse') FILTER (WHERE NOT dead), false), array_agg(id) "
				  "FROM e GROUP BY key HAVING bool_or(NOT dead) ORDER BY 2",
				  2, (DwArg[]) {DW_INT4(batch->mapping_id), DW_DATUM(JSONBARRAYOID, PointerGetDatum(keys), false)});
	MemoryContextSwitchTo(sql.caller);
	batch->keys = palloc(sizeof(DwQueued *) * (rows + 1));
	for (uint64 i = 0; i < rows; i++)
	{
		DwQueued   *queued = palloc0(sizeof(DwQueued));

		queued->key = DatumGetJsonbPCopy(dw_sql_value(i, 1, &isnull));
		queued->id = DatumGetInt64(dw_sql_value(i, 2, &isnull));
		queued->attempts = DatumGetInt32(dw_sql_value(i, 3, &isnull));
		queued->enqueued_at = DatumGetTimestampTz(dw_sql_value(i, 4, &isnull));
		queued->forward = DatumGetBool(dw_sql_value(i, 5, &isnull));
		queued->reverse = DatumGetBool(dw_sql_value(i, 6, &isnull));
		queued->ids = DatumGetArrayTypePCopy(dw_sql_value(i, 7, &isnull));
		batch->keys[batch->count++] = queued;
	}
	dw_sql_end(&sql);
}

/*
 * Locks on both tables, against a change of phase, and the right to deliver; without waiting for a change of phase, or a
 * comparison with another server, that is under way.
 */
static bool
enter_mapping(int32 mapping_id)
{
	DwMapping  *mapping = dw_mapping_by_id(mapping_id);

	return mapping == NULL ||
		(ConditionalLockRelationOid(mapping->old_table, RowExclusiveLock) &&
		 ConditionalLockRelationOid(mapping->new_table, RowExclusiveLock) &&
		 dw_queue_enter(mapping_id));
}

/* The next batch; IDLE, WAIT: nothing is due that can be done now, and *next_due says when to look again. */
static DwStep
pick_batch(DwBatch *batch, TimestampTz *next_due)
{
	TimestampTz now = GetCurrentTimestamp();
	DwStep		none = DW_STEP_IDLE;
	ListCell   *lc;

	foreach(lc, due_mappings(batch->migration->id))
	{
		DwDue	   *due = lfirst(lc);
		ArrayType  *keys;

		if (due->at > now)
			*next_due = Min(*next_due, due->at);
		else if (!enter_mapping(due->mapping_id))
		{
			*next_due = Min(*next_due, TimestampTzPlusMilliseconds(now, DW_TABLE_BUSY_MS));
			none = DW_STEP_WAIT;
		}
		else if ((keys = pick_keys(due->mapping_id)) != NULL)
		{
			batch->mapping_id = due->mapping_id;
			collect_entries(batch, keys);
			if (batch->count > 0)
				return DW_STEP_WORKED;
		}
	}
	return none;
}

/*
 * Which way to converge.  While only forward mirrors are on, the old side is right, whatever an entry of another time
 * says.  With both on, an entry's direction names the side that took a write which the other has not got; the truth
 * decides only where both sides took one.
 */
static DwDirection
direction_for(const DwQueued *queued, DwPhase phase)
{
	if (phase < DW_PHASE_READ_SWITCH)
		return DW_FORWARD;
	if (queued->forward && queued->reverse)
		return DW_TRUTH_DIRECTION(phase);
	return queued->reverse ? DW_REVERSE : DW_FORWARD;
}

/* Keep those that go the way of the first; the others stay due. */
static void
choose_direction(DwBatch *batch)
{
	int			kept = 0;

	batch->direction = direction_for(batch->keys[0], batch->migration->phase);
	for (int i = 0; i < batch->count; i++)
		if (direction_for(batch->keys[i], batch->migration->phase) == batch->direction)
			batch->keys[kept++] = batch->keys[i];
	batch->count = kept;
}

/* ---- what becomes of keys ---- */

static DwArg
ids_arg(const DwQueued *queued)
{
	return DW_DATUM(INT8ARRAYOID, PointerGetDatum(queued->ids), false);
}

static void
forget_entries(const DwQueued *queued)
{
	DwSql		sql;

	begin_by_index(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.queue WHERE id = ANY ($1)", 1, (DwArg[]) {ids_arg(queued)});
	dw_sql_end(&sql);
}

/* No attempt: the key is in other hands, or it has to wait for something else.  failure: what to show, or NULL. */
static void
put_off(const DwQueued *queued, double age_divisor, double min_ms, double max_ms, const DwError *failure)
{
	double		age_ms = TimestampDifferenceMilliseconds(queued->enqueued_at, GetCurrentTimestamp());
	TimestampTz next = after(Min(max_ms, Max(min_ms, age_ms / age_divisor)));
	DwSql		sql;

	begin_by_index(&sql);
	(void) dw_sql("UPDATE _dualwrite.queue SET next_attempt_at = $2, sqlstate = coalesce($3, sqlstate), message = coalesce($4, message) "
				  "WHERE id = ANY ($1) AND NOT dead",
				  4, (DwArg[]) {ids_arg(queued), DW_TIME(next), DW_TEXT(failure ? unpack_sql_state(failure->sqlstate) : NULL),
				  DW_TEXT(failure ? failure->message : NULL)});
	dw_sql_end(&sql);
}

static void
put_off_busy(const DwQueued *queued)
{
	put_off(queued, 10, DW_MIN_BUSY_MS, DW_MAX_BUSY_MS, NULL);
}

static void
put_off_lagging(const DwQueued *queued, const DwError *failure)
{
	put_off(queued, 4, DW_MIN_LAG_MS, DW_MAX_LAG_MS, failure);
}

/* To the log: not one key after the other where there are very many. */
static void
log_death(const DwMigration *migration, const DwQueued *queued, int attempts, const char *message)
{
	static DwTold told;
	bool		last;

	if (!dw_may_tell(&told, &last))
		return;
	ereport(WARNING,
			(errmsg("migration \"%s\": key %s could not be brought to agreement in %d attempts",
					migration->name, JsonbToCString(NULL, &queued->key->root, VARSIZE(queued->key)), attempts),
			 !last ? errdetail("The last error was: %s", message) :
			 errdetail("The last error was: %s\nOther keys that end like this in the next minute are not logged.", message),
			 errhint("Read dualwrite.dead_letters, remove the cause, then call dualwrite.retry or dualwrite.discard_dead.")));
}

/* Say it once: to the log, and to whoever listens.  The key may be nobody's business, so no notification shows it. */
static void
announce_death(const DwMigration *migration, const DwQueued *queued, int attempts, const char *message)
{
	StringInfoData payload;

	log_death(migration, queued, attempts, message);
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"alert\": \"dead_letter\", \"migration\": ");
	escape_json(&payload, migration->name);
	appendStringInfoChar(&payload, '}');
	Async_Notify("dualwrite", payload.data);
}

/* Note a failed attempt on one entry of the key; the others said no more than that. */
static void
note_failure(const DwBatch *batch, const DwQueued *queued, const DwError *failure)
{
	const DwMigration *migration = batch->migration;
	int			attempts = queued->attempts + 1;
	bool		dead = attempts >= dw_setting_int(migration->id, "queue_max_attempts");
	double		backoff_ms = dw_setting_int(migration->id, "queue_backoff");
	DwSql		sql;

	for (int i = 1; i < attempts && backoff_ms < DW_MAX_BACKOFF_MS; i++)
		backoff_ms *= 2;
	begin_by_index(&sql);
	(void) dw_sql("UPDATE _dualwrite.queue SET attempts = $2, next_attempt_at = $3, sqlstate = $4, message = $5, dead = $6, "
				  "direction = $7 WHERE id = $1",
				  7, (DwArg[]) {DW_INT8(queued->id), DW_INT4(attempts),
				  DW_TIME(after(Min(backoff_ms, DW_MAX_BACKOFF_MS))),
				  DW_TEXT(unpack_sql_state(failure->sqlstate)), DW_TEXT(failure->message), DW_BOOL(dead),
				  DW_TEXT(dw_direction_name(batch->direction))});
	(void) dw_sql("DELETE FROM _dualwrite.queue WHERE id = ANY ($1) AND id <> $2",
				  2, (DwArg[]) {ids_arg(queued), DW_INT8(queued->id)});
	dw_sql_end(&sql);
	if (dead)
		announce_death(migration, queued, attempts, failure->message);
}

static bool
history_is_there(const DwMigration *migration)
{
	double		percent;

	return migration->phase >= DW_PHASE_BACKFILL && dw_backfill_progress(migration->id, &percent);
}

/* Is a subscription still to copy one of the migration's old tables? */
static bool
is_being_copied(const DwMigration *migration)
{
	DwSql		sql;
	bool		result;

	dw_sql_begin(&sql);
	result = dw_sql("SELECT FROM pg_catalog.pg_subscription_rel s JOIN _dualwrite.mapping m ON m.old_table OPERATOR(pg_catalog.=) s.srrelid "
					"WHERE m.migration_id = $1 AND s.srsubstate OPERATOR(pg_catalog.<>) ALL ('{s,r}') LIMIT 1",
					1, (DwArg[]) {DW_INT4(migration->id)}) > 0;
	dw_sql_end(&sql);
	return result;
}

/*
 * Does a foreign key of the target fail only because another row is not there yet, or not gone yet?  A parent that is still
 * to be copied, by us or by a subscription, or a key that was queued before or together with this one and does not itself wait like this.
 */
static bool
waits_for_others(const DwBatch *batch, const DwQueued *queued, const DwError *failure)
{
	DwCompiled *compiled;
	DwSql		sql;
	bool		waits;

	if (failure->sqlstate != ERRCODE_FOREIGN_KEY_VIOLATION)
		return false;
	compiled = dw_compiled_get(batch->mapping_id);
	if (compiled != NULL && compiled->early_children && !history_is_there(batch->migration))
		return true;
	if (is_being_copied(batch->migration))
		return true;
	begin_by_index(&sql);
	waits = dw_sql("SELECT FROM _dualwrite.mapping m CROSS JOIN LATERAL (SELECT FROM _dualwrite.queue e WHERE e.mapping_id = m.id "
				   "AND NOT e.dead AND e.enqueued_at < $2 AND e.key <> $3 AND e.sqlstate IS DISTINCT FROM '23503' LIMIT 1) q "
				   "WHERE m.migration_id = $1 LIMIT 1",
				   3, (DwArg[]) {DW_INT4(batch->migration->id),
				   DW_TIME(TimestampTzPlusMilliseconds(queued->enqueued_at, DW_TOGETHER_MS)), DW_JSONB(queued->key)}) > 0;
	dw_sql_end(&sql);
	return waits;
}

/* A key failed alone. */
static void
settle_failed(DwBatch *batch, DwQueued *queued, const DwError *failure)
{
	if (dw_error_is_lock(failure->sqlstate))
		put_off_busy(queued);
	else if (dw_error_is_connection(failure->sqlstate) || waits_for_others(batch, queued, failure))
		put_off_lagging(queued, failure);
	else
		note_failure(batch, queued, failure);
}

/* ---- a batch ---- */

/* Work of dw_attempt. */
static void
converge_keys(void *arg)
{
	DwBatch    *batch = arg;
	DwCompiled *compiled = dw_compiled_get(batch->mapping_id);
	DwConverge *converge;
	DwFlow	   *flow;
	List	   *followers;

	for (int i = batch->from; i < batch->to; i++)
		batch->keys[i]->result = DW_CONVERGED_ALREADY;
	if (compiled == NULL)
		return;
	flow = &compiled->flow[batch->direction];
	followers = dw_followers_of(flow);
	dw_write_begin();
	converge = dw_converge_open(flow, false);
	for (int i = batch->from; i < batch->to; i++)
	{
		DwKey		key;

		CHECK_FOR_INTERRUPTS();
		if (i > batch->from && elapsed_ms(batch->start) > DW_BATCH_MS)
		{
			batch->stopped = true;
			batch->to = i;
			break;
		}
		dw_key_from_jsonb(compiled, batch->keys[i]->key, &key);
		batch->keys[i]->result = dw_converge(converge, &key);
		if (batch->keys[i]->result == DW_CONVERGED_WROTE)
			dw_follow_later(followers, flow, &key);
	}
	dw_converge_close(converge);
	dw_write_end(flow->target_owner);
}

static void
settle_done(DwBatch *batch)
{
	for (int i = batch->from; i < batch->to; i++)
		if (batch->keys[i]->result == DW_CONVERGED_BUSY)
			put_off_busy(batch->keys[i]);
		else
			forget_entries(batch->keys[i]);
}

/* Is the whole mapping out of reach?  Of a partitioned table, other partitions may be on other servers. */
static bool
is_out_of_reach(const DwBatch *batch, const DwError *failure)
{
	DwMapping  *mapping = dw_mapping_by_id(batch->mapping_id);

	return dw_error_is_connection(failure->sqlstate) && mapping != NULL && get_rel_relkind(mapping->new_table) == RELKIND_FOREIGN_TABLE;
}

/*
 * A child was tried while its parent was not committed, and now the parent's entries are gone: whoever delivered it, another
 * worker or the application, has committed in between.  So a second look decides.
 */
static bool
parent_has_come(DwBatch *batch, const DwQueued *queued, DwError *failure)
{
	return failure->sqlstate == ERRCODE_FOREIGN_KEY_VIOLATION && !waits_for_others(batch, queued, failure) &&
		dw_attempt(converge_keys, batch, batch->trial, failure);
}

/* Keys from .. to - 1; what fails by halves.  Some may be left over for lack of time. */
static void
deliver_keys(DwBatch *batch, int from, int to)
{
	DwError		failure;

	if (batch->stopped || (from > 0 && elapsed_ms(batch->start) > DW_BATCH_MS))
		return;
	batch->from = from;
	batch->to = to;
	if (dw_attempt(converge_keys, batch, batch->trial, &failure))
		settle_done(batch);
	else if (is_out_of_reach(batch, &failure))
	{
		/* one key shows why; the others are not even tried */
		put_off_lagging(batch->keys[from], &failure);
		note_unreachable(batch->mapping_id);
		batch->stopped = true;
		return;
	}
	else if (to - from == 1 && parent_has_come(batch, batch->keys[from], &failure))
		settle_done(batch);
	else if (to - from == 1)
		settle_failed(batch, batch->keys[from], &failure);
	else
	{
		deliver_keys(batch, from, from + (to - from) / 2);
		deliver_keys(batch, from + (to - from) / 2, to);
		return;
	}
	note_reached(batch->mapping_id);
}

static void
deliver_batch(DwBatch *batch)
{
	choose_direction(batch);
	batch->trial = batch->migration->phase == DW_PHASE_SHADOW && dw_setting_bool(batch->migration->id, "shadow_discard");
	INSTR_TIME_SET_CURRENT(batch->start);
	PushActiveSnapshot(GetLatestSnapshot());
	deliver_keys(batch, 0, batch->count);
	PopActiveSnapshot();
	if (batch->count >= batch_keys || batch->stopped)
		batch_keys = Min(DW_BATCH_KEYS, dw_throttle_resize(batch->count, elapsed_ms(batch->start), DW_BATCH_MS));
}

/* With what is due, if anything. */
static DwStep
deliver_due(const DwMigration *migration, TimestampTz *next_due)
{
	DwBatch		batch = {.migration = migration};
	DwStep		picked = pick_batch(&batch, next_due);

	if (picked != DW_STEP_WORKED)
		return picked;
	/* the phase that counts is the one under these locks */
	batch.migration = dw_migration_by_id(migration->id, false);
	if (batch.migration == NULL || batch.migration->phase < DW_PHASE_SHADOW || batch.migration->phase > DW_PHASE_CUTOVER)
		return DW_STEP_IDLE;
	deliver_batch(&batch);
	return DW_STEP_WORKED;
}

DwStep
dw_deliver_step(const DwMigration *migration, TimestampTz *next_due)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite delivery", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwStep		result;

	*next_due = DT_NOEND;
	dw_attempt_settings();
	result = deliver_due(migration, next_due);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

int
dw_deliver_openings(const DwMigration *migration)
{
	DwSql		sql;
	bool		isnull;
	int64		due;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT count(*) FROM (SELECT FROM _dualwrite.mapping m JOIN _dualwrite.queue e ON e.mapping_id = m.id "
				  "WHERE m.migration_id = $1 AND NOT e.dead AND e.next_attempt_at <= $2 LIMIT $3) AS d",
				  3, (DwArg[]) {DW_INT4(migration->id), DW_TIME(GetCurrentTimestamp()),
				  DW_INT8((int64) DW_BATCH_KEYS * dw_setting_int(migration->id, "queue_workers"))});
	due = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
	return (int) ((due + DW_BATCH_KEYS - 1) / DW_BATCH_KEYS);
}
