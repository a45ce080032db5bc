/*
 * slice.h: the rows that one transaction compares.
 */
#ifndef DW_SLICE_H
#define DW_SLICE_H

#include "compare.h"
#include "walk.h"

#include "access/transam.h"
#include "access/xlogdefs.h"
#include "storage/block.h"

/* How a part of a comparison reads its rows. */
typedef enum DwReading
{
	DW_READ_OLD,				/* old rows in the order of their key: finds missing and different */
	DW_READ_BOTH,				/* instead of old: both sides in step; what is left of the new one then is read as new */
	DW_READ_NEW,				/* new rows: finds extra */
	DW_READ_TOUCHED_OLD,		/* keys of the old side's rows that have changed since the mark */
	DW_READ_TOUCHED_NEW
} DwReading;

/* A part of a comparison, and where it has got to. */
typedef struct DwRange
{
	int32		ordinal;
	DwReading	reading;
	DwSpan		span;			/* both: no heaps, keys that both sides end with, and last_key is an array of the old one and the new;
								 * touched: its heap */
	Oid			file;			/* touched only: the heap is this file */
	BlockNumber next_block;
	BlockNumber end_block;
} DwRange;

/* What has happened since an earlier comparison: see touched.h. */
typedef struct DwMark
{
	XLogRecPtr	lsn;			/* 0: there is none */
	FullTransactionId xid;
} DwMark;

/* What to compare, and what came of it. */
typedef struct DwSlice
{
	DwRange		range;			/* moved on */
	DwMark		mark;			/* touched only */
	int			max_ms;			/* it ends after so much time, or when memory fills up */
	double		ratio;			/* be at work for this share of the time, in short spells; 1: no rests */
	int64		rested_us;		/* out: so long in all */
	double		percent;		/* of the keys, chosen by their hash; not for both and touched */
	uint32		seed;			/* for that */
	int64		rows_compared;	/* keys that have a row on either side; touched: that were looked at */
	int64		rows_failed;	/* of those: rows for which not even a key can be computed; a WARNING tells why */
	List	   *differences;	/* of DwDifference */
	bool		finished;		/* the range is through */
	bool		out_of_step;	/* nothing was done: both sides cannot be read in step any more, or pages do not tell of changes */
} DwSlice;

/*
 * One slice, in a subtransaction of its own, which leaves nothing behind.  Its results are allocated in the current context.
 * false: the mapping is gone.  A row whose expressions fail does not end it: it counts as differing, without old values.
 */
extern bool dw_slice_run(int32 mapping_id, DwSlice *slice);

#endif							/* DW_SLICE_H */
