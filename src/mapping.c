/*
 * mapping.c: the backend's cache of compiled mappings, and of what a trigger on a table has to do.
 *
 * Nothing here decides anything.  Callbacks only mark entries stale; an entry is rebuilt when it is next asked for, and
 * the memory of the stale one stays until the transaction ends, because a caller further up may still be using it.
 * A trigger reads the extension's tables only here, and only after an invalidation (see logical/relation.c for the
 * pattern: lock, then look whether the entry is still valid).
 */
#include "postgres.h"

#include "absorb.h"
#include "mapping.h"
#include "settings.h"
#include "sql.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/catcache.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

typedef struct CompiledEntry
{
	int32		mapping_id;		/* hash key */
	DwCompiled *compiled;		/* NULL: never compiled, or gone */
} CompiledEntry;

typedef struct TableEntry
{
	Oid			relid;			/* hash key */
	DwTable    *table;
	MemoryContext context;
} TableEntry;

static HTAB *compiled_cache = NULL;
static HTAB *table_cache = NULL;
static List *retired = NIL;		/* memory contexts to delete at the end of the transaction */

/* The table last asked for, while its entry is in the cache. */
static DwTable *last_table = NULL;

/* Counts invalidations, so that one that arrives while an entry is being built is not missed. */
static uint64 invalidations = 0;

/* Counts what lets go of locks: the end of a transaction, and of a subtransaction that is undone. */
static uint64 releases = 1;

uint64
dw_mapping_generation(void)
{
	return invalidations;
}

uint64
dw_locks_generation(void)
{
	return releases;
}

/* A table changed: its shape, its triggers, or (through dw_mapping_invalidate) a mapping or phase of it. */
static void
relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS scan;
	CompiledEntry *mapping;
	TableEntry *table;

	(void) arg;
	invalidations++;
	hash_seq_init(&scan, compiled_cache);
	while ((mapping = hash_seq_search(&scan)) != NULL)
		if (mapping->compiled != NULL &&
			(relid == InvalidOid || relid == mapping->compiled->old_key.relid || relid == mapping->compiled->new_key.relid))
			mapping->compiled->valid = false;
	hash_seq_init(&scan, table_cache);
	while ((table = hash_seq_search(&scan)) != NULL)
		if (table->table != NULL &&
			(relid == InvalidOid || relid == table->table->relid || relid == table->table->root))
			table->table->valid = false;
}

/* A function changed: an expression may contain it, inlined. */
static void
function_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	CompiledEntry *entry;

	(void) arg;
	(void) cacheid;
	(void) hashvalue;
	invalidations++;
	hash_seq_init(&scan, compiled_cache);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->compiled != NULL && entry->compiled->user_code)
			entry->compiled->valid = false;
}

/* A server-wide setting that compiled mappings hold was changed: by a reload, or in this session. */
static void
notice_settings(void)
{
	static uint32 seen = 0;

	if (seen == dw_settings_generation())
		return;
	seen = dw_settings_generation();
	relcache_callback((Datum) 0, InvalidOid);
}

static void
retire(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	retired = lappend(retired, context);
	MemoryContextSwitchTo(old);
}

static void
xact_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	(void) arg;
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	releases++;
	foreach(lc, retired)
		MemoryContextDelete(lfirst(lc));
	list_free(retired);
	retired = NIL;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid, void *arg)
{
	(void) mySubid;
	(void) parentSubid;
	(void) arg;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		releases++;
}

/* ALTER DOMAIN changes no table, and the server tells of it as of any change of a type. */
static void
type_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	CompiledEntry *entry;

	(void) arg;
	(void) cacheid;
	invalidations++;
	hash_seq_init(&scan, compiled_cache);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->compiled != NULL && entry->compiled->domains != NIL &&
			(hashvalue == 0 || list_member_int(entry->compiled->domains, (int) hashvalue)))
			entry->compiled->valid = false;
}

