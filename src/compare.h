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

/* A slice of one side, in key order: what to compare, and what came of it. */
typedef struct DwSlice
{
	DwDirection side;			/* rows of its source are walked: DW_FORWARD finds missing and different, DW_REVERSE extra */
	bool		both;			/* with DW_FORWARD: walk both sides in step, where that can be done; now, whether it was */
	Oid			heap;			/* behind this key of this leaf; moved on */
	Jsonb	   *last_key;		/* both: an array of that of the old side and that of the new, or null */
	int64		max_rows;		/* it ends after so many rows, or so much time, or when memory fills up */
	int			max_ms;
	double		percent;		/* of the keys, chosen by their hash */
	uint32		seed;			/* for that */
	int64		rows_compared;	/* keys that have a row on either side */
	int64		rows_failed;	/* of those: rows for which not even a key can be computed; a WARNING tells why */
	List	   *differences;	/* of DwDifference */
	bool		finished;		/* that side is through; both: the old side is, and heap and last_key are of the new one */
} DwSlice;

typedef struct DwCompare DwCompare; /* private to compare.c */

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

/*
 * One slice, in a subtransaction of its own, which leaves nothing behind.  Its results are allocated in the current context.
 * One that began with both sides in step and cannot go on so is left where it was.  false: the mapping is gone.  A row whose expressions fail does not end it: it counts as differing, without old values.
 */
extern bool dw_compare_slice(int32 mapping_id, DwSlice *slice);

/* May an error of this SQLSTATE be put down to the row that was being worked on? */
extern bool dw_error_is_of_row(int sqlstate);

#endif							/* DW_COMPARE_H */
