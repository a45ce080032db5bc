/*
 * position.h: a place in the order of a key, as it is stored.
 */
#ifndef DW_POSITION_H
#define DW_POSITION_H

#include "dualwrite.h"
#include "utils/jsonb.h"

/* Values of key columns of these types, as an array of texts that any session reads in the same way. */
extern Jsonb *dw_position_write(Oid owner, int ncolumns, const Oid *types, const Datum *values);
/* And back.  false: it has another number of columns.  owner: whose types' functions may run. */
extern bool dw_position_read(Oid owner, Jsonb *position, int ncolumns, const Oid *types, Datum *values);

#endif							/* DW_POSITION_H */
