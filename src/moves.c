/*
 * moves.c: rows whose key a statement has changed, until their target rows follow.
 *
 * A target row moves when the statement is over.  Both keys are brought to agreement then, on the newest version, so that what
 * else happens to them until then needs no mirror of its own.  It must not have one: a row that is put under a key before
 * the one that is to move there would keep that out, and with it what only the target has of it.
 *
 * A key that is not deferrable has one row at any time.  Whatever leaves the key that a row has moved to is that row.
 */
#include "postgres.h"

#include "moves.h"

#include "common/hashfn.h"
#include "utils/datum.h"
#include "utils/hsearch.h"

/* Moves that may have a key with this hash, as the one that they come from or go to. */
typedef struct Candidates
{
	uint32		hash;			/* hash key */
	List	   *moves;			/* of DwPostponed */
} Candidates;

bool
dw_moves_same_key(DwFlow *flow, const DwKey *a, const DwKey *b)
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

/* The last move of the flow that goes to the key, or, unless only_to, that comes from it. */
static DwPostponed *
find(DwStatement *statement, DwFlow *flow, const DwKey *key, bool only_to)
{
	uint32		hash;
	Candidates *candidates;

	if (statement->moves == NIL)
		return NULL;
	hash = hash_of(flow, key);
	candidates = hash_search(statement->moves_by_key, &hash, HASH_FIND, NULL);
	for (int i = candidates ? list_length(candidates->moves) - 1 : -1; i >= 0; i--)
	{
		DwPostponed *move = list_nth(candidates->moves, i);

		if (move->mapping_id == flow->compiled->mapping_id && move->direction == flow->direction &&
			(dw_moves_same_key(flow, &move->source_key, key) ||
			 (!only_to && dw_moves_same_key(flow, &move->from_key, key))))
			return move;
	}
	return NULL;
}

static void
note(DwStatement *statement, DwFlow *flow, const DwKey *key, DwPostponed *move)
{
	uint32		hash = hash_of(flow, key);
	MemoryContext old = MemoryContextSwitchTo(statement->context);
	Candidates *candidates;
	bool		found;

	if (statement->moves_by_key == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(uint32), .entrysize = sizeof(Candidates), .hcxt = statement->context};

		statement->moves_by_key = hash_create("dualwrite moves", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	candidates = hash_search(statement->moves_by_key, &hash, HASH_ENTER, &found);
	candidates->moves = lappend(found ? candidates->moves : NIL, move);
	MemoryContextSwitchTo(old);
}

void
dw_moves_add(DwStatement *statement, DwFlow *flow, const DwKey *from, const DwKey *to)
{
	DwPostponed *move = find(statement, flow, from, true);

	if (move != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(statement->context);

		dw_key_copy(flow->source_desc, flow->source_key, to, &move->source_key);
		MemoryContextSwitchTo(old);
	}
	else
	{
		move = dw_statement_postpone_move(statement, &statement->moves, flow, from, to);
		note(statement, flow, from, move);
	}
	note(statement, flow, to, move);
}

bool
dw_moves_include(DwStatement *statement, DwFlow *flow, const DwKey *source_key)
{
	return find(statement, flow, source_key, false) != NULL;
}

List *
dw_moves_take(DwStatement *statement)
{
	List	   *moves = statement->moves;

	if (statement->moves_by_key != NULL)
		hash_destroy(statement->moves_by_key);
	statement->moves_by_key = NULL;
	statement->moves = NIL;
	return moves;
}
