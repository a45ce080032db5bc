/*
 * pairing.c: in place, which old and new columns of a table belong together.
 *
 * A mapping in place may move several columns that have nothing to do with each other.  "A write that changes one side wins"
 * must not let a write of one of them overrule another, so columns are put together only where an expression of either
 * direction leads from the one to the other, directly or over further columns.
 *
 * Looks at the definition only; nothing here reads a row.
 */
#include "postgres.h"

#include "expression.h"
#include "owner.h"
#include "pairing.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/lsyscache.h"

/* A target column of either direction while pairs are being formed. */
typedef struct PairColumn
{
	AttrNumber	attno;
	DwDirection direction;
	bool		insert_only;
	Bitmapset  *reads;
	int			pair;			/* columns of one pair have the same number */
} PairColumn;

static bool
is_key(const DwMapping *mapping, const char *name)
{
	ListCell   *lc;

	foreach(lc, mapping->key_columns)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* A generated column stands for the columns from which it is computed. */
static Bitmapset *
without_generated(Relation rel, Bitmapset *columns)
{
	Bitmapset  *result = NULL;
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
	{
		Bitmapset  *behind = NULL;
		int			member = -1;

		if (!TupleDescAttr(RelationGetDescr(rel), attno - 1)->attgenerated)
		{
			result = bms_add_member(result, attno);
			continue;
		}
		pull_varattnos(build_column_default(rel, attno), 1, &behind);
		while ((member = bms_next_member(behind, member)) >= 0)
			result = bms_add_member(result, member + FirstLowInvalidHeapAttributeNumber);
	}
	return result;
}

static List *
columns_of(DwCompiled *compiled, Relation rel)
{
	List	   *columns = NIL;

	for (DwDirection direction = DW_FORWARD; direction <= DW_REVERSE; direction++)
	{
		ListCell   *lc;

		foreach(lc, compiled->mapping->columns[direction])
		{
			DwColumn   *mapped = lfirst(lc);
			PairColumn *column;
			DwExpression *expression;

			if (is_key(compiled->mapping, mapped->name))
				continue;
			column = palloc0(sizeof(PairColumn));
			column->attno = get_attnum(RelationGetRelid(rel), mapped->name);
			column->direction = direction;
			column->insert_only = mapped->insert_only;
			column->pair = list_length(columns);
			expression = dw_expression_parse(mapped->expression, rel, NULL, InvalidOid, -1, InvalidOid, mapped->name);
			column->reads = without_generated(rel, expression->columns);
			columns = lappend(columns, column);
		}
	}
	return columns;
}

/* Put every column with those that it reads; columns of neither side do not tie anything together. */
static void
form_pairs(List *columns)
{
	ListCell   *a;
	ListCell   *b;
	ListCell   *lc;

	foreach(a, columns)
		foreach(b, columns)
		{
			PairColumn *reader = lfirst(a);
			PairColumn *source = lfirst(b);
			int			joined = source->pair;

			if (!bms_is_member(source->attno, reader->reads))
				continue;
			foreach(lc, columns)
				if (((PairColumn *) lfirst(lc))->pair == joined)
					((PairColumn *) lfirst(lc))->pair = reader->pair;
		}
}

static void
add_to_pair(DwPair *pair, const PairColumn *column)
{
	if (column->direction == DW_REVERSE)
	{
		if (column->insert_only)
			pair->old_filled_once = bms_add_member(pair->old_filled_once, column->attno);
		else
			pair->old_columns = bms_add_member(pair->old_columns, column->attno);
		return;
	}
	if (column->insert_only)
		pair->filled_once = bms_add_member(pair->filled_once, column->attno);
	else
		pair->new_columns = bms_add_member(pair->new_columns, column->attno);
	pair->read = bms_add_members(pair->read, column->reads);
}

static void
fill_pairing(DwPairing *pairing, List *columns)
{
	pairing->pairs = palloc0(sizeof(DwPair) * (list_length(columns) + 1));
	for (int number = 0; number < list_length(columns); number++)
	{
		DwPair	   *pair = &pairing->pairs[pairing->npairs];
		bool		any = false;
		ListCell   *lc;

		foreach(lc, columns)
			if (((PairColumn *) lfirst(lc))->pair == number)
			{
				add_to_pair(pair, lfirst(lc));
				any = true;
			}
		pair->read = bms_del_members(pair->read, pair->new_columns);
		pair->read = bms_del_members(pair->read, pair->filled_once);
		pair->read = bms_del_members(pair->read, pair->old_columns);
		pairing->npairs += any;
	}
}

/* What an insert that does not name a column gives it. */
static void
compile_defaults(DwPairing *pairing, Relation rel)
{
	pairing->context = CreateStandaloneExprContext();
	pairing->defaults = palloc0(sizeof(ExprState *) * RelationGetNumberOfAttributes(rel));
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		Node	   *node = att->attisdropped || att->attgenerated ? NULL : build_column_default(rel, i + 1);

		if (node == NULL)
			continue;
		if (contain_volatile_functions(node))
			pairing->erratic = bms_add_member(pairing->erratic, i + 1);
		else
			pairing->defaults[i] = ExecInitExpr(expression_planner((Expr *) node), NULL);
	}
}

