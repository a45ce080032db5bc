-- Shadow reads: what is returned, what is compared, what is kept, and that the other side can do the caller no harm.
SELECT no_plan();
SET client_min_messages = warning;

DO $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY ARRAY['dw_shop', 'dw_stranger', 'dw_viewer']
	LOOP
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
			EXECUTE format('CREATE ROLE %I', name);
		END IF;
	END LOOP;
END
$$;
GRANT dualwrite_monitor TO dw_viewer;

CREATE TABLE o (id int PRIMARY KEY, email text, cents int);
CREATE TABLE n (id int PRIMARY KEY, email text, amount numeric(12,2));
INSERT INTO o SELECT g, 'user' || g, g * 100 FROM generate_series(1, 100) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n', '{"amount": "cents / 100.0"}', '{"cents": "(amount * 100)::int"}');
-- a slow machine is neither out of time nor worth an entry
SELECT dualwrite.configure('m', 'shadow_read_max_ms', '600000');
SELECT dualwrite.configure('m', 'shadow_read_slow_factor', '0');

CREATE FUNCTION counts() RETURNS text LANGUAGE sql
	AS $$ SELECT format('%s agreed, %s mismatched, %s errors, %s skipped', agreed, mismatched, errors, skipped) FROM dualwrite.shadow_reads WHERE migration = 'm' $$;
-- One read by key, with the new side's query to be chosen.
CREATE FUNCTION one(key int, new_query text DEFAULT 'SELECT email FROM n WHERE id = $1', compare text DEFAULT NULL) RETURNS text LANGUAGE sql
	AS $$ SELECT string_agg(email, ',') FROM dualwrite.shadow_read('m', 'SELECT email FROM o WHERE id = $1', new_query, ARRAY[key::text], compare) AS t (email text) $$;

-- before verify: the old side's rows, and no comparison
SELECT is(one(7), 'user7', 'defined: old''s row');
SELECT is(one(7, 'SELECT broken'), 'user7', 'the other side is not looked at');
SELECT is(counts(), '0 agreed, 0 mismatched, 0 errors, 0 skipped', 'nothing is counted');
CALL dualwrite.run('m', timeout => '10 min');
SELECT is((SELECT phase FROM dualwrite.status WHERE migration = 'm'), 'verify', 'verify');

-- agreement
SELECT is(one(7), 'user7', 'verify: old''s row');
SELECT is(counts(), '1 agreed, 0 mismatched, 0 errors, 0 skipped', 'agreement is counted');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'TABLE o ORDER BY id', 'SELECT id, email, (amount * 100)::int FROM n ORDER BY id DESC')
	AS t (id int, email text, cents int)), 100::bigint, 'many rows');
SELECT is(counts(), '2 agreed, 0 mismatched, 0 errors, 0 skipped', 'as a set, by default');
SELECT ok(old_ms > 0 AND new_ms > 0 AND old_buffers > 0 AND new_buffers > 0 AND agreement = 1 AND runs = 2 AND since IS NOT NULL, 'time and buffers of both')
	FROM dualwrite.shadow_reads WHERE migration = 'm';
SELECT is_empty('SELECT * FROM dualwrite.shadow_read_mismatches', 'nothing is kept of it');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT 1 WHERE false', 'SELECT 1 WHERE false') AS t (i int)), 0::bigint, 'no rows at all');
SELECT is((SELECT count(i) FROM dualwrite.shadow_read('m', 'VALUES (NULL::int), (1)', 'VALUES (1), (NULL::int)') AS t (i int)), 1::bigint, 'nulls');
SELECT is(counts(), '4 agreed, 0 mismatched, 0 errors, 0 skipped', 'agree as well');
SELECT results_eq($$SELECT d, nothing IS NULL, i FROM dualwrite.shadow_read('m', 'SELECT $2::date + $1::int, $3, $1::int', 'SELECT $1::int + $2::date, $3::text, $1::int',
	ARRAY['3', '2024-02-27', NULL, 'not used']) AS t (d date, nothing text, i int)$$, $$VALUES (date '2024-03-01', true, 3)$$, 'arguments have the types that the query gives them');
