-- Errors of the new side, and what they leave alone: with abort the application gets the target's own error, told apart by its context;
-- with queue the statement succeeds, its other rows are mirrored, the key is queued.  Then what is counted, and what it costs.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE e (id int PRIMARY KEY, v text, w int, d date, p int);
CREATE DOMAIN small AS int CHECK (value < 500);
CREATE TABLE en (id int PRIMARY KEY, v varchar(10) NOT NULL, w small CHECK (w <> 13), d date CHECK (d < '2100-01-01'), p int REFERENCES parent, u int GENERATED ALWAYS AS (100 / (w - 77)) STORED,
	UNIQUE (v), EXCLUDE USING btree (p WITH =) WHERE (p > 90));
CREATE FUNCTION picky() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.w = 14 THEN RAISE EXCEPTION 'not fourteen' USING ERRCODE = 'DW014'; END IF;
	IF new.w = 15 THEN RETURN NULL; END IF;
	RETURN new;
END $$;
CREATE TRIGGER picky BEFORE INSERT OR UPDATE ON en FOR EACH ROW EXECUTE FUNCTION picky();
ALTER TABLE en ENABLE ALWAYS TRIGGER picky;
INSERT INTO parent VALUES (1), (91), (92);
INSERT INTO e SELECT g, 'v' || g, g % 10, '2024-01-01', 1 FROM generate_series(1, 20) g;
SELECT dualwrite.create_migration('e', 'e', 'en');
CALL dualwrite.run('e', 'verify');
SELECT dualwrite.pause('e');
CREATE FUNCTION same() RETURNS bigint LANGUAGE sql AS $$ SELECT differences('TABLE e', 'SELECT id, v::text, w::int, d, p FROM en') $$;

-- one statement for each way to fail, which breaks row 5 of twenty
CREATE TABLE ways (sqlstate text, assignment text, message text);
INSERT INTO ways VALUES
	('23502', 'v = NULL', 'null value in column "v"%'), ('22001', 'v = ''longer than ten''', 'value too long%'), ('23514', 'w = 13', '%en_w_check%'), ('23514', 'w = 900', '%small_check%'),
	('22012', 'w = 77', 'division by zero'), ('23503', 'p = 7', '%en_p_fkey%'), ('23505', 'v = ''v6''', '%en_v_key%'), ('DW014', 'w = 14', 'not fourteen'), ('09000', 'w = 15', '%suppressed%'),
	('23514', 'd = ''2200-01-01''', '%en_d_check%');
