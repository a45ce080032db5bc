-- Columns that move inside a table of some shape: partitions that look different, rows that move between them, several pairs of
-- columns, lossy expressions, sub-selects, generated and large columns, names that want quoting.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

-- a partitioned table, one partition with another layout
CREATE TABLE "Big Orders" (region text NOT NULL, id int NOT NULL, "Old State" text, extra text, w int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE eu PARTITION OF "Big Orders" FOR VALUES IN ('eu');
CREATE TABLE us (dropped int, w int, extra text, "Old State" text, id int NOT NULL, region text NOT NULL);
ALTER TABLE us DROP COLUMN dropped;
ALTER TABLE "Big Orders" ATTACH PARTITION us FOR VALUES IN ('us');
INSERT INTO "Big Orders" SELECT CASE g % 2 WHEN 0 THEN 'eu' ELSE 'us' END, g, 'state' || g % 4, repeat('e', 20), g FROM generate_series(1, 2000) g;
ALTER TABLE "Big Orders" ADD "New State" varchar(20), ADD w2 bigint;
SELECT throws_ok($$SELECT dualwrite.create_migration('x', '"Big Orders"', '"Big Orders"', '{"region": "extra"}', key_columns => '{id,region}')$$,
	'55000', NULL, 'the key is not written');
SELECT throws_ok($$SELECT dualwrite.create_migration('x', 'eu', 'eu', '{"w2": "w"}')$$, '0A000', NULL, 'no partition on its own');
SELECT dualwrite.create_migration('p', '"Big Orders"', '"Big Orders"',
	'{"New State": "upper(\"Old State\")", "w2": "w * 2"}', '{"Old State": "lower(\"New State\")", "w": "(w2 / 2)::int"}');
SELECT dualwrite.pause('p');
SELECT dualwrite.advance('p');
INSERT INTO "Big Orders" VALUES ('us', 5001, 'a', NULL, 7), ('eu', 5002, 'b', NULL, 8);
SELECT results_eq('SELECT id, "New State"::text, w2 FROM "Big Orders" WHERE id > 5000 ORDER BY id', $$VALUES (5001, 'A', 14::bigint), (5002, 'B', 16)$$);
UPDATE "Big Orders" SET region = CASE region WHEN 'us' THEN 'eu' ELSE 'us' END, "Old State" = 'moved' WHERE id > 5000;
SELECT results_eq('SELECT id, "New State"::text, w2 FROM "Big Orders" WHERE id > 5000 ORDER BY id', $$VALUES (5001, 'MOVED', 14::bigint), (5002, 'MOVED', 16)$$, 'rows move');
SELECT dualwrite.advance('p');
SELECT dualwrite.advance('p');
CREATE TABLE asia PARTITION OF "Big Orders" FOR VALUES IN ('asia');
INSERT INTO "Big Orders" VALUES ('asia', 6000, 'new partition', NULL, 1);
CALL dualwrite.backfill('p');
SELECT is(count(*), 0::bigint, 'all rows agree') FROM "Big Orders" WHERE "New State" IS DISTINCT FROM upper("Old State") OR w2 IS DISTINCT FROM w * 2;
SELECT dualwrite.advance('p');
SELECT results_eq($$SELECT rows_compared, different FROM dualwrite.reconcile('p')$$, $$VALUES (2003::bigint, 0::bigint)$$);
SELECT dualwrite.advance('p');
-- pairs are decided alone
UPDATE "Big Orders" SET "New State" = 'FROM NEW', w = 21 WHERE id = 1;
SELECT is((SELECT ("Old State", w2)::text FROM "Big Orders" WHERE id = 1), '("from new",42)', 'one pair from new, the other from old');
-- there and back does not give the same, and both sides are right
UPDATE "Big Orders" SET "New State" = 'Mixed', w2 = 9 WHERE id IN (1, 2);
SELECT results_eq('SELECT "Old State", "New State"::text, w, w2 FROM "Big Orders" WHERE id IN (1, 2)', $$VALUES ('mixed', 'Mixed', 4, 9::bigint), ('mixed', 'Mixed', 4, 9)$$, 'lossy');
UPDATE "Big Orders" SET extra = 'x' WHERE id = 1;
UPDATE "Big Orders" SET region = 'asia' WHERE id = 2;
SELECT is(count(*), 2::bigint, 'stays as it was written') FROM "Big Orders" WHERE "New State" = 'Mixed';
SELECT results_eq($$SELECT different FROM dualwrite.reconcile('p')$$, $$VALUES (0::bigint)$$, 'and is no drift');
SELECT dualwrite.set_read_percent('p', 100);
SELECT dualwrite.advance('p', waive => (SELECT array_agg(gate) FROM dualwrite.gates('p') WHERE NOT passed), reason => 'test');
SELECT results_eq($$SELECT different FROM dualwrite.reconcile('p')$$, $$VALUES (0::bigint)$$, 'nor in cutover');
SELECT dualwrite.rollback('p');
SELECT dualwrite.rollback('p', force => true);
UPDATE "Big Orders" SET region = 'us' WHERE id = 2;
SELECT is("New State"::text, 'Mixed', 'a row moves that the old side alone would not have made') FROM "Big Orders" WHERE id = 2;
SELECT results_eq($$SELECT different FROM dualwrite.reconcile('p')$$, $$VALUES (2::bigint)$$, 'below read_switch the old side alone is right');
SELECT dualwrite.resume('p');
SELECT is(dualwrite.repair('p'), 2::bigint);
SELECT dualwrite.rollback('p', 'defined');
SELECT is_empty($$SELECT FROM pg_trigger WHERE tgname LIKE '%dualwrite%'$$, 'nothing is left');
SELECT dualwrite.drop_migration('p');

-- a column that is extracted from another one, and put back; large values; a sub-select
CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL);
INSERT INTO country VALUES ('de', 'Germany'), ('fr', 'France');
CREATE TABLE person (id uuid PRIMARY KEY, doc jsonb NOT NULL, large text, code text);
INSERT INTO person SELECT md5(g::text)::uuid, jsonb_build_object('name', 'n' || g, 'pad', repeat('p', 10)),
	(SELECT string_agg(md5((g * i)::text), '') FROM generate_series(1, 300) i), CASE g % 2 WHEN 0 THEN 'de' ELSE 'fr' END FROM generate_series(1, 300) g;
