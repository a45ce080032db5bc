/*
 * drive.c: what users call to move a migration.
 *
 * Each function checks its arguments and how it was called, calls one core function and returns.
 */
#include "postgres.h"

#include "dropold.h"
#include "gates.h"
#include "phase.h"
#include "swapplan.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(dualwrite_advance);
PG_FUNCTION_INFO_V1(dualwrite_rollback);
PG_FUNCTION_INFO_V1(dualwrite_gates);
PG_FUNCTION_INFO_V1(dualwrite_pause);
PG_FUNCTION_INFO_V1(dualwrite_resume);
PG_FUNCTION_INFO_V1(dualwrite_set_read_percent);
PG_FUNCTION_INFO_V1(dualwrite_install_triggers);
PG_FUNCTION_INFO_V1(dualwrite_drop_old);
PG_FUNCTION_INFO_V1(dualwrite_swap_plan);
PG_FUNCTION_INFO_V1(dualwrite_blocked_by);
PG_FUNCTION_INFO_V1(dualwrite_next_step);

/* A text argument; NULL for null. */
static char *
text_arg(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

/* A text argument that must be there. */
static char *
required_text_arg(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name),
				 errhint("See dualwrite.status for the migrations of this database.")));
	return text_to_cstring(PG_GETARG_TEXT_PP(i));
}

static bool
bool_arg(FunctionCallInfo fcinfo, int i)
{
	return !PG_ARGISNULL(i) && PG_GETARG_BOOL(i);
}

/* text[] as list of char *; nulls in it are passed over. */
static List *
text_list_arg(FunctionCallInfo fcinfo, int i)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *list = NIL;

	if (PG_ARGISNULL(i))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(i), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int e = 0; e < count; e++)
		if (!nulls[e])
			list = lappend(list, TextDatumGetCString(elements[e]));
	return list;
}

/*
 * Does the client's statement call us, or a function of somebody's that may go on afterwards?  An SPI connection is that of a
 * procedural language (or of SPI code in C); a function in SQL runs an executor within the statement's executor, which
 * shows in the memory contexts.  Nothing in the server answers the question for functions.
 */
static bool
called_by_client(void)
{
	int			executors = 0;

	if (SPI_unregister_relation("dualwrite") != SPI_ERROR_UNCONNECTED)
		return false;
	for (MemoryContext context = CurrentMemoryContext; context != NULL; context = context->parent)
		if (strcmp(context->name, "ExecutorState") == 0)
			executors++;
	return executors <= 1;
}

/*
 * A change of phase takes strong locks and must see what is so now: its transaction has to end with the call, and every
 * statement in it needs a snapshot of its own.  ERROR 25001, or 25006 on a standby and in read-only transactions.
 */
static void
require_own_transaction(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventInTransactionBlock(called_by_client(), function);
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s needs isolation level READ COMMITTED", function),
				 errhint("Run SET default_transaction_isolation = 'read committed' and call it again.")));
}

/* advance(migration text, to_phase text, force boolean, waive text[], reason text) returns text */
Datum
dualwrite_advance(PG_FUNCTION_ARGS)
{
	char	   *migration = required_text_arg(fcinfo, 0, "migration");

	require_own_transaction("dualwrite.advance");
	PG_RETURN_TEXT_P(cstring_to_text(dw_phase_name(dw_phase_advance(migration, text_arg(fcinfo, 1), bool_arg(fcinfo, 2),
																	text_list_arg(fcinfo, 3), text_arg(fcinfo, 4)))));
}

/* rollback(migration text, to_phase text, force boolean, reason text) returns text */
Datum
dualwrite_rollback(PG_FUNCTION_ARGS)
{
	char	   *migration = required_text_arg(fcinfo, 0, "migration");

	require_own_transaction("dualwrite.rollback");
	PG_RETURN_TEXT_P(cstring_to_text(dw_phase_name(dw_phase_rollback(migration, text_arg(fcinfo, 1), bool_arg(fcinfo, 2),
																	 text_arg(fcinfo, 3)))));
}

