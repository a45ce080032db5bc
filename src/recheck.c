/*
 * recheck.c: a second look at what depends on a changed row, once everybody who could not see the change has ended.
 *
 * T2 changes a row of a table that a mapping looks up, and converges the source rows that its query sees.  T1, which has
 * not ended, has written another source row, which that query does not see; the mirror of T1 does not see what T2 did.  Both
 * commit, and the target row of T1 holds a value that is no more.
 *
 * So T2 leaves an entry here.  The worker that first sees it, which is after T2's commit, notes the horizon: the first xid
 * that is not given out.  T1 had its xid before it looked anything up, and whoever gets one later looks T2's value up
 * himself.  Once no transaction below the horizon is left, the query is run again, and keys whose sides differ go to the
 * queue.
 *
 * Nothing here writes a row of a user's table.
 */
#include "postgres.h"

#include "attempt.h"
#include "compare.h"
#include "lookedup.h"
#include "queue.h"
#include "recheck.h"
#include "sql.h"
#include "worker.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A change that somebody may still be unable to see is looked at again after a tenth of its age, within these limits, ms. */
#define MIN_WAIT_MS 50
#define MAX_WAIT_MS 5000
/* When one of the tables is locked, ms. */
#define TABLE_BUSY_MS 250
/* A change that has waited for so long is not just the latest one, ms. */
#define LATE_MS 10000

typedef struct Entry
{
	int32		dependency_id;
	int32		mapping_id;
	Jsonb	   *image;
} Entry;

/* What the call-back of one step works on. */
static DwCompare *comparing = NULL;

void
dw_recheck_append(int32 dependency_id, int32 mapping_id, Jsonb *image)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.recheck (dependency_id, mapping_id, image) VALUES ($1, $2, $3)",
				  3, (DwArg[]) {DW_INT4(dependency_id), DW_INT4(mapping_id), DW_JSONB(image)});
	dw_sql_end(&sql);
	dw_worker_wake();
}

int64
dw_recheck_pending(int32 migration_id, bool to_complete)
{
	DwSql		sql;
	bool		isnull;
	int64		count;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT count(*) FROM _dualwrite.recheck r JOIN _dualwrite.mapping m ON m.id = r.mapping_id"
				  " WHERE m.migration_id = $1 AND r.enqueued_at <= $2",
				  2, (DwArg[]) {DW_INT4(migration_id),
				  DW_TIME(to_complete ? DT_NOEND : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -LATE_MS))});
	count = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
	return count;
}

void
dw_recheck_forget(int32 migration_id)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.recheck r USING _dualwrite.mapping m WHERE m.id = r.mapping_id"
				  " AND m.migration_id = $1", 1, (DwArg[]) {DW_INT4(migration_id)});
	dw_sql_end(&sql);
}

/* Changes that nobody has seen yet get their horizon.  By the snapshot that sees them, hence in one statement. */
static void
note_horizons(int32 migration_id)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.recheck r SET horizon = pg_snapshot_xmax(pg_current_snapshot()) FROM _dualwrite.mapping m"
				  " WHERE m.id = r.mapping_id AND m.migration_id = $1 AND r.horizon IS NULL",
				  1, (DwArg[]) {DW_INT4(migration_id)});
	dw_sql_end(&sql);
}

/* A change that nobody can have missed any more; NULL when there is none that nobody else is at. */
static Entry *
pick_entry(int32 migration_id)
{
	Entry	   *entry = NULL;
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT r.dependency_id, r.mapping_id, r.image FROM _dualwrite.recheck r JOIN _dualwrite.mapping m"
			   " ON m.id = r.mapping_id WHERE m.migration_id = $1 AND r.horizon <= pg_snapshot_xmin(pg_current_snapshot())"
			   " ORDER BY r.id LIMIT 1 FOR UPDATE OF r SKIP LOCKED", 1, (DwArg[]) {DW_INT4(migration_id)}) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(sql.caller);

		entry = palloc0(sizeof(Entry));
		entry->dependency_id = DatumGetInt32(dw_sql_value(0, 1, &isnull));
		entry->mapping_id = DatumGetInt32(dw_sql_value(0, 2, &isnull));
		entry->image = DatumGetJsonbPCopy(dw_sql_value(0, 3, &isnull));
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return entry;
}

/* The entry goes, with all that say the same. */
static void
remove_entry(const Entry *entry)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.recheck WHERE mapping_id = $1 AND dependency_id = $2 AND image = $3"
				  " AND horizon <= pg_snapshot_xmin(pg_current_snapshot())",
				  3, (DwArg[]) {DW_INT4(entry->mapping_id), DW_INT4(entry->dependency_id), DW_JSONB(entry->image)});
	dw_sql_end(&sql);
}

