/*
 * backfill.c: copy of history, one batch at a time.
 *
 * Part (b) of the invariant.  The mirror is on and older writers have ended, so what is owed is what the old table's
 * heaps hold now, up to their size at the start.  They are walked by ranges of blocks (blocks.c), by one worker or several; a
 * batch is:
 *
 *	1. claim a range, lock the heap, its table and the new table, and look whether the heap is still the file that was
 *	   noted: a rewritten one has other TIDs, and is walked again;
 *	2. only then take the snapshot: an older one would see nothing in a file rewritten since;
 *	3. copy what is absent and look at each source row again (copy.c);
 *	4. the checkpoint, in the same transaction.
 *
 * It must never wait for an application.
 */
#include "postgres.h"

#include "analyze.h"
#include "attempt.h"
#include "backfill.h"
#include "copy.h"
#include "indexes.h"
#include "mapping.h"
#include "override.h"
#include "owner.h"
#include "pace.h"
#include "blocks.h"
#include "settings.h"
#include "sql.h"
#include "tables.h"
#include "throttle.h"
#include "worker.h"

#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Batches given up for a lock before the rows behind it are queued. */
#define DW_LOCK_RETRIES 3
/* Pauses, ms: throttled; a table locked by somebody else; another worker at the same mapping; no foreign server. */
#define DW_THROTTLED_MS 1000
#define DW_LOCKED_MS 100
#define DW_BESIDE_MS 100
#define DW_UNREACHABLE_MS 5000

/* A step under way. */
typedef struct DwBackfill
{
	const DwMigration *migration;
	DwBlockRange *range;
	const DwMapping *mapping;
	bool		overridden;		/* somebody's word stands against the signals: */
	double		ratio;			/* be at work for this share of the time */
	long		delay_ms;		/* before the next step */
} DwBackfill;

/* Batches given up for a lock by this process, in a row. */
static int	locked = 0;

void
dw_backfill_start(const DwMigration *migration)
{
	int32		ordinal = 0;
	ListCell   *lc;
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.backfill b USING _dualwrite.mapping m "
				  "WHERE m.id = b.mapping_id AND m.migration_id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	foreach(lc, dw_compiled_of(migration->id))
	{
		DwCompiled *compiled = lfirst(lc);

		(void) dw_blocks_note(compiled->mapping_id, ++ordinal, compiled->old_key.relid);
	}
}

/* What throttled_by shall say, a line each: an override first, it comes on top of any other reason. */
static char *
joined_reasons(const DwBackfill *step, List *reasons)
{
	StringInfoData joined;
	ListCell   *lc;

	initStringInfo(&joined);
	if (step->overridden)
		appendStringInfoString(&joined, "override");
	foreach(lc, reasons)
		appendStringInfo(&joined, "%s%s", joined.len > 0 ? "\n" : "", (char *) lfirst(lc));
	return joined.data;
}

static DwStep
wait_because(DwBackfill *step, const char *reason, long pause_ms)
{
	dw_blocks_hold(step->range, joined_reasons(step, list_make1(unconstify(char *, reason))));
	step->delay_ms = pause_ms;
	return DW_STEP_WAIT;
}

/* Is the heap still a leaf of the old table, or the table itself? */
static bool
belongs_to(Relation heap, Oid old_table)
{
	if (RelationGetRelid(heap) == old_table)
		return true;
	return heap->rd_rel->relispartition &&
		list_member_oid(get_partition_ancestors(RelationGetRelid(heap)), old_table);
}

/*
 * Do our row triggers fire on every write to the heap, whatever session_replication_role says?  Where they do not, what is
 * copied is out of date at once.
 */
static bool
is_mirrored(Relation heap, bool in_place)
{
	const int16 wanted = TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | (in_place ? 0 : TRIGGER_TYPE_DELETE);
	TriggerDesc *triggers = heap->trigdesc;
	int16		found = 0;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		/* the first letter only sorts them */
		if (strncmp(trigger->tgname + 1, "dualwrite_", strlen("dualwrite_")) == 0 &&
			trigger->tgenabled == TRIGGER_FIRES_ALWAYS && TRIGGER_FOR_ROW(trigger->tgtype))
			found |= trigger->tgtype & wanted;
	}
	return found == wanted;
}

/*
 * Lock the tables of the batch without waiting: whoever is in line for a strong lock goes first.  On the new table the
 * lock conflicts with that of a change of phase.
 */
