/*
 * answer.c: what a query returned, and how two such answers differ.
 *
 * Queries run with the rights of the caller, whose they are, and only read.  Rows are compared by a hash of the text of
 * their values, 128 bits: what a client would see, whatever is stored.
 */
#include "postgres.h"

#include "answer.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "parser/analyze.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

/* Of an answer that differs, this much is shown. */
#define MAX_SHOWN_ROWS	20
#define MAX_SHOWN_BYTES	65536

typedef struct DwRowHash
{
	uint64		high;
	uint64		low;
	uint32		number;			/* place in the answer, from 0 */
} DwRowHash;

typedef struct DwHashes
{
	DwRowHash  *rows;
	uint32		count;
} DwHashes;

DwCompare
dw_compare_from_name(const char *name)
{
	if (pg_strcasecmp(name, "set") == 0)
		return DW_COMPARE_SET;
	if (pg_strcasecmp(name, "ordered") == 0)
		return DW_COMPARE_ORDERED;
	if (pg_strcasecmp(name, "scalar") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is no way to compare answers", name),
				 errhint("It is \"set\", \"ordered\" or \"scalar\".")));
	return DW_COMPARE_SCALAR;
}

/* Types that the query gives to its parameters, and no more than a read: nothing is executed. */
static Oid *
parameter_types(const char *name, const char *text, int *count)
{
	List	   *parsed = pg_parse_query(text);
	Oid		   *types = NULL;
	Query	   *query;

	if (list_length(parsed) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s of a shadow read must be one statement", name)));
	*count = 0;
	query = parse_analyze_varparams(linitial_node(RawStmt, parsed), text, &types, count, NULL);
	if (query->commandType != CMD_SELECT || query->hasModifyingCTE || query->rowMarks != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("%s of a shadow read must be a SELECT that only reads", name),
				 errhint("Queries that write or lock rows are for one side only: ask dualwrite.read_side or dualwrite.truth.")));
	for (int i = 0; i < *count; i++)
		if (!OidIsValid(types[i]) || types[i] == UNKNOWNOID)
			types[i] = TEXTOID;
	return types;
}

static ParamListInfo
parameters(const char *name, int count, const Oid *types, int nargs, char **args)
{
	ParamListInfo list = makeParamList(count);

	if (count > nargs)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_PARAMETER),
				 errmsg("%s of a shadow read has %d parameters, and args has %d elements", name, count, nargs)));
	for (int i = 0; i < count; i++)
	{
		ParamExternData *param = &list->params[i];
		Oid			input;
		Oid			ioparam;

		getTypeInputInfo(types[i], &input, &ioparam);
		param->ptype = types[i];
		param->pflags = PARAM_FLAG_CONST;
		param->isnull = args[i] == NULL;
		param->value = OidInputFunctionCall(input, args[i], ioparam, -1);
	}
	return list;
}

static List *
relations_of(SPIPlanPtr plan, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *relations = NIL;
	ListCell   *lc;

	foreach(lc, SPI_plan_get_plan_sources(plan))
		relations = list_concat_unique_oid(relations, ((CachedPlanSource *) lfirst(lc))->relationOids);
	MemoryContextSwitchTo(old);
	return relations;
}

static int64
buffers_used(const BufferUsage *usage)
{
	return usage->shared_blks_hit + usage->shared_blks_read + usage->local_blks_hit + usage->local_blks_read;
}

