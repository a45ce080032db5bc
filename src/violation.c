/*
 * violation.c: constraints of a target that are checked at the end of the application's statement.
 *
 * Foreign keys, and unique constraints that are deferrable, look by triggers of the server, which fire with those of the statement:
 * outside of the mirror, so that an error would name a table that the application has not written, and not why it was written.
 * The reference at fault is in the server's own detail; which row has it can be told only where there was one.
 *
 * Checks that are deferred to the end of the transaction run where nobody is asked; they fail as the server has them fail.
 */
#include "postgres.h"

#include "execution.h"
#include "mapping.h"
#include "pending.h"
#include "stats.h"
#include "violation.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"

void
dw_violation_note(DwFlow *flow, const DwKey *source_key)
{
	MemoryContext context;
	DwMirroredBy *mirrored = dw_execution_mirrored(flow, &context);
	MemoryContext old;

	if (mirrored == NULL)
		return;
	/* a row whose key changes comes twice, the second time at the end */
	if (mirrored->rows == 1 && mirrored->first != NULL && source_key != NULL &&
		dw_pending_same_key(flow, mirrored->first, source_key))
		return;
	if (mirrored->rows++ > 0 || source_key == NULL)
		return;
	old = MemoryContextSwitchTo(context);
	mirrored->first = palloc(sizeof(DwKey));
	dw_key_copy(flow->source_desc, flow->source_key, source_key, mirrored->first);
	MemoryContextSwitchTo(old);
}

/* There can be no subtransaction to compute it in. */
char *
dw_violation_key(DwFlow *flow, const DwKey *source_key)
{
	DwKey		key;

	dw_key_set(flow->source_key, source_key, &key);
	if (flow->direction == DW_FORWARD && (dw_key_may_fail(flow) || !dw_key_across(flow, source_key, &key)))
		return JsonbToCString(NULL, &dw_key_material(flow, source_key)->root, 0);
	return JsonbToCString(NULL, &dw_key_to_jsonb(flow->compiled, &key)->root, 0);
}

char *
dw_violation_hint(DwFlow *flow)
{
	if (flow->direction == DW_REVERSE)
		return NULL;
	return psprintf("SELECT dualwrite.configure(%s, 'mirror_on_error', 'queue') lets the statement succeed and queues the key.",
					quote_literal_cstr(flow->compiled->migration));
}

/* Looks nothing up: the transaction has failed. */
static bool
explain(ErrorData *error, List *by)
{
	const char *table;
	ListCell   *lc;

	if (error->schema_name == NULL || error->table_name == NULL || error->constraint_name == NULL)
		return false;
	if (error->context != NULL && strstr(error->context, "mirror of migration") != NULL)
		return false;			/* the mirror itself has met it */
	table = quote_qualified_identifier(error->schema_name, error->table_name);
	foreach(lc, by)
	{
		const DwMirroredBy *mirrored = lfirst(lc);
		DwFlow	   *flow = unconstify(DwFlow *, (const DwFlow *) mirrored->by);
		const DwMapping *mapping = flow->compiled->mapping;
		bool		forward = flow->direction == DW_FORWARD;
		char	   *context;

		if (strcmp(table, forward ? mapping->new_name : mapping->old_name) != 0)
			continue;
		context = psprintf("dualwrite %s mirror of migration \"%s\", mapping from %s to %s, key %s, checked at the end of the statement",
						   forward ? "forward" : "reverse", flow->compiled->migration, mapping->old_name, mapping->new_name,
						   mirrored->first == NULL || mirrored->rows > 1 ? "not known, one of several" :
						   dw_violation_key(flow, mirrored->first));
		error->context = error->context ? psprintf("%s\n%s", context, error->context) : context;
		if (error->hint == NULL)
			error->hint = dw_violation_hint(flow);
		dw_stats_count(flow->compiled->mapping_id, flow->direction, DW_COUNT_FAILED, 1);
		return true;
	}
	return false;
}

void
dw_violation_init(void)
{
	dw_execution_on_violation(explain);
}
