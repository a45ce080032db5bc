/*
 * mirror.c: a row event on one side, made on the other in the same transaction.
 *
 * The fast path writes what the trigger's row images say.  Where an image may not be the last word (the row was written
 * again since, its key changed, it moved between partitions) the keys concerned are converged on the newest version
 * instead.  Where an error must not reach the application (shadow, mirror_on_error = queue, children of rows that are
 * still to be backfilled) keys are postponed to the end of the statement (postpone.c).
 *
 * Nothing here reads the extension's tables, and nothing here may be skipped because the session is a replica or a
 * subscriber: the triggers are ALWAYS.
 */
#include "postgres.h"

#include "absorb.h"
#include "cascade.h"
#include "execution.h"
#include "gather.h"
#include "inserts.h"
#include "mirror.h"
#include "nesting.h"
#include "pending.h"
#include "postpone.h"
#include "propagate.h"
#include "queue.h"
#include "statement.h"
#include "stats.h"
#include "violation.h"

#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"

/* Keys that a statement puts off before they are settled without waiting for its end, each some 100 bytes. */
#define MAX_POSTPONED	100000
#define MAX_MOVES		100000

/* Rows that a statement writes one by one, as most statements end there; further ones may be gathered. */
#define MAX_SINGLE		3
/* How often gathered rows may have to be written early, before gathering is given up in a statement. */
#define MAX_INTERRUPTED	8
/* Of many rows, one in so many is timed. */
#define SAMPLED_AFTER	64
#define SAMPLE			16

static void
xact_callback(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		dw_nesting_set(0);
}

/* Values of key columns of a row; the key columns of a source are NOT NULL. */
static void
source_key_of(DwFlow *flow, TupleTableSlot *row, DwKey *key)
{
	if (!dw_key_of_row(flow->source_key, row, key))
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("null value in a key column of \"%s\"", get_rel_name(flow->source)),
				 errhint("Migration \"%s\" needs the key columns of both sides to be NOT NULL.", flow->compiled->migration)));
}

/* Values that were not written are still the same bytes, wherever they are stored. */
static bool
same_value(Form_pg_attribute att, Datum a, Datum b)
{
	if (!att->attbyval && att->attlen == -1)
	{
		Size		size = VARSIZE_ANY(DatumGetPointer(a));

		if (size == VARSIZE_ANY(DatumGetPointer(b)) && memcmp(DatumGetPointer(a), DatumGetPointer(b), size) == 0)
			return true;
	}
	return datum_image_eq(a, b, att->attbyval, att->attlen);
}

/* Are two rows of the source the same in everything that the mapping makes use of? */
static bool
same_source(DwFlow *flow, TupleTableSlot *a, TupleTableSlot *b)
{
	int			attno = -1;

	while ((attno = bms_next_member(flow->used, attno)) >= 0)
	{
		bool		a_null;
		bool		b_null;
		Datum		a_value = slot_getattr(a, attno, &a_null);
		Datum		b_value = slot_getattr(b, attno, &b_null);

		if (a_null != b_null ||
			(!a_null && !same_value(TupleDescAttr(flow->source_desc, attno - 1), a_value, b_value)))
			return false;
	}
	return true;
}

/* The source row of this key has no counterpart (any more). */
static DwCounter
mirror_removal(DwStatement *statement, DwFlow *flow, const DwKey *source_key, bool truncated)
{
	DwKey		target_key;
	DwApplied	applied;

	if (!truncated && dw_statement_shares_target(flow))
		/* it may be another mapping's row by now, which converging finds out */
		return dw_propagate_key(statement, flow, source_key);
	if (!dw_key_across(flow, source_key, &target_key))
		return DW_COUNT_SKIPPED;
	applied = dw_target_remove(dw_statement_target(statement, flow), &target_key);
	if (applied != DW_APPLIED_NOTHING)
		dw_propagate_followers(statement, flow, source_key);
	return dw_counter_for(applied);
}

