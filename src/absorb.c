/*
 * absorb.c: errors that must not reach the application.
 */
#include "postgres.h"

#include "absorb.h"

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
	volatile bool succeeded = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		if (undo)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
		succeeded = true;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		if (!(absorbs ? absorbs : dw_error_is_absorbable) (edata->sqlerrcode))
		{
			FreeErrorData(edata);
			PG_RE_THROW();
		}
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		error->sqlstate = edata->sqlerrcode;
		error->message = pstrdup(edata->message ? edata->message : "");
		FreeErrorData(edata);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return succeeded;
}
