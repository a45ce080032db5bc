/*
 * enforce.c: constraints that the new side should have, on their way there.
 *
 * They are those that a mapping asks for ("not_null"), and those that the new table has, but NOT VALID: CHECK and foreign
 * keys that hold for what is written and may not for what was.  From verify on, when all rows are there, each is
 * looked at; rows that violate one are counted, and some of their keys kept.
 *
 * A constraint that is NOT VALID is enforced already, and validated as soon as that succeeds.  One that is asked for would
 * fail mirrored writes of the old application, so it is not added before read_switch, and never while a row violates it; where it
 * turns out not to hold after all, it is taken back.  Below read_switch nothing of ours is left on the table.  NOT NULL that
 * has been set stays: it is what the user asked for, and the table's own from then on.
 *
 * A failure is not tried again at once: whoever mends rows can ask for another look.
 */
#include "postgres.h"

#include "attempt.h"
#include "constraints.h"
#include "enforce.h"
#include "locks.h"
#include "owner.h"
#include "queue.h"
#include "sql.h"
#include "throttle.h"
#include "worker.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Somebody is in the way, or a signal asks us to wait, ms. */
#define LOCK_PAUSE_MS 10000
#define THROTTLE_PAUSE_MS 1000
#define LAG_PAUSE_MS 2000
/* Another look at rows that are in the way: after a minute, doubled each time, up to an hour. */
#define FIRST_PAUSE_S 60
#define MAX_PAUSE_S 3600

typedef enum Kind
{
	KIND_ASKED_FOR,				/* NOT NULL */
	KIND_NOT_VALID
} Kind;

typedef struct DwConstraint
{
	const DwMapping *mapping;
	Kind		kind;
	AttrNumber	attno;			/* of a column asked for */
	char	   *name;
	char	   *condition;		/* true for rows that violate it */
	char	   *description;
} DwConstraint;

/* One due to be worked on, with what was found at the last look. */
typedef struct Due
{
	DwConstraint *constraint;
	bool		clean;			/* no row violated it then */
	int			failures;
} Due;

/*
 * Constraints of a table that are NOT VALID, ours left out: name, condition for rows that violate it, definition.  A foreign key
 * is violated by a row that has all columns (MATCH FULL: any) and nothing to refer to.
 */
#define NOT_VALID \
	"SELECT c.conname, CASE c.contype WHEN 'c' THEN format('NOT (%s)', pg_get_expr(c.conbin, c.conrelid))" \
	" WHEN 'n' THEN (SELECT format('t.%I IS NULL', a.attname) FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = c.conkey[1])" \
	" ELSE (SELECT format(CASE c.confmatchtype WHEN 'f' THEN 'NOT (%1$s) AND (%2$s OR NOT EXISTS (SELECT FROM %3$s AS r WHERE %4$s))'" \
	" ELSE 'NOT (%2$s) AND NOT EXISTS (SELECT FROM %3$s AS r WHERE %4$s)' END," \
	" string_agg(format('t.%I IS NULL', a.attname), ' AND '), string_agg(format('t.%I IS NULL', a.attname), ' OR ')," \
	" c.confrelid::regclass, string_agg(format('r.%I OPERATOR(%I.%s) t.%I', f.attname, n.nspname, o.oprname, a.attname), ' AND '))" \
	" FROM unnest(c.conkey, c.confkey, c.conpfeqop) AS u (attnum, fattnum, operator)" \
	" JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = u.attnum" \
	" JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = u.fattnum" \
	" JOIN pg_operator o ON o.oid = u.operator JOIN pg_namespace n ON n.oid = o.oprnamespace) END," \
	" pg_get_constraintdef(c.oid) FROM pg_constraint c WHERE c.conrelid = $1 AND c.contype IN ('c', 'f', 'n')" \
	" AND NOT c.convalidated AND c.conname !~ '^dualwrite_not_null_[0-9]+_' ORDER BY c.conname"

