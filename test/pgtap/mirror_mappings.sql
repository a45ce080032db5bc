-- Kinds of mappings, each in both directions: both sides are compared with what the definition says, by plain SQL, after each write.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

-- rename, cast, constant, sub-select on another table, on insert, default, null
CREATE TABLE country (code text PRIMARY KEY, name text UNIQUE);
INSERT INTO country VALUES ('de', 'Germany'), ('fr', 'France');
CREATE TABLE o (id int PRIMARY KEY, "Full Name" text, price text, code text, junk text);
CREATE TABLE n (ident bigint PRIMARY KEY, full_name text, price numeric, source text, country text, seen timestamptz, state text DEFAULT 'fresh', junk text DEFAULT 'mine');
SELECT dualwrite.create_migration('kinds', 'o', 'n',
	forward => $${"ident": "id", "full_name": "\"Full Name\"", "source": "'import'", "country": "(SELECT c.name FROM country c WHERE c.code = o.code)",
		"price": "price::numeric", "seen": {"expr": "clock_timestamp()", "on": "insert"}, "junk": null}$$,
	reverse => $${"price": "price::text", "code": "(SELECT c.code FROM country c WHERE c.name = n.country)"}$$);
CREATE FUNCTION kinds() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('SELECT id::bigint, "Full Name", price::numeric, (SELECT name FROM country c WHERE c.code = o.code), ''import'' FROM o', 'SELECT ident, full_name, price, country, source FROM n') $$;
INSERT INTO o VALUES (1, 'one', '1.50', 'de', 'j'), (2, 'two', NULL, 'xx', 'j');
CALL dualwrite.run('kinds', 'verify');
INSERT INTO o VALUES (3, 'three', '3', 'fr', 'j'), (4, 'four', '4', 'fr', 'j');
SELECT is(kinds(), 0::bigint, 'expressions: INSERT');
CREATE TABLE first_seen AS SELECT ident, seen FROM n;
UPDATE n SET state = 'never' WHERE false; UPDATE o SET code = 'de', price = '7.25' WHERE id > 1; UPDATE o SET junk = 'x'; UPDATE o SET id = 40 WHERE id = 4; DELETE FROM o WHERE id = 3;
SELECT is(kinds(), 0::bigint, 'expressions: UPDATE, key change, DELETE');
SELECT is((SELECT count(*) FROM n WHERE seen IS NULL), 0::bigint, '"on": "insert" is filled');
SELECT is((SELECT count(*) FROM n JOIN first_seen f USING (ident) WHERE f.seen <> n.seen), 0::bigint, 'and left alone by updates');
SELECT is((SELECT string_agg(DISTINCT state || junk, ' ') FROM n), 'freshmine', 'columns that are not mapped have their default');
SELECT throws_ok($$UPDATE o SET price = 'expensive'$$, '22P02', NULL, 'an expression that fails');
CALL dualwrite.run('kinds', 'read_switch');
INSERT INTO n (ident, full_name, price, country, source) VALUES (50, 'fifty', 5.0, 'France', 'import'); UPDATE n SET country = 'Germany', full_name = 'fünfzig' WHERE ident = 50; UPDATE n SET state = 'seen', ident = 51 WHERE ident = 50; DELETE FROM n WHERE ident = 40;
SELECT is(kinds(), 0::bigint, 'expressions: written on the new side');
SELECT is((SELECT string_agg(junk, '') FROM o WHERE id < 50), 'xx', 'old columns that are not mapped are left alone');
INSERT INTO n (ident, full_name, source) VALUES (60, 'another''s', 'by hand');
SELECT is((SELECT count(*) FROM o WHERE id = 60), 0::bigint, 'a row without the constant is not the mapping''s');
UPDATE n SET source = 'import' WHERE ident = 60; UPDATE n SET source = 'by hand' WHERE ident = 51;
SELECT is((SELECT string_agg(id::text, ' ' ORDER BY id) FROM o WHERE id > 5), '60', 'it is when it gets it, and no longer when it loses it');
DELETE FROM n WHERE ident = 51;
SELECT is(kinds(), 0::bigint, 'expressions: all in all');

