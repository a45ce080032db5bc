/*
 * sequences.c: keys that both sides may hand out.
 *
 * Columns are tied together when a mapping says that they hold the same integer, directly or through a lossless cast;
 * a table that several mappings share ties more of them into one group (parts of a split, parts of a union).  What
 * was altered is noted in _dualwrite.key_sequence with the increment and the start to go back to.
 *
 * Nothing here may hand out a number itself, or alter anything of a sequence but its increment, its start and its position.
 */
#include "postgres.h"

#include "expression.h"
#include "owner.h"
#include "sequences.h"
#include "sql.h"
#include "tables.h"

#include "access/attnum.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "common/int.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A key column that may draw its values from a sequence. */
typedef struct KeyColumn
{
	Oid			table;
	AttrNumber	attno;
	Oid			sequence;		/* InvalidOid: none */
	bool		is_new;			/* of a new table */
	int			group;			/* columns of one group hold the same numbers */
} KeyColumn;

/* A sequence as it stands. */
typedef struct SequenceState
{
	Oid			relid;
	int64		last;			/* highest number that it has given; one increment below its start when none */
	int64		increment;		/* as the user defined it */
	int64		start;			/* likewise */
	int64		max;			/* of the numbers that it may give */
	bool		usable;			/* ascending, not cyclic */
} SequenceState;

/* What one look at a migration's keys gives. */
typedef struct KeyGroups
{
	List	   *columns;		/* of KeyColumn */
	int			ngroups;
	char	   *unrelated;		/* two sequences of which nobody can say how their numbers relate, or one of a stranger */
} KeyGroups;

#define SEQUENCE_OF_COLUMN \
	"SELECT s.oid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'" \
	" WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1" \
	" AND d.refobjsubid = $2 AND d.deptype = 'i'" \
	" UNION ALL SELECT s.oid FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid" \
	" AND d.refclassid = 'pg_class'::regclass JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'" \
	" WHERE f.adrelid = $1 AND f.adnum = $2 LIMIT 1"

static Oid
sequence_of(Oid table, AttrNumber attno)
{
	bool		isnull;

	if (dw_sql(SEQUENCE_OF_COLUMN, 2, (DwArg[]) {DW_OID(table), DW_INT4(attno)}) == 0)
		return InvalidOid;
	return DatumGetObjectId(dw_sql_value(0, 1, &isnull));
}

/* May the table's owner alter the sequence?  A default may name anybody's.  One that takes turns already has to be given back in any case. */
static bool
is_owners(Oid table, Oid sequence)
{
	return dw_sql("SELECT FROM pg_class s, pg_class t WHERE s.oid = $1 AND t.oid = $2 AND (pg_has_role(t.relowner, s.relowner, 'USAGE')"
				  " OR EXISTS (SELECT FROM _dualwrite.key_sequence k WHERE k.sequence::oid = s.oid))",
				  2, (DwArg[]) {DW_OID(sequence), DW_OID(table)}) > 0;
}

static bool
is_integer(Oid table, AttrNumber attno)
{
	Oid			type = getBaseType(get_atttype(table, attno));

	return type == INT2OID || type == INT4OID || type == INT8OID;
}

static KeyColumn *
column_in(KeyGroups *groups, Oid table, AttrNumber attno)
{
	KeyColumn  *column;
	ListCell   *lc;

	foreach(lc, groups->columns)
	{
		column = lfirst(lc);
		if (column->table == table && column->attno == attno)
			return column;
	}
	column = palloc0(sizeof(KeyColumn));
	column->table = table;
	column->attno = attno;
	column->sequence = sequence_of(table, attno);
	if (OidIsValid(column->sequence) && !is_owners(table, column->sequence))
	{
		groups->unrelated = psprintf("sequence %s, from which column %s of %s draws, belongs to another role",
									 dw_table_name(column->sequence), quote_identifier(get_attname(table, attno, false)),
									 dw_table_name(table));
		column->sequence = InvalidOid;
	}
	column->group = groups->ngroups++;
	groups->columns = lappend(groups->columns, column);
	return column;
}

/* These two hold the same numbers. */
static void
tie(KeyGroups *groups, KeyColumn *a, KeyColumn *b)
{
	int			from = b->group;
	ListCell   *lc;

	foreach(lc, groups->columns)
	{
		KeyColumn  *column = lfirst(lc);

		if (column->group == from)
			column->group = a->group;
	}
}

