/*
 * apply_heap.c: the direct engine: writes to heap tables, plain or partitioned, through the executor's own functions.
 *
 * Like the apply worker of logical replication it honours constraints, foreign keys, generated columns and partition
 * routing, and fires only those user triggers that are enabled REPLICA or ALWAYS.  Unlike it, nothing here opens an
 * after-trigger level: foreign key checks of the target join the application's statement, as if it had written both
 * tables itself.  Our own triggers are taken out of the target's list, so that no write is mirrored back.
 *
 * Concurrency: the writer holds the source row, so the newest target row wins at every isolation level and nothing here
 * raises a serialization failure.
 */
#include "postgres.h"

#include "apply_heap.h"
#include "actions.h"
#include "nesting.h"
#include "owner.h"
#include "usercode.h"

#include "access/heapam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

typedef struct DirectTarget
{
	ExprState **defaults;		/* by target column; NULL: null, or written by the mapping */
	ExprState **column_defaults;	/* of columns that the mapping writes, for owners that are not us; filled on demand */
	bool		speculative;	/* the backfill, or a writer of the target, may be at the same key */
} DirectTarget;

static ExprState *
compile_default(Relation rel, AttrNumber attno)
{
	Node	   *node = build_column_default(rel, attno);

	if (node == NULL)
		return NULL;
	return ExecInitExpr(expression_planner((Expr *) node), NULL);
}

static bool
is_generated(Form_pg_attribute att)
{
	return att->attgenerated != '\0';
}

static void
direct_open(DwTarget *target)
{
	DirectTarget *direct = palloc0(sizeof(DirectTarget));
	DwFlow	   *flow = target->flow;
	Relation	rel;

	target->private = direct;
	target->lookup = dw_lookup_open(flow->target_key, RowExclusiveLock);
	rel = target->lookup->root;
	dw_set_written_columns(target->lookup->estate, flow->inserted);
	direct->speculative = !flow->compiled->filled || flow->compiled->phase >= DW_PHASE_READ_SWITCH;
	direct->defaults = palloc0(sizeof(ExprState *) * RelationGetNumberOfAttributes(rel));
	direct->column_defaults = NULL;
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (!att->attisdropped && !is_generated(att) && !bms_is_member(i + 1, flow->inserted))
			direct->defaults[i] = compile_default(rel, i + 1);
	}
}

static void
direct_close(DwTarget *target)
{
	dw_lookup_close(target->lookup);
}

/* What depends on a row is the business of other mappings, whoever writes the row. */
#define LOOKUP_TRIGGER "~dualwrite_lookup"

/* The transaction that last opened a table with such a trigger. */
static FullTransactionId lookups_fired_in;

bool
dw_target_fires_lookups(void)
{
	FullTransactionId current = GetTopFullTransactionIdIfAny();

	return FullTransactionIdIsValid(current) && FullTransactionIdEquals(current, lookups_fired_in);
}

/* Does a mirrored write fire this trigger?  In place no write of ours is news to anybody but constraints. */
static bool
fires(const Trigger *trigger, bool in_place)
{
	if (strcmp(trigger->tgname, LOOKUP_TRIGGER) == 0 && dw_is_own_trigger(trigger))
	{
		lookups_fired_in = GetTopFullTransactionId();
		return trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
	}
	if (dw_is_own_trigger(trigger) || dw_is_action(trigger))
		return false;
	if (trigger->tgisinternal)
		return trigger->tgenabled != TRIGGER_DISABLED;
	if (in_place)
		return false;
	return trigger->tgenabled == TRIGGER_FIRES_ON_REPLICA || trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
}

/* Are errors of this flow kept from the application?  Then no check may be left to its commit. */
static bool
checks_at_once(const DwFlow *flow)
{
	return flow->direction == DW_FORWARD && (flow->compiled->queue_errors || flow->compiled->early_children);
}

/*
 * The copy that InitResultRelInfo made is ours to change; which kinds of triggers there are is worked out anew.  at_once:
 * deferrable checks are made now, for these writes only (SET CONSTRAINTS goes by name, and would reach the application's).
 */
