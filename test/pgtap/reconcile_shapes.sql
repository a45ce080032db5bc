-- Mappings that are more than one table to one table: which of them a row belongs to, and when it is extra.
SELECT no_plan();
SET client_min_messages = warning;

-- Split: two new tables, of which one owns the old row

CREATE TABLE wide (id int PRIMARY KEY, a text, b text);
CREATE TABLE part_a (id int PRIMARY KEY, a text);
CREATE TABLE part_b (id int PRIMARY KEY, b text);
SELECT dualwrite.create_migration('split', 'wide', 'part_a');
SELECT dualwrite.add_mapping('split', 'wide', 'part_b', owns => 'new');
SELECT dualwrite.advance('split');
SELECT dualwrite.advance('split');
INSERT INTO wide SELECT g, 'a' || g, 'b' || g FROM generate_series(1, 100) AS g;
SELECT results_eq($$SELECT new_table::text, rows_compared, missing + extra + different FROM dualwrite.reconcile('split')$$,
	$$VALUES ('part_a', 100::bigint, 0::bigint), ('part_b', 100::bigint, 0::bigint)$$, 'split: both parts agree');
CALL bypass('{wide, part_a, part_b}', $$DELETE FROM wide WHERE id = 1$$);
CALL bypass('{wide, part_a, part_b}', $$DELETE FROM part_b WHERE id = 2$$);
CALL bypass('{wide, part_a, part_b}', $$UPDATE wide SET a = 'x' WHERE id = 3$$);
SELECT results_eq($$SELECT new_table::text, missing, extra, different FROM dualwrite.reconcile('split')$$,
	$$VALUES ('part_a', 0::bigint, 1::bigint, 1::bigint), ('part_b', 1::bigint, 1::bigint, 0::bigint)$$, 'split: drift of each part');
SELECT is(dualwrite.repair('split', new_table => 'part_b'), 2::bigint, 'split: one part repaired');
SELECT is(dualwrite.repair('split', '{"id": 1}'), 1::bigint, 'split: a key in all parts that differ');
SELECT is(dualwrite.repair('split'), 1::bigint, 'split: the rest');
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('split')), 0::numeric, 'split: clean');

-- Merge: the second old table fills columns of rows that the first one owns

CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE preference (id int PRIMARY KEY, colour text);
CREATE TABLE client (id int PRIMARY KEY, name text, colour text);
SELECT dualwrite.create_migration('merge', 'customer', 'client', '{"colour": null}');
SELECT dualwrite.add_mapping('merge', 'preference', 'client', '{"name": null}', owns => 'old');
SELECT dualwrite.advance('merge');
SELECT dualwrite.advance('merge');
INSERT INTO customer SELECT g, 'n' || g FROM generate_series(1, 50) AS g;
INSERT INTO preference SELECT g, 'c' || g FROM generate_series(1, 30) AS g;
INSERT INTO preference VALUES (60, 'nobody''s yet');
SELECT results_eq($$SELECT old_table::text, missing + extra + different FROM dualwrite.reconcile('merge')$$,
	$$VALUES ('customer', 0::bigint), ('preference', 0::bigint)$$, 'merge: a row that its owner has not made is not missing');
CALL bypass('{customer, preference, client}', $$UPDATE client SET name = 'x', colour = 'y' WHERE id = 3$$);
CALL bypass('{customer, preference, client}', $$DELETE FROM customer WHERE id = 4$$);
SELECT results_eq($$SELECT old_table::text, missing, extra, different FROM dualwrite.reconcile('merge')$$,
	$$VALUES ('customer', 0::bigint, 1::bigint, 1::bigint), ('preference', 0::bigint, 0::bigint, 1::bigint)$$,
	'merge: each mapping compares its columns; only the owner knows extra rows');
SELECT is((SELECT columns FROM dualwrite.drift WHERE migration = 'merge' AND old_table = 'preference'::regclass), '{colour}', 'merge: its columns alone');
SELECT is(dualwrite.repair('merge'), 3::bigint, 'merge: repaired');
SELECT results_eq('SELECT * FROM client WHERE id IN (3, 4)', $$VALUES (3, 'n3', 'c3')$$, 'merge: from both');
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('merge')), 0::numeric, 'merge: clean');

-- Shards: two old tables, told apart by their filters alone; a row is extra when neither has it, and told once

CREATE TABLE shard_1 (id int PRIMARY KEY, v text);
CREATE TABLE shard_2 (id int PRIMARY KEY, v text);
CREATE TABLE whole (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('shards', 'shard_1', 'whole', filter => 'id % 2 = 1');
SELECT dualwrite.add_mapping('shards', 'shard_2', 'whole', filter => 'id % 2 = 0');
SELECT dualwrite.advance('shards');
SELECT dualwrite.advance('shards');
INSERT INTO shard_1 SELECT g, 'one' FROM generate_series(1, 99, 2) AS g;
INSERT INTO shard_2 SELECT g, 'two' FROM generate_series(2, 100, 2) AS g;
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('shards')), 0::numeric, 'shards: neither disowns the other''s');
CALL bypass('{shard_1, shard_2, whole}', $$INSERT INTO whole VALUES (0, 'nobody''s')$$);
CALL bypass('{shard_1, shard_2, whole}', $$DELETE FROM shard_2 WHERE id = 50$$);
CALL bypass('{shard_1, shard_2, whole}', $$DELETE FROM whole WHERE id = 60$$);
SELECT results_eq($$SELECT sum(missing), sum(extra), sum(different) FROM dualwrite.reconcile('shards')$$,
	$$VALUES (1::numeric, 2::numeric, 0::numeric)$$, 'shards: told once');
SELECT is(dualwrite.repair('shards'), 3::bigint, 'shards: repaired');
SELECT is((SELECT sum(missing + extra + different) FROM dualwrite.reconcile('shards')), 0::numeric, 'shards: clean');
SELECT is((SELECT count(*) FROM whole), 99::bigint, 'shards: nothing of the other was taken');

SELECT * FROM finish();
