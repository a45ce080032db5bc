/*
 * inplace.c: a row of a table whose columns move inside it, before it is stored.
 *
 * Both sides of a mapping in place are columns of one row, so that no key, lock or second write is needed: a BEFORE trigger
 * behind the user's own completes the row.  Which side was written is told by what changed, not by what the statement
 * names: an application that writes back whole rows changes only what it means to.  For an insert, whatever is not the
 * column's default was written.  Each pair of columns (pairing.c) is decided alone:
 *
 *	only the old side was written, or an input of it: the new columns follow;
 *	only the new side was: the old columns follow, from read_switch on; before, the statement is refused;
 *	both were, and agree: the row is stored as it is; they agree when forward makes the new columns of the row, or reverse
 *	the old ones;
 *	both were, and disagree: 23514.
 *
 * Before every row has been gone through, an update that changes none of them completes the row nevertheless: it may
 * carry the row past the backfill, and nobody would ever come back to it.
 *
 * Nothing here writes a user table, waits for anybody, or reads the extension's tables.
 */
#include "postgres.h"

#include "absorb.h"
#include "inplace.h"
#include "locks.h"
#include "nesting.h"
#include "pairing.h"
#include "queue.h"
#include "rowcheck.h"
#include "stats.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* What becomes of one pair of columns. */
typedef enum Verdict
{
	VERDICT_KEEP,
	VERDICT_FORWARD,			/* new columns follow, as far as they are not so already */
	VERDICT_REVERSE				/* old columns follow */
} Verdict;

typedef struct DwWrite
{
	const DwInPlaceRow *row;
	DwCompiled *compiled;
	const DwPairing *pairing;
	bool		reverse_on;
	TupleTableSlot *made[2];	/* by direction: what it makes of the row */
	bool		known[2];		/* it has been asked */
	Bitmapset  *taken[2];		/* columns that are to have what was made */
	HeapTuple	tuple;			/* with these */
	instr_time	start;			/* of the first projection */
	bool		failed;			/* forward raised an error that is for the queue */
	DwError		error;
} DwWrite;

/* Most columns are as they were, to the byte, and need not be fetched from where they were moved out of line to. */
static bool
same_image(Form_pg_attribute att, Datum a, Datum b)
{
	if (att->attbyval)
		return a == b;
	if (att->attlen == -1)
	{
		Size		size = VARSIZE_ANY(DatumGetPointer(a));

		if (size == VARSIZE_ANY(DatumGetPointer(b)) &&
			memcmp(DatumGetPointer(a), DatumGetPointer(b), size) == 0)
			return true;
	}
	return datum_image_eq(a, b, att->attbyval, att->attlen);
}

/* Both images are deformed as far as any column of the mapping goes. */
static bool
has_changed(const DwWrite *write, AttrNumber attno)
{
	TupleTableSlot *before = write->row->before;
	TupleTableSlot *after = write->row->after;
	int			i = attno - 1;

	if (before->tts_isnull[i] || after->tts_isnull[i])
		return before->tts_isnull[i] != after->tts_isnull[i];
	return !same_image(TupleDescAttr(after->tts_tupleDescriptor, i), before->tts_values[i], after->tts_values[i]);
}

/* Most updates change nothing that the mapping knows of. */
static bool
changes_nothing(const DwWrite *write)
{
	const DwPairing *pairing = write->pairing;

	if (write->row->before == NULL)
		return false;
	slot_getsomeattrs(write->row->before, pairing->last_watched);
	slot_getsomeattrs(write->row->after, pairing->last_watched);
	for (int i = 0; i < pairing->nwatched; i++)
		if (has_changed(write, pairing->watched[i]))
			return false;
	return true;
}

/* Is it what an insert that does not name the column leaves there?  A default that is new each time tells nothing. */
static bool
differs_from_default(const DwWrite *write, AttrNumber attno)
{
	const DwPairing *pairing = write->pairing;
	Form_pg_attribute att = TupleDescAttr(write->row->after->tts_tupleDescriptor, attno - 1);
	ExprState  *state = pairing->defaults[attno - 1];
	bool		isnull;
	bool		default_null = true;
	Datum		value = slot_getattr(write->row->after, attno, &isnull);
	Datum		by_default = (Datum) 0;

	if (att->attgenerated || bms_is_member(attno, pairing->erratic))
		return false;
	if (state != NULL)
		by_default = ExecEvalExprSwitchContext(state, pairing->context, &default_null);
	if (isnull || default_null)
		return isnull != default_null;
	return !same_image(att, value, by_default);
}

static bool
is_column_written(const DwWrite *write, AttrNumber attno)
{
	return write->row->before != NULL ? has_changed(write, attno) : differs_from_default(write, attno);
}

