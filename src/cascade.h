/*
 * cascade.h: what foreign keys of the target do, brought to agreement once the source's have done the same.
 */
#ifndef DW_CASCADE_H
#define DW_CASCADE_H

#include "mirror.h"
#include "statement.h"

/*
 * A foreign key has written a row of the flow's target, carrying on a mirrored write: the row is to be brought to agreement
 * with its source, which sees the same.  wait = false: later, by the queue.
 */
extern void dw_cascaded(DwFlow *flow, const DwRowEvent *event, bool wait);
/* Must what foreign keys did go on waiting?  Then the triggers are called again, when all that is queued by now has fired. */
extern bool dw_cascade_waits(DwStatement *statement);
/*
 * For a leaf without a trigger that tells when a statement is over: have us called, with this version of a row of it, when
 * all that is queued by now has fired.  false: no call is to be had.
 */
extern bool dw_cascade_call(DwStatement *statement, Relation rel, ItemPointer version);
/* Is this event that call, and nothing that happened? */
extern bool dw_cascade_calls(Relation rel, TriggerEvent event, HeapTuple tuple);

#endif							/* DW_CASCADE_H */
