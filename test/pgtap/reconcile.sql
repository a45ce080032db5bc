-- Both sides are compared, what differs is found by key, kept in dualwrite.drift, repaired or ignored.  Drift is made by
-- switching the extension's triggers off for a statement, as a careless superuser might.
SELECT no_plan();

-- A plain table, another key type, values of many types

CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, balance text, born timestamptz, score float8, tags text[],
	doc jsonb, note varchar(40), pic bytea, active bool DEFAULT true);
CREATE TABLE person_new (id bigint PRIMARY KEY, full_name text NOT NULL, balance numeric, born timestamptz, score float8,
	tags text[], doc jsonb, note text, pic bytea, active bool, added_later text DEFAULT 'x');
SELECT dualwrite.create_migration('p', 'person', 'person_new',
	'{"full_name": "name", "balance": "balance::numeric"}', '{"balance": "balance::text"}');

SELECT throws_like($$SELECT * FROM dualwrite.reconcile('p')$$, '%phase "defined"%', 'nothing to compare in phase defined');
SELECT throws_ok($$SELECT * FROM dualwrite.reconcile('nobody')$$, '42704', NULL, 'unknown migration');
SELECT throws_ok($$SELECT dualwrite.repair('p')$$, '55000', NULL, 'nothing to repair in phase defined');

SELECT dualwrite.advance('p');
SELECT dualwrite.advance('p');
INSERT INTO person
	SELECT g, 'name ' || g, (g / 10.0)::text, timestamptz '2024-01-01 00:00+00' + g * interval '1 hour', g / 3.0,
		ARRAY['a', NULL, g::text], jsonb_build_object('g', g), CASE WHEN g % 5 = 0 THEN NULL ELSE 'n' || g END,
		decode(lpad(to_hex(g), 8, '0'), 'hex'), g % 2 = 0
	FROM generate_series(-20, 2000) AS g;

SELECT results_eq($$SELECT old_table::text, new_table::text, rows_compared, missing, extra, different FROM dualwrite.reconcile('p')$$,
	$$VALUES ('person', 'person_new', 2021::bigint, 0::bigint, 0::bigint, 0::bigint)$$, 'mirrored rows agree');
SELECT is_empty($$SELECT * FROM dualwrite.drift$$, 'and leave no drift');
SELECT is((SELECT open_drift FROM dualwrite.status WHERE migration = 'p'), 0::bigint, 'status says so');

-- equal values that look different, and a column that is not mapped
CALL bypass('{person, person_new}', $$UPDATE person_new SET balance = balance + 0.000, added_later = 'y'$$);
CALL bypass('{person, person_new}', $$UPDATE person_new SET score = '-0' WHERE id = 0$$);
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('p')), 0::bigint, '0.1 is 0.100, -0 is 0, unmapped columns do not count');

CALL bypass('{person, person_new}', $$DELETE FROM person_new WHERE id IN (3, 777)$$);
CALL bypass('{person, person_new}', $$DELETE FROM person WHERE id IN (4, 2000)$$);
CALL bypass('{person, person_new}', $$UPDATE person SET name = 'Other', note = NULL WHERE id = 11$$);
CALL bypass('{person, person_new}', $$UPDATE person_new SET note = '' WHERE id = 10$$);
CALL bypass('{person, person_new}', $$UPDATE person_new SET tags = '{}' WHERE id = 12$$);
CALL bypass('{person, person_new}', $$INSERT INTO person_new (id, full_name) VALUES (5000000000, 'too far for an int')$$);

SELECT results_eq($$SELECT rows_compared, missing, extra, different FROM dualwrite.reconcile('p')$$,
	$$VALUES (2022::bigint, 2::bigint, 3::bigint, 3::bigint)$$, 'each kind is counted; rows_compared counts keys');
