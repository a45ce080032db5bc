-- Definitions: what is accepted and what it becomes, what is refused and how.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA define_test;
SET search_path = define_test;
\pset format unaligned
\pset tuples_only on
\pset null '(null)'

-- Run a statement that should be refused; SQLSTATE, message, detail and hint, or 'accepted'.
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

-- What a migration has become.
CREATE FUNCTION shown(name text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s -> %s  key (%s) from (%s)  %s, owns %s%s', p.old_name, p.new_name,
				  array_to_string(p.key_columns, ', '), array_to_string(p.old_key_columns, ', '), p.delivery, p.owns,
				  '  filter ' || p.filter_expression) || coalesce((
			SELECT string_agg(format(E'\n  %s %I = %s%s%s', c.direction, c.column_name, c.expression,
						 CASE WHEN c.insert_only THEN '  on insert' END, CASE WHEN c.is_constant THEN '  constant' END),
					 '' ORDER BY c.direction, c.column_name COLLATE "C")
			FROM _dualwrite.mapping_column c WHERE c.mapping_id = p.id), '')
	FROM _dualwrite.mapping p JOIN _dualwrite.migration m ON m.id = p.migration_id WHERE m.name = $1 ORDER BY p.ordinal
$$;

CREATE FUNCTION refused(forward jsonb, reverse jsonb DEFAULT '{}', filter text DEFAULT NULL, key_columns text[] DEFAULT NULL)
RETURNS SETOF text LANGUAGE sql AS $$
	SELECT try(format('SELECT dualwrite.create_migration(''bad'', ''people'', ''people_new'', %L, %L, %L, %L)', $1, $2, $3, $4))
$$;

CREATE TABLE people (
	id int PRIMARY KEY,
	name text NOT NULL,
	mail varchar(100),
	age int2,
	price numeric,
	seen timestamp,
	born date,
	doc json,
	score float8,
	hidden int GENERATED ALWAYS AS (age + 1) STORED
);
CREATE TABLE people_new (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name varchar(50) NOT NULL,
	email text,
	age int,
	price numeric(12,2),
	doc jsonb,
	score int,
	made_at timestamptz DEFAULT now(),
	twice int GENERATED ALWAYS AS (age * 2) STORED,
	note text NOT NULL DEFAULT ''
);

-- Good definitions.
\echo * names, renames, casts, insert-only, generated and identity columns
SET client_min_messages = notice;
\set VERBOSITY default
SELECT dualwrite.create_migration('good', 'people', 'people_new',
	forward => '{"email": "lower(mail)", "score": "round(score)::int", "made_at": {"expr": "now()", "on": "insert"}}');
