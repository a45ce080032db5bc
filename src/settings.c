/*
 * settings.c: every setting, its default, limits, unit and meaning, in one table.
 *
 * From the table come the GUCs dualwrite.<name> (the server-wide values), the check of what configure() is given, and
 * the view dualwrite.settings.  A migration's own value lies in _dualwrite.setting, as the user wrote it.
 *
 * Nothing here may be asked for a migration's value outside a transaction: that reads a table.
 */
#include "postgres.h"

#include <limits.h>

#include "settings.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/numeric.h"

typedef enum DwSettingKind
{
	DW_KIND_INT,
	DW_KIND_SIZE,				/* plain numbers are kB */
	DW_KIND_REAL,
	DW_KIND_BOOL,
	DW_KIND_ENUM,
	DW_KIND_INTERVAL,
	DW_KIND_STRING
} DwSettingKind;

typedef struct DwSetting
{
	const char *name;
	DwSettingKind kind;
	const char *boot;			/* the built-in default, as a user would write it */
	double		min;			/* numbers only */
	double		max;
	const struct config_enum_entry *options;
	bool		server_only;
	bool		compiled;		/* a compiled mapping holds its value */
	const char *unit;
	const char *meaning;
} DwSetting;

/* What a setting is at the moment, by kind. */
typedef union DwSettingValue
{
	int			integer;		/* int, size, enum */
	double		real;
	bool		boolean;
	char	   *string;			/* interval, string */
} DwSettingValue;

static const struct config_enum_entry mirror_on_error_options[] = {
	{"abort", 0, false},
	{"queue", 1, false},
	{NULL, 0, false}
};

static const struct config_enum_entry backfill_indexes_options[] = {
	{"keep", 0, false},
	{"afterwards", 1, false},
	{NULL, 0, false}
};

static const struct config_enum_entry shadow_read_compare_options[] = {
	{"set", 's', false},
	{"ordered", 'o', false},
	{"scalar", 'v', false},
	{NULL, 0, false}
};

static const struct config_enum_entry read_side_options[] = {
	{"auto", 'a', false},
	{"old", 'o', false},
	{"new", 'n', false},
	{NULL, 0, false}
};

#define NUMBER(low, high)	.min = (low), .max = (high)

