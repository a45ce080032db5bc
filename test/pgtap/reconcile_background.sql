-- Comparisons by the worker: chunk by chunk, repeated, and followed by a repair where that is wanted; and what
-- dualwrite.diagnose says about a migration.
SELECT no_plan();

CREATE TABLE a (id int PRIMARY KEY, v text);
CREATE TABLE b (id bigint PRIMARY KEY, v text);
INSERT INTO a SELECT g, 'v' || g FROM generate_series(1, 20000) AS g;
SELECT dualwrite.create_migration('m', 'a', 'b');
SELECT dualwrite.configure('m', 'reconcile_chunk_ms', '1');
SELECT is_empty($$SELECT * FROM dualwrite.diagnose('m')$$, 'nothing is off at the start');
SELECT throws_ok($$SELECT * FROM dualwrite.diagnose('nobody')$$, '42704', NULL, 'diagnose: unknown migration');
SET client_min_messages = warning;
CALL dualwrite.run('m', timeout => '10 min');
RESET client_min_messages;
SELECT results_eq($$SELECT rows_compared, missing + extra + different FROM dualwrite.reconcile('m', background => true)$$,
	$$VALUES (20000::bigint, 0::bigint)$$, 'in the background: what the last comparison found');
CALL await($$NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)$$);
SELECT is((SELECT max(rows_compared) FROM _dualwrite.reconcile_pass), 20000::bigint, 'each row once, however short the chunks');
SELECT is_empty($$SELECT * FROM dualwrite.diagnose('m')$$, 'nothing is off in verify');

-- drift in the middle of a table that is compared in many chunks
ALTER TABLE a DISABLE TRIGGER "!dualwrite_write", DISABLE TRIGGER "~dualwrite_delete";
SELECT is((SELECT severity || ': ' || what FROM dualwrite.diagnose('m')), 'error: writes are not mirrored', 'triggers that are off are told');
UPDATE a SET v = 'w' WHERE id % 1000 = 1;
DELETE FROM a WHERE id % 1000 = 2;
INSERT INTO a VALUES (0, 'low'), (20001, 'high');
ALTER TABLE a ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete";
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('m')$$, $$VALUES (2::bigint, 20::bigint, 20::bigint)$$,
	'in the foreground');
SELECT lives_ok($$SELECT * FROM dualwrite.reconcile('m', background => true)$$, 'ask for a comparison');
CALL await($$NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)$$);
SELECT results_eq($$SELECT rows_compared, missing, extra, different FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1$$,
	$$VALUES (20002::bigint, 2::bigint, 20::bigint, 20::bigint)$$, 'the background finds the same');
SELECT is((SELECT what FROM dualwrite.diagnose('m')), 'drift', 'open drift is told');

-- repair in the background, which only the next comparison proves
SELECT dualwrite.configure('m', 'reconcile_repair', 'on');
SELECT lives_ok($$SELECT * FROM dualwrite.reconcile('m', background => true)$$, 'ask for another');
CALL await($$(SELECT count(*) = 0 FROM dualwrite.drift WHERE state = 'open')$$);
CALL await($$NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)$$);
SELECT is((SELECT count(*) FROM dualwrite.drift WHERE state = 'repaired'), 42::bigint, 'all repaired');
SELECT is((SELECT repaired FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1), 42::bigint, 'and counted');
SELECT results_eq('SELECT id::bigint, v FROM a ORDER BY id', 'SELECT id, v FROM b ORDER BY id', 'both sides agree');
SELECT ok((SELECT NOT passed FROM dualwrite.gates('m') WHERE gate = 'reconcile'), 'a repair is not a verification');
SELECT lives_ok($$SELECT * FROM dualwrite.reconcile('m', background => true)$$, 'and another');
CALL await($$(SELECT passed FROM dualwrite.gates('m') WHERE gate = 'reconcile')$$);
SELECT pass('the next comparison is');