static List *
not_valid_constraints(List *list, const DwMapping *mapping)
{
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql(NOT_VALID, 1, (DwArg[]) {DW_OID(mapping->new_table)});
	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(sql.caller);
		DwConstraint *constraint = palloc0(sizeof(DwConstraint));

		constraint->mapping = mapping;
		constraint->kind = KIND_NOT_VALID;
		list = lappend(list, constraint);
		MemoryContextSwitchTo(old);
		constraint->name = dw_sql_cstring(&sql, i, 1);
		constraint->condition = dw_sql_cstring(&sql, i, 2);
		constraint->description = MemoryContextStrdup(sql.caller, psprintf("%s of %s", quote_identifier(constraint->name),
																		  mapping->new_name));
	}
	dw_sql_end(&sql);
	return list;
}

/* Columns that are to be NOT NULL; unless met, only those that are not yet. */
static List *
asked_for(List *list, const DwMapping *mapping, bool met)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwColumn   *column = lfirst(lc);
		AttrNumber	attno = column->not_null ? get_attnum(mapping->new_table, column->name) : InvalidAttrNumber;
		DwConstraint *constraint;
		char	   *helper;

		if (attno == InvalidAttrNumber ||
			(dw_not_null_state(mapping->new_table, attno, &helper) == DW_NOT_NULL_SET && !met))
			continue;
		constraint = palloc0(sizeof(DwConstraint));
		constraint->mapping = mapping;
		constraint->kind = KIND_ASKED_FOR;
		constraint->attno = attno;
		constraint->name = helper;
		constraint->condition = psprintf("t.%s IS NULL", quote_identifier(column->name));
		constraint->description = psprintf("NOT NULL of column %s of %s", quote_identifier(column->name), mapping->new_name);
		list = lappend(list, constraint);
	}
	return list;
}

/* What is not met yet, over all mappings whose new table is there and no foreign one; list of DwConstraint. */
static List *
unmet_constraints(List *mappings)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, mappings)
	{
		DwMapping  *mapping = lfirst(lc);
		char		relkind = get_rel_relkind(mapping->new_table);

		if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
			continue;
		list = asked_for(list, mapping, false);
		list = not_valid_constraints(list, mapping);
	}
	return list;
}

/* What the last look found; false: there was none. */
static bool
last_look(const DwConstraint *constraint, int64 *violations, int *failures, TimestampTz *next_check)
{
	DwSql		sql;
	bool		isnull;
	bool		found;

	*violations = -1;
	*failures = 0;
	*next_check = DT_NOBEGIN;
	dw_sql_begin(&sql);
	found = dw_sql("SELECT coalesce(violations, -1), failures, next_check_at FROM _dualwrite.constraint_check"
				   " WHERE mapping_id = $1 AND constraint_name = $2::name",
				   2, (DwArg[]) {DW_INT4(constraint->mapping->id), DW_TEXT(constraint->name)}) > 0;
	if (found)
	{
		*violations = DatumGetInt64(dw_sql_value(0, 1, &isnull));
		*failures = DatumGetInt32(dw_sql_value(0, 2, &isnull));
		*next_check = DatumGetTimestampTz(dw_sql_value(0, 3, &isnull));
	}
	dw_sql_end(&sql);
	return found;
}

/* The first that is due; else when the next will be. */
static Due *
next_of(List *constraints, TimestampTz *next_due)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, constraints)
	{
		int64		violations;
		int			failures;
		TimestampTz next_check;

		(void) last_look(lfirst(lc), &violations, &failures, &next_check);
		if (next_check <= now)
		{
			Due		   *due = palloc0(sizeof(Due));

			due->constraint = lfirst(lc);
			due->clean = violations == 0;
			due->failures = failures;
			return due;
		}
		*next_due = Min(*next_due, next_check);
	}
	return NULL;
}

static void
record_event(const DwMigration *migration, const DwConstraint *constraint, const char *event, int64 violations)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"table\": ");
	escape_json(&json, constraint->mapping->new_name);
	appendStringInfoString(&json, ", \"constraint\": ");
	escape_json(&json, constraint->description);
	if (violations >= 0)
		appendStringInfo(&json, ", \"violations\": " INT64_FORMAT, violations);
	appendStringInfoChar(&json, '}');
	dw_event_record(migration->name, event, -1, -1, NIL, NULL, json.data);
}

