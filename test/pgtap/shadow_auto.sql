-- Shadow reads that nobody asks for: which SELECTs of clients are sampled, what is compared, and that they can do no harm.
SELECT no_plan();
SET client_min_messages = warning;
LOAD 'dualwrite';

DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dw_reader') THEN
		CREATE ROLE dw_reader;
	END IF;
END
$$;

CREATE TABLE o (id int, dropped int, email text, cents int, note text, PRIMARY KEY (id));
ALTER TABLE o DROP COLUMN dropped;
CREATE TABLE n (key bigint PRIMARY KEY, amount numeric(12,2), email text);
CREATE TABLE other (id int PRIMARY KEY, o_id int);
CREATE VIEW v AS SELECT id, email FROM o WHERE cents > 0;
INSERT INTO o (id, email, cents) SELECT g, 'user' || g, g * 100 FROM generate_series(1, 100) AS g;
INSERT INTO other SELECT g, g FROM generate_series(1, 10) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n', '{"key": "id", "amount": "cents / 100.0"}', '{"id": "key", "cents": "(amount * 100)::int", "note": null}');
SELECT dualwrite.configure('m', 'shadow_read_auto_percent', '100');
-- a slow machine is neither out of time nor worth an entry
SELECT dualwrite.configure('m', 'shadow_read_max_ms', '600000');
SELECT dualwrite.configure('m', 'shadow_read_slow_factor', '0');
CALL dualwrite.run('m', timeout => '10 min');

-- Since the last call: agreed, mismatched, errors.
CREATE TABLE before AS SELECT 0::bigint AS agreed, 0::bigint AS mismatched, 0::bigint AS errors;
CREATE FUNCTION news(OUT agreed bigint, OUT mismatched bigint, OUT errors bigint) LANGUAGE plpgsql AS $$
DECLARE
	r record;
	b record;
BEGIN
	SELECT s.agreed, s.mismatched, s.errors INTO r FROM dualwrite.shadow_reads s WHERE migration = 'm';
	SELECT * INTO b FROM before;
	UPDATE before SET agreed = r.agreed, mismatched = r.mismatched, errors = r.errors;
	agreed := r.agreed - b.agreed; mismatched := r.mismatched - b.mismatched; errors := r.errors - b.errors;
END
$$;

-- sampled
SELECT email FROM o WHERE id = 7;
SELECT results_eq('SELECT * FROM news()', 'VALUES (1::bigint, 0::bigint, 0::bigint)', 'a look-up by key');
SELECT count(*), sum(cents), min(email), max(id) FROM o WHERE id BETWEEN 5 AND 50;
SELECT o.email, p.id FROM o JOIN other p ON p.o_id = o.id WHERE p.id < 4 ORDER BY 1;
SELECT * FROM other WHERE EXISTS (SELECT FROM o WHERE o.id = other.o_id AND o.cents > 200);
WITH c AS (SELECT id, cents FROM o) SELECT a.id FROM c a JOIN c b ON a.cents = b.cents WHERE a.id < 5;
SELECT string_agg(email, ',' ORDER BY id) FROM o;
SELECT id, email FROM o ORDER BY id DESC LIMIT 3 OFFSET 2;
SELECT email FROM v WHERE id = 9;
SELECT a.id FROM ONLY o a WHERE a.id = 3;
SELECT results_eq('SELECT * FROM news()', 'VALUES (8::bigint, 0::bigint, 0::bigint)', 'aggregates, joins, sub-selects, CTEs, pages in order of the key, views and ONLY');
SELECT 1 AS one \; SELECT email FROM o WHERE id = 7 \; SELECT 2 AS two;
SELECT results_eq('SELECT * FROM news()', 'VALUES (1::bigint, 0::bigint, 0::bigint)', 'one of several statements sent together');
BEGIN;
INSERT INTO o (id, email, cents) VALUES (101, 'user101', 5);
SELECT email FROM o WHERE id = 101;
ROLLBACK;
SELECT results_eq('SELECT * FROM news()', 'VALUES (1::bigint, 0::bigint, 0::bigint)', 'within a transaction, what it wrote itself');
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT email FROM o WHERE id = 7;
COMMIT;
SELECT results_eq('SELECT * FROM news()', 'VALUES (1::bigint, 0::bigint, 0::bigint)', 'READ ONLY');

-- not sampled: what need not be the same, what is no plain read, what only the old side has
SELECT email, random() FROM o WHERE id = 7;
SELECT id FROM o LIMIT 3;
SELECT id FROM o ORDER BY email LIMIT 3;
SELECT DISTINCT ON (cents % 7) cents FROM o;
SELECT id, row_number() OVER () FROM o WHERE id < 4;
SELECT array_agg(id) FROM o WHERE id < 4;
SELECT sum(cents::float8) FROM o;
SELECT ctid FROM o WHERE id = 7;
SELECT o FROM o WHERE id = 7;
SELECT note FROM o WHERE id = 7;
SELECT email FROM o WHERE id = 7 FOR UPDATE;
SELECT email FROM o TABLESAMPLE system (100) WHERE id = 7;
SELECT key FROM n WHERE key = 7;
SELECT * FROM other WHERE id = 7;
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) SELECT email FROM o WHERE id = 7;
DO $$ BEGIN PERFORM email FROM o WHERE id = 7; END $$;
BEGIN;
DECLARE c CURSOR FOR SELECT email FROM o ORDER BY id;
FETCH 2 FROM c;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT email FROM o WHERE id = 7;
COMMIT;
SELECT results_eq('SELECT * FROM news()', 'VALUES (0::bigint, 0::bigint, 0::bigint)', 'none of these');
SELECT dualwrite.configure('m', 'shadow_read_auto_percent', '0');
SELECT email FROM o WHERE id = 7;
SELECT results_eq('SELECT * FROM news()', 'VALUES (0::bigint, 0::bigint, 0::bigint)', 'nor anything at 0 %');
SELECT dualwrite.configure('m', 'shadow_read_auto_percent', '100');

