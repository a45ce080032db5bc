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
	TupleTableSlot *made_of;	/* source row of target->row, where that has its mapped columns only */
	List	   *siblings;		/* of DwConverge: other mappings that own rows of this target; opened when first needed */
	bool		siblings_known;
	DwApplied	applied;		/* what the last call did to the target row */
} DwConverge;

/*
 * wait: the caller's own transaction holds or may wait for the rows (mirror); else NOWAIT throughout (background: one key a
 * transaction, between dw_write_begin and dw_write_end).
 */
extern DwConverge *dw_converge_open(DwFlow *flow, bool wait);
extern void dw_converge_close(DwConverge *converge);

/* Do other mappings bring rows of this flow's target into being, so that one that leaves this mapping may be theirs? */
extern bool dw_shares_target(const DwFlow *flow);
/* Other flows which fill columns of this flow's target rows, without owning them: a row that comes into being wants them run. */
extern List *dw_fillers_of(const DwFlow *flow);
/* Is the target row with this key that of another mapping?  Then it is made to agree with that one. */
extern bool dw_sibling_takes_over(DwConverge *converge, const DwKey *target_key);
/*
 * Lock the source row, read its newest version, make the target row equal to its mapping; without a source row, take the
 * target row away after a second look.  Idempotent.  Errors: those of the target's constraints.
 */
extern DwConverged dw_converge(DwConverge *converge, const DwKey *key);
/* The same, by the key of the source's side. */
extern DwConverged dw_converge_source(DwConverge *converge, const DwKey *source_key);

#endif							/* DW_CONVERGE_H */