void
dw_answer_get(DwAnswer *answer, const char *name, const char *query, int nargs, char **args, TupleDesc desc,
			  uint64 limit)
{
	MemoryContext context = CurrentMemoryContext;
	SPIExecuteOptions options = {.read_only = true, .tcount = limit};
	int64		buffers = buffers_used(&pgBufferUsage);
	instr_time	start;
	instr_time	end;
	Oid		   *types;
	int			count;
	SPIPlanPtr	plan;

	INSTR_TIME_SET_CURRENT(start);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	types = parameter_types(name, query, &count);
	options.params = parameters(name, count, types, nargs, args);
	plan = SPI_prepare_cursor(query, count, types, CURSOR_OPT_PARALLEL_OK);
	if (plan == NULL)
		elog(ERROR, "could not prepare a query: %s", SPI_result_code_string(SPI_result));
	answer->relations = relations_of(plan, context);
	options.dest = CreateTuplestoreDestReceiver();
	SetTuplestoreDestReceiverParams(options.dest, answer->rows, context, false, desc,
									psprintf("%s of the shadow read does not return the columns that its caller lists", name));
	if (SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "could not execute a query: %s", SPI_result_code_string(SPI_result));
	answer->count = SPI_processed;
	options.dest->rDestroy(options.dest);
	SPI_finish();
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	answer->us = (int64) INSTR_TIME_GET_MICROSEC(end);
	answer->buffers = buffers_used(&pgBufferUsage) - buffers;
}

/* Text of a row's first columns, so that no two rows that differ have the same. */
static void
row_text(StringInfo text, TupleTableSlot *slot, FmgrInfo *outputs, int columns)
{
	slot_getallattrs(slot);
	for (int i = 0; i < columns; i++)
	{
		char	   *value;
		int			length;

		appendStringInfoChar(text, slot->tts_isnull[i] ? 'n' : 'v');
		if (slot->tts_isnull[i])
			continue;
		value = OutputFunctionCall(&outputs[i], slot->tts_values[i]);
		length = (int) strlen(value);
		appendBinaryStringInfo(text, (const char *) &length, sizeof(length));
		appendBinaryStringInfo(text, value, length);
	}
}

static void
begin_reading(Tuplestorestate *rows)
{
	tuplestore_select_read_pointer(rows, 0);
	tuplestore_rescan(rows);
}

/* Hash the rows of an answer, up to limit + 1 of them; only the first so many columns. */
static DwHashes
hash_rows(const DwAnswer *answer, TupleDesc desc, int columns, uint64 limit)
{
	DwHashes	hashes = {0};
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	FmgrInfo   *outputs = palloc(sizeof(FmgrInfo) * Max(columns, 1));
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite row", ALLOCSET_DEFAULT_SIZES);
	uint32		most = (uint32) Min(answer->count, limit + 1);

	for (int i = 0; i < columns; i++)
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &output, &varlena);
		fmgr_info(output, &outputs[i]);
	}
	hashes.rows = palloc_extended(sizeof(DwRowHash) * Max(most, 1), MCXT_ALLOC_HUGE);
	begin_reading(answer->rows);
	while (hashes.count < most && tuplestore_gettupleslot(answer->rows, true, false, slot))
	{
		DwRowHash  *hash = &hashes.rows[hashes.count];
		MemoryContext old = MemoryContextSwitchTo(row_context);
		StringInfoData text;

		CHECK_FOR_INTERRUPTS();
		initStringInfo(&text);
		row_text(&text, slot, outputs, columns);
		hash->high = hash_bytes_extended((const unsigned char *) text.data, text.len, 0);
		hash->low = hash_bytes_extended((const unsigned char *) text.data, text.len, UINT64CONST(0x9e3779b97f4a7c15));
		hash->number = hashes.count++;
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(row_context);
	return hashes;
}

static int
compare_hashes(const DwRowHash *left, const DwRowHash *right)
{
	if (left->high != right->high)
		return left->high < right->high ? -1 : 1;
	if (left->low != right->low)
		return left->low < right->low ? -1 : 1;
	return 0;
}

static int
order_by_hash(const void *left, const void *right)
{
	return compare_hashes(left, right);
}

static int
order_by_number(const void *left, const void *right)
{
	uint32		l = ((const DwRowHash *) left)->number;
	uint32		r = ((const DwRowHash *) right)->number;

	return l < r ? -1 : l > r;
}

