/*
 * indexes.c: secondary indexes of new tables, taken away before a copy and owed after it.
 *
 * With setting backfill_indexes = afterwards the step to phase backfill drops what the copy would only have to maintain row by row:
 * indexes of a new table that has hardly any rows yet, that nothing depends on and that nothing needs meanwhile.  In the same
 * transaction each definition goes to _dualwrite.index_away, and stays there until the index is there again (rebuild.c)
 * or somebody says that it need not be.
 *
 * Never taken away: what is unique, or belongs to a constraint; what looks rows of a foreign key up, because deletes on the other
 * table would read all of this one; what the table's owner could not create again.
 */
#include "postgres.h"

#include "indexes.h"
#include "owner.h"
#include "settings.h"
#include "sql.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/*
 * A new table that takes part in nothing else, and is plain, permanent and as good as empty: at most 1 MB, or a twentieth of the old
 * one.  Whoever has filled it already may be using it.
 */
#define TABLES_TO_STRIP \
	"SELECT DISTINCT p.new_table::oid, (SELECT min(q.new_name) FROM _dualwrite.mapping q WHERE q.new_table = p.new_table AND q.migration_id = $1)," \
	" pg_relation_size(p.new_table) <= greatest(1048576, (SELECT sum(pg_relation_size(l.relid)) / 20 FROM _dualwrite.mapping q," \
	" pg_partition_tree(q.old_table) l WHERE q.migration_id = $1 AND q.new_table = p.new_table))" \
	" FROM _dualwrite.mapping p JOIN pg_class c ON c.oid = p.new_table" \
	" WHERE p.migration_id = $1 AND c.relkind = 'r' AND c.relpersistence = 'p' AND NOT c.relispartition" \
	" AND NOT EXISTS (SELECT FROM _dualwrite.mapping o WHERE o.old_table = p.new_table OR (o.new_table = p.new_table AND o.migration_id <> $1))" \
	" AND NOT EXISTS (SELECT FROM _dualwrite.dependency d WHERE d.lookup_table = p.new_table)" \
	" ORDER BY 1"

/* Of such a table the indexes that can go: name, rest of the definition, tablespace, comment, statistics targets. */
#define INDEXES_TO_TAKE \
	"SELECT c.relname, substr(pg_get_indexdef(c.oid), length(d.prefix) + 1), s.spcname, obj_description(c.oid, 'pg_class')," \
	" ARRAY(SELECT coalesce(a.attstattarget, -1)::int FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum)," \
	" format('%I.%I', n.nspname, c.relname), pg_get_indexdef(c.oid)" \
	" FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid" \
	" JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace" \
	" CROSS JOIN LATERAL format('CREATE INDEX %I ON %s ', c.relname, i.indrelid::regclass) AS d (prefix)" \
	" WHERE i.indrelid = $1 AND c.relkind = 'i' AND NOT c.relispartition AND i.indisvalid AND i.indisready AND i.indislive" \
	" AND NOT (i.indisunique OR i.indisprimary OR i.indisexclusion OR i.indisreplident OR i.indisclustered)" \
	" AND starts_with(pg_get_indexdef(c.oid), d.prefix)" \
	" AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid)" \
	" AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = i.indrelid AND k.contype = 'f' AND i.indkey[0] = ANY (k.conkey))" \
	" AND NOT EXISTS (SELECT FROM pg_depend k WHERE k.refclassid = 'pg_class'::regclass AND k.refobjid = c.oid)" \
	" AND NOT EXISTS (SELECT FROM pg_depend k WHERE k.classid = 'pg_class'::regclass AND k.objid = c.oid AND k.deptype IN ('e', 'x'))" \
	" AND NOT EXISTS (SELECT FROM pg_seclabel k WHERE k.classoid = 'pg_class'::regclass AND k.objoid = c.oid)" \
	" AND has_schema_privilege(t.relowner, n.oid, 'CREATE')" \
	" AND (c.reltablespace = 0 OR has_tablespace_privilege(t.relowner, c.reltablespace, 'CREATE'))" \
	" ORDER BY c.relname"

/* A table, and what becomes of its indexes. */
typedef struct Candidate
{
	Oid			table;
	char	   *name;
	bool		empty;			/* as good as */
} Candidate;

