-- The queue: keys are coalesced, tried again later and later, given up in the end, and stand in nobody's way.
SELECT no_plan();
SET client_min_messages = warning;

CREATE VIEW entry AS SELECT q.*, g.name AS migration, m.ordinal FROM _dualwrite.queue q JOIN _dualwrite.mapping m ON m.id = q.mapping_id
	JOIN _dualwrite.migration g ON g.id = m.migration_id;

-- Ten thousand good keys behind a hundred poisoned ones, all written several times

CREATE TABLE o (id int PRIMARY KEY, v text);
CREATE TABLE n (id bigint PRIMARY KEY, v text CHECK (v <> 'bad'));
SELECT dualwrite.create_migration('q', 'o', 'n', delivery => 'queued');
SELECT dualwrite.configure('q', 'queue_backoff', '1000 s');
SELECT dualwrite.configure('q', 'queue_max_attempts', '3');
SELECT dualwrite.advance('q');
SELECT dualwrite.pause('q');
INSERT INTO o SELECT g, CASE WHEN g % 101 = 1 THEN 'bad' ELSE 'v' END FROM generate_series(1, 10100) AS g;
UPDATE o SET v = v || ' again' WHERE v <> 'bad';
DELETE FROM o WHERE id > 10000 AND v <> 'bad';
SELECT is((SELECT count(DISTINCT key) FROM entry), 10100::bigint, 'every key is queued');
SELECT cmp_ok((SELECT count(*) FROM entry), '>', 20000::bigint, 'with an entry for each write');
SELECT is((SELECT count(*) FROM n), 0::bigint, 'and nothing is written by the writers');
SELECT dualwrite.resume('q');
CALL await($$NOT EXISTS (SELECT FROM entry WHERE attempts = 0)$$);
SELECT results_eq('SELECT id::bigint, v FROM o WHERE v <> ''bad'' ORDER BY 1', 'SELECT id, v FROM n ORDER BY 1', 'the good ones are delivered');
SELECT results_eq($$SELECT count(*), count(DISTINCT key), min(attempts), max(attempts), min(sqlstate), bool_and(message LIKE '%check constraint%'),
		bool_or(dead) FROM entry$$,
	$$VALUES (100::bigint, 100::bigint, 1, 1, '23514', true, false)$$, 'each bad one has failed once, and says why');
SELECT ok((SELECT min(next_attempt_at) > now() + '600 s' AND max(next_attempt_at) < now() + '1300 s' FROM entry), 'its next attempt is queue_backoff away, about');
SELECT ok((SELECT count(DISTINCT next_attempt_at) > 90 AND max(next_attempt_at) - min(next_attempt_at) > '200 s' FROM entry),
	'they do not come back all at once');
SELECT is((SELECT queued FROM dualwrite.status WHERE migration = 'q'), 100::bigint, 'status counts them');
SELECT is((SELECT count(*) FROM dualwrite.queue WHERE key IS NOT NULL AND sqlstate = '23514' AND direction = 'forward'), 100::bigint, 'the view shows them');

-- more attempts: further and further apart
SELECT is(dualwrite.retry('q'), 0::bigint, 'retry: none of them is dead');
CALL await($$NOT EXISTS (SELECT FROM entry WHERE attempts < 2)$$);
SELECT ok((SELECT min(next_attempt_at) > now() + '1300 s' AND max(next_attempt_at) < now() + '2600 s' FROM entry), 'the second time, twice as far');

-- a later good write of a key supersedes its failure
UPDATE o SET v = 'good now' WHERE id = 1;
CALL await($$(SELECT v FROM n WHERE id = 1) = 'good now'$$);
CALL await($$NOT EXISTS (SELECT FROM entry WHERE key = '{"id": 1}')$$);
SELECT pass('a good write supersedes a failure, without waiting for its next attempt');
DELETE FROM o WHERE id = 102;
CALL await($$NOT EXISTS (SELECT FROM entry WHERE key = '{"id": 102}')$$);
SELECT pass('so does a delete');

-- dead letters
SELECT is(dualwrite.retry('q', '{"id": 203}'), 0::bigint, 'retry one key');
CALL await($$(SELECT dead FROM entry WHERE key = '{"id": 203}')$$);
SELECT results_eq($$SELECT key, attempts, sqlstate FROM dualwrite.dead_letters$$, $$VALUES ('{"id": 203}'::jsonb, 3, '23514')$$,
	'after queue_max_attempts it is a dead letter');