static void
note_watched(DwPairing *pairing, int natts)
{
	Bitmapset  *all = NULL;
	int			attno = -1;

	for (int i = 0; i < pairing->npairs; i++)
	{
		DwPair	   *pair = &pairing->pairs[i];

		all = bms_add_members(all, pair->new_columns);
		all = bms_add_members(all, pair->filled_once);
		all = bms_add_members(all, pair->old_columns);
		all = bms_add_members(all, pair->read);
	}
	pairing->watched = palloc(sizeof(AttrNumber) * natts);
	while ((attno = bms_next_member(all, attno)) >= 0)
		pairing->watched[pairing->nwatched++] = pairing->last_watched = (AttrNumber) attno;
	bms_free(all);
}

static DwPairing *
make_pairing(DwCompiled *compiled, Relation rel)
{
	DwPairing  *pairing = palloc0(sizeof(DwPairing));
	DwOwnerScope scope;
	List	   *columns;

	/* as it was compiled: names mean what they meant then */
	dw_owner_enter(&scope, rel->rd_rel->relowner, true);
	columns = columns_of(compiled, rel);
	compile_defaults(pairing, rel);
	dw_owner_leave(&scope);
	form_pairs(columns);
	fill_pairing(pairing, columns);
	note_watched(pairing, RelationGetNumberOfAttributes(rel));
	for (DwDirection direction = DW_FORWARD; direction <= DW_REVERSE; direction++)
		pairing->made[direction] = MakeSingleTupleTableSlot(compiled->flow[direction].target_desc, &TTSOpsVirtual);
	return pairing;
}

const DwPairing *
dw_pairing_of(DwCompiled *compiled)
{
	if (compiled->pairing == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(compiled->context);
		Relation	rel = table_open(compiled->new_key.relid, AccessShareLock);

		compiled->pairing = make_pairing(compiled, rel);
		table_close(rel, NoLock);
		MemoryContextSwitchTo(old);
	}
	return compiled->pairing;
}

Bitmapset *
dw_pairing_unaccounted(DwCompiled *compiled, const Bitmapset *new_differing, const Bitmapset *old_differing)
{
	const DwPairing *pairing = dw_pairing_of(compiled);
	Bitmapset  *result = bms_copy(new_differing);

	for (int i = 0; i < pairing->npairs; i++)
	{
		DwPair	   *pair = &pairing->pairs[i];

		if (pair->old_columns != NULL && !bms_overlap(pair->old_columns, old_differing))
			result = bms_del_members(result, pair->new_columns);
	}
	return bms_is_empty(result) ? NULL : result;
}
