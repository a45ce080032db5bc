/*
 * alerts.c: what somebody should be told without having asked, in the log and to whoever listens.
 *
 * Drift and dead letters are told by reconcile.c and queue.c, where they are found.
 */
#include "postgres.h"

#include "alerts.h"
#include "stats.h"

#include "commands/async.h"
#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/memutils.h"

/* Failures of a mirror that were told, or that are older than this process. */
typedef struct DwToldFailures
{
	int32		mapping_id;
	DwDirection direction;
	int64		failed;
} DwToldFailures;

static List *told = NIL;		/* of DwToldFailures, in TopMemoryContext */

void
dw_alert(const char *kind, const char *migration, const char *role)
{
	StringInfoData payload;

	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"alert\": ");
	escape_json(&payload, kind);
	appendStringInfoString(&payload, ", \"migration\": ");
	escape_json(&payload, migration);
	if (role != NULL)
	{
		appendStringInfoString(&payload, ", \"role\": ");
		escape_json(&payload, role);
	}
	appendStringInfoChar(&payload, '}');
	Async_Notify("dualwrite", payload.data);
	pfree(payload.data);
}

/* What was told of a mirror; the first look counts as told. */
static DwToldFailures *
told_of(int32 mapping_id, DwDirection direction, int64 failed)
{
	ListCell   *lc;
	DwToldFailures *entry;
	MemoryContext old;

	foreach(lc, told)
	{
		entry = lfirst(lc);
		if (entry->mapping_id == mapping_id && entry->direction == direction)
			return entry;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	entry = palloc(sizeof(DwToldFailures));
	entry->mapping_id = mapping_id;
	entry->direction = direction;
	entry->failed = failed;
	told = lappend(told, entry);
	MemoryContextSwitchTo(old);
	return entry;
}

static void
tell_failures(const DwMigration *migration, const DwMapping *mapping, DwDirection direction)
{
	DwStatsEntry counts;
	int64		failed = 0;
	DwToldFailures *before;

	if (dw_stats_get(mapping->id, direction, &counts))
		failed = counts.counters[DW_COUNT_FAILED];
	before = told_of(mapping->id, direction, failed);
	if (failed > before->failed)
	{
		ereport(WARNING,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("migration \"%s\": " INT64_FORMAT " mirror writes from %s to %s have failed",
						migration->name, failed - before->failed,
						direction == DW_FORWARD ? mapping->old_name : mapping->new_name,
						direction == DW_FORWARD ? mapping->new_name : mapping->old_name),
				 errhint("See dualwrite.queue and dualwrite.dead_letters, or the errors that the application got.")));
		dw_alert("mirror_failed", migration->name, direction == DW_FORWARD ? "forward" : "reverse");
	}
	before->failed = failed;
}

DwStep
dw_alerts_step(const DwMigration *migration, TimestampTz *next_due)
{
	ListCell   *lc;

	(void) next_due;
	foreach(lc, dw_mappings_of(migration->id))
		for (int direction = DW_FORWARD; direction <= DW_REVERSE; direction++)
			tell_failures(migration, lfirst(lc), (DwDirection) direction);
	return DW_STEP_IDLE;
}
