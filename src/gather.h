/*
 * gather.h: rows of one statement that are written to the target together.
 */
#ifndef DW_GATHER_H
#define DW_GATHER_H

#include "statement.h"
#include "stats.h"

typedef struct DwGather DwGather;

/*
 * Where rows of this flow, which rel's trigger has come upon, are kept to be inserted (deleting: deleted) later than one by one.
 * NULL: somebody could notice that.
 */
extern DwGather *dw_gather_for(DwStatement *statement, DwFlow *flow, Relation rel, bool deleting);
/* row: of the flow's target, as projected.  Errors: those of its constraints, and of defaults. */
extern void dw_gather_insert(DwStatement *statement, DwGather *gather, TupleTableSlot *row);
extern void dw_gather_delete(DwStatement *statement, DwGather *gather, const DwKey *target_key);
/* Is it time to write? */
extern bool dw_gather_full(DwStatement *statement);
/* Write what was gathered.  counts: by DwCounter, added to. */
extern void dw_gather_write(DwGather *gather, int64 *counts);
/* The statement is over, and everything written. */
extern void dw_gather_end(DwStatement *statement);
extern int	dw_gather_rows(const DwGather *gather);
extern DwFlow *dw_gather_flow(const DwGather *gather);
/* After an error in writing: the key of the target row that was written; false: not known. */
extern bool dw_gather_key_at_fault(DwGather *gather, DwKey *target_key);

#endif							/* DW_GATHER_H */
