/*
 * tables.c: which relations may take part in a mapping.
 *
 * Looks at the system catalogs only and changes nothing.
 */
#include "postgres.h"

#include "tables.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/extension.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

char *
dw_table_name(Oid relid)
{
	char	   *name = get_rel_name(relid);
	char	   *schema = name ? get_namespace_name(get_rel_namespace(relid)) : NULL;

	return schema ? quote_qualified_identifier(schema, name) : psprintf("%u", relid);
}

/* What a relation is that is no table, for messages; NULL for tables. */
static const char *
non_table_word(char relkind)
{
	switch (relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_FOREIGN_TABLE:
			return NULL;
		case RELKIND_VIEW:
			return "a view";
		case RELKIND_MATVIEW:
			return "a materialized view";
		case RELKIND_SEQUENCE:
			return "a sequence";
		case RELKIND_COMPOSITE_TYPE:
			return "a composite type";
		case RELKIND_INDEX:
		case RELKIND_PARTITIONED_INDEX:
			return "an index";
		default:
			return "not a table";
	}
}

static void
check_kind(Relation rel)
{
	const char *word = non_table_word(rel->rd_rel->relkind);
	Oid			relid = RelationGetRelid(rel);

	if (word != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is %s", dw_table_name(relid), word),
				 errhint("Name the table that holds the rows.")));
	if (relid < FirstNormalObjectId || IsSystemRelation(rel))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is a system catalog", dw_table_name(relid)),
				 errhint("Only tables of users can be migrated.")));
	if (OidIsValid(getExtensionOfObject(RelationRelationId, relid)) &&
		getExtensionOfObject(RelationRelationId, relid) == get_extension_oid("dualwrite", true))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s belongs to extension dualwrite", dw_table_name(relid)),
				 errhint("Only tables of users can be migrated.")));
}

/* Rows that vanish in a crash or with a session cannot be kept equal to rows that do not. */
static void
check_persistence(Relation rel)
{
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is a temporary table", dw_table_name(RelationGetRelid(rel))),
				 errhint("Use a permanent table: other sessions and the background workers must see it.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is an unlogged table", dw_table_name(RelationGetRelid(rel))),
				 errhint("Run ALTER TABLE %s SET LOGGED first: a crash would empty it.",
						 dw_table_name(RelationGetRelid(rel)))));
}

/* Its rows are on another server. */
static void
check_foreign(Relation rel, bool is_old)
{
	FdwRoutine *routine;

	if (is_old)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is a foreign table", dw_table_name(RelationGetRelid(rel))),
				 errhint("Define the migration in the database that holds the old table; only the new table may be foreign.")));
	routine = GetFdwRoutineForRelation(rel, false);
	if (routine->ExecForeignInsert == NULL || routine->ExecForeignUpdate == NULL || routine->ExecForeignDelete == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign table %s cannot be written", dw_table_name(RelationGetRelid(rel))),
				 errhint("Use a foreign-data wrapper that supports INSERT, UPDATE and DELETE.")));
}

static void
check_foreign_partition(Oid relid, const char *table, bool is_old)
{
	Relation	rel = table_open(relid, NoLock);

	if (is_old)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s has a foreign table as partition: %s", table, dw_table_name(relid)),
				 errhint("Define the migration in the database that holds the rows; only the new table may have foreign partitions.")));
	check_foreign(rel, is_old);
	table_close(rel, NoLock);
}

static void
check_heap(Oid relid, const char *table, bool is_old)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	form = (Form_pg_class) GETSTRUCT(tuple);
	if (form->relkind == RELKIND_FOREIGN_TABLE)
		check_foreign_partition(relid, table, is_old);
	if (form->relkind == RELKIND_RELATION && form->relam != HEAP_TABLE_AM_OID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s does not use the table access method heap", dw_table_name(relid)),
				 errhint("Run ALTER TABLE ... SET ACCESS METHOD heap, or create the table anew.")));
	if (form->relkind == RELKIND_RELATION && form->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is temporary or unlogged", dw_table_name(relid)),
				 errhint("Use permanent, logged partitions: a crash would empty it.")));
	ReleaseSysCache(tuple);
}

/* Partitioned tables take part as a whole; inheritance of the older kind does not. */
static void
check_inheritance(Relation rel, bool is_old)
{
	Oid			relid = RelationGetRelid(rel);
	char	   *name = dw_table_name(relid);
	ListCell   *lc;

	if (rel->rd_rel->relispartition)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is a partition", name),
				 errhint("Name the partitioned table, %s: all of its partitions take part.",
						 dw_table_name(llast_oid(get_partition_ancestors(relid))))));
	if (has_superclass(relid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s inherits from another table", name),
				 errhint("Use plain or partitioned tables; ALTER TABLE %s NO INHERIT ... detaches it.", name)));
	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE && find_inheritance_children(relid, NoLock) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s has tables that inherit from it", name),
				 errhint("Use plain or partitioned tables; map each of the inheriting tables once it is detached.")));
	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		return;
	foreach(lc, find_all_inheritors(relid, AccessShareLock, NULL))
		check_heap(lfirst_oid(lc), name, is_old);
}

Relation
dw_table_open_for_definition(Oid relid, bool is_old)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid),
				 errhint("Create the table first, then name it.")));
	check_kind(rel);
	if (!dw_owns_relation(relid, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table %s", dw_table_name(relid)),
				 errhint("Become a member of the role that owns it, or a superuser.")));
	check_persistence(rel);
	check_inheritance(rel, is_old);
	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		check_foreign(rel, is_old);
	return rel;
}
