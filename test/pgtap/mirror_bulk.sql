-- Statements of many rows, table-driven: each is run on tables that nothing but the mirror has triggers on, so that their rows are
-- gathered, and on a control that nothing mirrors.  Both sides agree after each statement, the table is what the control is, and the
-- application has seen the same: rows returned, rows counted, errors.  On the old side, in each phase and with each policy, then on
-- the new one; in transactions of their own, in one for all at each isolation level, and prepared.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();
SELECT current_setting('server_version_num')::int >= 170000 AS merge_returning \gset
CREATE EXTENSION citext;
CREATE EXTENSION pageinspect;

-- {t}: plain; {u}: with unique and deferrable constraints; {ci}: a key that is equal in either case; {uu}: keys in no order; {p}, {c}: parent and child;
-- {l}: lists, whose partitions have their columns in different orders, and one that is attached after all triggers have been made.
CREATE FUNCTION make_tables(schema text, key text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE replace(replace($t$
		CREATE SCHEMA {s};
		CREATE TABLE {s}.t (id {k} PRIMARY KEY, v text, w int DEFAULT 1 CHECK (w < 1000), note text);
		CREATE TABLE {s}.u (id {k} PRIMARY KEY, code int UNIQUE, later int UNIQUE DEFERRABLE INITIALLY DEFERRED, span int4range, EXCLUDE USING gist (span WITH &&));
		CREATE TABLE {s}.ci (name public.citext PRIMARY KEY, v public.citext, w int);
		CREATE TABLE {s}.uu (id uuid PRIMARY KEY, w int);
		CREATE TABLE {s}.p (id {k} PRIMARY KEY, v text);
		CREATE TABLE {s}.c (id {k} PRIMARY KEY, p {k} REFERENCES {s}.p, waits {k} REFERENCES {s}.p DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE {s}.l (id {k}, k text, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
		CREATE TABLE {s}.l_a PARTITION OF {s}.l FOR VALUES IN ('a');
		CREATE TABLE {s}.l_b (v text, gone int, k text NOT NULL, id {k} NOT NULL);
		ALTER TABLE {s}.l_b DROP COLUMN gone;
		ALTER TABLE {s}.l ATTACH PARTITION {s}.l_b FOR VALUES IN ('b');
		CREATE TABLE {s}.l_c PARTITION OF {s}.l FOR VALUES IN ('c', 'd') PARTITION BY HASH (id);
		CREATE TABLE {s}.l_c0 PARTITION OF {s}.l_c FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE {s}.l_c1 PARTITION OF {s}.l_c FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	$t$, '{s}', schema), '{k}', key);
END $$;
SELECT make_tables('o', 'int'), make_tables('n', 'bigint'), make_tables('oc', 'int'), make_tables('nc', 'bigint') \gset
ALTER TABLE n.t ADD COLUMN own text DEFAULT 'own';
ALTER TABLE nc.t ADD COLUMN own text DEFAULT 'own';

CREATE TABLE writes (n serial PRIMARY KEY, statement text);
INSERT INTO writes (statement) VALUES
	($$INSERT INTO {t} SELECT g, 'v' || g, g % 1000, 'n' FROM generate_series(1, 3000) g$$),
	($$INSERT INTO {t} (id, v) SELECT g, 'w' || g FROM generate_series(3500, 3001, -1) g RETURNING id, v, w$$),
	($$INSERT INTO {t} (id, v) SELECT g, 'x' FROM generate_series(4000, 3400, -1) g$$),
	($$INSERT INTO {t} (id, w) SELECT g, g - 3900 FROM generate_series(4001, 5000) g$$),
	($$INSERT INTO {t} (id, v) SELECT g, 'y' FROM generate_series(3400, 4000) g ON CONFLICT DO NOTHING RETURNING id$$),
	($$INSERT INTO {t} (id, v) SELECT g, 'z' FROM generate_series(3900, 4200) g ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE false RETURNING id, v$$),
	($$INSERT INTO {t} (id, v) SELECT g, 'z' FROM generate_series(4100, 4400) g ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE {t}.id % 3 = 0$$),
	($$INSERT INTO {t} (id, v) SELECT g / 2, 'twice' FROM generate_series(8400, 8900) g ON CONFLICT (id) DO UPDATE SET v = excluded.v$$),
	($$INSERT INTO {t} (id, v) SELECT g, 'only some' FROM generate_series(4300, 4900) g ON CONFLICT (id) DO NOTHING$$),
	($$UPDATE {t} SET v = v || '!', w = w - 1 WHERE id % 2 = 0$$),
	($$UPDATE {t} SET v = x.v FROM (SELECT g % 500 + 1 AS id, 'hit' || g % 500 AS v FROM generate_series(1, 1500) g) x WHERE x.id = {t}.id$$),
	($$UPDATE {t} SET v = 'one of three' FROM generate_series(1, 3) g WHERE {t}.id <= 700 RETURNING {t}.id, {t}.v$$),
	($$DELETE FROM {t} USING generate_series(1, 3) g WHERE {t}.id % 7 = 0 RETURNING {t}.id$$),
	($$UPDATE {t} SET id = -id WHERE id % 5 = 0$$),
	($$UPDATE {t} SET id = id - 1 WHERE id < 0$$),
	($$UPDATE {t} SET id = 1 WHERE id < 20$$),
	($$DELETE FROM {t} WHERE id < 0$$),
	($$MERGE INTO {t} USING (SELECT g AS id FROM generate_series(1, 6000) g) s ON s.id = {t}.id WHEN MATCHED AND s.id % 4 = 0 THEN DELETE WHEN MATCHED AND s.id % 4 = 1 THEN UPDATE SET v = 'merged', w = 7
		WHEN MATCHED AND s.id % 4 = 2 THEN DO NOTHING WHEN MATCHED THEN UPDATE SET note = 'unmapped' WHEN NOT MATCHED AND s.id % 2 = 0 THEN INSERT (id, v) VALUES (s.id, 'merged in') WHEN NOT MATCHED THEN DO NOTHING$$),
	($$MERGE INTO {t} USING (SELECT g AS id FROM generate_series(6001, 7500) g) s ON s.id = {t}.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 'all new')$$),
	($$MERGE INTO {t} USING (SELECT g AS id FROM generate_series(6001, 7500) g) s ON s.id = {t}.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 'all new')$$),
	($$MERGE INTO {t} USING (SELECT g / 2 AS id FROM generate_series(1, 300) g) s ON s.id = {t}.id WHEN MATCHED THEN UPDATE SET v = 'twice'$$),
	($$WITH d AS (DELETE FROM {t} WHERE id BETWEEN 1000 AND 1400 RETURNING *) INSERT INTO {t} SELECT id, v || '~', 3, note FROM d RETURNING id, v$$),
	($$WITH d AS (DELETE FROM {t} WHERE id BETWEEN 1500 AND 1700 RETURNING *), i AS (INSERT INTO {t} SELECT id + 100000, v FROM d RETURNING id), u AS (UPDATE {t} SET v = 'u' WHERE id < 300 RETURNING id)
		INSERT INTO {p} SELECT id + 1000000, 'cte' FROM i UNION ALL SELECT id + 2000000, 'cte' FROM u RETURNING id$$),
	-- a statement that fails in the middle; what was there before and what comes after stays
	($$DO $d$ BEGIN INSERT INTO {t} (id, v) SELECT g, 'kept' FROM generate_series(20001, 20100) g; BEGIN INSERT INTO {t} (id, w) SELECT g, CASE g WHEN 20900 THEN 5000 END FROM generate_series(20101, 21000) g;
		EXCEPTION WHEN check_violation THEN INSERT INTO {t} (id, v) SELECT g, 'instead' FROM generate_series(20101, 20150) g; END; INSERT INTO {t} (id, v) SELECT g, 'after' FROM generate_series(20151, 20200) g; END $d$ $$),
	($$DO $d$ BEGIN DELETE FROM {t} WHERE id BETWEEN 20001 AND 20050; BEGIN DELETE FROM {t} WHERE id > 20050; INSERT INTO {t} (id) SELECT g FROM generate_series(20050, 20300) g; PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN DELETE FROM {t} WHERE id BETWEEN 20100 AND 20120; END; END $d$ $$),
	($$DO $d$ BEGIN FOR i IN 1..6 LOOP BEGIN DELETE FROM {t} WHERE id > 20000 AND id % 6 = i - 1; INSERT INTO {t} (id, v) SELECT g * 6 + i - 1, 'round ' || i FROM generate_series(3335, 3360) g;
		IF i % 2 = 0 THEN RAISE 'undo'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $d$ $$),
	-- COPY
	($$COPY {t} (id, v, w) FROM 'dualwrite_bulk'$$),
	($$COPY {t} (id, v, w) FROM 'dualwrite_bulk'$$),
	($$COPY (DELETE FROM {t} WHERE id >= 300000 RETURNING id) TO '/dev/null'$$),
	($$COPY {t} (id, v, w) FROM 'dualwrite_bulk' WHERE id % 3 = 0$$),
	($$DELETE FROM {t}; COPY {t} (id, v, w) FROM 'dualwrite_bulk'; DELETE FROM {t} WHERE id % 2 = 0$$),
	-- unique constraints beside the key
	($$INSERT INTO {u} SELECT g, g, g, int4range(g * 10, g * 10 + 5) FROM generate_series(1, 1200) g$$),
	($$INSERT INTO {u} (id, code) SELECT g, CASE g WHEN 1900 THEN 77 ELSE g END FROM generate_series(1201, 2000) g$$),
	($$INSERT INTO {u} (id, later) SELECT g, CASE g WHEN 1900 THEN 77 ELSE g END FROM generate_series(1201, 2000) g$$),
	($$INSERT INTO {u} (id, span) SELECT g, CASE g WHEN 1900 THEN '[7000,7001)' ELSE int4range(g * 10, g * 10 + 5) END FROM generate_series(1201, 2000) g$$),
	($$DO $d$ BEGIN INSERT INTO {u} (id, later) SELECT g, g - 1000 FROM generate_series(1201, 1300) g; UPDATE {u} SET later = NULL WHERE id <= 400; SET CONSTRAINTS ALL IMMEDIATE; END $d$ $$),
	($$UPDATE {u} SET later = 5000 - later; UPDATE {u} SET later = later + 1$$),
	($$WITH d AS (DELETE FROM {u} WHERE id BETWEEN 500 AND 900 RETURNING *) INSERT INTO {u} (id, code, later) SELECT id + 10000, id + 20000, later FROM d WHERE later > 4400 RETURNING id$$),
	($$INSERT INTO {u} (id, code) SELECT g, g FROM generate_series(500, 3000) g ON CONFLICT (id) DO NOTHING$$),
	($$DELETE FROM {u} WHERE code % 2 = 0 RETURNING id$$),
	-- keys that are equal in either case
	($$INSERT INTO {ci} SELECT 'Name' || g, 'Value' || g, g FROM generate_series(1, 1500) g$$),
	($$INSERT INTO {ci} SELECT upper('name' || g), 'dup', g FROM generate_series(1400, 1600) g ON CONFLICT DO NOTHING RETURNING name$$),
	($$INSERT INTO {ci} SELECT lower('NAME' || g), 'up', g FROM generate_series(1450, 1700) g ON CONFLICT (name) DO UPDATE SET v = excluded.v, name = excluded.name$$),
	($$INSERT INTO {ci} SELECT 'nAME' || g, 'x', g FROM generate_series(1700, 1800) g$$),
	($$UPDATE {ci} SET name = upper(name::text) WHERE w % 2 = 0$$),
	($$UPDATE {ci} SET v = lower(v::text) WHERE name < 'name5' RETURNING name, v$$),
	($$DELETE FROM {ci} WHERE name IN (SELECT ('nAmE' || g)::public.citext FROM generate_series(1, 900) g)$$),
	($$INSERT INTO {uu} SELECT md5(g::text)::uuid, g FROM generate_series(1, 2500) g$$),
	($$UPDATE {uu} SET w = w + 1 WHERE w % 3 < 2$$),
	($$DELETE FROM {uu} WHERE w % 7 = 0 RETURNING w$$),
	($$DO $d$ BEGIN BEGIN DELETE FROM {uu} WHERE w > 200; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN UPDATE {uu} SET w = w + 1 WHERE w > 1000; END; DELETE FROM {uu} WHERE w BETWEEN 900 AND 2000; END $d$ $$),
	($$WITH d AS (DELETE FROM {uu} WHERE w < 400 RETURNING *) INSERT INTO {uu} SELECT id, w + 5000 FROM d WHERE w % 2 = 0$$),
	($$INSERT INTO {uu} SELECT md5(g::text)::uuid, g FROM generate_series(1, 300) g ON CONFLICT DO NOTHING; DELETE FROM {uu}$$),
	-- parents and children
	($$INSERT INTO {p} SELECT g, 'p' || g FROM generate_series(1, 1200) g$$),
	($$INSERT INTO {c} SELECT g, g, g FROM generate_series(1, 1100) g$$),
	($$INSERT INTO {c} SELECT g, g, g FROM generate_series(1101, 1300) g$$),
	($$WITH np AS (INSERT INTO {p} SELECT g, 'np' FROM generate_series(2001, 3500) g RETURNING id) INSERT INTO {c} SELECT id, id, id FROM np RETURNING id$$),
	($$DO $d$ BEGIN INSERT INTO {c} (id, waits) SELECT g, g FROM generate_series(5001, 5900) g; INSERT INTO {p} SELECT g, 'late' FROM generate_series(5900, 5001, -1) g; SET CONSTRAINTS ALL IMMEDIATE; END $d$ $$),
	($$DELETE FROM {p} WHERE id <= 1200$$),
	($$WITH dc AS (DELETE FROM {c} WHERE id BETWEEN 2001 AND 3500 RETURNING p) DELETE FROM {p} WHERE id IN (SELECT p FROM dc)$$),
	($$DELETE FROM {c} WHERE id < 1000; DELETE FROM {p} WHERE id < 1000$$),
	-- rows that move between partitions
	($$INSERT INTO {l} SELECT g, chr(97 + g % 5), 'v' || g FROM generate_series(1, 2000) g RETURNING id, k$$),
	($$INSERT INTO {l} SELECT g, chr(97 + g % 6), 'v' FROM generate_series(2001, 2200) g$$),
	($$UPDATE {l} SET k = chr(97 + (ascii(k) - 96) % 5)$$),
	($$UPDATE {l} SET id = id + 10000, k = chr(97 + (ascii(k) - 95) % 5) WHERE id % 3 = 0 RETURNING id, k$$),
	($$UPDATE {l} SET id = 20000 - id$$),
	($$UPDATE {l_b} SET v = v || '!'; DELETE FROM {l_b} WHERE id % 2 = 0; INSERT INTO {l_b} (id, k, v) SELECT g, 'b', 'direct' FROM generate_series(50000, 51500) g$$),
	($$INSERT INTO {l_e} (id, k, v) SELECT g, 'e', 'direct' FROM generate_series(52000, 52500) g$$),
	($$UPDATE {l_e} SET id = 200000 - id; DELETE FROM {l_e} WHERE id % 3 = 0$$),
	($$MERGE INTO {l} USING (SELECT id, k FROM {l} WHERE id % 2 = 0) s ON s.id = {l}.id AND s.k = {l}.k WHEN MATCHED AND {l}.id % 4 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET k = 'd', v = 'merged'$$),
	($$COPY {l} (id, k, v) FROM PROGRAM 'seq -f "%.0f	c	copied" 70001 71500'$$),
	($$WITH d AS (DELETE FROM {l} WHERE id > 70000 RETURNING *) INSERT INTO {l} SELECT id, 'a', v FROM d$$),
	($$DELETE FROM {l} WHERE id % 2 = 1 RETURNING id$$),
	($$DELETE FROM {l}$$),
	($$DELETE FROM {t}$$);
\if :merge_returning
INSERT INTO writes (statement) VALUES
	($$INSERT INTO {t} (id, v) SELECT g, 'v' FROM generate_series(1, 1200) g$$),
	($$MERGE INTO {t} USING generate_series(1000, 2500) s ON s = {t}.id WHEN MATCHED THEN UPDATE SET v = 'both' WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN NOT MATCHED BY TARGET THEN INSERT (id, v) VALUES (s, 'new') RETURNING merge_action(), {t}.id$$);
\endif
-- beside the tables of this cluster, where COPY FROM finds it by name
SELECT current_setting('data_directory') || '/dualwrite_bulk' AS file \gset
COPY (SELECT g, 'copied ' || g, g % 1000 FROM generate_series(300001, 302500) g) TO :'file';

-- What the application sees of a statement on the tables of a schema.
CREATE FUNCTION outcome(statement text, schema text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	part text := regexp_replace(statement, '\{(\w+)\}', schema || '.\1', 'g');
	r record;
	rows text[] := '{}';
	n bigint;
BEGIN
	IF statement ~ 'RETURNING [^)]*$|merge_action' AND statement !~ '^COPY|;' THEN
		FOR r IN EXECUTE part LOOP
			rows := rows || r::text;
		END LOOP;
		RETURN cardinality(rows) || ' ' || (SELECT coalesce(md5(string_agg(x, ' ' ORDER BY x)), '') FROM unnest(rows) x);
	END IF;
	EXECUTE part;
	GET DIAGNOSTICS n = ROW_COUNT;
	SET CONSTRAINTS ALL IMMEDIATE;
	SET CONSTRAINTS ALL DEFERRED;
	RETURN n;
EXCEPTION WHEN unique_violation OR foreign_key_violation OR check_violation OR exclusion_violation OR cardinality_violation THEN
	RETURN sqlstate;
END $$;
-- Tables of two schemas that a statement names and that differ to the eye; of the two sides neither columns nor keys that need not agree.
CREATE FUNCTION apart(statement text, a text, b text, sides boolean) RETURNS text LANGUAGE sql AS $f$
	SELECT string_agg(t, ' ') FROM unnest(ARRAY['t', 'u', 'ci', 'uu', 'p', 'c', 'l']) t,
		LATERAL (SELECT CASE WHEN t = 'ci' THEN 'name::text, v::text, w' WHEN t = 'l' THEN 'id::bigint, k, v' WHEN sides AND t = 't' THEN 'id::bigint, v, w' ELSE '*' END AS shown,
			CASE WHEN sides THEN format($$(to_jsonb(x)->>'%s') NOT IN (SELECT key->>'%1$s' FROM dualwrite.queue WHERE old_table = 'o.%s'::regclass)$$,
				CASE t WHEN 'ci' THEN 'name' ELSE 'id' END, t) ELSE 'true' END AS no_lag) q
	WHERE statement ~ format('\{%s[_}]', t) AND
		differences(format('SELECT %s FROM %s.%s x WHERE %s', shown, a, t, no_lag), format('SELECT %s FROM %s.%s x WHERE %s', shown, b, t, no_lag)) > 0 $f$;
CREATE TABLE results (description text, bad text);
CREATE PROCEDURE run_writes(description text, written text, commits boolean) LANGUAGE plpgsql AS $$
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
		bad := bad || coalesce(format(E'\n%s: table and control differ: ', w.statement) || apart(w.statement, written, written || 'c', false), '') ||
			coalesce(format(E'\n%s: sides differ: ', w.statement) || apart(w.statement, 'o', 'n', true), '');
		EXIT WHEN bad ~ 'differ: ';
	END LOOP;
	INSERT INTO results VALUES (description, bad);
END $$;
-- A partition that is there only while statements are run, so that it comes after the triggers of its phase.
CREATE PROCEDURE late_partition(command text) LANGUAGE plpgsql AS $$
DECLARE s text;
BEGIN
	FOREACH s IN ARRAY ARRAY['o', 'oc', 'n', 'nc'] LOOP
		EXECUTE replace(command, '{l', s || '.l');
	END LOOP;
END $$;
CREATE FUNCTION clear(written text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE replace('TRUNCATE {s}.t, {s}.u, {s}.ci, {s}.uu, {s}.p, {s}.c, {s}.l, {s}c.t, {s}c.u, {s}c.ci, {s}c.uu, {s}c.p, {s}c.c, {s}c.l', '{s}', written);
END $$;
\set attach 'CALL late_partition($$CREATE TABLE {l_e PARTITION OF {l FOR VALUES IN (''e'')$$);'
\set drop 'CALL late_partition($$DROP TABLE {l_e$$);'

SELECT dualwrite.create_migration('b');
SELECT dualwrite.add_mapping('b', ('o.' || t)::regclass, ('n.' || t)::regclass, forward => CASE t WHEN 't' THEN '{"note": null}' ELSE '{}' END::jsonb, reverse => CASE t WHEN 't' THEN '{"note": null}' ELSE '{}' END::jsonb)
	FROM unnest(ARRAY['c', 't', 'u', 'ci', 'uu', 'p', 'l']) t;
SELECT dualwrite.advance('b', 'shadow') \gset
:attach
CALL run_writes('in shadow', 'o', true);
:drop
SELECT dualwrite.rollback('b') \gset
SELECT clear('o') \gset
TRUNCATE n.t, n.u, n.ci, n.uu, n.p, n.c, n.l;
SELECT dualwrite.advance('b', 'shadow') \gset
SELECT dualwrite.advance('b', 'dual_write') \gset
:attach
CALL run_writes('in dual_write', 'o', true);
:drop
SELECT clear('o') \gset
CALL dualwrite.run('b', 'verify');
:attach
CALL run_writes('in verify', 'o', true);
SELECT clear('o') \gset
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM o.t \gset
CALL run_writes('in one transaction, REPEATABLE READ', 'o', false); PREPARE TRANSACTION 'bulk'; COMMIT PREPARED 'bulk';
SELECT is(apart('{t} {u} {ci} {uu} {p} {c} {l}', 'o', 'n', true), NULL, 'after a prepared transaction both sides agree');
SELECT clear('o') \gset
SELECT dualwrite.configure('b', 'mirror_on_error', 'queue') \gset
CALL run_writes('with mirror_on_error = queue', 'o', true);
SELECT clear('o') \gset
SELECT dualwrite.configure('b', 'mirror_on_error', NULL) \gset
:drop
CALL dualwrite.run('b', 'read_switch');
:attach
CALL run_writes('in read_switch', 'o', true);
SELECT clear('o') \gset
BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM n.t \gset
CALL run_writes('on the new side, in one transaction, SERIALIZABLE', 'n', false); COMMIT;
TRUNCATE n.t, n.u, n.ci, n.uu, n.p, n.c, n.l, nc.t, nc.u, nc.ci, nc.uu, nc.p, nc.c, nc.l;
CALL run_writes('on the new side', 'n', true);
SELECT is(bad, '', (SELECT count(*) FROM writes) || ' kinds of write ' || description) FROM results;
SELECT is((SELECT count(*) FROM results), 8::bigint, 'all were run');
SELECT is((SELECT count(*) FROM dualwrite.queue), 0::bigint, 'nothing was queued that did not fail');

-- That rows of such a statement really are gathered is told by the WAL: a page of them is one record.
CREATE EXTENSION pg_walinspect;
CREATE TABLE wo (id int PRIMARY KEY, v text, w int);
CREATE TABLE wn (w int, id bigint PRIMARY KEY, v text, own int DEFAULT 7);
CREATE FUNCTION pages_at_once(after pg_lsn) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM pg_get_wal_records_info(after, pg_current_wal_flush_lsn())
	WHERE record_type LIKE 'MULTI_INSERT%' AND block_ref LIKE format('%%rel %%/%%/%s fork main%%', pg_relation_filenode('wn')) $$;
SELECT dualwrite.create_migration('large', 'wo', 'wn');
CALL dualwrite.run('large', 'verify');
SELECT pg_current_wal_insert_lsn() AS before \gset
INSERT INTO wo SELECT g, 'v' || g, g FROM generate_series(1, 2000) g;
SELECT cmp_ok(pages_at_once(:'before'), '>', 0::bigint, 'INSERT: pages are written at once');
SELECT pg_current_wal_insert_lsn() AS before \gset
COPY wo FROM PROGRAM 'seq -f "%.0f	copied	1" 2001 4000';
SELECT cmp_ok(pages_at_once(:'before'), '>', 0::bigint, 'COPY: pages are written at once');
SELECT pg_current_wal_insert_lsn() AS before \gset
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER nothing AFTER INSERT ON wo FOR EACH ROW EXECUTE FUNCTION nothing();
INSERT INTO wo SELECT g, 'v' || g, g FROM generate_series(5001, 7000) g;
SELECT is(pages_at_once(:'before'), 0::bigint, 'where a trigger might look, they are not');
DROP TRIGGER nothing ON wo;

-- A hundred thousand rows at a time.
CREATE FUNCTION agree(rows bigint) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', differences('SELECT id::bigint, v, w FROM wo', 'SELECT id, v, w FROM wn'), (SELECT count(*) FROM wn) = rows, (SELECT count(*) FROM wn WHERE own IS DISTINCT FROM 7)) $$;
TRUNCATE wo;
INSERT INTO wo SELECT g, md5(g::text), g % 77 FROM generate_series(1, 100000) g;
SELECT is(agree(100000), '0 t 0', 'INSERT of 100 000 rows');
UPDATE wo SET v = v || id, w = NULL WHERE w > 5;
SELECT is(agree(100000), '0 t 0', 'UPDATE of most of them');
COPY wo TO :'file';
DELETE FROM wo WHERE id % 1000 <> 0;
SELECT is(agree(100), '0 t 0', 'DELETE of nearly all of them');
DELETE FROM wo;
COPY wo FROM 'dualwrite_bulk';
SELECT is(agree(100000), '0 t 0', 'COPY of 100 000 rows');
BEGIN;
TRUNCATE wo;
COPY wo FROM 'dualwrite_bulk' WITH (FREEZE);
SELECT is(agree(100000), '0 t 0', 'COPY FREEZE of 100 000 rows');
ROLLBACK;
BEGIN;
TRUNCATE wo;
COPY wo FROM 'dualwrite_bulk' WITH (FREEZE);
COMMIT;
SELECT is(agree(100000), '0 t 0', 'and committed');
SELECT cmp_ok((SELECT count(*) FROM heap_page_items(get_raw_page('wo', 0)) WHERE (t_infomask & 768) = 768), '>', 0::bigint, 'frozen they are');
SELECT * FROM finish();
