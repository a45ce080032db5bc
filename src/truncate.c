/*
 * truncate.c: TRUNCATE of one side, made on the other.
 *
 * Where the target holds nothing but this mapping's rows, and nobody references it, it is truncated as well; anything
 * else (a leaf, a filter, a union, a referenced table) is a delete of each row that is about to go.  So it is where somebody
 * holds the target for longer than a moment: a reader of it may be about to read the source, which is locked by now.
 *
 * The triggers of a TRUNCATE of several tables fire one table after the other, parents possibly first.  The rows of
 * tables that reference this one, which must be part of the same TRUNCATE, are therefore mirrored before its own.  All this
 * has an after-trigger level of its own: that of TRUNCATE does not close what row events open.
 */
#include "postgres.h"

#include "absorb.h"
#include "locks.h"
#include "mirror.h"
#include "owner.h"
#include "usercode.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Longest wait for readers of the target, in ms. */
#define LONGEST_WAIT	200

static bool truncating = false;

bool
dw_truncating(void)
{
	return truncating;
}

/* Does another table reference this one? */
static bool
is_referenced(Oid relid)
{
	bool		result;

	SPI_connect();
	result = SPI_execute_with_args("SELECT 1 FROM pg_catalog.pg_constraint WHERE contype OPERATOR(pg_catalog.=) 'f'"
								   " AND confrelid OPERATOR(pg_catalog.=) $1 AND conrelid OPERATOR(pg_catalog.<>) $1",
								   1, (Oid[]) {OIDOID}, (Datum[]) {ObjectIdGetDatum(relid)}, NULL, true, 1) == SPI_OK_SELECT &&
		SPI_processed > 0;
	SPI_finish();
	return result;
}

/* Is every row of the target this mapping's? */
static bool
owns_whole_target(DwFlow *flow)
{
	DwCompiled *compiled = flow->compiled;
	Relation	rel;
	DwTable    *table;
	int			mappings;

	if (!flow->owns_target || compiled->mapping->filter != NULL || compiled->new_is_foreign ||
		compiled->mapping->queued || flow->direction == DW_REVERSE)
		return false;
	rel = table_open(flow->target, AccessShareLock);
	table = dw_table_get(rel);
	mappings = list_length(table->as_new) + list_length(table->as_old);
	table_close(rel, NoLock);
	return mappings == 1;
}

/* Triggers that a mirrored write must not fire. */
static bool
is_truncate_trigger(const Trigger *trigger)
{
	return TRIGGER_FOR_TRUNCATE(trigger->tgtype);
}

/* Would TRUNCATE refuse the target, or fire what it should not? */
static bool
forbids_truncate(Oid target)
{
	ListCell   *lc;

	foreach(lc, dw_heaps_of(target, AccessShareLock))
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);
		/* an open cursor; checks that wait for the commit */
		bool		forbids = rel->rd_refcnt > 1 || AfterTriggerPendingOnRel(RelationGetRelid(rel)) ||
			dw_has_other_trigger(rel, is_truncate_trigger);

		table_close(rel, NoLock);
		if (forbids)
			return true;
	}
	return false;
}

static void
truncate_target(void *arg)
{
	DwFlow	   *flow = arg;
	DwOwnerScope scope;
	char	   *sql = psprintf("TRUNCATE %s", quote_qualified_identifier(get_namespace_name(get_rel_namespace(flow->target)),
																		 get_rel_name(flow->target)));

	truncating = true;
	PG_TRY();
	{
		dw_owner_enter(&scope, flow->target_owner, true);
		SPI_connect();
		if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not execute \"%s\"", sql);
		SPI_finish();
		dw_owner_leave(&scope);
	}
	PG_FINALLY();
	{
		truncating = false;
	}
	PG_END_TRY();
}

