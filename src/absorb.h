/*
 * absorb.h: errors that must not reach the application.
 */
#ifndef DW_ABSORB_H
#define DW_ABSORB_H

#include "dualwrite.h"

typedef struct DwError
{
	int			sqlstate;
	char	   *message;		/* in the memory context of the caller */
} DwError;

/* Not transaction rollback (40), resources (53), intervention (57) or internal errors (XX): those are never absorbed. */
extern bool dw_error_is_absorbable(int sqlstate);

/*
 * Run work(arg) in a subtransaction.  false: it failed, everything it did is undone, and error says why.  An error for
 * which absorbs() is false (NULL: dw_error_is_absorbable) is raised again.  undo: roll back even where it succeeds.
 */
extern bool dw_try(void (*work) (void *arg), void *arg, bool undo, bool (*absorbs) (int sqlstate), DwError *error);

#endif							/* DW_ABSORB_H */