static bool
lock_tables(const DwMapping *mapping, Oid heap)
{
	return ConditionalLockRelationOid(mapping->old_table, AccessShareLock) &&
		ConditionalLockRelationOid(heap, AccessShareLock) &&
		ConditionalLockRelationOid(mapping->new_table, RowExclusiveLock);
}

/*
 * Is there still a backfill to do?  Certain only under the locks of the batch.  In verify and read_switch, where old is the
 * truth as well, it is for mappings that were altered there.
 */
static bool
still_wanted(int32 migration_id)
{
	DwMigration *current = dw_migration_by_id(migration_id, false);

	return current != NULL && current->phase >= DW_PHASE_BACKFILL && current->phase <= DW_PHASE_READ_SWITCH;
}

/* The batch itself, under its locks and with the snapshot active. */
static DwStep
run_batch(DwBackfill *step, DwCompiled *compiled, Relation heap)
{
	DwBlockRange *range = step->range;
	DwLimits	limits;
	DwPace		pace;
	DwCounts	counts;
	DwCopied	copied;
	int64		end;

	dw_pace_limits(step->migration->id, step->overridden, step->ratio, &limits);
	step->delay_ms = dw_pace_begin(&pace, &limits, range->end_block - range->next_block);
	if (step->delay_ms > 0)
		return DW_STEP_WORKED;
	end = range->next_block + pace.blocks;
	copied = dw_copy_blocks(compiled, heap, range->next_block, &end, locked >= DW_LOCK_RETRIES, &pace, &counts);
	if (copied != DW_COPIED)
		dw_pace_give_up(&pace);
	if (copied == DW_COPY_UNREACHABLE)
		return wait_because(step, "foreign server", DW_UNREACHABLE_MS);
	if (copied == DW_COPY_LOCKED)
	{
		/* what was copied before the lock stays, and is found there next time */
		locked++;
		return wait_because(step, "row lock", DW_LOCKED_MS);
	}
	locked = 0;
	dw_blocks_checkpoint(range, end, &counts, joined_reasons(step, NIL));
	dw_attempt_lazy_commit();
	step->delay_ms = dw_pace_end(&pace, end - range->next_block, counts.done);
	return DW_STEP_WORKED;
}

/* The heap is another file than the one that was noted: all workers step aside for the one that starts it again. */
static DwStep
restart_heap(DwBackfill *step, Relation heap)
{
	if (dw_blocks_restart(step->range, heap))
		return DW_STEP_WORKED;
	step->delay_ms = DW_BESIDE_MS;
	return DW_STEP_WAIT;
}

/* Under the locks: a batch, unless the heap is not what it was. */
static DwStep
step_in_heap(DwBackfill *step)
{
	Relation	heap = try_table_open(step->range->heap, NoLock);
	DwStep		result = DW_STEP_WORKED;

	if (heap == NULL || !belongs_to(heap, step->mapping->old_table))
		dw_blocks_abandon(step->range);
	else if (heap->rd_rel->relfilenode != step->range->relfilenode)
		result = restart_heap(step, heap);
	else if (!is_mirrored(heap, DW_IN_PLACE(step->mapping)))
		result = wait_because(step, "triggers missing or disabled", DW_THROTTLED_MS);
	else
	{
		DwCompiled *compiled;

		/* not before the locks: a rewrite that ended meanwhile hides all rows from an older snapshot */
		PushActiveSnapshot(GetLatestSnapshot());
		compiled = dw_compiled_get(step->range->mapping_id);
		if (compiled == NULL)
			dw_blocks_abandon(step->range);
		else
			result = run_batch(step, compiled, heap);
		PopActiveSnapshot();
	}
	if (heap != NULL)
		table_close(heap, NoLock);
	return result;
}

/* All ranges of a mapping are read through: close it, after a look for leaves that were attached meanwhile. */
static DwStep
finish_mapping(DwBackfill *step)
{
	const DwMapping *mapping = step->mapping;
	int			openings;

	if (!ConditionalLockRelationOid(mapping->old_table, AccessShareLock))
		return wait_because(step, "table lock", DW_LOCKED_MS);
	switch (dw_blocks_finish(step->range, mapping->old_table))
	{
		case DW_MAPPING_BESIDE:
			step->delay_ms = DW_BESIDE_MS;
			return DW_STEP_WAIT;
		case DW_MAPPING_GREW:
			return DW_STEP_WORKED;
		case DW_MAPPING_ENDED:
			break;
	}
	/* where indexes have yet to be built again it is done once they are */
	if (dw_indexes_away_from(mapping->new_table))
		dw_worker_wake();
	else
		dw_analyze(mapping->new_table, mapping->new_name);
	return dw_blocks_left(step->migration->id, &openings) == 0 ? DW_STEP_DONE : DW_STEP_WORKED;
}