static void
filter_triggers(ResultRelInfo *rri, bool at_once, bool in_place)
{
	TriggerDesc *triggers = rri->ri_TrigDesc;
	bool		any = false;

	if (triggers == NULL)
		return;
	triggers->trig_insert_before_row = triggers->trig_insert_after_row = false;
	triggers->trig_update_before_row = triggers->trig_update_after_row = false;
	triggers->trig_delete_before_row = triggers->trig_delete_after_row = false;
	triggers->trig_insert_new_table = triggers->trig_update_old_table = false;
	triggers->trig_update_new_table = triggers->trig_delete_old_table = false;
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];
		bool		before = TRIGGER_FOR_BEFORE(trigger->tgtype);
		bool		after = TRIGGER_FOR_AFTER(trigger->tgtype);

		if (!fires(trigger, in_place))
		{
			trigger->tgenabled = TRIGGER_DISABLED;
			continue;
		}
		trigger->tgenabled = TRIGGER_FIRES_ALWAYS;
		if (at_once)
			trigger->tgdeferrable = trigger->tginitdeferred = false;
		if (!TRIGGER_FOR_ROW(trigger->tgtype))
			continue;
		any = true;
		triggers->trig_insert_before_row |= before && TRIGGER_FOR_INSERT(trigger->tgtype);
		triggers->trig_insert_after_row |= after && TRIGGER_FOR_INSERT(trigger->tgtype);
		triggers->trig_update_before_row |= before && TRIGGER_FOR_UPDATE(trigger->tgtype);
		triggers->trig_update_after_row |= after && TRIGGER_FOR_UPDATE(trigger->tgtype);
		triggers->trig_delete_before_row |= before && TRIGGER_FOR_DELETE(trigger->tgtype);
		triggers->trig_delete_after_row |= after && TRIGGER_FOR_DELETE(trigger->tgtype);
	}
	if (!any)
		rri->ri_TrigDesc = NULL;
}

/*
 * Look the functions of the triggers up now: the executor would do it when it first calls one, and what a function
 * caches then would go with the memory of that row.
 */
static void
prepare_triggers(ResultRelInfo *rri)
{
	TriggerDesc *triggers = rri->ri_TrigDesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (triggers->triggers[i].tgenabled != TRIGGER_DISABLED && TRIGGER_FOR_BEFORE(triggers->triggers[i].tgtype))
			fmgr_info(triggers->triggers[i].tgfoid, &rri->ri_TrigFunctions[i]);
}

static void
pin(DwTarget *target)
{
	if (target->pinned)
		return;
	target->pinned = true;
	dw_owner_pin(target->scope);
}

/* Once for each leaf: its triggers, and whether writing a row of it runs code of users. */
void
dw_leaf_prepare(DwTarget *target, DwLeaf *leaf)
{
	MemoryContext old;

	if (leaf->prepared)
		return;
	old = MemoryContextSwitchTo(target->lookup->context);
	filter_triggers(leaf->rri, checks_at_once(target->flow), DW_FLOW_IN_PLACE(target->flow));
	prepare_triggers(leaf->rri);
	leaf->actions = dw_actions_of(leaf->rel);
	leaf->prepared = true;
	if (target->lookup->partitioned && dw_relation_runs_user_code(leaf->rel))
		pin(target);
	MemoryContextSwitchTo(old);
}

/* The indexes of a leaf that has been written before: what is known about them is kept, they only have to be opened. */
static void
reopen_indexes(DwLeaf *leaf)
{
	for (int i = 0; i < leaf->rri->ri_NumIndices; i++)
		leaf->rri->ri_IndexRelationDescs[i] = index_open(leaf->indexes[i], RowExclusiveLock);
}

static void
open_indexes(DwTarget *target, DwLeaf *leaf)
{
	MemoryContext old = MemoryContextSwitchTo(target->lookup->context);

	ExecOpenIndices(leaf->rri, true);
	leaf->indexes = palloc(sizeof(Oid) * Max(leaf->rri->ri_NumIndices, 1));
	for (int i = 0; i < leaf->rri->ri_NumIndices; i++)
		leaf->indexes[i] = RelationGetRelid(leaf->rri->ri_IndexRelationDescs[i]);
	if (dw_indexes_run_user_code(leaf->rri))
		pin(target);
	MemoryContextSwitchTo(old);
}

void
dw_leaf_open_for_write(DwTarget *target, DwLeaf *leaf)
{
	dw_leaf_prepare(target, leaf);
	if (leaf->writable)
		return;
	if (leaf->indexes != NULL)
		reopen_indexes(leaf);
	else
		open_indexes(target, leaf);
	leaf->writable = true;
}

void
dw_fill_defaults(DwTarget *target, TupleTableSlot *row)
{
	DirectTarget *direct = target->private;
	ExprContext *econtext = GetPerTupleExprContext(target->lookup->estate);

	for (int i = 0; i < row->tts_tupleDescriptor->natts; i++)
		if (direct->defaults[i] != NULL)
			row->tts_values[i] = ExecEvalExprSwitchContext(direct->defaults[i], econtext, &row->tts_isnull[i]);
}