/* A column whose number is computed from old ones: harmless unless sequences give out both. */
static void
note_computed(KeyGroups *groups, const DwMapping *mapping, AttrNumber attno, const DwExpression *expression,
			  const char *text)
{
	int			member = -1;

	if (sequence_of(mapping->new_table, attno) == InvalidOid)
		return;
	while ((member = bms_next_member(expression->columns, member)) >= 0)
		if (sequence_of(mapping->old_table, (AttrNumber) member) != InvalidOid && groups->unrelated == NULL)
			groups->unrelated = psprintf("%s of %s and %s of %s draw from a sequence each, and %s relates them",
										 quote_identifier(get_attname(mapping->new_table, attno, false)), mapping->new_name,
										 quote_identifier(get_attname(mapping->old_table, (AttrNumber) member, false)),
										 mapping->old_name, text);
}

static bool
is_key_column(const DwMapping *mapping, const char *name)
{
	ListCell   *lc;

	foreach(lc, mapping->key_columns)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* One mapped column: part of the key, or another one that draws from a sequence on the new side (an order's number). */
static void
add_column(KeyGroups *groups, const DwMapping *mapping, Relation old_rel, const DwColumn *column)
{
	AttrNumber	attno = get_attnum(mapping->new_table, column->name);
	DwExpression *expression;

	if (column->is_constant || attno == InvalidAttrNumber ||
		(!is_key_column(mapping, column->name) && sequence_of(mapping->new_table, attno) == InvalidOid))
		return;
	expression = dw_expression_parse(column->expression, old_rel, NULL, InvalidOid, -1, InvalidOid, column->name);
	if (expression->column != 0 && expression->lossless && is_integer(mapping->new_table, attno) &&
		is_integer(mapping->old_table, expression->column))
	{
		KeyColumn  *old_column = column_in(groups, mapping->old_table, expression->column);
		KeyColumn  *new_column = column_in(groups, mapping->new_table, attno);

		new_column->is_new = true;
		tie(groups, old_column, new_column);
	}
	else
		note_computed(groups, mapping, attno, expression, column->expression);
}

/* Within dw_sql_begin: expressions are parsed under its search_path, results live in its memory. */
static KeyGroups *
read_groups(const DwMigration *migration)
{
	KeyGroups  *groups = palloc0(sizeof(KeyGroups));
	ListCell   *lc;
	ListCell   *column;

	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);
		Relation	old_rel;

		if (mapping->old_table == mapping->new_table ||
			get_rel_name(mapping->old_table) == NULL || get_rel_name(mapping->new_table) == NULL)
			continue;
		old_rel = table_open(mapping->old_table, AccessShareLock);
		foreach(column, mapping->columns[DW_FORWARD])
			add_column(groups, mapping, old_rel, lfirst(column));
		table_close(old_rel, NoLock);
	}
	return groups;
}

/* Sequences of one group, those of old tables first as mappings name them; no sequence twice. */
static List *
sequences_in(KeyGroups *groups, int group)
{
	List	   *sequences = NIL;
	ListCell   *lc;

	foreach(lc, groups->columns)
	{
		KeyColumn  *column = lfirst(lc);

		if (column->group == group && OidIsValid(column->sequence))
			sequences = list_append_unique_oid(sequences, column->sequence);
	}
	return sequences;
}

/*
 * The one row of a sequence.  It is read by OID: we are the extension's owner here, and a statement that names the sequence would
 * run what somebody else puts in its place while we wait for its lock.
 */