-- What is for rows that are inserted is evaluated for these alone, as the owner and under pinned settings, whoever writes.
CREATE SEQUENCE numbers;
CREATE TABLE once (id int PRIMARY KEY, v text);
CREATE TABLE once_n (id int PRIMARY KEY, v text, n bigint NOT NULL, who name, path text, at text);
SELECT dualwrite.create_migration('once', 'once', 'once_n', forward => $${"n": {"expr": "nextval('numbers')", "on": "insert"}, "who": {"expr": "current_user", "on": "insert"},
	"path": {"expr": "current_setting('search_path')", "on": "insert"}, "at": {"expr": "(timestamptz '2024-01-31 12:00+00')::text", "on": "insert"}}$$, reverse => '{"v": "v"}');
INSERT INTO once SELECT g, 'copied' FROM generate_series(1, 5) g;
CALL dualwrite.run('once', 'verify');
SELECT is((SELECT max(n) FROM once_n), 5::bigint, '"on": "insert": the backfill');
CREATE ROLE once_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON once TO once_writer;
SET ROLE once_writer;
SET TimeZone = 'Pacific/Chatham'; SET DateStyle = 'German'; SET search_path = public, pg_catalog;
INSERT INTO once VALUES (6, 'one'); INSERT INTO once SELECT g, 'many' FROM generate_series(7, 20) g;
SELECT results_eq('SELECT max(id)::int, count(*)::int FROM once', 'VALUES (20, 20)', 'a role with no rights on the sequence writes');
UPDATE once SET v = v || '+'; UPDATE once SET v = upper(v) WHERE id % 2 = 0; INSERT INTO once VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = 'upserted'; DELETE FROM once WHERE id = 20;
RESET ALL; RESET ROLE;
SELECT is((SELECT last_value FROM numbers), 20::bigint, '"on": "insert" takes one number a row, updates none');
SELECT is((SELECT count(*) FROM once_n WHERE n = id), 19::bigint, 'which stay what they were');
SELECT is((SELECT string_agg(DISTINCT concat_ws(' ', who, path, at), ', ') FROM once_n WHERE id > 5), (SELECT concat_ws(' ', who, path, at) FROM once_n WHERE id = 1), 'whoever writes, it is the owner');
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('once')), 0::numeric, 'it is not compared');
SELECT is((SELECT last_value FROM numbers), 20::bigint, 'nor evaluated for that');
-- a row that is not there when it should be is complete nevertheless
SELECT dualwrite.pause('once');
CALL bypass('{once_n}', 'DELETE FROM once_n WHERE id = 3');
UPDATE once SET v = 'missed' WHERE id = 3;
SELECT is((SELECT v || n FROM once_n WHERE id = 3), 'missed21', 'an update that has to insert');
-- nor where errors are queued
SELECT dualwrite.configure('once', 'mirror_on_error', 'queue');
INSERT INTO once SELECT g, 'queued' FROM generate_series(22, 30) g;
UPDATE once SET v = v || '?'; UPDATE once SET id = id + 1000 WHERE id = 22; DELETE FROM once WHERE id < 3;
SELECT is((SELECT concat_ws(' ', last_value, (SELECT count(*) FROM once_n WHERE n = id % 1000), (SELECT count(*) FROM once_n)) FROM numbers), '30 25 26', 'the same where errors are queued');
SELECT is(differences('TABLE once', 'SELECT id, v FROM once_n'), 0::bigint, 'and both sides agree');
SELECT dualwrite.rollback('once', 'defined', force => true) \gset
SELECT dualwrite.drop_migration('once');
DROP OWNED BY once_writer; DROP ROLE once_writer;

