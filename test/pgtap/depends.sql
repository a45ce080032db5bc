-- "depends": a sub-select on another table, whose rows change.  Then a column that moves from one table to another, in both
-- directions, a chain, and what is refused.
\set QUIET on
SET client_min_messages = warning;
SELECT no_plan();

CREATE TABLE customers (id int PRIMARY KEY, name text CHECK (name <> 'forbidden'), last_seen timestamptz);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int, amount int);
CREATE TABLE orders_new (id bigint PRIMARY KEY, customer_id int, amount int, customer_name text CHECK (customer_name <> 'bad'));
CREATE INDEX ON orders (customer_id);
INSERT INTO customers SELECT g, 'c' || g FROM generate_series(1, 5) g;
INSERT INTO orders SELECT g, g % 6 + 1, g FROM generate_series(1, 60) g;
CREATE FUNCTION differing() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM (SELECT o.id, o.customer_id, o.amount, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer_id) o
		FULL JOIN orders_new n USING (id)
	WHERE (o.customer_id, o.amount, o.name) IS DISTINCT FROM (n.customer_id, n.amount, n.customer_name) $$;
-- rows of orders that this session holds, by their xmax
CREATE FUNCTION held() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM orders WHERE xmax::text = pg_current_xact_id()::xid::text $$;

-- until nothing waits, to be delivered or to be looked at again
CREATE PROCEDURE settled(name text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 12000 LOOP
		IF (SELECT queued = 0 FROM dualwrite.status WHERE migration = name) THEN
			RETURN;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.05);
	END LOOP;
END $$;

SELECT dualwrite.create_migration('m', 'orders', 'orders_new', '{"customer_name": {
	"expr": "(SELECT c.name FROM customers c WHERE c.id = orders.customer_id)",
	"depends": {"customers": "SELECT id FROM orders WHERE customer_id = changed.id"}}}');
SELECT is(lookup_table::text || ': ' || query,
	'customers: SELECT orders.id FROM public.orders WHERE (orders.customer_id = dualwrite_row.id)', 'stored with every name qualified')
FROM _dualwrite.dependency;
SELECT is_empty($$SELECT tgname FROM pg_trigger WHERE tgrelid = 'customers'::regclass AND NOT tgisinternal$$, 'no trigger yet');

