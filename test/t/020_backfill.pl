# Random writers, at two isolation levels, while history is copied by a worker that is ended, crashes and is started again.
# In the end a plain FULL JOIN finds no difference, no writer has seen an error that it did not earn, and no row that a
# writer was told is committed is missing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Crash;

my $rows = 200_000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
restart_after_crash = on
max_worker_processes = 20
deadlock_timeout = '200ms'
dualwrite.backfill_batch_ms = 40
dualwrite.throttle_max_active_per_core = 0
dualwrite.queue_backoff = '50ms'
log_statement = none
CONF
$node->start;

# For a number of seconds, whatever happens, run a script of random writes in a number of sessions.  Each finds its rows in the order
# of the key, so that two of them that write the same rows do not make a deadlock of their own.
sub writers
{
	my ($seconds, $isolation, $script) = @_;
	my $file = $node->basedir . "/$isolation.sql";
	append_to_file($file, $script) unless -e $file;
	local $ENV{PGOPTIONS} = '-c enable_bitmapscan=off -c enable_seqscan=off';
	return IPC::Run::start(
		[ 'pgbench', '-n', '-T', $seconds, '-c', 3, '-j', 1, '--max-tries=1000000', '-f', $file,
			'-h', $node->host, '-p', $node->port, 'postgres' ],
		'>', \my $out, '2>', \my $err);
}

my $script = <<'PGBENCH';
\set op random(1, 12)
\set id random(1, 250000)
\set other random(1, 250000)
\set near random(1, 60)
BEGIN ISOLATION LEVEL :isolation;
\if :op <= 3
UPDATE old_item SET label = 'label ' || :other, price = :other / 100.0 WHERE id = :id;
\elif :op = 4
UPDATE old_item SET junk = :other WHERE id = :id;
\elif :op = 5
DELETE FROM old_item WHERE id = :id;
\elif :op = 6
INSERT INTO old_item (id, label, price) VALUES (:id, 'inserted', 1) ON CONFLICT (id) DO UPDATE SET label = 'upserted';
\elif :op = 7
UPDATE old_item SET id = 250000 + :other WHERE id = :id AND NOT EXISTS (SELECT FROM old_item WHERE id = 250000 + :other);
\elif :op = 8
SAVEPOINT a;
DELETE FROM old_item WHERE id BETWEEN :id AND :id + 20;
ROLLBACK TO a;
UPDATE old_item SET label = label || '.' WHERE id = :id;
\elif :op = 9
UPDATE old_item SET price = price + 1 WHERE id BETWEEN :id AND :id + :near;
\elif :op = 10
DELETE FROM old_item WHERE id BETWEEN :id AND :id + :near / 4;
\elif :op = 11
SELECT id FROM old_item WHERE id = :id FOR UPDATE;
UPDATE old_item SET label = 'locked first' WHERE id = :id;
\else
DELETE FROM old_item WHERE id = :id;
INSERT INTO old_item (id, label, price) VALUES (:id, 'reborn', 2) ON CONFLICT DO NOTHING;
\endif
\if :op % 4 = 0
ROLLBACK;
\else
COMMIT;
\endif
PGBENCH

$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE old_item (id int PRIMARY KEY, label text NOT NULL, price numeric, junk int) WITH (fillfactor = 90);
INSERT INTO old_item SELECT g, 'label ' || g, g / 100.0 FROM generate_series(1, $rows) AS g;
CREATE TABLE new_item (name text NOT NULL, id bigint PRIMARY KEY, cents bigint, fresh timestamptz DEFAULT now()) PARTITION BY HASH (id);
CREATE TABLE new_item_0 PARTITION OF new_item FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE new_item_1 PARTITION OF new_item FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE new_item_2 PARTITION OF new_item FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE INDEX ON new_item (name);
SELECT dualwrite.create_migration('items', 'old_item', 'new_item', '{"name": "label", "cents": "(price * 100)::bigint"}',
	'{"price": "cents / 100.0"}');
SQL
$node->safe_psql('postgres', q{SELECT dualwrite.advance('items')}) for 1 .. 2;

