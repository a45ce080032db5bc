/*
 * autoread.c: shadow reads that the application does not ask for.
 *
 * An executor hook takes a share of the SELECTs which clients send to an old table, runs them against the new one as well,
 * in the same snapshot, and has the two answers compared like those of shadow_read.  The client gets its rows from the
 * statement that it sent, as they come; a copy of them is kept on the way, up to shadow_read_max_rows.
 *
 * All others must not notice: a statement that is not a client's SELECT costs a few tests, and one on other tables a look
 * into a hash table for each of them.  What goes wrong here is never the client's error.
 */
#include "postgres.h"

#include "absorb.h"
#include "autoread.h"
#include "compat.h"
#include "mapping.h"
#include "otherside.h"
#include "owner.h"
#include "settings.h"
#include "shadowread.h"

#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "commands/explain.h"
#include "common/pg_prng.h"
#include "executor/executor.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* What is known of a table that some statement has read. */
typedef struct DwSampledTable
{
	Oid			relid;			/* hash key */
	bool		known;
	double		percent;		/* of its SELECTs that are sampled; 0 for what is no old table whose migration wants that */
	int32		migration_id;
} DwSampledTable;

static ExecutorRun_hook_type previous_run = NULL;
static HTAB *tables = NULL;

/* A SELECT that is being sampled. */
typedef struct DwSample
{
	DwShadowRequest request;	/* first, so that the callbacks find the rest */
	QueryDesc  *query_desc;
	DwReadText	read;
	Tuplestorestate *rows;
	DwShadowRun *run;			/* NULL: it is not to be compared after all */
	DwSampledTable table;
} DwSample;

/* Passes rows on to the client and keeps a copy of the first ones. */
typedef struct DwTee
{
	DestReceiver pub;
	DestReceiver *client;
	Tuplestorestate *rows;
	uint64		keep;
	uint64		count;
	instr_time	sending;		/* time that the client took */
} DwTee;

static void
relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS scan;
	DwSampledTable *table;

	(void) arg;
	if (OidIsValid(relid))
	{
		table = hash_search(tables, &relid, HASH_FIND, NULL);
		if (table != NULL)
			table->known = false;
		return;
	}
	hash_seq_init(&scan, tables);
	while ((table = hash_seq_search(&scan)) != NULL)
		table->known = false;
}

/* Rows of a foreign table are read with whatever rights its server's owner has arranged for: not behind a reader's back. */
static bool
has_foreign_part(Oid relid)
{
	ListCell   *lc;

	foreach(lc, dw_heaps_of(relid, NoLock))
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			return true;
	return false;
}

/*
 * Do the migration's new tables hold all rows of the old one, and nothing but them?  A filter leaves rows out, unless other
 * mappings take them up.  Nor are tables of another owner read behind a reader's back: planning runs functions of their
 * indexes and statistics.
 */
static bool
comes_back_whole(int32 migration_id, Oid old_table)
{
	int			whole = 0;
	int			shards = 0;
	bool		owned = false;
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration_id))
	{
		DwMapping  *mapping = lfirst(lc);

		if (mapping->old_table != old_table)
			continue;
		if (mapping->new_table == old_table || has_foreign_part(mapping->new_table) ||
			dw_relation_owner(mapping->new_table) != dw_relation_owner(old_table))
			return false;
		owned |= (mapping->owns & DW_OWNS_OLD) != 0;
		if (mapping->filter == NULL)
			whole++;
		else
			shards++;
	}
	return owned && (whole > 0 || shards > 1);
}

/* Which migration samples this table's SELECTs, and how many of them. */
static void
learn(void *arg)
{
	DwSampledTable *table = arg;
	ListCell   *lc;

	foreach(lc, dw_mappings_on(table->relid))
	{
		DwMapping  *mapping = dw_mapping_by_id(lfirst_int(lc));
		DwMigration *migration = mapping ? dw_migration_by_id(mapping->migration_id, false) : NULL;

		if (migration == NULL || mapping->old_table != table->relid || migration->phase < DW_PHASE_VERIFY ||
			DW_TRUTH_DIRECTION(migration->phase) != DW_FORWARD || !comes_back_whole(migration->id, table->relid))
			continue;
		table->percent = dw_setting_real(migration->id, "shadow_read_auto_percent");
		table->migration_id = migration->id;
		if (table->percent > 0)
			return;
	}
}

