-- read_side, read views and who may use them. The matrix of phases is set by hand; the way through the ladder is at the end.
SELECT no_plan();

CREATE TABLE o (id int PRIMARY KEY, email text NOT NULL, v text);
CREATE TABLE n (id bigint PRIMARY KEY, mail text NOT NULL, v text, extra int NOT NULL DEFAULT 7);
INSERT INTO o SELECT g, 'User' || g || '@x', 'v' || g FROM generate_series(1, 1000) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n', forward => '{"mail": "lower(email)"}',
	reverse => '{"email": "mail"}');
CREATE INDEX ON o ((id::bigint));
ANALYZE o;

CREATE FUNCTION at(phase text, percent numeric DEFAULT 0) RETURNS void LANGUAGE sql
	AS $$ UPDATE _dualwrite.migration SET phase = $1, read_percent = $2 WHERE name = 'm' $$;
-- Share of 1000 buckets on the new side.
CREATE FUNCTION share() RETURNS int LANGUAGE sql
	AS $$ SELECT (count(*) FILTER (WHERE dualwrite.read_side('m', g) = 'new'))::int FROM generate_series(1, 1000) AS g $$;
-- Lines of a plan that was executed, with what was never executed left out.
CREATE FUNCTION executed(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) ' || query LOOP
		IF line ~ 'Scan' AND line !~ 'never executed' THEN
			RETURN NEXT substring(line from '(\w+ ?\w* ?\w* Scan.*) \(actual');
		END IF;
	END LOOP;
END $$;

-- which side, by phase
SELECT is(dualwrite.read_side('m'), 'old', 'defined: old');
SELECT is(dualwrite.read_side('m', 1), 'old', 'defined: old for a bucket');
SELECT is(share(), 0, p || ': every bucket is old')
	FROM unnest('{defined,shadow,dual_write,backfill,verify,read_switch}'::text[]) AS p, at(p);
SELECT is(share(), 1000, p || ': every bucket is new') FROM unnest('{cutover,complete}'::text[]) AS p, at(p);
SELECT at('cutover');
SELECT is(dualwrite.read_side('m'), 'new', 'cutover: new');
SELECT is(dualwrite.truth('m'), 'new', 'cutover: new is the truth');
SELECT at('read_switch', 100);
SELECT is(dualwrite.read_side('m'), 'new', '100 %: new');
SELECT is(dualwrite.truth('m'), 'old', 'read_switch: old is the truth');
SELECT throws_ok($$ SELECT dualwrite.read_side('nobody') $$, '42704', 'migration "nobody" does not exist');

-- percentages
SELECT at('read_switch', 30);
SELECT ok(share() BETWEEN 250 AND 350, '30 % of the buckets are new, give or take');
CREATE TABLE at30 AS SELECT g FROM generate_series(1, 1000) AS g WHERE dualwrite.read_side('m', g) = 'new';
SELECT at('read_switch', 60);
SELECT is((SELECT count(*) FROM at30 WHERE dualwrite.read_side('m', g) = 'old'), 0::bigint, 'whoever read new at 30 % does so at 60 %');
SELECT at('read_switch', 0.05);
SELECT ok(count(*) FILTER (WHERE dualwrite.read_side('m', g) = 'new') BETWEEN 20 AND 80, '0.05 % of 100,000 buckets')
	FROM generate_series(1, 100000) AS g;

CREATE TABLE shares (percent int, share numeric);
DO $$
DECLARE
	p int;
BEGIN
	FOREACH p IN ARRAY '{1,5,25,50,75,99}'::int[] LOOP
		PERFORM at('read_switch', p);
		INSERT INTO shares SELECT p, count(*) FILTER (WHERE dualwrite.read_side('m', p * 1000000 + g) = 'new') / 1000.0 FROM generate_series(1, 100000) AS g;
	END LOOP;
END
$$;
SELECT is_empty('SELECT * FROM shares WHERE share NOT BETWEEN percent - 2 AND percent + 2', 'within two points of any percentage, by 100,000 buckets');
SELECT is((SELECT count(*) FROM shares), 6::bigint, 'of each');