void
dw_mapping_init(void)
{
	HASHCTL		compiled_ctl = {.keysize = sizeof(int32), .entrysize = sizeof(CompiledEntry), .hcxt = TopMemoryContext};
	HASHCTL		table_ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(TableEntry), .hcxt = TopMemoryContext};

	compiled_cache = hash_create("dualwrite mappings", 32, &compiled_ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	table_cache = hash_create("dualwrite tables", 32, &table_ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, function_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, type_callback, (Datum) 0);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/* What dw_try is to compile. */
typedef struct Compilation
{
	DwMapping  *mapping;
	DwMigration *migration;
	MemoryContext context;
	DwCompiled *result;
} Compilation;

static void
compile(void *arg)
{
	Compilation *compilation = arg;

	compilation->result = dw_compile(compilation->mapping, compilation->migration, compilation->context);
}

/*
 * In `shadow` nothing may hurt the application, not even a new table that was altered so that the mapping no longer
 * fits.  What is not mirrored then is copied by the backfill, which comes after.
 */
static DwCompiled *
compile_for_shadow(DwMapping *mapping, DwMigration *migration, MemoryContext context)
{
	Compilation compilation = {mapping, migration, context, NULL};
	DwError		error;

	if (!dw_try(compile, &compilation, false, NULL, &error))
	{
		ereport(LOG,
				(errmsg("migration \"%s\" mirrors nothing from %s to %s: %s",
						migration->name, mapping->old_name, mapping->new_name, error.message)));
		compilation.result = palloc0(sizeof(DwCompiled));
		compilation.result->broken = true;
		compilation.result->mapping = mapping;
		compilation.result->migration = migration->name;
		compilation.result->mapping_id = mapping->id;
		compilation.result->migration_id = migration->id;
		compilation.result->phase = migration->phase;
		compilation.result->old_key.relid = mapping->old_table;
		compilation.result->new_key.relid = mapping->new_table;
		compilation.result->context = context;
		compilation.result->valid = true;
	}
	return compilation.result;
}

/* At complete, too, the old columns of a mapping in place may be gone, dropped by hand. */
static bool
must_not_hurt(const DwMigration *migration, const DwMapping *mapping)
{
	return migration->phase == DW_PHASE_SHADOW || (migration->phase == DW_PHASE_COMPLETE && DW_IN_PLACE(mapping));
}

/* Read and compile; NULL when the mapping is gone. */
static DwCompiled *
build_compiled(int32 mapping_id, bool for_trigger)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "dualwrite mapping", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DwMapping  *mapping = dw_mapping_by_id(mapping_id);
	DwMigration *migration = mapping ? dw_migration_by_id(mapping->migration_id, false) : NULL;
	DwCompiled *compiled = NULL;

	if (migration != NULL && for_trigger && must_not_hurt(migration, mapping))
		compiled = compile_for_shadow(mapping, migration, context);
	else if (migration != NULL)
		compiled = dw_compile(mapping, migration, context);
	MemoryContextSwitchTo(old);
	if (compiled == NULL)
		MemoryContextDelete(context);
	else
		/* an error further up must not leave half an entry; from here on it is the cache's */
		MemoryContextSetParent(context, CacheMemoryContext);
	return compiled;
}

/* Tables point to compiled mappings: when one is replaced, none of them may be looked at again. */
static void
forget_tables(void)
{
	HASH_SEQ_STATUS scan;
	TableEntry *entry;

	hash_seq_init(&scan, table_cache);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->table != NULL)
			entry->table->valid = false;
}

/* Both tables are locked. */
static void
note_held(DwCompiled *compiled)
{
	compiled->flow[DW_FORWARD].held_in = compiled->flow[DW_REVERSE].held_in = releases;
}

static bool
is_held(const DwCompiled *compiled)
{
	return compiled->flow[DW_FORWARD].held_in == releases && compiled->flow[DW_REVERSE].held_in == releases;
}

static DwCompiled *
get_compiled(int32 mapping_id, bool for_trigger)
{
	CompiledEntry *entry;
	DwCompiled *compiled;
	uint64		before;
	bool		found;

	notice_settings();
	entry = hash_search(compiled_cache, &mapping_id, HASH_FIND, &found);
	if (found && entry->compiled != NULL && entry->compiled->valid && (for_trigger || !entry->compiled->broken))
		return entry->compiled;

	before = invalidations;
	compiled = build_compiled(mapping_id, for_trigger);
	/* what was invalidated meanwhile serves this once, under the caller's lock, but not for next time */
	if (compiled != NULL && before != invalidations)
		compiled->valid = false;
	entry = hash_search(compiled_cache, &mapping_id, HASH_ENTER, &found);
	if (found && entry->compiled != NULL)
	{
		forget_tables();
		retire(entry->compiled->context);
	}
	entry->compiled = compiled;
	if (compiled == NULL)
		hash_search(compiled_cache, &mapping_id, HASH_REMOVE, NULL);
	else if (!compiled->broken)
		note_held(compiled);	/* compiling it has locked them */
	return compiled;
}

