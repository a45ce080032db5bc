-- History is copied: every kind of table, whatever is there already, and what cannot be copied waits in the queue.  The
-- migrations are paused, so that no worker does here what CALL dualwrite.backfill is to do.
SELECT no_plan();
SET client_min_messages = warning;

-- A table with values of many types; the new one with defaults, identity, generated columns

CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, balance text, born timestamptz, tags text[], doc jsonb, long text, junk int);
ALTER TABLE person DROP junk;
ALTER TABLE person ADD late int DEFAULT 7;
INSERT INTO person SELECT g, 'name ' || g, (g / 10.0)::text, timestamptz '2024-01-01 00:00+00' + g * interval '1 hour',
	ARRAY['a', NULL, g::text], jsonb_build_object('g', g), CASE WHEN g % 1000 = 0 THEN repeat(md5(g::text), 5000) END
	FROM generate_series(1, 12000) AS g;
DELETE FROM person WHERE id % 10 = 3;
UPDATE person SET name = name || '!' WHERE id % 10 = 4;
CREATE TABLE person_new (balance numeric, id bigint PRIMARY KEY, full_name text NOT NULL, shout text GENERATED ALWAYS AS (upper(full_name)) STORED,
	born timestamptz, tags text[], doc jsonb, long text, serial int GENERATED ALWAYS AS IDENTITY, added text DEFAULT 'x', late int,
	CHECK (balance >= 0));
CREATE INDEX ON person_new (full_name);
SELECT dualwrite.create_migration('p', 'person', 'person_new', '{"full_name": "name", "balance": "balance::numeric"}',
	'{"balance": "balance::text"}');
SELECT dualwrite.pause('p');
SELECT format('SELECT dualwrite.advance(%L)', 'p') FROM generate_series(1, 2) \gexec
\set ON_ERROR_STOP off
CALL dualwrite.backfill('p');
\set refused :SQLSTATE
\set ON_ERROR_STOP on
SELECT is(:'refused'::text, '55000', 'not before its phase');
SELECT dualwrite.advance('p');
SELECT is((SELECT (finished_at IS NULL, next_block, end_block)::text FROM _dualwrite.backfill WHERE heap = 'person'::regclass),
	(true, 0, pg_relation_size('person') / 8192)::text, 'the heap and its size are noted');
CALL dualwrite.backfill('p');
PREPARE person_diff AS SELECT o, n FROM (SELECT id::bigint, name, balance::numeric, born, tags, doc, long, late, upper(name) FROM person) o
	FULL JOIN (SELECT id, full_name, balance, born, tags, doc, long, late, shout FROM person_new) n ON o = n WHERE o.id IS NULL OR n.id IS NULL;
SELECT is_empty('person_diff', 'all rows, all values');
SELECT results_eq('SELECT count(*), count(DISTINCT serial), min(added), max(added) FROM person_new',
	$$VALUES (10800::bigint, 10800::bigint, 'x', 'x')$$, 'unmapped columns have their defaults');
SELECT results_eq($$SELECT rows_done, rows_copied, rows_queued, finished_at IS NOT NULL, next_block >= end_block FROM _dualwrite.backfill$$,
	$$VALUES (10800::bigint, 10800::bigint, 0::bigint, true, true)$$, 'and the counts are right');
SELECT ok((SELECT reltuples = 10800 FROM pg_class WHERE oid = 'person_new'::regclass), 'the new table is analyzed');
CALL dualwrite.backfill('p');
SELECT is((SELECT count(*) FROM person_new), 10800::bigint, 'calling again does nothing');
\set ON_ERROR_STOP off
CALL dualwrite.backfill('nobody');
\set refused :SQLSTATE
\set ON_ERROR_STOP on
SELECT is(:'refused'::text, '42704', 'unknown migration');
SELECT throws_ok($$CALL dualwrite.backfill('p')$$, '25001', NULL, 'not in a transaction block');