static int64
read_position(Oid relid, bool *is_called)
{
	Relation	rel = relation_open(relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	bool		isnull;
	int64		last;

	if (rel->rd_rel->relkind != RELKIND_SEQUENCE || !table_scan_getnextslot(scan, ForwardScanDirection, slot))
		elog(ERROR, "could not read sequence %u", relid);
	last = DatumGetInt64(slot_getattr(slot, SEQ_COL_LASTVAL, &isnull));
	*is_called = DatumGetBool(slot_getattr(slot, SEQ_COL_CALLED, &isnull));
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	relation_close(rel, NoLock);
	return last;
}

static SequenceState
state_of(Oid relid)
{
	SequenceState state = {.relid = relid};
	bool		isnull;
	bool		is_called;

	/* the increment and the start that the user gave it, not those of ours */
	if (dw_sql("SELECT coalesce(k.increment, s.seqincrement), s.seqincrement > 0 AND NOT s.seqcycle, s.seqmax, coalesce(k.start_value, s.seqstart)"
			   " FROM pg_sequence s LEFT JOIN _dualwrite.key_sequence k ON k.sequence::oid = s.seqrelid WHERE s.seqrelid = $1",
			   1, (DwArg[]) {DW_OID(relid)}) == 0)
		elog(ERROR, "cache lookup failed for sequence %u", relid);
	state.increment = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	state.usable = DatumGetBool(dw_sql_value(0, 2, &isnull));
	state.max = DatumGetInt64(dw_sql_value(0, 3, &isnull));
	state.start = DatumGetInt64(dw_sql_value(0, 4, &isnull));

	state.last = read_position(relid, &is_called);
	if (!is_called)
		state.last -= state.increment;
	return state;
}

/* Highest value of a column, where an index gives it away; otherwise floor.  Planning calls functions of the table's owner. */
static int64
highest_in(Oid table, AttrNumber attno, int64 floor)
{
	DwOwnerScope scope;
	bool		isnull;
	int64		highest;
	int			rc;

	if (get_rel_relkind(table) == RELKIND_FOREIGN_TABLE ||
		dw_sql("SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam"
			   " WHERE i.indrelid = $1 AND i.indkey[0] = $2 AND i.indisvalid AND i.indpred IS NULL AND a.amname = 'btree'",
			   2, (DwArg[]) {DW_OID(table), DW_INT4(attno)}) == 0)
		return floor;
	dw_owner_enter(&scope, dw_relation_owner(table), true);
	rc = SPI_execute(psprintf("SELECT pg_catalog.max(%s)::pg_catalog.int8 FROM %s",
							  quote_identifier(get_attname(table, attno, false)), dw_table_name(table)), false, 1);
	if (rc != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read the highest key of relation %u", table);
	dw_owner_leave(&scope);
	highest = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	return isnull ? floor : Max(floor, highest);
}

/*
 * The highest key that the group has seen, rounded up to a number that the first sequence would itself have given.
 */
static int64
highest_of(KeyGroups *groups, int group, SequenceState *states, int n)
{
	int64		highest = states[0].last;
	int64		behind;
	ListCell   *lc;

	for (int i = 1; i < n; i++)
		highest = Max(highest, states[i].last);
	foreach(lc, groups->columns)
	{
		KeyColumn  *column = lfirst(lc);

		if (column->group == group)
			highest = highest_in(column->table, column->attno, highest);
	}
	behind = (highest - states[0].last) % states[0].increment;
	return behind == 0 ? highest : highest + states[0].increment - behind;
}

static void
run_ddl(const SequenceState *state, const char *statement)
{
	int			rc = SPI_execute(statement, false, 0);

	if (rc < 0)
		elog(ERROR, "could not alter sequence %u: %s", state->relid, SPI_result_code_string(rc));
}

/*
 * Where a sequence that gives a number, and others in these steps, begins anew: TRUNCATE … RESTART IDENTITY must not bring it to
 * numbers of the other side's.
 */
static int64
start_in_turn(const SequenceState *state, int64 number, int64 by)
{
	int64		ahead;
	int64		start;

	if (pg_sub_s64_overflow(number, state->start, &ahead) ||
		pg_add_s64_overflow(state->start, (ahead % by + by) % by, &start) || start > state->max)
		return state->start;
	return start;
}

/*
 * Let a sequence go on with this many increments after a number, in steps of that many.  One that cannot go so far has given
 * its last number: its next caller is told, and a change of phase, least of all a rollback, does not fail for it.
 */
static void
alter(const SequenceState *state, int64 highest, int64 increment, int ahead, int step)
{
	int64		start;
	int64		by;
	char	   *name = dw_table_name(state->relid);

	if (pg_mul_s64_overflow(increment, ahead, &start) || pg_add_s64_overflow(highest, start, &start) ||
		pg_mul_s64_overflow(increment, step, &by))
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("sequence %s has no numbers left", name),
				 errhint("Map the key to a wider type first.")));
	run_ddl(state, psprintf("ALTER SEQUENCE %s INCREMENT BY " INT64_FORMAT " START WITH " INT64_FORMAT " RESTART WITH " INT64_FORMAT,
							name, by, step > 1 ? start_in_turn(state, start, by) : state->start, Min(start, state->max)));
	/* in the storage that is new in this transaction, so that it is undone with it */
	if (start > state->max)
		dw_sql("SELECT setval($1::regclass, $2)", 2, (DwArg[]) {DW_OID(state->relid), DW_INT8(state->max)});
}

