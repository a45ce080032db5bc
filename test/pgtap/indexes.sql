-- Secondary indexes of an empty new table are taken away before the copy and built again after it, whatever comes in between.
SELECT no_plan();
SET client_min_messages = warning;

-- In an index: its build stands still for as long as somebody has the advisory lock.
CREATE FUNCTION held(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_stat_progress_create_index WHERE pid = pg_backend_pid()) THEN
		WHILE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) LOOP
			PERFORM pg_sleep(0.02);
		END LOOP;
	END IF;
	RETURN t;
END
$$;

-- What there is of indexes, in every respect.
CREATE VIEW there AS
	SELECT i.indrelid::regclass AS t, c.relname AS name, pg_get_indexdef(c.oid) AS definition, obj_description(c.oid, 'pg_class') AS comment,
		i.indisvalid AS valid, c.relowner AS owner, c.reltablespace AS tablespace,
		(SELECT array_agg(coalesce(a.attstattarget, -1) ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid) AS statistics
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid;

-- Every kind of index

CREATE SCHEMA "Odd one";
CREATE TABLE parent (id int PRIMARY KEY);
INSERT INTO parent SELECT generate_series(0, 9);
CREATE TABLE o (id int PRIMARY KEY, t text, p int, n int, tags text[], during int4range);
INSERT INTO o SELECT g, 'Text ' || g, g % 10, g % 100, ARRAY[g::text], int4range(g, g + 1) FROM generate_series(1, 20000) g;
CREATE TABLE "Odd one"."new ""T" (id int PRIMARY KEY, t text, p int REFERENCES parent, n int, tags text[], during int4range, more int UNIQUE,
	EXCLUDE USING gist (during WITH &&));
CREATE INDEX "the 1st" ON "Odd one"."new ""T" (t text_pattern_ops DESC NULLS LAST) INCLUDE (n) WITH (fillfactor = 70) WHERE n > 5;
CREATE INDEX by_expression ON "Odd one"."new ""T" (lower(t) COLLATE "C", n, (n + 1));
ALTER INDEX "Odd one".by_expression ALTER COLUMN 1 SET STATISTICS 321;
ALTER INDEX "Odd one".by_expression ALTER COLUMN 3 SET STATISTICS 0;
COMMENT ON INDEX "Odd one".by_expression IS 'it''s the owner''s';
CREATE INDEX by_tag ON "Odd one"."new ""T" USING gin (tags);
CREATE INDEX by_block ON "Odd one"."new ""T" USING brin (n) WITH (pages_per_range = 8);
CREATE UNIQUE INDEX unique_one ON "Odd one"."new ""T" (id, t);
CREATE INDEX of_a_key ON "Odd one"."new ""T" (p, n);
CREATE INDEX clustered ON "Odd one"."new ""T" (n, id);
ALTER TABLE "Odd one"."new ""T" CLUSTER ON clustered;
SELECT dualwrite.create_migration('m', 'o', '"Odd one"."new ""T"');
SELECT throws_ok($$SELECT dualwrite.configure('m', 'backfill_indexes', 'never')$$, '22023', NULL, 'keep or afterwards');
SELECT lives_ok($$SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '1')$$, 'slowly');
SELECT format('SELECT dualwrite.advance(%L)', 'm') FROM generate_series(1, 3) \gexec
SELECT is_empty('SELECT * FROM dualwrite.indexes', 'they are kept unless somebody says otherwise');
SELECT dualwrite.rollback('m');
CREATE TABLE before AS SELECT * FROM there;
SELECT lives_ok($$SELECT dualwrite.configure('m', 'backfill_indexes', 'afterwards')$$, 'afterwards');
SELECT dualwrite.advance('m');
SELECT results_eq($$SELECT index_name, state, error IS NULL FROM dualwrite.indexes ORDER BY 1$$,
	$$VALUES ('by_block', 'taken away', true), ('by_expression', 'taken away', true), ('by_tag', 'taken away', true), ('the 1st', 'taken away', true)$$,
	'those that nothing needs are taken away');
SELECT set_eq($$SELECT name::text FROM there WHERE t = '"Odd one"."new ""T"'::regclass$$,
	$$VALUES ('new "T_pkey'), ('new "T_more_key'), ('new "T_during_excl'), ('unique_one'), ('of_a_key'), ('clustered')$$, 'and no others');
SELECT results_eq($$SELECT definition FROM dualwrite.indexes ORDER BY 1$$,
	$$SELECT definition FROM before WHERE name IN ('by_block', 'by_expression', 'by_tag', 'the 1st') ORDER BY 1$$, 'how they were is written down');
SELECT results_eq($$SELECT passed, detail FROM dualwrite.gates('m') WHERE gate = 'indexes'$$,
	$$VALUES (false, '0 of 4 indexes that were taken away are built again')$$, 'a gate stands before verify');