-- what fails does not stop the rest
CREATE TABLE c (id int PRIMARY KEY, v text);
CREATE TABLE d (id int PRIMARY KEY, v text CHECK (v <> 'bad'));
INSERT INTO c SELECT g, 'v' || g FROM generate_series(1, 100) AS g;
SELECT dualwrite.create_migration('n', 'c', 'd');
SELECT dualwrite.configure('n', 'reconcile_repair', 'on');
SET client_min_messages = warning;
CALL dualwrite.run('n', timeout => '10 min');
RESET client_min_messages;
CALL await($$NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)$$);
ALTER TABLE c DISABLE TRIGGER "!dualwrite_write";
UPDATE c SET v = 'bad' WHERE id = 10;
UPDATE c SET v = 'good' WHERE id = 20;
ALTER TABLE c ENABLE ALWAYS TRIGGER "!dualwrite_write";
SELECT lives_ok($$SELECT * FROM dualwrite.reconcile('n', background => true)$$, 'ask for a comparison');
CALL await($$(SELECT count(*) = 1 FROM dualwrite.drift WHERE migration = 'n' AND state = 'repaired')$$);
CALL await($$NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)$$);
SELECT is((SELECT state FROM dualwrite.drift WHERE migration = 'n' AND key = '{"id": 10}'), 'open', 'a key that cannot be repaired stays open');
SELECT ok((SELECT reason LIKE '%violates check constraint%' FROM _dualwrite.drift WHERE key = '{"id": 10}'), 'with the reason');
SELECT is((SELECT v FROM d WHERE id = 20), 'good', 'the others are repaired');
SET client_min_messages = error;
SELECT is(dualwrite.repair('n'), 0::bigint, 'repair skips it');
RESET client_min_messages;
SELECT throws_ok($$SELECT dualwrite.repair('n', '{"id": 10}')$$, '23514', NULL, 'for one key, the error is the caller''s');
SELECT is((SELECT count(*) FROM dualwrite.drift WHERE migration = 'n' AND state = 'open'), 1::bigint, 'and it is still open');

-- paused
SELECT dualwrite.pause('n');
SELECT results_eq($$SELECT severity, what FROM dualwrite.diagnose('n')$$, $$VALUES ('error', 'drift'), ('warning', 'paused')$$, 'paused is told');
SELECT dualwrite.resume('n');
UPDATE c SET v = 'fine' WHERE id = 10;
SELECT is(dualwrite.repair('n'), 0::bigint, 'nothing left to repair');
SELECT is((SELECT state FROM dualwrite.drift WHERE migration = 'n' AND key = '{"id": 10}'), 'gone', 'the key was settled by a write');

-- a definition that no longer fits
ALTER TABLE d RENAME v TO w;
SELECT is((SELECT what FROM dualwrite.diagnose('n')), 'mapping does not fit its tables', 'an altered table is told');
SELECT throws_ok($$SELECT * FROM dualwrite.reconcile('n')$$, '55000', NULL, 'and refused');
ALTER TABLE d RENAME w TO v;
SELECT is_empty($$SELECT * FROM dualwrite.diagnose('n')$$, 'all is well again');

-- the place where a chunk ends is kept as text: keys of many types, ascending and descending, in partitions of partitions
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN short AS text CHECK (length(VALUE) < 20);
CREATE TABLE keys_old (e mood NOT NULL, t timestamptz NOT NULL, f float8 NOT NULL, n numeric NOT NULL, u uuid NOT NULL, b bytea NOT NULL,
	s short NOT NULL, c char(5) NOT NULL, i interval NOT NULL, v int) PARTITION BY LIST (e);
