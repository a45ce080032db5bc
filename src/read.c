/*
 * read.c: SQL functions for reads.
 *
 * read_side, serves and truth may be called by anybody, for each row, on a standby and in a parallel worker: they must stay
 * cheap and write nothing.
 */
#include "postgres.h"

#include "readside.h"
#include "readview.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(dw_read_side_sql);
PG_FUNCTION_INFO_V1(dw_read_side_bucket_sql);
PG_FUNCTION_INFO_V1(dw_truth_sql);
PG_FUNCTION_INFO_V1(dw_serves_sql);
PG_FUNCTION_INFO_V1(dw_serves_bucket_sql);
PG_FUNCTION_INFO_V1(dw_serves_support_sql);
PG_FUNCTION_INFO_V1(dw_create_read_view_sql);
PG_FUNCTION_INFO_V1(dw_drop_read_view_sql);

static text *
side_text(bool new_side)
{
	return cstring_to_text(new_side ? "new" : "old");
}

static DwReads
reads_of(Datum migration)
{
	text	   *name = DatumGetTextPP(migration);

	return dw_reads_get(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
}

/* ERROR 22023 for a word that is neither side. */
static bool
is_new_side(Datum side)
{
	text	   *word = DatumGetTextPP(side);

	if (VARSIZE_ANY_EXHDR(word) == 3)
	{
		if (memcmp(VARDATA_ANY(word), "new", 3) == 0)
			return true;
		if (memcmp(VARDATA_ANY(word), "old", 3) == 0)
			return false;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("side \"%s\" does not exist", text_to_cstring(word)),
			 errhint("Sides are old and new.")));
}

/* read_side(migration): the side that serves this transaction. */
Datum
dw_read_side_sql(PG_FUNCTION_ARGS)
{
	DwReads		reads;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	reads = reads_of(PG_GETARG_DATUM(0));
	PG_RETURN_TEXT_P(side_text(dw_reads_new_for_transaction(&reads)));
}

/* read_side(migration, bucket): the side that serves this bucket. */
Datum
dw_read_side_bucket_sql(PG_FUNCTION_ARGS)
{
	DwReads		reads;
	uint64		hash;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	reads = reads_of(PG_GETARG_DATUM(0));
	hash = dw_bucket_hash(reads.seed, get_fn_expr_argtype(fcinfo->flinfo, 1),
						  PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	PG_RETURN_TEXT_P(side_text(dw_reads_new(&reads, hash)));
}

/* truth(migration): the side that wins when they disagree. */
Datum
dw_truth_sql(PG_FUNCTION_ARGS)
{
	DwReads		reads = reads_of(PG_GETARG_DATUM(0));

	PG_RETURN_TEXT_P(side_text(DW_TRUTH_DIRECTION(reads.phase) == DW_REVERSE));
}

/* serves(migration, side): does that side serve anything at all?  The one-time filter of read views. */
Datum
dw_serves_sql(PG_FUNCTION_ARGS)
{
	DwReads		reads = reads_of(PG_GETARG_DATUM(0));

	PG_RETURN_BOOL(is_new_side(PG_GETARG_DATUM(1)) ? reads.share > 0 : reads.share < DW_SHARE_ALL);
}

/* serves(migration, side, VARIADIC bucket): does it serve this bucket?  The condition on each row of a read view. */
Datum
dw_serves_bucket_sql(PG_FUNCTION_ARGS)
{
	DwReads		reads;
	bool		new_side;
	uint64		hash;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a bucket cannot be given as VARIADIC array"),
				 errhint("Give its values one by one.")));
	reads = reads_of(PG_GETARG_DATUM(0));
	new_side = is_new_side(PG_GETARG_DATUM(1));
	if (reads.share <= 0 || reads.share >= DW_SHARE_ALL)
		PG_RETURN_BOOL(new_side == (reads.share > 0));
	hash = reads.seed;
	for (int i = 2; i < PG_NARGS(); i++)
		hash = dw_bucket_hash(hash, get_fn_expr_argtype(fcinfo->flinfo, i),
							  PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i), PG_ARGISNULL(i));
	PG_RETURN_BOOL(dw_reads_new(&reads, hash) == new_side);
}

/* Constant text argument of a call, or false. */
static bool
constant_argument(List *args, int i, Datum *value)
{
	Const	   *node = list_nth(args, i);

	if (!IsA(node, Const) || node->constisnull || node->consttype != TEXTOID)
		return false;
	*value = node->constvalue;
	return true;
}

/*
 * What the planner should expect of serves: the share of the buckets, where it would guess a third.  Plans are kept, so
 * this may only steer estimates, never decide anything.
 */
Datum
dw_serves_support_sql(PG_FUNCTION_ARGS)
{
	SupportRequestSelectivity *request = (SupportRequestSelectivity *) PG_GETARG_POINTER(0);
	Datum		migration;
	Datum		side;
	DwReads		reads;

	if (!IsA(request, SupportRequestSelectivity) || request->is_join || !ActiveSnapshotSet() ||
		list_length(request->args) < 3 ||
		!constant_argument(request->args, 0, &migration) || !constant_argument(request->args, 1, &side))
		PG_RETURN_POINTER(NULL);
	reads = reads_of(migration);
	request->selectivity = (double) (is_new_side(side) ? reads.share : DW_SHARE_ALL - reads.share) / DW_SHARE_ALL;
	PG_RETURN_POINTER(request);
}

/* Text argument of a control function, which must not be null. */
static char *
required_text(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name),
				 errhint("Give it a value, or leave it out where it has a default.")));
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

Datum
dw_create_read_view_sql(PG_FUNCTION_ARGS)
{
	char	   *name = required_text(fcinfo, 0, "migration");
	char	   *view = required_text(fcinfo, 1, "view_name");
	char	   *strategy = required_text(fcinfo, 3, "strategy");
	char	   *shape = required_text(fcinfo, 4, "shape");
	DwMigration *migration = dw_migration_get(name, true);

	dw_migration_check_owner(migration);
	PG_RETURN_OID(dw_read_view_create(migration, view, PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2), strategy, shape));
}

Datum
dw_drop_read_view_sql(PG_FUNCTION_ARGS)
{
	dw_read_view_drop(required_text(fcinfo, 0, "view_name"));
	PG_RETURN_VOID();
}
