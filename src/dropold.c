/*
 * dropold.c: the end of the old side.
 *
 * Whether anything depends on the old tables is answered by the server itself: they are dropped with RESTRICT, all in one
 * statement, in a subtransaction.  Sequences that an old column owns and a new one draws from change owner first; they
 * would go with the old table, and the new one's default with them.  Bodies of functions are text that the server
 * does not look into: those that mention a table are named to the user.
 *
 * It must never CASCADE, and never run as anybody but the caller.
 */
#include "postgres.h"

#include "dropold.h"
#include "locks.h"
#include "mapping.h"
#include "oldcolumns.h"
#include "phase.h"
#include "sql.h"
#include "tables.h"
#include "triggers.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* What is to be done, statement by statement, and how to say it. */
typedef struct DropPlan
{
	const DwMigration *migration;
	List	   *mappings;
	List	   *tables;			/* OIDs to be dropped */
	List	   *altered;		/* OIDs of tables that lose columns */
	List	   *statements;		/* of char *, run in this order */
	List	   *notices;		/* of char * */
	int			count;
} DropPlan;

static void
add_statement(DropPlan *plan, char *statement, char *notice)
{
	plan->statements = lappend(plan->statements, statement);
	plan->notices = lappend(plan->notices, notice);
}

/* In place there is no old table, only the columns that the new ones replace. */
static void
plan_columns(DropPlan *plan, const DwMapping *mapping)
{
	List	   *names = dw_old_columns_of(mapping);
	StringInfoData columns;
	ListCell   *lc;

	if (names == NIL)
		return;
	initStringInfo(&columns);
	foreach(lc, names)
		appendStringInfo(&columns, "%sDROP COLUMN %s", columns.len > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	plan->altered = list_append_unique_oid(plan->altered, mapping->old_table);
	plan->count += list_length(names);
	add_statement(plan, psprintf("ALTER TABLE %s %s", dw_table_name(mapping->old_table), columns.data),
				  psprintf("table %s: %s", dw_table_name(mapping->old_table), columns.data));
}

/* What the server would drop along with the columns, without a word. */
static void
refuse_shared_columns(const DropPlan *plan)
{
	ListCell   *lc;

	foreach(lc, plan->mappings)
	{
		DwMapping  *mapping = lfirst(lc);
		char	   *list = NULL;

		if (DW_IN_PLACE(mapping) && get_rel_name(mapping->old_table) != NULL)
			list = dw_old_columns_shared(mapping, dw_old_columns_of(mapping));
		if (list != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop the old columns of table %s: other objects are about columns that stay, too",
							mapping->old_name),
					 errdetail_internal("%s", list),
					 errhint("Drop those objects, or create them anew over the new columns, then call again.")));
	}
}

#define BORROWED_SEQUENCES \
	"SELECT s.oid, f.adrelid, f.adnum::int, n.relnamespace = s.relnamespace AND n.relowner = s.relowner" \
	" FROM pg_depend o JOIN pg_class s ON s.oid = o.objid AND s.relkind = 'S'" \
	" JOIN pg_depend u ON u.refclassid = 'pg_class'::regclass AND u.refobjid = s.oid AND u.classid = 'pg_attrdef'::regclass" \
	" JOIN pg_attrdef f ON f.oid = u.objid JOIN pg_class n ON n.oid = f.adrelid" \
	" WHERE o.classid = 'pg_class'::regclass AND o.refclassid = 'pg_class'::regclass AND o.refobjid = $1 AND o.deptype = 'a'" \
	" AND f.adrelid = ANY ($2) ORDER BY s.oid, f.adrelid"

static DwArg
oid_array(List *oids)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(list_length(oids), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, oids)
		values[n++] = ObjectIdGetDatum(lfirst_oid(lc));
	return DW_DATUM(OIDARRAYOID,
					PointerGetDatum(construct_array(values, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT)), false);
}

