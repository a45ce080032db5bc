/*
 * Copying history, side by side: the same rows into an empty table with a primary key and a secondary index, by the
 * techniques in use and by dualwrite's workers, their start included.  A plain INSERT … SELECT, which everything is held
 * against, and dualwrite with one worker and with two are done three times in turn: their means count.
 */
\set QUIET on
\pset footer off
SET client_min_messages = warning;
CREATE EXTENSION dualwrite;
CREATE EXTENSION pg_buffercache;
CREATE SCHEMA bench;
CREATE TABLE bench.result (ordinal serial, technique text, seconds float8, wal_bytes numeric, dirtied bigint, memory_kb bigint);

CREATE TABLE o (id int PRIMARY KEY, email text NOT NULL, name text NOT NULL, state int NOT NULL, note text, amount numeric,
	created timestamptz NOT NULL, unmapped int DEFAULT 0);
INSERT INTO o SELECT i, 'U' || i || '@x.org', 'Ann' || i || ' Lee', i % 2, NULL, i, now() FROM generate_series(1, :rows) i;
CREATE INDEX o_email ON o (email);
VACUUM (ANALYZE, FREEZE) o;

-- An empty table, and a source with nothing left to be written to its pages.
CREATE PROCEDURE bench.fresh() LANGUAGE plpgsql AS $$
BEGIN
	DROP TABLE IF EXISTS n;
	CREATE TABLE n (id bigint PRIMARY KEY, email text NOT NULL, first_name text NOT NULL, last_name text NOT NULL, state text NOT NULL,
		note text NOT NULL, amount numeric, created timestamptz NOT NULL);
	CREATE INDEX n_email ON n (email);
	COMMIT;
END $$;

CREATE VIEW projected AS SELECT id::bigint, lower(email) AS email, split_part(name, ' ', 1) AS first_name, split_part(name, ' ', 2) AS last_name,
	CASE WHEN state = 1 THEN 'active' ELSE 'idle' END AS state, coalesce(note, '') AS note, amount, created FROM o;

CREATE FUNCTION bench.dirty(t regclass) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode(t) AND relforknumber = 0 AND isdirty
		AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) $$;

