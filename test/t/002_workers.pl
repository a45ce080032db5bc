# Background work goes on whatever happens to its processes: on demand where nothing is preloaded, by itself where
# something is. It is in the way of nobody who drops a database or the extension.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Crash;

my $rows = 20000;

# A migration whose backfill is slow enough to be watched, and in it.
sub begin_backfill
{
	my ($node, $db) = @_;

	$node->safe_psql($db, qq{
		CREATE TABLE o (id int PRIMARY KEY, a text);
		CREATE TABLE n (id bigint PRIMARY KEY, a text);
		INSERT INTO o SELECT g, repeat('x', 200) FROM generate_series(1, $rows) g;
		CREATE EXTENSION dualwrite;
		SELECT dualwrite.create_migration('m', 'o', 'n');
		SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '100');
	});
	$node->safe_psql($db, q{SELECT dualwrite.advance('m')}) for 1 .. 3;
	return;
}

my $worker = q{SELECT pid FROM dualwrite.workers WHERE migration = 'm' AND pid IS NOT NULL};
my $copied = q{SELECT count(*) FROM n};

# Wait until the backfill has got beyond a number of rows; returns their number.
sub wait_beyond
{
	my ($node, $db, $n) = @_;

	$node->poll_query_until($db, qq{SELECT count(*) > $n FROM n}) or die 'backfill does not go on';
	return $node->safe_psql($db, $copied);
}

sub wait_worker
{
	my ($node, $db) = @_;

	$node->poll_query_until($db, qq{SELECT EXISTS ($worker)}) or die 'no worker';
	return $node->safe_psql($db, $worker);
}

# Take off the brake, and wait for the end.
sub finish_backfill
{
	my ($node, $db, $name) = @_;

	$node->safe_psql($db, q{SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '0')});
	$node->poll_query_until($db, q{SELECT backfill_percent = 100 FROM dualwrite.status WHERE migration = 'm'})
		or die 'backfill does not end';
	is($node->safe_psql($db, q{SELECT count(*) FROM o FULL JOIN n USING (id) WHERE (o.a = n.a) IS NOT TRUE}), '0', $name);
	return;
}

sub wait_gone
{
	my ($node, $type, $name) = @_;

	ok($node->poll_query_until('postgres',
		qq{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'dualwrite $type'}), $name);
	return;
}

