/*
 * Definitions of migrations.  An error leaves nothing behind: each call is one statement.
 */
CREATE FUNCTION dualwrite.create_migration(migration text, old_table regclass DEFAULT NULL, new_table regclass DEFAULT NULL,
		forward jsonb DEFAULT '{}', reverse jsonb DEFAULT '{}', filter text DEFAULT NULL, key_columns text[] DEFAULT NULL,
		delivery text DEFAULT 'inline') RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_create_migration_sql';
COMMENT ON FUNCTION dualwrite.create_migration(text, regclass, regclass, jsonb, jsonb, text, text[], text) IS
	'defines a migration, with its first mapping when tables are given. forward: new column -> SQL expression over the old row, null = not mapped; reverse: old column -> expression over the new row; filter: which old rows; key_columns: of the new table; delivery: inline or queued';

CREATE FUNCTION dualwrite.add_mapping(migration text, old_table regclass, new_table regclass,
		forward jsonb DEFAULT '{}', reverse jsonb DEFAULT '{}', filter text DEFAULT NULL, key_columns text[] DEFAULT NULL,
		delivery text DEFAULT 'inline', owns text DEFAULT 'both') RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_add_mapping_sql';
COMMENT ON FUNCTION dualwrite.add_mapping(text, regclass, regclass, jsonb, jsonb, text, text[], text, text) IS
	'adds a mapping to a migration in phase defined; arguments as in create_migration. owns: which rows the mapping brings into being and takes away, both, new, old or neither; where it does not, it fills its columns only';

CREATE FUNCTION dualwrite.alter_mapping(migration text, old_table regclass, new_table regclass,
		forward jsonb DEFAULT NULL, reverse jsonb DEFAULT NULL, filter text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_alter_mapping_sql';
COMMENT ON FUNCTION dualwrite.alter_mapping(text, regclass, regclass, jsonb, jsonb, text) IS
	'changes the columns named in forward and reverse, and the filter (''true'' for all rows); NULL leaves them as they are. Up to phase verify, and in read_switch at 0 %; rows are then brought to agreement again in the background';

CREATE FUNCTION dualwrite.drop_mapping(migration text, old_table regclass, new_table regclass) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_drop_mapping_sql';
COMMENT ON FUNCTION dualwrite.drop_mapping(text, regclass, regclass) IS
	'drops a mapping of a migration in phase defined or complete; the tables and the audit stay';

CREATE FUNCTION dualwrite.drop_migration(migration text) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_drop_migration_sql';
COMMENT ON FUNCTION dualwrite.drop_migration(text) IS
	'drops a migration in phase defined or complete, with its mappings, settings, queue and drift; the tables and the audit stay';

CREATE FUNCTION dualwrite.preview(migration text, rows int DEFAULT 10, OUT old_table regclass, OUT new_table regclass,
		OUT key jsonb, OUT old_row jsonb, OUT new_row jsonb) RETURNS SETOF record
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_preview_sql';
COMMENT ON FUNCTION dualwrite.preview(text, int) IS
	'the first rows of each mapping, in the order of the old key, and what they become on the new side; key and new_row are NULL for rows that the filter leaves out. Writes nothing';