-- shadow: absorbed, nothing is there to compare yet
SELECT dualwrite.pause('m');
SELECT dualwrite.advance('m');
SELECT is((SELECT array_agg(tgname || tgenabled::text ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'customers'::regclass AND NOT tgisinternal),
	'{!dualwrite_lookup_truncateA,~dualwrite_flushA,~dualwrite_lookupA}', 'triggers on the table that is looked up');
UPDATE customers SET name = 'shadow' WHERE id = 1;
SELECT is((SELECT count(*) FROM orders_new WHERE customer_name = 'shadow'), 10::bigint, 'what depends on the row is copied on the way');
UPDATE customers SET name = 'bad' WHERE id = 2;
SELECT is((SELECT name FROM customers WHERE id = 2), 'bad', 'in shadow a failing mirror does not fail the writer');
SELECT is((SELECT count(DISTINCT key) FROM _dualwrite.queue), 10::bigint, 'its keys are queued');
UPDATE customers SET name = 'good' WHERE id = 2;

-- dual_write: before the backfill
SELECT dualwrite.resume('m');
SELECT dualwrite.reset_stats('m');
CALL dualwrite.wait('m', '10 min');
SELECT dualwrite.advance('m');
INSERT INTO customers VALUES (6, 'late');
SELECT is((SELECT count(*) FROM orders_new WHERE customer_name = 'late'), 10::bigint, 'an insert, before the backfill');
SELECT throws_ok($$UPDATE customers SET name = 'bad' WHERE id = 3$$, '23514', NULL, 'a failing mirror fails the writer');
CALL dualwrite.run('m', timeout => '10 min');
SELECT is(phase, 'verify', 'in verify') FROM dualwrite.status WHERE migration = 'm';
SELECT is(differing(), 0::bigint, 'all agree after the backfill');

-- every kind of change
BEGIN;
UPDATE customers SET name = 'tx' WHERE id = 1;
SELECT is(differing(), 0::bigint, 'in the same transaction');
SAVEPOINT s;
UPDATE customers SET name = 'sp' WHERE id = 1;
SELECT is(differing(), 0::bigint, 'in a savepoint');
ROLLBACK TO s;
SELECT is(differing(), 0::bigint, 'and after it is undone');
ROLLBACK;
SELECT is(differing(), 0::bigint, 'undone');
BEGIN;
UPDATE customers SET last_seen = now();
SELECT is(held(), 0::bigint, 'a change that makes no difference holds no row');
UPDATE customers SET name = name || '+' WHERE id = 4;
SELECT is(held(), 10::bigint, 'one that does holds those that depend on it');
COMMIT;
UPDATE customers SET name = name || '!';
SELECT is(differing(), 0::bigint, 'many rows');
UPDATE customers SET id = id + 100;
SELECT is(differing(), 0::bigint, 'keys moved away');
UPDATE customers SET id = id - 99;
SELECT is(differing(), 0::bigint, 'keys shifted');
DELETE FROM customers WHERE id IN (2, 3);
SELECT is(differing(), 0::bigint, 'deleted');
INSERT INTO customers VALUES (2, 'two'), (3, 'three') ON CONFLICT (id) DO NOTHING;
INSERT INTO customers VALUES (2, 'zwei') ON CONFLICT (id) DO UPDATE SET name = excluded.name;
SELECT is(differing(), 0::bigint, 'upserted');
WITH c AS (UPDATE customers SET name = 'cte' WHERE id = 2 RETURNING id)
INSERT INTO orders SELECT 1000 + id, id, 1 FROM c;
WITH o AS (UPDATE orders SET customer_id = 3 WHERE id = 1002 RETURNING id)
UPDATE customers SET name = 'cte too' WHERE id = 3;
SELECT is(differing(), 0::bigint, 'both tables in one statement');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM orders;
INSERT INTO orders VALUES (2000, 4, 1);
UPDATE customers SET name = 'rr' WHERE id = 4;
COMMIT;
SELECT is(differing(), 0::bigint, 'repeatable read');
COPY customers (id, name) FROM stdin;
90	copied
\.
UPDATE orders SET customer_id = 90 WHERE id < 5;
SELECT is(differing(), 0::bigint, 'copied');
SET session_replication_role = replica;
UPDATE customers SET name = 'replica' WHERE id = 90;
RESET session_replication_role;
SELECT is(differing(), 0::bigint, 'whatever session_replication_role says');
SELECT is((SELECT sum(different + missing + extra) FROM dualwrite.reconcile('m')), 0::numeric, 'a comparison finds no drift');
SELECT is(open_drift, 0::bigint, 'nor is any open') FROM dualwrite.status WHERE migration = 'm';

-- TRUNCATE: in the background
TRUNCATE customers;
CALL settled('m');
SELECT is(queued, 0::bigint, 'nothing is left to be looked at') FROM dualwrite.status WHERE migration = 'm';
SELECT is(differing(), 0::bigint, 'truncated');
INSERT INTO customers SELECT g, 'c' || g FROM generate_series(1, 6) g;
SELECT is(differing(), 0::bigint, 'and filled again');

-- errors that are queued
SELECT dualwrite.configure('m', 'mirror_on_error', 'queue');
SELECT dualwrite.configure('m', 'queue_backoff', '0');
UPDATE customers SET name = 'bad' WHERE id = 1;
SELECT is((SELECT name FROM customers WHERE id = 1), 'bad', 'mirror_on_error = queue lets the statement succeed');
UPDATE customers SET name = 'mended' WHERE id = 1;
SELECT dualwrite.retry('m');
CALL settled('m');
SELECT is(differing(), 0::bigint, 'once mended, all agree');
SELECT dualwrite.configure('m', 'mirror_on_error', NULL);

-- triggers are looked after
DROP TRIGGER "~dualwrite_lookup" ON customers;
SELECT is((SELECT array_agg(what) FROM dualwrite.diagnose('m')), '{writes are not mirrored}', 'a trigger that is missing is an error');
SELECT is(passed, false, 'and a gate') FROM dualwrite.gates('m') WHERE gate = 'triggers';
SELECT is(dualwrite.install_triggers('m'), 1, 'it is put back');
ALTER TABLE customers DISABLE TRIGGER "!dualwrite_lookup_truncate";
SELECT is(dualwrite.install_triggers('m'), 1, 'and enabled');
SELECT is_empty($$SELECT * FROM dualwrite.diagnose('m')$$, 'all is well');

-- alter_mapping takes it away and brings it back
SELECT dualwrite.alter_mapping('m', 'orders', 'orders_new', '{"amount": "amount + 0"}');
SELECT is((SELECT count(*) FROM _dualwrite.dependency), 1::bigint, 'another column leaves it alone');
SELECT dualwrite.alter_mapping('m', 'orders', 'orders_new', '{"customer_name": null}');
SELECT is_empty($$SELECT tgname FROM pg_trigger WHERE tgrelid = 'customers'::regclass AND NOT tgisinternal$$, 'no dependency, no trigger');
SELECT dualwrite.alter_mapping('m', 'orders', 'orders_new', '{"customer_name": {
	"expr": "(SELECT max(c.name) FROM customers c JOIN orders o ON o.customer_id = c.id WHERE o.id = orders.id)",
	"depends": {"customers": "SELECT id FROM orders WHERE customer_id = changed.id"}}}');
