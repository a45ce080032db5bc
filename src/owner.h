/*
 * owner.h: run a table's code as its owner.
 */
#ifndef DW_OWNER_H
#define DW_OWNER_H

#include "dualwrite.h"

typedef struct DwOwnerScope
{
	Oid			saved_user;
	int			saved_context;
	int			saved_nest;		/* of the GUC stack; 0 when no setting was pinned */
} DwOwnerScope;

/*
 * Everything between the two runs as "owner", security-restricted, as ri_triggers.c does for constraints.  pin_settings
 * also sets a search_path without user schemas, which costs a microsecond: only for code that could look at it.
 * An error in between needs no dw_owner_leave: the end of the (sub)transaction restores both.
 */
extern void dw_owner_enter(DwOwnerScope *scope, Oid owner, bool pin_settings);
extern void dw_owner_leave(DwOwnerScope *scope);
/* Pin the settings from here on, where dw_owner_enter was not asked to. */
extern void dw_owner_pin(DwOwnerScope *scope);
/* Pin what says how values look as text, and where it is what time; until the caller's GUC nest level ends. */
extern void dw_pin_formats(void);
/* Owner of a relation. */
extern Oid	dw_relation_owner(Oid relid);

#endif							/* DW_OWNER_H */
