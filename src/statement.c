/*
 * statement.c: what the mirror keeps open for the length of one statement of the application.
 *
 * Opening a table, its indexes and a scan for every row would cost more than the write.  They are opened under a resource
 * owner of our own, a child of the subtransaction's: an error releases it with its parent, and the callbacks here only
 * forget it.  The statement trigger closes it, since a table that is still open could not be altered by the transaction's
 * next statement.
 */
#include "postgres.h"

#include "follow.h"
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
	List	   *followers;
	bool		followers_known;
	List	   *fillers;
	bool		fillers_known;
	bool		shared;
	bool		shared_known;
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
	statement->owner = ResourceOwnerCreate(CurTransactionResourceOwner, "dualwrite statement");
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

		open->target = dw_target_open(flow, true);
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

List *
dw_statement_followers(DwStatement *statement, DwFlow *flow)
{
	OpenFlow   *open = open_flow(statement, flow);

	if (!open->followers_known)
	{
		MemoryContext old = MemoryContextSwitchTo(statement->context);

		open->followers = dw_followers_of(flow);
		open->followers_known = true;
		MemoryContextSwitchTo(old);
	}
	return open->followers;
}

List *
dw_statement_fillers(DwStatement *statement, DwFlow *flow)
{
	OpenFlow   *open = open_flow(statement, flow);

	if (!open->fillers_known)
	{
		MemoryContext old = MemoryContextSwitchTo(statement->context);

		open->fillers = dw_fillers_of(flow);
		open->fillers_known = true;
		MemoryContextSwitchTo(old);
	}
	return open->fillers;
}

bool
dw_statement_shares_target(DwStatement *statement, DwFlow *flow)
{
	OpenFlow   *open = open_flow(statement, flow);

	if (!open->shared_known)
	{
		open->shared = dw_shares_target(flow);
		open->shared_known = true;
	}
	return open->shared;
}

DwPostponed *
dw_statement_postpone(DwStatement *statement, List **list, DwFlow *flow, const DwKey *source_key)
{
	MemoryContext old = MemoryContextSwitchTo(statement->context);
	DwPostponed *postponed = palloc0(sizeof(DwPostponed));

	postponed->mapping_id = flow->compiled->mapping_id;
	postponed->direction = flow->direction;
	dw_key_copy(flow->source_desc, flow->source_key, source_key, &postponed->source_key);
	*list = lappend(*list, postponed);
	MemoryContextSwitchTo(old);
	return postponed;
}

DwPostponed *
dw_statement_postpone_move(DwStatement *statement, List **list, DwFlow *flow, const DwKey *from, const DwKey *to)
{
	DwPostponed *postponed = dw_statement_postpone(statement, list, flow, to);
	MemoryContext old = MemoryContextSwitchTo(statement->context);

	postponed->moved = true;
	dw_key_copy(flow->source_desc, flow->source_key, from, &postponed->from_key);
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

static void
release_owner(ResourceOwner owner, bool commit)
{
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, commit, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_LOCKS, commit, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_AFTER_LOCKS, commit, false);
	ResourceOwnerDelete(owner);
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
			dw_target_close(open->target);
		if (open->converge != NULL)
			dw_converge_close(open->converge);
		if (open->converge_nowait != NULL)
			dw_converge_close(open->converge_nowait);
	}
	CurrentResourceOwner = saved;
	release_owner(statement->owner, true);
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
