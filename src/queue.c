/*
 * queue.c: keys to be brought to agreement later.
 *
 * Writers only ever append: a unique index, or an update of an entry that is there already, would be a lock order of
 * its own, with the application as deadlock victim.  Whoever delivers coalesces instead (deliver.c).
 *
 * No value is kept here, only keys: what is written is what the source says at that moment.
 */
#include "postgres.h"

#include "queue.h"
#include "sql.h"
#include "worker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

const char *
dw_direction_name(DwDirection direction)
{
	return direction == DW_FORWARD ? "forward" : "reverse";
}

void
dw_queue_append_json(int32 mapping_id, DwDirection direction, Jsonb *key, int sqlstate, const char *message)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.queue (mapping_id, direction, key, sqlstate, message) VALUES ($1, $2, $3, $4, $5)",
				  5, (DwArg[]) {DW_INT4(mapping_id), DW_TEXT(dw_direction_name(direction)), DW_JSONB(key),
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

/* Advisory locks of users have 1 or 2 here; the drift's lock is another one. */
#define DW_DELIVERY_LOCK_CLASS 0x6478

static bool
lock_delivery(int32 mapping_id, LOCKMODE mode, bool wait)
{
	DwMapping  *mapping = dw_mapping_by_id(mapping_id);
	LOCKTAG		tag;

	if (mapping == NULL || !mapping->queued || !dw_is_foreign(mapping->new_table))
		return true;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) mapping_id, 0, DW_DELIVERY_LOCK_CLASS);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* Several may compare, or several deliver: modes that get along with themselves, but not with each other. */
void
dw_queue_hold(int32 mapping_id)
{
	(void) lock_delivery(mapping_id, ShareLock, true);
}

bool
dw_queue_enter(int32 mapping_id)
{
	return lock_delivery(mapping_id, RowExclusiveLock, false);
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

/* Key in argument 2: the index has its hash. */
#define IS_KEY_2 "jsonb_hash_extended(key, 0) = jsonb_hash_extended($2, 0) AND key = $2"

bool
dw_queue_has(int32 mapping_id, Jsonb *key, Snapshot snapshot)
{
	DwSql		sql;
	bool		found;

	dw_sql_begin(&sql);
	found = dw_sql_snapshot("SELECT FROM _dualwrite.queue WHERE mapping_id = $1 AND " IS_KEY_2 " AND NOT dead LIMIT 1",
							2, (DwArg[]) {DW_INT4(mapping_id), DW_JSONB(key)}, snapshot) > 0;
	dw_sql_end(&sql);
	return found;
}

bool
dw_queue_is_empty(int32 mapping_id, Snapshot snapshot)
{
	DwSql		sql;
	bool		found;

	dw_sql_begin(&sql);
	dw_sql_by_index();
	found = dw_sql_snapshot("SELECT FROM _dualwrite.queue WHERE mapping_id = $1 AND NOT dead LIMIT 1",
							1, (DwArg[]) {DW_INT4(mapping_id)}, snapshot) > 0;
	dw_sql_end(&sql);
	return !found;
}

bool
dw_queue_opposes(const DwFlow *flow, Jsonb *key)
{
	DwSql		sql;
	bool		found;

	dw_sql_begin(&sql);
	found = dw_sql("SELECT FROM _dualwrite.queue WHERE mapping_id = $1 AND " IS_KEY_2 " AND direction = $3 LIMIT 1",
				   3, (DwArg[]) {DW_INT4(flow->compiled->mapping_id), DW_JSONB(key),
				   DW_TEXT(dw_direction_name(flow->direction == DW_FORWARD ? DW_REVERSE : DW_FORWARD))}) > 0;
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