static const DwSetting settings[] = {
	{"backfill_max_rows_per_second", DW_KIND_INT, "0", NUMBER(0, INT_MAX), .unit = "rows/s",
	.meaning = "Rows of the old table that the backfill reads in a second, at most; 0 sets no limit."},
	{"backfill_max_mb_per_second", DW_KIND_REAL, "0", NUMBER(0, 1000000), .unit = "MB/s",
	.meaning = "Megabytes in a second, of the old table that the backfill reads and of WAL that it writes, each at most; 0 sets no limit."},
	{"backfill_workers", DW_KIND_INT, "1", NUMBER(1, 32), .unit = "processes",
	.meaning = "Processes that copy history at the same time."},
	{"backfill_batch_ms", DW_KIND_INT, "100", NUMBER(1, 60000), .unit = "ms",
	.meaning = "Time that a batch of the backfill shall take; an application waits for one batch at most."},
	{"backfill_indexes", DW_KIND_ENUM, "keep", .options = backfill_indexes_options,
	.meaning = "Secondary indexes of a new table that is still empty: keep them while rows are copied, or take them away and build them again afterwards, concurrently."},
	{"reconcile_workers", DW_KIND_INT, "1", NUMBER(1, 32), .unit = "processes",
	.meaning = "Processes that compare both sides at the same time."},
	{"reconcile_chunk_ms", DW_KIND_INT, "1000", NUMBER(1, 60000), .unit = "ms",
	.meaning = "Time that a chunk of a background comparison may take, and hold its snapshot."},
	{"reconcile_share", DW_KIND_INT, "25", NUMBER(1, 100), .unit = "percent",
	.meaning = "Share of the time that a background comparison works, all its processes together, while client sessions are at work: it goes in short slices then and rests in between; 100 never rests."},
	{"reconcile_nice", DW_KIND_INT, "19", NUMBER(0, 19), .unit = "nice",
	.meaning = "Nice value of the processes that compare: above 0 they stand behind all others that want a processor, and are processes of their own, taken from max_workers; 0 is as any session."},
	{"throttle_max_replication_lag", DW_KIND_INTERVAL, "10 seconds", .unit = "interval",
	.meaning = "The backfill waits while a standby is this far behind in replay; 0 does not look."},
	{"throttle_max_standby_absence", DW_KIND_INTERVAL, "1 minute", .unit = "interval",
	.meaning = "The backfill waits when WAL has been kept this long for a physical slot that no standby is connected to; 0 does not look."},
	{"throttle_max_slot_retention", DW_KIND_SIZE, "10GB", NUMBER(0, INT_MAX), .unit = "kB",
	.meaning = "The backfill waits while a slot keeps more WAL than this, or more than half of max_slot_wal_keep_size, or was lost; 0 does not look."},
	{"throttle_max_archive_backlog", DW_KIND_INT, "64", NUMBER(0, 1000000), .unit = "files",
	.meaning = "The backfill waits while more WAL files than this wait to be archived, or archiving fails; 0 does not look."},
	{"throttle_max_wal_rate", DW_KIND_SIZE, "0", NUMBER(0, INT_MAX), .unit = "kB/s",
	.meaning = "WAL that the server may write in a second while the backfill goes on; 0 does not look."},
	{"throttle_max_active_per_core", DW_KIND_REAL, "4", NUMBER(0, 10000), .unit = "sessions",
	.meaning = "The backfill and comparisons wait while more sessions than this are active for each processor core; 0 does not look."},
	{"throttle_max_lock_wait", DW_KIND_INTERVAL, "250 ms", .unit = "interval",
	.meaning = "The backfill and comparisons wait while a session at one of the tables has waited this long for a lock; 0 does not look."},
	{"throttle_max_autovacuum", DW_KIND_INTERVAL, "0", .unit = "interval",
	.meaning = "The backfill waits while an autovacuum has been at one of the tables this long, 1 ms being any; 0 does not look."},
	{"throttle_max_xmin_age", DW_KIND_INT, "100000000", NUMBER(0, INT_MAX), .unit = "transactions",
	.meaning = "The backfill waits while this many transactions have begun since the oldest that VACUUM must think of; 0 does not look."},
	{"throttle_query", DW_KIND_STRING, "", .unit = "SQL",
	.meaning = "Query that returns true while the backfill and comparisons shall wait; empty for none."},
	{"mirror_on_error", DW_KIND_ENUM, "abort", .options = mirror_on_error_options, .compiled = true,
	.meaning = "What an old-to-new mirror write that fails does past phase shadow: abort the application's statement, or queue the key."},
	{"shadow_discard", DW_KIND_BOOL, "off", .compiled = true,
	.meaning = "In phase shadow, try each mirror write and undo it: shows what would fail and leaves the new table empty."},
	{"queue_max_attempts", DW_KIND_INT, "10", NUMBER(1, 1000000), .unit = "attempts",
	.meaning = "Attempts after which a queued key becomes a dead letter."},
	{"queue_backoff", DW_KIND_INTERVAL, "1 second", .unit = "interval",
	.meaning = "Time before the second attempt at a queued key; it doubles with each further attempt."},
	{"queue_workers", DW_KIND_INT, "1", NUMBER(1, 32), .unit = "processes",
	.meaning = "Processes that deliver queued keys at the same time, when there are many."},
	{"reconcile_interval", DW_KIND_INTERVAL, "1 hour", .unit = "interval",
	.meaning = "Time from the end of one background comparison to the start of the next; 0 compares only when asked."},
	{"reconcile_full_interval", DW_KIND_INTERVAL, "1 day", .unit = "interval",
	.meaning = "Time for which background comparisons that follow a complete and clean one look only at rows that have changed since; 0 compares all rows each time."},
	{"reconcile_retention", DW_KIND_INTERVAL, "90 days", .unit = "interval",
	.meaning = "Time after which comparisons are removed from dualwrite.drift_history; 0 keeps them for ever."},
	{"reconcile_repair", DW_KIND_BOOL, "off",
	.meaning = "Repair what a background comparison finds, from the side that is the truth."},
	{"drift_values", DW_KIND_BOOL, "on",
	.meaning = "Keep the values of both sides with the drift; off keeps keys and column names only."},
	{"drift_max_keys", DW_KIND_INT, "10000", NUMBER(0, INT_MAX), .unit = "keys",
	.meaning = "Keys of one comparison whose drift is kept with values and columns; all further ones are kept as keys alone."},
	{"drift_retention", DW_KIND_INTERVAL, "90 days", .unit = "interval",
	.meaning = "Time after which keys that were repaired, or agree again, are removed from dualwrite.drift; 0 keeps them for ever."},
	{"drift_alert_rate", DW_KIND_REAL, "0.000001", NUMBER(0, 1), .unit = "share",
	.meaning = "Differing rows, as a share of those compared, above which an alert is sent."},
	{"gate_soak", DW_KIND_INTERVAL, "14 days", .unit = "interval",
	.meaning = "Time that a migration stays in phase cutover before it may be completed."},
	{"gate_shadow_success", DW_KIND_REAL, "1", NUMBER(0, 1), .unit = "share",
	.meaning = "Share of the mirror writes in phase shadow that must have succeeded before the application's writes may depend on them."},
	{"gate_shadow_agreement", DW_KIND_REAL, "0.99999", NUMBER(0, 1), .unit = "share",
	.meaning = "Share of shadow reads that must have agreed before reads may move to the new side."},
	{"gate_shadow_min_reads", DW_KIND_INT, "0", NUMBER(0, INT_MAX), .unit = "reads",
	.meaning = "Shadow reads that must have been made before reads may move to the new side; 0 asks for none."},
	{"shadow_read_percent", DW_KIND_REAL, "100", NUMBER(0, 100), .unit = "percent",
	.meaning = "Share of the calls of shadow_read that run the other side, too, and compare."},
	{"shadow_read_max_ms", DW_KIND_INT, "250", NUMBER(1, 3600000), .unit = "ms",
	.meaning = "Time that a shadow read may take on the other side, comparing included; it is broken off then."},
	{"shadow_read_max_rows", DW_KIND_INT, "10000", NUMBER(1, 10000000), .unit = "rows",
	.meaning = "Rows that a shadow read may take from the other side; it is broken off then."},
	{"shadow_read_compare", DW_KIND_ENUM, "set", .options = shadow_read_compare_options,
	.meaning = "How a shadow read compares where its caller does not say: as a set of rows, ordered, or the one value of one row (scalar)."},
	{"shadow_read_ignore", DW_KIND_STRING, "", .unit = "columns",
	.meaning = "Columns of an answer that shadow reads do not compare, separated by commas: what is allowed to differ, such as updated_at."},
	{"shadow_read_slow_factor", DW_KIND_REAL, "3", NUMBER(0, 1000000), .unit = "times",
	.meaning = "A shadow read that agrees, but takes this many times as long on the side that is not the truth, is kept with both plans; 0 does not look."},
	{"shadow_read_auto_percent", DW_KIND_REAL, "0", NUMBER(0, 100), .unit = "percent",
	.meaning = "Share of the SELECTs that clients send to the old table which are run against the new one, too, and compared; needs the library preloaded."},
	{"shadow_read_keep", DW_KIND_INT, "100", NUMBER(0, 100000), .unit = "reads",
	.meaning = "Shadow reads that did not agree which are kept in dualwrite.shadow_read_mismatches, the last ones."},
	{"shadow_read_max_failures", DW_KIND_INT, "100", NUMBER(0, INT_MAX), .unit = "reads",
	.meaning = "Failures of the other side in a row, by error or over its budget, after which shadow reads leave it alone until reset_shadow_reads; 0 never does."},
	{"cutover_swap_names", DW_KIND_BOOL, "off",
	.meaning = "At cutover the new table takes the old one's name."},
	{"lock_timeout_ms", DW_KIND_INT, "400", NUMBER(1, 3600000), .unit = "ms",
	.meaning = "Time that one attempt of a phase change waits for its table locks, all together, before it lets go and tries again."},
	{"events_retention", DW_KIND_INTERVAL, "1 year", .unit = "interval",
	.meaning = "Time after which entries of dualwrite.events are removed; 0 keeps them for ever."},
	{"max_workers", DW_KIND_INT, "4", NUMBER(1, 64), .server_only = true, .unit = "processes",
	.meaning = "Background processes of dualwrite in the whole server at a time, beside the launcher."},
};