-- What is there already: equal stays as it is, different is converged

CREATE TABLE thing (id int PRIMARY KEY, v text);
INSERT INTO thing SELECT g, 'v' || g FROM generate_series(1, 3000) AS g;
CREATE TABLE thing_new (id int PRIMARY KEY, v text, mine text DEFAULT 'default');
INSERT INTO thing_new VALUES (5, 'v5', 'kept'), (6, 'wrong', 'kept'), (9999, 'nobody''s', 'kept');
SELECT dualwrite.create_migration('t', 'thing', 'thing_new');
SELECT dualwrite.pause('t');
SELECT format('SELECT dualwrite.advance(%L)', 't') FROM generate_series(1, 3) \gexec
UPDATE thing SET v = v || ' written' WHERE id = 7;
CALL dualwrite.backfill('t');
SELECT results_eq('SELECT * FROM thing_new WHERE id IN (5, 6, 7, 9999) ORDER BY 1',
	$$VALUES (5, 'v5', 'kept'), (6, 'v6', 'kept'), (7, 'v7 written', 'default'), (9999, 'nobody''s', 'kept')$$,
	'present rows keep their unmapped columns; leftovers are left to verify');
SELECT is_empty('SELECT * FROM thing t FULL JOIN thing_new n USING (id) WHERE t.v IS DISTINCT FROM n.v AND id <> 9999', 'all rows agree');
SELECT results_eq($$SELECT rows_done, rows_copied, rows_queued FROM _dualwrite.backfill WHERE heap = 'thing'::regclass$$,
	$$VALUES (3000::bigint, 2997::bigint, 1::bigint)$$, 'one key went through the queue');
SELECT is_empty('SELECT * FROM _dualwrite.queue', 'and the queue is empty');

-- A batch that is out of time ends in the middle of a block, which is read again: its rows are there, and no exception

CREATE TABLE late (id int PRIMARY KEY, v text);
INSERT INTO late SELECT g, 'v' || g FROM generate_series(1, 60000) AS g;
CREATE TABLE late_new (LIKE late INCLUDING ALL);
SELECT dualwrite.create_migration('l', 'late', 'late_new');
SELECT dualwrite.pause('l');
SELECT format('SELECT dualwrite.advance(%L)', 'l') FROM generate_series(1, 3) \gexec
-- the first half in long batches, so that those of the second, which may not be, begin long as well
SELECT end_block AS late_end FROM _dualwrite.backfill WHERE heap = 'late'::regclass \gset
UPDATE _dualwrite.backfill SET end_block = end_block / 2 WHERE heap = 'late'::regclass;
SELECT dualwrite.configure('l', 'backfill_batch_ms', '60000');
CALL dualwrite.backfill('l');
UPDATE _dualwrite.backfill SET end_block = :late_end, finished_at = NULL WHERE heap = 'late'::regclass;
SELECT dualwrite.configure('l', 'backfill_batch_ms', '1');
CALL dualwrite.backfill('l');
SELECT results_eq($$SELECT rows_done, rows_copied, rows_queued FROM _dualwrite.backfill WHERE heap = 'late'::regclass$$,
	$$VALUES (60000::bigint, 60000::bigint, 0::bigint)$$, 'each row is copied once, and none is queued');

-- A heap that is rewritten before its turn, or in between, is walked as it is then