SELECT results_eq($$SELECT key, kind, columns, state FROM dualwrite.drift WHERE migration = 'p' ORDER BY (key->>'id')::bigint$$,
	$$VALUES
		('{"id": 3}'::jsonb, 'missing', '{}'::text[], 'open'),
		('{"id": 4}', 'extra', '{}', 'open'),
		('{"id": 10}', 'different', '{note}', 'open'),
		('{"id": 11}', 'different', '{full_name,note}', 'open'),
		('{"id": 12}', 'different', '{tags}', 'open'),
		('{"id": 777}', 'missing', '{}', 'open'),
		('{"id": 2000}', 'extra', '{}', 'open'),
		('{"id": 5000000000}', 'extra', '{}', 'open')$$, 'by key, with the columns that differ');
SELECT results_eq($$SELECT old_values->>'full_name', new_values->>'full_name', old_values->'note', new_values->>'note'
	FROM dualwrite.drift WHERE key = '{"id": 11}'$$,
	$$VALUES ('Other', 'name 11', 'null'::jsonb, 'n11')$$, 'with the values of both sides under the new names');
SELECT ok((SELECT old_values IS NOT NULL AND new_values IS NULL FROM dualwrite.drift WHERE key = '{"id": 3}'), 'missing: only old values');
SELECT ok((SELECT old_values IS NULL AND new_values IS NOT NULL FROM dualwrite.drift WHERE key = '{"id": 4}'), 'extra: only new values');
SELECT is((SELECT old_values ? 'added_later' FROM dualwrite.drift WHERE key = '{"id": 11}'), false, 'unmapped columns are not shown');

CREATE TEMP TABLE first_seen AS SELECT key, detected_at FROM dualwrite.drift;
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('p')), 8::bigint, 'the same again');
SELECT is((SELECT count(*) FROM dualwrite.drift JOIN first_seen USING (key, detected_at)), 8::bigint, 'a key has one row, however often it is seen');

-- tables with personal data: keys alone are kept, and what was kept before goes when the key is seen again
SELECT dualwrite.configure('p', 'drift_values', 'off');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('p')), 8::bigint, 'found without keeping values, too');
SELECT results_eq($$SELECT count(*), count(old_values), count(new_values), count(*) FILTER (WHERE columns <> '{}') FROM dualwrite.drift WHERE state = 'open'$$,
	$$VALUES (8::bigint, 0::bigint, 0::bigint, 3::bigint)$$, 'by key and column, with nobody''s values');
SELECT dualwrite.configure('p', 'drift_values', NULL);
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('p')), 8::bigint, 'found once more');
SELECT is((SELECT count(old_values) + count(new_values) FROM dualwrite.drift WHERE state = 'open'), 11::bigint, 'now with values again');

-- a sample closes nothing
CALL bypass('{person, person_new}', $$UPDATE person_new SET note = NULL WHERE id = 10$$);
SELECT ok((SELECT rows_compared BETWEEN 50 AND 400 FROM dualwrite.reconcile('p', 10)), 'a sample compares about its share');
SELECT is((SELECT state FROM dualwrite.drift WHERE key = '{"id": 10}'), 'open', 'and closes nothing');
SELECT throws_ok($$SELECT * FROM dualwrite.reconcile('p', 0)$$, '22023', NULL, 'a sample of nothing is refused');
SELECT throws_ok($$SELECT * FROM dualwrite.reconcile('p', background => true)$$, '55000', NULL, 'no background comparison before verify');

-- gone: seen to agree
SELECT is((SELECT different FROM dualwrite.reconcile('p')), 2::bigint, 'a key that agrees is no longer counted');
SELECT is((SELECT state FROM dualwrite.drift WHERE key = '{"id": 10}'), 'gone', 'and is closed as gone');

