-- After a clean complete comparison the next ones look only at what has changed since, by whomever and however: whatever bypasses
-- the mirrors is noticed as long as it leaves a row, and what leaves none is found by the next complete one.
SELECT no_plan();
SET client_min_messages = warning;

-- One comparison by the interval, no more: what kind it was, what it looked at, what it saw.
CREATE TABLE passes (kind text, rows_compared bigint, missing bigint, extra bigint, different bigint);
CREATE PROCEDURE next_pass() LANGUAGE plpgsql AS $$
DECLARE
	last timestamptz := (SELECT max(finished_at) FROM dualwrite.drift_history WHERE migration = 'm');
BEGIN
	PERFORM dualwrite.configure('m', 'reconcile_interval', '1 ms');
	CALL await(format('EXISTS (SELECT FROM dualwrite.drift_history WHERE migration = ''m'' AND finished_at > %L)', last));
	PERFORM dualwrite.configure('m', 'reconcile_interval', '0');
	COMMIT;
	-- a step that began before may begin one more
	CALL await(format('NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = ''dualwrite: m'' AND xact_start < %L)', clock_timestamp()));
	CALL await('NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)');
	TRUNCATE passes;
	INSERT INTO passes SELECT kind, rows_compared, missing, extra, different FROM dualwrite.drift_history
		WHERE migration = 'm' AND finished_at > last ORDER BY finished_at LIMIT 1;
END $$;
CREATE VIEW found AS SELECT (key->>'id')::bigint AS id, kind FROM dualwrite.drift WHERE migration = 'm' AND state = 'open' ORDER BY 1;

CREATE TABLE o (id int PRIMARY KEY, a text, b int) WITH (autovacuum_enabled = off);
CREATE TABLE n (id bigint PRIMARY KEY, a text, b int) WITH (autovacuum_enabled = off);
INSERT INTO o SELECT g, 'a' || g, g FROM generate_series(1, 20000) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
CALL dualwrite.run('m', 'verify', '10 min');
SELECT is((SELECT kind FROM dualwrite.drift_history ORDER BY finished_at DESC LIMIT 1), 'full', 'the first comparison is complete');

CALL next_pass();
SELECT results_eq('TABLE passes', $$VALUES ('incremental', 0::bigint, 0::bigint, 0::bigint, 0::bigint)$$, 'nothing has changed: no row is looked at');
VACUUM o;
VACUUM n;
UPDATE o SET a = 'changed' WHERE id % 1000 = 0;
CALL next_pass();
SELECT results_eq('SELECT kind, rows_compared < 200, missing + extra + different FROM passes', $$VALUES ('incremental', true, 0::bigint)$$,
	'mirrored changes: only they are looked at');
SELECT cmp_ok((SELECT rows_compared FROM passes), '>=', 40::bigint, 'on both sides');

CALL bypass('{o, n}', 'UPDATE o SET b = 0 WHERE id = 1', 'UPDATE n SET a = NULL WHERE id = 2', 'INSERT INTO o VALUES (30001)', 'INSERT INTO n VALUES (30002)',
	'UPDATE o SET id = 30003 WHERE id = 3', 'UPDATE n SET id = 30004 WHERE id = 4', 'DELETE FROM o WHERE id = 5', 'DELETE FROM n WHERE id = 6');
CALL next_pass();
SELECT is((SELECT kind FROM passes), 'incremental', 'what bypasses the mirrors');
SELECT results_eq('TABLE found', $$VALUES (1::bigint, 'different'), (2, 'different'), (3, 'extra'), (4, 'missing'), (5, 'extra'), (6, 'missing'),
	(30001, 'missing'), (30002, 'extra'), (30003, 'missing'), (30004, 'extra')$$, 'is noticed, on either side');
