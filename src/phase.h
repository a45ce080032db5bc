/*
 * phase.h: the ladder.
 */
#ifndef DW_PHASE_H
#define DW_PHASE_H

#include "catalog.h"

/* One rung up or down, in one transaction with its event.  Returns the phase reached.  See CONTRACT's advance, rollback. */
extern DwPhase dw_phase_advance(const char *migration, const char *to_phase, bool force, List *waive, const char *reason);
extern DwPhase dw_phase_rollback(const char *migration, const char *to_phase, bool force, const char *reason);

#endif							/* DW_PHASE_H */
