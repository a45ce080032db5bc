/*
 * shadowread.h: one read made on both sides, and compared.
 */
#ifndef DW_SHADOWREAD_H
#define DW_SHADOWREAD_H

#include "agreement.h"

#include "access/tupdesc.h"
#include "utils/tuplestore.h"

/* Sides of a shadow read. */
enum
{
	DW_SHADOW_OLD,
	DW_SHADOW_NEW
};

typedef struct DwShadowRequest
{
	const char *migration;
	const char *queries[2];		/* of the old and of the new side, for messages and for what is written down */
	int			nargs;
	char	  **args;			/* input text of each, NULL for null */
	TupleDesc	desc;			/* rows that both sides return */
	const char *compare;		/* set, ordered or scalar; NULL: as the migration's setting says */
	List	   *ignored;		/* names of columns that are not compared, beside those of the migration's setting */
	Jsonb	   *normalised;		/* column: SQL expression; NULL for none */
	bool		sampled;		/* it is this read's turn: the caller has drawn lots */

	/* Get a side's answer, at most limit rows of it (0: all); what a side's plan is, as text. */
	void		(*answer) (const struct DwShadowRequest *request, int side, DwAnswer *answer, uint64 limit);
	char	   *(*plan) (const struct DwShadowRequest *request, int side);
} DwShadowRequest;

typedef struct DwShadowRun DwShadowRun;

/*
 * Begin: looks whether the other side is to be run beside the truth, which *truth says.  NULL: it is not.  ERROR 42704 when there is no
 * such migration, 22023 for another word in compare or a column that the rows have not.
 */
extern DwShadowRun *dw_shadow_begin(const DwShadowRequest *request, int *truth);

/*
 * Run the side that is the truth, whose answer goes to truth, and the other one beside it; compare, and record what came of
 * it.  Both see the active snapshot.  Raises what the truth raises; of the other side's errors only those that nobody may
 * absorb (classes 40, 57, XX and most of 53).
 */
extern void dw_shadow_run(DwShadowRun *run, Tuplestorestate *truth);

#endif							/* DW_SHADOWREAD_H */
