/*
 * keydigest.c: keys of any length, told apart by sixteen bytes.
 *
 * An index entry may have a third of a page.  A key that its table's own index just takes is longer as jsonb, with the names
 * of its columns and bytea as hexadecimal digits; so what must find keys, and have each but once, does it by a digest of
 * them.  Keys that are equal have the same digest, also where numbers are written in different ways; that different ones
 * have the same is as likely as a collision of SHA-256 cut to half its length.
 *
 * It must never depend on anything but the key: it is stored.
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(dw_key_digest_sql);

/* The length first, so that one text cannot run into the next. */
static void
append_text(StringInfo out, const char *text, int length)
{
	appendBinaryStringInfo(out, (const char *) &length, sizeof(length));
	appendBinaryStringInfo(out, text, length);
}

static void
append_scalar(StringInfo out, const JsonbValue *value)
{
	char	   *number;

	appendStringInfoCharMacro(out, (char) value->type);
	switch (value->type)
	{
		case jbvString:
			append_text(out, value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			number = numeric_normalize(value->val.numeric);
			append_text(out, number, strlen(number));
			break;
		case jbvBool:
			appendStringInfoCharMacro(out, value->val.boolean ? 't' : 'f');
			break;
		default:
			break;
	}
}

/* The key in a form that is the same for all that are equal to it. */
static void
append_key(StringInfo out, Jsonb *key)
{
	JsonbIterator *it = JsonbIteratorInit(&key->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		appendStringInfoCharMacro(out, (char) token);
		if (token == WJB_KEY || token == WJB_VALUE || token == WJB_ELEM)
			append_scalar(out, &value);
	}
}

/* _dualwrite.key_digest(jsonb) returns uuid */
Datum
dw_key_digest_sql(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *digest = palloc(sizeof(pg_uuid_t));
	uint8		hash[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	StringInfoData bytes;

	initStringInfo(&bytes);
	append_key(&bytes, PG_GETARG_JSONB_P(0));
	if (pg_cryptohash_init(context) < 0 || pg_cryptohash_update(context, (uint8 *) bytes.data, bytes.len) < 0 ||
		pg_cryptohash_final(context, hash, sizeof(hash)) < 0)
		elog(ERROR, "could not compute a SHA-256 hash: %s", pg_cryptohash_error(context));
	pg_cryptohash_free(context);
	pfree(bytes.data);
	memcpy(digest->data, hash, UUID_LEN);
	PG_RETURN_UUID_P(digest);
}
