-- Who writes, and how his session is set: SECURITY DEFINER functions, SET ROLE, odd search paths and settings, sessions that are
-- replicas; and triggers of the new table that are deferred, also when a background worker writes.  The code of the new side's
-- owner always runs as the owner.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

CREATE ROLE call_owner;
CREATE ROLE call_definer;
CREATE ROLE call_writer;
CREATE ROLE call_nobody;
GRANT call_writer TO call_definer;
CREATE SCHEMA app AUTHORIZATION call_owner;
CREATE SCHEMA traps AUTHORIZATION call_writer;
GRANT USAGE ON SCHEMA app TO PUBLIC;

SET ROLE call_owner;
CREATE TABLE app.log (op text, who name, path text, note text);
CREATE TABLE app.o (id int PRIMARY KEY, v text, at timestamptz, during interval, f float8, x xml);
CREATE TABLE app.n (x xml, f float8, during interval, at timestamptz, id int PRIMARY KEY, v text, shown text DEFAULT 'own');
-- runs at once, on every mirrored row
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.log VALUES (tg_name, current_user, current_setting('search_path'), lower('N'));
	RETURN CASE tg_op WHEN 'DELETE' THEN old ELSE new END;
END $$;
CREATE TRIGGER at_once BEFORE INSERT OR UPDATE OR DELETE ON app.n FOR EACH ROW EXECUTE FUNCTION app.note();
ALTER TABLE app.n ENABLE ALWAYS TRIGGER at_once;
RESET ROLE;
-- what a writer might put into the way of the owner's code
SET ROLE call_writer;
CREATE FUNCTION traps.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'trapped'; END $$;
CREATE FUNCTION traps.eq(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR traps.= (LEFTARG = int, RIGHTARG = int, FUNCTION = traps.eq);
RESET ROLE;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON app.o TO call_writer;
SELECT dualwrite.create_migration('call', 'app.o', 'app.n', forward => '{"shown": null}');
CALL dualwrite.run('call', 'verify');
SELECT dualwrite.pause('call');
CREATE FUNCTION public.same() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
	SELECT public.differences('SELECT id, v, at, during, f, x::text FROM app.o', 'SELECT id, v, at, during, f, x::text FROM app.n') $$;
-- Whoever wrote: everything that ran was the owner's, saw his path and not the writer's functions.
CREATE FUNCTION public.logged(OUT roles text, OUT notes text, OUT events bigint) LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	SELECT pg_catalog.string_agg(DISTINCT who::text, ' '), pg_catalog.string_agg(DISTINCT note, ' '), count(*) FROM app.log INTO roles, notes, events;
	DELETE FROM app.log;
END $$;
DELETE FROM app.log;

SET ROLE call_writer;
INSERT INTO app.o VALUES (1, 'a', '2024-01-01', '1 day', 1), (2, 'b', '2024-01-02', '1 mon', 2);
UPDATE app.o SET v = v || '!';
DELETE FROM app.o WHERE id = 2;
SELECT is(public.same(), 0::bigint, 'a role without rights on the new table writes the old one');
SELECT results_eq('SELECT * FROM public.logged()', $$VALUES ('call_owner', 'n', 5::bigint)$$, 'triggers of the new table run as its owner');
SELECT throws_ok('SELECT * FROM app.n', '42501', NULL, 'and he gains nothing by it');
RESET ROLE;

CREATE FUNCTION public.by_definer(statement text) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = traps, pg_catalog AS $$
DECLARE n bigint;
BEGIN
	EXECUTE statement;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END $$;
ALTER FUNCTION public.by_definer OWNER TO call_definer;
SET ROLE call_nobody;
SELECT throws_ok('DELETE FROM app.o', '42501', NULL, 'who may not write the old table writes neither');
SELECT is(public.by_definer($$INSERT INTO app.o VALUES (10, 'definer', '2024-01-01', '1 day', 1), (11, 'x', NULL, NULL, NULL)$$), 2::bigint, 'through a SECURITY DEFINER function he does');
SELECT is(public.by_definer($$UPDATE app.o SET id = pg_catalog.int4pl(id, 1000) WHERE v OPERATOR(pg_catalog.=) 'x'$$), 1::bigint, 'also a key change');
SELECT is(current_user::text, 'call_nobody', 'the caller is who he was');
RESET ROLE;
SELECT is(public.same(), 0::bigint, 'SECURITY DEFINER');
SELECT results_eq('SELECT * FROM public.logged()', $$VALUES ('call_owner', 'n', 3::bigint)$$, 'runs the owner''s code as the owner');
SELECT throws_ok($$SELECT public.by_definer('INSERT INTO app.o VALUES (1, NULL)')$$, '23505', NULL, 'an error in it');
SELECT is(current_user::text, session_user::text, 'leaves nobody else''s identity behind');

-- any search path, and settings that say how values look
SET ROLE call_writer;
SET search_path = traps, "no such schema", pg_temp, pg_catalog;
INSERT INTO app.o VALUES (20, 'path', '2024-03-01', '2 days', 0.1);
UPDATE app.o SET v = 'PATH' WHERE id OPERATOR(pg_catalog.=) 20;
SET search_path = '';
UPDATE app.o SET v = 'empty' WHERE id = 20;
DELETE FROM app.o WHERE id = 10;
RESET search_path;
SET DateStyle = 'German'; SET IntervalStyle = iso_8601; SET TimeZone = 'Pacific/Chatham'; SET extra_float_digits = -10; SET bytea_output = escape; SET standard_conforming_strings = off; SET xmloption = document;
SET default_transaction_read_only = off; SET row_security = off; SET check_function_bodies = off; SET array_nulls = off; SET quote_all_identifiers = on; SET enable_indexscan = off; SET enable_seqscan = off; SET transform_null_equals = on;
INSERT INTO app.o VALUES (21, 'styles', '29.02.2024 12:00', 'P1Y2M3DT4H', 0.1::float8 + 0.2);
UPDATE app.o SET f = f / 3, at = at + during, during = during * 2 WHERE id >= 20;
UPDATE app.o SET id = id + 1 WHERE id = 21;
RESET ALL;
RESET ROLE;
SELECT is(public.same(), 0::bigint, 'any search path and settings');
SELECT is((SELECT f FROM app.n WHERE id = 22), ((0.1::float8 + 0.2) / 3), 'to the last digit');
SELECT results_eq('SELECT * FROM public.logged()', $$VALUES ('call_owner', 'n', 8::bigint)$$, 'the owner''s code sees nothing of them');

-- sessions that are replicas fire our triggers, and of the user's those that say so
SET session_replication_role = replica;
INSERT INTO app.o VALUES (30, 'replica', NULL, NULL, NULL); UPDATE app.o SET v = 'REPLICA' WHERE id = 30; UPDATE app.o SET id = 31 WHERE id = 30;
BEGIN; SAVEPOINT s; DELETE FROM app.o; ROLLBACK TO s; DELETE FROM app.o WHERE id = 31; COMMIT;
SET session_replication_role = local;
INSERT INTO app.o VALUES (32, 'local', NULL, NULL, NULL);
RESET session_replication_role;
SELECT is(public.same(), 0::bigint, 'session_replication_role = replica, local');
SELECT throws_ok($$INSERT INTO app.n (id) VALUES (999)$$, '55000', NULL, 'the new side is still refused');
BEGIN; SET LOCAL session_replication_role = replica; SELECT throws_ok($$INSERT INTO app.n (id) VALUES (999)$$, '55000', NULL, 'to replicas, too'); COMMIT;
SET ROLE call_writer; TRUNCATE app.o; RESET ROLE;
SELECT is((SELECT count(*) FROM app.n), 0::bigint, 'TRUNCATE by a role without rights on the new table');

-- what the new table has beside the mapping takes numbers from sequences that the writer has no rights on; his own numbers stay his
SET ROLE call_owner;
CREATE TABLE app.so (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE app.sn (n bigserial UNIQUE, id int PRIMARY KEY, v text, m int GENERATED ALWAYS AS IDENTITY);
RESET ROLE;
GRANT SELECT, INSERT, UPDATE, DELETE ON app.so TO call_writer;
GRANT SELECT ON SEQUENCE app.so_id_seq TO call_writer;
SELECT dualwrite.create_migration('numbers', 'app.so', 'app.sn');
CALL dualwrite.run('numbers', 'verify');
SET ROLE call_writer;
INSERT INTO app.so (v) VALUES ('one');
INSERT INTO app.so (v) SELECT 'many' FROM generate_series(1, 50);
SELECT is(currval('app.so_id_seq'), 51::bigint, 'currval is the writer''s own');
RESET ROLE;
SELECT is((SELECT concat_ws(' ', count(*), count(DISTINCT n), count(DISTINCT m)) FROM app.so JOIN app.sn USING (id, v)), '51 51 51', 'defaults of the new table are its owner''s');

-- row security and grants of the new table are not the writer's business
ALTER TABLE app.n ENABLE ROW LEVEL SECURITY; ALTER TABLE app.n FORCE ROW LEVEL SECURITY;
CREATE POLICY nothing ON app.n USING (false) WITH CHECK (false);
SET ROLE call_writer;
INSERT INTO app.o VALUES (40, 'secured', NULL, NULL, NULL); UPDATE app.o SET v = 's' WHERE id = 40;
RESET ROLE;
SELECT is((SELECT v FROM app.n WHERE id = 40), 's', 'row security of the new table does not apply, not even forced');
ALTER TABLE app.n NO FORCE ROW LEVEL SECURITY; ALTER TABLE app.n DISABLE ROW LEVEL SECURITY;
ALTER TABLE app.o ENABLE ROW LEVEL SECURITY;
CREATE POLICY a_few ON app.o TO call_writer USING (id < 100) WITH CHECK (id < 100);
SET ROLE call_writer;
SELECT throws_ok($$INSERT INTO app.o (id) VALUES (100)$$, '42501', NULL, 'that of the old one does');
INSERT INTO app.o (id, v) VALUES (41, 'policy'); UPDATE app.o SET v = 'p'; DELETE FROM app.o WHERE id = 41;
RESET ROLE;
SELECT is(public.same(), 0::bigint, 'row security of the old table');
ALTER TABLE app.o DISABLE ROW LEVEL SECURITY;

-- deferred: constraint triggers of the new table run at the commit, as whoever they would have run as: not as more than the owner
SET ROLE call_owner;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE OR DELETE ON app.n DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.note();
ALTER TABLE app.n ENABLE ALWAYS TRIGGER at_commit;
ALTER TABLE app.n DISABLE TRIGGER at_once;
GRANT INSERT, SELECT ON app.log TO call_writer;
RESET ROLE;
DELETE FROM app.log;
SET ROLE call_writer;
BEGIN;
INSERT INTO app.o VALUES (50, 'deferred', NULL, NULL, NULL);
SELECT is((SELECT count(*) FROM app.log), 0::bigint, 'a deferred trigger of the new table waits');
COMMIT;
SELECT is((SELECT string_agg(DISTINCT op, ' ') FROM app.log), 'at_commit', 'for the commit');
RESET ROLE;
SELECT is((SELECT count(*) FROM app.log WHERE who NOT IN ('call_owner', 'call_writer')), 0::bigint, 'and runs as nobody else');
DELETE FROM app.log;
-- old-side constraints that are deferred, of the application
ALTER TABLE app.o ADD CONSTRAINT later UNIQUE (v) DEFERRABLE INITIALLY DEFERRED;
BEGIN; INSERT INTO app.o (id, v) VALUES (51, 'deferred'); UPDATE app.o SET v = 'mended' WHERE id = 51; COMMIT;
SELECT is(public.same(), 0::bigint, 'a deferred constraint of the old table that holds in the end');
BEGIN; INSERT INTO app.o (id, v) VALUES (52, 'deferred');
SELECT throws_ok('SET CONSTRAINTS app.later IMMEDIATE', '23505', NULL, 'one that does not');
ROLLBACK;
SELECT is(public.same(), 0::bigint, 'takes both sides back');
ALTER TABLE app.o DROP CONSTRAINT later;
-- background workers write as the owner, the deferred ones included
DELETE FROM app.log;
ALTER TABLE app.n DISABLE TRIGGER USER;
DELETE FROM app.n WHERE id = 50;
ALTER TABLE app.n ENABLE ALWAYS TRIGGER at_commit; ALTER TABLE app.n ENABLE ALWAYS TRIGGER at_once;
ALTER TABLE app.n ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete", ENABLE ALWAYS TRIGGER "~dualwrite_flush", ENABLE ALWAYS TRIGGER "!dualwrite_truncate";
INSERT INTO _dualwrite.queue (mapping_id, direction, key) SELECT id, 'forward', '{"id": 50}' FROM _dualwrite.mapping;
SELECT dualwrite.resume('call');
CALL dualwrite.wait('call', '10 min');
SELECT is((SELECT string_agg(DISTINCT concat_ws(' ', op, who, note), ', ' ORDER BY concat_ws(' ', op, who, note)) FROM app.log),
	'at_commit call_owner n, at_once call_owner n', 'a worker runs triggers of the new table, deferred ones too, as its owner');
SELECT is(public.same(), 0::bigint, 'and delivers the row');

SELECT dualwrite.rollback('numbers', 'defined', force => true) \gset
SELECT dualwrite.drop_migration('numbers');
SELECT dualwrite.rollback('call', 'defined', force => true) \gset
SELECT dualwrite.drop_migration('call');
DROP OWNED BY call_owner, call_definer, call_writer, call_nobody CASCADE;
DROP ROLE call_owner, call_definer, call_writer, call_nobody;
SELECT * FROM finish();
