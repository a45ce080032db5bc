/*
 * reader.h: rows of a heap, some pages at a time, and whether they are still what was read.
 */
#ifndef DW_READER_H
#define DW_READER_H

#include "dualwrite.h"
#include "executor/tuptable.h"
#include "access/htup_details.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* dw_reader_next returns whole pages until it has this many rows, or so many pages. */
#define DW_CHUNK_ROWS 1000
#define DW_CHUNK_PAGES 64
/* So it may return this many. */
#define DW_READER_ROWS (DW_CHUNK_ROWS + MaxHeapTuplesPerPage)

typedef struct DwReader DwReader;

/*
 * Read the blocks from .. end - 1 of a permanent heap table as an MVCC snapshot sees them; blocks that VACUUM has cut off
 * count as read.  The caller holds a lock on the heap and keeps the snapshot active or registered as long as the reader is
 * open.  Between calls no page is pinned.
 */
extern DwReader *dw_reader_open(Relation heap, Snapshot snapshot, int64 from, int64 end);
extern void dw_reader_close(DwReader *reader);
/* The rows of the next pages; their number, 0 at the end.  They are there until the next call. */
extern int	dw_reader_next(DwReader *reader);
/* First block that has not been read; and go back to one. */
extern int64 dw_reader_position(const DwReader *reader);
extern void dw_reader_rewind(DwReader *reader, int64 block);
/* Row i of the last call, in the heap's layout; valid until the next call of this function. */
extern TupleTableSlot *dw_reader_row(DwReader *reader, int i);
/*
 * Is row i still the newest version, with nobody at it?  Exact from the last call of look_again on: that is when the pages
 * are looked at.  Row locks do not count.
 */
extern void dw_reader_look_again(DwReader *reader);
extern bool dw_reader_unchanged(DwReader *reader, int i);

#endif							/* DW_READER_H */