static void
check_tables(const DwMapping *mapping)
{
	bool		has_old = get_rel_name(mapping->old_table) != NULL;

	if (!has_old || get_rel_name(mapping->new_table) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s of a mapping does not exist any more", has_old ? mapping->new_name : mapping->old_name),
				 errhint("Call dualwrite.rollback and drop the mapping or the migration.")));
}

/* The tables of a mapping with their leaves: those that somebody may wait for, or vacuum. */
static List *
tables_concerned(const DwMapping *mapping)
{
	return list_concat(dw_heaps_of(mapping->old_table, NoLock), dw_heaps_of(mapping->new_table, NoLock));
}

/* Must there be no batch just now?  An override stands against all signals, even one that cannot be read. */
static bool
is_held_back(DwBackfill *step)
{
	List	   *tripped = NIL;

	step->overridden = dw_override_get(step->migration->id, &step->ratio);
	if (!step->overridden)
		tripped = dw_throttle_signals(step->migration->id, tables_concerned(step->mapping),
									  dw_relation_owner(step->mapping->old_table));
	if (tripped == NIL && !(step->overridden && step->ratio <= 0))
		return false;
	dw_blocks_hold(step->range, joined_reasons(step, tripped));
	return true;
}

/* What to do with the range that was claimed. */
static DwStep
step_in_range(DwBackfill *step)
{
	step->mapping = dw_mapping_by_id(step->range->mapping_id);
	if (step->mapping == NULL || !still_wanted(step->migration->id))
		return DW_STEP_IDLE;
	if (step->range->next_block >= step->range->end_block)
		return finish_mapping(step);
	check_tables(step->mapping);
	if (is_held_back(step))
	{
		step->delay_ms = DW_THROTTLED_MS;
		return DW_STEP_WAIT;
	}
	if (!lock_tables(step->mapping, step->range->heap))
		return wait_because(step, "table lock", DW_LOCKED_MS);
	/* the phase that counts is the one under these locks */
	if (!still_wanted(step->migration->id))
		return DW_STEP_IDLE;
	return step_in_heap(step);
}

DwStep
dw_backfill_step(const DwMigration *migration, long *delay_ms)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite backfill step", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwBackfill	step = {.migration = migration};
	DwStep		result = DW_STEP_IDLE;
	int			openings;

	dw_attempt_settings();
	step.range = dw_blocks_claim(migration->id, (int) dw_setting_int(migration->id, "backfill_workers"));
	if (step.range != NULL && step.range->divided)
		result = DW_STEP_WORKED;
	else if (step.range != NULL)
		result = step_in_range(&step);
	else if (dw_blocks_left(migration->id, &openings) > 0)
	{
		result = DW_STEP_WAIT;
		step.delay_ms = DW_BESIDE_MS;
	}
	*delay_ms = step.delay_ms;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

int
dw_backfill_openings(const DwMigration *migration)
{
	int			openings;

	(void) dw_blocks_left(migration->id, &openings);
	return openings;
}

bool
dw_backfill_progress(int32 migration_id, double *percent)
{
	DwSql		sql;
	bool		finished;
	double		total;
	double		done;
	bool		isnull;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT coalesce(bool_and(b.finished_at IS NOT NULL), false), coalesce(sum(b.end_block - b.first_block), 0)::float8, "
				  "coalesce(sum(least(b.next_block, b.end_block) - b.first_block), 0)::float8 "
				  "FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id WHERE m.migration_id = $1",
				  1, (DwArg[]) {DW_INT4(migration_id)});
	finished = DatumGetBool(dw_sql_value(0, 1, &isnull));
	total = DatumGetFloat8(dw_sql_value(0, 2, &isnull));
	done = DatumGetFloat8(dw_sql_value(0, 3, &isnull));
	dw_sql_end(&sql);
	*percent = finished ? 100 : total > 0 ? 100 * done / total : 0;
	return finished;
}