/* The new table keeps the sequence: as its owner where the rules allow it, else nobody owns it. */
static void
plan_sequences(DropPlan *plan, Oid table, List *new_tables)
{
	DwSql		sql;
	uint64		count;
	Oid			done = InvalidOid;

	dw_sql_begin(&sql);
	count = dw_sql(BORROWED_SEQUENCES, 2, (DwArg[]) {DW_OID(table), oid_array(new_tables)});
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		Oid			sequence = DatumGetObjectId(dw_sql_value(i, 1, &isnull));
		Oid			user = DatumGetObjectId(dw_sql_value(i, 2, &isnull));
		AttrNumber	attno = (AttrNumber) DatumGetInt32(dw_sql_value(i, 3, &isnull));
		MemoryContext old;
		char	   *owner;

		if (sequence == done)
			continue;
		done = sequence;
		old = MemoryContextSwitchTo(sql.caller);
		owner = DatumGetBool(dw_sql_value(i, 4, &isnull)) ?
			psprintf("%s.%s", dw_table_name(user), quote_identifier(get_attname(user, attno, false))) : "NONE";
		add_statement(plan, psprintf("ALTER SEQUENCE %s OWNED BY %s", dw_table_name(sequence), owner),
					  psprintf("sequence %s: owned by %s from now on", dw_table_name(sequence), owner));
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
}

/* Another migration's table cannot go. */
static void
refuse_shared(const DropPlan *plan)
{
	DwSql		sql;
	char	   *list;

	dw_sql_begin(&sql);
	dw_sql("SELECT string_agg(DISTINCT format('Migration \"%s\" maps %s.', m.name,"
		   " CASE WHEN p.old_table::oid = ANY ($2) THEN p.old_name ELSE p.new_name END), E'\\n')"
		   " FROM _dualwrite.mapping p JOIN _dualwrite.migration m ON m.id = p.migration_id"
		   " WHERE m.id <> $1 AND NOT m.old_dropped AND (p.old_table::oid = ANY ($2) OR p.new_table::oid = ANY ($2))",
		   2, (DwArg[]) {DW_INT4(plan->migration->id), oid_array(plan->tables)});
	list = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	if (list != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop the old side of migration \"%s\": another migration needs it", plan->migration->name),
				 errdetail_internal("%s", list),
				 errhint("Drop that migration first.")));
}

static DropPlan *
make_plan(const DwMigration *migration)
{
	DropPlan   *plan = palloc0(sizeof(DropPlan));
	List	   *new_tables = NIL;
	StringInfoData names;
	ListCell   *lc;

	plan->migration = migration;
	plan->mappings = dw_mappings_of(migration->id);
	foreach(lc, plan->mappings)
	{
		DwMapping  *mapping = lfirst(lc);

		new_tables = list_append_unique_oid(new_tables, mapping->new_table);
		if (get_rel_name(mapping->old_table) == NULL)
			continue;
		if (DW_IN_PLACE(mapping))
			plan_columns(plan, mapping);
		else
			plan->tables = list_append_unique_oid(plan->tables, mapping->old_table);
	}
	/* the target of another mapping of this migration stays */
	plan->tables = list_difference_oid(plan->tables, new_tables);
	refuse_shared(plan);
	refuse_shared_columns(plan);
	initStringInfo(&names);
	foreach(lc, plan->tables)
	{
		plan_sequences(plan, lfirst_oid(lc), new_tables);
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", dw_table_name(lfirst_oid(lc)));
	}
	plan->count += list_length(plan->tables);
	if (plan->tables != NIL)
		add_statement(plan, psprintf("DROP TABLE %s RESTRICT", names.data), psprintf("table %s: dropped", names.data));
	return plan;
}

