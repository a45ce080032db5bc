/*
 * propagate.c: keys brought to agreement inside the application's transaction, and on to the mappings behind.
 *
 * The engines leave our own triggers out, so that no write is mirrored back; a write to a table that is itself a source
 * of other mappings (a chain, the sibling parts of a split) is therefore carried on from here.
 */
#include "postgres.h"

#include "propagate.h"
#include "queue.h"

#include "miscadmin.h"
#include "utils/lsyscache.h"

/* A write follows another at most this often: longer chains would be a cycle that was not refused. */
#define MAX_FOLLOWING 8

/* Passes over the moves of a statement, in turn forwards and backwards: a shift in either direction needs one or two. */
#define MAX_MOVE_PASSES 8

static void follow(DwStatement *statement, DwFlow *flow, const DwKey *target_key);

DwCounter
dw_counter_for(DwApplied applied)
{
	switch (applied)
	{
		case DW_APPLIED_INSERT:
			return DW_COUNT_INSERT;
		case DW_APPLIED_UPDATE:
			return DW_COUNT_UPDATE;
		case DW_APPLIED_DELETE:
			return DW_COUNT_DELETE;
		default:
			return DW_COUNT_SKIPPED;
	}
}

static DwCounter
converge_key(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	DwConverge *converge = dw_statement_converge(statement, flow);
	DwConverged result;
	DwCounter	counter;

	do
	{
		CHECK_FOR_INTERRUPTS();
		result = dw_converge_source(converge, source_key);
	} while (result == DW_CONVERGED_BUSY);
	counter = dw_counter_for(converge->applied);
	if (converge->applied == DW_APPLIED_INSERT)
		dw_propagate_fillers(statement, flow, source_key);
	if (result == DW_CONVERGED_WROTE)
		dw_propagate_followers(statement, flow, source_key);
	return counter;
}

DwCounter
dw_propagate_key(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	ResourceOwner saved = CurrentResourceOwner;
	DwCounter	counter;

	CurrentResourceOwner = statement->owner;
	counter = converge_key(statement, flow, source_key);
	CurrentResourceOwner = saved;
	return counter;
}

DwCounter
dw_propagate_unless_busy(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	ResourceOwner saved = CurrentResourceOwner;
	DwConverge *converge;
	DwConverged result;
	DwKey		key;

	dw_key_set(flow->source_key, source_key, &key);
	CurrentResourceOwner = statement->owner;
	converge = dw_statement_converge_nowait(statement, flow);
	result = dw_converge_source(converge, source_key);
	if (result == DW_CONVERGED_WROTE)
		dw_propagate_followers(statement, flow, source_key);
	CurrentResourceOwner = saved;
	if (result != DW_CONVERGED_BUSY)
		return dw_counter_for(converge->applied);
	if (flow->direction == DW_REVERSE || dw_key_of_old(flow->compiled, source_key, &key))
		dw_queue_append(flow, &key, 0, NULL);
	return DW_COUNT_QUEUED;
}

void
dw_propagate_fillers(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	List	   *fillers = dw_statement_fillers(flow);
	DwKey		target_key;
	ListCell   *lc;

	if (fillers == NIL || !dw_key_across(flow, source_key, &target_key))
		return;
	foreach(lc, fillers)
	{
		DwFlow	   *filler = lfirst(lc);
		DwKey		theirs;
		DwKey		key;

		if (!dw_key_across(&filler->compiled->flow[1 - filler->direction], &target_key, &theirs))
			continue;
		dw_key_copy(filler->source_desc, filler->source_key, &theirs, &key);
		(void) dw_propagate_unless_busy(statement, filler, &key);
	}
}

static bool
same_columns(const DwKeyShape *a, const DwKeyShape *b)
{
	return a->relid == b->relid && a->ncolumns == b->ncolumns &&
		memcmp(a->columns, b->columns, sizeof(AttrNumber) * a->ncolumns) == 0;
}

static void
follow(DwStatement *statement, DwFlow *flow, const DwKey *target_key)
{
	ListCell   *lc;

	if (++statement->following > MAX_FOLLOWING)
		elog(ERROR, "mappings of table %u follow each other in a cycle", flow->target);
	foreach(lc, dw_statement_followers(flow))
	{
		DwFlow	   *next = lfirst(lc);
		DwKey		key;

		if (!same_columns(next->source_key, flow->target_key))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("mapping into \"%s\" and mapping out of it have different keys", get_rel_name(flow->target)),
					 errhint("Give both the same key_columns.")));
		/* the values may live in the memory of the write that we follow */
		dw_key_copy(next->source_desc, next->source_key, target_key, &key);
		if (dw_postpones(next))
			dw_postpone(statement, next, NULL, &key);
		else
			converge_key(statement, next, &key);
	}
	statement->following--;
}

