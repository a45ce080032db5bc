-- More drift than anybody looks at: behind drift_max_keys only keys are kept, many in a row, and every one of them is still
-- listed, counted, ignored and repaired.
SELECT no_plan();
SET client_min_messages = warning;

CREATE TABLE o (id int PRIMARY KEY, v text);
CREATE TABLE n (id bigint PRIMARY KEY, v text CHECK (v <> 'bad'));
INSERT INTO o SELECT g, 'v' || g FROM generate_series(1, 5000) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
SELECT dualwrite.configure('m', 'drift_max_keys', '100');
CALL dualwrite.run('m', timeout => '10 min');
CREATE VIEW expected AS
	SELECT coalesce(n.id, o.id) AS id, CASE WHEN n.id IS NULL THEN 'missing' WHEN o.id IS NULL THEN 'extra' ELSE 'different' END AS kind
	FROM o FULL JOIN n ON n.id = o.id WHERE o.id IS NULL OR n.id IS NULL OR o.v IS DISTINCT FROM n.v;
CREATE VIEW listed AS SELECT (key->>'id')::bigint AS id, kind FROM dualwrite.drift WHERE state = 'open';
CREATE PROCEDURE break_it() LANGUAGE plpgsql AS $$
BEGIN
	CALL bypass('{o, n}', 'DELETE FROM n WHERE id BETWEEN 1001 AND 4000', 'UPDATE n SET v = v || ''?'' WHERE id > 4500',
		'INSERT INTO n SELECT g, ''extra'' || g FROM generate_series(10001, 11200) AS g', 'UPDATE o SET v = ''bad'' WHERE id = 2222');
END $$;

CALL break_it();
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('m')$$, $$VALUES (3000::bigint, 1200::bigint, 500::bigint)$$, 'all of it is found');
SELECT set_eq('TABLE listed', 'TABLE expected', 'and listed by key');
SELECT bag_eq('TABLE listed', 'TABLE expected', 'each key once');
SELECT results_eq($$SELECT count(*) FROM _dualwrite.drift WHERE state = 'open'$$, 'VALUES (100::bigint)', 'the first of them with values');
SELECT cmp_ok((SELECT count(*) FROM _dualwrite.drift_bundle), '<', 20::bigint, 'the rest in few rows');
SELECT is((SELECT open_drift FROM dualwrite.status), 4700::bigint, 'status counts them');
SELECT results_eq('SELECT missing, extra, different FROM dualwrite.drift_summary', $$VALUES (3000::bigint, 1200::bigint, 500::bigint)$$, 'so does the summary');
SELECT is((SELECT detail FROM dualwrite.gates('m') WHERE gate = 'drift'), '4700 open, 0 allowed', 'and the gate');

-- seen again, by the background as well
CALL bypass('{o, n}', 'DELETE FROM n WHERE id BETWEEN 10001 AND 10100', 'INSERT INTO n SELECT id, v FROM o WHERE id BETWEEN 3001 AND 3100');
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('m')$$, $$VALUES (2900::bigint, 1100::bigint, 500::bigint)$$, 'compared again');
SELECT bag_eq('TABLE listed', 'TABLE expected', 'what agrees by now has left');
SELECT dualwrite.reconcile('m', background => true);
CALL await('NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)');
SELECT bag_eq('TABLE listed', 'TABLE expected', 'the background lists the same');

-- one key
SELECT is(dualwrite.repair('m', '{"id": 3900}'), 1::bigint, 'repair one of them');
SELECT bag_eq('TABLE listed', 'TABLE expected', 'it has left');
SELECT dualwrite.ignore_drift('m', '{"id": 4900}', 'as it should be');
SELECT is((SELECT state FROM dualwrite.drift WHERE key = '{"id": 4900}'), 'ignored', 'ignore one of them');
SELECT is((SELECT different FROM dualwrite.reconcile('m')), 499::bigint, 'it no longer counts');

-- all keys
SET client_min_messages = error;
SELECT is(dualwrite.repair('m', dry_run => true), 4498::bigint, 'a dry run counts them');
SELECT is((SELECT open_drift FROM dualwrite.status), 4498::bigint, 'and changes nothing');
SELECT is(dualwrite.repair('m'), 4497::bigint, 'repair all');
RESET client_min_messages;
SELECT results_eq($$SELECT key, kind, old_values->>'v' FROM dualwrite.drift WHERE state = 'open'$$, $$VALUES ('{"id": 2222}'::jsonb, 'missing', 'bad')$$,
	'the one that could not be is listed with its values');
