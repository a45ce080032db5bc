-- Constraints that the new side should have and the data does not satisfy yet: NOT NULL by the mapping, CHECKs and foreign keys that
-- are NOT VALID.  Up and down the ladder, violated and mended.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

CREATE TABLE countries (code text PRIMARY KEY);
INSERT INTO countries VALUES ('de'), ('fr');
CREATE TABLE people (id int PRIMARY KEY, mail text, age int, country text, born date);
INSERT INTO people SELECT g, 'm' || g, 20 + g % 50, 'de', '2000-01-01' FROM generate_series(1, 500) g;
UPDATE people SET mail = NULL WHERE id % 100 = 0;
UPDATE people SET age = -1 WHERE id IN (7, 8);
UPDATE people SET country = 'xx' WHERE id = 9;
CREATE TABLE people_new (person bigint PRIMARY KEY, email text, age int, country text, born date, note text);
-- waits until the worker has looked since
CREATE FUNCTION now_is(name text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(kind || ' ' || array_to_string(columns, ',') || ' ' || state || ' ' || coalesce(violations::text, '-'), '; ' ORDER BY kind, columns)
	FROM dualwrite.constraints WHERE migration = name $$;
CREATE PROCEDURE looked(name text, wanted text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 12000 LOOP
		IF now_is(name) IS NOT DISTINCT FROM wanted THEN
			RETURN;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.05);
	END LOOP;
END $$;

SELECT throws_ok($$SELECT dualwrite.create_migration('c', 'people', 'people_new', '{"person": "id", "email": {"expr": "mail", "not_null": "yes"}}')$$, '22023');
SELECT throws_ok($$SELECT dualwrite.create_migration('c', 'people', 'people_new', '{"person": "id", "email": "mail"}', '{"mail": {"expr": "email", "not_null": true}}')$$, '22023');
SELECT dualwrite.create_migration('c', 'people', 'people_new',
	'{"person": "id", "email": {"expr": "mail", "not_null": true}, "born": {"expr": "born", "not_null": true}}');
SELECT is(now_is('c'), 'not_null born waiting -; not_null email waiting -', 'two wishes, in defined');
CALL dualwrite.run('c', timeout => '10 min');
CALL looked('c', 'not_null born clean 0; not_null email violated 5');
SELECT is(now_is('c'), 'not_null born clean 0; not_null email violated 5', 'looked at in verify');
SELECT is(jsonb_array_length(sample_keys), 5, 'keys of rows that are in the way') FROM dualwrite.constraints WHERE columns = '{email}';
SELECT is(sample_keys -> 0, '{"person": 100}', 'the first of them') FROM dualwrite.constraints WHERE columns = '{email}';
SELECT is_empty($$SELECT conname FROM pg_constraint WHERE conrelid = 'people_new'::regclass AND contype = 'c'$$, 'nothing is added in verify');
UPDATE people SET mail = NULL WHERE id = 1;
SELECT is((SELECT email FROM people_new WHERE person = 1), NULL, 'the old application may go on writing NULL');
SELECT is((SELECT count(*) FROM dualwrite.diagnose('c') WHERE what = 'constraints violated'), 1::bigint, 'diagnose tells of it');

-- read_switch: what is clean is added, validated and set; what is not, waits
SELECT dualwrite.advance('c');
SELECT is(phase, 'read_switch', 'in read_switch: no gate is in the way') FROM dualwrite.status WHERE migration = 'c';
CALL looked('c', 'not_null born met -; not_null email violated 6');
SELECT is(now_is('c'), 'not_null born met -; not_null email violated 6', 'looked at again in read_switch');
SELECT is(attnotnull, true, 'NOT NULL is set') FROM pg_attribute WHERE attrelid = 'people_new'::regclass AND attname = 'born';
SELECT is_empty($$SELECT conname FROM pg_constraint WHERE conrelid = 'people_new'::regclass AND contype = 'c'$$, 'the CHECK is gone with it');
SELECT throws_ok($$UPDATE people SET born = NULL WHERE id = 3$$, '23502');
SELECT results_eq($$SELECT event FROM dualwrite.events WHERE migration = 'c' AND (event LIKE 'not_null%') ORDER BY occurred_at$$,
	$$VALUES ('not_null_added'), ('not_null_set')$$, 'the audit tells');
SELECT is(passed, false, 'a gate before cutover') FROM dualwrite.gates('c') WHERE gate = 'constraints';
SELECT is(detail, '1 of 2 hold; NOT NULL of column email of public.people_new: 6 rows violate it', 'with what is in the way')
FROM dualwrite.gates('c') WHERE gate = 'constraints';
SELECT dualwrite.set_read_percent('c', 100);

-- the user adds some that the rows do not satisfy
ALTER TABLE people_new ADD CONSTRAINT "Age is positive" CHECK (age >= 0) NOT VALID;
ALTER TABLE people_new ADD FOREIGN KEY (country) REFERENCES countries NOT VALID;
SELECT is(dualwrite.check_constraints('c'), 3::bigint, 'three are not met');
CALL looked('c', 'check age violated 2; foreign_key country violated 1; not_null born met -; not_null email violated 6');
SELECT is(now_is('c'), 'check age violated 2; foreign_key country violated 1; not_null born met -; not_null email violated 6', 'counted');
SELECT is(sample_keys, '[{"person": 9}]', 'whose country is not there') FROM dualwrite.constraints WHERE kind = 'foreign_key';
SELECT is(blocked_by @> '{constraints}', true, 'status names the gate') FROM dualwrite.status WHERE migration = 'c';
-- mended on either side
UPDATE people SET age = 30 WHERE age < 0;
UPDATE people_new SET country = 'fr' WHERE country = 'xx';
UPDATE people SET mail = 'mended' WHERE mail IS NULL;
SELECT dualwrite.check_constraints('c');
CALL looked('c', 'not_null born met -; not_null email met -');
SELECT is(now_is('c'), 'not_null born met -; not_null email met -', 'all hold');
SELECT is_empty($$SELECT conname FROM pg_constraint WHERE conrelid = 'people_new'::regclass AND NOT convalidated$$, 'validated');
SELECT is(passed, true, 'the gate is met') FROM dualwrite.gates('c') WHERE gate = 'constraints';
CALL dualwrite.wait('c', '10 min');
SELECT dualwrite.advance('c');
SELECT is(phase, 'cutover', 'in cutover') FROM dualwrite.status WHERE migration = 'c';

-- down: NOT NULL is the table's own by now
SELECT dualwrite.rollback('c', 'read_switch');
SELECT dualwrite.rollback('c', 'defined', force => true);
SELECT is((SELECT count(*) FROM pg_attribute WHERE attrelid = 'people_new'::regclass AND attnum > 0 AND attnotnull), 3::bigint, 'NOT NULL stays');
SELECT is_empty('SELECT * FROM _dualwrite.constraint_check', 'nothing else does');

-- a CHECK of ours that is not set yet goes on the way down; partitions, names that want quotes, keys of two columns
CREATE TABLE "Old things" (a int, b int, "The Value" text, PRIMARY KEY (a, b));
INSERT INTO "Old things" SELECT g, g % 7, CASE WHEN g <> 50 THEN 'v' END FROM generate_series(1, 100) g;
CREATE TABLE "New things" (b int, a int, "The Value" text, ref int, whole int, PRIMARY KEY (a, b)) PARTITION BY HASH (a);
CREATE TABLE "New 0" PARTITION OF "New things" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE "New 1" PARTITION OF "New things" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT dualwrite.create_migration('p', '"Old things"', '"New things"', '{"The Value": {"expr": "\"The Value\"", "not_null": true}}');
CALL dualwrite.run('p', timeout => '10 min');
SELECT dualwrite.advance('p');
CALL looked('p', 'not_null The Value violated 1');
SELECT is(sample_keys, '[{"a": 50, "b": 1}]', 'of a partition') FROM dualwrite.constraints WHERE migration = 'p';
SELECT dualwrite.pause('p');
UPDATE "Old things" SET "The Value" = 'w' WHERE a = 50;
-- as the worker would have left it
SELECT format('ALTER TABLE "New things" ADD CONSTRAINT %I CHECK ("The Value" IS NOT NULL) NOT VALID', 'dualwrite_not_null_3_The Value') \gexec
SELECT is(state, 'violated', 'what was found last') FROM dualwrite.constraints WHERE migration = 'p';
SELECT dualwrite.check_constraints('p');
SELECT is(state, 'added', 'enforced, not yet validated') FROM dualwrite.constraints WHERE migration = 'p';
SELECT dualwrite.rollback('p', 'defined', force => true);
SELECT is_empty($$SELECT conrelid::regclass, conname FROM pg_constraint WHERE conname LIKE 'dualwrite%'$$, 'nothing of ours is left');
SELECT dualwrite.resume('p');
CALL dualwrite.run('p', timeout => '10 min');
SELECT dualwrite.pause('p');
SELECT dualwrite.advance('p');
SELECT format('ALTER TABLE "New things" ADD CONSTRAINT %I CHECK ("The Value" IS NOT NULL) NOT VALID', 'dualwrite_not_null_3_The Value') \gexec
SELECT dualwrite.resume('p');
CALL looked('p', 'not_null The Value met -');
SELECT is(state, 'met', 'a CHECK that is there is carried on') FROM dualwrite.constraints WHERE migration = 'p';
SELECT is((SELECT count(*) FROM pg_attribute WHERE attrelid IN ('"New things"'::regclass, '"New 0"'::regclass, '"New 1"'::regclass) AND attname = 'The Value' AND attnotnull),
	3::bigint, 'in all partitions');

-- alter_mapping: asked for later, and no more
SELECT dualwrite.alter_mapping('p', '"Old things"', '"New things"', '{"ref": {"expr": "a + b", "not_null": true}, "The Value": "\"The Value\""}');
SELECT is((SELECT array_agg(columns) FROM dualwrite.constraints WHERE migration = 'p'), '{{ref}}', 'another column, by alter_mapping');
CALL looked('p', 'not_null ref met -');
SELECT is(now_is('p'), 'not_null ref met -', 'once all rows have been gone through');
SELECT dualwrite.rollback('p', 'defined', force => true);
SELECT is_empty($$SELECT conrelid::regclass, conname FROM pg_constraint WHERE conname LIKE 'dualwrite%'$$, 'nothing of ours is left');
-- SET NOT NULL folds the constants of CHECKs, and so calls functions of users: as the table's owner, never as ours
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dw_owner') THEN CREATE ROLE dw_owner; END IF; END $$;
GRANT CREATE, USAGE ON SCHEMA public TO dw_owner;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dualwrite TO dw_owner;
SET ROLE dw_owner;
CREATE TABLE called_as (who name);
GRANT INSERT ON called_as TO PUBLIC;
CREATE FUNCTION tell() RETURNS boolean VOLATILE LANGUAGE sql SET search_path = public AS 'INSERT INTO called_as VALUES (current_user) RETURNING true';
CREATE FUNCTION tells(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql SET search_path = public AS 'BEGIN RETURN tell(); END';
CREATE TABLE owned (id int PRIMARY KEY, v int);
CREATE TABLE owned_new (id int PRIMARY KEY, v int, CHECK (tells(1)));
INSERT INTO owned VALUES (1, 1);
SELECT dualwrite.create_migration('own', 'owned', 'owned_new', '{"v": {"expr": "v", "not_null": true}}');
CALL dualwrite.run('own', timeout => '10 min');
SELECT dualwrite.advance('own');
RESET ROLE;
CALL looked('own', 'not_null v met -');
SELECT is((SELECT attnotnull FROM pg_attribute WHERE attrelid = 'owned_new'::regclass AND attname = 'v'), true, 'NOT NULL of another role''s table');
SELECT set_eq('SELECT who FROM called_as', ARRAY['dw_owner'::name], 'functions of CHECKs are called as its owner');
SELECT dualwrite.rollback('own', 'defined', force => true);
SELECT * FROM finish();
