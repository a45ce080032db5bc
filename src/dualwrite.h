/*
 * dualwrite.h: the words that every module uses.
 */
#ifndef DUALWRITE_H
#define DUALWRITE_H

#include "postgres.h"

#include "compat.h"

/* The ladder, in order: phases compare with < and >. */
typedef enum DwPhase
{
	DW_PHASE_DEFINED,
	DW_PHASE_SHADOW,
	DW_PHASE_DUAL_WRITE,
	DW_PHASE_BACKFILL,
	DW_PHASE_VERIFY,
	DW_PHASE_READ_SWITCH,
	DW_PHASE_CUTOVER,
	DW_PHASE_COMPLETE
} DwPhase;

#define DW_NUM_PHASES (DW_PHASE_COMPLETE + 1)

/* Forward: old -> new.  Reverse: new -> old. */
typedef enum DwDirection
{
	DW_FORWARD,
	DW_REVERSE
} DwDirection;

/* Which rows a mapping brings into being and takes away: a bit a side. */
typedef enum DwOwns
{
	DW_OWNS_NEITHER = 0,
	DW_OWNS_OLD = 1,
	DW_OWNS_NEW = 2,
	DW_OWNS_BOTH = 3
} DwOwns;

/* What a slice of background work did: the same for queue, backfill and reconcile. */
typedef enum DwStep
{
	DW_STEP_IDLE,				/* nothing to do now */
	DW_STEP_WORKED,				/* did something; call again */
	DW_STEP_DONE,				/* has just finished for good */
	DW_STEP_WAIT,				/* has work, but must not do it now */
	DW_STEP_BESIDE				/* others are at what there is to do: look again */
} DwStep;

/* The side that wins when they disagree. */
#define DW_TRUTH_DIRECTION(phase) ((phase) >= DW_PHASE_CUTOVER ? DW_REVERSE : DW_FORWARD)

#endif							/* DUALWRITE_H */
