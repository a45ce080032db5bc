/*
 * priority.h: how a background process stands to others where they want the same processor.
 */
#ifndef DW_PRIORITY_H
#define DW_PRIORITY_H

#include "postgres.h"

/*
 * Let this process stand behind others by that nice value, 1 to 19; 0: as it was started.  May be called at every step.
 * false: it already stands further behind, and only a new process can do better.
 */
extern bool dw_priority_lower(int nice);

#endif							/* DW_PRIORITY_H */
