/*
 * swap.c: the new table takes the old one's name, and gives it back.
 *
 * What there is to do is swapplan.c's; here it is done, in the transaction that changes the phase and under ACCESS EXCLUSIVE on
 * both tables: whoever waits for a name finds out, once we have committed, what it means now.  The statements that take it
 * all back are noted in _dualwrite.swap_step, so that the way back is exact whatever the tables look like then.  On that way
 * renames are a must; for anything else a warning is better than a migration that cannot be rolled back at night.
 *
 * Statements run as the extension's owner, since whoever drives the migration need not be able to change publications or views
 * of others (the plan has asked for the rights that a swap by hand would need), except those that parse an expression of a
 * user's: these run as its owner, security-restricted.
 *
 * Nothing here may lock what dw_swap_locks has not named, but for a moment.
 */
#include "postgres.h"

#include "absorb.h"
#include "locks.h"
#include "owner.h"
#include "settings.h"
#include "sql.h"
#include "swap.h"
#include "swapplan.h"
#include "tables.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

/* A statement on its way. */
typedef struct Statement
{
	const char *text;
	const char *run_as;			/* NULL: the extension's owner */
} Statement;

bool
dw_swap_wanted(const DwMigration *migration)
{
	return !migration->names_swapped && dw_setting_bool(migration->id, "cutover_swap_names");
}

static List *
add_tables(List *relations, List *mappings, bool is_new)
{
	ListCell   *lc;

	foreach(lc, mappings)
	{
		DwMapping  *mapping = lfirst(lc);

		if (mapping->old_table != mapping->new_table)
			relations = list_append_unique_oid(relations, is_new ? mapping->new_table : mapping->old_table);
	}
	return relations;
}

/* Sequences and views that the noted steps take back, as far as they still exist. */
static List *
add_noted(List *relations, const DwMigration *migration)
{
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql("SELECT s.relation::oid FROM _dualwrite.swap_step s JOIN pg_class c ON c.oid = s.relation::oid"
				   " WHERE s.migration_id = $1 ORDER BY s.ordinal", 1, (DwArg[]) {DW_INT4(migration->id)});
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		Oid			relid = DatumGetObjectId(dw_sql_value(i, 1, &isnull));
		MemoryContext old = MemoryContextSwitchTo(sql.caller);

		relations = list_append_unique_oid(relations, relid);
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return relations;
}

List *
dw_swap_locks(const DwMigration *migration)
{
	List	   *mappings = dw_mappings_of(migration->id);
	List	   *relations = add_tables(NIL, mappings, migration->names_swapped);
	ListCell   *lc;

	relations = add_tables(relations, mappings, !migration->names_swapped);
	if (migration->names_swapped)
		return add_noted(relations, migration);
	foreach(lc, dw_swap_plan(migration)->steps)
	{
		DwSwapStep *step = lfirst(lc);

		if (OidIsValid(step->relation))
			relations = list_append_unique_oid(relations, step->relation);
	}
	return relations;
}

/* Say in errors which statement they are about. */
static void
add_context(void *arg)
{
	errcontext("swap of names: %s", ((const Statement *) arg)->text);
}

static void
run(void *arg)
{
	const Statement *statement = arg;
	ErrorContextCallback callback = {error_context_stack, add_context, arg};
	DwOwnerScope scope;
	DwSql		sql;
	int			rc;

	error_context_stack = &callback;
	dw_sql_begin(&sql);
	if (statement->run_as != NULL)
		dw_owner_enter(&scope, get_role_oid(statement->run_as, false), true);
	CommandCounterIncrement();
	rc = SPI_execute(statement->text, false, 0);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", statement->text, SPI_result_code_string(rc));
	if (statement->run_as != NULL)
		dw_owner_leave(&scope);
	dw_sql_end(&sql);
	error_context_stack = callback.previous;
}

/* Whatever locks statements take besides, they do not wait for them longer than a change of phase does. */
static int
limit_waits(const DwMigration *migration)
{
	int			nest = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", psprintf("%d", dw_lock_budget(migration->id)),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest;
}

static void
note_step(const DwMigration *migration, int ordinal, const DwSwapStep *step)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("INSERT INTO _dualwrite.swap_step (migration_id, ordinal, rename, relation, during, object, undo, run_as)"
		   " VALUES ($1, $2, $3, nullif($4, 0::oid)::regclass, $5, $6, $7, $8)",
		   8, (DwArg[]) {DW_INT4(migration->id), DW_INT4(ordinal), DW_BOOL(step->rename), DW_OID(step->relation),
		   DW_TEXT(step->during), DW_TEXT(step->object), DW_TEXT(step->undo), DW_TEXT(step->run_as)});
	dw_sql_end(&sql);
}

