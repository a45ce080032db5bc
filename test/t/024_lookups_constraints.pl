# After a crash: changes of looked-up rows that want a second look get it, and a column goes on being made NOT NULL from whatever step
# it had come to.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'dualwrite'\nmax_prepared_transactions = 2");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION dualwrite;
	CREATE TABLE customers (id int PRIMARY KEY, name text);
	CREATE TABLE orders (id int PRIMARY KEY, customer_id int);
	CREATE TABLE orders_new (id int PRIMARY KEY, customer_id int, name text);
	INSERT INTO customers VALUES (1, 'one'), (2, 'two');
	INSERT INTO orders SELECT g, g % 2 + 1 FROM generate_series(1, 1000) g;
	SELECT dualwrite.create_migration('m', 'orders', 'orders_new', '{"name": {
		"expr": "(SELECT c.name FROM customers c WHERE c.id = orders.customer_id)", "not_null": true,
		"depends": {"customers": "SELECT id FROM orders WHERE customer_id = changed.id"}}}');
});
$node->safe_psql('postgres', q{CALL dualwrite.run('m', timeout => '10 min')});

# A prepared transaction has written an order that the change of its customer cannot see; the server crashes; it commits.
$node->safe_psql('postgres', q{
	BEGIN;
	INSERT INTO orders VALUES (2000, 1);
	PREPARE TRANSACTION 'p';
});
$node->safe_psql('postgres', q{UPDATE customers SET name = 'changed' WHERE id = 1});
is($node->safe_psql('postgres', q{SELECT count(*) FROM orders_new WHERE name = 'changed'}), '500', 'what could be seen is up to date');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM _dualwrite.recheck'), '1', 'the second look is still owed after the crash');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
ok($node->poll_query_until('postgres', q{SELECT queued = 0 FROM dualwrite.status}), 'it has been taken');
is($node->safe_psql('postgres', q{SELECT name FROM orders_new WHERE id = 2000}), 'changed', 'what could not be seen is up to date, too');

# Each step of a column on its way to NOT NULL, left behind by a crash.
my @steps = (
	['added', q{ALTER TABLE orders_new ADD CONSTRAINT dualwrite_not_null_3_name CHECK (name IS NOT NULL) NOT VALID}],
	['validated', q{ALTER TABLE orders_new ADD CONSTRAINT dualwrite_not_null_3_name CHECK (name IS NOT NULL)}]);
for my $step (@steps)
{
	my ($state, $ddl) = @$step;

	$node->safe_psql('postgres', q{SELECT dualwrite.pause('m')});
	$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')}) eq 'read_switch' or die 'not in read_switch';
	$node->safe_psql('postgres', $ddl);
	$node->stop('immediate');
	$node->start;
	is($node->safe_psql('postgres', 'SELECT state FROM dualwrite.constraints'), $state, "$state, after a crash");
	$node->safe_psql('postgres', q{SELECT dualwrite.resume('m')});
	ok($node->poll_query_until('postgres', q{SELECT state = 'met' FROM dualwrite.constraints}), 'from there to NOT NULL');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_constraint WHERE conname LIKE 'dualwrite%'}), '0', 'and the CHECK is gone');

	# below read_switch a CHECK of ours is taken away in the background, whatever was left
	$node->safe_psql('postgres', q{SELECT dualwrite.pause('m')});
	$node->safe_psql('postgres', q{SELECT dualwrite.rollback('m')});
	$node->safe_psql('postgres', q{ALTER TABLE orders_new ALTER COLUMN name DROP NOT NULL});
	$node->safe_psql('postgres', $ddl);
	$node->safe_psql('postgres', q{SELECT dualwrite.resume('m')});
	ok($node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM pg_constraint WHERE conname LIKE 'dualwrite%')}),
		'below read_switch nothing of ours is left');
	is($node->safe_psql('postgres', q{UPDATE customers SET name = NULL WHERE id = 2; SELECT count(*) FROM orders_new WHERE name IS NULL}),
		'500', 'and NULL may be written');
	$node->safe_psql('postgres', q{UPDATE customers SET name = 'two' WHERE id = 2});
	$node->poll_query_until('postgres', q{SELECT blocked_by = '{}' FROM dualwrite.status}) or die 'the gates are not met';
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed by itself');
done_testing();