static bool
is_empty(Oid relid)
{
	ListCell   *lc;

	foreach(lc, dw_heaps_of(relid, AccessShareLock))
	{
		Relation	rel;
		BlockNumber blocks = 0;

		if (!RELKIND_HAS_TABLE_AM(get_rel_relkind(lfirst_oid(lc))))
			continue;
		rel = table_open(lfirst_oid(lc), NoLock);
		blocks = RelationGetNumberOfBlocks(rel);
		table_close(rel, NoLock);
		if (blocks > 0)
			return false;
	}
	return true;
}

/* Mirror the delete of every row. */
static void
delete_rows(DwFlow *flow, DwTable *table, Relation rel)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite truncate", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwRowEvent	event = {
		.event = TRIGGER_EVENT_DELETE | TRIGGER_EVENT_ROW, .rel = rel, .table = table, .truncated = true
	};

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		event.old_row = table->to_root ? execute_attr_map_slot(table->to_root->attrMap, slot, table->root_slot_old) : slot;
		dw_mirror_row(flow, &event);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
}

/* Not for long enough that anybody's deadlock check would come to it. */
static bool
lock_target(Oid target)
{
	return dw_lock_attempt(dw_lock_wish(NIL, target, AccessExclusiveLock), Max(1, Min(LONGEST_WAIT, DeadlockTimeout / 2 - 1)));
}

/* true: the target has been truncated as a whole. */
static bool
truncate_as_a_whole(DwFlow *flow, DwTable *table)
{
	DwError		error;

	if (table->relid != table->root || !owns_whole_target(flow) || is_referenced(flow->target) ||
		forbids_truncate(flow->target) || !lock_target(flow->target))
		return false;
	if (flow->compiled->queue_errors)
		return dw_try(truncate_target, flow, flow->compiled->discard, NULL, &error);
	truncate_target(flow);
	return true;
}

static bool
is_mirrored(const DwFlow *flow)
{
	DwPhase		phase = flow->compiled->phase;

	return !flow->compiled->broken && phase < DW_PHASE_COMPLETE &&
		phase >= (flow->direction == DW_FORWARD ? DW_PHASE_SHADOW : DW_PHASE_READ_SWITCH);
}

/* The rows of one heap, through each of its mappings in this direction, or only through one (flow; NULL: all). */
static void
truncate_heap(Relation rel, DwDirection direction, DwFlow *only)
{
	DwTable    *table = dw_table_get(rel);
	ListCell   *lc;

	foreach(lc, direction == DW_FORWARD ? table->as_old : table->as_new)
	{
		DwFlow	   *flow = &((DwCompiled *) lfirst(lc))->flow[direction];

		if ((only != NULL && flow != only) || !is_mirrored(flow))
			continue;
		/* the rows of a partitioned table are its leaves', which have triggers of their own */
		if (!truncate_as_a_whole(flow, table) && RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind))
			delete_rows(flow, table, rel);
	}
}

/* Tables that reference this one, and before each of them those that reference it. */
static void
truncate_references(Oid relid, DwDirection direction, List **done)
{
	ListCell   *lc;

	*done = lappend_oid(*done, relid);
	foreach(lc, heap_truncate_find_FKs(list_make1_oid(relid)))
	{
		Oid			child = lfirst_oid(lc);
		ListCell   *heap;

		if (list_member_oid(*done, child))
			continue;
		truncate_references(child, direction, done);
		foreach(heap, dw_heaps_of(child, AccessShareLock))
		{
			Relation	rel;

			rel = table_open(lfirst_oid(heap), NoLock);
			truncate_heap(rel, direction, NULL);
			table_close(rel, NoLock);
		}
	}
}

void
dw_mirror_truncate(DwFlow *flow, DwTable *table, Relation rel)
{
	List	   *done = NIL;

	if (truncating || (!flow->compiled->new_is_foreign && is_empty(flow->target)))
		return;
	if (truncate_as_a_whole(flow, table))
		return;
	AfterTriggerBeginQuery();
	truncate_references(table->relid, flow->direction, &done);
	truncate_heap(rel, flow->direction, flow);
	dw_mirror_flush();
	AfterTriggerEndQuery(NULL);
}
