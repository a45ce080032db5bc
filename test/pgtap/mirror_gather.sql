-- Rows of one statement are written to the other side together where nobody can notice, and what was worked out about a
-- table is kept from one statement to the next. Here is what would be noticed if either were done where it must not.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

CREATE TABLE go (id int PRIMARY KEY, v text, w int, mine int DEFAULT 0);
CREATE TABLE gn (id bigint PRIMARY KEY, v text, w int, own int DEFAULT 7);
CREATE TABLE seen (op text, id int, rows bigint);
CREATE TABLE aside (id int);
SELECT dualwrite.create_migration('gather', 'go', 'gn');
CALL dualwrite.run('gather', 'verify');

CREATE FUNCTION agree() RETURNS boolean LANGUAGE sql AS $$
	SELECT NOT EXISTS (SELECT FROM (SELECT id::bigint, v, w FROM go) o FULL JOIN gn n USING (id) WHERE (o.v, o.w) IS DISTINCT FROM (n.v, n.w)) $$;
-- Row versions that a table was given, told by a counter of the server.
CREATE FUNCTION written(of regclass) RETURNS bigint LANGUAGE sql AS $$
	SELECT pg_stat_get_xact_tuples_inserted(of) + pg_stat_get_xact_tuples_updated(of) + pg_stat_get_xact_tuples_deleted(of) $$;

-- Plain statements of many rows.
INSERT INTO go SELECT g, 'v' || g, g FROM generate_series(1, 3000) g;
SELECT ok(agree(), 'INSERT');
SELECT is((SELECT count(*) FROM gn WHERE own = 7), 3000::bigint, 'with the defaults of unmapped columns');
UPDATE go SET w = w + 1;
SELECT ok(agree(), 'UPDATE');
DELETE FROM go WHERE id % 3 = 0;
SELECT ok(agree(), 'DELETE of every third row');
DELETE FROM go WHERE id % 500 = 1;
SELECT ok(agree(), 'DELETE of rows far from each other');
DELETE FROM go;
SELECT is((SELECT count(*) FROM gn), 0::bigint, 'DELETE of all rows');
INSERT INTO go SELECT g, 'again', g FROM generate_series(3000, 1, -1) g;
SELECT ok(agree(), 'INSERT of the same keys, downwards');
DELETE FROM go WHERE id IN (SELECT id FROM go WHERE id <= 1500 ORDER BY md5(id::text));
SELECT ok(agree(), 'DELETE in no order');
-- beside the tables of this cluster, where COPY FROM finds it by name
SELECT current_setting('data_directory') || '/dualwrite_gather' AS file \gset
COPY (SELECT g, 'copied', g, 0 FROM generate_series(1, 1500) g) TO :'file';
COPY go FROM 'dualwrite_gather';
SELECT ok(agree(), 'COPY');
SELECT is((SELECT count(*) FROM gn WHERE v = 'copied'), 1500::bigint, 'of all rows');
BEGIN;
DELETE FROM go WHERE id <= 1000;
COPY go FROM STDIN;
1	a	1	0
2	b	2	0
3	c	3	0
4	d	4	0
5	e	5	0
6	f	6	0
\.
SELECT ok(agree(), 'DELETE and COPY in a transaction');
ROLLBACK;
SELECT ok(agree(), 'undone on both sides');
SELECT is((SELECT concat_ws(' ', inserts, updates, deletes, skipped, p50_us > 0, total_ms > 0) FROM dualwrite.mirror_stats
	WHERE migration = 'gather' AND direction = 'forward'), '7500 3000 4500 0 t t', 'rows that were written together are counted, and timed');

-- Somebody who looks.
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen VALUES (tg_op, CASE WHEN tg_level = 'ROW' THEN CASE tg_op WHEN 'DELETE' THEN old.id ELSE new.id END END, (SELECT count(*) FROM gn));
	RETURN NULL;