-- the same bucket by any type and in any session
SELECT at('read_switch', 50);
SELECT is(count(*), 0::bigint, 'type of the bucket does not matter') FROM generate_series(1, 1000) AS g
	WHERE dualwrite.read_side('m', g) <> ANY (ARRAY[dualwrite.read_side('m', g::bigint), dualwrite.read_side('m', g::text),
		dualwrite.read_side('m', g::numeric), dualwrite.read_side('m', g::varchar(9)), dualwrite.read_side('m', g::text::char(9))]);
SELECT is(dualwrite.read_side('m', '42'), dualwrite.read_side('m', 42), 'a literal');
SELECT is(dualwrite.read_side('m', NULL::int), dualwrite.read_side('m', ''), 'no bucket is the empty one');
CREATE TABLE moments AS SELECT t, a, dualwrite.read_side('m', t) AS t_side, dualwrite.read_side('m', a) AS a_side
	FROM generate_series(timestamptz '2024-01-01 UTC', '2024-03-01 UTC', '7 hours') AS t, LATERAL (SELECT t - timestamptz '2000-01-01 UTC') AS age (a);
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'German';
SET IntervalStyle = 'iso_8601';
SELECT is(count(*), 0::bigint, 'settings do not matter') FROM moments
	WHERE t_side <> dualwrite.read_side('m', t) OR a_side <> dualwrite.read_side('m', a);
RESET ALL;
SELECT dualwrite.create_migration('m2');
UPDATE _dualwrite.migration SET phase = 'read_switch', read_percent = 50 WHERE name = 'm2';
SELECT isnt(count(*) FILTER (WHERE dualwrite.read_side('m', g) <> dualwrite.read_side('m2', g)), 0::bigint, 'another migration, other buckets')
	FROM generate_series(1, 1000) AS g;
UPDATE _dualwrite.migration SET phase = 'defined', read_percent = 0 WHERE name = 'm2';
SELECT dualwrite.drop_migration('m2');

-- one answer a transaction
BEGIN;
CREATE TEMP TABLE first AS SELECT dualwrite.read_side('m') AS side;
SELECT at('read_switch', CASE side WHEN 'new' THEN 0 ELSE 100 END) FROM first;
SELECT is(dualwrite.read_side('m'), side, 'a transaction keeps the side that it was given') FROM first;
SELECT at(CASE side WHEN 'new' THEN 'verify' ELSE 'complete' END) FROM first;
SELECT isnt(dualwrite.read_side('m'), side, 'but not when that side may no longer be read') FROM first;
ROLLBACK;
CREATE TABLE answers (side text);
DO $$
BEGIN
	FOR i IN 1 .. 200 LOOP
		INSERT INTO answers VALUES (dualwrite.read_side('m'));
		COMMIT;
	END LOOP;
END $$;
SELECT ok(count(*) FILTER (WHERE side = 'new') BETWEEN 50 AND 150, 'half of the transactions read new, give or take') FROM answers;
BEGIN;
SAVEPOINT s;
SELECT at('cutover');
SELECT is(dualwrite.read_side('m', 1) || dualwrite.read_side('m', 2), 'newnew', 'own change seen');
ROLLBACK TO s;
SELECT at('verify');
SELECT is(dualwrite.read_side('m', 1) || dualwrite.read_side('m', 2), 'oldold', 'undone with the savepoint');
ROLLBACK;

-- the session's own wish
SET dualwrite.read_side = 'new';
SELECT is(share(), 1000, 'override new at 50 %');
SELECT is(dualwrite.read_side('m'), 'new', 'override new for the transaction');
SELECT at('verify');
SELECT is(share(), 0, 'override new has to wait for read_switch');
SELECT at('cutover');
SET dualwrite.read_side = 'old';
SELECT is(share(), 0, 'override old in cutover');
SELECT at('complete');
SELECT is(share(), 1000, 'no override to old in complete');
RESET dualwrite.read_side;
SELECT throws_ok($$ SET dualwrite.read_side = 'left' $$, '22023', NULL, 'a side that is none');
CREATE ROLE dualwrite_reads_cohort;
ALTER ROLE dualwrite_reads_cohort SET dualwrite.read_side = 'new';
SELECT pass('a role can have it');