CALL dualwrite.wait('m', '10 min');
UPDATE customers SET name = 'after alter' WHERE id = 2;
SELECT is(differing(), 0::bigint, 'altered while it runs');

-- down to defined: nothing is left
SELECT dualwrite.rollback('m', 'defined');
SELECT is_empty($$SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE NOT tgisinternal$$, 'nothing is left on the tables');
SELECT is_empty('SELECT * FROM _dualwrite.recheck', 'nor anything to be looked at');
SELECT dualwrite.drop_migration('m');
SELECT is_empty('SELECT * FROM _dualwrite.dependency', 'nor a dependency');

-- what is refused
CREATE FUNCTION refused(depends text, expr text DEFAULT '(SELECT c.name FROM customers c WHERE c.id = orders.customer_id)')
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM dualwrite.create_migration('r', 'orders', 'orders_new',
		jsonb_build_object('customer_name', jsonb_build_object('expr', expr, 'depends', depends::jsonb)));
	PERFORM dualwrite.drop_migration('r');
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ' ' || sqlerrm;
END $$;
CREATE TEMP TABLE temp_lookup (id int);
CREATE VIEW lookup_view AS SELECT * FROM customers;
CREATE TABLE pair (a int, b text, PRIMARY KEY (a, b));
SELECT is(left(refused(depends), 5), wanted, depends) FROM (VALUES
	('{"customers": "SELECT id FROM orders WHERE customer_id = changed.id"}', 'accep'),
	('{"customers": "SELECT o.id FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.name = changed.name"}', 'accep'),
	('{"nosuch": "SELECT 1"}', '42P01'),
	('{"lookup_view": "SELECT id FROM orders WHERE customer_id = changed.id"}', '42809'),
	('{"temp_lookup": "SELECT id FROM orders WHERE customer_id = changed.id"}', '0A000'),
	('{"pg_class": "SELECT 1"}', '42809'),
	('{"orders_new": "SELECT id FROM orders WHERE id = changed.id"}', '42P17'),
	('{"customers": "SELECT id, amount FROM orders WHERE customer_id = changed.id"}', '42P17'),
	('{"customers": "SELECT now() FROM orders WHERE customer_id = changed.id"}', '42P17'),
	('{"customers": "SELECT ARRAY[id] FROM orders WHERE customer_id = changed.id"}', '42P17'),
	('{"customers": "SELECT id FROM orders"}', '42P17'),
	('{"customers": "SELECT id FROM orders WHERE random() < 1 AND customer_id = changed.id"}', '42P17'),
	('{"customers": "SELECT id FROM orders WHERE customer_id = changed.nosuch"}', '42703'),
	('{"customers": "SELECT id FROM orders WHERE customer_id = changed.id FOR UPDATE"}', '0A000'),
	('{"customers": "SELECT id FROM orders) OR EXISTS (SELECT 1"}', '42P17'),
	('{"customers": "DELETE FROM orders"}', '42601'),
	('{"customers": 1}', '22023'),
	('[]', '22023'),
	('"x"', '22023')) AS t (depends, wanted);
SELECT is(refused('{"customers": "SELECT id FROM orders WHERE customer_id = changed.id"}', 'amount::text'),
	'42P17 column "customer_name" of table public.orders_new cannot depend on another table', 'no sub-select');
