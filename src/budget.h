/*
 * budget.h: limits in rows and bytes a second that several processes keep together.
 */
#ifndef DW_BUDGET_H
#define DW_BUDGET_H

#include "dualwrite.h"

/* Limits a second; 0 = none. */
typedef struct DwRates
{
	double		rows;
	double		bytes;
} DwRates;

/*
 * May work begin that is expected to be of that amount?  0: it is booked, and may.  Otherwise the milliseconds until what
 * was booked before is worked off; nothing was booked.
 */
extern long dw_budget_book(int32 migration_id, const DwRates *rates, double rows, double bytes);
/* The work turned out to be that much more (or less) than was booked. */
extern void dw_budget_correct(int32 migration_id, const DwRates *rates, double rows, double bytes);
/* Milliseconds until the next booking can be made. */
extern long dw_budget_wait(int32 migration_id, const DwRates *rates);

#endif							/* DW_BUDGET_H */
