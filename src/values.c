/*
 * values.c: values of rows and keys, compared and shown.
 *
 * What users see of a key or a row is made under fixed settings, so that the same key reads the same in every session.
 */
#include "postgres.h"

#include "mapping.h"
#include "owner.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

/*
 * Same bytes, or equal by the type's own operator: so 0.1 is 0.10 and -0 is 0.  Types with a collation must have the
 * same bytes: under a nondeterministic collation 'a' may equal 'A', and that would be a change lost.
 */
static bool
values_equal(Form_pg_attribute att, Datum a, Datum b)
{
	TypeCacheEntry *type;

	if (datum_image_eq(a, b, att->attbyval, att->attlen))
		return true;
	if (OidIsValid(att->attcollation))
		return false;
	type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR_FINFO);
	if (!OidIsValid(type->eq_opr_finfo.fn_oid))
		return false;
	return DatumGetBool(FunctionCall2(&type->eq_opr_finfo, a, b));
}

Bitmapset *
dw_rows_differ(DwFlow *flow, TupleTableSlot *a, TupleTableSlot *b)
{
	Bitmapset  *differing = NULL;
	int			attno = -1;

	slot_getallattrs(a);
	slot_getallattrs(b);
	while ((attno = bms_next_member(flow->mapped, attno)) >= 0)
	{
		bool		a_null = a->tts_isnull[attno - 1];
		bool		b_null = b->tts_isnull[attno - 1];

		if (a_null && b_null)
			continue;
		if (a_null || b_null ||
			!values_equal(TupleDescAttr(flow->target_desc, attno - 1), a->tts_values[attno - 1], b->tts_values[attno - 1]))
			differing = bms_add_member(differing, attno);
	}
	return differing;
}

void
dw_key_copy(TupleDesc desc, const DwKeyShape *shape, const DwKey *from, DwKey *to)
{
	for (int i = 0; i < shape->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, shape->columns[i] - 1);

		to->values[i] = datumCopy(from->values[i], att->attbyval, att->attlen);
	}
}

/* Is it the same key, as its index sees it? */
static bool
is_same_key(TupleDesc desc, const DwKeyShape *shape, const DwKey *a, const DwKey *b)
{
	for (int i = 0; i < shape->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, shape->columns[i] - 1);
		TypeCacheEntry *type;

		if (datum_image_eq(a->values[i], b->values[i], att->attbyval, att->attlen))
			continue;
		type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR_FINFO);
		if (!OidIsValid(type->eq_opr_finfo.fn_oid) ||
			!DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, att->attcollation, a->values[i], b->values[i])))
			return false;
	}
	return true;
}

void
dw_key_must_return(DwFlow *flow, const DwKey *source_key, const DwKey *target_key)
{
	DwCompiled *compiled = flow->compiled;
	DwKey		back;

	if (dw_key_across(&compiled->flow[1 - flow->direction], target_key, &back) &&
		is_same_key(flow->source_desc, flow->source_key, source_key, &back))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("key of a row of table \"%s\" does not come back from table \"%s\"",
					get_rel_name(flow->source), get_rel_name(flow->target)),
			 errdetail("Its counterpart would be that of another row, or of none."),
			 errhint("Give the row another key, or correct the key's expressions in migration \"%s\".", compiled->migration)));
}

/* Does the text form of a type depend on settings?  Not for these, which most columns are of. */
static bool
depends_on_settings(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case OIDOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case UUIDOID:
		case JSONOID:
		case JSONBOID:
			return false;
		default:
			return true;
	}
}

/* Settings that text forms depend on; returns the nest level for unpin. */
static int
pin_output_settings(void)
{
	int			nest = NewGUCNestLevel();

	dw_pin_formats();
	return nest;
}

/* The same, or 0, where a column of the key wants it. */
static int
pin_for_key(TupleDesc desc, const DwKeyShape *shape)
{
	for (int i = 0; i < shape->ncolumns; i++)
		if (depends_on_settings(TupleDescAttr(desc, shape->columns[i] - 1)->atttypid))
			return pin_output_settings();
	return 0;
}

/* ... or where one of these columns does. */
static int
pin_for_row(TupleDesc desc, const Bitmapset *columns)
{
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
		if (depends_on_settings(TupleDescAttr(desc, attno - 1)->atttypid))
			return pin_output_settings();
	return 0;
}

static void
unpin(int nest)
{
	if (nest > 0)
		AtEOXact_GUC(false, nest);
}

static void
set_string(JsonbValue *json, char *text)
{
	json->type = jbvString;
	json->val.string.val = text;
	json->val.string.len = strlen(text);
}

