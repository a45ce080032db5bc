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
/* By what a statement is mirrored, as those see it who note it: nobody looks into it here. */
typedef struct DwMirroredBy
{
	const void *by;
	uint64		rows;
	void	   *first;
} DwMirroredBy;

/* That of the statement whose triggers are being fired, all zero when it is new; context: to keep things in.  NULL: nobody knows of a statement. */
extern DwMirroredBy *dw_execution_mirrored(const void *by, MemoryContext *context);
/*
 * explain is called for a violation of a constraint that a statement's last triggers have raised; it adds to the error what it knows of
 * it, in the current memory context, and says whether it does.  by: of DwMirroredBy, all of the statement.  It must not look anything up.
 */
extern void dw_execution_on_violation(bool (*explain) (ErrorData *error, List *by));
extern void dw_execution_init(void);

#endif							/* DW_EXECUTION_H */
