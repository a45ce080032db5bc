/*
 * Two tables that agree but for ten rows, and the statements that find these: 8 columns, integer keys, one of them wider
 * than the other.  :mapping plain copies columns, of which some change their type; computed has expressions.
 */
\set QUIET on
SET client_min_messages = warning;
CREATE EXTENSION dualwrite;
CREATE SCHEMA bench;
CREATE TABLE bench.sample (variant text, round int, seconds float8, temp_files bigint, memory_kb bigint);
CREATE TABLE bench.drift (id bigint PRIMARY KEY, kind text);

CREATE TABLE bench.o (id int PRIMARY KEY, email varchar(80) NOT NULL, name text NOT NULL, state int NOT NULL, note text, amount numeric,
	created timestamptz NOT NULL, flag boolean NOT NULL);
INSERT INTO bench.o SELECT i, 'User' || i || '@example.org', 'Ann' || i || ' Lee', i % 2, CASE WHEN i % 4 = 0 THEN 'note ' || i END, i / 100.0,
	timestamptz '2024-01-01 00:00+00' + i * interval '1 second', i % 3 = 0 FROM generate_series(1, :rows) i;
SELECT :'mapping' = 'plain' AS plain \gset
\if :plain
CREATE TABLE bench.n (id bigint PRIMARY KEY, email text NOT NULL, full_name text NOT NULL, state bigint NOT NULL, note text, amount numeric,
	created timestamptz NOT NULL, flag boolean NOT NULL);
CREATE FUNCTION bench.projection() RETURNS text LANGUAGE sql IMMUTABLE AS
	$$SELECT 'o.id::bigint, o.email::text, o.name, o.state::bigint, o.note, o.amount, o.created, o.flag'$$;
SELECT dualwrite.create_migration('bench', 'bench.o', 'bench.n', forward => '{"full_name": "name"}', reverse => '{"name": "full_name"}') \g /dev/null
\else
CREATE TABLE bench.n (id bigint PRIMARY KEY, email text NOT NULL, first_name text NOT NULL, last_name text NOT NULL, state text NOT NULL,
	note text NOT NULL, amount numeric, created timestamptz NOT NULL, flag boolean NOT NULL);