-- The technique must have copied everything, or its time means nothing.
CREATE PROCEDURE bench.done(technique text, began timestamptz, wal pg_lsn, memory bigint DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
	taken float8 := extract(epoch FROM clock_timestamp() - began);
	written numeric := pg_current_wal_insert_lsn() - wal;
BEGIN
	IF (SELECT count(*) FROM o) <> (SELECT count(*) FROM n) THEN
		RAISE EXCEPTION '% did not copy every row', technique;
	END IF;
	INSERT INTO bench.result (technique, seconds, wal_bytes, dirtied, memory_kb) VALUES (technique, taken, written, bench.dirty('o'), memory);
	COMMIT;
END $$;

CREATE PROCEDURE bench.insert_select() LANGUAGE plpgsql AS $$
DECLARE began timestamptz; wal pg_lsn;
BEGIN
	CALL bench.fresh();
	began := clock_timestamp(); wal := pg_current_wal_insert_lsn();
	INSERT INTO n SELECT * FROM projected;
	COMMIT;
	CALL bench.done('INSERT … SELECT', began, wal);
END $$;

-- Keyset batches: lock the rows, insert what is not there.
CREATE PROCEDURE bench.keyset() LANGUAGE plpgsql AS $$
DECLARE began timestamptz; wal pg_lsn; last int := 0; upto int;
BEGIN
	CALL bench.fresh();
	began := clock_timestamp(); wal := pg_current_wal_insert_lsn();
	LOOP
		SELECT max(id) INTO upto FROM (SELECT id FROM o WHERE id > last ORDER BY id LIMIT 10000 FOR KEY SHARE) b;
		EXIT WHEN upto IS NULL;
		INSERT INTO n SELECT * FROM projected WHERE id > last AND id <= upto ON CONFLICT (id) DO NOTHING;
		last := upto;
		COMMIT;
	END LOOP;
	CALL bench.done('keyset batches, FOR KEY SHARE, ON CONFLICT', began, wal);
END $$;

-- Touching every row, so that the trigger copies it.
CREATE PROCEDURE bench.touch() LANGUAGE plpgsql AS $$
DECLARE began timestamptz; wal pg_lsn; last int := 0; top int;
BEGIN
	CALL bench.fresh();
	CREATE OR REPLACE FUNCTION bench.mirror() RETURNS trigger LANGUAGE plpgsql AS $f$
	BEGIN
		INSERT INTO n SELECT new.id, lower(new.email), split_part(new.name, ' ', 1), split_part(new.name, ' ', 2),
			CASE WHEN new.state = 1 THEN 'active' ELSE 'idle' END, coalesce(new.note, ''), new.amount, new.created ON CONFLICT (id) DO UPDATE SET email = excluded.email;
		RETURN NULL;
	END $f$;
	CREATE TRIGGER touch AFTER UPDATE ON o FOR EACH ROW EXECUTE FUNCTION bench.mirror();
	SELECT max(id) INTO top FROM o;
	COMMIT;
	began := clock_timestamp(); wal := pg_current_wal_insert_lsn();
	WHILE last < top LOOP
		UPDATE o SET id = id WHERE id > last AND id <= last + 1000;
		last := last + 1000;
		COMMIT;
	END LOOP;
	CALL bench.done('touch every row under a plpgsql trigger', began, wal);
	DROP TRIGGER touch ON o;
	COMMIT;
END $$;

-- Out of the server and back into it.  The program runs as the server's user, on the same machine.
CREATE PROCEDURE bench.copy() LANGUAGE plpgsql AS $$
DECLARE began timestamptz; wal pg_lsn;
BEGIN
	CALL bench.fresh();
	began := clock_timestamp(); wal := pg_current_wal_insert_lsn();
	EXECUTE format('COPY (SELECT * FROM projected) TO PROGRAM %L', format('"%s/psql" -X -q -v ON_ERROR_STOP=1 -h "%s" -p %s -d "%s" -c "COPY n FROM STDIN"',
		current_setting('bench.bin'), current_setting('unix_socket_directories'), current_setting('port'), current_database()));
	COMMIT;
	CALL bench.done('COPY \| COPY', began, wal);
END $$;

CREATE PROCEDURE bench.dualwrite(technique text, workers int, indexes text) LANGUAGE plpgsql AS $$
DECLARE began timestamptz; wal pg_lsn; memory bigint;
BEGIN
	CALL bench.fresh();
	PERFORM dualwrite.create_migration('bench', 'o', 'n', forward => $f${"email": "lower(email)",
		"first_name": "split_part(name, ' ', 1)", "last_name": "split_part(name, ' ', 2)",
		"state": "CASE WHEN state = 1 THEN 'active' ELSE 'idle' END", "note": "coalesce(note, '')"}$f$,
		reverse => $f${"email": "email", "name": "first_name || ' ' || last_name", "state": "CASE WHEN state = 'active' THEN 1 ELSE 0 END", "note": "nullif(note, '')"}$f$);
	COMMIT;
	CALL dualwrite.run('bench', 'dual_write');
	PERFORM dualwrite.configure('bench', 'throttle_max_active_per_core', '1000');
	PERFORM dualwrite.configure('bench', 'backfill_workers', workers::text);
	PERFORM dualwrite.configure('bench', 'backfill_indexes', indexes);
	COMMIT;
	began := clock_timestamp(); wal := pg_current_wal_insert_lsn();
	CALL dualwrite.run('bench', 'backfill');
	CALL dualwrite.wait('bench', '1 hour');
	SELECT max(substring(pg_read_file('/proc/' || pid || '/status', 0, 100000, true) FROM 'RssAnon:\s+(\d+)')::bigint) INTO memory
		FROM dualwrite.workers WHERE pid IS NOT NULL;
	CALL bench.done(technique, began, wal, memory);
END $$;

-- Each run begins with clean buffers.
\set forget 'SELECT dualwrite.rollback(''bench'', ''defined''); SELECT dualwrite.drop_migration(''bench'');'
\set round 'CHECKPOINT; CALL bench.insert_select(); CHECKPOINT; CALL bench.dualwrite(''dualwrite, one worker'', 1, ''keep'');' :forget
\set round :round 'CHECKPOINT; CALL bench.dualwrite(''dualwrite, two workers'', 2, ''keep'');' :forget
SET bench.bin = :'bin';
\o /dev/null
CALL bench.insert_select(); DELETE FROM bench.result;
VACUUM (FREEZE) o;
:round
:round
:round
CHECKPOINT;
CALL bench.dualwrite('dualwrite, one worker, indexes afterwards', 1, 'afterwards');
:forget
CHECKPOINT;
CALL bench.copy();
CHECKPOINT;
CALL bench.keyset();
VACUUM (FREEZE) o; CHECKPOINT;
CALL bench.touch();

\o
CREATE VIEW bench.summary AS
	SELECT min(r.ordinal) AS ordinal, r.technique, avg(r.seconds) AS seconds, avg(r.wal_bytes) AS wal_bytes, max(r.dirtied) AS dirtied, max(r.memory_kb) AS memory_kb,
		avg(r.seconds) / (SELECT avg(i.seconds) FROM bench.result i WHERE i.technique = 'INSERT … SELECT') AS ratio
	FROM bench.result r GROUP BY r.technique;

\pset format unaligned
\pset tuples_only on
SELECT '| technique | seconds | krows/s | of INSERT … SELECT | WAL bytes a row | source pages dirtied |';
SELECT '|---|---|---|---|---|---|';
SELECT format('| %s | %s | %s | %s | %s | %s |', technique, round(seconds::numeric, 1), round((:rows / seconds / 1000)::numeric), round(ratio::numeric, 2),
	round(wal_bytes / :rows), dirtied) FROM bench.summary ORDER BY ordinal;
SELECT '';
SELECT '| line | reach | measured |';
SELECT '|---|---|---|';
SELECT format('| %s | %s | %s |', line, reach, measured) FROM (
	SELECT 1, 'time with one worker, of INSERT … SELECT', '<= 1.0', round(ratio::numeric, 2)::text FROM bench.summary WHERE technique = 'dualwrite, one worker'
	UNION ALL SELECT 2, 'time with two workers', '<= 0.6', round(ratio::numeric, 2)::text FROM bench.summary WHERE technique = 'dualwrite, two workers'
	UNION ALL SELECT 3, 'WAL a row', '<= 300 B', round(max(wal_bytes) / :rows)::text || ' B' FROM bench.summary WHERE technique LIKE 'dualwrite, % workers' OR technique = 'dualwrite, one worker'
	UNION ALL SELECT 4, 'pages of the source dirtied', '0', max(dirtied)::text FROM bench.summary WHERE technique LIKE 'dualwrite%'
	UNION ALL SELECT 5, 'memory of a worker', '<= 64 MB', round(max(memory_kb) / 1024)::text || ' MB' FROM bench.summary WHERE technique LIKE 'dualwrite%'
	) AS t (ordinal, line, reach, measured) ORDER BY ordinal;
