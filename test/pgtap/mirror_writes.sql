-- Every kind of write, table-driven: each statement is run on a mirrored table and on a control that nothing mirrors.  Afterwards both
-- sides agree, the table is what the control is, and the application has seen the same: rows returned, rows counted, errors.
-- First on the old side, in each phase and with each policy, then on the new one.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();
SELECT current_setting('server_version_num')::int >= 170000 AS merge_returning \gset

-- {t}: a table with triggers of its own; {p}, {c}: parent and child, {s}: a tree.  One schema each for the mirrored tables of both sides
-- and the controls, so that the same text means each of them.
CREATE FUNCTION make_tables(schema text, key text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE replace(replace($t$
		CREATE SCHEMA {s};
		CREATE TABLE {s}.t (id {k} PRIMARY KEY, v text, w int DEFAULT 1 CHECK (w < 1000), u int UNIQUE DEFERRABLE, note text);
		CREATE TABLE {s}.p (id {k} PRIMARY KEY, v text);
		CREATE TABLE {s}.c (id {k} PRIMARY KEY, cascades {k} REFERENCES {s}.p ON DELETE CASCADE ON UPDATE CASCADE, nulled {k} REFERENCES {s}.p ON DELETE SET NULL ON UPDATE SET NULL,
			defaulted {k} DEFAULT 1 REFERENCES {s}.p ON DELETE SET DEFAULT ON UPDATE SET DEFAULT, waits {k} REFERENCES {s}.p DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE {s}.s (id {k} PRIMARY KEY, up {k} REFERENCES {s}.s ON DELETE CASCADE ON UPDATE CASCADE, v text);
		CREATE TABLE {s}.tail (id {k} PRIMARY KEY, p {k} REFERENCES {s}.p ON DELETE SET NULL, v text);
		CREATE FUNCTION {s}.rewrite() RETURNS trigger LANGUAGE plpgsql AS $f$
		BEGIN
			IF tg_op = 'DELETE' THEN RETURN CASE WHEN old.v = 'stays' THEN NULL ELSE old END; END IF;
			IF new.v = 'never' THEN RETURN NULL; END IF;
			IF new.v ~ '^up' THEN new.v := upper(new.v); new.w := 77; END IF;
			IF new.v = 'elsewhere' THEN new.id := new.id + 1000; new.v := 'was elsewhere'; END IF;
			RETURN new;
		END $f$;
		CREATE TRIGGER rewrite BEFORE INSERT OR UPDATE OR DELETE ON {s}.t FOR EACH ROW EXECUTE FUNCTION {s}.rewrite();
		CREATE FUNCTION {s}.more() RETURNS trigger LANGUAGE plpgsql AS $f$
		BEGIN
			IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF;
			IF new.v = 'again' THEN UPDATE {s}.t SET w = w + 1 WHERE id = new.id; END IF;
			IF new.v = 'next' THEN UPDATE {s}.t SET w = w + 1 WHERE id = new.id + 1; END IF;
			IF new.v = 'gone' THEN DELETE FROM {s}.t WHERE id = new.id; END IF;
			IF new.v = 'moves' THEN UPDATE {s}.t SET id = id + 500, v = 'moved' WHERE id = new.id; END IF;
			IF new.v = 'breeds' THEN INSERT INTO {s}.t (id, v) VALUES (new.id + 2000, 'bred'); INSERT INTO {s}.p VALUES (new.id + 2000, 'bred'); END IF;
			RETURN NULL;
		END $f$;
		CREATE TRIGGER more AFTER INSERT OR UPDATE ON {s}.t FOR EACH ROW EXECUTE FUNCTION {s}.more();
		CREATE FUNCTION {s}.late() RETURNS trigger LANGUAGE plpgsql AS $f$
		BEGIN
			IF new.v = 'late' THEN UPDATE {s}.t SET v = 'done late' WHERE id = new.id; END IF;
			RETURN NULL;
		END $f$;
		CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON {s}.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {s}.late();
		CREATE VIEW {s}.tv AS SELECT id, v FROM {s}.t WHERE id < 100000;
	$t$, '{s}', schema), '{k}', key);
END $$;
SELECT make_tables('o', 'int'), make_tables('n', 'bigint'), make_tables('oc', 'int'), make_tables('nc', 'bigint') \gset
ALTER TABLE n.t ADD COLUMN own text DEFAULT 'own';
ALTER TABLE nc.t ADD COLUMN own text DEFAULT 'own';

CREATE TABLE writes (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, statement text);
INSERT INTO writes (statement) VALUES
	($$INSERT INTO {t} (id, v) VALUES (1, 'a')$$),
	($$INSERT INTO {t} (id, v, w) SELECT g, 'v' || g, g FROM generate_series(2, 40) g$$),
	($$INSERT INTO {t} (id, v, u) VALUES (41, 'x', 41), (42, 'y', 42), (43, NULL, 43) RETURNING id, v, w$$),
	($$INSERT INTO {t} (id, v) VALUES (1, 'dup')$$),
	($$INSERT INTO {t} (id, v) VALUES (50, 'ok'), (51, 'ok'), (1, 'dup')$$),
	($$INSERT INTO {t} (id, w) VALUES (52, 5000)$$),
	($$INSERT INTO {t} (id, v) VALUES (1, 'dup'), (53, 'new') ON CONFLICT DO NOTHING RETURNING id$$),
	($$INSERT INTO {t} (id, v) VALUES (1, 'upserted'), (54, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v, w = {t}.w + 1 RETURNING id, v, w$$),
	($$INSERT INTO {t} (id, v) VALUES (1, 'not this') ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE false RETURNING id$$),
	($$INSERT INTO {t} (id, v) VALUES (2, 'k') ON CONFLICT (id) DO UPDATE SET id = 3001 WHERE {t}.w < 10$$),
	($$INSERT INTO {t} (id, v) VALUES (55, 'a'), (55, 'b') ON CONFLICT (id) DO UPDATE SET v = excluded.v$$),
	($$INSERT INTO {t} SELECT * FROM {t} ON CONFLICT ON CONSTRAINT t_pkey DO UPDATE SET note = 'all'$$),
	($$INSERT INTO {t} DEFAULT VALUES$$),
	($$UPDATE {t} SET v = v || '!' WHERE id < 10 RETURNING id, v$$),
	($$UPDATE {t} SET v = 'none' WHERE false RETURNING id$$),
	($$UPDATE {t} SET note = 'unmapped' WHERE id % 2 = 0$$),
	($$UPDATE {t} SET v = v$$),
	($$UPDATE {t} SET v = x.v, w = x.w FROM (VALUES (3, 'f', 1), (3, 'g', 1), (4, 'h', 2)) x(id, v, w) WHERE x.id = {t}.id AND x.v <> 'g' RETURNING {t}.id, x.v$$),
	($$UPDATE {t} SET (v, w) = (SELECT 'sub', count(*) FROM {p}) WHERE id = 5 RETURNING *$$),
	($$UPDATE {t} SET id = id + 100 WHERE id BETWEEN 20 AND 25 RETURNING id$$),
	($$UPDATE {t} SET id = id - 1 WHERE id BETWEEN 30 AND 40$$),
	($$UPDATE {t} SET id = -id; UPDATE {t} SET id = CASE id WHEN -4 THEN 5 WHEN -5 THEN 4 ELSE -id END$$),
	($$UPDATE {t} SET id = 6 WHERE id = 7$$),
	($$UPDATE {t} SET w = 2000 WHERE id = 6$$),
	($$UPDATE {t} SET u = 84 - u WHERE u IN (41, 43)$$),
	($$UPDATE {t} SET u = 41$$),
	($$DELETE FROM {t} WHERE id = 8 RETURNING v$$),
	($$DELETE FROM {t} USING (VALUES (9), (10), (9)) x(id) WHERE x.id = {t}.id RETURNING {t}.id$$),
	($$DELETE FROM {t} WHERE id = -777$$),
	($$WITH d AS (DELETE FROM {t} WHERE id = 11 RETURNING *) INSERT INTO {t} (id, v) SELECT id + 400, v FROM d RETURNING id$$),
	($$WITH d AS (DELETE FROM {t} WHERE id = 12 RETURNING *) INSERT INTO {t} (id, v) SELECT id, v || '~' FROM d$$),
	($$WITH u AS (UPDATE {t} SET v = 'first' WHERE id = 13 RETURNING id), w AS (UPDATE {t} SET v = 'second' WHERE id = 13 RETURNING id), i AS (INSERT INTO {p} VALUES (900, 'cte')) SELECT (SELECT count(*) FROM u) + (SELECT count(*) FROM w)$$),
	($$WITH u AS (INSERT INTO {t} (id, v) VALUES (600, 'u') RETURNING id), d AS (DELETE FROM {t} WHERE id = 14), x AS (UPDATE {t} SET v = 'x' WHERE id = 15) INSERT INTO {p} SELECT id, 'p' FROM u$$),
	($$MERGE INTO {t} USING (VALUES (1, 'm'), (601, 'm')) s(id, v) ON s.id = {t}.id WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v)$$),
	($$MERGE INTO {t} USING (SELECT generate_series(1, 8) AS id) s ON s.id = {t}.id WHEN MATCHED AND {t}.id % 2 = 0 THEN DELETE WHEN MATCHED AND {t}.id = 3 THEN DO NOTHING WHEN MATCHED THEN UPDATE SET w = w + 1 WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 'merged')$$),
	($$MERGE INTO {t} USING (VALUES (1), (1)) s(id) ON s.id = {t}.id WHEN MATCHED THEN UPDATE SET v = 'twice'$$),
	($$MERGE INTO {t} USING (VALUES (1)) s(id) ON s.id = {t}.id WHEN MATCHED THEN UPDATE SET id = 602$$),
	($$UPDATE {tv} SET v = 'by view' WHERE id = 3; INSERT INTO {tv} VALUES (603, 'by view'); DELETE FROM {tv} WHERE id = 5$$),
	-- triggers of the application's own
	($$INSERT INTO {t} (id, v) VALUES (700, 'upper'), (701, 'never'), (702, 'stays'), (703, 'elsewhere') RETURNING id, v$$),
	($$UPDATE {t} SET v = 'upper' WHERE id = 16; UPDATE {t} SET v = 'never' WHERE id = 17; UPDATE {t} SET v = 'elsewhere' WHERE id = 18; DELETE FROM {t} WHERE id = 702$$),
	($$INSERT INTO {t} (id, v) VALUES (710, 'again'), (711, 'next'), (712, 'x'), (713, 'gone'), (714, 'moves'), (715, 'breeds'), (716, 'late') RETURNING id, w$$),
	($$UPDATE {t} SET v = x.v FROM (VALUES (710, 'next'), (711, 'again'), (712, 'gone'), (715, 'moves')) x(id, v) WHERE x.id = {t}.id$$),
	($$UPDATE {t} SET v = 'late' WHERE id IN (710, 711); SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED$$),
	($$INSERT INTO {t} (id, v) VALUES (713, 'moves'), (1213, 'in the way')$$),
	($$INSERT INTO {t} (id, v) VALUES (720, 'again') ON CONFLICT (id) DO UPDATE SET v = 'gone'; INSERT INTO {t} (id, v) VALUES (720, 'x') ON CONFLICT (id) DO UPDATE SET v = 'gone'$$),
	($$MERGE INTO {t} USING (VALUES (716), (721)) s(id) ON s.id = {t}.id WHEN MATCHED THEN UPDATE SET v = 'again' WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 'next')$$),
	-- loops, cursors, caught errors, plans
	($$DO $d$ DECLARE c CURSOR FOR SELECT * FROM {t} WHERE id < 20 ORDER BY id FOR UPDATE; r record; BEGIN OPEN c; FETCH c INTO r; UPDATE {t} SET v = 'cursor' WHERE CURRENT OF c; FETCH c INTO r;
		UPDATE {t} SET id = 800 WHERE CURRENT OF c; FETCH c INTO r; DELETE FROM {t} WHERE CURRENT OF c; CLOSE c; END $d$ $$),
	($$DO $d$ DECLARE r record; BEGIN FOR r IN SELECT * FROM {t} ORDER BY id LOOP UPDATE {t} SET w = w + 1 WHERE id = r.id AND w < 50; IF r.id % 3 = 0 THEN DELETE FROM {t} WHERE id = r.id AND r.id > 25; END IF; END LOOP; END $d$ $$),
	($$DO $d$ BEGIN UPDATE {t} SET v = 'kept' WHERE id = 26; BEGIN UPDATE {t} SET v = 'lost', id = id + 9000 WHERE id < 30; INSERT INTO {t} (id, v) VALUES (9999, 'x'); INSERT INTO {t} (id, w) VALUES (9998, 5000);
		EXCEPTION WHEN check_violation THEN UPDATE {t} SET w = 3 WHERE id = 27; END; END $d$ $$),
	($$DO $d$ BEGIN FOR i IN 1..20 LOOP BEGIN INSERT INTO {t} (id, v) VALUES (i % 5 + 20000, 'l'); EXCEPTION WHEN unique_violation THEN UPDATE {t} SET w = w + 1 WHERE id = i % 5 + 20000; END; END LOOP; END $d$ $$),
	($$DO $d$ BEGIN FOR i IN 1..5 LOOP DELETE FROM {t} WHERE id = 1; INSERT INTO {t} (id, v) VALUES (1, 'time ' || i); UPDATE {t} SET w = i WHERE id = 1; UPDATE {t} SET id = 1000001 WHERE id = 1; UPDATE {t} SET id = 1 WHERE id = 1000001; END LOOP; END $d$ $$),
	-- COPY
	($$COPY {t} (id, v) FROM PROGRAM 'printf "30001\\ta\\n30002\\t\\\\N\\n"'$$),
	($$COPY {t} (id, v) FROM PROGRAM 'printf "30003\\ta\\n30001\\tdup\\n"'$$),
	($$COPY {t} (id) FROM PROGRAM 'seq 40001 41500'$$),
	($$COPY (DELETE FROM {t} WHERE id > 40000 RETURNING id) TO '/dev/null'$$),
	-- parents, children, trees
	($$INSERT INTO {p} SELECT g, 'p' || g FROM generate_series(1, 30) g$$),
	($$INSERT INTO {c} SELECT g, g, g % 7 + 1, g % 5 + 1, g FROM generate_series(1, 30) g; INSERT INTO {tail} SELECT g, g, 't' FROM generate_series(1, 30) g$$),
	($$INSERT INTO {c} (id, cascades) VALUES (100, 777)$$),
	($$WITH np AS (INSERT INTO {p} VALUES (50, 'np'), (51, 'np') RETURNING id) INSERT INTO {c} (id, cascades, waits) SELECT id + 100, id, id FROM np$$),
	($$UPDATE {c} SET waits = NULL; DELETE FROM {p} WHERE id IN (9, 10, 50)$$),
	($$DELETE FROM {p} WHERE id IN (2, 3)$$),
	($$UPDATE {p} SET id = id + 1000 WHERE id IN (4, 5, 11)$$),
	($$UPDATE {p} SET id = id + 1 WHERE id >= 12 AND id < 900$$),
	($$UPDATE {p} SET id = 5000 - id WHERE id >= 12 AND id < 900$$),
	($$DO $d$ BEGIN INSERT INTO {c} (id, waits) VALUES (200, 6666); INSERT INTO {p} VALUES (6666, 'late'); SET CONSTRAINTS ALL IMMEDIATE; END $d$ $$),
	($$DO $d$ BEGIN INSERT INTO {c} (id, waits) VALUES (201, 7777); SET CONSTRAINTS ALL IMMEDIATE; END $d$ $$),
	($$DELETE FROM {p} WHERE id = 1$$),
	($$WITH dc AS (DELETE FROM {c} WHERE cascades = 6) DELETE FROM {p} WHERE id = 6$$),
	($$DELETE FROM {p} USING {c} WHERE {c}.cascades = {p}.id AND {c}.id = 8$$),
	($$INSERT INTO {s} VALUES (3, 2, 'c'), (2, 1, 'b'), (1, NULL, 'a'), (4, 3, 'd'), (5, 5, 'self'), (6, 1, 'f')$$),
	($$UPDATE {s} SET id = id + 10$$),
	($$UPDATE {s} SET id = 11 - id + 11 WHERE id IN (11, 12)$$),
	($$UPDATE {s} SET up = NULL WHERE id = 13; DELETE FROM {s} WHERE id = 11$$),
	($$DELETE FROM {s} WHERE up IS NULL OR up = id$$),
	-- TRUNCATE
	($$TRUNCATE {p}$$),
	($$DO $d$ BEGIN TRUNCATE {t}; INSERT INTO {t} (id, v) VALUES (1, 'undone'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END $d$ $$),
	($$TRUNCATE {tail} RESTART IDENTITY; INSERT INTO {tail} VALUES (1, NULL, 'x')$$),
	($$TRUNCATE {c}, {tail}; INSERT INTO {c} (id, defaulted) VALUES (1, NULL)$$),
	($$TRUNCATE {p} CASCADE$$),
	($$UPDATE {t} SET v = 'x'; TRUNCATE {t}; INSERT INTO {t} (id, v) VALUES (1, 'new life'), (2, 'again')$$),
	($$TRUNCATE {t}; COPY {t} (id) FROM PROGRAM 'seq 1 50'$$),
	($$DELETE FROM {t}$$);
\if :merge_returning
INSERT INTO writes (statement) VALUES
	($$MERGE INTO {t} USING (VALUES (1, 'm'), (2, 'n')) s(id, v) ON s.id = {t}.id WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v) RETURNING merge_action(), {t}.id, {t}.v$$),
	($$MERGE INTO {t} USING (VALUES (2), (3)) s(id) ON s.id = {t}.id WHEN MATCHED THEN UPDATE SET v = 'both' WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN NOT MATCHED BY TARGET THEN INSERT (id, v) VALUES (s.id, 'again') RETURNING merge_action(), {t}.id$$),
	($$WITH m AS (MERGE INTO {t} USING (VALUES (2)) s(id) ON s.id = {t}.id WHEN MATCHED THEN DELETE RETURNING {t}.id) INSERT INTO {p} SELECT id, 'merged away' FROM m RETURNING id$$);