/* A row appears under a key that was computed: nobody else's, we hope. */
static void
check_new_key(DwFlow *flow, const DwKey *source_key, TupleTableSlot *target_row)
{
	DwKey		target_key;

	if (dw_key_of_row(flow->target_key, target_row, &target_key))
		dw_key_must_return(flow, source_key, &target_key);
}

/* The new image, which is or is not the mapping's, becomes the target's row. */
static DwCounter
mirror_image(DwStatement *statement, DwFlow *flow, const DwKey *source_key, TupleTableSlot *row, bool is_new)
{
	DwTarget   *target = dw_statement_target(statement, flow);
	DwApplied	applied;
	bool		in_mapping;

	if (dw_pending_includes(statement, flow, source_key))
		return DW_COUNT_SKIPPED;
	in_mapping = is_new ? dw_project(flow, row, target->row, NULL) : dw_project_mapped(flow, row, target->row, NULL);
	if (!in_mapping)
		return mirror_removal(statement, flow, source_key, false);
	if (is_new && flow->compiled->computed_key)
		check_new_key(flow, source_key, target->row);
	if (statement->gathering != NULL)
	{
		dw_gather_insert(statement, statement->gathering, target->row);
		return DW_COUNT_LATER;
	}
	applied = is_new ? dw_target_put(target, target->row) : dw_target_put_mapped(target, target->row, row);
	if (applied == DW_APPLIED_INSERT)
		dw_propagate_fillers(statement, flow, source_key);
	if (applied != DW_APPLIED_NOTHING)
		dw_propagate_followers(statement, flow, source_key);
	return dw_counter_for(applied);
}

/* Do several mappings lead to the source of this flow, a new table? */
static bool
shares_new_table(const DwFlow *reverse)
{
	Relation	rel = table_open(reverse->source, AccessShareLock);
	bool		result = list_length(dw_table_get(rel)->as_new) > 1;

	table_close(rel, NoLock);
	return result;
}

/*
 * From read_switch on: is the new row's counterpart a row of the mapping, by its filter?  A new table that several mappings lead to
 * may hold such rows for another one.
 */
static bool
is_outside(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	DwKey		target_key;
	TupleTableSlot *row;

	if (flow->direction != DW_REVERSE || flow->compiled->mapping->filter == NULL || shares_new_table(flow) ||
		dw_pending_includes(statement, flow, source_key) || !dw_key_across(flow, source_key, &target_key))
		return false;
	row = dw_target_fetch(dw_statement_target(statement, flow), &target_key, NULL);
	return row != NULL && !dw_in_mapping(&flow->compiled->flow[DW_FORWARD], row);
}

/* Only the old side has a row with this key: to write it over would lose it. */
static void
refuse_hidden(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	if (flow->owns_target && is_outside(statement, flow, source_key))
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("table %s has a row with this key already", flow->compiled->mapping->old_name),
				 errdetail("It does not match the filter of migration \"%s\", so that table %s does not show it.",
						   flow->compiled->migration, flow->compiled->mapping->new_name),
				 errhint("Give the row another key.")));
}

/* The new row has no place there: the next write of the old one would take it away. */
static void
refuse_outside(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	if (is_outside(statement, flow, source_key))
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("row of table %s does not match the filter of migration \"%s\" in table %s",
						flow->compiled->mapping->new_name, flow->compiled->migration, flow->compiled->mapping->old_name),
				 errhint("Until complete, table %s holds only rows that match it.", flow->compiled->mapping->new_name)));
}

/*
 * The row moves to another key.  That waits for the end of the statement, if somebody is going to tell us: then all moves
 * are known, so that swaps and shifts work, and whatever references the old key has been mirrored before it goes.
 */
static DwCounter
mirror_key_change(DwStatement *statement, DwFlow *flow, const DwRowEvent *event, const DwKey *from, const DwKey *to)
{
	refuse_hidden(statement, flow, to);
	dw_pending_move(statement, flow, from, to);
	dw_inserts_event(event->table->root);
	return DW_COUNT_UPDATE;
}