CREATE TABLE rewritten (id int PRIMARY KEY, v text);
INSERT INTO rewritten SELECT g, 'v' || g FROM generate_series(1, 5000) AS g;
CREATE TABLE rewritten_new (LIKE rewritten INCLUDING ALL);
SELECT dualwrite.create_migration('w', 'rewritten', 'rewritten_new');
SELECT dualwrite.pause('w');
SELECT format('SELECT dualwrite.advance(%L)', 'w') FROM generate_series(1, 3) \gexec
UPDATE _dualwrite.backfill SET next_block = 10 WHERE heap = 'rewritten'::regclass;
DELETE FROM rewritten WHERE id <= 2000;
VACUUM FULL rewritten;
CALL dualwrite.backfill('w');
SELECT is_empty('SELECT * FROM rewritten o FULL JOIN rewritten_new n ON o = n WHERE o.id IS NULL OR n.id IS NULL', 'rewritten heap: started again');
SELECT ok((SELECT b.relfilenode = c.relfilenode AND b.end_block = pg_relation_size('rewritten') / 8192
	FROM _dualwrite.backfill b JOIN pg_class c ON c.oid = b.heap WHERE c.relname = 'rewritten'), 'its new file and size are noted');

-- Partitions on both sides, leaves laid out differently, one attached and one detached while the backfill is on

CREATE TABLE reading (station text, at date, n int, value numeric, PRIMARY KEY (station, at, n)) PARTITION BY RANGE (at);
CREATE TABLE reading_1 (junk int, n int NOT NULL, at date NOT NULL, value numeric, station text NOT NULL);
ALTER TABLE reading_1 DROP junk;
ALTER TABLE reading ATTACH PARTITION reading_1 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE reading_2 PARTITION OF reading FOR VALUES FROM ('2024-02-01') TO ('2024-03-01') PARTITION BY LIST (station);
CREATE TABLE reading_2a PARTITION OF reading_2 FOR VALUES IN ('a');
CREATE TABLE reading_2d PARTITION OF reading_2 DEFAULT;
CREATE TABLE reading_3 PARTITION OF reading FOR VALUES FROM ('2024-03-01') TO ('2024-04-01');
CREATE TABLE reading_4 (LIKE reading INCLUDING ALL);
CREATE TABLE reading_new (value float8, n int NOT NULL, measured date NOT NULL, station text NOT NULL, half float8 GENERATED ALWAYS AS (value / 2) STORED,
	PRIMARY KEY (n, station, measured)) PARTITION BY LIST (station);
CREATE TABLE reading_new_a PARTITION OF reading_new FOR VALUES IN ('a', 'b');
CREATE TABLE reading_new_d (station text NOT NULL, half float8 GENERATED ALWAYS AS (value / 2) STORED, measured date NOT NULL, junk int, value float8, n int NOT NULL);
ALTER TABLE reading_new_d DROP junk;
ALTER TABLE reading_new ATTACH PARTITION reading_new_d DEFAULT;
INSERT INTO reading SELECT s, d::date, n, n / 4.0 FROM unnest('{a,b,ä,"x y",""}'::text[]) AS s,
	generate_series(date '2024-01-20', '2024-03-10', '1 day') AS d, generate_series(1, 10) AS n;
INSERT INTO reading_4 SELECT 'a', '2024-04-01', n, n FROM generate_series(1, 100) AS n;
SELECT dualwrite.create_migration('r', 'reading', 'reading_new', '{"measured": "at"}', '{"value": "value::numeric"}');
SELECT dualwrite.pause('r');
SELECT format('SELECT dualwrite.advance(%L)', 'r') FROM generate_series(1, 3) \gexec
SELECT set_eq($$SELECT heap::text FROM _dualwrite.backfill WHERE heap::text LIKE 'reading%'$$,
	$$VALUES ('reading_1'), ('reading_2a'), ('reading_2d'), ('reading_3')$$, 'leaf by leaf');
ALTER TABLE reading DETACH PARTITION reading_3;
ALTER TABLE reading ATTACH PARTITION reading_4 FOR VALUES FROM ('2024-04-01') TO ('2024-05-01');
CALL dualwrite.backfill('r');
SELECT set_eq('SELECT station, at, n, value::float8, value::float8 / 2 FROM reading', 'SELECT station, measured, n, value, half FROM reading_new',
	'rows of all partitions, of one that came meanwhile, and none of one that left');
SELECT is((SELECT count(*) FROM reading_new), 2150::bigint, 'that many');

