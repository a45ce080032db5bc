/*
 * cut.h: a comparison cut into ranges, which several processes can work on.
 */
#ifndef DW_CUT_H
#define DW_CUT_H

#include "slice.h"

/*
 * Ranges (List of DwRange *) that together are all of both sides: no more than most of each side where there is one heap, the
 * more of them the larger it is.  in_step: where both sides can be read in step, do so.  NIL: the mapping is gone.
 */
extern List *dw_cut_by_key(int32 mapping_id, bool in_step, int most);

/* Ranges of blocks that may have changed since the mark, of both sides. */
extern List *dw_cut_by_block(int32 mapping_id);

#endif							/* DW_CUT_H */
