# Indexes that were taken away for a copy are built again whatever happens to the process that builds them, to the server, and to the
# database, while others go on writing; and no definition is lost.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Crash;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
restart_after_crash = on
max_worker_processes = 20
dualwrite.backfill_indexes = 'afterwards'
dualwrite.throttle_max_active_per_core = 0
dualwrite.throttle_max_lock_wait = '0'
CONF
$node->start;

# A build stands still for as long as a sequence says 1: what a table says would depend on the build's own snapshot.
sub set_up
{
	my ($database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, q{
		CREATE EXTENSION dualwrite;
		CREATE SEQUENCE hold MINVALUE 0 START 0;
		CREATE FUNCTION held(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog AS $$
		BEGIN
			IF EXISTS (SELECT FROM pg_stat_progress_create_index WHERE pid = pg_backend_pid()) THEN
				WHILE pg_sequence_last_value('public.hold') = 1 LOOP
					PERFORM pg_sleep(0.02);
				END LOOP;
			END IF;
			RETURN t;
		END
		$$;
		SELECT setval('hold', 1);
		CREATE TABLE old_item (id int PRIMARY KEY, v text, n int);
		INSERT INTO old_item SELECT g, 'v' || g, g % 7 FROM generate_series(1, 5000) AS g;
		CREATE TABLE new_item (LIKE old_item INCLUDING ALL) WITH (autovacuum_enabled = off);
		CREATE INDEX slow ON new_item (held(v));
		CREATE INDEX plain ON new_item (n) WHERE n > 2;
		COMMENT ON INDEX plain IS 'kept';
		SELECT dualwrite.create_migration('m', 'old_item', 'new_item');
	});
	$node->safe_psql($database, q{SELECT dualwrite.advance('m')}) for 1 .. 3;
}

my @building = q{SELECT i.state = 'building' AND NOT x.indisvalid FROM dualwrite.indexes i JOIN pg_index x ON x.indexrelid = to_regclass('slow')
	WHERE i.index_name = 'slow'};
my $builder = q{SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database()};
my $valid = q{SELECT string_agg(c.relname || ' ' || x.indisvalid || ' ' || coalesce(obj_description(c.oid, 'pg_class'), '-'), ', ' ORDER BY c.relname)
	FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = 'new_item'::regclass};
my $all = 'new_item_pkey true -, plain true kept, slow true -';
my $passed = q{SELECT bool_and(passed) FROM dualwrite.gates('m')};

set_up('one');
$node->poll_query_until('one', @building) or die 'nothing is built';

# ended by somebody: what is left is dropped, and it begins anew
my $pid = $node->safe_psql('one', $builder);
my $leftover = $node->safe_psql('one', q{SELECT 'slow'::regclass::oid});
$node->safe_psql('one', "SELECT pg_terminate_backend($pid)");
$node->poll_query_until('one', qq{SELECT i.state = 'building' AND x.indexrelid <> $leftover FROM dualwrite.indexes i
	JOIN pg_index x ON x.indexrelid = to_regclass('slow') WHERE i.index_name = 'slow'}) or die 'no other build after a terminated one';
isnt($node->safe_psql('one', $builder), $pid, 'a build that is terminated begins anew, in another process');

# cancelled by somebody: that is a failure to be shown, and to be tried again later
$node->safe_psql('one', q{SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index WHERE datname = current_database()});
$node->poll_query_until('one', q{SELECT state = 'failed' AND error LIKE '%canceling%' AND next_attempt_at > now() FROM dualwrite.indexes WHERE index_name = 'slow'})
	or die 'the failure does not show';
is($node->safe_psql('one', q{SELECT dualwrite.retry_indexes('m') > 0}), 't', 'a cancelled build is shown, and tried again on request');
$node->poll_query_until('one', @building) or die 'nothing is built';

# the queue goes on meanwhile, and so do writers
$node->safe_psql('one', q{UPDATE old_item SET v = 'written' WHERE id <= 10; DELETE FROM old_item WHERE id BETWEEN 11 AND 20; INSERT INTO old_item VALUES (6000, 'new', 3)});
is($node->safe_psql('one', q{SELECT count(*) FROM new_item WHERE v IN ('written', 'new')}), '11', 'nobody who writes waits for a build');

# killed, which takes the whole server down for a moment
$pid = $node->safe_psql('one', $builder);
$leftover = $node->safe_psql('one', q{SELECT 'slow'::regclass::oid});
kill 'KILL', $pid or die "could not kill $pid";
poll_through_crash($node, 'one', qq{SELECT i.state = 'building' AND x.indexrelid <> $leftover FROM dualwrite.indexes i
	JOIN pg_index x ON x.indexrelid = to_regclass('slow') WHERE i.index_name = 'slow'}) or die 'no other build after a crash';
pass('nor does it matter that it is killed');

# the whole server, at once
$leftover = $node->safe_psql('one', q{SELECT 'slow'::regclass::oid});
$node->stop('immediate');
$node->start;
$node->poll_query_until('one', qq{SELECT i.state = 'building' AND x.indexrelid <> $leftover FROM dualwrite.indexes i
	JOIN pg_index x ON x.indexrelid = to_regclass('slow') WHERE i.index_name = 'slow'}) or die 'no other build after a restart';
pass('or that the server stops');

# dumped while one is away: an index that is not valid is no part of a dump, its definition is
$node->safe_psql('postgres', 'CREATE DATABASE two');
my $dump = $node->basedir . '/one.dump';
command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('one') ], 'it is dumped');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('two'), $dump ], 'and restored');
is($node->safe_psql('two', q{SELECT string_agg(definition, ', ') FROM dualwrite.indexes WHERE state <> 'built'}),
	'CREATE INDEX slow ON public.new_item USING btree (public.held(v))', 'with what is owed');
