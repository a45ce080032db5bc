-- Whatever a superuser does past the mirrors, on either side, is found: by a complete comparison, and by one of what has changed.
-- Who listens is told when it is more than drift_alert_rate, and not before.
SELECT no_plan();
SET client_min_messages = warning;

-- Triggers that fire always are made usual ones, which a replica does not fire, and always ones again.
CREATE PROCEDURE as_replica(statement text) LANGUAGE plpgsql AS $$
DECLARE
	t record;
	usual text;
BEGIN
	FOREACH usual IN ARRAY ARRAY['', 'ALWAYS'] LOOP
		FOR t IN SELECT tgrelid::regclass AS relation, tgname FROM pg_trigger WHERE tgrelid IN ('o'::regclass, 'n'::regclass) AND NOT tgisinternal LOOP
			EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', t.relation, usual, t.tgname);
		END LOOP;
		IF usual = '' THEN
			SET LOCAL session_replication_role = replica;
			EXECUTE statement;
			SET LOCAL session_replication_role = origin;
		END IF;
	END LOOP;
END $$;

-- A comparison in the background, as often as it takes until one of that kind has ended that began after the call.
CREATE PROCEDURE compared(wanted text, OUT missing bigint, OUT extra bigint, OUT different bigint) LANGUAGE plpgsql AS $$
DECLARE
	since timestamptz := clock_timestamp();
BEGIN
	PERFORM dualwrite.configure('m', 'reconcile_interval', '1 ms');
	CALL await(format('EXISTS (SELECT FROM dualwrite.drift_history WHERE started_at > %L AND kind = %L)', since, wanted));
	PERFORM dualwrite.configure('m', 'reconcile_interval', '0');
	COMMIT;
	-- a step that began before may begin one more
	CALL await(format('NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = ''dualwrite: m'' AND xact_start < %L)', clock_timestamp()));
	CALL await('NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)');
	SELECT h.missing, h.extra, h.different INTO missing, extra, different FROM dualwrite.drift_history h
		WHERE h.started_at > since AND h.kind = wanted ORDER BY h.started_at LIMIT 1;
	COMMIT;
END $$;

