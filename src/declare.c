/*
 * declare.c: migrations and mappings, made, altered and dropped.
 *
 * The one place that writes definitions, and that decides how a mapping gets along with the others.  What a single
 * mapping may contain is resolve.c's, and which tables may take part tables.c's.  Everything happens in the caller's
 * transaction: an error leaves nothing behind.  Definers take turns (a lock on _dualwrite.mapping), so that two of them
 * cannot make a cycle or a clash between them that neither sees.
 */
#include "postgres.h"

#include "backfill.h"
#include "catalog.h"
#include "declare.h"
#include "indexes.h"
#include "locks.h"
#include "mapping.h"
#include "resolve.h"
#include "sql.h"
#include "stats.h"
#include "tables.h"
#include "triggers.h"
#include "worker.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

/* One definer at a time, until the end of the transaction.  After the migration's row, as phase changes have it. */
static void
take_turn(void)
{
	LockRelationOid(get_relname_relid("mapping", get_namespace_oid("_dualwrite", false)), ShareRowExclusiveLock);
}

static void
refuse_phase(const DwMigration *migration, const char *what, const char *when, const char *hint)
{
	/* there is no way down from complete */
	if (migration->phase == DW_PHASE_COMPLETE)
		hint = "Create another migration.";
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s migration \"%s\" in phase \"%s\"", what, migration->name, dw_phase_name(migration->phase)),
			 errdetail("This is possible %s.", when),
			 errhint("%s", hint)));
}

/* {"old_table": …, "new_table": …, "key_columns": […]} for the audit. */
static char *
mapping_detail(const char *old_name, const char *new_name, List *key_columns)
{
	StringInfoData json;
	const char *separator = "";
	ListCell   *lc;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"old_table\": ");
	escape_json(&json, old_name);
	appendStringInfoString(&json, ", \"new_table\": ");
	escape_json(&json, new_name);
	appendStringInfoString(&json, ", \"key_columns\": [");
	foreach(lc, key_columns)
	{
		appendStringInfoString(&json, separator);
		escape_json(&json, lfirst(lc));
		separator = ", ";
	}
	appendStringInfoString(&json, "]}");
	return json.data;
}

/* The same with what was changed. */
static char *
change_detail(const DwMapping *mapping, const DwDefinition *change)
{
	StringInfoData json;
	char	   *base = mapping_detail(mapping->old_name, mapping->new_name, mapping->key_columns);

	initStringInfo(&json);
	appendBinaryStringInfo(&json, base, strlen(base) - 1);
	if (change->forward != NULL)
		appendStringInfo(&json, ", \"forward\": %s", JsonbToCString(NULL, &change->forward->root, VARSIZE(change->forward)));
	if (change->reverse != NULL)
		appendStringInfo(&json, ", \"reverse\": %s", JsonbToCString(NULL, &change->reverse->root, VARSIZE(change->reverse)));
	if (change->filter != NULL)
	{
		appendStringInfoString(&json, ", \"filter\": ");
		escape_json(&json, change->filter);
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

static void
check_delivery(const char *word)
{
	if (strcmp(word, "inline") != 0 && strcmp(word, "queued") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delivery \"%s\" does not exist", word),
				 errhint("Use inline (in the same transaction) or queued (by a worker).")));
}

static DwResolved *
open_tables(Oid old_table, Oid new_table)
{
	DwResolved *mapping = palloc0(sizeof(DwResolved));

	mapping->old_rel = dw_table_open_for_definition(old_table, true);
	mapping->new_rel = dw_table_open_for_definition(new_table, false);
	mapping->in_place = old_table == new_table;
	return mapping;
}

/* The locks stay until the end of the transaction: what was checked must be what is stored. */
static void
close_tables(DwResolved *mapping)
{
	table_close(mapping->old_rel, NoLock);
	table_close(mapping->new_rel, NoLock);
}

/* The same two tables are in a mapping already. */
static void
check_pair(Oid old_table, Oid new_table)
{
	DwSql		sql;
	char	   *other = NULL;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT m.name FROM _dualwrite.mapping p JOIN _dualwrite.migration m ON m.id = p.migration_id"
			   " WHERE p.old_table = $1::oid AND p.new_table = $2::oid",
			   2, (DwArg[]) {DW_OID(old_table), DW_OID(new_table)}) > 0)
		other = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table %s is mapped to table %s already, in migration \"%s\"",
						dw_table_name(old_table), dw_table_name(new_table), other),
				 errhint("Call dualwrite.alter_mapping to change the mapping, or dualwrite.drop_mapping first.")));
}

