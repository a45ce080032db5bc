-- Several processes at one queue: what one has in hand the others pass over; a poisoned key, and foreign keys whose rows other
-- processes deliver, hold nobody up.
SELECT no_plan();
SET client_min_messages = warning;

CREATE VIEW entry AS SELECT q.*, m.old_table FROM _dualwrite.queue q JOIN _dualwrite.mapping m ON m.id = q.mapping_id;

-- the new side notes who delivered a row
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child (id int PRIMARY KEY, parent int);
CREATE TABLE parent_new (id int PRIMARY KEY, v text CHECK (v <> 'bad'), pid int DEFAULT pg_backend_pid());
CREATE TABLE child_new (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent_new, pid int DEFAULT pg_backend_pid());
-- the child is declared first
SELECT dualwrite.create_migration('m', 'child', 'child_new', delivery => 'queued');
SELECT dualwrite.add_mapping('m', 'parent', 'parent_new', delivery => 'queued');
SELECT dualwrite.configure('m', 'queue_backoff', '1000 s');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
CALL dualwrite.run('m', timeout => '10 min');

-- Some of the keys cannot be written until this lock is released, which their deliverer waits for in a trigger: another process
-- is needed for the rest.
CREATE FUNCTION stop_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.v = 'gate' THEN
		SET LOCAL lock_timeout = 0;
		PERFORM pg_advisory_xact_lock_shared(4711);
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER stop_at_gate BEFORE INSERT ON parent_new FOR EACH ROW EXECUTE FUNCTION stop_at_gate();
ALTER TABLE parent_new ENABLE ALWAYS TRIGGER stop_at_gate;

SELECT dualwrite.pause('m');
INSERT INTO parent SELECT g, CASE WHEN g % 500 = 250 THEN 'bad' WHEN g = 3 THEN 'gate' ELSE 'v' END FROM generate_series(1, 4000) AS g;
INSERT INTO child SELECT g, 1 + g % 4000 FROM generate_series(1, 8000) AS g;
SELECT pg_advisory_lock(4711);
-- a setting that changes is acted upon in the first step, before anything is waited for
SELECT dualwrite.configure('m', 'queue_workers', '3');
SELECT dualwrite.resume('m');
-- held up: the keys of one batch, and the children that refer to them
CALL await($$(SELECT count(*) >= 3744 - 8 FROM parent_new)$$);
CALL await($$(SELECT count(DISTINCT pid) >= 2 FROM parent_new)$$);
SELECT pass('while one process waits, others deliver all that it has not in hand');
CALL await($$EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted)$$);
SELECT is((SELECT count(*) FROM dualwrite.workers WHERE migration = 'm' AND role = 'queue' AND pid IS NOT NULL) BETWEEN 1 AND 3, true, 'no more than are wanted');
SELECT pg_advisory_unlock(4711);
CALL await($$(SELECT count(*) = 3992 FROM parent_new)$$);
CALL await($$(SELECT count(*) = 7984 FROM child_new)$$);
CALL await($$(SELECT count(*) = 8 + 16 FROM entry WHERE sqlstate IS NOT NULL)$$);
SELECT results_eq($$SELECT old_table::text, count(*), min(attempts), max(attempts), min(sqlstate), max(sqlstate) FROM entry GROUP BY 1 ORDER BY 1$$,
	$$VALUES ('child', 16::bigint, 0, 0, '23503', '23503'), ('parent', 8, 1, 1, '23514', '23514')$$,
	'each poisoned key has failed once, its children wait for it, and nothing else is left');
SELECT is_empty($$SELECT id, v FROM parent WHERE v <> 'bad' EXCEPT SELECT id, v FROM parent_new$$, 'all other parents are there');
SELECT is_empty($$SELECT id, parent FROM child WHERE parent % 500 <> 250 EXCEPT SELECT id, parent FROM child_new$$, 'and all their children');

-- mended: parents and children again, by whomever
UPDATE parent SET v = 'good' WHERE v = 'bad';
CALL await($$NOT EXISTS (SELECT FROM entry)$$);
SELECT set_eq('SELECT id, parent FROM child', 'SELECT id, parent FROM child_new', 'all children are there');

-- written again and again while several deliver
SELECT dualwrite.pause('m');
UPDATE child SET parent = 1 + (parent + 7) % 4000;
UPDATE parent SET v = v || 'x';
UPDATE child SET parent = 1 + (parent + 7) % 4000 WHERE id % 2 = 0;
DELETE FROM child WHERE id > 7000;
DELETE FROM parent WHERE id NOT IN (SELECT parent FROM child);
SELECT dualwrite.resume('m');
CALL await($$NOT EXISTS (SELECT FROM entry)$$);
SELECT set_eq('SELECT id, parent FROM child', 'SELECT id, parent FROM child_new', 'children as they are');
SELECT set_eq('TABLE parent', 'SELECT id, v FROM parent_new', 'parents as they are');
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('m')), 0::numeric, 'no drift');
SELECT is_empty('TABLE dualwrite.dead_letters', 'nothing has died of it');
CALL await($$(SELECT count(*) = 1 FROM dualwrite.workers WHERE migration = 'm' AND pid IS NOT NULL)$$);
SELECT pass('with nothing to do one process is enough');

SELECT * FROM finish();
