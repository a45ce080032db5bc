-- What a change of phase does and refuses: triggers, sequences, gates, the way back.
SELECT no_plan();

-- Names of the gates that are not met.
CREATE FUNCTION unmet(migration text) RETURNS text[] LANGUAGE sql AS $$
	SELECT coalesce(array_agg(gate), '{}') FROM dualwrite.gates(migration) WHERE NOT passed
$$;
-- Our triggers that fire always, with the relation that has them.
CREATE FUNCTION firing(pattern text) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM pg_trigger WHERE tgname LIKE '_dualwrite%' AND tgenabled = 'A' AND tgrelid::regclass::text LIKE pattern
$$;

-- One old table, two migrations

CREATE TABLE one (id int PRIMARY KEY, v text);
CREATE TABLE one_a (id int PRIMARY KEY, v text);
CREATE TABLE one_b (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('a', 'one', 'one_a');
SELECT dualwrite.create_migration('b', 'one', 'one_b');
SELECT is(firing('one%'), 0::bigint, 'a definition puts nothing on the tables');
SELECT dualwrite.advance('a');
SELECT dualwrite.advance('b');
SELECT is(firing('one'), 4::bigint, 'two migrations share the triggers of their old table');
SELECT dualwrite.rollback('a');
SELECT is(firing('one'), 4::bigint, 'they stay while one needs them');
SELECT is(firing('one_a'), 0::bigint, 'its own new table is free');
INSERT INTO one VALUES (1, 'x');
SELECT is((SELECT v FROM one_b), 'x', 'and the other migration goes on');
SELECT dualwrite.rollback('b');
SELECT is(firing('one%'), 0::bigint, 'the last one takes them away');
SELECT throws_ok($$SELECT dualwrite.advance('a')$$, '25001', NULL, 'a function that goes on afterwards cannot call it');
SELECT dualwrite.drop_migration('a');
SELECT dualwrite.drop_migration('b');

-- Partitions

CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_new (LIKE parts INCLUDING ALL);
SELECT dualwrite.create_migration('parts', 'parts', 'parts_new');
SELECT dualwrite.advance('parts');
SELECT is(firing('parts_1'), 4::bigint, 'a partition has all triggers');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
SELECT is(firing('parts_2'), 2::bigint, 'a new partition gets the row triggers from the server');
SELECT is(unmet('parts'), '{triggers}', 'and the gate misses the others');
SELECT is(dualwrite.install_triggers('parts'), 2, 'which can be added');
SELECT is(unmet('parts'), '{}', 'then the gate is met');
ALTER TABLE parts_1 DISABLE TRIGGER "!dualwrite_write";
SELECT is(unmet('parts'), '{triggers}', 'a clone that is disabled is noticed');
SELECT is(dualwrite.install_triggers('parts'), 1, 'and enabled');
ALTER TABLE parts ENABLE TRIGGER "~dualwrite_delete";
SELECT is(unmet('parts'), '{triggers}', 'firing for local writes only is not enough');
SELECT is(dualwrite.install_triggers('parts') > 0, true, 'and put right');
SELECT is(unmet('parts'), '{}', 'all is well again');
DROP TRIGGER "!dualwrite_truncate" ON parts_new;
SELECT is(dualwrite.install_triggers('parts'), 1, 'one that was dropped comes back');
SELECT dualwrite.rollback('parts');
SELECT is((SELECT count(*) FROM pg_trigger WHERE tgname LIKE '_dualwrite%'), 0::bigint, 'nothing is left on any of them');
SELECT dualwrite.drop_migration('parts');

-- Gates

CREATE TABLE g_old (id int PRIMARY KEY, v text);
INSERT INTO g_old SELECT i, 'v' || i FROM generate_series(1, 50) i;
CREATE TABLE g_new (id bigint PRIMARY KEY, v text);
SELECT dualwrite.create_migration('g', 'g_old', 'g_new');
ALTER TABLE g_old RENAME v TO w;
SELECT is(unmet('g'), '{definition}', 'a mapping that does not fit its tables any more');
ALTER TABLE g_old RENAME w TO v;
CALL dualwrite.run('g', 'verify', '10 min');
SELECT is((SELECT filled FROM _dualwrite.migration WHERE name = 'g'), true, 'in verify the new side is filled');
INSERT INTO _dualwrite.queue (mapping_id, direction, key, dead)
	SELECT id, 'forward', '{"id": 1}', true FROM _dualwrite.mapping WHERE new_table = 'g_new'::regclass;
SELECT is(unmet('g'), '{dead_letters}', 'a dead letter');
DELETE FROM _dualwrite.queue;
SELECT dualwrite.pause('g');
INSERT INTO _dualwrite.queue (mapping_id, direction, key, next_attempt_at)
	SELECT id, 'forward', '{"id": 1}', 'infinity' FROM _dualwrite.mapping WHERE new_table = 'g_new'::regclass;
SELECT is(unmet('g'), '{queue}', 'a queued key');
SELECT is(_dualwrite.next_step('g'), $$paused: SELECT dualwrite.resume('g')$$, 'which is delivered by nobody while paused');
DELETE FROM _dualwrite.queue;
SELECT dualwrite.resume('g');
SELECT is(_dualwrite.blocked_by('g'), '{}', 'free to go on');
SELECT is(_dualwrite.next_step('g'), $$SELECT dualwrite.advance('g')$$, 'and told how');

-- A dump that was restored elsewhere

UPDATE _dualwrite.migration SET origin = 'elsewhere' WHERE name = 'g';
SELECT is(unmet('g'), '{origin}', 'rows that another database copied do not count');
SELECT is(_dualwrite.next_step('g'), CASE WHEN (SELECT phase FROM dualwrite.status WHERE migration = 'g') = 'verify' THEN $$SELECT dualwrite.resume('g')$$
	ELSE $$SELECT dualwrite.rollback('g', 'backfill')$$ END, 'they are to be copied again');
SELECT is((SELECT paused FROM dualwrite.status WHERE migration = 'g'), true, 'and nothing is done until then');
SELECT dualwrite.resume('g');
SELECT is((SELECT phase || ' ' || paused FROM dualwrite.status WHERE migration = 'g'), 'backfill false', 'resume goes back to the copy');
SELECT is((SELECT origin <> 'elsewhere' AND NOT filled FROM _dualwrite.migration WHERE name = 'g'), true, 'which makes the migration this database''s own');
CALL dualwrite.run('g', 'cutover', '10 min');
SELECT is((SELECT phase FROM dualwrite.status WHERE migration = 'g'), 'cutover', 'up to cutover');
SELECT is((SELECT read_percent FROM _dualwrite.migration WHERE name = 'g'), 100.00, 'with all reads moved');

-- Down, with writes of the new side that have not come back yet

INSERT INTO _dualwrite.queue (mapping_id, direction, key, next_attempt_at)
	SELECT id, 'reverse', '{"id": 1}', 'infinity' FROM _dualwrite.mapping WHERE new_table = 'g_new'::regclass;
SELECT dualwrite.rollback('g');
SELECT is((SELECT phase || ' ' || reads FROM dualwrite.status WHERE migration = 'g'), 'read_switch old', 'from cutover at any time, and reads go back');
SELECT is((SELECT repair_suspended FROM _dualwrite.migration WHERE name = 'g'), true, 'repair waits: the truth has changed');
\set ON_ERROR_STOP off
SELECT dualwrite.rollback('g', force => true) \gset
\set ON_ERROR_STOP on
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'not below read_switch, not even by force');
SELECT matches(:'LAST_ERROR_MESSAGE'::text, 'writes of the new side are not on the old side yet', 'because they would be lost');
DELETE FROM _dualwrite.queue;
SELECT dualwrite.rollback('g');
SELECT is((SELECT phase FROM dualwrite.status WHERE migration = 'g'), 'verify', 'then it goes');
SELECT dualwrite.resume('g');
SELECT is((SELECT repair_suspended FROM _dualwrite.migration WHERE name = 'g'), false, 'resume lifts the suspension');
SELECT dualwrite.rollback('g', 'dual_write');
SELECT is((SELECT filled FROM _dualwrite.migration WHERE name = 'g'), false, 'below verify nothing counts as filled');
SELECT dualwrite.rollback('g', 'defined');
SELECT is((SELECT count(*) FROM _dualwrite.backfill), 0::bigint, 'at the bottom checkpoints are forgotten');