/*
 * A write must not come back to where it came from: old -> new, and table looked up -> new, over all migrations, has no
 * cycle.
 */
static void
check_cycle(Oid old_table, Oid new_table)
{
	DwSql		sql;
	char	   *other = NULL;

	dw_sql_begin(&sql);
	if (dw_sql("WITH RECURSIVE reached (relid) AS ("
			   " SELECT $2::oid"
			   " UNION SELECT p.new_table::oid FROM reached r JOIN _dualwrite.mapping p ON p.old_table::oid = r.relid OR"
			   " EXISTS (SELECT FROM _dualwrite.dependency d WHERE d.mapping_id = p.id AND d.direction = 'forward'"
			   " AND d.lookup_table::oid = r.relid))"
			   " SELECT m.name FROM reached r JOIN _dualwrite.mapping p ON p.old_table::oid = r.relid OR"
			   " EXISTS (SELECT FROM _dualwrite.dependency d WHERE d.mapping_id = p.id AND d.direction = 'forward'"
			   " AND d.lookup_table::oid = r.relid)"
			   " JOIN _dualwrite.migration m ON m.id = p.migration_id"
			   " WHERE p.new_table = $1::oid ORDER BY m.name",
			   2, (DwArg[]) {DW_OID(old_table), DW_OID(new_table)}) > 0)
		other = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("a mapping from table %s to table %s would close a cycle", dw_table_name(old_table),
						dw_table_name(new_table)),
				 errdetail("Migration \"%s\" leads back to table %s.", other, dw_table_name(old_table)),
				 errhint("Complete and drop that migration first, or leave one of the mappings out.")));
}

/* A table whose columns move inside it is in no other mapping: one trigger would not see what the other has written. */
static void
check_alone(Oid old_table, Oid new_table)
{
	DwSql		sql;
	char	   *other = NULL;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT m.name FROM _dualwrite.mapping p JOIN _dualwrite.migration m ON m.id = p.migration_id"
			   " WHERE (p.old_table::oid IN ($1, $2) OR p.new_table::oid IN ($1, $2))"
			   " AND ($1 = $2 OR p.old_table::oid = p.new_table::oid) ORDER BY m.name",
			   2, (DwArg[]) {DW_OID(old_table), DW_OID(new_table)}) > 0)
		other = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("table %s is in a mapping of migration \"%s\" already", dw_table_name(old_table), other),
				 errdetail("A table that is both old and new takes part in no other mapping."),
				 errhint("Complete and drop that migration first, or add the columns to its mapping with dualwrite.alter_mapping.")));
}

/* What has no meaning where both sides are one row. */
static void
check_in_place(const DwDefinition *definition)
{
	const char *what = NULL;
	const char *hint = "Leave it out.";

	if (definition->old_table != definition->new_table)
		return;
	if (definition->filter != NULL)
	{
		what = "filter";
		hint = "Every row has both sides; say which values it has with CASE in forward.";
	}
	else if (definition->delivery != NULL && strcmp(definition->delivery, "inline") != 0)
		what = "delivery";
	else if (definition->owns != NULL && dw_owns_from_word(definition->owns) != DW_OWNS_BOTH)
		what = "owns";
	if (what != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s has no meaning in a mapping from table %s to itself", what, dw_table_name(definition->old_table)),
				 errhint("%s", hint)));
}