/* Was one of these columns written? */
static bool
is_written(const DwWrite *write, const Bitmapset *columns)
{
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
		if (is_column_written(write, attno))
			return true;
	return false;
}

/* Those that were. */
static Bitmapset *
written_of(const DwWrite *write, const Bitmapset *columns)
{
	Bitmapset  *result = NULL;
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
		if (is_column_written(write, attno))
			result = bms_add_member(result, attno);
	return result;
}

/* "a, b" */
static char *
column_list(const DwWrite *write, const Bitmapset *columns)
{
	StringInfoData list;
	int			attno = -1;

	initStringInfo(&list);
	while ((attno = bms_next_member(columns, attno)) >= 0)
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(write->row->after->tts_tupleDescriptor, attno - 1)->attname)));
	return list.data;
}

static void
refuse_new_side(const DwWrite *write, const DwPair *pair)
{
	const DwCompiled *compiled = write->compiled;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("columns of table %s are the new side of migration \"%s\", which is in phase \"%s\": %s",
					compiled->mapping->new_name, compiled->migration, dw_phase_name(compiled->phase),
					column_list(write, pair->new_columns)),
			 errdetail("Until read_switch they follow what is written to %s.",
					   column_list(write, pair->old_columns ? pair->old_columns : pair->read)),
			 errhint("Write to these, or see dualwrite.status for the way to read_switch.")));
}

static void
refuse_while_refilling(const DwWrite *write)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("new columns of table %s are being brought to the altered mapping of migration \"%s\"",
					write->compiled->mapping->new_name, write->compiled->migration),
			 errhint("Write to the old columns until dualwrite.progress says that it is done.")));
}

static void
refuse_old_side(const DwWrite *write, const DwPair *pair)
{
	const DwCompiled *compiled = write->compiled;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("columns of table %s are the old side of migration \"%s\", which is complete: %s",
					compiled->mapping->old_name, compiled->migration, column_list(write, pair->old_columns)),
			 errdetail("Writes to them would be lost."),
			 errhint("Write to %s.", pair->new_columns || pair->filled_once ?
					 column_list(write, pair->new_columns ? pair->new_columns : pair->filled_once) : "the new columns")));
}

static void
refuse_disagreement(const DwWrite *write, const DwPair *pair)
{
	const DwCompiled *compiled = write->compiled;

	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("old and new columns of table %s disagree: %s and %s", compiled->mapping->new_name,
					column_list(write, pair->old_columns ? pair->old_columns : pair->read),
					column_list(write, pair->new_columns)),
			 errdetail("The statement writes both, and migration \"%s\" keeps them in agreement.", compiled->migration),
			 errhint("Write one of them, or both with the same meaning."),
			 errtable(write->row->rel)));
}

/* The error is the expression's own; what the application does not know is where it comes from. */
static void
rethrow_with_context(const DwWrite *write, DwDirection direction)
{
	ErrorData  *edata = CopyErrorData();
	const char *context = psprintf("dualwrite %s expressions of migration \"%s\", table %s",
								   direction == DW_FORWARD ? "forward" : "reverse", write->compiled->migration,
								   write->compiled->mapping->new_name);

	FlushErrorState();
	edata->context = edata->context ? psprintf("%s\n%s", context, edata->context) : pstrdup(context);
	if (edata->hint == NULL && direction == DW_FORWARD && dw_error_is_absorbable(edata->sqlerrcode))
		edata->hint = psprintf("SELECT dualwrite.configure(%s, 'mirror_on_error', 'queue') lets the statement succeed and queues the key.",
							   quote_literal_cstr(write->compiled->migration));
	ReThrowError(edata);
}

static void
count(const DwWrite *write, DwDirection direction, DwCounter counter)
{
	dw_stats_count(write->compiled->mapping_id, direction, counter, 1);
}

static void
count_timed(const DwWrite *write, DwDirection direction, DwCounter counter, uint64 ns)
{
	count(write, direction, counter);
	if (ns > 0)
		dw_stats_time(write->compiled->mapping_id, direction, 1, ns);
}

/* An expression may run code of users, and that write the same table: what is in use must not be what it finds. */
static TupleTableSlot *
slot_for(const DwWrite *write, DwDirection direction)
{
	if (dw_nesting() == 0)
		return write->pairing->made[direction];
	return MakeSingleTupleTableSlot(write->compiled->flow[direction].target_desc, &TTSOpsVirtual);
}

/*
 * A row that is inserted is made before it is stored, and so perhaps before there is an xid.  Whoever changes what is looked up
 * meanwhile sees neither the row nor that somebody is at it: recheck.c asks for the xid first.
 */
