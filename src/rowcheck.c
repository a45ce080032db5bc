/*
 * rowcheck.c: would the table take this row?
 *
 * Where an error of the new columns must not reach the application, it has to be known before the executor raises it.  What
 * the check needs is prepared once for a table and kept with what the trigger knows of it; a change of the table throws both away.
 *
 * Unique, exclusion and foreign key constraints cannot be asked beforehand.
 */
#include "postgres.h"

#include "rowcheck.h"

#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "utils/memutils.h"

typedef struct DwRowCheck
{
	EState	   *estate;
	ResultRelInfo *rri;
	TupleTableSlot *slot;
} DwRowCheck;

static DwRowCheck *
prepare(DwTable *table, Relation rel)
{
	MemoryContext old = MemoryContextSwitchTo(table->context);
	DwRowCheck *check = palloc0(sizeof(DwRowCheck));

	check->estate = CreateExecutorState();
	MemoryContextSwitchTo(check->estate->es_query_cxt);
	check->rri = makeNode(ResultRelInfo);
	InitResultRelInfo(check->rri, rel, 0, NULL, 0);
	check->slot = MakeSingleTupleTableSlot(CreateTupleDescCopyConstr(RelationGetDescr(rel)), &TTSOpsHeapTuple);
	MemoryContextSwitchTo(old);
	return check;
}

void
dw_row_check(DwTable *table, Relation rel, HeapTuple tuple)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;
	DwRowCheck *check;

	if (constr == NULL)
		return;
	if (table->check == NULL)
		table->check = prepare(table, rel);
	check = table->check;
	check->rri->ri_RelationDesc = rel;
	ResetPerTupleExprContext(check->estate);
	ExecStoreHeapTuple(tuple, check->slot, false);
	check->slot->tts_tableOid = RelationGetRelid(rel);
	if (constr->has_generated_stored)
		ExecComputeStoredGenerated(check->rri, check->estate, check->slot, CMD_INSERT);
	ExecConstraints(check->rri, check->slot, check->estate);
	ExecClearTuple(check->slot);
}
