/*
 * triggers.c: our triggers on users' tables.
 *
 * They are installed on both sides when a migration leaves "defined" and say nothing about phases: what they do depends on
 * what the backend has cached of the mapping.  Names decide the order: writes first of all triggers, deletes after the
 * foreign key triggers.  Where columns move inside a table it has one trigger instead, behind its other BEFORE triggers.  Row triggers of a partitioned table are cloned to its partitions by the server; statement
 * triggers are not, and each partition gets its own.
 *
 * The statements run as the extension's owner, because CREATE TRIGGER wants EXECUTE on the function, which nobody
 * else has; that the caller owns the table was checked before.  They evaluate nothing of the user's: no WHEN, no
 * expression.  Event triggers see them as they see all DDL of superusers, who alone can create event triggers.
 *
 * Nothing here may touch a trigger that does not call one of our functions.
 */
#include "postgres.h"

#include "mapping.h"
#include "sql.h"
#include "tables.h"
#include "triggers.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

typedef struct DwTriggerSpec
{
	const char *name;
	const char *event;
	const char *level;
	const char *function;
	bool		each_partition; /* not cloned by the server */
	bool		truncate;
	int			roles;			/* of the table that want it */
} DwTriggerSpec;

/* What a table is to the migrations. */
#define MIRRORED	1			/* old or new table of a mapping */
#define LOOKED_UP	2			/* a mapping depends on its rows */
#define IN_PLACE	4			/* both tables of a mapping */

/* Behind the user's own: it has the last word. */
#define COLUMNS_TRIGGER "~dualwrite_columns"

static const DwTriggerSpec specs[] = {
	{"!dualwrite_write", "AFTER INSERT OR UPDATE", "ROW", "mirror", false, false, MIRRORED},
	{"~dualwrite_delete", "AFTER DELETE", "ROW", "mirror", false, false, MIRRORED},
	{"~dualwrite_lookup", "AFTER INSERT OR UPDATE OR DELETE", "ROW", "mirror_lookup", false, false, LOOKED_UP},
	{"~dualwrite_flush", "AFTER INSERT OR UPDATE OR DELETE", "STATEMENT", "mirror_flush", true, false, MIRRORED | LOOKED_UP},
	{"!dualwrite_truncate", "BEFORE TRUNCATE", "STATEMENT", "mirror_truncate", true, true, MIRRORED},
	{"!dualwrite_lookup_truncate", "BEFORE TRUNCATE", "STATEMENT", "mirror_lookup_truncate", true, true, LOOKED_UP},
	{COLUMNS_TRIGGER, "BEFORE INSERT OR UPDATE", "ROW", "mirror_columns", false, false, IN_PLACE},
};

#define NUM_TRIGGERS lengthof(specs)

/* State of each of our triggers on one relation. */
typedef enum DwTriggerState
{
	DW_TRIGGER_MISSING,
	DW_TRIGGER_OFF,				/* present, but does not fire always */
	DW_TRIGGER_FIRES
} DwTriggerState;

static void
read_states(Oid relid, DwTriggerState *states)
{
	uint64		count = dw_sql("SELECT t.tgname::text, t.tgenabled = 'A' FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid"
							   " JOIN pg_namespace n ON n.oid = f.pronamespace"
							   " WHERE t.tgrelid = $1 AND n.nspname = '_dualwrite'",
							   1, (DwArg[]) {DW_OID(relid)});

	for (size_t i = 0; i < NUM_TRIGGERS; i++)
		states[i] = DW_TRIGGER_MISSING;
	for (uint64 row = 0; row < count; row++)
	{
		char	   *name = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1);
		bool		isnull;

		for (size_t i = 0; i < NUM_TRIGGERS; i++)
			if (strcmp(name, specs[i].name) == 0)
				states[i] = DatumGetBool(dw_sql_value(row, 2, &isnull)) ? DW_TRIGGER_FIRES : DW_TRIGGER_OFF;
	}
}

/* What the table is to migrations in the phases that they have now. */
static int
roles_of(Oid table)
{
	bool		isnull;

	dw_sql("SELECT CASE WHEN EXISTS (SELECT FROM _dualwrite.mapping p JOIN _dualwrite.migration m ON m.id = p.migration_id"
		   "  WHERE p.old_table::oid <> p.new_table::oid AND (p.old_table::oid = $1 AND m.phase <> 'defined'"
		   "  OR p.new_table::oid = $1 AND m.phase NOT IN ('defined', 'complete'))) THEN 1 ELSE 0 END +"
		   " CASE WHEN EXISTS (SELECT FROM _dualwrite.dependency d JOIN _dualwrite.mapping p ON p.id = d.mapping_id"
		   "  JOIN _dualwrite.migration m ON m.id = p.migration_id"
		   "  WHERE d.lookup_table::oid = $1 AND m.phase NOT IN ('defined', 'complete')) THEN 2 ELSE 0 END +"
		   " CASE WHEN EXISTS (SELECT FROM _dualwrite.mapping p JOIN _dualwrite.migration m ON m.id = p.migration_id"
		   "  WHERE p.old_table::oid = $1 AND p.new_table::oid = $1 AND m.phase <> 'defined' AND NOT m.old_dropped)"
		   "  THEN 4 ELSE 0 END",
		   1, (DwArg[]) {DW_OID(table)});
	return DatumGetInt32(dw_sql_value(0, 1, &isnull));
}

/* Must this relation, part of a table with these roles, have the trigger? */
static bool
wants(const DwTriggerSpec *spec, Oid relid, int roles)
{
	if ((spec->roles & roles) == 0)
		return false;
	return DW_FOREIGN_TRUNCATE_TRIGGERS || !spec->truncate || get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE;
}