-- ignored until it changes
SELECT throws_ok($$SELECT dualwrite.ignore_drift('p', '{"no": 1}', 'why')$$, '22023', NULL, 'a key with wrong columns');
SELECT throws_ok($$SELECT dualwrite.ignore_drift('p', '{"id": 1}', 'why')$$, '42704', NULL, 'a key that is not in drift');
SELECT lives_ok($$SELECT dualwrite.ignore_drift('p', '{"id": 12}', 'harmless')$$, 'ignore a key');
SELECT is((SELECT different FROM dualwrite.reconcile('p')), 1::bigint, 'it is no longer counted');
SELECT is((SELECT state FROM dualwrite.drift WHERE key = '{"id": 12}'), 'ignored', 'it stays ignored while it is the same');
SELECT is((SELECT reason FROM dualwrite.events WHERE event = 'ignore_drift'), 'harmless', 'the reason is in the audit');
CALL bypass('{person, person_new}', $$UPDATE person_new SET tags = '{new}' WHERE id = 12$$);
SELECT is((SELECT different FROM dualwrite.reconcile('p')), 2::bigint, 'it counts again once it has changed');
SELECT is((SELECT state FROM dualwrite.drift WHERE key = '{"id": 12}'), 'open', 'and is open again');

-- repair
SELECT is(dualwrite.repair('p', dry_run => true), 7::bigint, 'a dry run counts');
SELECT is((SELECT count(*) FROM dualwrite.drift WHERE state = 'open'), 7::bigint, 'and writes nothing');
SELECT is(dualwrite.repair('p', '{"id": 11}'), 1::bigint, 'one key');
SELECT is((SELECT full_name FROM person_new WHERE id = 11), 'Other', 'from the old side');
SELECT is((SELECT added_later FROM person_new WHERE id = 11), 'y', 'leaving unmapped columns alone');
SELECT results_eq($$SELECT state, new_values->>'full_name' FROM dualwrite.drift WHERE key = '{"id": 11}'$$,
	$$VALUES ('repaired', 'name 11')$$, 'the overwritten values stay in drift');
SELECT is(dualwrite.repair('p', '{"id": 11}'), 0::bigint, 'a key that agrees is not written');
SELECT throws_ok($$SELECT dualwrite.repair('p', '{"a": 11}')$$, '22023', NULL, 'a key with wrong columns');
SELECT throws_ok($$SELECT dualwrite.repair('p', NULL, 'person')$$, '22023', NULL, 'not a new table of the migration');
SELECT is(dualwrite.repair('p'), 6::bigint, 'all the rest');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('p')), 0::bigint, 'now they agree');
SELECT is((SELECT count(*) FROM dualwrite.drift WHERE state = 'open'), 0::bigint, 'no drift is open');
SELECT is((SELECT count(*) FROM person_new WHERE id IN (4, 2000, 5000000000)), 0::bigint, 'extra rows are gone');
SELECT is((SELECT sum((detail->>'keys')::int) FROM dualwrite.events WHERE migration = 'p' AND event = 'repair'), 7::bigint, 'repairs are in the audit');

CALL bypass('{person, person_new}', $$UPDATE person_new SET note = 'never seen by a pass' WHERE id = 99$$);
SELECT is(dualwrite.repair('p', '{"id": 99}'), 1::bigint, 'a key that no comparison has seen');
SELECT is((SELECT new_values->>'note' FROM dualwrite.drift WHERE key = '{"id": 99}' AND state = 'repaired'), 'never seen by a pass', 'leaves its image as well');

-- more keys than one group of a repair takes
CALL bypass('{person, person_new}', $$DELETE FROM person_new WHERE id > 500$$);
SELECT is((SELECT missing FROM dualwrite.reconcile('p')), 1499::bigint, 'many missing rows');
SELECT is(dualwrite.repair('p'), 1499::bigint, 'many repairs');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('p')), 0::bigint, 'all there');

-- a row whose expression fails neither ends a comparison nor counts as agreeing
CALL bypass('{person, person_new}', $$UPDATE person SET balance = 'none' WHERE id = 50$$);
SET client_min_messages = error;
SELECT results_eq($$SELECT rows_compared, different FROM dualwrite.reconcile('p')$$, $$VALUES (2019::bigint, 1::bigint)$$,
	'a row that cannot be evaluated counts as different');
