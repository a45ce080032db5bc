/*
 * execution.c: the statement whose triggers are being fired, and who else has a say in it.
 *
 * A row trigger does not learn what is going to run between it and the end of its statement: triggers of users on the
 * same or, with data-modifying CTEs and cascades, on other tables, which may look at the other side of a mapping.  The
 * executor knows; its hooks only remember what it is at.  COPY fires triggers without the executor.
 *
 * The same hooks see how long a statement takes: what is left of that without the mirrors is what its own writes cost, which
 * dualwrite.mirror_stats holds against the mirrors'.
 *
 * Where the library was loaded in the middle of a statement, or somebody else fires triggers (the apply worker of logical
 * replication), nothing is known, and the answer is no.
 */
#include "postgres.h"

#include "compat.h"
#include "execution.h"
#include "stats.h"
#include "usercode.h"

#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "replication/logicalworker.h"
#include "replication/worker_internal.h"
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
	List	   *mirrored_by;	/* of DwMirroredBy */
} Execution;

static Execution *current = NULL;
static bool (*explain_violation) (ErrorData *error, List *by) = NULL;
static ExecutorRun_hook_type next_executor_run = NULL;
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

/* triggers: a copy, not the relation cache's (see dw_is_own_trigger). */
static bool
has_only_known_triggers(Execution *execution, TriggerDesc *triggers)
{
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_AFTER(trigger->tgtype) || trigger->tgenabled == TRIGGER_DISABLED || dw_is_own_trigger(trigger))
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

		if (!has_only_known_triggers(execution, rri->ri_TrigDesc))
			return false;
		if (rri->ri_RootResultRelInfo != NULL &&
			!has_only_known_triggers(execution, rri->ri_RootResultRelInfo->ri_TrigDesc))
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
		execution->private = has_only_known_triggers(execution, CopyTriggerDesc(rel->trigdesc));
	execution->judged = true;
	MemoryContextSwitchTo(old);
}

static bool
contains(List *relations, Oid relid)
{
	ListCell   *lc;

	foreach(lc, relations)
		if (RelationGetRelid(((ResultRelInfo *) lfirst(lc))->ri_RelationDesc) == relid)
			return true;
	return false;
}

/* Does this execution itself write the table?  Rows that a cascade writes fire their triggers here, too. */
static bool
writes(Execution *execution, Oid relid)
{
	EState	   *estate;

	if (execution->query == NULL)
		return RangeVarGetRelid(execution->copy->relation, NoLock, true) == relid;
	estate = execution->query->estate;
	return contains(estate->es_opened_result_relations, relid) ||
		contains(estate->es_tuple_routing_result_relations, relid);
}

