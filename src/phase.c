/*
 * phase.c: from one phase to another.
 *
 * The rungs are in ladder.c.  A change takes the migration's row first (two callers take turns), looks at the gates, takes
 * the table locks, looks at the gates again, and then does all of it in this one transaction: the row, triggers,
 * sequences, checkpoints, the event, the invalidation that tells every backend.  Whoever writes afterwards has waited for our
 * locks and sees the new phase; whoever wrote before has ended.
 *
 * Nothing here may commit, or leave a lock to a caller's transaction: that is for drive.c to see to.
 */
#include "postgres.h"

#include "backfill.h"
#include "enforce.h"
#include "gates.h"
#include "indexes.h"
#include "ladder.h"
#include "locks.h"
#include "mapping.h"
#include "oldcolumns.h"
#include "phase.h"
#include "readview.h"
#include "recheck.h"
#include "reconcile.h"
#include "sequences.h"
#include "settings.h"
#include "sql.h"
#include "stats.h"
#include "swap.h"
#include "triggers.h"
#include "worker.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define SEQUENCE_WORK (DW_DO_SHARE_SEQUENCES | DW_DO_MOVE_SEQUENCES | DW_DO_RESTORE_SEQUENCES)

/* How long, and how often in that time, we look whether somebody writes the new side before we refuse them. */
#define WATCH_MS		500
#define WATCH_STEPS		10

/* One or more rungs in one direction, taken in one transaction. */
typedef struct DwChange
{
	DwMigration *migration;
	List	   *mappings;		/* of DwMapping */
	DwPhase		to;
	uint32		crossing;		/* of all rungs */
	uint32		arrival;		/* of the last */
	LOCKMODE	lock_old;		/* the strongest of all rungs */
	LOCKMODE	lock_new;
	bool		swap;			/* of names, or back */
	List	   *stripped;		/* new tables whose indexes are taken away */
	bool		adopt;			/* a restored migration becomes this database's own */
} DwChange;

/* The transaction that has changed a phase already, if it is still the current one. */
static FullTransactionId changed_in;

DwMigration *
dw_phase_take(const char *name)
{
	/* nobody but the owner may make others wait for the row */
	dw_migration_check_owner(dw_migration_get(name, false));
	return dw_migration_get(name, true);
}

static void
add_rung(DwChange *change, const DwRung *rung)
{
	change->to = rung->to;
	change->crossing |= rung->crossing;
	change->arrival = rung->arrival;
	change->lock_old = Max(change->lock_old, rung->lock_old);
	change->lock_new = Max(change->lock_new, rung->lock_new);
}

static DwChange *
new_change(DwMigration *migration)
{
	DwChange   *change = palloc0(sizeof(DwChange));

	change->migration = migration;
	change->mappings = dw_mappings_of(migration->id);
	change->to = migration->phase;
	return change;
}

/* Tables of one side, each once, in the order of the mappings. */
static List *
tables_of(List *mappings, bool is_new)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, mappings)
	{
		DwMapping  *mapping = lfirst(lc);

		tables = list_append_unique_oid(tables, is_new ? mapping->new_table : mapping->old_table);
	}
	return tables;
}

static List *
wish_tables(List *wishes, List *tables, LOCKMODE mode)
{
	ListCell   *lc;

	foreach(lc, tables)
		wishes = dw_lock_wish(wishes, lfirst_oid(lc), mode);
	return wishes;
}

/*
 * Both tables of the mappings whose writers only queue; where a mirror write that fails is queued, the old table, since it is
 * writers of the old side alone who do that.
 */
static List *
wish_queued(List *wishes, const DwChange *change)
{
	bool		errors_queue = strcmp(dw_setting_string(change->migration->id, "mirror_on_error"), "queue") == 0;
	ListCell   *lc;

	foreach(lc, change->mappings)
	{
		DwMapping  *mapping = lfirst(lc);

		if (mapping->queued || errors_queue)
			wishes = dw_lock_wish(wishes, mapping->old_table, ShareRowExclusiveLock);
		if (mapping->queued)
			wishes = dw_lock_wish(wishes, mapping->new_table, ShareRowExclusiveLock);
	}
	return wishes;
}

/* Do the rungs swap names, up or back? */
static bool
swaps_names(const DwChange *change)
{
	return ((change->crossing & DW_DO_SWAP_NAMES) && dw_swap_wanted(change->migration)) ||
		((change->crossing & DW_DO_SWAP_NAMES_BACK) && change->migration->names_swapped);
}

