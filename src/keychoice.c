/*
 * keychoice.c: which columns name a row on both sides.
 *
 * A key is a unique index over NOT NULL columns of the new table whose values can be computed from the old row, and from
 * whose values a unique NOT NULL key of the old row can be computed again.  That the two computations undo each other
 * cannot be proved here; preflight tries them on the rows.
 */
#include "postgres.h"

#include "mapping.h"
#include "resolve.h"
#include "tables.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

/* A unique index, or the columns that the user gave. */
typedef struct UniqueKey
{
	char	   *label;			/* for messages */
	List	   *columns;		/* attribute numbers, in the order of the index */
	bool		primary;
	const char *unusable;		/* why it names no row; NULL when it does */
} UniqueKey;

static char *
name_of(Relation rel, AttrNumber attno)
{
	return NameStr(TupleDescAttr(RelationGetDescr(rel), attno - 1)->attname);
}

/* "a, b" */
static char *
column_list(Relation rel, List *columns)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, columns)
		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", quote_identifier(name_of(rel, lfirst_int(lc))));
	return text.data;
}

/* Why a unique index does not name exactly one row for every row, as far as the index says; NULL when it does. */
static const char *
index_problem(HeapTuple tuple, Form_pg_index form)
{
	if (!form->indimmediate)
		return "it is deferrable";
	if (!form->indisvalid || !form->indisready || !form->indislive)
		return "it is not valid";
	if (form->indisexclusion)
		return "it is an exclusion constraint";
	if (!heap_attisnull(tuple, Anum_pg_index_indpred, NULL))
		return "it is partial";
	if (!heap_attisnull(tuple, Anum_pg_index_indexprs, NULL))
		return "it is over an expression";
	return NULL;
}

static UniqueKey *
read_unique_index(Relation rel, Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	UniqueKey  *key = NULL;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	form = (Form_pg_index) GETSTRUCT(tuple);
	if (form->indisunique)
	{
		key = palloc0(sizeof(UniqueKey));
		key->primary = form->indisprimary;
		key->unusable = index_problem(tuple, form);
		for (int i = 0; i < form->indnkeyatts; i++)
		{
			AttrNumber	attno = form->indkey.values[i];

			if (attno <= 0)
				continue;
			key->columns = lappend_int(key->columns, attno);
			if (key->unusable == NULL && !TupleDescAttr(RelationGetDescr(rel), attno - 1)->attnotnull)
				key->unusable = psprintf("column \"%s\" may be NULL", name_of(rel, attno));
		}
		key->label = pstrdup(quote_identifier(get_rel_name(index)));
		if (key->columns != NIL)
			key->label = psprintf("%s (%s)", key->label, column_list(rel, key->columns));
	}
	ReleaseSysCache(tuple);
	return key;
}

/* Unique indexes of a table, the primary key first, the others by OID. */
static List *
unique_keys(Relation rel)
{
	List	   *keys = NIL;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		UniqueKey  *key = read_unique_index(rel, lfirst_oid(lc));

		if (key == NULL)
			continue;
		if (key->primary)
			keys = lcons(key, keys);
		else
			keys = lappend(keys, key);
	}
	return keys;
}

static Bitmapset *
as_set(List *columns)
{
	Bitmapset  *set = NULL;
	ListCell   *lc;

	foreach(lc, columns)
		set = bms_add_member(set, lfirst_int(lc));
	return set;
}

/* Why one direction cannot give this column of a key; NULL when it can. */
static const char *
column_problem(const DwResolved *mapping, DwDirection direction, AttrNumber attno, List *inputs)
{
	Relation	target = direction == DW_FORWARD ? mapping->new_rel : mapping->old_rel;
	DwResolvedColumn *column = dw_resolved_column(mapping, direction, attno);
	const char *name = name_of(target, attno);

	if (column == NULL)
		return direction == DW_FORWARD ? psprintf("column \"%s\" is not mapped", name) :
			psprintf("there is no reverse expression for old column \"%s\"", name);
	if (column->insert_only)
		return psprintf("column \"%s\" is written on insert only", name);
	if (column->expression->has_sublink)
		return psprintf("column \"%s\" comes from a sub-select", name);
	if (!bms_is_subset(column->expression->columns, as_set(inputs)))
		return psprintf("the %s expression for \"%s\" reads columns outside the key of the other side",
						direction == DW_FORWARD ? "forward" : "reverse", name);
	return NULL;
}