static void
suppressed(DwLeaf *leaf)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("a BEFORE trigger of table \"%s\" suppressed a mirrored row", RelationGetRelationName(leaf->rel)),
			 errhint("Enable that trigger for ORIGIN only, so that mirrored writes do not fire it.")));
}

void
dw_leaf_check_row(DwTarget *target, DwLeaf *leaf, TupleTableSlot *row)
{
	EState	   *estate = target->lookup->estate;
	TupleConstr *constr = RelationGetDescr(leaf->rel)->constr;

	row->tts_tableOid = leaf->relid;
	if (constr != NULL && constr->has_generated_stored)
		ExecComputeStoredGenerated(leaf->rri, estate, row, CMD_INSERT);
	if (constr != NULL)
		ExecConstraints(leaf->rri, row, estate);
}

/* BEFORE triggers may change anything, the partition too, which a mirrored row must not. */
static void
check_partition(DwTarget *target, DwLeaf *leaf, TupleTableSlot *row)
{
	if (target->lookup->partitioned)
		(void) ExecPartitionCheck(leaf->rri, row, target->lookup->estate, true);
}

/* Insert, noticing another insert of the same key; false: there was one, look again. */
static bool
insert_speculatively(DwTarget *target, DwLeaf *leaf, TupleTableSlot *row)
{
	EState	   *estate = target->lookup->estate;
	uint32		token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
	bool		conflict = false;
	List	   *recheck;

	table_tuple_insert_speculative(leaf->rel, row, GetCurrentCommandId(true), 0, NULL, token);
	recheck = dw_insert_index_entries(leaf->rri, row, estate, false, true, &conflict,
									  list_make1_oid(RelationGetRelid(leaf->index)), DW_ALL_INDEXES);
	table_tuple_complete_speculative(leaf->rel, row, token, !conflict);
	SpeculativeInsertionLockRelease(GetCurrentTransactionId());
	if (!conflict)
		ExecARInsertTriggers(estate, leaf->rri, row, recheck, NULL);
	list_free(recheck);
	return !conflict;
}

static void
insert_plainly(DwTarget *target, DwLeaf *leaf, TupleTableSlot *row)
{
	EState	   *estate = target->lookup->estate;
	List	   *recheck = NIL;

	table_tuple_insert(leaf->rel, row, GetCurrentCommandId(true), 0, NULL);
	if (leaf->rri->ri_NumIndices > 0)
		recheck = dw_insert_index_entries(leaf->rri, row, estate, false, false, NULL, NIL, DW_ALL_INDEXES);
	ExecARInsertTriggers(estate, leaf->rri, row, recheck, NULL);
	list_free(recheck);
}

/* false: another row of this key appeared meanwhile. */
static bool
insert_row(DwTarget *target, TupleTableSlot *root_row)
{
	DirectTarget *direct = target->private;
	EState	   *estate = target->lookup->estate;
	DwLeaf	   *leaf;
	TupleTableSlot *row;

	dw_fill_defaults(target, root_row);
	leaf = dw_lookup_leaf_for(target->lookup, root_row, true);
	dw_leaf_open_for_write(target, leaf);
	row = dw_leaf_layout(leaf, root_row);
	if (leaf->rri->ri_TrigDesc && leaf->rri->ri_TrigDesc->trig_insert_before_row)
	{
		row->tts_tableOid = leaf->relid;
		if (!ExecBRInsertTriggers(estate, leaf->rri, row))
			suppressed(leaf);
		check_partition(target, leaf, row);
	}
	dw_leaf_check_row(target, leaf, row);
	if (direct->speculative)
		return insert_speculatively(target, leaf, row);
	insert_plainly(target, leaf, row);
	return true;
}

/* What became of an attempt to change the version that the look-up found. */
typedef enum Attempt
{
	ATTEMPT_DONE,
	ATTEMPT_AGAIN,				/* look it up again */
	ATTEMPT_BUSY
} Attempt;

static Attempt
attempt_from_result(TM_Result result)
{
	switch (result)
	{
		case TM_Ok:
			return ATTEMPT_DONE;
		case TM_BeingModified:
		case TM_WouldBlock:
			return ATTEMPT_BUSY;
		case TM_SelfModified:
			/* an earlier event of this command wrote it: our next command may write it again */
			CommandCounterIncrement();
			return ATTEMPT_AGAIN;
		default:
			return ATTEMPT_AGAIN;
	}
}

/*
 * The version found (leaf->slot) with the given columns replaced, in the leaf's write_slot; false when that changes
 * nothing.  columns and row in root layout.
 */