# Nothing preloaded.
{
	my $node = PostgreSQL::Test::Cluster->new('plain');
	$node->init;
	$node->append_conf('postgresql.conf', "restart_after_crash = on\n");
	$node->start;
	begin_backfill($node, 'postgres');
	my $pid = wait_worker($node, 'postgres');
	# it has a place before it has a name
	ok($node->poll_query_until('postgres', qq{SELECT backend_type, application_name FROM pg_stat_activity WHERE pid = $pid}, 'dualwrite worker|dualwrite: m'),
		'a worker was started on demand');
	my $before = wait_beyond($node, 'postgres', 0);

	my $heard = $node->safe_psql('postgres', qq{
		LISTEN dualwrite;
		SELECT pg_terminate_backend($pid);
		DO \$\$
		BEGIN
			WHILE NOT EXISTS ($worker AND pid <> $pid AND state = 'running') LOOP
				PERFORM pg_sleep(0.05);
			END LOOP;
		END
		\$\$;
		SELECT 1;
	});
	pass('a terminated worker is followed by another one');
	like($heard, qr/"dualwrite" with payload "\{"alert": "worker_stopped", "migration": "m"\}"/, 'whoever listens is told');
	$before = wait_beyond($node, 'postgres', $before);

	my $other = wait_worker($node, 'postgres');
	kill 'KILL', $other;
	poll_through_crash($node, 'postgres', qq{SELECT EXISTS ($worker AND pid <> $other)}) or die 'no worker after the crash';
	pass('a crash is followed by another worker');
	cmp_ok($node->safe_psql('postgres', $copied), '>=', $before, 'nothing that was copied is lost');
	$before = wait_beyond($node, 'postgres', $before);

	$node->restart;
	$node->safe_psql('postgres', q{SELECT count(*) FROM dualwrite.workers});
	wait_worker($node, 'postgres');
	pass('after a restart the first session that loads the library brings the workers back');
	wait_beyond($node, 'postgres', $before);

	$node->safe_psql('postgres', q{SELECT dualwrite.pause('m')});
	$node->poll_query_until('postgres', q{SELECT state = 'paused' FROM dualwrite.workers}) or die 'not paused';
	pass('a worker stops when paused');
	$node->safe_psql('postgres', q{SELECT dualwrite.resume('m')});
	finish_backfill($node, 'postgres', 'the backfill is complete');

	$node->safe_psql('postgres', 'DROP EXTENSION dualwrite CASCADE');
	wait_gone($node, 'worker', 'the worker ends when the extension is dropped');
	wait_gone($node, 'launcher', 'so does the launcher when it has nothing left to do');

	$node->safe_psql('postgres', 'CREATE DATABASE doomed');
	begin_backfill($node, 'doomed');
	wait_beyond($node, 'doomed', 0);
	my ($status, undef, $stderr) = $node->psql('postgres', 'DROP DATABASE doomed');
	is($status, 0, "a database is dropped under its worker $stderr");
	wait_gone($node, 'launcher', 'nobody tries to work in it any more');

	$node->safe_psql('postgres', 'CREATE DATABASE doomed');
	begin_backfill($node, 'doomed');
	wait_worker($node, 'doomed');
	$node->safe_psql('postgres', 'ALTER DATABASE doomed RENAME TO renamed');
	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE renamed');
	my $reached = $node->safe_psql('renamed', $copied);
	wait_beyond($node, 'renamed', $reached);
	pass('a worker makes way to ALTER and CREATE DATABASE, and comes back');
	$node->safe_psql('postgres', 'DROP DATABASE renamed WITH (FORCE)');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'renamed'}), '0',
		'DROP DATABASE WITH (FORCE)');
	$node->safe_psql('postgres', 'DROP DATABASE copy');

	$node->append_conf('postgresql.conf', "max_worker_processes = 0\nmax_logical_replication_workers = 0\n");
	$node->restart;
	my (undef, undef, $warning) = $node->psql('postgres', q{
		CREATE EXTENSION dualwrite;
		DROP TABLE o, n;
		CREATE TABLE o (id int PRIMARY KEY);
		CREATE TABLE n (id int PRIMARY KEY);
		SELECT dualwrite.create_migration('m', 'o', 'n');
		SELECT dualwrite.configure('m', 'backfill_workers', '1');});
	like($warning, qr/WARNING: .*no background worker slot.*HINT: .*max_worker_processes/s,
		'a session is told that there is no room for workers');
	$node->stop;

	my $log = slurp_file($node->logfile);
	unlike($log, qr/FATAL: .*database \d+ does not exist/, 'no process is started into a database that is gone');
	cmp_ok(() = $log =~ /dualwrite worker.*exited with exit code [^0]/g, '<=', 5, 'no crash loop');
}

# Preloaded.
{
	my $node = PostgreSQL::Test::Cluster->new('preloaded');
	$node->init(allows_streaming => 1);
	$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'dualwrite'});
	$node->start;
	begin_backfill($node, 'postgres');
	my $before = wait_beyond($node, 'postgres', 0);

	$node->restart;
	$before = wait_beyond($node, 'postgres', $before);
	pass('a restart is followed by more backfill');

	$node->stop('immediate');
	$node->start;
	$before = wait_beyond($node, 'postgres', $before);
	pass('so is a crash');

	my $launcher = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dualwrite launcher'};
	my $launcher_pid = $node->safe_psql('postgres', $launcher);
	$node->safe_psql('postgres', qq{SELECT pg_terminate_backend($launcher_pid)});
	$node->poll_query_until('postgres', qq{SELECT EXISTS ($launcher AND pid <> $launcher_pid)}) or die 'no launcher';
	pass('a terminated launcher comes back');
	my $pid = wait_worker($node, 'postgres');
	$node->safe_psql('postgres', qq{SELECT pg_terminate_backend($pid)});
	$node->poll_query_until('postgres', qq{SELECT EXISTS ($worker AND pid <> $pid)}) or die 'no other worker';
	pass('and starts workers');

	$node->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby);
	is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'dualwrite%'}), '0',
		'nothing runs on a standby');
	$node->stop('immediate');
	$standby->promote;
	wait_worker($standby, 'postgres');
	finish_backfill($standby, 'postgres', 'a promoted standby completes the backfill');

	$standby->safe_psql('postgres', 'CREATE DATABASE doomed');
	begin_backfill($standby, 'doomed');
	wait_beyond($standby, 'doomed', 0);
	$standby->safe_psql('postgres', 'DROP DATABASE doomed');
	pass('a database is dropped under its worker');
	$standby->stop;
}

done_testing();
