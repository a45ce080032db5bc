/*
 * ladder.h: the rungs between the phases, as data.
 */
#ifndef DW_LADDER_H
#define DW_LADDER_H

#include "dualwrite.h"
#include "storage/lockdefs.h"

/* Gates, in the order in which users see them; gates.c says what each one asks. */
typedef enum DwGateId
{
	DW_GATE_ORIGIN,				/* first: until it is met, nothing that the others say counts */
	DW_GATE_MAPPINGS,
	DW_GATE_DEFINITION,
	DW_GATE_BACKFILL,
	DW_GATE_INDEXES,
	DW_GATE_READ_PERCENT,
	DW_GATE_SOAK,
	DW_GATE_RECONCILE,
	DW_GATE_DRIFT,
	DW_GATE_QUEUE,
	DW_GATE_DEAD_LETTERS,
	DW_GATE_SHADOW_FAILURES,
	DW_GATE_SHADOW_READS,
	DW_GATE_REVERSE,
	DW_GATE_SEQUENCES,
	DW_GATE_KEY_RANGE,
	DW_GATE_SWAP_NAMES,
	DW_GATE_SWAP_DEPENDENTS,
	DW_GATE_CONSTRAINTS,
	DW_GATE_REFERENCES,
	DW_GATE_SNAPSHOTS,
	DW_GATE_TRIGGERS
} DwGateId;

#define DW_NUM_GATES (DW_GATE_TRIGGERS + 1)

/* What is done on a rung, in the transaction that changes the phase and under its locks; phase.c does it. */
#define DW_DO_INSTALL_TRIGGERS		0x0001	/* on old and new tables */
#define DW_DO_REMOVE_TRIGGERS		0x0002	/* from every table that no migration needs them on any more */
#define DW_DO_RESET_STATS			0x0004	/* failures count from here */
#define DW_DO_SET_FILLED			0x0008	/* every old row has its new row */
#define DW_DO_CLEAR_FILLED			0x0010
#define DW_DO_SHARE_SEQUENCES		0x0020	/* both sides insert: their key sequences must not meet */
#define DW_DO_MOVE_SEQUENCES		0x0040	/* those without a counterpart start past the highest key */
#define DW_DO_RESTORE_SEQUENCES		0x0080	/* one side inserts: definitions as they were, past the highest key */
#define DW_DO_NOTE_CUTOVER			0x0100	/* remember the transaction that older snapshots cannot see */
#define DW_DO_SUSPEND_REPAIR		0x0200	/* the truth has changed; until resume */
#define DW_DO_COMPLETE_VIEWS		0x0400	/* read views become plain views of the new side */
#define DW_DO_STOP_REVERSE			0x0800	/* refused while others write the new side */
#define DW_DO_FORGET				0x1000	/* queue and checkpoints of a life that is over */
#define DW_DO_STOP_QUEUED			0x2000	/* hold up whoever may queue a key */
#define DW_DO_NEW_FIRST				0x4000	/* lock new tables before old ones */
#define DW_DO_SWAP_NAMES			0x8000	/* where the setting says so */
#define DW_DO_SWAP_NAMES_BACK		0x10000	/* where they are swapped */
#define DW_DO_KEEP_NAMES			0x20000	/* forget the way back */
#define DW_DO_RELAX_OLD				0x40000	/* in place: old columns may be null */

/* What is done once the last rung of a change is behind it. */
#define DW_ARRIVE_BACKFILL			0x0001	/* note what there is to copy, from the beginning */
#define DW_ARRIVE_RECONCILE			0x0002	/* what an earlier comparison found proves nothing here: ask for one */
#define DW_ARRIVE_CONSTRAINTS		0x0004	/* nor does what an earlier look at constraints found */

typedef struct DwRung
{
	DwPhase		from;
	DwPhase		to;
	uint32		gates;			/* bit 1 << DwGateId each; none on the way down */
	LOCKMODE	lock_old;		/* with all partitions */
	LOCKMODE	lock_new;
	uint32		crossing;		/* DW_DO_... */
	uint32		arrival;		/* DW_ARRIVE_... */
} DwRung;

/* The rung up or down from a phase; NULL where there is none. */
extern const DwRung *dw_rung_up(DwPhase from);
extern const DwRung *dw_rung_down(DwPhase from);

#endif							/* DW_LADDER_H */