-- Filter, and a union of two tables

CREATE TABLE cat (id int PRIMARY KEY, name text);
CREATE TABLE dog (id int PRIMARY KEY, name text, state text);
INSERT INTO cat SELECT g, 'cat ' || g FROM generate_series(1, 1500) AS g;
INSERT INTO dog SELECT g, 'dog ' || g, CASE g % 3 WHEN 0 THEN 'gone' WHEN 1 THEN 'here' END FROM generate_series(1, 1500) AS g;
CREATE TABLE pet (kind text, id int, name text, PRIMARY KEY (kind, id));
SELECT dualwrite.create_migration('u', 'cat', 'pet', '{"kind": "''cat''"}');
SELECT dualwrite.add_mapping('u', 'dog', 'pet', '{"kind": "''dog''"}', '{}', $$state = 'here'$$, NULL);
SELECT dualwrite.pause('u');
SELECT format('SELECT dualwrite.advance(%L)', 'u') FROM generate_series(1, 3) \gexec
CALL dualwrite.backfill('u');
SELECT set_eq('SELECT * FROM pet', $$SELECT 'cat', id, name FROM cat UNION ALL SELECT 'dog', id, name FROM dog WHERE state = 'here'$$,
	'a union, filtered');

-- Rows that the new side refuses are queued with the reason; the others go on

CREATE TABLE parent (id int PRIMARY KEY, note text);
CREATE TABLE child (id int PRIMARY KEY, parent int, v text, size text, code text);
INSERT INTO parent SELECT g, 'p' || g FROM generate_series(1, 1200) AS g;
INSERT INTO child SELECT g, 1 + g % 1000, 'v' || g, g::text, 'c' || g FROM generate_series(1, 4000) AS g;
UPDATE child SET v = NULL WHERE id = 1001;
UPDATE child SET size = 'many' WHERE id = 2002;
UPDATE child SET size = '-1' WHERE id = 2003;
UPDATE child SET parent = 77777 WHERE id = 3003;
UPDATE child SET code = 'c4000' WHERE id = 3999;
CREATE TABLE parent_new (LIKE parent INCLUDING ALL);
CREATE TABLE child_new (id int PRIMARY KEY, parent int REFERENCES parent_new DEFERRABLE INITIALLY DEFERRED, v text NOT NULL,
	size int CHECK (size > 0), code text UNIQUE DEFERRABLE INITIALLY DEFERRED, EXCLUDE USING btree (v WITH =));
CREATE TABLE fired (id int, at_depth int DEFAULT pg_trigger_depth());
CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.fired VALUES (new.id); RETURN new; END$$;
CREATE TRIGGER ordinary AFTER INSERT ON child_new FOR EACH ROW EXECUTE FUNCTION note_row();
CREATE TRIGGER replica AFTER INSERT ON child_new FOR EACH ROW WHEN (new.id > 3990) EXECUTE FUNCTION note_row();
ALTER TABLE child_new ENABLE REPLICA TRIGGER replica;
-- the child is declared first: its rows are copied after their parents all the same
SELECT dualwrite.create_migration('f', 'child', 'child_new', '{"size": "size::int"}', '{"size": "size::text"}');
SELECT dualwrite.add_mapping('f', 'parent', 'parent_new', '{}', '{}', NULL, NULL);
SELECT dualwrite.configure('f', 'queue_backoff', '0');
SELECT dualwrite.configure('f', 'queue_max_attempts', '2');
SELECT dualwrite.pause('f');
SELECT format('SELECT dualwrite.advance(%L)', 'f') FROM generate_series(1, 3) \gexec
SET client_min_messages = error;
CALL dualwrite.backfill('f');
SET client_min_messages = warning;
SELECT is((SELECT count(*) FROM parent_new), 1200::bigint, 'all parents');
SELECT is((SELECT array_agg(id ORDER BY id) FROM child LEFT JOIN child_new n USING (id) WHERE n.id IS NULL), '{1001,2002,2003,3003,3999}',
	'only the rows to blame are missing');