\set VERBOSITY terse
SET client_min_messages = warning;
SELECT shown('good');
SELECT migration, event, from_phase, to_phase, detail FROM _dualwrite.event WHERE migration = 'good' ORDER BY id;
INSERT INTO people VALUES (1, 'Ada', 'ADA@example.org', 36, 1.5, NULL, NULL, '{"a": 1}', 2.6), (2, 'Bob', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT old_table, new_table, key, old_row, new_row - 'made_at' FROM dualwrite.preview('good');
SELECT count(*) FROM dualwrite.preview('good', 1);
SELECT count(*) FROM dualwrite.preview('good', rows => 0);
SELECT try($$SELECT dualwrite.preview('good', -1)$$);
SELECT try($$SELECT dualwrite.preview('none')$$);

\echo * alter_mapping changes what it names and nothing else
SELECT dualwrite.alter_mapping('good', 'people', 'people_new', forward => '{"email": "mail"}');
SELECT shown('good');
SELECT dualwrite.alter_mapping('good', 'people', 'people_new', reverse => '{"price": null, "score": "score"}', filter => 'age >= 18');
SELECT shown('good');
SELECT forward, reverse, filter FROM _dualwrite.mapping WHERE old_table = 'people'::regclass;
SELECT key, new_row - 'made_at' FROM dualwrite.preview('good');
SELECT try($$SELECT dualwrite.alter_mapping('good', 'people', 'people_new', forward => '{"id": "id + 1"}')$$);
SELECT try($$SELECT dualwrite.alter_mapping('good', 'people_new', 'people')$$);
SELECT try($$SELECT dualwrite.alter_mapping('good', 'people', NULL)$$);
\echo * it keeps meaning what it meant under another search_path
CREATE FUNCTION lower(varchar) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'captured' $$;
SELECT dualwrite.alter_mapping('good', 'people', 'people_new', forward => '{"email": "lower(mail)"}');
SELECT new_row -> 'email' FROM dualwrite.preview('good');
DROP FUNCTION lower(varchar) CASCADE;
SELECT dualwrite.drop_migration('good');
SELECT event, from_phase FROM _dualwrite.event WHERE migration = 'good' ORDER BY id;
SELECT count(*) FROM _dualwrite.mapping_column;

-- Migrations.
\echo * migrations
SELECT dualwrite.create_migration('empty');
SELECT try($$SELECT dualwrite.create_migration('empty')$$);
SELECT try($$SELECT dualwrite.create_migration('')$$);
SELECT try($$SELECT dualwrite.create_migration(NULL)$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'people')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', new_table => 'people')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', filter => 'true')$$);
SELECT try($$SELECT dualwrite.add_mapping('none', 'people', 'people_new')$$);
SELECT try($$SELECT dualwrite.add_mapping('empty', 'people', NULL)$$);
SELECT try($$SELECT dualwrite.alter_mapping('none', 'people', 'people_new')$$);
SELECT try($$SELECT dualwrite.drop_mapping('empty', 'people', 'people_new')$$);
SELECT try($$SELECT dualwrite.drop_migration('none')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'people', 'people_new', delivery => 'pigeon')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'people', 'people_new', delivery => NULL)$$);
SELECT try($$SELECT dualwrite.add_mapping('empty', 'people', 'people_new', owns => 'everything')$$);

-- Relations.
\echo * relations
-- (its schema has a number in its name)
CREATE FUNCTION no_number(message text) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace($1, 'pg_temp_\d+', 'pg_temp') $$;
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
CREATE VIEW a_view AS SELECT id FROM people;
CREATE MATERIALIZED VIEW a_matview AS SELECT id FROM people;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (id int);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
CREATE TABLE parts_2 PARTITION OF parts_1 FOR VALUES FROM (0) TO (5);
CREATE TABLE plain (id int PRIMARY KEY);
SELECT r, no_number(t) FROM (SELECT r, try(format($$SELECT dualwrite.create_migration('bad', %L, 'plain')$$, r)) AS t
FROM unnest('{temporary,unlogged,a_view,a_matview,a_sequence,a_type,people_pkey,parent,child,parts_1,parts_2,
pg_catalog.pg_class,_dualwrite.setting,information_schema.sql_features,0,plain}'::text[]) r) x;
SELECT r, no_number(t) FROM (SELECT r, try(format($$SELECT dualwrite.create_migration('bad', 'people', %L)$$, r)) AS t
FROM unnest('{temporary,unlogged,a_view,child,parts_2,people}'::text[]) r) x;

-- The objects.
\echo * forward and reverse
SELECT try($$SELECT dualwrite.create_migration('bad', 'people', 'people_new', '[]')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'people', 'people_new', '"x"')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'people', 'people_new', reverse => '1')$$);
SELECT refused('{"email": 1}');
SELECT refused('{"email": true}');
SELECT refused('{"email": ["mail"]}');
SELECT refused('{"email": {}}');
SELECT refused('{"email": {"expr": null}}');
SELECT refused('{"email": {"on": "insert"}}');
SELECT refused('{"email": {"expr": "mail", "on": "update"}}');
SELECT refused('{"email": {"expr": "mail", "onn": "insert"}}');
SELECT refused('{"email": {"expr": "mail", "depends": []}}');
SELECT refused('{"email": {"expr": "mail", "depends": {"people": 1}}}');
SELECT refused('{"email": {"expr": "mail", "depends": {"people": "SELECT id FROM people WHERE id = changed.id"}}}');
SELECT refused('{"email": {"expr": "mail", "not_null": 1}}');
SELECT refused('{}', '{"mail": {"expr": "email", "not_null": true}}');
SELECT refused('{}', '{"mail": 1}');

