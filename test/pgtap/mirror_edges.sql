-- The mirror where it was broken once: each part begins with what went wrong.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

-- Triggers of the new table that write old tables while a row is being mirrored: the statement's own rows were overwritten,
-- what it had open was closed, the server crashed.
CREATE TABLE eo (id int PRIMARY KEY, v text);
CREATE TABLE en (id int PRIMARY KEY, v text);
CREATE TABLE eo2 (id int PRIMARY KEY, v text);
CREATE TABLE en2 (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('echo', 'eo', 'en');
SELECT dualwrite.create_migration('echo2', 'eo2', 'en2');
CALL dualwrite.run('echo', 'verify');
CALL dualwrite.run('echo2', 'verify');
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
	IF tg_op = 'DELETE' THEN
		DELETE FROM eo2 WHERE id = old.id;
		RETURN old;
	END IF;
	IF new.id < 1000 THEN
		INSERT INTO eo VALUES (new.id + 1000, 'echo of ' || new.v) ON CONFLICT (id) DO UPDATE SET v = excluded.v;
		INSERT INTO eo2 VALUES (new.id, new.v) ON CONFLICT (id) DO UPDATE SET v = excluded.v;
	END IF;
	RETURN new;
END $$;
CREATE TRIGGER echo BEFORE INSERT OR UPDATE OR DELETE ON en FOR EACH ROW EXECUTE FUNCTION echo();
ALTER TABLE en ENABLE ALWAYS TRIGGER echo;
CREATE FUNCTION echoed() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('TABLE eo', 'TABLE en') + differences('TABLE eo2', 'TABLE en2') $$;
INSERT INTO eo SELECT g, repeat('long ', g) FROM generate_series(1, 20) g;
SELECT is(echoed(), 0::bigint, 'BEFORE trigger that writes old tables: INSERT');
SELECT is((SELECT count(*) FROM en WHERE id > 1000), 20::bigint, 'what it wrote is mirrored');
SELECT is((SELECT count(*) FROM en2), 20::bigint, 'for the other migration, too');
UPDATE eo SET v = v || '+' WHERE id < 1000;
SELECT is(echoed(), 0::bigint, 'UPDATE');
DELETE FROM eo WHERE id BETWEEN 5 AND 8;
SELECT is(echoed(), 0::bigint, 'DELETE');
UPDATE eo SET id = id + 100 WHERE id < 20;
SELECT is(echoed(), 0::bigint, 'key changes');
SELECT dualwrite.configure('echo', 'mirror_on_error', 'queue');
UPDATE eo SET v = v || '!' WHERE id < 1000;
SELECT is(echoed(), 0::bigint, 'the same with mirror_on_error = queue');
DROP TRIGGER echo ON en;
CREATE TRIGGER echo AFTER INSERT OR UPDATE OR DELETE ON en FOR EACH ROW EXECUTE FUNCTION echo();
ALTER TABLE en ENABLE ALWAYS TRIGGER echo;
UPDATE eo SET v = v || '?' WHERE id < 1000;
SELECT is(echoed(), 0::bigint, 'AFTER trigger');
SELECT dualwrite.configure('echo', 'mirror_on_error', 'abort');
UPDATE eo SET id = id + 100, v = 'moved' WHERE id < 1000;
SELECT is(echoed(), 0::bigint, 'AFTER trigger, key changes');

-- A chain of migrations that both put mirrors off: what followed the first was forgotten.
CREATE TABLE c1 (id int PRIMARY KEY, v text);
CREATE TABLE c2 (id int PRIMARY KEY, v text);
CREATE TABLE c3 (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('first', 'c1', 'c2');
SELECT dualwrite.create_migration('second', 'c2', 'c3');
CALL dualwrite.run('first', 'verify');
CALL dualwrite.run('second', 'verify');
SELECT dualwrite.configure('first', 'mirror_on_error', 'queue');
SELECT dualwrite.configure('second', 'mirror_on_error', 'queue');
INSERT INTO c1 VALUES (1, 'a'), (2, 'b'), (3, 'c');
UPDATE c1 SET v = 'new' WHERE id = 1;
UPDATE c1 SET id = id + 10 WHERE id < 3;
DELETE FROM c1 WHERE id = 3;
SELECT is(differences('TABLE c1', 'TABLE c3'), 0::bigint, 'a chain with mirror_on_error = queue');

-- A union without constants: a row that leaves one mapping took away what another had put in its place.
CREATE TABLE ua (id int PRIMARY KEY, kind text, v text);
CREATE TABLE ub (id int PRIMARY KEY, kind text, v text);
CREATE TABLE un (id int PRIMARY KEY, kind text, v text);
SELECT dualwrite.create_migration('union');
SELECT dualwrite.add_mapping('union', 'ua', 'un', filter => $$kind = 'x'$$);
SELECT dualwrite.add_mapping('union', 'ub', 'un', filter => $$kind = 'y'$$);
CREATE FUNCTION union_differences() RETURNS bigint LANGUAGE sql AS $f$
	SELECT differences($$SELECT * FROM ua WHERE kind = 'x' UNION ALL SELECT * FROM ub WHERE kind = 'y'$$, 'TABLE un') $f$;
INSERT INTO ua VALUES (1, 'y', 'a1'), (2, 'x', 'a2');
INSERT INTO ub VALUES (1, 'y', 'b1'), (2, 'x', 'b2');
SELECT dualwrite.advance('union', 'shadow');
UPDATE ua SET v = v || '+';
UPDATE ub SET v = v || '+';
SELECT is(union_differences(), 0::bigint, 'a row outside the mapping takes nothing away: shadow');
SELECT dualwrite.advance('union', 'dual_write');
UPDATE ub SET v = v || '+';
UPDATE ua SET v = v || '+';
SELECT is(union_differences(), 0::bigint, 'dual_write');
CALL dualwrite.run('union', 'verify');
UPDATE ub SET v = v || '+';
UPDATE ua SET v = v || '+';
SELECT is(union_differences(), 0::bigint, 'verify');
DELETE FROM ua WHERE id = 1;
INSERT INTO ua VALUES (1, 'y', 'again');
SELECT is(union_differences(), 0::bigint, 'DELETE and INSERT');
BEGIN;
UPDATE ua SET kind = 'y' WHERE id = 2;
UPDATE ub SET kind = 'y' WHERE id = 2;
COMMIT;
SELECT is(union_differences(), 0::bigint, 'a key goes from one to the other');
BEGIN;
UPDATE ua SET kind = 'x', v = 'mine' WHERE id = 2;
UPDATE ub SET kind = 'x' WHERE id = 2;
COMMIT;
SELECT is(union_differences(), 0::bigint, 'for a moment both have it');
UPDATE ua SET id = id + 10, kind = 'x';
SELECT is(union_differences(), 0::bigint, 'and does not move with a row that never had it');
BEGIN;
UPDATE ua SET id = 1 WHERE id = 11;
DELETE FROM ub WHERE id = 1;
COMMIT;
SELECT is(union_differences(), 0::bigint, 'or is deleted on one side');
TRUNCATE ub;
SELECT is(union_differences(), 0::bigint, 'TRUNCATE of one');

-- TRUNCATE where mirrors are put off to the end of the statement: the rows were still there, and so they stayed.
CREATE TABLE tro (id int PRIMARY KEY, v text);
CREATE TABLE trn (id int PRIMARY KEY, v text, own text);
SELECT dualwrite.create_migration('trunc', 'tro', 'trn', filter => 'id > 0');
SELECT dualwrite.advance('trunc', 'shadow');
INSERT INTO tro SELECT g, g FROM generate_series(1, 100) g;
TRUNCATE tro;
SELECT is((SELECT count(*) FROM trn), 0::bigint, 'TRUNCATE in shadow');
CALL dualwrite.run('trunc', 'verify');
SELECT dualwrite.configure('trunc', 'mirror_on_error', 'queue');
INSERT INTO tro SELECT g, g FROM generate_series(1, 100) g;
TRUNCATE tro;
SELECT is((SELECT count(*) FROM trn), 0::bigint, 'TRUNCATE with mirror_on_error = queue');

-- TRUNCATE of parent and child: leaked references to the new tables, and could check the parent too early.
CREATE TABLE tp (id int PRIMARY KEY);
CREATE TABLE tc (id int PRIMARY KEY, p int REFERENCES tp);
CREATE TABLE tpn (id int PRIMARY KEY);
CREATE TABLE tcn (id int PRIMARY KEY, p int REFERENCES tpn ON DELETE RESTRICT);
SELECT dualwrite.create_migration('family');
SELECT dualwrite.add_mapping('family', 'tp', 'tpn');
SELECT dualwrite.add_mapping('family', 'tc', 'tcn');
CALL dualwrite.run('family', 'verify');
CREATE FUNCTION family() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('TABLE tp', 'TABLE tpn') + differences('TABLE tc', 'TABLE tcn') + (SELECT count(*) FROM dualwrite.queue) $$;
INSERT INTO tp VALUES (1), (2);
INSERT INTO tc VALUES (1, 1), (2, 2);
TRUNCATE tp, tc;
SELECT is(family(), 0::bigint, 'TRUNCATE of parent and child');
INSERT INTO tp VALUES (1), (2);
INSERT INTO tc VALUES (1, 1), (2, 2);
TRUNCATE tp CASCADE;
SELECT is(family(), 0::bigint, 'TRUNCATE CASCADE');
SELECT dualwrite.configure('family', 'mirror_on_error', 'queue');
INSERT INTO tp VALUES (1), (2);
INSERT INTO tc VALUES (1, 1), (2, 2);
TRUNCATE tp CASCADE;
SELECT is(family(), 0::bigint, 'TRUNCATE CASCADE with mirror_on_error = queue');
SELECT dualwrite.configure('family', 'mirror_on_error', 'abort');

-- What forbids TRUNCATE on the new side must not forbid it on the old one.
CREATE FUNCTION no_truncate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
CREATE TABLE fo (id int PRIMARY KEY, p int);
CREATE TABLE fp (id int PRIMARY KEY);
CREATE TABLE fn (id int PRIMARY KEY, p int REFERENCES fp DEFERRABLE INITIALLY DEFERRED);
INSERT INTO fp VALUES (1);
SELECT dualwrite.create_migration('forbidden', 'fo', 'fn');
CALL dualwrite.run('forbidden', 'verify');
BEGIN;
INSERT INTO fo VALUES (1, 1);
SELECT lives_ok('TRUNCATE fo', 'TRUNCATE while checks of the new side wait for the commit');
COMMIT;
SELECT is(differences('TABLE fo', 'TABLE fn'), 0::bigint, 'and is mirrored');
INSERT INTO fo VALUES (1, 1);
BEGIN;
DECLARE reading CURSOR FOR SELECT * FROM fn;
FETCH reading;
SELECT lives_ok('TRUNCATE fo', 'TRUNCATE while a cursor reads the new table');
COMMIT;
SELECT is(differences('TABLE fo', 'TABLE fn'), 0::bigint, 'and is mirrored');
CREATE TRIGGER never BEFORE TRUNCATE ON fn FOR EACH STATEMENT EXECUTE FUNCTION no_truncate();
INSERT INTO fo VALUES (1, 1);
SELECT lives_ok('TRUNCATE fo', 'TRUNCATE with a user trigger for it on the new table');
SELECT is(differences('TABLE fo', 'TABLE fn'), 0::bigint, 'and is mirrored');

-- TRUNCATE waited for readers of the new table, who might be about to read the old one: a deadlock.
DROP TRIGGER never ON fn;
SELECT dualwrite.pause('forbidden');
ALTER TABLE fn SET (autovacuum_enabled = off);
CREATE EXTENSION dblink;
SELECT dblink_connect('truncates', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
	current_setting('port'), current_database(), current_user));
SELECT dblink_exec('truncates', 'SET lock_timeout = ''20s''');
INSERT INTO fo SELECT g, 1 FROM generate_series(1, 100) g;
BEGIN;
SELECT is((SELECT count(*) FROM fn), 100::bigint, 'a reader of the new table');
SELECT lives_ok($$SELECT dblink_exec('truncates', 'TRUNCATE fo')$$, 'is not waited for');
SELECT is((SELECT count(*) FROM fo), 0::bigint, 'and may read the old one');
COMMIT;
SELECT is((SELECT count(*) FROM fn), 0::bigint, 'TRUNCATE is mirrored');
INSERT INTO fo SELECT g, 1 FROM generate_series(1, 100) g;
CALL await($$NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'fn'::regclass)$$);
SELECT dblink_exec('truncates', 'BEGIN');
SELECT dblink_exec('truncates', 'TRUNCATE fo');
SELECT is((SELECT count(*) FROM pg_locks WHERE relation = 'fn'::regclass AND mode = 'AccessExclusiveLock' AND granted), 1::bigint, 'as a whole where there is none');
SELECT dblink_exec('truncates', 'ROLLBACK');
SELECT dblink_disconnect('truncates');
SELECT is(differences('TABLE fo', 'TABLE fn'), 0::bigint, 'and undone with it');

