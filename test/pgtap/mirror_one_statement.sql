-- One statement writes both sides, the same rows among them, in one order and the other: whichever write wins, both sides agree.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

CREATE TABLE bo (id int PRIMARY KEY, v int);
CREATE TABLE bn (id int PRIMARY KEY, v int, own int DEFAULT 7);
CREATE TABLE po (id int, v int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE po_1 PARTITION OF po FOR VALUES FROM (0) TO (20);
CREATE TABLE po_2 PARTITION OF po DEFAULT;
CREATE TABLE pn (own int DEFAULT 7, v int, id int, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE pn_0 PARTITION OF pn FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE pn_1 PARTITION OF pn FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT dualwrite.create_migration('one', 'bo', 'bn');
SELECT dualwrite.add_mapping('one', 'po', 'pn');
CALL dualwrite.run('one', 'read_switch');
INSERT INTO bo SELECT g, g FROM generate_series(1, 60) g;
INSERT INTO po SELECT g, g FROM generate_series(1, 60) g;

-- Rows that disagree after the statement, which is undone.  {o} and {n} are the two sides, or the other way round.
CREATE FUNCTION apart(statement text, o text, n text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE replace(replace(statement, '{o}', o), '{n}', n);
	EXECUTE format('SELECT string_agg(coalesce(o.id, n.id)::text, '','' ORDER BY 1) FROM %I o FULL JOIN %I n USING (id) WHERE o.v IS DISTINCT FROM n.v', o, n) INTO result;
	RAISE EXCEPTION 'apart: %', coalesce(result, 'none') USING ERRCODE = 'DW001';
EXCEPTION WHEN SQLSTATE 'DW001' THEN
	RETURN substring(sqlerrm FROM 8);
WHEN unique_violation THEN
	RETURN 'none';
END $$;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_material = off;
SELECT is(apart(statement, o, n), 'none', statement || ', ' || o)
FROM (VALUES ('bo', 'bn'), ('bn', 'bo'), ('po', 'pn'), ('pn', 'po')) sides (o, n), (VALUES
	('WITH a AS (DELETE FROM {o} WHERE id = 1), b AS (UPDATE {n} SET v = 55 WHERE id = 1) SELECT'),
	('WITH b AS (UPDATE {n} SET v = 55 WHERE id = 1), a AS (DELETE FROM {o} WHERE id = 1) SELECT'),
	('WITH a AS (DELETE FROM {o} WHERE id <= 30), b AS (UPDATE {n} SET v = 55 WHERE id BETWEEN 10 AND 40) SELECT'),
	('WITH b AS (UPDATE {n} SET v = 55 WHERE id BETWEEN 10 AND 40), a AS (DELETE FROM {o} WHERE id <= 30) SELECT'),
	('WITH a AS (DELETE FROM {o} WHERE id <= 30 RETURNING id) UPDATE {n} SET v = 55 FROM a WHERE a.id = {n}.id'),
	('WITH a AS (UPDATE {o} SET v = 55 WHERE id <= 30 RETURNING id) DELETE FROM {n} USING a WHERE a.id = {n}.id'),
	('WITH a AS (UPDATE {o} SET v = 55 WHERE id <= 30 RETURNING id) UPDATE {n} SET v = 66 FROM a WHERE a.id = {n}.id + 5'),
	('WITH a AS (UPDATE {o} SET id = id + 100 WHERE id <= 30 RETURNING id) UPDATE {n} SET v = 66 FROM a WHERE a.id = {n}.id + 100'),
	('WITH a AS (UPDATE {o} SET id = id + 100 WHERE id <= 30 RETURNING id) DELETE FROM {n} USING a WHERE a.id = {n}.id + 100'),
	('WITH a AS (UPDATE {o} SET id = id + 100 WHERE id <= 30 RETURNING id) UPDATE {n} SET id = {n}.id + 200 FROM a WHERE a.id = {n}.id + 100'),
	('WITH a AS (INSERT INTO {o} (id, v) SELECT g, 1 FROM generate_series(100, 130) g RETURNING id) INSERT INTO {n} (id, v) SELECT id, 2 FROM a'),
	('WITH a AS (INSERT INTO {o} (id, v) SELECT g, 1 FROM generate_series(100, 130) g), b AS (INSERT INTO {n} (id, v) SELECT g, 2 FROM generate_series(130, 100, -1) g) SELECT'),
	('WITH a AS (DELETE FROM {o} WHERE id <= 30 RETURNING id) DELETE FROM {n} USING a WHERE a.id = {n}.id + 5'),
	('WITH a AS (DELETE FROM {o} WHERE id <= 30 RETURNING id) INSERT INTO {n} (id, v) SELECT id + 100, 3 FROM a'),
	('WITH a AS (DELETE FROM {o} WHERE id <= 30 RETURNING id), b AS (UPDATE {n} SET v = 4 WHERE id > 20), c AS (INSERT INTO {o} (id, v) SELECT id, 5 FROM a WHERE id > 10)
		DELETE FROM {n} WHERE id BETWEEN 35 AND 45')) statements (statement);

SELECT * FROM finish();
