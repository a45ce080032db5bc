-- Definitions with foreign tables.  Nothing here connects to the foreign server.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION file_fdw;
CREATE SCHEMA define_foreign;
SET search_path = define_foreign, public;
CREATE SERVER define_foreign_far FOREIGN DATA WRAPPER postgres_fdw;
CREATE SERVER define_foreign_file FOREIGN DATA WRAPPER file_fdw;
\pset format unaligned
\pset tuples_only on

CREATE TABLE items (id int PRIMARY KEY, name text, code text NOT NULL UNIQUE);
CREATE FOREIGN TABLE far_items (id bigint, name text, code text) SERVER define_foreign_far;
CREATE FOREIGN TABLE file_items (id bigint, name text) SERVER define_foreign_file OPTIONS (filename '/dev/null');
CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE parts_far PARTITION OF parts FOR VALUES FROM (0) TO (10) SERVER define_foreign_far;

CREATE TABLE parts_by_name (id int, name text) PARTITION BY LIST (name);
CREATE FOREIGN TABLE parts_by_name_far PARTITION OF parts_by_name DEFAULT SERVER define_foreign_far;
CREATE TABLE parts_by_hash (id int, name text) PARTITION BY RANGE ((id % 10));
CREATE FOREIGN TABLE parts_by_hash_far PARTITION OF parts_by_hash DEFAULT SERVER define_foreign_far;

CREATE FUNCTION try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RAISE SQLSTATE 'DW000';			-- accepted, and undone
EXCEPTION WHEN SQLSTATE 'DW000' THEN
	RETURN NEXT 'accepted';
WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT;
	RETURN NEXT state || '  ' || message;
	IF detail <> '' THEN RETURN NEXT '  DETAIL  ' || detail; END IF;
	IF hint <> '' THEN RETURN NEXT '  HINT  ' || hint; END IF;
END $$;

-- Only the new side may be foreign, and it must be writable.
SELECT try($$SELECT dualwrite.create_migration('bad', 'far_items', 'items')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'items', 'file_items')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'parts', 'items')$$);
-- Partitions may be, where the key says which one a row belongs to.
SELECT try($$SELECT dualwrite.create_migration('good', 'items', 'parts')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'items', 'parts_by_name')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'items', 'parts_by_hash')$$);

-- The key is that of the old table where it is plainly mapped, or as declared.
SELECT dualwrite.create_migration('far', 'items', 'far_items', delivery => 'queued');
SELECT key_columns, old_key_columns, delivery FROM _dualwrite.mapping WHERE new_table = 'far_items'::regclass;
INSERT INTO items VALUES (1, 'one', 'a');
SELECT key, new_row FROM dualwrite.preview('far');
SELECT dualwrite.drop_migration('far');
SELECT dualwrite.create_migration('far', 'items', 'far_items', key_columns => '{code}');
SELECT key_columns, old_key_columns, delivery FROM _dualwrite.mapping WHERE new_table = 'far_items'::regclass;
SELECT dualwrite.drop_migration('far');
SELECT try($$SELECT dualwrite.create_migration('bad', 'items', 'far_items', key_columns => '{name}')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'items', 'far_items', '{"id": "id + 1"}')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'items', 'far_items', '{"id": "id + 1", "code": "lower(code)"}')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'items', 'far_items', '{"id": "id + 1"}', '{"id": "id - 1"}', key_columns => '{id}')$$);

SET client_min_messages = error;
DROP SCHEMA define_foreign CASCADE;
DROP EXTENSION postgres_fdw CASCADE;
DROP EXTENSION file_fdw CASCADE;
