# The signals that hold the backfill back: each one stops it, says so, and lets it go on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
dualwrite.throttle_max_active_per_core = 0
CONF
$primary->start;
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

$primary->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE old_item (id int PRIMARY KEY, v text);
INSERT INTO old_item SELECT g, repeat('x', 100) FROM generate_series(1, 40000) AS g;
CREATE TABLE new_item (LIKE old_item INCLUDING ALL);
CREATE TABLE other (n int);
INSERT INTO other VALUES (0);
SELECT dualwrite.create_migration('m', 'old_item', 'new_item');
SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '1500');
SQL
$primary->wait_for_catchup($standby);
$primary->safe_psql('postgres', q{SELECT dualwrite.advance('m')}) for 1 .. 3;

my $reasons = q{SELECT array_to_string(throttled_by, ', ') FROM _dualwrite.backfill};

# It stops for this reason, and goes on when the reason is gone.
sub holds_back
{
	my ($reason, $begin, $end) = @_;

	$begin->();
	ok($primary->poll_query_until('postgres', $reasons, $reason), "$reason: stops it")
		or diag('instead: ' . $primary->safe_psql('postgres', $reasons));
	my $at = $primary->safe_psql('postgres', 'SELECT next_block FROM _dualwrite.backfill');
	$end->();
	ok($primary->poll_query_until('postgres', "SELECT throttled_by = '{}' AND next_block > $at FROM _dualwrite.backfill"),
		"$reason: and it goes on");
}

sub configure
{
	my ($setting, $value) = @_;

	$primary->safe_psql('postgres', "SELECT dualwrite.configure('m', '$setting', '$value')");
}

# The standby still receives what is written, and does not replay it.
holds_back('replica lag',
	sub {
		configure('throttle_max_replication_lag', '500ms');
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	},
	sub { $standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()'); });

my $busy = $primary->background_psql('postgres', on_error_stop => 0);
holds_back('active backends',
	sub {
		configure('throttle_max_active_per_core', '0.0001');
		$busy->query_until(qr/started/, "\\echo started\nSELECT pg_sleep(600);\n");
	},
	sub {
		configure('throttle_max_active_per_core', '0');
		$primary->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()});
	});

# somebody wants a lock on the table that somebody else does not let go
my $holder = $primary->background_psql('postgres', on_error_stop => 0);
my $waiter = $primary->background_psql('postgres', on_error_stop => 0);
holds_back('lock waiters',
	sub {
		$holder->query_safe('BEGIN; SELECT * FROM old_item WHERE id = 1 FOR UPDATE');
		$waiter->query_until(qr/started/, "\\echo started\nUPDATE old_item SET v = 'waited' WHERE id = 1;\n");
	},
	sub { $holder->query_safe('COMMIT'); });

# a lock that the batch itself would have to wait for
holds_back('table lock',
	sub { $holder->query_safe('BEGIN; LOCK TABLE new_item IN SHARE MODE'); },
	sub { $holder->query_safe('COMMIT'); });

holds_back('WAL rate',
	sub {
		configure('throttle_max_wal_rate', '1kB');
		$primary->safe_psql('postgres', 'UPDATE other SET n = n + 1') for 1 .. 50;
	},
	sub { configure('throttle_max_wal_rate', '0'); });

configure('backfill_max_rows_per_second', '0');
$primary->poll_query_until('postgres', 'SELECT finished_at IS NOT NULL FROM _dualwrite.backfill') or die 'the backfill does not end';
is($primary->safe_psql('postgres', 'SELECT count(*) FROM old_item o FULL JOIN new_item n ON o = n WHERE o IS NULL OR n IS NULL'),
	'0', 'in the end both sides agree');

$_->quit for $busy, $holder, $waiter;
$standby->stop;
$primary->stop;
done_testing();
