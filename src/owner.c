/*
 * owner.c: run a table's code as its owner.
 *
 * Expressions of a mapping and constraints of a target are code of the table's owner.  They run with his rights, never
 * with those of whoever happens to write, and cannot leave anything behind that would (SECURITY_RESTRICTED_OPERATION).
 */
#include "postgres.h"

#include "owner.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/syscache.h"

void
dw_owner_enter(DwOwnerScope *scope, Oid owner, bool pin_settings)
{
	GetUserIdAndSecContext(&scope->saved_user, &scope->saved_context);
	SetUserIdAndSecContext(owner, scope->saved_context |
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
	scope->saved_nest = 0;
	if (pin_settings)
		dw_owner_pin(scope);
}

void
dw_owner_pin(DwOwnerScope *scope)
{
	if (scope->saved_nest != 0)
		return;
	scope->saved_nest = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
dw_pin_formats(void)
{
	static const char *const pinned[][2] = {
		{"DateStyle", "ISO, YMD"}, {"IntervalStyle", "postgres"}, {"TimeZone", "UTC"},
		{"bytea_output", "hex"}, {"extra_float_digits", "1"}, {"xmlbinary", "base64"}, {"lc_monetary", "C"}
	};

	for (size_t i = 0; i < lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
dw_owner_leave(DwOwnerScope *scope)
{
	if (scope->saved_nest != 0)
		AtEOXact_GUC(false, scope->saved_nest);
	SetUserIdAndSecContext(scope->saved_user, scope->saved_context);
}

/* Owner of a relation; cannot-happen ERROR when it is gone, since callers hold a lock on it. */
Oid
dw_relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}