-- What the application gets to know: SQLSTATE, message, context.
CREATE FUNCTION error_of(statement text, OUT state text, OUT message text, OUT context text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	state := '00000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, context = PG_EXCEPTION_CONTEXT, hint = PG_EXCEPTION_HINT;
END $$;
CREATE FUNCTION breaking(assignment text) RETURNS text LANGUAGE sql AS $$ SELECT format('UPDATE e SET %s WHERE id = 5', assignment) $$;

-- abort
CREATE TEMP TABLE owned (id int PRIMARY KEY);
SELECT unnest(ARRAY[is(x.state, w.sqlstate, 'abort: ' || assignment), ok(x.message LIKE w.message, 'with the target''s own message: ' || x.message),
	-- a foreign key of the new side is checked with the application's own, at the end of the statement: the reference at fault is in the detail
	ok(x.context LIKE '%dualwrite forward mirror of migration "e", mapping from public.e to public.en, key {"id": 5}' ||
		CASE w.sqlstate WHEN '23503' THEN ', checked at the end of the statement%' ELSE '%' END AND (SELECT count(*) FROM regexp_matches(x.context, 'mirror of', 'g')) = 1,
		'which migration, mapping and key'),
	ok(w.sqlstate !~ '^2' OR x.hint LIKE '%''mirror_on_error'', ''queue''%', 'and what helps')]) FROM ways w, error_of(breaking(assignment)) x;
SELECT ok(x.state = '23503' AND x.context LIKE 'dualwrite forward mirror of migration "e", mapping from public.e to public.en, key {"id": 700}, checked at the end of the statement%', 'and of COPY')
	FROM error_of($$COPY e (id, v, p) FROM PROGRAM 'printf "700\tcopied\t7\n"'$$) x;
SELECT ok(x.state = '23503' AND x.context LIKE 'dualwrite forward mirror of migration "e", mapping from public.e to public.en, key {"id": 705}, checked at the end of the statement%', 'of a row whose key changes, too')
	FROM error_of('UPDATE e SET id = 705, p = 7 WHERE id = 5') x;
SELECT ok(x.state = '23503' AND x.context LIKE 'dualwrite forward mirror of migration "e", mapping from public.e to public.en, key not known, one of several, checked at the end of the statement%',
	'of several rows nobody knows which') FROM error_of($$UPDATE e SET p = CASE id WHEN 6 THEN 7 ELSE p END, v = v || '!' WHERE id IN (5, 6)$$) x;
SELECT ok(x.state = '23503' AND x.context NOT LIKE '%mirror of%', 'what the application itself breaks is not the mirror''s')
	FROM error_of('CREATE TEMP TABLE own (p int REFERENCES pg_temp.owned) ON COMMIT DROP; INSERT INTO own VALUES (1)') x;
SELECT is(same(), 0::bigint, 'abort: nothing is left behind');
SELECT is((SELECT count(*) FROM dualwrite.queue), 0::bigint, 'and nothing queued');

-- what the backend does besides goes on: savepoints, cursors, caught errors, other tables
CREATE TABLE other (n int);
BEGIN;
INSERT INTO other VALUES (1);
DECLARE c CURSOR FOR SELECT id FROM e ORDER BY id;
FETCH 3 FROM c \g /dev/null
DECLARE w CURSOR FOR SELECT id FROM e WHERE id > 10 ORDER BY id FOR UPDATE;
FETCH w \g /dev/null
UPDATE e SET v = 'kept' WHERE id = 1;
SAVEPOINT s;
INSERT INTO other VALUES (2);
UPDATE e SET v = 'lost' WHERE id = 2;
SELECT throws_ok(breaking('w = 13'), '23514', NULL, 'an error in a savepoint');
ROLLBACK TO s;
INSERT INTO other VALUES (3);
SELECT results_eq('FETCH c', 'VALUES (4)', 'a cursor opened before goes on');
UPDATE e SET v = 'current' WHERE CURRENT OF w;
PREPARE after AS UPDATE e SET w = 4 WHERE id = $1;
EXECUTE after(3);
COMMIT;
EXECUTE after(4);
SELECT is(same(), 0::bigint, 'both sides agree after it');
SELECT results_eq('SELECT n FROM other', 'VALUES (1), (3)', 'other tables are as they should be');
SELECT is((SELECT string_agg(v, ' ' ORDER BY id) FROM en WHERE id IN (1, 2, 11)), 'kept v2 current', 'what was before and after the savepoint is there');
DO $$ BEGIN
	FOR i IN 1..20 LOOP
		BEGIN
			UPDATE e SET v = 'loop', w = CASE WHEN i % 3 = 0 THEN 13 ELSE 2 END WHERE id = 7;
			UPDATE e SET v = 'loop ' || i WHERE id = 7;
		EXCEPTION WHEN check_violation THEN INSERT INTO other VALUES (100 + i);
		END;
	END LOOP;
END $$;
SELECT is(same(), 0::bigint, 'errors caught in a loop');
SELECT is((SELECT count(*) FROM other WHERE n > 100), 6::bigint, 'as often as they came');
SELECT is((SELECT v FROM en WHERE id = 7), 'loop 20', 'the last good one counts');

-- queue: one bad row among twenty
SELECT dualwrite.configure('e', 'mirror_on_error', 'queue');
CREATE FUNCTION queued_by(assignment text, OUT counted bigint, OUT others bigint, OUT queued text) LANGUAGE plpgsql AS $$
BEGIN
	-- only one row can have a value twice
	EXECUTE format('UPDATE e SET (v, w, d, p) = (SELECT CASE e.id WHEN 5 THEN x.v ELSE ''r'' || random()::text::varchar(8) END, x.w, x.d, x.p FROM (SELECT b.v, CASE e.id WHEN 5 THEN b.w ELSE 3 END AS w,
		CASE e.id WHEN 5 THEN b.d ELSE ''2024-02-02'' END AS d, CASE e.id WHEN 5 THEN b.p ELSE 1 END AS p FROM broken b) x) WHERE id <= 20 AND id <> 6');
	GET DIAGNOSTICS counted = ROW_COUNT;
	SELECT count(*) FROM e JOIN en USING (id) WHERE e.v = en.v AND e.w = en.w AND e.id <> 5 INTO others;
	SELECT string_agg(key::text || ' ' || sqlstate || ' ' || message, '; ') FROM dualwrite.queue WHERE sqlstate IS NOT NULL INTO queued;