/* Every table of a migration at work carries our triggers: without any, no look at the extension's tables is needed. */
static bool
may_be_sampled(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class class;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	class = (Form_pg_class) GETSTRUCT(tuple);
	result = class->relhastriggers && !class->relispartition &&
		(class->relkind == RELKIND_RELATION || class->relkind == RELKIND_PARTITIONED_TABLE);
	ReleaseSysCache(tuple);
	return result;
}

/* What is known of a relation, learnt where need be. */
static DwSampledTable *
table_get(Oid relid)
{
	bool		found;
	DwSampledTable *table = hash_search(tables, &relid, HASH_ENTER, &found);
	DwSampledTable learnt = {.relid = relid};
	DwError		error;

	if (found && table->known)
		return table;
	table->known = true;
	table->percent = 0;
	if (!may_be_sampled(relid))
		return table;
	if (!dw_try(learn, &learnt, false, NULL, &error))
	{
		learnt.percent = 0;
		ereport(DEBUG1,
				(errmsg_internal("SELECTs on relation %u are not sampled: %s", relid, error.message)));
	}
	/* found anew: the table may have moved, or an invalidation have come, meanwhile */
	table = hash_search(tables, &relid, HASH_ENTER, &found);
	table->percent = learnt.percent;
	table->migration_id = learnt.migration_id;
	return table;
}

/* Is it a client's own SELECT, run to its end, where a comparison is of use and does no harm? */
static bool
is_clients_select(QueryDesc *query_desc, ScanDirection direction, uint64 count)
{
	return query_desc->operation == CMD_SELECT && count == 0 && ScanDirectionIsForward(direction) &&
		(query_desc->dest->mydest == DestRemote || query_desc->dest->mydest == DestRemoteExecute) &&
		query_desc->plannedstmt->relationOids != NIL && !query_desc->already_executed &&
		query_desc->plannedstmt->rowMarks == NIL && !query_desc->plannedstmt->hasModifyingCTE &&
		query_desc->plannedstmt->utilityStmt == NULL && MyBackendType == B_BACKEND &&
		!IsParallelWorker() && !RecoveryInProgress() && !IsolationIsSerializable();
}

/* The old table of whose SELECTs this is one, when the lot falls on it; NULL otherwise. */
static DwSampledTable *
draw(QueryDesc *query_desc)
{
	ListCell   *lc;

	foreach(lc, query_desc->plannedstmt->relationOids)
	{
		DwSampledTable *table = table_get(lfirst_oid(lc));

		if (table->percent > 0)
			return pg_prng_double(&pg_global_prng_state) * 100 < table->percent ? table : NULL;
	}
	return NULL;
}

static void
run_statement(QueryDesc *query_desc, ScanDirection direction, uint64 count DW_RUN_ONCE_PARAMETER)
{
	if (previous_run)
		previous_run(query_desc, direction, count DW_RUN_ONCE_ARGUMENT);
	else
		standard_ExecutorRun(query_desc, direction, count DW_RUN_ONCE_ARGUMENT);
}

static void
tee_startup(DestReceiver *self, int operation, TupleDesc desc)
{
	DwTee	   *tee = (DwTee *) self;

	tee->client->rStartup(tee->client, operation, desc);
}

static bool
tee_receive(TupleTableSlot *slot, DestReceiver *self)
{
	DwTee	   *tee = (DwTee *) self;
	instr_time	start;
	instr_time	end;
	bool		more;

	if (tee->count++ < tee->keep)
		tuplestore_puttupleslot(tee->rows, slot);
	INSTR_TIME_SET_CURRENT(start);
	more = tee->client->receiveSlot(slot, tee->client);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_ACCUM_DIFF(tee->sending, end, start);
	return more;
}

