/*
 * inserts.c: when a table last got a key, in this transaction.
 *
 * The event of a delete does not say whether the key has come back since: by a trigger that has fired in between, or because the
 * same statement has written the row's counterpart, too, and that was mirrored first.  A delete from before the table last
 * got any key is taken for history, and its key looked at anew.  That may be so for nothing, but seldom is.
 */
#include "postgres.h"

#include "inserts.h"

#include "access/xact.h"
#include "utils/memutils.h"

typedef struct LastInsert
{
	Oid			root;
	CommandId	command;
} LastInsert;

static List *last_inserts = NIL;	/* in TopTransactionContext */

static LastInsert *
find(Oid root)
{
	ListCell   *lc;

	foreach(lc, last_inserts)
		if (((LastInsert *) lfirst(lc))->root == root)
			return lfirst(lc);
	return NULL;
}

static void
note(Oid root, CommandId command)
{
	LastInsert *last = find(root);

	if (last == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		last = palloc0(sizeof(LastInsert));
		last->root = root;
		last_inserts = lappend(last_inserts, last);
		MemoryContextSwitchTo(old);
	}
	last->command = Max(last->command, command);
}

void
dw_inserts_event(Oid root)
{
	note(root, GetCurrentCommandId(false));
}

void
dw_inserts_mirrored(Oid root)
{
	note(root, GetCurrentCommandId(false) + 1);
}

bool
dw_inserts_since(Oid root, CommandId command)
{
	LastInsert *last = find(root);

	return last != NULL && last->command > command;
}

static void
xact_callback(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		last_inserts = NIL;
}

void
dw_inserts_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}