/* An index of one. */
typedef struct TakenIndex
{
	char	   *name;
	char	   *body;
	char	   *tablespace;
	char	   *comment;
	Datum		statistics;
	char	   *qualified;
	char	   *definition;
} TakenIndex;

static bool
wanted(const DwMigration *migration)
{
	return strcmp(dw_setting_string(migration->id, "backfill_indexes"), "afterwards") == 0;
}

static List *
candidates(const DwMigration *migration)
{
	List	   *list = NIL;
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql(TABLES_TO_STRIP, 1, (DwArg[]) {DW_INT4(migration->id)});
	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(sql.caller);
		Candidate  *candidate = palloc(sizeof(Candidate));
		bool		isnull;

		list = lappend(list, candidate);
		MemoryContextSwitchTo(old);
		candidate->table = DatumGetObjectId(dw_sql_value(i, 1, &isnull));
		candidate->name = dw_sql_cstring(&sql, i, 2);
		candidate->empty = DatumGetBool(dw_sql_value(i, 3, &isnull));
	}
	dw_sql_end(&sql);
	return list;
}

static List *
indexes_of(Oid table)
{
	List	   *list = NIL;
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql(INDEXES_TO_TAKE, 1, (DwArg[]) {DW_OID(table)});
	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(sql.caller);
		TakenIndex	   *index = palloc(sizeof(TakenIndex));
		bool		isnull;

		list = lappend(list, index);
		index->statistics = PointerGetDatum(PG_DETOAST_DATUM_COPY(dw_sql_value(i, 5, &isnull)));
		MemoryContextSwitchTo(old);
		index->name = dw_sql_cstring(&sql, i, 1);
		index->body = dw_sql_cstring(&sql, i, 2);
		index->tablespace = dw_sql_cstring(&sql, i, 3);
		index->comment = dw_sql_cstring(&sql, i, 4);
		index->qualified = dw_sql_cstring(&sql, i, 6);
		index->definition = dw_sql_cstring(&sql, i, 7);
	}
	dw_sql_end(&sql);
	return list;
}

List *
dw_indexes_to_take(const DwMigration *migration)
{
	List	   *tables = NIL;
	ListCell   *lc;

	if (!wanted(migration))
		return NIL;
	foreach(lc, candidates(migration))
	{
		Candidate  *candidate = lfirst(lc);

		if (candidate->empty && indexes_of(candidate->table) != NIL)
			tables = lappend_oid(tables, candidate->table);
	}
	return tables;
}

static void
write_down(const DwMigration *migration, Oid table, const TakenIndex *index)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("INSERT INTO _dualwrite.index_away (migration_id, new_table, index_name, body, tablespace, comment, statistics)"
				  " VALUES ($1, $2, $3::name, $4, $5::name, $6, $7)"
				  /* owed from an earlier copy, and made by somebody meanwhile: what is there now is what is wanted */
				  " ON CONFLICT (migration_id, new_table, index_name) DO UPDATE SET body = excluded.body, tablespace = excluded.tablespace,"
				  " comment = excluded.comment, statistics = excluded.statistics, taken_at = excluded.taken_at, started_at = NULL, failures = 0,"
				  " next_attempt_at = excluded.next_attempt_at, message = NULL, analyzed_at = NULL",
				  7, (DwArg[]) {DW_INT4(migration->id), DW_OID(table), DW_TEXT(index->name), DW_TEXT(index->body),
				  DW_TEXT(index->tablespace), DW_TEXT(index->comment), DW_DATUM(INT4ARRAYOID, index->statistics, false)});
	dw_sql_end(&sql);
}

/* With the rights of the table's owner, whoever calls. */
static void
drop_index(Oid table, const TakenIndex *index)
{
	char	   *command = psprintf("DROP INDEX %s RESTRICT", index->qualified);
	DwOwnerScope scope;

	dw_owner_enter(&scope, dw_relation_owner(table), true);
	SPI_connect();
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command);
	SPI_finish();
	dw_owner_leave(&scope);
}

