-- Partitioned tables: every way of partitioning the old side with every way of partitioning the new one, written through the root and
-- through leaves, with rows that move, partitions of partitions, partitions that come and go; each on both sides.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

-- Make a table of a kind. Leaves that are attached have their columns in another order, and one that was dropped.
CREATE FUNCTION make_table(t text, kind text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	odd text := '(v text, gone int, own int DEFAULT 7, k text NOT NULL, g int NOT NULL, id int NOT NULL)';
	drop_gone text := 'ALTER TABLE %1$s_odd DROP COLUMN gone; ALTER TABLE %1$s ATTACH PARTITION %1$s_odd ';
BEGIN
	EXECUTE format('CREATE TABLE %s (id int, g int, k text, v text, own int DEFAULT 7, PRIMARY KEY (id, g, k)) ', t) ||
		CASE kind WHEN 'list' THEN 'PARTITION BY LIST (k)' WHEN 'range' THEN 'PARTITION BY RANGE (g, k)' WHEN 'hash' THEN 'PARTITION BY HASH (id, k)'
			WHEN 'tree' THEN 'PARTITION BY LIST (k)' WHEN 'lonely' THEN 'PARTITION BY RANGE (id)' ELSE '' END;
	IF kind = 'list' THEN
		EXECUTE format('CREATE TABLE %1$s_ab PARTITION OF %1$s FOR VALUES IN (''a'', ''b''); CREATE TABLE %1$s_rest PARTITION OF %1$s DEFAULT; CREATE TABLE %1$s_odd ' || odd, t);
		EXECUTE format(drop_gone || 'FOR VALUES IN (''c'')', t);
	ELSIF kind = 'range' THEN
		EXECUTE format('CREATE TABLE %1$s_low PARTITION OF %1$s FOR VALUES FROM (MINVALUE, MINVALUE) TO (10, ''b''); CREATE TABLE %1$s_rest PARTITION OF %1$s DEFAULT;
			CREATE TABLE %1$s_odd ' || odd, t);
		EXECUTE format(drop_gone || 'FOR VALUES FROM (10, ''b'') TO (20, MINVALUE)', t);
	ELSIF kind = 'hash' THEN
		EXECUTE format('CREATE TABLE %1$s_0 PARTITION OF %1$s FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE %1$s_1 PARTITION OF %1$s FOR VALUES WITH (MODULUS 4, REMAINDER 1);
			CREATE TABLE %1$s_odd ' || odd, t);
		EXECUTE format(drop_gone || 'FOR VALUES WITH (MODULUS 4, REMAINDER 3)', t);
	ELSIF kind = 'tree' THEN
		EXECUTE format('CREATE TABLE %1$s_ab PARTITION OF %1$s FOR VALUES IN (''a'', ''b'') PARTITION BY RANGE (g);
			CREATE TABLE %1$s_ab_low PARTITION OF %1$s_ab FOR VALUES FROM (MINVALUE) TO (10) PARTITION BY HASH (id);
			CREATE TABLE %1$s_ab_low_0 PARTITION OF %1$s_ab_low FOR VALUES WITH (MODULUS 2, REMAINDER 0);
			CREATE TABLE %1$s_ab_low_1 PARTITION OF %1$s_ab_low FOR VALUES WITH (MODULUS 2, REMAINDER 1);
			CREATE TABLE %1$s_ab_high PARTITION OF %1$s_ab DEFAULT;
			CREATE TABLE %1$s_rest PARTITION OF %1$s DEFAULT PARTITION BY LIST (k);
			CREATE TABLE %1$s_rest_rest PARTITION OF %1$s_rest DEFAULT; CREATE TABLE %1$s_odd ' || odd, t);
		EXECUTE format(replace(drop_gone, 'ALTER TABLE %1$s ATTACH', 'ALTER TABLE %1$s_rest ATTACH') || 'FOR VALUES IN (''c'')', t);
	ELSIF kind = 'lonely' THEN
		EXECUTE format('CREATE TABLE %1$s_odd ' || odd, t);
		EXECUTE format(drop_gone || 'DEFAULT', t);
	END IF;
END $$;

CREATE TABLE kinds (kind text);
INSERT INTO kinds VALUES ('plain'), ('list'), ('range'), ('hash'), ('tree'), ('lonely');
CREATE TABLE pairs AS SELECT 'o_' || a.kind || '_' || b.kind AS o, 'n_' || a.kind || '_' || b.kind AS n, a.kind AS old_kind, b.kind AS new_kind
	FROM kinds a, kinds b WHERE a.kind <> 'plain' OR b.kind <> 'plain';
SELECT count(make_table(o, old_kind)), count(make_table(n, new_kind)) FROM pairs \gset
SELECT dualwrite.create_migration('parts');
SELECT dualwrite.add_mapping('parts', o::regclass, n::regclass, forward => '{"own": null}', reverse => '{"own": null}') FROM pairs;

-- Run statements for each pair, {t} being the side that is written; {leaf}: the leaf which holds the lowest key.
CREATE FUNCTION each_pair(statement text, written text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	p pairs;
	t text;
	part text;
	in_leaf text;
BEGIN
	FOR p IN TABLE pairs LOOP
		t := CASE written WHEN 'old' THEN p.o ELSE p.n END;
		FOREACH part IN ARRAY string_to_array(statement, ';') LOOP
			EXECUTE format('SELECT tableoid::regclass FROM %I ORDER BY id, g, k LIMIT 1', t) INTO in_leaf;
			EXECUTE replace(replace(part, '{t}', t), '{leaf}', coalesce(in_leaf, t));
		END LOOP;
	END LOOP;
END $$;
CREATE FUNCTION disagreeing() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	p pairs;
	result text := '';
BEGIN
	FOR p IN TABLE pairs LOOP
		IF differences(format('SELECT id, g, k, v FROM %I', p.o), format('SELECT id, g, k, v FROM %I', p.n)) > 0 THEN
			result := result || ' ' || p.o;
		END IF;
	END LOOP;
	RETURN result;
END $$;

SELECT each_pair('INSERT INTO {t} SELECT i, i % 30, chr(97 + i % 5), ''v'' || i FROM generate_series(1, 60) i', 'old') \gset
CALL dualwrite.run('parts', 'verify');
SELECT is(disagreeing(), '', 'backfill');

-- The same script for both sides.
CREATE TABLE held (id int, g int, k text, v text);
CREATE FUNCTION script(written text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM each_pair($s$DELETE FROM {t}; INSERT INTO {t} (id, g, k, v) SELECT i, i % 30, chr(97 + i % 6), 'v' || i FROM generate_series(101, 160) i$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': INSERT through the root');
	PERFORM each_pair($s$UPDATE {leaf} SET v = v || '!'; TRUNCATE held; INSERT INTO held SELECT id, g, k, v FROM {leaf} ORDER BY id LIMIT 1; DELETE FROM {leaf} USING held h WHERE {leaf}.id = h.id;
		INSERT INTO {t} TABLE held; DELETE FROM {leaf} USING held h WHERE {leaf}.id = h.id$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': UPDATE and DELETE of a leaf');
	PERFORM each_pair($s$INSERT INTO {t} TABLE held; WITH gone AS (DELETE FROM {leaf} WHERE id IN (SELECT id FROM held) RETURNING *) INSERT INTO {leaf} (id, g, k, v) SELECT id, g, k, 'again' FROM gone;
		INSERT INTO {leaf} (id, g, k, v) SELECT id, g, k, v FROM {leaf} ON CONFLICT (id, g, k) DO UPDATE SET v = 'upserted'$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': INSERT into a leaf');
	PERFORM each_pair($s$UPDATE {t} SET g = 29 - g WHERE id % 2 = 0$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': rows move between ranges');
	PERFORM each_pair($s$UPDATE {t} SET k = chr(97 + (ascii(k) - 96) % 6), v = 'moved' WHERE id % 3 = 0$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': between lists');
	PERFORM each_pair($s$UPDATE {t} SET id = id + 1000 WHERE id % 7 = 0; UPDATE {t} SET id = -id, g = g + 1, k = 'b' WHERE id % 11 = 0$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': between hashes, and all at once');
	PERFORM each_pair($s$UPDATE {t} SET id = id + 1; UPDATE {t} SET k = chr(97 + (ascii(k) - 96) % 6)$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': every row');
	PERFORM each_pair($s$MERGE INTO {t} t USING (SELECT * FROM {t} WHERE id % 4 = 0) s ON s.id = t.id AND s.g = t.g AND s.k = t.k WHEN MATCHED AND t.id % 8 = 0 THEN DELETE
		WHEN MATCHED THEN UPDATE SET k = 'c', v = 'merged'$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': MERGE that moves rows');
	PERFORM each_pair($s$UPDATE {t} SET own = own + 1; UPDATE {t} SET v = v; DELETE FROM {t} WHERE id % 5 = 0$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': UPDATE of an unmapped column, DELETE');
	BEGIN
		PERFORM each_pair($s$UPDATE {t} SET k = 'a', g = 1, id = id + 5000 WHERE id % 2 = 0; DELETE FROM {t} WHERE id % 3 = 0$s$, written);
		RAISE 'undo';
	EXCEPTION WHEN raise_exception THEN NULL;
	END;
	PERFORM each_pair($s$UPDATE {t} SET k = 'a' WHERE id % 6 = 0$s$, written);
	RETURN NEXT is(disagreeing(), '', written || ': after a caught error');
	RETURN NEXT is((SELECT string_agg(new_table::text, ' ') FROM dualwrite.reconcile('parts') WHERE missing + extra + different > 0 OR rows_compared < 20), NULL,
		written || ': and a reconciliation agrees');
END $$;
SELECT * FROM script('old');
CALL dualwrite.run('parts', 'read_switch');
SELECT * FROM script('new');
SELECT * FROM script('old');
SELECT each_pair('TRUNCATE {leaf}', 'old') \gset
SELECT is(disagreeing(), '', 'TRUNCATE of an old leaf');
SELECT each_pair('TRUNCATE {leaf}', 'new') \gset
SELECT is(disagreeing(), '', 'TRUNCATE of a new leaf');
SELECT each_pair('TRUNCATE {t}', 'new') \gset
SELECT is(disagreeing(), '', 'TRUNCATE of the root');

-- partitions that come and go: their rows come and go without a write, which only a reconciliation can find
CREATE TABLE po (id int, k text, v int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE po_a PARTITION OF po FOR VALUES IN ('a');
CREATE TABLE po_b PARTITION OF po FOR VALUES IN ('b') PARTITION BY HASH (id);
CREATE TABLE po_b0 PARTITION OF po_b FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE pn (v int, k text, id int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE pn_a PARTITION OF pn FOR VALUES IN ('a');
CREATE TABLE pn_b PARTITION OF pn FOR VALUES IN ('b', 'c');
INSERT INTO po SELECT g, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'b' END, g FROM generate_series(1, 20) g;
SELECT dualwrite.create_migration('pp', 'po', 'pn');
CALL dualwrite.run('pp', 'verify');
CREATE FUNCTION pp_same() RETURNS bigint LANGUAGE sql AS $$ SELECT differences('SELECT id, k, v FROM po', 'SELECT id, k, v FROM pn') $$;
CREATE TABLE po_c (v int, k text NOT NULL CHECK (k = 'c'), id int NOT NULL, gone int);
ALTER TABLE po_c DROP COLUMN gone;
INSERT INTO po_c VALUES (1, 'c', 100), (2, 'c', 101);
ALTER TABLE po ATTACH PARTITION po_c FOR VALUES IN ('c');
UPDATE po SET v = 5 WHERE id = 100;
INSERT INTO po_c (id, k, v) VALUES (102, 'c', 3); INSERT INTO po VALUES (103, 'c', 3);
UPDATE po SET k = 'c' WHERE id = 1; UPDATE po SET k = 'a' WHERE id = 102;
SELECT is(pp_same(), 1::bigint, 'an attached partition: what is written is mirrored, what it brought along waits for a reconciliation');
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('pp')$$, $$VALUES (1::bigint, 0::bigint, 0::bigint)$$, 'which finds it');
SELECT is(dualwrite.repair('pp'), 1::bigint, 'and brings it over');
SELECT is(pp_same(), 0::bigint, 'an attached partition is complete');
SELECT dualwrite.install_triggers('pp') \gset
TRUNCATE po_c;
SELECT is(pp_same(), 0::bigint, 'it can be truncated');
INSERT INTO po VALUES (110, 'c', 1);
ALTER TABLE po DETACH PARTITION po_c;
SELECT lives_ok('INSERT INTO po_c (id, k, v) VALUES (200, ''c'', 1)', 'a detached partition takes writes');
SELECT lives_ok('UPDATE po_c SET v = 2', 'of all kinds'); SELECT lives_ok('DELETE FROM po_c WHERE id = 200', 'and they are nobody''s');
SELECT is(pp_same(), 1::bigint, 'what it took along is still on the new side');
SELECT results_eq($$SELECT missing, extra, different FROM dualwrite.reconcile('pp')$$, $$VALUES (0::bigint, 1::bigint, 0::bigint)$$, 'a reconciliation finds that');
SELECT is(dualwrite.repair('pp'), 1::bigint, 'and a repair takes it away');
SELECT is(pp_same(), 0::bigint, 'a detached partition is gone');
SELECT lives_ok('TRUNCATE po_c', 'it can be truncated by itself');
SELECT is(pp_same(), 0::bigint, 'which touches nothing of the new side');
ALTER TABLE po ATTACH PARTITION po_c FOR VALUES IN ('c');
SELECT dualwrite.install_triggers('pp') \gset
INSERT INTO po VALUES (120, 'c', 1);
ALTER TABLE pn DETACH PARTITION pn_a;
SELECT throws_ok($$UPDATE po SET v = 1 WHERE k = 'a'$$, '23514', NULL, 'without its partition the new side takes no row');
ALTER TABLE pn ATTACH PARTITION pn_a FOR VALUES IN ('a');
UPDATE po SET v = 1 WHERE k = 'a';
DROP TABLE po_b; DELETE FROM pn WHERE false;
SELECT is(pp_same(), (SELECT count(*) FROM pn WHERE k = 'b'), 'a partition that is dropped');
SELECT is((SELECT sum(extra) FROM dualwrite.reconcile('pp')), (SELECT count(*) FROM pn WHERE k = 'b')::numeric, 'is found, too');
SELECT dualwrite.repair('pp') > 0 AS repaired \gset
CALL dualwrite.run('pp', 'read_switch');
CREATE TABLE pn_d PARTITION OF pn FOR VALUES IN ('d') PARTITION BY RANGE (id);
CREATE TABLE pn_d1 (id int NOT NULL, v int, k text NOT NULL);
ALTER TABLE pn_d ATTACH PARTITION pn_d1 FOR VALUES FROM (0) TO (1000);
CREATE TABLE po_d PARTITION OF po DEFAULT;
SELECT dualwrite.install_triggers('pp') \gset
INSERT INTO pn (id, k, v) VALUES (300, 'd', 1), (301, 'd', 2); UPDATE pn_d1 SET v = 3 WHERE id = 301; UPDATE pn SET k = 'a' WHERE id = 300; UPDATE po_d SET v = 4;
SELECT is(pp_same(), 0::bigint, 'partitions that come later on the new side');
SELECT dualwrite.rollback('pp', 'defined', force => true) \gset
SELECT is((SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE relname ~ '^p[on]_?' AND relname !~ '^pg_' AND tgname ~ 'dualwrite'), 0::bigint, 'nothing is left on them');

-- A partition that is attached later has no trigger that tells when a statement is over: each row was brought over by itself, so that rows
-- whose keys shifted left their unmapped columns to each other, and where errors are queued each took a subtransaction.
CREATE TABLE lo (id int, k text, v int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE lo_a PARTITION OF lo FOR VALUES IN ('a');
CREATE TABLE ln (own text DEFAULT 'own', k text, id int, v int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE ln_a PARTITION OF ln FOR VALUES IN ('a');
SELECT dualwrite.create_migration('late', 'lo', 'ln');
CALL dualwrite.run('late', 'read_switch');
CREATE TABLE lo_b PARTITION OF lo FOR VALUES IN ('b', 'c') PARTITION BY RANGE (id);
CREATE TABLE lo_b0 PARTITION OF lo_b FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE lo_b1 (v int, gone int, k text NOT NULL, id int NOT NULL);
ALTER TABLE lo_b1 DROP COLUMN gone;
ALTER TABLE lo_b ATTACH PARTITION lo_b1 FOR VALUES FROM (1000) TO (MAXVALUE);
CREATE TABLE ln_b (k text NOT NULL, v int, own text DEFAULT 'own', id int NOT NULL);
ALTER TABLE ln ATTACH PARTITION ln_b FOR VALUES IN ('b', 'c');
-- own goes with the row that v names, whatever becomes of its key
CREATE FUNCTION late() RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', differences('SELECT id, k, v FROM lo', 'SELECT id, k, v FROM ln'), (SELECT count(*) FROM ln WHERE own <> 'row ' || v), (SELECT count(*) FROM ln)) $$;
INSERT INTO lo SELECT 2 * g, 'b', g FROM generate_series(20, 1, -1) g;
INSERT INTO lo_b1 (id, k, v) SELECT 1000 + 2 * g, 'b', g + 100 FROM generate_series(20, 1, -1) g;
UPDATE ln SET own = 'row ' || v;
SELECT is(late(), '0 0 40', 'attached later: INSERT');
UPDATE lo_b0 SET id = id + 2;
UPDATE lo_b1 SET id = id + 2;
SELECT is(late(), '0 0 40', 'keys shift in a leaf');
UPDATE lo_b SET id = id + 2;
SELECT is(late(), '0 0 40', 'in the middle of a tree');
UPDATE lo SET id = id + 2;
SELECT is(late(), '0 0 40', 'through the root');
UPDATE lo_b SET id = 2100 - id;
UPDATE lo_b SET id = id - 1100, v = v WHERE id > 2000;
UPDATE lo SET id = 5000 - id, k = 'c' WHERE id % 3 = 0;
SELECT is(late(), '0 0 40', 'from leaf to leaf');
BEGIN; UPDATE lo_b0 SET id = id - 1; SAVEPOINT s; UPDATE lo_b1 SET id = id + 1; ROLLBACK TO s; DELETE FROM lo_b1 WHERE id = (SELECT min(id) FROM lo_b1); UPDATE lo_b1 SET id = id - 1; COMMIT;
SELECT is(late(), '0 0 39', 'statements after each other');
UPDATE ln_b SET id = id + 10000 WHERE k = 'b';
UPDATE ln_b SET id = -id;
INSERT INTO ln_b (id, k, v, own) SELECT g, 'b', g, 'row ' || g FROM generate_series(2010, 2000, -1) g;
UPDATE ln_b SET id = id + 1 WHERE id BETWEEN 2000 AND 2010;
SELECT is(late(), '0 0 50', 'on the new side');
-- statements within statements: what the outer one waits for is not what the inner one does
CREATE FUNCTION shift_others() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 AND new.v = 4 THEN
		UPDATE lo_b1 SET id = id + 100000, v = -v;
		UPDATE lo_b1 SET id = id - 99999;
		ASSERT (SELECT count(*) FROM lo_b1 o JOIN ln n USING (id, k, v)) = (SELECT count(*) FROM lo_b1), 'a statement within another is mirrored when it is over';
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER shift AFTER UPDATE ON lo_b0 FOR EACH ROW EXECUTE FUNCTION shift_others();
UPDATE lo_b0 SET id = id - 1;
SELECT is((SELECT count(*) FROM lo_b1 WHERE v < 0) > 0, true, 'a trigger that shifts keys meanwhile');
SELECT is(differences('SELECT id, k, v FROM lo', 'SELECT id, k, v FROM ln'), 0::bigint, 'is mirrored');
DROP TRIGGER shift ON lo_b0;
UPDATE ln SET own = 'row ' || v;
-- one subtransaction a statement
SELECT dualwrite.configure('late', 'mirror_on_error', 'queue');
SELECT dualwrite.pause(name) FROM _dualwrite.migration;
SELECT is(xids_of($$INSERT INTO lo_b1 (id, k, v) SELECT g, 'b', g FROM generate_series(300001, 300050) g$$), 1::bigint, 'where errors are queued: one subtransaction for an INSERT');
SELECT is(xids_of($$INSERT INTO lo (id, k, v) SELECT g, 'b', g FROM generate_series(300051, 300100) g$$), 1::bigint, 'through the root, too');
UPDATE ln SET own = 'row ' || v;
SELECT is(xids_of('UPDATE lo_b1 SET id = id + 100 WHERE id > 300000'), 1::bigint, 'for key changes'); SELECT is(xids_of('DELETE FROM lo_b1 WHERE id > 300150'), 1::bigint, 'and a DELETE');
SELECT is(differences('SELECT id, k, v FROM lo', 'SELECT id, k, v FROM ln'), 0::bigint, 'and all of it is mirrored');
SELECT is((SELECT count(*) FROM ln WHERE own <> 'row ' || v), 0::bigint, 'with what is the new side''s own');
SELECT dualwrite.resume(name) FROM _dualwrite.migration;

-- What is partitioned by an expression can have no unique index, and so no key.
CREATE TABLE pe (id int, v int) PARTITION BY RANGE ((id / 10));
CREATE TABLE pe_1 PARTITION OF pe DEFAULT;
CREATE TABLE pe_new (id int PRIMARY KEY, v int);
SELECT throws_ok($$SELECT dualwrite.create_migration('pe', 'pe', 'pe_new')$$, '55000', NULL, 'partitioned by an expression: there is no key');
-- With several levels an expression further down needs an index that is not the root's; then it is the same.
CREATE TABLE pf (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
SELECT throws_ok($$CREATE TABLE pf_1 PARTITION OF pf FOR VALUES FROM (0) TO (100) PARTITION BY LIST ((id % 2))$$, NULL, NULL, 'nor further down');

-- Many keys are put off to the end of a statement and settled in the middle of it; a trigger of one new table, which that fires,
-- writes the old table: the other new tables get the row that they were about to get.
CREATE TABLE between_old (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE between_1 (v text, k int NOT NULL, id int NOT NULL);
ALTER TABLE between_old ATTACH PARTITION between_1 FOR VALUES IN (1);
CREATE TABLE between_a (id int, k int, v text, PRIMARY KEY (id, k));
CREATE TABLE between_b (LIKE between_a INCLUDING ALL);
CREATE TABLE between_c (LIKE between_a INCLUDING ALL);
SELECT dualwrite.create_migration('between');
SELECT dualwrite.add_mapping('between', 'between_old', 'between_a');
SELECT dualwrite.add_mapping('between', 'between_old', 'between_b');
SELECT dualwrite.add_mapping('between', 'between_old', 'between_c');
SELECT dualwrite.configure('between', 'mirror_on_error', 'queue');
CALL dualwrite.run('between', 'verify');
CREATE FUNCTION between_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO between_old VALUES (new.id + 100000, 1, 'more');
	RETURN NULL;
END $$;
CREATE TRIGGER more AFTER INSERT ON between_a FOR EACH ROW WHEN (new.id <= 4000) EXECUTE FUNCTION between_more();
ALTER TABLE between_a ENABLE ALWAYS TRIGGER more;
INSERT INTO between_old SELECT g, 1, 'row' FROM generate_series(1, 4000) g;
SELECT is((SELECT array_agg(n) FROM (SELECT count(*) AS n FROM between_old UNION ALL SELECT count(*) FROM (TABLE between_old INTERSECT TABLE between_a) a
	UNION ALL SELECT count(*) FROM (TABLE between_old INTERSECT TABLE between_b) b UNION ALL SELECT count(*) FROM (TABLE between_old INTERSECT TABLE between_c) c) counts),
	'{8000,8000,8000,8000}', 'keys that are settled early, with a trigger that writes the old table');
SELECT is((SELECT count(*) FROM dualwrite.queue WHERE migration = 'between'), 0::bigint, '... and nothing is queued');

SELECT * FROM finish();