SELECT is(counts(), '5 agreed, 0 mismatched, 0 errors, 0 skipped', 'on both sides');
SELECT results_eq($$SELECT k, t.email FROM generate_series(1, 3) AS k, LATERAL dualwrite.shadow_read('m', 'SELECT email FROM o WHERE id = $1', 'SELECT email FROM n WHERE id = $1', ARRAY[k::text])
	AS t (email text)$$, $$VALUES (1, 'user1'), (2, 'user2'), (3, 'user3')$$, 'called for each row');
SELECT is(counts(), '8 agreed, 0 mismatched, 0 errors, 0 skipped', 'and compared each time');

-- own writes of the transaction are on both sides
BEGIN;
UPDATE o SET email = 'changed' WHERE id = 7;
SELECT is(one(7), 'changed', 'in one snapshot, own writes included');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is(one(7), 'user7', 'repeatable read');
COMMIT;
SELECT is(counts(), '10 agreed, 0 mismatched, 0 errors, 0 skipped', 'agreed');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT is(one(7, 'SELECT broken'), 'user7', 'serializable: the other side''s reads could make it fail');
COMMIT;
SELECT is(counts(), '10 agreed, 0 mismatched, 0 errors, 0 skipped', 'so they are not made');

-- mismatches, with both answers
SELECT dualwrite.reset_shadow_reads('m');
SELECT is(counts(), '0 agreed, 0 mismatched, 0 errors, 0 skipped', 'counted anew');
SELECT is(one(7, 'SELECT upper(email) FROM n WHERE id = $1'), 'user7', 'the truth is returned');
SELECT is(counts(), '0 agreed, 1 mismatched, 0 errors, 0 skipped', 'a mismatch is counted');
SELECT results_eq($$SELECT kind, compare, old_query, new_query, args, old_rows, new_rows, old_answer::text, new_answer::text, sqlstate, message, actor FROM dualwrite.shadow_read_mismatches$$,
	$$VALUES ('different', 'set', 'SELECT email FROM o WHERE id = $1', 'SELECT upper(email) FROM n WHERE id = $1', '{7}'::text[], 1::bigint, 1::bigint,
		'[{"email":"user7"}]', '[{"email":"USER7"}]', NULL::text, NULL::text, current_user)$$, 'and both answers are kept');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT id FROM o', 'SELECT CASE id WHEN 5 THEN 6 WHEN 9 THEN NULL ELSE id END FROM n UNION ALL SELECT 11') AS t (id int)), 100::bigint, 'a set of many');
SELECT results_eq($$SELECT old_rows, new_rows, old_answer::text, new_answer::text FROM dualwrite.shadow_read_mismatches OFFSET 1$$,
	$$VALUES (100::bigint, 101::bigint, '[{"id":5}, {"id":9}]', '[{"id":6}, {"id":null}, {"id":11}]')$$, 'of it, the rows without a counterpart');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'VALUES (1), (1), (2)', 'VALUES (1), (2), (2)') AS t (i int)), 3::bigint, 'as often on one side as on the other');
SELECT is(counts(), '0 agreed, 3 mismatched, 0 errors, 0 skipped', 'is part of agreeing');

-- ways to compare
SELECT dualwrite.reset_shadow_reads('m');
SELECT is((SELECT string_agg(i::text, ',') FROM dualwrite.shadow_read('m', 'VALUES (1), (2), (3)', 'VALUES (1), (3), (2)', compare => 'ordered') AS t (i int)), '1,2,3', 'ordered');
SELECT results_eq($$SELECT compare, old_answer::text, new_answer::text FROM dualwrite.shadow_read_mismatches$$, $$VALUES ('ordered', '[{"i":2}, {"i":3}]', '[{"i":3}, {"i":2}]')$$,
	'the order counts then');
