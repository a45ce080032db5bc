/*
 * The cost of a mapping in place: the same statements on tables that differ only in their triggers.  10 columns, two indexes,
 * a text that becomes an enum, a computed text and a column that is filled once.  Rounds are interleaved; medians are taken.
 */
\set QUIET on
\pset footer off
SET client_min_messages = warning;
CREATE EXTENSION dualwrite;
CREATE SCHEMA bench;
CREATE TYPE bench.state AS ENUM ('pending', 'paid', 'shipped');
CREATE TABLE bench.sample (round int, kind text, variant text, seconds float8);

CREATE PROCEDURE bench.make(variant text, n int) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE SCHEMA %1$I
		CREATE TABLE o (id int PRIMARY KEY, status text NOT NULL DEFAULT ''pending'', email text NOT NULL, name text NOT NULL, note text,
			amount numeric, created timestamptz NOT NULL DEFAULT now(), state bench.state, mail text, preferences jsonb) WITH (fillfactor = 50)
		CREATE INDEX o_email ON o (email)', variant);
	EXECUTE format('INSERT INTO %I.o (id, status, email, name, amount, state, mail, preferences)
		SELECT i, ''paid'', ''U'' || i || ''@x.org'', ''Ann Lee'', i, ''paid'', lower(''U'' || i || ''@x.org''), ''{}'' FROM generate_series(1, $1) i', variant) USING n;
END $$;
SET bench.rows TO :bulk_rows;
DO $$
DECLARE v text;
BEGIN
	FOREACH v IN ARRAY '{none,both,floor,plpgsql,mapping}'::text[] LOOP
		CALL bench.make(v, current_setting('bench.rows')::int);
	END LOOP;
END $$;
CREATE FUNCTION bench.trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF tg_op = 'INSERT' OR new.status IS DISTINCT FROM old.status OR new.email IS DISTINCT FROM old.email THEN
		new.state := new.status::bench.state;
		new.mail := lower(new.email);
	ELSIF new.state IS DISTINCT FROM old.state THEN
		new.status := new.state::text;
	END IF;
	IF new.preferences IS NULL THEN new.preferences := '{}'; END IF;
	RETURN new;
END $$;
-- what any BEFORE trigger costs: this one of the server's own only compares the two versions
CREATE TRIGGER least BEFORE UPDATE ON floor.o FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE TRIGGER keep BEFORE INSERT OR UPDATE ON plpgsql.o FOR EACH ROW EXECUTE FUNCTION bench.trigger();
SELECT dualwrite.create_migration('bench', 'mapping.o', 'mapping.o',
	'{"state": "status::bench.state", "mail": "lower(email)", "preferences": {"expr": "''{}''::jsonb", "on": "insert"}}', '{"status": "state::text"}') \g /dev/null
CALL dualwrite.run('bench', 'verify', '120s');
SELECT dualwrite.advance('bench') \g /dev/null
SELECT dualwrite.pause('bench') \g /dev/null

CREATE PROCEDURE bench.single(variant text, kind text, n int) LANGUAGE plpgsql AS $$
BEGIN
	-- the application keeps both columns itself, without any trigger
	IF variant = 'both' THEN
		EXECUTE format(CASE kind
			WHEN 'update of another column' THEN 'DO $x$ BEGIN FOR i IN 1..%2$s LOOP UPDATE %1$I.o SET note = i::text WHERE id = i; END LOOP; END $x$'
			WHEN 'insert' THEN 'DO $x$ BEGIN FOR i IN 1..%2$s LOOP INSERT INTO %1$I.o (id, status, email, name, state, mail, preferences) VALUES (-i, ''shipped'', ''A@x'', ''n'', ''shipped'', lower(''A@x''), ''{}''); END LOOP; END $x$'
			WHEN 'bulk update' THEN 'UPDATE %1$I.o SET note = ''n'' || id WHERE id > 0'
			WHEN 'bulk update of the old column' THEN 'UPDATE %1$I.o SET status = CASE status WHEN ''paid'' THEN ''shipped'' ELSE ''paid'' END, state = CASE status WHEN ''paid'' THEN ''shipped''::bench.state ELSE ''paid'' END, mail = lower(email) WHERE id > 0'
			ELSE 'DO $x$ BEGIN FOR i IN 1..%2$s LOOP UPDATE %1$I.o SET status = CASE status WHEN ''paid'' THEN ''shipped'' ELSE ''paid'' END, state = CASE status WHEN ''paid'' THEN ''shipped''::bench.state ELSE ''paid'' END WHERE id = i; END LOOP; END $x$'
			END, variant, n);
		RETURN;
	END IF;
	EXECUTE format(CASE kind
		WHEN 'update of another column' THEN 'DO $x$ BEGIN FOR i IN 1..%2$s LOOP UPDATE %1$I.o SET note = i::text WHERE id = i; END LOOP; END $x$'
		WHEN 'update of the old column' THEN 'DO $x$ BEGIN FOR i IN 1..%2$s LOOP UPDATE %1$I.o SET status = CASE status WHEN ''paid'' THEN ''shipped'' ELSE ''paid'' END WHERE id = i; END LOOP; END $x$'
		WHEN 'update of the new column' THEN 'DO $x$ BEGIN FOR i IN 1..%2$s LOOP UPDATE %1$I.o SET state = CASE state WHEN ''paid'' THEN ''shipped''::bench.state ELSE ''paid'' END WHERE id = i; END LOOP; END $x$'
		WHEN 'insert' THEN 'DO $x$ BEGIN FOR i IN 1..%2$s LOOP INSERT INTO %1$I.o (id, status, email, name) VALUES (-i, ''shipped'', ''A@x'', ''n''); END LOOP; END $x$'
		WHEN 'bulk update' THEN 'UPDATE %1$I.o SET note = ''n'' || id WHERE id > 0'
		WHEN 'bulk update of the old column' THEN 'UPDATE %1$I.o SET status = CASE status WHEN ''paid'' THEN ''shipped'' ELSE ''paid'' END WHERE id > 0'
		END, variant, n);
END $$;

CREATE PROCEDURE bench.rounds(rounds int, n int) LANGUAGE plpgsql AS $$
DECLARE
	v text;
	k text;
	start timestamptz;
BEGIN
	FOR r IN 0..rounds LOOP
		FOREACH k IN ARRAY '{update of another column,update of the old column,update of the new column,insert,bulk update,bulk update of the old column}'::text[] LOOP
			FOREACH v IN ARRAY CASE r % 2 WHEN 0 THEN '{none,both,floor,plpgsql,mapping}' ELSE '{mapping,plpgsql,floor,both,none}' END::text[] LOOP
				start := clock_timestamp();
				CALL bench.single(v, k, n);
				INSERT INTO bench.sample SELECT r, k, v, extract(epoch FROM clock_timestamp() - start) WHERE r > 0;
				COMMIT;
				IF k = 'insert' THEN EXECUTE format('DELETE FROM %I.o WHERE id < 0', v); END IF;
				COMMIT;
			END LOOP;
		END LOOP;
	END LOOP;
END $$;
CALL bench.rounds(:rounds, :single_rows);

WITH median AS (
	SELECT kind, variant, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS s FROM bench.sample GROUP BY kind, variant
)
SELECT kind, round((max(s) FILTER (WHERE variant = 'none') * 1000)::numeric, 1) AS "none ms",
	round((max(s) FILTER (WHERE variant = 'both') / max(s) FILTER (WHERE variant = 'none'))::numeric, 2) AS "both columns written by hand",
	round((max(s) FILTER (WHERE variant = 'floor') / max(s) FILTER (WHERE variant = 'none'))::numeric, 2) AS "a trigger that does next to nothing",
	round((max(s) FILTER (WHERE variant = 'plpgsql') / max(s) FILTER (WHERE variant = 'none'))::numeric, 2) AS "plpgsql trigger",
	round((max(s) FILTER (WHERE variant = 'mapping') / max(s) FILTER (WHERE variant = 'none'))::numeric, 2) AS "mapping in place"
FROM median GROUP BY kind ORDER BY kind;
