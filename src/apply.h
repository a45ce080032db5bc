/*
 * apply.h: writing the target side of a mapping.
 *
 * Two engines behind one interface: direct executor calls for heap tables, plain or partitioned (apply_heap.c), and
 * prepared statements for everything else, that is foreign tables (apply_spi.c).
 */
#ifndef DW_APPLY_H
#define DW_APPLY_H

#include "lookup.h"

typedef enum DwApplied
{
	DW_APPLIED_NOTHING,			/* it was so already */
	DW_APPLIED_INSERT,
	DW_APPLIED_UPDATE,
	DW_APPLIED_DELETE,
	DW_APPLIED_BUSY				/* in another transaction's hands, and the caller did not want to wait; nothing was written */
} DwApplied;

typedef struct DwTarget
{
	DwFlow	   *flow;
	const struct DwEngine *engine;
	bool		wait;			/* for writers of the same target row (mirror), or report BUSY (background) */
	bool		quiet_unchanged;	/* write nothing where the target already agrees */
	DwLookup   *lookup;			/* heap engine; NULL for foreign tables */
	TupleTableSlot *row;		/* target layout: project into this */
	TupleTableSlot *old_row;	/* a second one, for the image before an update */
	MemoryContext context;
	MemoryContext row_context;	/* reset by the caller between rows */
	bool		pinned;			/* writing runs code of users, which must not see the writer's search_path */
	struct DwOwnerScope *scope;	/* of the row that is being written */
	void	   *private;
} DwTarget;

typedef struct DwEngine
{
	void		(*open) (DwTarget *target);
	void		(*close) (DwTarget *target);
	/* made_of: as for dw_target_put_mapped; NULL: the row has all columns */
	DwApplied	(*put) (DwTarget *target, TupleTableSlot *row, TupleTableSlot *made_of);
	DwApplied	(*remove) (DwTarget *target, const DwKey *target_key);
	DwApplied	(*move) (DwTarget *target, const DwKey *from, TupleTableSlot *row);
	TupleTableSlot *(*fetch) (DwTarget *target, const DwKey *target_key, Snapshot snapshot);
} DwEngine;

/*
 * Open a target for a run of writes.  Memory and resource owner current at open; close before either goes.
 * The caller has an active snapshot, and an after-trigger query level to which foreign key checks go (a trigger always
 * has; background work opens one with dw_write_begin).
 */
extern DwTarget *dw_target_open(DwFlow *flow, bool wait);
extern void dw_target_close(DwTarget *target);

/*
 * Make the target row of this key look like row (target layout, from dw_project): insert or update the mapped columns, leaving the others.  A mapping
 * that does not own its target only updates.
 * Errors: whatever the target's constraints raise.
 */
extern DwApplied dw_target_put(DwTarget *target, TupleTableSlot *row);
/* The same for a row from dw_project_mapped; made_of: its source row, for the other columns, should it have to be inserted. */
extern DwApplied dw_target_put_mapped(DwTarget *target, TupleTableSlot *row, TupleTableSlot *made_of);
/* Take the row away; where the mapping does not own it, its columns go back to their defaults. */
extern DwApplied dw_target_remove(DwTarget *target, const DwKey *target_key);
/*
 * The row moves from one key to that of row, keeping its unmapped columns.  NOTHING: the new key is taken, or the old one
 * not there; nothing was written, and both keys want converging.
 */
extern DwApplied dw_target_move(DwTarget *target, const DwKey *from, TupleTableSlot *row);
/*
 * In place, where the target is the source's own row: write what was made of this version (in the layout of its leaf, with its
 * TID) into the row.  Waits for nobody: BUSY when it is not the newest version any more, or another transaction is at it.
 */
extern DwApplied dw_target_rewrite(DwTarget *target, TupleTableSlot *version, TupleTableSlot *row);
/* Table that a statement of apply_spi.c is writing at this moment: its own triggers must not mirror that back. */
extern Oid	dw_statement_writing(void);
/*
 * Is the target's foreign key at work, carrying a mirrored write of this direction on to the rows that reference it?  What it
 * does, the source's own foreign key has done or does; dw_cascaded sees to it.
 */
extern bool dw_target_cascading(DwDirection direction, bool *wait);
/* Has this transaction opened, for writing, a target that another mapping looks up? */
extern bool dw_target_fires_lookups(void);
/* The row as a snapshot sees it (NULL: newest committed or own), target layout; NULL when there is none. */
extern TupleTableSlot *dw_target_fetch(DwTarget *target, const DwKey *target_key, Snapshot snapshot);

/*
 * Background writes: an after-trigger level of its own, deferred constraints made immediate, so that no code of the
 * table's owner is left to run under another user at commit.
 */
extern void dw_write_begin(void);
extern void dw_write_end(Oid owner);

/*
 * Bulk insert for the backfill, heap targets only: collect rows, then insert them all.  Never waits for anybody.
 * add: row (target layout) and its source TID.  flush: rows, then index entries; returns; conflicts[i] says that row i
 * met another row of the same key or of another unique index and was taken back.
 */
typedef struct DwBulk DwBulk;
extern DwBulk *dw_bulk_begin(DwTarget *target, int capacity);
/*
 * The same for rows of one statement of the application: constraints are checked as each row is added, and what was stored
 * stays in the buffers, as with the application's own rows.
 */
extern DwBulk *dw_bulk_begin_statement(DwTarget *target, int capacity);
extern bool dw_bulk_add(DwBulk *bulk, TupleTableSlot *row);	/* false: full, flush first */
extern bool dw_bulk_possible(DwTarget *target);
extern bool dw_bulk_full(DwBulk *bulk);
/* Row i of those added (plain tables only: in target layout), until they are settled. */
extern void dw_bulk_row(DwBulk *bulk, int i, TupleTableSlot *row);
extern void dw_bulk_flush(DwBulk *bulk, bool *conflicts);
extern void dw_bulk_take_back(DwBulk *bulk, int i);	/* after flush and before the next add: delete row i again */
extern void dw_bulk_settle(DwBulk *bulk);	/* queue the checks of the rows that stayed: before dw_write_end at the latest */
extern void dw_bulk_end(DwBulk *bulk);

/*
 * Remove many rows, heap targets with a key of one column only: keys are put in the order of the index.  Never waits.  Returns how many were removed; the keys of the others, which are not there, or
 * in other hands, come first in keys and want dw_target_remove.
 */
extern bool dw_sweep_possible(DwTarget *target);
extern int	dw_sweep(DwTarget *target, Datum *keys, int nkeys);

#endif							/* DW_APPLY_H */
