/*
 * duties.c: what a worker does for its migration.
 *
 * It takes its duties in turn; each step of one is a transaction of its own.  A step may have begun in a phase that is no
 * more: it looks again under the table locks that a change of phase waits for, and does nothing then.
 *
 * It must not retry at once what has just failed, and one duty that fails must not stop the others.
 */
#include "postgres.h"

#include "duties.h"

#include "alerts.h"
#include "backfill.h"
#include "deliver.h"
#include "drift.h"
#include "enforce.h"
#include "indexes.h"
#include "outlived.h"
#include "priority.h"
#include "rebuild.h"
#include "recheck.h"
#include "reconcile.h"
#include "settings.h"
#include "shadowstats.h"
#include "slots.h"
#include "sql.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A duty with more to do gives way to the others after this. */
#define SLICE_MS			200
/* Idle: look for what nobody has announced, such as a key queued by a prepared transaction. */
#define POLL_MS				30000
#define HOUSEKEEPING_MS		3600000
/* Work that must not be done now, where the duty does not say when. */
#define HOLD_BACK_MS		1000
#define MAX_BACKOFF_MS		60000

typedef struct DwDuty
{
	DwRole		role;
	const char *name;
	DwPhase		first;			/* phases in which there is such work */
	DwPhase		last;
	int			poll_ms;
	DwStep		(*step) (const DwMigration *migration, TimestampTz *next_due);
	const char *workers;		/* setting: processes that may share it; NULL: the first process alone does it */
	int			(*openings) (const DwMigration *migration); /* how many of them could find something to do */
	/* The rest of a step that has WORKED, outside of any transaction; takes so long that a helper does it where there can be one. */
	DwStep		(*outside) (void);
	const char *nice;			/* setting: how far behind others they stand; where it is above 0 they are all helpers */
} DwDuty;

/* Per duty: when it is due, how it stands. */
typedef struct DwDutyState
{
	TimestampTz due;
	bool		holding_back;	/* by the duty's own wish, or after an error: being woken does not change it */
	int			failures;		/* in a row */
	bool		cleared;		/* no error of it is on record, not even one of an earlier process */
	DwActivity	activity;
	int			wanted;			/* processes, by the setting, when helpers were last asked for */
	int			helpers;		/* that were asked for then */
	int			lacking;		/* so many of them could not be started, as was told */
	TimestampTz asked_at;
} DwDutyState;

static DwStep backfill_duty(const DwMigration *migration, TimestampTz *next_due);
static DwStep reconcile_duty(const DwMigration *migration, TimestampTz *next_due);
static DwStep housekeeping_duty(const DwMigration *migration, TimestampTz *next_due);
static void show_duties(DwShared *shared, DwTurn turn);

static const DwDuty duties[] = {
	{DW_ROLE_QUEUE, "queue", DW_PHASE_SHADOW, DW_PHASE_CUTOVER, POLL_MS, dw_deliver_step,
	"queue_workers", dw_deliver_openings, NULL, NULL},
	/* above its own phase there is something to copy after alter_mapping, which goes through the rows again */
	{DW_ROLE_BACKFILL, "backfill", DW_PHASE_BACKFILL, DW_PHASE_READ_SWITCH, POLL_MS, backfill_duty,
	"backfill_workers", dw_backfill_openings, NULL, NULL},
	/* owed wherever they were taken away */
	{DW_ROLE_INDEXES, "indexes", DW_PHASE_DEFINED, DW_PHASE_COMPLETE, POLL_MS, dw_rebuild_step, NULL, dw_rebuild_openings, dw_rebuild_outside, NULL},
	{DW_ROLE_RECONCILE, "reconcile", DW_PHASE_VERIFY, DW_PHASE_CUTOVER, POLL_MS, reconcile_duty,
	"reconcile_workers", dw_reconcile_openings, NULL, "reconcile_nice"},
	{DW_ROLE_NONE, "failed keys", DW_PHASE_SHADOW, DW_PHASE_CUTOVER, POLL_MS, dw_outlived_step, NULL, NULL, NULL, NULL},
	{DW_ROLE_NONE, "lookups", DW_PHASE_SHADOW, DW_PHASE_CUTOVER, POLL_MS, dw_recheck_step, NULL, NULL, NULL, NULL},
	{DW_ROLE_NONE, "constraints", DW_PHASE_SHADOW, DW_PHASE_CUTOVER, POLL_MS, dw_enforce_step, NULL, NULL, NULL, NULL},
	{DW_ROLE_NONE, "alerts", DW_PHASE_SHADOW, DW_PHASE_CUTOVER, POLL_MS, dw_alerts_step, NULL, NULL, NULL, NULL},
	{DW_ROLE_NONE, "shadow reads", DW_PHASE_VERIFY, DW_PHASE_CUTOVER, POLL_MS, dw_shadow_step, NULL, NULL, NULL, NULL},
	{DW_ROLE_NONE, "housekeeping", DW_PHASE_SHADOW, DW_PHASE_CUTOVER, HOUSEKEEPING_MS, housekeeping_duty, NULL, NULL, NULL, NULL},
};

