-- What tables are made of: indexes of every kind, constraints that can wait, columns that fill themselves, columns that went or came,
-- values out of line, keys that are no primary keys or of another type, names; each written on both sides.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();
SELECT current_setting('server_version_num')::int >= 180000 AS virtual_columns \gset

-- every kind of index on the new side; what each finds is what a sequential scan finds
CREATE TABLE ix (id int PRIMARY KEY, tags text[], doc jsonb, words tsvector, during int4range, at point, n int, t text);
CREATE TABLE ix_new (LIKE ix, hits int DEFAULT 0, PRIMARY KEY (id), CONSTRAINT apart EXCLUDE USING gist (during WITH &&));
CREATE INDEX ON ix_new USING gin (tags);
CREATE INDEX ON ix_new USING gin (doc jsonb_path_ops) WITH (fastupdate = off);
CREATE INDEX ON ix_new USING gin (words);
CREATE INDEX ON ix_new USING gist (at);
CREATE INDEX ON ix_new USING spgist (t);
CREATE INDEX ON ix_new USING brin (n) WITH (pages_per_range = 1);
CREATE INDEX ON ix_new USING hash (n);
CREATE INDEX ON ix_new (lower(t) DESC NULLS LAST) INCLUDE (n);
CREATE INDEX ON ix_new (n) WHERE t = 'wanted';
CREATE UNIQUE INDEX ON ix_new ((doc->>'u')) WHERE n > 0;
SELECT dualwrite.create_migration('ix', 'ix', 'ix_new');
CALL dualwrite.run('ix', 'verify');
CREATE FUNCTION found_by(condition text) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
	line text;
	plan text := '';
	found bigint;
	there bigint;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN SELECT id FROM ix_new WHERE ' || condition LOOP
		plan := plan || line;
	END LOOP;
	IF plan !~ 'Index' THEN
		RAISE 'no index scan for %', condition;
	END IF;
	EXECUTE 'SELECT count(*) FROM ix_new WHERE ' || condition INTO found;
	EXECUTE 'SELECT count(*) FROM ix WHERE ' || condition INTO there;
	RETURN CASE WHEN found = there AND found > 0 THEN found ELSE -1 END;
END $$;
-- point and tsvector columns have no ordering of their own: compared as text
CREATE FUNCTION indexes_agree() RETURNS boolean LANGUAGE sql AS $f$
	SELECT bool_and(found_by(c) > 0) AND differences('SELECT ix::text FROM ix', 'SELECT (id, tags, doc, words, during, at, n, t)::text FROM ix_new') = 0
	FROM unnest(ARRAY[$$tags @> '{new}'$$, $$doc @> '{"k": 2}'$$, $$words @@ 'run'$$, $$during && '[1,1000000)'$$,
		$$at <@ box '((0,0),(9,9))'$$, $$t ^@ 'wan'$$, $$lower(t) = 'wanted'$$, $$n = 2 AND t = 'wanted'$$, $$n BETWEEN 2 AND 2$$, $$doc->>'u' = '3' AND n > 0$$]) c $f$;
INSERT INTO ix SELECT g, ARRAY['old', 'x' || g], jsonb_build_object('k', g % 5, 'u', g), to_tsvector('english', 'cats run ' || g), int4range(g * 10, g * 10 + 5),
	point(g, g), g % 10, CASE WHEN g % 2 = 0 THEN 'wanted' ELSE 'other' END FROM generate_series(1, 200) g;
UPDATE ix SET tags = '{new}', at = point(1, 1) WHERE id % 3 = 0;
UPDATE ix SET n = 2, t = 'wanted', during = int4range(id * 10 + 5, id * 10 + 7) WHERE id % 7 = 0;
DELETE FROM ix WHERE id % 11 = 0;
UPDATE ix SET id = id + 1000 WHERE id % 5 = 0;
SELECT ok(indexes_agree(), 'each index finds what was mirrored');
UPDATE ix SET n = n + 1 WHERE id = 2;
UPDATE ix SET n = n - 1 WHERE id = 2;
SELECT ok(indexes_agree(), 'also after an update that only a BRIN and a hash index notice');
SELECT throws_ok($$INSERT INTO ix (id, during) VALUES (9000, '[20,21)')$$, '23P01', NULL, 'the exclusion constraint of the new side holds');
SELECT throws_ok($$UPDATE ix SET doc = '{"u": 2}' WHERE id = 3$$, '23505', NULL, 'its unique expression index, too');
CALL dualwrite.run('ix', 'read_switch');
UPDATE ix_new SET t = upper(t), tags = tags || '{new}'::text[] WHERE id < 50;
DELETE FROM ix_new WHERE id > 1100;
UPDATE ix_new SET t = lower(t);
SELECT ok(indexes_agree(), 'and with writes of the new side');

