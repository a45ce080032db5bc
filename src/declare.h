/*
 * declare.h: migrations and mappings, made, altered and dropped.
 */
#ifndef DW_DECLARE_H
#define DW_DECLARE_H

#include "dualwrite.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* What a user says of a mapping.  In a change, NULL means as it is. */
typedef struct DwDefinition
{
	Oid			old_table;
	Oid			new_table;
	Jsonb	   *forward;
	Jsonb	   *reverse;
	char	   *filter;			/* NULL: all rows */
	List	   *key_columns;	/* of char *; NIL: choose */
	const char *delivery;
	const char *owns;
} DwDefinition;

/* ERROR 42710 where it exists; first may be NULL. */
extern void dw_declare_migration(const char *name, const DwDefinition *first);
extern void dw_declare_mapping(const char *migration, const DwDefinition *definition);
/* Forward, reverse and filter of a mapping: members replace, the rest stays.  Rows are converged again in the background. */
extern void dw_declare_change(const char *migration, const DwDefinition *change);
extern void dw_declare_drop_mapping(const char *migration, Oid old_table, Oid new_table);
extern void dw_declare_drop(const char *migration);

#endif							/* DW_DECLARE_H */
