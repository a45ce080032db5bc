/*
 * touched.h: rows that may have changed since an earlier comparison.
 */
#ifndef DW_TOUCHED_H
#define DW_TOUCHED_H

#include "comparing.h"
#include "slice.h"

/*
 * Whatever is written from now on by a transaction that begins from now on lies behind this mark: by its LSN and by its
 * transaction id.
 */
extern DwMark dw_mark_now(void);
/* Have all transactions that were under way at the mark ended?  Then so it is with whatever a new snapshot does not see. */
extern bool dw_mark_settled(const DwMark *mark);
/* Can LSNs and transaction ids of today still be held against it? */
extern bool dw_mark_usable(const DwMark *mark);

/*
 * The files of both tables with all partitions, as a text to be held against one of later: pages tell of changes only as
 * long as it is the same.  NULL where they do not: other storage than heap, rows that depend on other tables.
 */
extern char *dw_touched_files(int32 mapping_id);
/* Blocks that a heap of one side has, and its file, in a comparison that holds it locked. */
extern BlockNumber dw_touched_blocks(DwCompare *compare, DwReading reading, Oid heap, Oid *file);
/* A slice of a range of blocks: what is found goes to results. */
extern void dw_touched_slice(DwCompare *compare, DwSlice *slice, MemoryContext results);

#endif							/* DW_TOUCHED_H */
