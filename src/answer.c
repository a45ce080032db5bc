/*
 * answer.c: what a query returned, and by which plan.
 *
 * Queries run with the rights of the caller, whose they are, and only read.
 */
#include "postgres.h"

#include "answer.h"

#include "catalog/pg_type.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "parser/analyze.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

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
parameters(const DwQueryText *query, int count, const Oid *types)
{
	ParamListInfo list = makeParamList(count);

	if (count > query->nargs)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_PARAMETER),
				 errmsg("%s of a shadow read has %d parameters, and args has %d elements", query->name, count, query->nargs)));
	for (int i = 0; i < count; i++)
	{
		ParamExternData *param = &list->params[i];
		Oid			input;
		Oid			ioparam;

		getTypeInputInfo(types[i], &input, &ioparam);
		param->ptype = types[i];
		param->pflags = PARAM_FLAG_CONST;
		param->isnull = query->args[i] == NULL;
		param->value = OidInputFunctionCall(input, query->args[i], ioparam, -1);
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

int64
dw_buffers_used(void)
{
	return pgBufferUsage.shared_blks_hit + pgBufferUsage.shared_blks_read +
		pgBufferUsage.local_blks_hit + pgBufferUsage.local_blks_read;
}

static SPIPlanPtr
prepare(const char *text, int count, Oid *types)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(text, count, types, CURSOR_OPT_PARALLEL_OK);

	if (plan == NULL)
		elog(ERROR, "could not prepare a query: %s", SPI_result_code_string(SPI_result));
	return plan;
}

static void
execute(SPIPlanPtr plan, const SPIExecuteOptions *options)
{
	if (SPI_execute_plan_extended(plan, options) < 0)
		elog(ERROR, "could not execute a query: %s", SPI_result_code_string(SPI_result));
}

void
dw_answer_get(DwAnswer *answer, const DwQueryText *query, TupleDesc desc, uint64 limit)
{
	MemoryContext context = CurrentMemoryContext;
	SPIExecuteOptions options = {.read_only = true, .tcount = limit};
	int64		buffers = dw_buffers_used();
	instr_time	start;
	instr_time	end;
	Oid		   *types;
	int			count;
	SPIPlanPtr	plan;

	INSTR_TIME_SET_CURRENT(start);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	types = parameter_types(query->name, query->text, &count);
	options.params = parameters(query, count, types);
	plan = prepare(query->text, count, types);
	answer->relations = relations_of(plan, context);
	options.dest = CreateTuplestoreDestReceiver();
	SetTuplestoreDestReceiverParams(options.dest, answer->rows, context, false, desc,
									psprintf("%s of the shadow read does not return the columns that its caller lists", query->name));
	execute(plan, &options);
	answer->count = SPI_processed;
	options.dest->rDestroy(options.dest);
	SPI_finish();
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	answer->us = (int64) INSTR_TIME_GET_MICROSEC(end);
	answer->buffers = dw_buffers_used() - buffers;
}

char *
dw_answer_plan(const DwQueryText *query)
{
	MemoryContext context = CurrentMemoryContext;
	SPIExecuteOptions options = {0};
	StringInfoData text;
	Oid		   *types;
	int			count;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	types = parameter_types(query->name, query->text, &count);
	options.params = parameters(query, count, types);
	execute(prepare(psprintf("EXPLAIN %s", query->text), count, types), &options);
	MemoryContextSwitchTo(context);
	initStringInfo(&text);
	for (uint64 i = 0; i < SPI_processed; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? "\n" : "", SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	return text.data;
}
