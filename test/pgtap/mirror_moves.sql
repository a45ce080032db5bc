-- Keys that change while more happens to their rows in the same statement: foreign keys that follow, triggers that write again.
-- The new row moves, with what only the new side has, whatever else becomes of it.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

-- A chain of rows, each referencing the one before it, all of which move: an update of the key, and then, by the foreign key, one of the reference.
CREATE TABLE mo (id int PRIMARY KEY, p int CONSTRAINT before REFERENCES mo ON UPDATE CASCADE, v text, mark text DEFAULT '-');
CREATE TABLE mn (id int PRIMARY KEY, p int CONSTRAINT before REFERENCES mn ON UPDATE CASCADE, v text, own text DEFAULT '-');
-- rows that disagree, and rows that have lost what only the new side has ("own" was made of "mark", which only the old side has)
CREATE FUNCTION apart() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM mo FULL JOIN mn USING (id) WHERE (mo.p, mo.v) IS DISTINCT FROM (mn.p, mn.v) OR mn.own IS DISTINCT FROM mo.mark $$;
SELECT dualwrite.create_migration('moves', 'mo', 'mn', forward => '{"own": null}', reverse => '{"mark": null}');
CALL dualwrite.run('moves', 'read_switch');
INSERT INTO mo (id, p, v) SELECT g, nullif(g - 1, 100), 'v' FROM generate_series(101, 130) g;
UPDATE mo SET mark = 'mark ' || id;
UPDATE mn SET own = 'mark ' || id;
SELECT is(apart(), 0::bigint, 'rows that reference each other');
SELECT lives_ok('UPDATE mo SET id = id + 1000', 'a chain of references moves');
SELECT is(apart(), 0::bigint, '... on both sides, row by row');
SELECT lives_ok('UPDATE mo SET id = id - 1000 WHERE id % 3 > 0', 'some of it moves back');
SELECT is(apart(), 0::bigint, '... on both sides');
SELECT lives_ok('UPDATE mn SET id = id - 1000 WHERE id > 1000', 'the rest does, on the new side');
SELECT is(apart(), 0::bigint, '... on both sides');
SELECT lives_ok('UPDATE mn SET id = id + 1000', 'all of it moves, on the new side');
SELECT is(apart(), 0::bigint, '... on both sides');
UPDATE mo SET id = id - 1000;

-- A trigger writes the row that has just moved, moves it on, or puts another one where it was.
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() > 1 THEN
		RETURN NULL;
	ELSIF new.v = 'write' THEN
		UPDATE mo SET v = 'written' WHERE id = new.id;
	ELSIF new.v = 'move' THEN
		UPDATE mo SET id = id + 1000, v = 'moved' WHERE id = new.id;
	ELSIF new.v = 'back' THEN
		UPDATE mo SET id = old.id WHERE id = new.id;
	ELSIF new.v = 'replace' THEN
		INSERT INTO mo VALUES (old.id, NULL, 'another');
	ELSIF new.v = 'remove' THEN
		DELETE FROM mo WHERE id = new.id;
	END IF;
	RETURN NULL;
END $$;
-- Such a statement of its own ends before the outer one's foreign keys have followed.
UPDATE mo SET v = 'write';
CREATE TRIGGER "A meddle" AFTER UPDATE OF id ON mo FOR EACH ROW EXECUTE FUNCTION meddle();
SELECT lives_ok('UPDATE mo SET id = 1001 WHERE id = 101', 'a row moves, and is written again before the row that references it has followed');
SELECT is(apart(), 0::bigint, '... on both sides');
SELECT lives_ok('UPDATE mo SET id = id + 1000 WHERE id BETWEEN 102 AND 110 AND id % 2 = 0', 'several of them');
SELECT is(apart(), 0::bigint, '... on both sides');
DROP TRIGGER "A meddle" ON mo;
CREATE TRIGGER "z meddle" AFTER UPDATE OF id ON mo FOR EACH ROW EXECUTE FUNCTION meddle();
SELECT lives_ok('UPDATE mo SET id = id - 1000 WHERE id > 1000', 'the same by a trigger that fires after ours');
SELECT is(apart(), 0::bigint, '... on both sides');
DROP TRIGGER "z meddle" ON mo;
ALTER TABLE mo DROP CONSTRAINT before;
ALTER TABLE mn DROP CONSTRAINT before;
UPDATE mo SET p = NULL, v = (ARRAY['write', 'move', 'back', 'replace', 'remove', 'nothing'])[id % 6 + 1];
CREATE TRIGGER "A meddle" AFTER UPDATE OF id ON mo FOR EACH ROW EXECUTE FUNCTION meddle();
UPDATE mo SET id = id + 200;
SELECT is(apart(), 0::bigint, 'a trigger that fires before ours and writes the rows again');
SELECT is((SELECT count(*) FROM mn), 30::bigint, '... of which some go, and some come');
DROP TRIGGER "A meddle" ON mo;
UPDATE mo SET v = (ARRAY['write', 'move', 'back', 'replace', 'remove', 'nothing'])[id % 6 + 1];
CREATE TRIGGER "z meddle" AFTER UPDATE OF id ON mo FOR EACH ROW EXECUTE FUNCTION meddle();
UPDATE mo SET id = id + 5000;
SELECT is(apart(), 0::bigint, 'a trigger that fires after ours');
DROP TRIGGER "z meddle" ON mo;