CREATE FUNCTION bench.projection() RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT 'o.id::bigint, lower(o.email), split_part(o.name, '' '', 1), split_part(o.name, '' '', 2),
		CASE WHEN o.state = 1 THEN ''active'' ELSE ''idle'' END, coalesce(o.note, ''''), o.amount, o.created, o.flag' $$;
SELECT dualwrite.create_migration('bench', 'bench.o', 'bench.n', forward => $${"email": "lower(email)",
	"first_name": "split_part(name, ' ', 1)", "last_name": "split_part(name, ' ', 2)",
	"state": "CASE WHEN state = 1 THEN 'active' ELSE 'idle' END", "note": "coalesce(note, '')"}$$,
	reverse => $${"email": "email", "name": "first_name || ' ' || last_name", "state": "CASE WHEN state = 'active' THEN 1 ELSE 0 END", "note": "nullif(note, '')"}$$)
	\g /dev/null
\endif
SELECT dualwrite.configure('bench', 'reconcile_interval', '0') \g /dev/null
CALL dualwrite.run('bench', 'verify', '30 min');

-- Ten drifts, spread over the tables: three rows that differ, three that are missing, four that are extra.
INSERT INTO bench.drift SELECT (:rows / 11.0 * i)::bigint, (ARRAY['different', 'missing', 'extra'])[i % 3 + 1] FROM generate_series(1, 8) i;
INSERT INTO bench.drift VALUES (1, 'different'), (:rows + 3000000000, 'extra');
BEGIN;
ALTER TABLE bench.n DISABLE TRIGGER USER;
ALTER TABLE bench.o DISABLE TRIGGER USER;
UPDATE bench.n SET amount = amount + 0.01 WHERE id IN (SELECT id FROM bench.drift WHERE kind = 'different');
DELETE FROM bench.n WHERE id IN (SELECT id FROM bench.drift WHERE kind = 'missing');
DELETE FROM bench.o WHERE id IN (SELECT id FROM bench.drift WHERE kind = 'extra');
CREATE TEMP TABLE template ON COMMIT DROP AS SELECT * FROM bench.n WHERE id = 2;
UPDATE template SET id = :rows + 3000000000;
INSERT INTO bench.n SELECT * FROM template;
SELECT format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', tgrelid::regclass, tgname) FROM pg_trigger
	WHERE tgrelid IN ('bench.o'::regclass, 'bench.n'::regclass) AND NOT tgisinternal \gexec
COMMIT;
VACUUM (ANALYZE) bench.o;
VACUUM (ANALYZE) bench.n;
CHECKPOINT;

/*
 * The best that plain SQL does: both indexes in order, merged; nothing is sorted, nothing is hashed, and rows are compared
 * column by column, which takes half as long as comparing them as records.
 */
CREATE FUNCTION bench.full_join() RETURNS text LANGUAGE sql AS $$
	SELECT format('SET enable_hashjoin = off; SET enable_sort = off; SET enable_seqscan = off;
		CREATE TEMP TABLE found AS SELECT coalesce(n.id, o.id) AS id FROM bench.o o FULL JOIN bench.n n ON n.id = o.id
		WHERE o.id IS NULL OR n.id IS NULL OR ROW(%s) IS DISTINCT FROM ROW(%s)', bench.projection(),
			(SELECT string_agg('n.' || quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'bench.n'::regclass AND attnum > 0)) $$;

CREATE FUNCTION bench.except_both() RETURNS text LANGUAGE sql AS $$
	SELECT format('CREATE TEMP TABLE found AS SELECT DISTINCT id FROM ((SELECT %1$s FROM bench.o o EXCEPT SELECT * FROM bench.n)
		UNION ALL (SELECT * FROM bench.n EXCEPT SELECT %1$s FROM bench.o o)) AS d (id)', bench.projection()) $$;

/* Only says that something differs, not what. */
CREATE FUNCTION bench.hashes() RETURNS text LANGUAGE sql AS $$
	SELECT format('CREATE TEMP TABLE found AS SELECT (SELECT sum(hash_record_extended(ROW(%s), 0)::numeric) FROM bench.o o)
		<> (SELECT sum(hash_record_extended(ROW(n.*), 0)::numeric) FROM bench.n n) AS differ', bench.projection()) $$;

/* Temporary files written so far. */
CREATE FUNCTION bench.begin() RETURNS bigint LANGUAGE sql AS
	$$ SELECT temp_files FROM pg_stat_database WHERE datname = current_database() $$;

/* Memory: the most a process ever had, without the shared buffers that it has touched. */
CREATE FUNCTION bench.memory(pid int) RETURNS bigint LANGUAGE sql AS $$
	SELECT substring(status FROM 'VmHWM:\s+(\d+)')::bigint - substring(status FROM 'RssShmem:\s+(\d+)')::bigint
	FROM pg_read_file('/proc/' || pid || '/status', 0, 10000, true) AS status $$;

/* The most of the background's processes. */
CREATE TABLE bench.worker_memory (kb bigint);

/* A complete comparison by so many processes. */
CREATE PROCEDURE bench.background(workers int) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM dualwrite.configure('bench', 'reconcile_workers', workers::text);
	PERFORM dualwrite.reconcile('bench', background => true);
	CALL bench.await();
END $$;

CREATE PROCEDURE bench.await() LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		COMMIT;
		EXIT WHEN NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL);
		INSERT INTO bench.worker_memory SELECT max(bench.memory(pid)) FROM dualwrite.workers;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

/* A comparison of what has changed since the last one. */
CREATE PROCEDURE bench.changes() LANGUAGE plpgsql AS $$
DECLARE
	last bigint := (SELECT max(id) FROM _dualwrite.reconcile_pass);
BEGIN
	PERFORM dualwrite.configure('bench', 'reconcile_interval', '1 ms');
	WHILE (SELECT max(id) = last FROM _dualwrite.reconcile_pass) LOOP
		COMMIT;
	END LOOP;
	PERFORM dualwrite.configure('bench', 'reconcile_interval', '0');
	CALL bench.await();
	ASSERT (SELECT sample_percent = 0 FROM _dualwrite.reconcile_pass WHERE id = last + 1), 'all rows were compared';
END $$;

/* What the session itself took, and for background work its processes. */
CREATE FUNCTION bench.record(variant text, round int, began timestamptz, temp_files bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	seconds float8 := extract(epoch FROM clock_timestamp() - began);
	found bigint[];
BEGIN
	INSERT INTO bench.sample VALUES (variant, round, seconds, bench.begin() - temp_files,
		greatest(bench.memory(pg_backend_pid()), (SELECT max(kb) FROM bench.worker_memory WHERE variant LIKE '%worker%')));
	DELETE FROM bench.worker_memory;
	IF variant IN ('FULL JOIN', 'EXCEPT') THEN
		SELECT array_agg(id ORDER BY id) INTO found FROM pg_temp.found;
		ASSERT found = (SELECT array_agg(id ORDER BY id) FROM bench.drift), format('%s finds %s', variant, found);
	END IF;
END $$;

CREATE VIEW bench.median AS
	SELECT variant, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS seconds, max(temp_files) AS temp_files, max(memory_kb) AS memory_kb
	FROM bench.sample WHERE round > 0 GROUP BY 1;

CREATE FUNCTION bench.report(rows bigint, OUT variant text, OUT seconds numeric, OUT "krows/s a side" numeric, OUT "of the FULL JOIN" numeric,
		OUT "temporary files" bigint, OUT "memory, MB" numeric) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT m.variant, round(m.seconds::numeric, 2), round((rows / m.seconds / 1000)::numeric), round((m.seconds / f.seconds)::numeric, 2),
		m.temp_files, round(m.memory_kb / 1024.0, 1)
	FROM bench.median m, bench.median f WHERE f.variant = 'FULL JOIN' ORDER BY m.seconds DESC $$;

CREATE FUNCTION bench.extrapolation(rows bigint, OUT "100 million rows a side would take" text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s: %s min', m.variant, round((m.seconds * 100000000 / rows / 60)::numeric, 1))
	FROM bench.median m WHERE m.variant LIKE 'dualwrite%' ORDER BY m.variant $$;

/* Rows of a Markdown table, without the bars at their ends. */
CREATE FUNCTION bench.lines(rows bigint, mapping text, OUT line text) RETURNS SETOF text LANGUAGE sql AS $$
	WITH m AS (SELECT d.*, d.seconds / f.seconds AS ratio FROM bench.median d, bench.median f WHERE f.variant = 'FULL JOIN')
	SELECT format('%s, mapping %s: time of that of the FULL JOIN | %s | %s (%s s of %s s)', m.variant, mapping, r.reach, round(m.ratio::numeric, 2),
		round(m.seconds::numeric, 2), round((m.seconds / m.ratio)::numeric, 2))
	FROM m LEFT JOIN (VALUES (1, 'dualwrite', '≤ 0.7'), (2, 'dualwrite, 1 worker', ''), (3, 'dualwrite, 2 workers', '≤ 0.45'),
		(4, 'dualwrite, changes', '')) AS r (i, variant, reach) USING (variant)
	WHERE m.variant <> 'FULL JOIN'
	UNION ALL
	SELECT format('drifts found by key, of ten; temporary files | 10; 0 | 10; %s', max(temp_files)) FROM bench.median WHERE variant LIKE 'dualwrite%'
	UNION ALL
	SELECT format('memory of a process, MB | ≤ 64 | %s', round(max(memory_kb) / 1024.0, 1)) FROM bench.median WHERE variant LIKE 'dualwrite%'
	UNION ALL
	SELECT format('100 million rows a side would take, min | | %s; with two workers %s', round((a.seconds * 100000000 / rows / 60)::numeric, 1),
		round((b.seconds * 100000000 / rows / 60)::numeric, 1))
	FROM bench.median a, bench.median b WHERE a.variant = 'dualwrite' AND b.variant = 'dualwrite, 2 workers' $$;

CREATE PROCEDURE bench.check() LANGUAGE plpgsql AS $$
DECLARE
	wrong text;
BEGIN
	SELECT string_agg(format('%s %s', coalesce(f.id, d.id), coalesce(f.kind, 'not ' || d.kind)), ', ') INTO wrong
	FROM (SELECT (key->>'id')::bigint AS id, kind FROM dualwrite.drift WHERE migration = 'bench' AND state = 'open') f
	FULL JOIN bench.drift d USING (id, kind) WHERE f.id IS NULL OR d.id IS NULL;
	IF wrong IS NOT NULL OR (SELECT count(*) <> 10 FROM bench.drift) THEN
		RAISE 'dualwrite.reconcile is wrong about these keys: %', wrong;
	END IF;
	IF (SELECT max(temp_files) > 0 FROM bench.sample WHERE variant LIKE 'dualwrite%') THEN
		RAISE 'dualwrite.reconcile has written temporary files';
	END IF;
	RAISE NOTICE 'all ten drifts found, by key and kind; no temporary file';
END $$;
