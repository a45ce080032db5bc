/*
 * blocks.h: which blocks of the old heaps are still to be copied, and who is at them.
 */
#ifndef DW_BLOCKS_H
#define DW_BLOCKS_H

#include "catalog.h"
#include "utils/rel.h"

/* A range of blocks of one heap, claimed by this transaction. */
typedef struct DwBlockRange
{
	int32		mapping_id;
	Oid			heap;
	int32		ordinal;		/* of the mapping among those of its migration, parents first */
	Oid			relfilenode;	/* of the file that the blocks were counted in */
	int64		first_block;	/* names the range */
	int64		next_block;
	int64		end_block;
	bool		divided;		/* just now: commit, so that others find the part that was given away */
} DwBlockRange;

typedef struct DwCounts
{
	int64		done;			/* rows read */
	int64		copied;
	int64		queued;
} DwCounts;

typedef enum DwMappingEnd
{
	DW_MAPPING_BESIDE,			/* somebody is still at one of its ranges */
	DW_MAPPING_GREW,			/* leaves were attached meanwhile: there is more to copy */
	DW_MAPPING_ENDED
} DwMappingEnd;

/* Note the heaps of the mapping's old table that are not noted yet, a range each.  Their number.  Locks them ACCESS SHARE. */
extern int	dw_blocks_note(int32 mapping_id, int32 ordinal, Oid old_table);
/*
 * Claim a range until the end of the transaction: one of the first mapping that is not finished, that nobody else is at; the
 * one that this process had before, if it can be, else one that nobody has; one that is read through only where there is no other.  Where fewer are
 * left than there are workers, the later half of it becomes a range of its own, for another worker.  NULL: none is free.
 */
extern DwBlockRange *dw_blocks_claim(int32 migration_id, int workers);
/* After a batch: where to go on, what was done, what throttled_by shall say. */
extern void dw_blocks_checkpoint(const DwBlockRange *range, int64 next_block, const DwCounts *counts, const char *reasons);
/* Say why nothing happens (lines of text), unless it says so already. */
extern void dw_blocks_hold(const DwBlockRange *range, const char *reasons);
/* The heap is another file now: walk it from its first block, as one range.  false: somebody is at another range of it. */
extern bool dw_blocks_restart(const DwBlockRange *range, Relation heap);
/* Nothing more is owed from this range: its heap was dropped, or belongs to another table now. */
extern void dw_blocks_abandon(const DwBlockRange *range);
/* Close a mapping all of whose ranges are read through. */
extern DwMappingEnd dw_blocks_finish(const DwBlockRange *range, Oid old_table);
/* Ranges that are not closed; *openings: how many workers could find blocks to copy at once. */
extern int64 dw_blocks_left(int32 migration_id, int *openings);

#endif							/* DW_BLOCKS_H */
