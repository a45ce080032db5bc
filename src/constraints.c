/*
 * constraints.c: constraints of users' tables, made valid without a long lock.
 *
 * ALTER COLUMN SET NOT NULL reads the whole table under ACCESS EXCLUSIVE, unless a valid CHECK implies it.  So there is one
 * first: added NOT VALID, which reads nothing; validated, which lets everybody read and write; and dropped in the
 * transaction that sets NOT NULL.
 *
 * What may call functions of users runs as the table's owner.  That is not only validating a CHECK: SET NOT NULL folds the
 * constants of every CHECK that there is.  Nothing here decides when.  Nothing here may touch a constraint that it did not
 * make, but to validate it.
 */
#include "postgres.h"

#include "constraints.h"
#include "owner.h"
#include "sql.h"
#include "tables.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define HELPER_PREFIX "dualwrite_not_null_"

/* How many rows a list of samples has. */
#define SAMPLES "5"

static void
execute(const char *statement)
{
	int			rc = SPI_execute(statement, false, 0);

	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", statement, SPI_result_code_string(rc));
}

/* ALTER TABLE, as the table's owner. */
static void
run_ddl(Oid relid, const char *statement)
{
	DwOwnerScope scope;

	dw_owner_enter(&scope, dw_relation_owner(relid), true);
	SPI_connect();
	execute(statement);
	SPI_finish();
	dw_owner_leave(&scope);
}

/* Columns may be renamed while it is there: the number tells whose it is, the name is for whoever reads an error. */
static char *
helper_name(Oid relid, AttrNumber attno)
{
	char	   *name = psprintf(HELPER_PREFIX "%d_%s", attno, get_attname(relid, attno, false));

	name[pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1)] = '\0';
	return name;
}

/* Its name as it is now, or would be; within dw_sql_begin. */
static DwNotNull
look_up(Oid relid, AttrNumber attno, DwSql *sql, char **helper)
{
	bool		isnull;

	if (dw_sql("SELECT a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conrelid = $1 AND n.contype = 'n'"
			   "  AND NOT n.convalidated AND $2 = ANY (n.conkey)),"
			   " c.convalidated, c.conname FROM pg_attribute a LEFT JOIN pg_constraint c ON c.conrelid = $1 AND c.contype = 'c'"
			   " AND starts_with(c.conname::text, '" HELPER_PREFIX "' || $2 || '_')"
			   " WHERE a.attrelid = $1 AND a.attnum = $2 AND NOT a.attisdropped",
			   2, (DwArg[]) {DW_OID(relid), DW_INT4(attno)}) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column %d of table %s does not exist any more", attno, dw_table_name(relid))));
	*helper = dw_sql_cstring(sql, 0, 3);
	if (DatumGetBool(dw_sql_value(0, 1, &isnull)))
		return DW_NOT_NULL_SET;
	if (*helper == NULL)
		return DW_NOT_NULL_ABSENT;
	return DatumGetBool(dw_sql_value(0, 2, &isnull)) ? DW_NOT_NULL_VALIDATED : DW_NOT_NULL_ADDED;
}

DwNotNull
dw_not_null_state(Oid relid, AttrNumber attno, char **helper)
{
	DwSql		sql;
	DwNotNull	state;
	char	   *name;

	dw_sql_begin(&sql);
	state = look_up(relid, attno, &sql, &name);
	dw_sql_end(&sql);
	if (helper != NULL)
		*helper = name ? name : helper_name(relid, attno);
	return state;
}

void
dw_not_null_add(Oid relid, AttrNumber attno)
{
	run_ddl(relid, psprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s IS NOT NULL) NOT VALID", dw_table_name(relid),
							quote_identifier(helper_name(relid, attno)), quote_identifier(get_attname(relid, attno, false))));
}

void
dw_not_null_set(Oid relid, AttrNumber attno)
{
	char	   *helper;

	if (dw_not_null_state(relid, attno, &helper) != DW_NOT_NULL_VALIDATED)
		return;
	/* two statements, since ALTER TABLE does what it drops first, and NOT NULL asks for the CHECK */
	run_ddl(relid, psprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", dw_table_name(relid),
							quote_identifier(get_attname(relid, attno, false))));
	run_ddl(relid, psprintf("ALTER TABLE %s DROP CONSTRAINT %s", dw_table_name(relid), quote_identifier(helper)));
}

int
dw_not_null_retract(Oid relid, List *keep)
{
	DwSql		sql;
	uint64		count;
	List	   *statements = NIL;
	ListCell   *lc;

	dw_sql_begin(&sql);
	count = dw_sql("SELECT c.conname, c.conkey[1]::int FROM pg_constraint c WHERE c.conrelid = $1 AND c.contype = 'c' AND c.conislocal"
				   " AND c.coninhcount = 0 AND c.conname ~ '^" HELPER_PREFIX "[0-9]+_' AND cardinality(c.conkey) = 1",
				   1, (DwArg[]) {DW_OID(relid)});
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;

		if (!list_member_int(keep, DatumGetInt32(dw_sql_value(i, 2, &isnull))))
			statements = lappend(statements, psprintf("ALTER TABLE %s DROP CONSTRAINT %s", dw_table_name(relid),
													  quote_identifier(dw_sql_cstring(&sql, i, 1))));
	}
	/* calls nothing of users, and a partition may have got another owner: a rollback must not fail for that */
	foreach(lc, statements)
		execute(lfirst(lc));
	dw_sql_end(&sql);
	return list_length(statements);
}

void
dw_constraint_validate(Oid relid, const char *name)
{
	run_ddl(relid, psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", dw_table_name(relid), quote_identifier(name)));
}

static char *
violations_query(Oid relid, const char *condition, List *key_columns)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*), coalesce(pg_catalog.jsonb_agg(v.key) FILTER"
						   " (WHERE v.ordinal OPERATOR(pg_catalog.<=) " SAMPLES "), '[]') FROM (SELECT pg_catalog.row_number() OVER () AS ordinal,"
						   " pg_catalog.jsonb_build_object(");
	foreach(lc, key_columns)
		appendStringInfo(&sql, "%s%s, t.%s", lc == list_head(key_columns) ? "" : ", ", quote_literal_cstr(lfirst(lc)),
						 quote_identifier(lfirst(lc)));
	appendStringInfo(&sql, ") AS key FROM %s AS t WHERE %s) AS v", dw_table_name(relid), condition);
	return sql.data;
}

int64
dw_violations(Oid relid, const char *condition, List *key_columns, Jsonb **keys)
{
	char	   *sql = violations_query(relid, condition, key_columns);
	MemoryContext caller = CurrentMemoryContext;
	DwOwnerScope scope;
	Datum		value;
	int64		count;
	bool		isnull;

	dw_owner_enter(&scope, dw_relation_owner(relid), true);
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not execute \"%s\"", sql);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	MemoryContextSwitchTo(caller);
	if (keys != NULL)
		*keys = DatumGetJsonbPCopy(value);
	SPI_finish();
	PopActiveSnapshot();
	dw_owner_leave(&scope);
	return count;
}
