/*
 * execution.c: the statement whose triggers are being fired, and who else has a say in it.
 *
 * A row trigger does not learn what is going to run between it and the end of its statement: triggers of users on the
 * same or, with data-modifying CTEs and cascades, on other tables, which may look at the other side of a mapping.  The
 * executor knows; its hooks only remember what it is at.  COPY fires triggers without the executor.
 *
 * Where the library was loaded in the middle of a statement, or somebody else fires triggers (the apply worker of logical
 * replication), nothing is known, and the answer is no.
 */
#include "postgres.h"

#include "execution.h"

#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"

typedef struct Execution
{
	struct Execution *outer;
	QueryDesc  *query;			/* or */
	CopyStmt   *copy;
	MemoryContext context;
	bool		judged;
	bool		private;
	List	   *looked_at;		/* OIDs of tables that foreign key checks look at */
} Execution;

static Execution *current = NULL;
static ExecutorFinish_hook_type next_executor_finish = NULL;
static ProcessUtility_hook_type next_process_utility = NULL;

/* Looks at nothing but the table that references, or is referenced; runs no code of users. */
static bool
is_check(const Trigger *trigger)
{
	switch (trigger->tgfoid)
	{
		case F_RI_FKEY_CHECK_INS:
		case F_RI_FKEY_CHECK_UPD:
		case F_RI_FKEY_NOACTION_DEL:
		case F_RI_FKEY_NOACTION_UPD:
		case F_RI_FKEY_RESTRICT_DEL:
		case F_RI_FKEY_RESTRICT_UPD:
		case F_UNIQUE_KEY_RECHECK:
			return true;
		default:
			return false;
	}
}

static bool
is_ours(const Trigger *trigger)
{
	return !trigger->tgisinternal && strstr(trigger->tgname, "dualwrite_") == trigger->tgname + 1;
}

static bool
has_only_known_triggers(Execution *execution, Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_AFTER(trigger->tgtype) || trigger->tgenabled == TRIGGER_DISABLED || is_ours(trigger))
			continue;
		if (!is_check(trigger))
			return false;
		if (OidIsValid(trigger->tgconstrrelid))
			execution->looked_at = list_append_unique_oid(execution->looked_at, trigger->tgconstrrelid);
	}
	return true;
}

static bool
all_have_only_known_triggers(Execution *execution, List *relations)
{
	ListCell   *lc;

	foreach(lc, relations)
	{
		ResultRelInfo *rri = lfirst(lc);

		if (!has_only_known_triggers(execution, rri->ri_RelationDesc))
			return false;
		if (rri->ri_RootResultRelInfo != NULL &&
			!has_only_known_triggers(execution, rri->ri_RootResultRelInfo->ri_RelationDesc))
			return false;
	}
	return true;
}

/* By the time that triggers fire, the executor has opened every table whose rows it has written. */
static void
judge(Execution *execution, Relation rel)
{
	MemoryContext old = MemoryContextSwitchTo(execution->context);

	if (execution->query != NULL)
	{
		EState	   *estate = execution->query->estate;

		execution->private = all_have_only_known_triggers(execution, estate->es_opened_result_relations) &&
			all_have_only_known_triggers(execution, estate->es_tuple_routing_result_relations);
	}
	else
		execution->private = has_only_known_triggers(execution, rel);
	execution->judged = true;
	MemoryContextSwitchTo(old);
}

static bool
contains(List *relations, Relation rel)
{
	ListCell   *lc;

	foreach(lc, relations)
		if (RelationGetRelid(((ResultRelInfo *) lfirst(lc))->ri_RelationDesc) == RelationGetRelid(rel))
			return true;
	return false;
}

/* Does this execution itself write the table?  Rows that a cascade writes fire their triggers here, too. */
static bool
writes(Execution *execution, Relation rel)
{
	EState	   *estate;

	if (execution->query == NULL)
		return RangeVarGetRelid(execution->copy->relation, NoLock, true) == RelationGetRelid(rel);
	estate = execution->query->estate;
	return contains(estate->es_opened_result_relations, rel) ||
		contains(estate->es_tuple_routing_result_relations, rel);
}

bool
dw_execution_is_private(Relation rel, Oid target, List *target_leaves)
{
	Execution  *execution = current;
	ListCell   *lc;

	if (execution == NULL || !writes(execution, rel))
		return false;
	if (!execution->judged)
		judge(execution, rel);
	if (!execution->private)
		return false;
	foreach(lc, execution->looked_at)
		if (lfirst_oid(lc) == target || list_member_oid(target_leaves, lfirst_oid(lc)))
			return false;
	return true;
}

static void
finish(QueryDesc *query)
{
	if (next_executor_finish)
		next_executor_finish(query);
	else
		standard_ExecutorFinish(query);
}

static void
executor_finish(QueryDesc *query)
{
	Execution	execution = {.outer = current, .query = query, .context = CurrentMemoryContext};

	if (query->operation == CMD_SELECT && !query->plannedstmt->hasModifyingCTE)
	{
		finish(query);			/* fires no triggers */
		return;
	}
	current = &execution;
	PG_TRY();
	{
		finish(query);
	}
	PG_FINALLY();
	{
		current = execution.outer;
	}
	PG_END_TRY();
}

static void
process_utility(PlannedStmt *planned, const char *text, bool read_only_tree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion)
{
	Execution	execution = {.outer = current, .context = CurrentMemoryContext};

	if (!IsA(planned->utilityStmt, CopyStmt) || !((CopyStmt *) planned->utilityStmt)->is_from)
	{
		next_process_utility(planned, text, read_only_tree, context, params, environment, receiver, completion);
		return;
	}
	execution.copy = (CopyStmt *) planned->utilityStmt;
	current = &execution;
	PG_TRY();
	{
		next_process_utility(planned, text, read_only_tree, context, params, environment, receiver, completion);
	}
	PG_FINALLY();
	{
		current = execution.outer;
	}
	PG_END_TRY();
}

void
dw_execution_init(void)
{
	next_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = executor_finish;
	next_process_utility = ProcessUtility_hook ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = process_utility;
}