-- Columns.
\echo * columns
SELECT refused('{"emial": "mail"}');
SELECT refused('{"zzzzzzzz": "mail"}');
SELECT refused('{"Email": "mail"}');
SELECT refused('{"ctid": "mail"}');
SELECT refused(jsonb_build_object(repeat('x', 100), 'mail'));
SELECT refused('{"twice": "age"}');
SELECT refused('{}', '{"nmae": "name"}');
SELECT refused('{}', '{"hidden": "age"}');
SELECT refused('{"name": null}');
SET client_min_messages = notice;
\set VERBOSITY default
SELECT refused('{"score": null}', '{"score": "score"}');
\set VERBOSITY terse
SET client_min_messages = warning;

-- Expressions.
\echo * expressions
SELECT refused('{"email": ""}');
SELECT refused('{"email": "mail,"}');
SELECT refused('{"email": "mail, name"}');
SELECT refused('{"email": "mail; DROP TABLE people"}');
SELECT refused('{"email": "mail FROM people"}');
SELECT refused('{"email": "mail AS x"}');
SELECT refused('{"email": "DISTINCT mail"}');
SELECT refused('{"email": "mail UNION SELECT name"}');
SELECT refused('{"email": "mail INTO x"}');
SELECT refused('{"email": "*"}');
SELECT refused('{"email": "people.*"}');
SELECT refused('{"email": "$1"}');
SELECT refused('{"email": "missing"}');
SELECT refused('{"email": "nothing.mail"}');
SELECT refused('{"email": "no_such_function(mail)"}');
SELECT refused('{"email": "ctid::text"}');
SELECT refused('{"email": "max(mail)"}');
SELECT refused('{"email": "row_number() OVER ()"}');
SELECT refused('{"email": "unnest(ARRAY[mail])"}');
SELECT refused('{"email": "(SELECT t.id::text FROM temporary t)"}');
CREATE FUNCTION pg_temp.f(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
SELECT refused('{"email": "pg_temp.f(mail)"}');
CREATE TABLE new_json (id int PRIMARY KEY, j json, k json);
SELECT try($$SELECT dualwrite.create_migration('bad', 'people', 'new_json', '{"j": "''{}''"}')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'people', 'new_json', '{"j": {"expr": "''{}''", "on": "insert"}}', '{"doc": "''{}''"}')$$);
SELECT refused('{"email": "(SELECT people::text)"}');
SELECT refused('{"email": "(SELECT p.name FROM parent x, people p FOR UPDATE OF p LIMIT 1)"}');
SELECT refused('{"age": "mail"}');
SELECT refused('{"age": "''x''"}');
SELECT refused('{"email": "random()::text"}');
SELECT refused('{"email": "current_user"}');
SELECT refused('{"email": "born::text"}');
SELECT refused('{"email": "(SELECT clock_timestamp()::text)"}');
SELECT refused('{"made_at": "seen"}');
SELECT refused('{}', '{"mail": "now()::text"}');
\echo * the place of an error
\set VERBOSITY default
SELECT dualwrite.create_migration('bad', 'people', 'people_new', '{"email": "lower(mial)"}');
SELECT dualwrite.create_migration('bad', 'people', 'people_new', '{"email": "lower(mail))"}');
\set VERBOSITY terse

\echo * filters
SELECT refused('{}', filter => 'name');
SELECT refused('{}', filter => 'seen > now()');
SELECT refused('{}', filter => 'id IN (SELECT p.id FROM parent p)');
SELECT refused('{}', filter => 'nothing');
SELECT refused('{}', filter => '');

