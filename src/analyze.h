/*
 * analyze.h: statistics of a new table.
 */
#ifndef DW_ANALYZE_H
#define DW_ANALYZE_H

#include "dualwrite.h"

/*
 * ANALYZE, as the table's owner, in this transaction.  A courtesy: what is in its way is told in the log, and autovacuum does it
 * later.  name is for that message.
 */
extern void dw_analyze(Oid table, const char *name);

#endif							/* DW_ANALYZE_H */