SELECT results_eq($$SELECT key, sqlstate, attempts, dead FROM _dualwrite.queue ORDER BY (key->>'id')::int$$,
	$$VALUES ('{"id": 1001}'::jsonb, '23502', 2, true), ('{"id": 2002}', '22P02', 2, true), ('{"id": 2003}', '23514', 2, true),
		('{"id": 3003}', '23503', 2, true), ('{"id": 3999}', '23505', 2, true)$$, 'they are in the queue, with the reason');
SELECT ok((SELECT message LIKE '%integer%many%' FROM _dualwrite.queue WHERE sqlstate = '22P02'), 'and the message');
SELECT is((SELECT sum(rows_queued) FROM _dualwrite.backfill WHERE heap = 'child'::regclass), 5::numeric, 'and counted');
SELECT set_eq('SELECT id FROM fired', 'SELECT id FROM child_new WHERE id > 3990', 'only REPLICA triggers fire, once for each row that stays');

-- Dead letters: put right and tried again, or given up

SELECT is(dualwrite.retry('f', '{"id": 1001}'), 1::bigint, 'retry one key');
SELECT is((SELECT (attempts, dead)::text FROM _dualwrite.queue WHERE key = '{"id": 1001}'), '(0,f)', 'it is due again');
SELECT is(dualwrite.retry('f', '{"id": 1}'), 0::bigint, 'a key that is not dead');
UPDATE child SET v = 'now' || id, size = '1', parent = 1, code = 'free' || id WHERE id IN (1001, 2002);
UPDATE child SET code = 'c3999' WHERE id = 3999;
SELECT is(dualwrite.retry('f'), 4::bigint, 'retry all dead letters');
SET client_min_messages = error;
CALL dualwrite.backfill('f');
SET client_min_messages = warning;
SELECT results_eq($$SELECT key->>'id' FROM _dualwrite.queue WHERE dead ORDER BY key$$, $$VALUES ('2003'), ('3003')$$, 'some could be settled');
SELECT throws_ok($$SELECT dualwrite.discard_dead('f', '{"id": 2003}', NULL)$$, '22004', NULL, 'giving up takes a reason');
SELECT is(dualwrite.discard_dead('f', '{"id": 2003}', 'nobody needs it'), 1::bigint, 'give one up');
SELECT is(dualwrite.discard_dead('f', '{"id": 2003}', 'nobody needs it'), 0::bigint, 'it is gone');
SELECT results_eq($$SELECT reason, detail->'key' FROM _dualwrite.event WHERE event = 'discard_dead'$$,
	$$VALUES ('nobody needs it', '{"id": 2003}'::jsonb)$$, 'but not from the audit');
SELECT throws_ok($$SELECT dualwrite.retry('nobody')$$, '42704', NULL, 'unknown migration');

-- Parts of a split: the mapping that does not own the row only fills its columns

CREATE TABLE account (id int PRIMARY KEY, name text, street text);
INSERT INTO account SELECT g, 'n' || g, 's' || g FROM generate_series(1, 2000) AS g;
CREATE TABLE account_extra (id int PRIMARY KEY, remark text);
INSERT INTO account_extra SELECT g, 'r' || g FROM generate_series(1, 3000, 2) AS g;
CREATE TABLE account_new (id int PRIMARY KEY, name text, street text, remark text DEFAULT 'none');
SELECT dualwrite.create_migration('o', 'account', 'account_new', '{"remark": null}');
SELECT dualwrite.add_mapping('o', 'account_extra', 'account_new', '{}', '{}', NULL, NULL, 'inline', 'old');
SELECT dualwrite.pause('o');
SELECT format('SELECT dualwrite.advance(%L)', 'o') FROM generate_series(1, 3) \gexec
CALL dualwrite.backfill('o');
SELECT set_eq('SELECT * FROM account_new', $$SELECT a.*, coalesce(e.remark, 'none') FROM account a LEFT JOIN account_extra e USING (id)$$,
	'a merge of two tables into rows of the first');