/* Names are kept beside OIDs, for messages and for when a table is gone. */
static void
note_names(const DwMigration *migration, bool swapped)
{
	ListCell   *lc;
	DwSql		sql;

	dw_sql_begin(&sql);
	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);

		if (get_rel_name(mapping->old_table) != NULL && get_rel_name(mapping->new_table) != NULL)
			dw_sql("UPDATE _dualwrite.mapping SET old_name = $2, new_name = $3 WHERE id = $1",
				   3, (DwArg[]) {DW_INT4(mapping->id), DW_TEXT(dw_table_name(mapping->old_table)),
				   DW_TEXT(dw_table_name(mapping->new_table))});
	}
	dw_sql("UPDATE _dualwrite.migration SET names_swapped = $2 WHERE id = $1",
		   2, (DwArg[]) {DW_INT4(migration->id), DW_BOOL(swapped)});
	dw_sql_end(&sql);
}

/* {"done": ["…", …], "stays": ["…", …]} */
static char *
event_detail(const DwSwapPlan *plan)
{
	StringInfoData json;
	const char *separator = "";
	ListCell   *lc;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"done\": [");
	foreach(lc, plan->steps)
	{
		appendStringInfoString(&json, separator);
		escape_json(&json, ((DwSwapStep *) lfirst(lc))->object);
		separator = ", ";
	}
	appendStringInfoString(&json, "], \"stays\": [");
	separator = "";
	foreach(lc, plan->problems)
	{
		appendStringInfoString(&json, separator);
		escape_json(&json, ((DwSwapProblem *) lfirst(lc))->object);
		separator = ", ";
	}
	appendStringInfoString(&json, "]}");
	return json.data;
}

void
dw_swap_names(const DwMigration *migration)
{
	DwSwapPlan *plan = dw_swap_plan(migration);
	int			nest = limit_waits(migration);
	int			ordinal = 0;
	ListCell   *lc;

	foreach(lc, plan->steps)
	{
		DwSwapStep *step = lfirst(lc);

		run(&(Statement) {step->statement, step->run_as});
		note_step(migration, ++ordinal, step);
	}
	AtEOXact_GUC(true, nest);
	note_names(migration, true);
	dw_event_record(migration->name, "names_swapped", -1, -1, NIL, NULL, event_detail(plan));
}

/* Read what was noted: renames last first, then the rest. */
static List *
noted_steps(const DwMigration *migration)
{
	List	   *steps = NIL;
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	/* what was replaced and has been dropped since needs no replacing */
	count = dw_sql("SELECT rename, coalesce(relation::oid, 0::oid), during, object, undo, run_as FROM _dualwrite.swap_step"
				   " WHERE migration_id = $1 AND (relation IS NULL OR EXISTS (SELECT FROM pg_class c WHERE c.oid = relation::oid))"
				   " ORDER BY rename DESC, CASE WHEN rename THEN -ordinal ELSE ordinal END",
				   1, (DwArg[]) {DW_INT4(migration->id)});
	for (uint64 i = 0; i < count; i++)
	{
		DwSwapStep *step = MemoryContextAllocZero(sql.caller, sizeof(DwSwapStep));
		bool		isnull;
		MemoryContext old;

		step->rename = DatumGetBool(dw_sql_value(i, 1, &isnull));
		step->relation = DatumGetObjectId(dw_sql_value(i, 2, &isnull));
		step->during = dw_sql_cstring(&sql, i, 3);
		step->object = dw_sql_cstring(&sql, i, 4);
		step->undo = dw_sql_cstring(&sql, i, 5);
		step->run_as = dw_sql_cstring(&sql, i, 6);
		old = MemoryContextSwitchTo(sql.caller);
		steps = lappend(steps, step);
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return steps;
}

/* The statement names what it renames: it must still be what was meant. */
static void
check_name(const DwMigration *migration, const DwSwapStep *step)
{
	if (!OidIsValid(step->relation) || strcmp(dw_table_name(step->relation), step->during) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot swap the names of migration \"%s\" back: %s has been renamed since", migration->name, step->during),
			 errdetail("It is called %s now.", dw_table_name(step->relation)),
			 errhint("Rename it to %s, then call again.", step->during)));
}

static void
take_back(const DwMigration *migration, const DwSwapStep *step)
{
	Statement	statement = {step->undo, step->run_as};
	DwError		error;

	if (step->rename)
	{
		check_name(migration, step);
		run(&statement);
	}
	else if (!dw_try(run, &statement, false, NULL, &error))
		ereport(WARNING,
				(errmsg("%s stays as it was made by the swap of names: %s", step->object, error.message),
				 errhint("Run it by hand: %s;", step->undo)));
}

void
dw_swap_names_back(const DwMigration *migration)
{
	int			nest = limit_waits(migration);
	ListCell   *lc;

	foreach(lc, noted_steps(migration))
		take_back(migration, lfirst(lc));
	AtEOXact_GUC(true, nest);
	dw_swap_forget(migration);
	note_names(migration, false);
	dw_event_record(migration->name, "names_swapped_back", -1, -1, NIL, NULL, NULL);
}

void
dw_swap_forget(const DwMigration *migration)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("DELETE FROM _dualwrite.swap_step WHERE migration_id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
}
