/*
 * expression.h: from the text of a mapping to something that can be evaluated.
 */
#ifndef DW_EXPRESSION_H
#define DW_EXPRESSION_H

#include "dualwrite.h"
#include "nodes/primnodes.h"
#include "utils/rel.h"

/*
 * A further name of the source row that every expression understands.  Stored text uses it where it needs a name for
 * the row (a sub-select, the whole row), and none otherwise: whoever puts the text into a query aliases the table so.
 * The table's own name would not do: it changes (ALTER TABLE RENAME, swap of names).
 */
#define DW_ROW_ALIAS "dualwrite_row"

/* What an expression turned out to be. */
typedef struct DwExpression
{
	Node	   *node;			/* analysed, coerced to the wanted type, collations assigned; not planned */
	char	   *text;			/* deparsed, every name qualified: what the catalog stores; parse it under search_path pg_catalog */
	bool		has_sublink;	/* must run through SPI */
	bool		is_constant;	/* no column, no sub-select, immutable */
	bool		is_volatile;
	bool		is_mutable;		/* stable or volatile: depends on session or time */
	bool		user_code;		/* to be run as the owner, under pinned settings: calls a function that is neither built in nor in C, or: */
	bool		is_personal;	/* one that is built in and looks at its caller, or at how his session is set */
	AttrNumber	column;			/* plain reference to this column, possibly through a cast; else 0 */
	bool		lossless;		/* with column: the casts keep the value, or fail */
	Bitmapset  *columns;		/* attribute numbers it reads, plain (no offset) */
	List	   *domains;		/* OIDs of those that it casts to */
} DwExpression;

/*
 * Parse and analyse text over one row of source and coerce it, as an assignment would, to the type.  InvalidOid: leave the type alone.
 * what names the thing in errors ('new column "email"').  ERROR 42703, 42601, 42804, 42803 … as the parser raises them,
 * with context; aggregates, window functions and set-returning functions are refused with 42P20 / 42803 / 0A000.
 * source_alias: another name for the row beside the table's own, or NULL.
 */
extern DwExpression *dw_expression_parse(const char *text, Relation source, const char *source_alias,
										 Oid type, int32 typmod, Oid collation, const char *what);

/* A bare reference to a column, coerced: NULL where the type does not assign. */
extern DwExpression *dw_expression_column(Relation source, AttrNumber attno,
										  Oid type, int32 typmod, Oid collation);

/*
 * Attribute numbers that the sub-selects of an expression read of a table.  NULL: unknown, since they read through a view, a
 * function, or a join whose columns are merged.
 */
extern Bitmapset *dw_expression_reads(const DwExpression *expression, Relation table);

#endif							/* DW_EXPRESSION_H */