static DwColumn *
find_column(List *columns, const char *name)
{
	ListCell   *lc;

	foreach(lc, columns)
		if (strcmp(((DwColumn *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* Do two mappings into one table give some column different constants, so that no row is of both? */
static bool
scopes_differ(const DwResolved *mapping, const DwMapping *other)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwResolvedColumn *column = lfirst(lc);
		DwColumn   *theirs = find_column(other->columns[DW_FORWARD], column->name);

		if (column->expression->is_constant && !column->insert_only &&
			theirs != NULL && theirs->is_constant && !theirs->insert_only &&
			strcmp(column->expression->text, theirs->expression) != 0)
			return true;
	}
	return false;
}

/* A new column outside the key that both mappings write; NULL when there is none. */
static const char *
shared_new_column(const DwResolved *mapping, const DwMapping *other)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwResolvedColumn *column = lfirst(lc);

		if (find_column(other->columns[DW_FORWARD], column->name) != NULL &&
			!has_name(mapping->key, column->name) && !has_name(other->key_columns, column->name))
			return column->name;
	}
	return NULL;
}

/* Two mappings into one new table: each row has one owner, and each column of a row one source. */
static void
check_same_new(const DwResolved *mapping, const DwMapping *other)
{
	const char *table = dw_table_name(RelationGetRelid(mapping->new_rel));
	const char *column;

	if ((mapping->owns & DW_OWNS_NEW) != 0 && (other->owns & DW_OWNS_NEW) != 0)
	{
		if (scopes_differ(mapping, other) || (mapping->filter != NULL && other->filter != NULL))
			return;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("tables %s and %s would both make rows of table %s",
						dw_table_name(RelationGetRelid(mapping->old_rel)), other->old_name, table),
				 errdetail("Nothing tells the rows of the one from those of the other."),
				 errhint("Give each mapping a constant of its own in forward (\"kind\": \"'cat'\"), or a filter,"
						 " or let one of them only fill columns (owns => 'old').")));
	}
	column = shared_new_column(mapping, other);
	if (column != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("column \"%s\" of table %s would be written from two mappings", column, table),
				 errdetail("The mapping from table %s writes it, too.", other->old_name),
				 errhint("Leave it out of one of them: \"%s\": null in forward.", column)));
}

/*
 * Two mappings out of one old table in one migration: an old column that both would write back comes from the one that
 * was declared first, unless the rows are told apart by filters.
 */
static void
settle_same_old(DwResolved *mapping, const DwMapping *other)
{
	ListCell   *lc;

	if (mapping->filter != NULL && other->filter != NULL)
		return;
	foreach(lc, mapping->columns[DW_REVERSE])
	{
		DwResolvedColumn *column = lfirst(lc);

		if (find_column(other->columns[DW_REVERSE], column->name) == NULL ||
			has_name(mapping->old_key, column->name) || has_name(other->old_key_columns, column->name))
			continue;
		if (column->given)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("column \"%s\" of table %s would be written from two mappings", column->name,
							dw_table_name(RelationGetRelid(mapping->old_rel))),
					 errdetail("The mapping to table %s writes it back, too.", other->new_name),
					 errhint("Leave it out of one of them: \"%s\": null in reverse.", column->name)));
		ereport(NOTICE,
				(errmsg("column \"%s\" of table %s is written back from table %s, not from table %s", column->name,
						dw_table_name(RelationGetRelid(mapping->old_rel)), other->new_name,
						dw_table_name(RelationGetRelid(mapping->new_rel))),
				 errhint("Write \"%s\": null in reverse to say that this is meant.", column->name)));
		mapping->columns[DW_REVERSE] = foreach_delete_current(mapping->columns[DW_REVERSE], lc);
	}
}