static bool
merge_row(DwLeaf *leaf, TupleTableSlot *root_row, const Bitmapset *columns)
{
	TupleTableSlot *merged = leaf->write_slot;
	int			natts = RelationGetNumberOfAttributes(leaf->rel);
	bool		changed = false;
	int			attno = -1;

	slot_getallattrs(leaf->slot);
	ExecClearTuple(merged);
	memcpy(merged->tts_values, leaf->slot->tts_values, natts * sizeof(Datum));
	memcpy(merged->tts_isnull, leaf->slot->tts_isnull, natts * sizeof(bool));
	while ((attno = bms_next_member(columns, attno)) >= 0)
	{
		int			i = (leaf->to_root ? leaf->to_root->attnums[attno - 1] : attno) - 1;
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(leaf->rel), i);
		bool		isnull = root_row->tts_isnull[attno - 1];
		Datum		value = root_row->tts_values[attno - 1];

		changed = changed || merged->tts_isnull[i] != isnull ||
			(!isnull && !datum_image_eq(merged->tts_values[i], value, att->attbyval, att->attlen));
		merged->tts_values[i] = value;
		merged->tts_isnull[i] = isnull;
	}
	ExecStoreVirtualTuple(merged);
	return changed;
}

/*
 * Hold the version found before BEFORE triggers see it.  Otherwise they would wait for another writer of it, go on with
 * his version (which wants a plan to check it against, and there is none) or, under REPEATABLE READ, give up.
 */
static Attempt
hold_version(DwTarget *target, DwLeaf *leaf, ItemPointer tid, LockTupleMode mode)
{
	TM_FailureData failure;
	TM_Result	result;

	PushActiveSnapshot(GetLatestSnapshot());
	result = table_tuple_lock(leaf->rel, tid, GetActiveSnapshot(), leaf->slot, GetCurrentCommandId(false),
							  mode, target->wait ? LockWaitBlock : LockWaitSkip, 0, &failure);
	PopActiveSnapshot();
	return attempt_from_result(result);
}

static Attempt
before_update(DwTarget *target, DwLeaf *leaf, ItemPointer tid, TupleTableSlot *row)
{
	EState	   *estate = target->lookup->estate;
	EPQState	epq;
	Attempt		held = hold_version(target, leaf, tid, LockTupleExclusive);

	if (held != ATTEMPT_DONE)
		return held;
	estate->es_output_cid = GetCurrentCommandId(true);
	estate->es_snapshot = GetActiveSnapshot();
	memset(&epq, 0, sizeof(epq));
	if (!dw_before_update_triggers(estate, &epq, leaf->rri, tid, row))
		suppressed(leaf);
	check_partition(target, leaf, row);
	return ATTEMPT_DONE;
}

static Attempt
before_delete(DwTarget *target, DwLeaf *leaf, ItemPointer tid)
{
	EState	   *estate = target->lookup->estate;
	EPQState	epq;
	Attempt		held = hold_version(target, leaf, tid, LockTupleExclusive);

	if (held != ATTEMPT_DONE)
		return held;
	estate->es_output_cid = GetCurrentCommandId(true);
	estate->es_snapshot = GetActiveSnapshot();
	memset(&epq, 0, sizeof(epq));
	if (!dw_before_delete_triggers(estate, &epq, leaf->rri, tid))
		suppressed(leaf);
	return ATTEMPT_DONE;
}

/*
 * May the write wait?  Where we have locked the row ourselves it never has to, but without leave to wait the heap takes
 * any lock for somebody else's.
 */
static bool
may_wait(DwTarget *target, DwLeaf *leaf)
{
	HeapTuple	tuple;
	bool		should_free;
	bool		ours;

	if (target->wait)
		return true;
	tuple = ExecFetchSlotHeapTuple(leaf->slot, false, &should_free);
	ours = (tuple->t_data->t_infomask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) == 0 &&
		HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_data->t_infomask) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmax(tuple->t_data));
	if (should_free)
		heap_freetuple(tuple);
	return ours;
}

