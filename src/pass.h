/*
 * pass.h: one comparison of a mapping from end to end, as it is stored.
 */
#ifndef DW_PASS_H
#define DW_PASS_H

#include "drift.h"
#include "slice.h"

typedef enum DwStage
{
	DW_STAGE_BEGIN,				/* wait for older writers, cut it into ranges */
	DW_STAGE_COMPARE,			/* ranges, by as many processes as there are */
	DW_STAGE_RECHECK,			/* the keys of the drift list that it has not seen */
	DW_STAGE_REPAIR,
	DW_STAGE_DONE
} DwStage;

#define DW_NUM_STAGES (DW_STAGE_DONE + 1)

/* sample_percent of a pass that looks only at what has changed since an earlier one */
#define DW_INCREMENTAL 0.0

typedef struct DwPass
{
	int64		id;
	int32		mapping_id;
	bool		background;
	double		sample_percent;
	DwStage		stage;
	Jsonb	   *last_key;		/* recheck, repair: of drift */
	DwMark		mark;			/* every transaction that was under way at its first snapshot began behind this */
	DwMark		since;			/* incremental: mark of the pass that it rests on */
	const char *files;			/* of both tables when the mark was made: see touched.h */
	int64		rows_compared;
	int64		rows_total;		/* rows of the mapping, by the last full pass; incremental only */
	DwTally		found;			/* open drift that it saw */
	int64		found_before;	/* of a part: what the pass had found when it began; not stored */
	int64		repaired;
	TimestampTz started_at;
} DwPass;

/* Keys that a pass has found to differ. */
extern int64 dw_pass_found(const DwPass *pass);

/* Store a new one, or where it has got to; a finished one also clears away old ones of the mapping. */
extern void dw_pass_begin(const DwMigration *migration, int32 mapping_id, bool background, double sample_percent, DwPass *pass);
extern void dw_pass_store(const DwPass *pass);
/* Only what a part of it has found is to be added; others may be at other parts. */
extern void dw_pass_add(const DwPass *part);

/* Somebody finds that it has to begin anew, with all rows; and why it does not go on just now (List of char *). */
extern void dw_pass_restart(int64 id);
extern void dw_pass_throttled(int64 id, List *reasons);

/* The background pass under way of a migration, if any; and forget those that began before the phase last changed. */
extern bool dw_pass_unfinished(const DwMigration *migration, DwPass *pass);
extern void dw_pass_abandon(const DwMigration *migration);

/*
 * The mapping whose last complete pass of this epoch ended longest ago, DT_NOBEGIN for never.  false: there is no mapping.
 * base: a pass that one of what has changed since may rest on, as the last full pass was clean and began after full_since;
 * its mark is 0 where there is none.
 */
extern bool dw_pass_oldest(const DwMigration *migration, TimestampTz full_since, TimestampTz *finished_at, DwPass *base);

/* Begin a background pass for every mapping that has none under way. */
extern void dw_pass_request(const DwMigration *migration, double sample_percent);

#endif							/* DW_PASS_H */