-- One statement, one change

SELECT dualwrite.create_migration('h', 'one', 'one_a');
\set ON_ERROR_STOP off
SELECT dualwrite.advance(m) FROM unnest('{g,h}'::text[]) m;
\set ON_ERROR_STOP on
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '25001', 'two changes do not fit into one transaction');
SELECT is((SELECT array_agg(phase) FROM dualwrite.status WHERE migration IN ('g', 'h')), '{defined,defined}', 'neither was made');
SELECT dualwrite.drop_migration('g');
SELECT dualwrite.drop_migration('h');

-- Keys of a union: three sequences, one of which counts in steps of ten, and a session that has cached numbers

CREATE TABLE cat (id serial PRIMARY KEY, name text);
CREATE TABLE dog (id int GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 10 CACHE 20) PRIMARY KEY, name text);
CREATE TABLE pet (kind text, id bigserial, name text, PRIMARY KEY (kind, id));
INSERT INTO cat (name) VALUES ('c1'), ('c2'), ('c3');
INSERT INTO cat VALUES (70, 'c70');
INSERT INTO dog (name) VALUES ('d1');
SELECT dualwrite.create_migration('pets');
SELECT dualwrite.add_mapping('pets', 'cat', 'pet', forward => '{"kind": "''cat''"}');
SELECT dualwrite.add_mapping('pets', 'dog', 'pet', forward => '{"kind": "''dog''"}');
CALL dualwrite.run('pets', 'read_switch', '10 min');
SELECT is((SELECT count(*) FROM _dualwrite.key_sequence), 3::bigint, 'three sequences take turns');
CREATE TEMP TABLE given (id bigint);
DO $$
DECLARE n bigint;
BEGIN
	FOR i IN 1 .. 30 LOOP
		INSERT INTO cat (name) VALUES ('c') RETURNING id INTO n;
		INSERT INTO given VALUES (n);
		INSERT INTO dog (name) VALUES ('d') RETURNING id INTO n;
		INSERT INTO given VALUES (n);
		INSERT INTO pet (kind, name) VALUES (CASE i % 2 WHEN 0 THEN 'cat' ELSE 'dog' END, 'p') RETURNING id INTO n;
		INSERT INTO given VALUES (n);
	END LOOP;
