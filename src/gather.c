/*
 * gather.c: rows of one statement that are written to the target together.
 *
 * A statement that writes many rows fires our trigger for each of them.  Where nothing that could look at the target runs
 * before the statement's last trigger (execution.c knows), its rows are kept for a while: inserts go into the heap a page
 * at a time (bulk.c), deletes by a walk along the index (sweep.c).  What cannot be written in this way, because somebody
 * else has his hands on it or because something of that key is there, is written one by one, as everything else is.
 *
 * Rows of one statement have different keys, so that inserts may change places with inserts, and deletes with deletes;
 * mirror.c sees to it that nothing else is overtaken.
 */
#include "postgres.h"

#include "execution.h"
#include "gather.h"
#include "inserts.h"

#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* Rows kept before they are written: enough for several pages, few enough for the processor's cache. */
#define MAX_GATHERED 1000

struct DwGather
{
	DwFlow	   *flow;
	bool		deleting;
	bool		possible;
	DwTarget   *target;
	int			nrows;
	DwBulk	   *bulk;			/* of inserts */
	bool	   *conflicts;
	Datum	   *keys;			/* of deletes: target keys, of one column */
	bool		key_byval;
	int16		key_length;
	MemoryContext key_memory;
	int			at;				/* row being written by itself; -1: none */
};

static DwGather *
find(DwStatement *statement, DwFlow *flow, bool deleting)
{
	ListCell   *lc;

	foreach(lc, statement->gathers)
	{
		DwGather   *gather = lfirst(lc);

		if (gather->flow == flow && gather->deleting == deleting)
			return gather;
	}
	return NULL;
}

/* Does writing the target run code of nobody, and concern nothing beyond the row? */
static bool
is_plain(DwTarget *target, bool deleting)
{
	DwFlow	   *flow = target->flow;

	if (!flow->owns_target || DW_FLOW_IN_PLACE(flow) || flow->compiled->user_code || flow->runs_queries ||
		target->pinned || target->lookup == NULL || (flow->direction == DW_REVERSE && flow->compiled->mapping->filter != NULL) ||
		dw_statement_followers(flow) != NIL || dw_statement_fillers(flow) != NIL || dw_statement_shares_target(flow))
		return false;
	return deleting ? dw_sweep_possible(target) : dw_bulk_possible(target);
}

static DwGather *
make(DwStatement *statement, DwFlow *flow, Relation rel, bool deleting)
{
	DwTarget   *target = dw_statement_target(statement, flow);
	MemoryContext old = MemoryContextSwitchTo(statement->context);
	DwGather   *gather = palloc0(sizeof(DwGather));

	gather->flow = flow;
	gather->deleting = deleting;
	gather->target = target;
	gather->at = -1;
	gather->possible = is_plain(target, deleting) &&
		dw_execution_is_private(rel, flow->target, target->lookup->heaps);
	if (gather->possible && deleting)
	{
		Form_pg_attribute att = TupleDescAttr(flow->target_desc, flow->target_key->columns[0] - 1);

		gather->key_byval = att->attbyval;
		gather->key_length = att->attlen;
		gather->keys = palloc(sizeof(Datum) * MAX_GATHERED);
		gather->key_memory = AllocSetContextCreate(statement->context, "dualwrite keys", ALLOCSET_DEFAULT_SIZES);
	}
	else if (gather->possible)
	{
		gather->bulk = dw_bulk_begin_statement(target, MAX_GATHERED);
		gather->conflicts = palloc(sizeof(bool) * MAX_GATHERED);
	}
	statement->gathers = lappend(statement->gathers, gather);
	MemoryContextSwitchTo(old);
	return gather;
}

DwGather *
dw_gather_for(DwStatement *statement, DwFlow *flow, Relation rel, bool deleting)
{
	DwGather   *gather = find(statement, flow, deleting);

	if (gather == NULL)
	{
		ResourceOwner saved = CurrentResourceOwner;

		CurrentResourceOwner = statement->owner;
		gather = make(statement, flow, rel, deleting);
		CurrentResourceOwner = saved;
	}
	return gather->possible ? gather : NULL;
}