ALTER TABLE person ADD name text, ADD country_name text, ADD token uuid, ADD large_length int;
CREATE FUNCTION with_name(doc jsonb, name text) RETURNS jsonb IMMUTABLE LANGUAGE sql AS $$
	SELECT jsonb_set(coalesce(doc, '{}'), '{name}', to_jsonb(name)) $$;
SELECT dualwrite.create_migration('d', 'person', 'person',
	'{"name": "doc ->> ''name''", "country_name": "(SELECT c.name FROM country c WHERE c.code = person.code)",
		"token": {"expr": "gen_random_uuid()", "on": "insert"}, "large_length": "length(large)"}',
	'{"doc": "with_name(doc, name)", "code": "(SELECT c.code FROM country c WHERE c.name = person.country_name)"}');
SELECT dualwrite.pause('d');
SELECT dualwrite.advance('d');
SELECT dualwrite.advance('d');
SELECT dualwrite.advance('d');
UPDATE person SET doc = doc || '{"name": "changed"}' WHERE id = md5('1')::uuid;
CALL dualwrite.backfill('d');
SELECT is(count(*), 0::bigint, 'all rows agree') FROM person JOIN country c USING (code)
WHERE person.name IS DISTINCT FROM doc ->> 'name' OR country_name IS DISTINCT FROM c.name OR token IS NULL OR large_length <> length(large);
SELECT is(count(DISTINCT token), 300::bigint, 'a value of its own for each row') FROM person;
SELECT is(name, 'changed') FROM person WHERE id = md5('1')::uuid;
CREATE TABLE tokens AS SELECT id, token FROM person;
SELECT dualwrite.advance('d');
SELECT results_eq($$SELECT rows_compared, different FROM dualwrite.reconcile('d')$$, $$VALUES (300::bigint, 0::bigint)$$);
UPDATE country SET name = 'Deutschland' WHERE code = 'de';
SELECT results_eq($$SELECT different FROM dualwrite.reconcile('d')$$, $$VALUES (150::bigint)$$, 'a looked-up value has changed');
SELECT is(dualwrite.repair('d'), 150::bigint);
SELECT dualwrite.reconcile('d') IS NOT NULL;
SELECT dualwrite.advance('d');
UPDATE person SET name = 'new', country_name = 'France' WHERE id = md5('2')::uuid;
SELECT is((SELECT (doc ->> 'name', code, large_length)::text FROM person WHERE id = md5('2')::uuid), '(new,fr,9600)', 'put back');
SELECT is(doc -> 'pad', to_jsonb(repeat('p', 10)), 'the rest of it is kept') FROM person WHERE id = md5('2')::uuid;
UPDATE person SET large = 'short' WHERE id = md5('2')::uuid;
SELECT is((SELECT (doc ->> 'name', code, large_length)::text FROM person WHERE id = md5('2')::uuid), '(new,fr,5)');
INSERT INTO person (id, name, country_name) VALUES (md5('x')::uuid, 'born new', 'France');
SELECT is((SELECT (doc, code)::text FROM person WHERE id = md5('x')::uuid), '("{""name"": ""born new""}",fr)', 'inserted from the new side');
SELECT is_empty('SELECT id, token FROM tokens EXCEPT SELECT id, token FROM person', 'values given once are kept');

