/*
 * readview.c: views that read from whichever side serves: made, dropped, and made plain when a migration is complete.
 *
 * What such a view says is viewquery.c's.  Nothing here may write a user table or run with other rights than those of the
 * caller or, later, the view's owner.
 */
#include "postgres.h"

#include "mapping.h"
#include "oldcolumns.h"
#include "owner.h"
#include "readview.h"
#include "sql.h"
#include "tables.h"
#include "viewquery.h"

#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/varlena.h"

#define WRITE_TRIGGER "dualwrite_write"

static Oid
target_of(DwDirection direction, const DwMapping *mapping)
{
	return direction == DW_FORWARD ? mapping->new_table : mapping->old_table;
}

/* Run DDL with a search_path on which nothing can stand before what is meant. */
static void
execute_ddl(const char *statement)
{
	int			nest = NewGUCNestLevel();
	int			rc;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	rc = SPI_execute(statement, false, 0);
	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\": %s", statement, SPI_result_code_string(rc));
	SPI_finish();
	AtEOXact_GUC(false, nest);
}

static bool
is_wanted(Form_pg_attribute att, List *without)
{
	ListCell   *lc;

	foreach(lc, without)
		if (strcmp(lfirst(lc), NameStr(att->attname)) == 0)
			return false;
	return !att->attisdropped;
}

/* Columns of a relation without the dropped ones, and without those of these names. */
static TupleDesc
live_columns(Oid relid, List *without)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	from = RelationGetDescr(rel);
	int			count = 0;
	TupleDesc	columns;

	for (int i = 0; i < from->natts; i++)
		count += is_wanted(TupleDescAttr(from, i), without);
	columns = CreateTemplateTupleDesc(count);
	count = 0;
	for (int i = 0; i < from->natts; i++)
		if (is_wanted(TupleDescAttr(from, i), without))
			TupleDescCopyEntry(columns, ++count, from, i + 1);
	table_close(rel, AccessShareLock);
	return columns;
}

/* In place a view of one shape has none of the columns that make the other. */
static List *
columns_of_other_shape(const DwMapping *mapping, DwDirection direction)
{
	List	   *names = NIL;
	ListCell   *lc;
	ListCell   *key;

	if (!DW_IN_PLACE(mapping))
		return NIL;
	if (direction == DW_FORWARD)
		names = dw_old_columns_of(mapping);
	foreach(lc, mapping->columns[1 - direction])
	{
		const char *name = ((DwColumn *) lfirst(lc))->name;
		bool		is_key = false;

		foreach(key, mapping->key_columns)
			is_key |= strcmp(lfirst(key), name) == 0;
		if (!is_key)
			names = lappend(names, unconstify(char *, name));
	}
	return names;
}

/* Mappings that lead to a target, by ordinal. */
static List *
mappings_to(const DwMigration *migration, DwDirection direction, Oid target)
{
	List	   *mappings = NIL;
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration->id))
		if (target_of(direction, lfirst(lc)) == target)
			mappings = lappend(mappings, lfirst(lc));
	return mappings;
}

char *
dw_read_view_text(const DwMigration *migration, Oid target, DwDirection direction, const char *strategy)
{
	DwViewPlan	plan = {migration, mappings_to(migration, direction, target), direction, target, live_columns(target, NIL), NULL};

	return dw_view_query(&plan, strategy);
}

static void
raise_choice(const DwMigration *migration, Oid new_table)
{
	if (OidIsValid(new_table))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table %s is not a new table of migration \"%s\"", dw_table_name(new_table), migration->name),
				 errhint("See dualwrite.mappings for the tables of the migration.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("migration \"%s\" has several new tables", migration->name),
			 errhint("Say which one with new_table => '…'.")));
}

/* The mapping that the arguments choose. */
static DwMapping *
choose_mapping(const DwMigration *migration, Oid new_table)
{
	List	   *mappings = dw_mappings_of(migration->id);
	DwMapping  *chosen = NULL;
	ListCell   *lc;

	if (mappings == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" has no mapping", migration->name),
				 errhint("Add one with dualwrite.add_mapping.")));
	foreach(lc, mappings)
	{
		DwMapping  *mapping = lfirst(lc);

		if (OidIsValid(new_table) && mapping->new_table != new_table)
			continue;
		if (chosen != NULL && chosen->new_table != mapping->new_table)
			raise_choice(migration, InvalidOid);
		/* prefer one that brings rows into being: the others only fill in columns */
		if (chosen == NULL || (chosen->owns != DW_OWNS_BOTH && mapping->owns == DW_OWNS_BOTH))
			chosen = mapping;
	}
	if (chosen == NULL)
		raise_choice(migration, new_table);
	return chosen;
}