/* Mappings of any migration on either of the tables, but not the one that is being altered. */
static List *
neighbours(const DwResolved *mapping, int32 self)
{
	DwSql		sql;
	List	   *ids = NIL;
	List	   *others = NIL;
	uint64		count;
	ListCell   *lc;

	dw_sql_begin(&sql);
	count = dw_sql("SELECT id FROM _dualwrite.mapping"
				   " WHERE (old_table = $1::oid OR new_table = $2::oid) AND id <> $3 ORDER BY id",
				   3, (DwArg[]) {DW_OID(RelationGetRelid(mapping->old_rel)), DW_OID(RelationGetRelid(mapping->new_rel)),
				   DW_INT4(self)});
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		MemoryContext old = MemoryContextSwitchTo(sql.caller);

		ids = lappend_int(ids, DatumGetInt32(dw_sql_value(i, 1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	foreach(lc, ids)
		others = lappend(others, dw_mapping_by_id(lfirst_int(lc)));
	return others;
}

static void
settle_with_neighbours(DwResolved *mapping, int32 migration_id, int32 self)
{
	ListCell   *lc;

	if (mapping->in_place)
		return;

	foreach(lc, neighbours(mapping, self))
	{
		DwMapping  *other = lfirst(lc);

		if (other->new_table == RelationGetRelid(mapping->new_rel))
			check_same_new(mapping, other);
		else if (other->migration_id == migration_id)
			settle_same_old(mapping, other);
	}
}

static DwArg
name_array(List *names)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(names), 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, names)
		elements[count++] = DirectFunctionCall1(namein, CStringGetDatum(lfirst(lc)));
	return DW_DATUM(NAMEARRAYOID,
					PointerGetDatum(construct_array(elements, count, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR)), false);
}

static void
store_columns(int32 mapping_id, const DwResolved *mapping)
{
	for (DwDirection direction = DW_FORWARD; direction <= DW_REVERSE; direction++)
	{
		ListCell   *lc;

		foreach(lc, mapping->columns[direction])
		{
			DwResolvedColumn *column = lfirst(lc);

			/* in place no constant tells rows of this mapping from others */
			dw_sql("INSERT INTO _dualwrite.mapping_column"
				   " (mapping_id, direction, column_name, expression, insert_only, is_constant, not_null)"
				   " VALUES ($1, $2, $3::name, $4, $5, $6, $7)",
				   7, (DwArg[]) {DW_INT4(mapping_id), DW_TEXT(direction == DW_FORWARD ? "forward" : "reverse"),
				   DW_TEXT(column->name), DW_TEXT(column->expression->text), DW_BOOL(column->insert_only),
				   DW_BOOL(column->expression->is_constant && !mapping->in_place),
				   DW_BOOL(column->item != NULL && column->item->not_null)});
		}
	}
}

/* A table that is looked up must not follow from what is looked up for; mappings and dependencies are stored. */
static void
check_dependency_cycles(const DwResolved *mapping)
{
	ListCell   *lc;

	foreach(lc, mapping->dependencies)
	{
		DwDependency *dependency = lfirst(lc);
		bool		forward = dependency->direction == DW_FORWARD;
		Oid			target = RelationGetRelid(forward ? mapping->new_rel : mapping->old_rel);
		DwSql		sql;
		bool		cycle;

		dw_sql_begin(&sql);
		cycle = dw_sql("WITH RECURSIVE reached (relid) AS ("
					   " SELECT $2::oid"
					   " UNION SELECT CASE WHEN $3 THEN p.new_table ELSE p.old_table END::oid"
					   " FROM reached r JOIN _dualwrite.mapping p ON"
					   " CASE WHEN $3 THEN p.old_table ELSE p.new_table END::oid = r.relid OR"
					   " EXISTS (SELECT FROM _dualwrite.dependency d WHERE d.mapping_id = p.id"
					   " AND (d.direction = 'forward') = $3 AND d.lookup_table::oid = r.relid))"
					   " SELECT FROM reached WHERE relid = $1",
					   3, (DwArg[]) {DW_OID(dependency->lookup), DW_OID(target), DW_BOOL(forward)}) > 0;
		dw_sql_end(&sql);
		if (cycle)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("column \"%s\" of table %s depends on table %s, which follows from it", dependency->column,
							dw_table_name(target), dependency->lookup_name),
					 errhint("Look the value up in a table that no mapping writes from there, or leave \"depends\" out.")));
	}
}

static void
store_dependencies(int32 mapping_id, const DwResolved *mapping)
{
	ListCell   *lc;

	foreach(lc, mapping->dependencies)
	{
		DwDependency *dependency = lfirst(lc);

		dw_sql("INSERT INTO _dualwrite.dependency (mapping_id, direction, column_name, lookup_table, lookup_name, query)"
			   " VALUES ($1, $2, $3::name, $4::regclass, $5, $6)",
			   6, (DwArg[]) {DW_INT4(mapping_id), DW_TEXT(dependency->direction == DW_FORWARD ? "forward" : "reverse"),
			   DW_TEXT(dependency->column), DW_OID(dependency->lookup), DW_TEXT(dependency->lookup_name),
			   DW_TEXT(dependency->query)});
	}
}

