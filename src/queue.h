/*
 * queue.h: keys to be brought to agreement later.
 */
#ifndef DW_QUEUE_H
#define DW_QUEUE_H

#include "mapping.h"

/* The word that is stored: forward or reverse. */
extern const char *dw_direction_name(DwDirection direction);

/* Append a key, in the caller's transaction.  sqlstate and message say why, or are 0 and NULL. */
extern void dw_queue_append(DwFlow *flow, const DwKey *key, int sqlstate, const char *message);
/* The same with the key in its stored form. */
extern void dw_queue_append_json(int32 mapping_id, DwDirection direction, Jsonb *key, int sqlstate, const char *message);

/*
 * To another server keys come with transactions of its own, which no snapshot here shows.  While nothing is delivered, whatever is not
 * queued has arrived, and what is compared then is compared with what is there.  Both until the end of the transaction, and before
 * it has read anything there; nothing is done for mappings that are not delivered to another server.
 * hold: for comparing; waits until deliveries have ended.  enter: for delivering; false: somebody compares.
 */
extern void dw_queue_hold(int32 mapping_id);
extern bool dw_queue_enter(int32 mapping_id);

/* Entries waiting, and dead letters, of a migration. */
extern void dw_queue_counts(int32 migration_id, int64 *waiting, int64 *dead);
/* Is this key queued, as the snapshot sees it (in either direction)?  A dead letter is not: nobody is going to deliver it. */
extern bool dw_queue_has(int32 mapping_id, Jsonb *key, Snapshot snapshot);
/* Is no key of the mapping? */
extern bool dw_queue_is_empty(int32 mapping_id, Snapshot snapshot);

/*
 * Is this key queued in the other direction, now, dead letters included?  Then the flow's target holds a write that has not
 * reached its source, and making it like the source would lose that write.
 */
extern bool dw_queue_opposes(const DwFlow *flow, Jsonb *key);

/* Dead letters of the migration, or of one key of it, become due again, and so does what waits for its next attempt.  Number of dead letters. */
extern int64 dw_queue_retry(const DwMigration *migration, Jsonb *key);
/* Give the dead letters of a key up, with an entry in the audit.  Their number. */
extern int64 dw_queue_discard(const DwMigration *migration, Jsonb *key, const char *reason);

/* Queue a key of the flow, whose target row was just written in the background, for its followers. */
extern void dw_follow_later(List *followers, DwFlow *flow, const DwKey *key);

#endif							/* DW_QUEUE_H */