END $$;
SELECT is((SELECT count(DISTINCT id) FROM given), 90::bigint, 'and never give the same number');
SELECT is((SELECT min(id) > 70 FROM given), true, 'nor one that was given before');
SELECT is((SELECT count(*) FROM pet), 95::bigint, 'every one of them is on the new side');
SELECT dualwrite.rollback('pets');
SELECT is((SELECT array_agg(seqincrement ORDER BY seqrelid::regclass::text) FROM pg_sequence
	WHERE seqrelid::regclass::text IN ('cat_id_seq', 'dog_id_seq', 'pet_id_seq')), '{1,10,1}', 'back down, each counts as its owner said');
INSERT INTO cat (name) VALUES ('after') RETURNING id > (SELECT max(id) FROM given) AS past \gset
SELECT is(:'past'::text, 't', 'past the highest number that any of them gave');
SELECT dualwrite.rollback('pets', 'defined');
SELECT dualwrite.drop_migration('pets');

-- A new side's sequence alone starts past the keys that the application makes up itself

CREATE TABLE made_up (id int PRIMARY KEY, v text);
INSERT INTO made_up VALUES (41, 'x');
CREATE TABLE made_up_new (id bigserial PRIMARY KEY, v text);
SELECT dualwrite.create_migration('made_up', 'made_up', 'made_up_new');
CALL dualwrite.run('made_up', 'read_switch', '10 min');
INSERT INTO made_up_new (v) VALUES ('y');
SELECT is((SELECT id FROM made_up WHERE v = 'y'), 42, 'the highest key there is counts');
SELECT dualwrite.rollback('made_up', 'defined');
SELECT dualwrite.drop_migration('made_up');

