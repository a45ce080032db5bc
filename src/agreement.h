/*
 * agreement.h: do two answers agree, and where do they not?
 */
#ifndef DW_AGREEMENT_H
#define DW_AGREEMENT_H

#include "answer.h"

#include "nodes/bitmapset.h"
#include "utils/jsonb.h"

typedef enum DwCompare
{
	DW_COMPARE_SET,				/* rows in any order, each as often on one side as on the other */
	DW_COMPARE_ORDERED,
	DW_COMPARE_SCALAR			/* the first column of the one row; no row counts as null */
} DwCompare;

/* What counts as the same. */
typedef struct DwRules
{
	DwCompare	how;
	uint64		limit;			/* rows of either that are looked at, and one more */
	Bitmapset  *ignored;		/* columns that are not compared, from 0 */
	char	  **normalised;		/* by column: SQL over the columns, compared in its place; NULL: none is */
} DwRules;

/* ERROR 22023 for a word that is none. */
extern DwCompare dw_compare_from_name(const char *name);

/* Add columns to those ignored: names that the answer does not have are an ERROR 22023 where they are required. */
extern void dw_rules_ignore(DwRules *rules, TupleDesc desc, List *names, bool required);

/* Object of column and SQL expression.  ERROR 22023 for a column that the answer does not have, or what is no object of text. */
extern void dw_rules_normalise(DwRules *rules, TupleDesc desc, Jsonb *expressions);

/*
 * Do two answers agree, by the text of each value, null equal to null?  Where they do not, *left_rows and *right_rows are
 * JSON arrays of the first rows without a counterpart, palloc'd in the current context.  Normalising expressions run with
 * the rights of the caller, and what they raise is raised.
 */
extern bool dw_answers_agree(const DwAnswer *left, const DwAnswer *right, TupleDesc desc, const DwRules *rules,
							 char **left_rows, char **right_rows);

#endif							/* DW_AGREEMENT_H */
