/*
 * pending.c: keys that the end of a statement brings to agreement.
 *
 * Where a key has changed, or foreign keys of the target have written a row, both sides agree only when the statement is over.
 * They are made to then, from the newest version, so that what else happens to such a key until then needs no mirror of
 * its own.  It must not have one: a row that is put under a key before the one that is to move there would keep that out,
 * and with it what only the target has of it; one whose parent is gone already would come back without it, for a while.
 *
 * A trigger of a user may run statements of its own before a statement is over.  Their end is not the end of what waits for the
 * outer one, whose foreign keys and further rows are still to come.
 *
 * A key that is not deferrable has one row at any time.  Whatever leaves the key that a row has moved to is that row.
 */
#include "postgres.h"

#include "pending.h"

#include "common/hashfn.h"
#include "utils/datum.h"
#include "utils/hsearch.h"

/* What may have a key with this hash, as the one that it is, or that it comes from. */
typedef struct Candidates
{
	uint32		hash;			/* hash key */
	List	   *pending;		/* of DwPostponed */
} Candidates;

bool
dw_pending_same_key(DwFlow *flow, const DwKey *a, const DwKey *b)
{
	for (int i = 0; i < flow->source_key->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(flow->source_desc, flow->source_key->columns[i] - 1);

		if (!datum_image_eq(a->values[i], b->values[i], att->attbyval, att->attlen))
			return false;
	}
	return true;
}

static uint32
hash_of(DwFlow *flow, const DwKey *key)
{
	uint32		hash = flow->compiled->mapping_id * 2 + flow->direction;

	for (int i = 0; i < flow->source_key->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(flow->source_desc, flow->source_key->columns[i] - 1);

		hash = hash_combine(hash, datum_image_hash(key->values[i], att->attbyval, att->attlen));
	}
	return hash;
}

/* The last one of the flow that has the key; moves: a move that goes to it. */
static DwPostponed *
find(HTAB *by_key, DwFlow *flow, const DwKey *key, bool moves)
{
	uint32		hash;
	Candidates *candidates;

	if (by_key == NULL)
		return NULL;
	hash = hash_of(flow, key);
	candidates = hash_search(by_key, &hash, HASH_FIND, NULL);
	for (int i = candidates ? list_length(candidates->pending) - 1 : -1; i >= 0; i--)
	{
		DwPostponed *one = list_nth(candidates->pending, i);

		if (one->done || one->mapping_id != flow->compiled->mapping_id || one->direction != flow->direction ||
			(moves && !one->moved))
			continue;
		if (dw_pending_same_key(flow, one->source_key, key) ||
			(!moves && one->moved && dw_pending_same_key(flow, one->from_key, key)))
			return one;
	}
	return NULL;
}

static void
note(DwPending *pending, DwFlow *flow, const DwKey *key, DwPostponed *one)
{
	uint32		hash = hash_of(flow, key);
	MemoryContext old = MemoryContextSwitchTo(pending->memory);
	Candidates *candidates;
	bool		found;

	if (pending->by_key == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(uint32), .entrysize = sizeof(Candidates), .hcxt = pending->memory};

		pending->by_key = hash_create("dualwrite pending keys", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	candidates = hash_search(pending->by_key, &hash, HASH_ENTER, &found);
	candidates->pending = lappend(found ? candidates->pending : NIL, one);
	MemoryContextSwitchTo(old);
}

void
dw_pending_move(DwStatement *statement, DwFlow *flow, const DwKey *from, const DwKey *to)
{
	DwPostponed *move = find(statement->moves.by_key, flow, from, true);

	if (move != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(statement->moves.memory);

		dw_key_copy(flow->source_desc, flow->source_key, to, move->source_key);
		MemoryContextSwitchTo(old);
	}
	else
	{
		move = dw_statement_postpone_move(statement, &statement->moves, flow, from, to);
		note(&statement->moves, flow, from, move);
	}
	note(&statement->moves, flow, to, move);
}

void
dw_pending_cascaded(DwStatement *statement, DwFlow *flow, const DwKey *source_key, int depth)
{
	DwPostponed *written;

	if (find(statement->cascaded.by_key, flow, source_key, false) != NULL)
		return;
	written = dw_statement_postpone(statement, &statement->cascaded, flow, source_key);
	written->depth = depth;
	note(&statement->cascaded, flow, source_key, written);
}

bool
dw_pending_includes(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	return find(statement->moves.by_key, flow, source_key, false) != NULL ||
		find(statement->cascaded.by_key, flow, source_key, false) != NULL;
}

/* What waits for an inner statement came later than what waits for an outer one that is not over. */
bool
dw_pending_any(const DwPending *pending, int depth)
{
	return pending->keys != NIL && ((DwPostponed *) llast(pending->keys))->depth >= depth;
}

List *
dw_pending_take(DwPending *pending, int depth)
{
	MemoryContext old;
	List	   *taken = NIL;
	List	   *left = NIL;
	ListCell   *lc;

	if (pending->keys == NIL)
		return NIL;
	old = MemoryContextSwitchTo(pending->memory);
	foreach(lc, pending->keys)
	{
		DwPostponed *one = lfirst(lc);

		one->done = one->depth >= depth;
		if (one->done)
			taken = lappend(taken, one);
		else
			left = lappend(left, one);
	}
	list_free(pending->keys);
	pending->keys = left;
	if (left == NIL && pending->by_key != NULL)
	{
		hash_destroy(pending->by_key);
		pending->by_key = NULL;
	}
	MemoryContextSwitchTo(old);
	return taken;
}

void
dw_pending_free(DwPending *pending)
{
	/* more may have come while the others were brought to agreement */
	if (pending->keys == NIL && pending->memory != NULL)
		MemoryContextReset(pending->memory);
}
