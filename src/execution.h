/*
 * execution.h: the statement whose triggers are being fired.
 */
#ifndef DW_EXECUTION_H
#define DW_EXECUTION_H

#include "utils/rel.h"

/*
 * From this AFTER trigger on rel to the last one of its statement: does nothing run but triggers of ours and checks of
 * foreign keys that look at none of these tables?  Then nobody can see in what order rows are mirrored.  A plain "no"
 * where it is not known.
 */
extern bool dw_execution_is_private(Relation rel, Oid target, List *target_leaves);
/*
 * Is this a subscription's initial copy of a table?  Tables are copied in any order, children before their parents too, and
 * their own foreign keys do not look.
 */
extern bool dw_execution_is_initial_copy(void);
/* The statement whose triggers are being fired has been mirrored by this (a flow, which nobody looks into here). */
extern void dw_execution_mirrored(void *by);
/*
 * explain is called for a violation of a constraint that a statement's last triggers have raised; it adds to the error what it knows of
 * it, in the current memory context, and says whether it does.  by: all that the statement was mirrored by.  It must not look anything up.
 */
extern void dw_execution_on_violation(bool (*explain) (ErrorData *error, List *by));
extern void dw_execution_init(void);

#endif							/* DW_EXECUTION_H */
