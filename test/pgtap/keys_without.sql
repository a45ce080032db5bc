-- Old keys that no new key can be made of: what is wrong with them is queued with its reason, the application is not
-- bothered where it must not be, such rows can be deleted and put right at any time, and everything else is copied.
SELECT no_plan();
SET client_min_messages = error;

CREATE FUNCTION even(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF i % 2 <> 0 THEN RAISE EXCEPTION '% is odd', i; END IF;
	RETURN i;
END $$;
-- a cast that fails, one that is asked beforehand, and a function of users
CREATE TABLE t_old (id text PRIMARY KEY, v text);
CREATE TABLE t_new (id uuid PRIMARY KEY, v text);
CREATE TABLE b_old (id bigint PRIMARY KEY, v text);
CREATE TABLE b_new (id int PRIMARY KEY, v text);
CREATE TABLE f_old (id int PRIMARY KEY, v text);
CREATE TABLE f_new (id int PRIMARY KEY, v text);
INSERT INTO t_old SELECT md5(g::text)::uuid::text, 'v' || g FROM generate_series(1, 3000) AS g;
INSERT INTO b_old SELECT g, 'v' || g FROM generate_series(1, 3000) AS g;
INSERT INTO f_old SELECT 2 * g, 'v' || g FROM generate_series(1, 3000) AS g;
INSERT INTO t_old VALUES ('no uuid', 'old');
UPDATE t_old SET id = 'none either' WHERE v = 'v1500';
INSERT INTO b_old VALUES (3000000000, 'old');
INSERT INTO f_old VALUES (77, 'old');
SELECT dualwrite.create_migration('t', 't_old', 't_new', '{"id": "id::uuid"}', '{"id": "id::text"}');
SELECT dualwrite.create_migration('b', 'b_old', 'b_new', '{"id": "id::int"}', '{"id": "id::bigint"}');
SELECT dualwrite.create_migration('f', 'f_old', 'f_new', '{"id": "public.even(id)"}', '{"id": "id"}');
SELECT dualwrite.pause(m), dualwrite.configure(m, 'queue_max_attempts', '1') FROM unnest('{t,b,f}'::text[]) AS m;
SELECT dualwrite.advance('t');
SELECT dualwrite.advance('b');
SELECT dualwrite.advance('f');

-- shadow: the statement succeeds

SELECT lives_ok($$INSERT INTO t_old VALUES ('shadow', 'x'), ('44444444-4444-4444-4444-444444444444', 'x')$$, 'shadow: a cast that fails is no error');
SELECT lives_ok($$INSERT INTO b_old VALUES (3000000001, 'x'), (14444, 'x')$$, 'shadow: nor is a number that is too large');
SELECT lives_ok($$INSERT INTO f_old VALUES (79, 'x'), (14444, 'x')$$, 'shadow: nor a function that refuses');
SELECT set_eq('SELECT migration, key, sqlstate, message FROM dualwrite.queue', $$VALUES
	('t', '{"id": "shadow"}'::jsonb, '22P02', 'invalid input syntax for type uuid: "shadow"'),
	('b', '{"id": 3000000001}', '22003', 'integer out of range'), ('f', '{"id": 79}', 'P0001', '79 is odd')$$,
	'it is queued with its reason, under the value that there is');
SELECT results_eq('SELECT (SELECT count(*) FROM t_new), (SELECT count(*) FROM b_new), (SELECT count(*) FROM f_new)', 'VALUES (1::bigint, 1::bigint, 1::bigint)',
	'the other row of the statement is mirrored');
SELECT lives_ok($$UPDATE t_old SET v = 'y' WHERE id = 'no uuid'$$, 'shadow: such a row is updated');
SELECT lives_ok($$DELETE FROM t_old WHERE id = 'shadow'$$, 'shadow: and deleted');
SELECT lives_ok($$DELETE FROM b_old WHERE id = 3000000001$$, 'shadow: a large number, too');
SELECT lives_ok($$DELETE FROM f_old WHERE id = 79$$, 'shadow: and a refused one');
CALL dualwrite.deliver('t');
CALL dualwrite.deliver('b');
CALL dualwrite.deliver('f');
SELECT set_eq('SELECT migration, key, sqlstate FROM dualwrite.dead_letters', $$VALUES ('t', '{"id": "shadow"}'::jsonb, '22P02'), ('t', '{"id": "no uuid"}', '22P02'),
	('b', '{"id": 3000000001}', '22003')$$, 'what cannot be delivered ends as a dead letter; of a key that can be, and has no row, nothing is left');
SELECT dualwrite.discard_dead(migration, key, 'gone') FROM dualwrite.dead_letters;
SELECT dualwrite.reset_stats(m) FROM unnest('{t,b,f}'::text[]) AS m;

-- dual_write: the statement fails where the row is written, and nowhere else

SELECT dualwrite.advance('t');
SELECT dualwrite.advance('b');
SELECT dualwrite.advance('f');
SELECT throws_ok($$INSERT INTO t_old VALUES ('dual', 'x')$$, '22P02', 'invalid input syntax for type uuid: "dual"', 'dual_write: a cast that fails');
SELECT throws_ok($$INSERT INTO b_old VALUES (3000000002, 'x')$$, '22003', 'integer out of range', 'dual_write: a number that is too large');
SELECT throws_ok($$INSERT INTO f_old VALUES (81, 'x')$$, 'P0001', '81 is odd', 'dual_write: a function that refuses');
SELECT throws_ok($$UPDATE t_old SET v = 'z' WHERE id = 'no uuid'$$, '22P02', NULL, 'dual_write: such a row stays as it is');
SELECT lives_ok($$INSERT INTO t_old VALUES ('55555555-5555-5555-5555-555555555555', 'x')$$, 'dual_write: others are written');
SELECT lives_ok($$UPDATE t_old SET id = '66666666-6666-6666-6666-666666666666' WHERE id = 'none either'$$, 'dual_write: such a row is put right');
SELECT lives_ok($$UPDATE b_old SET id = 16666 WHERE id = 3000000000$$, 'dual_write: a large number is put right');
SELECT lives_ok($$UPDATE f_old SET id = 16666 WHERE id = 77$$, 'dual_write: and a refused one');
SELECT is((SELECT string_agg(v, ' ' ORDER BY v) FROM (SELECT v FROM t_new WHERE id::text LIKE '66666666-%' UNION ALL SELECT v FROM b_new WHERE id = 16666
	UNION ALL SELECT v FROM f_new WHERE id = 16666) AS put_right), 'old old v1500', 'and is mirrored from then on');
ALTER TABLE b_old DISABLE TRIGGER USER;
INSERT INTO b_old VALUES (3000000003, 'unmirrored');
ALTER TABLE b_old ENABLE TRIGGER USER;
SELECT dualwrite.install_triggers('b');
SELECT lives_ok($$DELETE FROM b_old WHERE id = 3000000003$$, 'dual_write: such a row is deleted');
SELECT is_empty('SELECT * FROM dualwrite.queue', 'nothing was queued');

-- backfill: the rest goes on

SELECT dualwrite.advance('t');
CALL dualwrite.backfill('t');
SELECT is((SELECT array_agg(o.id) FROM t_old o LEFT JOIN t_new n ON n.id::text = o.id WHERE n.id IS NULL), '{no uuid}', 'backfill: all rows but that one are copied');
SELECT results_eq('SELECT key, sqlstate, message FROM dualwrite.dead_letters', $$VALUES ('{"id": "no uuid"}'::jsonb, '22P02', 'invalid input syntax for type uuid: "no uuid"')$$,
	'it is queued with its reason');
SELECT results_eq($$SELECT finished_at IS NOT NULL, rows_queued FROM _dualwrite.backfill WHERE heap = 't_old'::regclass$$, 'VALUES (true, 1::bigint)', 'the backfill has ended');
SELECT results_eq($$SELECT passed FROM dualwrite.gates('t') WHERE gate = 'dead_letters'$$, 'VALUES (false)', 'but nobody goes on without having looked at it');
SELECT lives_ok($$UPDATE t_old SET id = '88888888-8888-8888-8888-888888888888' WHERE id = 'no uuid'$$, 'it is put right');
SELECT is(dualwrite.discard_dead('t', '{"id": "no uuid"}', 'has another key now'), 1::bigint, 'and the dead letter discarded');
SELECT is_empty($$SELECT * FROM t_old o FULL JOIN t_new n ON n.id::text = o.id WHERE o.v IS DISTINCT FROM n.v$$,
	'both sides agree');

SELECT * FROM finish();