/* The tables, in the order that ladder.c explains, then what else the rungs alter. */
static void
take_locks(DwChange *change)
{
	List	   *old_tables = tables_of(change->mappings, false);
	List	   *new_tables = tables_of(change->mappings, true);
	List	   *wishes = NIL;
	ListCell   *lc;

	/* none begins anew: it would have to lock the migration's row */
	dw_worker_stop_builds(change->migration->id);
	if (swaps_names(change))
		foreach(lc, dw_swap_locks(change->migration))
			wishes = dw_lock_wish_alone(wishes, lfirst_oid(lc), AccessExclusiveLock);
	/* writers of a table that is looked up have it locked when they come for the others */
	if (change->crossing & (DW_DO_INSTALL_TRIGGERS | DW_DO_REMOVE_TRIGGERS))
		wishes = wish_tables(wishes, dw_lookups_of(change->mappings),
							 change->crossing & DW_DO_REMOVE_TRIGGERS ? AccessExclusiveLock : ShareRowExclusiveLock);
	if (change->crossing & DW_DO_NEW_FIRST)
		wishes = wish_tables(wishes, new_tables, change->lock_new);
	wishes = wish_tables(wishes, old_tables, change->lock_old);
	wishes = wish_tables(wishes, new_tables, change->lock_new);
	if (change->arrival & DW_ARRIVE_BACKFILL)
		change->stripped = dw_indexes_to_take(change->migration);
	foreach(lc, change->stripped)
		wishes = dw_lock_wish(wishes, lfirst_oid(lc), AccessExclusiveLock);
	if (change->crossing & DW_DO_STOP_QUEUED)
		wishes = wish_queued(wishes, change);
	if (change->crossing & SEQUENCE_WORK)
		wishes = wish_tables(wishes, dw_sequences_of(change->migration), ShareRowExclusiveLock);
	if (change->crossing & DW_DO_COMPLETE_VIEWS)
		wishes = wish_tables(wishes, dw_read_views_of(change->migration->id), AccessExclusiveLock);
	if (wishes != NIL)
		dw_lock_wishes(wishes, dw_lock_budget(change->migration->id), DW_LOCK_TRIES);
}

static bool
filled_after(const DwChange *change)
{
	if (change->crossing & DW_DO_SET_FILLED)
		return true;
	if (change->crossing & DW_DO_CLEAR_FILLED)
		return false;
	return change->migration->filled;
}

/* A restored migration belongs to this database once nothing of what it had copied counts any more. */
static bool
adopts(const DwChange *change)
{
	return change->adopt || change->to <= DW_PHASE_DUAL_WRITE || (change->arrival & DW_ARRIVE_BACKFILL) != 0;
}

/* Write the new phase down, and read back what the migration is now. */
static void
write_phase(DwChange *change)
{
	DwMigration *migration = change->migration;
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.migration SET phase = $2, phase_since = clock_timestamp(), epoch = epoch + 1, filled = $3,"
		   " read_percent = CASE WHEN $4 THEN 0 ELSE read_percent END,"
		   " repair_suspended = repair_suspended OR $5,"
		   " cutover_xid = CASE WHEN $6 THEN pg_current_xact_id() ELSE cutover_xid END,"
		   " origin = CASE WHEN $7 THEN $8 ELSE origin END WHERE id = $1",
		   8, (DwArg[]) {DW_INT4(migration->id), DW_TEXT(dw_phase_name(change->to)), DW_BOOL(filled_after(change)),
		   DW_BOOL(change->to <= DW_PHASE_READ_SWITCH), DW_BOOL((change->crossing & DW_DO_SUSPEND_REPAIR) != 0),
		   DW_BOOL((change->crossing & DW_DO_NOTE_CUTOVER) != 0), DW_BOOL(adopts(change)), DW_TEXT(dw_origin())});
	dw_sql_end(&sql);
	change->migration = dw_migration_by_id(migration->id, false);
}

static void
install_triggers(const DwChange *change)
{
	ListCell   *lc;

	foreach(lc, tables_of(change->mappings, false))
		(void) dw_triggers_install(lfirst_oid(lc));
	foreach(lc, tables_of(change->mappings, true))
		(void) dw_triggers_install(lfirst_oid(lc));
	foreach(lc, dw_lookups_of(change->mappings))
		(void) dw_triggers_install(lfirst_oid(lc));
}