static void
store_mapping(int32 migration_id, const DwResolved *mapping, const DwDefinition *definition)
{
	Jsonb	   *empty = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	Oid			old_table = RelationGetRelid(mapping->old_rel);
	Oid			new_table = RelationGetRelid(mapping->new_rel);
	DwSql		sql;
	int32		mapping_id;
	bool		isnull;

	dw_sql_begin(&sql);
	dw_sql("INSERT INTO _dualwrite.mapping (migration_id, ordinal, old_table, new_table, old_name, new_name,"
		   " forward, reverse, filter, filter_expression, key_columns, old_key_columns, delivery, owns)"
		   " SELECT $1, 1 + coalesce(max(ordinal), 0), $2::regclass, $3::regclass, $4, $5,"
		   " $6, $7, $8, $9, $10, $11, $12, $13 FROM _dualwrite.mapping WHERE migration_id = $1 RETURNING id",
		   13, (DwArg[]) {DW_INT4(migration_id), DW_OID(old_table), DW_OID(new_table),
		   DW_TEXT(dw_table_name(old_table)), DW_TEXT(dw_table_name(new_table)),
		   DW_JSONB(definition->forward ? definition->forward : empty),
		   DW_JSONB(definition->reverse ? definition->reverse : empty),
		   DW_TEXT(definition->filter), DW_TEXT(mapping->filter ? mapping->filter->text : NULL),
		   name_array(mapping->key), name_array(mapping->old_key),
		   DW_TEXT(definition->delivery), DW_TEXT(dw_owns_word(mapping->owns))});
	mapping_id = DatumGetInt32(dw_sql_value(0, 1, &isnull));
	store_columns(mapping_id, mapping);
	store_dependencies(mapping_id, mapping);
	dw_sql_end(&sql);
}

/* Columns, filter and key.  stored: the filter is the catalog's text. */
static void
resolve(DwResolved *mapping, List *forward, List *reverse, char *filter, bool stored, List *key_columns)
{
	if (mapping->in_place)
		dw_resolve_key_in_place(mapping, key_columns, list_concat_copy(forward, reverse));
	dw_resolve_columns(mapping, forward, reverse);
	dw_resolve_filter(mapping, filter, stored);
	if (!mapping->in_place)
		dw_resolve_key(mapping, key_columns);
	dw_resolve_dependencies(mapping);
}

/* Check one definition and store it. */
static void
add_mapping(const DwMigration *migration, const DwDefinition *definition)
{
	DwResolved *mapping;

	check_delivery(definition->delivery);
	take_turn();
	mapping = open_tables(definition->old_table, definition->new_table);
	mapping->owns = dw_owns_from_word(definition->owns);
	check_in_place(definition);
	check_pair(definition->old_table, definition->new_table);
	check_alone(definition->old_table, definition->new_table);
	if (!mapping->in_place)
		check_cycle(definition->old_table, definition->new_table);
	resolve(mapping, dw_items_from_json(definition->forward, "forward"), dw_items_from_json(definition->reverse, "reverse"),
			definition->filter, false, definition->key_columns);
	settle_with_neighbours(mapping, migration->id, 0);
	store_mapping(migration->id, mapping, definition);
	check_dependency_cycles(mapping);
	dw_event_record(migration->name, "mapping_added", -1, -1, NIL, NULL,
					mapping_detail(dw_table_name(definition->old_table), dw_table_name(definition->new_table), mapping->key));
	close_tables(mapping);
}

void
dw_declare_migration(const char *name, const DwDefinition *first)
{
	char	   *creator = GetUserNameFromId(GetUserId(), false);
	DwSql		sql;
	uint64		made;

	dw_sql_begin(&sql);
	made = dw_sql("INSERT INTO _dualwrite.migration (name, origin, created_by) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
				  3, (DwArg[]) {DW_TEXT(name), DW_TEXT(dw_origin()), DW_TEXT(creator)});
	dw_sql_end(&sql);
	if (made == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("migration \"%s\" already exists", name),
				 errhint("Choose another name, add to it by dualwrite.add_mapping, or call dualwrite.drop_migration first.")));
	dw_event_record(name, "created", -1, DW_PHASE_DEFINED, NIL, NULL, NULL);
	if (first != NULL)
		add_mapping(dw_migration_get(name, true), first);
}

void
dw_declare_mapping(const char *name, const DwDefinition *definition)
{
	DwMigration *migration = dw_migration_get(name, true);

	dw_migration_check_owner(migration);
	if (migration->phase != DW_PHASE_DEFINED)
		refuse_phase(migration, "add a mapping to", "in phase \"defined\"",
					 psprintf("Run SELECT dualwrite.rollback(%s, 'defined') first, or create another migration.",
							  quote_literal_cstr(migration->name)));
	add_mapping(migration, definition);
}

