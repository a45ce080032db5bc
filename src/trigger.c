/*
 * trigger.c: the triggers on users' tables.
 *
 * Both tables of a mapping carry the same triggers from `shadow` on; what they do depends on the phase that was compiled
 * into the mapping, so that climbing a rung creates and drops nothing while the application writes.  A trigger never
 * reads the extension's tables: mapping.c hands it what it needs.
 *
 * A table whose columns move inside it has one trigger of another kind, "~dualwrite_columns", behind the user's BEFORE triggers.
 *
 * Tables that a mapping looks up have two others, at the end of this file.
 *
 * The names matter: "!dualwrite_write" fires before, and "~dualwrite_delete" after, the constraint triggers of a table,
 * which is the order in which foreign keys of the new side want to be written.
 */
#include "postgres.h"

#include "apply.h"
#include "cascade.h"
#include "dependents.h"
#include "inplace.h"
#include "inserts.h"
#include "locks.h"
#include "mirror.h"
#include "nesting.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "replication/logicalworker.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(dw_trigger_mirror);
PG_FUNCTION_INFO_V1(dw_trigger_flush);
PG_FUNCTION_INFO_V1(dw_trigger_truncate);
PG_FUNCTION_INFO_V1(dw_trigger_lookup);
PG_FUNCTION_INFO_V1(dw_trigger_lookup_truncate);
PG_FUNCTION_INFO_V1(dw_trigger_columns);

/* What a write to one side of a mapping means, by phase. */
typedef enum Meaning
{
	MEANS_NOTHING,
	MEANS_MIRROR,
	MEANS_REFUSED
} Meaning;

static const struct
{
	Meaning		old_side;
	Meaning		new_side;
}			meaning[DW_NUM_PHASES] = {
	[DW_PHASE_DEFINED] = {MEANS_NOTHING, MEANS_NOTHING},
	[DW_PHASE_SHADOW] = {MEANS_MIRROR, MEANS_REFUSED},
	[DW_PHASE_DUAL_WRITE] = {MEANS_MIRROR, MEANS_REFUSED},
	[DW_PHASE_BACKFILL] = {MEANS_MIRROR, MEANS_REFUSED},
	[DW_PHASE_VERIFY] = {MEANS_MIRROR, MEANS_REFUSED},
	[DW_PHASE_READ_SWITCH] = {MEANS_MIRROR, MEANS_MIRROR},
	[DW_PHASE_CUTOVER] = {MEANS_MIRROR, MEANS_MIRROR},
	[DW_PHASE_COMPLETE] = {MEANS_REFUSED, MEANS_NOTHING}
};

static TriggerData *
trigger_data(FunctionCallInfo fcinfo, const char *name)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager", name),
				 errhint("dualwrite.advance creates the triggers that call it.")));
	return (TriggerData *) fcinfo->context;
}

static void
refuse(DwCompiled *compiled, bool old_side)
{
	if (old_side)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s is the old side of migration \"%s\", which is complete",
						compiled->mapping->old_name, compiled->migration),
				 errdetail("Writes to it would be lost."),
				 errhint("Write to %s.", compiled->mapping->new_name)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s is the new side of migration \"%s\", which is in phase \"%s\"",
					compiled->mapping->new_name, compiled->migration, dw_phase_name(compiled->phase)),
			 errdetail("Until read_switch only the mirror of %s writes it.", compiled->mapping->old_name),
			 errhint("Write to %s, or see dualwrite.status for the way to read_switch.", compiled->mapping->old_name)));
}

/* After alter_mapping the new rows are being made anew: mirrored back, what is still of the old mapping would spoil good old values. */
static void
refuse_while_refilling(DwCompiled *compiled)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s is being brought to the altered mapping of migration \"%s\"",
					compiled->mapping->new_name, compiled->migration),
			 errhint("Write to %s until dualwrite.progress says that it is done.", compiled->mapping->old_name)));
}

/* The row as it is stored; NULL: a foreign table's, which has no versions here. */
static HeapTupleHeader
stored_version(TupleTableSlot *slot)
{
	HeapTuple	tuple = TTS_IS_BUFFERTUPLE(slot) ? ((HeapTupleTableSlot *) slot)->tuple : NULL;

	return tuple != NULL ? tuple->t_data : NULL;
}

/* Has this transaction written the row again since the event was queued? */
static bool
is_superseded(TupleTableSlot *slot)
{
	HeapTupleHeader stored = stored_version(slot);

	return stored != NULL && (stored->t_infomask & HEAP_XMAX_INVALID) == 0 &&
		!HEAP_XMAX_IS_LOCKED_ONLY(stored->t_infomask) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(stored));
}

