/*
 * tables.h: which relations may take part in a mapping.
 */
#ifndef DW_TABLES_H
#define DW_TABLES_H

#include "dualwrite.h"
#include "utils/rel.h"

/*
 * Open a table for a definition, ACCESS SHARE until the end of the transaction.  ERROR 42P01 where there is none, 42809
 * for what is no table or no user's, 0A000 for tables that cannot be mirrored (temporary, unlogged, inheritance, a partition
 * without its root, foreign ones on the old side or read-only), 42501 unless the caller owns it.
 */
extern Relation dw_table_open_for_definition(Oid relid, bool is_old);

/* Schema and name, quoted where needed; of a table that has been dropped meanwhile the OID, as regclass has it; palloc'd. */
extern char *dw_table_name(Oid relid);

#endif							/* DW_TABLES_H */
