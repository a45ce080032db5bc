/*
 * shadowread.c: one read made on both sides, and compared.
 *
 * After GitHub's Scientist: the side that is the truth is what the caller gets; the other one is run beside it, in random
 * order, and what it would have answered is compared.  It can do the caller no harm: it runs in a subtransaction that is
 * read-only, always undone, and broken off when its time is over; its errors are recorded, not raised.
 *
 * This must not wait for anybody, nor write where the caller's transaction does not disagree with the other side: it counts in
 * shared memory, and only answers that differ are written down.
 */
#include "postgres.h"

#include "absorb.h"
#include "readside.h"
#include "settings.h"
#include "shadowread.h"
#include "shadowstats.h"
#include "sql.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/varlena.h"

#define OLD DW_SHADOW_OLD
#define NEW DW_SHADOW_NEW

/* A side is slower only where it also took this much longer: less is noise. */
#define SLOWER_BY_US 5000

/* One shadow read under way. */
struct DwShadowRun
{
	const DwShadowRequest *request;
	DwMigration *migration;
	int			truth;			/* OLD or NEW */
	DwAnswer	answers[2];
	DwRules		rules;
	int64		max_ms;
	TimestampTz deadline;
	int64		left_us;		/* of the budget, once the other side has answered */
	DwShadowCounter outcome;
	bool		slower;			/* the other side agreed, but took much longer */
	DwError		error;			/* outcome DW_SHADOW_ERRORS: what it was */
	char	   *rows[2];		/* outcome DW_SHADOW_MISMATCHED: those that differ, as JSON */
};

/* The clock of the other side's budget.  One at a time: a shadow read within the other side's query does not compare. */
static TimeoutId budget_timeout = MAX_TIMEOUTS;
static bool clock_runs = false;
static volatile sig_atomic_t cancelled_by_us = false;
static bool out_of_time = false;

/* In the signal handler: cancel what runs, unless somebody else has done so already, who means the whole statement. */
static void
budget_is_spent(void)
{
	if (QueryCancelPending)
		return;
	cancelled_by_us = true;
	QueryCancelPending = true;
	InterruptPending = true;
}

static void
start_clock(TimestampTz deadline)
{
	if (budget_timeout == MAX_TIMEOUTS)
		budget_timeout = RegisterTimeout(USER_TIMEOUT, budget_is_spent);
	cancelled_by_us = false;
	out_of_time = false;
	clock_runs = true;
	enable_timeout_at(budget_timeout, deadline);
}

/* Our cancel must not hit what comes after. */
static void
stop_clock(void)
{
	disable_timeout(budget_timeout, false);
	clock_runs = false;
	if (cancelled_by_us && QueryCancelPending)
		QueryCancelPending = false;
}

