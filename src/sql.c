/*
 * sql.c: statements on the extension's own tables.
 *
 * They run as the extension's owner, under a fixed search_path, and with the newest snapshot: what a mirror or a control
 * function must know is what is so now, not what was so when a REPEATABLE READ transaction began.
 */
#include "postgres.h"

#include "sql.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* Most arguments that any of our statements has. */
#define DW_MAX_ARGS 32

typedef struct DwPlan
{
	const char *text;			/* hash key: the constant's address */
	SPIPlanPtr	plan;
} DwPlan;

static HTAB *plans = NULL;

/* Owner of schema _dualwrite, who is the extension's. */
static Oid
extension_owner(void)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACENAME, CStringGetDatum("_dualwrite"));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"_dualwrite\" does not exist"),
				 errhint("Run CREATE EXTENSION dualwrite in this database.")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
dw_sql_begin(DwSql *sql)
{
	Oid			owner = extension_owner();

	sql->caller = CurrentMemoryContext;
	GetUserIdAndSecContext(&sql->saved_user, &sql->saved_context);
	SetUserIdAndSecContext(owner, sql->saved_context | SECURITY_LOCAL_USERID_CHANGE);
	sql->saved_nest = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
dw_sql_end(DwSql *sql)
{
	SPI_finish();
	AtEOXact_GUC(false, sql->saved_nest);
	SetUserIdAndSecContext(sql->saved_user, sql->saved_context);
}

void
dw_sql_by_index(void)
{
	static const char *const whole_list[] = {"enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"};

	for (size_t i = 0; i < lengthof(whole_list); i++)
		(void) set_config_option(whole_list[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static SPIPlanPtr
plan_for(const char *text, int nargs, const DwArg *args)
{
	DwPlan	   *entry;
	bool		found;
	Oid			types[DW_MAX_ARGS];

	if (plans == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(char *), .entrysize = sizeof(DwPlan), .hcxt = TopMemoryContext};

		plans = hash_create("dualwrite statements", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(plans, &text, HASH_ENTER, &found);
	if (!found)
		entry->plan = NULL;
	if (entry->plan == NULL)
	{
		SPIPlanPtr	plan;

		Assert(nargs <= DW_MAX_ARGS);
		for (int i = 0; i < nargs; i++)
			types[i] = args[i].type;
		plan = SPI_prepare(text, nargs, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", text, SPI_result_code_string(SPI_result));
		entry->plan = plan;
	}
	return entry->plan;
}

static uint64
execute(const char *text, int nargs, const DwArg *args, Snapshot snapshot, bool read_only)
{
	SPIPlanPtr	plan = plan_for(text, nargs, args);
	Datum		values[DW_MAX_ARGS];
	char		nulls[DW_MAX_ARGS];
	int			rc;

	for (int i = 0; i < nargs; i++)
	{
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}
	rc = SPI_execute_snapshot(plan, values, nulls, snapshot, InvalidSnapshot, read_only, true, 0);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", text, SPI_result_code_string(rc));
	return SPI_processed;
}

uint64
dw_sql(const char *text, int nargs, const DwArg *args)
{
	/* what this transaction wrote before is to be seen */
	CommandCounterIncrement();
	return execute(text, nargs, args, GetLatestSnapshot(), false);
}

uint64
dw_sql_snapshot(const char *text, int nargs, const DwArg *args, Snapshot snapshot)
{
	return execute(text, nargs, args, snapshot, true);
}

Datum
dw_sql_value(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

char *
dw_sql_cstring(DwSql *sql, uint64 row, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(sql->caller, value) : NULL;
}

DwArg
dw_text_arg(const char *value)
{
	return (DwArg)
	{
		TEXTOID, value ? CStringGetTextDatum(value) : (Datum) 0, value == NULL
	};
}