CREATE TABLE keys_sad PARTITION OF keys_old FOR VALUES IN ('sad');
CREATE TABLE keys_rest PARTITION OF keys_old DEFAULT PARTITION BY RANGE (t);
CREATE TABLE keys_rest_1 PARTITION OF keys_rest FOR VALUES FROM (MINVALUE) TO ('2020-02-01');
CREATE TABLE keys_rest_2 PARTITION OF keys_rest DEFAULT;
CREATE UNIQUE INDEX ON keys_old (e, t DESC, f, n DESC, u, b, s DESC, c, i);
CREATE TABLE keys_new (LIKE keys_old);
ALTER TABLE keys_new ADD PRIMARY KEY (s, i, c, b, u, n, f, t, e);
INSERT INTO keys_old
	SELECT (enum_range(NULL::mood))[1 + g % 3], timestamptz '2020-01-30 12:34:56.789+00' + (g / 100) * interval '1 hour',
		(g % 7) / 3.0, (g % 5) / 7.0, md5((g % 3)::text)::uuid, decode(md5((g % 4)::text), 'hex'), 'quote " \ ' || g % 3,
		'c' || g % 2, g * interval '1 day 1.5 seconds', g
	FROM generate_series(1, 6000) AS g;
SELECT dualwrite.create_migration('k', 'keys_old', 'keys_new', key_columns => '{s,i,c,b,u,n,f,t,e}');
SELECT dualwrite.configure('k', 'reconcile_chunk_ms', '1');
SET client_min_messages = warning;
CALL dualwrite.run('k', timeout => '10 min');
RESET client_min_messages;
-- run may have asked for one more than it needed
CALL await($$NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)$$);
ALTER TABLE keys_new DISABLE TRIGGER USER;
UPDATE keys_new SET v = -v WHERE v % 100 = 50;
DELETE FROM keys_new WHERE v % 100 = 51;
INSERT INTO keys_new SELECT e, t, f, n, u, b, s, 'x', i, v FROM keys_old WHERE v % 100 = 52;
ALTER TABLE keys_new ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete",
	ENABLE ALWAYS TRIGGER "~dualwrite_flush", ENABLE ALWAYS TRIGGER "!dualwrite_truncate";
SELECT lives_ok($$SELECT * FROM dualwrite.reconcile('k', background => true)$$, 'keys of many types');
CALL await($$(SELECT max(id) FROM _dualwrite.reconcile_pass) = (SELECT id FROM _dualwrite.reconcile_pass WHERE finished_at IS NOT NULL ORDER BY id DESC LIMIT 1)$$);
SELECT results_eq($$SELECT rows_compared, missing, extra, different FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1$$,
	$$VALUES (6060::bigint, 60::bigint, 60::bigint, 60::bigint)$$, 'each row once, and all drift');
SELECT is(dualwrite.repair('k'), 180::bigint, 'repaired by the keys in drift');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('k')), 0::bigint, 'and agree');

-- It makes way for load and for whoever asks it to, and says so; what is about WAL is none of its business

SELECT dualwrite.configure('k', 'throttle_query', 'SELECT true');
SELECT dualwrite.configure('k', 'throttle_max_wal_rate', '1');
SELECT count(*) FROM dualwrite.reconcile('k', background => true);
CALL await($$(SELECT throttled_by = '{throttle query}' FROM dualwrite.progress WHERE migration = 'k')$$);
CALL await($$EXISTS (SELECT FROM dualwrite.workers WHERE migration = 'k' AND role = 'reconcile' AND state = 'throttled' AND doing = 'waits: throttle query')$$);
SELECT pass('it waits, and says for what');
SELECT is((SELECT rows_compared FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1), 0::bigint, 'and does nothing');
SELECT dualwrite.configure('k', 'throttle_query', NULL);
CALL await($$NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)$$);
SELECT is((SELECT throttled_by FROM dualwrite.progress WHERE migration = 'k'), '{}', 'until nothing is in the way');
SELECT is((SELECT doing FROM dualwrite.workers WHERE migration = 'k' AND doing LIKE 'waits:%'), NULL, 'nor says so any more');

SELECT * FROM finish();