/* Locks are waited for less long than it takes to be found in a deadlock, which would be the caller's error, too. */
static void
limit_lock_waits(int64 max_ms)
{
	int			ms = (int) Max(1, Min(max_ms, DeadlockTimeout / 4));
	char		value[32];

	if (LockTimeout > 0 && LockTimeout <= ms)
		return;
	snprintf(value, sizeof(value), "%dms", ms);
	(void) set_config_option("lock_timeout", value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

static void
run_side(DwShadowRun *run, int side, uint64 limit)
{
	run->request->answer(run->request, side, &run->answers[side], limit);
}

static void
run_other(void *arg)
{
	DwShadowRun *run = arg;

	run_side(run, !run->truth, run->rules.limit + 1);
}

static void
compare_answers(void *arg)
{
	DwShadowRun *run = arg;

	run->outcome = dw_answers_agree(&run->answers[OLD], &run->answers[NEW], run->request->desc, &run->rules,
									&run->rows[OLD], &run->rows[NEW]) ?
		DW_SHADOW_AGREED : DW_SHADOW_MISMATCHED;
}

/* Both plans, to be held side by side. */
static void
show_plans(void *arg)
{
	DwShadowRun *run = arg;

	for (int side = OLD; side <= NEW; side++)
		run->answers[side].plan = run->request->plan(run->request, side);
}

/* Work of a subtransaction within the budget: run->work, with nothing that could be written and a clock. */
typedef struct DwBudgeted
{
	DwShadowRun *run;
	void		(*work) (void *arg);
} DwBudgeted;

static void
within_budget(void *arg)
{
	DwBudgeted *budgeted = arg;
	MemoryContext context = CurrentMemoryContext;

	/* both end with the subtransaction */
	XactReadOnly = true;
	limit_lock_waits(budgeted->run->max_ms);
	start_clock(budgeted->run->deadline);
	PG_TRY();
	{
		budgeted->work(budgeted->run);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		stop_clock();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		/* statement_timeout and the like have messages of their own */
		out_of_time = cancelled_by_us && error->sqlerrcode == ERRCODE_QUERY_CANCELED && error->message_id != NULL &&
			strcmp(error->message_id, "canceling statement due to user request") == 0;
		FreeErrorData(error);
		PG_RE_THROW();
	}
	PG_END_TRY();
	stop_clock();
}

/* Temp files beyond temp_file_limit are the query's own fault. */
static bool
absorbs(int sqlstate)
{
	return out_of_time || dw_error_is_absorbable(sqlstate) || sqlstate == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
}

/* false: it failed, or its budget was used up, and the outcome says so. */
static bool
try_within_budget(DwShadowRun *run, void (*work) (void *arg))
{
	DwBudgeted	budgeted = {run, work};

	if (dw_try(within_budget, &budgeted, true, absorbs, &run->error))
	{
		/* a function may have caught our cancel and gone on */
		if (GetCurrentTimestamp() < run->deadline)
			return true;
		run->outcome = DW_SHADOW_SKIPPED;
	}
	else
		run->outcome = out_of_time || run->error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ? DW_SHADOW_SKIPPED : DW_SHADOW_ERRORS;
	return false;
}

/* The other side's turn.  true: it has an answer to compare. */
static bool
try_other(DwShadowRun *run)
{
	instr_time	start;
	instr_time	end;
	bool		answered;

	run->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), run->max_ms);
	INSTR_TIME_SET_CURRENT(start);
	answered = try_within_budget(run, run_other);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	if (!answered)
		run->answers[!run->truth].us = (int64) INSTR_TIME_GET_MICROSEC(end);
	else if (run->answers[!run->truth].count > run->rules.limit)
	{
		run->outcome = DW_SHADOW_SKIPPED;
		answered = false;
	}
	run->left_us = run->deadline - GetCurrentTimestamp();
	return answered;
}

/* Is the side that is not the truth one that would be missed for its slowness? */
static bool
is_slower(const DwShadowRun *run)
{
	double		factor = dw_setting_real(run->migration->id, "shadow_read_slow_factor");
	int64		truth = run->answers[run->truth].us;
	int64		other = run->answers[!run->truth].us;

	return factor > 0 && run->outcome == DW_SHADOW_AGREED && other > truth * factor && other - truth > SLOWER_BY_US;
}

static void
run_both(DwShadowRun *run)
{
	bool		other_first = (pg_prng_uint32(&pg_global_prng_state) & 1) != 0;
	bool		answered = false;
	DwShadowCounter outcome;

	if (other_first)
		answered = try_other(run);
	run_side(run, run->truth, 0);
	if (!other_first)
		answered = try_other(run);
	if (!answered)
		return;
	/* what is left of the other side's time is for comparing */
	run->deadline = GetCurrentTimestamp() + run->left_us;
	if (!try_within_budget(run, compare_answers))
		return;
	outcome = run->outcome;
	run->slower = is_slower(run);
	if (run->slower)
		(void) try_within_budget(run, show_plans);
	run->outcome = outcome;
}

static bool
may_select(Oid relid)
{
	if (get_rel_name(relid) == NULL)
		return false;
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT, ACLMASK_ANY) == ACLCHECK_OK;
}

/*
 * Does this caller's opinion count?  Anybody may call, and with any two queries: what strangers compare must not open the
 * gate, nor fill the list.  Whoever reads a table of the side that is the truth is a reader whose reads will move.
 */
