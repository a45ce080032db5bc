/*
 * catalog.c: migrations and mappings as they are stored.
 *
 * Reads and the audit; what changes a definition is in declare.c, what changes a phase in phase.c.
 */
#include "postgres.h"

#include "catalog.h"
#include "sql.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/acl.h"

static const char *const phase_names[DW_NUM_PHASES] = {
	"defined", "shadow", "dual_write", "backfill", "verify", "read_switch", "cutover", "complete"
};

const char *
dw_phase_name(DwPhase phase)
{
	return phase_names[phase];
}

DwPhase
dw_phase_from_name(const char *name)
{
	for (int i = 0; i < DW_NUM_PHASES; i++)
		if (strcmp(name, phase_names[i]) == 0)
			return (DwPhase) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("phase \"%s\" does not exist", name),
			 errhint("Phases are defined, shadow, dual_write, backfill, verify, read_switch, cutover and complete.")));
}

/* By DwOwns. */
static const char *const owns_words[] = {"neither", "old", "new", "both"};

const char *
dw_owns_word(DwOwns owns)
{
	return owns_words[owns];
}

DwOwns
dw_owns_from_word(const char *word)
{
	for (size_t i = 0; i < lengthof(owns_words); i++)
		if (strcmp(word, owns_words[i]) == 0)
			return (DwOwns) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("owns \"%s\" does not exist", word),
			 errhint("Use both, new, old or neither.")));
}

/* What tells this database from the one that a dump came from: system identifier and database OID. */
char *
dw_origin(void)
{
	return psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), MyDatabaseId);
}

#define MIGRATION_COLUMNS \
	"id, name, phase, phase_since, epoch, paused, filled, repair_suspended, names_swapped, old_dropped, " \
	"read_percent::float8, origin, created_by"

static DwMigration *
migration_from_row(DwSql *sql)
{
	DwMigration *migration = MemoryContextAllocZero(sql->caller, sizeof(DwMigration));
	char	   *origin;
	bool		isnull;

	migration->id = DatumGetInt32(dw_sql_value(0, 1, &isnull));
	migration->name = dw_sql_cstring(sql, 0, 2);
	migration->phase = dw_phase_from_name(dw_sql_cstring(sql, 0, 3));
	migration->phase_since = DatumGetTimestampTz(dw_sql_value(0, 4, &isnull));
	migration->epoch = DatumGetInt32(dw_sql_value(0, 5, &isnull));
	migration->paused = DatumGetBool(dw_sql_value(0, 6, &isnull));
	migration->filled = DatumGetBool(dw_sql_value(0, 7, &isnull));
	migration->repair_suspended = DatumGetBool(dw_sql_value(0, 8, &isnull));
	migration->names_swapped = DatumGetBool(dw_sql_value(0, 9, &isnull));
	migration->old_dropped = DatumGetBool(dw_sql_value(0, 10, &isnull));
	migration->read_percent = DatumGetFloat8(dw_sql_value(0, 11, &isnull));
	origin = dw_sql_cstring(sql, 0, 12);
	migration->created_by = dw_sql_cstring(sql, 0, 13);
	migration->restored = strcmp(origin, dw_origin()) != 0;
	return migration;
}

DwMigration *
dw_migration_get(const char *name, bool lock)
{
	DwMigration *migration = NULL;
	DwSql		sql;
	uint64		found;

	dw_sql_begin(&sql);
	if (lock)
		found = dw_sql("SELECT " MIGRATION_COLUMNS " FROM _dualwrite.migration WHERE name = $1 FOR UPDATE",
					   1, (DwArg[]) {DW_TEXT(name)});
	else
		found = dw_sql("SELECT " MIGRATION_COLUMNS " FROM _dualwrite.migration WHERE name = $1",
					   1, (DwArg[]) {DW_TEXT(name)});
	if (found > 0)
		migration = migration_from_row(&sql);
	dw_sql_end(&sql);
	if (migration == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("migration \"%s\" does not exist", name),
				 errhint("See dualwrite.status for the migrations of this database.")));
	return migration;
}

