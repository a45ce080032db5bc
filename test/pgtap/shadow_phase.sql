-- Phase shadow: what the new path would do is tried, counted and timed, the application notices nothing, and a gate tells
-- whether it does well enough.
SELECT no_plan();
SET client_min_messages = warning;

CREATE TABLE o (id int PRIMARY KEY, v text);
CREATE TABLE n (id bigint PRIMARY KEY, v text CHECK (v <> 'bad'));
SELECT dualwrite.create_migration('m', 'o', 'n');
SELECT dualwrite.advance('m');

-- shadow_discard: tried and undone, also by the queue
SELECT dualwrite.configure('m', 'shadow_discard', 'on');
INSERT INTO o SELECT g, CASE WHEN g = 50 THEN 'bad' ELSE 'v' END FROM generate_series(1, 100) AS g;
SELECT is((SELECT count(*) FROM o), 100::bigint, 'the application notices nothing');
SELECT is((SELECT count(*) FROM n), 0::bigint, 'nothing stays on the new side');
SELECT results_eq($$SELECT key, sqlstate FROM dualwrite.queue$$, $$VALUES ('{"id": 50}'::jsonb, '23514')$$, 'what would have failed is listed');
UPDATE o SET v = 'mended' WHERE id = 50;
SELECT dualwrite.retry('m');
CALL await('NOT EXISTS (SELECT FROM dualwrite.queue)');
SELECT is((SELECT count(*) FROM n), 0::bigint, 'the queue tries and undoes it, too');

-- the gate
SELECT results_eq($$SELECT failed, inserts + updates > 99, total_ms > 0 FROM dualwrite.mirror_stats WHERE direction = 'forward'$$,
	$$VALUES (1::bigint, true, true)$$, 'successes, failures and time are counted');
SELECT is((SELECT p50_us > 0 AND p99_us >= p50_us FROM dualwrite.mirror_stats WHERE direction = 'forward'),
	CASE WHEN current_setting('shared_preload_libraries') <> '' THEN true END, 'with percentiles, where the library is preloaded')
	WHERE current_setting('shared_preload_libraries') <> '';
SELECT results_eq($$SELECT passed, detail FROM dualwrite.gates('m') WHERE gate = 'shadow_failures'$$,
	$$VALUES (false, '1 of 101 mirrored writes failed; 99.009901 % succeeded, 100 % wanted')$$, 'one failure is one too many');
\set ON_ERROR_STOP off
SELECT dualwrite.advance('m');
\set refused :SQLSTATE
\set ON_ERROR_STOP on
SELECT is(:'refused'::text, '55000', 'no way up');
SELECT dualwrite.configure('m', 'gate_shadow_success', '0.99');
SELECT ok((SELECT passed FROM dualwrite.gates('m') WHERE gate = 'shadow_failures'), 'unless so many are allowed');
SELECT dualwrite.configure('m', 'gate_shadow_success', NULL);
SELECT dualwrite.reset_stats('m');
SELECT ok((SELECT passed FROM dualwrite.gates('m') WHERE gate = 'shadow_failures'), 'or they were before the mapping was mended');

-- what a later write has put right is no failure any more, be it a dead letter
SELECT dualwrite.configure('m', 'shadow_discard', 'off');
SELECT dualwrite.configure('m', 'queue_max_attempts', '1');
UPDATE o SET v = 'bad' WHERE id IN (60, 61);
CALL await('(SELECT count(*) = 2 FROM dualwrite.dead_letters)');
UPDATE o SET v = 'mended' WHERE id = 60;
CALL await('(SELECT count(*) = 1 FROM dualwrite.dead_letters)');
SELECT is((SELECT key FROM dualwrite.dead_letters), '{"id": 61}', 'the one that was mended is buried');
UPDATE o SET v = 'mended' WHERE id = 61;
CALL await('NOT EXISTS (SELECT FROM dualwrite.dead_letters)');
SELECT dualwrite.reset_stats('m');

-- without shadow_discard what succeeds stays
UPDATE o SET v = v || '!';
SELECT is((SELECT count(*) FROM n WHERE v LIKE '%!'), 100::bigint, 'without shadow_discard what succeeds stays');
SELECT dualwrite.advance('m');
SELECT is((SELECT phase FROM dualwrite.status), 'dual_write', 'up');

-- A mapping that starts where another one ends is altered so that it does not compile: the application's write goes as far as it can.
CREATE TABLE far (id bigint PRIMARY KEY, v text);
SELECT dualwrite.create_migration('next', 'n', 'far');
SELECT dualwrite.advance('next');
INSERT INTO o VALUES (201, 'as far');
SELECT dualwrite.pause('next');
ALTER TABLE far DROP v;
INSERT INTO o SELECT g, 'not so far' FROM generate_series(202, 210) AS g;
UPDATE o SET v = v || '!' WHERE id > 205;
DELETE FROM o WHERE id = 210;
SELECT is((SELECT count(*) FROM o JOIN n USING (id) WHERE o.v = n.v AND id > 200), 9::bigint, 'what follows and is broken is in nobody''s way');

-- keys that are shifted along, by rows which keep a unique value: each needs what the next one gives up
CREATE TABLE shifted (id int PRIMARY KEY, v text UNIQUE);
CREATE TABLE shifted_new (id int PRIMARY KEY, v text UNIQUE, own int DEFAULT 0);
SELECT dualwrite.create_migration('shifted', 'shifted', 'shifted_new');
SELECT dualwrite.advance('shifted');
INSERT INTO shifted VALUES (105, 'first'), (5, 'second');
UPDATE shifted SET id = id + 100;
SELECT results_eq('SELECT id, v FROM shifted_new ORDER BY 1', 'SELECT id, v FROM shifted ORDER BY 1', 'rows whose keys are shifted are mirrored');
SELECT is((SELECT failed FROM dualwrite.mirror_stats WHERE migration = 'shifted' AND direction = 'forward'), 0::bigint, 'and none of them failed');
SELECT dualwrite.rollback('shifted', 'defined');
SELECT dualwrite.drop_migration('shifted');
DROP TABLE shifted, shifted_new;
SELECT * FROM finish();
