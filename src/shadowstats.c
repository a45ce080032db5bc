/*
 * shadowstats.c: counters of shadow reads, in shared memory.
 *
 * Shadow reads happen in transactions that only read, by many sessions at once: counting must neither write to a table,
 * which would give each of them a transaction id and a commit record, nor make anybody wait.  So they count in shared
 * memory, and the migration's worker copies the totals to _dualwrite.shadow_read now and then; after a restart, the first
 * that counts or looks takes them up from there.
 *
 * Totals belong to one stay in a phase: its beginning (phase_since) is part of their key, since what agreed in an earlier
 * one proves nothing now.
 */
#include "postgres.h"

#include "settings.h"
#include "shadowstats.h"
#include "shmem.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"

/* What the table holds of this stay in the phase; zeros where it holds nothing. */
static void
load_totals(const DwMigration *migration, DwShadowTotals *totals)
{
	DwSql		sql;
	bool		isnull;

	memset(totals, 0, sizeof(*totals));
	dw_sql_begin(&sql);
	if (dw_sql("SELECT agreed, mismatched, errors, skipped, old_us, new_us, old_buffers, new_buffers, failed_in_a_row, since"
			   " FROM _dualwrite.shadow_read WHERE migration_id = $1 AND phase_since = $2",
			   2, (DwArg[]) {DW_INT4(migration->id), DW_TIME(migration->phase_since)}) > 0)
	{
		for (int c = 0; c < DW_SHADOW_NUM_COUNTERS; c++)
			totals->counters[c] = DatumGetInt64(dw_sql_value(0, c + 1, &isnull));
		totals->since = DatumGetTimestampTz(dw_sql_value(0, DW_SHADOW_NUM_COUNTERS + 1, &isnull));
	}
	dw_sql_end(&sql);
}

/* Under the lock. */
static DwShadowSlot *
slot_find(DwShared *shared, const DwMigration *migration)
{
	for (int i = 0; i < DW_SHADOW_SLOTS; i++)
		if (shared->shadow[i].database == MyDatabaseId && shared->shadow[i].migration_id == migration->id)
			return &shared->shadow[i];
	return NULL;
}

/* Under the lock: the slot to be given away, free or unused for longest. */
static DwShadowSlot *
slot_choose(DwShared *shared)
{
	DwShadowSlot *oldest = &shared->shadow[0];

	for (int i = 0; i < DW_SHADOW_SLOTS; i++)
	{
		DwShadowSlot *slot = &shared->shadow[i];

		if (!OidIsValid(slot->database))
			return slot;
		if (pg_atomic_read_u64(&slot->used_at) < pg_atomic_read_u64(&oldest->used_at))
			oldest = slot;
	}
	return oldest;
}

static void
slot_fill(DwShadowSlot *slot, const DwMigration *migration, const DwShadowTotals *totals)
{
	slot->database = MyDatabaseId;
	slot->migration_id = migration->id;
	slot->phase_since = migration->phase_since;
	slot->since = totals->since;
	pg_atomic_write_u64(&slot->used_at, (uint64) GetCurrentTimestamp());
	for (int c = 0; c < DW_SHADOW_NUM_COUNTERS; c++)
		pg_atomic_write_u64(&slot->counters[c], (uint64) totals->counters[c]);
}

/*
 * The migration's slot for this stay in its phase, with the lock held, shared; NULL, and no lock, where somebody who knows
 * of a later phase has it already.
 */
static DwShadowSlot *
slot_lock(DwShared *shared, const DwMigration *migration)
{
	DwShadowTotals totals;
	DwShadowSlot *slot;

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = slot_find(shared, migration);
	if (slot != NULL && slot->phase_since == migration->phase_since)
		return slot;
	LWLockRelease(&shared->lock);
	load_totals(migration, &totals);
	if (totals.since == 0)
		totals.since = GetCurrentTimestamp();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = slot_find(shared, migration);
	if (slot == NULL)
		slot = slot_choose(shared);
	else if (slot->phase_since >= migration->phase_since)
		slot = NULL;			/* somebody else was quicker */
	if (slot != NULL)
		slot_fill(slot, migration, &totals);
	LWLockRelease(&shared->lock);

	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = slot_find(shared, migration);
	if (slot != NULL && slot->phase_since == migration->phase_since)
		return slot;
	LWLockRelease(&shared->lock);
	return NULL;
}