SELECT dualwrite.configure('m', 'shadow_read_compare', 'ordered');
SELECT is((SELECT string_agg(i::text, ',') FROM dualwrite.shadow_read('m', 'VALUES (1), (2)', 'VALUES (1), (2)') AS t (i int)), '1,2', 'by setting');
SELECT is((SELECT string_agg(i::text, ',') FROM dualwrite.shadow_read('m', 'VALUES (1), (2)', 'VALUES (2), (1)') AS t (i int)), '1,2', 'by setting');
SELECT is(counts(), '1 agreed, 2 mismatched, 0 errors, 0 skipped', 'it is compared in order');
SELECT dualwrite.configure('m', 'shadow_read_compare', NULL);
SELECT is((SELECT sum(i) FROM dualwrite.shadow_read('m', 'SELECT NULL::int', 'SELECT 1 WHERE false', compare => 'scalar') AS t (i int)), NULL, 'no value');
SELECT is((SELECT sum(i) FROM dualwrite.shadow_read('m', 'SELECT count(*) FROM o', 'SELECT count(*) FROM n', compare => 'scalar') AS t (i bigint)), 100::numeric, 'one value');
SELECT is(counts(), '3 agreed, 2 mismatched, 0 errors, 0 skipped', 'scalars agree');
SELECT is((SELECT sum(i) FROM dualwrite.shadow_read('m', 'SELECT 1', 'SELECT 2', compare => 'scalar') AS t (i int)), 1::bigint, 'another value');
SELECT is((SELECT sum(i) FROM dualwrite.shadow_read('m', 'SELECT 1', 'VALUES (1), (1)', compare => 'scalar') AS t (i int)), 1::bigint, 'more than a value');
SELECT is((SELECT sum(i) FROM dualwrite.shadow_read('m', 'SELECT 1', 'SELECT NULL::int', compare => 'scalar') AS t (i int)), 1::bigint, 'none');
SELECT is(counts(), '3 agreed, 5 mismatched, 0 errors, 0 skipped', 'do not');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT 1', 'SELECT 1', compare => 'loosely') AS t (i int)$$, '22023', '"loosely" is no way to compare answers');

-- what is allowed to differ: columns left out, columns in another form
SELECT dualwrite.reset_shadow_reads('m');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT id, email FROM o', 'SELECT id, upper(email) FROM n', ignore => '{email}')
	AS t (id int, email text)), 100::bigint, 'a column that is not compared');
SELECT is(counts(), '1 agreed, 0 mismatched, 0 errors, 0 skipped', 'may differ');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT id, email FROM o', 'SELECT id + 1, email FROM n', ignore => '{email}')
	AS t (id int, email text)), 100::bigint, 'the others');
SELECT is(counts(), '1 agreed, 1 mismatched, 0 errors, 0 skipped', 'may not');
SELECT is((SELECT string_agg(email, ',') FROM dualwrite.shadow_read('m', 'SELECT id, email FROM o WHERE id < 3', 'SELECT id, upper(email) FROM n WHERE id < 3',
	normalise => '{"email": "lower(email)"}') AS t (id int, email text)), 'user1,user2', 'a column compared in another form is returned as it is');
SELECT is(counts(), '2 agreed, 1 mismatched, 0 errors, 0 skipped', 'and agrees in that form');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT id, cents FROM o', 'SELECT id, (amount * 100)::int + id % 2 FROM n',
	normalise => '{"cents": "cents - id % 2 * (SELECT count(*) FROM pg_catalog.pg_class WHERE oid = 1259 AND cents % 100 = 1)"}') AS t (id int, cents int)), 100::bigint, 'by any SQL over the columns');
SELECT is(counts(), '3 agreed, 1 mismatched, 0 errors, 0 skipped', 'it agrees');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT id FROM o', 'SELECT id FROM n', normalise => '{"id": "1 / (id - 7)"}') AS t (id int)), 100::bigint,
	'an expression that fails');
