/*
 * deliver.h: queued keys are brought to agreement.
 */
#ifndef DW_DELIVER_H
#define DW_DELIVER_H

#include "catalog.h"

/*
 * Some due keys of one mapping, in the current transaction: converge them, then delete their entries, or note the failure
 * and when to try again.  An error of a key is absorbed in a subtransaction; lock failures and a server that cannot be
 * reached are not attempts.
 * next_due, unless WORKED: when to call again at the latest; DT_NOEND when nothing waits.
 */
extern DwStep dw_deliver_step(const DwMigration *migration, TimestampTz *next_due);

/* How many processes could find a batch of due keys for themselves. */
extern int	dw_deliver_openings(const DwMigration *migration);

#endif							/* DW_DELIVER_H */