/* Why this new key cannot be computed from that old key and back; NULL when it can. */
static const char *
round_trip_problem(const DwResolved *mapping, const UniqueKey *new_key, const UniqueKey *old_key)
{
	bool		only_constants = true;
	ListCell   *lc;

	foreach(lc, new_key->columns)
	{
		const char *problem = column_problem(mapping, DW_FORWARD, lfirst_int(lc), old_key->columns);

		if (problem != NULL)
			return problem;
		only_constants &= dw_resolved_column(mapping, DW_FORWARD, lfirst_int(lc))->expression->is_constant;
	}
	if (only_constants)
		return "all of its columns are constants";
	foreach(lc, old_key->columns)
	{
		const char *problem = column_problem(mapping, DW_REVERSE, lfirst_int(lc), new_key->columns);

		if (problem != NULL)
			return problem;
	}
	return NULL;
}

static List *
names_of(Relation rel, List *columns)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, columns)
		names = lappend(names, pstrdup(name_of(rel, lfirst_int(lc))));
	return names;
}

/* Take this new key if some key of the old table goes with it; otherwise add to the reasons why not. */
static bool
try_key(DwResolved *mapping, const UniqueKey *candidate, List *old_keys, StringInfo reasons)
{
	ListCell   *lc;
	const char *problem = candidate->unusable;

	foreach(lc, old_keys)
	{
		UniqueKey  *old_key = lfirst(lc);

		if (candidate->unusable != NULL)
			break;
		problem = old_key->unusable ? old_key->unusable : round_trip_problem(mapping, candidate, old_key);
		if (problem == NULL)
		{
			mapping->key = names_of(mapping->new_rel, candidate->columns);
			mapping->old_key = names_of(mapping->old_rel, old_key->columns);
			return true;
		}
		appendStringInfo(reasons, "%s%s with old key %s: %s.", reasons->len > 0 ? "\n" : "",
						 candidate->label, old_key->label, problem);
	}
	if (candidate->unusable != NULL)
		appendStringInfo(reasons, "%s%s: %s.", reasons->len > 0 ? "\n" : "", candidate->label, problem);
	return false;
}

/* The user's columns as a list of attribute numbers. */
static List *
columns_given(Relation rel, List *names)
{
	List	   *columns = NIL;
	ListCell   *lc;

	foreach(lc, names)
	{
		AttrNumber	attno = dw_column_number(rel, lfirst(lc));

		if (list_member_int(columns, attno))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("key_columns names column \"%s\" twice", (char *) lfirst(lc)),
					 errhint("Name each column once.")));
		columns = lappend_int(columns, attno);
	}
	return columns;
}

static char *
label_list(List *keys)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, keys)
		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", ((UniqueKey *) lfirst(lc))->label);
	return text.data;
}

/* The unique index of the new table over exactly these columns. */
static UniqueKey *
key_given(Relation rel, List *columns, List *new_keys)
{
	UniqueKey  *found = NULL;
	ListCell   *lc;

	foreach(lc, new_keys)
	{
		UniqueKey  *key = lfirst(lc);

		if (bms_equal(as_set(key->columns), as_set(columns)) && (found == NULL || found->unusable != NULL))
			found = key;
	}
	if (found == NULL || found->unusable != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("key_columns (%s) are no key of table %s", column_list(rel, columns),
						dw_table_name(RelationGetRelid(rel))),
				 found != NULL ? errdetail("Unique index %s: %s.", found->label, found->unusable) :
				 new_keys != NIL ? errdetail("Its unique indexes are %s.", label_list(new_keys)) :
				 errdetail("It has no unique index."),
				 errhint("A key is a unique, immediate index over plain columns that are all NOT NULL.")));
	return found;
}

/* The new column that is plainly this old one; 0 when there is none. */
static AttrNumber
plain_new_column(const DwResolved *mapping, AttrNumber old_column)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwResolvedColumn *column = lfirst(lc);

		if (column->expression->column == old_column && !column->insert_only)
			return column->attno;
	}
	return 0;
}

/* Columns of a foreign table that are plainly those of an old key: one candidate for each old key that has them. */
static List *
keys_of_foreign(const DwResolved *mapping, List *old_keys)
{
	List	   *keys = NIL;
	ListCell   *lc;

	foreach(lc, old_keys)
	{
		UniqueKey  *old_key = lfirst(lc);
		UniqueKey  *key = palloc0(sizeof(UniqueKey));
		ListCell   *column;

		foreach(column, old_key->columns)
			key->columns = lappend_int(key->columns, plain_new_column(mapping, lfirst_int(column)));
		if (key->columns == NIL || list_member_int(key->columns, 0))
			continue;
		key->label = psprintf("(%s)", column_list(mapping->new_rel, key->columns));
		keys = lappend(keys, key);
	}
	return keys;
}

