/*
 * compare.h: both sides of a mapping under one snapshot.
 */
#ifndef DW_COMPARE_H
#define DW_COMPARE_H

#include "mapping.h"

typedef enum DwDriftKind
{
	DW_DRIFT_MISSING,			/* no new row */
	DW_DRIFT_EXTRA,				/* no old row */
	DW_DRIFT_DIFFERENT
} DwDriftKind;

#define DW_NUM_DRIFT_KINDS (DW_DRIFT_DIFFERENT + 1)

/* A key whose sides disagree. */
typedef struct DwDifference
{
	DwDriftKind kind;
	Jsonb	   *key;
	List	   *columns;		/* of char *: new columns that differ */
	Jsonb	   *old_values;		/* mapped old row under new names; NULL for extra */
	Jsonb	   *new_values;		/* mapped columns of the new row; NULL for missing */
} DwDifference;

typedef struct DwCompare DwCompare; /* see comparing.h */

/*
 * Lock both sides (and those of the mappings that share the new table) ACCESS SHARE with all leaves, then take the newest snapshot.
 * It is registered and active until dw_compare_close, in the same subtransaction.  NULL when the mapping is gone.
 * ERROR 55000 when it no longer fits its tables.
 */
extern DwCompare *dw_compare_open(int32 mapping_id);
extern void dw_compare_close(DwCompare *compare);
extern DwCompiled *dw_compare_compiled(DwCompare *compare);

/* Go on under a newer snapshot, which also sees what this transaction has written. */
extern void dw_compare_refresh(DwCompare *compare);

/*
 * One key: NULL when both sides agree, or none has a row, or the mapping does not decide whether the new row exists.  A key that
 * is queued is lag and counts as agreeing, unless see_queued.  The result is allocated in the current context.
 */
extern DwDifference *dw_compare_key(DwCompare *compare, const DwKey *key, bool see_queued);

/* A copy in the current memory context. */
extern DwDifference *dw_difference_copy(const DwDifference *from);

/* May an error of this SQLSTATE be put down to the row that was being worked on? */
extern bool dw_error_is_of_row(int sqlstate);

#endif							/* DW_COMPARE_H */