/* As strong a lock as the heap is going to take for this new version of the leaf's row. */
static LockTupleMode
lock_mode_of(DwLeaf *leaf)
{
	Bitmapset  *keys = RelationGetIndexAttrBitmap(leaf->rel, INDEX_ATTR_BITMAP_KEY);
	LockTupleMode mode = LockTupleNoKeyExclusive;
	int			member = -1;

	slot_getallattrs(leaf->slot);
	while ((member = bms_next_member(keys, member)) >= 0)
	{
		int			i = member + FirstLowInvalidHeapAttributeNumber - 1;
		Form_pg_attribute att;

		if (i < 0)
			continue;
		att = TupleDescAttr(RelationGetDescr(leaf->rel), i);
		if (leaf->slot->tts_isnull[i] != leaf->write_slot->tts_isnull[i] ||
			(!leaf->slot->tts_isnull[i] &&
			 !datum_image_eq(leaf->slot->tts_values[i], leaf->write_slot->tts_values[i], att->attbyval, att->attlen)))
			mode = LockTupleExclusive;
	}
	bms_free(keys);
	return mode;
}

/*
 * Without leave to wait a row has to be held before it is written: the heap knows no write that gives up.  A foreign key's lock on
 * it is in nobody's way where the key stays.
 */
static Attempt
hold_unless_ours(DwTarget *target, DwLeaf *leaf, ItemPointer tid, bool deletes)
{
	LockTupleMode mode;

	if (may_wait(target, leaf))
		return ATTEMPT_DONE;
	if (deletes)
		return hold_version(target, leaf, tid, LockTupleExclusive);
	mode = lock_mode_of(leaf);
	/* the version is read again, into where the new one has its values from */
	ExecMaterializeSlot(leaf->write_slot);
	return hold_version(target, leaf, tid, mode);
}

/* The write whose actions are going on, NULL when none are, and the depth at which triggers see what these do. */
static DwTarget *cascading = NULL;
static int	cascading_depth = 0;

bool
dw_target_cascading(DwDirection direction, bool *wait)
{
	/* what triggers of the application do meanwhile is deeper */
	if (cascading == NULL || cascading->flow->direction != direction || dw_trigger_depth() != cascading_depth)
		return false;
	*wait = cascading->wait;
	return true;
}

/*
 * The triggers that were queued since AfterTriggerBeginQuery, as user.  A foreign key's checks of what its action has written may
 * be deferred, which the server refuses in a security-restricted operation.  So this is done as when the writer had fired the action
 * himself, who would meet the same triggers on his own table; but not where those are of others than its owner, nor where
 * nobody writes: what is deferred fires as whoever commits, and he may be a superuser who repairs.
 */
static void
end_actions(DwTarget *target, const DwActions *actions, Oid user)
{
	Oid			saved_user;
	int			saved_context;
	int			context;

	GetUserIdAndSecContext(&saved_user, &saved_context);
	context = saved_context;
	if (MyBackendType != B_BG_WORKER && dw_trigger_depth() > 0 && !actions->code)
		context &= ~(SECURITY_RESTRICTED_OPERATION & ~target->scope->saved_context);
	SetUserIdAndSecContext(user, context);
	AfterTriggerEndQuery(NULL);
	SetUserIdAndSecContext(saved_user, saved_context);
}

/* Those actions of a row that are done as this user. */
static void
fire_actions_as(DwTarget *target, DwLeaf *leaf, ItemPointer tid, TupleTableSlot *row, Oid user)
{
	DwActions  *actions = leaf->actions;
	TriggerDesc *others = leaf->rri->ri_TrigDesc;

	for (int i = 0; i < actions->triggers->numtriggers; i++)
		if (OidIsValid(actions->users[i]))
			actions->triggers->triggers[i].tgenabled = actions->users[i] == user ? TRIGGER_FIRES_ALWAYS : TRIGGER_DISABLED;
	AfterTriggerBeginQuery();
	leaf->rri->ri_TrigDesc = actions->triggers;
	if (row != NULL)
		ExecARUpdateTriggers(target->lookup->estate, leaf->rri, NULL, NULL, tid, NULL, row, NIL, NULL, false);
	else
		ExecARDeleteTriggers(target->lookup->estate, leaf->rri, tid, NULL, NULL, false);
	leaf->rri->ri_TrigDesc = others;
	end_actions(target, actions, user);
}

/* All of them, those of one user after the other's. */
static void
fire_actions_by_user(DwTarget *target, DwLeaf *leaf, ItemPointer tid, TupleTableSlot *row)
{
	List	   *done = NIL;

	for (int i = 0; i < leaf->actions->triggers->numtriggers; i++)
	{
		Oid			user = leaf->actions->users[i];

		if (!OidIsValid(user) || list_member_oid(done, user))
			continue;
		done = lappend_oid(done, user);
		fire_actions_as(target, leaf, tid, row, user);
	}
	list_free(done);
}

/*
 * What foreign keys do to the rows that reference this one is done at once.  Left to the end of the statement, when keys
 * may have been given to other rows (a shift), it would hit those rows' children.  row: NULL for a delete.
 */