static void
tee_shutdown(DestReceiver *self)
{
	DwTee	   *tee = (DwTee *) self;

	tee->client->rShutdown(tee->client);
}

/* The client's receiver is its portal's to destroy. */
static void
tee_destroy(DestReceiver *self)
{
	(void) self;
}

/* The statement as the client sent it: exactly what would have been run without us. */
static void
answer_client(DwSample *sample, DwAnswer *answer)
{
	QueryDesc  *query_desc = sample->query_desc;
	DwTee		tee = {
		.pub = {tee_receive, tee_startup, tee_shutdown, tee_destroy, query_desc->dest->mydest},
		.client = query_desc->dest,
		.rows = answer->rows,
		.keep = (uint64) dw_setting_int(sample->table.migration_id, "shadow_read_max_rows") + 1,
	};
	int64		buffers = dw_buffers_used();
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);
	query_desc->dest = &tee.pub;
	run_statement(query_desc, ForwardScanDirection, 0 DW_RUN_ONCE_TRUE);
	query_desc->dest = tee.client;
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	INSTR_TIME_SUBTRACT(end, tee.sending);
	answer->count = tee.count;
	answer->us = (int64) INSTR_TIME_GET_MICROSEC(end);
	answer->buffers = dw_buffers_used() - buffers;
	answer->relations = list_copy(query_desc->plannedstmt->relationOids);
}

/* The same statement over the new side, planned anew. */
static PlannedStmt *
plan_other_side(const DwSample *sample)
{
	Query	   *query = dw_comparable_query(&sample->read);

	if (query == NULL || !dw_read_other_side(query, &sample->read))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the statement cannot be run against the new side")));
	return pg_plan_query(query, sample->request.queries[DW_SHADOW_NEW], CURSOR_OPT_PARALLEL_OK, sample->read.params);
}

static void
answer_other_side(const DwSample *sample, DwAnswer *answer, uint64 limit)
{
	int64		buffers = dw_buffers_used();
	DestReceiver *dest = CreateTuplestoreDestReceiver();
	QueryDesc  *query_desc;
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);
	SetTuplestoreDestReceiverParams(dest, answer->rows, CurrentMemoryContext, false, sample->request.desc,
									"the statement returns other columns on the new side");
	query_desc = CreateQueryDesc(plan_other_side(sample), sample->request.queries[DW_SHADOW_NEW], GetActiveSnapshot(),
								 InvalidSnapshot, dest, sample->read.params, NULL, 0);
	ExecutorStart(query_desc, 0);
	ExecutorRun(query_desc, ForwardScanDirection, limit DW_RUN_ONCE_TRUE);
	answer->count = query_desc->estate->es_processed;
	answer->relations = list_copy(query_desc->plannedstmt->relationOids);
	ExecutorFinish(query_desc);
	ExecutorEnd(query_desc);
	FreeQueryDesc(query_desc);
	dest->rDestroy(dest);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	answer->us = (int64) INSTR_TIME_GET_MICROSEC(end);
	answer->buffers = dw_buffers_used() - buffers;
}

static void
answer_side(const DwShadowRequest *request, int side, DwAnswer *answer, uint64 limit)
{
	if (side == DW_SHADOW_OLD)
		answer_client((DwSample *) request, answer);
	else
		answer_other_side((const DwSample *) request, answer, limit);
}

static char *
plan_side(const DwShadowRequest *request, int side)
{
	const DwSample *sample = (const DwSample *) request;
	ExplainState *explain = NewExplainState();
	QueryDesc  *query_desc = CreateQueryDesc(side == DW_SHADOW_OLD ? sample->query_desc->plannedstmt : plan_other_side(sample),
											 request->queries[side], GetActiveSnapshot(), InvalidSnapshot,
											 None_Receiver, sample->read.params, NULL, 0);

	explain->costs = true;
	ExecutorStart(query_desc, EXEC_FLAG_EXPLAIN_ONLY);
	ExplainPrintPlan(explain, query_desc);
	ExecutorEnd(query_desc);
	FreeQueryDesc(query_desc);
	return explain->str->data;
}

