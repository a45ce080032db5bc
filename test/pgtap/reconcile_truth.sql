-- Which side is repaired, and what counts as agreement, once both sides are written.
SELECT no_plan();
SET client_min_messages = warning;

CREATE TABLE account (id int PRIMARY KEY, email text, remark text, visits int DEFAULT 0);
CREATE TABLE account_new (id int PRIMARY KEY, email text, remark_length int, visits bigint);
INSERT INTO account SELECT g, 'User' || g || '@Example.org', repeat('x', g), g FROM generate_series(1, 50) AS g;
SELECT dualwrite.create_migration('m', 'account', 'account_new', '{"email": "lower(email)", "remark_length": "length(remark)"}',
	'{"email": "email"}');
CALL dualwrite.run('m', timeout => '10 min');

-- verify: old is the truth
ALTER TABLE account_new DISABLE TRIGGER USER;
UPDATE account_new SET visits = -1 WHERE id = 1;
UPDATE account_new SET email = 'USER2@EXAMPLE.ORG' WHERE id = 2;
DELETE FROM account_new WHERE id = 3;
INSERT INTO account_new VALUES (51, 'extra@example.org', 0, 0);
ALTER TABLE account_new ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete",
	ENABLE ALWAYS TRIGGER "~dualwrite_flush", ENABLE ALWAYS TRIGGER "!dualwrite_truncate";
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('m')$$, $$VALUES (1::bigint, 1::bigint, 2::bigint)$$, 'verify: forward decides');
SELECT is(dualwrite.repair('m'), 4::bigint, 'verify: repaired from the old side');
SELECT results_eq($$SELECT count(*), min(visits), count(*) FILTER (WHERE email <> lower(email)) FROM account_new$$,
	$$VALUES (50::bigint, 1::bigint, 0::bigint)$$, 'verify: the new side follows');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'verify: clean');

-- read_switch: both sides are written; what the new application wrote need not survive forward
SELECT dualwrite.advance('m');
UPDATE account_new SET email = 'Bar@Example.org' WHERE id = 5;
INSERT INTO account_new VALUES (60, 'Foo@Example.org', NULL, 0);
SELECT is((SELECT email FROM account WHERE id = 60), 'Foo@Example.org', 'read_switch: the old side follows');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'read_switch: what came in reverse is no drift');
ALTER TABLE account DISABLE TRIGGER "!dualwrite_write";
UPDATE account SET email = 'changed@example.org' WHERE id = 60;
UPDATE account SET remark = 'other' WHERE id = 6;
ALTER TABLE account ENABLE ALWAYS TRIGGER "!dualwrite_write";
SELECT is((SELECT different FROM dualwrite.reconcile('m')), 2::bigint, 'read_switch: drift is found all the same');
SELECT is((SELECT columns FROM dualwrite.drift WHERE key = '{"id": 60}' AND state = 'open'), '{email}', 'with its column');
SELECT is(dualwrite.repair('m'), 2::bigint, 'read_switch: repaired');
SELECT is((SELECT email FROM account_new WHERE id = 60), 'changed@example.org', 'from the old side');

-- cutover: new is the truth
SELECT dualwrite.set_read_percent('m', 100);
CALL dualwrite.run('m', 'cutover', timeout => '10 min');
SELECT is((SELECT truth FROM dualwrite.status WHERE migration = 'm'), 'new', 'cutover');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'cutover: rows not touched since agree as they did');
UPDATE account_new SET email = 'Cut@Example.org', remark_length = 99 WHERE id = 7;
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'cutover: so do those that were written');
ALTER TABLE account DISABLE TRIGGER USER;
UPDATE account SET visits = -5 WHERE id = 8;
DELETE FROM account WHERE id = 9;
INSERT INTO account VALUES (70, 'old only', '', 0);
ALTER TABLE account ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete",
	ENABLE ALWAYS TRIGGER "~dualwrite_flush", ENABLE ALWAYS TRIGGER "!dualwrite_truncate";
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('m')$$, $$VALUES (1::bigint, 1::bigint, 1::bigint)$$,
	'cutover: missing and extra still speak of the new side');
SELECT is(dualwrite.repair('m'), 3::bigint, 'cutover: repaired from the new side');
SELECT results_eq($$SELECT id, visits FROM account WHERE id IN (8, 9, 70) ORDER BY id$$, $$VALUES (8, 8), (9, 9)$$, 'cutover: the old side follows');
SELECT is((SELECT old_values->>'visits' FROM dualwrite.drift WHERE key = '{"id": 8}' AND state = 'repaired'), '-5', 'cutover: the overwritten image is kept');
SELECT is((SELECT missing + extra + different FROM dualwrite.reconcile('m')), 0::bigint, 'cutover: clean');

-- rolled back: nothing is repaired until resume
SELECT dualwrite.rollback('m');
SELECT throws_ok($$SELECT dualwrite.repair('m')$$, '55000', 'repair of migration "m" is suspended since its rollback', 'after a rollback nothing is repaired');
SELECT ok(EXISTS (SELECT FROM dualwrite.diagnose('m') WHERE what = 'repair suspended'), 'which is told');
SELECT dualwrite.resume('m');
SELECT is((SELECT different FROM dualwrite.reconcile('m')), 1::bigint, 'what only the new side could hold is drift, now that old is the truth');
SELECT is((SELECT columns FROM dualwrite.drift WHERE key = '{"id": 7}' AND state = 'open'), '{remark_length}', 'in that column alone');
SELECT is(dualwrite.repair('m'), 1::bigint, 'until resume');
SELECT is((SELECT new_values->>'remark_length' FROM dualwrite.drift WHERE key = '{"id": 7}' AND state = 'repaired'), '99', 'what it had is kept');

SELECT * FROM finish();
