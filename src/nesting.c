/*
 * nesting.c: how deep mirrored writes are nested.
 *
 * A write to a target may run code of users (its BEFORE triggers, its defaults), and that may write a mirrored table in
 * turn.  What the inner write works with must not be what the outer one still holds, so both ask here how deep they are.
 * After an error nobody counts back: whoever catches it, and the end of the transaction, set the depth.
 */
#include "postgres.h"

#include "nesting.h"

#include "executor/executor.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

static int	depth = 0;

void
dw_nesting_enter(void)
{
	if (depth + 1 >= DW_MAX_NESTING)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("mirrored writes are nested more than %d deep", DW_MAX_NESTING),
				 errhint("Look for triggers on the new tables that write old tables without end.")));
	depth++;
}

void
dw_nesting_leave(void)
{
	depth--;
}

int
dw_nesting(void)
{
	return depth;
}

void
dw_nesting_set(int to)
{
	depth = to;
}

int
dw_trigger_depth(void)
{
	return DatumGetInt32(pg_trigger_depth(NULL));
}

ExprContext *
dw_nested_context(ExprContext *contexts[], MemoryContext memory)
{
	if (contexts[depth] == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(memory);

		contexts[depth] = CreateStandaloneExprContext();
		MemoryContextSwitchTo(old);
	}
	return contexts[depth];
}