$node->safe_psql('two', q{SELECT setval('hold', 0); SELECT dualwrite.resume('m')});
$node->poll_query_until('two', $passed) or die 'the restored migration does not get on';
is($node->safe_psql('two', $valid), $all, 'which is built there, once somebody says that it goes on');

# a database with a build under way can be dropped
$node->safe_psql('two', q{SELECT dualwrite.rollback('m', 'defined'); DROP INDEX slow; TRUNCATE new_item});
$node->safe_psql('two', 'CREATE INDEX slow ON new_item (held(v))');
$node->safe_psql('two', q{SELECT setval('hold', 1)});
$node->safe_psql('two', q{SELECT dualwrite.advance('m')}) for 1 .. 3;
$node->poll_query_until('two', @building) or die 'nothing is built';
is($node->psql('postgres', 'DROP DATABASE two'), 0, 'DROP DATABASE goes through while an index is built');

# writers of the same rows until it is done, and after
my $file = $node->basedir . '/writers.sql';
append_to_file($file, <<'PGBENCH');
\set id random(1, 6000)
UPDATE old_item SET v = 'v' || :id * 2, n = :id % 9 WHERE id = :id;
INSERT INTO old_item VALUES (:id, 'again', 5) ON CONFLICT DO NOTHING;
DELETE FROM old_item WHERE id = :id + 1;
PGBENCH
my $writers = IPC::Run::start([ 'pgbench', '-n', '-t', 300, '-c', 2, '-f', $file, '-h', $node->host, '-p', $node->port, 'one' ], '>', \my $out, '2>', \my $err);
$node->safe_psql('one', q{SELECT setval('hold', 0)});
$node->poll_query_until('one', $passed) or die 'it does not get on';
$writers->finish;
is($writers->result(0), 0, 'no writer got an error') or diag($err);
is($node->safe_psql('one', $valid), $all, 'all indexes are there');
is($node->safe_psql('one', q{SELECT count(*) FROM old_item o FULL JOIN new_item n USING (id) WHERE (o.v, o.n) IS DISTINCT FROM (n.v, n.n)}), '0', 'both sides agree');
is($node->safe_psql('one', q{SET enable_seqscan = off; SET enable_bitmapscan = off;
	SELECT count(*) FROM (SELECT id FROM new_item WHERE held(v) IS NOT NULL EXCEPT SELECT id FROM old_item) d}), '0', 'and the index leads to them');
is($node->safe_psql('one', q{SELECT dualwrite.advance('m')}), 'verify', 'on to verify');

# no process is free: the first one does it itself
$node->append_conf('postgresql.conf', 'dualwrite.max_workers = 1');
$node->reload;
set_up('three');
$node->safe_psql('three', q{SELECT setval('hold', 0)});
$node->safe_psql('one', q{SELECT dualwrite.rollback('m', 'defined')});
$node->poll_query_until('three', $passed) or die 'it does not get on with one process';
is($node->safe_psql('three', $valid), $all, 'one process is enough');

$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/TRAP|PANIC| leak/, 'nothing failed that must not');
done_testing();