static DwDutyState states[lengthof(duties)];
static DwPost my_post;
static bool set_apart;			/* helpers do the part that several processes may share; the first process leaves it to them */
static MemoryContext step_context = NULL;	/* reset before each step */

static TimestampTz
in_ms(long ms)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

static bool
i_help(void)
{
	return my_post.helps != DW_ROLE_NONE;
}

void
dw_turn_begin(void)
{
	if (step_context == NULL)
		step_context = AllocSetContextCreate(TopMemoryContext, "dualwrite worker step", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(step_context);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(step_context);
}

void
dw_turn_end(void)
{
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(step_context);
	pgstat_report_stat(false);
}

bool
dw_extension_exists(void)
{
	return OidIsValid(get_namespace_oid("_dualwrite", true));
}

/* Is there history of this migration to be copied? */
static bool
copy_is_pending(int32 migration_id)
{
	DwSql		sql;
	bool		pending;

	dw_sql_begin(&sql);
	pending = dw_sql("SELECT FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id OPERATOR(pg_catalog.=) b.mapping_id "
					 "WHERE m.migration_id OPERATOR(pg_catalog.=) $1 AND b.finished_at IS NULL LIMIT 1",
					 1, (DwArg[]) {DW_INT4(migration_id)}) > 0;
	dw_sql_end(&sql);
	return pending;
}

/*
 * An altered mapping has been gone through again: unmapped updates may be skipped again.  In phase backfill it is the
 * step to verify that says so.  From the alteration on every writer mirrored what he wrote, and a backend that learns of
 * this late only writes more than it must; but neither another alteration nor a change of phase may come in between,
 * hence the lock and the second look.
 */
static void
note_filled(int32 migration_id)
{
	DwMigration *migration = dw_migration_by_id(migration_id, true);
	DwSql		sql;

	if (migration == NULL || migration->filled || migration->phase <= DW_PHASE_BACKFILL || copy_is_pending(migration_id))
		return;
	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.migration SET filled = true WHERE id OPERATOR(pg_catalog.=) $1",
				  1, (DwArg[]) {DW_INT4(migration_id)});
	dw_sql_end(&sql);
	dw_mapping_invalidate(migration_id);
}

/*
 * Adapts the backfill's pause between batches to what the other duties say.  Above its own phase there is something to
 * copy only after alter_mapping.
 */
static DwStep
backfill_duty(const DwMigration *migration, TimestampTz *next_due)
{
	long		delay_ms = 0;
	DwStep		step;

	if (migration->phase > DW_PHASE_BACKFILL)
	{
		if (migration->filled)
			return DW_STEP_IDLE;
		if (!copy_is_pending(migration->id))
		{
			note_filled(migration->id);
			return DW_STEP_DONE;
		}
	}
	step = dw_backfill_step(migration, &delay_ms);
	if (delay_ms > 0)
		*next_due = in_ms(delay_ms);
	if (step == DW_STEP_DONE && migration->phase > DW_PHASE_BACKFILL)
		return DW_STEP_WORKED;
	return step;
}

