# Rows that arrive by logical replication: the old tables are on a subscriber.  The apply worker fires row triggers only, no statement
# triggers and no foreign keys; the initial copy is made by workers of its own, with COPY.  In each phase, with each policy,
# what arrives is on both sides of the mapping, and nothing that fails there stops the subscription where errors are queued.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->append_conf('postgresql.conf', "max_prepared_transactions = 5\n");
$publisher->start;
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init(allows_streaming => 'logical');
$subscriber->append_conf('postgresql.conf',
	"shared_preload_libraries = 'dualwrite'\nmax_prepared_transactions = 5\nmax_worker_processes = 20\nwal_retrieve_retry_interval = 100ms\n");
$subscriber->start;

# a plain pair; into partitions, with a filter; parent and child, with actions on both sides; partitioned on the subscriber itself
my $tables = <<'SQL';
CREATE TABLE a (id int PRIMARY KEY, v text, w int, long text);
CREATE TABLE b (id int PRIMARY KEY, g int, live bool DEFAULT true);
CREATE TABLE p (id int PRIMARY KEY, v text);
CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);
SQL
$publisher->safe_psql('postgres', $tables . 'CREATE TABLE d (id int, g int, v text, PRIMARY KEY (id, g));');
$subscriber->safe_psql('postgres', $tables . <<'SQL');
CREATE TABLE d (id int, g int, v text, PRIMARY KEY (id, g)) PARTITION BY LIST (g);
CREATE TABLE d1 PARTITION OF d FOR VALUES IN (1);
CREATE TABLE d2 PARTITION OF d DEFAULT;
CREATE EXTENSION dualwrite;
CREATE TABLE an (w int CHECK (w < 1000), id bigint PRIMARY KEY, v text NOT NULL, own int DEFAULT 7, long text);
CREATE TABLE bn (id int, g int, live bool, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE bn0 PARTITION OF bn FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE bn1 PARTITION OF bn FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE pn (id int PRIMARY KEY, v text);
CREATE TABLE cn (id int PRIMARY KEY, p int REFERENCES pn ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE dn (v text, g int, id int, PRIMARY KEY (id, g));
SELECT dualwrite.create_migration('m');
SELECT dualwrite.add_mapping('m', 'a', 'an');
SELECT dualwrite.add_mapping('m', 'b', 'bn', filter => 'live');
SELECT dualwrite.add_mapping('m', 'c', 'cn');
SELECT dualwrite.add_mapping('m', 'p', 'pn');
SELECT dualwrite.add_mapping('m', 'd', 'dn');
SQL

my %sides = (
	a => [ 'SELECT id::bigint, v, w, long FROM a', 'SELECT id, v, w, long FROM an' ],
	b => [ 'SELECT * FROM b WHERE live', 'SELECT * FROM bn' ],
	p => [ 'TABLE p', 'TABLE pn' ],
	c => [ 'TABLE c', 'TABLE cn' ],
	d => [ 'SELECT id, g, v FROM d', 'SELECT id, g, v FROM dn' ]);
my $differences = join(' + ', map { "(SELECT count(*) FROM (($sides{$_}[0] EXCEPT ALL $sides{$_}[1]) UNION ALL ($sides{$_}[1] EXCEPT ALL $sides{$_}[0])) x)" } sort keys %sides);

# What has been written is there, on both sides and as on the publisher.
sub arrived
{
	my ($name) = @_;

	$publisher->wait_for_catchup('s');
	$subscriber->poll_query_until('postgres', 'SELECT count(*) = 0 FROM dualwrite.queue') or fail("$name: the queue is not worked off");
	is($subscriber->safe_psql('postgres', "SELECT $differences"), '0', "$name: both sides agree");
	for my $t (sort keys %sides)
	{
		my $all = "SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM $t t";
		my ($there, $here) = ($publisher->safe_psql('postgres', $all), $subscriber->safe_psql('postgres', $all));
		next if $there eq $here;
		is($here, $there, "$name: $t is what it is on the publisher");
	}
	return;
}

# Writes of all kinds; $n keeps the keys of one call apart from another's.
sub write_all
{
	my ($n) = @_;

	$publisher->safe_psql('postgres', <<"SQL");
INSERT INTO a SELECT $n + g, 'v' || g, g FROM generate_series(1, 50) g;
UPDATE a SET v = v || '+' WHERE id % 3 = 0 AND id > $n;
UPDATE a SET long = repeat('long ' || id, 3000) WHERE id = $n + 7;
UPDATE a SET w = w + 1 WHERE id = $n + 7;
UPDATE a SET id = id + 100 WHERE id BETWEEN $n + 1 AND $n + 5;
DELETE FROM a WHERE id = $n + 10;
BEGIN; UPDATE a SET v = 'one'; SAVEPOINT s; DELETE FROM a; ROLLBACK TO s; UPDATE a SET w = 3 WHERE id > $n; COMMIT;
BEGIN; DELETE FROM a WHERE id = $n + 12; INSERT INTO a VALUES ($n + 12, 'again', 1); UPDATE a SET v = 'and again' WHERE id = $n + 12; COMMIT;
INSERT INTO b SELECT $n + g, g, g % 2 = 0 FROM generate_series(1, 20) g;
UPDATE b SET live = NOT live WHERE id BETWEEN $n + 5 AND $n + 9;
UPDATE b SET id = id + 500, g = 0 WHERE id = $n + 11;
INSERT INTO p SELECT $n + g, 'p' || g FROM generate_series(1, 5) g;
INSERT INTO c SELECT $n + g, $n + 1 + g % 5 FROM generate_series(1, 20) g;
DELETE FROM p WHERE id = $n + 2;
UPDATE p SET id = id + 50 WHERE id = $n + 3;
BEGIN; INSERT INTO p VALUES ($n + 80, 'x'); INSERT INTO c VALUES ($n + 80, $n + 80); DELETE FROM p WHERE id = $n + 80; COMMIT;
INSERT INTO d SELECT $n + g, g % 3, 'd' FROM generate_series(1, 20) g;
UPDATE d SET g = 1 WHERE g = 2 AND id > $n;
UPDATE d SET v = 'D', id = id + 100 WHERE g = 0 AND id > $n;
DELETE FROM d WHERE id = $n + 4;
BEGIN; TRUNCATE b; INSERT INTO b SELECT $n + g, g FROM generate_series(1, 20) g; COMMIT;
SQL
	return;
}

# The initial copy runs while the migration is in shadow.
write_all(0);
$subscriber->safe_psql('postgres', "SELECT dualwrite.advance('m', 'shadow')");
$publisher->safe_psql('postgres', 'CREATE PUBLICATION pub FOR ALL TABLES');
my $connection = $publisher->connstr . ' dbname=postgres';
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$connection application_name=s' PUBLICATION pub WITH (streaming = on)");
$subscriber->wait_for_subscription_sync($publisher, 's');
arrived('initial copy in shadow');
write_all(1000);
arrived('shadow');
$publisher->safe_psql('postgres', "INSERT INTO a SELECT g, 'bulk', 1 FROM generate_series(20001, 25000) g; DELETE FROM a WHERE id > 20000");
arrived('shadow, a large transaction');

# A row that the new table does not take: in shadow, and with mirror_on_error = queue, the subscription goes on.
sub fails_quietly
{
	my ($name, $n) = @_;

	$subscriber->safe_psql('postgres', "SELECT dualwrite.pause('m')");
	$publisher->safe_psql('postgres', "INSERT INTO a VALUES ($n, 'good', 1), ($n + 1, 'bad', 5000), ($n + 2, NULL, 1); UPDATE a SET w = 2 WHERE id = $n; INSERT INTO a VALUES ($n + 3, 'after', 1)");
	$publisher->wait_for_catchup('s');
	is($subscriber->safe_psql('postgres', "SELECT string_agg(id::text || v || w, ' ' ORDER BY id) FROM an WHERE id >= $n"), "${n}good2 @{[$n + 3]}after1", "$name: good rows are mirrored");
	is($subscriber->safe_psql('postgres', "SELECT string_agg((key->>'id') || ' ' || sqlstate, ', ' ORDER BY (key->>'id')::int) FROM dualwrite.queue"),
		"@{[$n + 1]} 23514, @{[$n + 2]} 23502", "$name: the others are queued with their reasons");
	$publisher->safe_psql('postgres', "UPDATE a SET w = 5, v = 'mended' WHERE id IN ($n + 1, $n + 2)");
	$publisher->wait_for_catchup('s');
	is($subscriber->safe_psql('postgres', "SELECT $differences"), '0', "$name: and mirrored when they are mended");
	$subscriber->safe_psql('postgres', "SELECT dualwrite.resume('m')");
	return;
}
fails_quietly('shadow', 30000);

# what failed on purpose would be in the way of the next phase
$subscriber->safe_psql('postgres', "SELECT dualwrite.reset_stats('m')");
$subscriber->safe_psql('postgres', "CALL dualwrite.run('m', 'dual_write', '10 min')");
write_all(2000);
arrived('dual_write');
$subscriber->safe_psql('postgres', "CALL dualwrite.run('m', 'verify')");
write_all(3000);
arrived('verify');

# The initial copy of a table that joins the publication later, in verify.
$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION s DISABLE');
$subscriber->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_subscription WHERE pid IS NOT NULL});
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');
$subscriber->safe_psql('postgres', 'TRUNCATE a, b, p, c, d');
is($subscriber->safe_psql('postgres', 'SELECT (SELECT count(*) FROM an) + (SELECT count(*) FROM cn)'), '0', 'the subscriber begins anew');
# Children arrive before their parents, whose copy is held up: their own foreign keys let them in, and so must those of the new side.
$subscriber->safe_psql('postgres', 'ALTER TABLE p ADD CONSTRAINT not_yet CHECK (false) NOT VALID');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$connection application_name=s' PUBLICATION pub WITH (two_phase = on)");
ok($subscriber->poll_query_until('postgres', q{SELECT srsubstate IN ('s', 'r') FROM pg_subscription_rel WHERE srrelid = 'c'::regclass}), 'children before their parents: they are copied');
is($subscriber->safe_psql('postgres', q{SELECT count(*) > 0, count(*) FILTER (WHERE p IS NOT NULL AND id::text NOT IN (SELECT key->>'id' FROM dualwrite.queue WHERE old_table = 'c'::regclass AND sqlstate = '23503')) FROM c}),
	't|0', '... and queued');