SELECT is((SELECT drift_rate < 0.001 FROM dualwrite.drift_summary WHERE migration = 'm'), true, 'as a share of all rows');
SELECT is((SELECT count(*) FROM dualwrite.gates('m') WHERE gate = 'drift' AND NOT passed), 1::bigint, 'and is in the way of the next rung');
CALL next_pass();
SELECT is((SELECT missing + extra + different FROM passes), 10::bigint, 'open drift is looked at again each time');
SELECT is(dualwrite.repair('m'), 10::bigint, 'repaired');
CALL next_pass();
SELECT results_eq('SELECT kind, missing + extra + different FROM passes', $$VALUES ('incremental', 0::bigint)$$, 'agreeing again');

-- A row that is gone without a trace on its own side is for a complete comparison

CALL bypass('{o, n}', 'DELETE FROM o WHERE id = 7000');
-- nobody has a snapshot any more for which the row would have to stay
SELECT pg_current_xact_id()::xid AS deleted \gset
CALL await(format('NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND greatest(age(backend_xid), age(backend_xmin)) > age(%L::xid))', :'deleted'));
VACUUM (FREEZE) o;
CALL next_pass();
SELECT results_eq('SELECT kind, extra FROM passes', $$VALUES ('incremental', 0::bigint)$$, 'a row that was deleted and cleared away leaves no key');
SELECT is((SELECT extra FROM dualwrite.reconcile('m')), 1::bigint, 'a complete comparison finds it');
CALL next_pass();
SELECT is((SELECT kind FROM passes), 'full', 'after one that found something the next one is complete, too');
SELECT dualwrite.repair('m');
CALL next_pass();
SELECT results_eq('SELECT kind, missing + extra + different FROM passes', $$VALUES ('full', 0::bigint)$$, 'and clean');

-- An older transaction that writes later; one that is under way while a comparison is made

CALL next_pass();
SELECT is((SELECT kind FROM passes), 'incremental', 'incremental again');
SELECT dualwrite.configure('m', 'reconcile_full_interval', '0');
CALL next_pass();
SELECT is((SELECT kind FROM passes), 'full', 'by setting');
SELECT dualwrite.configure('m', 'reconcile_full_interval', NULL);

-- A file that is written anew says nothing of what has changed; nor does a comparison of before a change of phase

CALL next_pass();
VACUUM FULL n;
CALL next_pass();
SELECT is((SELECT kind FROM passes), 'full', 'a table that was written anew');
CALL next_pass();
SELECT is((SELECT kind FROM passes), 'incremental', 'and from then on');
UPDATE o SET b = b + 1;
CALL next_pass();
SELECT results_eq('TABLE passes', $$VALUES ('full', 19999::bigint, 0::bigint, 0::bigint, 0::bigint)$$, 'more has changed than would be worth it');
SELECT dualwrite.alter_mapping('m', 'o', 'n', forward => '{"a": "upper(a)"}', reverse => '{"a": "lower(a)"}');
CALL await('(SELECT filled FROM _dualwrite.migration)');
CALL next_pass();
SELECT is((SELECT kind FROM passes), 'full', 'another mapping');

-- Expressions that read other tables

CREATE TABLE lookup (id int PRIMARY KEY, t text);
INSERT INTO lookup SELECT g, 't' || g FROM generate_series(0, 9) AS g;
SELECT dualwrite.alter_mapping('m', 'o', 'n', forward => '{"a": "(SELECT t FROM lookup WHERE lookup.id = o.b % 10)"}', reverse => '{"a": null}');
CALL await('(SELECT filled FROM _dualwrite.migration)');
CALL next_pass();
CALL next_pass();
SELECT is((SELECT kind FROM passes), 'full', 'rows that depend on other tables are compared, all of them');

-- History goes by the setting

SELECT cmp_ok((SELECT count(*) FROM dualwrite.drift_history), '>', 10::bigint, 'every comparison is kept');
SELECT dualwrite.configure('m', 'reconcile_retention', '1 ms');
CALL next_pass();
SELECT cmp_ok((SELECT count(*) FROM dualwrite.drift_history), '<', 4::bigint, 'for as long as is wanted, the last ones in any case');

SELECT * FROM finish();