/*
 * A row may take what another one of the statement gives up that is going to move to another key at its end: it comes after that one, or
 * a constraint of the target would object to what the application did in another order.
 */
static bool
comes_after_moves(const DwStatement *statement, const DwFlow *flow)
{
	return flow->target_has_rivals && statement->moves.keys != NIL;
}

/*
 * Before the mapping is filled even an update of unmapped columns must make sure that there is a target row: it may carry
 * the source row past the backfill's block, and nobody would ever copy it.
 */
static bool
writes_only_changes(const DwFlow *flow)
{
	return flow->compiled->filled || flow->direction == DW_REVERSE;
}

/* Is it an update of columns that are not the mapping's?  Most are known to be without anything being opened. */
static bool
changes_nothing(DwFlow *flow, const DwRowEvent *event)
{
	return TRIGGER_FIRED_BY_UPDATE(event->event) && !event->stale && writes_only_changes(flow) &&
		same_source(flow, event->old_row, event->new_row);
}

static bool
images_equal(DwFlow *flow, TupleTableSlot *a, TupleTableSlot *b)
{
	int			attno = -1;

	while ((attno = bms_next_member(flow->mapped, attno)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(flow->target_desc, attno - 1);

		if (a->tts_isnull[attno - 1] != b->tts_isnull[attno - 1] ||
			(!a->tts_isnull[attno - 1] && !same_value(att, a->tts_values[attno - 1], b->tts_values[attno - 1])))
			return false;
	}
	return true;
}

/*
 * Do both rows of an update lead to the same target row?  Where the target writes nothing that is there already, it is as
 * well to leave that to it.
 */
static bool
changes_no_image(DwStatement *statement, DwFlow *flow, const DwRowEvent *event)
{
	DwTarget   *target = dw_statement_target(statement, flow);
	bool		was_in;
	bool		is_in;

	if (target->quiet_unchanged)
		return !dw_in_mapping(flow, event->old_row) && !dw_in_mapping(flow, event->new_row);
	was_in = dw_project_mapped(flow, event->old_row, target->old_row, NULL);
	is_in = dw_project_mapped(flow, event->new_row, target->row, NULL);
	return was_in == is_in && (!is_in || images_equal(flow, target->old_row, target->row));
}

static DwCounter
mirror_update(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const DwRowEvent *event)
{
	DwKey		before;

	source_key_of(flow, event->old_row, &before);
	if (!dw_pending_same_key(flow, &before, source_key))
		return mirror_key_change(statement, flow, event, &before, source_key);

	if (writes_only_changes(flow) && changes_no_image(statement, flow, event))
		return DW_COUNT_SKIPPED;
	if (comes_after_moves(statement, flow))
		return mirror_key_change(statement, flow, event, source_key, source_key);
	return mirror_image(statement, flow, source_key, event->new_row, false);
}

static DwCounter
mirror_delete(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const DwRowEvent *event)
{
	DwKey		target_key;

	if (event->moving)
	{
		(void) dw_statement_postpone(statement, &statement->moving, flow, source_key);
		return DW_COUNT_SKIPPED;
	}
	if (!dw_in_mapping(flow, event->old_row) || dw_pending_includes(statement, flow, source_key))
		return DW_COUNT_SKIPPED;
	if (statement->gathering != NULL)
	{
		if (!dw_key_across(flow, source_key, &target_key))
			return DW_COUNT_SKIPPED;
		dw_gather_delete(statement, statement->gathering, &target_key);
		return DW_COUNT_LATER;
	}
	return mirror_removal(statement, flow, source_key, event->truncated);
}

/* The other half of a move between partitions: take the oldest row of this mapping that is on its way. */
static bool
take_moving(DwStatement *statement, DwFlow *flow, DwKey *from)
{
	ListCell   *lc;

	foreach(lc, statement->moving.keys)
	{
		DwPostponed *moving = lfirst(lc);

		if (moving->mapping_id == flow->compiled->mapping_id && moving->direction == flow->direction)
		{
			dw_key_set(flow->source_key, moving->source_key, from);
			statement->moving.keys = foreach_delete_current(statement->moving.keys, lc);
			return true;
		}
	}
	return false;
}

static DwCounter
mirror_insert(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const DwRowEvent *event)
{
	DwKey		from;

	dw_inserts_event(event->table->root);
	if (statement->moving.keys != NIL && take_moving(statement, flow, &from))
	{
		DwCounter	counter = mirror_key_change(statement, flow, event, &from, source_key);

		dw_pending_free(&statement->moving);
		return counter;
	}
	if (comes_after_moves(statement, flow))
	{
		(void) mirror_key_change(statement, flow, event, source_key, source_key);
		return DW_COUNT_INSERT;
	}
	refuse_hidden(statement, flow, source_key);
	return mirror_image(statement, flow, source_key, event->new_row, true);
}

/*
 * The images are history: the key is converged on what is there now.  One that changed is moved all the same: the new row of the
 * target would not have what only the target has, and rows that reference the old one would miss it for a while.
 */
static DwCounter
mirror_stale(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const DwRowEvent *event)
{
	DwKey		before;

	if (event->new_row != NULL && event->old_row != NULL)
	{
		source_key_of(flow, event->old_row, &before);
		if (!dw_pending_same_key(flow, &before, source_key))
			return mirror_key_change(statement, flow, event, &before, source_key);
	}
	return dw_pending_includes(statement, flow, source_key) ? DW_COUNT_SKIPPED : dw_propagate_key(statement, flow, source_key);
}

/*
 * Where a forward mirror that fails is queued, the old row may hold a write that the new one has not: a writer of the new row, who
 * has not seen it, would write it over.  Asked once the old row is ours, so that whoever queues the key has ended or comes later.
 */
static void
refuse_to_overtake(DwFlow *flow, TupleTableSlot *row)
{
	DwKey		key;
	Jsonb	   *json;

	if (row == NULL)
		return;
	source_key_of(flow, row, &key);
	json = dw_key_to_jsonb(flow->compiled, &key);
	if (dw_queue_opposes(flow, json))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a write of table %s to this row has not reached table %s yet", flow->compiled->mapping->old_name,
						flow->compiled->mapping->new_name),
				 errdetail("To write the new row now would lose it."),
				 errhint("See dualwrite.queue and dualwrite.dead_letters for what is in its way, and try again.")));
}