-- One statement changes a key and inserts a row where the other one was.
TRUNCATE mo;
INSERT INTO mo (id, v) SELECT g, 'v' FROM generate_series(1, 20) g;
UPDATE mo SET mark = 'mark ' || id;
UPDATE mn SET own = 'mark ' || id;
MERGE INTO mo USING (SELECT 1 AS kind, g AS id FROM generate_series(1, 20) g UNION ALL SELECT 2, g FROM generate_series(1, 20) g ORDER BY 1, 2) s ON s.id = mo.id AND s.kind = 1
	WHEN MATCHED THEN UPDATE SET id = mo.id + 100 WHEN NOT MATCHED AND s.kind = 2 THEN INSERT (id, v) VALUES (s.id, 'in its place');
SELECT is(apart(), 0::bigint, 'rows that move, and others that take their places');
SELECT is((SELECT count(*) FROM mn WHERE own = 'mark ' || (id - 100)), 20::bigint, '... with what they have');

-- Rows are written that foreign keys of the new side have deleted already, and those of the old side are still to delete.
CREATE TABLE co (id int PRIMARY KEY, p int REFERENCES co ON DELETE CASCADE, v text);
CREATE TABLE cn (id int PRIMARY KEY, p int REFERENCES cn ON DELETE CASCADE, v text);
SELECT dualwrite.create_migration('chain', 'co', 'cn');
CALL dualwrite.run('chain', 'verify');
CREATE PROCEDURE chain(deeds text) LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE co;
	INSERT INTO co SELECT g, nullif(g - 1, 0), 'v' FROM generate_series(1, 8) g;
	COMMIT;
	EXECUTE 'MERGE INTO co USING (VALUES ' || deeds || $merge$) s (deed, id) ON s.id = co.id
		WHEN MATCHED AND s.deed = 'delete' THEN DELETE WHEN MATCHED THEN UPDATE SET v = 'updated'$merge$;
END $$;
CREATE FUNCTION chain_apart() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM co FULL JOIN cn USING (id) WHERE (co.p, co.v) IS DISTINCT FROM (cn.p, cn.v) $$;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
CALL chain($$('delete', 1), ('update', 3)$$);
SELECT is(chain_apart(), 0::bigint, 'a grandchild is updated after its grandparent was deleted');
CALL chain($$('update', 3), ('delete', 1)$$);
SELECT is(chain_apart(), 0::bigint, '... before it was');
CALL chain($$('delete', 1), ('update', 6), ('update', 4), ('delete', 5), ('delete', 3)$$);
SELECT is(chain_apart(), 0::bigint, 'several of them');
CALL chain($$('update', 8), ('delete', 4), ('update', 3), ('update', 7), ('update', 5)$$);
SELECT is(chain_apart(), 0::bigint, '... some of which stay');
SELECT is((SELECT count(*) FROM cn), 3::bigint, '... as they do on the old side');
RESET enable_hashjoin;
RESET enable_mergejoin;

-- Checks of what a foreign key has done may wait for the commit.
CREATE TABLE wo (id int PRIMARY KEY);
CREATE TABLE wn (id int PRIMARY KEY);
CREATE TABLE wco (id int PRIMARY KEY, p int REFERENCES wo ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE wcn (id int PRIMARY KEY, p int REFERENCES wn ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
SELECT dualwrite.create_migration('waits');
SELECT dualwrite.add_mapping('waits', 'wo', 'wn');
SELECT dualwrite.add_mapping('waits', 'wco', 'wcn');
CALL dualwrite.run('waits', 'verify');
CREATE FUNCTION waits_apart() RETURNS bigint LANGUAGE sql AS $$
	SELECT (SELECT count(*) FROM wco FULL JOIN wcn USING (id) WHERE wco.p IS DISTINCT FROM wcn.p) +
		(SELECT count(*) FROM wo FULL JOIN wn USING (id) WHERE wo IS NULL OR wn IS NULL) $$;
INSERT INTO wo SELECT generate_series(1, 10);
INSERT INTO wco SELECT g, g FROM generate_series(1, 10) g;
SELECT lives_ok('UPDATE wo SET id = id + 100 WHERE id < 4', 'a foreign key follows, and is checked at the end of the transaction');
SELECT is(waits_apart(), 0::bigint, '... on both sides');
SELECT lives_ok('DELETE FROM wo WHERE id = 101', 'it is set to null');
SELECT is(waits_apart(), 0::bigint, '... on both sides');
BEGIN;
UPDATE wo SET id = id + 1000 WHERE id = 5;
INSERT INTO wco VALUES (50, 500);
DELETE FROM wo WHERE id = 6;
INSERT INTO wo VALUES (500);
COMMIT;
SELECT is(waits_apart(), 0::bigint, 'a child before its parent');

SELECT * FROM finish();
