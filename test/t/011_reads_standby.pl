# Reads on a hot standby: the same answers as on the primary, from the standby's own snapshots, nothing written; a dump
# carries read views over.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'dualwrite'\nwal_keep_size = 1GB");
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION dualwrite;
	CREATE TABLE o (id int PRIMARY KEY, v text);
	CREATE TABLE n (id bigint PRIMARY KEY, v text);
	INSERT INTO o SELECT g, 'v' || g FROM generate_series(1, 1000) AS g;
	SELECT dualwrite.create_migration('m', 'o', 'n');
	SET client_min_messages = warning;
	SELECT dualwrite.create_read_view('m', 'r');
});
$primary->safe_psql('postgres', q{CALL dualwrite.run('m', 'verify', '10 min')});
$primary->safe_psql('postgres', q{CALL dualwrite.wait('m', '10 min')});

$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
# what the primary cleans up must not be in conflict with the older transaction below
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1");
$standby->start;
$primary->poll_query_until('postgres', 'SELECT backend_xmin IS NOT NULL FROM pg_stat_replication') or die 'no feedback';

my $buckets = q{SELECT string_agg(dualwrite.read_side('m', g), ',' ORDER BY g) FROM generate_series(1, 1000) AS g};

is($standby->safe_psql('postgres', q{SELECT dualwrite.read_side('m')}), 'old', 'verify: old');

# A transaction of the standby that is older than the switch.
my $older = $standby->background_psql('postgres');
$older->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM o});

$primary->safe_psql('postgres', q{SELECT dualwrite.advance('m')});
$primary->safe_psql('postgres', q{SELECT dualwrite.set_read_percent('m', 30)});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

is($standby->safe_psql('postgres', $buckets), $primary->safe_psql('postgres', $buckets), 'the same buckets on both servers');
like($standby->safe_psql('postgres', q{SELECT dualwrite.read_side('m')}), qr/^(old|new)$/, 'an answer for the transaction');
is($standby->safe_psql('postgres', q{SELECT count(*), count(DISTINCT id) FROM r}), '1000|1000', 'the view, each row once');
is($standby->safe_psql('postgres', q{SET dualwrite.read_side = 'new'; SELECT count(*) FROM r}), '1000', 'and all of it from new');
is($older->query_safe(q{SELECT dualwrite.read_side('m', g) FROM generate_series(1, 1000) AS g GROUP BY 1}), 'old',
	'the older transaction reads old');
$older->query_safe('COMMIT');
is($older->query_safe(q{SELECT count(DISTINCT dualwrite.read_side('m', g)) FROM generate_series(1, 1000) AS g}), '2',
	'the session follows with its next transaction');
$older->quit;
$standby->stop;

# After a restart the same buckets are asked of the same side.
my $before = $primary->safe_psql('postgres', $buckets);
$primary->restart;
is($primary->safe_psql('postgres', $buckets), $before, 'the same buckets after a restart');
$primary->stop('immediate');
$primary->start;
is($primary->safe_psql('postgres', $buckets), $before, 'and after a crash');

# Dump and restore: the view comes along and reads old, where the data is.
$primary->safe_psql('postgres', 'CREATE DATABASE restored');
my $dump = $primary->backup_dir . '/dump.sql';
$primary->command_ok(['pg_dump', '-p', $primary->port, '-f', $dump, 'postgres'], 'dump');
$primary->command_ok(['psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-p', $primary->port, '-d', 'restored', '-f', $dump], 'restore');
is($primary->safe_psql('restored', q{SELECT count(*) FROM r}), '1000', 'the view works in the restored database');

$primary->stop;
done_testing();
