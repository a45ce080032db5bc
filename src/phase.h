/*
 * phase.h: the ladder.
 */
#ifndef DW_PHASE_H
#define DW_PHASE_H

#include "catalog.h"

/*
 * One rung up or down, in one transaction with its event.  Returns the phase reached.  See CONTRACT's advance, rollback.
 * to_phase and reason may be NULL; waive is a list of char *.  ERROR 42501, 42704, 22023 (no such phase or gate), 55000
 * (not the next phase, gates not met, others write the new side), 55P03 (no lock), 0A000.
 */
extern DwPhase dw_phase_advance(const char *migration, const char *to_phase, bool force, List *waive, const char *reason);
extern DwPhase dw_phase_rollback(const char *migration, const char *to_phase, bool force, const char *reason);

/*
 * The next rung up for somebody who is ready to wait: NIL when it was taken, else the gates that are not met (list of
 * DwGate), which may have become so under the lock; then the caller must end the transaction.
 */
extern List *dw_phase_try_advance(const char *migration, const char *reason);
/* Raise ERROR 55000 that names the gates. */
extern void dw_phase_refuse(const DwMigration *migration, List *gates, List *unmet, bool forced);

/*
 * Background work stops, or goes on; going on also lifts what a rollback suspended.  Of a migration that was restored from a
 * dump everything is copied anew: ERROR 55000 above verify, where that has to be a rollback; 55P03 (no lock).
 */
extern void dw_phase_pause(const char *migration, bool pause);
/* ERROR 22023 outside 0 .. 100, 55000 outside read_switch. */
extern void dw_phase_set_read_percent(const char *migration, double percent);
/* Put our triggers right, where somebody has dropped or disabled one.  Returns how many were made or enabled. */
extern int	dw_phase_install_triggers(const char *migration);

/* A migration by name that the current user may drive, locked: ERROR 42704, 42501. */
extern DwMigration *dw_phase_take(const char *migration);

#endif							/* DW_PHASE_H */
