/*
 * analyze.c: statistics of a new table.
 *
 * It must not wait for a lock, nor be the reason that anything else fails.
 */
#include "postgres.h"

#include "analyze.h"
#include "attempt.h"
#include "owner.h"
#include "tables.h"

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/snapmgr.h"

static void
analyze_table(void *arg)
{
	Oid			table = *(Oid *) arg;
	Oid			owner = dw_relation_owner(table);
	DwOwnerScope scope;
	StringInfoData command;

	initStringInfo(&command);
	appendStringInfo(&command, "ANALYZE (SKIP_LOCKED) %s", dw_table_name(table));
	PushActiveSnapshot(GetLatestSnapshot());
	dw_owner_enter(&scope, owner, true);
	SPI_connect();
	if (SPI_execute(command.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command.data);
	SPI_finish();
	dw_owner_leave(&scope);
	PopActiveSnapshot();
}

void
dw_analyze(Oid table, const char *name)
{
	DwError		failure;

	if (!dw_attempt(analyze_table, &table, false, &failure))
		ereport(LOG,
				(errmsg("could not analyze %s after the backfill: %s", name, failure.message)));
}
