-- Both sides are walked in step where their keys have the same order.  Whatever is missing, extra or different, wherever it
-- lies and wherever a chunk happens to end, the list of drift is what plain SQL says.
SELECT no_plan();
SET client_min_messages = warning;
SELECT setseed(0.5);

CREATE PROCEDURE compared(name text) LANGUAGE plpgsql AS $$
DECLARE
	pass bigint;
BEGIN
	PERFORM dualwrite.reconcile(name, background => true);
	COMMIT;
	SELECT max(p.id) INTO pass FROM _dualwrite.reconcile_pass p JOIN _dualwrite.mapping m ON m.id = p.mapping_id
		JOIN _dualwrite.migration g ON g.id = m.migration_id WHERE g.name = compared.name;
	WHILE EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE id = pass AND finished_at IS NULL) LOOP
		COMMIT;
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$;

-- Another type of the key, rows in no order, single differences and long stretches of them, short chunks

CREATE TABLE o (id int PRIMARY KEY, a text);
CREATE TABLE n (id bigint PRIMARY KEY, a text);
INSERT INTO o SELECT g, 'a' || g FROM generate_series(-20000, 40000) AS g ORDER BY random();
SELECT dualwrite.create_migration('m', 'o', 'n');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
SELECT dualwrite.configure('m', 'reconcile_chunk_ms', '1');
CALL dualwrite.run('m', 'verify', '10 min');
CALL compared('m');
SELECT results_eq($$SELECT rows_compared, missing + extra + different FROM dualwrite.reconcile('m')$$,
	$$VALUES (60001::bigint, 0::bigint)$$, 'agreeing');
CALL bypass('{o, n}',
	'UPDATE n SET a = NULL WHERE random() < 0.003',
	'DELETE FROM n WHERE random() < 0.003 OR id BETWEEN -15000 AND -2500',
	'DELETE FROM o WHERE random() < 0.003 OR id BETWEEN 9000 AND 21500 OR id > 39990',
	'INSERT INTO n SELECT id, ''far'' FROM generate_series(-3000000005, -3000000000) AS id',
	'INSERT INTO n SELECT id, ''far'' FROM generate_series(3000000000, 3000012000) AS id');
CREATE VIEW expected AS
	SELECT coalesce(n.id, o.id) AS id, CASE WHEN n.id IS NULL THEN 'missing' WHEN o.id IS NULL THEN 'extra' ELSE 'different' END AS kind
	FROM o FULL JOIN n ON n.id = o.id WHERE o.id IS NULL OR n.id IS NULL OR o.a IS DISTINCT FROM n.a;
CREATE VIEW found AS SELECT (key->>'id')::bigint AS id, kind FROM dualwrite.drift WHERE migration = 'm' AND state = 'open';
CREATE VIEW amiss AS SELECT * FROM expected FULL JOIN found USING (id, kind) WHERE expected IS NULL OR found IS NULL;
CREATE VIEW tally AS SELECT count(*) FILTER (WHERE kind = 'missing') AS missing, count(*) FILTER (WHERE kind = 'extra') AS extra,
	count(*) FILTER (WHERE kind = 'different') AS different FROM expected;
CREATE VIEW last AS SELECT rows_compared, missing, extra, different FROM _dualwrite.reconcile_pass WHERE finished_at IS NOT NULL ORDER BY id DESC LIMIT 1;

SELECT results_eq('SELECT missing, extra, different FROM dualwrite.reconcile(''m'')', 'TABLE tally', 'one chunk: the numbers');
SELECT is_empty('TABLE amiss', 'one chunk: the keys');
SELECT is((SELECT rows_compared FROM last), (SELECT count(*) FROM o FULL JOIN n ON n.id = o.id), 'one chunk: every key once');
TRUNCATE _dualwrite.drift;
CALL compared('m');
SELECT results_eq('SELECT missing, extra, different FROM last', 'TABLE tally', 'many chunks: the numbers');
SELECT is_empty('TABLE amiss', 'many chunks: the keys');
SELECT is((SELECT rows_compared FROM last), (SELECT count(*) FROM o FULL JOIN n ON n.id = o.id), 'many chunks: every key once');