SELECT is(counts(), '3 agreed, 1 mismatched, 1 errors, 0 skipped', 'fails nobody');
SELECT dualwrite.configure('m', 'shadow_read_ignore', 'updated_at, email');
SELECT is(one(7, 'SELECT ''other'''), 'user7', 'columns that a setting leaves out');
SELECT is(counts(), '4 agreed, 1 mismatched, 1 errors, 0 skipped', 'are not compared');
SELECT dualwrite.configure('m', 'shadow_read_ignore', NULL);
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT 1', 'SELECT 1', ignore => '{j}') AS t (i int)$$, '22023', 'the shadow read has no column "j"');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT 1', 'SELECT 1', normalise => '{"j": "i"}') AS t (i int)$$, '22023', 'the shadow read has no column "j"');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT 1', 'SELECT 1', normalise => '{"i": 1}') AS t (i int)$$, '22023');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT 1', 'SELECT 1', normalise => '["i"]') AS t (i int)$$, '22023', 'normalise must be an object');

-- agreement that takes much longer is kept, with both plans
SELECT dualwrite.reset_shadow_reads('m');
SELECT dualwrite.configure('m', 'shadow_read_slow_factor', NULL);
SELECT is(one(7, 'SELECT email FROM n, pg_sleep(1) WHERE id = $1'), 'user7', 'a slow side');
SELECT is(counts(), '1 agreed, 0 mismatched, 0 errors, 0 skipped', 'agrees');
SELECT results_eq($$SELECT kind, new_ms > old_ms, old_buffers > 0, old_plan ~ 'on o ', new_plan ~ 'on n ' FROM dualwrite.shadow_read_mismatches$$,
	$$VALUES ('slower', true, true, true, true)$$, 'and is shown with its plan');
SELECT dualwrite.configure('m', 'shadow_read_slow_factor', '0');
SELECT is(one(7, 'SELECT email FROM n, pg_sleep(0.05) WHERE id = $1'), 'user7', 'unless nobody asks');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read_mismatches), 1::bigint, 'nothing more is kept');

-- errors of the other side are absorbed, and kept
SELECT dualwrite.reset_shadow_reads('m');
SELECT is(one(7, 'SELECT nonsense FROM n'), 'user7', 'a query that does not parse');
SELECT is(one(7, 'SELECT (1 / (id - id))::text FROM n'), 'user7', 'one that fails');
SELECT is(one(7, 'SELECT id FROM n WHERE id = $1'), 'user7', 'another type');
SELECT is(one(7, 'SELECT email, id FROM n WHERE id = $1'), 'user7', 'another number of columns');
SELECT is(one(7, 'DELETE FROM n RETURNING email'), 'user7', 'a query that writes');
SELECT is(one(7, 'WITH d AS (DELETE FROM n RETURNING email) SELECT email FROM d'), 'user7', 'a query that writes in a CTE');
SELECT is(one(7, 'SELECT email FROM n WHERE id = $1 FOR UPDATE'), 'user7', 'one that locks');
CREATE FUNCTION write() RETURNS text LANGUAGE sql VOLATILE AS $$ DELETE FROM n; SELECT 'user7'; $$;
SELECT is(one(7, 'SELECT write()'), 'user7', 'a function that writes');
SELECT is(one(7, 'SELECT 1; SELECT 2'), 'user7', 'two statements');
SELECT is(one(7, 'SELECT email FROM n WHERE id = $2'), 'user7', 'an argument that is not there');
SELECT is(one(7, $$SELECT email FROM n WHERE id = $1 AND email = ALL ($1::text::int[])$$), 'user7', 'an operator that is not there');
SELECT is(counts(), '0 agreed, 0 mismatched, 11 errors, 0 skipped', 'all counted');
SELECT is((SELECT array_agg(sqlstate) FROM dualwrite.shadow_read_mismatches WHERE kind = 'error'), '{42703,22012,42804,42804,25006,25006,25006,25006,42601,42P02,42883}'::text[], 'and kept');
SELECT results_eq($$SELECT old_rows, new_rows, old_answer IS NULL, message FROM dualwrite.shadow_read_mismatches WHERE sqlstate = '22012'$$,
	$$VALUES (1::bigint, NULL::bigint, true, 'division by zero')$$, 'with their message');