/* Every table that may carry triggers of ours for this migration. */
static List *
all_tables(const DwChange *change)
{
	List	   *tables = list_concat_unique_oid(tables_of(change->mappings, false), tables_of(change->mappings, true));

	return list_concat_unique_oid(tables, dw_lookups_of(change->mappings));
}

static void
remove_triggers(const DwChange *change)
{
	ListCell   *lc;

	foreach(lc, all_tables(change))
		dw_triggers_remove(lfirst_oid(lc));
}

/* Keys that were to be brought to agreement, and how far the copy had come, mean nothing to a later life. */
static void
forget(const DwMigration *migration)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("DELETE FROM _dualwrite.queue q USING _dualwrite.mapping p WHERE p.id = q.mapping_id AND p.migration_id = $1",
		   1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql("DELETE FROM _dualwrite.backfill b USING _dualwrite.mapping p WHERE p.id = b.mapping_id AND p.migration_id = $1",
		   1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	dw_recheck_forget(migration->id);
}

static void
reset_stats(const DwChange *change)
{
	ListCell   *lc;

	foreach(lc, change->mappings)
		dw_stats_reset(((DwMapping *) lfirst(lc))->id);
}

/* What the rungs ask for, once the new phase is written. */
static void
do_effects(const DwChange *change)
{
	if (change->swap && change->migration->names_swapped)
		dw_swap_names_back(change->migration);
	else if (change->swap)
		dw_swap_names(change->migration);
	if (change->crossing & DW_DO_KEEP_NAMES)
		dw_swap_forget(change->migration);
	if (change->crossing & DW_DO_INSTALL_TRIGGERS)
		install_triggers(change);
	if (change->crossing & DW_DO_SHARE_SEQUENCES)
		dw_sequences_share(change->migration);
	if (change->crossing & DW_DO_MOVE_SEQUENCES)
		dw_sequences_move(change->migration);
	if (change->crossing & DW_DO_RESTORE_SEQUENCES)
		dw_sequences_restore(change->migration);
	if (change->crossing & DW_DO_REMOVE_TRIGGERS)
	{
		remove_triggers(change);
		dw_enforce_retract(change->migration);
	}
	if (change->crossing & DW_DO_COMPLETE_VIEWS)
		dw_read_views_complete(change->migration->id);
	if (change->crossing & DW_DO_RELAX_OLD)
		dw_old_columns_relax(change->migration);
	if (change->crossing & DW_DO_FORGET)
		forget(change->migration);
	if (change->crossing & DW_DO_RESET_STATS)
		reset_stats(change);
	if (change->arrival & DW_ARRIVE_BACKFILL)
	{
		dw_indexes_take(change->migration, change->stripped);
		dw_backfill_start(change->migration);
	}
	if (change->arrival & DW_ARRIVE_RECONCILE)
		dw_reconcile_request(change->migration);
	if (change->arrival & DW_ARRIVE_CONSTRAINTS)
		dw_enforce_request(change->migration);
}

/* All of a change, under its locks. */
static void
carry_out(DwChange *change, const char *event, List *waived, bool forced, const char *reason)
{
	DwPhase		from = change->migration->phase;

	change->swap = swaps_names(change);
	write_phase(change);
	do_effects(change);
	dw_event_record(change->migration->name, event, from, change->to, waived, reason, forced ? "{\"forced\": true}" : NULL);
	dw_mapping_invalidate(change->migration->id);
	dw_worker_wake();
	changed_in = GetTopFullTransactionId();
}

/* The locks of one change must not outlive it, not even for the next one. */
static void
require_fresh_transaction(void)
{
	FullTransactionId current = GetTopFullTransactionIdIfAny();

	if (FullTransactionIdIsValid(current) && FullTransactionIdEquals(current, changed_in))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("only one change of phase fits into a transaction"),
				 errhint("Call the function once a statement, each in a transaction of its own.")));
}

static bool
list_has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

static void
check_waived(List *waive)
{
	ListCell   *lc;

	foreach(lc, waive)
	{
		const char *name = lfirst(lc);
		bool		judgement = false;

		if (!dw_gate_known(name, &judgement))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("gate \"%s\" does not exist", name),
					 errhint("These gates can be waived: %s.", dw_gates_waivable())));
		if (!judgement)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("gate \"%s\" cannot be waived", name),
					 errdetail("It guards rows, and passing it unmet could lose some."),
					 errhint("These gates can be waived: %s.", dw_gates_waivable())));
	}
}

