/*
 * converge.c: bring one key to agreement, whatever the reason that it is not.
 *
 * The source row is locked first, so that nobody can mirror an older or newer state of it past us.  Without a source row
 * there is nothing to lock, and an insert of that very key may be about to be mirrored: so the target row is locked, and
 * then the source looked up once more, without waiting; whoever inserts it now must wait for us at the target row.
 *
 * Several mappings may bring rows of one target into being (a union, shards seen from the other side).  A row that leaves
 * one of them may be another's by then: before it is taken away, it is locked, and the others are asked.
 */
#include "postgres.h"

#include "converge.h"

#include "access/table.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

DwConverge *
dw_converge_open(DwFlow *flow, bool wait)
{
	DwConverge *converge = palloc0(sizeof(DwConverge));

	converge->flow = flow;
	if (flow->direction == DW_REVERSE && flow->compiled->new_is_foreign)
		converge->foreign_source = dw_target_open(&flow->compiled->flow[DW_FORWARD], wait);
	else
		converge->source = dw_lookup_open(flow->source_key, RowShareLock);
	converge->target = dw_target_open(flow, wait);
	converge->target->quiet_unchanged = true;
	return converge;
}

void
dw_converge_close(DwConverge *converge)
{
	ListCell   *lc;

	foreach(lc, converge->siblings)
		dw_converge_close(lfirst(lc));
	dw_target_close(converge->target);
	if (converge->source != NULL)
		dw_lookup_close(converge->source);
	else
		dw_target_close(converge->foreign_source);
}

static DwConverged
from_applied(DwConverge *converge, DwApplied applied)
{
	converge->applied = applied;
	switch (applied)
	{
		case DW_APPLIED_NOTHING:
			return DW_CONVERGED_ALREADY;
		case DW_APPLIED_BUSY:
			return DW_CONVERGED_BUSY;
		default:
			return DW_CONVERGED_WROTE;
	}
}

/*
 * The source row, made into target->row: as far as an update needs it; in place, where nothing is inserted, with what an update fills in
 * once.
 */
static bool
make_row(DwConverge *converge, TupleTableSlot *row)
{
	converge->made_of = NULL;
	if (DW_FLOW_IN_PLACE(converge->flow))
		return dw_project(converge->flow, row, converge->target->row, NULL);
	converge->made_of = row;
	return dw_project_mapped(converge->flow, row, converge->target->row, NULL);
}

static DwApplied
put_row(DwConverge *converge)
{
	return dw_target_put_mapped(converge->target, converge->target->row, converge->made_of);
}

/* A row of another server is read, not locked: what changes it meanwhile is for the reconciliation to find. */
static DwFind
read_foreign_source(DwConverge *converge, const DwKey *source_key, bool *in_mapping)
{
	TupleTableSlot *row = dw_target_fetch(converge->foreign_source, source_key, NULL);

	if (row == NULL)
		return DW_FIND_NONE;
	*in_mapping = make_row(converge, row);
	return DW_FIND_FOUND;
}

/* The source row, locked, made into target->row; *in_mapping: it has a counterpart. */
static DwFind
read_source(DwConverge *converge, const DwKey *source_key, bool *in_mapping)
{
	DwLeaf	   *leaf;
	DwFind		find;

	if (converge->foreign_source != NULL)
		return read_foreign_source(converge, source_key, in_mapping);
	find = dw_lookup_lock(converge->source, source_key, converge->target->wait, false, &leaf);
	if (find == DW_FIND_FOUND)
		*in_mapping = make_row(converge, dw_leaf_row(converge->source, leaf));
	return find;
}

/* Other flows into the same target that own its rows, or only fill columns of them, under the same key, and are mirrored. */
static List *
sibling_flows(const DwFlow *flow, bool owning)
{
	Relation	rel = table_open(flow->target, AccessShareLock);
	DwTable    *table = dw_table_get(rel);
	bool		forward = flow->direction == DW_FORWARD;
	List	   *flows = NIL;
	ListCell   *lc;

	foreach(lc, forward ? table->as_new : table->as_old)
	{
		DwCompiled *other = lfirst(lc);
		DwFlow	   *sibling = &other->flow[flow->direction];

		if (other->mapping_id != flow->compiled->mapping_id && !other->broken && sibling->owns_target == owning &&
			other->phase >= (forward ? DW_PHASE_SHADOW : DW_PHASE_READ_SWITCH) && other->phase < DW_PHASE_COMPLETE &&
			sibling->target_key->ncolumns == flow->target_key->ncolumns &&
			memcmp(sibling->target_key->columns, flow->target_key->columns,
				   sizeof(AttrNumber) * flow->target_key->ncolumns) == 0 &&
			(other = dw_compiled_hold(other)) != NULL)
			flows = lappend(flows, &other->flow[flow->direction]);
	}
	table_close(rel, NoLock);
	return flows;
}

bool
dw_shares_target(const DwFlow *flow)
{
	return flow->owns_target && sibling_flows(flow, true) != NIL;
}

List *
dw_fillers_of(const DwFlow *flow)
{
	return flow->owns_target ? sibling_flows(flow, false) : NIL;
}

static List *
siblings_of(DwConverge *converge)
{
	MemoryContext old;
	ListCell   *lc;

	if (converge->siblings_known)
		return converge->siblings;
	old = MemoryContextSwitchTo(converge->target->context);
	foreach(lc, sibling_flows(converge->flow, true))
		converge->siblings = lappend(converge->siblings, dw_converge_open(lfirst(lc), false));
	MemoryContextSwitchTo(old);
	converge->siblings_known = true;
	return converge->siblings;
}