DwMigration *
dw_migration_by_id(int32 id, bool lock)
{
	DwMigration *migration = NULL;
	DwSql		sql;
	uint64		found;

	dw_sql_begin(&sql);
	if (lock)
		found = dw_sql("SELECT " MIGRATION_COLUMNS " FROM _dualwrite.migration WHERE id = $1 FOR UPDATE",
					   1, (DwArg[]) {DW_INT4(id)});
	else
		found = dw_sql("SELECT " MIGRATION_COLUMNS " FROM _dualwrite.migration WHERE id = $1",
					   1, (DwArg[]) {DW_INT4(id)});
	if (found > 0)
		migration = migration_from_row(&sql);
	dw_sql_end(&sql);
	return migration;
}

/* false: the table has been dropped, and nobody owns it. */
static bool
check_table_owner(const DwMigration *migration, Oid relid, const char *name)
{
	if (get_rel_name(relid) == NULL)
		return false;
	if (dw_owns_relation(relid, GetUserId()))
		return true;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of table %s to drive migration \"%s\"", name, migration->name),
			 errhint("Become a member of the role that owns the tables, or a superuser.")));
}

/* A role that was renamed or dropped leaves it to superusers. */
static void
check_creator(const DwMigration *migration)
{
	Oid			creator = get_role_oid(migration->created_by, true);

	if (OidIsValid(creator) && has_privs_of_role(GetUserId(), creator))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be a member of role \"%s\" to drive migration \"%s\", which has no table", migration->created_by,
					migration->name),
			 errhint("That role created the migration; without it, a superuser has to do it.")));
}

void
dw_migration_check_owner(const DwMigration *migration)
{
	bool		has_table = false;
	ListCell   *lc;
	ListCell   *d;

	if (superuser())
		return;
	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);

		has_table |= check_table_owner(migration, mapping->old_table, mapping->old_name);
		has_table |= check_table_owner(migration, mapping->new_table, mapping->new_name);
		foreach(d, mapping->dependencies)
			(void) check_table_owner(migration, ((DwDependency *) lfirst(d))->lookup, ((DwDependency *) lfirst(d))->lookup_name);
	}
	if (!has_table)
		check_creator(migration);
}