-- shards by filter: rows go from one to the other
CREATE TABLE whole (id int PRIMARY KEY, region text, v text);
CREATE TABLE east (id int PRIMARY KEY, region text CHECK (region = 'e'), v text, own int DEFAULT 1); CREATE TABLE west (v text, id int PRIMARY KEY, region text CHECK (region = 'w'));
SELECT dualwrite.create_migration('shards');
SELECT dualwrite.add_mapping('shards', 'whole', 'east', filter => $$region = 'e'$$); SELECT dualwrite.add_mapping('shards', 'whole', 'west', filter => $$region = 'w'$$);
CREATE FUNCTION shards() RETURNS bigint LANGUAGE sql AS $f$
	SELECT differences($$SELECT * FROM whole WHERE region IN ('e', 'w')$$, 'SELECT id, region, v FROM east UNION ALL SELECT id, region, v FROM west') $f$;
INSERT INTO whole SELECT g, (ARRAY['e', 'w', NULL])[1 + g % 3], 'v' FROM generate_series(1, 30) g;
CALL dualwrite.run('shards', 'verify');
INSERT INTO whole SELECT g, (ARRAY['e', 'w', 'x'])[1 + g % 3], 'v' FROM generate_series(31, 60) g; UPDATE whole SET region = CASE region WHEN 'e' THEN 'w' ELSE 'e' END WHERE id % 2 = 0; UPDATE whole SET id = id + 100, region = 'w' WHERE id < 10;
UPDATE whole SET v = 'n' WHERE id % 5 = 0; DELETE FROM whole WHERE id % 7 = 0; UPDATE whole SET region = NULL WHERE id % 11 = 0;
SELECT is(shards(), 0::bigint, 'shards by filter');
CALL dualwrite.run('shards', 'read_switch');
INSERT INTO east (id, region, v) VALUES (500, 'e', 'new'); INSERT INTO west VALUES ('new', 501, 'w'); UPDATE east SET v = 'E', own = 2; UPDATE west SET id = id + 1000 WHERE id < 20; DELETE FROM west WHERE id = 501;
SELECT is(shards(), 0::bigint, 'shards: written on the new side');
BEGIN; DELETE FROM east WHERE id = 500; INSERT INTO west VALUES ('moved', 500, 'w'); COMMIT;
SELECT is(shards(), 0::bigint, 'shards: a row moves there');
UPDATE whole SET region = 'e' WHERE id = 500;
SELECT is(shards(), 0::bigint, 'shards: and back');

-- one table becomes two: split, and a part of it extracted
CREATE TABLE person (id int PRIMARY KEY, name text, street text, city text);
CREATE TABLE person_n (id int PRIMARY KEY, name text); CREATE TABLE address (person int PRIMARY KEY REFERENCES person_n ON DELETE CASCADE, street text DEFAULT 'unknown', city text);
SELECT dualwrite.create_migration('extract');
SELECT dualwrite.add_mapping('extract', 'person', 'person_n', reverse => '{"street": null, "city": null}');
SELECT dualwrite.add_mapping('extract', 'person', 'address', forward => '{"person": "id"}', reverse => '{"name": null}', filter => 'street IS NOT NULL', owns => 'new');
CREATE FUNCTION extracted() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('SELECT id, name FROM person', 'TABLE person_n') + differences('SELECT id, street, city FROM person WHERE street IS NOT NULL', 'TABLE address') $$;
INSERT INTO person VALUES (1, 'one', 's', 'c'), (2, 'two', NULL, NULL);
CALL dualwrite.run('extract', 'verify');
INSERT INTO person VALUES (3, 'three', 's3', 'c3'), (4, 'four', NULL, 'c4'); UPDATE person SET street = 'later' WHERE id IN (2, 4); UPDATE person SET street = NULL WHERE id = 1; UPDATE person SET id = 30 WHERE id = 3; DELETE FROM person WHERE id = 4;
SELECT is(extracted(), 0::bigint, 'extract: a part comes and goes');
CALL dualwrite.run('extract', 'read_switch');
INSERT INTO person_n VALUES (5, 'five'); INSERT INTO address VALUES (5, 's5', 'c5'); UPDATE address SET city = 'C' WHERE person = 5; UPDATE person_n SET name = 'Five' WHERE id = 5;
SELECT is(extracted(), 0::bigint, 'extract: written on the new side');
DELETE FROM address WHERE person = 5;
SELECT is((SELECT concat_ws('|', name, street, city) FROM person WHERE id = 5), 'Five', 'a part that goes takes its columns with it');
SELECT is(extracted(), 0::bigint, 'extract: the rest stays');
DELETE FROM person_n WHERE id = 30;
SELECT is(extracted(), 0::bigint, 'extract: with the whole go its parts');