/* Rows that an altered mapping has yet to be applied to are not drift: a comparison waits until they have been gone through. */
static DwStep
reconcile_duty(const DwMigration *migration, TimestampTz *next_due)
{
	if (!migration->filled && copy_is_pending(migration->id))
	{
		*next_due = in_ms(HOLD_BACK_MS);
		return DW_STEP_IDLE;
	}
	return dw_reconcile_step(migration,
							 !set_apart ? DW_RECONCILE_ALL : i_help() ? DW_RECONCILE_RANGES : DW_RECONCILE_REST, next_due);
}

/*
 * Old entries of the audit: this migration's, and those of migrations that are no more, by the server-wide setting.  Some
 * at a time: the next hour is early enough for the rest.
 */
static void
remove_old_events(const DwMigration *migration)
{
	int64		own_ms = dw_setting_int(migration->id, "events_retention");
	int64		server_ms = dw_setting_int(0, "events_retention");
	TimestampTz now = GetCurrentTimestamp();
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.event WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY("
				  "SELECT e.id FROM _dualwrite.event e WHERE "
				  "(e.migration OPERATOR(pg_catalog.=) $1 AND e.occurred_at OPERATOR(pg_catalog.<) $2) OR "
				  "(e.occurred_at OPERATOR(pg_catalog.<) $3 AND NOT EXISTS "
				  "(SELECT FROM _dualwrite.migration m WHERE m.name OPERATOR(pg_catalog.=) e.migration)) "
				  "ORDER BY e.id LIMIT 10000))",
				  3, (DwArg[]) {DW_TEXT(migration->name),
								DW_TIME(own_ms > 0 ? now - own_ms * 1000 : DT_NOBEGIN),
								DW_TIME(server_ms > 0 ? now - server_ms * 1000 : DT_NOBEGIN)});
	dw_sql_end(&sql);
}

/* What has been kept for as long as it was to be.  A repair of a million keys leaves a million rows, which go step by step. */
static DwStep
housekeeping_duty(const DwMigration *migration, TimestampTz *next_due)
{
	int64		drift_ms = dw_setting_int(migration->id, "drift_retention");

	(void) next_due;
	remove_old_events(migration);
	if (drift_ms > 0 && dw_drift_expire(migration->id, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -drift_ms)))
		return DW_STEP_WORKED;
	return DW_STEP_IDLE;
}

/* Note when a duty is due again after a step; next_due is 0 or DT_NOEND where the step did not say. */
static void
note_step(const DwDuty *duty, DwDutyState *state, DwStep step, TimestampTz next_due)
{
	bool		said = next_due != 0 && next_due != DT_NOEND;

	switch (step)
	{
		case DW_STEP_WORKED:
			state->due = said ? next_due : 0;
			state->holding_back = said;
			state->activity = DW_ACTIVITY_RUNNING;
			break;
		case DW_STEP_WAIT:
			state->due = said ? next_due : in_ms(HOLD_BACK_MS);
			state->holding_back = true;
			state->activity = DW_ACTIVITY_THROTTLED;
			break;
		case DW_STEP_BESIDE:
			state->due = said ? next_due : in_ms(HOLD_BACK_MS);
			state->holding_back = false;
			state->activity = DW_ACTIVITY_WAITING;
			break;
		case DW_STEP_IDLE:
		case DW_STEP_DONE:
			state->due = in_ms(duty->poll_ms);
			if (said && next_due < state->due)
				state->due = next_due;
			state->holding_back = false;
			state->activity = DW_ACTIVITY_WAITING;
			break;
	}
}

/* pg_stat_activity shows whose worker this is. */
static void
show_name(const char *migration)
{
	char	   *name = psprintf("dualwrite: %s", migration);

	if (application_name == NULL || strncmp(application_name, name, NAMEDATALEN - 1) != 0)
		SetConfigOption("application_name", name, PGC_USERSET, PGC_S_OVERRIDE);
	pfree(name);
}

/* Some helpers cannot be started: say so, once for as long as that is so.  The first process then does what they would have. */
static void
tell_lacking(const DwDuty *duty, DwDutyState *state, const DwMigration *migration, int lacking, bool apart)
{
	int			wanted = apart ? state->helpers : state->helpers + 1;

	/* one that is being tried again is not lacking at this moment */
	if (lacking <= state->lacking)
		return;
	state->lacking = lacking;
	if (wanted == 1)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("%s of migration \"%s\" goes on with %d of %d processes: no more are free",
					duty->name, migration->name, Max(wanted - lacking, 1), wanted),
			 errhint("Raise max_worker_processes or dualwrite.max_workers, or lower %s.", duty->workers)));
}

