-- alter_mapping after the backfill: rows are brought to agreement with the new definition in the background, and nothing
-- of what is written meanwhile is lost.  Then what is left after complete and drop_migration.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

CREATE TABLE o (id int PRIMARY KEY, a text, b text);
CREATE TABLE n (id bigint PRIMARY KEY, a text, b text);
INSERT INTO o SELECT g, 'a' || g, 'b' || g FROM generate_series(1, 2000) g;
CREATE FUNCTION differing() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM o FULL JOIN n USING (id) WHERE n.a IS DISTINCT FROM o.a OR n.b IS DISTINCT FROM upper(o.b) $$;

SELECT dualwrite.create_migration('alter', 'o', 'n');
CALL dualwrite.run('alter', timeout => '10 min');
SELECT is(phase, 'verify', 'in verify') FROM dualwrite.status WHERE migration = 'alter';
SELECT ok(filled, 'filled') FROM _dualwrite.migration WHERE name = 'alter';

SELECT dualwrite.pause('alter');
SELECT dualwrite.alter_mapping('alter', 'o', 'n', '{"b": "upper(b)"}', '{"b": "lower(b)"}');
SELECT is(open_drift, NULL, 'what was compared before proves nothing now') FROM dualwrite.status WHERE migration = 'alter';
SELECT throws_ok($$SELECT dualwrite.alter_mapping('alter', 'o', 'n', '{"c": "b"}')$$, '42703');
SELECT dualwrite.resume('alter');
-- written while the rows are gone through
UPDATE o SET b = 'written' WHERE id % 7 = 0;
UPDATE o SET id = id + 10000 WHERE id % 11 = 0;
DELETE FROM o WHERE id % 13 = 0;
CALL dualwrite.wait('alter', '10 min');
SELECT is(differing(), 0::bigint, 'every row agrees with the altered mapping');
-- which the worker notes in a step of its own
CALL await($$(SELECT filled FROM _dualwrite.migration WHERE name = 'alter')$$);
SELECT pass('filled again');
SELECT is(phase, 'verify', 'the phase is the same') FROM dualwrite.status WHERE migration = 'alter';
SELECT is(detail -> 'forward', '{"b": "upper(b)"}', 'the audit says what was altered')
FROM dualwrite.events WHERE migration = 'alter' AND event = 'mapping_altered';

SELECT dualwrite.advance('alter');
SELECT dualwrite.alter_mapping('alter', 'o', 'n', '{"a": "a || ''!''"}', '{"a": "rtrim(a, ''!'')"}');
SELECT dualwrite.alter_mapping('alter', 'o', 'n', '{"a": "a"}', '{"a": "a"}');
SELECT pass('in read_switch at 0 % too');
SELECT dualwrite.set_read_percent('alter', 1);
SELECT throws_ok($$SELECT dualwrite.alter_mapping('alter', 'o', 'n', '{"a": "a"}')$$, '55000');
SELECT dualwrite.set_read_percent('alter', 100);
SELECT throws_ok($$SELECT dualwrite.drop_migration('alter')$$, '55000');
SELECT throws_ok($$SELECT dualwrite.drop_mapping('alter', 'o', 'n')$$, '55000');
SELECT throws_ok($$SELECT dualwrite.add_mapping('alter', 'o', 'n')$$, '55000');

-- to complete, and away
CALL dualwrite.wait('alter', '10 min');
SELECT dualwrite.advance('alter', waive => (SELECT array_agg(gate) FROM dualwrite.gates('alter') WHERE NOT passed), reason => 'test');
SELECT dualwrite.configure('alter', 'gate_soak', '0');
CALL dualwrite.wait('alter', '10 min');
SELECT dualwrite.advance('alter', force => true, reason => 'test');
SELECT is(phase, 'complete', 'in complete') FROM dualwrite.status WHERE migration = 'alter';
SELECT throws_ok('DELETE FROM o', NULL, NULL, 'the old table is not to be written any more');
SELECT dualwrite.drop_migration('alter');
SELECT lives_ok('DELETE FROM o WHERE id = 1', 'it is, once the migration is dropped');
SELECT is_empty($$SELECT tgname FROM pg_trigger WHERE tgrelid IN ('o'::regclass, 'n'::regclass) AND NOT tgisinternal$$,
	'nothing is left on the tables');
SELECT is((SELECT array_agg(event ORDER BY id DESC) FROM _dualwrite.event WHERE migration = 'alter' AND event LIKE '%dropped'),
	'{dropped,mapping_dropped}', 'the audit stays');
SELECT * FROM finish();