END $$;
TRUNCATE go;
CREATE TRIGGER "a look" AFTER INSERT OR DELETE ON go FOR EACH ROW EXECUTE FUNCTION look();
INSERT INTO go SELECT g, 'seen', g FROM generate_series(1, 20) g;
SELECT is((SELECT array_agg(rows ORDER BY id) FROM seen WHERE op = 'INSERT'), (SELECT array_agg(g::bigint) FROM generate_series(1, 20) g),
	'a row trigger of the user sees each row mirrored before the next');
TRUNCATE seen;
COPY go FROM STDIN;
21	a	1	0
22	b	2	0
23	c	3	0
24	d	4	0
25	e	5	0
26	f	6	0
\.
SELECT is((SELECT array_agg(rows ORDER BY id) FROM seen), '{21,22,23,24,25,26}', 'in COPY, too');
TRUNCATE seen;
DROP TRIGGER "a look" ON go;
CREATE TRIGGER "a look" AFTER INSERT OR DELETE ON go FOR EACH STATEMENT EXECUTE FUNCTION look();
INSERT INTO go SELECT g, 'seen', g FROM generate_series(31, 40) g;
DELETE FROM go WHERE id < 20;
SELECT is((SELECT array_agg(rows ORDER BY op DESC) FROM seen), '{36,17}', 'a statement trigger of the user sees all of the statement mirrored');
DROP TRIGGER "a look" ON go;
TRUNCATE seen;
CREATE TRIGGER look AFTER INSERT ON aside FOR EACH ROW EXECUTE FUNCTION look();
WITH one AS (INSERT INTO aside SELECT generate_series(101, 110) RETURNING id) INSERT INTO go SELECT id, 'cte', id FROM one;
SELECT is((SELECT array_agg(rows - 17 ORDER BY id) FROM seen), (SELECT array_agg(g::bigint) FROM generate_series(0, 9) g),
	'a trigger of another table that the statement writes sees each row mirrored');
DROP TRIGGER look ON aside;
TRUNCATE seen;
CREATE FUNCTION look_after_error() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		INSERT INTO seen VALUES (tg_op, 0, (SELECT count(*) FROM gn));
		RAISE EXCEPTION 'undone';
	EXCEPTION WHEN raise_exception THEN NULL;
	END;
	RETURN NULL;
END $$;
CREATE TRIGGER look AFTER INSERT ON aside FOR EACH ROW EXECUTE FUNCTION look_after_error();
WITH one AS (INSERT INTO aside SELECT generate_series(111, 120) RETURNING id) INSERT INTO go SELECT id, 'cte', id FROM one;
SELECT ok(agree(), 'a trigger of another table that fails and catches it undoes nothing of the mirror');
DROP TRIGGER look ON aside;

-- Foreign keys of the old side that look at the new side.
CREATE TABLE fo (id int PRIMARY KEY, twin bigint);
CREATE TABLE fn (id bigint PRIMARY KEY, twin bigint);
SELECT dualwrite.create_migration('keys', 'fo', 'fn');
CALL dualwrite.run('keys', 'verify');
ALTER TABLE fo ADD FOREIGN KEY (twin) REFERENCES fn (id);
SELECT lives_ok('INSERT INTO fo SELECT g, g FROM generate_series(1, 50) g', 'an old row may reference its own new row');
SELECT is((SELECT count(*) FROM fn), 50::bigint, '... and is mirrored');
SELECT throws_ok('INSERT INTO fo SELECT g, g + 1 FROM generate_series(51, 60) g', '23503', NULL, '... but not one that is not there yet');

-- Different kinds of events in one statement, and keys that are freed and taken by it.
TRUNCATE go;
INSERT INTO go SELECT g, 'first', g FROM generate_series(1, 200) g;
INSERT INTO go SELECT g, 'second', g FROM generate_series(1, 400) g ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE go.id % 2 = 0;
SELECT ok(agree(), 'ON CONFLICT DO UPDATE, inserts and updates by turns');
MERGE INTO go USING (SELECT g AS id FROM generate_series(1, 600) g) s ON go.id = s.id
	WHEN MATCHED AND s.id % 3 = 0 THEN DELETE WHEN MATCHED AND s.id % 3 = 1 THEN UPDATE SET v = 'merged'
	WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged', s.id);