/* Are all who share the duty helpers, of low priority? */
static bool
is_apart(const DwDuty *duty, const DwMigration *migration)
{
	return duty->nice != NULL && dw_setting_int(migration->id, duty->nice) > 0;
}

/* How many helpers the duty may have beside, or instead of, the first process. */
static int
helpers_allowed(const DwDuty *duty, const DwMigration *migration)
{
	if (duty->outside != NULL)
		return 1;
	return (int) dw_setting_int(migration->id, duty->workers) - (is_apart(duty, migration) ? 0 : 1);
}

/*
 * See to it that the duty has as many helpers as are wanted and could find something to do: looked at when something
 * changes, and every now and then, as one may have left; where the first process waits for helpers, at every step.
 * migration NULL: there is nothing to do.
 */
static void
staff_duty(const DwDuty *duty, DwDutyState *state, const DwMigration *migration)
{
	bool		apart = false;
	int			helpers = 0;
	int			lacking;

	if (i_help())
		return;
	set_apart = false;
	if (duty->openings == NULL || (migration == NULL && state->helpers == 0))
		return;
	if (migration != NULL)
	{
		int			wanted = 1 + helpers_allowed(duty, migration);

		apart = is_apart(duty, migration);
		if (!apart && wanted == state->wanted &&
			TimestampTzPlusMilliseconds(state->asked_at, HOLD_BACK_MS) > GetCurrentTimestamp())
			return;
		if (wanted > 1 && !dw_shared()->crowded)
			helpers = Max(Min(wanted - 1, duty->openings(migration) - (apart || duty->outside != NULL ? 0 : 1)), 0);
		state->wanted = wanted;
	}
	state->asked_at = GetCurrentTimestamp();
	state->helpers = helpers;
	lacking = dw_slots_help(dw_shared(), my_post.migration_id, duty->role, helpers);
	set_apart = apart && helpers > lacking;
	if (helpers == 0 || duty->outside != NULL)
		state->lacking = lacking;	/* without a helper this process does it all */
	else
		tell_lacking(duty, state, migration, lacking, apart);
}

/* Is this helper still wanted, and can it stand where it should among the processes of the machine? */
static bool
am_wanted(const DwDuty *duty, const DwMigration *migration)
{
	set_apart = is_apart(duty, migration);
	if (my_post.number > helpers_allowed(duty, migration))
		return false;
	return duty->nice == NULL || dw_priority_lower((int) dw_setting_int(migration->id, duty->nice));
}

/* Outside of these phases there is none but indexes that are owed. */
static bool
has_work(const DwMigration *migration)
{
	DwIndexesOwed owed;

	return (migration->phase > DW_PHASE_DEFINED && migration->phase < DW_PHASE_COMPLETE) || dw_indexes_owed(migration->id, &owed);
}

/* Of this migration, has anybody something to do, and this duty in particular? */
static DwTurn
judge(const DwMigration *migration, const DwDuty *duty, bool *wanted)
{
	*wanted = false;
	if (migration == NULL || !has_work(migration))
		return DW_TURN_FINISHED;
	show_name(migration->name);
	if (migration->paused || migration->restored)
		return i_help() ? DW_TURN_FINISHED : DW_TURN_PAUSED;
	*wanted = migration->phase >= duty->first && migration->phase <= duty->last;
	if (i_help() && (!*wanted || !am_wanted(duty, migration)))
		return DW_TURN_FINISHED;
	return DW_TURN_GOES_ON;
}

/* Is there more to do behind this step, if not at once? */
static bool
is_under_way(DwStep step)
{
	return step == DW_STEP_WORKED || step == DW_STEP_WAIT || step == DW_STEP_BESIDE;
}

