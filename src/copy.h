/*
 * copy.h: rows of a heap to the new table: insert what is absent, queue what cannot be settled.
 */
#ifndef DW_COPY_H
#define DW_COPY_H

#include "mapping.h"
#include "pace.h"
#include "blocks.h"

typedef enum DwCopied
{
	DW_COPIED,
	DW_COPY_LOCKED,				/* somebody holds what we need: give the batch up, come back */
	DW_COPY_UNREACHABLE			/* the foreign server */
} DwCopied;

/*
 * Copy the blocks from .. *end - 1 of the heap, or as many as the batch has time for: *end is where it stopped.  Counts
 * what was done.  The caller holds the locks of the batch, and the active snapshot is the batch's, later than they are.
 * insist: rows behind somebody's lock are queued instead of giving the batch up.
 * Errors of single rows end in the queue; anything else is raised.
 */
extern DwCopied dw_copy_blocks(DwCompiled *compiled, Relation heap, int64 from, int64 *end, bool insist,
							   const DwPace *pace, DwCounts *counts);

#endif							/* DW_COPY_H */