SELECT is_empty('SELECT * FROM _dualwrite.migration', 'nothing is left behind');

-- A column moves from one table to another: users.address to profile_new.address, in both directions.
CREATE TABLE users (id int PRIMARY KEY, name text, address text);
CREATE TABLE profiles (user_id int PRIMARY KEY, bio text);
CREATE TABLE users_new (id int PRIMARY KEY, name text);
CREATE TABLE profiles_new (user_id int PRIMARY KEY, bio text, address text);
INSERT INTO users SELECT g, 'u' || g, 'a' || g FROM generate_series(1, 20) g;
INSERT INTO profiles SELECT g, 'b' || g FROM generate_series(1, 20) g;
CREATE FUNCTION moved() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(id || ' ' || coalesce(u.address, '-') || ' ' || coalesce(n.address, '-'), ', ' ORDER BY id)
	FROM users u FULL JOIN profiles_new n ON n.user_id = u.id WHERE n.address IS DISTINCT FROM u.address $$;
SELECT dualwrite.create_migration('v', 'users', 'users_new', '{}', '{"address": {
	"expr": "(SELECT p.address FROM profiles_new p WHERE p.user_id = users_new.id)",
	"depends": {"profiles_new": "SELECT id FROM users_new WHERE id = changed.user_id"}}}');
SELECT dualwrite.add_mapping('v', 'profiles', 'profiles_new', '{"address": {
	"expr": "(SELECT u.address FROM users u WHERE u.id = profiles.user_id)",
	"depends": {"users": "SELECT user_id FROM profiles WHERE user_id = changed.id"}}}');
CALL dualwrite.run('v', timeout => '10 min');
UPDATE users SET address = 'old side' WHERE id < 5;
SELECT is(moved(), NULL, 'written on the old side');
CALL settled('v');
SELECT dualwrite.advance('v');
SELECT is(phase, 'read_switch', 'in read_switch') FROM dualwrite.status WHERE migration = 'v';
UPDATE users SET address = 'old side again' WHERE id < 7;
SELECT is(moved(), NULL, 'written on the old side in read_switch');
UPDATE profiles_new SET address = 'new side' WHERE user_id IN (6, 7);
SELECT is(moved(), NULL, 'written on the new side');
SELECT is((SELECT address FROM users WHERE id = 7), 'new side', 'it is there');
INSERT INTO users_new VALUES (21, 'new user');
INSERT INTO profiles_new VALUES (21, 'new bio', 'new address');
SELECT is(moved(), NULL, 'inserted on the new side');
SELECT is((SELECT u::text FROM users u WHERE id = 21), '(21,"new user","new address")', 'complete on the old side');
DELETE FROM profiles_new WHERE user_id = 20;
SELECT is((SELECT address FROM users WHERE id = 20), NULL, 'gone with its row on the new side');
SELECT dualwrite.set_read_percent('v', 100);
CALL settled('v');
CALL dualwrite.wait('v', '10 min');
SELECT dualwrite.advance('v', force => true, reason => 'test');
SELECT is(phase, 'cutover', 'in cutover') FROM dualwrite.status WHERE migration = 'v';
UPDATE profiles_new SET address = 'cutover' WHERE user_id = 8;
UPDATE users SET address = 'late writer' WHERE id = 9;
SELECT is(moved(), NULL, 'both sides in cutover');
SELECT is((SELECT array[(SELECT address FROM users WHERE id = 8), (SELECT address FROM profiles_new WHERE user_id = 9)]),
	'{cutover,late writer}', 'both ways');
SELECT is((SELECT sum(different + missing + extra) FROM dualwrite.reconcile('v')), 0::numeric, 'no drift');
CALL settled('v');
SELECT dualwrite.rollback('v');
SELECT dualwrite.rollback('v', 'defined', force => true);
SELECT is_empty($$SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE NOT tgisinternal$$, 'nothing is left on the tables');
SELECT dualwrite.drop_migration('v');

