/*
 * mapping.h: mappings compiled for this backend.
 *
 * The key of a mapping is always its new-side key (DwKey).  The old-side key is computed from it, so that one value
 * names the logical row in either direction.
 */
#ifndef DW_MAPPING_H
#define DW_MAPPING_H

#include "catalog.h"
#include "heaps.h"
#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* Values of key columns in the order of the mapping's (or the old side's) key columns; never null. */
typedef struct DwKey
{
	Datum		values[INDEX_MAX_KEYS];
} DwKey;

/* A side's key: columns and the unique index over them (InvalidOid for a foreign table). */
typedef struct DwKeyShape
{
	Oid			relid;			/* the table, not a leaf */
	Oid			index;
	int			ncolumns;
	AttrNumber	columns[INDEX_MAX_KEYS];
} DwKeyShape;

/* Of anything that names both tables: are they the same one, whose columns move inside it? */
#define DW_IN_PLACE(m) ((m)->old_table == (m)->new_table)
#define DW_FLOW_IN_PLACE(flow) ((flow)->source == (flow)->target)

typedef struct DwProjection DwProjection;	/* private to compile.c */
struct DwCompiled;

/* One direction of a compiled mapping. */
typedef struct DwFlow
{
	struct DwCompiled *compiled;
	DwDirection direction;
	Oid			source;			/* tables, not leaves */
	Oid			target;
	const DwKeyShape *source_key;
	const DwKeyShape *target_key;
	TupleDesc	source_desc;	/* copies, of the tables at the time of compilation */
	TupleDesc	target_desc;
	Bitmapset  *mapped;			/* target attribute numbers written by updates */
	Bitmapset  *inserted;		/* those written by inserts: mapped and insert-only */
	Bitmapset  *used;			/* source attribute numbers that key, mapped columns, filter and scope are made of */
	Oid			source_owner;
	Oid			target_owner;
	bool		target_runs_code;	/* of users, apart from what its leaves and indexes do */
	bool		runs_queries;	/* has sub-selects */
	bool		target_has_triggers;	/* foreign keys or users', apart from ours */
	bool		target_has_rivals;	/* rows that exclude each other by more than the key */
	bool		owns_target;	/* brings target rows into being and takes them away */
	DwProjection *projection;
	struct DwScope *scope;		/* reverse only; NULL without constants */
	uint64		held_in;		/* private to mapping.c: dw_flow_hold */
	struct DwKept *kept;		/* private to kept.c */
	bool		neighbours_known;	/* this and the next five are private to statement.c */
	uint64		neighbours_as_of;
	uint64		neighbours_held_in;
	bool		shares_target;
	List	   *followers;
	List	   *fillers;
} DwFlow;

typedef struct DwCompiled
{
	const DwMapping *mapping;	/* the definition, in the same memory */
	const char *migration;		/* name */
	int32		mapping_id;
	int32		migration_id;
	DwPhase		phase;			/* as of the last invalidation */
	bool		filled;
	bool		queue_errors;	/* forward mirrors queue what fails: shadow, or mirror_on_error = queue */
	bool		discard;		/* shadow_discard: forward mirrors are tried and undone */
	bool		broken;			/* shadow only: it does not compile, and the application must not notice */
	bool		early_children;	/* new rows may reference rows that are still to be backfilled, or copied by a subscription, or be
								 * referenced by rows that wait in the queue for theirs: that much is queued, too */
	DwKeyShape	old_key;
	DwKeyShape	new_key;
	bool		new_is_foreign;
	bool		computed_key;	/* two keys of one side may lead to the same one of the other: to be looked at before writing */
	bool		user_code;		/* some expression has to run as the owner, and under pinned settings */
	bool		reads_tables;	/* some expression has a sub-select, or code of users, which may: a row is not all it depends on */
	DwFlow		flow[2];		/* by DwDirection */
	List	   *domains;		/* hash values of the domains that expressions cast to: their constraints are compiled in */
	MemoryContext context;
	struct DwKeyMap *key_map[2];	/* by direction: source key to target key; private to keymap.c */
	struct DwPairing *pairing;	/* in place: which old and new columns belong together; private to pairing.c */
	bool		valid;			/* cleared by invalidation callbacks */
} DwCompiled;

/* A mapping that looks rows of a table up, as that table's trigger sees it. */
typedef struct DwLookedUp
{
	const DwDependency *dependency;	/* in the memory of: */
	DwCompiled *compiled;
	struct _SPI_plan *plan;		/* finds the keys that depend on a row; made when first needed */
	Bitmapset  *columns;		/* of the table, that the plan reads */
	Bitmapset  *relevant;		/* those and what the sub-selects read; NULL: nobody knows */
	MemoryContext context;		/* to keep both in */
} DwLookedUp;

/* A table that carries our triggers, as the trigger sees it. */
typedef struct DwTable
{
	Oid			relid;			/* as fired: may be a leaf */
	Oid			root;
	bool		flushed;		/* it and its root carry the statement triggers: work may wait for them */
	TupleConversionMap *to_root;	/* leaf row -> row of the root; NULL where they look the same */
	TupleTableSlot *root_slot;	/* for that */
	TupleTableSlot *root_slot_old;	/* a second one, for the image before an update */
	List	   *as_old;			/* of DwCompiled: mappings in which it is the old table, parents first */
	List	   *as_new;
	List	   *as_lookup;		/* of DwLookedUp */
	MemoryContext context;		/* it lives in */
	struct DwRowCheck *check;	/* private to rowcheck.c */
	bool		valid;
} DwTable;

/*
 * Compiled mapping by id, rebuilt when anything under it changed, with both tables locked (ACCESS SHARE), so that it goes on to fit
 * them.  The caller holds a lock on one of them.  ERROR 55000 when tables have been altered so that it no longer compiles.
 * Valid until the end of the transaction; NULL when the mapping is gone.
 */