CREATE TABLE o (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
CREATE TABLE n (id bigint PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
INSERT INTO o SELECT g, 'v' || g FROM generate_series(1, 500) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
CALL dualwrite.run('m', timeout => '60 s');

CREATE TABLE trick (id int, side text, what text, statement text, missing int, extra int, different int);
INSERT INTO trick VALUES
	(1, 'old', 'INSERT', 'INSERT INTO o SELECT g, ''past'' FROM generate_series(1001, 1003) AS g', 3, 0, 0),
	(2, 'old', 'UPDATE', 'UPDATE o SET v = ''past'' WHERE id BETWEEN 11 AND 14', 0, 0, 4),
	(3, 'old', 'UPDATE of a key', 'UPDATE o SET id = id + 2000 WHERE id = 21', 1, 1, 0),
	(4, 'old', 'DELETE', 'DELETE FROM o WHERE id BETWEEN 31 AND 35', 0, 5, 0),
	(5, 'new', 'INSERT', 'INSERT INTO n SELECT g, ''past'' FROM generate_series(1101, 1103) AS g', 0, 3, 0),
	(6, 'new', 'UPDATE', 'UPDATE n SET v = ''past'' WHERE id BETWEEN 41 AND 44', 0, 0, 4),
	(7, 'new', 'UPDATE of a key', 'UPDATE n SET id = id + 2000 WHERE id = 51', 1, 1, 0),
	(8, 'new', 'DELETE', 'DELETE FROM n WHERE id BETWEEN 61 AND 65', 5, 0, 0);
CREATE TABLE outcome (id int, kind text, missing int, extra int, different int, repaired int, still int);
CREATE VIEW expected AS SELECT id, missing, extra, different, missing + extra + different AS repaired, 0 AS still FROM trick;

CREATE PROCEDURE try(kind text) LANGUAGE plpgsql AS $$
DECLARE
	t trick;
	missing bigint;
	extra bigint;
	different bigint;
	repaired bigint;
BEGIN
	FOR t IN SELECT * FROM trick ORDER BY id LOOP
		CALL as_replica(t.statement);
		COMMIT;
		IF kind = 'full' THEN
			SELECT r.missing, r.extra, r.different INTO missing, extra, different FROM dualwrite.reconcile('m') r;
		ELSE
			CALL compared(kind, missing, extra, different);
		END IF;
		repaired := dualwrite.repair('m');
		COMMIT;
		INSERT INTO outcome SELECT t.id, kind, missing, extra, different, repaired,
			(SELECT count(*) FROM o FULL JOIN n ON n.id = o.id AND n.v = o.v WHERE o.id IS NULL OR n.id IS NULL);
	END LOOP;
END $$;

CALL try('full');
SELECT results_eq($$SELECT id, missing, extra, different, repaired, still FROM outcome WHERE kind = 'full' ORDER BY id$$, 'TABLE expected',
	'a complete comparison finds every kind of write past the mirrors, on either side');
-- as at first, and compared
TRUNCATE o;
INSERT INTO o SELECT g, 'v' || g FROM generate_series(1, 500) AS g;
CALL compared('full', NULL, NULL, NULL) \gset
SELECT is(:missing + :extra + :different, 0, 'clean');
CALL try('incremental');
SELECT results_eq($$SELECT id, missing, extra, different, repaired, still FROM outcome WHERE kind = 'incremental' ORDER BY id$$, 'TABLE expected',
	'and so does one of what has changed');

-- rows that are frozen as soon as they are there keep the id of who made them
CALL compared('incremental', NULL, NULL, NULL) \gset
CALL as_replica('INSERT INTO n VALUES (1201, ''frozen'')');
VACUUM (FREEZE) n;
CALL compared('incremental', NULL, NULL, NULL) \gset
SELECT is(:extra, 1, 'a row that was frozen since');
SELECT dualwrite.repair('m');

-- what gives a table another file is for a complete comparison, which comes at once
CALL compared('incremental', NULL, NULL, NULL) \gset
CALL as_replica('TRUNCATE n');
CALL compared('full', NULL, NULL, NULL) \gset
SELECT is(:missing, (SELECT count(*)::int FROM o), 'TRUNCATE of the new side');
SELECT is(dualwrite.repair('m'), (SELECT count(*) FROM o), 'repaired');
CALL compared('full', NULL, NULL, NULL) \gset
CALL compared('incremental', NULL, NULL, NULL) \gset
SELECT count(*) AS rows FROM o \gset
CALL as_replica('TRUNCATE o');
CALL compared('full', NULL, NULL, NULL) \gset
SELECT is(:extra, :rows, 'TRUNCATE of the old side');
SELECT is(dualwrite.repair('m'), :rows::bigint, 'repaired: it is the truth');
INSERT INTO o SELECT g, 'v' FROM generate_series(1, 1000) AS g;
CALL compared('full', NULL, NULL, NULL) \gset
SELECT is(:missing + :extra + :different, 0, 'clean');
CALL as_replica('COPY n FROM PROGRAM ''printf "5001\tcopied\n"''');
CALL compared('incremental', NULL, NULL, NULL) \gset
SELECT is(:extra, 1, 'COPY');
SELECT dualwrite.repair('m');

-- alert: drift_alert_rate has to be crossed

CREATE EXTENSION dblink;
SELECT dblink_connect('listener', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
	current_setting('port'), current_database(), current_user));
SELECT dblink_exec('listener', 'LISTEN dualwrite');
CREATE TABLE heard (payload jsonb);
SELECT dualwrite.configure('m', 'drift_alert_rate', '0.005');
CALL as_replica('UPDATE n SET v = ''past'' WHERE id <= 4');
SELECT dualwrite.reconcile('m', background => true);
CALL await('NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)');
SELECT results_eq('SELECT drift_rate, alert FROM dualwrite.drift_summary', 'VALUES (0.004, false)', 'below drift_alert_rate: the rate, and no alert');
SELECT ok((SELECT NOT passed FROM dualwrite.gates('m') WHERE gate = 'drift'), 'but a gate that does not pass');
CALL as_replica('UPDATE n SET v = ''past'' WHERE id <= 6');
SELECT dualwrite.reconcile('m', background => true);
CALL await('NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)');
CREATE PROCEDURE listen() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 6000 LOOP
		INSERT INTO heard SELECT extra::jsonb FROM dblink_get_notify('listener');
		EXIT WHEN EXISTS (SELECT FROM heard WHERE payload @> '{"alert": "drift"}');
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CALL listen();
-- notifications come in the order of their commits
SELECT results_eq($$SELECT (payload->>'differing')::int, payload->>'migration' FROM heard WHERE payload @> '{"alert": "drift"}' LIMIT 1$$, $$VALUES (6, 'm')$$,
	'above it whoever listens is told, and was not before');
SELECT results_eq('SELECT drift_rate, alert FROM dualwrite.drift_summary', 'VALUES (0.006, true)', 'so does the summary');
SELECT results_eq('SELECT drift_rate FROM dualwrite.drift_history ORDER BY finished_at DESC LIMIT 2', 'VALUES (0.006), (0.004)', 'and the history of the rate');

SELECT dblink_disconnect('listener');
SELECT * FROM finish();
