-- Every type that a column or a key can have, in both directions: both sides are compared as text by plain EXCEPT, so that what
-- counts is what a reader sees, not what the extension or the type's equality says.  A type that a later PostgreSQL adds
-- makes this test fail until it has its line in the table below.
\set QUIET on
SET client_min_messages = warning;
SET xmlbinary = base64;
SELECT no_plan();

CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (x int, y text);
CREATE TYPE nested AS (p pair, many pair[]);
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN short AS varchar(5) NOT NULL;
CREATE DOMAIN of_pairs AS pair CHECK ((value).x > 0);
CREATE DOMAIN domain_of_domain AS positive CHECK (value < 1000);
CREATE DOMAIN array_domain AS int[] CHECK (cardinality(value) > 0);
CREATE COLLATION no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- a, b, c: three different values; what is awkward about a type is among them.
CREATE TABLE cases (name text PRIMARY KEY, type text, a text, b text, c text);
INSERT INTO cases (name, type, a, b, c) VALUES
	('bool', 'boolean', 'true', 'false', NULL),
	('int2', 'smallint', '1', '-32768', '32767'),
	('int4', 'integer', '1', '-2147483648', '2147483647'),
	('int8', 'bigint', '1', '-9223372036854775808', '9223372036854775807'),
	('oid', 'oid', '1', '4294967295', '0'),
	('float4', 'real', '1', 'NaN', '-Infinity'),
	('float8', 'double precision', '5e-324', 'NaN', 'Infinity'),
	('negative_zero', 'double precision', '1', '-0', '0'),
	('numeric', 'numeric', '1.0', 'NaN', '-123456789012345678901234567890.123456789'),
	('display_scale', 'numeric', '1.0', '1.00', '1.000'),
	('numeric_infinity', 'numeric', '0', 'Infinity', '-Infinity'),
	('numeric_typmod', 'numeric(10,2)', '1', '2.5', '99999999.99'),
	('money', 'money', '1', '-92233720368547758.08', '3.50'),
	('text', 'text', '', 'ä € 𝄞', 'line' || chr(10) || 'tab' || chr(9) || '\'),
	('varchar', 'varchar(20)', 'a', 'b ', ''),
	('bpchar', 'char(5)', 'a', 'ab', 'abcde'),
	('bpchar_free', 'bpchar', 'a', 'ab ', ' '),
	('char', '"char"', 'a', 'b', ''),
	('name', 'name', 'a', repeat('n', 63), ''),
	('no_case', 'text COLLATE no_case', 'a', 'B', 'cC'),
	('bytea', 'bytea', '\x', '\x00ff', '\x5c5c'),
	('bit', 'bit(3)', '101', '000', '111'),
	('varbit', 'bit varying', '', '0', '1111111111'),
	('uuid', 'uuid', '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
	('date', 'date', '2024-02-29', 'infinity', '4713-01-01 BC'),
	('time', 'time', '00:00', '24:00', '12:34:56.789012'),
	('timetz', 'timetz', '00:00+00', '24:00-15:59', '12:34:56.789012+05:45'),
	('timestamp', 'timestamp', '2024-02-29 12:00', '-infinity', '294276-12-31 23:59:59.999999'),
	('timestamptz', 'timestamptz', '2024-02-29 12:00+02', 'infinity', '-infinity'),
	('timestamptz_typmod', 'timestamptz(0)', '2024-02-29 12:00+02', '2024-02-29 12:00:01.6+02', '1900-01-01 00:00:00 UTC'),
	('interval', 'interval', '1 mon', '-178000000 years 1 day -00:00:01', '1 day 24:00:00'),
	('json', 'json', '{"a":  1, "a": 2}', '[]', 'null'),
	('jsonb', 'jsonb', '{"a": 1}', '[1.0, 1.00]', 'null'),
	('jsonpath', 'jsonpath', '$.a', 'strict $[*] ? (@ > 1)', '$'),
	('xml', 'xml', '<a b="c"/>', '<a><!-- x --></a>', 'text'),
	('inet', 'inet', '10.0.0.1', '10.0.0.1/24', '::1'),
	('cidr', 'cidr', '10.0.0.0/8', '10.0.0.0/9', '::/0'),
	('macaddr', 'macaddr', '08:00:2b:01:02:03', '00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff'),
	('macaddr8', 'macaddr8', '08:00:2b:01:02:03:04:05', '00:00:00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff:ff:ff'),
	('point', 'point', '(1,2)', '(-0,NaN)', '(Infinity,0)'),
	('line', 'line', '{1,2,3}', '{0,1,0}', '{1,0,0}'),
	('lseg', 'lseg', '((0,0),(1,1))', '((0,0),(0,0))', '((1,1),(0,0))'),
	('box', 'box', '((1,1),(0,0))', '((0,0),(0,0))', '((2,1),(0,0))'),
	('path', 'path', '((0,0),(1,1))', '[(0,0),(1,1)]', '((0,0))'),
	('polygon', 'polygon', '((0,0),(1,1),(2,0))', '((0,0))', '((0,0),(2,0),(1,1))'),
	('circle', 'circle', '<(0,0),1>', '<(0,0),0>', '<(1,0),1>'),
	('tsvector', 'tsvector', 'a:1 b:2A', '', 'a b'),
	('tsquery', 'tsquery', 'a & b', 'a <-> b', '!a'),
	('pg_lsn', 'pg_lsn', '0/0', 'FFFFFFFF/FFFFFFFF', '16/B374D848'),
	('pg_snapshot', 'pg_snapshot', '1:1:', '10:20:10,14,15', '10:20:'),
	('txid_snapshot', 'txid_snapshot', '1:1:', '10:20:10,14,15', '10:20:'),
	('xid', 'xid', '3', '4294967295', '0'),
	('xid8', 'xid8', '3', '18446744073709551615', '0'),
	('cid', 'cid', '0', '1', '4294967295'),
	('tid', 'tid', '(0,1)', '(4294967295,65535)', '(0,0)'),
	('oidvector', 'oidvector', '1 2', '', '3'),
	('int2vector', 'int2vector', '1 2', '', '3'),
	('refcursor', 'refcursor', 'a', 'b', ''),
	('aclitem', 'aclitem', 'postgres=r/postgres', '=r/postgres', 'postgres=w/postgres'),
	('regclass', 'regclass', 'pg_class', 'pg_type', '-'),
	('regtype', 'regtype', 'integer', 'text', 'boolean[]'),
	('regproc', 'regproc', 'now', 'pg_catalog.boolin', '-'),
	('regprocedure', 'regprocedure', 'abs(integer)', 'lower(text)', '-'),
	('regoper', 'regoper', '||/', '0', '|/'),
	('regoperator', 'regoperator', '+(integer,integer)', '=(text,text)', '0'),
	('regrole', 'regrole', 'postgres', 'pg_monitor', '-'),
	('regnamespace', 'regnamespace', 'pg_catalog', 'public', '-'),
	('regconfig', 'regconfig', 'english', 'simple', 'german'),
	('regdictionary', 'regdictionary', 'simple', 'english_stem', 'german_stem'),
	('regcollation', 'regcollation', '"C"', '"POSIX"', 'no_case'),
	('int4range', 'int4range', '[1,5)', 'empty', '(,)'),
	('int8range', 'int8range', '[1,5)', 'empty', '(,)'),
	('numrange', 'numrange', '[1.0,5)', '[2.00,5)', '(1,)'),
	('daterange', 'daterange', '[2024-01-01,2024-02-01)', '[-infinity,infinity]', '(,)'),
	('tsrange', 'tsrange', '[2024-01-01,2024-02-01)', 'empty', '(,)'),
	('tstzrange', 'tstzrange', '[2024-01-01,2024-02-01)', 'empty', '(,)'),
	('int4multirange', 'int4multirange', '{[1,5),[7,9)}', '{}', '{(,)}'),
	('int8multirange', 'int8multirange', '{[1,5),[7,9)}', '{}', '{(,)}'),
	('nummultirange', 'nummultirange', '{[1.0,5)}', '{}', '{(,)}'),
	('datemultirange', 'datemultirange', '{[2024-01-01,2024-02-01)}', '{}', '{(,)}'),
	('tsmultirange', 'tsmultirange', '{[2024-01-01,2024-02-01)}', '{}', '{(,)}'),
	('tstzmultirange', 'tstzmultirange', '{[2024-01-01,2024-02-01)}', '{}', '{(,)}'),
	('textrange', 'textrange', '[a,b)', 'empty', '(,z)'),
	('mood', 'mood', 'sad', 'ok', NULL),
	('pair', 'pair', '(1,a)', '(,)', '(2,"b,""c""")'),
	('nested', 'nested', '("(1,a)","{""(2,b)"",""(3,c)""}")', '(,)', '(,{})'),
	('positive', 'positive', '1', '2', '3'),
	('short', 'short', 'a', 'b', 'c'),
	('of_pairs', 'of_pairs', '(1,a)', '(2,b)', '(3,)'),
	('domain_of_domain', 'domain_of_domain', '1', '2', '999'),
	('array_domain', 'array_domain', '{1}', '{1,2}', '{NULL}'),
	('int_array', 'integer[]', '{}', '{1,NULL,3}', '[0:2]={1,2,3}'),
	('matrix', 'text[][]', '{{a,b},{c,d}}', '{}', '{{"",NULL}}'),
	('pair_array', 'pair[]', '{"(1,a)"}', '{}', '{NULL,"(,)"}'),
	('mood_array', 'mood[]', '{sad}', '{}', '{ok,sad}'),
	('range_array', 'int4range[]', '{"[1,2)"}', '{}', '{empty}');

-- What pg_type holds besides has no values that a table could be filled with.
SELECT is((SELECT string_agg(typname, ' ' ORDER BY typname) FROM pg_type
	WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'
	AND typname NOT IN ('gtsvector', 'pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_brin_bloom_summary', 'pg_brin_minmax_multi_summary')
	AND oid NOT IN (SELECT split_part(type, ' COLLATE', 1)::regtype FROM cases)), NULL, 'every built-in type has its case');
DO $$ BEGIN PERFORM '<a/>'::text::xml; EXCEPTION WHEN feature_not_supported THEN DELETE FROM cases WHERE type = 'xml'; END $$;	-- built without libxml

-- columns: a value of its own, an array of it, and one on each side that the other has not
CREATE SCHEMA col;
CREATE TABLE has_array AS SELECT name, t.typarray <> 0 AND name !~ 'vector$' AS yes
	FROM cases JOIN pg_type t ON t.oid = split_part(type, ' COLLATE', 1)::regtype;
SELECT format('CREATE TABLE col.%1$I (gone int, id int PRIMARY KEY, v %2$s, many %3$s, mine int DEFAULT 1);
	ALTER TABLE col.%1$I DROP COLUMN gone;
	CREATE TABLE col.%4$I (many %3$s, own text DEFAULT ''own'', v %2$s, id bigint PRIMARY KEY);',
	c.name, type, CASE WHEN yes THEN split_part(type, ' COLLATE', 1) || '[]' ELSE 'text' END, c.name || '_new')
	FROM cases c JOIN has_array USING (name) \gexec
SELECT dualwrite.create_migration('columns');
SELECT dualwrite.add_mapping('columns', format('col.%I', name)::regclass, format('col.%I', name || '_new')::regclass) FROM cases;

-- A value of the case, and an array of two; a NULL stands for itself, where the type takes one.
CREATE FUNCTION value_of(c cases, literal text) RETURNS text LANGUAGE sql AS $$
	SELECT format('%L::%s, %s', CASE WHEN c.type = 'short' THEN coalesce(literal, 'null') ELSE literal END, c.type,
		CASE WHEN yes THEN format('ARRAY[%L, %L]::%s[]', coalesce(literal, c.a), c.a, split_part(c.type, ' COLLATE', 1)) ELSE 'NULL' END)
	FROM has_array WHERE name = c.name $$;
-- Run a statement for every case: {t}, {n} the tables, {a}, {b}, {c}, {null} values for (v, many).
CREATE FUNCTION each_case(statement text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE c cases;
BEGIN
	FOR c IN TABLE cases LOOP
		EXECUTE replace(replace(replace(replace(replace(replace(statement, '{t}', format('col.%I', c.name)), '{n}', format('col.%I', c.name || '_new')),
			'{a}', value_of(c, c.a)), '{b}', value_of(c, c.b)), '{c}', value_of(c, c.c)), '{null}', value_of(c, NULL));
	END LOOP;
END $$;
-- Names of the cases whose sides are not the same to the eye.
CREATE FUNCTION disagreeing() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	c cases;
	result text := '';
BEGIN
	FOR c IN TABLE cases LOOP
		IF differences(format('SELECT id::bigint, v::text COLLATE "C", many::text FROM col.%I', c.name),
			format('SELECT id, v::text COLLATE "C", many::text FROM col.%I', c.name || '_new')) > 0 THEN
			result := result || ' ' || c.name;
		END IF;
	END LOOP;
	RETURN result;
END $$;

SELECT each_case('INSERT INTO {t} VALUES (1, {a}), (2, {b}), (3, {c}), (4, {null})');
CALL dualwrite.run('columns', 'verify');
SELECT is(disagreeing(), '', 'columns: copied by the backfill');
SELECT each_case('INSERT INTO {t} VALUES (11, {a}), (12, {b}), (13, {c}), (14, {null})');
SELECT is(disagreeing(), '', 'columns: INSERT');
SELECT each_case('UPDATE {t} SET (v, many) = (SELECT {b}) WHERE id IN (1, 11, 14); UPDATE {t} SET (v, many) = (SELECT {c}) WHERE id IN (2, 12); UPDATE {t} SET (v, many) = (SELECT {a}) WHERE id = 4');
SELECT is(disagreeing(), '', 'columns: UPDATE to another value, also to one that its type calls equal');
SELECT each_case('UPDATE {t} SET (v, many) = (SELECT {null}) WHERE id IN (3, 13)');
SELECT is(disagreeing(), '', 'columns: UPDATE to NULL');
SELECT each_case('UPDATE {t} SET mine = 2; UPDATE {t} SET v = v; UPDATE {t} SET id = id + 100 WHERE id < 3; DELETE FROM {t} WHERE id = 12');
SELECT is(disagreeing(), '', 'columns: UPDATE of another column, of the key, DELETE');
CALL dualwrite.run('columns', 'read_switch');
SELECT each_case('INSERT INTO {n} (id, v, many) VALUES (21, {a}), (22, {b}), (23, {c}), (24, {null})');
SELECT is(disagreeing(), '', 'columns: INSERT on the new side');
SELECT each_case('UPDATE {n} SET (v, many) = (SELECT {b}) WHERE id IN (21, 101, 24); UPDATE {n} SET (v, many) = (SELECT {c}) WHERE id = 22; UPDATE {n} SET (v, many) = (SELECT {null}) WHERE id = 23');
SELECT is(disagreeing(), '', 'columns: UPDATE on the new side');
SELECT each_case('UPDATE {n} SET id = id + 200 WHERE id < 15; UPDATE {n} SET own = ''x''; DELETE FROM {n} WHERE id = 22; INSERT INTO {t} VALUES (31, {c}); UPDATE {t} SET v = v');
SELECT is(disagreeing(), '', 'columns: key changes and DELETE there, then the old side again');
SELECT is((SELECT count(*) FROM dualwrite.reconcile('columns') WHERE missing + extra + different > 0), 0::bigint, 'columns: a reconciliation finds nothing');

-- Types without an equality operator are compared by their bytes, so that a difference is seen in every type; only what a type
-- itself calls equal (-0 and 0, 1.00 and 1.000) is none.
SELECT dualwrite.pause('columns');
SELECT each_case('ALTER TABLE {n} DISABLE TRIGGER USER; UPDATE {n} SET (v, many) = (SELECT {b}) WHERE id = 31; ALTER TABLE {n} ENABLE TRIGGER USER');
SELECT is((SELECT string_agg(new_table::text, ' ' ORDER BY new_table::text) FROM dualwrite.reconcile('columns') WHERE different <> 1),
	'col.display_scale_new col.negative_zero_new', 'columns: a difference is found in every type');
SELECT is(dualwrite.repair('columns'), (SELECT count(*) - 2 FROM cases), 'columns: and repaired');
UPDATE col.display_scale SET v = 1 WHERE id = 31;
UPDATE col.negative_zero SET v = 1 WHERE id = 31;
SELECT is(disagreeing(), '', 'columns: on both sides');

-- enum values that come later
ALTER TYPE mood ADD VALUE 'happy' BEFORE 'ok';
INSERT INTO col.mood VALUES (50, 'happy', '{happy}'); INSERT INTO col.mood_array VALUES (50, '{happy}', NULL);
INSERT INTO col.mood_new (id, v) VALUES (51, 'happy');
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
UPDATE col.mood SET v = 'blue' WHERE id = 50;
SELECT is(disagreeing(), '', 'enum values added and renamed later');

-- keys: every type with a btree, alone and as part of a composite key in another order
CREATE SCHEMA k;
CREATE TABLE keyed (name text PRIMARY KEY);
DO $$
DECLARE c cases;
BEGIN
	FOR c IN SELECT * FROM cases WHERE name NOT IN ('display_scale', 'negative_zero') LOOP
	BEGIN
		EXECUTE format('CREATE TABLE k.%I (k %s PRIMARY KEY, v int)', c.name, c.type);
		EXECUTE format('CREATE TABLE k.%I (v int, own text DEFAULT ''own'', k %s, PRIMARY KEY (k))', c.name || '_new', c.type);
		EXECUTE format('CREATE TABLE k.%I (k %s, n int, v int, PRIMARY KEY (k, n))', c.name || '_2', c.type);
		EXECUTE format('CREATE TABLE k.%I (v int, n bigint, own int DEFAULT 7, k %s, PRIMARY KEY (n, k))', c.name || '_2_new', c.type);
		INSERT INTO keyed VALUES (c.name);
	EXCEPTION WHEN undefined_object THEN NULL;	-- no btree
	END;
	END LOOP;
END $$;
SELECT is((SELECT string_agg(type, ' ' ORDER BY type) FROM cases WHERE name NOT IN (TABLE keyed) AND type NOT IN ('numeric', 'double precision', 'xml')),
	'aclitem box cid circle json jsonpath line lseg path pg_snapshot point polygon refcursor txid_snapshot xid', 'all types but these can be keys');
SELECT dualwrite.create_migration('keys');
SELECT dualwrite.add_mapping('keys', format('k.%I', name)::regclass, format('k.%I', name || '_new')::regclass) FROM keyed;
SELECT dualwrite.add_mapping('keys', format('k.%I', name || '_2')::regclass, format('k.%I', name || '_2_new')::regclass) FROM keyed;
-- {t}, {n}: the tables; {2}, {2n}: those with a composite key; {a}, {b}, {c}: keys
CREATE FUNCTION each_key(statement text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE c cases;
BEGIN
	FOR c IN SELECT cases.* FROM cases JOIN keyed USING (name) LOOP
		BEGIN
			EXECUTE replace(replace(replace(replace(replace(replace(replace(statement, '{t}', format('k.%I', c.name)), '{n}', format('k.%I', c.name || '_new')),
				'{2}', format('k.%I', c.name || '_2')), '{2n}', format('k.%I', c.name || '_2_new')),
				'{a}', quote_literal(c.a) || '::' || c.type), '{b}', quote_literal(c.b) || '::' || c.type),
				'{c}', quote_literal(coalesce(c.c, 'happy')) || '::' || c.type);
		EXCEPTION WHEN OTHERS THEN
			RAISE EXCEPTION '%: %', c.name, sqlerrm;
		END;
	END LOOP;
END $$;
CREATE FUNCTION keys_disagreeing() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	c text;
	result text := '';
BEGIN
	FOR c IN TABLE keyed LOOP
		IF differences(format('SELECT k::text COLLATE "C", v FROM k.%I', c), format('SELECT k::text COLLATE "C", v FROM k.%I', c || '_new')) > 0 OR
			differences(format('SELECT k::text COLLATE "C", n::bigint, v FROM k.%I', c || '_2'), format('SELECT k::text COLLATE "C", n, v FROM k.%I', c || '_2_new')) > 0 THEN
			result := result || ' ' || c;
		END IF;
	END LOOP;
	RETURN result;
END $$;
UPDATE cases SET a = 'blue' WHERE name = 'mood';
UPDATE cases SET a = '{blue}', c = '{ok,blue}' WHERE name = 'mood_array';
UPDATE cases SET a = 't', c = NULL WHERE name = 'bool';
DELETE FROM keyed WHERE name = 'bool';		-- two values only: below
SELECT each_key('INSERT INTO {t} VALUES ({a}, 1); INSERT INTO {2} VALUES ({a}, 1, 1), ({a}, 2, 2)');
CALL dualwrite.run('keys', 'verify');
SELECT is(keys_disagreeing(), '', 'keys: copied by the backfill');
SELECT each_key('INSERT INTO {t} VALUES ({b}, 2); UPDATE {t} SET v = 3 WHERE k = {a}; INSERT INTO {2} VALUES ({b}, 1, 3); UPDATE {2} SET v = 4 WHERE n = 1');
SELECT is(keys_disagreeing(), '', 'keys: INSERT, UPDATE');
SELECT each_key('UPDATE {t} SET k = {c} WHERE k = {a}; UPDATE {2} SET k = {c} WHERE k = {b}; UPDATE {2} SET n = 3 - n WHERE k = {a} AND n = 3');
SELECT is(keys_disagreeing(), '', 'keys: the key changes');
SELECT each_key('UPDATE {t} SET k = {a} WHERE k = {b}; DELETE FROM {t} WHERE k = {c}; DELETE FROM {2} WHERE k = {c}');
SELECT is(keys_disagreeing(), '', 'keys: and once more, DELETE');
CALL dualwrite.run('keys', 'read_switch');
SELECT each_key('INSERT INTO {n} (k, v) VALUES ({b}, 9); UPDATE {n} SET v = 8 WHERE k = {a}; INSERT INTO {2n} (k, n, v) VALUES ({b}, 1, 3); UPDATE {2n} SET v = 4 WHERE n = 1');
SELECT is(keys_disagreeing(), '', 'keys: INSERT, UPDATE on the new side');
SELECT each_key('UPDATE {n} SET k = {c} WHERE k = {a}; UPDATE {2n} SET k = {c} WHERE k = {b}; DELETE FROM {n} WHERE k = {b}; DELETE FROM {2n} WHERE k = {a} AND n = 2; INSERT INTO {t} VALUES ({b}, 7)');
SELECT is(keys_disagreeing(), '', 'keys: changes and DELETE on the new side');
SELECT is((SELECT count(*) FROM dualwrite.reconcile('keys') WHERE missing + extra + different > 0), 0::bigint, 'keys: a reconciliation finds nothing');
SELECT dualwrite.pause('keys');
SELECT each_key('ALTER TABLE {n} DISABLE TRIGGER USER; UPDATE {n} SET v = 0; DELETE FROM {n} WHERE k = {b}; ALTER TABLE {n} ENABLE TRIGGER USER');
SELECT is((SELECT string_agg(concat_ws(' ', old_table, missing, extra, different), ', ') FROM dualwrite.reconcile('keys') WHERE missing + different > 0 AND (missing <> 1 OR different <> 1)), NULL,
	'keys: a row that is missing and one that differs are found with every key');
SELECT is(dualwrite.repair('keys'), 2 * (SELECT count(*) FROM keyed), 'keys: and repaired by the key that drift shows');
SELECT is(keys_disagreeing(), '', 'keys: on both sides');

INSERT INTO k.bool VALUES (true, 1), (false, 2);
SELECT throws_ok('UPDATE k.bool SET k = true', '23505', NULL, 'bool: a duplicate key is the application''s own error');
DELETE FROM k.bool WHERE k; UPDATE k.bool SET k = true;
SELECT is(differences('TABLE k.bool', 'SELECT k, v FROM k.bool_new'), 0::bigint, 'keys: bool');

-- keys that change only to the eye: the type calls the new one equal
CREATE TABLE k.looks (n numeric, f float8, t text COLLATE no_case, v int, PRIMARY KEY (n, f, t));
CREATE TABLE k.looks_new (t text COLLATE no_case, v int, n numeric, f float8, own int DEFAULT 7, PRIMARY KEY (t, n, f));
CREATE FUNCTION looks_same() RETURNS bigint LANGUAGE sql AS $f$
	SELECT differences($$SELECT n::text, f::text, t COLLATE "C", v FROM k.looks$$, $$SELECT n::text, f::text, t COLLATE "C", v FROM k.looks_new$$) $f$;
SELECT dualwrite.create_migration('looks', 'k.looks', 'k.looks_new');
CALL dualwrite.run('looks', 'verify');
INSERT INTO k.looks VALUES (1.0, -0, 'a', 1), (2, 0, 'b', 1);
UPDATE k.looks SET n = 1.00 WHERE n = 1;
UPDATE k.looks SET f = 0 WHERE n = 1;
UPDATE k.looks SET t = 'A' WHERE n = 1;
SELECT is(looks_same(), 0::bigint, 'a key that changes to one which its type calls equal');
UPDATE k.looks SET t = upper(t), v = 2;
DELETE FROM k.looks WHERE t = 'a';
INSERT INTO k.looks VALUES (1, 0, 'a', 3) ON CONFLICT DO NOTHING;
INSERT INTO k.looks VALUES (1.0000, -0, 'A', 4) ON CONFLICT (n, f, t) DO UPDATE SET v = 5, t = excluded.t;
SELECT is(looks_same(), 0::bigint, 'and is looked for by it');
CALL dualwrite.run('looks', 'read_switch');
UPDATE k.looks_new SET n = n + 0.000;
UPDATE k.looks_new SET t = lower(t), f = -0.0::float8;
SELECT is(looks_same(), 0::bigint, 'the same on the new side');

-- A domain is given another constraint, and loses it again, when mirrors are at work already
CREATE DOMAIN bounded AS int;
CREATE DOMAIN bounded_twice AS bounded;
CREATE TABLE plain_ints (id int PRIMARY KEY, v int, w int, x int);
CREATE TABLE bounded_ints (id bigint PRIMARY KEY, v bounded, w bounded_twice, x int);
SELECT dualwrite.create_migration('bounded', 'plain_ints', 'bounded_ints', '{"x": "(x::bounded)::int"}', '{"x": "x"}');
SELECT dualwrite.pause('bounded');
SELECT dualwrite.advance('bounded');
SELECT dualwrite.advance('bounded');
INSERT INTO plain_ints VALUES (1, 1000, 1000, 1000);
ALTER DOMAIN bounded ADD CONSTRAINT low CHECK (value < 100) NOT VALID;
SELECT throws_ok('INSERT INTO plain_ints VALUES (2, 150, 1, 1)', '23514', NULL, 'what the new side''s domain has come to forbid is refused');
SELECT throws_ok('INSERT INTO plain_ints VALUES (2, 1, 150, 1)', '23514', NULL, 'by a domain over it, too');
SELECT throws_ok('INSERT INTO plain_ints VALUES (2, 1, 1, 150)', '23514', NULL, 'and within an expression');
ALTER DOMAIN bounded DROP CONSTRAINT low;
SELECT lives_ok('INSERT INTO plain_ints VALUES (2, 150, 150, 150)', 'until it does not any more');
SELECT is((SELECT count(*) FROM plain_ints JOIN bounded_ints USING (id, v, w, x)), 2::bigint, 'and all that was accepted is there');

SELECT * FROM finish();
