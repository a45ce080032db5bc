/*
 * postpone.c: mirrors whose errors must not reach the application.
 *
 * A subtransaction cannot span the row triggers of a statement, since undoing it would undo what the user's triggers did
 * in between; and one a row would overflow the snapshot's cache of subtransactions and slow every backend.  So keys are
 * collected, and converged together, in one subtransaction, when the statement is over; only when that fails, by halves.
 * Converging reads the newest version, so that it does not matter what happened to the row in between.
 *
 * Foreign keys of the target are checked inside that subtransaction, too, not with the application's.
 */
#include "postgres.h"

#include "absorb.h"
#include "nesting.h"
#include "pending.h"
#include "execution.h"
#include "postpone.h"
#include "propagate.h"
#include "queue.h"
#include "stats.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "commands/trigger.h"
#include "utils/snapmgr.h"

static DwFlow *
flow_of(const DwPostponed *postponed)
{
	DwCompiled *compiled = dw_compiled_get(postponed->mapping_id);

	return compiled ? &compiled->flow[postponed->direction] : NULL;
}

/* What is tried again after a failure of more than that: most of it has nothing to do with it. */
#define SLICE	5000

/* Work of one subtransaction: some of the postponed keys. */
typedef struct Settling
{
	List	   *keys;			/* of DwPostponed */
	DwStatement *outer;			/* the application's */
} Settling;

/*
 * The moves that follow each other from here on, done as one: a row may take the key, or a unique value, that the next one gives
 * up.  Returns how many they are.
 */
static int
settle_moves(DwStatement *statement, List *keys, int from)
{
	List	   *moves = NIL;
	DwKey		at;

	for (int i = from; i < list_length(keys); i++)
	{
		DwPostponed *postponed = list_nth(keys, i);

		if (!postponed->moved)
			break;
		postponed->counter = flow_of(postponed) ? DW_COUNT_UPDATE : DW_COUNT_SKIPPED;
		moves = lappend(moves, postponed);
	}
	dw_propagate_moves(statement, moves, &at);
	return list_length(moves);
}

static void
settle(void *arg)
{
	Settling   *settling = arg;
	DwStatement *statement = dw_statement_get();
	ListCell   *lc;
	int			done = 0;

	AfterTriggerBeginQuery();
	statement->busy = true;
	while (done < list_length(settling->keys))
	{
		DwPostponed *postponed = list_nth(settling->keys, done);
		DwFlow	   *flow = flow_of(postponed);

		if (postponed->moved)
		{
			done += settle_moves(statement, settling->keys, done);
			continue;
		}
		done++;
		postponed->counter = DW_COUNT_SKIPPED;
		if (flow == NULL)
			continue;
		if (postponed->truncated)
			postponed->counter = dw_propagate_truncated(statement, flow, postponed->source_key);
		else if (postponed->impatient)
			postponed->counter = dw_propagate_unless_busy(statement, flow, postponed->source_key);
		else
			postponed->counter = dw_propagate_key(statement, flow, postponed->source_key);
	}
	statement->busy = false;
	/* undone with us or not: they are only looked at */
	foreach(lc, statement->cascaded.keys)
	{
		DwPostponed *written = lfirst(lc);

		if (flow_of(written) != NULL)
			dw_pending_cascaded(settling->outer, flow_of(written), written->source_key, written->depth);
	}
	/* what follows these writes may have been put off in turn */
	if (statement->postponed.keys != NIL)
		dw_postponed_settle(statement);
	dw_statement_close(statement);
	/* what triggers of the target write must leave the row alone that the next mapping is still to be given */
	dw_nesting_enter();
	AfterTriggerEndQuery(NULL);
	dw_nesting_leave();
}

/* While its parent may not have been backfilled, or copied by a subscription, a child is queued, whatever the policy says of other errors. */
static bool
is_missing_parent(int sqlstate)
{
	return sqlstate == ERRCODE_FOREIGN_KEY_VIOLATION;
}

static void
enqueue_key(DwFlow *flow, const DwKey *source_key, const DwError *error)
{
	int			sqlstate = error ? error->sqlstate : 0;
	const char *message = error ? error->message : NULL;
	DwKey		key;

	if (flow->direction == DW_REVERSE)
		dw_queue_append(flow, source_key, sqlstate, message);
	else if (dw_key_across(flow, source_key, &key))
		dw_queue_append(flow, &key, sqlstate, message);
	else if (error != NULL)
		dw_queue_append_json(flow->compiled->mapping_id, flow->direction, dw_key_material(flow, source_key), sqlstate, message);
	/* else the key has no counterpart, and nothing was wrong with it */
}