static bool
is_reader(const DwShadowRun *run)
{
	ListCell   *lc;

	foreach(lc, dw_mappings_of(run->migration->id))
	{
		DwMapping  *mapping = lfirst(lc);

		if (may_select(run->truth == OLD ? mapping->old_table : mapping->new_table))
			return true;
	}
	return false;
}

static bool
is_switched_off(const DwMigration *migration)
{
	int64		most = dw_setting_int(migration->id, "shadow_read_max_failures");
	DwShadowTotals totals;

	if (most == 0)
		return false;
	dw_shadow_totals(migration, &totals);
	return totals.counters[DW_SHADOW_FAILED_IN_A_ROW] >= most;
}

/*
 * Is the other side to be run?  Not on a standby, which can record nothing; not where one side is not kept up to date; not
 * within another shadow read; and not in a serializable transaction, which reading more could make fail.
 */
static bool
is_to_be_compared(DwShadowRun *run, DwPhase phase)
{
	if (RecoveryInProgress() || clock_runs || IsolationIsSerializable() ||
		phase < DW_PHASE_VERIFY || phase > DW_PHASE_CUTOVER)
		return false;
	run->migration = dw_migration_get(run->request->migration, false);
	/* an older snapshot than the last change of phase says nothing about the phase that there is now */
	return run->migration->phase == phase &&
		(run->request->sampled ||
		 pg_prng_double(&pg_global_prng_state) * 100 < dw_setting_real(run->migration->id, "shadow_read_percent")) &&
		!is_switched_off(run->migration) && is_reader(run);
}