static DwDirection
direction_of_shape(const char *shape)
{
	if (strcmp(shape, "new") == 0)
		return DW_FORWARD;
	if (strcmp(shape, "old") == 0)
		return DW_REVERSE;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("read view shape \"%s\" does not exist", shape),
			 errhint("Shapes are new and old.")));
}

/* Where a view of this name would be created, in the caller's search_path; ERROR when the name is taken. */
static char *
free_name(const char *name)
{
	RangeVar   *range = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));
	Oid			schema = RangeVarGetCreationNamespace(range);

	if (OidIsValid(get_relname_relid(range->relname, schema)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", range->relname),
				 errhint("Choose another name, or drop it: a read view with dualwrite.drop_read_view.")));
	return quote_qualified_identifier(get_namespace_name(schema), range->relname);
}

static Oid
view_oid(const char *name, bool missing_ok)
{
	return RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name))), NoLock, missing_ok);
}

/* What a column of the target is given where nothing is said; NULL: nothing. */
static char *
default_of(Relation target, AttrNumber attno)
{
	Form_pg_attribute column = TupleDescAttr(RelationGetDescr(target), attno - 1);
	Node	   *node;

	if (column->attidentity != '\0')
		return psprintf("pg_catalog.nextval(%s)",
						quote_literal_cstr(dw_table_name(getIdentitySequence(dw_identity_argument(target), attno, false))));
	if (column->attgenerated != '\0')
		return NULL;
	node = build_column_default(target, attno);
	if (node == NULL)
		return NULL;
	return deparse_expression(node, deparse_context_for(RelationGetRelationName(target), RelationGetRelid(target)), false, false);
}

/*
 * Writes through a view go to its target: by a trigger, and with the defaults that an INSERT gets there.  Functions of the
 * defaults are run by whoever inserts, as for the table.
 */
static void
make_writable(const char *view, Oid target, TupleDesc columns)
{
	Relation	rel = table_open(target, AccessShareLock);

	for (int i = 0; i < columns->natts; i++)
	{
		char	   *name = NameStr(TupleDescAttr(columns, i)->attname);
		char	   *value = default_of(rel, get_attnum(target, name));

		if (value != NULL)
			execute_ddl(psprintf("ALTER VIEW %s ALTER COLUMN %s SET DEFAULT %s", view, quote_identifier(name), value));
	}
	table_close(rel, NoLock);
	execute_ddl(psprintf("CREATE TRIGGER " WRITE_TRIGGER " INSTEAD OF INSERT OR UPDATE OR DELETE ON %s"
						 " FOR EACH ROW EXECUTE FUNCTION dualwrite.write_read_view()", view));
}

/* What is left is a view like any other, which gets its defaults from the table below. */
static void
make_unwritable(const char *view, TupleDesc columns)
{
	execute_ddl(psprintf("DROP TRIGGER IF EXISTS " WRITE_TRIGGER " ON %s", view));
	for (int i = 0; i < columns->natts; i++)
		execute_ddl(psprintf("ALTER VIEW %s ALTER COLUMN %s DROP DEFAULT", view,
							 quote_identifier(NameStr(TupleDescAttr(columns, i)->attname))));
}

/* What a strategy reads in which phase. */
static const struct
{
	const char *strategy;
	const char *reads;
}			strategies[] = {
	{"switch", "Rows come from the old side up to verify, in read_switch from either by percentage (a key always from the same one), from the new side in cutover."},
	{"old", "Rows come from the old side in every phase before complete."},
	{"new", "Rows come from the new side in every phase; it has all of them from verify on."},
	{"fallback", "Rows come from the new side in every phase, and from the old one those that the new does not have."},
	{"merge", "Rows come from both sides in every phase; of a key that both have, from the one that is the truth."},
};

