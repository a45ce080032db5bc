/*
 * agreement.c: do two answers agree, and where do they not?
 *
 * Rows are compared by a hash of the text of their values, 128 bits: what a client would see, whatever is stored.  What a
 * caller does not want compared is left out, and what he wants compared in another form is brought to it first, with his
 * own rights.
 */
#include "postgres.h"

#include "agreement.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

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

static void
raise_no_column(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the shadow read has no column \"%s\"", name),
			 errhint("Name columns as the list of columns behind the call does.")));
}

static void
raise_no_text(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 name ? errmsg("what column \"%s\" of the shadow read is normalised by is not a string", name) :
			 errmsg("normalise must be an object"),
			 errhint("Give SQL over the columns, for example {\"email\": \"lower(email)\"}.")));
}

void
dw_rules_ignore(DwRules *rules, TupleDesc desc, List *names, bool required)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		int			column = SPI_fnumber(desc, lfirst(lc));

		if (column > 0)
			rules->ignored = bms_add_member(rules->ignored, column - 1);
		else if (required)
			raise_no_column(lfirst(lc));
	}
}

void
dw_rules_normalise(DwRules *rules, TupleDesc desc, Jsonb *expressions)
{
	JsonbIterator *iterator = JsonbIteratorInit(&expressions->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	int			column = 0;

	if (!JB_ROOT_IS_OBJECT(expressions))
		raise_no_text(NULL);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			char	   *name = pnstrdup(value.val.string.val, value.val.string.len);

			column = SPI_fnumber(desc, name);
			if (column <= 0)
				raise_no_column(name);
		}
		else if (token == WJB_VALUE)
		{
			if (value.type != jbvString)
				raise_no_text(NameStr(TupleDescAttr(desc, column - 1)->attname));
			if (rules->normalised == NULL)
				rules->normalised = palloc0(sizeof(char *) * desc->natts);
			rules->normalised[column - 1] = pnstrdup(value.val.string.val, value.val.string.len);
		}
	}
}

/* How a row becomes text. */
typedef struct DwRowText
{
	TupleDesc	desc;
	const DwRules *rules;
	int			columns;		/* the first so many are compared */
	FmgrInfo   *outputs;
	SPIPlanPtr	plan;			/* gives each normalised column, in their order, from a row's columns; NULL without any */
} DwRowText;

/* "SELECT expression, ... FROM (SELECT $1 AS column, ...) AS answer". */
static SPIPlanPtr
plan_normalising(TupleDesc desc, char **expressions)
{
	MemoryContext context = CurrentMemoryContext;
	StringInfoData text;
	Oid		   *types = palloc(sizeof(Oid) * Max(desc->natts, 1));
	const char *separator = "SELECT ";
	SPIPlanPtr	plan;

	initStringInfo(&text);
	for (int i = 0; i < desc->natts; i++)
	{
		if (expressions[i] == NULL)
			continue;
		appendStringInfo(&text, "%s(%s)::pg_catalog.text", separator, expressions[i]);
		separator = ", ";
	}
	separator = " FROM (SELECT ";
	for (int i = 0; i < desc->natts; i++)
	{
		types[i] = TupleDescAttr(desc, i)->atttypid;
		appendStringInfo(&text, "%s$%d AS %s", separator, i + 1, quote_identifier(NameStr(TupleDescAttr(desc, i)->attname)));
		separator = ", ";
	}
	appendStringInfoString(&text, ") AS answer");
	plan = SPI_prepare(text.data, desc->natts, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare an expression: %s", SPI_result_code_string(SPI_result));
	/* SPI leaves us in a context of its own, which does not outlive the connection */
	MemoryContextSwitchTo(context);
	return plan;
}

/* Within an SPI connection, which must stay until the last row. */
static void
begin_text(DwRowText *how, TupleDesc desc, const DwRules *rules)
{
	how->desc = desc;
	how->rules = rules;
	how->columns = rules->how == DW_COMPARE_SCALAR ? Min(desc->natts, 1) : desc->natts;
	how->outputs = palloc(sizeof(FmgrInfo) * Max(desc->natts, 1));
	how->plan = rules->normalised ? plan_normalising(desc, rules->normalised) : NULL;
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &output, &varlena);
		fmgr_info(output, &how->outputs[i]);
	}
}

