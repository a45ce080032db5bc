/*
 * dropold.h: the end of the old side.
 */
#ifndef DW_DROPOLD_H
#define DW_DROPOLD_H

#include "catalog.h"

/*
 * Drop the old tables of a complete migration (in place: the columns named by reverse), as the current user.  Returns how
 * many tables (columns) went.  dry_run: do it in a subtransaction, say as NOTICEs what went, and undo it.
 * ERROR 55000 before complete, 2BP01 with the list of what depends on them, 55P03, 42501.
 */
extern int	dw_drop_old(const char *migration, bool dry_run);

#endif							/* DW_DROPOLD_H */
