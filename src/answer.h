/*
 * answer.h: what a query returned, and by which plan.
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
	char	   *plan;			/* as EXPLAIN shows it, where somebody asked for it */
} DwAnswer;

/* A query as text, with the input text of $1 ... $nargs, NULL for null. */
typedef struct DwQueryText
{
	const char *name;			/* what it is called in messages */
	const char *text;
	int			nargs;
	char	  **args;
} DwQueryText;

/*
 * Run one SELECT under the active snapshot and add its rows, at most limit (0: all), to answer->rows.  Each argument is
 * read as the type that the query gives it.  ERROR 25006 for what is more than a read, 42804 where its columns are not
 * those of desc.
 */
extern void dw_answer_get(DwAnswer *answer, const DwQueryText *query, TupleDesc desc, uint64 limit);

/* The plan that it gets with these arguments, as EXPLAIN shows it; palloc'd. */
extern char *dw_answer_plan(const DwQueryText *query);

/* Pages that this backend has looked at so far. */
extern int64 dw_buffers_used(void);

#endif							/* DW_ANSWER_H */
