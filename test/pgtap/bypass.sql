-- What goes past the mirrors is noticed: refused where it can be, else told by gates, diagnose, the log and a notification, and found
-- as drift.
SELECT no_plan();
SET client_min_messages = warning;

CREATE EXTENSION dblink;
SELECT dblink_connect('listener', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
	current_setting('port'), current_database(), current_user));
SELECT dblink_exec('listener', 'LISTEN dualwrite');
CREATE TABLE heard (payload jsonb);

-- Wake the worker, and wait until it has told of this.
CREATE PROCEDURE told(alert text) LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM heard;
	PERFORM dualwrite.resume('m');
	COMMIT;
	FOR i IN 1 .. 60000 LOOP
		INSERT INTO heard SELECT extra::jsonb FROM dblink_get_notify('listener');
		EXIT WHEN EXISTS (SELECT FROM heard WHERE payload @> jsonb_build_object('alert', alert, 'migration', 'm'));
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
	IF NOT EXISTS (SELECT FROM heard WHERE payload @> jsonb_build_object('alert', alert, 'migration', 'm')) THEN
		RAISE EXCEPTION 'nobody has told of %', alert;
	END IF;
END $$;
CREATE FUNCTION differing() RETURNS text LANGUAGE sql AS $$SELECT format('missing %s, extra %s, different %s', missing, extra, different) FROM dualwrite.reconcile('m')$$;
CREATE FUNCTION noticed(what text, problem text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT results_eq($q$SELECT passed, detail FROM dualwrite.gates('m') WHERE gate = 'triggers'$q$,
		format('VALUES (false, %L)', problem), what || ': the gate tells');
	RETURN NEXT results_eq($q$SELECT severity, detail FROM dualwrite.diagnose('m') WHERE what = 'writes are not mirrored'$q$,
		format('VALUES (%L, %L)', 'error', problem || '.'), what || ': diagnose tells');
END $$;
CREATE FUNCTION mended(what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT ok((SELECT passed FROM dualwrite.gates('m') WHERE gate = 'triggers'), what || ': install_triggers mends it');
	PERFORM dualwrite.repair('m');
	RETURN NEXT is(differing(), 'missing 0, extra 0, different 0', what || ': repaired');
END $$;

CREATE TABLE o (region text, id int, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE o_a PARTITION OF o FOR VALUES IN ('a');
CREATE TABLE o_b PARTITION OF o FOR VALUES IN ('b');
CREATE TABLE o_c PARTITION OF o FOR VALUES IN ('c');
CREATE TABLE n (region text, id bigint, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE n_a PARTITION OF n FOR VALUES IN ('a');
CREATE TABLE n_rest PARTITION OF n DEFAULT;
INSERT INTO o SELECT r, g, 'v' FROM unnest('{a,b,c}'::text[]) AS r, generate_series(1, 10) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
CALL dualwrite.run('m', timeout => '10 min');
SELECT is(differing(), 'missing 0, extra 0, different 0', 'agreed');
SELECT is_empty($$SELECT * FROM dualwrite.diagnose('m')$$, 'all is well');

-- refused: the side that is not the truth is not written by others
SELECT throws_like($$UPDATE n SET v = 'x'$$, '%is the new side of migration "m"%', 'UPDATE of the new side');
SELECT throws_like($$INSERT INTO n_a VALUES ('a', 99, 'x')$$, '%is the new side of migration "m"%', 'INSERT into one of its partitions');
SELECT throws_like($$TRUNCATE n_rest$$, '%is the new side of migration "m"%', 'TRUNCATE of one');
SET session_replication_role = replica;
SELECT throws_like($$DELETE FROM n$$, '%is the new side of migration "m"%', 'as a replica');
UPDATE o SET v = 'replica' WHERE id = 1;
RESET session_replication_role;
SELECT is((SELECT count(*) FROM n WHERE v = 'replica'), 3::bigint, 'writes of a replica are mirrored');
SELECT is(differing(), 'missing 0, extra 0, different 0', 'nothing of it is drift');

-- mirrored: TRUNCATE of a partition
TRUNCATE o_c;
SELECT is((SELECT count(*) FROM n WHERE region = 'c'), 0::bigint, 'TRUNCATE of a partition is mirrored');
INSERT INTO o SELECT 'c', g, 'v' FROM generate_series(1, 10) AS g;

-- triggers switched off, all of them or ours, on the root or a partition
ALTER TABLE o_a DISABLE TRIGGER USER;
UPDATE o SET v = 'past' WHERE id = 2;
SELECT noticed('DISABLE TRIGGER', 'trigger "!dualwrite_write" does not fire always on public.o_a');
CALL told('not_mirrored');
SELECT pass('DISABLE TRIGGER: whoever listens is told');
SELECT is(differing(), 'missing 0, extra 0, different 1', 'DISABLE TRIGGER: drift is found');
SELECT dualwrite.install_triggers('m');
SELECT mended('DISABLE TRIGGER');

ALTER TABLE n DISABLE TRIGGER ALL;
DELETE FROM n_a WHERE id = 3;
SELECT noticed('DISABLE TRIGGER ALL', 'trigger "!dualwrite_write" does not fire always on public.n');
CALL told('not_mirrored');
SELECT is(differing(), 'missing 1, extra 0, different 0', 'DISABLE TRIGGER ALL: drift is found');
SELECT dualwrite.install_triggers('m');
SELECT mended('DISABLE TRIGGER ALL');

-- from ALWAYS to the usual kind, which a replica does not fire
ALTER TABLE o ENABLE TRIGGER "~dualwrite_delete";
SET session_replication_role = replica;
DELETE FROM o WHERE id = 4;
RESET session_replication_role;
SELECT noticed('ENABLE TRIGGER', 'trigger "~dualwrite_delete" does not fire always on public.o');
CALL told('not_mirrored');
SELECT is(differing(), 'missing 0, extra 3, different 0', 'ENABLE TRIGGER: drift is found');
SELECT dualwrite.install_triggers('m');
SELECT mended('ENABLE TRIGGER');
ALTER TABLE o_b ENABLE REPLICA TRIGGER "!dualwrite_write";
INSERT INTO o VALUES ('b', 50, 'v');
SELECT noticed('ENABLE REPLICA TRIGGER', 'trigger "!dualwrite_write" does not fire always on public.o_b');
SELECT is(differing(), 'missing 1, extra 0, different 0', 'ENABLE REPLICA TRIGGER: drift is found');
SELECT dualwrite.install_triggers('m');
SELECT mended('ENABLE REPLICA TRIGGER');

-- dropped
DROP TRIGGER "!dualwrite_write" ON o;
UPDATE o SET v = 'dropped' WHERE id = 5;
SELECT noticed('DROP TRIGGER', 'trigger "!dualwrite_write" is missing on public.o');
CALL told('not_mirrored');
SELECT is(differing(), 'missing 0, extra 0, different 3', 'DROP TRIGGER: drift is found');
SELECT dualwrite.install_triggers('m');
SELECT mended('DROP TRIGGER');
UPDATE o SET v = 'mirrored' WHERE id = 5;
SELECT is((SELECT count(*) FROM n WHERE v = 'mirrored'), 3::bigint, 'DROP TRIGGER: and mirrored again');

-- partitions that leave: their rows are extra, or missing
ALTER TABLE o DETACH PARTITION o_c;
SELECT is(differing(), 'missing 0, extra 9, different 0', 'DETACH: the rows of the old side are gone');
SELECT is(dualwrite.repair('m'), 9::bigint, 'DETACH: repaired');
DROP TABLE o_b;
SELECT is(differing(), 'missing 0, extra 10, different 0', 'DROP of a partition: its rows are gone');
SELECT is(dualwrite.repair('m'), 10::bigint, 'DROP of a partition: repaired');
ALTER TABLE n DETACH PARTITION n_a;
CREATE TABLE n_a2 PARTITION OF n FOR VALUES IN ('a');
SELECT is(differing(), 'missing 9, extra 0, different 0', 'DETACH on the new side: rows are missing there');

-- partitions that come: the server clones row triggers; their statement triggers are noticed, and brought
SELECT noticed('a new partition', 'trigger "~dualwrite_flush" is missing on public.n_a2');
SELECT dualwrite.install_triggers('m');
SELECT mended('a new partition');
CREATE TABLE o_d PARTITION OF o FOR VALUES IN ('d');
INSERT INTO o SELECT 'd', g, 'v' FROM generate_series(1, 5) AS g;
SELECT is((SELECT count(*) FROM n WHERE region = 'd'), 5::bigint, 'a partition without its statement triggers is mirrored');
ALTER TABLE o ATTACH PARTITION o_c FOR VALUES IN ('c');
SELECT is(differing(), 'missing 9, extra 0, different 0', 'ATTACH: rows that come with it are missing');
SELECT dualwrite.install_triggers('m');
SELECT mended('ATTACH');
TRUNCATE o_d, o_c;
SELECT is(differing(), 'missing 0, extra 0, different 0', 'and their TRUNCATE is mirrored');

SELECT * FROM finish();
SELECT dblink_disconnect('listener');
