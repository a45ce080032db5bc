/*
 * define.c: SQL functions that define migrations.
 *
 * They check arguments and call one function of declare.c or preview.c each.
 */
#include "postgres.h"

#include "catalog.h"
#include "declare.h"
#include "preview.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/execnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(dw_create_migration_sql);
PG_FUNCTION_INFO_V1(dw_add_mapping_sql);
PG_FUNCTION_INFO_V1(dw_alter_mapping_sql);
PG_FUNCTION_INFO_V1(dw_drop_mapping_sql);
PG_FUNCTION_INFO_V1(dw_drop_migration_sql);
PG_FUNCTION_INFO_V1(dw_preview_sql);

static void
missing(const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s must not be NULL or empty", argument),
			 errhint("Give a value for argument %s.", argument)));
}

/* Argument i as C string; NULL for NULL. */
static char *
text_or_null(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

/* Argument i as C string; ERROR when there is nothing in it. */
static char *
required_text(FunctionCallInfo fcinfo, int i, const char *argument)
{
	char	   *value = text_or_null(fcinfo, i);

	if (value == NULL || *value == '\0')
		missing(argument);
	return value;
}

static Oid
required_table(FunctionCallInfo fcinfo, int i, const char *argument)
{
	if (PG_ARGISNULL(i))
		missing(argument);
	return PG_GETARG_OID(i);
}

static Jsonb *
json_or_null(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : PG_GETARG_JSONB_P(i);
}

/* text[] as list of char *; NIL for NULL. */
static List *
names_or_nil(FunctionCallInfo fcinfo, int i)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *names = NIL;

	if (PG_ARGISNULL(i))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(i), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	if (count == 0)
		missing("key_columns");
	for (int j = 0; j < count; j++)
	{
		if (nulls[j])
			missing("a column of key_columns");
		names = lappend(names, TextDatumGetCString(elements[j]));
	}
	return names;
}

/* Arguments 1 to 7 of create_migration and add_mapping. */
static DwDefinition
get_definition(FunctionCallInfo fcinfo)
{
	return (DwDefinition)
	{
		.old_table = required_table(fcinfo, 1, "old_table"),
			.new_table = required_table(fcinfo, 2, "new_table"),
			.forward = json_or_null(fcinfo, 3),
			.reverse = json_or_null(fcinfo, 4),
			.filter = text_or_null(fcinfo, 5),
			.key_columns = names_or_nil(fcinfo, 6),
			.delivery = required_text(fcinfo, 7, "delivery"),
			.owns = "both"
	};
}

/* Without tables there is nothing that the other arguments could be about. */
static void
check_no_mapping_arguments(FunctionCallInfo fcinfo)
{
	if ((PG_ARGISNULL(3) || JB_ROOT_COUNT(PG_GETARG_JSONB_P(3)) == 0) &&
		(PG_ARGISNULL(4) || JB_ROOT_COUNT(PG_GETARG_JSONB_P(4)) == 0) && PG_ARGISNULL(5) && PG_ARGISNULL(6))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("forward, reverse, filter and key_columns need old_table and new_table"),
			 errhint("Name the tables, or leave the rest to dualwrite.add_mapping.")));
}

Datum
dw_create_migration_sql(PG_FUNCTION_ARGS)
{
	char	   *migration = required_text(fcinfo, 0, "migration");

	if (PG_ARGISNULL(1) && PG_ARGISNULL(2))
	{
		check_no_mapping_arguments(fcinfo);
		dw_declare_migration(migration, NULL);
	}
	else
	{
		DwDefinition definition = get_definition(fcinfo);

		dw_declare_migration(migration, &definition);
	}
	PG_RETURN_VOID();
}

Datum
dw_add_mapping_sql(PG_FUNCTION_ARGS)
{
	char	   *migration = required_text(fcinfo, 0, "migration");
	DwDefinition definition = get_definition(fcinfo);

	definition.owns = required_text(fcinfo, 8, "owns");
	dw_declare_mapping(migration, &definition);
	PG_RETURN_VOID();
}

Datum
dw_alter_mapping_sql(PG_FUNCTION_ARGS)
{
	char	   *migration = required_text(fcinfo, 0, "migration");
	DwDefinition change = {
		.old_table = required_table(fcinfo, 1, "old_table"),
		.new_table = required_table(fcinfo, 2, "new_table"),
		.forward = json_or_null(fcinfo, 3),
		.reverse = json_or_null(fcinfo, 4),
		.filter = text_or_null(fcinfo, 5)
	};

	dw_declare_change(migration, &change);
	PG_RETURN_VOID();
}

Datum
dw_drop_mapping_sql(PG_FUNCTION_ARGS)
{
	dw_declare_drop_mapping(required_text(fcinfo, 0, "migration"), required_table(fcinfo, 1, "old_table"),
							required_table(fcinfo, 2, "new_table"));
	PG_RETURN_VOID();
}

Datum
dw_drop_migration_sql(PG_FUNCTION_ARGS)
{
	dw_declare_drop(required_text(fcinfo, 0, "migration"));
	PG_RETURN_VOID();
}

Datum
dw_preview_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	DwMigration *migration = dw_migration_get(required_text(fcinfo, 0, "migration"), false);

	dw_migration_check_owner(migration);
	if (PG_ARGISNULL(1) || PG_GETARG_INT32(1) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rows must be a number that is not negative"),
				 errhint("Say how many rows of each mapping to show.")));
	InitMaterializedSRF(fcinfo, 0);
	dw_preview(migration, PG_GETARG_INT32(1), result->setResult, result->setDesc);
	return (Datum) 0;
}