/* name[] of the current row as list of char * in the caller's memory. */
static List *
name_list(DwSql *sql, uint64 row, int column)
{
	bool		isnull;
	Datum		array = dw_sql_value(row, column, &isnull);
	Datum	   *elements;
	int			count;
	List	   *list = NIL;
	MemoryContext old = MemoryContextSwitchTo(sql->caller);

	deconstruct_array(DatumGetArrayTypeP(array), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		list = lappend(list, pstrdup(NameStr(*DatumGetName(elements[i]))));
	MemoryContextSwitchTo(old);
	return list;
}

#define MAPPING_COLUMNS \
	"id, migration_id, ordinal, old_table::oid, new_table::oid, old_name, new_name, filter_expression, " \
	"key_columns, old_key_columns, delivery, owns"

static DwMapping *
mapping_from_row(DwSql *sql, uint64 row)
{
	DwMapping  *mapping = MemoryContextAllocZero(sql->caller, sizeof(DwMapping));
	bool		isnull;

	mapping->id = DatumGetInt32(dw_sql_value(row, 1, &isnull));
	mapping->migration_id = DatumGetInt32(dw_sql_value(row, 2, &isnull));
	mapping->ordinal = DatumGetInt32(dw_sql_value(row, 3, &isnull));
	mapping->old_table = DatumGetObjectId(dw_sql_value(row, 4, &isnull));
	mapping->new_table = DatumGetObjectId(dw_sql_value(row, 5, &isnull));
	mapping->old_name = dw_sql_cstring(sql, row, 6);
	mapping->new_name = dw_sql_cstring(sql, row, 7);
	mapping->filter = dw_sql_cstring(sql, row, 8);
	mapping->key_columns = name_list(sql, row, 9);
	mapping->old_key_columns = name_list(sql, row, 10);
	mapping->queued = strcmp(dw_sql_cstring(sql, row, 11), "queued") == 0;
	mapping->owns = dw_owns_from_word(dw_sql_cstring(sql, row, 12));
	return mapping;
}

/* Fill in what each column is made of. */
static void
read_columns(DwSql *sql, DwMapping *mapping)
{
	uint64		count = dw_sql("SELECT direction = 'forward', column_name, expression, insert_only, is_constant, not_null"
							   " FROM _dualwrite.mapping_column WHERE mapping_id = $1 ORDER BY column_name",
							   1, (DwArg[]) {DW_INT4(mapping->id)});

	for (uint64 i = 0; i < count; i++)
	{
		DwColumn   *column = MemoryContextAllocZero(sql->caller, sizeof(DwColumn));
		bool		isnull;
		DwDirection direction = DatumGetBool(dw_sql_value(i, 1, &isnull)) ? DW_FORWARD : DW_REVERSE;
		MemoryContext old;

		column->name = dw_sql_cstring(sql, i, 2);
		column->expression = dw_sql_cstring(sql, i, 3);
		column->insert_only = DatumGetBool(dw_sql_value(i, 4, &isnull));
		column->is_constant = DatumGetBool(dw_sql_value(i, 5, &isnull));
		column->not_null = DatumGetBool(dw_sql_value(i, 6, &isnull));
		old = MemoryContextSwitchTo(sql->caller);
		mapping->columns[direction] = lappend(mapping->columns[direction], column);
		MemoryContextSwitchTo(old);
	}
}

static void
read_dependencies(DwSql *sql, DwMapping *mapping)
{
	uint64		count = dw_sql("SELECT id, direction = 'forward', column_name, lookup_table::oid, lookup_name, query"
							   " FROM _dualwrite.dependency WHERE mapping_id = $1 ORDER BY id",
							   1, (DwArg[]) {DW_INT4(mapping->id)});

	for (uint64 i = 0; i < count; i++)
	{
		DwDependency *dependency = MemoryContextAllocZero(sql->caller, sizeof(DwDependency));
		bool		isnull;
		MemoryContext old;

		dependency->id = DatumGetInt32(dw_sql_value(i, 1, &isnull));
		dependency->direction = DatumGetBool(dw_sql_value(i, 2, &isnull)) ? DW_FORWARD : DW_REVERSE;
		dependency->column = dw_sql_cstring(sql, i, 3);
		dependency->lookup = DatumGetObjectId(dw_sql_value(i, 4, &isnull));
		dependency->lookup_name = dw_sql_cstring(sql, i, 5);
		dependency->query = dw_sql_cstring(sql, i, 6);
		old = MemoryContextSwitchTo(sql->caller);
		mapping->dependencies = lappend(mapping->dependencies, dependency);
		MemoryContextSwitchTo(old);
	}
}

/* Mappings in the rows just read, with what they are made of. */
static List *
mappings_from_rows(DwSql *sql, uint64 count)
{
	List	   *mappings = NIL;
	ListCell   *lc;

	for (uint64 i = 0; i < count; i++)
	{
		DwMapping  *mapping = mapping_from_row(sql, i);
		MemoryContext old = MemoryContextSwitchTo(sql->caller);

		mappings = lappend(mappings, mapping);
		MemoryContextSwitchTo(old);
	}
	foreach(lc, mappings)
	{
		read_columns(sql, lfirst(lc));
		read_dependencies(sql, lfirst(lc));
	}
	return mappings;
}

List *
dw_mappings_of(int32 migration_id)
{
	DwSql		sql;
	List	   *mappings;

	dw_sql_begin(&sql);
	mappings = mappings_from_rows(&sql,
								  dw_sql("SELECT " MAPPING_COLUMNS " FROM _dualwrite.mapping WHERE migration_id = $1 ORDER BY ordinal",
										 1, (DwArg[]) {DW_INT4(migration_id)}));
	dw_sql_end(&sql);
	return mappings;
}

DwMapping *
dw_mapping_by_id(int32 id)
{
	DwSql		sql;
	List	   *mappings;

	dw_sql_begin(&sql);
	mappings = mappings_from_rows(&sql,
								  dw_sql("SELECT " MAPPING_COLUMNS " FROM _dualwrite.mapping WHERE id = $1",
										 1, (DwArg[]) {DW_INT4(id)}));
	dw_sql_end(&sql);
	return mappings == NIL ? NULL : linitial(mappings);
}

/* First columns of the rows just read, as integer list in the caller's memory. */
static List *
ids_from_rows(DwSql *sql, uint64 count)
{
	List	   *ids = NIL;

	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		int32		id = DatumGetInt32(dw_sql_value(i, 1, &isnull));
		MemoryContext old = MemoryContextSwitchTo(sql->caller);

		ids = lappend_int(ids, id);
		MemoryContextSwitchTo(old);
	}
	return ids;
}