-- Types that do not assign, time zones.
\echo * namesakes
CREATE TABLE old_types (id int PRIMARY KEY, a text, t timestamp, z timestamptz, d date);
CREATE TABLE new_int (id int PRIMARY KEY, a int);
CREATE TABLE new_t (id int PRIMARY KEY, t timestamptz);
CREATE TABLE new_z (id int PRIMARY KEY, z timestamp);
CREATE TABLE new_d (id int PRIMARY KEY, d timestamptz);
CREATE TABLE new_d2 (id int PRIMARY KEY, d text);
SELECT try(format($$SELECT dualwrite.create_migration('bad', 'old_types', %L)$$, r))
FROM unnest('{new_int,new_t,new_z,new_d,new_d2}'::text[]) r;
\echo * as the hints say
SELECT dualwrite.create_migration('t', 'old_types', 'new_t', '{"t": "t AT TIME ZONE ''UTC''"}');
SELECT dualwrite.create_migration('z', 'old_types', 'new_z', '{"z": "z AT TIME ZONE ''UTC''"}');
SELECT dualwrite.create_migration('d', 'old_types', 'new_d', '{"d": "d::timestamp AT TIME ZONE ''UTC''"}');
SELECT shown(m) FROM unnest('{t,z,d}'::text[]) m;
SELECT dualwrite.drop_migration(m) FROM unnest('{t,z,d}'::text[]) m;

-- Keys.
\echo * keys
SELECT refused('{"id": null}');
SELECT refused('{"id": "id + 1"}');
SELECT refused('{"id": {"expr": "id", "on": "insert"}}');
SELECT refused('{"id": "age"}');
SELECT refused('{"id": "id + age"}', '{"id": "id"}');
SELECT refused('{"id": "(SELECT people.id)"}', '{"id": "id"}');
SELECT refused('{}', key_columns => '{name}');
SELECT refused('{}', key_columns => '{id,id}');
SELECT refused('{}', key_columns => '{id,name}');
SELECT refused('{}', key_columns => '{}');
SELECT refused('{}', key_columns => '{NULL}');
SELECT refused('{}', key_columns => '{idd}');
CREATE TABLE no_key (id int, a text);
CREATE TABLE bad_keys (id int UNIQUE, a int NOT NULL UNIQUE DEFERRABLE, b int NOT NULL, c int NOT NULL);
CREATE UNIQUE INDEX bad_partial ON bad_keys (b) WHERE b > 0;
CREATE UNIQUE INDEX bad_expression ON bad_keys ((c + 1));
SELECT try($$SELECT dualwrite.create_migration('bad', 'no_key', 'plain')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'plain', 'no_key')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'plain', 'bad_keys', '{"a": "id", "b": "id", "c": "id"}')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'plain', 'bad_keys', '{"a": "id", "b": "id", "c": "id"}', key_columns => '{id}')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'plain', 'bad_keys', '{"a": "id", "b": "id", "c": "id"}', key_columns => '{a}')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'bad_keys', 'plain')$$);
\echo * a surrogate key of its own, so the natural one
CREATE TABLE k_old (a int NOT NULL, b text NOT NULL, c int, x numeric, PRIMARY KEY (b, a), UNIQUE (a, c));
CREATE TABLE k_new (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, c int, a bigint NOT NULL, b text NOT NULL, UNIQUE (c, a), UNIQUE (a, b));
SELECT dualwrite.create_migration('k', 'k_old', 'k_new');
SELECT shown('k');
SELECT dualwrite.drop_migration('k');
SELECT dualwrite.create_migration('k', 'k_old', 'k_new', key_columns => '{b,a}');
SELECT shown('k');
SELECT dualwrite.drop_migration('k');
\echo * computed there and back
CREATE TABLE u_old (id int PRIMARY KEY, v text);
CREATE TABLE u_new (id uuid PRIMARY KEY, v text);
INSERT INTO u_old VALUES (-1, 'x'), (10, 'y');
SELECT dualwrite.create_migration('u', 'u_old', 'u_new',
	forward => '{"id": "lpad(to_hex(id), 32, ''0'')::uuid"}',
	reverse => '{"id": "(''x'' || right(id::text, 8))::bit(32)::int"}');