/* One step of a duty in a transaction. */
static DwTurn
do_step(int32 migration_id, const DwDuty *duty, DwDutyState *state)
{
	DwMigration *migration = NULL;
	DwTurn		turn;
	DwStep		step = DW_STEP_IDLE;
	TimestampTz next_due = 0;
	bool		wanted;
	bool		left;			/* to a helper */

	dw_turn_begin();
	if (dw_extension_exists())
		migration = dw_migration_by_id(migration_id, false);
	turn = judge(migration, duty, &wanted);
	if (turn == DW_TURN_GOES_ON)
		staff_duty(duty, state, wanted ? migration : NULL);
	left = duty->outside != NULL && !i_help() && state->helpers > 0 && state->lacking == 0;
	if (wanted && turn == DW_TURN_GOES_ON)
		step = left ? DW_STEP_WAIT : duty->step(migration, &next_due);
	dw_turn_end();
	if (step == DW_STEP_WORKED && duty->outside != NULL)
	{
		dw_slot_show(dw_shared(), duty->role, DW_ACTIVITY_RUNNING);
		step = duty->outside();
	}
	if (turn != DW_TURN_GOES_ON || !is_under_way(step))
		staff_duty(duty, state, NULL);
	if (i_help() && !is_under_way(step))
		turn = DW_TURN_FINISHED;
	note_step(duty, state, step, next_due);
	if (left)
		state->activity = DW_ACTIVITY_WAITING;
	return turn;
}

/* Keep the error of a duty where the view shows it, or (NULL) remove it.  first: it did not fail before. */
static void
record_error(int32 migration_id, const DwDuty *duty, const char *message, bool first)
{
	DwSql		sql;

	dw_turn_begin();
	if (dw_extension_exists())
	{
		DwMigration *migration = dw_migration_by_id(migration_id, false);

		if (first && migration != NULL)
			dw_alert("worker_failed", migration->name, duty->name);
		dw_sql_begin(&sql);
		if (message == NULL)
			(void) dw_sql("DELETE FROM _dualwrite.worker "
						  "WHERE migration_id OPERATOR(pg_catalog.=) $1 AND role OPERATOR(pg_catalog.=) $2",
						  2, (DwArg[]) {DW_INT4(migration_id), DW_TEXT(duty->name)});
		else
			(void) dw_sql("INSERT INTO _dualwrite.worker (migration_id, role, pid, state, last_error, last_error_at) "
						  "SELECT m.id, $2, $3, 'failing', $4, pg_catalog.clock_timestamp() "
						  "FROM _dualwrite.migration m WHERE m.id OPERATOR(pg_catalog.=) $1 "
						  "ON CONFLICT (migration_id, role) DO UPDATE SET pid = excluded.pid, state = excluded.state, "
						  "last_error = excluded.last_error, last_error_at = excluded.last_error_at",
						  4, (DwArg[]) {DW_INT4(migration_id), DW_TEXT(duty->name), DW_INT4(MyProcPid), DW_TEXT(message)});
		dw_sql_end(&sql);
	}
	dw_turn_end();
}

/* End the transaction that has failed.  Returns the error, to be freed by the caller. */
static ErrorData *
clean_up(bool (*silent) (int sqlstate))
{
	ErrorData  *error;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	HOLD_INTERRUPTS();
	if (!silent(error->sqlerrcode))
		EmitErrorReport();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(step_context);
	return error;
}

