/*
 * worker.c: how sessions get background work done.
 *
 * Who leaves work behind says so in shared memory when the transaction commits, and sees to it that there is a launcher.
 * Nothing here may fail at commit, and nothing here does any of the work: that is process.c's.
 */
#include "postgres.h"

#include "launcher.h"
#include "slots.h"
#include "worker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"

static bool wake_at_commit = false;
static int32 stop_at_commit = 0;	/* id of a migration */
static bool first_commit = true;	/* of this session, since the library was loaded */

void
dw_worker_wake(void)
{
	(void) dw_shared();			/* attach now: not at commit */
	wake_at_commit = true;
}

void
dw_worker_stop_builds(int32 migration_id)
{
	DwShared   *shared = dw_shared();

	if (shared != NULL)
		dw_slots_stop_builds(shared, MyDatabaseId, migration_id);
	stop_at_commit = migration_id;
}

bool
dw_worker_running(int32 migration_id)
{
	DwShared   *shared = dw_shared();

	return shared != NULL && dw_slots_running(shared, MyDatabaseId, migration_id);
}

int
dw_worker_sharing(int32 migration_id, DwRole role, int *pids)
{
	DwShared   *shared = dw_shared();

	if (shared != NULL)
		return dw_slots_sharing(shared, migration_id, role, pids);
	if (pids != NULL)
		pids[0] = MyProcPid;
	return 1;
}

/*
 * Where nothing is preloaded nobody starts the launcher after a restart or a fail-over; the first session that mirrors a
 * write does.  Once a launcher has looked at all databases, work announces itself.
 */
static bool
nobody_has_looked(const DwShared *shared)
{
	return !dw_preloaded() && (MyBackendType == B_BACKEND || MyBackendType == B_BG_WORKER) &&
		shared->launcher_pid == 0 && !shared->looked_everywhere;
}

static void
wake(void)
{
	static bool warned = false;
	DwShared   *shared = dw_shared();

	if (shared == NULL || !(wake_at_commit || nobody_has_looked(shared)))
		return;
	if (!dw_slots_wake(shared, MyDatabaseId) || dw_preloaded() || dw_launcher_start() || warned)
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker slot is free for dualwrite: background work does not go on"),
			 errhint("Raise max_worker_processes and restart the server, or do the work in a session of your own: CALL dualwrite.backfill('<migration>').")));
}

/* At commit nothing may fail: shared memory is attached before, or never will be. */
static void
end_of_transaction(XactEvent event, void *arg)
{
	(void) arg;
	if ((event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE) && first_commit)
		(void) dw_shared();
	if ((event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE) && (wake_at_commit || first_commit) &&
		!IsBinaryUpgrade && OidIsValid(MyDatabaseId) && !RecoveryInProgress())
	{
		wake();
		first_commit = false;
	}
	if (event == XACT_EVENT_COMMIT && stop_at_commit != 0 && dw_shared() != NULL)
		dw_slots_stop_builds(dw_shared(), MyDatabaseId, stop_at_commit);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE || event == XACT_EVENT_ABORT)
	{
		wake_at_commit = false;
		stop_at_commit = 0;
	}
}

void
dw_worker_init(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
		dw_launcher_register();
}
