/*
 * statement.c: what the mirror keeps open for the length of one statement of the application.
 *
 * Opening a table, its indexes and a scan for every row would cost more than the write.  They are opened under the resource
 * owner of the subtransaction, which outlives those of portals and queries: an error releases them with it, and the
 * callbacks here only forget them.  The statement trigger closes it, since a table that is still open could not be altered by the transaction's
 * next statement.
 */
#include "postgres.h"

#include "follow.h"
#include "kept.h"
#include "nesting.h"
#include "statement.h"

#include "access/xact.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

typedef struct OpenFlow
{
	DwFlow	   *flow;
	DwTarget   *target;
	DwConverge *converge;
	DwConverge *converge_nowait;
} OpenFlow;

static List *statements = NIL;	/* innermost subtransaction first */
static void (*leftover) (DwStatement *statement) = NULL;

DwStatement *
dw_statement_find(void)
{
	DwStatement *top = statements == NIL ? NULL : linitial(statements);

	return top != NULL && top->subid == GetCurrentSubTransactionId() && !top->busy ? top : NULL;
}

DwStatement *
dw_statement_busy(void)
{
	ListCell   *lc;

	foreach(lc, statements)
	{
		DwStatement *statement = lfirst(lc);

		if (statement->subid != GetCurrentSubTransactionId())
			break;
		if (statement->busy)
			return statement;
	}
	return NULL;
}

DwStatement *
dw_statement_get(void)
{
	DwStatement *statement = dw_statement_find();
	MemoryContext context;
	MemoryContext old;

	if (statement != NULL)
		return statement;
	context = AllocSetContextCreate(TopTransactionContext, "dualwrite statement", ALLOCSET_DEFAULT_SIZES);
	statement = MemoryContextAllocZero(context, sizeof(DwStatement));
	statement->subid = GetCurrentSubTransactionId();
	statement->owner = CurTransactionResourceOwner;
	statement->context = context;
	old = MemoryContextSwitchTo(TopTransactionContext);
	statements = lcons(statement, statements);
	MemoryContextSwitchTo(old);
	return statement;
}

static OpenFlow *
open_flow(DwStatement *statement, DwFlow *flow)
{
	MemoryContext old;
	OpenFlow   *open;
	ListCell   *lc;

	foreach(lc, statement->open)
		if (((OpenFlow *) lfirst(lc))->flow == flow)
			return lfirst(lc);
	old = MemoryContextSwitchTo(statement->context);
	open = palloc0(sizeof(OpenFlow));
	open->flow = flow;
	statement->open = lappend(statement->open, open);
	MemoryContextSwitchTo(old);
	return open;
}

DwTarget *
dw_statement_target(DwStatement *statement, DwFlow *flow)
{
	OpenFlow   *open = open_flow(statement, flow);

	if (open->target == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(statement->context);

		open->target = dw_kept_take(flow);
		/*
		 * Writing what is there already makes the checks of an earlier version void, which came too early for rows that
		 * reference each other.
		 */
		open->target->quiet_unchanged = !flow->target_has_triggers;
		MemoryContextSwitchTo(old);
	}
	return open->target;
}

static DwConverge *
open_converge(DwStatement *statement, DwFlow *flow, DwConverge **converge, bool wait)
{
	if (*converge == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(statement->context);

		*converge = dw_converge_open(flow, wait);
		MemoryContextSwitchTo(old);
	}
	return *converge;
}

DwConverge *
dw_statement_converge(DwStatement *statement, DwFlow *flow)
{
	return open_converge(statement, flow, &open_flow(statement, flow)->converge, true);
}

DwConverge *
dw_statement_converge_nowait(DwStatement *statement, DwFlow *flow)
{
	return open_converge(statement, flow, &open_flow(statement, flow)->converge_nowait, false);
}

/* Followers are written at once here, and so locked; in the background their keys are only queued. */
static List *
held(List *flows)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, flows)
	{
		DwFlow	   *flow = dw_flow_hold(lfirst(lc));

		if (flow != NULL)
			result = lappend(result, flow);
	}
	return result;
}

/*
 * Whom else a write to the flow's target concerns.  That is kept with the flow; what changes it is a change of a mapping,
 * and so marks the flow itself, or of a table.  Where it is somebody, his tables have to be locked anew in each transaction.
 */
static void
get_to_know_neighbours(DwFlow *flow)
{
	uint64		now = dw_mapping_generation();
	MemoryContext old;

	if (flow->neighbours_known && flow->neighbours_as_of == now &&
		(flow->neighbours_held_in == dw_locks_generation() || (flow->followers == NIL && flow->fillers == NIL)))
		return;
	flow->neighbours_known = false;
	flow->shares_target = dw_shares_target(flow);
	/* older lists may still be walked along by somebody further up */
	old = MemoryContextSwitchTo(flow->compiled->context);
	flow->followers = held(dw_followers_of(flow));
	flow->fillers = dw_fillers_of(flow);
	MemoryContextSwitchTo(old);
	flow->neighbours_as_of = now;
	flow->neighbours_held_in = dw_locks_generation();
	flow->neighbours_known = true;
}

