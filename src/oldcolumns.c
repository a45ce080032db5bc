/*
 * oldcolumns.c: the old columns of tables whose columns move inside them.
 *
 * The old side of such a mapping is the columns that its owner named in reverse: nothing else may be touched, or dropped, in
 * their name.
 */
#include "postgres.h"

#include "mapping.h"
#include "oldcolumns.h"
#include "owner.h"
#include "sql.h"
#include "tables.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"

/* The first column of a result, copied to the caller's memory. */
static List *
first_column(DwSql *sql, uint64 count)
{
	List	   *names = NIL;

	for (uint64 i = 0; i < count; i++)
	{
		char	   *name = dw_sql_cstring(sql, i, 1);
		MemoryContext old = MemoryContextSwitchTo(sql->caller);

		names = lappend(names, name);
		MemoryContextSwitchTo(old);
	}
	return names;
}

List *
dw_old_columns_of(const DwMapping *mapping)
{
	List	   *names;
	DwSql		sql;

	dw_sql_begin(&sql);
	names = first_column(&sql, dw_sql("SELECT a.attname::text FROM _dualwrite.mapping p, jsonb_object_keys(p.reverse) k"
									  " JOIN pg_attribute a ON a.attname = k AND NOT a.attisdropped"
									  " WHERE p.id = $1 AND a.attrelid = p.old_table::oid ORDER BY a.attnum",
									  1, (DwArg[]) {DW_INT4(mapping->id)}));
	dw_sql_end(&sql);
	return names;
}

/*
 * Columns of one relation that an insert must fill: those that go, and those that reverse has filled up to now.  Not those
 * that the server does not let be null.
 */
#define MUST_BE_FILLED \
	"SELECT quote_ident(a.attname) FROM pg_attribute a, _dualwrite.mapping p" \
	" WHERE p.id = $1 AND a.attrelid = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND a.attidentity = ''" \
	" AND (p.reverse ? a.attname::text OR EXISTS (SELECT FROM _dualwrite.mapping_column c WHERE c.mapping_id = p.id" \
	"  AND c.direction = 'reverse' AND c.column_name = a.attname))" \
	" AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey))" \
	" AND a.attname <> ALL (p.key_columns) ORDER BY a.attnum"

/* The root first: what it drops is dropped in its partitions. */
static void
relax_relation(const DwMapping *mapping, Oid relid)
{
	List	   *names;
	DwSql		sql;
	ListCell   *lc;
	DwOwnerScope scope;

	dw_sql_begin(&sql);
	names = first_column(&sql, dw_sql(MUST_BE_FILLED, 2, (DwArg[]) {DW_INT4(mapping->id), DW_OID(relid)}));
	dw_sql_end(&sql);
	if (names == NIL)
		return;
	dw_owner_enter(&scope, dw_relation_owner(relid), true);
	SPI_connect();
	foreach(lc, names)
	{
		char	   *statement = psprintf("ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL", dw_table_name(relid),
										 (char *) lfirst(lc));
		int			rc = SPI_execute(statement, false, 0);

		if (rc != SPI_OK_UTILITY)
			elog(ERROR, "could not execute \"%s\": %s", statement, SPI_result_code_string(rc));
	}
	SPI_finish();
	dw_owner_leave(&scope);
}

void
dw_old_columns_relax(const DwMigration *migration)
{
	ListCell   *lc;
	ListCell   *heap;

	foreach(lc, dw_mappings_of(migration->id))
	{
		DwMapping  *mapping = lfirst(lc);

		if (!DW_IN_PLACE(mapping))
			continue;
		foreach(heap, dw_heaps_of(mapping->old_table, NoLock))
			relax_relation(mapping, lfirst_oid(heap));
	}
}

/*
 * The server drops an index, a constraint or a statistics object with any column that it is about, silently.  Those that are about
 * a column that stays, too, are somebody's who has to be asked.
 */
#define SHARED_OBJECTS \
	"SELECT string_agg(DISTINCT pg_describe_object(d.classid, d.objid, 0) || '.', E'\\n')" \
	" FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid" \
	" WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype IN ('a', 'i')" \
	" AND a.attname = ANY ($2::name[]) AND d.classid IN ('pg_class'::regclass, 'pg_constraint'::regclass, 'pg_statistic_ext'::regclass)" \
	" AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_class c WHERE c.oid = d.objid AND c.relkind = 'S'))" \
	" AND EXISTS (SELECT FROM pg_depend o JOIN pg_attribute b ON b.attrelid = o.refobjid AND b.attnum = o.refobjsubid" \
	"  WHERE o.classid = d.classid AND o.objid = d.objid AND o.refclassid = d.refclassid AND o.refobjid = $1" \
	"  AND b.attname <> ALL ($2::name[]))"

char *
dw_old_columns_shared(const DwMapping *mapping, List *columns)
{
	Datum	   *names = palloc(sizeof(Datum) * (list_length(columns) + 1));
	int			n = 0;
	DwSql		sql;
	char	   *shared;
	ListCell   *lc;

	foreach(lc, columns)
		names[n++] = CStringGetTextDatum(lfirst(lc));
	dw_sql_begin(&sql);
	dw_sql(SHARED_OBJECTS, 2, (DwArg[]) {DW_OID(mapping->old_table),
		   DW_DATUM(TEXTARRAYOID, PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT)), false)});
	shared = dw_sql_cstring(&sql, 0, 1);
	dw_sql_end(&sql);
	return shared;
}
