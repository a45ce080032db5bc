/*
 * violation.h: constraints of a target that are checked at the end of the application's statement.
 */
#ifndef DW_VIOLATION_H
#define DW_VIOLATION_H

#include "mapping.h"

/* The flow's target was written in this transaction.  Called for each row. */
extern void dw_violation_note(DwFlow *flow);
extern void dw_violation_init(void);

#endif							/* DW_VIOLATION_H */