/* Write a look down.  violations < 0: there was none, only message says why. */
static void
write_look(const DwConstraint *constraint, int64 violations, Jsonb *keys, const char *message, int failures, TimestampTz next)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.constraint_check AS k (mapping_id, constraint_name, checked_at, violations, sample_keys,"
				  " message, failures, next_check_at)"
				  " VALUES ($1, $2::name, CASE WHEN $3 THEN clock_timestamp() END, CASE WHEN $3 THEN $4 END, $5, $6, $7, $8)"
				  " ON CONFLICT (mapping_id, constraint_name) DO UPDATE SET checked_at = coalesce(excluded.checked_at, k.checked_at),"
				  " violations = CASE WHEN $3 THEN $4 ELSE k.violations END, sample_keys = CASE WHEN $3 THEN $5 ELSE k.sample_keys END,"
				  " message = excluded.message, failures = excluded.failures, next_check_at = excluded.next_check_at",
				  8, (DwArg[]) {DW_INT4(constraint->mapping->id), DW_TEXT(constraint->name), DW_BOOL(violations >= 0),
				  DW_INT8(violations), DW_JSONB(keys), DW_TEXT(message), DW_INT4(failures), DW_TIME(next)});
	dw_sql_end(&sql);
}

static void
forget_look(const DwConstraint *constraint)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.constraint_check WHERE mapping_id = $1 AND constraint_name = $2::name",
				  2, (DwArg[]) {DW_INT4(constraint->mapping->id), DW_TEXT(constraint->name)});
	dw_sql_end(&sql);
}

static TimestampTz
in_ms(int64 ms)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

/* How long to leave it alone after so many looks in a row that found violations. */
static int64
pause_ms(int failures)
{
	int64		seconds = FIRST_PAUSE_S;

	for (int i = 1; i < failures && seconds < MAX_PAUSE_S; i++)
		seconds *= 2;
	return Min(seconds, MAX_PAUSE_S) * 1000;
}

static bool
keys_are_queued(const DwMigration *migration)
{
	int64		waiting;
	int64		dead;

	dw_queue_counts(migration->id, &waiting, &dead);
	return waiting > 0;
}

/* What is counted in a subtransaction, since it runs code of the owner, and may find the table locked. */
typedef struct Count
{
	const DwConstraint *constraint;
	MemoryContext context;
	int64		violations;
	Jsonb	   *keys;
} Count;

static void
count_violations(void *arg)
{
	Count	   *count = arg;
	const DwMapping *mapping = count->constraint->mapping;
	MemoryContext old = MemoryContextSwitchTo(count->context);

	count->violations = dw_violations(mapping->new_table, count->constraint->condition, mapping->key_columns, &count->keys);
	MemoryContextSwitchTo(old);
}

/* Count, and keep what is found.  message: of a validation that failed, or NULL. */
static void
look_at(const DwMigration *migration, const Due *due, const char *message)
{
	const DwConstraint *constraint = due->constraint;
	Count		count = {constraint, CurrentMemoryContext, 0, NULL};
	DwError		error;
	int64		violations;
	bool		wait;
	bool		lag;
	int			failures;
	TimestampTz next = in_ms(0);

	if (!dw_attempt(count_violations, &count, false, &error))
	{
		bool		locked = dw_error_is_lock(error.sqlstate);

		failures = due->failures + (locked ? 0 : 1);
		write_look(constraint, -1, NULL, error.message, failures, in_ms(locked ? LOCK_PAUSE_MS : pause_ms(failures)));
		return;
	}
	violations = count.violations;
	wait = violations > 0 || message != NULL;
	/* keys that are still to be delivered may be those in the way */
	lag = violations > 0 && keys_are_queued(migration);
	failures = wait && !lag ? due->failures + 1 : 0;

	/* below read_switch there is no more to be done about a column that is clean than to look again some time */
	if (wait)
		next = in_ms(lag ? LAG_PAUSE_MS : pause_ms(failures));
	else if (constraint->kind == KIND_ASKED_FOR && migration->phase < DW_PHASE_READ_SWITCH)
		next = in_ms(MAX_PAUSE_S * 1000);
	write_look(constraint, violations, count.keys, message, failures, next);
	if (violations > 0 && failures == 1)
		record_event(migration, constraint, "constraint_violated", violations);
}

/* What is tried in a subtransaction. */
typedef struct Trial
{
	const DwMigration *migration;
	const DwConstraint *constraint;
	DwNotNull	state;			/* of a column asked for */
} Trial;