SELECT is((SELECT count(*) FROM n), 100::bigint, 'nothing was written');
SELECT is(current_setting('transaction_read_only'), 'off', 'and the session may write as before');
BEGIN;
INSERT INTO o VALUES (200, 'two hundred', 1);
SELECT is(one(200, 'SELECT nonsense FROM n'), 'two hundred', 'within a transaction');
UPDATE o SET cents = 2 WHERE id = 200;
COMMIT;
SELECT is((SELECT amount FROM n WHERE id = 200), 0.02, 'which goes on');

-- errors of the truth are the caller's
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT 1 / 0', 'SELECT 1') AS t (i int)$$, '22012', 'division by zero');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT 1::bigint', 'SELECT 1') AS t (i int)$$, '42804',
	'old_query of the shadow read does not return the columns that its caller lists');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'DELETE FROM o RETURNING id', 'SELECT 1') AS t (i int)$$, '25006',
	'old_query of a shadow read must be a SELECT that only reads');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('nobody', 'SELECT 1', 'SELECT 1') AS t (i int)$$, '42704', 'migration "nobody" does not exist');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read(NULL, 'SELECT 1', 'SELECT 1') AS t (i int)$$, '22004', 'argument "migration" must not be null');
SELECT throws_ok($$SELECT dualwrite.shadow_read('m', 'SELECT 1', 'SELECT 1')$$, '42601', 'shadow_read was called without a list of columns');
SELECT is(counts(), '0 agreed, 0 mismatched, 12 errors, 0 skipped', 'and not counted');

-- the budget: time, rows, locks
SELECT dualwrite.reset_shadow_reads('m');
SELECT dualwrite.configure('m', 'shadow_read_max_ms', '50');
SELECT is(one(7, 'SELECT pg_sleep(600)::text'), 'user7', 'a query that sleeps');
SELECT is(one(7, 'SELECT count(*)::text FROM generate_series(1, 1000000) a, generate_series(1, 100000) b'), 'user7', 'one that computes');
CREATE FUNCTION stubborn() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN 'user7'; EXCEPTION WHEN query_canceled THEN RETURN 'user7'; END $$;
SELECT is(one(7, 'SELECT stubborn()'), 'user7', 'one that catches the cancel');
SELECT is(counts(), '0 agreed, 0 mismatched, 0 errors, 3 skipped', 'over their time: skipped');
SELECT is((SELECT agreement FROM dualwrite.shadow_reads), NULL, 'which is no disagreement');
SELECT lives_ok($$SELECT pg_sleep(0.2)$$, 'the clock does not run on');
SET statement_timeout = '300 ms';
\set ON_ERROR_STOP off
SELECT * FROM dualwrite.shadow_read('m', 'SELECT pg_sleep(600)::text', 'SELECT $2::text') AS t (t text);
\set ON_ERROR_STOP on
RESET statement_timeout;
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '57014', 'statement_timeout holds for the side of the truth');
SELECT dualwrite.configure('m', 'shadow_read_max_ms', '600000');
SET statement_timeout = '300 ms';
\set ON_ERROR_STOP off
SELECT * FROM dualwrite.shadow_read('m', 'SELECT ''now''', 'SELECT pg_sleep(600)::text') AS t (t text);
\set ON_ERROR_STOP on
RESET statement_timeout;
SELECT is(:'LAST_ERROR_MESSAGE'::text, 'canceling statement due to statement timeout', 'and for the other: who cancels the statement means the whole of it');
SELECT dualwrite.configure('m', 'shadow_read_max_rows', '100');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT generate_series(1, 100)', 'SELECT generate_series(1, 100)') AS t (i int)), 100::bigint, 'as many rows as allowed');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT generate_series(1, 101)', 'SELECT generate_series(1, 100000000)') AS t (i int)), 101::bigint, 'too many rows');
SELECT is((SELECT count(*) FROM dualwrite.shadow_read('m', 'SELECT generate_series(1, 1000)', 'SELECT generate_series(1, 100)') AS t (i int)), 1000::bigint, 'too many on the side of the truth only');
SELECT is(counts(), '1 agreed, 1 mismatched, 0 errors, 4 skipped', 'compared, skipped, a mismatch');
SELECT dualwrite.configure('m', 'shadow_read_max_rows', NULL);

