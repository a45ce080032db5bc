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
dualwrite.throttle_max_lock_wait = '100 ms'
autovacuum_naptime = 1s
archive_mode = on
archive_command = 'true'
CONF
$primary->start;
$primary->backup('backup');
$primary->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('standby')});
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "primary_slot_name = 'standby'");
$standby->start;

$primary->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE old_item (id int PRIMARY KEY, v text);
INSERT INTO old_item SELECT g, repeat('x', 100) FROM generate_series(1, 200000) AS g;
ALTER TABLE old_item SET (autovacuum_enabled = off);
CREATE TABLE new_item (LIKE old_item INCLUDING ALL) WITH (autovacuum_enabled = off);
CREATE TABLE other (n int);
INSERT INTO other VALUES (0);
SELECT dualwrite.create_migration('m', 'old_item', 'new_item');
SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '500');
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

sub write_wal
{
	$primary->safe_psql('postgres', 'UPDATE other SET n = n + 1') for 1 .. shift;
}

# the archiver tries again at once when it is told to read its settings
sub archive_command
{
	$primary->safe_psql('postgres', "ALTER SYSTEM SET archive_command = '$_[0]'");
	$primary->reload;
}

is($primary->safe_psql('postgres', q{SELECT count(*) FROM dualwrite.settings WHERE migration IS NULL AND setting LIKE 'throttle%' AND value <> default_value
	AND setting NOT IN ('throttle_max_active_per_core', 'throttle_max_lock_wait')}), '0', 'all other signals are as they are by default');
ok($primary->poll_query_until('postgres', q{SELECT next_block > 0 AND throttled_by = '{}' FROM _dualwrite.backfill}),
	'nothing holds it back on a healthy server');

# The standby still receives what is written, and does not replay it.
holds_back('replica lag',
	sub {
		configure('throttle_max_replication_lag', '500ms');
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	},
	sub { $standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()'); });

# It is gone, and its slot keeps what it will need.
holds_back('disconnected standby',
	sub {
		configure('throttle_max_standby_absence', '500ms');
		$standby->stop;
		write_wal(1);
	},
	sub { $standby->start; });

# What an unused slot keeps is more than allowed.
$primary->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'throttle_max_standby_absence', '0')});
holds_back('slot retention',
	sub {
		configure('throttle_max_slot_retention', '64kB');
		$primary->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('forgotten', true)});
		write_wal(1);
	},
	sub { $primary->safe_psql('postgres', q{SELECT pg_drop_replication_slot('forgotten')}); });
configure('throttle_max_slot_retention', '10GB');

# That was all about the standby, whose slot must not be lost, too, when it happens to lag.
$standby->stop;
$primary->poll_query_until('postgres', q{SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'standby'}) or die 'the standby is still there';
$primary->safe_psql('postgres', q{SELECT pg_drop_replication_slot('standby')});

# A slot whose WAL is gone.
holds_back('lost slot',
	sub {
		$primary->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('lost', true)});
		$primary->safe_psql('postgres', q{ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'});
		$primary->reload;
		for (1 .. 3)
		{
			$primary->safe_psql('postgres', 'UPDATE other SET n = n + 1');
			$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
		}
		$primary->safe_psql('postgres', 'CHECKPOINT');
	},
	sub {
		$primary->safe_psql('postgres', q{SELECT pg_drop_replication_slot('lost')});
		$primary->safe_psql('postgres', q{ALTER SYSTEM RESET max_slot_wal_keep_size});
		$primary->reload;
	});

# The archive takes nothing: first it fails, then too much waits.
holds_back('WAL archive',
	sub {
		archive_command('false');
		write_wal(1);
		$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
	},
	sub { archive_command('true'); });
my $hold = $primary->basedir . '/hold';
append_to_file($hold, 'x');
holds_back('WAL archive',
	sub {
		configure('throttle_max_archive_backlog', '2');
		archive_command("while test -e $hold; do sleep 0.2; done");
		for (1 .. 3)
		{
			$primary->safe_psql('postgres', 'UPDATE other SET n = n + 1');
			$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
		}
	},
	sub { unlink($hold); });
archive_command('true');

# A transaction that VACUUM has to think of, and many begun since.
my $old = $primary->background_psql('postgres', on_error_stop => 0);
holds_back('oldest xmin',
	sub {
		configure('throttle_max_xmin_age', '100');
		$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()');
		write_wal(120);
	},
	sub { $old->query_safe('COMMIT'); });
configure('throttle_max_xmin_age', '0');

# An autovacuum of the old table, slowed down so that it takes its time.
holds_back('autovacuum',
	sub {
		configure('throttle_max_autovacuum', '1 ms');
		$primary->safe_psql('postgres', q{UPDATE old_item SET v = v || '.' WHERE id > 190000});
		$primary->safe_psql('postgres', <<SQL);
ALTER TABLE old_item SET (autovacuum_enabled = on, autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
	autovacuum_analyze_threshold = 1000000000, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)
SQL
	},
	sub { configure('throttle_max_autovacuum', '0'); });
$primary->safe_psql('postgres', 'ALTER TABLE old_item SET (autovacuum_enabled = off)');

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
		write_wal(50);
	},
	sub { configure('throttle_max_wal_rate', '0'); });

# All that is tripped is named, and an override stands against all of it.
configure('throttle_max_active_per_core', '0.0001');
configure('throttle_query', 'SELECT true');
$busy->query_until(qr/again/, "\\echo again\nSELECT pg_sleep(600);\n");
ok($primary->poll_query_until('postgres', q{SELECT throttled_by FROM dualwrite.progress}, '{"active backends","throttle query"}'),
	'all signals are named');
my $stopped_at = $primary->safe_psql('postgres', 'SELECT next_block FROM _dualwrite.backfill');
$primary->safe_psql('postgres', q{SELECT dualwrite.throttle('m', 1, '10 minutes')});
ok($primary->poll_query_until('postgres',
		"SELECT b.next_block > $stopped_at AND p.throttled_by = '{override}' FROM _dualwrite.backfill b, dualwrite.progress p"),
	'an override lets it go on, and is named');
$primary->safe_psql('postgres', q{SELECT dualwrite.throttle('m', 0, '10 minutes')});
ok($primary->poll_query_until('postgres', q{SELECT next_step LIKE '%throttled by override' FROM dualwrite.status}), 'one of 0 stops it');
$primary->safe_psql('postgres', q{SELECT dualwrite.throttle('m', 1, '2 seconds')});
ok($primary->poll_query_until('postgres', q{SELECT throttled_by FROM dualwrite.progress}, '{"active backends","throttle query"}'),
	'when its time is over, the signals count again');
configure('throttle_query', '');
configure('throttle_max_active_per_core', '0');

configure('backfill_max_rows_per_second', '0');
$primary->poll_query_until('postgres', 'SELECT finished_at IS NOT NULL FROM _dualwrite.backfill') or die 'the backfill does not end';
is($primary->safe_psql('postgres', 'SELECT count(*) FROM old_item o FULL JOIN new_item n ON o = n WHERE o IS NULL OR n IS NULL'),
	'0', 'in the end both sides agree');

$primary->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()});
$_->quit for $busy, $holder, $waiter, $old;
$primary->stop;
done_testing();