static DwSettingValue values[lengthof(settings)];
static int	read_side = 'a';
static uint32 generation = 0;

/* Time of an interval as interval_in understands it, in ms; false when it is none, is endless or goes backwards. */
static bool
parse_interval(const char *text, int64 *ms)
{
	char		work[256];
	char	   *fields[MAXDATEFIELDS];
	int			types[MAXDATEFIELDS];
	int			nfields;
	int			dtype;
	struct pg_itm_in in;
	int			error;
	double		total;

	if (strlen(text) >= sizeof(work))
		return false;
	memset(&in, 0, sizeof(in));
	error = ParseDateTime(text, work, sizeof(work), fields, types, MAXDATEFIELDS, &nfields);
	if (error == 0)
		error = DecodeInterval(fields, types, nfields, INTERVAL_FULL_RANGE, &dtype, &in);
	if (error == DTERR_BAD_FORMAT)
	{
		strlcpy(work, text, sizeof(work));
		error = DecodeISO8601Interval(work, &dtype, &in);
	}
	if (error != 0 || dtype != DTK_DELTA)
		return false;
	total = ((double) in.tm_year * MONTHS_PER_YEAR + in.tm_mon) * DAYS_PER_MONTH;
	total = (total + in.tm_mday) * (double) (SECS_PER_DAY * 1000) + in.tm_usec / 1000;
	if (total < 0 || total > (double) PG_INT64_MAX / 1000000)
		return false;
	*ms = (int64) total;
	return true;
}

