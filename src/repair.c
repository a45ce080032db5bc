/*
 * repair.c: keys that differ, brought to agreement from the truth.
 *
 * Keys are done in groups, a subtransaction each; where a key of a group cannot be done now, the group is undone and
 * split, down to the one key, so that a few busy keys cost little and a million free ones do not make a million
 * subtransactions.  What is overwritten is in drift before the transaction ends.
 *
 * Never done: writing over a key with a queue entry of the other direction, which holds a write that was accepted.  It is
 * looked for after the rows are locked, when nobody can add one any more.
 */
#include "postgres.h"

#include "repair.h"
#include "attempt.h"
#include "bundle.h"
#include "converge.h"
#include "drift.h"
#include "follow.h"
#include "queue.h"
#include "reconcile.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* So many keys that cannot be repaired are told one by one; all of them are in dualwrite.drift with the reason. */
#define DW_MOST_WARNINGS 20

static DwConverged
converge_key(DwFlow *flow, const DwKey *key)
{
	DwConverge *converge;
	DwConverged result;

	dw_write_begin();
	converge = dw_converge_open(flow, false);
	result = dw_converge(converge, key);
	dw_converge_close(converge);
	if (result == DW_CONVERGED_WROTE)
		dw_follow_later(dw_followers_of(flow), flow, key);
	dw_write_end(flow->target_owner);
	return result;
}

/* Undo the group: this key cannot be done now.  SQLSTATE 55P03 tells it from errors of the key. */
static void
give_up(const char *why)
{
	ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg_internal("%s", why)));
}

/* true: it was, or would be, written.  A key that agrees by now is added to agreeing. */
static bool
repair_one(DwRepair *repair, DwCompare *compare, Jsonb *json, List **agreeing)
{
	DwCompiled *compiled = dw_compare_compiled(compare);
	DwFlow	   *flow = &compiled->flow[DW_TRUTH_DIRECTION(repair->migration->phase)];
	DwDifference *found;
	DwConverged converged = DW_CONVERGED_WROTE;
	DwKey		key;

	dw_compare_refresh(compare);
	dw_key_from_jsonb(compiled, json, &key);
	found = dw_compare_key(compare, &key, true);
	if (found == NULL)
	{
		*agreeing = lappend(*agreeing, json);
		return false;
	}
	if (!repair->dry_run)
		converged = converge_key(flow, &key);
	if (converged == DW_CONVERGED_BUSY)
		give_up("it is being written by another session");
	if (dw_queue_opposes(flow, found->key))
		give_up("the direction that repair would overwrite is queued for it");
	if (converged == DW_CONVERGED_ALREADY)
		return false;
	if (!repair->dry_run)
		dw_drift_repaired(compiled, found);
	return true;
}

typedef struct GroupWork
{
	DwRepair   *repair;
	List	   *keys;
	int			from;
	int			count;
	int64		done;			/* result */
} GroupWork;

static void
work_group(void *arg)
{
	GroupWork  *work = arg;
	DwCompare  *compare = dw_compare_open(work->repair->mapping_id);
	List	   *agreeing = NIL;

	work->done = 0;
	if (compare == NULL)
		return;
	for (int i = work->from; i < work->from + work->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		work->done += repair_one(work->repair, compare, list_nth(work->keys, i), &agreeing);
	}
	dw_compare_close(compare);
	if (!work->repair->dry_run)
		dw_drift_gone(work->repair->mapping_id, agreeing);
}

static bool
is_lock_or_of_row(int sqlstate)
{
	return dw_error_is_lock(sqlstate) || dw_error_is_of_row(sqlstate);
}

/* A key that stays as it is: tell why. */
static void
report_key(DwRepair *repair, Jsonb *key, const DwError *error)
{
	char	   *text = JsonbToCString(NULL, &key->root, VARSIZE(key));
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(repair->given));

	repair->left = lappend(repair->left, key);
	MemoryContextSwitchTo(old);
	if (dw_error_is_lock(error->sqlstate))
	{
		ereport(repair->skip_level,
				(errmsg("key %s was not repaired: %s", text, error->message),
				 errhint("Call dualwrite.repair again later.")));
		return;
	}
	if (!repair->dry_run)
		dw_drift_failed(repair->mapping_id, key, error->message);
	/* a mapping that fails for every row must not fill the log */
	ereport(repair->warnings++ < DW_MOST_WARNINGS ? WARNING : DEBUG1,
			(errcode(error->sqlstate),
			 errmsg("key %s was not repaired: %s", text, error->message),
			 errhint("Change the row, or the mapping with dualwrite.alter_mapping, then call dualwrite.repair again.")));
}