/* install_triggers(migration text) returns integer */
Datum
dualwrite_install_triggers(PG_FUNCTION_ARGS)
{
	char	   *migration = required_text_arg(fcinfo, 0, "migration");

	require_own_transaction("dualwrite.install_triggers");
	PG_RETURN_INT32(dw_phase_install_triggers(migration));
}

/* gates(migration text) returns table (gate text, passed boolean, detail text) */
Datum
dualwrite_gates(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DwMigration *migration = dw_migration_get(required_text_arg(fcinfo, 0, "migration"), false);
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, dw_gates_check(migration))
	{
		DwGate	   *gate = lfirst(lc);
		Datum		values[3] = {CStringGetTextDatum(gate->name), BoolGetDatum(gate->passed), CStringGetTextDatum(gate->detail)};
		bool		nulls[3] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* pause(migration text) returns void */
Datum
dualwrite_pause(PG_FUNCTION_ARGS)
{
	dw_phase_pause(required_text_arg(fcinfo, 0, "migration"), true);
	PG_RETURN_VOID();
}

/* resume(migration text) returns void */
Datum
dualwrite_resume(PG_FUNCTION_ARGS)
{
	char	   *migration = required_text_arg(fcinfo, 0, "migration");

	/* after a restore it goes back to the copy */
	if (dw_migration_get(migration, false)->restored)
		require_own_transaction("dualwrite.resume of a restored migration");
	dw_phase_pause(migration, false);
	PG_RETURN_VOID();
}

/* set_read_percent(migration text, percent numeric) returns void */
Datum
dualwrite_set_read_percent(PG_FUNCTION_ARGS)
{
	char	   *migration = required_text_arg(fcinfo, 0, "migration");

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("percent must not be null"),
				 errhint("Give a number from 0 to 100.")));
	dw_phase_set_read_percent(migration, DatumGetFloat8(DirectFunctionCall1(numeric_float8, PG_GETARG_DATUM(1))));
	PG_RETURN_VOID();
}

/* drop_old(migration text, dry_run boolean) returns integer */
Datum
dualwrite_drop_old(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(dw_drop_old(required_text_arg(fcinfo, 0, "migration"), bool_arg(fcinfo, 1)));
}

static void
put_swap_row(ReturnSetInfo *rsinfo, const char *action, const char *object, const char *detail, const char *hint)
{
	Datum		values[4] = {CStringGetTextDatum(action), CStringGetTextDatum(object), (Datum) 0, (Datum) 0};
	bool		nulls[4] = {false, false, detail == NULL, hint == NULL};

	if (detail != NULL)
		values[2] = CStringGetTextDatum(detail);
	if (hint != NULL)
		values[3] = CStringGetTextDatum(hint);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* swap_plan(migration text) returns table (action text, object text, detail text, hint text) */
Datum
dualwrite_swap_plan(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DwMigration *migration = dw_migration_get(required_text_arg(fcinfo, 0, "migration"), false);
	DwSwapPlan *plan;
	ListCell   *lc;

	dw_migration_check_owner(migration);
	plan = dw_swap_plan(migration);
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, plan->problems)
	{
		DwSwapProblem *problem = lfirst(lc);

		put_swap_row(rsinfo, problem->refused ? "refused" : "stays", problem->object, problem->problem, problem->hint);
	}
	foreach(lc, plan->steps)
	{
		DwSwapStep *step = lfirst(lc);

		put_swap_row(rsinfo, step->rename ? "rename" : "follows", step->object, step->statement, NULL);
	}
	return (Datum) 0;
}

/* _dualwrite.blocked_by(migration text) returns text[], for the status view */
Datum
dualwrite_blocked_by(PG_FUNCTION_ARGS)
{
	List	   *unmet = dw_gates_unmet(dw_gates_check(dw_migration_get(required_text_arg(fcinfo, 0, "migration"), false)));
	Datum	   *names = palloc(sizeof(Datum) * (list_length(unmet) + 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, unmet)
		names[n++] = CStringGetTextDatum(((DwGate *) lfirst(lc))->name);
	PG_RETURN_ARRAYTYPE_P(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* _dualwrite.next_step(migration text) returns text, for the status view */
Datum
dualwrite_next_step(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(dw_next_step(dw_migration_get(required_text_arg(fcinfo, 0, "migration"), false))));
}
