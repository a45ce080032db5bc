/*
 * ladder.c: the rungs between the phases, as data.
 *
 * Which phase follows which, what has to hold before, which locks make older writers end and later ones see the new phase,
 * and what is done on the way: one line a rung.  Nothing here acts.
 *
 * SHARE ROW EXCLUSIVE waits for every writer and for nobody else; triggers can only be dropped under ACCESS EXCLUSIVE.
 *
 * Up to verify every writer comes from the old side: it has the old table locked when its mirror comes for the new one, and
 * we lock in the same order.  From read_switch on others come from the new side in the opposite order, and under load
 * somebody always stands between his two tables: whoever then wants both, in whatever order, waits in vain.  So these rungs
 * lock no more than what has to end there:
 * - between read_switch and cutover nothing changes for writers, whose writes are mirrored both ways before and after.  Only
 *   where delivery is queued, or a mirror write that fails is, are they held up, so that nothing is queued between the last look
 *   and the change: lag is 0 in the transaction that cuts over.  The former lock no second table; of the latter only the old
 *   table is wanted.  A swap of names cannot do without ACCESS EXCLUSIVE on both; then the application uses one
 *   name, so that its writers come from one side, and that side goes first: old on the way up, new on the way down.
 * - from read_switch down to verify, writers of the new side end.  Those that have begun are waited for, so that none draws
 *   a key once both sides may give out the same; what they wrote is on the old side.
 * - to complete, writers of the old side end.  New goes first: writers of the new side then wait with nothing in their
 *   hands, and there is hardly one of the old side left.
 */
#include "postgres.h"

#include "ladder.h"

#define GATE(name) (UINT32_C(1) << DW_GATE_ ## name)
#define SRE ShareRowExclusiveLock
#define AX AccessExclusiveLock

static const DwRung rungs[] = {
	{DW_PHASE_DEFINED, DW_PHASE_SHADOW,
		GATE(MAPPINGS) | GATE(DEFINITION),
	SRE, SRE, DW_DO_INSTALL_TRIGGERS | DW_DO_RESET_STATS, 0},

	{DW_PHASE_SHADOW, DW_PHASE_DUAL_WRITE,
		GATE(DEAD_LETTERS) | GATE(SHADOW_FAILURES) | GATE(TRIGGERS),
	SRE, SRE, 0, 0},

	{DW_PHASE_DUAL_WRITE, DW_PHASE_BACKFILL,
		GATE(DEAD_LETTERS) | GATE(TRIGGERS),
	SRE, SRE, 0, DW_ARRIVE_BACKFILL},

	{DW_PHASE_BACKFILL, DW_PHASE_VERIFY,
		GATE(BACKFILL) | GATE(INDEXES) | GATE(DEAD_LETTERS) | GATE(ORIGIN) | GATE(TRIGGERS),
	SRE, SRE, DW_DO_SET_FILLED, DW_ARRIVE_RECONCILE | DW_ARRIVE_CONSTRAINTS},

	{DW_PHASE_VERIFY, DW_PHASE_READ_SWITCH,
		GATE(INDEXES) | GATE(RECONCILE) | GATE(DRIFT) | GATE(QUEUE) | GATE(DEAD_LETTERS) | GATE(SHADOW_READS) | GATE(REVERSE) |
		GATE(SEQUENCES) | GATE(KEY_RANGE) | GATE(ORIGIN) | GATE(TRIGGERS),
	SRE, SRE, DW_DO_SHARE_SEQUENCES, DW_ARRIVE_RECONCILE | DW_ARRIVE_CONSTRAINTS},

	{DW_PHASE_READ_SWITCH, DW_PHASE_CUTOVER,
		GATE(READ_PERCENT) | GATE(RECONCILE) | GATE(DRIFT) | GATE(QUEUE) | GATE(DEAD_LETTERS) | GATE(KEY_RANGE) |
		GATE(CONSTRAINTS) | GATE(SWAP_NAMES) | GATE(SWAP_DEPENDENTS) | GATE(ORIGIN) | GATE(TRIGGERS),
	NoLock, NoLock, DW_DO_STOP_QUEUED | DW_DO_SWAP_NAMES | DW_DO_MOVE_SEQUENCES | DW_DO_NOTE_CUTOVER,
	DW_ARRIVE_RECONCILE},

	{DW_PHASE_CUTOVER, DW_PHASE_COMPLETE,
		GATE(SOAK) | GATE(DRIFT) | GATE(QUEUE) | GATE(DEAD_LETTERS) | GATE(REFERENCES) | GATE(SNAPSHOTS) | GATE(ORIGIN) | GATE(TRIGGERS),
	SRE, AX, DW_DO_NEW_FIRST | DW_DO_RESTORE_SEQUENCES | DW_DO_REMOVE_TRIGGERS | DW_DO_COMPLETE_VIEWS |
		DW_DO_KEEP_NAMES | DW_DO_RELAX_OLD, 0},

	{DW_PHASE_CUTOVER, DW_PHASE_READ_SWITCH, 0,
	NoLock, NoLock, DW_DO_SWAP_NAMES_BACK | DW_DO_SUSPEND_REPAIR, DW_ARRIVE_RECONCILE},

	{DW_PHASE_READ_SWITCH, DW_PHASE_VERIFY, 0,
	NoLock, SRE, DW_DO_STOP_REVERSE | DW_DO_RESTORE_SEQUENCES | DW_DO_SUSPEND_REPAIR, DW_ARRIVE_RECONCILE},

	{DW_PHASE_VERIFY, DW_PHASE_BACKFILL, 0,
	SRE, SRE, DW_DO_CLEAR_FILLED, DW_ARRIVE_BACKFILL},

	{DW_PHASE_BACKFILL, DW_PHASE_DUAL_WRITE, 0,
	SRE, SRE, 0, 0},

	{DW_PHASE_DUAL_WRITE, DW_PHASE_SHADOW, 0,
	SRE, SRE, 0, 0},

	{DW_PHASE_SHADOW, DW_PHASE_DEFINED, 0,
	AX, AX, DW_DO_REMOVE_TRIGGERS | DW_DO_FORGET, 0},
};

static const DwRung *
find_rung(DwPhase from, bool up)
{
	for (size_t i = 0; i < lengthof(rungs); i++)
		if (rungs[i].from == from && (rungs[i].to > from) == up)
			return &rungs[i];
	return NULL;
}

const DwRung *
dw_rung_up(DwPhase from)
{
	return find_rung(from, true);
}

const DwRung *
dw_rung_down(DwPhase from)
{
	return find_rung(from, false);
}