static void
fire_actions(DwTarget *target, DwLeaf *leaf, ItemPointer tid, TupleTableSlot *row)
{
	DwTarget   *outer = cascading;
	int			outer_depth = cascading_depth;

	if (leaf->actions == NULL)
		return;
	dw_actions_look_up(leaf->actions, target->flow->target_owner);
	cascading = target;
	cascading_depth = dw_trigger_depth() + 1;
	PG_TRY();
	{
		fire_actions_by_user(target, leaf, tid, row);
	}
	PG_FINALLY();
	{
		cascading = outer;
		cascading_depth = outer_depth;
	}
	PG_END_TRY();
}

/* A version that this very command has stored is not there yet for the heap, which would raise an error: begin the next one. */
static void
step_past_own(DwLeaf *leaf)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(leaf->slot, false, &should_free);

	if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)) &&
		HeapTupleHeaderGetCmin(tuple->t_data) >= GetCurrentCommandId(false))
		CommandCounterIncrement();
	if (should_free)
		heap_freetuple(tuple);
}

/* Store the leaf's write_slot over the version found. */
static Attempt
update_row(DwTarget *target, DwLeaf *leaf)
{
	EState	   *estate = target->lookup->estate;
	ItemPointerData tid = leaf->slot->tts_tid;
	TupleTableSlot *row = leaf->write_slot;
	TM_FailureData failure;
	LockTupleMode lockmode;
	DwIndexUpdate indexes = DW_NO_INDEXES;
	TM_Result	result;
	List	   *recheck = NIL;

	dw_leaf_open_for_write(target, leaf);
	step_past_own(leaf);
	if (leaf->rri->ri_TrigDesc && leaf->rri->ri_TrigDesc->trig_update_before_row)
	{
		Attempt		before = before_update(target, leaf, &tid, row);

		if (before != ATTEMPT_DONE)
			return before;
	}
	else
	{
		Attempt		held = hold_unless_ours(target, leaf, &tid, false);

		if (held != ATTEMPT_DONE)
			return held;
	}
	dw_leaf_check_row(target, leaf, row);
	result = table_tuple_update(leaf->rel, &tid, row, GetCurrentCommandId(true), GetActiveSnapshot(), InvalidSnapshot,
								true, &failure, &lockmode, &indexes);
	if (result != TM_Ok)
		return attempt_from_result(result);
	if (leaf->rri->ri_NumIndices > 0 && indexes != DW_NO_INDEXES)
		recheck = dw_insert_index_entries(leaf->rri, row, estate, true, false, NULL, NIL, indexes);
	ExecARUpdateTriggers(estate, leaf->rri, NULL, NULL, &tid, NULL, row, recheck, NULL, false);
	list_free(recheck);
	fire_actions(target, leaf, &tid, row);
	return ATTEMPT_DONE;
}

static Attempt
delete_row(DwTarget *target, DwLeaf *leaf)
{
	EState	   *estate = target->lookup->estate;
	ItemPointerData tid = leaf->slot->tts_tid;
	TM_FailureData failure;
	TM_Result	result;

	dw_leaf_prepare(target, leaf);
	step_past_own(leaf);
	if (leaf->rri->ri_TrigDesc && leaf->rri->ri_TrigDesc->trig_delete_before_row)
	{
		Attempt		before = before_delete(target, leaf, &tid);

		if (before != ATTEMPT_DONE)
			return before;
	}
	else
	{
		Attempt		held = hold_unless_ours(target, leaf, &tid, true);

		if (held != ATTEMPT_DONE)
			return held;
	}
	result = table_tuple_delete(leaf->rel, &tid, GetCurrentCommandId(true), GetActiveSnapshot(), InvalidSnapshot,
								true, &failure, false);
	if (result != TM_Ok)
		return attempt_from_result(result);
	ExecARDeleteTriggers(estate, leaf->rri, &tid, NULL, NULL, false);
	fire_actions(target, leaf, &tid, NULL);
	return ATTEMPT_DONE;
}

static void
key_of_row(DwTarget *target, TupleTableSlot *row, DwKey *key)
{
	const DwKeyShape *shape = target->flow->target_key;

	for (int i = 0; i < shape->ncolumns; i++)
	{
		if (row->tts_isnull[shape->columns[i] - 1])
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("null value in key column \"%s\" of relation \"%s\"",
							NameStr(TupleDescAttr(row->tts_tupleDescriptor, shape->columns[i] - 1)->attname),
							RelationGetRelationName(target->lookup->root)),
					 errhint("The mapping must give every key column a value.")));
		key->values[i] = row->tts_values[shape->columns[i] - 1];
	}
}