-- two tables become one: merge, either side first
CREATE TABLE customer (id int PRIMARY KEY, name text); CREATE TABLE profile (id int PRIMARY KEY, bio text);
CREATE TABLE merged (id int PRIMARY KEY, name text, bio text DEFAULT 'none');
SELECT dualwrite.create_migration('merge');
SELECT dualwrite.add_mapping('merge', 'customer', 'merged', forward => '{"bio": null}');
SELECT dualwrite.add_mapping('merge', 'profile', 'merged', forward => '{"name": null}', owns => 'old');
CREATE FUNCTION is_merged() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('SELECT c.id, name, CASE WHEN p.id IS NULL THEN ''none'' ELSE bio END FROM customer c LEFT JOIN profile p USING (id)', 'TABLE merged') $$;
INSERT INTO customer VALUES (1, 'one'), (2, 'two'); INSERT INTO profile VALUES (1, 'b1'), (3, 'b3');
CALL dualwrite.run('merge', 'verify');
SELECT is(is_merged(), 0::bigint, 'merge: backfill');
INSERT INTO customer VALUES (4, 'four'); INSERT INTO profile VALUES (4, 'b4');
SELECT is(is_merged(), 0::bigint, 'merge: the owner first');
INSERT INTO profile VALUES (5, 'b5'); INSERT INTO customer VALUES (5, 'five'); INSERT INTO customer VALUES (3, 'three');
SELECT is(is_merged(), 0::bigint, 'merge: the other first');
UPDATE profile SET bio = 'B' WHERE id < 5; UPDATE customer SET name = 'N' WHERE id > 1; DELETE FROM profile WHERE id = 4; UPDATE customer SET id = 50 WHERE id = 5;
SELECT is(is_merged(), 0::bigint, 'merge: UPDATE, key change; a part goes');
DELETE FROM customer WHERE id = 1; INSERT INTO customer VALUES (1, 'again');
SELECT is(is_merged(), 0::bigint, 'merge: the owner goes and comes back');
CALL dualwrite.run('merge', 'read_switch');
INSERT INTO merged VALUES (9, 'nine', 'b9'); UPDATE merged SET bio = 'new bio', name = 'new name' WHERE id = 2;
SELECT is((SELECT name || bio FROM customer JOIN profile USING (id) WHERE id = 9), 'nineb9', 'merge: a new row makes both old ones');
SELECT is(is_merged(), 0::bigint, 'merge: written on the new side');
DELETE FROM merged WHERE id = 9;
SELECT is((SELECT count(*) FROM customer WHERE id = 9) + (SELECT count(*) FROM profile WHERE id = 9), 0::bigint, 'merge: and takes both away');