/* The mapping as it is once its tables are locked; what was compiled before may be of another shape of theirs. */
static DwCompiled *
hold(DwCompiled *compiled, bool for_trigger)
{
	if (compiled == NULL || compiled->broken || is_held(compiled))
		return compiled;
	LockRelationOid(compiled->old_key.relid, AccessShareLock);
	LockRelationOid(compiled->new_key.relid, AccessShareLock);
	if (!compiled->valid)
		return get_compiled(compiled->mapping_id, for_trigger);
	note_held(compiled);
	return compiled;
}

DwCompiled *
dw_compiled_get(int32 mapping_id)
{
	return hold(get_compiled(mapping_id, false), false);
}

DwCompiled *
dw_compiled_hold(DwCompiled *compiled)
{
	compiled = hold(compiled, true);
	return compiled == NULL || compiled->broken ? NULL : compiled;
}

DwFlow *
dw_flow_hold(DwFlow *flow)
{
	DwDirection direction = flow->direction;
	DwCompiled *compiled = flow->compiled;

	if (flow->held_in == releases)
		return flow;
	LockRelationOid(flow->target, RowExclusiveLock);
	if (!compiled->valid)
		compiled = get_compiled(compiled->mapping_id, true);
	if (compiled == NULL || compiled->broken)
		return NULL;
	compiled->flow[direction].held_in = releases;
	return &compiled->flow[direction];
}

/* Does child's new table reference parent's? */
static bool
references(DwCompiled *child, DwCompiled *parent)
{
	Relation	rel;
	ListCell   *lc;
	bool		result = false;

	if (child->new_key.relid == parent->new_key.relid)
		return false;
	rel = table_open(child->new_key.relid, AccessShareLock);
	foreach(lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *fk = lfirst(lc);

		result |= fk->confrelid == parent->new_key.relid;
	}
	table_close(rel, NoLock);
	return result;
}

/* Parents before children, otherwise in the order given; a cycle of references keeps the order given. */
static List *
order_by_references(List *mappings)
{
	List	   *ordered = NIL;

	while (mappings != NIL)
	{
		DwCompiled *next = NULL;
		ListCell   *lc;

		foreach(lc, mappings)
		{
			DwCompiled *candidate = lfirst(lc);
			bool		waits = false;
			ListCell   *other;

			foreach(other, mappings)
				waits |= lfirst(other) != candidate && references(candidate, lfirst(other));
			if (!waits)
			{
				next = candidate;
				break;
			}
		}
		if (next == NULL)
			next = linitial(mappings);
		ordered = lappend(ordered, next);
		mappings = list_delete_ptr(mappings, next);
	}
	return ordered;
}

List *
dw_compiled_of(int32 migration_id)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, dw_mappings_of(migration_id))
	{
		DwCompiled *compiled = dw_compiled_get(((DwMapping *) lfirst(lc))->id);

		if (compiled != NULL)
			result = lappend(result, compiled);
	}
	return order_by_references(result);
}

static bool
has_flush_trigger(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (strcmp(triggers->triggers[i].tgname, "~dualwrite_flush") == 0 &&
			triggers->triggers[i].tgenabled == TRIGGER_FIRES_ALWAYS)
			return true;
	return false;
}

/* Topmost table of a leaf, itself for a table that is no partition. */
static Oid
root_of(Relation rel)
{
	if (!rel->rd_rel->relispartition)
		return RelationGetRelid(rel);
	return llast_oid(get_partition_ancestors(RelationGetRelid(rel)));
}

static void
compare_with_root(DwTable *table, Relation rel)
{
	Relation	root;

	table->flushed = has_flush_trigger(rel);
	if (table->root == table->relid)
		return;
	root = table_open(table->root, AccessShareLock);
	table->flushed &= has_flush_trigger(root);
	table->to_root = convert_tuples_by_name(CreateTupleDescCopyConstr(RelationGetDescr(rel)),
											CreateTupleDescCopyConstr(RelationGetDescr(root)));
	if (table->to_root != NULL)
	{
		table->root_slot = MakeSingleTupleTableSlot(table->to_root->outdesc, &TTSOpsVirtual);
		table->root_slot_old = MakeSingleTupleTableSlot(table->to_root->outdesc, &TTSOpsVirtual);
	}
	table_close(root, NoLock);
}

static void
free_plan(void *arg)
{
	SPIPlanPtr	plan = ((DwLookedUp *) arg)->plan;

	if (plan != NULL)
		SPI_freeplan(plan);
}

/* Do several columns ask the same of the table?  Then once is enough. */
static bool
is_asked_already(List *list, const DwCompiled *compiled, const DwDependency *dependency)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		DwLookedUp *other = lfirst(lc);

		if (other->compiled == compiled && other->dependency->direction == dependency->direction &&
			strcmp(other->dependency->query, dependency->query) == 0)
			return true;
	}
	return false;
}

