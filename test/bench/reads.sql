/*
 * What it costs to ask which side serves, for each row of a query, and what a look-up by key costs through a read view.
 */
\set QUIET on
\pset footer off
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE EXTENSION dualwrite;
CREATE TABLE o (id int PRIMARY KEY, v text);
CREATE TABLE n (id int PRIMARY KEY, v text);
INSERT INTO o SELECT g, 'v' || g FROM generate_series(1, 100000) AS g;
SELECT dualwrite.create_migration('m', 'o', 'n') \g /dev/null
SELECT dualwrite.create_read_view('m', 'r') \g /dev/null
SELECT dualwrite.configure('m', 'reconcile_interval', '1 s') \g /dev/null
CALL dualwrite.run('m', 'read_switch');
SELECT dualwrite.configure('m', 'reconcile_interval', '0') \g /dev/null
VACUUM ANALYZE;

CREATE TABLE result (what text, us float8);
CREATE PROCEDURE measure(what text, statement text, times int) LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	EXECUTE statement;
	INSERT INTO result VALUES (what, extract(epoch FROM clock_timestamp() - began) * 1e6 / times);
END $$;
-- By key, each in a statement of its own, with a kept plan.
CREATE PROCEDURE look_up(what text, name text, times int) LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz;
	found text;
BEGIN
	EXECUTE format('PREPARE p (int) AS SELECT v FROM %I WHERE id = $1', name);
	began := clock_timestamp();
	FOR i IN 1 .. times LOOP
		EXECUTE 'EXECUTE p (' || i % 100000 + 1 || ')' INTO found;
	END LOOP;
	INSERT INTO result VALUES (what, extract(epoch FROM clock_timestamp() - began) * 1e6 / times);
	DEALLOCATE p;
END $$;

SELECT dualwrite.set_read_percent('m', 50) \g /dev/null
SELECT format('CALL measure(%L, %L, %s)', what, statement, :calls)
FROM generate_series(1, :rounds) AS round, (VALUES
	('a STABLE function', format('SELECT count(pg_backend_pid() + g) FROM generate_series(1, %s) AS g', :calls)),
	('read_side(m, key)', format('SELECT count(dualwrite.read_side(''m'', g)) FROM generate_series(1, %s) AS g', :calls)),
	('read_side(m)', format('SELECT count(dualwrite.read_side(''m'') || g) FROM generate_series(1, %s) AS g', :calls)),
	('a constant in its place', format('SELECT count(version() || g) FROM generate_series(1, %s) AS g', :calls))) AS t (what, statement) \gexec
SELECT format('CALL look_up(%L, %L, 20000)', 'table', 'o') FROM generate_series(1, :rounds) AS round \gexec
SELECT dualwrite.set_read_percent('m', 0) \g /dev/null
SELECT format('CALL look_up(%L, %L, 20000)', 'view at 0 %', 'r') FROM generate_series(1, :rounds) AS round \gexec
SELECT dualwrite.set_read_percent('m', 50) \g /dev/null
SELECT format('CALL look_up(%L, %L, 20000)', 'view at 50 %', 'r') FROM generate_series(1, :rounds) AS round \gexec
SELECT dualwrite.set_read_percent('m', 100) \g /dev/null
SELECT format('CALL look_up(%L, %L, 20000)', 'view at 100 %', 'r') FROM generate_series(1, :rounds) AS round \gexec

CREATE FUNCTION us(name text) RETURNS numeric LANGUAGE sql
	AS $$ SELECT round((percentile_cont(0.5) WITHIN GROUP (ORDER BY us))::numeric, 3) FROM result WHERE what = name $$;
\echo '| line | reach | measured |'
\echo '|---|---|---|'
SELECT format('| read_side(m, key), beyond a STABLE function that does nothing (%s µs) | ≤ 1 µs | %s µs |', us('a STABLE function'), us('read_side(m, key)') - us('a STABLE function'));
SELECT format('| read_side(m), beyond a constant (%s µs) | ≤ 1 µs | %s µs |', us('a constant in its place'), us('read_side(m)') - us('a constant in its place'));
SELECT format('| look-up by key with a kept plan: the table | – | %s µs |', us('table'));
SELECT format('| the same through a read view at 0 / 50 / 100 %% | – | %s / %s / %s µs |', us('view at 0 %'), us('view at 50 %'), us('view at 100 %'));