-- anybody may ask, the owner defines
SET ROLE dualwrite_reads_cohort;
SELECT is(dualwrite.read_side('m', 1), 'new', 'anybody may ask');
SELECT ok(dualwrite.serves('m', 'new') AND NOT dualwrite.serves('m', 'old'), 'and use what the views call');
SELECT throws_ok($$ SELECT dualwrite.create_read_view('m', 'x') $$, '42501', NULL, 'not everybody may make a view');
SELECT throws_ok($$ SELECT dualwrite.drop_read_view('x') $$, '42501', NULL, 'or drop one');
RESET ROLE;
GRANT EXECUTE ON FUNCTION dualwrite.create_read_view(text, text, regclass, text, text) TO dualwrite_reads_cohort;
SET ROLE dualwrite_reads_cohort;
SELECT throws_ok($$ SELECT dualwrite.create_read_view('m', 'x') $$, '42501', NULL, 'nor whoever may call it, but owns nothing');
RESET ROLE;

-- one table a side, through the index
SELECT at('defined');
SET client_min_messages = warning;
SELECT dualwrite.create_read_view('m', 'r');
SELECT dualwrite.create_read_view('m', 'r_old', shape => 'old');
RESET client_min_messages;
SELECT results_eq($$ SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = 'r'::regclass AND attnum > 0 ORDER BY attnum $$,
	$$ SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = 'n'::regclass AND attnum > 0 ORDER BY attnum $$,
	'shape new: columns of the new table');
SELECT results_eq($$ SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = 'r_old'::regclass AND attnum > 0 ORDER BY attnum $$,
	$$ SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = 'o'::regclass AND attnum > 0 ORDER BY attnum $$,
	'shape old: columns of the old table');
SELECT alike(obj_description('r'::regclass), 'Read view of migration m, strategy switch, shape new.%read_switch from either by percentage%truth%old up to and including read_switch%',
	'its comment says what is read in which phase, and which side is the truth');
INSERT INTO n (id, mail, v, extra) SELECT id, lower(email), v, 8 FROM o;
ANALYZE n;
SELECT results_eq($$ SELECT id, mail, v, extra FROM r WHERE id = 42 $$, $$ VALUES (42::bigint, 'user42@x', 'v42', 7) $$, 'a row of old, as new');
SELECT results_eq($$ SELECT * FROM executed('SELECT * FROM r WHERE id = 42') $$,
	$$ VALUES ('Index Scan using o_id_idx on o dualwrite_row') $$, 'only old, through its index');
SELECT at('read_switch', 100);
SELECT results_eq($$ SELECT id, mail, v, extra FROM r WHERE id = 42 $$, $$ VALUES (42::bigint, 'user42@x', 'v42', 8) $$, 'a row of new');
SELECT results_eq($$ SELECT * FROM executed('SELECT * FROM r WHERE id = 42') $$,
	$$ VALUES ('Index Scan using n_pkey on n t') $$, 'only new, through its index');
SELECT results_eq($$ SELECT * FROM r_old WHERE id = 42 $$, $$ VALUES (42, 'user42@x', 'v42') $$, 'a row of new, as old');
SELECT results_eq($$ SELECT * FROM executed('SELECT max(id) FROM r') $$, $$ VALUES ('Index Only Scan Backward using n_pkey on n t') $$,
	'max() through the index');
SELECT results_eq($$ SELECT * FROM executed('SELECT * FROM (VALUES (1), (2)) AS k (id) JOIN r USING (id)') $$,
	$$ VALUES ('Values Scan on "*VALUES*"'), ('Index Scan using n_pkey on n t') $$, 'a join goes through the index');
SELECT at('read_switch', 30);
SELECT results_eq($$ SELECT count(*), count(DISTINCT id) FROM r $$, $$ VALUES (1000::bigint, 1000::bigint) $$, 'each row once at 30 %');
SELECT results_eq($$ SELECT id FROM r WHERE extra = 8 ORDER BY id $$, $$ SELECT g::bigint FROM at30 ORDER BY g $$,
	'the rows that come from new are those for which read_side says so');
SELECT results_eq($$ SELECT count(*), count(DISTINCT id) FROM r_old $$, $$ VALUES (1000::bigint, 1000::bigint) $$, 'and in the shape of old');