-- Throttling: another session calls it, until it has come to where it waits

CREATE EXTENSION dblink;
SELECT dblink_connect('caller', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
	current_setting('port'), current_database(), current_user));
CREATE PROCEDURE begin_backfill(migration text) LANGUAGE plpgsql AS $$
BEGIN
	IF dblink_send_query('caller', format('CALL dualwrite.backfill(%L)', migration)) <> 1 THEN
		RAISE EXCEPTION 'not sent: %', dblink_error_message('caller');
	END IF;
END $$;
CREATE PROCEDURE end_backfill() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM dblink_cancel_query('caller');
	-- its results are read to the end; the error is that of the cancel
	FOR i IN 1 .. 2 LOOP
		PERFORM FROM dblink_get_result('caller', false) AS t (x text);
	END LOOP;
END $$;
CREATE PROCEDURE held_back(name text, reasons text) LANGUAGE plpgsql AS $$
BEGIN
	CALL begin_backfill(name);
	CALL await(format('(SELECT bool_and(b.throttled_by = %L) FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id
		JOIN _dualwrite.migration g ON g.id = m.migration_id WHERE g.name = %L)', reasons, name));
	CALL end_backfill();
END $$;

CREATE TABLE slow (id int PRIMARY KEY, v text);
INSERT INTO slow SELECT g, 'v' FROM generate_series(1, 2000) AS g;
CREATE TABLE slow_new (LIKE slow INCLUDING ALL);
CREATE TABLE stop (now bool);
INSERT INTO stop VALUES (true);
SELECT dualwrite.create_migration('s', 'slow', 'slow_new');
SELECT dualwrite.pause('s');
SELECT format('SELECT dualwrite.advance(%L)', 's') FROM generate_series(1, 3) \gexec
SELECT dualwrite.configure('s', 'throttle_query', 'SELECT now FROM public.stop');
CALL held_back('s', '{"throttle query"}');
SELECT pass('a user query stops it');
SELECT dualwrite.configure('s', 'throttle_query', 'DELETE FROM public.stop RETURNING true');
CALL held_back('s', '{"throttle query (unreadable)"}');
SELECT pass('a query that fails does, too');
SELECT is((SELECT count(*) FROM stop), 1::bigint, 'and it writes nothing');
SELECT dualwrite.configure('s', 'throttle_query', NULL);
ALTER TABLE slow ENABLE TRIGGER "!dualwrite_write";
CALL held_back('s', '{"triggers missing or disabled"}');
SELECT pass('so do triggers that are not ALWAYS');
ALTER TABLE slow ENABLE ALWAYS TRIGGER "!dualwrite_write";
SELECT dualwrite.configure('s', 'throttle_query', 'SELECT true FROM pg_sleep(100)');
CALL held_back('s', '{"throttle query (unreadable)"}');
SELECT pass('so does one that takes too long');
SELECT dualwrite.configure('s', 'throttle_query', 'SELECT now FROM public.stop');
SELECT dualwrite.configure('s', 'throttle_max_slot_retention', '1kB');
SELECT pg_create_physical_replication_slot('kept', true);
CREATE TABLE written AS SELECT g, repeat('x', 100) FROM generate_series(1, 1000) AS g;
CALL held_back('s', '{"slot retention","throttle query"}');
SELECT pg_drop_replication_slot('kept');
SELECT is((SELECT throttled_by FROM dualwrite.progress WHERE migration = 's'), '{"slot retention","throttle query"}', 'all signals are named');
SELECT dualwrite.configure('s', 'throttle_max_slot_retention', NULL);
SELECT dualwrite.throttle('s', 0, '1 hour') > clock_timestamp() + interval '59 minutes' AS right_end \gset
SELECT ok(:'right_end', 'an override says when it ends');
CALL held_back('s', '{override}');
SELECT is((SELECT throttled_by FROM dualwrite.progress WHERE migration = 's'), '{override}', 'one of 0 stops it');
SELECT is((SELECT count(*) FROM slow_new), 0::bigint, 'no row was copied');
SELECT throws_ok($$SELECT dualwrite.throttle('s', 1.5)$$, '22023', NULL, 'a share above all');
SELECT throws_ok($$SELECT dualwrite.throttle('s', 0.001)$$, '22023', NULL, 'a share of next to nothing');
SELECT throws_ok($$SELECT dualwrite.throttle('s', 'NaN')$$, '22023', NULL, 'a share that is no number');
SELECT throws_ok($$SELECT dualwrite.throttle('s', 1, '0')$$, '22023', NULL, 'an override for no time');
SELECT throws_ok($$SELECT dualwrite.throttle('s', 1, NULL)$$, '22023', NULL, 'an override without an end');
SELECT throws_ok($$SELECT dualwrite.throttle('nobody', 1)$$, '42704', NULL, 'an override for no migration');
SELECT is(dualwrite.throttle('s', NULL), NULL, 'an override is taken back');
SELECT results_eq($$SELECT detail->>'ratio', (detail->>'until')::timestamptz > now() FROM dualwrite.events WHERE migration = 's' AND event = 'throttle' ORDER BY occurred_at$$,
	$$VALUES ('0', true), (NULL, NULL)$$, 'both are in the audit');
SELECT dualwrite.configure('s', 'throttle_query', 'SELECT NOT now FROM public.stop');
SELECT dualwrite.configure('s', 'backfill_max_rows_per_second', '2000');
SELECT clock_timestamp() AS began \gset
CALL dualwrite.backfill('s');
SELECT ok(clock_timestamp() - :'began' >= '0.8 s', 'no more rows a second');
SELECT is((SELECT count(*) FROM slow_new), 2000::bigint, 'all rows in the end');
SELECT is((SELECT throttled_by FROM _dualwrite.backfill WHERE heap = 'slow'::regclass), '{}', 'and nothing holds it back any more');

-- The other cap, and an override at a share of the speed: neither waits for a signal

CREATE TABLE wide (id int PRIMARY KEY, v text);
INSERT INTO wide SELECT g, repeat('x', 700) FROM generate_series(1, 3000) AS g;
CREATE TABLE wide_new (LIKE wide INCLUDING ALL);
SELECT dualwrite.create_migration('wd', 'wide', 'wide_new');
SELECT dualwrite.pause('wd');
SELECT format('SELECT dualwrite.advance(%L)', 'wd') FROM generate_series(1, 3) \gexec
SELECT dualwrite.configure('wd', 'backfill_max_mb_per_second', '2');
SELECT dualwrite.configure('wd', 'throttle_query', 'SELECT true');
SELECT dualwrite.throttle('wd', 1);
SELECT clock_timestamp() AS began \gset
CALL dualwrite.backfill('wd');
SELECT ok(clock_timestamp() - :'began' >= '0.7 s', 'nor megabytes, whatever an override says');
SELECT is((SELECT count(*) FROM wide_new), 3000::bigint, 'all rows, with the signals overridden');

CREATE TABLE quarter (id int PRIMARY KEY, v text);
INSERT INTO quarter SELECT g, repeat('x', 100) FROM generate_series(1, 200000) AS g;
CREATE TABLE quarter_new (LIKE quarter INCLUDING ALL);
SELECT dualwrite.create_migration('qu', 'quarter', 'quarter_new');
SELECT dualwrite.pause('qu');
SELECT format('SELECT dualwrite.advance(%L)', 'qu') FROM generate_series(1, 3) \gexec
SELECT dualwrite.configure('qu', 'backfill_batch_ms', '10');
SELECT dualwrite.throttle('qu', 0.02);
CALL begin_backfill('qu');
CALL await($$(SELECT rows_done > 0 FROM _dualwrite.backfill WHERE heap = 'quarter'::regclass)$$);
-- a moment in which full speed copies most of it
SELECT pg_sleep(1.5);
SELECT ok((SELECT finished_at IS NULL FROM _dualwrite.backfill WHERE heap = 'quarter'::regclass),
	'a fiftieth of the speed does not copy in a moment what full speed does');
CALL end_backfill();
SELECT dualwrite.throttle('qu', NULL);
CALL dualwrite.backfill('qu');
SELECT is((SELECT count(*) FROM quarter_new), 200000::bigint, 'and all of it again');

-- By the tables' owner, who is no superuser

CREATE ROLE backfill_owner;
CREATE ROLE backfill_other;
GRANT CREATE ON SCHEMA public TO backfill_owner;
GRANT USAGE ON SCHEMA dualwrite TO backfill_owner, backfill_other;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dualwrite TO backfill_owner, backfill_other;
SET ROLE backfill_owner;
CREATE TABLE owned (id int PRIMARY KEY, v text);
CREATE TABLE owned_new (id int PRIMARY KEY, v text, who name);
ALTER TABLE owned_new ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE FUNCTION whoami() RETURNS name IMMUTABLE LANGUAGE sql AS 'SELECT current_user';
ALTER TABLE owned_new ADD CHECK (public.whoami() = 'backfill_owner');
INSERT INTO owned SELECT g, 'v' FROM generate_series(1, 1000) AS g;
SELECT dualwrite.create_migration('own', 'owned', 'owned_new');
SELECT dualwrite.pause('own');
SELECT format('SELECT dualwrite.advance(%L)', 'own') FROM generate_series(1, 3) \gexec
SET ROLE backfill_other;
\set ON_ERROR_STOP off
CALL dualwrite.backfill('own');
\set refused :SQLSTATE
\set ON_ERROR_STOP on
SELECT is(:'refused'::text, '42501', 'others may not');
SELECT throws_ok($$SELECT dualwrite.retry('own')$$, '42501', NULL, 'nor retry');
SET ROLE backfill_owner;
CALL dualwrite.backfill('own');
RESET ROLE;
SELECT is((SELECT count(*) FROM owned_new), 1000::bigint, 'constraints run as the owner, past row security');

-- A table that has no partitions, or only such as have none, has nothing to copy; those that come before the end are copied.
CREATE TABLE bare_old (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE bare_old_1 PARTITION OF bare_old FOR VALUES IN (1) PARTITION BY RANGE (id);
CREATE TABLE bare_new (id int, k int, v text, PRIMARY KEY (id, k));
SELECT dualwrite.create_migration('bare', 'bare_old', 'bare_new');
CALL dualwrite.run('bare', 'verify', '5 min');
SELECT is((SELECT phase || ' ' || backfill_percent FROM dualwrite.status WHERE migration = 'bare'), 'verify 100', 'a table without partitions is copied at once');
SELECT dualwrite.rollback('bare', 'dual_write');
SELECT dualwrite.pause('bare');
SELECT dualwrite.advance('bare', 'backfill');
CREATE TABLE bare_old_2 (id int NOT NULL, k int NOT NULL, v text);
INSERT INTO bare_old_2 SELECT g, 2, 'came along' FROM generate_series(1, 50) g;
ALTER TABLE bare_old ATTACH PARTITION bare_old_2 FOR VALUES IN (2);
SELECT dualwrite.install_triggers('bare');
CALL dualwrite.backfill('bare');
SELECT is((SELECT count(*) FROM bare_new), 50::bigint, 'a partition that is attached before the end is copied');

SELECT * FROM finish();
DROP OWNED BY backfill_owner, backfill_other CASCADE;
DROP ROLE backfill_owner, backfill_other;
