/*
 * constraints.h: constraints of users' tables, made valid without a long lock.
 *
 * Works on a relation and a column; whose wish that is, and when, is the caller's.  A column becomes NOT NULL by these steps,
 * each in a transaction of its own: dw_violations until there are none, dw_not_null_add, dw_constraint_validate of
 * dw_not_null_helper, dw_not_null_set.  dw_not_null_state says where it stands, whatever happened in between, by what is in
 * the server's catalog.  In place, where old and new table are one, it is the same.
 */
#ifndef DW_CONSTRAINTS_H
#define DW_CONSTRAINTS_H

#include "dualwrite.h"
#include "access/attnum.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef enum DwNotNull
{
	DW_NOT_NULL_ABSENT,
	DW_NOT_NULL_ADDED,			/* our CHECK holds for what is written, not yet for what was there */
	DW_NOT_NULL_VALIDATED,		/* for all rows: NOT NULL wants no look at them */
	DW_NOT_NULL_SET
} DwNotNull;

/* Where the column stands.  helper (may be NULL): name of our CHECK, whether it is there or not. */
extern DwNotNull dw_not_null_state(Oid relid, AttrNumber attno, char **helper);

/*
 * CHECK (column IS NOT NULL) NOT VALID; and, once that is validated, SET NOT NULL, which takes the CHECK away.  ACCESS EXCLUSIVE on the
 * table with its partitions for a moment; a row is looked at by neither.  ERROR 55P03 after lock_timeout.
 */
extern void dw_not_null_add(Oid relid, AttrNumber attno);
extern void dw_not_null_set(Oid relid, AttrNumber attno);

/*
 * Take our CHECKs away, except those of the columns in keep (integer list).  Returns their number.  NOT NULL that has been set stays.
 * Locks as above, if there are any.
 */
extern int	dw_not_null_retract(Oid relid, List *keep);

/*
 * VALIDATE CONSTRAINT, as the table's owner: reads all rows under SHARE UPDATE EXCLUSIVE, in which everybody goes on
 * reading and writing.  ERROR 23514, 23503, 23502 where one violates it.
 */
extern void dw_constraint_validate(Oid relid, const char *name);

/*
 * Rows of the table, which answers to t, for which condition is true, as the table's owner.  keys (may be NULL): some of them, as
 * array of objects of these columns (char *).  Reads all rows, and locks none.
 */
extern int64 dw_violations(Oid relid, const char *condition, List *key_columns, Jsonb **keys);

#endif							/* DW_CONSTRAINTS_H */