-- a mapping that owns neither side only fills columns of rows that others bring into being, on either side
CREATE TABLE item (id int PRIMARY KEY, v text, w text DEFAULT 'old default'); CREATE TABLE item_n (id bigint PRIMARY KEY, v text);
CREATE TABLE annex (w text DEFAULT 'new default', id int PRIMARY KEY, own int);
SELECT dualwrite.create_migration('neither', 'item', 'item_n', reverse => '{"w": null}');
SELECT dualwrite.add_mapping('neither', 'item', 'annex', reverse => '{"v": null}', owns => 'neither');
INSERT INTO annex VALUES ('x', 1, 1), ('x', 2, 2), ('x', 9, 9);
INSERT INTO item VALUES (1, 'v1', 'w1'), (3, 'v3', 'w3');
CREATE FUNCTION annexed() RETURNS text LANGUAGE sql AS $$ SELECT string_agg(concat_ws(' ', id, w, own), ', ' ORDER BY id) FROM annex $$;
CREATE FUNCTION items() RETURNS text LANGUAGE sql AS $$ SELECT string_agg(concat_ws(' ', id, v, w), ', ' ORDER BY id) FROM item $$;
CALL dualwrite.run('neither', 'verify');
SELECT is(annexed(), '1 w1 1, 2 x 2, 9 x 9', 'owns neither: the backfill brings no row into being');
INSERT INTO item VALUES (2, 'v2', 'w2'), (4, 'v4', 'w4'); UPDATE item SET w = 'W' WHERE id = 1; UPDATE item SET w = w WHERE id > 1;
SELECT is(annexed(), '1 W 1, 2 w2 2, 9 x 9', 'owns neither: INSERT, UPDATE');
DELETE FROM item WHERE id = 2; UPDATE item SET id = 9 WHERE id = 4;
SELECT is(annexed(), '1 W 1, 2 new default 2, 9 w4 9', 'owns neither: DELETE gives columns their defaults back, a key change fills others');
SELECT is(differences('SELECT id::bigint, v FROM item', 'TABLE item_n'), 0::bigint, 'owns neither: the other mapping does as ever');
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('neither')), 0::numeric, 'owns neither: nothing is missed');
CALL dualwrite.run('neither', 'read_switch');
UPDATE annex SET w = 'by new' WHERE id = 1; INSERT INTO annex VALUES ('new for 3', 3, 3), ('for nobody', 50, 50); UPDATE annex SET own = -own; UPDATE annex SET id = 51 WHERE id = 50;
SELECT is(items(), '1 v1 by new, 3 v3 new for 3, 9 v4 w4', 'owns neither: written on the new side');
DELETE FROM annex WHERE id IN (3, 51);
SELECT is(items(), '1 v1 by new, 3 v3 old default, 9 v4 w4', 'owns neither: rows that go there take only their columns with them');
INSERT INTO item_n VALUES (2, 'n2'), (60, 'n60'); DELETE FROM item_n WHERE id = 1;
SELECT is(items(), '2 n2 new default, 3 v3 old default, 9 v4 w4, 60 n60 old default', 'owns neither: it fills a row that the other mapping brings into being');
SELECT is(annexed(), '1 new default -1, 2 new default -2, 9 w4 -9', 'owns neither: and empties what that one takes away');
UPDATE item SET w = 'late' WHERE id IN (2, 60);
SELECT is(annexed(), '1 new default -1, 2 late -2, 9 w4 -9', 'owns neither: old applications go on');
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('neither')), 0::numeric, 'owns neither: both sides agree');

-- two migrations from one table
CREATE TABLE src (id int PRIMARY KEY, a text, b text); CREATE TABLE into_a (id bigint PRIMARY KEY, a text); CREATE TABLE into_b (b text, id int PRIMARY KEY);
SELECT dualwrite.create_migration('to_a', 'src', 'into_a'); SELECT dualwrite.create_migration('to_b', 'src', 'into_b', filter => 'id > 0');
CREATE FUNCTION both_ways() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('SELECT id::bigint, a FROM src', 'TABLE into_a') + differences('SELECT b, id FROM src WHERE id > 0', 'TABLE into_b') $$;
INSERT INTO src SELECT g, 'a', 'b' FROM generate_series(-5, 5) g;
CALL dualwrite.run('to_a', 'verify'); SELECT dualwrite.advance('to_b', 'shadow') \gset
UPDATE src SET a = 'A', b = 'B' WHERE id > 2; INSERT INTO src VALUES (7, 'x', 'y');
SELECT is(differences('SELECT id::bigint, a FROM src', 'TABLE into_a'), 0::bigint, 'two migrations from one table, in different phases');
CALL dualwrite.run('to_b', 'verify');
INSERT INTO src VALUES (8, 'x', 'y'); UPDATE src SET id = id - 100 WHERE id IN (2, 4); UPDATE src SET id = id + 50 WHERE id IN (-1, -3); DELETE FROM src WHERE id = 1; UPDATE src SET id = id + 100;
SELECT is(both_ways(), 0::bigint, 'both follow');
CALL dualwrite.run('to_a', 'read_switch');
INSERT INTO into_a VALUES (300, 'by a'); UPDATE into_a SET a = 'n' WHERE id = 101; UPDATE into_a SET id = 301 WHERE id = 300; DELETE FROM into_a WHERE id = 103;
SELECT is(both_ways(), 0::bigint, 'what the new side of one writes reaches the other');
SELECT dualwrite.rollback('to_a', 'defined', force => true) \gset
INSERT INTO src VALUES (400, 'x', 'y');
SELECT is(differences('SELECT b, id FROM src WHERE id > 0', 'TABLE into_b'), 0::bigint, 'one ends, the other goes on');