-- sampling
SELECT dualwrite.reset_shadow_reads('m');
SELECT dualwrite.configure('m', 'shadow_read_percent', '0');
SELECT is(one(7, 'SELECT broken'), 'user7', '0 %: the old side only');
SELECT is(counts(), '0 agreed, 0 mismatched, 0 errors, 0 skipped', 'of no call');
SELECT dualwrite.configure('m', 'shadow_read_percent', '50');
SELECT is((SELECT count(one(g % 100 + 1)) FROM generate_series(1, 400) g), 400::bigint, '50 %: every call returns rows');
SELECT ok(runs BETWEEN 120 AND 280 AND agreed = runs, 'about half are compared') FROM dualwrite.shadow_reads;
SELECT dualwrite.configure('m', 'shadow_read_percent', NULL);

-- transactions that only read: compared and counted, but nothing is written
SELECT dualwrite.reset_shadow_reads('m');
BEGIN READ ONLY;
SELECT is(one(7), 'user7', 'read only: agreement');
SELECT is(one(7, 'SELECT ''other'''), 'user7', 'read only: mismatch');
SELECT is(one(7, 'SELECT broken'), 'user7', 'read only: error');
COMMIT;
SELECT is(counts(), '1 agreed, 1 mismatched, 1 errors, 0 skipped', 'read only: counted');
SELECT is_empty('SELECT * FROM dualwrite.shadow_read_mismatches', 'read only: not kept');
BEGIN;
SELECT one(7) AS email \gset
SELECT pg_current_xact_id_if_assigned() IS NULL AS none \gset
ROLLBACK;
SELECT ok(:'none'::boolean, 'agreement takes no transaction id');
SELECT is(counts(), '2 agreed, 1 mismatched, 1 errors, 0 skipped', 'and counts whatever becomes of the transaction');

-- the ring
SELECT dualwrite.configure('m', 'shadow_read_keep', '5');
SELECT count(one(g, 'SELECT ''other''')) FROM generate_series(1, 12) g;
SELECT is((SELECT string_agg(args[1], ',') FROM dualwrite.shadow_read_mismatches), '8,9,10,11,12', 'the last ones are kept');
SELECT dualwrite.configure('m', 'shadow_read_keep', '0');
SELECT is_empty('SELECT * FROM dualwrite.shadow_read_mismatches', 'or none');
SELECT dualwrite.configure('m', 'shadow_read_keep', NULL);
SELECT dualwrite.configure('m', 'drift_values', 'off');
SELECT is(one(7, 'SELECT ''other'''), 'user7', 'without values');
SELECT results_eq($$SELECT args IS NULL, old_answer IS NULL, new_answer IS NULL, old_rows FROM dualwrite.shadow_read_mismatches ORDER BY occurred_at DESC LIMIT 1$$,
	$$VALUES (true, true, true, 1::bigint)$$, 'none are kept');
SELECT dualwrite.configure('m', 'drift_values', NULL);