SELECT is((SELECT (queued, dead)::text FROM dualwrite.status WHERE migration = 'q'), '(97,1)', 'no longer in the queue');
SELECT ok((SELECT NOT passed FROM dualwrite.gates('q') WHERE gate = 'dead_letters'), 'which a gate tells');
UPDATE o SET v = 'good now' WHERE id = 203;
CALL await($$NOT EXISTS (SELECT FROM entry WHERE key = '{"id": 203}')$$);
SELECT is((SELECT v FROM n WHERE id = 203), 'good now', 'a good write buries a dead letter, too');
SELECT dualwrite.pause('q');
UPDATE o SET v = 'late' WHERE id = 2;
SELECT dualwrite.retry('q');
SELECT dualwrite.resume('q');
CALL await($$(SELECT count(*) = 97 FROM entry WHERE dead) AND (SELECT v = 'late' FROM n WHERE id = 2)$$);
SELECT pass('all the bad ones dead, and the good one delivered');
UPDATE o SET v = 'mended' WHERE v = 'bad' AND id < 5000;
SELECT is(dualwrite.discard_dead('q', '{"id": 5051}', 'unwanted'), 1::bigint, 'one is given up');
SELECT cmp_ok(dualwrite.retry('q'), '>', 0::bigint, 'the rest are tried again');
CALL await($$NOT EXISTS (SELECT FROM entry WHERE NOT dead AND attempts = 0)$$);
SELECT is_empty($$SELECT id::bigint, v FROM o WHERE v <> 'bad' EXCEPT SELECT id, v FROM n$$, 'whatever was mended is delivered');
SELECT ok((SELECT bool_and(NOT dead AND attempts = 1) FROM entry), 'what was not counts from the start again');

-- A key that somebody holds is no attempt (the holder is another connection)

SELECT dualwrite.rollback('q', 'defined');
CREATE EXTENSION dblink;
DELETE FROM o;
DELETE FROM n;
SELECT dualwrite.advance('q');
SELECT dualwrite.pause('q');
INSERT INTO o SELECT g, 'v' FROM generate_series(1, 50) AS g;
SELECT dblink_connect('other', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
	current_setting('port'), current_database(), current_user));
SELECT dblink_exec('other', 'BEGIN');
SELECT dblink_exec('other', 'UPDATE o SET v = ''held'' WHERE id IN (7, 8)');
SELECT dualwrite.resume('q');
CALL await($$(SELECT count(*) = 48 FROM n)$$);
CALL await($$(SELECT count(*) = 2 FROM entry WHERE next_attempt_at > enqueued_at)$$);
SELECT results_eq('SELECT count(*), max(attempts), max(sqlstate) FROM entry', $$VALUES (2::bigint, 0, NULL::text)$$, 'held keys wait, and nothing has failed');
SELECT dblink_exec('other', 'COMMIT');
CALL await($$NOT EXISTS (SELECT FROM entry)$$);
SELECT is((SELECT count(*) FROM n WHERE v = 'held'), 2::bigint, 'they are delivered when they are free');

-- Foreign keys: a child waits for its parent in the queue, and a parent for its children to go; neither is an attempt

CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child (id int PRIMARY KEY, parent int);
CREATE TABLE parent_new (id int PRIMARY KEY, v text CHECK (v <> 'bad'));
CREATE TABLE child_new (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent_new);
-- the child is declared first
SELECT dualwrite.create_migration('fk', 'child', 'child_new', delivery => 'queued');
SELECT dualwrite.add_mapping('fk', 'parent', 'parent_new', delivery => 'queued');
SELECT dualwrite.configure('fk', 'queue_backoff', '1000 s');
CALL dualwrite.run('fk', timeout => '10 min');
SELECT dualwrite.pause('fk');
INSERT INTO parent SELECT g, CASE WHEN g = 3 THEN 'bad' ELSE 'v' END FROM generate_series(1, 10) AS g;
INSERT INTO child SELECT g, 1 + g % 10 FROM generate_series(1, 100) AS g;
SELECT dualwrite.resume('fk');
CALL await($$(SELECT count(*) = 90 FROM child_new)$$);
CALL await($$(SELECT count(*) = 10 FROM entry WHERE migration = 'fk' AND ordinal = (SELECT min(ordinal) FROM entry WHERE migration = 'fk') AND sqlstate = '23503')
	AND (SELECT count(*) = 1 FROM entry WHERE migration = 'fk' AND sqlstate = '23514')$$);
SELECT results_eq($$SELECT m.old_table::text, count(*), max(e.attempts), max(e.sqlstate) FROM entry e JOIN _dualwrite.mapping m ON m.id = e.mapping_id
		WHERE e.migration = 'fk' GROUP BY 1 ORDER BY 1$$,
	$$VALUES ('child', 10::bigint, 0, '23503'), ('parent', 1, 1, '23514')$$, 'children of a poisoned parent wait for it');
UPDATE parent SET v = 'good' WHERE id = 3;
CALL await($$NOT EXISTS (SELECT FROM entry WHERE migration = 'fk')$$);
SELECT set_eq('TABLE child', 'TABLE child_new', 'and come after it');
SELECT dualwrite.pause('fk');
DELETE FROM parent;
DELETE FROM child;
SELECT dualwrite.resume('fk');
CALL await($$NOT EXISTS (SELECT FROM entry WHERE migration = 'fk')$$);
SELECT is((SELECT count(*) FROM parent_new), 0::bigint, 'parents that go first go when their children have gone');
INSERT INTO child VALUES (1, 77), (2, 78);
CALL await($$(SELECT count(*) = 2 FROM entry WHERE migration = 'fk' AND attempts = 1)$$);
SELECT pass('a child whose parent is not on its way has failed');

SELECT * FROM finish();
