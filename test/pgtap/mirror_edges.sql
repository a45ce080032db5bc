-- The mirror where it was broken once: each part begins with what went wrong.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

-- Rows of either query that the other one lacks.
CREATE FUNCTION differences(a text, b text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((%1$s EXCEPT ALL %2$s) UNION ALL (%2$s EXCEPT ALL %1$s)) d', '(' || a || ')', '(' || b || ')') INTO n;
	RETURN n;
END $$;

-- Triggers of the new table that write old tables while a row is being mirrored: the statement's own rows were overwritten,
-- what it had open was closed, the server crashed.
CREATE TABLE eo (id int PRIMARY KEY, v text);
CREATE TABLE en (id int PRIMARY KEY, v text);
CREATE TABLE eo2 (id int PRIMARY KEY, v text);
CREATE TABLE en2 (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('echo', 'eo', 'en');
SELECT dualwrite.create_migration('echo2', 'eo2', 'en2');
CALL dualwrite.run('echo', 'verify');
CALL dualwrite.run('echo2', 'verify');
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF tg_op = 'DELETE' THEN
		DELETE FROM eo2 WHERE id = old.id;
		RETURN old;
	END IF;
	IF new.id < 1000 THEN
		INSERT INTO eo VALUES (new.id + 1000, 'echo of ' || new.v) ON CONFLICT (id) DO UPDATE SET v = excluded.v;
		INSERT INTO eo2 VALUES (new.id, new.v) ON CONFLICT (id) DO UPDATE SET v = excluded.v;
	END IF;
	RETURN new;
END $$;
CREATE TRIGGER echo BEFORE INSERT OR UPDATE OR DELETE ON en FOR EACH ROW EXECUTE FUNCTION echo();
ALTER TABLE en ENABLE ALWAYS TRIGGER echo;
CREATE FUNCTION echoed() RETURNS bigint LANGUAGE sql AS $$
	SELECT differences('TABLE eo', 'TABLE en') + differences('TABLE eo2', 'TABLE en2') $$;
INSERT INTO eo SELECT g, repeat('long ', g) FROM generate_series(1, 20) g;
SELECT is(echoed(), 0::bigint, 'BEFORE trigger that writes old tables: INSERT');
SELECT is((SELECT count(*) FROM en WHERE id > 1000), 20::bigint, 'what it wrote is mirrored');
SELECT is((SELECT count(*) FROM en2), 20::bigint, 'for the other migration, too');
UPDATE eo SET v = v || '+' WHERE id < 1000;
SELECT is(echoed(), 0::bigint, 'UPDATE');
DELETE FROM eo WHERE id BETWEEN 5 AND 8;
SELECT is(echoed(), 0::bigint, 'DELETE');
UPDATE eo SET id = id + 100 WHERE id < 20;
SELECT is(echoed(), 0::bigint, 'key changes');
SELECT dualwrite.configure('echo', 'mirror_on_error', 'queue');
UPDATE eo SET v = v || '!' WHERE id < 1000;
SELECT is(echoed(), 0::bigint, 'the same with mirror_on_error = queue');
DROP TRIGGER echo ON en;
CREATE TRIGGER echo AFTER INSERT OR UPDATE OR DELETE ON en FOR EACH ROW EXECUTE FUNCTION echo();
ALTER TABLE en ENABLE ALWAYS TRIGGER echo;
UPDATE eo SET v = v || '?' WHERE id < 1000;
SELECT is(echoed(), 0::bigint, 'AFTER trigger');
SELECT dualwrite.configure('echo', 'mirror_on_error', 'abort');
UPDATE eo SET id = id + 100, v = 'moved' WHERE id < 1000;
SELECT is(echoed(), 0::bigint, 'AFTER trigger, key changes');

-- A chain of migrations that both put mirrors off: what followed the first was forgotten.
CREATE TABLE c1 (id int PRIMARY KEY, v text);
CREATE TABLE c2 (id int PRIMARY KEY, v text);
CREATE TABLE c3 (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('first', 'c1', 'c2');
SELECT dualwrite.create_migration('second', 'c2', 'c3');
CALL dualwrite.run('first', 'verify');
CALL dualwrite.run('second', 'verify');
SELECT dualwrite.configure('first', 'mirror_on_error', 'queue');
SELECT dualwrite.configure('second', 'mirror_on_error', 'queue');
INSERT INTO c1 VALUES (1, 'a'), (2, 'b'), (3, 'c');
UPDATE c1 SET v = 'new' WHERE id = 1;
UPDATE c1 SET id = id + 10 WHERE id < 3;
DELETE FROM c1 WHERE id = 3;
SELECT is(differences('TABLE c1', 'TABLE c3'), 0::bigint, 'a chain with mirror_on_error = queue');

-- Errors of the new side showed its columns to writers who may not read it.
CREATE ROLE edge_writer;
CREATE TABLE so (id int PRIMARY KEY, v int);
CREATE TABLE sn (id int PRIMARY KEY, v int UNIQUE CHECK (v < 100), secret text DEFAULT 'secret');
SELECT dualwrite.create_migration('secret', 'so', 'sn');
CALL dualwrite.run('secret', 'verify');
GRANT SELECT, INSERT, UPDATE, DELETE ON so TO edge_writer;
INSERT INTO so VALUES (1, 1), (2, 2);
CREATE FUNCTION detail_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE d text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL;
	RETURN d;
END $$;
SET ROLE edge_writer;
SELECT is(detail_of('UPDATE so SET v = 200 WHERE id = 1'), '', 'a failed check shows no row to those who may not read it');
SELECT is(detail_of('UPDATE so SET v = 2 WHERE id = 1'), '', 'nor a unique violation');
RESET ROLE;
SELECT ok(detail_of('UPDATE so SET v = 200 WHERE id = 1') LIKE 'Failing row%', 'others see it');
GRANT SELECT ON sn TO edge_writer;
SET ROLE edge_writer;
SELECT ok(detail_of('UPDATE so SET v = 200 WHERE id = 1') LIKE 'Failing row%', 'as does who may read it');
RESET ROLE;
ALTER TABLE sn ENABLE ROW LEVEL SECURITY;
SET ROLE edge_writer;
SELECT is(detail_of('UPDATE so SET v = 200 WHERE id = 1'), '', 'but not under row security');
RESET ROLE;

DROP OWNED BY edge_writer;
DROP ROLE edge_writer;
SELECT * FROM finish();