/* source_key: that of the new row, where there is one. */
static DwCounter
mirror_event(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const void *arg)
{
	const DwRowEvent *event = arg;
	DwCounter	counter;

	if (event->stale)
		counter = mirror_stale(statement, flow, source_key, event);
	else if (TRIGGER_FIRED_BY_INSERT(event->event))
		counter = mirror_insert(statement, flow, source_key, event);
	else if (TRIGGER_FIRED_BY_UPDATE(event->event))
		counter = mirror_update(statement, flow, source_key, event);
	else
		counter = mirror_delete(statement, flow, source_key, event);
	if (event->new_row != NULL)
		refuse_outside(statement, flow, source_key);
	if (flow->direction == DW_REVERSE && flow->compiled->queue_errors)
	{
		refuse_to_overtake(flow, event->old_row);
		refuse_to_overtake(flow, event->new_row);
	}
	return counter;
}

/* The key for rows that were written together: the key of the one that failed, if that is known. */
static char *
describe_gathered(DwGather *gather)
{
	DwFlow	   *flow = dw_gather_flow(gather);
	DwKey		target_key;
	DwKey		key;

	if (!dw_gather_key_at_fault(gather, &target_key))
		return "not known, one of several";
	key = target_key;
	if (flow->direction == DW_REVERSE &&
		(dw_key_may_fail(&flow->compiled->flow[DW_FORWARD]) || !dw_key_of_old(flow->compiled, &target_key, &key)))
		return "unknown";
	return JsonbToCString(NULL, &dw_key_to_jsonb(flow->compiled, &key)->root, 0);
}