/* One attempt at the lock that everybody else would queue behind. */
static void
lock_alone(const Trial *trial)
{
	dw_lock_politely(list_make1_oid(trial->constraint->mapping->new_table), AccessExclusiveLock,
					 dw_lock_budget(trial->migration->id), 1);
}

static void
take_step(void *arg)
{
	Trial	   *trial = arg;
	const DwConstraint *constraint = trial->constraint;
	Oid			table = constraint->mapping->new_table;

	if (constraint->kind == KIND_NOT_VALID || trial->state == DW_NOT_NULL_ADDED)
		dw_constraint_validate(table, constraint->name);
	else
	{
		lock_alone(trial);
		if (trial->state == DW_NOT_NULL_VALIDATED)
			dw_not_null_set(table, constraint->attno);
		else
			dw_not_null_add(table, constraint->attno);
	}
}

/* Columns of a table for which some migration, in the phase that it has now, wants our CHECK; integer list. */
static List *
columns_to_keep(Oid table)
{
	List	   *keep = NIL;
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql("SELECT a.attnum::int FROM _dualwrite.mapping_column c JOIN _dualwrite.mapping p ON p.id = c.mapping_id"
				   " JOIN _dualwrite.migration m ON m.id = p.migration_id JOIN pg_attribute a ON a.attrelid = $1 AND a.attname = c.column_name"
				   " WHERE p.new_table::oid = $1 AND c.direction = 'forward' AND c.not_null AND m.phase IN ('read_switch', 'cutover')",
				   1, (DwArg[]) {DW_OID(table)});
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		int32		attno = DatumGetInt32(dw_sql_value(i, 1, &isnull));
		MemoryContext old = MemoryContextSwitchTo(sql.caller);

		keep = lappend_int(keep, attno);
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return keep;
}

static void
take_back(void *arg)
{
	Trial	   *trial = arg;
	Oid			table = trial->constraint->mapping->new_table;

	lock_alone(trial);
	(void) dw_not_null_retract(table, list_delete_int(columns_to_keep(table), trial->constraint->attno));
}

static void
note_success(const Trial *trial)
{
	const DwConstraint *constraint = trial->constraint;

	if (constraint->kind == KIND_NOT_VALID)
	{
		record_event(trial->migration, constraint, "constraint_validated", -1);
		forget_look(constraint);
	}
	else if (trial->state == DW_NOT_NULL_VALIDATED)
	{
		record_event(trial->migration, constraint, "not_null_set", -1);
		forget_look(constraint);
	}
	else
	{
		if (trial->state == DW_NOT_NULL_ABSENT)
			record_event(trial->migration, constraint, "not_null_added", -1);
		write_look(constraint, -1, NULL, NULL, 0, in_ms(0));
	}
}

/* A lock is tried for again soon; what rows are to blame for, is counted; our own constraint that does not hold goes first. */
static void
note_failure(Trial *trial, const Due *due, const DwError *error)
{
	DwError		second;

	if (dw_error_is_lock(error->sqlstate))
	{
		write_look(trial->constraint, -1, NULL, error->message, due->failures, in_ms(LOCK_PAUSE_MS));
		return;
	}
	if (trial->constraint->kind == KIND_ASKED_FOR && trial->state == DW_NOT_NULL_ADDED &&
		!dw_attempt(take_back, trial, false, &second))
	{
		write_look(trial->constraint, -1, NULL, second.message, due->failures, in_ms(LOCK_PAUSE_MS));
		return;
	}
	look_at(trial->migration, due, error->message);
}

static void
work_on(const DwMigration *migration, const Due *due)
{
	Trial		trial = {migration, due->constraint, DW_NOT_NULL_ABSENT};
	bool		asked = due->constraint->kind == KIND_ASKED_FOR;
	DwError		error;

	if (asked)
		trial.state = dw_not_null_state(due->constraint->mapping->new_table, due->constraint->attno, NULL);
	if (asked && trial.state == DW_NOT_NULL_ABSENT && (!due->clean || migration->phase < DW_PHASE_READ_SWITCH))
		look_at(migration, due, NULL);
	else if (dw_attempt(take_step, &trial, false, &error))
		note_success(&trial);
	else
		note_failure(&trial, due, &error);
}