/* States of a group's sequences; false when one cannot be handled (the gate has said so). */
static bool
read_states(List *sequences, SequenceState *states)
{
	int			n = 0;
	ListCell   *lc;

	foreach(lc, sequences)
	{
		states[n] = state_of(lfirst_oid(lc));
		if (!states[n++].usable)
			return false;
	}
	return n > 0;
}

/* What is wrong with a group of several sequences; within dw_sql_begin. */
static char *
problem_of_group(const DwMigration *migration, List *sequences)
{
	ListCell   *lc;

	foreach(lc, sequences)
	{
		Oid			relid = lfirst_oid(lc);

		if (dw_sql("SELECT FROM pg_sequence WHERE seqrelid = $1 AND (seqincrement < 0 OR seqcycle)",
				   1, (DwArg[]) {DW_OID(relid)}) > 0)
			return psprintf("sequence %s counts down or in a cycle", dw_table_name(relid));
		if (dw_sql("SELECT FROM _dualwrite.key_sequence WHERE sequence::oid = $1 AND migration_id <> $2",
				   2, (DwArg[]) {DW_OID(relid), DW_INT4(migration->id)}) > 0)
			return psprintf("sequence %s takes turns in another migration", dw_table_name(relid));
	}
	return NULL;
}

static void
share_group(const DwMigration *migration, KeyGroups *groups, int group, List *sequences)
{
	int			n = list_length(sequences);
	SequenceState *states = palloc(sizeof(SequenceState) * Max(n, 1));
	int64		highest;

	/* the gate has said why, and was waived */
	if (problem_of_group(migration, sequences) != NULL || !read_states(sequences, states))
		return;
	highest = highest_of(groups, group, states, n);
	for (int i = 0; i < n; i++)
	{
		dw_sql("INSERT INTO _dualwrite.key_sequence (sequence, migration_id, increment, start_value)"
			   " VALUES ($1::oid::regclass, $2, $3, $4) ON CONFLICT DO NOTHING",
			   4, (DwArg[]) {DW_OID(states[i].relid), DW_INT4(migration->id), DW_INT8(states[i].increment), DW_INT8(states[i].start)});
		alter(&states[i], highest, states[0].increment, i + 1, n);
	}
}

/* Does a new table draw from it? */
static bool
serves_new_side(KeyGroups *groups, Oid sequence)
{
	ListCell   *lc;

	foreach(lc, groups->columns)
	{
		KeyColumn  *column = lfirst(lc);

		if (column->sequence == sequence && column->is_new)
			return true;
	}
	return false;
}

/* A sequence that stands alone goes on past the highest key; one that is there already stays as it is. */
static void
move_group(KeyGroups *groups, int group, List *sequences)
{
	SequenceState state;
	int64		highest;

	if (!read_states(sequences, &state))
		return;
	highest = highest_of(groups, group, &state, 1);
	if (highest > state.last)
		alter(&state, highest, state.increment, 1, 1);
}

static void
restore_group(KeyGroups *groups, int group, List *sequences)
{
	int			n = list_length(sequences);
	SequenceState *states = palloc(sizeof(SequenceState) * Max(n, 1));
	int64		highest;

	if (!read_states(sequences, states))
		return;
	highest = highest_of(groups, group, states, n);
	for (int i = 0; i < n; i++)
		if (dw_sql("DELETE FROM _dualwrite.key_sequence WHERE sequence::oid = $1",
				   1, (DwArg[]) {DW_OID(states[i].relid)}) > 0)
			alter(&states[i], highest, states[i].increment, 1, 1);
}

typedef enum SequenceChange
{
	SHARE, MOVE, RESTORE
} SequenceChange;

static void
change_sequences(const DwMigration *migration, SequenceChange change)
{
	DwSql		sql;
	KeyGroups  *groups;

	dw_sql_begin(&sql);
	groups = read_groups(migration);
	for (int group = 0; group < groups->ngroups; group++)
	{
		List	   *sequences = sequences_in(groups, group);

		/* the old side's own sequence is right as it is for as long as the old side alone gave out keys */
		if (list_length(sequences) == 1 && (change == RESTORE || serves_new_side(groups, linitial_oid(sequences))))
			move_group(groups, group, sequences);
		else if (list_length(sequences) > 1 && change == SHARE)
			share_group(migration, groups, group, sequences);
		else if (list_length(sequences) > 1 && change == RESTORE)
			restore_group(groups, group, sequences);
	}
	dw_sql_end(&sql);
}