/* Input text of the parameters, for what is written down. */
static void
read_parameters(DwShadowRequest *request, ParamListInfo params)
{
	request->nargs = params ? params->numParams : 0;
	request->args = palloc0(sizeof(char *) * Max(request->nargs, 1));
	for (int i = 0; i < request->nargs; i++)
	{
		ParamExternData *param = &params->params[i];
		Oid			output;
		bool		varlena;

		if (!OidIsValid(param->ptype) || param->isnull)
			continue;
		getTypeOutputInfo(param->ptype, &output, &varlena);
		request->args[i] = OidOutputFunctionCall(output, param->value);
	}
}

/* Everything that may go wrong before anything is run: the sample's run stays NULL where it is not to be compared. */
static void
prepare_sample(void *arg)
{
	DwSample   *sample = arg;
	QueryDesc  *query_desc = sample->query_desc;
	DwMigration *migration = dw_migration_by_id(sample->table.migration_id, false);
	DwShadowRequest *request = &sample->request;
	int			location = Max(query_desc->plannedstmt->stmt_location, 0);
	int			truth;
	DwShadowRun *run;
	Query	   *query;

	/* once more what was learnt: the new table may have got another owner or a foreign partition */
	if (migration == NULL || !comes_back_whole(migration->id, sample->table.relid) || (query_desc->params != NULL && query_desc->params->paramFetch != NULL))
		return;
	sample->read = (DwReadText) {query_desc->sourceText, location, query_desc->plannedstmt->stmt_len, query_desc->params,
		migration, sample->table.relid};
	query = dw_comparable_query(&sample->read);
	if (query == NULL || !dw_read_other_side(query, &sample->read))
		return;
	request->migration = migration->name;
	request->queries[DW_SHADOW_OLD] = query_desc->plannedstmt->stmt_len > 0 ?
		pnstrdup(query_desc->sourceText + location, query_desc->plannedstmt->stmt_len) : pstrdup(query_desc->sourceText + location);
	request->queries[DW_SHADOW_NEW] = psprintf("/* the new side in place of %s */ %s",
											   get_rel_name(sample->table.relid), request->queries[DW_SHADOW_OLD]);
	request->compare = "set";
	request->desc = BlessTupleDesc(CreateTupleDescCopy(query_desc->tupDesc));
	request->sampled = true;
	request->answer = answer_side;
	request->plan = plan_side;
	read_parameters(request, query_desc->params);
	run = dw_shadow_begin(request, &truth);
	if (truth == DW_SHADOW_OLD)
		sample->run = run;
}

/* true: the statement was run, and compared. */
static bool
run_sampled(QueryDesc *query_desc, const DwSampledTable *table)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dualwrite sampled read", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwSample   *sample = palloc0(sizeof(DwSample));
	DwError		error;
	bool		compared = false;

	sample->query_desc = query_desc;
	sample->table = *table;
	/* undone, for the locks: they are taken again when it is the other side's turn */
	if (!dw_try(prepare_sample, sample, true, NULL, &error))
		ereport(DEBUG1,
				(errmsg_internal("a SELECT on relation %u was not sampled: %s", table->relid, error.message)));
	else if (sample->run != NULL)
	{
		sample->rows = tuplestore_begin_heap(true, false, work_mem);
		dw_shadow_run(sample->run, sample->rows);
		tuplestore_end(sample->rows);
		compared = true;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return compared;
}

static void
executor_run(QueryDesc *query_desc, ScanDirection direction, uint64 count DW_RUN_ONCE_PARAMETER)
{
	DwSampledTable *table = NULL;

	if (is_clients_select(query_desc, direction, count))
		table = draw(query_desc);
	if (table == NULL || !run_sampled(query_desc, table))
		run_statement(query_desc, direction, count DW_RUN_ONCE_ARGUMENT);
}

void
dw_autoread_init(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(DwSampledTable), .hcxt = TopMemoryContext};

	tables = hash_create("dualwrite sampled tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	previous_run = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
}