/* Numbers as numbers, booleans as such, everything else in its text form. */
static void
value_to_json(Oid type, Datum value, bool isnull, JsonbValue *json)
{
	Oid			output;
	bool		varlena;
	char	   *text;

	if (isnull)
	{
		json->type = jbvNull;
		return;
	}
	if (type == BOOLOID)
	{
		json->type = jbvBool;
		json->val.boolean = DatumGetBool(value);
		return;
	}
	getTypeOutputInfo(type, &output, &varlena);
	text = OidOutputFunctionCall(output, value);
	if ((type == INT2OID || type == INT4OID || type == INT8OID || type == NUMERICOID) &&
		strspn(text, "0123456789+-.") == strlen(text))
	{
		json->type = jbvNumeric;
		json->val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
																ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
		return;
	}
	set_string(json, text);
}

static void
push_column(JsonbParseState **state, Form_pg_attribute att, Datum value, bool isnull)
{
	JsonbValue	json;

	set_string(&json, pstrdup(NameStr(att->attname)));
	pushJsonbValue(state, WJB_KEY, &json);
	value_to_json(att->atttypid, value, isnull, &json);
	pushJsonbValue(state, WJB_VALUE, &json);
}

Jsonb *
dw_key_to_jsonb(DwCompiled *compiled, const DwKey *key)
{
	TupleDesc	desc = compiled->flow[DW_FORWARD].target_desc;
	JsonbParseState *state = NULL;
	int			nest = pin_for_key(desc, &compiled->new_key);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < compiled->new_key.ncolumns; i++)
		push_column(&state, TupleDescAttr(desc, compiled->new_key.columns[i] - 1), key->values[i], false);
	unpin(nest);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
dw_row_to_jsonb(TupleDesc desc, TupleTableSlot *row, const Bitmapset *columns)
{
	JsonbParseState *state = NULL;
	int			nest = pin_for_row(desc, columns);
	int			attno = -1;

	slot_getallattrs(row);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((attno = bms_next_member(columns, attno)) >= 0)
		push_column(&state, TupleDescAttr(desc, attno - 1), row->tts_values[attno - 1], row->tts_isnull[attno - 1]);
	unpin(nest);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
dw_key_material(DwFlow *forward, const DwKey *old_key)
{
	const DwKeyShape *from = forward->source_key;
	const DwKeyShape *to = forward->target_key;
	JsonbParseState *state = NULL;
	int			nest = pin_output_settings();

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < to->ncolumns; i++)
	{
		AttrNumber	made_of = dw_key_made_of(forward, i);
		JsonbValue	json;

		set_string(&json, pstrdup(NameStr(TupleDescAttr(forward->target_desc, to->columns[i] - 1)->attname)));
		pushJsonbValue(&state, WJB_KEY, &json);
		json.type = jbvNull;
		for (int k = 0; k < from->ncolumns && made_of != 0; k++)
			if (from->columns[k] == made_of)
				value_to_json(TupleDescAttr(forward->source_desc, made_of - 1)->atttypid, old_key->values[k], false, &json);
		pushJsonbValue(&state, WJB_VALUE, &json);
	}
	unpin(nest);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
wrong_key(DwCompiled *compiled)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, compiled->mapping->key_columns)
		appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "", (char *) lfirst(lc));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("key does not name a row of %s", compiled->mapping->new_name),
			 errhint("A key is a JSON object with exactly these columns, none of them null: %s.", names.data)));
}

static char *
json_scalar_text(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return value->val.boolean ? "true" : "false";
		default:
			return NULL;
	}
}

void
dw_key_from_jsonb(DwCompiled *compiled, Jsonb *json, DwKey *key)
{
	TupleDesc	desc = compiled->flow[DW_FORWARD].target_desc;
	int			nest;

	if (!JB_ROOT_IS_OBJECT(json) || JB_ROOT_COUNT(json) != (uint32) compiled->new_key.ncolumns)
		wrong_key(compiled);
	nest = pin_for_key(desc, &compiled->new_key);
	for (int i = 0; i < compiled->new_key.ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, compiled->new_key.columns[i] - 1);
		JsonbValue	buffer;
		JsonbValue *value = getKeyJsonValueFromContainer(&json->root, NameStr(att->attname),
														 strlen(NameStr(att->attname)), &buffer);
		char	   *text = value ? json_scalar_text(value) : NULL;
		Oid			input;
		Oid			ioparam;

		if (text == NULL)
			wrong_key(compiled);
		getTypeInputInfo(att->atttypid, &input, &ioparam);
		key->values[i] = OidInputFunctionCall(input, text, ioparam, att->atttypmod);
	}
	unpin(nest);
}