-- A chain: what is looked up is the new table of another migration; partitioned, with a partition that comes later; a row of
-- several columns as key; and a table that looks itself up.
CREATE TABLE raw_rates (code text PRIMARY KEY, rate numeric);
CREATE TABLE rates (code text PRIMARY KEY, rate numeric) PARTITION BY LIST (code);
CREATE TABLE rates_eur PARTITION OF rates FOR VALUES IN ('eur');
CREATE TABLE rates_rest PARTITION OF rates DEFAULT;
CREATE TABLE prices (shop int, item text, parent text, code text, amount numeric, PRIMARY KEY (shop, item));
CREATE TABLE prices_new (item text, shop int, code text, parent text, amount numeric, parent_amount numeric, rate numeric, PRIMARY KEY (item, shop));
INSERT INTO raw_rates VALUES ('eur', 1), ('usd', 1.1), ('gbp', 0.9);
INSERT INTO prices SELECT g % 3, 'i' || g, CASE WHEN g > 3 THEN 'i' || g - 3 END, (ARRAY['eur', 'usd', 'gbp', 'chf'])[g % 4 + 1], g
FROM generate_series(1, 24) g;
CREATE FUNCTION wrong() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM (SELECT shop, item, p.amount, r.rate, (SELECT q.amount FROM prices q WHERE q.shop = p.shop AND q.item = p.parent) AS parent_amount
			FROM prices p LEFT JOIN raw_rates r USING (code)) p
		FULL JOIN prices_new n USING (shop, item)
	WHERE (p.amount, p.rate, p.parent_amount) IS DISTINCT FROM (n.amount, n.rate, n.parent_amount) $$;
SELECT dualwrite.create_migration('rates', 'raw_rates', 'rates');
SELECT dualwrite.create_migration('prices', 'prices', 'prices_new', '{
	"rate": {"expr": "(SELECT r.rate FROM rates r WHERE r.code = prices.code)",
		"depends": {"rates": "SELECT shop, item FROM prices WHERE code = changed.code"}},
	"parent_amount": {"expr": "(SELECT q.amount FROM prices q WHERE q.shop = prices.shop AND q.item = prices.parent)",
		"depends": {"prices": "SELECT shop, item FROM prices WHERE shop = changed.shop AND parent = changed.item"}}}');
SELECT throws_ok($$SELECT dualwrite.create_migration('back', 'prices_new', 'raw_rates', '{"code": "item", "rate": "amount"}', key_columns => '{code}')$$,
	'42P17', NULL, 'a mapping that would close the circle is refused');
CALL dualwrite.run('rates', timeout => '10 min');
CALL dualwrite.run('prices', timeout => '10 min');
SELECT is(wrong(), 0::bigint, 'all agree at first');
UPDATE raw_rates SET rate = rate * 2;
SELECT is(wrong(), 0::bigint, 'what is looked up is itself mirrored');
INSERT INTO raw_rates VALUES ('chf', 0.97);
CREATE TABLE rates_jpy PARTITION OF rates FOR VALUES IN ('jpy');
INSERT INTO raw_rates VALUES ('jpy', 160);
UPDATE prices SET code = 'jpy' WHERE amount > 20;
UPDATE raw_rates SET rate = 150 WHERE code = 'jpy';
DELETE FROM raw_rates WHERE code = 'eur';
SELECT is(wrong(), 0::bigint, 'partition by partition');
UPDATE prices SET amount = amount + 1;
INSERT INTO prices VALUES (0, 'child', 'mother', 'usd', 1), (0, 'mother', NULL, 'usd', 2);
UPDATE prices SET item = 'renamed' WHERE item = 'i1';
SELECT is(wrong(), 0::bigint, 'the table itself is looked up');
DELETE FROM prices WHERE item IN ('renamed', 'i2');
UPDATE raw_rates SET code = 'usd2' WHERE code = 'usd';
SELECT is(wrong(), 0::bigint, 'keys change');
BEGIN;
UPDATE raw_rates SET rate = 7 WHERE code = 'gbp';
ALTER TABLE prices_new ADD COLUMN later int;
COMMIT;
SELECT is(wrong(), 0::bigint, 'nothing is held open that DDL of the same transaction would trip over');
SELECT is((SELECT sum(different + missing + extra) FROM dualwrite.reconcile('prices')), 0::numeric, 'no drift');
SELECT dualwrite.rollback('prices', 'defined');
SELECT dualwrite.rollback('rates', 'defined');
SELECT is_empty($$SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE NOT tgisinternal$$, 'nothing is left on the tables');
SELECT * FROM finish();