/* The mapping of a migration between two tables.  ERROR 42704 when there is none. */
static DwMapping *
find_mapping(const DwMigration *migration, Oid old_table, Oid new_table)
{
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);

		if (mapping->old_table == old_table && mapping->new_table == new_table)
			return mapping;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("migration \"%s\" has no mapping from table %s to table %s", migration->name,
					get_rel_name(old_table) ? dw_table_name(old_table) : psprintf("%u", old_table),
					get_rel_name(new_table) ? dw_table_name(new_table) : psprintf("%u", new_table)),
			 errhint("See dualwrite.mappings for the mappings of this migration.")));
}

static DwItem *
stored_item(const DwMapping *mapping, DwDirection direction, const char *name)
{
	DwColumn   *column = find_column(mapping->columns[direction], name);
	DwItem	   *item = palloc0(sizeof(DwItem));
	ListCell   *lc;

	item->column = pstrdup(name);
	item->text = column ? column->expression : NULL;
	item->insert_only = column && column->insert_only;
	item->not_null = column && column->not_null;
	item->stored = true;
	foreach(lc, column ? mapping->dependencies : NIL)
	{
		DwDependency *dependency = lfirst(lc);
		DwItemDependency *depends;

		if (dependency->direction != direction || strcmp(dependency->column, name) != 0)
			continue;
		depends = palloc0(sizeof(DwItemDependency));
		depends->table = dw_table_name(dependency->lookup);
		depends->query = dependency->query;
		item->depends = lappend(item->depends, depends);
	}
	return item;
}

/* In place only what was mapped before stays as it was; the key takes care of itself. */
static bool
keeps_as_it_was(const DwMapping *mapping, const char *column)
{
	return mapping->old_table != mapping->new_table ||
		(find_column(mapping->columns[DW_FORWARD], column) != NULL && !has_name(mapping->key_columns, column));
}

/* Members of forward after a change: those named in it, and every other column of the table as it was. */
static List *
changed_forward(const DwMapping *mapping, TupleDesc desc, Jsonb *change)
{
	List	   *items = dw_items_from_json(change, "forward");

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && dw_item_find(items, NameStr(att->attname)) == NULL &&
			keeps_as_it_was(mapping, NameStr(att->attname)))
			items = lappend(items, stored_item(mapping, DW_FORWARD, NameStr(att->attname)));
	}
	return items;
}

/*
 * Members of reverse after a change: those named in it, and those declared before.  The others follow from forward, which
 * may have changed.
 */
static List *
changed_reverse(const DwMapping *mapping, Oid old_table, Jsonb *declared, Jsonb *change)
{
	List	   *items = dw_items_from_json(change, "reverse");
	ListCell   *lc;

	foreach(lc, dw_items_from_json(declared, "reverse"))
	{
		DwItem	   *before = lfirst(lc);

		/* a column dropped since is nothing to complain about here */
		if (dw_item_find(items, before->column) == NULL && get_attnum(old_table, before->column) > 0)
			items = lappend(items, stored_item(mapping, DW_REVERSE, before->column));
	}
	return items;
}

static Jsonb *
declared_reverse(int32 mapping_id)
{
	DwSql		sql;
	bool		isnull;
	MemoryContext old;
	Jsonb	   *json;

	dw_sql_begin(&sql);
	dw_sql("SELECT reverse FROM _dualwrite.mapping WHERE id = $1", 1, (DwArg[]) {DW_INT4(mapping_id)});
	old = MemoryContextSwitchTo(sql.caller);
	json = DatumGetJsonbPCopy(dw_sql_value(0, 1, &isnull));
	MemoryContextSwitchTo(old);
	dw_sql_end(&sql);
	return json;
}