END $$;
CREATE TABLE broken (v text, w int, d date, p int);
CREATE FUNCTION break_row(assignment text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
	DELETE FROM broken;
	INSERT INTO broken VALUES ('fine' || (random() * 10000)::int, 1, '2024-01-01', 1);
	EXECUTE 'UPDATE broken SET ' || assignment;
	DELETE FROM _dualwrite.queue;
	UPDATE e SET v = 'v6' WHERE id = 6;
	r := queued_by(assignment);
	RETURN concat_ws(' ', r.counted, r.others, r.queued);
END $$;
SELECT ok(break_row(assignment) LIKE '19 19 {"id": 5} ' || sqlstate || ' ' || message, 'queue: the others are mirrored, the key is queued: ' || assignment) FROM ways;
SELECT is((SELECT count(*) FROM dualwrite.queue), 1::bigint, 'queue: that key alone');
UPDATE e SET v = 'mended', w = 1, d = '2024-01-01', p = 1 WHERE id = 5;
SELECT is(same(), 0::bigint, 'queue: the next good write brings it over');
INSERT INTO e VALUES (30, 'a', 1, NULL, 1), (31, NULL, 1, NULL, 1), (32, 'b', 13, NULL, 7), (33, 'c', 1, NULL, 91), (34, 'd', 1, NULL, 91), (35, 'd', 1, NULL, 92);
SELECT is((SELECT string_agg(id::text, ' ' ORDER BY id) FROM en WHERE id >= 30), '30 33 35', 'queue: INSERT of six rows, three bad');
UPDATE e SET id = id + 100, v = 'moved ' || id WHERE id IN (30, 31, 33, 35);
SELECT is((SELECT string_agg(id::text, ' ' ORDER BY id) FROM en WHERE id >= 30), '130 131 133 135', 'queue: keys that change');
DELETE FROM e WHERE id >= 30;
SELECT is((SELECT count(*) FROM en WHERE id >= 30), 0::bigint, 'queue: and go');
SELECT is(same(), 0::bigint, 'queue: both sides agree');
BEGIN;
UPDATE e SET w = 13 WHERE id = 8;
SAVEPOINT s;
UPDATE e SET w = 13 WHERE id = 9;
ROLLBACK TO s;
COMMIT;
SELECT is((SELECT string_agg(DISTINCT key->>'id', ' ') FROM dualwrite.queue WHERE sqlstate = '23514' AND key->>'id' IN ('8', '9')), '8', 'queue: what is rolled back is not queued');
UPDATE e SET w = 3 WHERE id = 8;

-- what is no fault of a row is not put off
CREATE FUNCTION slow(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN IF v = 'full' THEN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; ELSIF v = 'serial' THEN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END IF; RETURN v; END $$;
CREATE TABLE x (id int PRIMARY KEY, v text); CREATE TABLE xn (id int PRIMARY KEY, v text CHECK (slow(v) IS NOT NULL));
SELECT dualwrite.create_migration('x', 'x', 'xn');
CALL dualwrite.run('x', 'verify');
SELECT dualwrite.configure('x', 'mirror_on_error', 'queue');
SELECT throws_ok($$INSERT INTO x VALUES (1, 'full')$$, '53100', NULL, 'queue: a full disk is not hidden');
SELECT throws_ok($$INSERT INTO x VALUES (1, 'serial')$$, '40001', NULL, 'queue: a serialization failure is not hidden');
SELECT is((SELECT count(*) FROM x) + (SELECT count(*) FROM xn), 0::bigint, 'nothing of it is left');

-- subtransactions: none with abort, one a statement with queue, whatever the number of rows
CREATE TABLE st (id int PRIMARY KEY, v text); CREATE TABLE stn (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('st', 'st', 'stn');
CALL dualwrite.run('st', 'verify');
SELECT dualwrite.pause(m) FROM unnest(ARRAY['st', 'x']) m;
SELECT is(xids_of('INSERT INTO st SELECT g, ''v'' FROM generate_series(1, 500) g'), 0::bigint, 'abort: no subtransaction');
SELECT is(xids_of('UPDATE st SET v = ''w'''), 0::bigint, 'not for UPDATE'); SELECT is(xids_of('UPDATE st SET id = id + 1000'), 0::bigint, 'nor for key changes');
SELECT is(xids_of('DELETE FROM st'), 0::bigint, 'nor DELETE');
SELECT dualwrite.configure('st', 'mirror_on_error', 'queue');
SELECT is(xids_of('INSERT INTO st SELECT g, ''v'' FROM generate_series(1, 500) g'), 1::bigint, 'queue: one subtransaction a statement');
SELECT is(xids_of('UPDATE st SET v = ''w'''), 1::bigint, 'for UPDATE'); SELECT is(xids_of('UPDATE st SET id = id + 1000'), 1::bigint, 'for key changes');
SELECT is(xids_of('WITH d AS (DELETE FROM st WHERE id < 1100 RETURNING id) UPDATE st SET v = ''x'' WHERE id > 1200'), 2::bigint, 'for each of two in one statement');
SELECT is(xids_of('MERGE INTO st USING generate_series(1200, 1600) s ON s = id WHEN MATCHED AND id > 1400 THEN DELETE WHEN MATCHED THEN UPDATE SET v = ''m'' WHEN NOT MATCHED THEN INSERT VALUES (s, ''n'')'), 1::bigint, 'for MERGE'); SELECT is(xids_of('DELETE FROM st'), 1::bigint, 'for DELETE');
SELECT is(xids_of('UPDATE st SET v = v'), 0::bigint, 'and none where there is nothing to mirror');
SELECT is(xids_of('INSERT INTO st SELECT g, ''v'' FROM generate_series(1, 40000) g'), 1::bigint, 'nor more for very many rows');
SELECT is(xids_of('DELETE FROM st'), 1::bigint, 'that go, too');

-- what a statement keeps of the rows that it puts off is bounded: looked at while its last row's triggers fire
CREATE TABLE kept (statement text, mb numeric);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO kept SELECT tg_op, sum(total_bytes) / 1e6 FROM pg_backend_memory_contexts WHERE name LIKE 'dualwrite%';
	RETURN NULL;
END $$;
CREATE TRIGGER looks AFTER INSERT OR UPDATE ON st FOR EACH ROW WHEN (new.v = 'last') EXECUTE FUNCTION keep();
INSERT INTO st SELECT g, CASE g WHEN 250000 THEN 'last' ELSE 'v' END FROM generate_series(1, 250000) g;
UPDATE st SET v = CASE id WHEN 250000 THEN 'last' ELSE 'w' END;
UPDATE st SET id = -id, v = CASE id WHEN 250000 THEN 'last' ELSE 'x' END;
SELECT cmp_ok(mb, '<', 40::numeric, format('queue: %s of 250 000 rows keeps little', statement)) FROM kept;
SELECT is((SELECT count(*) FROM kept), 3::bigint, 'each of the three');
SELECT is(differences('SELECT id::bigint, v FROM st', 'SELECT id, v FROM stn'), 0::bigint, 'both sides agree');
SELECT dualwrite.configure('st', 'mirror_on_error', 'abort');
TRUNCATE kept;
UPDATE st SET id = -id, v = CASE id WHEN -250000 THEN 'last' ELSE 'y' END;
SELECT cmp_ok(mb, '<', 60::numeric, 'abort: nor do many key changes') FROM kept;
SELECT is(differences('SELECT id::bigint, v FROM st', 'SELECT id, v FROM stn'), 0::bigint, 'both sides agree');
SELECT dualwrite.configure('st', 'mirror_on_error', 'queue');
DROP TRIGGER looks ON st;
TRUNCATE st;

-- what is counted is what was done, inline and put off alike
CREATE FUNCTION counted() RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', inserts, updates, deletes, failed, queued) FROM dualwrite.mirror_stats WHERE migration = 'st' AND direction = 'forward' $$;
SELECT dualwrite.reset_stats('st');
INSERT INTO st SELECT g, 'v' FROM generate_series(1, 10) g; UPDATE st SET v = 'w' WHERE id <= 4; DELETE FROM st WHERE id > 7; UPDATE st SET v = v;
SELECT is(counted(), '10 4 3 0 0', 'counts with mirror_on_error = queue');
SELECT dualwrite.configure('st', 'mirror_on_error', NULL);
SELECT dualwrite.reset_stats('st');
TRUNCATE st; SELECT dualwrite.reset_stats('st');
INSERT INTO st SELECT g, 'v' FROM generate_series(1, 10) g; UPDATE st SET v = 'w' WHERE id <= 4; DELETE FROM st WHERE id > 7; UPDATE st SET v = v;
SELECT is(counted(), '10 4 3 0 0', 'counts with abort');
BEGIN; INSERT INTO st VALUES (100, 'x'); ROLLBACK;
SELECT is(counted(), '10 4 3 0 0', 'what is rolled back is not counted');
ALTER TABLE stn ADD CHECK (v <> 'bad');
SELECT throws_ok($$INSERT INTO st VALUES (101, 'bad')$$, '23514', NULL, 'a failure');
SELECT is(counted(), '10 4 3 1 0', 'is counted although its transaction failed');
CREATE TABLE letters (v text PRIMARY KEY); INSERT INTO letters VALUES ('v'), ('w'), ('x'), ('y'), ('good'), ('bad');
ALTER TABLE stn ADD CONSTRAINT letter FOREIGN KEY (v) REFERENCES letters;
SELECT throws_ok($$INSERT INTO st VALUES (101, 'z')$$, '23503', NULL, 'one at the end of the statement');
SELECT is(counted(), '10 4 3 2 0', 'too');
ALTER TABLE stn DROP CONSTRAINT letter;
SELECT dualwrite.configure('st', 'mirror_on_error', 'queue');
INSERT INTO st VALUES (101, 'bad'), (102, 'good');
SELECT is(counted(), '11 4 3 3 1', 'a queued one both failed and was queued');
DELETE FROM st WHERE id > 100;
SELECT dualwrite.reset_stats('st');
INSERT INTO st SELECT g, CASE WHEN g IN (1003, 9000, 12999) THEN 'bad' ELSE 'good' END FROM generate_series(1000, 12999) g;
SELECT is(counted(), '11997 0 0 3 3', 'of very many rows, too');
SELECT is(differences('SELECT id::bigint, v FROM st WHERE v <> ''bad''', 'SELECT id, v FROM stn'), 0::bigint, 'all but the bad ones are there');
SELECT bag_eq($$SELECT (key ->> 'id')::int FROM dualwrite.queue WHERE migration = 'st' AND (key ->> 'id')::int >= 1000$$, 'SELECT id FROM st WHERE v = ''bad''', 'which are queued');
DELETE FROM st WHERE id > 100;
SELECT dualwrite.rollback('st', 'shadow', force => true) \gset
SELECT dualwrite.reset_stats('st');
INSERT INTO st SELECT g, 'v' FROM generate_series(201, 210) g; UPDATE st SET v = 'w' WHERE id BETWEEN 201 AND 204; DELETE FROM st WHERE id > 207;
SELECT is(counted(), '10 4 3 0 0', 'counts in shadow');

SELECT * FROM finish();