void
dw_propagate_followers(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	DwKey		target_key;

	if (dw_statement_followers(flow) != NIL && dw_key_across(flow, source_key, &target_key))
		follow(statement, flow, &target_key);
}

/* Is the source row, which nobody else can be writing, one of the mapping's? */
static bool
is_in_mapping(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	DwLookup   *source = dw_statement_converge(statement, flow)->source;
	DwLeaf	   *leaf;

	return source == NULL || dw_lookup_newest(source, source_key, true, true, &leaf) != DW_FIND_FOUND ||
		dw_in_mapping(flow, dw_leaf_row(source, leaf));
}

DwCounter
dw_propagate_truncated(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	ResourceOwner saved = CurrentResourceOwner;
	DwApplied	applied = DW_APPLIED_NOTHING;
	DwKey		target_key;

	CurrentResourceOwner = statement->owner;
	if (is_in_mapping(statement, flow, source_key) && dw_key_across(flow, source_key, &target_key))
		applied = dw_target_remove(dw_statement_target(statement, flow), &target_key);
	if (applied != DW_APPLIED_NOTHING)
		dw_propagate_followers(statement, flow, source_key);
	CurrentResourceOwner = saved;
	return dw_counter_for(applied);
}

static DwFlow *
flow_of(const DwPostponed *postponed)
{
	DwCompiled *compiled = dw_compiled_get(postponed->mapping_id);

	return compiled ? &compiled->flow[postponed->direction] : NULL;
}

/* Move the target row of one key to the other; false: not now, or not at all. */
static bool
move_row(DwStatement *statement, DwFlow *flow, const DwPostponed *move)
{
	DwConverge *converge = dw_statement_converge(statement, flow);
	DwTarget   *target = dw_statement_target(statement, flow);
	DwKey		target_from;
	DwLeaf	   *leaf;

	if (converge->source == NULL ||
		dw_lookup_newest(converge->source, move->source_key, true, true, &leaf) != DW_FIND_FOUND ||
		!dw_project_mapped(flow, dw_leaf_row(converge->source, leaf), target->row, NULL) ||
		!dw_key_across(flow, move->from_key, &target_from) ||
		(dw_statement_shares_target(flow) && dw_sibling_takes_over(converge, &target_from)))
		return false;
	return dw_target_move(target, &target_from, target->row) != DW_APPLIED_NOTHING;
}

/* One pass over the moves that are still to be made; returns those that could not be. */
static List *
move_rows(DwStatement *statement, List *moves, bool backwards, DwKey *at)
{
	List	   *left = NIL;
	int			n = list_length(moves);

	for (int i = 0; i < n; i++)
	{
		DwPostponed *move = list_nth(moves, backwards ? n - 1 - i : i);
		DwFlow	   *flow = flow_of(move);

		if (flow == NULL)
			continue;
		dw_key_set(flow->source_key, move->source_key, at);
		if (!move_row(statement, flow, move))
			left = backwards ? lcons(move, left) : lappend(left, move);
	}
	return left;
}

void
dw_propagate_moves(DwStatement *statement, List *moves, DwKey *at)
{
	ResourceOwner saved = CurrentResourceOwner;
	List	   *left = moves;
	ListCell   *lc;

	CurrentResourceOwner = statement->owner;
	for (int pass = 0; pass < MAX_MOVE_PASSES && left != NIL; pass++)
	{
		int			before = list_length(left);

		left = move_rows(statement, left, pass % 2 == 1, at);
		if (pass > 0 && list_length(left) == before)
			break;
	}
	foreach(lc, moves)
	{
		DwPostponed *move = lfirst(lc);
		DwFlow	   *flow = flow_of(move);

		if (flow == NULL)
			continue;
		dw_key_set(flow->source_key, move->source_key, at);
		converge_key(statement, flow, move->from_key);
		converge_key(statement, flow, move->source_key);
		dw_propagate_fillers(statement, flow, move->source_key);
		dw_propagate_followers(statement, flow, move->from_key);
		dw_propagate_followers(statement, flow, move->source_key);
	}
	CurrentResourceOwner = saved;
}