-- privileges
SELECT dualwrite.reset_shadow_reads('m');
SET ROLE dw_stranger;
SELECT results_eq($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT 1', 'SELECT 2') AS t (i int)$$, 'VALUES (1)', 'a stranger may call');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT id FROM o', 'SELECT 2') AS t (i int)$$, '42501', 'permission denied for table o', 'with his own rights');
SELECT throws_ok($$SELECT dualwrite.reset_shadow_reads('m')$$, '42501');
RESET ROLE;
SELECT is(counts(), '0 agreed, 0 mismatched, 0 errors, 0 skipped', 'what strangers compare does not count');
GRANT SELECT ON o TO dw_shop;
SET ROLE dw_shop;
SELECT results_eq($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT email FROM o WHERE id = 7', 'SELECT email FROM n WHERE id = 7') AS t (email text)$$, $$VALUES ('user7')$$, 'a reader of the old table');
RESET ROLE;
SELECT is(counts(), '0 agreed, 0 mismatched, 1 errors, 0 skipped', 'who may not read the new one yet');
SELECT results_eq($$SELECT sqlstate, message, actor = 'dw_shop' FROM dualwrite.shadow_read_mismatches$$, $$VALUES ('42501', 'permission denied for table n', true)$$, 'gets to know before the switch');
CREATE TABLE secret (s text);
INSERT INTO secret VALUES ('hush');
SELECT is(one(7, 'SELECT s FROM secret'), 'user7', 'another table in the query');
SELECT is(one(7, 'SELECT ''other'''), 'user7', 'none but the mapped ones');
PREPARE as_seen AS SELECT string_agg(coalesce(new_answer::text, message, '-') || coalesce(old_query, '-'), ';' ORDER BY occurred_at) FROM dualwrite.shadow_read_mismatches;
GRANT SELECT ON o, n TO dw_viewer;
SET ROLE dw_viewer;
SELECT results_eq('as_seen', $$VALUES ('permission denied for table nSELECT email FROM o WHERE id = 7;--;[{"email":"other"}]SELECT email FROM o WHERE id = $1')$$,
	'values are for those who may read every table in it');
RESET ROLE;
REVOKE SELECT ON n FROM dw_viewer;
GRANT SELECT (id, email) ON n TO dw_viewer;
SET ROLE dw_viewer;
SELECT results_eq('as_seen', $$VALUES ('--;--;--')$$, 'every column of it');
RESET ROLE;
GRANT SELECT ON n TO dw_viewer;
ALTER TABLE o ENABLE ROW LEVEL SECURITY;
SET ROLE dw_viewer;
SELECT results_eq('as_seen', $$VALUES ('--;--;--')$$, 'and not under row security');
SELECT lives_ok('SELECT * FROM dualwrite.shadow_reads', 'numbers are for monitors');
RESET ROLE;
ALTER TABLE o DISABLE ROW LEVEL SECURITY;

-- switched off by itself
SELECT dualwrite.reset_shadow_reads('m');
SELECT dualwrite.configure('m', 'shadow_read_max_failures', '3');
SELECT one(7, 'SELECT broken') || one(7, 'SELECT broken') || one(7) || one(7, 'SELECT broken') || one(7, 'SELECT broken') AS five \gset
SELECT is((SELECT switched_off FROM dualwrite.shadow_reads), false, 'failures in a row count');
SELECT is(one(7, 'SELECT broken'), 'user7', 'one more');
SELECT is((SELECT switched_off FROM dualwrite.shadow_reads), true, 'switch it off');
SELECT is(one(7, 'SELECT broken'), 'user7', 'the truth still answers');
SELECT is(counts(), '1 agreed, 0 mismatched, 5 errors, 0 skipped', 'and nothing is compared');
SELECT dualwrite.reset_shadow_reads('m');
SELECT is(one(7), 'user7', 'after a reset');
SELECT is(counts(), '1 agreed, 0 mismatched, 0 errors, 0 skipped', 'it goes on');
SELECT dualwrite.configure('m', 'shadow_read_max_failures', NULL);

-- the gate
SELECT is_empty($$SELECT * FROM dualwrite.gates('m') WHERE gate = 'shadow_reads'$$, 'no gate where no reads are asked for');
SELECT dualwrite.configure('m', 'gate_shadow_min_reads', '3');
SELECT results_eq($$SELECT passed, detail FROM dualwrite.gates('m') WHERE gate = 'shadow_reads'$$, $$VALUES (false, '1 of 3 shadow reads; 0 mismatched, 0 failed; 100 % agreed, 99.999 % wanted')$$, 'too few reads');
SELECT alike((SELECT next_step FROM dualwrite.status), '%shadow_read%', 'the next step says so');
SELECT count(one(g)) FROM generate_series(1, 3) g;
SELECT results_eq($$SELECT passed, detail FROM dualwrite.gates('m') WHERE gate = 'shadow_reads'$$, $$VALUES (true, '4 of 3 shadow reads; 0 mismatched, 0 failed; 100 % agreed, 99.999 % wanted')$$, 'enough reads');
SELECT is(one(7, 'SELECT ''other'''), 'user7', 'one mismatch');
SELECT results_eq($$SELECT passed, detail FROM dualwrite.gates('m') WHERE gate = 'shadow_reads'$$, $$VALUES (false, '5 of 3 shadow reads; 1 mismatched, 0 failed; 80 % agreed, 99.999 % wanted')$$, 'closes it');
SELECT dualwrite.configure('m', 'gate_shadow_agreement', '0.8');
SELECT results_eq($$SELECT passed FROM dualwrite.gates('m') WHERE gate = 'shadow_reads'$$, $$VALUES (true)$$, 'unless that is good enough');
SELECT dualwrite.configure('m', 'gate_shadow_agreement', NULL);
SELECT dualwrite.reconcile('m') AS compared \gset
\set ON_ERROR_STOP off
SELECT dualwrite.advance('m') AS phase;
\set ON_ERROR_STOP on
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'the gate is not met');
SELECT is((SELECT phase FROM dualwrite.status), 'verify', 'advance is refused');
SELECT dualwrite.advance('m', waive => '{shadow_reads}', reason => 'known') AS phase \gset
SELECT is(:'phase'::text, 'read_switch', 'unless the gate is waived');

