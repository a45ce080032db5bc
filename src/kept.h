/*
 * kept.h: targets that are kept from one statement of the application to the next.
 */
#ifndef DW_KEPT_H
#define DW_KEPT_H

#include "apply.h"

/* As dw_target_open: the one kept of the flow, in the memory context current, or a new one. */
extern DwTarget *dw_kept_take(DwFlow *flow);
/* Keep the target if that can be, or close it. */
extern void dw_kept_give_back(DwTarget *target);
extern void dw_kept_init(void);

#endif							/* DW_KEPT_H */