/* To the caller, to the audit, and to the log, which is there whatever becomes of this database. */
static void
tell(const DwMigration *migration, const Candidate *candidate, const TakenIndex *index)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"table\": ");
	escape_json(&json, candidate->name);
	appendStringInfoString(&json, ", \"index\": ");
	escape_json(&json, index->name);
	appendStringInfoString(&json, ", \"definition\": ");
	escape_json(&json, index->definition);
	appendStringInfoChar(&json, '}');
	dw_event_record(migration->name, "index_taken_away", -1, -1, NIL, NULL, json.data);
	ereport(LOG,
			(errmsg("migration \"%s\" takes index %s of %s away until the copy is finished",
					migration->name, quote_identifier(index->name), candidate->name),
			 errdetail("%s", index->definition)));
	ereport(NOTICE,
			(errmsg("index %s of %s is taken away until the copy is finished, and built again then",
					quote_identifier(index->name), candidate->name)));
}

static void
take(const DwMigration *migration, const Candidate *candidate)
{
	ListCell   *lc;

	foreach(lc, indexes_of(candidate->table))
	{
		TakenIndex	   *index = lfirst(lc);

		write_down(migration, candidate->table, index);
		drop_index(candidate->table, index);
		tell(migration, candidate, index);
	}
}

/* What an earlier copy is done with. */
static void
forget_settled(const DwMigration *migration)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	(void) dw_sql("DELETE FROM _dualwrite.index_away WHERE migration_id = $1 AND built_at IS NOT NULL", 1, (DwArg[]) {DW_INT4(migration->id)});
	dw_sql_end(&sql);
}

void
dw_indexes_take(const DwMigration *migration, List *tables)
{
	ListCell   *lc;

	if (!wanted(migration))
		return;
	forget_settled(migration);
	foreach(lc, candidates(migration))
	{
		Candidate  *candidate = lfirst(lc);

		if (candidate->empty && list_member_oid(tables, candidate->table))
			take(migration, candidate);
		else if (!candidate->empty && indexes_of(candidate->table) != NIL)
			ereport(NOTICE,
					(errmsg("indexes of %s stay while rows are copied: the table is not empty", candidate->name)));
	}
}

bool
dw_indexes_owed(int32 migration_id, DwIndexesOwed *owed)
{
	DwSql		sql;
	bool		isnull;

	dw_sql_begin(&sql);
	(void) dw_sql("SELECT count(*), count(*) FILTER (WHERE a.built_at IS NULL), count(*) FILTER (WHERE a.built_at IS NULL AND a.failures > 1),"
				  " coalesce(bool_or(a.analyzed_at IS NULL), false),"
				  " (array_agg(format('index %I could not be built', a.index_name) ORDER BY a.started_at DESC NULLS LAST)"
				  " FILTER (WHERE a.built_at IS NULL AND a.failures > 0))[1]"
				  " FROM _dualwrite.index_away a JOIN pg_class c ON c.oid = a.new_table WHERE a.migration_id = $1",
				  1, (DwArg[]) {DW_INT4(migration_id)});
	owed->all = DatumGetInt64(dw_sql_value(0, 1, &isnull));
	owed->away = DatumGetInt64(dw_sql_value(0, 2, &isnull));
	owed->failing = DatumGetInt64(dw_sql_value(0, 3, &isnull));
	owed->analyze = DatumGetBool(dw_sql_value(0, 4, &isnull));
	owed->example = dw_sql_cstring(&sql, 0, 5);
	dw_sql_end(&sql);
	return owed->away > 0 || owed->analyze;
}

bool
dw_indexes_away_from(Oid table)
{
	DwSql		sql;
	bool		away;

	dw_sql_begin(&sql);
	away = dw_sql("SELECT FROM _dualwrite.index_away WHERE new_table = $1 AND built_at IS NULL LIMIT 1", 1, (DwArg[]) {DW_OID(table)}) > 0;
	dw_sql_end(&sql);
	return away;
}

void
dw_indexes_check_drop(const DwMigration *migration)
{
	DwIndexesOwed owed;

	if (!dw_indexes_owed(migration->id, &owed) || owed.away == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration \"%s\" has taken indexes away that are not built again yet", migration->name),
			 errdetail("Not built: " INT64_FORMAT " of " INT64_FORMAT ".", owed.away, owed.all),
			 errhint("Wait until a worker has built those that dualwrite.indexes lists, or give them up with dualwrite.forget_index.")));
}