/* What a mapping wants to know about changes of the table's rows. */
static void
add_looked_up(DwTable *table, DwCompiled *compiled, MemoryContext context)
{
	ListCell   *lc;

	foreach(lc, compiled->mapping->dependencies)
	{
		DwDependency *dependency = lfirst(lc);
		MemoryContextCallback *callback;
		DwLookedUp *looked_up;

		if (dependency->lookup != table->root || is_asked_already(table->as_lookup, compiled, dependency))
			continue;
		looked_up = palloc0(sizeof(DwLookedUp));
		looked_up->dependency = dependency;
		looked_up->compiled = compiled;
		looked_up->context = context;
		callback = palloc0(sizeof(MemoryContextCallback));
		callback->func = free_plan;
		callback->arg = looked_up;
		MemoryContextRegisterResetCallback(context, callback);
		table->as_lookup = lappend(table->as_lookup, looked_up);
	}
}

static DwTable *
build_table(Relation rel, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	DwTable    *table = palloc0(sizeof(DwTable));
	uint64		before = invalidations;
	ListCell   *lc;

	table->context = context;
	table->relid = RelationGetRelid(rel);
	table->root = root_of(rel);
	compare_with_root(table, rel);
	foreach(lc, dw_mappings_on(table->root))
	{
		DwCompiled *compiled = get_compiled(lfirst_int(lc), true);

		if (compiled == NULL)
			continue;
		if (compiled->old_key.relid == table->root)
			table->as_old = lappend(table->as_old, compiled);
		else
			table->as_new = lappend(table->as_new, compiled);
	}
	table->as_old = order_by_references(table->as_old);
	foreach(lc, dw_mappings_looking_up(table->root))
	{
		DwCompiled *compiled = get_compiled(lfirst_int(lc), true);

		if (compiled != NULL)
			add_looked_up(table, compiled, context);
	}
	/* a mapping that looks its own table up may have been compiled twice, and the first one goes with the transaction */
	table->valid = before == invalidations;
	MemoryContextSwitchTo(old);
	return table;
}

/* Is every mapping that it points to still the cached one? */
static bool
table_is_current(DwTable *table)
{
	ListCell   *lc;

	if (!table->valid)
		return false;
	foreach(lc, table->as_old)
		if (!((DwCompiled *) lfirst(lc))->valid)
			return false;
	foreach(lc, table->as_new)
		if (!((DwCompiled *) lfirst(lc))->valid)
			return false;
	foreach(lc, table->as_lookup)
		if (!((DwLookedUp *) lfirst(lc))->compiled->valid)
			return false;
	return true;
}

DwTable *
dw_table_get(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	TableEntry *entry;
	MemoryContext context;
	DwTable    *table;
	bool		found;

	notice_settings();
	/* mostly it is the table of the row before */
	if (last_table != NULL && last_table->relid == relid && table_is_current(last_table))
		return last_table;
	entry = hash_search(table_cache, &relid, HASH_FIND, &found);
	if (found && entry->table != NULL && table_is_current(entry->table))
		return last_table = entry->table;

	context = AllocSetContextCreate(TopTransactionContext, "dualwrite table", ALLOCSET_SMALL_SIZES);
	table = build_table(rel, context);
	MemoryContextSetParent(context, CacheMemoryContext);
	entry = hash_search(table_cache, &relid, HASH_ENTER, &found);
	if (found && entry->table != NULL)
		retire(entry->context);
	last_table = NULL;
	entry->table = table;
	entry->context = context;
	return table;
}

/* A table may be gone by now; its leaves then are, too. */
static void
invalidate_heaps(Oid table)
{
	ListCell   *lc;

	foreach(lc, dw_heaps_of(table, NoLock))
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(lc))))
			CacheInvalidateRelcacheByRelid(lfirst_oid(lc));
}

void
dw_mapping_invalidate(int32 migration_id)
{
	List	   *mappings = dw_mappings_of(migration_id);
	ListCell   *lc;

	CacheInvalidateRelcacheByRelid(get_relname_relid("migration", get_namespace_oid("_dualwrite", false)));
	foreach(lc, mappings)
	{
		invalidate_heaps(((DwMapping *) lfirst(lc))->old_table);
		invalidate_heaps(((DwMapping *) lfirst(lc))->new_table);
	}
	foreach(lc, dw_lookups_of(mappings))
		invalidate_heaps(lfirst_oid(lc));
}
