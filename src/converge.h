/*
 * converge.h: bring one key to agreement, whatever the reason that it is not.
 */
#ifndef DW_CONVERGE_H
#define DW_CONVERGE_H

#include "apply.h"

typedef enum DwConverged
{
	DW_CONVERGED_ALREADY,		/* both sides agreed */
	DW_CONVERGED_WROTE,
	DW_CONVERGED_BUSY			/* somebody else holds it: release everything (end the transaction), try later */
} DwConverged;

typedef struct DwConverge		/* a flow opened for converging: source look-up and target */
{
	DwFlow	   *flow;
	DwLookup   *source;			/* NULL for a source on another server: */
	DwTarget   *foreign_source;
	DwTarget   *target;
} DwConverge;

/*
 * wait: the caller's own transaction holds or may wait for the rows (mirror); else NOWAIT throughout (background: one key a
 * transaction, between dw_write_begin and dw_write_end).
 */
extern DwConverge *dw_converge_open(DwFlow *flow, bool wait);
extern void dw_converge_close(DwConverge *converge);

/*
 * Lock the source row, read its newest version, make the target row equal to its mapping; without a source row, take the
 * target row away after a second look.  Idempotent.  Errors: those of the target's constraints.
 */
extern DwConverged dw_converge(DwConverge *converge, const DwKey *key);
/* The same, by the key of the source's side. */
extern DwConverged dw_converge_source(DwConverge *converge, const DwKey *source_key);

#endif							/* DW_CONVERGE_H */