static void
release_found(DwLeaf *leaf)
{
	ExecClearTuple(leaf->write_slot);
	ExecClearTuple(leaf->slot);
}

/* Replace columns of the row with this key by those of row. */
static DwApplied
update_found(DwTarget *target, DwLeaf *leaf, TupleTableSlot *row, const Bitmapset *columns, bool *again)
{
	DwApplied	applied = DW_APPLIED_UPDATE;

	*again = false;
	if (!merge_row(leaf, row, columns) && target->quiet_unchanged)
		applied = DW_APPLIED_NOTHING;
	else
	{
		Attempt		attempt = update_row(target, leaf);

		*again = attempt == ATTEMPT_AGAIN;
		if (attempt == ATTEMPT_BUSY)
			applied = DW_APPLIED_BUSY;
	}
	release_found(leaf);
	return applied;
}

/* Columns that an update writes: in place also those which are filled once and have nothing yet. */
static const Bitmapset *
updated_columns(DwTarget *target, DwLeaf *leaf)
{
	DwFlow	   *flow = target->flow;
	Bitmapset  *columns;
	int			attno = -1;

	if (!DW_FLOW_IN_PLACE(flow) || bms_equal(flow->mapped, flow->inserted))
		return flow->mapped;
	columns = bms_copy(flow->mapped);
	while (flow->direction == DW_FORWARD && (attno = bms_next_member(flow->inserted, attno)) >= 0)
		if (slot_attisnull(leaf->slot, leaf->to_root ? leaf->to_root->attnums[attno - 1] : attno))
			columns = bms_add_member(columns, attno);
	return columns;
}

/*
 * Where source and target are one row: write what was made of this version of it (a copy, in the layout of its leaf) into the row, if it
 * is still this version and nobody is at it.
 */
DwApplied
dw_direct_rewrite(DwTarget *target, TupleTableSlot *version, TupleTableSlot *row)
{
	DwLeaf	   *leaf = dw_lookup_leaf(target->lookup, version->tts_tableOid);
	bool		again;
	DwApplied	applied;

	ExecCopySlot(leaf->slot, version);
	leaf->slot->tts_tid = version->tts_tid;
	applied = update_found(target, leaf, row, updated_columns(target, leaf), &again);
	return again ? DW_APPLIED_BUSY : applied;
}

static DwApplied
direct_put(DwTarget *target, TupleTableSlot *row, TupleTableSlot *made_of)
{
	DwKey		key;

	key_of_row(target, row, &key);
	for (;;)
	{
		DwLeaf	   *leaf;
		DwFind		find = dw_lookup_newest(target->lookup, &key, target->wait, false, &leaf);

		if (find == DW_FIND_BUSY)
			return DW_APPLIED_BUSY;
		if (find == DW_FIND_FOUND)
		{
			bool		again;
			DwApplied	applied = update_found(target, leaf, row, updated_columns(target, leaf), &again);

			if (!again)
				return applied;
		}
		else if (!target->flow->owns_target || DW_FLOW_IN_PLACE(target->flow))
			return DW_APPLIED_NOTHING;
		else
		{
			/* once: what is for inserts only may take a number from a sequence */
			if (made_of != NULL)
				(void) dw_project(target->flow, made_of, row, NULL);
			made_of = NULL;
			if (insert_row(target, row))
				return DW_APPLIED_INSERT;
		}
	}
}

/* The mapped columns of a row that another mapping owns go back to what they are without this one. */
static void
defaults_of_mapped(DwTarget *target, TupleTableSlot *row)
{
	DirectTarget *direct = target->private;
	Relation	rel = target->lookup->root;
	ExprContext *econtext = GetPerTupleExprContext(target->lookup->estate);
	int			attno = -1;

	if (direct->column_defaults == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(target->lookup->context);

		direct->column_defaults = palloc0(sizeof(ExprState *) * RelationGetNumberOfAttributes(rel));
		while ((attno = bms_next_member(target->flow->mapped, attno)) >= 0)
			direct->column_defaults[attno - 1] = compile_default(rel, attno);
		MemoryContextSwitchTo(old);
	}
	ExecClearTuple(row);
	memset(row->tts_isnull, true, row->tts_tupleDescriptor->natts * sizeof(bool));
	attno = -1;
	while ((attno = bms_next_member(target->flow->mapped, attno)) >= 0)
		if (direct->column_defaults[attno - 1] != NULL)
			row->tts_values[attno - 1] = ExecEvalExprSwitchContext(direct->column_defaults[attno - 1], econtext,
																   &row->tts_isnull[attno - 1]);
	ExecStoreVirtualTuple(row);
}