\endif

-- What the application sees of a statement on the tables of a schema.
CREATE FUNCTION outcome(statement text, schema text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	part text := replace(replace(replace(replace(replace(replace(statement, '{t}', schema || '.t'), '{p}', schema || '.p'), '{c}', schema || '.c'), '{s}', schema || '.s'), '{tail}', schema || '.tail'), '{tv}', schema || '.tv');
	r record;
	rows text[] := '{}';
	n bigint;
BEGIN
	IF statement ~ 'RETURNING|^WITH u .* SELECT' AND statement !~ '^COPY|;' THEN
		FOR r IN EXECUTE part LOOP
			rows := rows || r::text;
		END LOOP;
		RETURN (SELECT string_agg(x, ' ' ORDER BY x) FROM unnest(rows) x);
	END IF;
	EXECUTE part;
	GET DIAGNOSTICS n = ROW_COUNT;
	SET CONSTRAINTS ALL IMMEDIATE;
	SET CONSTRAINTS ALL DEFERRED;
	RETURN n;
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END $$;
-- How the tables of two schemas differ, and the two sides, of which keys in the queue are lag: deferred checks of the new side are
-- not left to the commit where errors are queued, so that a child which comes before its parent waits there.
CREATE FUNCTION apart(a text, b text) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(t, ' '), '') FROM unnest(ARRAY['t', 'p', 'c', 's', 'tail']) t WHERE differences(format('TABLE %s.%s', a, t), format('TABLE %s.%s', b, t)) > 0 $$;
CREATE FUNCTION sides_apart() RETURNS text LANGUAGE sql AS $f$
	SELECT coalesce(string_agg(t, ' '), '') FROM unnest(ARRAY['t', 'p', 'c', 's', 'tail']) t,
		LATERAL (SELECT CASE t WHEN 't' THEN 'id, v, w, u' ELSE '*' END AS shown,
			format($$id NOT IN (SELECT (key->>'id')::bigint FROM dualwrite.queue WHERE old_table = 'o.%s'::regclass)$$, t) AS no_lag) x
	WHERE differences(format('SELECT %s FROM o.%s t WHERE %s', shown, t, no_lag), format('SELECT %s FROM n.%s t WHERE %s', shown, t, no_lag)) > 0 $f$;
