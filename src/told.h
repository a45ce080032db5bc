/*
 * told.h: messages of one kind, of which the log shall have a few and not thousands.
 */
#ifndef DW_TOLD_H
#define DW_TOLD_H

#include "dualwrite.h"

#include "datatype/timestamp.h"

/* Messages of one kind; all zero to begin with, in static memory. */
typedef struct DwTold
{
	TimestampTz since;
	int			count;			/* from then on */
} DwTold;

/* May this process tell one more of these?  *last: and that is the last one for a while, which the message should say. */
extern bool dw_may_tell(DwTold *told, bool *last);

#endif							/* DW_TOLD_H */