/* The sibling's source row is being written: what of it is committed? */
static bool
vouches_by_snapshot(DwConverge *sibling, const DwKey *source_key)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	DwLeaf	   *leaf;
	bool		result = sibling->source != NULL &&
		dw_lookup_visible(sibling->source, source_key, snapshot, &leaf) &&
		dw_in_mapping(sibling->flow, dw_leaf_row(sibling->source, leaf));

	UnregisterSnapshot(snapshot);
	return result;
}

/*
 * Nothing here waits: whoever writes the sibling's row is going to wait for us at the target row, which we hold, and then
 * makes it what it should be.
 */
static bool
takes_over(DwConverge *sibling, const DwKey *target_key)
{
	DwFlow	   *back = &sibling->flow->compiled->flow[1 - sibling->flow->direction];
	DwKey		source_key;
	bool		in_mapping = false;
	DwFind		find;

	if (!dw_key_across(back, target_key, &source_key))
		return false;
	find = read_source(sibling, &source_key, &in_mapping);
	if (find == DW_FIND_BUSY)
		return vouches_by_snapshot(sibling, &source_key);
	if (find == DW_FIND_NONE || !in_mapping)
		return false;
	(void) put_row(sibling);
	return true;
}

bool
dw_sibling_takes_over(DwConverge *converge, const DwKey *target_key)
{
	ListCell   *lc;

	foreach(lc, siblings_of(converge))
		if (takes_over(lfirst(lc), target_key))
			return true;
	return false;
}

/* Take the target row away, unless it is another mapping's by now. */
static DwConverged
remove_target(DwConverge *converge, const DwKey *target_key)
{
	DwTarget   *target = converge->target;
	DwLeaf	   *leaf;

	if (target->flow->owns_target && target->lookup != NULL && siblings_of(converge) != NIL)
	{
		DwFind		find = dw_lookup_lock(target->lookup, target_key, target->wait, true, &leaf);

		if (find != DW_FIND_FOUND)
			return find == DW_FIND_NONE ? DW_CONVERGED_ALREADY : DW_CONVERGED_BUSY;
		if (dw_sibling_takes_over(converge, target_key))
			return from_applied(converge, DW_APPLIED_UPDATE);
	}
	return from_applied(converge, dw_target_remove(target, target_key));
}

/* No source row: take the target row away, unless a source row is coming. */
static DwConverged
remove_orphan(DwConverge *converge, const DwKey *source_key, const DwKey *target_key)
{
	DwTarget   *target = converge->target;
	DwLeaf	   *leaf;

	if (target->lookup != NULL)
	{
		switch (dw_lookup_lock(target->lookup, target_key, target->wait, true, &leaf))
		{
			case DW_FIND_NONE:
				return DW_CONVERGED_ALREADY;
			case DW_FIND_BUSY:
				return DW_CONVERGED_BUSY;
			case DW_FIND_FOUND:
				break;
		}
	}
	if (converge->foreign_source == NULL && source_key != NULL &&
		dw_lookup_newest(converge->source, source_key, false, true, &leaf) != DW_FIND_NONE)
		return DW_CONVERGED_BUSY;
	return remove_target(converge, target_key);
}

static DwConverged
converge_pair(DwConverge *converge, const DwKey *source_key, const DwKey *target_key)
{
	bool		in_mapping = false;
	DwFind		find;

	converge->applied = DW_APPLIED_NOTHING;
	if (source_key == NULL)
		return remove_orphan(converge, source_key, target_key);
	find = read_source(converge, source_key, &in_mapping);
	if (find == DW_FIND_BUSY)
		return DW_CONVERGED_BUSY;
	if (find == DW_FIND_NONE && DW_FLOW_IN_PLACE(converge->flow))
		return DW_CONVERGED_ALREADY;	/* neither side can be without the other */
	if (find == DW_FIND_NONE)
		return remove_orphan(converge, source_key, target_key);
	if (in_mapping && converge->flow->compiled->computed_key)
		dw_key_must_return(converge->flow, source_key, target_key);
	if (in_mapping)
		return from_applied(converge, put_row(converge));
	return remove_target(converge, target_key);
}

DwConverged
dw_converge(DwConverge *converge, const DwKey *key)
{
	DwFlow	   *flow = converge->flow;
	DwKey		source_key;
	DwKey		target_key;
	bool		has_source = dw_source_key(flow, key, &source_key);

	if (!dw_target_key(flow, key, &target_key))
		return DW_CONVERGED_ALREADY;	/* the target's type cannot hold it: there is no such row */
	return converge_pair(converge, has_source ? &source_key : NULL, &target_key);
}

/*
 * There is no such key on the other side, and so no row.  But if this side has the row, and it is the mapping's, that is an
 * error: of the expression, which projecting raises, or for lack of a value.
 */
static DwConverged
without_target_key(DwConverge *converge, const DwKey *source_key)
{
	DwFlow	   *flow = converge->flow;
	bool		in_mapping = false;

	if (flow->direction == DW_REVERSE)
		return DW_CONVERGED_ALREADY;
	if (read_source(converge, source_key, &in_mapping) == DW_FIND_BUSY)
		return DW_CONVERGED_BUSY;
	if (in_mapping)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("a row of %s has no key in %s", flow->compiled->mapping->old_name, flow->compiled->mapping->new_name),
				 errhint("Correct the row, or the mapping with dualwrite.alter_mapping.")));
	return DW_CONVERGED_ALREADY;
}

DwConverged
dw_converge_source(DwConverge *converge, const DwKey *source_key)
{
	DwKey		target_key;

	if (!dw_key_across(converge->flow, source_key, &target_key))
		return without_target_key(converge, source_key);
	return converge_pair(converge, source_key, &target_key);
}