/* Which words a setting takes; there are two or more of them. */
static char *
option_hint(const struct config_enum_entry *options)
{
	StringInfoData hint;

	initStringInfo(&hint);
	for (const struct config_enum_entry *option = options; option->name; option++)
		appendStringInfo(&hint, "%s\"%s\"", option == options ? "It takes " : option[1].name ? ", " : " or ", option->name);
	appendStringInfoChar(&hint, '.');
	return hint.data;
}

/*
 * Parse the text of a value.  On failure returns false and sets *hint to what would be right (palloc'd or constant).
 * Strings and intervals yield the text itself.
 */
static bool
parse_value(const DwSetting *setting, const char *text, DwSettingValue *value, const char **hint)
{
	const char *unit_hint = NULL;
	int64		ms;

	*hint = NULL;
	switch (setting->kind)
	{
		case DW_KIND_INT:
		case DW_KIND_SIZE:
			if (parse_int(text, &value->integer, setting->kind == DW_KIND_SIZE ? GUC_UNIT_KB : 0, &unit_hint) &&
				value->integer >= setting->min && value->integer <= setting->max)
				return true;
			*hint = unit_hint ? _(unit_hint) :
				psprintf("It takes an integer from %.0f to %.0f.", setting->min, setting->max);
			return false;
		case DW_KIND_REAL:
			if (parse_real(text, &value->real, 0, &unit_hint) &&
				value->real >= setting->min && value->real <= setting->max)
				return true;
			*hint = psprintf("It takes a number from %g to %g.", setting->min, setting->max);
			return false;
		case DW_KIND_BOOL:
			*hint = "It takes \"on\" or \"off\".";
			return parse_bool(text, &value->boolean);
		case DW_KIND_ENUM:
			for (const struct config_enum_entry *option = setting->options; option->name; option++)
				if (pg_strcasecmp(text, option->name) == 0)
				{
					value->integer = option->val;
					return true;
				}
			*hint = option_hint(setting->options);
			return false;
		case DW_KIND_INTERVAL:
			value->string = unconstify(char *, text);
			*hint = "It takes an interval that is not negative, such as \"10 seconds\" or \"14 days\".";
			return parse_interval(text, &ms);
		case DW_KIND_STRING:
			value->string = unconstify(char *, text);
			return true;
	}
	return false;
}

static int
find_setting(const char *name)
{
	for (int i = 0; i < (int) lengthof(settings); i++)
		if (strcmp(name, settings[i].name) == 0)
			return i;
	return -1;
}

/* Index of a setting that one of our own modules asks for. */
static int
setting_index(const char *name)
{
	int			i = find_setting(name);

	if (i < 0)
		elog(ERROR, "there is no setting \"%s\"", name);
	return i;
}

