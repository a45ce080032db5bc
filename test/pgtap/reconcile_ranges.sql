-- A background comparison is cut into ranges of the key, for several processes.  Whatever the key looks like and wherever it
-- is cut, every row is compared once, and the list of drift is what plain SQL says.
SELECT no_plan();
SET client_min_messages = warning;
SELECT setseed(0.25);

-- The most ranges that a pass of this migration was seen to have.
CREATE PROCEDURE compared(name text, INOUT most int) LANGUAGE plpgsql AS $$
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
	SELECT ranges INTO most FROM _dualwrite.reconcile_pass WHERE id = pass;
END $$;
CREATE VIEW last AS SELECT rows_compared, missing, extra, different, in_step FROM _dualwrite.reconcile_pass WHERE finished_at IS NOT NULL ORDER BY id DESC LIMIT 1;

-- A key of two columns, the first of which hardly ever changes, in descending order; both sides in step

CREATE TABLE o (kind text COLLATE "C" NOT NULL, id int NOT NULL, a int);
CREATE UNIQUE INDEX ON o (kind, id DESC);
CREATE TABLE n (sort text COLLATE "C" NOT NULL, id bigint NOT NULL, a int);
CREATE UNIQUE INDEX ON n (sort, id DESC);
INSERT INTO o SELECT CASE WHEN g % 10 = 0 THEN 'ä"\' ELSE 'z' END, g, g FROM generate_series(1, 60000) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n', '{"sort": "kind"}', '{"kind": "sort"}', key_columns => '{sort,id}');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
SELECT dualwrite.configure('m', 'reconcile_workers', '3');
SELECT dualwrite.configure('m', 'reconcile_chunk_ms', '1');
CALL dualwrite.run('m', 'verify', '10 min');
CALL bypass('{o, n}', 'UPDATE n SET a = -a WHERE random() < 0.01', 'DELETE FROM n WHERE random() < 0.01', 'DELETE FROM o WHERE random() < 0.01',
	'INSERT INTO n SELECT ''zz'', g, 1 FROM generate_series(1, 100) AS g', 'INSERT INTO n SELECT '''', g, 1 FROM generate_series(1, 100) AS g');
CREATE VIEW expected AS
	SELECT coalesce(n.sort, o.kind) AS sort, coalesce(n.id, o.id) AS id,
		CASE WHEN n.id IS NULL THEN 'missing' WHEN o.id IS NULL THEN 'extra' ELSE 'different' END AS kind
	FROM o FULL JOIN n ON n.id = o.id AND n.sort = o.kind WHERE o.id IS NULL OR n.id IS NULL OR o.a IS DISTINCT FROM n.a;
CREATE VIEW found AS SELECT key->>'sort' AS sort, (key->>'id')::bigint AS id, kind FROM dualwrite.drift WHERE migration = 'm' AND state = 'open';
CALL compared('m', NULL) \gset
SELECT cmp_ok(:most, '>', 4, 'a key of two columns: several ranges');
SELECT is((SELECT in_step FROM last), true, 'both sides in step');
SELECT is_empty('SELECT * FROM expected FULL JOIN found USING (sort, id, kind) WHERE expected IS NULL OR found IS NULL', 'the keys');
SELECT is((SELECT rows_compared FROM last), (SELECT count(*) FROM o FULL JOIN n ON n.id = o.id AND n.sort = o.kind), 'every key once');
SELECT is((SELECT missing + extra + different FROM last), (SELECT count(*) FROM expected), 'every difference once');
SELECT is((SELECT count(*)::int FROM _dualwrite.reconcile_range), 0, 'no range is left behind');

-- Another order of the key, partitions: each side on its own

CREATE TABLE parted (id int NOT NULL, t text NOT NULL, a int, PRIMARY KEY (t, id)) PARTITION BY HASH (t);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_1 (a int, t text NOT NULL, id int NOT NULL);
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE whole (id bigint NOT NULL, t text NOT NULL, a int, PRIMARY KEY (id, t));
INSERT INTO parted SELECT g, md5(g::text), g FROM generate_series(1, 30000) AS g;
SELECT dualwrite.create_migration('parted', 'parted', 'whole');
SELECT dualwrite.configure('parted', 'reconcile_interval', '0');
CALL dualwrite.run('parted', 'verify', '10 min');
CALL bypass('{parted, whole}', 'UPDATE whole SET a = -a WHERE random() < 0.01', 'DELETE FROM whole WHERE random() < 0.01', 'DELETE FROM parted WHERE random() < 0.01');
CALL compared('parted', NULL) \gset
SELECT cmp_ok(:most, '>', 6, 'partitions: several ranges');
SELECT is((SELECT in_step FROM last), false, 'each side on its own');
SELECT results_eq('SELECT rows_compared, missing, extra, different FROM last',
	$$SELECT count(*), count(*) FILTER (WHERE n.id IS NULL), count(*) FILTER (WHERE o.id IS NULL), count(*) FILTER (WHERE o.a <> n.a)
		FROM parted o FULL JOIN whole n USING (id, t)$$, 'the numbers');

-- name is stored in an index as something else

CREATE TABLE named (id name PRIMARY KEY, a int);
CREATE TABLE renamed (id name PRIMARY KEY, a int);
INSERT INTO named SELECT 'n' || g, g FROM generate_series(1, 30000) AS g;
SELECT dualwrite.create_migration('named', 'named', 'renamed');
SELECT dualwrite.configure('named', 'reconcile_interval', '0');
CALL dualwrite.run('named', 'verify', '10 min');
CALL bypass('{named, renamed}', 'UPDATE renamed SET a = -a WHERE a % 1000 = 0');
CALL compared('named', NULL) \gset
SELECT cmp_ok(:most, '>', 2, 'names: several ranges');
SELECT results_eq('SELECT rows_compared, missing, extra, different FROM last', 'VALUES (30000::bigint, 0::bigint, 0::bigint, 30::bigint)', 'names: the numbers');

-- The order of the sides parts while a comparison is under way: it begins anew

SELECT dualwrite.pause('m');
SELECT count(*) > 0 AS asked FROM dualwrite.reconcile('m', background => true) \gset
-- it waits by itself where it has begun
SELECT dualwrite.configure('m', 'throttle_query', 'SELECT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE stage = ''compare'' AND rows_compared > 0)');
SELECT dualwrite.resume('m');
DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE stage = 'compare' AND rows_compared > 0 AND throttled_by <> '{}') LOOP
	IF NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL) THEN RAISE 'it has ended'; END IF; COMMIT; PERFORM pg_sleep(0.005); END LOOP;
	PERFORM dualwrite.pause('m'); END $$;
SELECT dualwrite.configure('m', 'throttle_query', NULL);
CREATE UNIQUE INDEX other ON n (id, sort);
DROP INDEX n_sort_id_idx;
SELECT dualwrite.resume('m');
DO $$ BEGIN WHILE EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL) LOOP COMMIT; PERFORM pg_sleep(0.005); END LOOP; END $$;
SELECT is((SELECT in_step FROM last), false, 'another index of the key: not in step any more');
SELECT is((SELECT rows_compared FROM last), (SELECT count(*) FROM o FULL JOIN n ON n.id = o.id AND n.sort = o.kind), 'every key once');
SELECT is((SELECT missing + extra + different FROM last), (SELECT count(*) FROM expected), 'every difference once');

SELECT * FROM finish();
