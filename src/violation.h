/*
 * violation.h: constraints of a target that are checked at the end of the application's statement.
 */
#ifndef DW_VIOLATION_H
#define DW_VIOLATION_H

#include "mapping.h"

/* The statement has written a row of the flow's target, which has triggers; source_key: NULL where that is not known. */
extern void dw_violation_note(DwFlow *flow, const DwKey *source_key);
/* A source key for messages, as users know it, after an error. */
extern char *dw_violation_key(DwFlow *flow, const DwKey *source_key);
/* What lets such a statement succeed; NULL: nothing does. */
extern char *dw_violation_hint(DwFlow *flow);
/* From now on errors of a statement's last triggers are held against the flows that it was mirrored by , as far as these are noted. */
extern void dw_violation_init(void);

#endif							/* DW_VIOLATION_H */
