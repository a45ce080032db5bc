/*
 * apply.c: writing the target side of a mapping: which engine, as whom, and where its checks go.
 */
#include "postgres.h"

#include "apply.h"
#include "apply_heap.h"
#include "apply_spi.h"
#include "inserts.h"
#include "nesting.h"
#include "owner.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

DwTarget *
dw_target_open(DwFlow *flow, bool wait)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite target", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwTarget   *target = palloc0(sizeof(DwTarget));
	bool		foreign = flow->direction == DW_FORWARD && flow->compiled->new_is_foreign;
	DwOwnerScope scope;

	target->flow = flow;
	target->wait = wait;
	target->context = context;
	target->row_context = AllocSetContextCreate(context, "dualwrite row", ALLOCSET_DEFAULT_SIZES);
	target->row = MakeSingleTupleTableSlot(flow->target_desc, &TTSOpsVirtual);
	target->old_row = MakeSingleTupleTableSlot(flow->target_desc, &TTSOpsVirtual);
	target->engine = foreign ? &dw_statement_engine : &dw_direct_engine;
	target->pinned = foreign || flow->target_runs_code;
	/* planning the columns' defaults may run functions of the owner */
	dw_owner_enter(&scope, flow->target_owner, target->pinned);
	target->engine->open(target);
	dw_owner_leave(&scope);
	MemoryContextSwitchTo(old);
	return target;
}

void
dw_target_close(DwTarget *target)
{
	target->engine->close(target);
	ExecDropSingleTupleTableSlot(target->row);
	ExecDropSingleTupleTableSlot(target->old_row);
	MemoryContextDelete(target->context);
}

/* Between the rows of a target: whose row it is, and what was there before. */
typedef struct RowScope
{
	DwOwnerScope owner;
	DwOwnerScope *outer;
	MemoryContext context;
} RowScope;

/* Memory of the last row goes, its owner comes. */
static void
begin_row(DwTarget *target, RowScope *scope)
{
	MemoryContextReset(target->row_context);
	if (target->lookup != NULL)
		ResetPerTupleExprContext(target->lookup->estate);
	dw_nesting_enter();
	dw_owner_enter(&scope->owner, target->flow->target_owner, target->pinned);
	scope->outer = target->scope;
	target->scope = &scope->owner;
	scope->context = MemoryContextSwitchTo(target->row_context);
}

static void
end_row(DwTarget *target, RowScope *scope)
{
	MemoryContextSwitchTo(scope->context);
	target->scope = scope->outer;
	dw_owner_leave(&scope->owner);
	dw_nesting_leave();
}

DwApplied
dw_target_put(DwTarget *target, TupleTableSlot *row)
{
	return dw_target_put_mapped(target, row, NULL);
}

DwApplied
dw_target_put_mapped(DwTarget *target, TupleTableSlot *row, TupleTableSlot *made_of)
{
	RowScope	scope;
	DwApplied	applied;

	begin_row(target, &scope);
	applied = target->engine->put(target, row, made_of);
	if (applied == DW_APPLIED_INSERT)
		dw_inserts_mirrored(target->flow->target);
	end_row(target, &scope);
	return applied;
}

DwApplied
dw_target_remove(DwTarget *target, const DwKey *target_key)
{
	RowScope	scope;
	DwApplied	applied;

	begin_row(target, &scope);
	applied = target->engine->remove(target, target_key);
	end_row(target, &scope);
	return applied;
}

DwApplied
dw_target_move(DwTarget *target, const DwKey *from, TupleTableSlot *row)
{
	RowScope	scope;
	DwApplied	applied;

	begin_row(target, &scope);
	applied = target->engine->move(target, from, row);
	if (applied == DW_APPLIED_UPDATE)
		dw_inserts_mirrored(target->flow->target);
	end_row(target, &scope);
	return applied;
}

DwApplied
dw_target_rewrite(DwTarget *target, TupleTableSlot *version, TupleTableSlot *row)
{
	RowScope	scope;
	DwApplied	applied;

	begin_row(target, &scope);
	applied = dw_direct_rewrite(target, version, row);
	end_row(target, &scope);
	return applied;
}

/* Valid until the next call for this target. */
TupleTableSlot *
dw_target_fetch(DwTarget *target, const DwKey *target_key, Snapshot snapshot)
{
	RowScope	scope;
	TupleTableSlot *row;

	begin_row(target, &scope);
	row = target->engine->fetch(target, target_key, snapshot);
	end_row(target, &scope);
	return row;
}

void
dw_write_begin(void)
{
	AfterTriggerBeginQuery();
	if (MyBackendType == B_BG_WORKER)
	{
		/* a trigger deferred to the commit of a worker would run as superuser: let there be none */
		ConstraintsSetStmt *immediate = makeNode(ConstraintsSetStmt);

		immediate->constraints = NIL;
		immediate->deferred = false;
		AfterTriggerSetState(immediate);
	}
}

void
dw_write_end(Oid owner)
{
	DwOwnerScope scope;

	PushActiveSnapshot(GetTransactionSnapshot());
	dw_owner_enter(&scope, owner, true);
	AfterTriggerEndQuery(NULL);
	dw_owner_leave(&scope);
	PopActiveSnapshot();
}
