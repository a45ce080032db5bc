-- Background work: who does it, what the views say of it, and that a failure is told, waited out and forgotten.
SELECT no_plan();

-- Wait for a condition; each look at it is a command of its own.
CREATE PROCEDURE wait_for(condition text) LANGUAGE plpgsql AS $$
DECLARE
	fulfilled boolean;
	give_up timestamptz := clock_timestamp() + interval '1 minute';
BEGIN
	LOOP
		EXECUTE 'SELECT ' || condition INTO fulfilled;
		EXIT WHEN fulfilled;
		IF clock_timestamp() > give_up THEN
			RAISE EXCEPTION 'waited in vain for %', condition;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END
$$;

CREATE TABLE a (id int PRIMARY KEY, t text);
CREATE TABLE a_new (id bigint PRIMARY KEY, t text);
CREATE TABLE b (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);
CREATE TABLE b1 PARTITION OF b FOR VALUES FROM (0) TO (10000);
CREATE TABLE b2 PARTITION OF b FOR VALUES FROM (10000) TO (20000);
CREATE TABLE b3 PARTITION OF b FOR VALUES FROM (20000) TO (30000);
CREATE TABLE b_new (id bigint PRIMARY KEY, t text);
INSERT INTO a SELECT g, repeat('a', 100) FROM generate_series(1, 1000) g;
INSERT INTO b SELECT g, repeat('b', 100) FROM generate_series(0, 29999) g;

SELECT lives_ok($$SELECT dualwrite.create_migration('a', 'a', 'a_new')$$, 'one migration');
SELECT lives_ok($$SELECT dualwrite.create_migration('b', 'b', 'b_new')$$, 'another one');
SELECT is_empty($$SELECT * FROM dualwrite.workers$$, 'what is only defined has no worker');

SELECT dualwrite.advance('a') AS phase \gset
SELECT dualwrite.advance('b') AS phase \gset
CALL wait_for($$2 = (SELECT count(pid) FROM dualwrite.workers WHERE state = 'waiting')$$);
SELECT results_eq($$SELECT w.migration, w.role, s.backend_type, s.application_name
		FROM dualwrite.workers w JOIN pg_stat_activity s USING (pid) ORDER BY 1$$,
	$$VALUES ('a', 'queue', 'dualwrite worker', 'dualwrite: a'), ('b', 'queue', 'dualwrite worker', 'dualwrite: b')$$,
	'each active migration has its worker');
SELECT is_empty($$SELECT * FROM pg_stat_activity WHERE backend_type LIKE 'dualwrite%' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)$$,
	'which holds neither a transaction nor a snapshot while it waits');

-- several at a time, one a partition, under one rate limit
SELECT lives_ok($$SELECT dualwrite.configure('b', 'backfill_workers', '3'),
	dualwrite.configure('b', 'backfill_max_rows_per_second', '1000')$$, 'three for the backfill');
SELECT dualwrite.advance('b') AS phase \gset
SELECT dualwrite.advance('b') AS phase \gset
CALL wait_for($$3 = (SELECT count(pid) FROM dualwrite.workers WHERE migration = 'b' AND role = 'backfill' AND state = 'running')$$);
SELECT pass('three are at work');
CALL wait_for($$(SELECT eta IS NOT NULL FROM dualwrite.progress WHERE migration = 'b')$$);
SELECT results_eq($$SELECT stage, rows_total BETWEEN 28000 AND 32000, bar ~ '^\[#*\.+\]$', eta > now() FROM dualwrite.progress WHERE migration = 'b'$$,
	$$VALUES ('backfill', true, true, true)$$, 'progress is shown');
SELECT lives_ok($$SELECT dualwrite.configure('b', 'backfill_workers', NULL)$$, 'one again');
CALL wait_for($$1 = (SELECT count(*) FROM dualwrite.workers WHERE migration = 'b')$$);
SELECT pass('the others leave');

SELECT lives_ok($$SELECT dualwrite.pause('b')$$, 'pause');
CALL wait_for($$(SELECT state = 'paused' FROM dualwrite.workers WHERE migration = 'b')$$);
SELECT results_eq($$SELECT eta FROM dualwrite.progress WHERE migration = 'b'$$, $$VALUES (NULL::timestamptz)$$,
	'nobody knows when a paused backfill will end');
SELECT lives_ok($$SELECT dualwrite.resume('b')$$, 'resume');
SELECT lives_ok($$SELECT dualwrite.configure('b', 'backfill_max_rows_per_second', NULL)$$, 'as fast as it can');
CALL wait_for($$(SELECT backfill_percent = 100 FROM dualwrite.status WHERE migration = 'b')$$);
SELECT is_empty($$SELECT * FROM b FULL JOIN b_new USING (id) WHERE (b.t = b_new.t) IS NOT TRUE$$, 'the copy is complete');

-- a duty that fails is put off and tried again; it stops no other
ALTER TABLE _dualwrite.queue RENAME TO queue_away;
SELECT lives_ok($$SELECT dualwrite.configure('a', 'drift_values', NULL)$$, 'wake the worker');
CALL wait_for($$(SELECT last_error LIKE '%queue%' FROM dualwrite.workers WHERE migration = 'a')$$);
SELECT results_eq($$SELECT pid IS NOT NULL, role, state, last_error_at < now() FROM dualwrite.workers WHERE migration = 'a'$$,
	$$VALUES (true, 'queue', 'failing', true)$$, 'a failure is shown');
ALTER TABLE _dualwrite.queue_away RENAME TO queue;
CALL wait_for($$(SELECT last_error IS NULL AND state = 'waiting' FROM dualwrite.workers WHERE migration = 'a')$$);
SELECT pass('and forgotten when the work goes on');

-- what has no work has no process
SELECT dualwrite.rollback('a', 'defined') AS phase \gset
SELECT dualwrite.rollback('b', 'defined') AS phase \gset
CALL wait_for($$NOT EXISTS (SELECT FROM dualwrite.workers)$$);
SELECT is_empty($$SELECT * FROM pg_stat_activity WHERE backend_type = 'dualwrite worker' AND datname = current_database()$$,
	'a database without work has no process');
SELECT lives_ok($$SELECT dualwrite.drop_migration('a'), dualwrite.drop_migration('b')$$, 'dropped');
SELECT * FROM finish();