static void
store_change(int32 mapping_id, const DwResolved *mapping, const DwDefinition *change)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.mapping SET forward = forward || coalesce($2, '{}'), reverse = reverse || coalesce($3, '{}'),"
		   " filter = coalesce($4, filter), filter_expression = $5, key_columns = $6, old_key_columns = $7 WHERE id = $1",
		   7, (DwArg[]) {DW_INT4(mapping_id), DW_JSONB(change->forward), DW_JSONB(change->reverse), DW_TEXT(change->filter),
		   DW_TEXT(mapping->filter ? mapping->filter->text : NULL), name_array(mapping->key), name_array(mapping->old_key)});
	dw_sql("DELETE FROM _dualwrite.mapping_column WHERE mapping_id = $1", 1, (DwArg[]) {DW_INT4(mapping_id)});
	dw_sql("DELETE FROM _dualwrite.dependency WHERE mapping_id = $1", 1, (DwArg[]) {DW_INT4(mapping_id)});
	store_columns(mapping_id, mapping);
	store_dependencies(mapping_id, mapping);
	dw_sql_end(&sql);
}

/*
 * Writers that saw the old definition must have ended before the rows are gone through again, hence the lock; rows that
 * agreed may not do so now, hence the epoch, and unmapped updates may not be skipped until every row was looked at.
 */
static void
converge_again(const DwMigration *migration)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	dw_sql("UPDATE _dualwrite.migration SET epoch = epoch + 1, filled = false WHERE id = $1",
		   1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	if (migration->phase >= DW_PHASE_BACKFILL)
		dw_backfill_start(dw_migration_by_id(migration->id, false));
	dw_worker_wake();
}

static void
check_can_change(const DwMigration *migration)
{
	if (migration->phase <= DW_PHASE_VERIFY)
		return;
	if (migration->phase == DW_PHASE_READ_SWITCH && migration->read_percent == 0)
		return;
	refuse_phase(migration, "alter a mapping of", "up to phase \"verify\", and in \"read_switch\" at 0 %",
				 "Call dualwrite.set_read_percent with 0, or dualwrite.rollback, first.");
}

static void
lock_tables(const DwMigration *migration, List *mappings, LOCKMODE old_mode, LOCKMODE new_mode)
{
	List	   *wishes = NIL;
	ListCell   *lc;

	foreach(lc, mappings)
		wishes = dw_lock_wish(wishes, ((DwMapping *) lfirst(lc))->old_table, old_mode);
	foreach(lc, mappings)
		wishes = dw_lock_wish(wishes, ((DwMapping *) lfirst(lc))->new_table, new_mode);
	dw_lock_wishes(wishes, dw_lock_budget(migration->id), DW_LOCK_TRIES);
}

/* Tables that the altered mapping looks up get their triggers, those that no mapping looks up any more lose them. */
static void
settle_lookups(const DwMigration *migration, const DwMapping *before)
{
	List	   *now = dw_lookups_of(list_make1(dw_mapping_by_id(before->id)));
	List	   *gone = list_difference_oid(dw_lookups_of(list_make1(unconstify(DwMapping *, before))), now);
	List	   *wishes = NIL;
	ListCell   *lc;

	foreach(lc, gone)
		wishes = dw_lock_wish(wishes, lfirst_oid(lc), AccessExclusiveLock);
	foreach(lc, now)
		wishes = dw_lock_wish(wishes, lfirst_oid(lc), ShareRowExclusiveLock);
	if (wishes == NIL)
		return;
	dw_lock_wishes(wishes, dw_lock_budget(migration->id), DW_LOCK_TRIES);
	foreach(lc, now)
		(void) dw_triggers_install(lfirst_oid(lc));
	foreach(lc, gone)
		dw_triggers_remove(lfirst_oid(lc));
}

void
dw_declare_change(const char *name, const DwDefinition *change)
{
	DwMigration *migration = dw_migration_get(name, true);
	DwMapping  *before = find_mapping(migration, change->old_table, change->new_table);
	DwResolved *mapping;

	dw_migration_check_owner(migration);
	check_can_change(migration);
	check_in_place(change);
	take_turn();
	if (migration->phase > DW_PHASE_DEFINED)
		lock_tables(migration, list_make1(before), ShareRowExclusiveLock, ShareRowExclusiveLock);
	mapping = open_tables(change->old_table, change->new_table);
	mapping->owns = before->owns;
	resolve(mapping, changed_forward(before, RelationGetDescr(mapping->new_rel), change->forward),
			changed_reverse(before, change->old_table, declared_reverse(before->id), change->reverse),
			change->filter ? change->filter : before->filter, change->filter == NULL, before->key_columns);
	settle_with_neighbours(mapping, migration->id, before->id);
	store_change(before->id, mapping, change);
	check_dependency_cycles(mapping);
	if (migration->phase > DW_PHASE_DEFINED)
		settle_lookups(migration, before);
	if (migration->phase > DW_PHASE_DEFINED)
		converge_again(migration);
	dw_mapping_invalidate(migration->id);
	dw_event_record(name, "mapping_altered", -1, -1, NIL, NULL, change_detail(before, change));
	close_tables(mapping);
}

