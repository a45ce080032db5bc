/*
 * stats.h: counters of the mirrors, in shared memory.
 *
 * Counts are kept in the backend and added to shared memory when the transaction commits; an abort forgets them, but not
 * the failures, which are what an abort is about.
 */
#ifndef DW_STATS_H
#define DW_STATS_H

#include "dualwrite.h"
#include "portability/instr_time.h"
#include "utils/timestamp.h"

typedef enum DwCounter
{
	DW_COUNT_INSERT,
	DW_COUNT_UPDATE,
	DW_COUNT_DELETE,
	DW_COUNT_SKIPPED,			/* nothing to write: unmapped columns, filter */
	DW_COUNT_FAILED,
	DW_COUNT_QUEUED,
	DW_NUM_COUNTERS,
	DW_COUNT_LATER				/* is counted when it has been written */
} DwCounter;

/* Beside the mirror of each direction, the application's own writes of the rows that it mirrors are timed. */
#define DW_OWN_WRITES(direction) ((DwDirection) ((direction) + 2))

/* What one statement had mirrored, to be told what its own writes took. */
#define DW_STATS_MEMORY 8
typedef struct DwMirrored
{
	int			count;
	struct
	{
		int32		mapping_id;
		DwDirection direction;
		int64		rows;
	}			mappings[DW_STATS_MEMORY];	/* the first so many: the others go untold */
	uint64		ns;				/* that the mirrors took */
} DwMirrored;

/* Begin to note what is mirrored; returns what was noted before, to be given back to dw_stats_end. */
extern DwMirrored dw_stats_begin(void);
/* What was noted since. */
extern DwMirrored dw_stats_end(const DwMirrored *before);
/* The writes of the application that were mirrored, and all that went with them but the mirrors, took ns. */
extern void dw_stats_own(const DwMirrored *mirrored, uint64 ns);

/* Count n mirrored events. */
extern void dw_stats_count(int32 mapping_id, DwDirection direction, DwCounter counter, int64 n);
/* Note that n of them took ns each. */
extern void dw_stats_time(int32 mapping_id, DwDirection direction, int64 n, uint64 ns);
/* ns since then. */
extern uint64 dw_stats_since(instr_time start);
extern uint64 dw_stats_between(instr_time start, instr_time end);

typedef struct DwStatsEntry
{
	int64		counters[DW_NUM_COUNTERS];
	double		total_ms;
	double		p50_us;			/* negative: nothing timed */
	double		p99_us;
	TimestampTz since;
} DwStatsEntry;

extern bool dw_stats_get(int32 mapping_id, DwDirection direction, DwStatsEntry *entry);
extern void dw_stats_reset(int32 mapping_id);
extern void dw_stats_init(void);

#endif							/* DW_STATS_H */
