# Three workers on one heap that is not partitioned: ended, killed and crashed, more of them and fewer, too few processes.
# Nothing is counted twice, and a crash takes no more than the last batch of each worker back.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Crash;

# enough for several minutes at this rate
my $rows = 400_000;
my $rate = 2_000;
# a batch is no more than a worker's share of a second of the limit, and a block that it ends with
my $batch = $rate / 3 + 300;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
restart_after_crash = on
wal_keep_size = 1GB
max_worker_processes = 20
dualwrite.throttle_max_active_per_core = 0
CONF
$node->start;
$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE old_item (id int PRIMARY KEY, v text);
INSERT INTO old_item SELECT g, repeat('x', 150) FROM generate_series(1, $rows) AS g;
CREATE TABLE new_item (LIKE old_item INCLUDING ALL);
SELECT dualwrite.create_migration('m', 'old_item', 'new_item');
SELECT dualwrite.configure('m', 'backfill_workers', '3');
SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '$rate');
SQL
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')}) for 1 .. 3;

sub is_at_work
{
	my ($server, $n, $name) = @_;

	ok($server->poll_query_until('postgres', qq{
		SELECT count(pid) = $n AND count(DISTINCT doing) = $n FROM dualwrite.workers WHERE role = 'backfill' AND doing LIKE 'old_item: block %'}), $name)
		or diag($server->safe_psql('postgres', 'TABLE dualwrite.workers'));
}

sub pids { return split(/\n/, $_[0]->safe_psql('postgres', q{SELECT pid FROM dualwrite.workers WHERE role = 'backfill' AND pid IS NOT NULL})); }

sub done { return $_[0]->safe_psql('postgres', 'SELECT sum(rows_done) FROM _dualwrite.backfill'); }

sub wait_beyond
{
	my ($server, $n) = @_;

	$server->poll_query_until('postgres', "SELECT sum(rows_done) > $n FROM _dualwrite.backfill") or die 'the backfill does not go on';
}

# What was committed is what was counted, at any moment.
sub adds_up
{
	my ($server, $name) = @_;

	is($server->safe_psql('postgres', q{
		SELECT (SELECT count(*) FROM new_item) - (SELECT sum(rows_copied) FROM _dualwrite.backfill),
			(SELECT sum(rows_done) - sum(rows_copied) FROM _dualwrite.backfill), (SELECT count(*) FROM _dualwrite.queue)}), '0|0|0', $name);
}

is_at_work($node, 3, 'three are at work on one heap');
adds_up($node, 'nothing is counted twice while three copy');
cmp_ok($node->safe_psql('postgres', q{
	SELECT sum(rows_done) - 3 * 16 * 60 <= (extract(epoch FROM clock_timestamp() - min(started_at)) + 1) * } . $rate . q{ FROM _dualwrite.backfill}),
	'eq', 't', 'the limit is one for all of them');

# ended by an administrator
my %before = map { $_ => 1 } pids($node);
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM dualwrite.workers WHERE pid IS NOT NULL});
$node->poll_query_until('postgres', 'SELECT count(pid) = 3 AND bool_and(pid <> ALL (ARRAY[' . join(',', keys %before) . "])) FROM dualwrite.workers")
	or die 'they do not come back';
is_at_work($node, 3, 'three others go on when all of them are ended');
adds_up($node, 'nothing is counted twice then');

# fewer, none, and more
$node->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'backfill_workers', '1')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM dualwrite.workers}), 'one goes on alone');
$node->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'backfill_workers', '3')});
is_at_work($node, 3, 'three again');
$node->safe_psql('postgres', q{SELECT dualwrite.pause('m')});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 AND bool_and(state = 'paused') FROM dualwrite.workers}) or die 'not paused';
my $paused = done($node);
$node->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'backfill_batch_ms', NULL)});
is(done($node), $paused, 'a pause stops all of them');
$node->safe_psql('postgres', q{SELECT dualwrite.resume('m')});
is_at_work($node, 3, 'and they go on');

# one killed, and the whole server with it
my ($victim) = pids($node);
my $reached = done($node);
kill 'KILL', $victim;
poll_through_crash($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $victim)") or die 'still there';
cmp_ok(done($node), '>=', $reached - 3 * $batch, 'a kill takes a batch of each worker back at most');
adds_up($node, 'nothing is counted twice after a kill');
is_at_work($node, 3, 'three are at work after a kill');

$reached = done($node);
$node->stop('immediate');
$node->start;
cmp_ok(done($node), '>=', $reached - 3 * $batch, 'so does a crash');
adds_up($node, 'nothing is counted twice after a crash');
is_at_work($node, 3, 'three are at work after a crash');

# rewritten under way: all of them begin again, together
my $file = $node->safe_psql('postgres', q{SELECT pg_relation_filenode('old_item')});
$node->safe_psql('postgres', q{SET lock_timeout = '10s'; VACUUM FULL old_item});
$node->poll_query_until('postgres', q{SELECT bool_and(relfilenode = pg_relation_filenode('old_item')) FROM _dualwrite.backfill}) or die 'not noticed';
is_at_work($node, 3, 'three walk the heap anew when it is rewritten');

# a standby takes over
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
is_at_work($standby, 3, 'three are at work on a promoted standby');
is($standby->safe_psql('postgres', 'SELECT (SELECT count(*) FROM new_item) = (SELECT sum(rows_copied) FROM _dualwrite.backfill)'), 't',
	'nothing is counted twice there');

# no room for three: it goes on with those that there are, and says so; a session may help
$standby->append_conf('postgresql.conf', "max_worker_processes = 4\n");	# ours, the launcher of logical replication and 2 workers
$standby->restart;
ok($standby->poll_query_until('postgres', q{SELECT count(pid) = 2 AND count(*) FILTER (WHERE state = 'no free process' AND role = 'backfill') = 1 FROM dualwrite.workers}),
	'where there is no process for a third, two are at work')
	or diag($standby->safe_psql('postgres', 'TABLE dualwrite.workers'));
$standby->wait_for_log(qr/WARNING: .*backfill of migration "m" goes on with 2 of 3 processes.*\n.*HINT: .*max_worker_processes/);
pass('the log says that there were too few');
$standby->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '0')});
my ($status, undef, $notices) = $standby->psql('postgres', q{CALL dualwrite.backfill('m')});
is($status, 0, 'a session copies beside them');
$standby->poll_query_until('postgres', 'SELECT bool_and(finished_at IS NOT NULL) FROM _dualwrite.backfill') or die 'it does not end';
is($standby->safe_psql('postgres', q{
	SELECT (SELECT count(*) FROM old_item o FULL JOIN new_item n ON o = n WHERE o IS NULL OR n IS NULL), (SELECT sum(rows_done) FROM _dualwrite.backfill)}),
	"0|$rows", 'both sides agree, and each row was counted once');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 1 FROM dualwrite.workers}), 'then one is enough');
$standby->stop;
unlike(slurp_file($node->logfile) . slurp_file($standby->logfile), qr/TRAP|PANIC|leak|deadlock/, 'nothing leaked, nobody was a deadlock victim');
done_testing();