bool
dw_execution_is_private(Relation rel, Oid target, List *target_leaves)
{
	Execution  *execution = current;
	ListCell   *lc;

	/* a statement that writes both sides looks at the target itself */
	if (execution == NULL || !writes(execution, RelationGetRelid(rel)) || writes(execution, target))
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

bool
dw_execution_is_initial_copy(void)
{
	return IsLogicalWorker() && am_tablesync_worker();
}

/* What a statement's own writes have taken so far: the last one that was run, to be finished next. */
typedef struct LastRun
{
	QueryDesc  *query;
	instr_time	end;
	uint64		ns;
	DwMirrored	mirrored;		/* in the run itself: by BEFORE triggers, in place */
} LastRun;

static LastRun last_run = {0};

static bool
is_write(const QueryDesc *query)
{
	return query->operation != CMD_SELECT || query->plannedstmt->hasModifyingCTE;
}

static void
run(QueryDesc *query, ScanDirection direction, uint64 count DW_RUN_ONCE_PARAMETER)
{
	if (next_executor_run)
		next_executor_run(query, direction, count DW_RUN_ONCE_ARGUMENT);
	else
		standard_ExecutorRun(query, direction, count DW_RUN_ONCE_ARGUMENT);
}

static void
executor_run(QueryDesc *query, ScanDirection direction, uint64 count DW_RUN_ONCE_PARAMETER)
{
	DwMirrored	before;
	instr_time	start;

	if (!is_write(query))
	{
		run(query, direction, count DW_RUN_ONCE_ARGUMENT);
		return;
	}
	before = dw_stats_begin();
	INSTR_TIME_SET_CURRENT(start);
	PG_TRY();
	{
		run(query, direction, count DW_RUN_ONCE_ARGUMENT);
	}
	PG_CATCH();
	{
		(void) dw_stats_end(&before);
		PG_RE_THROW();
	}
	PG_END_TRY();
	last_run.query = query;
	INSTR_TIME_SET_CURRENT(last_run.end);
	last_run.ns = dw_stats_between(start, last_run.end);
	last_run.mirrored = dw_stats_end(&before);
}

static void
finish(QueryDesc *query)
{
	if (next_executor_finish)
		next_executor_finish(query);
	else
		standard_ExecutorFinish(query);
}

/* The statement is over: tell what its own writes took. */
static void
account(QueryDesc *query, const LastRun *ran, const DwMirrored *finished, uint64 ns)
{
	if (ran->query == query)
	{
		dw_stats_own(&ran->mirrored, ran->ns);
		ns += ran->ns;
	}
	dw_stats_own(finished, ns);
}

DwMirroredBy *
dw_execution_mirrored(const void *by, MemoryContext *context)
{
	DwMirroredBy *result;
	MemoryContext old;
	ListCell   *lc;

	if (current == NULL)
		return NULL;
	*context = current->context;
	foreach(lc, current->mirrored_by)
	{
		result = lfirst(lc);
		if (result->by == by)
			return result;
	}
	old = MemoryContextSwitchTo(current->context);
	result = palloc0(sizeof(DwMirroredBy));
	result->by = by;
	current->mirrored_by = lappend(current->mirrored_by, result);
	MemoryContextSwitchTo(old);
	return result;
}

/* What went wrong in the statement's triggers is thrown on with an explanation, if there is one. */
static void
throw_explained(const Execution *execution)
{
	ErrorData  *error;

	if (execution->mirrored_by == NIL || ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
		return;
	MemoryContextSwitchTo(execution->context);
	error = CopyErrorData();
	if (!explain_violation(error, execution->mirrored_by))
		return;
	FlushErrorState();
	ReThrowError(error);
}

/* Mostly that is when the run ended, and there is no need to look at the clock again. */
static instr_time
start_of_finish(const QueryDesc *query, const LastRun *ran)
{
	instr_time	now;

	if (ran->query == query)
		return ran->end;
	INSTR_TIME_SET_CURRENT(now);
	return now;
}

static void
executor_finish(QueryDesc *query)
{
	Execution	execution = {.outer = current, .query = query, .context = CurrentMemoryContext};
	LastRun		ran = last_run;
	DwMirrored	before;
	DwMirrored	finished;
	instr_time	start;

	if (!is_write(query))
	{
		finish(query);			/* fires no triggers */
		return;
	}
	last_run.query = NULL;
	before = dw_stats_begin();
	start = start_of_finish(query, &ran);
	current = &execution;
	PG_TRY();
	{
		finish(query);
	}
	PG_CATCH();
	{
		current = execution.outer;
		(void) dw_stats_end(&before);
		throw_explained(&execution);
		PG_RE_THROW();
	}
	PG_END_TRY();
	current = execution.outer;
	finished = dw_stats_end(&before);
	if (ran.mirrored.count + finished.count > 0)
		account(query, &ran, &finished, dw_stats_since(start));
}

static void
process_utility(PlannedStmt *planned, const char *text, bool read_only_tree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion)
{
	Execution	execution = {.outer = current, .context = CurrentMemoryContext};
	DwMirrored	before;
	DwMirrored	finished;
	instr_time	start;

	if (!IsA(planned->utilityStmt, CopyStmt) || !((CopyStmt *) planned->utilityStmt)->is_from)
	{
		next_process_utility(planned, text, read_only_tree, context, params, environment, receiver, completion);
		return;
	}
	execution.copy = (CopyStmt *) planned->utilityStmt;
	before = dw_stats_begin();
	INSTR_TIME_SET_CURRENT(start);
	current = &execution;
	PG_TRY();
	{
		next_process_utility(planned, text, read_only_tree, context, params, environment, receiver, completion);
	}
	PG_CATCH();
	{
		current = execution.outer;
		(void) dw_stats_end(&before);
		throw_explained(&execution);
		PG_RE_THROW();
	}
	PG_END_TRY();
	current = execution.outer;
	finished = dw_stats_end(&before);
	if (finished.count > 0)
		dw_stats_own(&finished, dw_stats_since(start));
}

void
dw_execution_on_violation(bool (*explain) (ErrorData *error, List *by))
{
	explain_violation = explain;
}

void
dw_execution_init(void)
{
	next_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
	next_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = executor_finish;
	next_process_utility = ProcessUtility_hook ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = process_utility;
}
