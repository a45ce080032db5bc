/*
 * absorb.c: errors that must not reach the application.
 */
#include "postgres.h"

#include "absorb.h"
#include "nesting.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

bool
dw_error_is_absorbable(int sqlstate)
{
	int			class = ERRCODE_TO_CATEGORY(sqlstate);

	return class != ERRCODE_TRANSACTION_ROLLBACK && class != ERRCODE_INSUFFICIENT_RESOURCES &&
		class != ERRCODE_OPERATOR_INTERVENTION && class != ERRCODE_INTERNAL_ERROR;
}

bool
dw_try(void (*work) (void *arg), void *arg, bool undo, bool (*absorbs) (int sqlstate), DwError *error)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile edata = NULL;
	int			nesting = dw_nesting();

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		if (undo)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		/* even when the error goes on: whoever catches it knows nothing of our subtransaction */
		RollbackAndReleaseCurrentSubTransaction();
		dw_nesting_set(nesting);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (edata == NULL)
		return true;
	if (!(absorbs ? absorbs : dw_error_is_absorbable) (edata->sqlerrcode))
		ReThrowError(edata);
	error->sqlstate = edata->sqlerrcode;
	error->message = pstrdup(edata->message ? edata->message : "");
	FreeErrorData(edata);
	return false;
}