int64
dw_shadow_count(const DwMigration *migration, DwShadowCounter outcome, const int64 cost[4], bool failure)
{
	DwShared   *shared = dw_shared();
	DwShadowSlot *slot = shared ? slot_lock(shared, migration) : NULL;
	pg_atomic_uint64 *in_a_row;
	int64		failures = 0;

	if (slot == NULL)
		return 0;
	in_a_row = &slot->counters[DW_SHADOW_FAILED_IN_A_ROW];
	pg_atomic_fetch_add_u64(&slot->counters[outcome], 1);
	for (int i = 0; i < 4; i++)
		pg_atomic_fetch_add_u64(&slot->counters[DW_SHADOW_OLD_US + i], cost[i]);
	if (failure)
		failures = (int64) pg_atomic_add_fetch_u64(in_a_row, 1);
	else if (outcome != DW_SHADOW_SKIPPED && pg_atomic_read_u64(in_a_row) != 0)
		pg_atomic_write_u64(in_a_row, 0);
	pg_atomic_write_u64(&slot->used_at, (uint64) GetCurrentTimestamp());
	LWLockRelease(&shared->lock);
	return failures;
}

/* What shared memory holds of this stay in the phase; false where it holds nothing. */
static bool
shared_totals(const DwMigration *migration, DwShadowTotals *totals)
{
	DwShared   *shared = dw_shared();
	DwShadowSlot *slot;
	bool		found;

	if (shared == NULL)
		return false;
	LWLockAcquire(&shared->lock, LW_SHARED);
	slot = slot_find(shared, migration);
	found = slot != NULL && slot->phase_since == migration->phase_since;
	if (found)
	{
		for (int c = 0; c < DW_SHADOW_NUM_COUNTERS; c++)
			totals->counters[c] = (int64) pg_atomic_read_u64(&slot->counters[c]);
		totals->since = slot->since;
	}
	LWLockRelease(&shared->lock);
	return found;
}

void
dw_shadow_totals(const DwMigration *migration, DwShadowTotals *totals)
{
	if (!shared_totals(migration, totals))
		load_totals(migration, totals);
}

/* Write totals to the table, unless it holds the same ones, or some that began later. */
static void
store_totals(const DwMigration *migration, const DwShadowTotals *totals)
{
	DwSql		sql;
	DwArg		args[DW_SHADOW_NUM_COUNTERS + 3] = {
		DW_INT4(migration->id), DW_TIME(migration->phase_since), DW_TIME(totals->since)
	};

	for (int c = 0; c < DW_SHADOW_NUM_COUNTERS; c++)
		args[c + 3] = DW_INT8(totals->counters[c]);
	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.shadow_read AS s (migration_id, phase_since, since, agreed, mismatched, errors, skipped,"
				  " old_us, new_us, old_buffers, new_buffers, failed_in_a_row)"
				  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
				  " ON CONFLICT (migration_id) DO UPDATE SET (phase_since, since, agreed, mismatched, errors, skipped,"
				  " old_us, new_us, old_buffers, new_buffers, failed_in_a_row) = ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
				  " WHERE s.since <= $3 AND (s.phase_since, s.since, s.agreed, s.mismatched, s.errors, s.skipped)"
				  " IS DISTINCT FROM ($2, $3, $4, $5, $6, $7)",
				  lengthof(args), args);
	dw_sql_end(&sql);
}

void
dw_shadow_reset(const DwMigration *migration)
{
	DwShared   *shared = dw_shared();
	DwShadowTotals totals = {.since = GetCurrentTimestamp()};
	DwSql		sql;

	store_totals(migration, &totals);
	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.shadow_mismatch WHERE migration_id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	if (shared != NULL)
	{
		DwShadowSlot *slot;

		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		slot = slot_find(shared, migration);
		if (slot != NULL)
			slot_fill(slot, migration, &totals);
		LWLockRelease(&shared->lock);
	}
}

DwStep
dw_shadow_step(const DwMigration *migration, TimestampTz *next_due)
{
	DwShadowTotals totals;
	DwSql		sql;

	(void) next_due;
	if (shared_totals(migration, &totals))
		store_totals(migration, &totals);
	dw_sql_begin(&sql);
	/* nobody is made to wait: readers only append */
	(void) dw_sql("DELETE FROM _dualwrite.shadow_mismatch s WHERE s.id = ANY (ARRAY(SELECT o.id FROM _dualwrite.shadow_mismatch o"
				  " WHERE o.migration_id = $1 AND o.id <= (SELECT l.id FROM _dualwrite.shadow_mismatch l WHERE l.migration_id = $1"
				  " ORDER BY l.id DESC OFFSET $2 LIMIT 1) FOR UPDATE SKIP LOCKED))"
				  " OR NOT EXISTS (SELECT FROM _dualwrite.migration m WHERE m.id = s.migration_id)",
				  2, (DwArg[]) {DW_INT4(migration->id), DW_INT8(dw_setting_int(migration->id, "shadow_read_keep"))});
	dw_sql_end(&sql);
	return DW_STEP_IDLE;
}
