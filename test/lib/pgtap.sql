-- What every test of the kind pgtap finds in its database, besides pgTAP and dualwrite.

-- Wait for a condition; each look at it is a command of its own.
CREATE PROCEDURE await(condition text) LANGUAGE plpgsql AS $$
DECLARE
	met boolean;
	give_up timestamptz := clock_timestamp() + interval '10 minutes';
BEGIN
	LOOP
		EXECUTE 'SELECT ' || condition INTO met;
		COMMIT;
		EXIT WHEN met;
		IF clock_timestamp() > give_up THEN
			RAISE EXCEPTION 'waited in vain for: %', condition;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

-- Run statements past the mirrors of these tables and of their partitions, as a careless superuser might.
CREATE PROCEDURE bypass(tables regclass[], VARIADIC statements text[]) LANGUAGE plpgsql AS $$
DECLARE
	statement text;
	off text[];
	back text[];
BEGIN
	SELECT coalesce(array_agg(format('ALTER TABLE ONLY %s DISABLE TRIGGER %I', t.tgrelid::regclass, t.tgname)), '{}'),
		coalesce(array_agg(format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', t.tgrelid::regclass, t.tgname)), '{}')
	INTO off, back
	FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE n.nspname = '_dualwrite' AND t.tgenabled = 'A' AND t.tgrelid IN
		(SELECT unnest(tables) UNION SELECT tree.relid FROM unnest(tables) AS root, pg_partition_tree(root) AS tree);
	FOREACH statement IN ARRAY off || statements || back LOOP
		EXECUTE statement;
	END LOOP;
END $$;

-- A transaction id of a subtransaction of its own: younger than all before it.
CREATE FUNCTION next_xid() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE result bigint;
BEGIN
	BEGIN
		CREATE TEMP TABLE next_xid AS SELECT 1 AS one;
		SELECT xmin::text::bigint FROM next_xid INTO result;
		DROP TABLE next_xid;
	EXCEPTION WHEN division_by_zero THEN NULL;
	END;
	RETURN result;
END $$;

-- Number of subtransactions that a statement writes in.  Ids that other sessions have taken meanwhile, as autovacuum may, are not counted.
CREATE FUNCTION xids_of(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	before bigint := next_xid();
	after bigint;
BEGIN
	EXECUTE statement;
	after := next_xid();
	RETURN (SELECT count(*) FROM generate_series(before + 1, after - 1) x WHERE pg_xact_status(x::text::xid8) <> 'committed'
		AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'transactionid' AND l.transactionid::text::bigint = x AND l.pid IS DISTINCT FROM pg_backend_pid()));
END $$;

-- Rows of either query that the other one lacks.
CREATE FUNCTION differences(a text, b text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	EXECUTE format('SELECT pg_catalog.count(*) FROM ((%1$s EXCEPT ALL %2$s) UNION ALL (%2$s EXCEPT ALL %1$s)) d', '(' || a || ')', '(' || b || ')') INTO n;
	RETURN n;
END $$;