-- unique constraints that wait for the end of the statement, or of the transaction
CREATE TABLE du (id int PRIMARY KEY, u int UNIQUE DEFERRABLE, w int UNIQUE DEFERRABLE INITIALLY DEFERRED, r int4range, EXCLUDE USING gist (r WITH &&) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE du_new (r int4range, w int, u int, id bigint PRIMARY KEY, UNIQUE (u) DEFERRABLE, UNIQUE (w) DEFERRABLE INITIALLY DEFERRED, EXCLUDE USING gist (r WITH &&) DEFERRABLE INITIALLY DEFERRED);
SELECT dualwrite.create_migration('du', 'du', 'du_new');
CALL dualwrite.run('du', 'verify');
CREATE FUNCTION du_same() RETURNS bigint LANGUAGE sql AS $$ SELECT differences('SELECT id::bigint, u, w, r FROM du', 'SELECT id, u, w, r FROM du_new') $$;
INSERT INTO du SELECT g, g, g, int4range(g, g + 1) FROM generate_series(1, 10) g;
UPDATE du SET u = 11 - u;
SELECT is(du_same(), 0::bigint, 'a swap under a deferrable unique constraint');
BEGIN;
UPDATE du SET w = 3 WHERE id = 4;
UPDATE du SET r = '[3,4)' WHERE id = 4;
UPDATE du SET w = 4, r = '[4,5)' WHERE id = 3;
COMMIT;
SELECT is(du_same(), 0::bigint, 'a swap in two statements under deferred ones');
BEGIN; UPDATE du SET w = 1 WHERE id = 2; SELECT throws_ok('SET CONSTRAINTS ALL IMMEDIATE', '23505', NULL, 'a deferred violation'); UPDATE du SET w = 2 WHERE id = 2; COMMIT;
SELECT is(du_same(), 0::bigint, 'and it is mended before the commit');
SELECT dualwrite.configure('du', 'mirror_on_error', 'queue');
UPDATE du SET u = 11 - u, w = 11 - w;
SELECT is(du_same(), 0::bigint, 'the swap with mirror_on_error = queue');
CALL dualwrite.run('du', 'read_switch');
BEGIN; UPDATE du_new SET w = 7 WHERE id = 8; UPDATE du_new SET u = 11 - u; UPDATE du_new SET w = 3 WHERE w = 7 AND id = 8; COMMIT;
SELECT is(du_same(), 0::bigint, 'the same on the new side');

-- a key that is deferrable names no row at any moment: another unique index has to
CREATE TABLE dk (id int PRIMARY KEY DEFERRABLE, code int NOT NULL UNIQUE, v text);
CREATE TABLE dk_new (v text, code int NOT NULL UNIQUE, id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
SELECT lives_ok($$SELECT dualwrite.create_migration('dk', 'dk', 'dk_new')$$, 'deferrable primary keys with a unique index beside them');
SELECT is((SELECT key_columns FROM dualwrite.mappings WHERE migration = 'dk'), '{code}', 'which is the key');
CALL dualwrite.run('dk', 'verify');
INSERT INTO dk VALUES (1, 10, 'a'), (2, 20, 'b'), (3, 30, 'c');
UPDATE dk SET id = 4 - id;
BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE dk SET id = 1 WHERE code = 20; UPDATE dk SET id = 2 WHERE code = 30; COMMIT;
UPDATE dk SET code = code + 1 WHERE id = 1;
SELECT is(differences('SELECT id, code, v FROM dk', 'SELECT id, code, v FROM dk_new'), 0::bigint, 'deferrable primary keys that swap');
CREATE TABLE dk2 (id int PRIMARY KEY DEFERRABLE, v text); CREATE TABLE dk2_new (id int PRIMARY KEY DEFERRABLE, v text);
SELECT throws_ok($$SELECT dualwrite.create_migration('dk2', 'dk2', 'dk2_new')$$, '55000', NULL, 'without one they are refused');

-- identity and serial columns on either side
CREATE TABLE se (id serial PRIMARY KEY, v text);
CREATE TABLE se_new (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, n bigserial);
CREATE TABLE idy (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE idy_new (v text, id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, c int GENERATED ALWAYS AS IDENTITY);
SELECT dualwrite.create_migration('se', 'se', 'se_new'); SELECT dualwrite.add_mapping('se', 'idy', 'idy_new');
CALL dualwrite.run('se', 'verify');
INSERT INTO se (v) VALUES ('a'), ('b'); INSERT INTO idy (v) VALUES ('a'), ('b'); INSERT INTO idy OVERRIDING SYSTEM VALUE VALUES (100, 'c');
UPDATE se SET id = DEFAULT WHERE v = 'b'; UPDATE idy SET v = 'B' WHERE v = 'b';
CREATE FUNCTION se_same() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('SELECT 1, id::bigint, v FROM se UNION ALL SELECT 2, id, v FROM idy', 'SELECT 1, id, v FROM se_new UNION ALL SELECT 2, id, v FROM idy_new') $$;
SELECT is(se_same(), 0::bigint, 'serial and identity keys');
SELECT is((SELECT count(DISTINCT n) FROM se_new) + (SELECT count(DISTINCT c) FROM idy_new), (SELECT count(*) FROM se) + (SELECT count(*) FROM idy),
	'identity and serial columns outside the mapping count for themselves');
CALL dualwrite.run('se', 'read_switch');
INSERT INTO se_new (v) VALUES ('new'); INSERT INTO se (v) VALUES ('old'); INSERT INTO idy_new (v) VALUES ('new'); INSERT INTO idy (v) VALUES ('old');
INSERT INTO se_new OVERRIDING SYSTEM VALUE VALUES (5000, 'given');
SELECT is(se_same(), 0::bigint, 'and when both sides insert');

-- generated columns on either side: made there, and read from there
CREATE TABLE ge (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, c int GENERATED ALWAYS AS (a + 1) STORED);
CREATE TABLE ge_new (s int GENERATED ALWAYS AS (coalesce(a, 0) + coalesce(b_copy, 0)) STORED, b_copy int, id int PRIMARY KEY, c int GENERATED ALWAYS AS (a + 1) STORED, a int);
SELECT dualwrite.create_migration('ge', 'ge', 'ge_new', forward => '{"b_copy": "b"}', reverse => '{"a": "a"}');
CREATE FUNCTION ge_same() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('SELECT id, a, b, c, a + b FROM ge', 'SELECT id, a, b_copy, c, s FROM ge_new') $$;
INSERT INTO ge (id, a) VALUES (1, 10);
CALL dualwrite.run('ge', 'verify');
INSERT INTO ge (id, a) VALUES (2, 20), (3, 30);
UPDATE ge SET a = a + 1 WHERE id < 3;
SELECT is(ge_same(), 0::bigint, 'generated columns: stored on both sides');
CALL dualwrite.run('ge', 'read_switch');
UPDATE ge_new SET a = 7, b_copy = 14 WHERE id = 1;
INSERT INTO ge_new (id, a, b_copy) VALUES (4, 1, 2);
SELECT is(ge_same(), 0::bigint, 'generated columns: written on the new side');
INSERT INTO ge (id, a) SELECT g, g FROM generate_series(100, 600) g; UPDATE ge SET a = a + 1 WHERE id % 2 = 0; DELETE FROM ge WHERE id % 5 = 0; UPDATE ge SET id = id + 10000 WHERE id > 300;
INSERT INTO ge_new (id, a, b_copy) SELECT g, g, 2 * g FROM generate_series(1001, 1300) g; DELETE FROM ge_new WHERE id % 4 = 0; UPDATE ge_new SET id = -id WHERE id % 3 = 0;
SELECT is(ge_same(), 0::bigint, 'generated columns: many rows on both sides');
\if :virtual_columns
CREATE TABLE gv (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL, f boolean GENERATED ALWAYS AS (a > 0) VIRTUAL);
CREATE TABLE gv_new (c int GENERATED ALWAYS AS (a - 1) VIRTUAL, b_copy int, id int PRIMARY KEY, a int, CHECK (c > -100));
SELECT dualwrite.create_migration('gv', 'gv', 'gv_new', forward => '{"b_copy": "b + 0"}', reverse => '{"a": "c + 1"}', filter => 'f');
CREATE FUNCTION gv_same() RETURNS bigint LANGUAGE sql AS $$ SELECT differences('SELECT id, a, b, a - 1 FROM gv WHERE f', 'SELECT id, a, b_copy, c FROM gv_new') $$;
INSERT INTO gv (id, a) VALUES (1, 10), (2, -10);
CALL dualwrite.run('gv', 'verify');
INSERT INTO gv (id, a) VALUES (3, 20), (4, -20);
UPDATE gv SET a = -a WHERE id > 2; UPDATE gv SET a = a + 1 WHERE id = 1;
SELECT is(gv_same(), 0::bigint, 'generated columns: virtual, in an expression and in the filter');
CALL dualwrite.run('gv', 'read_switch');
UPDATE gv_new SET a = 50, b_copy = 100 WHERE id = 1;
SELECT is(gv_same(), 0::bigint, 'generated columns: virtual, written on the new side');
INSERT INTO gv (id, a) SELECT g, CASE WHEN g % 3 = 0 THEN -g ELSE g END FROM generate_series(100, 600) g; UPDATE gv SET a = a + 1 WHERE id > 99; UPDATE gv SET a = -a WHERE id % 7 = 0 AND a > -50; DELETE FROM gv WHERE id % 5 = 0; UPDATE gv SET id = id + 10000 WHERE id > 300;
SELECT is(gv_same(), 0::bigint, 'generated columns: virtual, many rows');
INSERT INTO gv_new (id, a, b_copy) SELECT g, g, 2 * g FROM generate_series(1001, 1300) g; DELETE FROM gv_new WHERE id % 4 = 0; UPDATE gv_new SET id = -id WHERE id % 3 = 0;
SELECT is(gv_same(), 0::bigint, 'generated columns: virtual, many rows written on the new side');
SELECT throws_ok('UPDATE gv_new SET a = -200, b_copy = -400 WHERE id = 1', '23514', NULL, 'generated columns: virtual, a constraint on one');
TRUNCATE gv;
SELECT is((SELECT count(*) FROM gv_new), 0::bigint, 'generated columns: virtual, in a filter of TRUNCATE');
\endif

-- columns that went before and go meanwhile, columns that come, defaults that are in no row
CREATE TABLE dc (gone1 int, id int PRIMARY KEY, v text, gone2 text, w int);
INSERT INTO dc SELECT 1, g, 'v' || g, 'x', g FROM generate_series(1, 10) g;
ALTER TABLE dc DROP COLUMN gone1, DROP COLUMN gone2, ADD COLUMN fast text DEFAULT 'fast', ADD COLUMN later int DEFAULT 5 NOT NULL;
CREATE TABLE dc_new (later int, gone int, w int, id int PRIMARY KEY, fast text, v text);
ALTER TABLE dc_new DROP COLUMN gone;
SELECT dualwrite.create_migration('dc', 'dc', 'dc_new');
CALL dualwrite.run('dc', 'verify');
CREATE FUNCTION dc_same() RETURNS bigint LANGUAGE sql AS $$ SELECT differences('SELECT id, v, w, fast, later FROM dc', 'SELECT id, v, w, fast, later FROM dc_new') $$;
SELECT is(dc_same(), 0::bigint, 'a default that is in no row is copied');
UPDATE dc SET v = 'changed' WHERE id < 4;
SELECT is(dc_same(), 0::bigint, 'and mirrored');
ALTER TABLE dc ADD COLUMN extra text DEFAULT 'e';
ALTER TABLE dc_new ADD COLUMN own text DEFAULT 'own' NOT NULL, ADD COLUMN soon_gone int DEFAULT 3;
INSERT INTO dc VALUES (11, 'new', 1);
UPDATE dc SET v = 'again', extra = 'E' WHERE id IN (5, 11);
ALTER TABLE dc DROP COLUMN extra;
ALTER TABLE dc_new DROP COLUMN soon_gone;
UPDATE dc SET w = w + 1 WHERE id > 7;
DELETE FROM dc WHERE id = 8;
SELECT is(dc_same(), 0::bigint, 'columns that come and go during the migration');
SELECT is((SELECT count(*) FROM dc_new WHERE own <> 'own'), 0::bigint, 'columns outside the mapping keep their default');
CALL dualwrite.run('dc', 'read_switch');
UPDATE dc_new SET v = 'n', own = 'mine' WHERE id < 6; INSERT INTO dc_new (id, v, w, fast, later) VALUES (12, 'n', 2, 'f', 9);
SELECT is(dc_same(), 0::bigint, 'and with writes of the new side');
ALTER TABLE dc ALTER w TYPE bigint; ALTER TABLE dc_new ALTER w TYPE bigint;
UPDATE dc SET w = 5000000000 WHERE id = 1; UPDATE dc_new SET w = 6000000000 WHERE id = 2;
SELECT is(dc_same(), 0::bigint, 'a column whose type is changed on both sides');

-- values out of line, in a table with another kind of storage, and none left pointing to the old one
CREATE TABLE lo (id int PRIMARY KEY, ext text, comp text, arr text[], pair jsonb);
ALTER TABLE lo ALTER ext SET STORAGE EXTERNAL;
CREATE TABLE lo_new (pair jsonb, arr text[], comp text, id int PRIMARY KEY, ext text);
ALTER TABLE lo_new ALTER comp SET STORAGE EXTERNAL, ALTER arr SET STORAGE EXTERNAL;
SELECT dualwrite.create_migration('lo', 'lo', 'lo_new');
CREATE FUNCTION lo_same() RETURNS bigint LANGUAGE sql AS $$ SELECT differences('SELECT id, ext, comp, arr, pair FROM lo', 'SELECT id, ext, comp, arr, pair FROM lo_new') $$;
CREATE FUNCTION long(seed int) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(md5(g::text || seed), '') FROM generate_series(1, 500) g $$;
INSERT INTO lo SELECT g, long(g), repeat('c', 100000), ARRAY[long(g), 'short', repeat('z', 20000)], jsonb_build_object('k', long(g)) FROM generate_series(1, 6) g;
CALL dualwrite.run('lo', 'verify');
SELECT is(lo_same(), 0::bigint, 'long values: copied by the backfill');
INSERT INTO lo SELECT g, long(g), repeat('c', 100000), ARRAY[long(g)], jsonb_build_object('k', long(g)) FROM generate_series(11, 14) g;
UPDATE lo SET id = id + 100 WHERE id IN (1, 11);
UPDATE lo SET ext = ext || 'x' WHERE id = 2;
UPDATE lo SET comp = 'short now' WHERE id = 3;
BEGIN; UPDATE lo SET arr[2] = 'changed' WHERE id = 4; SAVEPOINT s; UPDATE lo SET ext = long(99) WHERE id = 5; ROLLBACK TO s; UPDATE lo SET id = -6 WHERE id = 6; COMMIT;
UPDATE lo SET id = id WHERE id = 12;
SELECT is(lo_same(), 0::bigint, 'long values: mirrored');
CALL dualwrite.run('lo', 'read_switch');
UPDATE lo_new SET comp = long(7) WHERE id IN (2, 13); INSERT INTO lo_new (id, ext) VALUES (50, long(50)); UPDATE lo_new SET id = 51 WHERE id = 50; UPDATE lo_new SET id = 102 WHERE id = 101;
SELECT is(lo_same(), 0::bigint, 'long values: written on the new side');
CREATE TABLE lo_kept AS SELECT id, md5(row(ext, comp, arr, pair)::text) AS sum FROM lo;
SELECT dualwrite.rollback('lo', 'defined', force => true) \gset
SELECT dualwrite.drop_migration('lo');
DROP TABLE lo;
VACUUM lo_new;
SELECT is(differences('SELECT * FROM lo_kept', 'SELECT id, md5(row(ext, comp, arr, pair)::text) FROM lo_new'), 0::bigint, 'long values: outlive the old table');

-- keys: a unique index and no primary key, another order, a constant, int to bigint, int to uuid
CREATE FUNCTION to_uuid(i int) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT lpad(to_hex(i), 32, '0')::uuid $$;
CREATE FUNCTION to_int(u uuid) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT ('x' || right(replace(u::text, '-', ''), 8))::bit(32)::int $$;
CREATE TABLE uu (id int PRIMARY KEY, v text);
CREATE TABLE uu_new (v text, id uuid PRIMARY KEY);
CREATE TABLE ui (a text NOT NULL, b int NOT NULL, v text); CREATE UNIQUE INDEX ON ui (b, a);
CREATE TABLE ui_new (v text, a text NOT NULL, b bigint NOT NULL, own int DEFAULT 1); CREATE UNIQUE INDEX ON ui_new (a, b) INCLUDE (v);
CREATE TABLE ck (id int PRIMARY KEY, v text);
CREATE TABLE ck_new (id bigint, tenant text, v text, PRIMARY KEY (tenant, id));
SELECT dualwrite.create_migration('kinds');
SELECT dualwrite.add_mapping('kinds', 'uu', 'uu_new', forward => '{"id": "public.to_uuid(id)"}', reverse => '{"id": "public.to_int(id)"}');
SELECT dualwrite.add_mapping('kinds', 'ui', 'ui_new');
SELECT dualwrite.add_mapping('kinds', 'ck', 'ck_new', forward => '{"tenant": "''one''"}');
CREATE FUNCTION kinds_same() RETURNS bigint LANGUAGE sql AS $f$
	SELECT differences('SELECT to_uuid(id), v FROM uu', 'SELECT id, v FROM uu_new') + differences('SELECT a, b::bigint, v FROM ui', 'SELECT a, b, v FROM ui_new') +
		differences('SELECT id::bigint, v FROM ck', $$SELECT id, v FROM ck_new WHERE tenant = 'one'$$) $f$;
INSERT INTO uu SELECT g, 'v' || g FROM generate_series(1, 20) g; INSERT INTO ui SELECT 'a' || g % 3, g, 'v' || g FROM generate_series(1, 20) g; INSERT INTO ck TABLE uu;
CALL dualwrite.run('kinds', 'verify');
SELECT is(kinds_same(), 0::bigint, 'kinds of keys: backfill');
INSERT INTO uu VALUES (-1, 'negative'), (2147483647, 'large'); UPDATE uu SET id = id + 100 WHERE id BETWEEN 5 AND 7; UPDATE uu SET v = 'changed' WHERE id < 3; DELETE FROM uu WHERE id = 4;
INSERT INTO ui VALUES ('x', 50, 'n'); UPDATE ui SET a = 'A' || b WHERE b < 6; UPDATE ui SET b = b + 100; DELETE FROM ui WHERE b = 110;
INSERT INTO ck VALUES (100, 'n'); UPDATE ck SET id = id + 1 WHERE id >= 20; UPDATE ck SET id = -id WHERE id < 5; DELETE FROM ck WHERE id = 7;
SELECT is(kinds_same(), 0::bigint, 'kinds of keys: mirrored');
CALL dualwrite.run('kinds', 'read_switch');
INSERT INTO uu_new VALUES ('n', to_uuid(777)); UPDATE uu_new SET id = to_uuid(778) WHERE id = to_uuid(777); UPDATE uu_new SET v = 'n' WHERE id > to_uuid(100); DELETE FROM uu_new WHERE id = to_uuid(9);
INSERT INTO ui_new VALUES ('n', 'y', 2); UPDATE ui_new SET a = a || '!', b = b + 1000 WHERE b > 115; DELETE FROM ui_new WHERE b = 112;
INSERT INTO ck_new VALUES (500, 'one', 'n'), (500, 'two', 'not ours'); UPDATE ck_new SET id = id + 1 WHERE tenant = 'one' AND id > 400; DELETE FROM ck_new WHERE id = 12;
UPDATE ck_new SET tenant = 'two' WHERE id = 13;
SELECT is(kinds_same(), 0::bigint, 'kinds of keys: written on the new side');
SELECT throws_ok($$INSERT INTO uu_new VALUES ('x', 'ffffffff-0000-0000-0000-000000000001')$$, '23514', NULL, 'a key that leads to another row''s is an error');
SELECT throws_ok($$UPDATE uu_new SET id = 'ffffffff-0000-0000-0000-000000000001' WHERE id = to_uuid(2)$$, '23514', NULL, 'also by an update');
SELECT is(kinds_same(), 0::bigint, 'and leaves nothing behind');

-- names
CREATE SCHEMA "Straße ""a.b""";
CREATE SCHEMA nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn;
CREATE TABLE "Straße ""a.b"""."select" ("order" int, "Mixed Case" text, "a""b" int, "it's" int, PRIMARY KEY ("order", "a""b"));
CREATE TABLE nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn.ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt
	("a""b" bigint, ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc text, "ORDER" int, "it's" int, "$1" int DEFAULT 1, PRIMARY KEY ("ORDER", "a""b"));
SELECT dualwrite.create_migration('It''s a "long" name, % and \ included', '"Straße ""a.b"""."select"', 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn.ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt',
	forward => '{"ORDER": "\"order\"", "ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc": "\"Mixed Case\""}');
CREATE FUNCTION names_same() RETURNS bigint LANGUAGE sql AS $f$ SELECT differences($$SELECT "order", "Mixed Case", "a""b"::bigint, "it's" FROM "Straße ""a.b"""."select"$$,
	$$SELECT "ORDER", ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc, "a""b", "it's" FROM nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn.ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt$$) $f$;
INSERT INTO "Straße ""a.b"""."select" SELECT g, 'x', -g, g FROM generate_series(1, 10) g;
CALL dualwrite.run('It''s a "long" name, % and \ included', 'verify');
INSERT INTO "Straße ""a.b"""."select" VALUES (11, 'y', 1, 1);
UPDATE "Straße ""a.b"""."select" SET "Mixed Case" = 'z', "a""b" = 3 WHERE "order" < 4;
DELETE FROM "Straße ""a.b"""."select" WHERE "order" = 9;
SELECT is(names_same(), 0::bigint, 'names of all kinds');
CALL dualwrite.run('It''s a "long" name, % and \ included', 'read_switch');
UPDATE nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn.ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt SET "it's" = 5, "ORDER" = "ORDER" + 100;
SELECT is(names_same(), 0::bigint, 'names of all kinds, on the new side');
SELECT throws_like($$INSERT INTO nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn.ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt VALUES (5000000000, 'x', 1, 1)$$,
	'%out of range%', 'an error of theirs');
SELECT dualwrite.rollback('It''s a "long" name, % and \ included', 'defined', force => true) \gset
SELECT is((SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname ~ '^(nnn|Stra)' AND NOT tgisinternal),
	0::bigint, 'nothing is left on them');

-- the old table inherits, or is inherited from: refused
CREATE TABLE inh_parent (id int PRIMARY KEY); CREATE TABLE inh_child (PRIMARY KEY (id)) INHERITS (inh_parent); CREATE TABLE inh_new (id int PRIMARY KEY);
SELECT throws_ok($$SELECT dualwrite.create_migration('inh', 'inh_parent', 'inh_new')$$, '0A000', NULL, 'inheritance is refused: parent');
SELECT throws_ok($$SELECT dualwrite.create_migration('inh', 'inh_child', 'inh_new')$$, '0A000', NULL, 'child');
SELECT throws_ok($$SELECT dualwrite.create_migration('inh', 'inh_new', 'inh_child')$$, '0A000', NULL, 'on the new side');
-- one that comes later is not mirrored, and nobody goes on with that
CREATE TABLE later_old (id int PRIMARY KEY, v int); CREATE TABLE later_new (id int PRIMARY KEY, v int);
SELECT dualwrite.create_migration('later', 'later_old', 'later_new');
CALL dualwrite.run('later', 'verify');
CREATE TABLE later_heir (own int) INHERITS (later_old);
INSERT INTO later_old VALUES (1, 1); INSERT INTO later_heir VALUES (2, 2); UPDATE later_old SET v = 3;
SELECT is(differences('SELECT id, v FROM ONLY later_old', 'TABLE later_new'), 0::bigint, 'the table itself is mirrored when another one inherits from it');
SELECT is((SELECT detail FROM dualwrite.gates('later') WHERE gate = 'triggers' AND NOT passed), 'public.later_heir inherits from public.later_old, and its rows are not mirrored: detach it by ALTER TABLE ... NO INHERIT', 'but that is a gate');
SELECT is((SELECT array_agg(severity || ' ' || what) FROM dualwrite.diagnose('later')), '{error writes are not mirrored}', 'and an error to diagnose');
\set ON_ERROR_STOP off
SELECT dualwrite.advance('later', force => true);
\set refused :SQLSTATE
\set ON_ERROR_STOP on
SELECT is(:'refused'::text, '55000', 'which cannot be forced');
ALTER TABLE later_heir NO INHERIT later_old;
SELECT is_empty($$SELECT * FROM dualwrite.diagnose('later')$$, 'when it is detached all is well');

SELECT * FROM finish();
