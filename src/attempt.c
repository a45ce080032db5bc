/*
 * attempt.c: background work that may fail without taking the transaction with it.
 *
 * One bad row must not stop the other million, so background work runs in subtransactions whose errors become entries of
 * the queue.  Never absorbed: errors that say nothing about the row, since going on would turn an administrator's cancel
 * or a full disk into a million of them.
 */
#include "postgres.h"

#include "attempt.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/trigger.h"
#include "nodes/parsenodes.h"
#include "storage/proc.h"
#include "utils/guc.h"

/* Longest wait for a lock, in ms: an upper bound beside a share of deadlock_timeout. */
#define DW_LOCK_WAIT_MS 100

bool
dw_error_is_lock(int sqlstate)
{
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ||
		sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED ||
		sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

bool
dw_error_is_connection(int sqlstate)
{
	/* of this server, a shutdown is no ERROR: one that is comes from the other end */
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_CONNECTION_EXCEPTION ||
		sqlstate == ERRCODE_ADMIN_SHUTDOWN || sqlstate == ERRCODE_CRASH_SHUTDOWN || sqlstate == ERRCODE_CANNOT_CONNECT_NOW;
}

static bool
absorbs(int sqlstate)
{
	return dw_error_is_absorbable(sqlstate) || dw_error_is_lock(sqlstate) || dw_error_is_connection(sqlstate);
}

bool
dw_attempt(void (*work) (void *arg), void *arg, bool undo, DwError *error)
{
	return dw_try(work, arg, undo, absorbs, error);
}

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

void
dw_attempt_settings(void)
{
	ConstraintsSetStmt *immediate = makeNode(ConstraintsSetStmt);
	char		lock_timeout[32];

	snprintf(lock_timeout, sizeof(lock_timeout), "%dms", Max(1, Min(DW_LOCK_WAIT_MS, DeadlockTimeout / 4)));
	set_local("lock_timeout", lock_timeout);
	set_local("synchronous_commit", "local");
	set_local("row_security", "off");
	/* a deferred constraint that fails at commit would take the whole batch with it */
	immediate->constraints = NIL;
	immediate->deferred = false;
	AfterTriggerSetState(immediate);
}

void
dw_attempt_lazy_commit(void)
{
	/* nearly always written by now, by the WAL writer */
	XLogFlush(XactLastCommitEnd);
	set_local("synchronous_commit", "off");
}
