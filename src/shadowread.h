/*
 * shadowread.h: one read made on both sides, and compared.
 */
#ifndef DW_SHADOWREAD_H
#define DW_SHADOWREAD_H

#include "dualwrite.h"

#include "access/tupdesc.h"
#include "utils/tuplestore.h"

typedef struct DwShadowRequest
{
	const char *migration;
	const char *queries[2];		/* of the old and of the new side */
	int			nargs;
	char	  **args;			/* input text of each, NULL for null */
	const char *compare;		/* set, ordered or scalar; NULL: as the migration's setting says */
	TupleDesc	desc;			/* rows that both queries must return */
} DwShadowRequest;

/*
 * Run the query of the side that is the truth and put its rows into "rows", which is empty and can be rewound; where it is
 * this call's turn, run the other side's, too, compare, and record what came of it.  Both see the active snapshot.  Raises
 * what the query of the truth raises; of the other side's errors only those that nobody may absorb (classes 40, 57, XX and
 * most of 53).  ERROR 42704 when there is no such migration, 22023 for another word in compare.
 */
extern void dw_shadow_read(const DwShadowRequest *request, Tuplestorestate *rows);

#endif							/* DW_SHADOWREAD_H */