-- Checks of the new side were made immediate by name, and the application's constraint of that name with them.
CREATE TABLE dp (id int PRIMARY KEY);
CREATE TABLE dp_n (id int PRIMARY KEY);
CREATE TABLE dc (id int PRIMARY KEY, p int CONSTRAINT the_parent REFERENCES dp DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE dc_n (id int PRIMARY KEY, p int CONSTRAINT the_parent REFERENCES dp_n DEFERRABLE INITIALLY DEFERRED);
SELECT dualwrite.create_migration('named');
SELECT dualwrite.add_mapping('named', 'dp', 'dp_n');
SELECT dualwrite.add_mapping('named', 'dc', 'dc_n');
SELECT dualwrite.advance('named', 'shadow');
BEGIN;
INSERT INTO dc VALUES (1, 1);
SELECT lives_ok('INSERT INTO dc VALUES (2, 1)', 'a constraint of the same name stays deferred');
INSERT INTO dp VALUES (1);
COMMIT;
SELECT is((SELECT count(*) FROM dc), 2::bigint, 'until the commit');

-- What the foreign keys of the new side did was done at the end of the statement, and met the children of other parents, which
-- had been given the key meanwhile; before the backfill, and where children were queued, it was refused as a foreign write.
CREATE TABLE sp (id int PRIMARY KEY, v text);
CREATE TABLE sc (id int PRIMARY KEY, p int REFERENCES sp ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE spn (id int PRIMARY KEY, v text, own text DEFAULT 'own');
CREATE TABLE scn (id int PRIMARY KEY, p int REFERENCES spn ON DELETE CASCADE ON UPDATE CASCADE, own text DEFAULT 'own');
SELECT dualwrite.create_migration('shift');
SELECT dualwrite.add_mapping('shift', 'sp', 'spn');
SELECT dualwrite.add_mapping('shift', 'sc', 'scn');
CREATE FUNCTION shifted() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('TABLE sp', 'SELECT id, v FROM spn') + differences('TABLE sc', 'SELECT id, p FROM scn') $$;
INSERT INTO sp SELECT g, 'p' || g FROM generate_series(5, 1, -1) g;
INSERT INTO sc SELECT g, 1 + g % 5 FROM generate_series(1, 20) g;
SELECT dualwrite.advance('shift', 'shadow');
SELECT dualwrite.advance('shift', 'dual_write');
UPDATE sc SET p = 5 WHERE id <= 10;
UPDATE sp SET id = id + 1;
UPDATE sc SET p = 3 WHERE id = 1;
SELECT lives_ok('DELETE FROM sp WHERE id = 6', 'a cascade before the backfill');
INSERT INTO sp VALUES (60, 'again');
CALL dualwrite.run('shift', 'verify');
SELECT is(shifted(), 0::bigint, 'after the backfill');
SELECT lives_ok('UPDATE sp SET id = id + 1', 'parents shift, children follow');
SELECT is(shifted(), 0::bigint, 'on both sides');
SELECT lives_ok('WITH gone AS (DELETE FROM sp WHERE id = 6 RETURNING id) UPDATE sp SET id = gone.id FROM gone WHERE sp.id = 4', 'a parent takes the key of one that goes');
SELECT is(shifted(), 0::bigint, 'its children stay');
DELETE FROM sp WHERE id = 3;
SELECT is(shifted(), 0::bigint, 'a parent goes');
CALL dualwrite.run('shift', 'read_switch');
CREATE TABLE control_p AS TABLE sp;
CREATE TABLE control_c AS TABLE sc;
ALTER TABLE control_p ADD PRIMARY KEY (id);
ALTER TABLE control_c ADD FOREIGN KEY (p) REFERENCES control_p ON DELETE CASCADE ON UPDATE CASCADE;
UPDATE sp SET id = 100 - id;
UPDATE control_p SET id = 100 - id;
UPDATE sp SET id = id + 1 WHERE id = (SELECT max(id) FROM sp);
UPDATE control_p SET id = id + 1 WHERE id = (SELECT max(id) FROM control_p);
SELECT is(shifted(), 0::bigint, 'with both directions on');
SELECT is(differences('TABLE sp', 'TABLE control_p') + differences('TABLE sc', 'TABLE control_c'), 0::bigint, 'nothing comes back wrong');
INSERT INTO spn VALUES (1, 'one'), (2, 'two');
INSERT INTO scn VALUES (101, 1), (102, 2);
UPDATE spn SET id = id + 200 WHERE id < 3;
SELECT is((SELECT count(*) FROM sc WHERE p > 200), 2::bigint, 'a new parent moves');
DELETE FROM spn WHERE id = 201;
SELECT is(shifted(), 0::bigint, 'and goes');

-- A row stored by the first half of a command was not there yet for the second: "attempted to update invisible tuple".
CREATE TABLE io (id int PRIMARY KEY, v text);
CREATE TABLE inn (id int PRIMARY KEY, v text);
CREATE FUNCTION insert_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN INSERT INTO io VALUES (old.id + 100, 'x'); END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER again AFTER DELETE ON io FOR EACH ROW EXECUTE FUNCTION insert_again();
SELECT dualwrite.create_migration('invisible', 'io', 'inn');
CALL dualwrite.run('invisible', 'verify');
INSERT INTO io VALUES (1, 'a'), (2, 'b');
SELECT lives_ok($$WITH gone AS (DELETE FROM io WHERE id = 1 RETURNING *) INSERT INTO io SELECT id, v || '~' FROM gone$$, 'DELETE and INSERT of a key in one command');
SELECT is(differences('TABLE io', 'TABLE inn'), 0::bigint, 'is mirrored');

-- Finding the leaf opened and locked every leaf on the way to it.
CREATE TABLE ho (id int PRIMARY KEY, v int);
CREATE TABLE hn (id int PRIMARY KEY, v int) PARTITION BY HASH (id);
SELECT format('CREATE TABLE hn%s PARTITION OF hn FOR VALUES WITH (MODULUS 16, REMAINDER %s)', g, g) FROM generate_series(0, 15) g \gexec
SELECT dualwrite.create_migration('hash', 'ho', 'hn');
CALL dualwrite.run('hash', 'verify');
INSERT INTO ho SELECT g, g FROM generate_series(1, 500) g;
SELECT is(differences('TABLE ho', 'TABLE hn'), 0::bigint, 'hash partitions');
BEGIN;
UPDATE ho SET v = 0 WHERE id = 7;
SELECT is((SELECT count(DISTINCT c.oid) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
	WHERE l.pid = pg_backend_pid() AND c.relname ~ '^hn\d+$'), 1::bigint, 'only the leaf concerned is locked');
COMMIT;
CREATE TABLE ro (id int PRIMARY KEY, k text, v int);
CREATE TABLE rn (id int, k text, v int, PRIMARY KEY (k, id)) PARTITION BY LIST (k);
CREATE TABLE rn_ab PARTITION OF rn FOR VALUES IN ('a', 'b');
CREATE TABLE rn_c PARTITION OF rn FOR VALUES IN ('c') PARTITION BY RANGE (id);
CREATE TABLE rn_c1 (v int, k text NOT NULL, id int NOT NULL);
ALTER TABLE rn_c ATTACH PARTITION rn_c1 FOR VALUES FROM (MINVALUE) TO (100);
CREATE TABLE rn_c2 PARTITION OF rn_c FOR VALUES FROM (100) TO (MAXVALUE);
ALTER TABLE ro DROP CONSTRAINT ro_pkey, ADD PRIMARY KEY (k, id);
SELECT dualwrite.create_migration('ranges', 'ro', 'rn');
CALL dualwrite.run('ranges', 'verify');
INSERT INTO ro SELECT g, chr(97 + g % 3), g FROM generate_series(1, 200) g;
UPDATE ro SET v = v + 1;
UPDATE ro SET k = chr(97 + (id + 1) % 3) WHERE id < 150;
UPDATE ro SET id = id + 95 WHERE id < 50;
SELECT is(differences('SELECT id, k, v FROM ro', 'SELECT id, k, v FROM rn'), 0::bigint, 'lists, and ranges below them');
SELECT throws_ok($$INSERT INTO ro VALUES (1, 'z', 1)$$, '23514', NULL, 'no partition takes it');

-- One row that fails cost a subtransaction for each of the others.
CREATE TABLE bo (id int PRIMARY KEY, v int);
CREATE TABLE bn (id int PRIMARY KEY, v int CHECK (v <> 777));
SELECT dualwrite.create_migration('bad', 'bo', 'bn');
CALL dualwrite.run('bad', 'verify');
SELECT dualwrite.configure('bad', 'mirror_on_error', 'queue');
CREATE TEMP TABLE xid AS SELECT txid_current() AS before;
INSERT INTO bo SELECT g, g FROM generate_series(1, 2000) g;
SELECT is((SELECT count(*) FROM bn), 1999::bigint, 'the good rows are mirrored');
SELECT cmp_ok((SELECT txid_current() - before FROM xid), '<', 200::bigint, 'with few subtransactions');

-- Functions in defaults of the new table were run by the planner as whoever wrote the old one.
CREATE ROLE edge_owner;
GRANT CREATE ON SCHEMA public TO edge_owner;
CREATE TABLE seen (who name);
GRANT INSERT ON seen TO PUBLIC;
SET ROLE edge_owner;
CREATE FUNCTION note() RETURNS void LANGUAGE sql VOLATILE AS $$ INSERT INTO public.seen VALUES (current_user) $$;
CREATE FUNCTION spy() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.note(); RETURN 1; END $$;
CREATE TABLE wo (id int PRIMARY KEY, v int);
CREATE TABLE wn (id int PRIMARY KEY, v int, d int DEFAULT spy(), CHECK (spy() = 1));
RESET ROLE;
SELECT dualwrite.create_migration('spy', 'wo', 'wn');
CALL dualwrite.run('spy', 'verify');
TRUNCATE seen;
INSERT INTO wo VALUES (1, 1), (2, 2);
UPDATE wo SET v = v + 1;
DELETE FROM wo WHERE id = 2;
SELECT is((SELECT string_agg(DISTINCT who, ', ') FROM seen), 'edge_owner', 'code of the owner runs as the owner');
SELECT dualwrite.rollback('spy', 'defined', force => true);
SELECT dualwrite.drop_migration('spy');
DROP OWNED BY edge_owner CASCADE;
DROP ROLE edge_owner;

-- Errors of the new side showed its columns to writers who may not read it.
CREATE ROLE edge_writer;
CREATE TABLE so (id int PRIMARY KEY, v int);
CREATE TABLE sn (id int PRIMARY KEY, v int UNIQUE CHECK (v < 100), secret text DEFAULT 'secret');
SELECT dualwrite.create_migration('secret', 'so', 'sn');
CALL dualwrite.run('secret', 'verify');
GRANT SELECT, INSERT, UPDATE, DELETE ON so TO edge_writer;
INSERT INTO so VALUES (1, 1), (2, 2);
CREATE FUNCTION detail_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE d text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL;
	RETURN d;
END $$;
SET ROLE edge_writer;
SELECT is(detail_of('UPDATE so SET v = 200 WHERE id = 1'), '', 'a failed check shows no row to those who may not read it');
SELECT is(detail_of('UPDATE so SET v = 2 WHERE id = 1'), '', 'nor a unique violation');
RESET ROLE;
SELECT ok(detail_of('UPDATE so SET v = 200 WHERE id = 1') LIKE 'Failing row%', 'others see it');
GRANT SELECT ON sn TO edge_writer;
SET ROLE edge_writer;
SELECT ok(detail_of('UPDATE so SET v = 200 WHERE id = 1') LIKE 'Failing row%', 'as does who may read it');
RESET ROLE;
ALTER TABLE sn ENABLE ROW LEVEL SECURITY;
SET ROLE edge_writer;
SELECT is(detail_of('UPDATE so SET v = 200 WHERE id = 1'), '', 'but not under row security');
RESET ROLE;

DROP OWNED BY edge_writer;
DROP ROLE edge_writer;
-- code of the new table runs as its owner, and so must not see the writer's search_path: a constraint, an index, a
-- default, a trigger, on a plain table and on a leaf
CREATE SCHEMA esc; CREATE SCHEMA evil;
CREATE FUNCTION esc.ok(t text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN length(t) < 100; END $$;
CREATE FUNCTION esc.trig() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM length(new.a); RETURN new; END $$;
CREATE FUNCTION evil.length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil code as %', current_user; END $$;
CREATE TABLE esc.o1 (id int PRIMARY KEY, a text); CREATE TABLE esc.n1 (id int PRIMARY KEY, a text CHECK (esc.ok(a)));
CREATE TABLE esc.o2 (id int PRIMARY KEY, a text); CREATE TABLE esc.n2 (id int PRIMARY KEY, a text); CREATE INDEX ON esc.n2 (esc.ok(a));
CREATE TABLE esc.o3 (id int PRIMARY KEY, a text); CREATE TABLE esc.n3 (id int PRIMARY KEY, a text, b boolean DEFAULT esc.ok('x'));
CREATE TABLE esc.o4 (id int PRIMARY KEY, a text); CREATE TABLE esc.n4 (id int PRIMARY KEY, a text);
CREATE TRIGGER t BEFORE INSERT ON esc.n4 FOR EACH ROW EXECUTE FUNCTION esc.trig(); ALTER TABLE esc.n4 ENABLE ALWAYS TRIGGER t;
CREATE TABLE esc.o5 (id int PRIMARY KEY, a text); CREATE TABLE esc.n5 (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
CREATE TABLE esc.n5_1 PARTITION OF esc.n5 FOR VALUES FROM (0) TO (100); ALTER TABLE esc.n5_1 ADD CHECK (esc.ok(a));
SELECT dualwrite.create_migration('esc' || i, ('esc.o' || i)::regclass, ('esc.n' || i)::regclass) FROM generate_series(1, 5) i;
CALL dualwrite.run('esc1', 'dual_write'); CALL dualwrite.run('esc2', 'dual_write'); CALL dualwrite.run('esc3', 'dual_write');
CALL dualwrite.run('esc4', 'dual_write'); CALL dualwrite.run('esc5', 'dual_write');
SET search_path = evil, public, pg_catalog;
SELECT lives_ok(format('INSERT INTO esc.o%s VALUES (1, ''x''), (2, ''y'')', i), 'the writer''s search_path is not looked at, ' || i) FROM generate_series(1, 5) i;
SELECT lives_ok(format('UPDATE esc.o%s SET a = ''z''', i), 'nor by an update, ' || i) FROM generate_series(1, 5) i;
RESET search_path;

-- Foreign keys of the new side cascaded all the way down at once, those of the old side level by level: rows that the old side still
-- had were put back without their parents, and the statement failed.
CREATE TABLE lv0 (a int PRIMARY KEY);
CREATE TABLE lv1 (a int REFERENCES lv0 ON DELETE CASCADE ON UPDATE CASCADE, b int, PRIMARY KEY (a, b));
CREATE TABLE lv2 (a int, b int, c int, PRIMARY KEY (a, b, c), FOREIGN KEY (a, b) REFERENCES lv1 ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE lv3 (a int, b int, c int, d int, PRIMARY KEY (a, b, c, d), FOREIGN KEY (a, b, c) REFERENCES lv2 ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE lv0n (a int PRIMARY KEY, own int DEFAULT 0);
CREATE TABLE lv1n (a int REFERENCES lv0n ON DELETE CASCADE ON UPDATE CASCADE, b int, PRIMARY KEY (a, b), own int DEFAULT 0);
CREATE TABLE lv2n (a int, b int, c int, PRIMARY KEY (a, b, c), FOREIGN KEY (a, b) REFERENCES lv1n ON DELETE CASCADE ON UPDATE CASCADE, own int DEFAULT 0);
CREATE TABLE lv3n (a int, b int, c int, d int, PRIMARY KEY (a, b, c, d), FOREIGN KEY (a, b, c) REFERENCES lv2n ON DELETE CASCADE ON UPDATE CASCADE, own int DEFAULT 0);
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE treen (id int PRIMARY KEY, up int REFERENCES treen ON DELETE CASCADE ON UPDATE CASCADE, own int DEFAULT 0);
SELECT dualwrite.create_migration('levels');
SELECT dualwrite.add_mapping('levels', ('lv' || i)::regclass, ('lv' || i || 'n')::regclass) FROM generate_series(0, 3) i;
SELECT dualwrite.add_mapping('levels', 'tree', 'treen');
CREATE FUNCTION levels() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('TABLE lv0', 'SELECT a FROM lv0n') + differences('TABLE lv1', 'SELECT a, b FROM lv1n') + differences('TABLE lv2', 'SELECT a, b, c FROM lv2n') +
		differences('TABLE lv3', 'SELECT a, b, c, d FROM lv3n') + differences('TABLE tree', 'SELECT id, up FROM treen') $$;
INSERT INTO lv0 SELECT generate_series(1, 6); INSERT INTO lv1 SELECT a, b FROM lv0, generate_series(1, 2) b;
INSERT INTO lv2 SELECT a, b, c FROM lv1, generate_series(1, 2) c; INSERT INTO lv3 SELECT a, b, c, d FROM lv2, generate_series(1, 2) d;
INSERT INTO tree SELECT g, nullif(g / 2, 0) FROM generate_series(1, 40) g;
CALL dualwrite.run('levels', 'verify');
CREATE PROCEDURE each_level(what text, n text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('UPDATE lv0%s SET a = a + 10 WHERE a IN (1, 2)', n);
	ASSERT levels() = 0, what;
	EXECUTE format('UPDATE lv0%s SET a = a - 1 WHERE a > 10', n);
	EXECUTE format('DELETE FROM lv0%s WHERE a = 3', n);
	EXECUTE format('DELETE FROM tree%s WHERE id IN (2, 7)', n);
	EXECUTE format('UPDATE tree%s SET id = id + 100 WHERE id IN (1, 3)', n);
	EXECUTE format('WITH d AS (DELETE FROM lv0%1$s WHERE a = 4 RETURNING a) UPDATE lv0%1$s SET a = 4 FROM d WHERE lv0%1$s.a = 5', n);
	EXECUTE format('DELETE FROM tree%s WHERE id = 101', n);
END $$;
CALL each_level('verify', '');
SELECT is(levels(), 0::bigint, 'verify: rows go on every level');
SELECT is((SELECT count(*) FROM lv3) + (SELECT count(*) FROM tree), 32::bigint, 'as they should');
SELECT dualwrite.configure('levels', 'mirror_on_error', 'queue');
INSERT INTO lv0 VALUES (1), (2), (3), (5); INSERT INTO lv1 SELECT a, b FROM lv0, generate_series(1, 2) b WHERE a IN (1, 2, 3, 5);
INSERT INTO lv2 SELECT a, b, c FROM lv1, generate_series(1, 2) c WHERE a IN (1, 2, 3, 5); INSERT INTO lv3 SELECT a, b, c, d FROM lv2, generate_series(1, 2) d WHERE a IN (1, 2, 3, 5);
INSERT INTO tree SELECT g, nullif(g / 2, 0) FROM generate_series(1, 40) g;
DELETE FROM lv0 WHERE a > 9;
CALL each_level('queue', '');
SELECT is(levels(), 0::bigint, 'the same with mirror_on_error = queue');
SELECT is((SELECT count(*) FROM dualwrite.queue WHERE migration = 'levels'), 0::bigint, 'and nothing is queued');
SELECT dualwrite.configure('levels', 'mirror_on_error', NULL);
CALL dualwrite.run('levels', 'read_switch');
INSERT INTO lv0n VALUES (1), (2), (3), (5); INSERT INTO lv1n SELECT a, b FROM lv0n, generate_series(1, 2) b WHERE a IN (1, 2, 3, 5);
INSERT INTO lv2n SELECT a, b, c FROM lv1n, generate_series(1, 2) c WHERE a IN (1, 2, 3, 5); INSERT INTO lv3n SELECT a, b, c, d FROM lv2n, generate_series(1, 2) d WHERE a IN (1, 2, 3, 5);
INSERT INTO treen SELECT g, nullif(g / 2, 0) FROM generate_series(1, 40) g;
DELETE FROM lv0n WHERE a > 9;
CALL each_level('read_switch', 'n');
SELECT is(levels(), 0::bigint, 'the same on the new side');
BEGIN; DELETE FROM lv0; DELETE FROM tree; INSERT INTO lv0 VALUES (1); COMMIT;
SELECT is(levels(), 0::bigint, 'everything goes');

-- A row took a value that another one of the statement, whose key changed, had given up: on the new side that one moved at the end of the
-- statement, and a unique constraint objected that had not on the old side.
CREATE TABLE give (id int PRIMARY KEY, u int UNIQUE, v text, during int4range, EXCLUDE USING gist (during WITH &&));
CREATE TABLE give_n (during int4range, u int UNIQUE, id bigint PRIMARY KEY, v text, own text DEFAULT 'own', EXCLUDE USING gist (during WITH &&));
SELECT dualwrite.create_migration('give', 'give', 'give_n');
CALL dualwrite.run('give', 'read_switch');
CREATE FUNCTION given() RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', differences('SELECT id::bigint, u, v, during FROM give', 'SELECT id, u, v, during FROM give_n'), (SELECT string_agg(own, ' ' ORDER BY u) FROM give_n)) $$;
-- (each says in which order it writes: MERGE in that of its source)
CREATE FUNCTION give_and_take(t text) RETURNS SETOF text LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off AS $f$
DECLARE s text;
BEGIN
	FOREACH s IN ARRAY ARRAY[
		$$WITH m AS (UPDATE {t} SET id = 100, u = 7 WHERE id = 1 RETURNING 1) INSERT INTO {t} (id, u) SELECT 3, 5 FROM m$$,
		$$WITH m AS (UPDATE {t} SET id = 100, u = 7 WHERE id = 1 RETURNING 1) UPDATE {t} SET u = 5 FROM m WHERE id = 2$$,
		$$WITH m AS (UPDATE {t} SET id = 100, during = int4range(50, 60) WHERE id = 1 RETURNING 1) UPDATE {t} SET during = int4range(1, 10) FROM m WHERE id = 2$$,
		$$WITH m AS (UPDATE {t} SET id = 11, u = 7 WHERE id = 1 RETURNING 1) UPDATE {t} SET id = 12, u = 5 FROM m WHERE id = 2$$,
		$$WITH m AS (UPDATE {t} SET id = 100, u = 7 WHERE id = 1 RETURNING 1) INSERT INTO {t} (id, u) SELECT 2, 5 FROM m ON CONFLICT (id) DO UPDATE SET u = excluded.u$$,
		$$WITH m AS (UPDATE {t} SET id = 100, u = 7 WHERE id = 1 RETURNING 1) INSERT INTO {t} (id, u) SELECT 1, 5 FROM m$$,
		$$MERGE INTO {t} USING (VALUES (1, 100, 7), (2, 2, 5), (3, 3, 6)) s(id, new_id, u) ON s.id = {t}.id WHEN MATCHED THEN UPDATE SET id = s.new_id, u = s.u WHEN NOT MATCHED THEN INSERT (id, u) VALUES (s.new_id, s.u)$$,
		$$WITH m AS (UPDATE {t} SET id = 100, u = 7 WHERE id = 1 RETURNING 1), d AS (DELETE FROM {t} WHERE id = 2) INSERT INTO {t} (id, u) SELECT g, g FROM m, generate_series(3, 60) g WHERE g NOT IN (6, 7)$$] LOOP
		EXECUTE replace('DELETE FROM {t}', '{t}', t);
		EXECUTE replace($$INSERT INTO {t} (id, u, v, during) VALUES (1, 5, 'a', '[1,10)'), (2, 6, 'b', '[10,20)')$$, '{t}', t);
		UPDATE give_n SET own = 'own ' || v;
		EXECUTE replace(s, '{t}', t);
		RETURN NEXT is(left(given(), 2), '0 ', s);
		RETURN NEXT is((SELECT string_agg(own, ', ' ORDER BY own) FROM give_n WHERE v IS NOT NULL), (SELECT string_agg('own ' || v, ', ' ORDER BY v) FROM give WHERE v IS NOT NULL), 'with what is the new side''s own');
	END LOOP;
END $f$;
SELECT * FROM give_and_take('give');
SELECT * FROM give_and_take('give_n');
SELECT dualwrite.configure('give', 'mirror_on_error', 'queue');
SELECT * FROM give_and_take('give');
SELECT is((SELECT count(*) FROM dualwrite.queue WHERE migration = 'give'), 0::bigint, 'nothing is queued');
SELECT dualwrite.configure('give', 'mirror_on_error', NULL);
-- rows that move between partitions
CREATE TABLE give_p (id int, k text, u int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE give_pa PARTITION OF give_p FOR VALUES IN ('a');
CREATE TABLE give_pb PARTITION OF give_p FOR VALUES IN ('b');
CREATE TABLE give_pn (u int UNIQUE, id int, k text, own int DEFAULT 7, PRIMARY KEY (k, id));
SELECT dualwrite.create_migration('give_p', 'give_p', 'give_pn');
CALL dualwrite.run('give_p', 'read_switch');
INSERT INTO give_p VALUES (1, 'a', 5), (2, 'a', 6), (3, 'b', 10);
UPDATE give_p SET k = 'b', u = CASE id WHEN 1 THEN 7 WHEN 2 THEN 5 ELSE 6 END;
SELECT is(differences('SELECT id, k, u FROM give_p', 'SELECT id, k, u FROM give_pn'), 0::bigint, 'partition by partition');
UPDATE give_pn SET k = 'a', u = CASE id WHEN 1 THEN 8 WHEN 2 THEN 7 ELSE u END;
SELECT is(differences('SELECT id, k, u FROM give_p', 'SELECT id, k, u FROM give_pn'), 0::bigint, 'and on the new side');
-- of many rows that move the one that fails is named
ALTER TABLE give_n ADD CHECK (id <> 142);
DELETE FROM give;
INSERT INTO give (id, u) SELECT g, g FROM generate_series(1, 60) g;
SELECT throws_ok('UPDATE give SET id = id + 100', '23514', NULL, 'a row that cannot move');
CREATE FUNCTION context_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS result = PG_EXCEPTION_CONTEXT;
	RETURN result;
END $$;
SELECT matches(context_of('UPDATE give SET id = id + 100'), 'migration "give", mapping from public.give to public.give_n, key {"id": 142}', 'is the one that is named');

-- Triggers of users that are called like ours are theirs nevertheless.
CREATE TABLE called_old (id int PRIMARY KEY, v int);
CREATE TABLE called_new (id int PRIMARY KEY, v int);
CREATE TABLE called_seen (what text, id int);
SELECT dualwrite.create_migration('called', 'called_old', 'called_new');
CALL dualwrite.run('called', 'dual_write');
CREATE FUNCTION called_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO called_seen VALUES ('written', new.id);
	RETURN NULL;
END $$;
CREATE FUNCTION called_missing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO called_seen SELECT 'missing', new.id WHERE NOT EXISTS (SELECT FROM called_new WHERE id = new.id);
	RETURN NULL;
END $$;
CREATE TRIGGER _dualwrite_log AFTER INSERT ON called_new FOR EACH ROW EXECUTE FUNCTION called_written();
ALTER TABLE called_new ENABLE ALWAYS TRIGGER _dualwrite_log;
CREATE TRIGGER _dualwrite_look AFTER INSERT ON called_old FOR EACH ROW EXECUTE FUNCTION called_missing();
INSERT INTO called_old SELECT g, g FROM generate_series(1, 20) g;
SELECT is((SELECT count(*) FROM called_seen WHERE what = 'written'), 20::bigint, 'a user''s ALWAYS trigger fires, whatever it is called');
DROP TRIGGER _dualwrite_log ON called_new;
INSERT INTO called_old SELECT g, g FROM generate_series(21, 40) g;
SELECT is((SELECT count(*) FROM called_seen WHERE what = 'missing'), 0::bigint, 'and one of the old side sees what has been mirrored');

SELECT * FROM finish();