static Datum
text_array(int count, char **values)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	int			lower = 1;

	for (int i = 0; i < count; i++)
	{
		nulls[i] = values[i] == NULL;
		elements[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(values[i]);
	}
	return PointerGetDatum(construct_md_array(elements, nulls, 1, &count, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

static Datum
oid_array(List *oids)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(oids), 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, oids)
		elements[count++] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(elements, count, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

static const char *
kind_of(const DwShadowRun *run)
{
	if (run->outcome == DW_SHADOW_ERRORS)
		return "error";
	return run->slower ? "slower" : "different";
}

/* Write an answer that differs, or an error, down.  In a subtransaction: it is no matter of the caller's if that fails. */
static void
keep(void *arg)
{
	DwShadowRun *run = arg;
	const DwShadowRequest *request = run->request;
	const DwAnswer *old = &run->answers[OLD];
	const DwAnswer *new = &run->answers[NEW];
	bool		failed = run->outcome == DW_SHADOW_ERRORS;
	bool		values = dw_setting_bool(run->migration->id, "drift_values");
	static const char *const modes[] = {"set", "ordered", "scalar"};
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.shadow_mismatch (migration_id, kind, compare, old_query, new_query, args, old_rows,"
				  " new_rows, old_answer, new_answer, sqlstate, message, relations, actor, old_us, new_us, old_buffers, new_buffers,"
				  " old_plan, new_plan)"
				  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::json, $10::json, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
				  20, (DwArg[])
				  {
					  DW_INT4(run->migration->id),
					  DW_TEXT(kind_of(run)),
					  DW_TEXT(modes[run->rules.how]),
					  DW_TEXT(request->queries[OLD]),
					  DW_TEXT(request->queries[NEW]),
					  DW_DATUM(TEXTARRAYOID, values ? text_array(request->nargs, request->args) : (Datum) 0, !values),
					  DW_DATUM(INT8OID, Int64GetDatum((int64) old->count), failed && run->truth == NEW),
					  DW_DATUM(INT8OID, Int64GetDatum((int64) new->count), failed && run->truth == OLD),
					  DW_TEXT(values ? run->rows[OLD] : NULL),
					  DW_TEXT(values ? run->rows[NEW] : NULL),
					  DW_TEXT(failed ? unpack_sql_state(run->error.sqlstate) : NULL),
					  DW_TEXT(failed ? run->error.message : NULL),
					  DW_DATUM(OIDARRAYOID, oid_array(list_union_oid(old->relations, new->relations)), false),
					  DW_TEXT(GetUserNameFromId(sql.saved_user, true)),
					  DW_INT8(old->us), DW_INT8(new->us), DW_INT8(old->buffers), DW_INT8(new->buffers),
					  DW_TEXT(old->plan), DW_TEXT(new->plan)
				  });
	dw_sql_end(&sql);
}

static void
record(DwShadowRun *run)
{
	int64		cost[4] = {run->answers[OLD].us, run->answers[NEW].us, run->answers[OLD].buffers, run->answers[NEW].buffers};
	bool		failure = run->outcome == DW_SHADOW_ERRORS || run->outcome == DW_SHADOW_SKIPPED;
	int64		in_a_row = dw_shadow_count(run->migration, run->outcome, cost, failure);
	int64		most = dw_setting_int(run->migration->id, "shadow_read_max_failures");
	DwError		error;

	/* to the log only: the application has no use for it */
	if (failure && most != 0 && in_a_row == most)
		ereport(LOG,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("shadow reads of migration \"%s\" have switched themselves off", run->migration->name),
				 errdetail("The other side failed " INT64_FORMAT " times in a row, or took more than its budget.", in_a_row),
				 errhint("Read dualwrite.shadow_reads and dualwrite.shadow_read_mismatches, then call dualwrite.reset_shadow_reads.")));
	if ((run->outcome == DW_SHADOW_MISMATCHED || run->outcome == DW_SHADOW_ERRORS || run->slower) && !XactReadOnly &&
		dw_setting_int(run->migration->id, "shadow_read_keep") > 0)
		(void) dw_try(keep, run, false, NULL, &error);
}

/* What counts as the same answer, by the request and by the migration's settings. */
static void
set_rules(DwShadowRun *run)
{
	const DwShadowRequest *request = run->request;
	const char *compare = request->compare;
	char	   *ignored = pstrdup(dw_setting_string(run->migration->id, "shadow_read_ignore"));
	List	   *names;

	if (compare == NULL)
		compare = dw_setting_string(run->migration->id, "shadow_read_compare");
	run->rules.how = dw_compare_from_name(compare);
	run->rules.limit = (uint64) dw_setting_int(run->migration->id, "shadow_read_max_rows");
	if (SplitIdentifierString(ignored, ',', &names))
		dw_rules_ignore(&run->rules, request->desc, names, false);
	dw_rules_ignore(&run->rules, request->desc, request->ignored, true);
	if (request->normalised != NULL)
		dw_rules_normalise(&run->rules, request->desc, request->normalised);
}

/* What is wrong with a request is wrong in every phase. */
static void
check_request(const DwShadowRequest *request)
{
	DwRules		rules = {0};

	if (request->compare != NULL)
		(void) dw_compare_from_name(request->compare);
	dw_rules_ignore(&rules, request->desc, request->ignored, true);
	if (request->normalised != NULL)
		dw_rules_normalise(&rules, request->desc, request->normalised);
}

DwShadowRun *
dw_shadow_begin(const DwShadowRequest *request, int *truth)
{
	DwReads		reads = dw_reads_get(request->migration, (int) strlen(request->migration));
	DwShadowRun *run = palloc0(sizeof(DwShadowRun));

	*truth = DW_TRUTH_DIRECTION(reads.phase) == DW_FORWARD ? OLD : NEW;
	run->request = request;
	run->truth = *truth;
	check_request(request);
	if (!is_to_be_compared(run, reads.phase))
		return NULL;
	set_rules(run);
	run->max_ms = dw_setting_int(run->migration->id, "shadow_read_max_ms");
	return run;
}

void
dw_shadow_run(DwShadowRun *run, Tuplestorestate *truth)
{
	run->answers[run->truth].rows = truth;
	/* made here, so that it belongs to no subtransaction */
	run->answers[!run->truth].rows = tuplestore_begin_heap(true, false, work_mem);
	run_both(run);
	record(run);
	tuplestore_end(run->answers[!run->truth].rows);
}