/* Views that ask for the side to read would be left without an answer; at complete they no longer ask. */
static void
check_no_read_views(const DwMigration *migration, int32 mapping_id)
{
	DwSql		sql;
	char	   *view = NULL;

	if (migration->phase == DW_PHASE_COMPLETE)
		return;
	dw_sql_begin(&sql);
	if (dw_sql("SELECT v.view::text FROM _dualwrite.read_view v JOIN pg_catalog.pg_class c ON c.oid = v.view"
			   " WHERE v.mapping_id = $1", 1, (DwArg[]) {DW_INT4(mapping_id)}) > 0)
		view = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	if (view != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("read view %s depends on migration \"%s\"", view, migration->name),
				 errhint("Call dualwrite.drop_read_view(%s) first.", quote_literal_cstr(view))));
}

static void
check_can_drop(const DwMigration *migration, const char *what)
{
	if (migration->phase != DW_PHASE_DEFINED && migration->phase != DW_PHASE_COMPLETE)
		refuse_phase(migration, what, "in phases \"defined\" and \"complete\"",
					 psprintf("Run SELECT dualwrite.rollback(%s, 'defined') first.", quote_literal_cstr(migration->name)));
}

/* Forget one mapping: what hangs on it by no foreign key goes here, the rest with its row. */
static void
forget_mapping(const DwMigration *migration, const DwMapping *mapping)
{
	DwSql		sql;

	check_no_read_views(migration, mapping->id);
	dw_stats_reset(mapping->id);
	dw_sql_begin(&sql);
	dw_sql("DELETE FROM _dualwrite.queue WHERE mapping_id = $1", 1, (DwArg[]) {DW_INT4(mapping->id)});
	dw_sql("DELETE FROM _dualwrite.recheck WHERE mapping_id = $1", 1, (DwArg[]) {DW_INT4(mapping->id)});
	dw_sql("DELETE FROM _dualwrite.mapping WHERE id = $1", 1, (DwArg[]) {DW_INT4(mapping->id)});
	dw_sql_end(&sql);
	dw_event_record(migration->name, "mapping_dropped", -1, -1, NIL, NULL,
					mapping_detail(mapping->old_name, mapping->new_name, mapping->key_columns));
}

/* A completed migration still refuses writes of its old tables: that ends with it, unless another one is on them. */
static void
forget_mappings(const DwMigration *migration, List *mappings)
{
	ListCell   *lc;

	if (migration->phase == DW_PHASE_COMPLETE)
		lock_tables(migration, mappings, AccessExclusiveLock, NoLock);
	dw_mapping_invalidate(migration->id);
	foreach(lc, mappings)
		forget_mapping(migration, lfirst(lc));
	if (migration->phase != DW_PHASE_COMPLETE)
		return;
	foreach(lc, mappings)
	{
		Oid			old_table = ((DwMapping *) lfirst(lc))->old_table;

		if (get_rel_name(old_table) != NULL)
			dw_triggers_remove(old_table);
	}
}

void
dw_declare_drop_mapping(const char *name, Oid old_table, Oid new_table)
{
	DwMigration *migration = dw_migration_get(name, true);
	DwMapping  *mapping = find_mapping(migration, old_table, new_table);

	dw_migration_check_owner(migration);
	check_can_drop(migration, "drop a mapping of");
	dw_indexes_check_drop(migration);
	take_turn();
	forget_mappings(migration, list_make1(mapping));
}

void
dw_declare_drop(const char *name)
{
	DwMigration *migration = dw_migration_get(name, true);
	DwSql		sql;

	dw_migration_check_owner(migration);
	check_can_drop(migration, "drop");
	dw_indexes_check_drop(migration);
	take_turn();
	forget_mappings(migration, dw_mappings_of(migration->id));
	dw_sql_begin(&sql);
	dw_sql("DELETE FROM _dualwrite.migration WHERE id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	dw_event_record(name, "dropped", migration->phase, -1, NIL, NULL, NULL);
}
