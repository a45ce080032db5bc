/*
 * cascade.c: what foreign keys of the target do, brought to agreement once the source's have done the same.
 *
 * A mirrored DELETE or key change fires the actions (CASCADE, SET NULL, SET DEFAULT) of the target's foreign keys at once and all
 * the way down.  The source's own are queued behind each other, one level after the next: for a while rows of the source are
 * still there which the target has lost.  Brought to agreement too early they would come back, without their parents.
 *
 * So they wait until nothing is queued any more.  The server has no call for that moment, but fires AFTER events in
 * the order in which they were queued: the row event of a version that is history already, for our own trigger alone, is put
 * at the end of the queue.  If rows have been mirrored by the time it comes, there may be further levels, and it is put
 * there again.
 *
 * A partition that was attached when our triggers had been made has those for rows, but none that says when a statement is over.
 * The same call says it.
 */
#include "postgres.h"

#include "cascade.h"
#include "nesting.h"
#include "pending.h"
#include "queue.h"

#include "access/table.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "replication/logicalworker.h"
#include "utils/rel.h"

/* The trigger that the call goes to. */
#define CALLED_TRIGGER	"~dualwrite_delete"

/* Where foreign keys of the source do not fire, nobody is going to do what those of the target did. */
static bool
source_has_no_actions(void)
{
	return IsLogicalWorker() || SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
}

static void
put_off(DwFlow *flow, TupleTableSlot *row, bool wait)
{
	DwStatement *statement = dw_statement_busy();
	DwKey		target_key;
	DwKey		source_key;
	DwKey		key;

	if (row == NULL || !dw_key_of_row(flow->target_key, row, &target_key) ||
		!dw_key_across(&flow->compiled->flow[1 - flow->direction], &target_key, &source_key))
		return;
	if (!wait || source_has_no_actions() || statement == NULL)
	{
		key = flow->direction == DW_FORWARD ? target_key : source_key;
		dw_queue_append(flow, &key, 0, NULL);
	}
	else
		/* the triggers that see what it did are one level deeper than the statement */
		dw_pending_cascaded(statement, flow, &source_key, dw_trigger_depth() - 1);
}

void
dw_cascaded(DwFlow *flow, const DwRowEvent *event, bool wait)
{
	put_off(flow, event->old_row, wait);
	put_off(flow, event->new_row, wait);
}

/* Leave only the trigger that is to be called; false: the table does not have it. */
static bool
only_called_trigger(ResultRelInfo *rri)
{
	TriggerDesc *triggers = rri->ri_TrigDesc;
	bool		found = false;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (strcmp(trigger->tgname, CALLED_TRIGGER) == 0)
			found = true;
		else
			trigger->tgenabled = TRIGGER_DISABLED;
	}
	return found;
}

/* Put an event for that trigger at the end of the queue. */
static bool
queue_call(Oid relid, ItemPointer version)
{
	Relation	rel = try_table_open(relid, NoLock);
	EState	   *estate;
	ResultRelInfo *rri;
	bool		queued;

	if (rel == NULL)
		return false;
	estate = CreateExecutorState();
	rri = makeNode(ResultRelInfo);
	InitResultRelInfo(rri, rel, 0, NULL, 0);
	queued = only_called_trigger(rri);
	if (queued)
		ExecARDeleteTriggers(estate, rri, version, NULL, NULL, false);
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
	return queued;
}

static bool
call(DwStatement *statement, Oid relid, const ItemPointerData *version)
{
	statement->call_version = *version;
	statement->call_of = relid;
	statement->call_depth = dw_trigger_depth();
	statement->call_queued = queue_call(relid, &statement->call_version);
	return statement->call_queued;
}

bool
dw_cascade_waits(DwStatement *statement)
{
	if (statement->call_queued)
		return true;
	/* the call has come, and nothing happened in between */
	if (statement->events == statement->events_at_call || !OidIsValid(statement->version_of))
		return false;
	statement->events_at_call = statement->events;
	return call(statement, statement->version_of, &statement->version);
}

bool
dw_cascade_call(DwStatement *statement, Relation rel, ItemPointer version)
{
	/* one that an outer statement waits for comes too late for this one */
	if (statement->call_queued)
		return statement->call_depth == dw_trigger_depth();
	/* it comes before whatever foreign keys are still to do */
	statement->events_at_call = 0;
	return call(statement, RelationGetRelid(rel), version);
}

bool
dw_cascade_calls(Relation rel, TriggerEvent event, HeapTuple tuple)
{
	DwStatement *statement = TRIGGER_FIRED_BY_DELETE(event) ? dw_statement_find() : NULL;

	if (statement == NULL || !statement->call_queued || statement->call_of != RelationGetRelid(rel) ||
		!ItemPointerEquals(&statement->call_version, &tuple->t_self))
		return false;
	statement->call_queued = false;
	return true;
}
