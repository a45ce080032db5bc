/*
 * The mirror's cost, side by side: the same statements on six pairs of tables that differ only in how the second table
 * is kept.  8 columns, one of them unmapped, a secondary index on each side, a mapping with lower(), split_part(), CASE and coalesce().
 * Rounds are interleaved, so that a machine that slows down slows all of them down; medians are taken.  Times are the
 * backend's processor time, so that whatever else the machine does counts as little as can be.
 */
\set QUIET on
\pset footer off
SET client_min_messages = warning;
CREATE EXTENSION dualwrite;
CREATE SCHEMA bench;
CREATE FUNCTION bench.nothing() RETURNS trigger LANGUAGE c AS :'helper', 'bench_nothing';
CREATE FUNCTION bench.cpu() RETURNS float8 LANGUAGE c AS :'helper', 'bench_cpu';
-- The addresses: in the order of the ids, more or less, or spread over their index as those of real customers are.
CREATE FUNCTION bench.address(i int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'U' || i::text || '@x.org' $$;
\if :spread
CREATE OR REPLACE FUNCTION bench.address(i int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT 'U' || to_hex(i * 2654435761 % 4294967296) || '@mail.customers.example.org' $$;
\endif
-- What the old table has and the new one will not: a row of the old table makes 345 bytes of WAL with it.
CREATE FUNCTION bench.unmapped(i int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT 'imported from the branch office at Oldtown in the spring, file ' || i::text $$;
CREATE TABLE bench.sample (round int, kind text, variant text, seconds float8);
CREATE TABLE bench.wal (round int, kind text, variant text, bytes_a_row float8);

-- The second table's row as an expression over the old row.
CREATE FUNCTION bench.projection(r text) RETURNS text LANGUAGE sql AS $$
	SELECT replace('R.id::bigint, lower(R.email), split_part(R.name, '' '', 1), split_part(R.name, '' '', 2),
		CASE WHEN R.state = 1 THEN ''active'' ELSE ''idle'' END, coalesce(R.note, ''''), R.amount, R.created', 'R.', r || '.') $$;

CREATE PROCEDURE bench.make(variant text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE SCHEMA %1$I
		CREATE TABLE o (id int PRIMARY KEY, email text NOT NULL, name text NOT NULL, state int NOT NULL, note text, amount numeric,
			created timestamptz NOT NULL, unmapped text)
		CREATE TABLE n (id bigint PRIMARY KEY, email text NOT NULL, first_name text NOT NULL, last_name text NOT NULL, state text NOT NULL,
			note text NOT NULL, amount numeric, created timestamptz NOT NULL)
		CREATE INDEX o_email ON o (email)
		CREATE INDEX n_email ON n (email)', variant);
END $$;

-- What pgroll and Reshape generate: one plpgsql function with a static upsert.
CREATE PROCEDURE bench.make_upsert() LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format($f$CREATE FUNCTION upsert.mirror() RETURNS trigger LANGUAGE plpgsql AS $body$
	BEGIN
		IF tg_op = 'DELETE' THEN DELETE FROM upsert.n WHERE id = old.id; RETURN NULL; END IF;
		INSERT INTO upsert.n SELECT %s ON CONFLICT (id) DO UPDATE SET email = excluded.email, first_name = excluded.first_name,
			last_name = excluded.last_name, state = excluded.state, note = excluded.note, amount = excluded.amount, created = excluded.created;
		RETURN NULL;
	END $body$ $f$, bench.projection('new'));
	CREATE TRIGGER mirror AFTER INSERT OR UPDATE OR DELETE ON upsert.o FOR EACH ROW EXECUTE FUNCTION upsert.mirror();
END $$;

-- What pg_repack's trigger does: SQL text made, parsed and planned for every row.
CREATE PROCEDURE bench.make_dynamic() LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format($f$CREATE FUNCTION dynamic.mirror() RETURNS trigger LANGUAGE plpgsql AS $body$
	BEGIN
		IF tg_op = 'DELETE' THEN EXECUTE 'DELETE FROM dynamic.n WHERE id = ' || old.id; RETURN NULL; END IF;
		EXECUTE format('INSERT INTO dynamic.n SELECT %%s FROM (SELECT ($1).*) r ON CONFLICT (id) DO UPDATE SET email = excluded.email,
			first_name = excluded.first_name, last_name = excluded.last_name, state = excluded.state, note = excluded.note,
			amount = excluded.amount, created = excluded.created', %L) USING new;
		RETURN NULL;
	END $body$ $f$, bench.projection('r'));
	CREATE TRIGGER mirror AFTER INSERT OR UPDATE OR DELETE ON dynamic.o FOR EACH ROW EXECUTE FUNCTION dynamic.mirror();
END $$;

CREATE PROCEDURE bench.record_wal(round int, kind text, variant text, rows int, began pg_lsn) LANGUAGE sql AS $$
	INSERT INTO bench.wal VALUES ($1, $2, $3, (pg_current_wal_insert_lsn() - $5)::float8 / $4) $$;

CREATE PROCEDURE bench.record(round int, kind text, variant text, began float8) LANGUAGE sql AS $$
	INSERT INTO bench.sample VALUES ($1, $2, $3, bench.cpu() - $4) $$;

-- One row a statement.  two: the session sends the second statement itself.
CREATE PROCEDURE bench.single(round int, variant text, rows int) LANGUAGE plpgsql AS $$
DECLARE
	two boolean := variant = 'two';
	o text := variant || '.o';
	began float8;
	base int := round * rows;
	sql text;
BEGIN
	sql := format('DO $d$ BEGIN FOR i IN %s..%s LOOP
		INSERT INTO %s VALUES (i, bench.address(i), ''Ann'' || i || '' Lee'', i %% 2, NULL, i, now(), bench.unmapped(i));
		%s END LOOP; END $d$', base + 1, base + rows, o,
		CASE WHEN two THEN 'INSERT INTO two.n SELECT ' || bench.projection('r') || ' FROM (SELECT i AS id, bench.address(i) AS email, ''Ann'' || i || '' Lee'' AS name, i % 2 AS state, NULL::text AS note, i::numeric AS amount, now() AS created) r;' END);
	began := bench.cpu(); EXECUTE sql; CALL bench.record(round, 'single insert', variant, began); COMMIT;
	sql := format('DO $d$ BEGIN FOR i IN %s..%s LOOP
		UPDATE %s SET note = ''n'' || i, amount = amount + 1 WHERE id = i;
		%s END LOOP; END $d$', base + 1, base + rows, o,
		CASE WHEN two THEN 'UPDATE two.n SET note = coalesce(''n'' || i, ''''), amount = amount + 1 WHERE id = i;' END);
	began := bench.cpu(); EXECUTE sql; CALL bench.record(round, 'single update', variant, began); COMMIT;
	sql := format('DO $d$ BEGIN FOR i IN %s..%s LOOP UPDATE %s SET unmapped = ''looked at '' || i WHERE id = i; END LOOP; END $d$', base + 1, base + rows, o);
	began := bench.cpu(); EXECUTE sql; CALL bench.record(round, 'single update, unmapped column', variant, began); COMMIT;
	sql := format('DO $d$ BEGIN FOR i IN %s..%s LOOP DELETE FROM %s WHERE id = i; %s END LOOP; END $d$', base + 1, base + rows, o,
		CASE WHEN two THEN 'DELETE FROM two.n WHERE id = i;' END);
	began := bench.cpu(); EXECUTE sql; CALL bench.record(round, 'single delete', variant, began); COMMIT;
END $$;

CREATE PROCEDURE bench.bulk(round int, variant text, rows int, file text) LANGUAGE plpgsql AS $$
DECLARE
	two boolean := variant = 'two';
	o text := variant || '.o';
	-- nobody else's TRUNCATE reaches the second table
	pair text := o || CASE WHEN variant IN ('two', 'upsert', 'dynamic') THEN ', ' || variant || '.n' ELSE '' END;
	began float8;
	wal pg_lsn;
BEGIN
	wal := pg_current_wal_insert_lsn();
	began := bench.cpu();
	EXECUTE format('INSERT INTO %s SELECT i, bench.address(i), ''Ann'' || i || '' Lee'', i %% 2, NULL, i, now(), bench.unmapped(i) FROM generate_series(1, %s) i', o, rows);
	IF two THEN EXECUTE 'INSERT INTO two.n SELECT ' || bench.projection('r') || ' FROM two.o r'; END IF;
	CALL bench.record(round, 'bulk insert', variant, began); CALL bench.record_wal(round, 'bulk insert', variant, rows, wal); COMMIT;
	wal := pg_current_wal_insert_lsn();
	began := bench.cpu();
	EXECUTE format('UPDATE %s SET note = ''n'' || id, amount = amount + 1', o);
	IF two THEN EXECUTE 'UPDATE two.n SET note = coalesce(''n'' || id, ''''), amount = amount + 1'; END IF;
	CALL bench.record(round, 'bulk update', variant, began); CALL bench.record_wal(round, 'bulk update', variant, rows, wal); COMMIT;
	wal := pg_current_wal_insert_lsn();
	began := bench.cpu();
	EXECUTE format('DELETE FROM %s', o);
	IF two THEN DELETE FROM two.n; END IF;
	CALL bench.record(round, 'bulk delete', variant, began); CALL bench.record_wal(round, 'bulk delete', variant, rows, wal); COMMIT;
	EXECUTE format('TRUNCATE %s', pair);
	COMMIT;
	began := bench.cpu();
	EXECUTE format('COPY %s FROM %L', o, file);
	IF two THEN EXECUTE 'INSERT INTO two.n SELECT ' || bench.projection('r') || ' FROM two.o r'; END IF;
	CALL bench.record(round, 'bulk copy', variant, began); COMMIT;
	EXECUTE format('TRUNCATE %s', pair);
	COMMIT;
END $$;

CALL bench.make('none'); CALL bench.make('nothing'); CALL bench.make('two'); CALL bench.make('upsert'); CALL bench.make('dynamic'); CALL bench.make('mirrored');
CALL bench.make_upsert(); CALL bench.make_dynamic();
CREATE TRIGGER nothing AFTER INSERT OR UPDATE OR DELETE ON nothing.o FOR EACH ROW EXECUTE FUNCTION bench.nothing();
SELECT dualwrite.create_migration('bench', 'mirrored.o', 'mirrored.n', forward => $${"email": "lower(email)",
	"first_name": "split_part(name, ' ', 1)", "last_name": "split_part(name, ' ', 2)",
	"state": "CASE WHEN state = 1 THEN 'active' ELSE 'idle' END", "note": "coalesce(note, '')"}$$,
	reverse => $${"email": "email", "name": "first_name || ' ' || last_name", "state": "CASE WHEN state = 'active' THEN 1 ELSE 0 END", "note": "nullif(note, '')"}$$) \g /dev/null
CALL dualwrite.run('bench', 'verify', '1 min');
SELECT dualwrite.pause('bench') \g /dev/null
COPY (SELECT i, bench.address(i), 'Ann' || i || ' Lee', i % 2, NULL, i, now(), bench.unmapped(i) FROM generate_series(1, :bulk_rows) i) TO :'file';

CREATE PROCEDURE bench.run(rounds int, single_rows int, bulk_rows int, file text) LANGUAGE plpgsql AS $$
DECLARE
	variant text;
BEGIN
	-- round 0 warms up and is not counted
	FOR round IN 0..rounds LOOP
		FOREACH variant IN ARRAY ARRAY['none', 'nothing', 'two', 'upsert', 'dynamic', 'mirrored'] LOOP
			CALL bench.single(round, variant, single_rows);
			CALL bench.bulk(round, variant, bulk_rows, file);
		END LOOP;
	END LOOP;
END $$;
CALL bench.run(:rounds, :single_rows, :bulk_rows, :'file');

CREATE VIEW bench.median AS
	SELECT kind, variant, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS seconds FROM bench.sample WHERE round > 0 GROUP BY 1, 2;
-- 80 columns: what the mirror adds, in a bulk insert.
CREATE PROCEDURE bench.wide(rounds int, rows int) LANGUAGE plpgsql AS $$
DECLARE
	columns text := (SELECT string_agg('c' || i, ', ') FROM generate_series(1, 80) i);
	definitions text := (SELECT string_agg('c' || i || CASE i % 2 WHEN 0 THEN ' int' ELSE ' text' END, ', ') FROM generate_series(1, 80) i);
	row_values text := (SELECT string_agg(CASE i % 2 WHEN 0 THEN 'g' ELSE '''value '' || g' END, ', ') FROM generate_series(1, 80) i);
	variant text;
	began float8;
BEGIN
	FOREACH variant IN ARRAY ARRAY['none', 'upsert', 'mirrored'] LOOP
		EXECUTE format('CREATE TABLE %1$I.wide_o (id int PRIMARY KEY, %2$s); CREATE TABLE %1$I.wide_n (id bigint PRIMARY KEY, %2$s)', variant, definitions);
	END LOOP;
	EXECUTE format('CREATE FUNCTION upsert.wide() RETURNS trigger LANGUAGE plpgsql AS %L',
		format('BEGIN INSERT INTO upsert.wide_n SELECT (new).* ON CONFLICT (id) DO UPDATE SET (%1$s) = ROW(%2$s); RETURN NULL; END',
			columns, (SELECT string_agg('excluded.c' || i, ', ') FROM generate_series(1, 80) i)));
	CREATE TRIGGER mirror AFTER INSERT OR UPDATE ON upsert.wide_o FOR EACH ROW EXECUTE FUNCTION upsert.wide();
	PERFORM dualwrite.create_migration('wide', 'mirrored.wide_o', 'mirrored.wide_n');
	COMMIT;
	CALL dualwrite.run('wide', 'verify', '1 min');
	PERFORM dualwrite.pause('wide');
	COMMIT;
	FOR round IN 0..rounds LOOP
		FOREACH variant IN ARRAY ARRAY['none', 'upsert', 'mirrored'] LOOP
			began := bench.cpu();
			EXECUTE format('INSERT INTO %I.wide_o SELECT g, %s FROM generate_series(1, %s) g', variant, row_values, rows);
			CALL bench.record(round, 'wide insert', variant, began); COMMIT;
			EXECUTE format('TRUNCATE %1$I.wide_o', variant);
			IF variant = 'upsert' THEN TRUNCATE upsert.wide_n; END IF;
			COMMIT;
		END LOOP;
	END LOOP;
END $$;
CALL bench.wide(:rounds, :bulk_rows / 10);

CREATE VIEW bench.ratio AS
	SELECT m.kind, m.variant, m.seconds / n.seconds AS to_none, m.seconds / t.seconds AS to_two, m.seconds
	FROM bench.median m JOIN bench.median n ON n.kind = m.kind AND n.variant = 'none' LEFT JOIN bench.median t ON t.kind = m.kind AND t.variant = 'two';
CREATE VIEW bench.wal_median AS
	SELECT kind, variant, percentile_cont(0.5) WITHIN GROUP (ORDER BY bytes_a_row) AS bytes FROM bench.wal WHERE round > 0 GROUP BY 1, 2;
CREATE FUNCTION bench.row(VARIADIC cells text[]) RETURNS text LANGUAGE sql AS $$ SELECT '| ' || array_to_string(cells, ' | ', '–') || ' |' $$;
CREATE FUNCTION bench.times(number float8) RETURNS text LANGUAGE sql AS $$ SELECT round(number::numeric, 2)::text $$;

\pset tuples_only on
\pset format unaligned
\echo Processor time as a multiple of the same statements without a second table (medians):
\echo
SELECT bench.row('', 'no mirror, µs a row', 'trigger that does nothing', 'two statements', 'plpgsql upsert', 'plpgsql EXECUTE', 'dualwrite', 'dualwrite / two');
SELECT bench.row('---', '---', '---', '---', '---', '---', '---', '---');
SELECT bench.row(kind, bench.times(1e6 * max(seconds) FILTER (WHERE variant = 'none') / CASE WHEN kind LIKE 'single%' THEN :single_rows ELSE :bulk_rows END),
	bench.times(max(to_none) FILTER (WHERE variant = 'nothing')), bench.times(max(to_none) FILTER (WHERE variant = 'two')),
	bench.times(max(to_none) FILTER (WHERE variant = 'upsert')), bench.times(max(to_none) FILTER (WHERE variant = 'dynamic')),
	bench.times(max(to_none) FILTER (WHERE variant = 'mirrored')), bench.times(max(to_two) FILTER (WHERE variant = 'mirrored')))
FROM bench.ratio WHERE kind <> 'wide insert' GROUP BY kind ORDER BY kind DESC;
\echo
\echo WAL of both tables, bytes a row (medians):
\echo
SELECT bench.row('', 'no mirror', 'two statements', 'plpgsql upsert', 'dualwrite');
SELECT bench.row('---', '---', '---', '---', '---');
SELECT bench.row(kind, round(max(bytes) FILTER (WHERE variant = 'none'))::text, round(max(bytes) FILTER (WHERE variant = 'two'))::text,
	round(max(bytes) FILTER (WHERE variant = 'upsert'))::text, round(max(bytes) FILTER (WHERE variant = 'mirrored'))::text)
FROM bench.wal_median GROUP BY kind ORDER BY kind;
\echo
SELECT bench.row('line', 'reach', 'measured');
SELECT bench.row('---', '---', '---');
SELECT bench.row(l.line, l.reach, bench.times(CASE WHEN l.to_two THEN r.to_two ELSE r.to_none END))
FROM (VALUES (1, 'single update', true, 'one-row UPDATE, against two plain statements', '≤ 1.0'),
	(2, 'single insert', true, 'one-row INSERT, against two plain statements', '≤ 0.9'),
	(3, 'single delete', true, 'one-row DELETE, against two plain statements', '≤ 0.9'),
	(4, 'single update, unmapped column', false, 'UPDATE of an unmapped column, against no mirror', '≤ 1.15'),
	(5, 'bulk insert', false, 'INSERT of many rows, against no mirror', '≤ 2.2'),
	(6, 'bulk update', false, 'UPDATE of many rows, against no mirror', '≤ 2.5'),
	(7, 'bulk delete', false, 'DELETE of many rows, against no mirror', '≤ 3.0'),
	(8, 'bulk copy', false, 'COPY, against no mirror', '≤ 1.7')) l(position, kind, to_two, line, reach)
	JOIN bench.ratio r ON r.kind = l.kind AND r.variant = 'mirrored' ORDER BY l.position;
SELECT bench.row('80 columns, bulk INSERT, added cost against plpgsql', '≤ 0.35', bench.times((m.seconds - n.seconds) / (u.seconds - n.seconds)))
FROM bench.median n, bench.median u, bench.median m
WHERE n.kind = 'wide insert' AND n.variant = 'none' AND u.kind = n.kind AND u.variant = 'upsert' AND m.kind = n.kind AND m.variant = 'mirrored';
SELECT bench.row(l.line, l.reach, format('%s where no mirror is %s and two statements %s',
	round(max(bytes) FILTER (WHERE variant = 'mirrored')), round(max(bytes) FILTER (WHERE variant = 'none')), round(max(bytes) FILTER (WHERE variant = 'two'))))
FROM (VALUES ('bulk insert', 'WAL of an INSERT, both tables, bytes a row', '≤ 580 where no mirror is 345'),
	('bulk update', 'WAL of an UPDATE, both tables, bytes a row', '≤ 630 where no mirror is 316')) l(kind, line, reach)
	JOIN bench.wal_median w ON w.kind = l.kind GROUP BY l.kind, l.line, l.reach ORDER BY l.kind;
