/*
 * postpone.h: mirrors whose errors must not reach the application.
 */
#ifndef DW_POSTPONE_H
#define DW_POSTPONE_H

#include "statement.h"

/* The statement is over: converge what was put off, queue what fails. */
extern void dw_postponed_settle(DwStatement *statement);
/* Nobody settled it before the (sub)transaction commits: queue it all. */
extern void dw_postponed_enqueue(DwStatement *statement);

#endif							/* DW_POSTPONE_H */