$subscriber->safe_psql('postgres', 'ALTER TABLE p DROP CONSTRAINT not_yet');
$subscriber->wait_for_subscription_sync($publisher, 's');
arrived('initial copy in verify');
write_all(4000);
arrived('after it');
$publisher->safe_psql('postgres', "BEGIN; INSERT INTO a VALUES (40000, 'two-phase', 1); UPDATE c SET p = NULL; PREPARE TRANSACTION 'x'");
$publisher->safe_psql('postgres', "COMMIT PREPARED 'x'");
arrived('a prepared transaction');

$subscriber->safe_psql('postgres', "SELECT dualwrite.configure('m', 'mirror_on_error', 'queue')");
write_all(5000);
arrived('mirror_on_error = queue');
fails_quietly('mirror_on_error = queue', 50000);

# With abort the worker fails as it would on its own table, and goes on when the cause is gone.
$subscriber->safe_psql('postgres', "SELECT dualwrite.configure('m', 'mirror_on_error', 'abort')");
my $offset = -s $subscriber->logfile;
$publisher->safe_psql('postgres', "INSERT INTO a VALUES (60000, 'too large', 5000)");
$subscriber->wait_for_log(qr/new row for relation "an" violates check constraint.*dualwrite forward mirror of migration "m", mapping from public\.a to public\.an/s, $offset);
pass('abort: the worker says what stops it');
$subscriber->safe_psql('postgres', 'ALTER TABLE an DROP CONSTRAINT an_w_check');
arrived('abort, when the cause is gone');

