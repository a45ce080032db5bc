/*
 * violation.h: constraints of a target that are checked at the end of the application's statement.
 */
#ifndef DW_VIOLATION_H
#define DW_VIOLATION_H

#include "dualwrite.h"

/* From now on errors of a statement's last triggers are held against the flows that it was mirrored by (dw_execution_mirrored). */
extern void dw_violation_init(void);

#endif							/* DW_VIOLATION_H */