/* Others were in the way: nothing is wrong, and nobody need read of it. */
static bool
is_contention(int sqlstate)
{
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE || sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED ||
		sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

/* record_error where it must not fail. */
static void
try_record_error(int32 migration_id, const DwDuty *duty, const char *message, bool first)
{
	PG_TRY();
	{
		record_error(migration_id, duty, message, first);
	}
	PG_CATCH();
	{
		FreeErrorData(clean_up(is_contention));
	}
	PG_END_TRY();
}

/* After an error of a duty: end the transaction, tell, and put the duty off. */
static void
handle_error(int32 migration_id, const DwDuty *duty, DwDutyState *state)
{
	ErrorData  *error = clean_up(is_contention);
	bool		contention = is_contention(error->sqlerrcode);

	state->holding_back = true;
	if (contention)
	{
		state->activity = DW_ACTIVITY_THROTTLED;
		state->due = in_ms(HOLD_BACK_MS);
	}
	else
	{
		state->activity = DW_ACTIVITY_BACKING_OFF;
		state->due = in_ms(Min(1000L << Min(state->failures, 6), MAX_BACKOFF_MS));
		/* before the error itself: whoever reads of that finds no worker that seems to be well */
		show_duties(dw_shared(), DW_TURN_GOES_ON);
		try_record_error(migration_id, duty, error->message, state->failures++ == 0);
	}
	FreeErrorData(error);
}

bool
dw_duties_reconfigure(void)
{
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	dw_duties_wake();
	return true;
}

/* A duty for as long as it has work, but not so long that the others starve. */
static DwTurn
do_slice(int32 migration_id, const DwDuty *duty, DwDutyState *state)
{
	TimestampTz end = in_ms(SLICE_MS);
	volatile DwTurn turn = DW_TURN_GOES_ON;

	do
	{
		CHECK_FOR_INTERRUPTS();
		(void) dw_duties_reconfigure();
		PG_TRY();
		{
			turn = do_step(migration_id, duty, state);
			if (turn != DW_TURN_PAUSED && (state->failures > 0 || !(state->cleared || i_help())))
			{
				/* before the error goes: nobody is to find a worker failing, and no reason */
				show_duties(dw_shared(), turn);
				record_error(migration_id, duty, NULL, false);
				state->failures = 0;
				state->cleared = true;
			}
		}
		PG_CATCH();
		{
			handle_error(migration_id, duty, state);
		}
		PG_END_TRY();
	} while (turn == DW_TURN_GOES_ON && state->due == 0 && GetCurrentTimestamp() < end);
	return turn;
}

static bool
is_mine(const DwDuty *duty)
{
	return !i_help() || duty->role == my_post.helps;
}

/*
 * One process has one role and activity to show: the last duty of the table that does anything but wait for work, as
 * the earlier ones come and go in between.
 */
static void
show_duties(DwShared *shared, DwTurn turn)
{
	static DwRole shown_role = DW_ROLE_NONE;
	static DwActivity shown = DW_ACTIVITY_STARTING;
	DwRole		role = turn == DW_TURN_PAUSED ? DW_ROLE_NONE : i_help() ? my_post.helps : duties[0].role;
	DwActivity	activity = turn == DW_TURN_PAUSED ? DW_ACTIVITY_PAUSED : is_mine(&duties[0]) ? states[0].activity : DW_ACTIVITY_WAITING;

	for (int i = 1; i < (int) lengthof(duties) && turn != DW_TURN_PAUSED; i++)
		if (is_mine(&duties[i]) && states[i].activity != DW_ACTIVITY_WAITING && states[i].activity != DW_ACTIVITY_STARTING)
		{
			role = duties[i].role;
			activity = states[i].activity;
		}
	if (role == shown_role && activity == shown)
		return;
	shown_role = role;
	shown = activity;
	dw_slot_show(shared, role, activity);
	pgstat_report_activity(activity == DW_ACTIVITY_RUNNING ? STATE_RUNNING : STATE_IDLE, dw_role_name(role));
}

DwTurn
dw_duties_turn(DwShared *shared, const DwPost *post, TimestampTz *next)
{
	DwTurn		turn = DW_TURN_GOES_ON;

	my_post = *post;
	*next = DT_NOEND;
	for (int i = 0; i < (int) lengthof(duties) && turn == DW_TURN_GOES_ON; i++)
		if (is_mine(&duties[i]) && states[i].due <= GetCurrentTimestamp())
			turn = do_slice(post->migration_id, &duties[i], &states[i]);
	for (int i = 0; i < (int) lengthof(duties); i++)
		if (is_mine(&duties[i]))
			*next = Min(*next, states[i].due);
	if (turn == DW_TURN_PAUSED)
		*next = in_ms(POLL_MS);
	if (turn != DW_TURN_FINISHED)
		show_duties(shared, turn);
	return turn;
}

void
dw_duties_wake(void)
{
	for (int i = 0; i < (int) lengthof(duties); i++)
		if (!states[i].holding_back)
			states[i].due = 0;
}