# Both directions on: what is written on the new side of the subscriber reaches its old one.
$subscriber->safe_psql('postgres', "CALL dualwrite.run('m', 'read_switch')");
write_all(6000);
arrived('read_switch');
$subscriber->safe_psql('postgres', "INSERT INTO an (id, v, w) VALUES (70000, 'local', 1); DELETE FROM dn WHERE id < 5");
is($subscriber->safe_psql('postgres', "SELECT $differences"), '0', 'read_switch: writes of the new side');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM an WHERE own <> 7'), '0', 'columns outside the mapping are left alone');

# And what arrives on the new side: its initial copy, and changes of all kinds; an error of the old side stops the worker until it is gone.
$publisher->safe_psql('postgres', <<'SQL');
CREATE TABLE an (id bigint PRIMARY KEY, v text, w int, long text);
CREATE TABLE cn (id int PRIMARY KEY, p int);
INSERT INTO an SELECT 80000 + g, 'n' || g, g FROM generate_series(1, 300) g;
INSERT INTO cn SELECT 80000 + g FROM generate_series(1, 30) g;
CREATE PUBLICATION pub_new FOR TABLE an, cn;
SQL
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s_new CONNECTION '$connection application_name=s_new' PUBLICATION pub_new WITH (streaming = on)");
$subscriber->wait_for_subscription_sync($publisher, 's_new');
is($subscriber->safe_psql('postgres', "SELECT count(*), (SELECT count(*) FROM c WHERE id > 80000), $differences FROM a WHERE id > 80000"), '300|30|0', 'initial copy of the new side');
$publisher->safe_psql('postgres', <<'SQL');
UPDATE an SET v = v || '+' WHERE id % 3 = 0;
UPDATE an SET long = repeat('long ' || id, 3000) WHERE id = 80007;
UPDATE an SET w = w + 1 WHERE id = 80007;
UPDATE an SET id = id + 1000 WHERE id BETWEEN 80001 AND 80005;
DELETE FROM an WHERE id = 80010;
BEGIN; UPDATE an SET v = 'one'; SAVEPOINT s; DELETE FROM an; ROLLBACK TO s; UPDATE an SET w = 3 WHERE id > 80200; COMMIT;
BEGIN; DELETE FROM an WHERE id = 80012; INSERT INTO an VALUES (80012, 'again', 1); UPDATE an SET v = 'and again' WHERE id = 80012; COMMIT;
BEGIN; INSERT INTO an VALUES (80400, 'two-phase', 1); DELETE FROM cn WHERE id < 80005; PREPARE TRANSACTION 'n';
COMMIT PREPARED 'n';
INSERT INTO an SELECT g, 'bulk', 1 FROM generate_series(90001, 95000) g;
DELETE FROM an WHERE id BETWEEN 90001 AND 94900;
SQL
$publisher->wait_for_catchup('s_new');
is($subscriber->safe_psql('postgres', "SELECT $differences"), '0', 'changes of the new side');
is($subscriber->safe_psql('postgres', q{SELECT md5(string_agg(a::text, ' ' ORDER BY id)) FROM a WHERE id > 80000}),
	$publisher->safe_psql('postgres', q{SELECT md5(string_agg(a::text, ' ' ORDER BY id)) FROM (SELECT id::int, v, w, long FROM an) a}), 'are as on the publisher');
$offset = -s $subscriber->logfile;
$publisher->safe_psql('postgres', "INSERT INTO an VALUES (5000000000, 'too large', 1)");
$subscriber->wait_for_log(qr/integer out of range.*dualwrite reverse mirror of migration "m", mapping from public\.a to public\.an/s, $offset);
$publisher->safe_psql('postgres', 'DELETE FROM an WHERE id = 5000000000');
is($subscriber->safe_psql('postgres', "SELECT $differences"), '0', 'one that the old side cannot hold stops the worker');

$subscriber->stop('fast');
$publisher->stop;
is(slurp_file($subscriber->logfile) =~ /(leak.*|TRAP.*|attempted to .*)/ ? $1 : '', '', 'no leak');
done_testing();