/* When to come again for those that wait; DT_NOEND when none does. */
static TimestampTz
next_look(int32 migration_id)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due = DT_NOEND;
	DwSql		sql;
	bool		isnull;
	Datum		value;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT max(r.enqueued_at) FROM _dualwrite.recheck r JOIN _dualwrite.mapping m ON m.id = r.mapping_id"
				  " WHERE m.migration_id = $1", 1, (DwArg[]) {DW_INT4(migration_id)});
	value = dw_sql_value(0, 1, &isnull);
	if (!isnull)
	{
		long		age_ms = TimestampDifferenceMilliseconds(DatumGetTimestampTz(value), now);

		due = TimestampTzPlusMilliseconds(now, Min(MAX_WAIT_MS, Max(MIN_WAIT_MS, age_ms / 10)));
	}
	dw_sql_end(&sql);
	return due;
}

/* Against a change of phase, and so that the shape of the tables stays, without waiting. */
static bool
lock_tables(const DwMapping *mapping, const DwDependency *dependency)
{
	return ConditionalLockRelationOid(mapping->old_table, RowShareLock) &&
		ConditionalLockRelationOid(mapping->new_table, RowShareLock) &&
		ConditionalLockRelationOid(dependency->lookup, AccessShareLock);
}

static DwDependency *
find_dependency(const DwMapping *mapping, int32 id)
{
	ListCell   *lc;

	foreach(lc, mapping ? mapping->dependencies : NIL)
		if (((DwDependency *) lfirst(lc))->id == id)
			return lfirst(lc);
	return NULL;
}

/*
 * The comparison knows one direction only; what is made in reverse, and may be right already, converges to nothing.
 */
static void
queue_if_different(DwFlow *flow, const DwKey *source_key)
{
	DwKey		key;

	dw_key_set(flow->source_key, source_key, &key);
	if (flow->direction == DW_FORWARD &&
		(!dw_key_of_old(flow->compiled, source_key, &key) || dw_compare_key(comparing, &key, false) == NULL))
		return;
	dw_queue_append(flow, &key, 0, NULL);
}

/* Is the dependency's direction mirrored? */
static bool
is_mirrored(const DwLookedUp *looked_up)
{
	DwPhase		phase = looked_up->compiled->phase;

	return !looked_up->compiled->broken && phase <= DW_PHASE_CUTOVER &&
		phase >= (looked_up->dependency->direction == DW_FORWARD ? DW_PHASE_SHADOW : DW_PHASE_READ_SWITCH);
}

/* The dependency as the table's trigger has it; others of the same query stand for it. */
static DwLookedUp *
find_looked_up(DwTable *table, const DwDependency *dependency, int32 mapping_id)
{
	ListCell   *lc;

	foreach(lc, table->as_lookup)
	{
		DwLookedUp *looked_up = lfirst(lc);

		if (looked_up->compiled->mapping_id == mapping_id && looked_up->dependency->direction == dependency->direction &&
			strcmp(looked_up->dependency->query, dependency->query) == 0)
			return looked_up;
	}
	return NULL;
}

static void
look_again(const Entry *entry, const DwDependency *dependency)
{
	Relation	lookup = table_open(dependency->lookup, NoLock);
	DwLookedUp *looked_up = find_looked_up(dw_table_get(lookup), dependency, entry->mapping_id);

	if (looked_up != NULL && is_mirrored(looked_up))
	{
		comparing = dw_compare_open(entry->mapping_id);
		if (comparing != NULL)
		{
			dw_lookedup_keys(looked_up, entry->image, queue_if_different);
			dw_compare_close(comparing);
			comparing = NULL;
		}
	}
	table_close(lookup, NoLock);
}

DwStep
dw_recheck_step(const DwMigration *migration, TimestampTz *next_due)
{
	Entry	   *entry;
	DwMapping  *mapping;
	DwDependency *dependency;

	dw_attempt_settings();
	note_horizons(migration->id);
	*next_due = next_look(migration->id);
	entry = pick_entry(migration->id);
	if (entry == NULL)
		return DW_STEP_IDLE;
	mapping = dw_mapping_by_id(entry->mapping_id);
	dependency = find_dependency(mapping, entry->dependency_id);
	/* an altered mapping is gone through from the beginning anyway */
	if (dependency != NULL && !lock_tables(mapping, dependency))
	{
		*next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), TABLE_BUSY_MS);
		return DW_STEP_WAIT;
	}
	remove_entry(entry);
	if (dependency != NULL)
		look_again(entry, dependency);
	*next_due = 0;
	return DW_STEP_WORKED;
}