-- Run all of it on one side and on its control, in one transaction each or, by the caller's, in one for all.
CREATE PROCEDURE run_writes(description text, written text, agrees boolean, commits boolean) LANGUAGE plpgsql AS $$
DECLARE
	w writes;
	mirrored text;
	alone text;
	bad text := '';
BEGIN
	FOR w IN SELECT * FROM writes ORDER BY n LOOP
		mirrored := outcome(w.statement, written);
		alone := outcome(w.statement, written || 'c');
		IF commits THEN
			COMMIT;
		END IF;
		IF mirrored IS DISTINCT FROM alone THEN
			bad := bad || format(E'\n%s: %s, alone %s', w.statement, mirrored, alone);
		END IF;
		IF apart(written, written || 'c') <> '' THEN
			bad := bad || format(E'\n%s: table and control differ: %s', w.statement, apart(written, written || 'c'));
			EXIT;
		END IF;
		IF agrees AND sides_apart() <> '' THEN
			bad := bad || format(E'\n%s: sides differ: %s', w.statement, sides_apart());
			EXIT;
		END IF;
	END LOOP;
	INSERT INTO results VALUES (description, bad);
END $$;
CREATE TABLE results (description text, bad text);

SELECT dualwrite.create_migration('w');
SELECT dualwrite.add_mapping('w', ('o.' || t)::regclass, ('n.' || t)::regclass, forward => CASE t WHEN 't' THEN '{"note": null}' ELSE '{}' END::jsonb, reverse => CASE t WHEN 't' THEN '{"note": null}' ELSE '{}' END::jsonb)
	FROM unnest(ARRAY['c', 'tail', 't', 's', 'p']) t ;
