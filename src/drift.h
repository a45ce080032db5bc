/*
 * drift.h: the list of keys whose sides disagree.
 *
 * Whoever writes it for a mapping holds that mapping's drift lock, so that a comparison and a repair at the same time
 * neither wait for each other's rows nor deadlock over them.  Those who compare different parts of it hold it in common: one
 * statement a transaction records what each has found, in the order of keys.
 */
#ifndef DW_DRIFT_H
#define DW_DRIFT_H

#include "compare.h"

/* Keys by kind. */
typedef struct DwTally
{
	int64		kinds[DW_NUM_DRIFT_KINDS];
} DwTally;

/* Until the end of the transaction.  wait = false: false when another one has it. */
extern bool dw_drift_lock(int32 mapping_id, bool wait);
/* In common with others who compare; false when somebody has it alone, or waits for that. */
extern bool dw_drift_share(int32 mapping_id);

/*
 * Put differences down as seen by a pass: a row a key, refreshed when it is there already.  One that is ignored stays so
 * while its values are the same.  tally: those that are open are added; NULL is allowed.
 */
extern void dw_drift_record(DwCompiled *compiled, int64 pass, List *differences, DwTally *tally);

/*
 * The same, but only the first room of them with their values, and those that are on the list already; further ones are kept as
 * keys alone (bundle.h).
 */
extern void dw_drift_record_some(DwCompiled *compiled, int64 pass, List *differences, int64 room, DwTally *tally);

/* Keys (List of Jsonb *) behind "after" (NULL: all), in an order that does not change, that this pass has not seen; with limit. */
extern List *dw_drift_unseen(int32 mapping_id, int64 pass, Jsonb *after, int limit);
/* Open keys of a mapping behind "after", in the same order; pass: only those that it saw, 0 for any. */
extern List *dw_drift_list(int32 mapping_id, int64 pass, Jsonb *after, int limit);

/* These keys (List of Jsonb *) agree now. */
extern void dw_drift_gone(int32 mapping_id, List *keys);
/* This key has just been repaired: the difference is what was overwritten. */
extern void dw_drift_repaired(DwCompiled *compiled, const DwDifference *overwritten);
/* It was to be repaired, but could not be: why.  It stays open. */
extern void dw_drift_failed(int32 mapping_id, Jsonb *key, const char *message);
/* Leave an open key alone until its values change.  false: it is not open. */
extern bool dw_drift_ignore(int32 mapping_id, Jsonb *key, const char *reason);

/* Rows of a migration that were closed before that time are removed, some of them.  true: there may be more. */
extern bool dw_drift_expire(int32 migration_id, TimestampTz before);

extern const char *dw_drift_kind_name(DwDriftKind kind);

#endif							/* DW_DRIFT_H */
