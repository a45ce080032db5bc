/*
 * queue.h: keys to be brought to agreement later.
 */
#ifndef DW_QUEUE_H
#define DW_QUEUE_H

#include "mapping.h"

/* Append a key, in the caller's transaction.  sqlstate and message say why, or are 0 and NULL. */
extern void dw_queue_append(DwFlow *flow, const DwKey *key, int sqlstate, const char *message);
/* The same with the key in its stored form. */
extern void dw_queue_append_json(int32 mapping_id, DwDirection direction, Jsonb *key, int sqlstate, const char *message);

/*
 * One due key of the migration, in the current transaction: converge it, then delete its entries, or note the failure and when to try
 * again.  An error of the key is absorbed in a subtransaction; lock failures are not attempts.
 */
extern DwStep dw_queue_step(const DwMigration *migration, TimestampTz *next_due);

/* Entries waiting, and dead letters, of a migration. */
extern void dw_queue_counts(int32 migration_id, int64 *waiting, int64 *dead);
/* Is this key queued, as the snapshot sees it (in either direction)? */
extern bool dw_queue_has(int32 mapping_id, Jsonb *key, Snapshot snapshot);

#endif							/* DW_QUEUE_H */