-- a difference is found, and kept; the client has its rows
SET session_replication_role = replica;
ALTER TABLE n DISABLE TRIGGER ALL;
UPDATE n SET email = 'wrong' WHERE key = 7;
ALTER TABLE n ENABLE TRIGGER ALL;
RESET session_replication_role;
SELECT dualwrite.install_triggers('m');
SELECT email FROM o WHERE id = 7 \gset
SELECT is(:'email'::text, 'user7', 'the client has the rows of the old table');
SELECT results_eq('SELECT * FROM news()', 'VALUES (0::bigint, 1::bigint, 0::bigint)', 'a mismatch');
SELECT results_eq($$ SELECT kind, rtrim(old_query), old_rows, new_rows, old_answer::text, new_answer::text FROM dualwrite.shadow_read_mismatches ORDER BY occurred_at LIMIT 1 $$,
	$$ VALUES ('different', 'SELECT email FROM o WHERE id = 7', 1::bigint, 1::bigint, '[{"email":"user7"}]', '[{"email":"wrong"}]') $$, 'is kept with both answers');
SELECT dualwrite.reconcile('m') AS compared \gset
SELECT dualwrite.repair('m') AS repaired \gset
SELECT email FROM o WHERE id = 7;
SELECT results_eq('SELECT * FROM news()', 'VALUES (1::bigint, 0::bigint, 0::bigint)', 'until it is repaired');

-- rights are the reader's; what he lacks is seen before the switch
GRANT SELECT ON o TO dw_reader;
SET ROLE dw_reader;
SELECT email FROM o WHERE id = 7 \gset
RESET ROLE;
SELECT is(:'email'::text, 'user7', 'a reader without rights on the new table has his rows');
SELECT results_eq('SELECT * FROM news()', 'VALUES (0::bigint, 0::bigint, 1::bigint)', 'and is counted as an error');
SELECT is((SELECT sqlstate FROM dualwrite.shadow_read_mismatches WHERE kind = 'error'), '42501', 'that says what is missing');
GRANT SELECT ON n TO dw_reader;
SET ROLE dw_reader;
SELECT email FROM o WHERE id = 7 \gset
RESET ROLE;
SELECT results_eq('SELECT * FROM news()', 'VALUES (1::bigint, 0::bigint, 0::bigint)', 'with them it agrees');
ALTER TABLE n ENABLE ROW LEVEL SECURITY;
SET ROLE dw_reader;
SELECT email FROM o WHERE id = 7 \gset
RESET ROLE;
SELECT results_eq('SELECT * FROM news()', 'VALUES (0::bigint, 1::bigint, 0::bigint)', 'row security of the new table holds for him');
CREATE FUNCTION spy() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE 'spied'; END $$;
CREATE POLICY q ON n USING (spy());
SET ROLE dw_reader;
SELECT email FROM o WHERE id = 7 \gset
RESET ROLE;
SELECT results_eq('SELECT * FROM news()', 'VALUES (0::bigint, 0::bigint, 0::bigint)', 'functions of others are not run behind his back');
ALTER TABLE n DISABLE ROW LEVEL SECURITY;
DROP POLICY q ON n;
SELECT results_eq($$ SELECT id FROM o WHERE id = 7 $$, $$ VALUES (7) $$, 'the table reads as ever');

-- nor is a table of another owner read
ALTER TABLE n OWNER TO dw_reader;
SELECT email FROM o WHERE id = 7 \gset
SELECT results_eq('SELECT * FROM news()', 'VALUES (0::bigint, 0::bigint, 0::bigint)', 'nor anything of a table that somebody else owns');
ALTER TABLE n OWNER TO CURRENT_USER;
SELECT dualwrite.configure('m', 'shadow_read_auto_percent', '100');

-- the budget
SELECT dualwrite.configure('m', 'shadow_read_max_rows', '10');
SELECT id FROM o \g /dev/null
SELECT results_eq('SELECT * FROM news()', 'VALUES (0::bigint, 0::bigint, 0::bigint)', 'too many rows: skipped');
SELECT ok(skipped > 0, 'and counted as that') FROM dualwrite.shadow_reads WHERE migration = 'm';

-- a filter leaves rows out: reads of the old table have no counterpart then
SELECT dualwrite.rollback('m', 'defined');
SELECT dualwrite.alter_mapping('m', 'o', 'n', filter => 'id < 50');
DELETE FROM n;
CALL dualwrite.run('m', timeout => '10 min');
SELECT * FROM news() \gset
SELECT email FROM o WHERE id = 7;
SELECT is((SELECT runs FROM dualwrite.shadow_reads WHERE migration = 'm'), 0::bigint, 'not behind a filter');

DROP OWNED BY dw_reader;
DROP ROLE dw_reader;
SELECT * FROM finish();
