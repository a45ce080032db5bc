-- Background work: who does it, what the views say of it, and that a failure is told, waited out and forgotten.
SELECT no_plan();

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
CALL await($$ARRAY['a: queue, waiting, dualwrite worker, dualwrite: a', 'b: queue, waiting, dualwrite worker, dualwrite: b'] = (SELECT
	array_agg(format('%s: %s, %s, %s, %s', w.migration, w.role, w.state, s.backend_type, s.application_name) ORDER BY w.migration)
	FROM dualwrite.workers w JOIN pg_stat_activity s USING (pid))$$);
SELECT pass('each active migration has its worker');
-- each looks every other second whether somebody drops the database, which is over at once
CALL await($$NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'dualwrite%' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL))$$);
SELECT pass('which holds neither a transaction nor a snapshot while it waits');

-- several at a time, one a partition, under one rate limit
SELECT lives_ok($$SELECT dualwrite.configure('b', 'backfill_workers', '3'),
	dualwrite.configure('b', 'backfill_max_rows_per_second', '300')$$, 'three for the backfill');
SELECT dualwrite.advance('b') AS phase \gset
SELECT dualwrite.advance('b') AS phase \gset
CALL await($$3 = (SELECT count(pid) FROM dualwrite.workers WHERE migration = 'b' AND role = 'backfill' AND state = 'running')$$);
SELECT pass('three are at work');
CALL await($$(SELECT stage = 'backfill' AND rows_total BETWEEN 28000 AND 32000 AND bar ~ '^\[#*\.+\]$' AND eta > now()
	FROM dualwrite.progress WHERE migration = 'b')$$);
SELECT pass('progress is shown');
SELECT lives_ok($$SELECT dualwrite.configure('b', 'backfill_workers', NULL)$$, 'one again');
CALL await($$1 = (SELECT count(*) FROM dualwrite.workers WHERE migration = 'b')$$);
SELECT pass('the others leave');

SELECT lives_ok($$SELECT dualwrite.pause('b')$$, 'pause');
CALL await($$(SELECT state = 'paused' FROM dualwrite.workers WHERE migration = 'b')$$);
SELECT results_eq($$SELECT eta FROM dualwrite.progress WHERE migration = 'b'$$, $$VALUES (NULL::timestamptz)$$,
	'nobody knows when a paused backfill will end');
SELECT lives_ok($$SELECT dualwrite.resume('b')$$, 'resume');
SELECT lives_ok($$SELECT dualwrite.configure('b', 'backfill_max_rows_per_second', NULL)$$, 'as fast as it can');
CALL await($$(SELECT backfill_percent = 100 FROM dualwrite.status WHERE migration = 'b')$$);
SELECT is_empty($$SELECT * FROM b FULL JOIN b_new USING (id) WHERE (b.t = b_new.t) IS NOT TRUE$$, 'the copy is complete');

-- the copy ends with an ANALYZE, which shows as a stage of its own: it stands still here in an expression of an index
CREATE FUNCTION held(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_stat_progress_analyze WHERE pid = pg_backend_pid()) THEN
		WHILE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) LOOP
			PERFORM pg_sleep(0.02);
		END LOOP;
	END IF;
	RETURN t;
END
$$;
CREATE TABLE c (id int PRIMARY KEY, t text);
INSERT INTO c SELECT g, 'c' || g FROM generate_series(1, 1000) g;
CREATE TABLE c_new (id int PRIMARY KEY, t text) PARTITION BY HASH (id);
CREATE TABLE c_new_0 PARTITION OF c_new FOR VALUES WITH (MODULUS 1, REMAINDER 0) WITH (autovacuum_enabled = off);
CREATE INDEX ON c_new_0 (held(t));
SELECT lives_ok($$SELECT dualwrite.create_migration('c', 'c', 'c_new')$$, 'one whose new table takes time to analyze');
SELECT pg_advisory_lock(4711);
SELECT dualwrite.advance('c') AS phase \gset
SELECT dualwrite.advance('c') AS phase \gset
SELECT dualwrite.advance('c') AS phase \gset
CALL await($$(SELECT stage = 'analyze' AND rows_done = 1000 AND percent BETWEEN 90 AND 99 AND eta IS NULL
	FROM dualwrite.progress WHERE migration = 'c')$$);
SELECT pass('ANALYZE is a stage');
SELECT results_eq($$SELECT passed FROM dualwrite.gates('c') WHERE gate = 'backfill'$$, $$VALUES (false)$$, 'which the gate waits for');
SET ROLE dualwrite_monitor;
SELECT results_eq($$SELECT stage FROM dualwrite.progress WHERE migration = 'c'$$, $$VALUES ('analyze')$$, 'a monitor sees it, too');
RESET ROLE;
SELECT pg_advisory_unlock(4711);
CALL await($$(SELECT stage = 'backfill' AND percent = 100 FROM dualwrite.progress WHERE migration = 'c')$$);
SELECT is_empty($$SELECT FROM pg_class WHERE oid = 'c_new_0'::regclass AND reltuples <> 1000$$, 'then it has statistics');
SELECT dualwrite.rollback('c', 'defined') AS phase \gset
SELECT lives_ok($$SELECT dualwrite.drop_migration('c')$$, 'gone');

-- a duty that fails is put off and tried again; it stops no other
ALTER TABLE _dualwrite.queue RENAME TO queue_away;
SELECT lives_ok($$SELECT dualwrite.configure('a', 'drift_values', NULL)$$, 'wake the worker');
CALL await($$(SELECT last_error LIKE '%queue%' AND pid IS NOT NULL AND role = 'queue' AND state = 'failing' AND last_error_at IS NOT NULL
	FROM dualwrite.workers WHERE migration = 'a')$$);
SELECT pass('a failure is shown');
ALTER TABLE _dualwrite.queue_away RENAME TO queue;
CALL await($$(SELECT last_error IS NULL AND state = 'waiting' FROM dualwrite.workers WHERE migration = 'a')$$);
SELECT pass('and forgotten when the work goes on');

-- what has no work has no process
SELECT dualwrite.rollback('a', 'defined') AS phase \gset
SELECT dualwrite.rollback('b', 'defined') AS phase \gset
CALL await($$NOT EXISTS (SELECT FROM dualwrite.workers)$$);
CALL await($$NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'dualwrite worker' AND datname = current_database())$$);
SELECT pass('a database without work has no process');
SELECT lives_ok($$SELECT dualwrite.drop_migration('a'), dualwrite.drop_migration('b')$$, 'dropped');
SELECT * FROM finish();
