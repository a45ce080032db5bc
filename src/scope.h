/*
 * scope.h: the constants of a mapping, which tell its new rows from those of others.
 */
#ifndef DW_SCOPE_H
#define DW_SCOPE_H

#include "mapping.h"

typedef struct DwScope DwScope;

/*
 * scope with one more constant, in the current memory context; NULL to begin with.  attno: of the new table, described by desc.
 * ERROR 42883 when its type has no equality.
 */
extern DwScope *dw_scope_add(DwScope *scope, TupleDesc desc, AttrNumber attno, Datum value, bool isnull);
/* Does the row bear all constants?  scope may be NULL: none. */
extern bool dw_scope_has_row(const DwScope *scope, TupleTableSlot *row);
/* May a row with this key?  Columns that are not of the key do not count. */
extern bool dw_scope_has_key(const DwScope *scope, const DwKeyShape *shape, const DwKey *key);

#endif							/* DW_SCOPE_H */
