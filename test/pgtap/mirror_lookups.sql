-- Statements of one row each find the other side's row whatever has become of the index of its key: entries of versions that are gone, a few
-- or very many, merged into posting lists or spread over pages, of rows that were never committed, of keys that come back.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();
CREATE EXTENSION pageinspect;

CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE int_o (id int PRIMARY KEY, v text);
CREATE TABLE int_n (id bigint PRIMARY KEY, v text);
CREATE TABLE text_o (id text COLLATE either_case PRIMARY KEY, v text);
CREATE TABLE text_n (id text COLLATE either_case PRIMARY KEY, v text);
CREATE TABLE two_o (a int, b text, v text, PRIMARY KEY (a, b));
CREATE TABLE two_n (v text, b text NOT NULL, a bigint NOT NULL);
CREATE UNIQUE INDEX ON two_n (b DESC, a);
CREATE TABLE many_o (id int PRIMARY KEY, v text);
CREATE TABLE many_n (id bigint PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE many_n0 PARTITION OF many_n FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE many_n1 PARTITION OF many_n FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE shapes (t text PRIMARY KEY, columns text, key text);
INSERT INTO shapes VALUES ('int', 'id::bigint, v', 'id = $1'), ('text', 'id, v', 'id = ''Key '' || $1'), ('two', 'a::bigint, b, v', 'a = $1 % 10 AND b = ''b'' || $1'),
	('many', 'id::bigint, v', 'id = $1');
-- an index on what changes: no update is within its page alone
SELECT format('CREATE INDEX ON %s_n (v)', t), format('SELECT dualwrite.create_migration(%L, %L, %L)', t, t || '_o', t || '_n') FROM shapes \gexec
SELECT format('CALL dualwrite.run(%L, ''verify'', ''1 min'')', t) FROM shapes \gexec

CREATE FUNCTION same(t text) RETURNS bigint LANGUAGE sql AS $$
	SELECT differences(format('SELECT %s FROM %s_o', columns, t), format('SELECT %s FROM %s_n', replace(columns, '::bigint', ''), t)) FROM shapes s WHERE s.t = same.t $$;
CREATE PROCEDURE put(t text, i int) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO %s_o SELECT %s', t, CASE t WHEN 'text' THEN '''kEY '' || $1' WHEN 'two' THEN '$1 % 10, ''b'' || $1' ELSE '$1' END || ', ''put''') USING i;
END $$;
-- one statement a row, all rows changed or else an error
CREATE PROCEDURE change(t text, i int, v text) LANGUAGE plpgsql AS $$
DECLARE n int;
BEGIN
	EXECUTE format('UPDATE %s_o SET v = %L WHERE ', t, v) || (SELECT key FROM shapes s WHERE s.t = change.t) USING i;
	GET DIAGNOSTICS n = ROW_COUNT;
	ASSERT n = 1, format('row %s of %s', i, t);
END $$;
CREATE PROCEDURE remove(t text, i int) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('DELETE FROM %s_o WHERE ', t) || (SELECT key FROM shapes s WHERE s.t = remove.t) USING i;
END $$;

CREATE TABLE looks (n int GENERATED ALWAYS AS IDENTITY, t text, stage text, differ bigint, rows bigint);
CREATE PROCEDURE look(t text, stage text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO looks (t, stage, differ, rows) SELECT $1, $2, same($1), count(*) FROM %s_n', t) USING t, stage;
END $$;
-- leaf entries of the index of int_n
CREATE VIEW entries AS
	SELECT page, e.itemoffset, e.data, e.tids FROM generate_series(1, pg_relation_size('int_n_pkey') / 8192 - 1) page, bt_page_stats('int_n_pkey', page) s, bt_page_items('int_n_pkey', page) e
	WHERE s.type = 'l' AND (s.btpo_next = 0 OR e.itemoffset > 1);
CREATE TABLE shapes_met (posting_lists bool, over_pages bool);

CREATE PROCEDURE churn(t text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..600 LOOP CALL put(t, i); END LOOP;
	COMMIT;
	-- two versions of a key, three, four, five
	FOR round IN 1..4 LOOP
		FOR i IN 1..600 LOOP CALL change(t, i, format('round %s of %s', round, i)); END LOOP;
		COMMIT;
		CALL look(t, format('%s versions of each row', round + 1));
	END LOOP;
	-- hundreds of versions that nobody can clear away yet, keys of the same page by turns: their entries reach over pages
	FOR round IN 1..150 LOOP
		FOR i IN 1..40 LOOP CALL change(t, i * 7, format('version %s', round)); END LOOP;
	END LOOP;
	FOR round IN 1..3000 LOOP CALL change(t, 300, format('version %s', round)); END LOOP;
	CALL look(t, 'very many versions');
	INSERT INTO shapes_met SELECT EXISTS (SELECT FROM entries WHERE cardinality(tids) BETWEEN 2 AND 4),
		EXISTS (SELECT FROM entries WHERE t = 'int' GROUP BY data HAVING count(DISTINCT page) > 1);
	FOR i IN 250..350 LOOP CALL change(t, i, 'between them'); END LOOP;
	COMMIT;
	CALL look(t, 'neighbours of these');
	-- of those that come after the entries of what is gone, and of what never was
	FOR i IN 1..600 BY 2 LOOP
		BEGIN
			CALL change(t, i, 'undone');
			CALL remove(t, i);
			CALL put(t, i + 600);
			RAISE EXCEPTION 'undone';
		EXCEPTION WHEN raise_exception THEN
			CALL change(t, i, 'after what was undone');
		END;
	END LOOP;
	COMMIT;
	CALL look(t, 'after what was undone');
	-- keys come back, twice in one transaction too
	FOR i IN 1..600 BY 3 LOOP
		CALL remove(t, i); CALL put(t, i); CALL remove(t, i); CALL put(t, i);
	END LOOP;
	COMMIT;
	FOR i IN 1..600 LOOP CALL change(t, i, 'came back'); END LOOP;
	COMMIT;
	CALL look(t, 'keys that came back');
	FOR i IN 1..600 LOOP CALL remove(t, i); END LOOP;
	COMMIT;
END $$;
SELECT format('CALL churn(%L)', t) FROM shapes ORDER BY t \gexec

SELECT is(differ, 0::bigint, format('%s: %s', t, stage)) FROM looks ORDER BY n;
SELECT results_eq('SELECT DISTINCT rows FROM looks', ARRAY[600::bigint], 'with all rows there');
SELECT is((SELECT count(*) FROM looks), 4 * 8::bigint, 'at each stage');
SELECT is(same(t), 0::bigint, t || ': all gone') FROM shapes;
SELECT ok((SELECT bool_or(posting_lists) FROM shapes_met), 'there were short posting lists');
SELECT ok((SELECT bool_or(over_pages) FROM shapes_met), 'and keys whose entries were on two pages');
SELECT is((SELECT count(*) FROM dualwrite.queue), 0::bigint, 'nothing was queued');
SELECT * FROM finish();