/* Leave of both only the rows that have no counterpart. */
static void
remove_common(DwHashes *left, DwHashes *right)
{
	uint32		l = 0;
	uint32		r = 0;
	uint32		left_kept = 0;
	uint32		right_kept = 0;

	qsort(left->rows, left->count, sizeof(DwRowHash), order_by_hash);
	qsort(right->rows, right->count, sizeof(DwRowHash), order_by_hash);
	while (l < left->count || r < right->count)
	{
		int			order = l == left->count ? 1 : r == right->count ? -1 : compare_hashes(&left->rows[l], &right->rows[r]);

		if (order == 0)
			l++, r++;
		else if (order < 0)
			left->rows[left_kept++] = left->rows[l++];
		else
			right->rows[right_kept++] = right->rows[r++];
	}
	left->count = left_kept;
	right->count = right_kept;
	qsort(left->rows, left->count, sizeof(DwRowHash), order_by_number);
	qsort(right->rows, right->count, sizeof(DwRowHash), order_by_number);
}

/* Leave of both only the rows that are not the same as the other's at that place. */
static void
remove_same_place(DwHashes *left, DwHashes *right)
{
	uint32		left_kept = 0;
	uint32		right_kept = 0;

	for (uint32 i = 0; i < Max(left->count, right->count); i++)
	{
		if (i < left->count && i < right->count && compare_hashes(&left->rows[i], &right->rows[i]) == 0)
			continue;
		if (i < left->count)
			left->rows[left_kept++] = left->rows[i];
		if (i < right->count)
			right->rows[right_kept++] = right->rows[i];
	}
	left->count = left_kept;
	right->count = right_kept;
}

/* One value each: no row is the same as a null, which leaves nothing to be compared. */
static bool
is_null_value(const DwAnswer *answer, TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	bool		isnull = true;

	begin_reading(answer->rows);
	if (desc->natts > 0 && tuplestore_gettupleslot(answer->rows, true, false, slot))
		(void) slot_getattr(slot, 1, &isnull);
	ExecDropSingleTupleTableSlot(slot);
	return isnull;
}

/* The rows that are listed, in the order of their numbers, as a JSON array that is not too long. */
static char *
rows_as_json(const DwAnswer *answer, TupleDesc desc, const DwHashes *wanted)
{
	StringInfoData json;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	uint32		shown = 0;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	begin_reading(answer->rows);
	for (uint32 number = 0; shown < wanted->count && shown < MAX_SHOWN_ROWS; number++)
	{
		text	   *row;

		if (!tuplestore_gettupleslot(answer->rows, true, false, slot))
			break;
		if (number != wanted->rows[shown].number)
			continue;
		row = DatumGetTextPP(DirectFunctionCall1(row_to_json, ExecFetchSlotHeapTupleDatum(slot)));
		if (json.len + VARSIZE_ANY_EXHDR(row) > MAX_SHOWN_BYTES)
			break;
		if (shown++ > 0)
			appendStringInfoString(&json, ", ");
		appendBinaryStringInfo(&json, VARDATA_ANY(row), VARSIZE_ANY_EXHDR(row));
	}
	appendStringInfoChar(&json, ']');
	ExecDropSingleTupleTableSlot(slot);
	return json.data;
}

bool
dw_answers_agree(const DwAnswer *left, const DwAnswer *right, TupleDesc desc, DwCompare how, uint64 limit,
				 char **left_rows, char **right_rows)
{
	int			columns = how == DW_COMPARE_SCALAR ? Min(desc->natts, 1) : desc->natts;
	DwHashes	l = hash_rows(left, desc, columns, limit);
	DwHashes	r = hash_rows(right, desc, columns, limit);
	bool		agree;

	if (how == DW_COMPARE_SET)
		remove_common(&l, &r);
	else
		remove_same_place(&l, &r);
	agree = l.count == 0 && r.count == 0 && left->count == right->count;
	if (how == DW_COMPARE_SCALAR)
		agree = left->count <= 1 && right->count <= 1 &&
			(agree || (is_null_value(left, desc) && is_null_value(right, desc)));
	if (agree)
		return true;
	*left_rows = rows_as_json(left, desc, &l);
	*right_rows = rows_as_json(right, desc, &r);
	return false;
}
