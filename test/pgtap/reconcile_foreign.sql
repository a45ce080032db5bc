-- The new table is on another server (here: in this database, by another connection).  It has no part in the snapshot of a
-- comparison, so a difference counts only when it is still there under a newer one.
SELECT no_plan();
SET client_min_messages = warning;

CREATE EXTENSION postgres_fdw;
DO $$
BEGIN
	EXECUTE format('CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L)',
		split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database());
	EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (user %L)', current_user);
END $$;
CREATE TABLE there (code text, n int, v numeric, extra text DEFAULT 'e', PRIMARY KEY (code, n));
CREATE FOREIGN TABLE remote (code text NOT NULL, n int NOT NULL, v numeric) SERVER elsewhere OPTIONS (table_name 'there');
CREATE TABLE here (n int, code text, v numeric, PRIMARY KEY (n, code));
INSERT INTO here SELECT g, c, g / 8.0 FROM generate_series(1, 200) AS g, unnest('{a,B,ä,"x y"}'::text[]) AS c;

SELECT dualwrite.create_migration('f', 'here', 'remote', key_columns => '{code,n}', delivery => 'queued');
CALL dualwrite.run('f', timeout => '10 min');
SELECT is((SELECT count(*) FROM there), 800::bigint, 'copied');
SELECT results_eq($$SELECT rows_compared, missing + extra + different FROM dualwrite.reconcile('f')$$,
	$$VALUES (800::bigint, 0::bigint)$$, 'both sides agree');
DELETE FROM there WHERE n = 5;
UPDATE there SET v = 0 WHERE n = 6 AND code <> 'a';
INSERT INTO there SELECT 'zz', g, 0 FROM generate_series(1, 5100) AS g;
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('f')$$,
	$$VALUES (4::bigint, 5100::bigint, 3::bigint)$$, 'drift on the other server is found');
SELECT results_eq($$SELECT kind, columns, old_values, new_values FROM dualwrite.drift WHERE key = '{"code": "ä", "n": 6}'$$,
	$$VALUES ('different', '{v}'::text[], '{"n": 6, "v": 0.75000000000000000000, "code": "ä"}'::jsonb, '{"n": 6, "v": 0, "code": "ä"}'::jsonb)$$,
	'with its values');
SELECT is(dualwrite.repair('f', '{"code": "ä", "n": 6}'), 1::bigint, 'one key is repaired');
DELETE FROM there WHERE code = 'zz' AND n > 10;
SELECT is(dualwrite.repair('f'), 16::bigint, 'and the rest');
SELECT results_eq($$SELECT code, n, v FROM there ORDER BY 1, 2$$, $$SELECT code, n, v FROM here ORDER BY 1, 2$$, 'both sides agree again');

-- a key that is queued is lag
SELECT dualwrite.pause('f');
UPDATE here SET v = -1 WHERE n = 7;
DELETE FROM here WHERE n = 8;
INSERT INTO here VALUES (500, 'new', 5);
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('f')), 0::bigint, 'queued keys are no drift');
SELECT dualwrite.resume('f');
CALL await($$(SELECT queued = 0 FROM dualwrite.status WHERE migration = 'f')$$);
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('f')), 0::bigint, 'delivered keys neither');
SELECT is((SELECT v FROM there WHERE code = 'a' AND n = 7), -1::numeric, 'they have been delivered');

SELECT * FROM finish();
