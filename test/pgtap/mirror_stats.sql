-- What mirror_stats says of the time that mirrors take, and of the application's own writes beside them.
SELECT no_plan();
SET client_min_messages = warning;
CREATE TABLE o (id int PRIMARY KEY, v text);
CREATE TABLE n (id int PRIMARY KEY, v text);
INSERT INTO o SELECT g, 'v' FROM generate_series(1, 100) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
CALL dualwrite.run('m', 'dual_write', timeout => '10 min');
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.4); RETURN NEW; END $$;
-- Time of a row, of the mirror and of the application itself: slow or not?  The sleeps are long, so that what is quick is so on a busy machine, too.
CREATE FUNCTION slowness(dir text DEFAULT 'forward', OUT mirror boolean, OUT own boolean) LANGUAGE sql
	AS $$ SELECT p50_us > 300000, own_p50_us > 300000 FROM dualwrite.mirror_stats WHERE direction = dir $$;

SELECT results_eq('SELECT inserts, own_ms, own_p50_us FROM dualwrite.mirror_stats', 'VALUES (0::bigint, 0::float8, NULL::float8)', 'nothing yet');
UPDATE o SET v = 'a' WHERE id = 1;
SELECT results_eq('SELECT * FROM slowness()', 'VALUES (false, false)', 'a quick mirror, a quick statement');
SELECT ok(own_ms > 0 AND own_p50_us > 0 AND own_p99_us >= own_p50_us AND total_ms > 0, 'both are timed') FROM dualwrite.mirror_stats;

SELECT dualwrite.reset_stats('m');
UPDATE o SET v = 'b' FROM pg_sleep(0.4) WHERE id = 1;
SELECT results_eq('SELECT * FROM slowness()', 'VALUES (false, true)', 'a slow statement is not the mirror''s fault');
SELECT dualwrite.reset_stats('m');
CREATE TRIGGER own_trigger AFTER UPDATE ON o FOR EACH ROW EXECUTE FUNCTION slow();
UPDATE o SET v = 'c' WHERE id = 1;
SELECT results_eq('SELECT * FROM slowness()', 'VALUES (false, true)', 'nor are the table''s own triggers');
DROP TRIGGER own_trigger ON o;

SELECT dualwrite.reset_stats('m');
CREATE TRIGGER new_trigger BEFORE INSERT OR UPDATE ON n FOR EACH ROW EXECUTE FUNCTION slow();
ALTER TABLE n ENABLE ALWAYS TRIGGER new_trigger;
UPDATE o SET v = 'd' WHERE id = 1;
SELECT results_eq('SELECT * FROM slowness()', 'VALUES (true, false)', 'a slow mirror is not the statement''s');
INSERT INTO o SELECT g, 'v' FROM generate_series(101, 103) AS g;
DO $$ BEGIN UPDATE o SET v = 'e' WHERE id IN (101, 102); END $$;
COPY o FROM stdin;
104	copied
105	copied
\.
SELECT results_eq('SELECT * FROM slowness()', 'VALUES (true, false)', 'several rows, within a function, COPY');
SELECT results_eq('SELECT inserts + updates FROM dualwrite.mirror_stats', 'VALUES (8::bigint)', 'all of them counted');
DROP TRIGGER new_trigger ON n;

-- statements within statements keep their own time
SELECT dualwrite.reset_stats('m');
CREATE FUNCTION inner_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	BEGIN
		UPDATE o SET v = 'inner' WHERE id = 2;
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		NULL;
	END;
	UPDATE o SET v = 'inner' WHERE id = 3;
	RETURN NEW;
END $$;
CREATE TRIGGER own_trigger BEFORE UPDATE ON o FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION inner_write();
UPDATE o SET v = 'outer' WHERE id = 1;
SELECT results_eq('SELECT inserts + updates FROM dualwrite.mirror_stats', 'VALUES (2::bigint)', 'what was undone is not counted');
SELECT ok(own_p50_us > 0, 'and the others are timed') FROM dualwrite.mirror_stats;
SELECT * FROM finish();