/* Names of all settings, for hints. */
static char *
setting_names(void)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < (int) lengthof(settings); i++)
		appendStringInfo(&names, "%s%s", i == 0 ? "" : i == (int) lengthof(settings) - 1 ? " and " : ", ", settings[i].name);
	return names.data;
}

void
dw_setting_check(const char *name, const char *value)
{
	int			i = name ? find_setting(name) : -1;
	DwSettingValue parsed;
	const char *hint;

	if (i < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting \"%s\" does not exist", name ? name : ""),
				 errhint("Settings are %s.", setting_names())));
	if (value != NULL && !parse_value(&settings[i], value, &parsed, &hint))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for setting \"%s\": \"%s\"", name, value),
				 hint ? errhint("%s", hint) : 0));
}

void
dw_setting_check_migration(const char *name, const char *value)
{
	dw_setting_check(name, value);
	if (strcmp(name, "throttle_query") == 0 && value != NULL && value[0] != '\0')
		(void) raw_parser(value, RAW_PARSE_DEFAULT);	/* one that does not even parse would hold the backfill back for ever */
	if (settings[find_setting(name)].server_only)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting \"%s\" cannot be set for one migration", name),
				 errhint("Set dualwrite.%s for the server, in postgresql.conf or with ALTER SYSTEM.", name)));
}

/* The migration's own text for a setting, palloc'd; NULL where it has none. */
static char *
migration_value(int32 migration_id, const char *name)
{
	DwSql		sql;
	char	   *text = NULL;

	if (migration_id <= 0)
		return NULL;
	dw_sql_begin(&sql);
	if (dw_sql("SELECT value FROM _dualwrite.setting WHERE migration_id OPERATOR(pg_catalog.=) $1 AND setting OPERATOR(pg_catalog.=) $2",
			   2, (DwArg[]) {DW_INT4(migration_id), DW_TEXT(name)}) > 0)
		text = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	return text;
}

/* What holds for a migration.  A value of its own that no longer passes the check counts as none. */
static DwSettingValue
effective_value(int32 migration_id, int i)
{
	char	   *text = settings[i].server_only ? NULL : migration_value(migration_id, settings[i].name);
	DwSettingValue value;
	const char *hint;

	if (text != NULL && parse_value(&settings[i], text, &value, &hint))
		return value;
	return values[i];
}

int64
dw_setting_int(int32 migration_id, const char *name)
{
	int			i = setting_index(name);
	DwSettingValue value = effective_value(migration_id, i);
	int64		ms = 0;

	switch (settings[i].kind)
	{
		case DW_KIND_INT:
			return value.integer;
		case DW_KIND_SIZE:
			return (int64) value.integer * 1024;
		case DW_KIND_INTERVAL:
			if (value.string != NULL && parse_interval(value.string, &ms))
				return ms;
			(void) parse_interval(settings[i].boot, &ms);
			return ms;
		default:
			elog(ERROR, "setting \"%s\" is not an integer", name);
	}
}

double
dw_setting_real(int32 migration_id, const char *name)
{
	int			i = setting_index(name);

	if (settings[i].kind != DW_KIND_REAL)
		elog(ERROR, "setting \"%s\" is not a number", name);
	return effective_value(migration_id, i).real;
}

bool
dw_setting_bool(int32 migration_id, const char *name)
{
	int			i = setting_index(name);

	if (settings[i].kind != DW_KIND_BOOL)
		elog(ERROR, "setting \"%s\" is not a boolean", name);
	return effective_value(migration_id, i).boolean;
}

static const char *
option_name(const struct config_enum_entry *options, int value)
{
	while (options->val != value)
		options++;
	return options->name;
}

