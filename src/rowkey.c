/*
 * rowkey.c: the mapping's key of a source row, when the rest of the row cannot be projected.
 *
 * A row whose mapping fails in some column must still be named in the queue.  It runs the key's expressions as the
 * owner of the source, as every projection does, and never writes.
 */
#include "postgres.h"

#include "expression.h"
#include "owner.h"
#include "rowkey.h"

#include "access/table.h"
#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "utils/datum.h"

static const char *
key_expression(const DwMapping *mapping, const char *column)
{
	ListCell   *lc;

	foreach(lc, mapping->columns[DW_FORWARD])
	{
		DwColumn   *candidate = lfirst(lc);

		if (strcmp(candidate->name, column) == 0)
			return candidate->expression;
	}
	elog(ERROR, "key column \"%s\" of %s is not mapped", column, mapping->new_name);
}

static Datum
evaluate(DwFlow *flow, Relation rel, Form_pg_attribute att, ExprContext *econtext, bool *isnull)
{
	const char *text = key_expression(flow->compiled->mapping, NameStr(att->attname));
	DwExpression *parsed = dw_expression_parse(text, rel, NULL, att->atttypid, att->atttypmod, att->attcollation,
											   "key column");
	Expr	   *node = expression_planner((Expr *) dw_expand_virtual_columns(parsed->node, rel));
	Datum		value = ExecEvalExpr(ExecInitExpr(node, NULL), econtext, isnull);

	return *isnull ? (Datum) 0 : datumCopy(value, att->attbyval, att->attlen);
}

bool
dw_row_key(DwFlow *flow, TupleTableSlot *source, DwKey *key)
{
	const DwKeyShape *shape = &flow->compiled->new_key;
	ExprContext *econtext;
	DwOwnerScope scope;
	Relation	rel;
	bool		isnull = false;

	if (flow->direction == DW_REVERSE)
	{
		dw_key_of_new(flow->compiled, source, key);
		return true;
	}
	rel = table_open(flow->source, AccessShareLock);
	econtext = CreateStandaloneExprContext();
	econtext->ecxt_scantuple = source;
	dw_owner_enter(&scope, flow->source_owner, true);
	for (int i = 0; i < shape->ncolumns && !isnull; i++)
		key->values[i] = evaluate(flow, rel, TupleDescAttr(flow->target_desc, shape->columns[i] - 1), econtext, &isnull);
	dw_owner_leave(&scope);
	FreeExprContext(econtext, true);
	table_close(rel, NoLock);
	return !isnull;
}