SELECT is((SELECT open_drift FROM dualwrite.status), 1::bigint, 'alone');
SELECT is((SELECT count(*) FROM dualwrite.drift WHERE state = 'repaired' AND kind = 'extra' AND new_values->>'v' LIKE 'extra%'), 1100::bigint,
	'what was taken away is kept');
SELECT is((SELECT count(*) FROM dualwrite.drift WHERE state = 'repaired' AND kind = 'different' AND new_values->>'v' LIKE '%?'), 499::bigint,
	'what was overwritten, too');
UPDATE o SET v = 'good' WHERE id = 2222;
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'both sides agree');

-- the background repairs bundle by bundle
CALL break_it();
SELECT dualwrite.configure('m', 'reconcile_repair', 'on');
SELECT dualwrite.reconcile('m', background => true);
CALL await('NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)');
SELECT results_eq('SELECT id FROM listed', 'VALUES (2222::bigint)', 'the background repairs what can be');
SELECT is((SELECT repaired FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1), 4699::bigint, 'and counts it');
SELECT is_empty('SELECT * FROM _dualwrite.drift_bundle', 'nothing is bundled any more');

-- many transactions, none of them large: each notes which one it is
SELECT dualwrite.configure('m', 'reconcile_repair', 'off');
UPDATE o SET v = 'good' WHERE id = 2222;
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'both sides agree again');
CALL break_it();
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 4700::bigint, 'once more');
SELECT ok(dualwrite.repair('m', max_keys => 30) = 30, 'so many keys and no more');
SELECT dualwrite.repair('m', max_keys => 100) AS repaired \gset
SELECT ok(:repaired BETWEEN 100 AND 570, 'those of a bundle together');
SELECT throws_ok($$SELECT dualwrite.repair('m', max_keys => 0)$$, '22023', NULL, 'none at all makes no sense');
CREATE TABLE writes (xid xid8);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.writes VALUES (pg_current_xact_id()); RETURN coalesce(NEW, OLD); END$$;
CREATE TRIGGER note BEFORE INSERT OR UPDATE OR DELETE ON n FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE n ENABLE ALWAYS TRIGGER note;
\set ON_ERROR_STOP off
BEGIN;
CALL dualwrite.repair_all('m');
\set in_block :SQLSTATE
ROLLBACK;
CALL dualwrite.repair_all('nobody');
\set unknown :SQLSTATE
CALL dualwrite.repair_all('m', 'o');
\set not_new :SQLSTATE
CALL dualwrite.repair_all('m', max_keys_per_second => 0);
\set no_keys :SQLSTATE
\set ON_ERROR_STOP on
SELECT results_eq(format('VALUES (%L, %L, %L, %L)', :'in_block'::text, :'unknown'::text, :'not_new'::text, :'no_keys'::text),
	$$VALUES ('25001', '42704', '22023', '22023')$$, 'repair_all: what is refused');
SET client_min_messages = error;
CALL dualwrite.repair_all('m');
RESET client_min_messages;
DROP TRIGGER note ON n;
SELECT results_eq('SELECT id FROM listed', 'VALUES (2222::bigint)', 'repair_all repairs what can be');
SELECT cmp_ok((SELECT count(DISTINCT xid) FROM writes), '>', 7::bigint, 'in many transactions');
-- a bundle of which one key fails is done by halves, so that some keys are written, undone and written again
SELECT cmp_ok((SELECT max(keys) FROM (SELECT count(*) AS keys FROM writes GROUP BY xid) AS x), '<=', 500::bigint, 'each of few keys');
SELECT ok((SELECT (detail->>'keys')::int > 4000 FROM dualwrite.events WHERE event = 'repair' ORDER BY occurred_at DESC LIMIT 1), 'which the audit tells');
UPDATE o SET v = 'good' WHERE id = 2222;
CALL bypass('{o, n}', 'DELETE FROM n WHERE id BETWEEN 1 AND 60');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 60::bigint, 'some more');
CALL dualwrite.repair_all('m', 'n', 1000);
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'repaired slowly');

-- what is closed goes in time
CALL bypass('{o, n}', 'DELETE FROM n WHERE id = 70');
SELECT is((SELECT missing FROM dualwrite.reconcile('m')), 1::bigint, 'one that is open');
SELECT cmp_ok((SELECT count(*) FROM dualwrite.drift), '>', 4000::bigint, 'a list of what was');
SELECT dualwrite.configure('m', 'drift_retention', '1 ms');
CALL await($$(SELECT count(*) = 1 FROM dualwrite.drift)$$);
SELECT is((SELECT key FROM dualwrite.drift), '{"id": 70}', 'after drift_retention only what is open is left');

SELECT * FROM finish();
