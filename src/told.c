/*
 * told.c: messages of one kind, of which the log shall have a few and not thousands.
 *
 * Where every row of a table fails in the same way, the first ones say why; how many there are is in the views.  It must never
 * keep the first message back.
 */
#include "postgres.h"

#include "told.h"

#include "utils/timestamp.h"

/* So many in such a time, ms. */
#define DW_TOLD_LIMIT 10
#define DW_TOLD_MS 60000

bool
dw_may_tell(DwTold *told, bool *last)
{
	TimestampTz now = GetCurrentTimestamp();

	if (told->since == 0 || TimestampDifferenceExceeds(told->since, now, DW_TOLD_MS))
	{
		told->since = now;
		told->count = 0;
	}
	if (told->count >= DW_TOLD_LIMIT)
		return false;
	told->count++;
	*last = told->count == DW_TOLD_LIMIT;
	return true;
}