List *
dw_mappings_on(Oid relid)
{
	DwSql		sql;
	List	   *ids;

	dw_sql_begin(&sql);
	ids = ids_from_rows(&sql,
						dw_sql("SELECT p.id FROM _dualwrite.mapping p JOIN _dualwrite.migration m ON m.id = p.migration_id"
							   " WHERE (p.old_table = $1::oid OR p.new_table = $1::oid) AND m.phase <> 'defined'"
							   " ORDER BY p.migration_id, p.ordinal",
							   1, (DwArg[]) {DW_OID(relid)}));
	dw_sql_end(&sql);
	return ids;
}

List *
dw_mappings_looking_up(Oid relid)
{
	DwSql		sql;
	List	   *ids;

	dw_sql_begin(&sql);
	ids = ids_from_rows(&sql,
						dw_sql("SELECT p.id FROM _dualwrite.mapping p JOIN _dualwrite.migration m ON m.id = p.migration_id"
							   " WHERE EXISTS (SELECT FROM _dualwrite.dependency d WHERE d.mapping_id = p.id"
							   " AND d.lookup_table = $1::oid) AND m.phase NOT IN ('defined', 'complete')"
							   " ORDER BY p.migration_id, p.ordinal",
							   1, (DwArg[]) {DW_OID(relid)}));
	dw_sql_end(&sql);
	return ids;
}

List *
dw_lookups_of(List *mappings)
{
	List	   *tables = NIL;
	ListCell   *lc;
	ListCell   *d;

	foreach(lc, mappings)
		foreach(d, ((DwMapping *) lfirst(lc))->dependencies)
			tables = list_append_unique_oid(tables, ((DwDependency *) lfirst(d))->lookup);
	return tables;
}

/* text[] of a list of char *, or null for none. */
static DwArg
text_array_arg(List *strings)
{
	Datum	   *elements;
	int			i = 0;
	ListCell   *lc;

	if (strings == NIL)
		return DW_DATUM(TEXTARRAYOID, (Datum) 0, true);
	elements = palloc(sizeof(Datum) * list_length(strings));
	foreach(lc, strings)
		elements[i++] = CStringGetTextDatum((char *) lfirst(lc));
	return DW_DATUM(TEXTARRAYOID, PointerGetDatum(construct_array(elements, i, TEXTOID, -1, false, TYPALIGN_INT)), false);
}

void
dw_event_record(const char *migration, const char *event, int from_phase, int to_phase,
				List *waived, const char *reason, const char *detail_json)
{
	DwSql		sql;
	DwArg		detail = {JSONBOID, (Datum) 0, true};
	char	   *actor = GetUserNameFromId(GetUserId(), false);

	if (detail_json != NULL)
		detail = DW_DATUM(JSONBOID, DirectFunctionCall1(jsonb_in, CStringGetDatum(detail_json)), false);
	dw_sql_begin(&sql);
	dw_sql("INSERT INTO _dualwrite.event (migration, actor, event, from_phase, to_phase, waived, reason, detail)"
		   " VALUES ($1, $2::name, $3, $4, $5, $6, $7, $8)",
		   8, (DwArg[]) {DW_TEXT(migration), DW_TEXT(actor), DW_TEXT(event),
		   DW_TEXT(from_phase < 0 ? NULL : dw_phase_name(from_phase)),
		   DW_TEXT(to_phase < 0 ? NULL : dw_phase_name(to_phase)),
		   text_array_arg(waived), DW_TEXT(reason), detail});
	dw_sql_end(&sql);
}
