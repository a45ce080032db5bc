/*
 * outlived.h: failures in the queue that a later write has put right.
 */
#ifndef DW_OUTLIVED_H
#define DW_OUTLIVED_H

#include "catalog.h"

/*
 * Look at some keys that have failed, dead letters included, in the current transaction; entries of those that agree by now are
 * removed.  next_due: when to look again; DT_NOEND where nothing has failed.
 */
extern DwStep dw_outlived_step(const DwMigration *migration, TimestampTz *next_due);

#endif							/* DW_OUTLIVED_H */
