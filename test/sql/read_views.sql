-- create_read_view and drop_read_view: notices, errors, what the view looks like.
CREATE SCHEMA rv;
SET search_path = rv;
CREATE TABLE customer_old (id int PRIMARY KEY, email text NOT NULL UNIQUE, full_name varchar(60), note text);
CREATE TABLE customer_new (
	id bigint PRIMARY KEY,
	mail text NOT NULL UNIQUE,
	first_name text,
	last_name text,
	initial text GENERATED ALWAYS AS (left(last_name, 1)) STORED,
	note text,
	vip boolean NOT NULL DEFAULT false
);
INSERT INTO customer_old VALUES (1, 'Ann@x', 'Ann Lee', 'n1'), (2, 'bob@x', 'Bob Ray', NULL);
SELECT dualwrite.create_migration('rv', 'customer_old', 'customer_new',
	forward => '{"mail": "lower(email)", "first_name": "split_part(full_name, '' '', 1)", "last_name": "split_part(full_name, '' '', 2)"}',
	reverse => '{"email": "mail", "full_name": "first_name || '' '' || last_name"}');

-- names the indexes that look-ups need
SELECT dualwrite.create_read_view('rv', 'customer');
CREATE INDEX ON customer_old ((id::bigint));
CREATE INDEX ON customer_old (lower(email));
-- and is silent once they are there
SELECT dualwrite.create_read_view('rv', 'rv."Customer 2"');
SELECT reloptions FROM pg_class WHERE oid = 'customer'::regclass;
SELECT * FROM customer ORDER BY id;
SELECT * FROM customer WHERE mail = 'ann@x';
\d customer

-- the shape of the old table
SELECT dualwrite.create_read_view('rv', 'customer_o', shape => 'old');
\d customer_o
SELECT * FROM customer_o ORDER BY id;

-- fixed and mixed strategies
SELECT dualwrite.create_read_view('rv', 'c_new', strategy => 'new');
SELECT dualwrite.create_read_view('rv', 'c_old', strategy => 'old');
SELECT dualwrite.create_read_view('rv', 'c_fallback', strategy => 'fallback');
SELECT dualwrite.create_read_view('rv', 'c_merge', strategy => 'merge');
INSERT INTO customer_new (id, mail, first_name, last_name, note) VALUES (2, 'bob@new', 'Bob', 'Ray', 'from new'), (3, 'cy@new', 'Cy', 'Fox', NULL);
SELECT id, mail, initial, note, vip FROM c_new ORDER BY id;
SELECT id, mail, initial, note, vip FROM c_old ORDER BY id;
SELECT id, mail, initial, note, vip FROM c_fallback ORDER BY id;
SELECT id, mail, initial, note, vip FROM c_merge ORDER BY id;

-- bad input
SELECT dualwrite.create_read_view('rv', 'customer');
SELECT dualwrite.create_read_view('rv', 'customer_old');
SELECT dualwrite.create_read_view('nobody', 'x');
SELECT dualwrite.create_read_view('rv', 'nowhere.x');
SELECT dualwrite.create_read_view('rv', '');
SELECT dualwrite.create_read_view('rv', 'x', strategy => 'magic');
SELECT dualwrite.create_read_view('rv', 'x', shape => 'round');
SELECT dualwrite.create_read_view('rv', 'x', new_table => 'customer_old');
SELECT dualwrite.create_read_view(NULL, 'x');
SELECT dualwrite.create_read_view('rv', NULL);
SELECT dualwrite.create_read_view('rv', 'x', strategy => NULL);
SELECT dualwrite.drop_read_view('customer_old');
SELECT dualwrite.drop_read_view('nothing');
SELECT dualwrite.drop_read_view(NULL);
SELECT dualwrite.read_side('nobody');
SELECT dualwrite.read_side('nobody', 1);
SELECT dualwrite.read_side(NULL), dualwrite.read_side(NULL, 1);
SELECT dualwrite.serves('rv', 'left');
SELECT dualwrite.serves('rv', 'old', VARIADIC ARRAY[1, 2]);

-- a definition that views use stays
SELECT dualwrite.drop_migration('rv');
SELECT dualwrite.drop_read_view(v) FROM unnest('{customer,"rv.\"Customer 2\"",customer_o,c_new,c_old,c_fallback,c_merge}'::text[]) AS v;
SELECT count(*) FROM _dualwrite.read_view;
SELECT dualwrite.drop_migration('rv');

-- two old tables in one new one, each in its scope; part of the rows only
CREATE TABLE cats (id int PRIMARY KEY, name text, alive boolean NOT NULL);
CREATE TABLE dogs (id int PRIMARY KEY, name text);
CREATE TABLE animals (kind text, id int, name text, PRIMARY KEY (kind, id));
INSERT INTO cats VALUES (1, 'Tom', true), (2, 'Cleo', false);
INSERT INTO dogs VALUES (1, 'Rex');
SELECT dualwrite.create_migration('zoo', 'cats', 'animals', forward => '{"kind": "''cat''"}', reverse => '{"alive": "true"}', filter => 'alive');
SELECT dualwrite.add_mapping('zoo', 'dogs', 'animals', forward => '{"kind": "''dog''"}');
SELECT dualwrite.create_read_view('zoo', 'animal');
SELECT * FROM animal ORDER BY kind, id;
EXPLAIN (COSTS OFF) SELECT * FROM animal WHERE kind = 'dog' AND id = 1;
SELECT dualwrite.create_read_view('zoo', 'cat', shape => 'old');
INSERT INTO animals VALUES ('cat', 1, 'Tom'), ('dog', 1, 'Rex');
SET dualwrite.read_side = 'new';
UPDATE _dualwrite.migration SET phase = 'read_switch' WHERE name = 'zoo';
SELECT * FROM cat ORDER BY id;
SELECT * FROM animal ORDER BY kind, id;
RESET dualwrite.read_side;
UPDATE _dualwrite.migration SET phase = 'defined' WHERE name = 'zoo';
SELECT dualwrite.drop_read_view('animal'), dualwrite.drop_read_view('cat');
SELECT dualwrite.drop_migration('zoo');

SET client_min_messages = warning;
DROP SCHEMA rv CASCADE;