CALL bypass('{o, n}', 'DELETE FROM n WHERE id > -10000');
TRUNCATE _dualwrite.drift;
CALL compared('m');
SELECT is_empty('TABLE amiss', 'a new side that ends early');
CALL bypass('{o, n}', 'TRUNCATE o', 'INSERT INTO n SELECT id, ''x'' FROM generate_series(1, 100) AS id');
TRUNCATE _dualwrite.drift;
CALL compared('m');
SELECT is_empty('TABLE amiss', 'an old side without rows');
CALL bypass('{o, n}', 'INSERT INTO o SELECT id, ''x'' FROM generate_series(1, 200) AS id', 'DELETE FROM n');
TRUNCATE _dualwrite.drift;
CALL compared('m');
SELECT is_empty('TABLE amiss', 'a new side without rows');
CALL bypass('{o, n}', 'INSERT INTO n TABLE o');
TRUNCATE _dualwrite.drift;
CALL compared('m');
SELECT is_empty('TABLE found', 'agreeing again');

-- A filter: a row that it leaves out has no counterpart, and one that is there nevertheless is extra

CREATE TABLE whole (id int PRIMARY KEY, a text);
CREATE TABLE part (id bigint PRIMARY KEY, a text);
SELECT dualwrite.create_migration('filtered', 'whole', 'part', filter => 'a <> ''out''');
SELECT dualwrite.advance('filtered');
SELECT dualwrite.advance('filtered');
INSERT INTO whole SELECT g, CASE WHEN g % 3 = 0 THEN 'out' ELSE 'in' END FROM generate_series(1, 3000) AS g;
CALL bypass('{whole, part}', 'INSERT INTO part VALUES (3, ''out''), (1500, ''in''), (3000, ''out'')', 'DELETE FROM part WHERE id = 4');
SELECT results_eq($$SELECT rows_compared, missing, extra, different FROM dualwrite.reconcile('filtered')$$,
	$$VALUES (2003::bigint, 1::bigint, 3::bigint, 0::bigint)$$, 'a filter');
SELECT results_eq($$SELECT (key->>'id')::int, kind FROM dualwrite.drift WHERE state = 'open' AND migration = 'filtered' ORDER BY 1$$,
	$$VALUES (3, 'extra'), (4, 'missing'), (1500, 'extra'), (3000, 'extra')$$, 'by key');

-- Several columns, descending, texts; the same order on both sides, and another one

CREATE TABLE pair (t text COLLATE "C", i int, a numeric, PRIMARY KEY (t, i));
CREATE TABLE same (u text COLLATE "C" NOT NULL, j bigint NOT NULL, a numeric);
CREATE TABLE other (j bigint NOT NULL, u text COLLATE "und-x-icu" NOT NULL, a numeric);
CREATE UNIQUE INDEX ON same (u, j);
CREATE UNIQUE INDEX ON other (j DESC, u);
SELECT dualwrite.create_migration('same', 'pair', 'same', '{"u": "t", "j": "i"}', '{"t": "u", "i": "j"}', key_columns => '{u,j}');
SELECT dualwrite.add_mapping('same', 'pair', 'other', '{"u": "t", "j": "i"}', '{"t": "u", "i": "j"}', key_columns => '{u,j}', owns => 'new');
SELECT dualwrite.advance('same');
SELECT dualwrite.advance('same');
INSERT INTO pair SELECT chr(65 + g % 50), g, g / 10.0 FROM generate_series(1, 2000) AS g;
CALL bypass('{pair, same, other}', 'DELETE FROM pair WHERE i IN (1, 100, 2000)', 'DELETE FROM same WHERE j IN (50, 51)', 'DELETE FROM other WHERE j IN (50, 51)',
	'UPDATE same SET a = -a WHERE j BETWEEN 900 AND 950', 'UPDATE other SET a = -a WHERE j BETWEEN 900 AND 950',
	'UPDATE same SET a = a + 0.00 WHERE j < 20');
SELECT results_eq($$SELECT new_table::text, rows_compared, missing, extra, different FROM dualwrite.reconcile('same')$$,
	$$VALUES ('same', 2000::bigint, 2::bigint, 3::bigint, 51::bigint), ('other', 2000, 2, 3, 51)$$, 'keys of two columns, in both orders');

SELECT * FROM finish();