/* What somebody reads who looks at the view with \d+.  complete: it is a plain one. */
static void
comment_on(const char *view, const DwMigration *migration, DwDirection direction, const char *strategy, bool complete)
{
	char	   *text = psprintf("Rows come from the new table: migration %s is complete.", migration->name);

	for (int i = 0; !complete && i < (int) lengthof(strategies); i++)
		if (strcmp(strategies[i].strategy, strategy) == 0)
			text = psprintf("Read view of migration %s, strategy %s, shape %s. %s"
							" The truth, where the sides disagree, is old up to and including read_switch, new in cutover."
							" Writes go to the %s table%s, and are mirrored to the other side.",
							migration->name, strategy, direction == DW_FORWARD ? "new" : "old", strategies[i].reads,
							direction == DW_FORWARD ? "new" : "old",
							direction == DW_FORWARD ? ", from read_switch on" : "");
	execute_ddl(psprintf("COMMENT ON VIEW %s IS %s", view, quote_literal_cstr(text)));
}

static void
register_view(Oid view, const DwMapping *mapping, const char *strategy, const char *shape)
{
	DwSql		sql;

	dw_sql_begin(&sql);
	/* a view that was dropped by hand may have left its number behind */
	dw_sql("INSERT INTO _dualwrite.read_view (view, mapping_id, strategy, shape) VALUES ($1::oid::regclass, $2, $3, $4)"
		   " ON CONFLICT (view) DO UPDATE SET mapping_id = excluded.mapping_id, strategy = excluded.strategy, shape = excluded.shape",
		   4, (DwArg[]) {DW_OID(view), DW_INT4(mapping->id), DW_TEXT(strategy), DW_TEXT(shape)});
	dw_sql_end(&sql);
}

Oid
dw_read_view_create(const DwMigration *migration, const char *name, Oid new_table, const char *strategy, const char *shape)
{
	DwDirection direction = direction_of_shape(shape);
	DwMapping  *mapping = choose_mapping(migration, new_table);
	Oid			target = target_of(direction, mapping);
	char	   *view_name = free_name(name);
	int			nest = NewGUCNestLevel();
	DwViewPlan	plan = {migration, mappings_to(migration, direction, target), direction, target, NULL, NULL};
	Oid			view;
	char	   *query;

	/* stored expressions mean what they say under this search_path only */
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	plan.columns = live_columns(target, columns_of_other_shape(mapping, direction));
	query = dw_view_query(&plan, strategy);
	if (migration->phase == DW_PHASE_COMPLETE)
		query = dw_view_plain_query(&plan);
	execute_ddl(psprintf("CREATE VIEW %s WITH (security_invoker = true) AS %s", view_name, query));
	if (migration->phase != DW_PHASE_COMPLETE)
		make_writable(view_name, target, plan.columns);
	comment_on(view_name, migration, direction, strategy, migration->phase == DW_PHASE_COMPLETE);
	view = view_oid(view_name, false);
	register_view(view, mapping, strategy, shape);
	plan.name = get_rel_name(view);
	if (migration->phase != DW_PHASE_COMPLETE && strcmp(strategy, direction == DW_FORWARD ? "new" : "old") != 0)
		dw_view_advise_indexes(&plan);
	AtEOXact_GUC(false, nest);
	return view;
}

void
dw_read_view_drop(const char *name)
{
	Oid			view = view_oid(name, false);
	DwSql		sql;
	uint64		found;

	dw_sql_begin(&sql);
	found = dw_sql("DELETE FROM _dualwrite.read_view WHERE view = $1::oid", 1, (DwArg[]) {DW_OID(view)});
	dw_sql_end(&sql);
	if (found == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a read view", get_rel_name(view)),
				 errhint("Drop what dualwrite.create_read_view did not make with DROP VIEW or DROP TABLE.")));
	execute_ddl(psprintf("DROP VIEW %s", dw_table_name(view)));
}

/* What is noted about the views of a migration; list of DwNotedView. */
typedef struct DwNotedView
{
	Oid			view;
	int32		mapping_id;
	DwDirection direction;
} DwNotedView;