static void
run_ddl(const char *statement)
{
	int			rc = SPI_execute(statement, false, 0);

	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", statement, SPI_result_code_string(rc));
}

/* Make one relation's triggers right; the server has cloned its parent's already.  Returns what was done, in numbers. */
static int
install_on(Oid relid, bool is_root, int roles)
{
	DwTriggerState states[NUM_TRIGGERS];
	char	   *table = dw_table_name(relid);
	int			done = 0;

	read_states(relid, states);
	for (size_t i = 0; i < NUM_TRIGGERS; i++)
	{
		const DwTriggerSpec *spec = &specs[i];

		if (states[i] == DW_TRIGGER_FIRES || !wants(spec, relid, roles))
			continue;
		if (states[i] == DW_TRIGGER_MISSING)
		{
			/* a partition without its clone has lost it: only a new one on the root brings that back */
			if (!is_root && !spec->each_partition)
				continue;
			run_ddl(psprintf("CREATE TRIGGER %s %s ON %s FOR EACH %s EXECUTE FUNCTION _dualwrite.%s()",
							 quote_identifier(spec->name), spec->event, table, spec->level, spec->function));
		}
		run_ddl(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", table, quote_identifier(spec->name)));
		done++;
	}
	return done;
}

int
dw_triggers_install(Oid table)
{
	DwSql		sql;
	ListCell   *lc;
	int			done = 0;
	int			roles;

	dw_sql_begin(&sql);
	roles = roles_of(table);
	foreach(lc, dw_heaps_of(table, NoLock))
		done += install_on(lfirst_oid(lc), lfirst_oid(lc) == table, roles);
	dw_sql_end(&sql);
	return done;
}

void
dw_triggers_remove(Oid table)
{
	DwSql		sql;
	ListCell   *lc;
	int			roles;

	dw_sql_begin(&sql);
	roles = roles_of(table);
	/* the root first: its clones go with it */
	foreach(lc, dw_heaps_of(table, NoLock))
	{
		DwTriggerState states[NUM_TRIGGERS];

		read_states(lfirst_oid(lc), states);
		for (size_t i = 0; i < NUM_TRIGGERS; i++)
			if (states[i] != DW_TRIGGER_MISSING && (specs[i].roles & roles) == 0)
				run_ddl(psprintf("DROP TRIGGER %s ON %s",
								 quote_identifier(specs[i].name), dw_table_name(lfirst_oid(lc))));
	}
	dw_sql_end(&sql);
}

bool
dw_triggers_needed(Oid table)
{
	DwSql		sql;
	bool		needed;

	dw_sql_begin(&sql);
	needed = roles_of(table) != 0;
	dw_sql_end(&sql);
	return needed;
}

/* A BEFORE trigger behind ours could change what we have compared; NULL without one.  Names are sorted byte by byte. */
static char *
later_trigger(Oid relid)
{
	if (dw_sql("SELECT quote_ident(t.tgname) FROM pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal"
			   " AND t.tgenabled <> 'D' AND t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0"
			   " AND t.tgname > '" COLUMNS_TRIGGER "'::name ORDER BY t.tgname LIMIT 1",
			   1, (DwArg[]) {DW_OID(relid)}) == 0)
		return NULL;
	return psprintf("trigger %s fires after %s on %s and could change its columns: rename it",
					SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1), quote_identifier(COLUMNS_TRIGGER),
					dw_table_name(relid));
}

/* What is wrong with one relation's triggers; within dw_sql_begin. */
static char *
problem_of(Oid relid, int roles)
{
	DwTriggerState states[NUM_TRIGGERS];

	read_states(relid, states);
	/* nobody has locked it: dropped meanwhile, it has no problem any more */
	if (get_rel_name(relid) == NULL)
		return NULL;
	for (size_t i = 0; i < NUM_TRIGGERS; i++)
		if (states[i] != DW_TRIGGER_FIRES && wants(&specs[i], relid, roles))
			return psprintf(states[i] == DW_TRIGGER_MISSING ?
							"trigger %s is missing on %s" : "trigger %s does not fire always on %s",
							quote_identifier(specs[i].name), dw_table_name(relid));
	return (roles & IN_PLACE) ? later_trigger(relid) : NULL;
}

/* A table that came to inherit from this one after it had been declared has none of our triggers, and is neither copied nor compared. */
static char *
heir_of(Oid relid)
{
	List	   *heirs = get_rel_relkind(relid) == RELKIND_RELATION ? find_inheritance_children(relid, NoLock) : NIL;

	if (heirs == NIL)
		return NULL;
	return psprintf("%s inherits from %s, and its rows are not mirrored: detach it by ALTER TABLE ... NO INHERIT",
					dw_table_name(linitial_oid(heirs)), dw_table_name(relid));
}

char *
dw_triggers_problem(Oid table)
{
	DwSql		sql;
	char	   *problem = NULL;
	ListCell   *lc;
	int			roles;

	dw_sql_begin(&sql);
	roles = roles_of(table);
	problem = roles != 0 ? heir_of(table) : NULL;
	foreach(lc, problem == NULL ? dw_heaps_of(table, NoLock) : NIL)
	{
		problem = problem_of(lfirst_oid(lc), roles);
		if (problem != NULL)
			break;
	}
	if (problem != NULL)
		problem = MemoryContextStrdup(sql.caller, problem);
	dw_sql_end(&sql);
	return problem;
}