List *
dw_statement_followers(DwFlow *flow)
{
	get_to_know_neighbours(flow);
	return flow->followers;
}

List *
dw_statement_fillers(DwFlow *flow)
{
	get_to_know_neighbours(flow);
	return flow->fillers;
}

bool
dw_statement_shares_target(DwFlow *flow)
{
	get_to_know_neighbours(flow);
	return flow->shares_target;
}

/* Of a key that may be kept by the hundred thousand, only what there is. */
static DwKey *
small_copy(DwFlow *flow, const DwKey *key)
{
	DwKey	   *copy = palloc(offsetof(DwKey, values) + flow->source_key->ncolumns * sizeof(Datum));

	dw_key_copy(flow->source_desc, flow->source_key, key, copy);
	return copy;
}

DwPostponed *
dw_statement_postpone(DwStatement *statement, DwPending *pending, DwFlow *flow, const DwKey *source_key)
{
	MemoryContext old;
	DwPostponed *postponed;

	if (pending->memory == NULL)
		pending->memory = AllocSetContextCreate(statement->context, "dualwrite pending", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(pending->memory);
	postponed = palloc0(sizeof(DwPostponed));
	postponed->mapping_id = flow->compiled->mapping_id;
	postponed->direction = flow->direction;
	postponed->depth = dw_trigger_depth();
	postponed->source_key = small_copy(flow, source_key);
	pending->keys = lappend(pending->keys, postponed);
	MemoryContextSwitchTo(old);
	return postponed;
}

DwPostponed *
dw_statement_postpone_move(DwStatement *statement, DwPending *pending, DwFlow *flow, const DwKey *from, const DwKey *to)
{
	DwPostponed *postponed = dw_statement_postpone(statement, pending, flow, to);
	MemoryContext old = MemoryContextSwitchTo(pending->memory);

	postponed->moved = true;
	postponed->from_key = small_copy(flow, from);
	MemoryContextSwitchTo(old);
	return postponed;
}

bool
dw_postpones(const DwFlow *flow)
{
	return flow->direction == DW_FORWARD &&
		(flow->compiled->queue_errors || flow->compiled->early_children || flow->compiled->mapping->queued);
}

DwPostponed *
dw_postpone(DwStatement *statement, DwFlow *flow, const DwKey *from, const DwKey *source_key)
{
	if (from != NULL)
		return dw_statement_postpone_move(statement, &statement->postponed, flow, from, source_key);
	return dw_statement_postpone(statement, &statement->postponed, flow, source_key);
}

void
dw_statement_close(DwStatement *statement)
{
	ResourceOwner saved = CurrentResourceOwner;
	ListCell   *lc;

	statements = list_delete_ptr(statements, statement);
	CurrentResourceOwner = statement->owner;
	foreach(lc, statement->open)
	{
		OpenFlow   *open = lfirst(lc);

		if (open->target != NULL)
			dw_kept_give_back(open->target);
		if (open->converge != NULL)
			dw_converge_close(open->converge);
		if (open->converge_nowait != NULL)
			dw_converge_close(open->converge_nowait);
	}
	CurrentResourceOwner = saved;
	MemoryContextDelete(statement->context);
}

/* Close what a (sub)transaction that is about to commit has left open: it had no statement trigger to do it. */
static void
close_leftovers(SubTransactionId subid)
{
	while (statements != NIL)
	{
		DwStatement *top = linitial(statements);

		if (subid != InvalidSubTransactionId && top->subid != subid)
			break;
		leftover(top);
		dw_statement_close(top);
	}
}

/* The resource owner goes with its parent; only the memory is left. */
static void
forget(SubTransactionId subid)
{
	while (statements != NIL)
	{
		DwStatement *top = linitial(statements);

		if (top->subid < subid)
			break;
		statements = list_delete_first(statements);
		MemoryContextDelete(top->context);
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	(void) arg;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			close_leftovers(InvalidSubTransactionId);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			/* everything is in TopTransactionContext, which goes now */
			statements = NIL;
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid, void *arg)
{
	(void) parentSubid;
	(void) arg;
	if (event == SUBXACT_EVENT_PRE_COMMIT_SUB)
		close_leftovers(mySubid);
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		forget(mySubid);
}

void
dw_statement_init(void (*on_leftover) (DwStatement *statement))
{
	leftover = on_leftover;
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