SELECT ok(agree(), 'MERGE, everything by turns');
WITH gone AS (DELETE FROM go WHERE id <= 300 RETURNING id) INSERT INTO go SELECT id + 1000, 'moved', id FROM gone;
SELECT ok(agree(), 'DELETE, then INSERT in a CTE');
DO $$ BEGIN
	FOR i IN 1..3 LOOP
		BEGIN
			INSERT INTO go SELECT g, 'in a subtransaction', g FROM generate_series(i * 10000, i * 10000 + 50) g;
			IF i = 2 THEN RAISE EXCEPTION 'undo'; END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$;
SELECT ok(agree(), 'subtransactions, one of them undone');
SELECT is((SELECT count(*) FROM gn WHERE id BETWEEN 20000 AND 20050), 0::bigint, '... on both sides');

-- What is on the new side already, or is not.
TRUNCATE go;
ALTER TABLE gn DISABLE TRIGGER USER;
INSERT INTO gn SELECT g, 'strange', g, 99 FROM generate_series(10, 500, 10) g;
ALTER TABLE gn ENABLE TRIGGER USER;
ALTER TABLE gn ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete", ENABLE ALWAYS TRIGGER "~dualwrite_flush",
	ENABLE ALWAYS TRIGGER "!dualwrite_truncate";
INSERT INTO go SELECT g, 'inserted', g FROM generate_series(1, 500) g;
SELECT ok(agree(), 'rows that are there already are updated');
SELECT is((SELECT count(*) FROM gn WHERE own = 99), 50::bigint, '... and keep their unmapped columns');
ALTER TABLE gn DISABLE TRIGGER USER;
DELETE FROM gn WHERE id % 7 = 0;
ALTER TABLE gn ENABLE TRIGGER USER;
ALTER TABLE gn ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete", ENABLE ALWAYS TRIGGER "~dualwrite_flush",
	ENABLE ALWAYS TRIGGER "!dualwrite_truncate";
SELECT lives_ok('DELETE FROM go WHERE id <= 400', 'rows that are not there are not missed');
SELECT is((SELECT count(*) FROM gn WHERE id <= 400), 0::bigint, '... and the others go');

