/*
 * alerts.c: what somebody should be told without having asked, in the log and to whoever listens.
 *
 * Drift and dead letters are told by reconcile.c and queue.c, where they are found.
 */
#include "postgres.h"

#include "alerts.h"
#include "stats.h"
#include "triggers.h"

#include "commands/async.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Failures of a mirror that were told, or that are older than this process. */
typedef struct DwToldFailures
{
	int32		mapping_id;
	DwDirection direction;
	int64		failed;
} DwToldFailures;

static List *told = NIL;		/* of DwToldFailures, in TopMemoryContext */

/* What was told of a table's triggers. */
typedef struct DwToldTriggers
{
	Oid			relid;
	char	   *problem;		/* NULL: they were there */
} DwToldTriggers;

static List *told_triggers = NIL;	/* of DwToldTriggers, in TopMemoryContext */

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

static DwToldTriggers *
told_triggers_of(Oid relid)
{
	ListCell   *lc;
	DwToldTriggers *entry;
	MemoryContext old;

	foreach(lc, told_triggers)
		if (((DwToldTriggers *) lfirst(lc))->relid == relid)
			return lfirst(lc);
	old = MemoryContextSwitchTo(TopMemoryContext);
	entry = palloc0(sizeof(DwToldTriggers));
	entry->relid = relid;
	told_triggers = lappend(told_triggers, entry);
	MemoryContextSwitchTo(old);
	return entry;
}

/* Somebody has switched our triggers off, dropped them, or brought in a partition without them: told once. */
static void
tell_triggers(const DwMigration *migration, Oid relid)
{
	DwToldTriggers *before = told_triggers_of(relid);
	char	   *problem = NULL;

	if (get_rel_name(relid) != NULL && dw_triggers_needed(relid))
		problem = dw_triggers_problem(relid);
	if (problem != NULL && (before->problem == NULL || strcmp(problem, before->problem) != 0))
	{
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\": writes are not mirrored: %s", migration->name, problem),
				 errhint("Call dualwrite.install_triggers(%s), then dualwrite.reconcile to find what was missed.",
						 quote_literal_cstr(migration->name))));
		dw_alert("not_mirrored", migration->name, NULL);
	}
	if (before->problem != NULL)
		pfree(before->problem);
	before->problem = problem != NULL ? MemoryContextStrdup(TopMemoryContext, problem) : NULL;
}

DwStep
dw_alerts_step(const DwMigration *migration, TimestampTz *next_due)
{
	ListCell   *lc;

	(void) next_due;
	foreach(lc, dw_mappings_of(migration->id))
	{
		const DwMapping *mapping = lfirst(lc);

		for (int direction = DW_FORWARD; direction <= DW_REVERSE; direction++)
			tell_failures(migration, mapping, (DwDirection) direction);
		tell_triggers(migration, mapping->old_table);
		if (mapping->new_table != mapping->old_table)
			tell_triggers(migration, mapping->new_table);
	}
	return DW_STEP_IDLE;
}