static void
project(DwWrite *write, DwDirection direction)
{
	if (write->compiled->mapping->dependencies != NIL)
		(void) GetTopTransactionId();
	write->made[direction] = slot_for(write, direction);
	dw_nesting_enter();
	(void) dw_project(&write->compiled->flow[direction], write->row->after, write->made[direction], NULL);
	dw_nesting_leave();
}

static void
project_forward(void *arg)
{
	project(arg, DW_FORWARD);
}

static void
project_guarded(DwWrite *write, DwDirection direction)
{
	MemoryContext context = CurrentMemoryContext;
	int			nesting = dw_nesting();

	PG_TRY();
	{
		project(write, direction);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		dw_nesting_set(nesting);
		count(write, direction, DW_COUNT_FAILED);
		rethrow_with_context(write, direction);
	}
	PG_END_TRY();
}

/* What a direction makes of the row; NULL when that failed, and is for the queue. */
static TupleTableSlot *
made(DwWrite *write, DwDirection direction)
{
	if (!write->known[direction])
	{
		write->known[direction] = true;
		if (INSTR_TIME_IS_ZERO(write->start))
			INSTR_TIME_SET_CURRENT(write->start);
		if (direction == DW_FORWARD && write->compiled->queue_errors)
			write->failed = !dw_try(project_forward, write, false, NULL, &write->error);
		else
			project_guarded(write, direction);
	}
	return direction == DW_FORWARD && write->failed ? NULL : write->made[direction];
}

/* Are these columns what the direction makes of the row? */
static bool
agrees(DwWrite *write, DwDirection direction, const Bitmapset *columns)
{
	TupleTableSlot *wanted = made(write, direction);

	return wanted != NULL && columns != NULL &&
		!bms_overlap(dw_rows_differ(&write->compiled->flow[direction], wanted, write->row->after), columns);
}

/* The new side of the pair was written, and perhaps the old one as well: who wins? */
static Verdict
decide_new_side(DwWrite *write, const DwPair *pair)
{
	bool		old_written = is_written(write, pair->old_columns ? pair->old_columns : pair->read);
	Bitmapset  *new_written = written_of(write, pair->new_columns);

	if (write->reverse_on && !old_written)
		return pair->old_columns != NULL ? VERDICT_REVERSE : VERDICT_KEEP;
	if (new_written == NULL || agrees(write, DW_FORWARD, new_written))
		return VERDICT_FORWARD;
	if (agrees(write, DW_REVERSE, pair->old_columns))
		return VERDICT_KEEP;
	if (!old_written)
		refuse_new_side(write, pair);
	refuse_disagreement(write, pair);
	return VERDICT_KEEP;
}

static Verdict
decide(DwWrite *write, const DwPair *pair)
{
	if (is_written(write, pair->new_columns) ||
		(write->reverse_on && pair->old_columns != NULL && is_written(write, pair->filled_once)))
		return decide_new_side(write, pair);
	if (write->row->before == NULL || !write->compiled->filled ||
		is_written(write, pair->old_columns) || is_written(write, pair->read))
		return VERDICT_FORWARD;
	return VERDICT_KEEP;
}

static Bitmapset *
null_columns(const DwWrite *write, const Bitmapset *columns)
{
	Bitmapset  *result = NULL;
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
		if (slot_attisnull(write->row->after, attno))
			result = bms_add_member(result, attno);
	return result;
}

static void
take(DwWrite *write, DwDirection direction, const Bitmapset *columns)
{
	if (columns == NULL || made(write, direction) == NULL)
		return;
	write->taken[direction] = bms_add_members(write->taken[direction], columns);
}

static void
settle_pair(DwWrite *write, const DwPair *pair)
{
	bool		inserted = write->row->before == NULL;

	switch (decide(write, pair))
	{
		case VERDICT_KEEP:
			break;
		case VERDICT_FORWARD:
			take(write, DW_FORWARD, pair->new_columns);
			break;
		case VERDICT_REVERSE:
			if (!write->compiled->filled)
				refuse_while_refilling(write);
			dw_note_new_side_writer(write->compiled->migration_id);
			take(write, DW_REVERSE, pair->old_columns);
			if (inserted)
				take(write, DW_REVERSE, null_columns(write, pair->old_filled_once));
			break;
	}
	if (inserted || !write->compiled->filled)
		take(write, DW_FORWARD, null_columns(write, pair->filled_once));
}

