/*
 * catalog.h: migrations and mappings as they are stored.
 */
#ifndef DW_CATALOG_H
#define DW_CATALOG_H

#include "dualwrite.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

typedef struct DwMigration
{
	int32		id;
	char	   *name;
	DwPhase		phase;
	TimestampTz phase_since;
	int32		epoch;
	bool		paused;
	bool		filled;
	bool		repair_suspended;
	bool		names_swapped;
	bool		old_dropped;
	double		read_percent;
	char	   *created_by;		/* role, which may be gone */
	bool		restored;		/* origin differs: came from a dump, its data does not count as copied */
} DwMigration;

/* One mapped column of the target side. */
typedef struct DwColumn
{
	char	   *name;
	char	   *expression;		/* over the source row, every name in it qualified */
	bool		insert_only;
	bool		is_constant;
	bool		not_null;		/* to be NOT NULL by cutover */
} DwColumn;

/* A table that a sub-select of the mapping reads: which source rows depend on a row of it. */
typedef struct DwDependency
{
	int32		id;
	DwDirection direction;
	char	   *column;			/* of the target */
	Oid			lookup;
	char	   *lookup_name;	/* qualified, quoted */
	char	   *query;			/* of the source's key columns, every name in it qualified */
} DwDependency;

typedef struct DwMapping
{
	int32		id;
	int32		migration_id;
	int32		ordinal;
	Oid			old_table;
	Oid			new_table;
	char	   *old_name;		/* qualified, quoted */
	char	   *new_name;
	char	   *filter;			/* qualified expression over the old row, or NULL */
	List	   *columns[2];		/* of DwColumn, by DwDirection: what the target side is made of */
	List	   *dependencies;	/* of DwDependency */
	List	   *key_columns;	/* of char *: new side, the mapping's key */
	List	   *old_key_columns;	/* of char * */
	bool		queued;			/* delivery => 'queued' */
	DwOwns		owns;
} DwMapping;

/* By name.  ERROR 42704 when there is none.  lock: FOR UPDATE, so that two callers take turns. */
extern DwMigration *dw_migration_get(const char *name, bool lock);
/* By id; NULL when it is gone. */
extern DwMigration *dw_migration_by_id(int32 id, bool lock);
/*
 * ERROR 42501 unless the caller owns all tables of the migration (or is superuser).  One that has no table, or none any more,
 * belongs to the role that created it.
 */
extern void dw_migration_check_owner(const DwMigration *migration);
/* Mappings of a migration by ordinal; of DwMapping. */
extern List *dw_mappings_of(int32 migration_id);
extern DwMapping *dw_mapping_by_id(int32 id);
/* Ids of the mappings that have the table (not a leaf of it) on either side, outside phase defined; integer list. */
extern List *dw_mappings_on(Oid relid);
/* Ids of the mappings that look rows of the table up, outside phases defined and complete; integer list. */
extern List *dw_mappings_looking_up(Oid relid);
/* Tables that any of the mappings looks up, each once; list of OIDs. */
extern List *dw_lookups_of(List *mappings);

/* Append to the audit.  Phases as DwPhase or -1; detail may be NULL; waived is an integer-free list of char *. */
extern void dw_event_record(const char *migration, const char *event, int from_phase, int to_phase,
							List *waived, const char *reason, const char *detail_json);

/* System identifier and database OID, as migration.origin holds them. */
extern char *dw_origin(void);

extern const char *dw_phase_name(DwPhase phase);
/* ERROR 22023 for a word that is no phase. */
extern DwPhase dw_phase_from_name(const char *name);

extern const char *dw_owns_word(DwOwns owns);
/* ERROR 22023 for another word. */
extern DwOwns dw_owns_from_word(const char *word);

#endif							/* DW_CATALOG_H */