/* Candidates in the order of preference. */
static List *
candidates(const DwResolved *mapping, List *names, List *old_keys)
{
	Relation	rel = mapping->new_rel;
	List	   *columns = columns_given(rel, names);
	UniqueKey  *key;

	if (!dw_is_foreign(RelationGetRelid(rel)))
	{
		List	   *new_keys = unique_keys(rel);

		return columns == NIL ? new_keys : list_make1(key_given(rel, columns, new_keys));
	}
	if (columns == NIL)
		return keys_of_foreign(mapping, old_keys);
	key = palloc0(sizeof(UniqueKey));
	key->columns = columns;
	key->label = psprintf("(%s)", column_list(rel, columns));
	return list_make1(key);
}

static bool
is_key_column(const DwResolved *mapping, const char *name)
{
	ListCell   *lc;

	foreach(lc, mapping->key)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/*
 * Rows of foreign partitions never move to another partition: an UPDATE would change them where they are.  So what says
 * where a row belongs has to be part of its key.
 */
static void
check_foreign_partitioning(const DwResolved *mapping)
{
	Relation	new_rel = mapping->new_rel;
	ListCell   *lc;

	if (new_rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE || !dw_is_foreign(RelationGetRelid(new_rel)))
		return;
	foreach(lc, find_all_inheritors(RelationGetRelid(new_rel), AccessShareLock, NULL))
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);
		PartitionKey key = RelationGetPartitionKey(rel);

		for (int i = 0; key != NULL && i < key->partnatts; i++)
			if (key->partattrs[i] == 0 ||
				!is_key_column(mapping, get_attname(RelationGetRelid(rel), key->partattrs[i], false)))
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("%s has foreign partitions and is not partitioned by columns of the key alone",
								dw_table_name(RelationGetRelid(rel))),
						 errhint("Partition it by columns that are in key_columns, or use one mapping with a filter for each foreign table.")));
		table_close(rel, NoLock);
	}
}

void
dw_resolve_key(DwResolved *mapping, List *names)
{
	List	   *old_keys = unique_keys(mapping->old_rel);
	List	   *new_keys = candidates(mapping, names, old_keys);
	StringInfoData reasons;
	ListCell   *lc;

	initStringInfo(&reasons);
	foreach(lc, new_keys)
		if (try_key(mapping, lfirst(lc), old_keys, &reasons))
		{
			check_foreign_partitioning(mapping);
			return;
		}
	if (old_keys == NIL)
		appendStringInfo(&reasons, "Table %s has no unique index.", dw_table_name(RelationGetRelid(mapping->old_rel)));
	else if (new_keys == NIL && dw_is_foreign(RelationGetRelid(mapping->new_rel)))
		appendStringInfo(&reasons, "Table %s is foreign, and its columns are not plainly those of an old key.",
						 dw_table_name(RelationGetRelid(mapping->new_rel)));
	else if (new_keys == NIL)
		appendStringInfo(&reasons, "Table %s has no unique index.", dw_table_name(RelationGetRelid(mapping->new_rel)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no usable key from table %s to table %s", dw_table_name(RelationGetRelid(mapping->old_rel)),
					dw_table_name(RelationGetRelid(mapping->new_rel))),
			 errdetail_internal("%s", reasons.data),
			 errhint("Both tables need a unique index over NOT NULL columns, each to be computed from the other one's;"
					 " give the missing expressions in forward and reverse, or name the columns in key_columns.")));
}

/* Why the rows of a table that is both sides cannot go by this key; NULL when they can. */
static const char *
problem_in_place(const DwResolved *mapping, const UniqueKey *key, List *items)
{
	ListCell   *lc;

	if (key->unusable != NULL)
		return key->unusable;
	foreach(lc, key->columns)
	{
		const char *name = name_of(mapping->new_rel, lfirst_int(lc));

		if (TupleDescAttr(RelationGetDescr(mapping->new_rel), lfirst_int(lc) - 1)->attgenerated)
			return psprintf("column \"%s\" is generated", name);
		if (dw_item_find(items, name) != NULL)
			return psprintf("column \"%s\" is mapped", name);
	}
	return NULL;
}

void
dw_resolve_key_in_place(DwResolved *mapping, List *names, List *items)
{
	StringInfoData reasons;
	ListCell   *lc;

	initStringInfo(&reasons);
	foreach(lc, candidates(mapping, names, NIL))
	{
		UniqueKey  *key = lfirst(lc);
		const char *problem = problem_in_place(mapping, key, items);

		if (problem == NULL)
		{
			mapping->key = names_of(mapping->new_rel, key->columns);
			mapping->old_key = names_of(mapping->old_rel, key->columns);
			return;
		}
		appendStringInfo(&reasons, "%s%s: %s.", reasons.len > 0 ? "\n" : "", key->label, problem);
	}
	if (reasons.len == 0)
		appendStringInfoString(&reasons, "It has no unique index.");
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no usable key for table %s", dw_table_name(RelationGetRelid(mapping->new_rel))),
			 errdetail_internal("%s", reasons.data),
			 errhint("A mapping in place needs a unique index over NOT NULL columns that it does not write itself.")));
}