/* The tuple with the columns that were taken, where they are not so already. */
static HeapTuple
complete_tuple(const DwWrite *write)
{
	const DwInPlaceRow *row = write->row;
	int			natts = row->after->tts_tupleDescriptor->natts;
	int		   *columns = palloc(sizeof(int) * natts);
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *nulls = palloc(sizeof(bool) * natts);
	int			n = 0;

	for (DwDirection direction = DW_FORWARD; direction <= DW_REVERSE; direction++)
	{
		int			attno = -1;

		while ((attno = bms_next_member(write->taken[direction], attno)) >= 0)
		{
			bool		isnull;
			Datum		value = slot_getattr(row->after, attno, &isnull);

			values[n] = slot_getattr(write->made[direction], attno, &nulls[n]);
			columns[n] = row->table->to_root ? row->table->to_root->attrMap->attnums[attno - 1] : attno;
			if (isnull != nulls[n] || (!isnull && !same_image(TupleDescAttr(row->after->tts_tupleDescriptor, attno - 1),
															  value, values[n])))
				n++;
		}
	}
	if (n == 0)
		return row->tuple;
	return heap_modify_tuple_by_cols(row->tuple, RelationGetDescr(row->rel), n, columns, values, nulls);
}

static void
check_tuple(void *arg)
{
	DwWrite    *write = arg;

	dw_row_check(write->row->table, write->row->rel, write->tuple);
}

/* The new columns stay as they are, and the key waits for another attempt. */
static void
queue_key(DwWrite *write)
{
	DwFlow	   *flow = &write->compiled->flow[DW_FORWARD];
	DwKey		key;

	count(write, DW_FORWARD, DW_COUNT_FAILED);
	count(write, DW_FORWARD, DW_COUNT_QUEUED);
	if (dw_key_of_row(&write->compiled->new_key, write->row->after, &key))
		dw_queue_append(flow, &key, write->error.sqlstate, write->error.message);
}

/* Make the tuple; where an error of the new columns is for the queue, find out whether the table would take them. */
static void
make_tuple(DwWrite *write)
{
	bool		absorbs = write->compiled->queue_errors && write->taken[DW_FORWARD] != NULL;

	write->tuple = complete_tuple(write);
	if (absorbs && write->tuple != write->row->tuple)
		write->failed = !dw_try(check_tuple, write, false, NULL, &write->error);
	if (absorbs && (write->failed || write->compiled->discard))
	{
		Bitmapset  *tried = write->taken[DW_FORWARD];

		write->taken[DW_FORWARD] = NULL;
		write->tuple = complete_tuple(write);
		write->taken[DW_FORWARD] = write->failed ? NULL : tried;
	}
	if (write->failed)
		queue_key(write);
}

/* In complete nobody follows any more: what is written to the old side would go with it. */
static void
guard_old_side(const DwWrite *write)
{
	for (int i = 0; i < write->pairing->npairs; i++)
		if (is_written(write, write->pairing->pairs[i].old_columns))
			refuse_old_side(write, &write->pairing->pairs[i]);
}

static void
count_write(const DwWrite *write)
{
	DwCounter	counter = write->row->before == NULL ? DW_COUNT_INSERT : DW_COUNT_UPDATE;
	uint64		ns = INSTR_TIME_IS_ZERO(write->start) ? 0 : dw_stats_since(write->start);

	if (write->taken[DW_REVERSE] != NULL)
		count_timed(write, DW_REVERSE, counter, ns);
	if (write->taken[DW_FORWARD] != NULL)
		count_timed(write, DW_FORWARD, counter, ns);
	if (write->taken[DW_REVERSE] == NULL && write->taken[DW_FORWARD] == NULL && !write->failed)
		count(write, DW_FORWARD, DW_COUNT_SKIPPED);
}

HeapTuple
dw_in_place_row(const DwInPlaceRow *row)
{
	DwWrite		write = {.row = row, .compiled = row->compiled, .tuple = row->tuple};
	bool		nothing;

	if (row->compiled->broken)
	{
		if (row->compiled->phase < DW_PHASE_COMPLETE)
			count(&write, DW_FORWARD, DW_COUNT_FAILED);
		return row->tuple;
	}
	INSTR_TIME_SET_ZERO(write.start);
	write.pairing = dw_pairing_of(row->compiled);
	ResetExprContext(write.pairing->context);
	nothing = changes_nothing(&write);
	write.reverse_on = row->compiled->phase >= DW_PHASE_READ_SWITCH;
	if (row->compiled->phase == DW_PHASE_COMPLETE)
	{
		guard_old_side(&write);
		return row->tuple;
	}
	for (int i = 0; i < write.pairing->npairs && !(nothing && row->compiled->filled); i++)
		settle_pair(&write, &write.pairing->pairs[i]);
	if (write.taken[DW_FORWARD] != NULL || write.taken[DW_REVERSE] != NULL || write.failed)
		make_tuple(&write);
	count_write(&write);
	return write.tuple;
}
