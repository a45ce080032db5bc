/*
 * resolve.h: from what a user declares to checked columns, filter and key.
 */
#ifndef DW_RESOLVE_H
#define DW_RESOLVE_H

#include "catalog.h"
#include "expression.h"
#include "utils/jsonb.h"

/* A member of "depends". */
typedef struct DwItemDependency
{
	char	   *table;			/* as the user names it; with stored: qualified */
	char	   *query;
} DwItemDependency;

/* A member of forward or reverse. */
typedef struct DwItem
{
	char	   *column;			/* of the target side */
	char	   *text;			/* NULL: not mapped */
	bool		insert_only;
	bool		not_null;		/* the column is to be NOT NULL by cutover */
	List	   *depends;		/* of DwItemDependency */
	bool		stored;			/* text and depends are the catalog's: every name qualified */
} DwItem;

/* One mapped column of a target side. */
typedef struct DwResolvedColumn
{
	AttrNumber	attno;
	char	   *name;
	DwExpression *expression;
	bool		insert_only;
	bool		given;			/* declared, not derived from names or from the other direction */
	const DwItem *item;			/* as declared, or NULL */
} DwResolvedColumn;

/* A mapping as it will be stored. */
typedef struct DwResolved
{
	Relation	old_rel;
	Relation	new_rel;
	DwOwns		owns;
	bool		in_place;		/* both are the same table */
	List	   *columns[2];		/* of DwResolvedColumn, by DwDirection, in the order of the table's columns */
	DwExpression *filter;		/* NULL: none */
	List	   *key;			/* names (char *) of new columns */
	List	   *old_key;		/* names of old columns, computable from the key */
	List	   *dependencies;	/* of DwDependency, without ids */
} DwResolved;

/* Members of a forward or reverse object; list of DwItem.  argument names it in errors.  ERROR 22023, 0A000 with hint. */
extern List *dw_items_from_json(Jsonb *json, const char *argument);
extern DwItem *dw_item_find(List *items, const char *column);

/*
 * Fill in columns of both directions, and the filter.  In place only what is declared is mapped, and the key stands for
 * itself.  ERROR 42703, 428C9 for what is no column or a generated one; 42804, 42P17,
 * 23502 and whatever the parser raises for expressions.  NOTICE for old columns that reverse writes will not reach.
 */
extern void dw_resolve_columns(DwResolved *mapping, List *forward, List *reverse);
extern void dw_resolve_filter(DwResolved *mapping, char *text, bool stored);

/* Column of one direction by attribute number or name; NULL when it is not mapped. */
extern DwResolvedColumn *dw_resolved_column(const DwResolved *mapping, DwDirection direction, AttrNumber attno);

/* ERROR 42703 for a name that is no column, with the nearest one as hint. */
extern AttrNumber dw_column_number(Relation rel, const char *name);

/*
 * In keychoice.c.  Choose key and old_key.  names: what the user asked for, or NIL.  ERROR 42P10 for names that are no unique index,
 * 55000 when no key can be computed there and back, with a reason for each candidate.
 */
extern void dw_resolve_key(DwResolved *mapping, List *names);
/*
 * The same for a mapping in place, before its columns: any unique key of the table that none of the items (both directions in one
 * list) writes.
 */
extern void dw_resolve_key_in_place(DwResolved *mapping, List *names, List *items);

/* In dependency.c, once the key is chosen: "depends" of all columns.  ERROR as dependency.c says. */
extern void dw_resolve_dependencies(DwResolved *mapping);

#endif							/* DW_RESOLVE_H */