/* Gates that stop the climb: unmet, and neither waived nor forced.  Those that were are added to waived. */
static List *
stopping(List *gates, bool force, List *waive, List **waived)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, dw_gates_unmet(gates))
	{
		DwGate	   *gate = lfirst(lc);

		if (!gate->judgement || !(force || list_has_name(waive, gate->name)))
			result = lappend(result, gate);
		else if (!list_has_name(*waived, gate->name))
			*waived = lappend(*waived, pstrdup(gate->name));
	}
	return result;
}

void
dw_phase_refuse(const DwMigration *migration, List *gates, List *unmet, bool forced)
{
	const DwRung *rung = dw_rung_up(migration->phase);
	char	   *detail = dw_gates_detail(unmet);

	if (forced)
		detail = psprintf("%s\nForce does not pass a gate that guards rows.", detail);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 list_length(unmet) == 1 ?
			 errmsg("cannot advance migration \"%s\" from \"%s\" to \"%s\": 1 of %d gates is not met",
					migration->name, dw_phase_name(rung->from), dw_phase_name(rung->to), list_length(gates)) :
			 errmsg("cannot advance migration \"%s\" from \"%s\" to \"%s\": %d of %d gates are not met",
					migration->name, dw_phase_name(rung->from), dw_phase_name(rung->to),
					list_length(unmet), list_length(gates)),
			 errdetail_internal("%s", detail),
			 errhint("%s", dw_gates_hint(unmet))));
}

/* Take a rung up.  NIL, or what stops it, before or under the locks; *gates is what was looked at last. */
static List *
climb(DwMigration *migration, const DwRung *rung, bool force, List *waive, const char *reason, List **gates)
{
	DwChange   *change = new_change(migration);
	List	   *waived = NIL;
	List	   *stops;

	add_rung(change, rung);
	*gates = dw_gates_check(migration);
	stops = stopping(*gates, force, waive, &waived);
	if (stops != NIL)
		return stops;
	take_locks(change);
	*gates = dw_gates_check(migration);
	stops = stopping(*gates, force, waive, &waived);
	if (stops != NIL)
		return stops;
	carry_out(change, "advance", waived, force, reason);
	return NIL;
}

static const DwRung *
rung_up_of(const DwMigration *migration)
{
	const DwRung *rung = dw_rung_up(migration->phase);

	if (rung == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is complete", migration->name),
				 migration->old_dropped ?
				 errhint("Run SELECT dualwrite.drop_migration(%s) to forget it.", quote_literal_cstr(migration->name)) :
				 errhint("Run SELECT dualwrite.drop_old(%s) to drop what is left of the old side.",
						 quote_literal_cstr(migration->name))));
	return rung;
}

DwPhase
dw_phase_advance(const char *name, const char *to_phase, bool force, List *waive, const char *reason)
{
	DwPhase		wanted = to_phase ? dw_phase_from_name(to_phase) : DW_PHASE_DEFINED;
	DwMigration *migration;
	const DwRung *rung;
	List	   *gates = NIL;
	List	   *stops;

	check_waived(waive);
	require_fresh_transaction();
	migration = dw_phase_take(name);
	if (to_phase != NULL && migration->phase == wanted)
		return wanted;
	rung = rung_up_of(migration);
	if (to_phase != NULL && rung->to != wanted)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot advance migration \"%s\" from \"%s\" to \"%s\"", name, dw_phase_name(migration->phase), to_phase),
				 errdetail("The next phase is \"%s\".", dw_phase_name(rung->to)),
				 wanted < migration->phase ? errhint("To go down, call dualwrite.rollback.") :
				 errhint("Advance one phase at a time, or CALL dualwrite.run.")));
	stops = climb(migration, rung, force, waive, reason, &gates);
	if (stops != NIL)
		dw_phase_refuse(migration, gates, stops, force);
	return rung->to;
}

List *
dw_phase_try_advance(const char *name, const char *reason)
{
	DwMigration *migration = dw_phase_take(name);
	List	   *gates = NIL;

	return climb(migration, rung_up_of(migration), false, NIL, reason, &gates);
}

