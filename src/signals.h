/*
 * signals.h: what a signal of the throttle looks like.  Only for throttle.c and walsignals.c.
 */
#ifndef DW_SIGNALS_H
#define DW_SIGNALS_H

#include "dualwrite.h"
#include "nodes/pg_list.h"

typedef enum DwSignalState
{
	DW_SIGNAL_CLEAR,
	DW_SIGNAL_TRIPPED,
	DW_SIGNAL_UNREADABLE
} DwSignalState;

/* What the signals are asked about. */
typedef struct DwSignalArgs
{
	int32		migration_id;
	List	   *relids;
	Oid			owner;
} DwSignalArgs;

/* in walsignals.c: each reads its own setting, where 0 means not to look */
extern DwSignalState dw_signal_replication_lag(const DwSignalArgs *args);
extern DwSignalState dw_signal_standby_absence(const DwSignalArgs *args);
extern DwSignalState dw_signal_slot_retention(const DwSignalArgs *args);
extern DwSignalState dw_signal_lost_slot(const DwSignalArgs *args);
extern DwSignalState dw_signal_archive(const DwSignalArgs *args);
extern DwSignalState dw_signal_wal_rate(const DwSignalArgs *args);

#endif							/* DW_SIGNALS_H */
