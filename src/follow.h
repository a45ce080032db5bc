/*
 * follow.h: mappings that start where another one ends.
 */
#ifndef DW_FOLLOW_H
#define DW_FOLLOW_H

#include "mapping.h"

/* Flows of other mappings that a write to this flow's target has to go on to; list of DwFlow, NIL nearly always. */
extern List *dw_followers_of(const DwFlow *flow);

#endif							/* DW_FOLLOW_H */
