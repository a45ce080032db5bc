-- Writes of the new side, where both are written: whoever makes them, whatever fails on the old side, what it costs and what is counted.
-- A reverse mirror that fails always fails the statement, whatever mirror_on_error says: a rollback would lose an accepted write.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

-- Who writes: a role that may write the new table and knows nothing of the old one.
CREATE ROLE rev_owner;
CREATE ROLE rev_definer;
CREATE ROLE rev_writer;
CREATE ROLE rev_nobody;
CREATE SCHEMA app AUTHORIZATION rev_owner;
CREATE SCHEMA traps AUTHORIZATION rev_writer;
GRANT USAGE ON SCHEMA app TO PUBLIC;
SET ROLE rev_owner;
CREATE TABLE app.log (op text, who name, note text);
CREATE TABLE app.o (id int PRIMARY KEY, v text UNIQUE, at timestamptz, f float8, secret text DEFAULT 'secret');
CREATE TABLE app.n (f float8, at timestamptz, id bigint PRIMARY KEY, v text, own text DEFAULT 'own');
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.log VALUES (tg_op, current_user, lower('N'));
	RETURN CASE tg_op WHEN 'DELETE' THEN old ELSE new END;
END $$;
CREATE TRIGGER note BEFORE INSERT OR UPDATE OR DELETE ON app.o FOR EACH ROW EXECUTE FUNCTION app.note();
ALTER TABLE app.o ENABLE ALWAYS TRIGGER note;
CREATE TRIGGER never AFTER INSERT OR UPDATE OR DELETE ON app.o FOR EACH ROW EXECUTE FUNCTION app.note();
RESET ROLE;
SET ROLE rev_writer;
CREATE FUNCTION traps.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'trapped'; END $$;
CREATE FUNCTION traps.eq(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR traps.= (LEFTARG = int, RIGHTARG = int, FUNCTION = traps.eq);
RESET ROLE;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON app.n TO rev_writer;
GRANT rev_writer TO rev_definer;
SELECT dualwrite.create_migration('call', 'app.o', 'app.n');
CALL dualwrite.run('call', 'read_switch');
CREATE FUNCTION public.same() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
	SELECT public.differences('SELECT id::bigint, v, at, f FROM app.o', 'SELECT id, v, at, f FROM app.n') $$;
CREATE FUNCTION public.logged() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE result text;
BEGIN
	SELECT pg_catalog.string_agg(DISTINCT who::text || ' ' || note, ', ') || pg_catalog.format(', %s events', pg_catalog.count(*)) FROM app.log INTO result;
	DELETE FROM app.log;
	RETURN result;
END $$;
SET ROLE rev_writer;
INSERT INTO app.n (id, v, at, f) VALUES (1, 'a', '2024-01-01', 1), (2, 'b', '2024-01-02', 2);
UPDATE app.n SET v = v || '!';
DELETE FROM app.n WHERE id = 2;
SELECT is(public.same(), 0::bigint, 'a role without rights on the old table writes the new one');
SELECT is(public.logged(), 'rev_owner n, 5 events', 'triggers of the old table that are ALWAYS run, as its owner, and no others');
SELECT throws_ok('SELECT * FROM app.o', '42501', NULL, 'and he gains nothing by it');
RESET ROLE;
CREATE FUNCTION public.by_definer(statement text) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = traps, pg_catalog AS $$
DECLARE n bigint;
BEGIN
	EXECUTE statement;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END $$;
ALTER FUNCTION public.by_definer OWNER TO rev_definer;
SET ROLE rev_nobody;
SELECT throws_ok('DELETE FROM app.n', '42501', NULL, 'who may not write the new table writes neither');
SELECT is(public.by_definer($$INSERT INTO app.n (id, v) VALUES (10, 'definer'), (11, 'x')$$), 2::bigint, 'through a SECURITY DEFINER function he does');
SELECT is(public.by_definer($$UPDATE app.n SET id = pg_catalog.int8pl(id, 1000) WHERE v OPERATOR(pg_catalog.=) 'x'$$), 1::bigint, 'also a key change');
SELECT is(current_user::text, 'rev_nobody', 'the caller is who he was');
RESET ROLE;
SELECT is(public.same(), 0::bigint, 'SECURITY DEFINER');
SELECT is(public.logged(), 'rev_owner n, 3 events', 'runs the owner''s code as the owner');
SET ROLE rev_writer;
SET search_path = traps, "no such schema", pg_temp, pg_catalog;
INSERT INTO app.n (id, v, at, f) VALUES (20, 'path', '2024-03-01', 0.1);
UPDATE app.n SET v = 'PATH' WHERE id OPERATOR(pg_catalog.=) 20;
SET search_path = '';
UPDATE app.n SET v = 'empty' WHERE id = 20;
DELETE FROM app.n WHERE id = 10;
RESET search_path;
SET DateStyle = 'German'; SET TimeZone = 'Pacific/Chatham'; SET extra_float_digits = -10; SET row_security = off; SET enable_indexscan = off; SET transform_null_equals = on;
INSERT INTO app.n (id, v, at, f) VALUES (21, 'styles', '29.02.2024 12:00', 0.1::float8 + 0.2);
UPDATE app.n SET f = f / 3, at = at + interval '1 day' WHERE id >= 20;
UPDATE app.n SET id = id + 1 WHERE id = 21;
RESET ALL;
SET client_min_messages = warning;
RESET ROLE;
SELECT is(public.same(), 0::bigint, 'any search path and settings');
SELECT is((SELECT f FROM app.o WHERE id = 22), ((0.1::float8 + 0.2) / 3), 'to the last digit');
SELECT is(public.logged(), 'rev_owner n, 8 events', 'the owner''s code sees nothing of them');
SET session_replication_role = replica;
INSERT INTO app.n (id, v) VALUES (30, 'replica'); UPDATE app.n SET v = 'REPLICA' WHERE id = 30; UPDATE app.n SET id = 31 WHERE id = 30;
BEGIN; SAVEPOINT s; DELETE FROM app.n; ROLLBACK TO s; DELETE FROM app.n WHERE id = 31; COMMIT;
INSERT INTO app.n (id, v) SELECT g, 'replica ' || g FROM generate_series(100, 120) g;
RESET session_replication_role;
SELECT is(public.same(), 0::bigint, 'session_replication_role = replica');
ALTER TABLE app.o ENABLE ROW LEVEL SECURITY; ALTER TABLE app.o FORCE ROW LEVEL SECURITY;
CREATE POLICY nothing ON app.o USING (false) WITH CHECK (false);
SET ROLE rev_writer;
INSERT INTO app.n (id, v) VALUES (40, 'secured'); UPDATE app.n SET v = 's' WHERE id = 40;
RESET ROLE;
SELECT is((SELECT v FROM app.o WHERE id = 40), 's', 'row security of the old table does not apply, not even forced');
ALTER TABLE app.o NO FORCE ROW LEVEL SECURITY; ALTER TABLE app.o DISABLE ROW LEVEL SECURITY;
CREATE FUNCTION detail_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE d text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL;
	RETURN sqlstate || ' ' || d;
END $$;
SET ROLE rev_writer;
SELECT is(detail_of($$UPDATE app.n SET v = 's' WHERE id = 1$$), '23505 ', 'an error of the old side shows no value to those who may not read it');
RESET ROLE;
SELECT is(detail_of($$UPDATE app.n SET v = 's' WHERE id = 1$$), '23505 Key (v)=(s) already exists.', 'others see it');
SET ROLE rev_writer; TRUNCATE app.n; RESET ROLE;
SELECT is((SELECT count(*) FROM app.o), 0::bigint, 'TRUNCATE by a role without rights on the old table');
SELECT dualwrite.rollback('call', 'defined', force => true) \gset
SELECT dualwrite.drop_migration('call');
DROP OWNED BY rev_owner, rev_definer, rev_writer, rev_nobody CASCADE;
DROP ROLE rev_owner, rev_definer, rev_writer, rev_nobody;

-- What fails on the old side: each way breaks row 5 of twenty.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE eo (a int, code text, v varchar(10) NOT NULL, w int CHECK (w <> 13), p int REFERENCES parent, u int GENERATED ALWAYS AS (100 / (w - 77)) STORED, PRIMARY KEY (a, code), UNIQUE (v));
CREATE TABLE en (code text, v text, w bigint, a bigint, p int, own int DEFAULT 7, PRIMARY KEY (code, a));
CREATE FUNCTION picky() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.w = 14 THEN RAISE EXCEPTION 'not fourteen' USING ERRCODE = 'DW014'; END IF;
	IF new.w = 15 THEN RETURN NULL; END IF;
	RETURN new;
END $$;
CREATE TRIGGER picky BEFORE INSERT OR UPDATE ON eo FOR EACH ROW EXECUTE FUNCTION picky();
ALTER TABLE eo ENABLE ALWAYS TRIGGER picky;
INSERT INTO parent VALUES (1);
INSERT INTO eo SELECT g, 'c' || g, 'v' || g, g % 10, 1 FROM generate_series(1, 20) g;
SELECT dualwrite.create_migration('e', 'eo', 'en');
CALL dualwrite.run('e', 'read_switch');
SELECT dualwrite.pause('e');
CREATE FUNCTION same_e() RETURNS bigint LANGUAGE sql AS $$ SELECT public.differences('SELECT a::bigint, code, v::text, w::bigint, p FROM eo', 'SELECT a, code, v, w, p FROM en') $$;
CREATE TABLE ways (sqlstate text, assignment text, message text);
INSERT INTO ways VALUES
	('23502', 'v = NULL', 'null value in column "v"%'), ('22001', 'v = ''longer than ten''', 'value too long%'), ('23514', 'w = 13', '%eo_w_check%'), ('22003', 'w = 5000000000', '%out of range'),
	('22012', 'w = 77', 'division by zero'), ('23503', 'p = 7', '%eo_p_fkey%'), ('23505', 'v = ''v6''', '%eo_v_key%'), ('DW014', 'w = 14', 'not fourteen'), ('09000', 'w = 15', '%suppressed%'),
	('22003', 'a = 5000000000', '%out of range');
CREATE FUNCTION error_of(statement text, OUT state text, OUT message text, OUT context text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	state := '00000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, context = PG_EXCEPTION_CONTEXT;
END $$;
CREATE FUNCTION breaks(policy text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	w ways;
	x record;
BEGIN
	FOR w IN TABLE ways LOOP
		SELECT * FROM error_of(format('UPDATE en SET own = 8, %s WHERE a = 5', w.assignment)) INTO x;
		RETURN NEXT is(x.state || ' ' || (x.message LIKE w.message), w.sqlstate || ' true', format('%s: %s fails with the old side''s own error', policy, w.assignment));
		-- a foreign key is checked with the application's own, at the end of the statement
		RETURN NEXT ok(x.context LIKE '%reverse mirror of migration "e", mapping from public.eo to public.en, key {"a": 5%, "code": "c5"}' ||
			CASE w.sqlstate WHEN '23503' THEN ', checked at the end of the statement%' ELSE '%' END,
			format('%s: %s: which migration, mapping and key', policy, w.assignment));
		SELECT * FROM error_of(format('WITH new AS (UPDATE en SET w = CASE a WHEN 5 THEN 13 ELSE w + 20 END RETURNING 1) SELECT count(*) FROM new')) INTO x;
		RETURN NEXT is(x.state, '23514', policy || ': one bad row of twenty');
	END LOOP;
	RETURN NEXT is((SELECT count(*) FROM en WHERE own <> 7) + same_e(), 0::bigint, policy || ': nothing is left behind');
	RETURN NEXT is((SELECT count(*) FROM dualwrite.queue), 0::bigint, policy || ': nor queued');
END $$;
SELECT * FROM breaks('abort');
SELECT ok(x.state = '23503' AND x.context NOT LIKE '%mirror of%', 'what the application itself breaks is not the mirror''s, though that has written the same table before')
	FROM error_of($$UPDATE en SET v = 'before' WHERE a = 1; UPDATE eo SET p = 7 WHERE a = 5$$) x;
SELECT dualwrite.configure('e', 'mirror_on_error', 'queue');
SELECT * FROM breaks('queue');
-- what the backend does besides goes on
CREATE TABLE other (n int);
BEGIN;
INSERT INTO other VALUES (1);
DECLARE c CURSOR FOR SELECT a FROM en ORDER BY a;
FETCH 3 FROM c \g /dev/null
UPDATE en SET v = 'kept' WHERE a = 1;
SAVEPOINT s;
UPDATE en SET v = 'lost' WHERE a = 2;
SELECT throws_ok('UPDATE en SET w = 13 WHERE a < 10', '23514', NULL, 'an error in a savepoint');
ROLLBACK TO s;
INSERT INTO other VALUES (3);
SELECT results_eq('FETCH c', 'VALUES (4::bigint)', 'a cursor opened before goes on');
INSERT INTO en (code, v, w, a) SELECT 'c' || g, 'n' || g, 1, g FROM generate_series(21, 40) g;
COMMIT;
SELECT is(same_e(), 0::bigint, 'both sides agree after it');
SELECT results_eq('SELECT n FROM other', 'VALUES (1), (3)', 'other tables are as they should be');
DO $$ BEGIN
	FOR i IN 1..20 LOOP
		BEGIN
			UPDATE en SET v = 'loop', w = CASE WHEN i % 3 = 0 THEN 13 ELSE 2 END WHERE a = 7;
			UPDATE en SET v = 'loop ' || i WHERE a = 7;
		EXCEPTION WHEN check_violation THEN INSERT INTO other VALUES (100 + i);
		END;
	END LOOP;
END $$;
SELECT is(same_e(), 0::bigint, 'errors caught in a loop');
SELECT is((SELECT count(*) FROM other WHERE n > 100), 6::bigint, 'as often as they came');

-- what it costs: no subtransaction, whatever the policy
SELECT is(xids_of($$INSERT INTO en (code, v, w, a) SELECT 'c' || g, 'x' || g, 1, g FROM generate_series(101, 600) g$$), 0::bigint, 'no subtransaction for INSERT');
SELECT is(xids_of($$UPDATE en SET v = 'y' || a WHERE a > 100$$), 0::bigint, 'for UPDATE');
SELECT is(xids_of($$UPDATE en SET a = a + 1000 WHERE a > 100$$), 0::bigint, 'for key changes');
SELECT is(xids_of($$DELETE FROM en WHERE a > 1000$$), 0::bigint, 'for DELETE');

-- what is counted
CREATE FUNCTION counted() RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', inserts, updates, deletes, skipped, failed, queued) FROM dualwrite.mirror_stats WHERE migration = 'e' AND direction = 'reverse' $$;
SELECT dualwrite.reset_stats('e');
INSERT INTO en (code, v, w, a) SELECT 'c' || g, 'z' || g, 1, g FROM generate_series(101, 110) g; UPDATE en SET v = 'w' || a WHERE a BETWEEN 101 AND 104; DELETE FROM en WHERE a > 107; UPDATE en SET own = 9 WHERE a = 101;
SELECT is(counted(), '10 4 3 1 0 0', 'counts');
BEGIN; INSERT INTO en (code, v, w, a) VALUES ('c', 'undone', 1, 900); ROLLBACK;
SELECT throws_ok('UPDATE en SET w = 13 WHERE a = 101', '23514', NULL, 'a failure');
SELECT is(counted(), '10 4 3 1 1 0', 'failures are counted, what is undone is not');
SELECT is((SELECT concat_ws(' ', inserts, updates, deletes) FROM dualwrite.mirror_stats WHERE migration = 'e' AND direction = 'forward'), '0 0 0', 'not as the other direction''s');
SELECT ok(total_ms > 0 AND own_ms > 0, 'both paths are timed') FROM dualwrite.mirror_stats WHERE migration = 'e' AND direction = 'reverse';

-- "on": "insert" on the way back: for rows that the mirror brings into being, left alone by updates and never compared
CREATE TABLE io (id int PRIMARY KEY, v text, source text DEFAULT 'default', made int NOT NULL);
CREATE TABLE inn (id bigint PRIMARY KEY, v text, n int);
CREATE SEQUENCE made;
SELECT dualwrite.create_migration('i', 'io', 'inn', forward => '{"n": {"expr": "made", "on": "insert"}}',
	reverse => $${"source": {"expr": "'new ' || v", "on": "insert"}, "made": {"expr": "nextval('made')::int", "on": "insert"}}$$);
INSERT INTO io VALUES (1, 'a', 'mine', 0);
CALL dualwrite.run('i', 'read_switch');
-- who writes has no rights on what it takes numbers from
CREATE ROLE rev_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON inn TO rev_writer;
SET ROLE rev_writer;
INSERT INTO inn VALUES (2, 'b', 5), (3, 'c', 6);
UPDATE inn SET v = upper(v), n = 50;
RESET ROLE; UPDATE io SET source = 'changed', made = 100 WHERE id = 3; SET ROLE rev_writer;
UPDATE inn SET id = 30 WHERE id = 3;
INSERT INTO inn VALUES (4, 'd', 7) ON CONFLICT (id) DO UPDATE SET v = 'never'; INSERT INTO inn VALUES (4, 'd', 7) ON CONFLICT (id) DO UPDATE SET v = 'D';
RESET ROLE;
DROP OWNED BY rev_writer;
DROP ROLE rev_writer;
SELECT is((SELECT string_agg(concat_ws(' ', id, v, source, made), ', ' ORDER BY id) FROM io), '1 A mine 0, 2 B new b 1, 4 D new d 3, 30 C changed 100', '"on": "insert" in reverse');
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('i')), 0::numeric, 'is not compared');
SELECT is((SELECT last_value FROM made), 3::bigint, 'evaluated for rows that are inserted, not for updates, key changes and comparisons');
SELECT is((SELECT string_agg(concat_ws(' ', id, v, n), ', ' ORDER BY id) FROM inn), '1 A 50, 2 B 50, 4 D 7, 30 C 50', 'and nothing comes back');

-- long values written on the new side are the old table's own: none is left pointing at the new one
CREATE TYPE pair AS (a text, b int);
CREATE DOMAIN pair_domain AS pair CHECK ((value).b > 0);
CREATE TYPE text_range AS RANGE (subtype = text, collation = "C");
CREATE TABLE lo (id int PRIMARY KEY, ext text, arr text[], p pair, ps pair[], d pair_domain, r text_range, j jsonb, made pair);
CREATE TABLE ln (made text, j jsonb, r text_range, d pair_domain, ps pair[], p pair, arr text[], ext text, id bigint PRIMARY KEY);
ALTER TABLE ln ALTER ext SET STORAGE EXTERNAL, ALTER arr SET STORAGE EXTERNAL, ALTER p SET STORAGE EXTERNAL, ALTER ps SET STORAGE EXTERNAL, ALTER d SET STORAGE EXTERNAL;
SELECT dualwrite.create_migration('l', 'lo', 'ln', '{"made": "(made).a"}', '{"made": "ROW(made, 1)::pair"}');
CALL dualwrite.run('l', 'read_switch');
CREATE FUNCTION long(seed bigint) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(md5(g::text || seed), '') FROM generate_series(1, 400) g $$;
CREATE FUNCTION same_l() RETURNS bigint LANGUAGE sql AS $$
	SELECT public.differences('SELECT id::bigint, ext, arr, p::text, ps::text, d::text, r::text, j, (made).a FROM lo', 'SELECT id, ext, arr, p::text, ps::text, d::text, r::text, j, made FROM ln') $$;
CREATE FUNCTION fill(t text, low int, high int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO %s (id, ext, arr, p, ps, d, r, j, made) SELECT g, long(g), ARRAY[long(g + 1), NULL, long(g + 2)], ROW(long(g + 3), g)::pair, ARRAY[ROW(long(g + 4), 1)::pair, NULL], ROW(long(g + 5), 1)::pair_domain,
		text_range(''a'', ''b'' || long(g + 6)), jsonb_build_object(''k'', long(g + 7)), %s FROM generate_series(%s, %s) g', t, CASE t WHEN 'ln' THEN 'long(g + 8)' ELSE 'ROW(long(g + 8), 1)::pair' END, low, high);
END $$;
SELECT fill('ln', 1, 3), fill('ln', 101, 130), fill('lo', 201, 203) \gset
UPDATE ln SET ext = ext || 'x', p.a = long(99) WHERE id = 1; UPDATE ln SET id = id + 1000 WHERE id IN (2, 101, 201); UPDATE ln SET arr[2] = long(77) WHERE id > 120; UPDATE ln SET j = '{}' WHERE id = 3;
BEGIN; UPDATE ln SET made = long(5) WHERE id = 102; SAVEPOINT s; UPDATE ln SET made = long(6); ROLLBACK TO s; UPDATE ln SET ps = ps || ps WHERE id = 103; COMMIT;
DELETE FROM ln WHERE id = 104; INSERT INTO ln SELECT (l.*).* FROM (SELECT l.made, l.j, l.r, l.d, l.ps, l.p, l.arr, l.ext, 104 FROM ln l WHERE id = 105) l;
UPDATE lo SET p = ROW(long(1), 2), made = ROW(long(2), 1) WHERE id = 202;
SELECT is(same_l(), 0::bigint, 'long values in columns of all kinds, written on both sides');
CREATE TABLE l_kept AS SELECT id, md5(l::text) AS sum FROM lo l;
CREATE TABLE ln_kept AS SELECT id, md5(n::text) AS sum FROM ln n;
SELECT dualwrite.rollback('l', 'defined', force => true) \gset
SELECT dualwrite.drop_migration('l');
CREATE TABLE lo_copy AS TABLE lo;
BEGIN;
DROP TABLE ln;
SELECT is(public.differences('TABLE l_kept', 'SELECT id, md5(l::text) FROM lo l'), 0::bigint, 'those of the old table outlive the new one');
ROLLBACK;
DROP TABLE lo;
VACUUM ln;
SELECT is(public.differences('TABLE ln_kept', 'SELECT id, md5(n::text) FROM ln n'), 0::bigint, 'and the other way round');

-- columns with a default that is in no row, mapped, on both sides; long before they are mirrored
CREATE TABLE fo (id int PRIMARY KEY, v text); CREATE TABLE fn (v text, id bigint PRIMARY KEY);
INSERT INTO fo SELECT g, 'v' || g FROM generate_series(1, 30) g; INSERT INTO fn SELECT 'v' || g, g FROM generate_series(1, 30) g;
ALTER TABLE fo ADD COLUMN extra text DEFAULT 'fast', ADD COLUMN n int NOT NULL DEFAULT 5; ALTER TABLE fn ADD COLUMN n bigint NOT NULL DEFAULT 5, ADD COLUMN gone int DEFAULT 1, ADD COLUMN extra text DEFAULT 'fast';
ALTER TABLE fn DROP COLUMN gone;
SELECT dualwrite.create_migration('f', 'fo', 'fn');
CALL dualwrite.run('f', 'read_switch');
CREATE FUNCTION same_f() RETURNS bigint LANGUAGE sql AS $$ SELECT public.differences('SELECT id::bigint, v, extra, n::bigint FROM fo', 'SELECT id, v, extra, n FROM fn') $$;
UPDATE fn SET v = 'new' WHERE id = 1; UPDATE fn SET id = 100 WHERE id = 2; DELETE FROM fn WHERE id = 3; UPDATE fn SET extra = extra || '!' WHERE id = 4; UPDATE fn SET v = v || '+' WHERE id BETWEEN 5 AND 12;
UPDATE fo SET v = 'old' WHERE id = 15; UPDATE fo SET id = 200 WHERE id = 16; UPDATE fo SET n = n + 1 WHERE id BETWEEN 17 AND 25; INSERT INTO fn (id, v) SELECT g, 'i' FROM generate_series(300, 320) g;
SELECT is(same_f(), 0::bigint, 'defaults that are in no row, mapped');
SELECT is((SELECT count(*) FROM fo WHERE extra IS NULL OR n IS NULL) + (SELECT count(*) FROM fn WHERE extra IS NULL OR n IS NULL), 0::bigint, 'get lost on neither side');

SELECT * FROM finish();