static void
enqueue(const DwPostponed *postponed, const DwError *error)
{
	DwFlow	   *flow = flow_of(postponed);

	if (flow == NULL)
		return;
	if (postponed->moved)
		enqueue_key(flow, postponed->from_key, error);
	enqueue_key(flow, postponed->source_key, error);
	dw_stats_count(flow->compiled->mapping_id, flow->direction, DW_COUNT_QUEUED, 1);
	/* a parent that is still to be backfilled says nothing about the mapping */
	if (error != NULL && !(flow->compiled->early_children && is_missing_parent(error->sqlstate)))
		dw_stats_count(flow->compiled->mapping_id, flow->direction, DW_COUNT_FAILED, 1);
}

/* Of a table whose parents are not copied yet no part is better than the whole. */
static void
enqueue_all(List *keys, const DwError *error)
{
	ListCell   *lc;

	foreach(lc, keys)
		enqueue(lfirst(lc), error);
}

/* The time that they took together is shared out among the keys. */
static void
count_settled(List *keys, instr_time start)
{
	uint64		each = dw_stats_since(start) / list_length(keys);
	ListCell   *lc;

	foreach(lc, keys)
	{
		DwPostponed *postponed = lfirst(lc);

		dw_stats_count(postponed->mapping_id, postponed->direction, postponed->counter, 1);
		dw_stats_time(postponed->mapping_id, postponed->direction, 1, each);
	}
}

static List *
part_of(List *keys, int from, int to)
{
	List	   *part = NIL;

	for (int i = from; i < to; i++)
		part = lappend(part, list_nth(keys, i));
	return part;
}

/*
 * Keys of one policy, all in one subtransaction; where that fails, in slices, these in two halves, and so on, until the keys that fail
 * are alone: they are queued.  A bad one in a hundred thousand costs some forty subtransactions.
 */
static void
settle_all(DwStatement *statement, List *keys, bool undo)
{
	int			n = list_length(keys);
	Settling	settling = {keys, statement};
	DwFlow	   *flow;
	DwError		error;
	instr_time	start;

	check_stack_depth();
	if (n == 0)
		return;
	flow = flow_of(linitial(keys));
	if (flow == NULL && n == 1)
		return;
	INSTR_TIME_SET_CURRENT(start);
	if (dw_try(settle, &settling, undo, n > 1 || flow->compiled->queue_errors ? NULL : is_missing_parent, &error))
		count_settled(keys, start);
	else if (n == 1 || (is_missing_parent(error.sqlstate) && dw_execution_is_initial_copy()))
		enqueue_all(keys, &error);
	else
	{
		int			part = n > SLICE ? SLICE : (n + 1) / 2;

		for (int from = 0; from < n; from += part)
			settle_all(statement, part_of(keys, from, Min(from + part, n)), undo);
	}
}

void
dw_postponed_settle(DwStatement *statement)
{
	List	   *keys = dw_pending_take(&statement->postponed, 0);
	List	   *inline_keys = NIL;
	List	   *discarded = NIL;
	ListCell   *lc;

	foreach(lc, keys)
	{
		DwPostponed *postponed = lfirst(lc);
		DwFlow	   *flow = flow_of(postponed);

		if (flow == NULL)
			continue;
		if (flow->compiled->mapping->queued)
			enqueue(postponed, NULL);
		else if (flow->compiled->discard)
			discarded = lappend(discarded, postponed);
		else
			inline_keys = lappend(inline_keys, postponed);
	}
	settle_all(statement, inline_keys, false);
	settle_all(statement, discarded, true);
	dw_pending_free(&statement->postponed);
}

void
dw_postponed_enqueue(DwStatement *statement)
{
	enqueue_all(dw_pending_take(&statement->postponed, 0), NULL);
	enqueue_all(dw_pending_take(&statement->moving, 0), NULL);
	enqueue_all(dw_pending_take(&statement->moves, 0), NULL);
	enqueue_all(dw_pending_take(&statement->cascaded, 0), NULL);
}