SELECT shown('u');
SELECT * FROM dualwrite.preview('u');
SELECT dualwrite.drop_migration('u');

-- Odd names, sub-selects, user code.
\echo * odd names
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Select ""x""" ("Id" int PRIMARY KEY, "from" text, "ünïcode" text);
CREATE TABLE "Odd Schema"."new one" ("Id" int PRIMARY KEY, "where" text, "ünïcode" text);
SELECT dualwrite.create_migration('Ödd "name"', '"Odd Schema"."Select ""x"""', '"Odd Schema"."new one"',
	'{"where": "\"from\" || \"Select \"\"x\"\"\".\"ünïcode\""}', '{"from": "\"where\""}');
SELECT shown('Ödd "name"');
INSERT INTO "Odd Schema"."Select ""x""" VALUES (1, 'a', 'b');
SELECT * FROM dualwrite.preview('Ödd "name"');
SELECT dualwrite.drop_migration('Ödd "name"');
\echo * sub-selects and functions
CREATE TABLE codes (code text PRIMARY KEY, title text);
INSERT INTO codes VALUES ('x', 'Ex');
CREATE FUNCTION title(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT upper($1) $$;
CREATE TABLE s_old (id int PRIMARY KEY, code text);
CREATE TABLE s_new (id int PRIMARY KEY, title text, loud text, whole text);
CREATE FUNCTION whole(s_old) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN $1.id || $1.code; END $$;
SELECT dualwrite.create_migration('s', 's_old', 's_new',
	'{"title": "(SELECT c.title FROM codes c WHERE c.code = s_old.code)", "loud": "title(code)", "whole": "whole(s_old)"}',
	'{"code": null}');
SELECT shown('s');
INSERT INTO s_old VALUES (1, 'x'), (2, 'y');
SELECT key, new_row FROM dualwrite.preview('s');
ALTER TABLE s_old RENAME TO s_older;
SELECT key, new_row FROM dualwrite.preview('s');
SELECT dualwrite.drop_migration('s');

-- Several mappings.
\echo * unions
CREATE TABLE cats (id int PRIMARY KEY, name text);
CREATE TABLE dogs (id int PRIMARY KEY, name text, barks boolean);
CREATE TABLE pets (kind text, id int, name text, barks boolean, PRIMARY KEY (kind, id));
SELECT dualwrite.create_migration('pets', 'cats', 'pets', '{"kind": "''cat''"}');
SELECT try($$SELECT dualwrite.add_mapping('pets', 'cats', 'pets', '{"kind": "''dog''"}')$$);
SELECT try($$SELECT dualwrite.add_mapping('pets', 'dogs', 'pets', '{"kind": "''cat''"}')$$);
SELECT dualwrite.add_mapping('pets', 'dogs', 'pets', '{"kind": "''dog''"}');
SELECT shown('pets');
\echo * cycles
SELECT try($$SELECT dualwrite.create_migration('bad', 'pets', 'cats', '{}')$$);
SELECT try($$SELECT dualwrite.add_mapping('pets', 'pets', 'dogs', '{}')$$);
SELECT try($$SELECT dualwrite.create_migration('bad', 'cats', 'pets', '{"kind": "''cow''"}')$$);
SELECT dualwrite.drop_mapping('pets', 'dogs', 'pets');
SELECT shown('pets');
SELECT dualwrite.drop_migration('pets');
\echo * chains
SELECT dualwrite.create_migration('one', 'plain', 'parts');
CREATE TABLE plain_3 (id int PRIMARY KEY);
SELECT dualwrite.create_migration('two', 'parts', 'plain_3');
SELECT try($$SELECT dualwrite.create_migration('three', 'plain_3', 'plain')$$);
SELECT dualwrite.drop_migration('one');
SELECT dualwrite.drop_migration('two');
\echo * merges
CREATE TABLE m_users (id int PRIMARY KEY, name text);
CREATE TABLE m_mails (id int PRIMARY KEY, name text, mail text);
CREATE TABLE m_new (id int PRIMARY KEY, name text, mail text);
SELECT dualwrite.create_migration('merge', 'm_users', 'm_new');
SELECT try($$SELECT dualwrite.add_mapping('merge', 'm_mails', 'm_new')$$);
SELECT try($$SELECT dualwrite.add_mapping('merge', 'm_mails', 'm_new', owns => 'old')$$);
SELECT dualwrite.add_mapping('merge', 'm_mails', 'm_new', '{"name": null}', owns => 'old');
SELECT shown('merge');
SELECT dualwrite.drop_migration('merge');
\echo * splits
CREATE TABLE sp_old (id int PRIMARY KEY, name text, mail text, changed int);
CREATE TABLE sp_names (id int PRIMARY KEY, name text, changed int);
CREATE TABLE sp_mails (id int PRIMARY KEY, mail text, changed int);
SELECT dualwrite.create_migration('split', 'sp_old', 'sp_names');
SELECT try($$SELECT dualwrite.add_mapping('split', 'sp_old', 'sp_mails', reverse => '{"changed": "changed"}', owns => 'new')$$);
SET client_min_messages = notice;
SELECT dualwrite.add_mapping('split', 'sp_old', 'sp_mails', owns => 'new');
SET client_min_messages = warning;
SELECT shown('split');
SELECT dualwrite.drop_migration('split');

-- Rights.
\echo * rights
CREATE ROLE define_test_owner;
CREATE ROLE define_test_other;
GRANT USAGE ON SCHEMA define_test, dualwrite TO define_test_owner, define_test_other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dualwrite TO define_test_owner, define_test_other;
CREATE TABLE r_old (id int PRIMARY KEY);
CREATE TABLE r_new (id int PRIMARY KEY);
ALTER TABLE r_old OWNER TO define_test_owner;
SET ROLE define_test_owner;
SELECT try($$SELECT dualwrite.create_migration('r', 'r_old', 'r_new')$$);
SELECT try($$SELECT dualwrite.create_migration('r', 'r_new', 'r_old')$$);
RESET ROLE;
ALTER TABLE r_new OWNER TO define_test_owner;
SET ROLE define_test_owner;
SELECT dualwrite.create_migration('r', 'r_old', 'r_new');
SELECT count(*) FROM dualwrite.preview('r');
SET ROLE define_test_other;
SELECT try(s) FROM unnest(ARRAY[
	$$SELECT dualwrite.preview('r')$$,
	$$SELECT dualwrite.add_mapping('r', 'cats', 'dogs')$$,
	$$SELECT dualwrite.alter_mapping('r', 'r_old', 'r_new')$$,
	$$SELECT dualwrite.drop_mapping('r', 'r_old', 'r_new')$$,
	$$SELECT dualwrite.drop_migration('r')$$]) s;
RESET ROLE;
GRANT define_test_owner TO define_test_other;
SET ROLE define_test_other;
SELECT dualwrite.alter_mapping('r', 'r_old', 'r_new', filter => 'id > 0');
SELECT dualwrite.drop_migration('r');
RESET ROLE;

\echo * nothing is left behind
SELECT name FROM _dualwrite.migration ORDER BY name;
SELECT migration, event FROM _dualwrite.event WHERE migration = 'bad';
SELECT dualwrite.drop_migration('empty');
SET client_min_messages = error;
DROP SCHEMA define_test, "Odd Schema" CASCADE;
REVOKE ALL ON SCHEMA dualwrite FROM define_test_owner, define_test_other;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA dualwrite FROM define_test_owner, define_test_other;
DROP ROLE define_test_owner, define_test_other;
