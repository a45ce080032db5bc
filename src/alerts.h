/*
 * alerts.h: what somebody should be told without having asked.
 */
#ifndef DW_ALERTS_H
#define DW_ALERTS_H

#include "catalog.h"

/*
 * NOTIFY on channel dualwrite, at commit, as a JSON object: alert is its kind, role names the duty concerned (or NULL).
 * Anybody may listen, so a payload never holds values.  Only from a worker: committing a NOTIFY serialises commits.
 */
extern void dw_alert(const char *kind, const char *migration, const char *role);

/* A duty of the worker: tell of mirror writes that have failed since it last looked. */
extern DwStep dw_alerts_step(const DwMigration *migration, TimestampTz *next_due);

#endif							/* DW_ALERTS_H */