RESET client_min_messages;
CALL bypass('{person, person_new}', $$UPDATE person SET balance = '5' WHERE id = 50$$);
SELECT is((SELECT different FROM dualwrite.reconcile('p')), 0::bigint, 'until it can');

-- Composite keys, another order of columns, descending indexes, partitions on both sides, resumed at every row

CREATE TABLE reading (station text COLLATE "C", at date, n int, value numeric(10, 2),
	UNIQUE (station, at, n)) PARTITION BY RANGE (at);
ALTER TABLE reading ALTER station SET NOT NULL, ALTER at SET NOT NULL, ALTER n SET NOT NULL;
CREATE TABLE reading_1 (junk int, n int NOT NULL, at date NOT NULL, value numeric(10, 2), station text COLLATE "C" NOT NULL);
ALTER TABLE reading_1 DROP junk;
ALTER TABLE reading ATTACH PARTITION reading_1 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE reading_2 PARTITION OF reading FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE reading_new (n int NOT NULL, measured date NOT NULL, station text COLLATE "C" NOT NULL, value float8) PARTITION BY LIST (station);
CREATE TABLE reading_new_a PARTITION OF reading_new FOR VALUES IN ('a', 'b');
CREATE TABLE reading_new_d PARTITION OF reading_new DEFAULT;
CREATE UNIQUE INDEX ON reading_new (n DESC, station, measured DESC);
SELECT dualwrite.create_migration('r', 'reading', 'reading_new', '{"measured": "at"}', '{"value": "value::numeric(10,2)"}',
	key_columns => '{n,station,measured}');
SELECT dualwrite.advance('r');
SELECT dualwrite.advance('r');
INSERT INTO reading SELECT s, d::date, n, n / 4.0 FROM unnest('{a,b,ä,"x y",""}'::text[]) AS s,
	generate_series(date '2024-01-20', '2024-02-10', '1 day') AS d, generate_series(1, 10) AS n;
SELECT results_eq($$SELECT rows_compared, missing + extra + different FROM dualwrite.reconcile('r')$$,
	$$VALUES (1100::bigint, 0::bigint)$$, 'partitions and composite keys agree');
CALL bypass('{reading, reading_new}', $$DELETE FROM reading WHERE n = 5 AND station = 'a'$$);
CALL bypass('{reading, reading_new}', $$DELETE FROM reading_new WHERE n = 6 AND station = 'ä'$$);
CALL bypass('{reading, reading_new}', $$UPDATE reading SET value = 0 WHERE n = 7 AND station = ''$$);
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('r')$$,
	$$VALUES (22::bigint, 22::bigint, 22::bigint)$$, 'drift in every partition');
SELECT is((SELECT kind FROM dualwrite.drift WHERE key = '{"n": 6, "station": "ä", "measured": "2024-02-03"}'), 'missing', 'the key in new columns');
SELECT is(dualwrite.repair('r', '{"measured": "2024-02-03", "n": 6, "station": "ä"}'), 1::bigint, 'a key in any order of its columns');
SELECT is(dualwrite.repair('r'), 65::bigint, 'repaired across partitions');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('r')), 0::bigint, 'and agree again');

-- Filter

CREATE TABLE task (id int PRIMARY KEY, state text, title text);
CREATE TABLE task_new (id int PRIMARY KEY, state text, title text);
SELECT dualwrite.create_migration('t', 'task', 'task_new', filter => $$state <> 'done'$$);
SELECT dualwrite.advance('t');
SELECT dualwrite.advance('t');
INSERT INTO task SELECT g, CASE WHEN g % 3 = 0 THEN 'done' WHEN g % 7 = 0 THEN NULL ELSE 'open' END, 't' || g FROM generate_series(1, 100) AS g;
SELECT results_eq($$SELECT rows_compared, missing + extra + different FROM dualwrite.reconcile('t')$$,
	$$SELECT count(*), 0::bigint FROM task WHERE state <> 'done'$$, 'rows that the filter leaves out are no drift');