extern DwCompiled *dw_compiled_get(int32 mapping_id);
/*
 * A table may be altered until it is locked: what dw_table_get hands out has to be held before a row is made with it.  Returns what
 * fits now, which may be another one; NULL when the mapping is gone, or is in shadow and fits no more.
 * compiled_hold: both tables are locked (ACCESS SHARE).  flow_hold: the target is, to be written (ROW EXCLUSIVE); the caller
 * has locked the source.
 */
extern DwCompiled *dw_compiled_hold(DwCompiled *compiled);
extern DwFlow *dw_flow_hold(DwFlow *flow);
/* Changes whenever locks may have been let go: what was held before has to be held again. */
extern uint64 dw_locks_generation(void);
/* All of a migration, parents before children by the new side's foreign keys; list of DwCompiled. */
extern List *dw_compiled_of(int32 migration_id);
/* Changes whenever a mapping or a table may have changed; what was concluded from them holds as long as this is the same. */
extern uint64 dw_mapping_generation(void);
/* What a trigger on this relation has to do. */
extern DwTable *dw_table_get(Relation rel);

/*
 * The target row of a source row: fills out, whose descriptor is flow->target_desc, in the columns of flow->inserted
 * (others null).  false: the row has no counterpart (filter, or another mapping's scope) and out is empty.  snapshot: for
 * sub-selects; NULL = newest.  Runs code of users as the owner of the source.  The values live until the second next
 * call for this flow (so that an old and a new image can be held against each other), and as long as source.
 */
extern bool dw_project(DwFlow *flow, TupleTableSlot *source, TupleTableSlot *out, Snapshot snapshot);

/*
 * The same in the columns of flow->mapped alone, which are all that updates and comparisons look at: what is for inserts only may
 * take a number from a sequence, or do anything else that wants to be done once.
 */
extern bool dw_project_mapped(DwFlow *flow, TupleTableSlot *source, TupleTableSlot *out, Snapshot snapshot);

/* Does the row pass the filter, or the scope?  (dw_project asks, too.) */
extern bool dw_in_mapping(DwFlow *flow, TupleTableSlot *source);

/*
 * Key values on one side of the flow from those on the other.  false: no such value there (out of range, null, an
 * expression that fails).  The values live until the next call for this flow.
 */
extern bool dw_key_across(DwFlow *flow, const DwKey *source_key, DwKey *target_key);
/* May there be an expression that fails?  It is tried in a subtransaction, which not everybody can have. */
extern bool dw_key_may_fail(const DwFlow *flow);
/* The one source column that column i of the target key is made of; 0: none, or several. */
extern AttrNumber dw_key_made_of(const DwFlow *flow, int i);
/* Old-side key values from the mapping's key, and back. */
extern bool dw_old_key(DwCompiled *compiled, const DwKey *key, DwKey *old_key);
extern bool dw_key_of_old(DwCompiled *compiled, const DwKey *old_key, DwKey *key);
/* Key of the mapping from a row of the new table. */
extern void dw_key_of_new(DwCompiled *compiled, TupleTableSlot *new_row, DwKey *key);
/* Key columns of a row; false when one is null. */
extern bool dw_key_of_row(const DwKeyShape *shape, TupleTableSlot *row, DwKey *key);
/* The same values, wherever they are: a key need be no larger than it has columns. */
static inline void
dw_key_set(const DwKeyShape *shape, const DwKey *from, DwKey *to)
{
	memcpy(to->values, from->values, shape->ncolumns * sizeof(Datum));
}

/* Copy key values of a table with this descriptor into the current memory context. */
extern void dw_key_copy(TupleDesc desc, const DwKeyShape *shape, const DwKey *from, DwKey *to);
/* The mapping's key on the source / the target side of the flow; false as above. */
extern bool dw_source_key(DwFlow *flow, const DwKey *key, DwKey *source_key);
extern bool dw_target_key(DwFlow *flow, const DwKey *key, DwKey *target_key);

/*
 * ERROR 23514 unless the target key leads back to the source key: written there, the row would take another row's place.
 * To be asked before a row appears under a key of a mapping with computed_key.
 */
extern void dw_key_must_return(DwFlow *flow, const DwKey *source_key, const DwKey *target_key);

/* Key as users see it, new-side columns, and back.  ERROR 22023 with hint for a key with wrong columns. */
extern Jsonb *dw_key_to_jsonb(DwCompiled *compiled, const DwKey *key);
extern void dw_key_from_jsonb(DwCompiled *compiled, Jsonb *json, DwKey *key);
/* For an old key that has none: under the names of the new-side columns the old values that they would be made of, or null. */
extern Jsonb *dw_key_material(DwFlow *forward, const DwKey *old_key);
/* Columns of a new-side row (attribute numbers in columns) as jsonb under their names, settings pinned. */
extern Jsonb *dw_row_to_jsonb(TupleDesc desc, TupleTableSlot *row, const Bitmapset *columns);

/*
 * Compare two rows of the flow's target in its mapped columns: NULL when they agree, else the attribute numbers that
 * differ.  Equal means: same bytes, or equal by the type's own equality where the type has no collation.
 */
extern Bitmapset *dw_rows_differ(DwFlow *flow, TupleTableSlot *a, TupleTableSlot *b);

/* Tell every backend that something about the mappings of this migration changed (at commit). */
extern void dw_mapping_invalidate(int32 migration_id);
extern void dw_mapping_init(void);

/* compile.c, for mapping.c: compile a definition in a memory context of its own. */
extern DwCompiled *dw_compile(const DwMapping *mapping, const DwMigration *migration, MemoryContext context);

#endif							/* DW_MAPPING_H */