/* May the key that this event deletes have been inserted again since? */
static bool
is_reborn(DwTable *table, TupleTableSlot *slot)
{
	HeapTupleHeader stored = stored_version(slot);

	return stored != NULL && TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(stored)) &&
		dw_inserts_since(table->root, HeapTupleHeaderGetCmax(stored));
}

static bool
is_moving(TupleTableSlot *slot)
{
	HeapTupleHeader stored = stored_version(slot);

	return stored != NULL && HeapTupleHeaderIndicatesMovedPartitions(stored);
}

/* A write from within a mirrored write finds the table's own slots in use. */
static TupleTableSlot *
in_root_layout(DwTable *table, TupleTableSlot *row, TupleTableSlot *slot)
{
	if (table->to_root == NULL || row == NULL)
		return row;
	if (dw_nesting() > 0)
		slot = MakeSingleTupleTableSlot(table->to_root->outdesc, &TTSOpsVirtual);
	return execute_attr_map_slot(table->to_root->attrMap, row, slot);
}

/* The event in the layout of the root. */
static void
describe_event(TriggerData *data, DwTable *table, DwRowEvent *event)
{
	memset(event, 0, sizeof(*event));
	event->event = data->tg_event;
	event->rel = data->tg_relation;
	event->table = table;
	event->stored = TTS_IS_BUFFERTUPLE(data->tg_trigslot) ? &data->tg_trigtuple->t_self : NULL;
	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		event->new_row = data->tg_trigslot;
	else
	{
		event->old_row = data->tg_trigslot;
		event->version = event->stored;
	}
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		event->new_row = data->tg_newslot;

	if (event->new_row != NULL)
		event->stale = is_superseded(event->new_row);
	else
	{
		event->stale = is_reborn(table, event->old_row);
		event->moving = !event->stale && is_moving(event->old_row);
	}
	event->old_row = in_root_layout(table, event->old_row, table->root_slot_old);
	event->new_row = in_root_layout(table, event->new_row, table->root_slot);
}

static void
mirror_as_old(DwTable *table, const DwRowEvent *event)
{
	int			n = list_length(table->as_old);
	bool		wait;

	/* parents first, but for deletes children first */
	for (int i = 0; i < n; i++)
	{
		DwCompiled *compiled = list_nth(table->as_old, TRIGGER_FIRED_BY_DELETE(event->event) ? n - 1 - i : i);

		if (meaning[compiled->phase].old_side == MEANS_REFUSED)
			refuse(compiled, true);
		if (meaning[compiled->phase].old_side != MEANS_MIRROR)
			continue;
		if (dw_target_cascading(DW_REVERSE, &wait) && meaning[compiled->phase].new_side == MEANS_MIRROR)
			dw_cascaded(&compiled->flow[DW_REVERSE], event, wait);
		else if (compiled->broken)
			dw_mirror_broken(compiled);
		else
			dw_mirror_row(&compiled->flow[DW_FORWARD], event);
	}
}

static void
mirror_as_new(DwTable *table, const DwRowEvent *event)
{
	ListCell   *lc;
	bool		wait;

	foreach(lc, table->as_new)
	{
		DwCompiled *compiled = lfirst(lc);

		if (dw_target_cascading(DW_FORWARD, &wait) && meaning[compiled->phase].old_side == MEANS_MIRROR)
		{
			if (!compiled->broken)
				dw_cascaded(&compiled->flow[DW_FORWARD], event, wait);
			continue;
		}
		if (meaning[compiled->phase].new_side == MEANS_REFUSED)
			refuse(compiled, false);
		if (meaning[compiled->phase].new_side != MEANS_MIRROR)
			continue;
		if (!compiled->filled)
			refuse_while_refilling(compiled);
		dw_note_new_side_writer(compiled->migration_id);
		dw_mirror_row(&compiled->flow[DW_REVERSE], event);
	}
}

/* AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW on either side. */
Datum
dw_trigger_mirror(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "mirror");
	DwTable    *table;
	DwRowEvent	event;

	/* a dump being restored by pg_upgrade */
	if (IsBinaryUpgrade)
		return PointerGetDatum(NULL);
	if (dw_cascade_calls(data->tg_relation, data->tg_event, data->tg_trigtuple))
	{
		dw_mirror_flush();
		return PointerGetDatum(NULL);
	}
	table = dw_table_get(data->tg_relation);
	/* nothing to do, or the other side of a write that is already being mirrored */
	if ((table->as_old == NIL && table->as_new == NIL) || dw_statement_writing() == table->root)
		return PointerGetDatum(NULL);
	describe_event(data, table, &event);
	mirror_as_old(table, &event);
	mirror_as_new(table, &event);
	return PointerGetDatum(NULL);
}

/* AFTER INSERT OR UPDATE OR DELETE FOR EACH STATEMENT. */
Datum
dw_trigger_flush(PG_FUNCTION_ARGS)
{
	(void) trigger_data(fcinfo, "mirror_flush");
	dw_mirror_flush();
	return PointerGetDatum(NULL);
}