static void
retract(void *arg)
{
	Oid			table = *(Oid *) arg;

	(void) dw_not_null_retract(table, columns_to_keep(table));
}

/* Our constraints that nobody asks for in this phase any more.  Returns false when one could not be taken away. */
static bool
retract_unasked(List *mappings)
{
	bool		all = true;
	ListCell   *lc;

	foreach(lc, mappings)
	{
		Oid			table = ((DwMapping *) lfirst(lc))->new_table;
		DwError		error;

		if (get_rel_name(table) != NULL && !dw_attempt(retract, &table, false, &error))
			all = false;
	}
	return all;
}

/* Signals that ask us to wait; all that we do is read, or over in a moment. */
static bool
must_wait(const DwMigration *migration, const DwConstraint *constraint)
{
	List	   *relids = list_make2_oid(constraint->mapping->old_table, constraint->mapping->new_table);

	return dw_throttle_signals(migration->id, relids, dw_relation_owner(constraint->mapping->new_table)) != NIL;
}

DwStep
dw_enforce_step(const DwMigration *migration, TimestampTz *next_due)
{
	List	   *mappings = dw_mappings_of(migration->id);
	Due		   *due;

	*next_due = DT_NOEND;
	dw_attempt_settings();
	if (!retract_unasked(mappings))
	{
		*next_due = in_ms(LOCK_PAUSE_MS);
		return DW_STEP_WAIT;
	}
	if (migration->phase < DW_PHASE_VERIFY)
		return DW_STEP_IDLE;
	if (!migration->filled)
	{
		/* an altered mapping has yet to be applied to some rows */
		*next_due = in_ms(THROTTLE_PAUSE_MS);
		return DW_STEP_IDLE;
	}
	due = next_of(unmet_constraints(mappings), next_due);
	if (due == NULL)
		return DW_STEP_IDLE;
	if (must_wait(migration, due->constraint))
	{
		*next_due = in_ms(THROTTLE_PAUSE_MS);
		return DW_STEP_WAIT;
	}
	work_on(migration, due);
	*next_due = 0;
	return DW_STEP_WORKED;
}

/* "NOT NULL of column email of public.people: 3 rows violate it" */
static char *
in_words(const DwConstraint *constraint, int64 violations)
{
	if (violations > 0)
		return psprintf("%s: " INT64_FORMAT " %s", constraint->description, violations,
						violations == 1 ? "row violates it" : "rows violate it");
	return psprintf("%s is %s", constraint->description, violations == 0 ? "on its way" : "not looked at yet");
}

DwEnforced
dw_enforced(const DwMigration *migration)
{
	List	   *mappings = dw_mappings_of(migration->id);
	List	   *asked = NIL;
	DwEnforced	result = {0};
	ListCell   *lc;

	foreach(lc, mappings)
		if (get_rel_name(((DwMapping *) lfirst(lc))->new_table) != NULL)
			asked = asked_for(asked, lfirst(lc), true);
	result.all = list_length(asked);
	foreach(lc, unmet_constraints(mappings))
	{
		DwConstraint *constraint = lfirst(lc);
		int64		violations;
		int			failures;
		TimestampTz next_check;

		(void) last_look(constraint, &violations, &failures, &next_check);
		if (result.example == NULL || (violations > 0 && result.violated == 0))
			result.example = in_words(constraint, violations);
		result.violated += violations > 0;
		result.unmet++;
		result.all += constraint->kind == KIND_NOT_VALID;
	}
	return result;
}

void
dw_enforce_request(const DwMigration *migration)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("UPDATE _dualwrite.constraint_check k SET next_check_at = clock_timestamp(), failures = 0, violations = NULL FROM _dualwrite.mapping m"
				  " WHERE m.id = k.mapping_id AND m.migration_id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
	dw_worker_wake();
}

void
dw_enforce_retract(const DwMigration *migration)
{
	List	   *mappings = dw_mappings_of(migration->id);
	DwSql		sql;
	ListCell   *lc;

	foreach(lc, mappings)
	{
		Oid			table = ((DwMapping *) lfirst(lc))->new_table;

		if (get_rel_name(table) != NULL)
			retract(&table);
	}
	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.constraint_check k USING _dualwrite.mapping m WHERE m.id = k.mapping_id"
				  " AND m.migration_id = $1", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
}