void
dw_sequences_share(const DwMigration *migration)
{
	change_sequences(migration, SHARE);
}

void
dw_sequences_move(const DwMigration *migration)
{
	change_sequences(migration, MOVE);
}

void
dw_sequences_restore(const DwMigration *migration)
{
	change_sequences(migration, RESTORE);
}

List *
dw_sequences_of(const DwMigration *migration)
{
	DwSql		sql;
	KeyGroups  *groups;
	List	   *result = NIL;
	ListCell   *lc;

	dw_sql_begin(&sql);
	groups = read_groups(migration);
	foreach(lc, groups->columns)
	{
		KeyColumn  *column = lfirst(lc);
		MemoryContext old = MemoryContextSwitchTo(sql.caller);

		if (OidIsValid(column->sequence))
			result = list_append_unique_oid(result, column->sequence);
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return result;
}

char *
dw_sequences_problem(const DwMigration *migration)
{
	DwSql		sql;
	KeyGroups  *groups;
	char	   *problem;

	dw_sql_begin(&sql);
	groups = read_groups(migration);
	problem = groups->unrelated;
	for (int group = 0; group < groups->ngroups && problem == NULL; group++)
	{
		List	   *sequences = sequences_in(groups, group);

		if (list_length(sequences) > 1)
			problem = problem_of_group(migration, sequences);
	}
	if (problem != NULL)
		problem = MemoryContextStrdup(sql.caller, problem);
	dw_sql_end(&sql);
	return problem;
}

/* Share of the keys of the old side's type that has to be left. */
#define WANTED_LEFT 0.05

/* Highest number that the type of an integer column can hold. */
static int64
type_limit(const KeyColumn *column)
{
	switch (getBaseType(get_atttype(column->table, column->attno)))
	{
		case INT2OID:
			return PG_INT16_MAX;
		case INT4OID:
			return PG_INT32_MAX;
		default:
			return PG_INT64_MAX;
	}
}

/* Highest key of a group so far, with or without sequences. */
static int64
highest_key(KeyGroups *groups, int group)
{
	int64		highest = 0;
	ListCell   *lc;

	foreach(lc, groups->columns)
	{
		KeyColumn  *column = lfirst(lc);
		SequenceState state;

		if (column->group != group)
			continue;
		highest = highest_in(column->table, column->attno, highest);
		if (!OidIsValid(column->sequence))
			continue;
		state = state_of(column->sequence);
		if (state.usable)
			highest = Max(highest, state.last);
	}
	return highest;
}

/* Of one group: NULL while all is well, or where the new side can hold no more than the old one. */
static char *
shortage_of_group(KeyGroups *groups, int group)
{
	KeyColumn  *narrowest = NULL;
	int64		new_limit = 0;
	int64		limit;
	int64		left;
	ListCell   *lc;

	foreach(lc, groups->columns)
	{
		KeyColumn  *column = lfirst(lc);

		if (column->group != group)
			continue;
		if (column->is_new)
			new_limit = Max(new_limit, type_limit(column));
		else if (narrowest == NULL || type_limit(column) < type_limit(narrowest))
			narrowest = column;
	}
	if (narrowest == NULL || type_limit(narrowest) >= new_limit)
		return NULL;
	limit = type_limit(narrowest);
	left = limit - Min(limit, highest_key(groups, group));
	if ((double) left >= (double) limit * WANTED_LEFT)
		return NULL;
	return psprintf("keys left for column %s of %s: " INT64_FORMAT " of " INT64_FORMAT,
					quote_identifier(get_attname(narrowest->table, narrowest->attno, false)), dw_table_name(narrowest->table),
					left, limit);
}

char *
dw_sequences_shortage(const DwMigration *migration)
{
	DwSql		sql;
	KeyGroups  *groups;
	char	   *shortage = NULL;

	dw_sql_begin(&sql);
	groups = read_groups(migration);
	for (int group = 0; group < groups->ngroups && shortage == NULL; group++)
		shortage = shortage_of_group(groups, group);
	if (shortage != NULL)
		shortage = MemoryContextStrdup(sql.caller, shortage);
	dw_sql_end(&sql);
	return shortage;
}