/* Mapped columns that are not of the key. */
static Bitmapset *
mapped_beside_key(DwTarget *target)
{
	const DwKeyShape *shape = target->flow->target_key;
	Bitmapset  *columns = bms_copy(target->flow->mapped);

	for (int i = 0; i < shape->ncolumns; i++)
		columns = bms_del_member(columns, shape->columns[i]);
	return columns;
}

static DwApplied
direct_remove(DwTarget *target, const DwKey *key)
{
	for (;;)
	{
		DwLeaf	   *leaf;
		DwFind		find = dw_lookup_newest(target->lookup, key, target->wait, true, &leaf);
		Attempt		attempt;

		if (find == DW_FIND_BUSY)
			return DW_APPLIED_BUSY;
		if (find == DW_FIND_NONE)
			return DW_APPLIED_NOTHING;
		if (!target->flow->owns_target)
		{
			bool		again;
			DwApplied	applied;

			defaults_of_mapped(target, target->row);
			applied = update_found(target, leaf, target->row, mapped_beside_key(target), &again);
			if (!again)
				return applied;
			continue;
		}
		attempt = delete_row(target, leaf);
		release_found(leaf);
		if (attempt == ATTEMPT_DONE)
			return DW_APPLIED_DELETE;
		if (attempt == ATTEMPT_BUSY)
			return DW_APPLIED_BUSY;
	}
}

/* The row found moves to another leaf: what the mapping does not write goes with it. */
static DwApplied
move_between_leaves(DwTarget *target, DwLeaf *from, TupleTableSlot *row)
{
	TupleTableSlot *old_row = dw_leaf_row(target->lookup, from);
	int			natts = row->tts_tupleDescriptor->natts;
	DwLeaf	   *to;
	TupleTableSlot *moved;

	slot_getallattrs(old_row);
	for (int i = 0; i < natts; i++)
		if (!bms_is_member(i + 1, target->flow->mapped))
		{
			row->tts_values[i] = old_row->tts_values[i];
			row->tts_isnull[i] = old_row->tts_isnull[i];
		}
	/* the old version stays pinned by from->slot until the new one is stored */
	if (delete_row(target, from) != ATTEMPT_DONE)
		return DW_APPLIED_NOTHING;
	to = dw_lookup_leaf_for(target->lookup, row, true);
	dw_leaf_open_for_write(target, to);
	moved = dw_leaf_layout(to, row);
	dw_leaf_check_row(target, to, moved);
	insert_plainly(target, to, moved);
	release_found(from);
	return DW_APPLIED_UPDATE;
}

static DwApplied
direct_move(DwTarget *target, const DwKey *from, TupleTableSlot *row)
{
	DwKey		key;
	DwLeaf	   *leaf;
	DwLeaf	   *taken;
	DwFind		find;
	DwApplied	applied;
	bool		again;

	key_of_row(target, row, &key);
	find = dw_lookup_newest(target->lookup, &key, target->wait, true, &taken);
	if (find == DW_FIND_BUSY)
		return DW_APPLIED_BUSY;
	if (find == DW_FIND_FOUND)
	{
		ExecClearTuple(taken->slot);
		return DW_APPLIED_NOTHING;
	}
	find = dw_lookup_newest(target->lookup, from, target->wait, true, &leaf);
	if (find == DW_FIND_BUSY)
		return DW_APPLIED_BUSY;
	if (find == DW_FIND_NONE)
		return DW_APPLIED_NOTHING;
	if (target->lookup->partitioned && dw_lookup_leaf_for(target->lookup, row, true) != leaf)
		return move_between_leaves(target, leaf, row);
	applied = update_found(target, leaf, row, target->flow->mapped, &again);
	return again ? DW_APPLIED_NOTHING : applied;
}

static TupleTableSlot *
direct_fetch(DwTarget *target, const DwKey *key, Snapshot snapshot)
{
	DwLeaf	   *leaf;

	if (snapshot != NULL)
		return dw_lookup_visible(target->lookup, key, snapshot, &leaf) ? dw_leaf_row(target->lookup, leaf) : NULL;
	if (dw_lookup_newest(target->lookup, key, target->wait, true, &leaf) != DW_FIND_FOUND)
		return NULL;
	return dw_leaf_row(target->lookup, leaf);
}

const DwEngine dw_direct_engine = {
	.open = direct_open,
	.close = direct_close,
	.put = direct_put,
	.remove = direct_remove,
	.move = direct_move,
	.fetch = direct_fetch
};