/* A value in the form in which a user would write it; palloc'd. */
static char *
value_text(const DwSetting *setting, DwSettingValue value)
{
	switch (setting->kind)
	{
		case DW_KIND_INT:
			return psprintf("%d", value.integer);
		case DW_KIND_SIZE:
			if (value.integer != 0 && value.integer % (1024 * 1024) == 0)
				return psprintf("%dGB", value.integer / (1024 * 1024));
			if (value.integer != 0 && value.integer % 1024 == 0)
				return psprintf("%dMB", value.integer / 1024);
			return psprintf(value.integer == 0 ? "%d" : "%dkB", value.integer);
		case DW_KIND_REAL:
			/* as numeric, which never turns to an exponent */
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   DirectFunctionCall1(float8_numeric, Float8GetDatum(value.real))));
		case DW_KIND_BOOL:
			return pstrdup(value.boolean ? "on" : "off");
		case DW_KIND_ENUM:
			return pstrdup(option_name(setting->options, value.integer));
		case DW_KIND_INTERVAL:
		case DW_KIND_STRING:
			break;
	}
	return pstrdup(value.string ? value.string : "");
}

const char *
dw_setting_string(int32 migration_id, const char *name)
{
	int			i = setting_index(name);

	return value_text(&settings[i], effective_value(migration_id, i));
}

int
dw_max_workers(void)
{
	return values[setting_index("max_workers")].integer;
}

bool
dw_setting_describe(int i, DwSettingInfo *info)
{
	if (i < 0 || i >= (int) lengthof(settings))
		return false;
	info->name = settings[i].name;
	info->value = value_text(&settings[i], values[i]);
	info->default_value = settings[i].boot;
	info->unit = settings[i].unit;
	info->meaning = settings[i].meaning;
	return true;
}

char
dw_read_side_override(void)
{
	return (char) read_side;
}

uint32
dw_settings_generation(void)
{
	return generation;
}

static bool
check_interval(char **newval, void **extra, GucSource source)
{
	int64		ms;

	(void) extra;
	(void) source;
	if (*newval != NULL && parse_interval(*newval, &ms))
		return true;
	GUC_check_errdetail("It takes an interval that is not negative, such as \"10 seconds\" or \"14 days\".");
	return false;
}

static void
assign_compiled_bool(bool newval, void *extra)
{
	(void) newval;
	(void) extra;
	generation++;
}

static void
assign_compiled_enum(int newval, void *extra)
{
	(void) newval;
	(void) extra;
	generation++;
}

/* The GUC of one setting. */
static void
define_setting(const DwSetting *setting, DwSettingValue *value)
{
	char	   *name = psprintf("dualwrite.%s", setting->name);
	DwSettingValue boot;
	const char *hint;

	if (!parse_value(setting, setting->boot, &boot, &hint))
		elog(ERROR, "setting \"%s\" has an invalid default", setting->name);
	switch (setting->kind)
	{
		case DW_KIND_INT:
		case DW_KIND_SIZE:
			DefineCustomIntVariable(name, setting->meaning, NULL, &value->integer, boot.integer,
									(int) setting->min, (int) setting->max, PGC_SUSET,
									setting->kind == DW_KIND_SIZE ? GUC_UNIT_KB : 0, NULL, NULL, NULL);
			break;
		case DW_KIND_REAL:
			DefineCustomRealVariable(name, setting->meaning, NULL, &value->real, boot.real,
									 setting->min, setting->max, PGC_SUSET, 0, NULL, NULL, NULL);
			break;
		case DW_KIND_BOOL:
			DefineCustomBoolVariable(name, setting->meaning, NULL, &value->boolean, boot.boolean, PGC_SUSET, 0,
									 NULL, setting->compiled ? assign_compiled_bool : NULL, NULL);
			break;
		case DW_KIND_ENUM:
			DefineCustomEnumVariable(name, setting->meaning, NULL, &value->integer, boot.integer, setting->options,
									 PGC_SUSET, 0, NULL, setting->compiled ? assign_compiled_enum : NULL, NULL);
			break;
		case DW_KIND_INTERVAL:
		case DW_KIND_STRING:
			DefineCustomStringVariable(name, setting->meaning, NULL, &value->string, setting->boot, PGC_SUSET, 0,
									   setting->kind == DW_KIND_INTERVAL ? check_interval : NULL, NULL, NULL);
			break;
	}
	pfree(name);
}

void
dw_settings_init(void)
{
	for (int i = 0; i < (int) lengthof(settings); i++)
		define_setting(&settings[i], &values[i]);
	DefineCustomEnumVariable("dualwrite.read_side",
							 "Side that read_side() and the read views answer from: by the migration's phase, or always the same.",
							 NULL, &read_side, 'a', read_side_options, PGC_USERSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("dualwrite");
}