-- read_switch: old is the truth whatever the percentage; counted anew
SELECT is(counts(), '0 agreed, 0 mismatched, 0 errors, 0 skipped', 'another phase, other counters');
SELECT dualwrite.set_read_percent('m', 100);
SELECT results_eq($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT ''old''', 'SELECT ''new''') AS t (side text)$$, $$VALUES ('old')$$, 'read_switch: old''s rows');
SELECT is(counts(), '0 agreed, 1 mismatched, 0 errors, 0 skipped', 'compared');

-- cutover: new's rows are returned, the old side may fail
CALL dualwrite.run('m', 'cutover', timeout => '10 min');
SELECT results_eq($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT ''old''', 'SELECT ''new''') AS t (side text)$$, $$VALUES ('new')$$, 'cutover: new''s rows');
SELECT results_eq($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT broken', 'SELECT ''new''') AS t (side text)$$, $$VALUES ('new')$$, 'whatever old does');
SELECT throws_ok($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT ''old''', 'SELECT broken') AS t (side text)$$, '42703');
SELECT is(counts(), '0 agreed, 1 mismatched, 1 errors, 0 skipped', 'compared the other way round');
SELECT results_eq($$SELECT old_answer::text, new_answer::text, old_rows, new_rows FROM dualwrite.shadow_read_mismatches ORDER BY occurred_at DESC LIMIT 2$$,
	$$VALUES (NULL, NULL, NULL::bigint, 1::bigint), ('[{"side":"old"}]', '[{"side":"new"}]', 1, 1)$$, 'each under its own name');

-- complete: the new side only
SELECT dualwrite.configure('m', 'gate_soak', '0');
CALL dualwrite.wait('m', '10 min');
SELECT dualwrite.advance('m') AS phase \gset
SELECT is(:'phase'::text, 'complete', 'complete');
SELECT results_eq($$SELECT * FROM dualwrite.shadow_read('m', 'SELECT broken', 'SELECT ''new''') AS t (side text)$$, $$VALUES ('new')$$, 'complete: the new side');
SELECT is(counts(), '0 agreed, 0 mismatched, 0 errors, 0 skipped', 'is not compared');

SELECT dualwrite.drop_migration('m');
SELECT is_empty('SELECT * FROM dualwrite.shadow_read_mismatches', 'gone with the migration');
DROP TABLE o, n, secret;
DROP ROLE dw_shop, dw_stranger, dw_viewer;
SELECT * FROM finish();