my @worker = ('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dualwrite worker'});
my $copied = q{SELECT coalesce(sum(next_block), 0) FROM _dualwrite.backfill};

my @writers = map { writers(15, $_->[0], $script =~ s/:isolation/$_->[1]/r) }
	([ 'committed', 'READ COMMITTED' ], [ 'repeatable', 'REPEATABLE READ' ]);
$node->safe_psql('postgres', q{SELECT dualwrite.configure('items', 'backfill_max_rows_per_second', '8000')});
$node->safe_psql('postgres', q{SELECT dualwrite.advance('items')});

# ended by an administrator, twice
for my $share (5, 15)
{
	$node->poll_query_until('postgres', "SELECT sum(next_block) * 100 >= sum(end_block) * $share FROM _dualwrite.backfill")
		or die 'the backfill does not get on';
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dualwrite worker'});
}
$node->poll_query_until('postgres', 'SELECT sum(next_block) * 100 >= sum(end_block) * 25 FROM _dualwrite.backfill') or die;
pass('a worker that is ended is started again, and goes on');

# rewritten under way: the heap is walked anew
$node->psql('postgres', q{SET lock_timeout = '5s'; CLUSTER old_item USING old_item_pkey});
is($node->safe_psql('postgres', q{SELECT count(*) FROM _dualwrite.backfill WHERE finished_at IS NOT NULL}), '0', 'it is still under way');
$node->poll_query_until('postgres', q{SELECT b.relfilenode = c.relfilenode AND next_block > 0 FROM _dualwrite.backfill b JOIN pg_class c ON c.oid = b.heap})
	or die 'the rewritten heap is not walked';
$_->finish for @writers;
is(join(' ', map { $_->result(0) } @writers), '0 0', 'no writer got an error');

# writers again, now through a crash
@writers = map { writers(8, $_->[0], $script) } ([ 'committed' ], [ 'repeatable' ]);
$node->poll_query_until('postgres', 'SELECT sum(next_block) * 100 >= sum(end_block) * 40 FROM _dualwrite.backfill') or die;
my $before = $node->safe_psql('postgres', $copied);
is($node->safe_psql('postgres', q{SELECT count(*) FROM _dualwrite.backfill WHERE finished_at IS NOT NULL}), '0', 'it is still under way');
my $pid = $node->safe_psql(@worker);
kill 'KILL', $pid or die "could not kill worker $pid";
# the writers lose their connections when the server notices, and not before: only then is it worth asking
$_->finish for @writers;
wait_for_server($node);
cmp_ok($node->safe_psql('postgres', $copied), '>=', $before, 'a crash loses no progress');

# writers until it is done
$node->safe_psql('postgres', q{SELECT dualwrite.configure('items', 'backfill_max_rows_per_second', NULL)});
@writers = map { writers(6, $_->[0], $script) } ([ 'committed' ], [ 'repeatable' ]);
$node->poll_query_until('postgres', q{SELECT bool_and(finished_at IS NOT NULL) FROM _dualwrite.backfill})
	or die 'the backfill does not end';
$_->finish for @writers;
is(join(' ', map { $_->result(0) } @writers), '0 0', 'no writer got an error');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM _dualwrite.queue}) or diag('the queue does not drain');
is($node->safe_psql('postgres', q{SELECT count(*) FROM _dualwrite.queue}), '0', 'the queue is empty');

is($node->safe_psql('postgres', q{
	SELECT count(*), min(o.id), min(n.id) FROM old_item o FULL JOIN new_item n USING (id)
	WHERE (o.label, (o.price * 100)::bigint) IS DISTINCT FROM (n.name, n.cents) OR o.id IS NULL OR n.id IS NULL}),
	'0||', 'a FULL JOIN finds no difference');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM new_item'), '>', $rows / 10, 'in a table that is not empty');
diag($node->safe_psql('postgres', q{SELECT format('%s rows read, %s copied, %s queued', rows_done, rows_copied, rows_queued) FROM _dualwrite.backfill}));

$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/deadlock detected/, 'nobody was a deadlock victim');
unlike($log, qr/TRAP|PANIC|leak/, 'and nothing leaked');
done_testing();
