/*
 * dependents.c: rows that depend on a row of a table that a mapping looks up.
 *
 * A column of the target may be made by a sub-select on another table, and the mapping may declare which source rows
 * depend on a row of it.  When one changes, they are converged in the same transaction, in the same way as a row that is
 * written itself.
 *
 * Nobody is waited for: whoever writes the looked-up table takes rows of another table in an order that the application
 * knows nothing of, and would be in deadlocks that it has not earned.  A key that somebody holds is queued.
 *
 * That does not catch everything.  While this transaction is open, another one may write a source row that our query
 * does not see yet, and its mirror does not see our change.  Each change therefore wants a second look (recheck.c), which
 * is taken once everybody who could not see it has ended.  It costs writers of the looked-up table one insert a row, and
 * writers of the source, of whom there are many more, nothing.
 */
#include "postgres.h"

#include "dependents.h"
#include "lookedup.h"
#include "mirror.h"
#include "recheck.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* In the columns given; NULL: in all. */
static bool
rows_equal(TupleTableSlot *a, TupleTableSlot *b, const Bitmapset *columns)
{
	slot_getallattrs(a);
	slot_getallattrs(b);
	for (int i = 0; i < a->tts_tupleDescriptor->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(a->tts_tupleDescriptor, i);

		if (att->attisdropped || (columns != NULL && !bms_is_member(i + 1, columns)))
			continue;
		if (a->tts_isnull[i] != b->tts_isnull[i] ||
			(!a->tts_isnull[i] && !datum_image_eq(a->tts_values[i], b->tts_values[i], att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

static Jsonb *
image_of(const DwLookedUp *looked_up, TupleTableSlot *row)
{
	return dw_row_to_jsonb(row->tts_tupleDescriptor, row, looked_up->columns);
}

static void
follow(DwLookedUp *looked_up, Jsonb *image)
{
	dw_recheck_append(looked_up->dependency->id, looked_up->compiled->mapping_id, image);
	dw_lookedup_keys(looked_up, image, dw_mirror_dependent);
}

void
dw_dependents_follow(DwLookedUp *looked_up, TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	Jsonb	   *before = NULL;
	Jsonb	   *after = NULL;

	dw_lookedup_prepare(looked_up);
	if (old_row != NULL && new_row != NULL && rows_equal(old_row, new_row, looked_up->relevant))
		return;
	if (old_row != NULL)
		before = image_of(looked_up, old_row);
	if (new_row != NULL)
		after = image_of(looked_up, new_row);
	if (before != NULL)
		follow(looked_up, before);
	if (after != NULL && (before == NULL || compareJsonbContainers(&before->root, &after->root) != 0))
		follow(looked_up, after);
}

void
dw_dependents_truncate(DwLookedUp *looked_up, DwTable *table, Relation heap)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	TableScanDesc scan = table_beginscan(heap, snapshot, 0, NULL);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite truncate", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;

	dw_lookedup_prepare(looked_up);
	old = MemoryContextSwitchTo(context);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		TupleTableSlot *row = table->to_root ? execute_attr_map_slot(table->to_root->attrMap, slot, table->root_slot_old) : slot;

		CHECK_FOR_INTERRUPTS();
		dw_recheck_append(looked_up->dependency->id, looked_up->compiled->mapping_id, image_of(looked_up, row));
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
}
