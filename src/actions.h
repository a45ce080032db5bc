/*
 * actions.h: as whom triggers fire on the tables that foreign keys write.
 */
#ifndef DW_ACTIONS_H
#define DW_ACTIONS_H

#include "dualwrite.h"

#include "utils/reltrigger.h"

/* What foreign keys that reference a table do. */
typedef struct DwActions
{
	TriggerDesc *triggers;		/* of the table, with only its actions enabled */
	FullTransactionId as_of;	/* when users and code were looked up */
	Oid		   *users;			/* by trigger: as whom those fire that it sets off; InvalidOid: not an action */
	bool		code;			/* some are of roles without the rights of the table's owner */
} DwActions;

/* CASCADE, SET NULL or SET DEFAULT of a foreign key that references the table. */
extern bool dw_is_action(const Trigger *trigger);
/* Those of rel, in the current memory context; NULL when it has none. */
extern DwActions *dw_actions_of(Relation rel);
/* Look users and code up, for a table of this owner, once a transaction.  ERROR 42501 where no role will do. */
extern void dw_actions_look_up(DwActions *actions, Oid owner);

#endif							/* DW_ACTIONS_H */