static void
repair_range(DwRepair *repair, List *keys, int from, int count)
{
	GroupWork	work = {.repair = repair, .keys = keys, .from = from, .count = count};
	DwError		error;

	if (dw_try(work_group, &work, false, repair->raise ? dw_error_is_lock : is_lock_or_of_row, &error))
		repair->repaired += work.done;
	else if (count == 1)
		report_key(repair, list_nth(keys, from), &error);
	else
	{
		repair_range(repair, keys, from, count / 2);
		repair_range(repair, keys, from + count / 2, count - count / 2);
	}
}

void
dw_repair_keys(DwRepair *repair, List *keys)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite repair", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	repair->given = keys;
	repair->left = NIL;
	if (keys != NIL)
		repair_range(repair, keys, 0, list_length(keys));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Keys of a bundle that could not be repaired: with rows of their own, which show why. */
static void
unbundle(DwRepair *repair)
{
	DwCompare  *compare = repair->left == NIL ? NULL : dw_compare_open(repair->mapping_id);
	List	   *differing = NIL;
	ListCell   *lc;

	if (compare == NULL)
		return;
	foreach(lc, repair->left)
	{
		DwDifference *found;
		DwKey		key;

		dw_key_from_jsonb(dw_compare_compiled(compare), lfirst(lc), &key);
		found = dw_compare_key(compare, &key, true);
		if (found != NULL)
			differing = lappend(differing, found);
	}
	dw_drift_record(dw_compare_compiled(compare), 0, differing, NULL);
	dw_compare_close(compare);
}

void
dw_repair_single(DwRepair *repair, Jsonb *key)
{
	dw_repair_keys(repair, list_make1(key));
	if (!repair->dry_run && repair->left == NIL)
		dw_bundle_remove(repair->mapping_id, key);
}

bool
dw_repair_bundle(DwRepair *repair)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite bundle", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *keys = dw_bundle_next(repair->mapping_id, &repair->bundle);
	bool		found = keys != NIL;

	dw_repair_keys(repair, keys);
	repair->tried += list_length(keys);
	if (found && !repair->dry_run)
	{
		dw_bundle_forget(repair->bundle);
		unbundle(repair);
	}
	repair->given = repair->left = NIL;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return found;
}

static void
move_on_to(DwRepair *repair, const Jsonb *key, MemoryContext memory)
{
	Jsonb	   *copy = MemoryContextAlloc(memory, VARSIZE(key));

	memcpy(copy, key, VARSIZE(key));
	if (repair->after != NULL)
		pfree(repair->after);
	repair->after = copy;
}

bool
dw_repair_next(DwRepair *repair, int limit)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite repair keys", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *keys = repair->singles_done ? NIL : dw_drift_list(repair->mapping_id, 0, repair->after, limit);
	bool		found = keys != NIL;

	dw_repair_keys(repair, keys);
	if (found)
		move_on_to(repair, llast(keys), repair->memory ? repair->memory : old);
	repair->tried += list_length(keys);
	repair->given = repair->left = NIL;
	repair->singles_done = !found;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return found || dw_repair_bundle(repair);
}

void
dw_repair_record(const DwMigration *migration, Jsonb *key, int64 repaired)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail, "{\"keys\": " INT64_FORMAT ", \"truth\": \"%s\"", repaired,
					 DW_TRUTH_DIRECTION(migration->phase) == DW_FORWARD ? "old" : "new");
	if (key != NULL)
	{
		appendStringInfoString(&detail, ", \"key\": ");
		JsonbToCString(&detail, &key->root, VARSIZE(key));
	}
	appendStringInfoChar(&detail, '}');
	dw_event_record(migration->name, "repair", -1, -1, NIL, NULL, detail.data);
}

void
dw_repair_check_allowed(const DwMigration *migration)
{
	if (migration->phase < DW_PHASE_SHADOW || migration->phase > DW_PHASE_CUTOVER)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is in phase \"%s\": there is nothing to repair",
						migration->name, dw_phase_name(migration->phase)),
				 errhint("Both sides are kept in agreement from shadow to cutover only.")));
	if (migration->repair_suspended)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("repair of migration \"%s\" is suspended since its rollback", migration->name),
				 errdetail("The truth has changed; the side that repair would overwrite may be the only good copy."),
				 errhint("Inspect dualwrite.drift, then call dualwrite.resume(%s).", quote_literal_cstr(migration->name))));
}

bool
dw_repair_key(const DwMigration *migration, DwCompiled *compiled, const DwKey *key, bool dry_run)
{
	DwRepair	repair = {
		.migration = migration, .mapping_id = compiled->mapping_id, .dry_run = dry_run, .raise = true, .skip_level = NOTICE
	};

	dw_repair_check_allowed(migration);
	if (!dry_run)
		dw_drift_lock(compiled->mapping_id, true);
	dw_repair_single(&repair, dw_key_to_jsonb(compiled, key));
	return repair.repaired > 0;
}