/*
 * The error is the application's, with its own SQLSTATE; what it does not know is where it comes from.  The detail may
 * show values of the target that the writer may not read.
 */
static void
rethrow_with_context(DwFlow *flow, const DwKey *source_key, DwGather *gather)
{
	ErrorData  *edata = CopyErrorData();
	const DwMapping *mapping = flow->compiled->mapping;
	char	   *context;

	FlushErrorState();
	context = psprintf("dualwrite %s mirror of migration \"%s\", mapping from %s to %s, key %s",
					   flow->direction == DW_FORWARD ? "forward" : "reverse", flow->compiled->migration,
					   mapping->old_name, mapping->new_name,
					   !dw_error_is_absorbable(edata->sqlerrcode) ? "not shown" :
					   gather ? describe_gathered(gather) : dw_violation_key(flow, source_key));
	edata->context = edata->context ? psprintf("%s\n%s", context, edata->context) : context;
	if (pg_class_aclcheck(flow->target, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
		check_enable_rls(flow->target, InvalidOid, true) == RLS_ENABLED)
		edata->detail = NULL;
	if (edata->hint == NULL && dw_error_is_absorbable(edata->sqlerrcode))
		edata->hint = dw_violation_hint(flow);
	ReThrowError(edata);
}

/* What may fail on behalf of one flow and key, and is counted and timed for it. */
typedef DwCounter (*MirrorWork) (DwStatement *statement, DwFlow *flow, const DwKey *source_key, const void *arg);

/* gather: what work writes, when it is not a single key. */
static DwCounter
guarded(DwStatement *statement, DwFlow *flow, const DwKey *source_key, DwGather *gather, MirrorWork work, const void *arg)
{
	ResourceOwner saved = CurrentResourceOwner;
	MemoryContext context = CurrentMemoryContext;
	int			nesting = dw_nesting();
	Oid			writer;
	int			sec_context;
	DwCounter	counter = DW_COUNT_SKIPPED;

	GetUserIdAndSecContext(&writer, &sec_context);
	PG_TRY();
	{
		CurrentResourceOwner = statement->owner;
		statement->busy = true;
		counter = work(statement, flow, source_key, arg);
		statement->busy = false;
		if (flow->target_has_triggers)
			dw_violation_note(flow, source_key);
		CurrentResourceOwner = saved;
	}
	PG_CATCH();
	{
		CurrentResourceOwner = saved;
		MemoryContextSwitchTo(context);
		SetUserIdAndSecContext(writer, sec_context);
		dw_nesting_set(nesting);
		dw_stats_count(flow->compiled->mapping_id, flow->direction, DW_COUNT_FAILED, 1);
		rethrow_with_context(flow, source_key, gather);
	}
	PG_END_TRY();
	return counter;
}

/* Of a statement that writes many rows, some are timed for all; reading the clock is not for nothing. */
static void
mirror_guarded(DwStatement *statement, DwFlow *flow, const DwKey *source_key, MirrorWork work, const void *arg)
{
	int			stands_for = statement->events <= SAMPLED_AFTER ? 1 : statement->events % SAMPLE == 0 ? SAMPLE : 0;
	instr_time	start;
	DwCounter	counter;

	if (stands_for > 0)
		INSTR_TIME_SET_CURRENT(start);
	counter = guarded(statement, flow, source_key, NULL, work, arg);
	if (counter == DW_COUNT_LATER)
	{
		if (stands_for > 0)
			statement->gather_ns += stands_for * dw_stats_since(start);
		return;
	}
	if (stands_for > 0)
		dw_stats_time(flow->compiled->mapping_id, flow->direction, stands_for, dw_stats_since(start));
	dw_stats_count(flow->compiled->mapping_id, flow->direction, counter, 1);
}

static DwCounter
write_gathered(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const void *arg)
{
	DwGather   *gather = unconstify(DwGather *, (const DwGather *) arg);
	int64		counts[DW_NUM_COUNTERS] = {0};

	(void) statement;
	(void) source_key;
	dw_gather_write(gather, counts);
	for (int c = 0; c < DW_NUM_COUNTERS; c++)
		if (counts[c] > 0)
			dw_stats_count(flow->compiled->mapping_id, flow->direction, c, counts[c]);
	return DW_COUNT_LATER;
}

/* Write all rows that were put off for their company. */
static void
flush_gathered(DwStatement *statement)
{
	ListCell   *lc;

	if (statement->gathered == 0)
		return;
	foreach(lc, statement->gathers)
	{
		DwGather   *gather = lfirst(lc);
		DwFlow	   *flow = dw_gather_flow(gather);
		int			n = dw_gather_rows(gather);
		instr_time	start;

		if (n == 0)
			continue;
		INSTR_TIME_SET_CURRENT(start);
		(void) guarded(statement, flow, NULL, gather, write_gathered, gather);
		/* to which each row adds what it took to gather it */
		dw_stats_time(flow->compiled->mapping_id, flow->direction, n,
					  dw_stats_since(start) / n + statement->gather_ns / statement->gathered);
	}
	statement->gathered = 0;
	statement->gather_ns = 0;
	statement->gather_full = false;
}

/* Where the event is put off until others like it have come; NULL: it must not be. */
static DwGather *
gather_for(DwStatement *statement, DwFlow *flow, const DwRowEvent *event)
{
	bool		deleting = TRIGGER_FIRED_BY_DELETE(event->event);

	if (statement->events <= MAX_SINGLE || statement->interrupted >= MAX_INTERRUPTED ||
		event->stale || event->moving || event->truncated || statement->moving.keys != NIL ||
		!(deleting || TRIGGER_FIRED_BY_INSERT(event->event)) ||
		!event->table->flushed || IsLogicalWorker() || dw_nesting() > 0)
		return NULL;
	return dw_gather_for(statement, flow, event->rel, deleting);
}

/* The statement that the event belongs to. */
static DwStatement *
statement_of(const DwRowEvent *event)
{
	DwStatement *statement = dw_statement_get();

	statement->events++;
	if (event->version != NULL)
	{
		statement->version_of = RelationGetRelid(event->rel);
		statement->version = *event->version;
	}
	return statement;
}

static void
mirror_inline(DwFlow *flow, const DwRowEvent *event)
{
	bool		deleting = TRIGGER_FIRED_BY_DELETE(event->event);
	DwFlow	   *held;
	DwStatement *statement;
	DwKey		source_key;

	if (changes_nothing(flow, event))
	{
		dw_stats_count(flow->compiled->mapping_id, flow->direction, DW_COUNT_SKIPPED, 1);
		if (dw_statement_find() != NULL)
			(void) statement_of(event);
		return;
	}
	held = dw_flow_hold(flow);
	if (held == NULL)
	{
		dw_mirror_broken(flow->compiled);
		return;
	}
	flow = held;
	statement = statement_of(event);
	statement->gathering = gather_for(statement, flow, event);
	if (statement->gathered > 0 && (statement->gathering == NULL || deleting != statement->deleting))
	{
		/* nothing overtakes anything but its like */
		statement->interrupted++;
		flush_gathered(statement);
	}
	statement->deleting = deleting;
	source_key_of(flow, event->new_row ? event->new_row : event->old_row, &source_key);
	mirror_guarded(statement, flow, &source_key, mirror_event, event);
	statement->gathering = NULL;
	if (dw_gather_full(statement))
		flush_gathered(statement);
}

/* Put the keys of the event off to the end of the statement. */
static void
postpone_event(DwFlow *flow, const DwRowEvent *event)
{
	DwStatement *statement = statement_of(event);
	DwKey		before;
	DwKey		after;

	if (event->new_row == NULL)
	{
		source_key_of(flow, event->old_row, &before);
		dw_postpone(statement, flow, NULL, &before)->truncated = event->truncated;
		return;
	}
	source_key_of(flow, event->new_row, &after);
	if (event->old_row != NULL)
		source_key_of(flow, event->old_row, &before);
	if (event->old_row != NULL && !dw_pending_same_key(flow, &before, &after))
		dw_postpone(statement, flow, &before, &after);
	else
		dw_postpone(statement, flow, NULL, &after);
}

static void finish_moves(DwStatement *statement, int depth);

/* A statement of any size takes bounded memory: what it put off is settled in portions. */
static void
settle_early(void)
{
	DwStatement *statement = dw_statement_find();

	if (statement == NULL ||
		(list_length(statement->moves.keys) < MAX_MOVES && list_length(statement->postponed.keys) < MAX_POSTPONED))
		return;
	flush_gathered(statement);
	if (list_length(statement->moves.keys) >= MAX_MOVES)
		finish_moves(statement, 0);
	if (list_length(statement->postponed.keys) >= MAX_POSTPONED)
		dw_postponed_settle(statement);
}

/*
 * Is somebody going to tell us when the statement is over?  A leaf that was attached later has no trigger that would, so that we
 * have ourselves called; on a subscriber, which fires no such trigger either, it is over with the row, but for the initial
 * copy of a table.
 */
static bool
is_told_of_the_end(const DwRowEvent *event)
{
	DwStatement *statement;

	if (IsLogicalWorker() ? !dw_execution_is_initial_copy() : event->table->flushed)
		return !IsLogicalWorker();
	statement = dw_statement_find();
	return statement == NULL || (event->stored != NULL && dw_cascade_call(statement, event->rel, event->stored));
}

void
dw_mirror_row(DwFlow *flow, const DwRowEvent *event)
{
	if (dw_postpones(flow))
		postpone_event(flow, event);
	else
		mirror_inline(flow, event);
	settle_early();

	if (!event->moving && !is_told_of_the_end(event))
		dw_mirror_flush();
}

static DwCounter
mirror_dependence(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const void *arg)
{
	(void) arg;
	return dw_propagate_unless_busy(statement, flow, source_key);
}

void
dw_mirror_dependent(DwFlow *flow, const DwKey *source_key)
{
	DwStatement *statement = dw_statement_get();

	flush_gathered(statement);
	if (dw_postpones(flow))
		dw_postpone(statement, flow, NULL, source_key)->impatient = true;
	else
		mirror_guarded(statement, flow, source_key, mirror_dependence, NULL);
	settle_early();
}

void
dw_mirror_broken(DwCompiled *compiled)
{
	dw_stats_count(compiled->mapping_id, DW_FORWARD, DW_COUNT_FAILED, 1);
}

typedef struct Moves
{
	List	   *moves;
	DwKey	   *at;				/* which of them is at work: the key that an error is about */
} Moves;

/* Rows of one flow whose key changed, or that left a partition and arrived nowhere. */
static DwCounter
mirror_moves(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const void *arg)
{
	const Moves *moves = arg;
	ListCell   *lc;

	(void) source_key;
	dw_propagate_moves(statement, moves->moves, moves->at);
	foreach(lc, moves->moves)
	{
		dw_key_set(flow->source_key, ((DwPostponed *) lfirst(lc))->source_key, moves->at);
		refuse_outside(statement, flow, moves->at);
	}
	return DW_COUNT_UPDATE;
}

static DwCounter
mirror_departure(DwStatement *statement, DwFlow *flow, const DwKey *source_key, const void *arg)
{
	(void) arg;
	return dw_propagate_key(statement, flow, source_key);
}

static bool
same_flow(const DwPostponed *a, const DwPostponed *b)
{
	return a->mapping_id == b->mapping_id && a->direction == b->direction;
}

/* All moves of the flow that the first of the list belongs to; they are taken out of the list. */
static List *
take_moves_of_one_flow(List **moves)
{
	List	   *taken = NIL;
	List	   *left = NIL;
	ListCell   *lc;

	foreach(lc, *moves)
	{
		if (same_flow(linitial(*moves), lfirst(lc)))
			taken = lappend(taken, lfirst(lc));
		else
			left = lappend(left, lfirst(lc));
	}
	*moves = left;
	return taken;
}

/* Moves, and departures, that wait for the end of a statement as deep as this, or deeper. */
static void
finish_moves(DwStatement *statement, int depth)
{
	List	   *moves = dw_pending_take(&statement->moves, depth);
	List	   *departed = dw_pending_take(&statement->moving, depth);
	ListCell   *lc;

	while (moves != NIL)
	{
		List	   *of_flow = take_moves_of_one_flow(&moves);
		DwPostponed *first = linitial(of_flow);
		DwCompiled *compiled = dw_compiled_get(first->mapping_id);
		DwFlow	   *flow = compiled ? &compiled->flow[first->direction] : NULL;
		DwKey		at;
		Moves		moves_of_flow = {of_flow, &at};

		if (flow == NULL)
			continue;
		dw_key_set(flow->source_key, first->source_key, &at);
		mirror_guarded(statement, flow, &at, mirror_moves, &moves_of_flow);
	}
	foreach(lc, departed)
	{
		DwPostponed *departure = lfirst(lc);
		DwCompiled *compiled = dw_compiled_get(departure->mapping_id);

		if (compiled != NULL)
			mirror_guarded(statement, &compiled->flow[departure->direction], departure->source_key,
						   mirror_departure, NULL);
	}
	dw_pending_free(&statement->moves);
	dw_pending_free(&statement->moving);
}

/* What foreign keys of the target have done is final on the source side, too. */
static void
finish_cascaded(DwStatement *statement, int depth)
{
	List	   *cascaded = dw_pending_take(&statement->cascaded, depth);
	ListCell   *lc;

	foreach(lc, cascaded)
	{
		DwPostponed *written = lfirst(lc);
		DwCompiled *compiled = dw_compiled_get(written->mapping_id);
		DwFlow	   *flow = compiled ? &compiled->flow[written->direction] : NULL;

		if (flow == NULL)
			continue;
		if (dw_postpones(flow))
			(void) dw_postpone(statement, flow, NULL, written->source_key);
		else
			mirror_guarded(statement, flow, written->source_key, mirror_departure, NULL);
	}
	dw_pending_free(&statement->cascaded);
}

/* false: what foreign keys have done still waits. */
static bool
finish(DwStatement *statement, int depth)
{
	do
	{
		if (dw_pending_any(&statement->moves, depth) || dw_pending_any(&statement->moving, depth))
			finish_moves(statement, depth);
		if (statement->postponed.keys != NIL)
			dw_postponed_settle(statement);
		if (dw_pending_any(&statement->cascaded, depth))
		{
			if (dw_cascade_waits(statement))
				return false;
			finish_cascaded(statement, depth);
		}
	} while (dw_pending_any(&statement->moves, depth) || dw_pending_any(&statement->moving, depth) ||
			 statement->postponed.keys != NIL || dw_pending_any(&statement->cascaded, depth));
	return true;
}

void
dw_mirror_flush(void)
{
	DwStatement *statement = dw_statement_find();

	if (statement == NULL)
		return;
	flush_gathered(statement);
	dw_gather_end(statement);
	/* the call is known by the statement that waits for it, and that may be one around this one */
	if (finish(statement, dw_trigger_depth()) && !statement->call_queued &&
		statement->moves.keys == NIL && statement->moving.keys == NIL && statement->cascaded.keys == NIL)
		dw_statement_close(statement);
}

/* Nobody told us that the statement was over. */
static void
leftover(DwStatement *statement)
{
	dw_gather_end(statement);
	dw_postponed_enqueue(statement);
}

void
dw_mirror_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	dw_statement_init(leftover);
}