-- a chain, from both ends; a cycle is refused
CREATE TABLE t1 (id int PRIMARY KEY, v int); CREATE TABLE t2 (id int PRIMARY KEY, v int); CREATE TABLE t3 (v int, id bigint PRIMARY KEY);
SELECT dualwrite.create_migration('t12', 't1', 't2'); SELECT dualwrite.create_migration('t23', 't2', 't3');
SELECT throws_like($$SELECT dualwrite.create_migration('t31', 't3', 't1', reverse => '{"id": "id"}')$$, '%cycle%', 'a cycle is refused');
SELECT throws_like($$SELECT dualwrite.create_migration('t21', 't2', 't1')$$, '%cycle%', 'the way back, too');
INSERT INTO t1 SELECT g, g FROM generate_series(1, 10) g;
CALL dualwrite.run('t12', 'verify'); CALL dualwrite.run('t23', 'verify');
CREATE FUNCTION chain() RETURNS bigint LANGUAGE sql AS $$ SELECT differences('TABLE t1', 'TABLE t2') + differences('SELECT v, id::bigint FROM t2', 'TABLE t3') $$;
INSERT INTO t1 SELECT g, g FROM generate_series(11, 20) g; UPDATE t1 SET v = -v WHERE id > 5; UPDATE t1 SET id = id + 100 WHERE id > 15; DELETE FROM t1 WHERE id = 3; UPDATE t1 SET id = id + 200 WHERE id IN (1, 2);
SELECT is(chain(), 0::bigint, 'a chain, forward');
CALL dualwrite.run('t12', 'read_switch'); CALL dualwrite.run('t23', 'read_switch');
INSERT INTO t3 VALUES (1, 500), (2, 501); UPDATE t3 SET v = 9 WHERE id < 8; DELETE FROM t3 WHERE id = 10; UPDATE t3 SET id = 600 WHERE id = 500;
SELECT is(chain(), 0::bigint, 'a chain, from its end back to its beginning');
INSERT INTO t2 VALUES (700, 7); UPDATE t2 SET v = v + 1; DELETE FROM t2 WHERE id = 600; UPDATE t2 SET id = 701 WHERE id = 700;
SELECT is(chain(), 0::bigint, 'from its middle to both ends');
BEGIN; UPDATE t1 SET v = 1; UPDATE t3 SET v = 2; UPDATE t2 SET v = v * 10; DELETE FROM t3 WHERE id > 100; COMMIT;
SELECT is(chain(), 0::bigint, 'all in one transaction');