SELECT dualwrite.advance('w', 'shadow') \gset
CALL run_writes('in shadow', 'o', true, true);
SELECT dualwrite.configure('w', 'shadow_discard', 'on') \gset
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
CALL run_writes('in shadow, discarded', 'o', false, true);
SELECT dualwrite.configure('w', 'shadow_discard', NULL) \gset
SELECT dualwrite.rollback('w') \gset
TRUNCATE o.t, o.p, o.c, o.s, o.tail, n.t, n.p, n.c, n.s, n.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
SELECT dualwrite.advance('w', 'shadow') \gset
SELECT dualwrite.advance('w', 'dual_write') \gset
CALL run_writes('in dual_write', 'o', true, true);
SELECT dualwrite.pause('w') \gset
SELECT dualwrite.advance('w', 'backfill') \gset
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
CALL run_writes('in backfill', 'o', true, true);
SELECT dualwrite.resume('w') \gset
CALL dualwrite.run('w', 'verify');
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
CALL run_writes('in verify', 'o', true, true);
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
BEGIN; CALL run_writes('in one transaction', 'o', true, false); COMMIT;
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM o.t \gset
CALL run_writes('in one transaction, REPEATABLE READ', 'o', true, false); COMMIT;
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM o.t \gset
CALL run_writes('in one transaction, SERIALIZABLE', 'o', true, false); COMMIT;
SELECT dualwrite.configure('w', 'mirror_on_error', 'queue') \gset
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
CALL run_writes('with mirror_on_error = queue', 'o', true, true);
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
BEGIN; CALL run_writes('with mirror_on_error = queue, in one transaction', 'o', true, false); COMMIT;
SELECT dualwrite.configure('w', 'mirror_on_error', NULL) \gset
TRUNCATE o.t, o.p, o.c, o.s, o.tail, oc.t, oc.p, oc.c, oc.s, oc.tail;
CALL dualwrite.run('w', 'read_switch');
CALL run_writes('in read_switch', 'o', true, true);
TRUNCATE o.t, o.p, o.c, o.s, o.tail, nc.t, nc.p, nc.c, nc.s, nc.tail;
CALL run_writes('on the new side', 'n', true, true);
TRUNCATE n.t, n.p, n.c, n.s, n.tail, nc.t, nc.p, nc.c, nc.s, nc.tail;
BEGIN; CALL run_writes('on the new side, in one transaction', 'n', true, false); COMMIT;
TRUNCATE n.t, n.p, n.c, n.s, n.tail, nc.t, nc.p, nc.c, nc.s, nc.tail;
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM n.t \gset
CALL run_writes('on the new side, in one transaction, REPEATABLE READ', 'n', true, false); COMMIT;
SELECT is(bad, '', (SELECT count(*) FROM writes) || ' kinds of write ' || description) FROM results;
SELECT is((SELECT count(*) FROM results), 14::bigint, 'all were run');
SELECT is((SELECT count(*) FROM dualwrite.queue), 0::bigint, 'nothing was queued that did not fail');

SELECT * FROM finish();
