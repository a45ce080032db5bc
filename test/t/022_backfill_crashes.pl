# A backfill that is interrupted over and over, in every way there is: nothing is counted twice, it goes on at most one batch back,
# and a row that is written in the instant after the server is back is mirrored, whether or not a worker is up.  In the end a
# streaming standby takes over in the middle of it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Crash;

my $rows = 40_000;
my $rate = 2_000;
# no more than a second of the limit, and a block that it ends with
my $batch = $rate + 300;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
restart_after_crash = on
wal_keep_size = 1GB
max_worker_processes = 20
dualwrite.throttle_max_active_per_core = 0
dualwrite.throttle_max_replication_lag = 0
CONF
$node->start;
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE old_item (id int PRIMARY KEY, v text);
INSERT INTO old_item SELECT g, repeat('x', 150) FROM generate_series(1, $rows) AS g;
CREATE TABLE new_item (LIKE old_item INCLUDING ALL);
SELECT dualwrite.create_migration('m', 'old_item', 'new_item');
SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '$rate');
SQL
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')}) for 1 .. 3;

my $worker = q{SELECT pid FROM dualwrite.workers WHERE role = 'backfill' AND pid IS NOT NULL};
my $written = 0;

sub done { return $_[0]->safe_psql('postgres', 'SELECT sum(rows_done) FROM _dualwrite.backfill'); }

# A row that nobody has copied is on the other side when its transaction ends.
sub is_mirrored
{
	my ($server, $name) = @_;
	my $id = $rows + ++$written;

	is($server->safe_psql('postgres', "INSERT INTO old_item VALUES ($id, 'written'); SELECT v FROM new_item WHERE id = $id"), 'written', $name);
}

# What was committed is what was counted.
sub adds_up
{
	my ($server, $name) = @_;

	is($server->safe_psql('postgres', "SELECT (SELECT count(*) FROM new_item WHERE id <= $rows) - sum(rows_copied) FROM _dualwrite.backfill"), '0', $name);
}

# With two there is room for our launcher and that of logical replication.  Each leaves the server up, with nobody knowing when the worker will be.
my %ways = (
	'pg_terminate_backend' => sub { $node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM ($worker) AS w"); },
	'SIGKILL of the worker' => sub {
		my ($pid) = @_;

		kill 'KILL', $pid;
		poll_through_crash($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)") or die 'still there';
	},
	'pg_ctl stop -m immediate' => sub {
		$node->stop('immediate');
		$node->start;
	},
	'a restart' => sub { $node->restart; },
	'an immediate stop with no worker afterwards' => sub {
		$node->stop('immediate');
		$node->append_conf('postgresql.conf', 'max_worker_processes = 2');
		$node->start;
	});

foreach my $way ('SIGKILL of the worker', 'pg_ctl stop -m immediate', 'pg_terminate_backend', 'SIGKILL of the worker',
	'an immediate stop with no worker afterwards', 'a restart', 'SIGKILL of the worker')
{
	$node->poll_query_until('postgres', "SELECT EXISTS ($worker) AND sum(rows_done) > " . done($node) . ' FROM _dualwrite.backfill')
		or die 'the backfill does not go on';
	my $pid = $node->safe_psql('postgres', $worker);
	my $reached = done($node);
	$ways{$way}->($pid);
	is_mirrored($node, "$way: a row written right afterwards is mirrored");
	cmp_ok(done($node), '>=', $reached - $batch, "$way: takes one batch back at most");
	adds_up($node, "$way: nothing is counted twice");
	if ($way eq 'an immediate stop with no worker afterwards')
	{
		is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dualwrite worker'}), '0', "$way: there is none indeed");
		$node->wait_for_log(qr/WARNING: .*no background worker slot is free for dualwrite.*\n.*HINT: .*max_worker_processes.*CALL dualwrite\.backfill/);
		pass("$way: the log says why, and how to go on");
		$node->append_conf('postgresql.conf', 'max_worker_processes = 20');
		$node->restart;
	}
}
is($node->safe_psql('postgres', 'SELECT bool_or(finished_at IS NULL) FROM _dualwrite.backfill'), 't', 'it is still under way');

# the standby has followed all this
my $reached = done($node);
$node->wait_for_catchup($standby);
my $streamed = done($standby);
cmp_ok($streamed, '>=', $reached - $batch, 'a standby that has caught up is one batch behind at most');
$node->stop('immediate');
$standby->promote;
is_mirrored($standby, 'promoted: a row written right afterwards is mirrored');
cmp_ok(done($standby), '>=', $streamed, 'promoted: nothing that had come is lost');
adds_up($standby, 'promoted: nothing is counted twice');
$standby->poll_query_until('postgres', "SELECT EXISTS ($worker) AND sum(rows_done) > $streamed FROM _dualwrite.backfill") or die 'it does not go on';
pass('promoted: it goes on');
$standby->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', NULL)});
$standby->poll_query_until('postgres', 'SELECT bool_and(finished_at IS NOT NULL) FROM _dualwrite.backfill') or die 'it does not end';
is($standby->safe_psql('postgres', 'SELECT sum(rows_copied) FROM _dualwrite.backfill'), $rows, 'after all that each row was copied once');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM old_item o FULL JOIN new_item n ON o = n WHERE o IS NULL OR n IS NULL'), '0', 'both sides agree');

$standby->stop;
unlike(slurp_file($node->logfile) . slurp_file($standby->logfile), qr/TRAP|PANIC|leak|deadlock/, 'nothing leaked');
done_testing();