-- a cascade of foreign keys on both sides with different key columns, composite keys in another order
CREATE TABLE po (a int, b int, v text, PRIMARY KEY (a, b)); CREATE TABLE co (id int PRIMARY KEY, a int, b int, FOREIGN KEY (a, b) REFERENCES po ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE pn (v text, b bigint, a bigint, PRIMARY KEY (b, a)); CREATE TABLE cn (id bigint PRIMARY KEY, b bigint, a bigint, FOREIGN KEY (b, a) REFERENCES pn ON DELETE CASCADE ON UPDATE CASCADE);
SELECT dualwrite.create_migration('pc'); SELECT dualwrite.add_mapping('pc', 'co', 'cn'); SELECT dualwrite.add_mapping('pc', 'po', 'pn');
CREATE FUNCTION pc() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('SELECT a::bigint, b::bigint, v FROM po', 'SELECT a, b, v FROM pn') + differences('SELECT id::bigint, a::bigint, b::bigint FROM co', 'SELECT id, a, b FROM cn') $$;
INSERT INTO po SELECT g, g % 3, 'v' FROM generate_series(1, 9) g; INSERT INTO co SELECT g, 1 + g % 9, (1 + g % 9) % 3 FROM generate_series(1, 30) g;
CALL dualwrite.run('pc', 'verify');
UPDATE po SET b = b + 10 WHERE a < 4; UPDATE po SET a = a + 100, b = b + 1 WHERE a > 6; DELETE FROM po WHERE a = 5; WITH p AS (INSERT INTO po VALUES (50, 50, 'n') RETURNING *) INSERT INTO co SELECT 500 + a, a, b FROM p;
SELECT is(pc(), 0::bigint, 'parent and child, composite keys in another order');
CALL dualwrite.run('pc', 'read_switch');
UPDATE pn SET a = a + 100 WHERE a < 3; UPDATE pn SET b = b - 10 WHERE a = 3; DELETE FROM pn WHERE a = 6; INSERT INTO pn VALUES ('n', 7, 70); INSERT INTO cn VALUES (700, 7, 70);
SELECT is(pc(), 0::bigint, 'the same on the new side');

-- What a filter leaves out has no place on the new side, and an old row that the new side does not show is not written over.
CREATE TABLE fio (id int PRIMARY KEY, v int, note text DEFAULT 'note');
CREATE TABLE fin (id int PRIMARY KEY, v int, own int DEFAULT 7);
SELECT dualwrite.create_migration('filtered', 'fio', 'fin', filter => 'v > 0');
CALL dualwrite.run('filtered', 'read_switch');
INSERT INTO fio SELECT g, CASE WHEN g % 5 = 0 THEN -g ELSE g END FROM generate_series(1, 30) g;
SELECT throws_ok('INSERT INTO fin (id, v) VALUES (101, -1)', '23514', NULL, 'a row that the filter leaves out');
SELECT throws_ok('INSERT INTO fin (id, v) SELECT g, 150 - g FROM generate_series(101, 200) g', '23514', NULL, '... one of many');
SELECT throws_ok('UPDATE fin SET v = -v WHERE id = 1', '23514', NULL, '... by an update');
SELECT throws_ok('INSERT INTO fin (id, v) VALUES (5, 5)', '23505', NULL, 'the key of an old row that the filter leaves out');
SELECT throws_ok('INSERT INTO fin (id, v) SELECT g, g FROM generate_series(30, 100) g', '23505', NULL, '... of one of many');
SELECT throws_ok('UPDATE fin SET id = 5 WHERE id = 1', '23505', NULL, '... of a row that changes its key');
SELECT throws_ok('UPDATE fin SET id = id + 1', '23505', NULL, '... of rows that all do');
SELECT throws_ok('UPDATE fin SET id = 201, v = -v WHERE id = 1', '23514', NULL, 'a row that changes its key, and that the filter leaves out then');
SELECT lives_ok('UPDATE fin SET id = id + 1000 WHERE id < 5', 'keys of others change');
SELECT lives_ok('INSERT INTO fin (id, v) SELECT g, g FROM generate_series(101, 200) g', 'others are inserted');
SELECT lives_ok('UPDATE fin SET v = v + 1', '... updated');
SELECT lives_ok('DELETE FROM fin WHERE id < 10', '... and deleted');
SELECT is((SELECT count(*) FROM (SELECT id, v FROM fio WHERE v > 0) o FULL JOIN fin n USING (id) WHERE o.v IS DISTINCT FROM n.v), 0::bigint, 'both sides agree');
SELECT is((SELECT count(*) FROM fio WHERE v < 0), 6::bigint, 'and the old rows outside the filter are what they were');

SELECT * FROM finish();
