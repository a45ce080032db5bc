-- Keys as long as an index of their table takes: longer as jsonb than an index of ours would.  They are queued, delivered,
-- found to differ, listed once, ignored and repaired like any other.
SELECT no_plan();
SET client_min_messages = warning;

-- bytes that cannot be compressed
CREATE FUNCTION noise(seed int, bytes int) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT substr(string_agg(sha512(format('%s %s', seed, g)::bytea), ''::bytea ORDER BY g), 1, bytes) FROM generate_series(0, bytes / 64) AS g
$$;
CREATE FUNCTION long_key(seed int) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT translate(encode(noise(seed, 1000), 'base64'), E'\n', '')$$;

-- bytea and text in one key, with a prefix that is the same for all: 2650 bytes are near what an index takes
CREATE TABLE o (b bytea, t text, v text, PRIMARY KEY (b, t));
CREATE TABLE n (t text, b bytea, v text CHECK (v <> 'bad'), PRIMARY KEY (t, b));
INSERT INTO o SELECT noise(0, 1200) || noise(g, 100), long_key(0) || g, 'v' || g FROM generate_series(1, 300) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n', key_columns => '{b,t}', delivery => 'queued');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
SELECT dualwrite.configure('m', 'queue_backoff', '1000 s');
SELECT dualwrite.advance('m');
SELECT cmp_ok((SELECT min(length(key::text)) FROM dualwrite.preview('m', 5)), '>', 3900, 'as jsonb a key is much longer than in its table');

-- queued, coalesced, delivered
UPDATE o SET v = 'bad' WHERE v IN ('v1', 'v2');
CALL await($$(SELECT count(*) = 2 AND bool_and(attempts = 1) FROM dualwrite.queue)$$);
UPDATE o SET v = 'bad' WHERE v = 'bad';
UPDATE o SET v = 'good' WHERE t = long_key(0) || 1;
CALL await($$(SELECT count(*) = 1 AND bool_and(attempts >= 2) FROM dualwrite.queue)$$);
SELECT is((SELECT v FROM n WHERE t = long_key(0) || 1), 'good', 'a long key is delivered');
SELECT is((SELECT key->>'t' FROM dualwrite.queue), long_key(0) || 2, 'the bad one is one entry');
UPDATE o SET v = 'good' WHERE v = 'bad';
SELECT is(dualwrite.retry('m', (SELECT DISTINCT key FROM dualwrite.queue)), 0::bigint, 'retry by key');
CALL await($$NOT EXISTS (SELECT FROM dualwrite.queue)$$);
CALL dualwrite.run('m', timeout => '10 min');
SELECT results_eq('SELECT b, t, v FROM o ORDER BY t', 'SELECT b, t, v FROM n ORDER BY t', 'all are there');

-- drift
CREATE VIEW found AS SELECT kind, count(*), count(DISTINCT key) AS keys FROM dualwrite.drift WHERE state = 'open' GROUP BY 1 ORDER BY 1;
CALL bypass('{o, n}', $$DELETE FROM n WHERE v LIKE 'v1%'$$, $$DELETE FROM o WHERE v LIKE 'v2%'$$, $$UPDATE n SET v = 'other' WHERE v LIKE 'v3%'$$);
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('m')$$, $$VALUES (110::bigint, 110::bigint, 12::bigint)$$, 'what differs is found');
SELECT results_eq('TABLE found', $$VALUES ('different', 12::bigint, 12::bigint), ('extra', 110, 110), ('missing', 110, 110)$$, 'and listed by key');
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('m')$$, $$VALUES (110::bigint, 110::bigint, 12::bigint)$$, 'seen again');
SELECT results_eq('TABLE found', $$VALUES ('different', 12::bigint, 12::bigint), ('extra', 110, 110), ('missing', 110, 110)$$, 'each is listed once');
SELECT dualwrite.ignore_drift('m', (SELECT key FROM dualwrite.drift WHERE old_values->>'v' = 'v300'), 'as it should be');
SELECT is((SELECT different FROM dualwrite.reconcile('m')), 11::bigint, 'one is ignored');
SELECT is(dualwrite.repair('m', (SELECT key FROM dualwrite.drift WHERE old_values->>'v' = 'v3')), 1::bigint, 'one is repaired');
CALL bypass('{o, n}', $$INSERT INTO n SELECT t, b, v FROM o WHERE v = 'v10'$$);
SELECT is(dualwrite.repair('m'), 229::bigint, 'all the others');
SELECT is((SELECT state FROM dualwrite.drift WHERE old_values->>'v' = 'v10'), 'gone', 'one agreed by itself');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'both sides agree');

-- many in a row, in the background, which remembers keys as well
SELECT dualwrite.configure('m', 'drift_max_keys', '20');
SELECT dualwrite.configure('m', 'reconcile_chunk_ms', '1');
SELECT dualwrite.configure('m', 'reconcile_repair', 'on');
CALL bypass('{o, n}', $$DELETE FROM n WHERE v LIKE 'v%'$$, $$INSERT INTO n SELECT long_key(g), noise(g, 1300), 'extra' FROM generate_series(1, 50) AS g$$);
SELECT dualwrite.reconcile('m', background => true);
CALL await($$NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)$$);
SELECT results_eq($$SELECT repaired, missing, extra FROM dualwrite.drift_history ORDER BY finished_at DESC LIMIT 1$$,
	$$VALUES (237::bigint, 187::bigint, 50::bigint)$$, 'the background finds and repairs them');
SELECT results_eq('SELECT b, t FROM o ORDER BY t', 'SELECT b, t FROM n ORDER BY t', 'all are there again');

-- what the list goes by
SELECT is(_dualwrite.key_digest('{"a": 1.50, "b": "x"}'), _dualwrite.key_digest('{"b": "x", "a": 1.5}'), 'keys that are equal have one digest');
SELECT is((SELECT count(DISTINCT _dualwrite.key_digest(k)) FROM unnest('{"{\"a\": 1}", "{\"a\": \"1\"}", "{\"a\": \"\", \"b\": \"1\"}",
	"{\"a\": \"1\", \"b\": \"\"}", "{\"b\": 1}", "{\"a\": true}", "{\"a\": false}", "{\"a\": null}", "{\"a\": [1]}", "{\"a\": {\"a\": 1}}"}'::jsonb[]) AS k),
	10::bigint, 'those that are not have several');
SELECT is((SELECT count(DISTINCT _dualwrite.key_digest(jsonb_build_object('id', g))) FROM generate_series(1, 100000) AS g), 100000::bigint, 'each its own');

SELECT * FROM finish();