/* BEFORE TRUNCATE FOR EACH STATEMENT, on the table and on each leaf. */
Datum
dw_trigger_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "mirror_truncate");
	DwTable    *table;
	ListCell   *lc;

	if (IsBinaryUpgrade)
		return PointerGetDatum(NULL);
	table = dw_table_get(data->tg_relation);
	foreach(lc, table->as_old)
	{
		DwCompiled *compiled = lfirst(lc);

		if (meaning[compiled->phase].old_side == MEANS_REFUSED)
			refuse(compiled, true);
		if (meaning[compiled->phase].old_side == MEANS_MIRROR && !compiled->broken)
			dw_mirror_truncate(&compiled->flow[DW_FORWARD], table, data->tg_relation);
	}
	foreach(lc, table->as_new)
	{
		DwCompiled *compiled = lfirst(lc);

		if (meaning[compiled->phase].new_side == MEANS_REFUSED && !dw_truncating())
			refuse(compiled, false);
		if (meaning[compiled->phase].new_side == MEANS_MIRROR)
			dw_mirror_truncate(&compiled->flow[DW_REVERSE], table, data->tg_relation);
	}
	return PointerGetDatum(NULL);
}

/* Is the direction of the dependency mirrored in this phase? */
static bool
is_followed(const DwLookedUp *looked_up)
{
	DwPhase		phase = looked_up->compiled->phase;

	if (looked_up->compiled->broken)
		return false;
	return (looked_up->dependency->direction == DW_FORWARD ? meaning[phase].old_side : meaning[phase].new_side) == MEANS_MIRROR;
}

/* What is looked up in the table, once the tables of the mappings that do are locked: none of these is the one that was written. */
static DwTable *
table_with_held_lookups(Relation rel)
{
	DwTable    *table;
	ListCell   *lc;
	bool		held;

	do
	{
		held = true;
		table = dw_table_get(rel);
		foreach(lc, table->as_lookup)
		{
			DwLookedUp *looked_up = lfirst(lc);

			held &= !is_followed(looked_up) || dw_compiled_hold(looked_up->compiled) == looked_up->compiled;
		}
	} while (!held);
	return table;
}

/*
 * AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW on a table that a mapping looks up.  Fired by our own writes as well, where the
 * table is a target of another mapping.
 */
Datum
dw_trigger_lookup(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "mirror_lookup");
	DwTable    *table;
	DwRowEvent	event;
	ListCell   *lc;

	if (IsBinaryUpgrade)
		return PointerGetDatum(NULL);
	table = table_with_held_lookups(data->tg_relation);
	if (table->as_lookup == NIL)
		return PointerGetDatum(NULL);
	describe_event(data, table, &event);
	foreach(lc, table->as_lookup)
		if (is_followed(lfirst(lc)))
			dw_dependents_follow(lfirst(lc), event.old_row, event.new_row);
	/* nobody is going to say that the statement is over */
	if (!table->flushed || IsLogicalWorker() || dw_target_fires_lookups())
		dw_mirror_flush();
	return PointerGetDatum(NULL);
}

/* BEFORE TRUNCATE FOR EACH STATEMENT on such a table and its leaves. */
Datum
dw_trigger_lookup_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "mirror_lookup_truncate");
	DwTable    *table;
	ListCell   *lc;

	if (IsBinaryUpgrade || !RELKIND_HAS_TABLE_AM(data->tg_relation->rd_rel->relkind))
		return PointerGetDatum(NULL);
	table = table_with_held_lookups(data->tg_relation);
	foreach(lc, table->as_lookup)
		if (is_followed(lfirst(lc)))
			dw_dependents_truncate(lfirst(lc), table, data->tg_relation);
	return PointerGetDatum(NULL);
}

/* BEFORE INSERT OR UPDATE FOR EACH ROW, where both sides are columns of one table. */
Datum
dw_trigger_columns(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, "mirror_columns");
	bool		inserted = TRIGGER_FIRED_BY_INSERT(data->tg_event);
	DwInPlaceRow row = {.rel = data->tg_relation, .tuple = inserted ? data->tg_trigtuple : data->tg_newtuple};

	if (IsBinaryUpgrade)
		return PointerGetDatum(row.tuple);
	row.table = dw_table_get(data->tg_relation);
	if (row.table->as_old == NIL)
		return PointerGetDatum(row.tuple);
	row.compiled = linitial(row.table->as_old);
	row.before = inserted ? NULL : in_root_layout(row.table, data->tg_trigslot, row.table->root_slot_old);
	row.after = in_root_layout(row.table, inserted ? data->tg_trigslot : data->tg_newslot, row.table->root_slot);
	return PointerGetDatum(dw_in_place_row(&row));
}
