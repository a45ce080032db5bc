/*
 * answer.h: what a query returned, and how two such answers differ.
 */
#ifndef DW_ANSWER_H
#define DW_ANSWER_H

#include "dualwrite.h"

#include "access/tupdesc.h"
#include "nodes/pg_list.h"
#include "utils/tuplestore.h"

typedef struct DwAnswer
{
	Tuplestorestate *rows;		/* can be rewound */
	uint64		count;
	int64		us;				/* time taken */
	int64		buffers;		/* pages looked at, in shared and local buffers */
	List	   *relations;		/* that the query names, views looked through; OIDs */
} DwAnswer;

typedef enum DwCompare
{
	DW_COMPARE_SET,				/* rows in any order, each as often on one side as on the other */
	DW_COMPARE_ORDERED,
	DW_COMPARE_SCALAR			/* the first column of the one row; no row counts as null */
} DwCompare;

/* ERROR 22023 for a word that is none. */
extern DwCompare dw_compare_from_name(const char *name);

/*
 * Run one SELECT under the active snapshot and add its rows, at most limit (0: all), to answer->rows.  name is what the
 * query is called in messages; args are input texts of $1 ... $nargs, NULL for null, each read as the type that the query
 * gives it.  ERROR 25006 for what is more than a read, 42804 where its columns are not those of desc.
 */
extern void dw_answer_get(DwAnswer *answer, const char *name, const char *query, int nargs, char **args, TupleDesc desc,
						  uint64 limit);

/*
 * Do two answers agree, by the text of each value, null equal to null?  Where they do not, *left_rows and *right_rows are
 * JSON arrays of the first rows without a counterpart, palloc'd in the current context.  At most limit + 1 rows of each are
 * looked at.
 */
extern bool dw_answers_agree(const DwAnswer *left, const DwAnswer *right, TupleDesc desc, DwCompare how, uint64 limit,
							 char **left_rows, char **right_rows);

#endif							/* DW_ANSWER_H */
