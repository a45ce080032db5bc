/*
 * postpone.h: mirrors whose errors must not reach the application.
 */
#ifndef DW_POSTPONE_H
#define DW_POSTPONE_H

#include "statement.h"

/* Do events of this flow wait for the end of the statement, their errors to be absorbed? */
extern bool dw_postpones(const DwFlow *flow);
/* from: the key that the row had before, or NULL. */
extern DwPostponed *dw_postpone(DwStatement *statement, DwFlow *flow, const DwKey *from, const DwKey *source_key);
/* The statement is over: converge what was put off, queue what fails. */
extern void dw_postponed_settle(DwStatement *statement);
/* Nobody settled it before the (sub)transaction commits: queue it all. */
extern void dw_postponed_enqueue(DwStatement *statement);

#endif							/* DW_POSTPONE_H */