-- Errors name the row, and leave nothing behind.
CREATE FUNCTION error_context(command text, OUT state text, OUT context text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
EXCEPTION WHEN others THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
	context := substring(context FROM 'key (\{[^}]*\})');
END $$;
TRUNCATE go;
ALTER TABLE gn ADD CONSTRAINT few CHECK (w < 1000);
SELECT is(error_context('INSERT INTO go SELECT g, ''x'', g * 10 FROM generate_series(1, 300) g')::text, '(23514,"{""id"": 100}")', 'the row that breaks a CHECK');
CREATE UNIQUE INDEX gn_v ON gn (v);
SELECT is(error_context('INSERT INTO go SELECT g, ''v'' || g % 77, 0 FROM generate_series(1, 300) g')::text, '(23505,"{""id"": 78}")', 'the row that breaks another unique index');
SELECT is((SELECT count(*) FROM go), 0::bigint, 'nothing is left behind');
SELECT lives_ok('INSERT INTO go SELECT g, ''v'' || g, 0 FROM generate_series(1, 300) g', 'and the next statement succeeds');
SELECT ok(agree(), '... on both sides');
DROP INDEX gn_v;
ALTER TABLE gn DROP CONSTRAINT few;

-- What is known about the new table changes between two statements of a transaction.
BEGIN;
UPDATE go SET w = 1 WHERE id = 1;
CREATE UNIQUE INDEX gn_w ON gn (w) WHERE w > 0;
SELECT is(error_context('UPDATE go SET w = 1 WHERE id = 2')::text, '(23505,"{""id"": 2}")', 'an index that is new');
DROP INDEX gn_w;
SELECT lives_ok('UPDATE go SET w = 1 WHERE id = 2', 'an index that is gone');
ALTER TABLE gn ADD CONSTRAINT small CHECK (w < 5);
SELECT is(error_context('UPDATE go SET w = 9 WHERE id = 2')::text, '(23514,"{""id"": 2}")', 'a constraint that is new');
ALTER TABLE gn DROP CONSTRAINT small, ADD COLUMN extra text DEFAULT 'more';
INSERT INTO go VALUES (1001, 'one more', 1);
SELECT is((SELECT extra FROM gn WHERE id = 1001), 'more', 'a column that is new');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.extra := 'shouted'; RETURN new; END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON gn FOR EACH ROW EXECUTE FUNCTION shout();
ALTER TABLE gn ENABLE ALWAYS TRIGGER shout;
UPDATE go SET w = 2 WHERE id = 1001;
INSERT INTO go SELECT g, 'many', 1 FROM generate_series(1100, 1120) g;
SELECT is((SELECT count(*) FROM gn WHERE extra = 'shouted'), 22::bigint, 'a trigger that is new');
DROP TRIGGER shout ON gn;
ALTER TABLE gn ALTER own SET DEFAULT 70;
INSERT INTO go VALUES (1002, 'another default', 1);
SELECT is((SELECT own FROM gn WHERE id = 1002), 70, 'a default that is new');
REINDEX TABLE gn;
CLUSTER gn USING gn_pkey;
UPDATE go SET w = 3 WHERE id = 1002;
DELETE FROM go WHERE id = 1001;
SELECT ok(agree(), 'a table that was rewritten');
ALTER TABLE gn DROP CONSTRAINT gn_pkey, ADD PRIMARY KEY (id);
INSERT INTO go VALUES (1003, 'another index', 1);
UPDATE go SET w = 4 WHERE id = 1003;
SELECT ok(agree(), 'a key with another index');
COMMIT;
SELECT ok(agree(), 'after all that');

-- An update that changes nothing of the new row writes nothing; one that does is found by every column that it is made of.
CREATE TABLE po (id int PRIMARY KEY, a text, b text, c int, d int GENERATED ALWAYS AS (c * 2) STORED, big text, born text);
CREATE TABLE pn (id int PRIMARY KEY, a text, whole boolean, d int, big text, born text);
SELECT dualwrite.create_migration('parts', 'po', 'pn', filter => 'c > 0',
	forward => $${"a": "lower(a)", "whole": "(po.*) IS NOT NULL", "born": {"expr": "born", "on": "insert"}}$$);
CALL dualwrite.run('parts', 'verify');
INSERT INTO po (id, a, b, c, big, born) SELECT g, 'A', 'B', 1, (SELECT string_agg(md5(g::text || i), '') FROM generate_series(1, 400) i), 'early' FROM generate_series(1, 5) g;
SELECT is((SELECT count(*) FROM pn WHERE d = 2 AND length(big) = 12800), 5::bigint, 'rows with generated and large values');
CREATE FUNCTION writes(command text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE before bigint := written('pn');
BEGIN
	EXECUTE command;
	RETURN written('pn') - before;
END $$;
SELECT is(writes('UPDATE po SET b = ''other'''), 0::bigint, 'a column that is not mapped');
SELECT is(writes('UPDATE po SET a = a, c = c, big = big'), 0::bigint, 'columns that are set to what they are');
SELECT is(writes('UPDATE po SET a = ''a'''), 0::bigint, 'a change that the expression hides');
SELECT is(writes('UPDATE po SET born = ''late'''), 0::bigint, 'a column that is mapped for inserts only');
SELECT is(writes('UPDATE po SET c = 2'), 5::bigint, 'a column that another one is generated from');
SELECT is(writes('UPDATE po SET big = big || ''x'' WHERE id = 1'), 1::bigint, 'a large value');
SELECT is(writes('UPDATE po SET c = -1 WHERE id = 2'), 1::bigint, 'the filter: the row goes');
SELECT is(writes('UPDATE po SET a = ''unseen'' WHERE id = 2'), 0::bigint, 'outside the filter');
SELECT is(writes('UPDATE po SET c = 3 WHERE id = 2'), 1::bigint, 'the row comes back');
SELECT is(writes('UPDATE po SET b = NULL WHERE id = 3'), 1::bigint, 'an expression over the whole row');
SELECT is((SELECT string_agg(concat_ws(' ', id, whole, a, d, length(big), born), ', ' ORDER BY id) FROM pn),
	'1 t a 4 12801 early, 2 t unseen 6 12800 late, 3 f a 4 12800 early, 4 t a 4 12800 early, 5 t a 4 12800 early', 'all is as it should be');
-- Where many keys are looked up, the next one is looked for beside the last one first: what if it is not there, or something else is.
CREATE TABLE ho (id text COLLATE "C" NOT NULL, v int, w int);
CREATE TABLE hn (id text COLLATE "C" NOT NULL, v int, w int);
CREATE UNIQUE INDEX ho_id ON ho (id);
CREATE UNIQUE INDEX hn_id ON hn (id DESC);
CREATE INDEX hn_v ON hn (v);
SELECT dualwrite.create_migration('hints', 'ho', 'hn', key_columns => '{id}');
CALL dualwrite.run('hints', 'verify');
CREATE FUNCTION agree_on_hints() RETURNS boolean LANGUAGE sql AS $$
	SELECT NOT EXISTS (SELECT FROM ho FULL JOIN hn USING (id) WHERE (ho.v, ho.w) IS DISTINCT FROM (hn.v, hn.w)) $$;
INSERT INTO ho SELECT 'key ' || lpad(g::text, 5, '0'), g, 0 FROM generate_series(1, 3000) g;
UPDATE ho SET v = v + 1;
SELECT ok(agree_on_hints(), 'UPDATE against the order of the index');
UPDATE ho SET v = s.v + 1 FROM (SELECT id, v FROM ho ORDER BY id DESC) s WHERE s.id = ho.id;
SELECT ok(agree_on_hints(), '... in it, every row with older versions');
UPDATE ho SET v = s.v + 1 FROM (SELECT id, v FROM ho ORDER BY md5(id) OFFSET 0) s WHERE s.id = ho.id;
SELECT ok(agree_on_hints(), '... in no order');
BEGIN;
DO $$ BEGIN FOR i IN 1..5 LOOP UPDATE ho SET v = v + 1, w = i; END LOOP; END $$;
SELECT ok(agree_on_hints(), 'several times in a transaction');
DELETE FROM ho WHERE v % 3 > 0;
SELECT ok(agree_on_hints(), 'then DELETE');
ROLLBACK;
SELECT ok(agree_on_hints(), 'all of it undone');
CREATE FUNCTION push() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN
		UPDATE ho SET v = v + 1000 WHERE id = 'key ' || lpad((substring(new.id FROM 5)::int + 2)::text, 5, '0');
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER push AFTER UPDATE ON ho FOR EACH ROW EXECUTE FUNCTION push();
UPDATE ho SET v = s.v + 1 FROM (SELECT id, v FROM ho ORDER BY id DESC) s WHERE s.id = ho.id;
SELECT ok(agree_on_hints(), 'a trigger that writes the row after next');
DROP TRIGGER push ON ho;
UPDATE ho SET id = id || 'x' WHERE v % 2 = 0;
SELECT ok(agree_on_hints(), 'keys that change');
DELETE FROM ho WHERE w = 0;
SELECT is((SELECT count(*) FROM hn), 0::bigint, 'DELETE of all rows, every one with older versions');

-- What a statement itself reads of the new side, while it writes the old one, is what was there before it, for every row: our triggers
-- fire when all its rows are written.  Triggers of the user read what is there after the row, but before the next.
CREATE TABLE ro (id int PRIMARY KEY, v text);
CREATE TABLE rn (id bigint PRIMARY KEY, v text);
SELECT dualwrite.create_migration('looks', 'ro', 'rn');
CALL dualwrite.run('looks', 'verify');
CREATE FUNCTION there() RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN (SELECT count(*) FROM rn); END $$;
INSERT INTO ro SELECT g, there() FROM generate_series(1, 10) g;
SELECT is((SELECT string_agg(DISTINCT v, ' ') FROM ro), '0', 'a function in an INSERT');
SELECT results_eq($$WITH i AS (INSERT INTO ro SELECT g, 'x' FROM generate_series(11, 30) g RETURNING there() AS n) SELECT DISTINCT n FROM i$$, $$VALUES ('10')$$, 'in RETURNING');
DO $$ DECLARE r record; BEGIN
	FOR r IN DELETE FROM ro WHERE id > 20 RETURNING id LOOP
		ASSERT NOT EXISTS (SELECT FROM rn WHERE id > 20), 'a loop over RETURNING begins when the statement is over';
	END LOOP;
	FOR r IN SELECT * FROM ro ORDER BY id LOOP
		INSERT INTO ro SELECT r.id * 100 + g, 'loop' FROM generate_series(1, 5) g;
		ASSERT (SELECT count(*) FROM rn WHERE id > 100) = r.id * 5, 'statements in a loop over a cursor';
	END LOOP;
END $$;
SELECT is((SELECT count(*) FROM ro FULL JOIN rn USING (id) WHERE ro.v IS DISTINCT FROM rn.v), 0::bigint, 'loops over rows');
DELETE FROM ro WHERE id > 100;
CREATE TABLE read (op text, id int, old_v text, counterpart text);
CREATE FUNCTION read_counterpart() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO read SELECT tg_op || tg_argv[0], coalesce(new.id, old.id), old.v, (SELECT rn.v FROM rn WHERE rn.id = coalesce(new.id, old.id));
	RETURN NULL;
END $$;
CREATE TRIGGER read AFTER INSERT OR UPDATE OR DELETE ON ro FOR EACH ROW EXECUTE FUNCTION read_counterpart('');
CREATE TRIGGER "!before us" AFTER INSERT OR UPDATE OR DELETE ON ro FOR EACH ROW EXECUTE FUNCTION read_counterpart(', first');
INSERT INTO ro SELECT g, 'v' || g FROM generate_series(31, 40) g;
UPDATE ro SET v = 'w' || id WHERE id > 30;
DELETE FROM ro WHERE id > 30;
SELECT is((SELECT string_agg(format('%s: %s of %s', op, good, all_of), '; ' ORDER BY op) FROM (SELECT op, count(*) AS all_of,
	count(*) FILTER (WHERE counterpart IS NOT DISTINCT FROM CASE op WHEN 'INSERT' THEN 'v' || id WHEN 'INSERT, first' THEN NULL WHEN 'UPDATE' THEN 'w' || id WHEN 'UPDATE, first' THEN 'v' || id ELSE 'w' || id END) AS good
	FROM read GROUP BY op) x), 'DELETE: 10 of 10; DELETE, first: 10 of 10; INSERT: 10 of 10; INSERT, first: 10 of 10; UPDATE: 10 of 10; UPDATE, first: 10 of 10',
	'triggers read the counterpart of their own row: after ours it is mirrored, a deleted one still there');

-- Values out of line that were written together are the new table's own.
CREATE TABLE lo (id int PRIMARY KEY, ext text, comp text);
CREATE TABLE ln (comp text, id bigint PRIMARY KEY, ext text);
ALTER TABLE lo ALTER ext SET STORAGE EXTERNAL;
ALTER TABLE ln ALTER comp SET STORAGE EXTERNAL;
SELECT dualwrite.create_migration('long', 'lo', 'ln');
CALL dualwrite.run('long', 'verify');
INSERT INTO lo SELECT g, (SELECT string_agg(md5(g::text || i), '') FROM generate_series(1, 200) i), repeat('c' || g, 20000) FROM generate_series(1, 60) g;
COPY lo TO :'file';
DELETE FROM lo WHERE id > 30;
INSERT INTO lo SELECT id + 100, ext, comp FROM lo;
DELETE FROM lo WHERE id <= 30;
COPY lo FROM 'dualwrite_gather';
CREATE TABLE kept AS SELECT id, md5(ext) AS e, md5(comp) AS c FROM lo;
SELECT dualwrite.rollback('long', 'defined', force => true) \gset
SELECT dualwrite.drop_migration('long');
DROP TABLE lo;
VACUUM ln;
SELECT is((SELECT count(*) FROM kept k JOIN ln n ON n.id = k.id AND md5(n.ext) = k.e AND md5(n.comp) = k.c), 90::bigint, 'long values outlive the old table');
SELECT finish();