/* Writes of the new side that have not reached the old one would be lost on the way down. */
static void
check_reverse_queue(const DwMigration *migration)
{
	DwSql		sql;
	bool		isnull;
	int64		count;

	dw_sql_begin(&sql);
	dw_sql("SELECT count(DISTINCT (q.mapping_id, q.key)) FROM _dualwrite.queue q JOIN _dualwrite.mapping p ON p.id = q.mapping_id"
		   " WHERE p.migration_id = $1 AND q.direction = 'reverse'",
		   1, (DwArg[]) {DW_INT4(migration->id)});
	count = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	dw_sql_end(&sql);
	if (count > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot roll back migration \"%s\" below \"read_switch\": writes of the new side are not on the old side yet",
						migration->name),
				 errdetail("Keys queued towards the old side: " INT64_FORMAT ".", count),
				 migration->restored || migration->paused ?
				 errhint("Run CALL dualwrite.deliver(%s), since no worker does, then call again; see dualwrite.queue and dualwrite.dead_letters.",
						 quote_literal_cstr(migration->name)) :
				 errhint("Wait until dualwrite.queue and dualwrite.dead_letters show none of them, then call again.")));
}

/* ERROR when somebody is seen writing the new side. */
static void
check_new_side_quiet(const DwChange *change)
{
	char	   *writers = dw_new_side_writers(change->migration->id);

	if (writers != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot roll back migration \"%s\" from \"%s\" to \"%s\": others are writing the new side",
						change->migration->name, dw_phase_name(change->migration->phase), dw_phase_name(change->to)),
				 errdetail_internal("%s", writers),
				 errhint("Stop them first, or call with force => true: their next write will fail.")));
}

/* Transactions of an application come and go: look for a while. */
static void
watch_new_side(const DwChange *change)
{
	for (int i = 0; i < WATCH_STEPS; i++)
	{
		check_new_side_quiet(change);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WATCH_MS / WATCH_STEPS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* A worker goes on where there is no other work any more. */
static void
tell_indexes(const DwChange *change)
{
	DwIndexesOwed owed;

	if (change->to < DW_PHASE_BACKFILL && dw_indexes_owed(change->migration->id, &owed) && owed.away > 0)
		ereport(NOTICE,
				(errmsg("indexes that were taken away for the copy are being built again in the background: " INT64_FORMAT, owed.away),
				 errhint("See dualwrite.indexes.")));
}

/* Lock, look once more, do it. */
static void
descend(DwChange *change, bool force, const char *reason)
{
	bool		stops_reverse = (change->crossing & DW_DO_STOP_REVERSE) != 0;

	if (stops_reverse)
		check_reverse_queue(change->migration);
	if (stops_reverse && !force)
		watch_new_side(change);
	take_locks(change);
	if (stops_reverse)
		check_reverse_queue(change->migration);
	carry_out(change, "rollback", NIL, force, reason);
	tell_indexes(change);
}

/* Where a rollback goes: to_phase, or one rung down. */
static DwPhase
target_of_rollback(const DwMigration *migration, const char *to_phase)
{
	const DwRung *rung = dw_rung_down(migration->phase);
	DwPhase		wanted = to_phase ? dw_phase_from_name(to_phase) : rung ? rung->to : DW_PHASE_DEFINED;

	if (to_phase != NULL && wanted == migration->phase)
		return wanted;
	if (migration->phase == DW_PHASE_COMPLETE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is complete: there is no way back", migration->name),
				 errhint("To go on from here, create a migration from the new table to another one.")));
	if (rung == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is in phase \"defined\": there is nothing to roll back", migration->name),
				 errhint("Run SELECT dualwrite.drop_migration(%s) to forget it.", quote_literal_cstr(migration->name))));
	if (wanted > migration->phase)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot roll back migration \"%s\" from \"%s\" to \"%s\"",
						migration->name, dw_phase_name(migration->phase), to_phase),
				 errhint("To go up, call dualwrite.advance.")));
	return wanted;
}

DwPhase
dw_phase_rollback(const char *name, const char *to_phase, bool force, const char *reason)
{
	DwMigration *migration;
	DwChange   *change;
	DwPhase		wanted;

	require_fresh_transaction();
	migration = dw_phase_take(name);
	wanted = target_of_rollback(migration, to_phase);
	if (wanted == migration->phase)
		return wanted;
	change = new_change(migration);
	while (change->to > wanted)
		add_rung(change, dw_rung_down(change->to));
	descend(change, force, reason);
	return wanted;
}

/*
 * A migration that came with a dump becomes this database's own: nothing counts as copied, so that up to verify it goes
 * back to backfill and copies anew.  Above that the new side is written by others, and a step down is not ours to take.
 */
