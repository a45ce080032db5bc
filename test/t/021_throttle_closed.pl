# Signals that cannot be read hold the backfill back like those that say stop, and throttled_by names all of them at once.
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
dualwrite.throttle_max_lock_wait = 0
autovacuum_naptime = 1s
wal_keep_size = 1GB
archive_mode = on
archive_command = 'true'
CONF
$primary->start;
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE old_item (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
INSERT INTO old_item SELECT g, repeat('x', 100) FROM generate_series(1, 200000) AS g;
CREATE TABLE new_item (LIKE old_item INCLUDING ALL) WITH (autovacuum_enabled = off);
CREATE TABLE other (n int);
INSERT INTO other VALUES (0);
SELECT dualwrite.create_migration('m', 'old_item', 'new_item');
SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '500');
SQL
$primary->wait_for_catchup($standby);
$primary->safe_psql('postgres', q{SELECT dualwrite.advance('m')}) for 1 .. 3;

sub configure
{
	my ($setting, $value) = @_;

	$primary->safe_psql('postgres', "SELECT dualwrite.configure('m', '$setting', '$value')");
}

# It stops for these reasons, and goes on when they are gone.
sub holds_back
{
	my ($reasons, $begin, $end) = @_;

	$begin->();
	ok($primary->poll_query_until('postgres', 'SELECT array_to_string(throttled_by, $$, $$) FROM _dualwrite.backfill', $reasons), "$reasons: stops it")
		or diag('instead: ' . $primary->safe_psql('postgres', 'SELECT throttled_by FROM dualwrite.progress'));
	my $at = $primary->safe_psql('postgres', 'SELECT next_block FROM _dualwrite.backfill');
	$end->();
	ok($primary->poll_query_until('postgres', "SELECT throttled_by = '{}' AND next_block > $at FROM _dualwrite.backfill"), "$reasons: and it goes on");
}

# Sessions that do not say what they are doing.
my $quiet = $primary->background_psql('postgres', on_error_stop => 0);
holds_back('active backends (unreadable)',
	sub {
		$quiet->query_safe('SET track_activities = off');
		configure('throttle_max_active_per_core', '1000');
	},
	sub { $quiet->query_safe('SET track_activities = on'); });
configure('throttle_max_active_per_core', '0');

# An autovacuum that does not say of what, slowed down so that it takes its time.
$primary->safe_psql('postgres', 'DELETE FROM old_item WHERE id > 190000');
holds_back('autovacuum (unreadable)',
	sub {
		configure('throttle_max_autovacuum', '1 hour');
		$primary->safe_psql('postgres', 'ALTER SYSTEM SET track_activities = off');
		$primary->reload;
		$primary->safe_psql('postgres', <<SQL);
ALTER TABLE old_item SET (autovacuum_enabled = on, autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
	autovacuum_analyze_threshold = 1000000000, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)
SQL
	},
	sub { configure('throttle_max_autovacuum', '0'); });
$primary->safe_psql('postgres', 'ALTER SYSTEM RESET track_activities');
$primary->reload;
$primary->safe_psql('postgres', 'ALTER TABLE old_item SET (autovacuum_enabled = off)');

# The archive's directory cannot be looked into.
my $ready = $primary->data_dir . '/pg_wal/archive_status';
holds_back('WAL archive (unreadable)', sub { chmod 0000, $ready or die; }, sub { chmod 0700, $ready or die; });

# A query whose answer is no answer.
holds_back('throttle query (unreadable)', sub { configure('throttle_query', q{SELECT ''perhaps''}); }, sub { configure('throttle_query', ''); });

# All at once.
my ($old, $holder, $waiter, $busy) = map { $primary->background_psql('postgres', on_error_stop => 0) } 1 .. 4;
holds_back('replica lag, disconnected standby, slot retention, WAL archive, active backends, lock waiters, oldest xmin, throttle query',
	sub {
		$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()');
		$holder->query_safe('BEGIN; SELECT * FROM old_item WHERE id = 1 FOR UPDATE');
		$waiter->query_until(qr/started/, "\\echo started\nUPDATE old_item SET v = 'waited' WHERE id = 1;\n");
		$busy->query_until(qr/started/, "\\echo started\nSELECT pg_sleep(600);\n");
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
		$primary->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('forgotten', true)});
		$primary->safe_psql('postgres', q{ALTER SYSTEM SET archive_command = 'false'});
		$primary->reload;
		$primary->safe_psql('postgres', 'UPDATE other SET n = n + 1') for 1 .. 30;
		$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
		$primary->safe_psql('postgres', 'UPDATE other SET n = n + 1');
		configure('throttle_max_replication_lag', '500ms');
		configure('throttle_max_standby_absence', '500ms');
		configure('throttle_max_slot_retention', '64kB');
		configure('throttle_max_active_per_core', '0.0001');
		configure('throttle_max_lock_wait', '100ms');
		configure('throttle_max_xmin_age', '20');
		configure('throttle_query', 'SELECT true');
	},
	sub {
		$old->query_safe('COMMIT');
		$holder->query_safe('COMMIT');
		$primary->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()});
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
		$primary->safe_psql('postgres', q{SELECT pg_drop_replication_slot('forgotten')});
		$primary->safe_psql('postgres', q{ALTER SYSTEM SET archive_command = 'true'});
		$primary->reload;
		configure('throttle_max_active_per_core', '0');
		configure('throttle_max_xmin_age', '0');
		configure('throttle_query', '');
	});

$_->quit for $quiet, $old, $holder, $waiter, $busy;
$standby->stop;
$primary->stop;
unlike(slurp_file($primary->logfile), qr/TRAP|PANIC|leak/, 'nothing leaked');
done_testing();