-- statements that write many rows, nested triggers and the writes of another session role
CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() < 3 THEN UPDATE person SET code = new.code WHERE id = md5('5')::uuid; END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER nested AFTER UPDATE ON person FOR EACH ROW EXECUTE FUNCTION nested();
UPDATE person SET code = 'fr', doc = doc || '{"name": "many"}' WHERE id <= md5('7')::uuid;
SELECT is(count(*), 0::bigint, 'nested writes') FROM person LEFT JOIN country c USING (code)
WHERE person.name IS DISTINCT FROM doc ->> 'name' OR country_name IS DISTINCT FROM c.name;
SELECT results_eq($$SELECT different FROM dualwrite.reconcile('d')$$, $$VALUES (0::bigint)$$);

-- who may write the table needs no rights on what the expressions call or read
CREATE ROLE in_place_writer;
CREATE FUNCTION secret(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'secret ' || $1 $$;
REVOKE ALL ON FUNCTION secret(text) FROM PUBLIC;
CREATE TABLE guarded (id int PRIMARY KEY, a text, b text);
GRANT INSERT, UPDATE, SELECT ON guarded TO in_place_writer;
SELECT dualwrite.create_migration('g', 'guarded', 'guarded', '{"b": "public.secret(a)"}');
SELECT dualwrite.pause('g');
SELECT dualwrite.advance('g');
SELECT dualwrite.advance('g');
SET ROLE in_place_writer;
INSERT INTO guarded VALUES (1, 'x');
SELECT is(b, 'secret x', 'expressions run as the owner') FROM guarded;
RESET ROLE;
SELECT dualwrite.rollback('g', 'defined');
SELECT dualwrite.drop_migration('g');
DROP TABLE guarded;
DROP ROLE in_place_writer;

-- values looked up in another table follow it, and views take writes
CREATE TABLE rate (code text PRIMARY KEY, percent int NOT NULL);
INSERT INTO rate VALUES ('a', 10), ('b', 20);
CREATE TABLE bill (id int PRIMARY KEY, code text NOT NULL, status text NOT NULL DEFAULT 'open');
INSERT INTO bill SELECT g, CASE g % 2 WHEN 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 200) g;
ALTER TABLE bill ADD percent int, ADD state text;
SELECT dualwrite.create_migration('l', 'bill', 'bill', '{"state": "upper(status)",
	"percent": {"expr": "(SELECT r.percent FROM rate r WHERE r.code = bill.code)", "depends": {"rate": "SELECT b.id FROM bill b WHERE b.code = changed.code"}}}',
	'{"status": "lower(state)"}');
CALL dualwrite.run('l', 'verify', '10 min');
UPDATE rate SET percent = 11 WHERE code = 'a';
SELECT is(count(*), 100::bigint, 'in the same transaction') FROM bill WHERE percent = 11;
SELECT dualwrite.create_read_view('l', 'bill_new');
SELECT dualwrite.create_read_view('l', 'bill_old', shape => 'old');
INSERT INTO bill_old (id, code) VALUES (1001, 'a');
UPDATE bill_old SET status = 'paid' WHERE id = 1001;
SELECT is((SELECT (status, state, percent)::text FROM bill WHERE id = 1001), '(paid,PAID,11)', 'a view of the old shape');
SELECT dualwrite.advance('l');
SELECT dualwrite.set_read_percent('l', 50);
UPDATE bill_new SET state = 'SENT' WHERE id IN (1, 2, 3, 4, 1001);
INSERT INTO bill_new (id, code, state) VALUES (1002, 'b', 'NEW');
DELETE FROM bill_new WHERE id = 5;
SELECT is(count(*), 5::bigint, 'a view of the new shape') FROM bill WHERE status = 'sent' AND state = 'SENT';
SELECT is((SELECT (status, state)::text FROM bill WHERE id = 1002), '(new,NEW)', 'inserted');
SELECT is(count(*), 0::bigint, 'deleted') FROM bill WHERE id = 5;
SELECT results_eq($$SELECT different FROM dualwrite.reconcile('l')$$, $$VALUES (0::bigint)$$);
SELECT * FROM finish();