static void
settle_in(DwMigration *migration)
{
	DwChange   *change = new_change(migration);

	if (migration->phase > DW_PHASE_VERIFY && migration->phase < DW_PHASE_COMPLETE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot resume migration \"%s\" in phase \"%s\": it was restored from a dump of another database",
						migration->name, dw_phase_name(migration->phase)),
				 errdetail("Nothing counts as copied or compared here, and others may be writing the new side."),
				 errhint("Run SELECT dualwrite.rollback(%s, 'backfill') to copy and compare again.",
						 quote_literal_cstr(migration->name))));
	require_fresh_transaction();
	change->adopt = true;
	if (migration->phase == DW_PHASE_VERIFY)
		add_rung(change, dw_rung_down(migration->phase));
	else if (migration->phase == DW_PHASE_BACKFILL)
	{
		/* as on the rung that leads there */
		add_rung(change, dw_rung_up(DW_PHASE_DUAL_WRITE));
		change->crossing |= DW_DO_CLEAR_FILLED;
	}
	take_locks(change);
	carry_out(change, "resume", NIL, false, NULL);
}

void
dw_phase_pause(const char *name, bool pause)
{
	DwMigration *migration = dw_phase_take(name);
	DwSql		sql;

	if (!pause && migration->restored)
		settle_in(migration);
	else
		dw_event_record(migration->name, pause ? "pause" : "resume", -1, -1, NIL, NULL, NULL);
	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.migration SET paused = $2, repair_suspended = repair_suspended AND $2 WHERE id = $1",
		   2, (DwArg[]) {DW_INT4(migration->id), DW_BOOL(pause)});
	dw_sql_end(&sql);
	if (pause)
		dw_worker_stop_builds(migration->id);
	dw_worker_wake();
}

void
dw_phase_set_read_percent(const char *name, double percent)
{
	DwMigration *migration = dw_phase_take(name);
	DwSql		sql;

	/* NaN compares with nothing */
	if (!(percent >= 0 && percent <= 100))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%g is not a percentage", percent),
				 errhint("Give a number from 0 to 100.")));
	if (migration->phase != DW_PHASE_READ_SWITCH)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is in phase \"%s\": reads can be moved in \"read_switch\" only",
						name, dw_phase_name(migration->phase)),
				 migration->phase < DW_PHASE_READ_SWITCH ?
				 errhint("Advance it to \"read_switch\" first; up to there all reads come from the old side.") :
				 errhint("Roll it back to \"read_switch\" first; from cutover on all reads come from the new side.")));
	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.migration SET read_percent = $2::numeric WHERE id = $1",
		   2, (DwArg[]) {DW_INT4(migration->id), DW_FLOAT8(percent)});
	dw_sql_end(&sql);
	dw_event_record(migration->name, "set_read_percent", -1, -1, NIL, NULL,
					psprintf("{\"from\": %g, \"to\": %g}", migration->read_percent, percent));
	dw_mapping_invalidate(migration->id);
}

/* Tables whose triggers are not as they should be. */
static List *
tables_to_mend(const DwChange *change)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, all_tables(change))
		if (dw_triggers_needed(lfirst_oid(lc)) && dw_triggers_problem(lfirst_oid(lc)) != NULL)
			result = lappend_oid(result, lfirst_oid(lc));
	return result;
}

/* What was compared while a trigger was off proves nothing: a new epoch. */
static void
begin_epoch(const DwMigration *migration)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.migration SET epoch = epoch + 1 WHERE id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	dw_mapping_invalidate(migration->id);
	if (migration->phase >= DW_PHASE_VERIFY)
		dw_reconcile_request(dw_migration_by_id(migration->id, false));
	dw_worker_wake();
}

int
dw_phase_install_triggers(const char *name)
{
	DwMigration *migration;
	List	   *tables;
	ListCell   *lc;
	int			done = 0;

	require_fresh_transaction();
	migration = dw_phase_take(name);
	tables = tables_to_mend(new_change(migration));
	if (tables == NIL)
		return 0;
	dw_lock_politely(tables, ShareRowExclusiveLock, dw_lock_budget(migration->id), DW_LOCK_TRIES);
	foreach(lc, tables)
		done += dw_triggers_install(lfirst_oid(lc));
	dw_event_record(migration->name, "install_triggers", -1, -1, NIL, NULL, psprintf("{\"triggers\": %d}", done));
	begin_epoch(migration);
	changed_in = GetTopFullTransactionId();
	return done;
}
