/*
 * violation.c: constraints of a target that are checked at the end of the application's statement.
 *
 * Foreign keys, and unique constraints that are deferrable, look by triggers of the server, which fire with those of the statement:
 * outside of the mirror, so that an error would name a table that the application has not written, and not why it was written.
 * The rows and the reference at fault are in the server's own detail.
 *
 * Checks that are deferred to the end of the transaction run where nobody is asked; they fail as the server has them fail.
 */
#include "postgres.h"

#include "execution.h"
#include "mapping.h"
#include "violation.h"

#include "utils/builtins.h"

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
		DwFlow	   *flow = lfirst(lc);
		const DwMapping *mapping = flow->compiled->mapping;
		bool		forward = flow->direction == DW_FORWARD;
		char	   *context;

		if (strcmp(table, forward ? mapping->new_name : mapping->old_name) != 0)
			continue;
		context = psprintf("dualwrite %s mirror of migration \"%s\", mapping from %s to %s, checked at the end of the statement",
						   forward ? "forward" : "reverse", flow->compiled->migration, mapping->old_name, mapping->new_name);
		error->context = error->context ? psprintf("%s\n%s", context, error->context) : context;
		return true;
	}
	return false;
}

void
dw_violation_init(void)
{
	dw_execution_on_violation(explain);
}