static List *
noted_views(int32 migration_id)
{
	List	   *views = NIL;
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql("SELECT v.view::oid, v.mapping_id, v.shape = 'new'"
				   " FROM _dualwrite.read_view v JOIN _dualwrite.mapping p ON p.id = v.mapping_id"
				   " JOIN pg_catalog.pg_class c ON c.oid = v.view"
				   " WHERE p.migration_id = $1 AND c.relkind = 'v' ORDER BY v.view::oid",
				   1, (DwArg[]) {DW_INT4(migration_id)});
	for (uint64 i = 0; i < count; i++)
	{
		DwNotedView *noted = MemoryContextAlloc(sql.caller, sizeof(DwNotedView));
		MemoryContext old;
		bool		isnull;

		noted->view = DatumGetObjectId(dw_sql_value(i, 1, &isnull));
		noted->mapping_id = DatumGetInt32(dw_sql_value(i, 2, &isnull));
		noted->direction = DatumGetBool(dw_sql_value(i, 3, &isnull)) ? DW_FORWARD : DW_REVERSE;
		old = MemoryContextSwitchTo(sql.caller);
		views = lappend(views, noted);
		MemoryContextSwitchTo(old);
	}
	dw_sql_end(&sql);
	return views;
}

List *
dw_read_views_of(int32 migration_id)
{
	List	   *oids = NIL;
	ListCell   *lc;

	foreach(lc, noted_views(migration_id))
		oids = lappend_oid(oids, ((DwNotedView *) lfirst(lc))->view);
	return oids;
}

/* A view keeps the columns that it has, whatever has become of the tables since. */
static void
make_plain(const DwMigration *migration, const DwNotedView *noted)
{
	DwMapping  *mapping = dw_mapping_by_id(noted->mapping_id);
	Oid			target = target_of(noted->direction, mapping);
	DwViewPlan	plan = {migration, mappings_to(migration, noted->direction, target), noted->direction, target,
	live_columns(noted->view, NIL), NULL};
	DwOwnerScope scope;

	/* its owner could create it, so he can replace it; whoever drives the migration need not be able to */
	dw_owner_enter(&scope, dw_relation_owner(noted->view), true);
	make_unwritable(dw_table_name(noted->view), plan.columns);
	execute_ddl(psprintf("CREATE OR REPLACE VIEW %s WITH (security_invoker = true) AS %s",
						 dw_table_name(noted->view), dw_view_plain_query(&plan)));
	comment_on(dw_table_name(noted->view), migration, noted->direction, "", true);
	dw_owner_leave(&scope);
}

void
dw_read_views_complete(int32 migration_id)
{
	DwMigration *migration = dw_migration_by_id(migration_id, false);
	ListCell   *lc;

	foreach(lc, noted_views(migration_id))
		make_plain(migration, lfirst(lc));
}

/* Names of the columns that a mapping fills on a side and keeps up to date. */
static List *
mapped_names(const DwMapping *mapping, DwDirection direction)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, mapping->columns[direction])
	{
		DwColumn   *column = lfirst(lc);

		if (!column->insert_only)
			names = lappend(names, column->name);
	}
	return names;
}

DwViewTarget *
dw_read_view_target(Oid view)
{
	DwViewTarget *target = palloc0(sizeof(DwViewTarget));
	MemoryContext context = CurrentMemoryContext;
	DwMapping  *mapping;
	DwSql		sql;
	bool		isnull;
	int32		mapping_id = 0;
	ListCell   *lc;

	dw_sql_begin(&sql);
	if (dw_sql("SELECT mapping_id, shape = 'new' FROM _dualwrite.read_view WHERE view = $1::oid", 1, (DwArg[]) {DW_OID(view)}) > 0)
	{
		mapping_id = DatumGetInt32(dw_sql_value(0, 1, &isnull));
		target->direction = DatumGetBool(dw_sql_value(0, 2, &isnull)) ? DW_FORWARD : DW_REVERSE;
	}
	dw_sql_end(&sql);
	MemoryContextSwitchTo(context);
	mapping = mapping_id != 0 ? dw_mapping_by_id(mapping_id) : NULL;
	if (mapping == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a read view of a migration", get_rel_name(view)),
				 errhint("Drop it, or make it with dualwrite.create_read_view.")));
	target->migration = dw_migration_by_id(mapping->migration_id, false);
	target->table = target_of(target->direction, mapping);
	target->key_columns = target->direction == DW_FORWARD ? mapping->key_columns : mapping->old_key_columns;
	foreach(lc, mappings_to(target->migration, target->direction, target->table))
		target->mapped_columns = list_concat(target->mapped_columns, mapped_names(lfirst(lc), target->direction));
	return target;
}