CALL bypass('{task, task_new}', $$UPDATE task SET state = 'done' WHERE id = 1$$);
CALL bypass('{task, task_new}', $$UPDATE task SET state = 'open' WHERE id = 3$$);
CALL bypass('{task, task_new}', $$INSERT INTO task_new VALUES (7, 'open', 'filtered')$$);
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('t')$$, $$VALUES (1::bigint, 2::bigint, 0::bigint)$$, 'rows that came and went');
SELECT is(dualwrite.repair('t'), 3::bigint, 'come and go');
SELECT set_eq($$SELECT id FROM task_new$$, $$SELECT id FROM task WHERE state <> 'done'$$, 'as the filter says');

-- Two old tables, one new table, told apart by a constant

CREATE TABLE cat (id int PRIMARY KEY, name text);
CREATE TABLE dog (id int PRIMARY KEY, name text);
CREATE TABLE pet (kind text, id int, name text, PRIMARY KEY (kind, id));
SELECT dualwrite.create_migration('u', 'cat', 'pet', '{"kind": "''cat''"}', key_columns => '{kind,id}');
SELECT dualwrite.add_mapping('u', 'dog', 'pet', '{"kind": "''dog''"}', key_columns => '{kind,id}');
SELECT dualwrite.advance('u');
SELECT dualwrite.advance('u');
INSERT INTO cat SELECT g, 'c' || g FROM generate_series(1, 50) AS g;
INSERT INTO dog SELECT g, 'd' || g FROM generate_series(1, 70) AS g;
SELECT results_eq($$SELECT old_table::text, rows_compared, missing + extra + different FROM dualwrite.reconcile('u')$$,
	$$VALUES ('cat', 50::bigint, 0::bigint), ('dog', 70::bigint, 0::bigint)$$, 'a union: neither disowns rows of the other');
CALL bypass('{cat, dog, pet}', $$DELETE FROM cat WHERE id = 1$$);
CALL bypass('{cat, dog, pet}', $$DELETE FROM dog WHERE id = 2$$);
CALL bypass('{cat, dog, pet}', $$INSERT INTO pet VALUES ('bird', 1, 'not ours')$$);
SELECT results_eq($$SELECT old_table::text, missing, extra, different FROM dualwrite.reconcile('u')$$,
	$$VALUES ('cat', 0::bigint, 1::bigint, 0::bigint), ('dog', 0::bigint, 1::bigint, 0::bigint)$$, 'each finds its own; rows out of every scope are nobody''s');
SELECT is(dualwrite.repair('u', '{"kind": "dog", "id": 2}'), 1::bigint, 'a key of the second mapping');
SELECT is(dualwrite.repair('u'), 1::bigint, 'the rest');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('u') LIMIT 1), 0::bigint, 'agrees');
SELECT is((SELECT count(*) FROM pet WHERE kind = 'bird'), 1::bigint, 'and the bird is still there');

-- Who may

CREATE ROLE reconcile_somebody;
GRANT USAGE ON SCHEMA dualwrite TO reconcile_somebody;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dualwrite TO reconcile_somebody;
SET ROLE reconcile_somebody;
SELECT throws_ok($$SELECT dualwrite.repair('p')$$, '42501', NULL, 'repair is for the owner of the tables');
SELECT throws_ok($$SELECT * FROM dualwrite.reconcile('p')$$, '42501', NULL, 'and so is reconcile');
SELECT throws_ok($$SELECT dualwrite.ignore_drift('p', '{"id": 1}', 'x')$$, '42501', NULL, 'and ignore_drift');
RESET ROLE;
DROP OWNED BY reconcile_somebody;
DROP ROLE reconcile_somebody;

SELECT * FROM finish();
