/*
 * scope.c: the constants of a mapping, which tell its new rows from those of others.
 *
 * Where several old tables become one new table, each mapping gives its rows constants of its own.  Seen from the new side they are a
 * filter: a row that lacks one is another mapping's, and so is a key.
 */
#include "postgres.h"

#include "scope.h"

#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/typcache.h"

/* A constant of forward: new rows without it belong to another mapping. */
typedef struct ScopeColumn
{
	AttrNumber	column;			/* of the new table */
	Datum		value;
	bool		isnull;
	Oid			collation;
	FmgrInfo	equal;
} ScopeColumn;

struct DwScope
{
	int			ncolumns;
	ScopeColumn columns[FLEXIBLE_ARRAY_MEMBER];
};

static Oid
equality_function(Form_pg_attribute att)
{
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR_FINFO);

	if (!OidIsValid(type->eq_opr_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("constant for column \"%s\" has type %s, which has no equality operator",
						NameStr(att->attname), format_type_be(att->atttypid)),
				 errhint("A constant is the mapping's scope on the new side; use {\"expr\": …, \"on\": \"insert\"} for a mere default.")));
	return type->eq_opr_finfo.fn_oid;
}

DwScope *
dw_scope_add(DwScope *scope, TupleDesc desc, AttrNumber attno, Datum value, bool isnull)
{
	Form_pg_attribute att = TupleDescAttr(desc, attno - 1);
	int			n = scope ? scope->ncolumns : 0;
	Size		size = offsetof(DwScope, columns) + sizeof(ScopeColumn) * (n + 1);
	ScopeColumn *column;

	scope = scope ? repalloc(scope, size) : palloc(size);
	scope->ncolumns = n + 1;
	column = &scope->columns[n];
	column->column = attno;
	column->isnull = isnull;
	column->value = isnull ? (Datum) 0 : datumCopy(value, att->attbyval, att->attlen);
	column->collation = att->attcollation;
	fmgr_info(equality_function(att), &column->equal);
	return scope;
}

static bool
is_equal(const ScopeColumn *column, Datum value)
{
	return DatumGetBool(FunctionCall2Coll(unconstify(FmgrInfo *, &column->equal), column->collation, value, column->value));
}

bool
dw_scope_has_row(const DwScope *scope, TupleTableSlot *row)
{
	for (int i = 0; scope != NULL && i < scope->ncolumns; i++)
	{
		const ScopeColumn *column = &scope->columns[i];
		bool		isnull;
		Datum		value = slot_getattr(row, column->column, &isnull);

		if (isnull != column->isnull || (!isnull && !is_equal(column, value)))
			return false;
	}
	return true;
}

bool
dw_scope_has_key(const DwScope *scope, const DwKeyShape *shape, const DwKey *key)
{
	for (int i = 0; scope != NULL && i < scope->ncolumns; i++)
		for (int k = 0; k < shape->ncolumns; k++)
			if (shape->columns[k] == scope->columns[i].column && !scope->columns[i].isnull &&
				!is_equal(&scope->columns[i], key->values[k]))
				return false;
	return true;
}