-- the caller's rights
GRANT SELECT ON r, n TO dualwrite_reads_cohort;
SET ROLE dualwrite_reads_cohort;
SELECT throws_ok('SELECT * FROM r', '42501', 'permission denied for table o', 'the view gives nobody rights on a table');
RESET ROLE;
GRANT SELECT ON o TO dualwrite_reads_cohort;
ALTER TABLE o ENABLE ROW LEVEL SECURITY;
ALTER TABLE n ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON o FOR SELECT TO dualwrite_reads_cohort USING (id <= 10);
CREATE POLICY p ON n FOR SELECT TO dualwrite_reads_cohort USING (id <= 10);
SET ROLE dualwrite_reads_cohort;
SELECT results_eq('SELECT count(*) FROM r', 'VALUES (10::bigint)', 'row security of both tables holds');
RESET ROLE;
ALTER TABLE o DISABLE ROW LEVEL SECURITY;
ALTER TABLE n DISABLE ROW LEVEL SECURITY;

-- a row made of two old tables: one brings it into being, one fills columns
CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE address (person_id int PRIMARY KEY, city text);
CREATE TABLE contact (id bigint PRIMARY KEY, name text NOT NULL, city text);
INSERT INTO person VALUES (1, 'Ann'), (2, 'Bob');
INSERT INTO address VALUES (1, 'Ulm'), (3, 'Rom');
SELECT dualwrite.create_migration('merge', 'person', 'contact');
SELECT dualwrite.add_mapping('merge', 'address', 'contact', forward => '{"id": "person_id"}', reverse => '{"person_id": "id"}', owns => 'old');
SET client_min_messages = warning;
SELECT dualwrite.create_read_view('merge', 'contact_read');
RESET client_min_messages;
SELECT results_eq('SELECT * FROM contact_read ORDER BY id', $$ VALUES (1::bigint, 'Ann', 'Ulm'), (2, 'Bob', NULL) $$, 'two tables make one row');
SELECT dualwrite.drop_read_view('contact_read');
SELECT dualwrite.drop_migration('merge');

-- up the real ladder: at complete the views are plain ones
SELECT at('defined');
TRUNCATE n;
SELECT dualwrite.configure('m', 'reconcile_interval', '1 s');
SET client_min_messages = warning;
CALL dualwrite.run('m', 'verify', '10 min');
CALL dualwrite.wait('m', '10 min');
SELECT dualwrite.advance('m');
SELECT is(share(), 0, 'read_switch begins at 0 %');
SELECT dualwrite.set_read_percent('m', 100);
SELECT is(share(), 1000, 'set_read_percent');
CALL dualwrite.wait('m', '10 min');
SELECT dualwrite.advance('m');
SELECT different FROM dualwrite.reconcile('m');
SELECT dualwrite.advance('m', waive => '{soak}', reason => 'test');
RESET client_min_messages;
SELECT is((SELECT phase FROM dualwrite.status WHERE migration = 'm'), 'complete', 'complete');
SELECT results_eq($$ SELECT * FROM executed('SELECT * FROM r WHERE id = 42') $$, $$ VALUES ('Index Scan using n_pkey on n t') $$, 'a plain view');
SELECT unalike(pg_get_viewdef('r'::regclass), '%dualwrite%', 'without dualwrite');
SELECT is(obj_description('r'::regclass), 'Rows come from the new table: migration m is complete.', 'as its comment says');
SELECT unalike(pg_get_viewdef('r_old'::regclass), '%dualwrite.%', 'in either shape');
SELECT results_eq($$ SELECT * FROM r_old WHERE id = 42 $$, $$ VALUES (42, 'user42@x', 'v42') $$, 'which still works');
SELECT dualwrite.drop_old('m');
SELECT results_eq('SELECT count(*) FROM r', 'VALUES (1000::bigint)', 'and depends on the old table no more');
DROP EXTENSION dualwrite;
SELECT results_eq('SELECT count(*) FROM r_old', 'VALUES (1000::bigint)', 'nor on the extension');

DROP OWNED BY dualwrite_reads_cohort;
DROP ROLE dualwrite_reads_cohort;
SELECT * FROM finish();
