/*
 * recheck.h: a second look at what depends on a changed row, once everybody who could not see the change has ended.
 */
#ifndef DW_RECHECK_H
#define DW_RECHECK_H

#include "catalog.h"
#include "utils/jsonb.h"

/* Ask for it, in the transaction that changes the row.  image: the columns of the row that the dependency's query reads. */
extern void dw_recheck_append(int32 dependency_id, int32 mapping_id, Jsonb *image);
/*
 * How many hold up a change of phase.  Where changes are frequent some always wait; they go on being looked at in the phases
 * above, so that only those that are not getting on count.  to_complete: there, nothing will be looked at any more.
 */
extern int64 dw_recheck_pending(int32 migration_id, bool to_complete);
/* Forget those of a migration. */
extern void dw_recheck_forget(int32 migration_id);
/* One change, in the current transaction; keys that differ are queued.  next_due as for dw_deliver_step. */
extern DwStep dw_recheck_step(const DwMigration *migration, TimestampTz *next_due);

#endif							/* DW_RECHECK_H */