/* Functions whose text has the name of a table in it as a word. */
static void
warn_of_mentions(const DropPlan *plan, int level)
{
	ListCell   *lc;

	foreach(lc, plan->tables)
	{
		DwSql		sql;
		char	   *list;

		dw_sql_begin(&sql);
		dw_sql("SELECT string_agg(f.oid::regprocedure::text, ', ' ORDER BY f.oid::regprocedure::text) FROM pg_proc f"
			   " JOIN pg_language l ON l.oid = f.prolang WHERE l.lanname NOT IN ('internal', 'c')"
			   " AND f.pronamespace <> ALL (ARRAY['pg_catalog', 'information_schema', 'dualwrite', '_dualwrite']::regnamespace[])"
			   " AND f.prosrc ~* ('\\m' || regexp_replace($1, '([^[:alnum:]_])', '\\\\\\1', 'g') || '\\M')",
			   1, (DwArg[]) {DW_TEXT(get_rel_name(lfirst_oid(lc)))});
		list = dw_sql_cstring(&sql, 0, 1);
		dw_sql_end(&sql);
		if (list != NULL)
			ereport(level,
					(errmsg("functions mention \"%s\" in their text: %s", get_rel_name(lfirst_oid(lc)), list),
					 errhint("Nothing but their next call will tell whether they mean the table that goes.")));
	}
}

static void
lock_tables(const DropPlan *plan)
{
	dw_lock_politely(list_concat_copy(plan->tables, plan->altered), AccessExclusiveLock,
					 dw_lock_budget(plan->migration->id), DW_LOCK_TRIES);
}

/* The statements, as the caller, with a short fuse for locks that they take on further tables. */
static void
run_statements(const DropPlan *plan)
{
	int			nest = NewGUCNestLevel();
	ListCell   *lc;

	(void) set_config_option("lock_timeout", psprintf("%d", dw_lock_budget(plan->migration->id)),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	foreach(lc, plan->statements)
	{
		int			rc = SPI_execute(lfirst(lc), false, 0);

		if (rc < 0)
			elog(ERROR, "could not execute \"%s\": %s", (char *) lfirst(lc), SPI_result_code_string(rc));
	}
	SPI_finish();
	AtEOXact_GUC(true, nest);
}

/* What stands in the way, in our words, with the server's list. */
static void
raise_dependents(const DropPlan *plan, ErrorData *error)
{
	if (error->sqlerrcode != ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST)
		ReThrowError(error);
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot drop the old side of migration \"%s\": other objects depend on it", plan->migration->name),
			 errdetail_internal("%s", error->detail ? error->detail : error->message),
			 errhint("Move those objects to the new table, or drop them, then call again.")));
}

/* Run the plan in a subtransaction, and keep it or not. */
static void
execute_plan(const DropPlan *plan, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		lock_tables(plan);
		run_statements(plan);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL)
		raise_dependents(plan, error);
}

/* {"dropped": ["...", ...]} */
static char *
event_detail(const DropPlan *plan)
{
	StringInfoData json;
	ListCell   *lc;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"done\": [");
	foreach(lc, plan->notices)
	{
		if (lc != list_head(plan->notices))
			appendStringInfoString(&json, ", ");
		escape_json(&json, lfirst(lc));
	}
	appendStringInfoString(&json, "]}");
	return json.data;
}

static void
note_dropped(const DropPlan *plan)
{
	DwSql		sql;
	ListCell   *lc;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.migration SET old_dropped = true WHERE id = $1", 1, (DwArg[]) {DW_INT4(plan->migration->id)});
	dw_sql_end(&sql);
	foreach(lc, plan->altered)
		dw_triggers_remove(lfirst_oid(lc));
	dw_event_record(plan->migration->name, "drop_old", -1, -1, NIL, NULL, event_detail(plan));
	dw_mapping_invalidate(plan->migration->id);
}

int
dw_drop_old(const char *name, bool dry_run)
{
	DwMigration *migration = dw_phase_take(name);
	DropPlan   *plan;
	ListCell   *lc;

	if (migration->phase != DW_PHASE_COMPLETE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot drop the old side of migration \"%s\" in phase \"%s\"", name, dw_phase_name(migration->phase)),
				 errhint("It can be dropped once the migration is complete.")));
	if (migration->old_dropped)
		return 0;
	plan = make_plan(migration);
	execute_plan(plan, !dry_run);
	warn_of_mentions(plan, dry_run ? NOTICE : WARNING);
	if (dry_run)
		foreach(lc, plan->notices)
			ereport(NOTICE, (errmsg("would change %s", (char *) lfirst(lc))));
	else
		note_dropped(plan);
	return plan->count;
}
