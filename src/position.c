/*
 * position.c: a place in the order of a key, as it is stored.
 *
 * Text, because it must outlive a restart of the server, and be read in the same way by every session.
 */
#include "postgres.h"

#include "position.h"
#include "owner.h"

#include "lib/stringinfo.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

static int
enter_text_settings(void)
{
	int			nest = NewGUCNestLevel();

	(void) set_config_option("DateStyle", "ISO, YMD", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("IntervalStyle", "postgres", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("extra_float_digits", "1", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("lc_monetary", "C", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest;
}

Jsonb *
dw_position_write(Oid owner, int ncolumns, const Oid *types, const Datum *values)
{
	DwOwnerScope scope;
	StringInfoData json;
	int			nest;

	initStringInfo(&json);
	dw_owner_enter(&scope, owner, true);
	nest = enter_text_settings();
	for (int i = 0; i < ncolumns; i++)
	{
		Oid			output;
		bool		is_varlena;

		/* of domains what they are over, so that no check of theirs runs when it is read */
		getTypeOutputInfo(getBaseType(types[i]), &output, &is_varlena);
		appendStringInfoString(&json, i == 0 ? "[" : ", ");
		escape_json(&json, OidOutputFunctionCall(output, values[i]));
	}
	appendStringInfoChar(&json, ']');
	AtEOXact_GUC(false, nest);
	dw_owner_leave(&scope);
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

bool
dw_position_read(Oid owner, Jsonb *position, int ncolumns, const Oid *types, Datum *values)
{
	DwOwnerScope scope;
	int			nest;

	if (!JB_ROOT_IS_ARRAY(position) || (int) JB_ROOT_COUNT(position) != ncolumns)
		return false;
	dw_owner_enter(&scope, owner, true);
	nest = enter_text_settings();
	for (int i = 0; i < ncolumns; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&position->root, i);
		Oid			input;
		Oid			io_parameter;

		getTypeInputInfo(getBaseType(types[i]), &input, &io_parameter);
		values[i] = OidInputFunctionCall(input, pnstrdup(value->val.string.val, value->val.string.len), io_parameter, -1);
	}
	AtEOXact_GUC(false, nest);
	dw_owner_leave(&scope);
	return true;
}