SELECT ok((SELECT 'indexes' = ANY (blocked_by) FROM dualwrite.status WHERE migration = 'm'), 'which status shows');
INSERT INTO o VALUES (0, 'written meanwhile', 1, 7, '{x}', '[0,1)');
-- renamed while they are away
ALTER TABLE "Odd one"."new ""T" RENAME TO renamed;
ALTER TABLE "Odd one".renamed RENAME TO "new ""T";
SELECT lives_ok($$SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', NULL)$$, 'fast');
CALL await($$NOT EXISTS (SELECT FROM dualwrite.gates('m') WHERE NOT passed)$$);
SELECT results_eq($$SELECT DISTINCT state, percent, error IS NULL FROM dualwrite.indexes$$, $$VALUES ('built', 100::numeric, true)$$, 'they are built');
SELECT set_eq('SELECT * FROM there WHERE t = ''"Odd one"."new ""T"''::regclass', 'SELECT * FROM before WHERE t = ''"Odd one"."new ""T"''::regclass',
	'just as they were');
SELECT is((SELECT count(*) FROM "Odd one"."new ""T"), 20001::bigint, 'all rows are there');
SELECT isnt_empty($$SELECT FROM pg_stats WHERE tablename = 'by_expression'$$, 'ANALYZE came after them');
SELECT is((SELECT stage FROM dualwrite.progress WHERE migration = 'm'), 'backfill', 'no stage is left');
SELECT set_eq($$SELECT event, detail ->> 'index' FROM dualwrite.events WHERE event LIKE 'index%'$$,
	$$SELECT e, i FROM unnest('{index_taken_away,index_built}'::text[]) e, unnest('{by_block,by_expression,by_tag,the 1st}'::text[]) i$$, 'the audit has it');
-- the way back: the table is full, so nothing is taken away again
SELECT dualwrite.advance('m');
SELECT dualwrite.rollback('m');
SELECT set_eq('SELECT * FROM there WHERE t = ''"Odd one"."new ""T"''::regclass', 'SELECT * FROM before WHERE t = ''"Odd one"."new ""T"''::regclass',
	'of a table with rows nothing is taken away');
SELECT dualwrite.rollback('m', 'defined');
SELECT lives_ok($$SELECT dualwrite.drop_migration('m')$$, 'nothing is owed');

-- Not of tables that others use, nor of partitioned ones

CREATE TABLE o2 (id int PRIMARY KEY, t text);
CREATE TABLE shared (id int PRIMARY KEY, t text);
CREATE INDEX ON shared (t);
CREATE TABLE split (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);
CREATE TABLE split_1 PARTITION OF split DEFAULT;
CREATE INDEX ON split (t);
CREATE TABLE o3 (id int PRIMARY KEY, t text);
SELECT dualwrite.create_migration('one', 'o2', 'shared', filter => 'id < 10');
SELECT dualwrite.create_migration('two', 'o3', 'split');
CREATE TABLE o4 (id int PRIMARY KEY, t text);
SELECT dualwrite.create_migration('three', 'shared', 'o4');
SELECT dualwrite.configure(m, 'backfill_indexes', 'afterwards') FROM unnest('{one,two}'::text[]) m;
SELECT format('SELECT dualwrite.advance(%L)', m) FROM unnest('{one,two}'::text[]) m, generate_series(1, 3) \gexec
SELECT is_empty('SELECT * FROM dualwrite.indexes', 'nothing is taken from tables of another migration, or partitioned ones');
SELECT dualwrite.rollback('one', 'defined');
SELECT dualwrite.rollback('two', 'defined');
SELECT dualwrite.drop_migration(m) FROM unnest('{three,two,one}'::text[]) m;

-- A build that fails, one that is given up, names that somebody has taken

CREATE TABLE f (id int PRIMARY KEY, n int, t text);
INSERT INTO f SELECT g, g % 3, 't' || g FROM generate_series(1, 300) g;
CREATE TABLE f_new (id int PRIMARY KEY, n int, t text);
CREATE INDEX failing ON f_new ((6 / n));
CREATE INDEX same ON f_new (n);
CREATE INDEX own ON f_new (t);
CREATE INDEX taken ON f_new (t, n);
CREATE INDEX unwanted ON f_new (n, t);
SELECT dualwrite.create_migration('f', 'f', 'f_new');
SELECT dualwrite.configure('f', 'backfill_indexes', 'afterwards');
SELECT dualwrite.configure('f', 'throttle_query', 'SELECT true');
SELECT format('SELECT dualwrite.advance(%L)', 'f') FROM generate_series(1, 3) \gexec
SELECT is((SELECT count(*) FROM dualwrite.indexes WHERE state = 'taken away'), 5::bigint, 'five are away');
CREATE INDEX same ON f_new (n);
CREATE INDEX own ON f_new (lower(t));
CREATE SEQUENCE taken;
SELECT throws_ok($$SELECT dualwrite.forget_index('f', 'f_new', 'nobody', 'why')$$, '42704', NULL, 'what is not owed cannot be given up');
SELECT lives_ok($$SELECT dualwrite.forget_index('f', 'f_new', 'unwanted', 'never used')$$, 'one is given up');
SELECT dualwrite.configure('f', 'throttle_query', NULL);
CALL await($$'{failing: failed,own: given up,same: built,taken: failed,unwanted: given up}'::text[] =
	(SELECT array_agg(index_name || ': ' || state ORDER BY index_name) FROM dualwrite.indexes)$$);
SELECT ok((SELECT error LIKE '%division by zero%' AND next_attempt_at > now() FROM dualwrite.indexes WHERE index_name = 'failing'), 'why it failed is shown');
SELECT ok((SELECT error LIKE '%something else has its name%' FROM dualwrite.indexes WHERE index_name = 'taken'), 'and what is in the way');
SELECT ok((SELECT last_error IS NOT NULL FROM dualwrite.workers WHERE migration = 'f' LIMIT 1), 'workers shows it, too');
SELECT ok((SELECT NOT passed AND detail LIKE '3 of 5 %; index % could not be built' FROM dualwrite.gates('f') WHERE gate = 'indexes'), 'so does the gate, without the message, which may hold values');
SET ROLE dualwrite_monitor;
SELECT is_empty($$SELECT FROM dualwrite.indexes WHERE error IS NOT NULL UNION ALL SELECT FROM dualwrite.workers WHERE last_error IS NOT NULL$$,
	'who may not read the table does not see it');
RESET ROLE;
SELECT results_eq($$SELECT definition FROM there WHERE name = 'own'$$, $$VALUES ('CREATE INDEX own ON public.f_new USING btree (lower(t))')$$,
	'an index that its owner has made meanwhile is left alone');
SELECT is(dualwrite.retry_indexes('f'), 2::bigint, 'another try');
CALL await($$(SELECT min(failures) > 1 FROM _dualwrite.index_away WHERE index_name IN ('failing', 'taken'))$$);
SELECT ok((SELECT next_step LIKE '%retry_indexes%' FROM dualwrite.status WHERE migration = 'f'), 'what to do is said');
DROP SEQUENCE taken;
UPDATE f SET n = 5 WHERE n = 0;
SELECT is(dualwrite.retry_indexes('f'), 2::bigint, 'two are tried again');
CALL await($$NOT EXISTS (SELECT FROM dualwrite.gates('f') WHERE NOT passed)$$);
SELECT set_eq($$SELECT name::text, valid FROM there WHERE t = 'f_new'::regclass$$,
	$$VALUES ('f_new_pkey', true), ('failing', true), ('same', true), ('own', true), ('taken', true)$$, 'and are there');
SELECT results_eq($$SELECT reason, detail ->> 'definition' FROM dualwrite.events WHERE event = 'index_given_up' AND reason = 'never used'$$,
	$$VALUES ('never used', 'CREATE INDEX CONCURRENTLY unwanted ON public.f_new USING btree (n, t)')$$, 'the definition of the other stays in the audit');
SELECT dualwrite.rollback('f', 'defined');
SELECT lives_ok($$SELECT dualwrite.drop_migration('f')$$, 'gone');

-- Broken off half-way: pause, rollback, and what is left behind

CREATE TABLE h (id int PRIMARY KEY, t text);
INSERT INTO h SELECT g, 't' || g FROM generate_series(1, 300) g;
CREATE TABLE h_new (id int PRIMARY KEY, t text);
CREATE INDEX slow ON h_new (held(t));
SELECT dualwrite.create_migration('h', 'h', 'h_new');
SELECT dualwrite.configure('h', 'backfill_indexes', 'afterwards');
SELECT pg_advisory_lock(4711);
SELECT format('SELECT dualwrite.advance(%L)', 'h') FROM generate_series(1, 3) \gexec
CALL await($$(SELECT i.state = 'building' AND i.percent < 60 AND i.seconds > 0 AND p.stage = 'indexes' AND p.percent = i.percent AND w.doing = 'h_new: builds slow'
	FROM dualwrite.indexes i JOIN dualwrite.progress p USING (migration) JOIN dualwrite.workers w USING (migration) WHERE w.role = 'indexes')$$);
SELECT pass('a build is a stage, and a worker of its own is at it');
INSERT INTO h VALUES (1001, 'while it is built');
SELECT is((SELECT t FROM h_new WHERE id = 1001), 'while it is built', 'which keeps no writer waiting');
SELECT results_eq($$SELECT valid FROM there WHERE name = 'slow'$$, $$VALUES (false)$$, 'the index is there, not valid yet');
SELECT dualwrite.pause('h');
CALL await($$NOT EXISTS (SELECT FROM pg_stat_progress_create_index) AND (SELECT bool_and(state = 'paused') FROM dualwrite.workers WHERE migration = 'h')$$);
SELECT results_eq($$SELECT state, error IS NULL FROM dualwrite.indexes$$, $$VALUES ('taken away', true)$$, 'pause breaks it off, which is no failure');
SELECT dualwrite.resume('h');
CALL await($$(SELECT state = 'building' AND percent IS NOT NULL FROM dualwrite.indexes) AND EXISTS (SELECT FROM there WHERE name = 'slow')$$);
SELECT is(dualwrite.rollback('h'), 'dual_write', 'a rollback does not wait for it');
CALL await($$(SELECT state = 'building' FROM dualwrite.indexes)$$);
SELECT is(dualwrite.rollback('h', 'defined'), 'defined', 'nor does one down to defined');
CALL await($$(SELECT state = 'building' FROM dualwrite.indexes)$$);
\set ON_ERROR_STOP off
SELECT dualwrite.drop_migration('h');
\set refused :SQLSTATE
\set ON_ERROR_STOP on
SELECT is(:'refused'::text, '55000', 'a migration that owes an index cannot be dropped');
SELECT pg_advisory_unlock(4711);
CALL await($$(SELECT valid FROM there WHERE name = 'slow') AND (SELECT state = 'built' FROM dualwrite.indexes) AND NOT EXISTS (SELECT FROM dualwrite.workers)$$);
SELECT pass('it is built even so, and then nobody works');
SELECT lives_ok($$SELECT dualwrite.drop_migration('h')$$, 'now it can');

-- Taken back while rows are still to be copied

TRUNCATE h_new;
SELECT dualwrite.create_migration('k', 'h', 'h_new');
SELECT dualwrite.configure('k', 'backfill_indexes', 'afterwards');
SELECT dualwrite.configure('k', 'backfill_max_rows_per_second', '1');
SELECT format('SELECT dualwrite.advance(%L)', 'k') FROM generate_series(1, 3) \gexec
SELECT is_empty($$SELECT FROM there WHERE name = 'slow'$$, 'away once more');
SELECT dualwrite.configure('k', 'backfill_indexes', 'keep');
CALL await($$(SELECT state = 'built' FROM dualwrite.indexes)$$);
SELECT results_eq($$SELECT valid FROM there WHERE name = 'slow'$$, $$VALUES (true)$$, 'with setting keep it comes back at once');
SELECT dualwrite.rollback('k', 'defined');
SELECT dualwrite.drop_migration('k');

-- Without a worker

TRUNCATE h_new;
SELECT dualwrite.create_migration('w', 'h', 'h_new');
SELECT dualwrite.configure('w', 'backfill_indexes', 'afterwards');
SELECT dualwrite.pause('w');
SELECT format('SELECT dualwrite.advance(%L)', 'w') FROM generate_series(1, 3) \gexec
CALL dualwrite.backfill('w');
SELECT ok((SELECT NOT passed FROM dualwrite.gates('w') WHERE gate = 'indexes'), 'a session copies, and does not build');
CREATE INDEX CONCURRENTLY slow ON public.h_new USING btree (held(t));
CALL dualwrite.backfill('w');
SELECT is_empty($$SELECT FROM dualwrite.gates('w') WHERE NOT passed$$, 'it notes what somebody has built');
SELECT isnt_empty($$SELECT FROM pg_stats WHERE tablename = 'slow'$$, 'and analyzes the table');
SELECT dualwrite.resume('w');

-- The table itself goes

SELECT dualwrite.rollback('w', 'defined');
SELECT dualwrite.drop_migration('w');
TRUNCATE h_new;
SELECT dualwrite.create_migration('g', 'h', 'h_new');
SELECT dualwrite.configure('g', 'backfill_indexes', 'afterwards');
SELECT dualwrite.pause('g');
SELECT format('SELECT dualwrite.advance(%L)', 'g') FROM generate_series(1, 3) \gexec
SELECT is((SELECT count(*) FROM dualwrite.indexes), 1::bigint, 'one is away');
DROP TABLE h_new CASCADE;
SELECT is_empty('SELECT * FROM dualwrite.indexes', 'of a table that is gone nothing is owed');
SELECT dualwrite.rollback('g', 'defined');
SELECT lives_ok($$SELECT dualwrite.drop_migration('g')$$, 'and nothing keeps the migration');
SELECT * FROM finish();