void
dw_gather_insert(DwStatement *statement, DwGather *gather, TupleTableSlot *row)
{
	if (!dw_bulk_add(gather->bulk, row))
		elog(ERROR, "rows gathered for table %u were not written in time", gather->flow->target);
	gather->nrows++;
	statement->gathered++;
	statement->gather_full |= dw_bulk_full(gather->bulk);
}

void
dw_gather_delete(DwStatement *statement, DwGather *gather, const DwKey *target_key)
{
	Datum		key = target_key->values[0];

	if (!gather->key_byval)
	{
		MemoryContext old = MemoryContextSwitchTo(gather->key_memory);

		key = datumCopy(key, false, gather->key_length);
		MemoryContextSwitchTo(old);
	}
	gather->keys[gather->nrows++] = key;
	statement->gathered++;
	statement->gather_full |= gather->nrows == MAX_GATHERED;
}

static void
count(int64 *counts, DwApplied applied, int n)
{
	switch (applied)
	{
		case DW_APPLIED_INSERT:
			counts[DW_COUNT_INSERT] += n;
			break;
		case DW_APPLIED_UPDATE:
			counts[DW_COUNT_UPDATE] += n;
			break;
		case DW_APPLIED_DELETE:
			counts[DW_COUNT_DELETE] += n;
			break;
		default:
			counts[DW_COUNT_SKIPPED] += n;
	}
}

static void
write_deletes(DwGather *gather, int64 *counts)
{
	int			swept = dw_sweep(gather->target, gather->keys, gather->nrows);

	count(counts, DW_APPLIED_DELETE, swept);
	for (gather->at = 0; gather->at < gather->nrows - swept; gather->at++)
	{
		DwKey		key;

		key.values[0] = gather->keys[gather->at];
		count(counts, dw_target_remove(gather->target, &key), 1);
	}
	MemoryContextReset(gather->key_memory);
}

static void
write_inserts(DwGather *gather, int64 *counts)
{
	DwTarget   *target = gather->target;

	dw_inserts_mirrored(gather->flow->target);
	dw_bulk_flush(gather->bulk, gather->conflicts);
	for (gather->at = 0; gather->at < gather->nrows; gather->at++)
	{
		if (!gather->conflicts[gather->at])
		{
			count(counts, DW_APPLIED_INSERT, 1);
			continue;
		}
		dw_bulk_row(gather->bulk, gather->at, target->row);
		count(counts, dw_target_put(target, target->row), 1);
	}
	dw_bulk_settle(gather->bulk);
}

void
dw_gather_write(DwGather *gather, int64 *counts)
{
	if (gather->nrows == 0)
		return;
	if (gather->deleting)
		write_deletes(gather, counts);
	else
		write_inserts(gather, counts);
	gather->nrows = 0;
	gather->at = -1;
}

bool
dw_gather_full(DwStatement *statement)
{
	return statement->gather_full;
}

void
dw_gather_end(DwStatement *statement)
{
	ListCell   *lc;

	foreach(lc, statement->gathers)
	{
		DwGather   *gather = lfirst(lc);

		if (gather->nrows != 0)
			elog(ERROR, "%d rows for table %u were gathered and not written", gather->nrows, gather->flow->target);
		if (gather->bulk != NULL)
			dw_bulk_end(gather->bulk);
	}
	statement->gathers = NIL;
}

int
dw_gather_rows(const DwGather *gather)
{
	return gather->nrows;
}

DwFlow *
dw_gather_flow(const DwGather *gather)
{
	return gather->flow;
}

bool
dw_gather_key_at_fault(DwGather *gather, DwKey *target_key)
{
	if (gather->at < 0)
		return false;
	if (gather->deleting)
	{
		target_key->values[0] = gather->keys[gather->at];
		return true;
	}
	dw_bulk_row(gather->bulk, gather->at, gather->target->old_row);
	return dw_key_of_row(gather->flow->target_key, gather->target->old_row, target_key);
}