-- Tables that still reference the old side would fail from complete on

CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE parent_new (id int PRIMARY KEY);
CREATE TABLE child (parent int CONSTRAINT child_parent REFERENCES parent);
SELECT dualwrite.create_migration('parent', 'parent', 'parent_new');
SELECT dualwrite.configure('parent', 'gate_soak', '0');
CALL dualwrite.run('parent', 'cutover', '10 min');
INSERT INTO parent_new VALUES (1);
INSERT INTO child VALUES (1);
SELECT is((SELECT detail FROM dualwrite.gates('parent') WHERE gate = 'references' AND NOT passed),
	'foreign key child_parent of table public.child references old table public.parent', 'a foreign key on the old side is a gate');
ALTER TABLE child DROP CONSTRAINT child_parent, ADD FOREIGN KEY (parent) REFERENCES parent_new;
SELECT is((SELECT count(*) FROM dualwrite.gates('parent') WHERE gate = 'references'), 0::bigint, 'one on the new side is what is wanted');
CALL dualwrite.wait('parent', '10 min');
SELECT dualwrite.advance('parent');
INSERT INTO parent_new VALUES (2);
INSERT INTO child VALUES (2);
SELECT is((SELECT count(*) FROM child), 2::bigint, 'its rows find those of the new side');
SELECT dualwrite.drop_migration('parent');
DROP TABLE child, parent, parent_new;

-- The owner of the tables drives, with nothing but EXECUTE

CREATE ROLE dualwrite_ladder_owner;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dualwrite TO dualwrite_ladder_owner;
CREATE SCHEMA owned AUTHORIZATION dualwrite_ladder_owner;
CREATE TABLE made (id int);
SET ROLE dualwrite_ladder_owner;
CREATE TABLE owned."Odd name" (id serial PRIMARY KEY, v text);
CREATE TABLE owned.new (id bigserial PRIMARY KEY, v text);
SELECT dualwrite.create_migration('owned', 'owned."Odd name"', 'owned.new');
SELECT dualwrite.configure('owned', 'gate_soak', '0');
CALL dualwrite.run('owned', 'cutover', '10 min');
RESET ROLE;
SELECT is((SELECT phase FROM dualwrite.status WHERE migration = 'owned'), 'cutover', 'up to cutover');
SELECT is((SELECT DISTINCT actor::text FROM dualwrite.events WHERE migration = 'owned'), 'dualwrite_ladder_owner', 'under his own name');
CREATE ROLE dualwrite_ladder_other;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dualwrite TO dualwrite_ladder_other;
SET ROLE dualwrite_ladder_other;
\set ON_ERROR_STOP off
SELECT dualwrite.rollback('owned');
RESET ROLE;
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42501', 'somebody else may not');
SET ROLE dualwrite_ladder_other;
CALL dualwrite.run('owned');
RESET ROLE;
\set ON_ERROR_STOP on
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42501', 'nor run it');
SET ROLE dualwrite_ladder_owner;
CALL dualwrite.wait('owned', '10 min');
SELECT dualwrite.advance('owned');
SELECT dualwrite.drop_old('owned');
RESET ROLE;
SELECT hasnt_table('owned', 'Odd name', 'to the very end');
SELECT dualwrite.drop_migration('owned');
DROP SCHEMA owned CASCADE;
DROP OWNED BY dualwrite_ladder_owner, dualwrite_ladder_other;
DROP ROLE dualwrite_ladder_owner, dualwrite_ladder_other;

SELECT * FROM finish();