static void
add_value(StringInfo text, const char *value)
{
	int			length = value ? (int) strlen(value) : 0;

	appendStringInfoChar(text, value ? 'v' : 'n');
	appendBinaryStringInfo(text, (const char *) &length, sizeof(length));
	appendBinaryStringInfo(text, value ? value : "", length);
}

static void
normalise(const DwRowText *how, TupleTableSlot *slot)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *nulls = palloc(Max(how->desc->natts, 1));

	for (int i = 0; i < how->desc->natts; i++)
		nulls[i] = slot->tts_isnull[i] ? 'n' : ' ';
	if (SPI_execute_plan(how->plan, slot->tts_values, nulls, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("normalising expressions of a shadow read must return one value each")));
	MemoryContextSwitchTo(context);
}

/* Text of a row, so that no two rows that differ in what is compared have the same. */
static void
row_text(StringInfo text, const DwRowText *how, TupleTableSlot *slot)
{
	int			normalised = 0;

	slot_getallattrs(slot);
	if (how->plan != NULL)
		normalise(how, slot);
	for (int i = 0; i < how->columns; i++)
	{
		bool		by_plan = how->plan != NULL && how->rules->normalised[i] != NULL;

		normalised += by_plan;
		if (bms_is_member(i, how->rules->ignored))
			continue;
		if (by_plan)
			add_value(text, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, normalised));
		else
			add_value(text, slot->tts_isnull[i] ? NULL : OutputFunctionCall(&how->outputs[i], slot->tts_values[i]));
	}
	if (how->plan != NULL)
		SPI_freetuptable(SPI_tuptable);
}

static void
begin_reading(Tuplestorestate *rows)
{
	tuplestore_select_read_pointer(rows, 0);
	tuplestore_rescan(rows);
}

/* Hash the rows of an answer, up to the limit and one more. */
static DwHashes
hash_rows(const DwAnswer *answer, const DwRowText *how)
{
	DwHashes	hashes = {0};
	TupleTableSlot *slot = MakeSingleTupleTableSlot(how->desc, &TTSOpsMinimalTuple);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite row", ALLOCSET_DEFAULT_SIZES);
	uint32		most = (uint32) Min(answer->count, how->rules->limit + 1);

	hashes.rows = palloc_extended(sizeof(DwRowHash) * Max(most, 1), MCXT_ALLOC_HUGE);
	begin_reading(answer->rows);
	while (hashes.count < most && tuplestore_gettupleslot(answer->rows, true, false, slot))
	{
		DwRowHash  *hash = &hashes.rows[hashes.count];
		MemoryContext old = MemoryContextSwitchTo(row_context);
		StringInfoData text;

		CHECK_FOR_INTERRUPTS();
		initStringInfo(&text);
		row_text(&text, how, slot);
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
dw_answers_agree(const DwAnswer *left, const DwAnswer *right, TupleDesc desc, const DwRules *rules,
				 char **left_rows, char **right_rows)
{
	MemoryContext context = CurrentMemoryContext;
	DwRowText	how;
	DwHashes	l;
	DwHashes	r;
	bool		agree;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	MemoryContextSwitchTo(context);
	begin_text(&how, desc, rules);
	l = hash_rows(left, &how);
	r = hash_rows(right, &how);
	SPI_finish();
	if (rules->how == DW_COMPARE_SET)
		remove_common(&l, &r);
	else
		remove_same_place(&l, &r);
	agree = l.count == 0 && r.count == 0 && left->count == right->count;
	if (rules->how == DW_COMPARE_SCALAR)
		agree = left->count <= 1 && right->count <= 1 &&
			(agree || (is_null_value(left, desc) && is_null_value(right, desc)));
	if (agree)
		return true;
	*left_rows = rows_as_json(left, desc, &l);
	*right_rows = rows_as_json(right, desc, &r);
	return false;
}
