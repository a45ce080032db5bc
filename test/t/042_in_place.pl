# Columns that move inside one table while two applications write it, one that knows only the old columns and one that knows
# only the new: over a crash in the middle of the backfill, up to cutover and back.  Every write puts a line into a book in
# its own transaction, so that in the end plain SQL can tell whether one was lost.  Then a subscriber, whose publisher knows
# nothing of the new columns.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 40_000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
restart_after_crash = on
max_worker_processes = 20
deadlock_timeout = '200ms'
dualwrite.backfill_batch_ms = 30
dualwrite.throttle_max_active_per_core = 0
dualwrite.queue_backoff = '50ms'
CONF
$node->start;
$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, label text NOT NULL, other int NOT NULL DEFAULT 0) WITH (fillfactor = 80);
INSERT INTO item SELECT g, 0, 'label ' || g FROM generate_series(1, $rows) AS g;
CREATE TABLE book (id int NOT NULL, change int NOT NULL);
ALTER TABLE item ADD doubled bigint, ADD title text;
CREATE INDEX ON item (title);
SELECT dualwrite.create_migration('m', 'item', 'item', '{"doubled": "n * 2", "title": "upper(label)"}', '{"n": "(doubled / 2)::int", "label": "lower(title)"}');
SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '8000');
SQL

# Both change the same rows often: half of all writes are to a hundredth of them.
my $common = <<PGBENCH;
\\set op random(1, 10)
\\set id random(1, CASE WHEN :op % 2 = 0 THEN $rows ELSE $rows / 100 END)
\\set fresh random($rows + 1, $rows * 20)
BEGIN ISOLATION LEVEL :isolation;
PGBENCH
my %application = (
	old => <<'PGBENCH',
\if :op <= 5
UPDATE item SET n = n + 1, label = 'old ' || :op WHERE id = :id;
INSERT INTO book SELECT id, 1 FROM item WHERE id = :id;
\elif :op <= 7
UPDATE item SET other = other + 1 WHERE id = :id;
\elif :op = 8
INSERT INTO item (id, n, label) VALUES (:fresh, 1, 'fresh') ON CONFLICT (id) DO UPDATE SET n = item.n + 1;
INSERT INTO book VALUES (:fresh, 1);
\elif :op = 9
SAVEPOINT s;
UPDATE item SET n = n + 100 WHERE id = :id;
ROLLBACK TO s;
SELECT FROM item WHERE id = :id FOR UPDATE;
\else
INSERT INTO book SELECT id, -n FROM item WHERE id = :id FOR UPDATE;
DELETE FROM item WHERE id = :id;
\endif
COMMIT;
PGBENCH
	new => <<'PGBENCH');
\if :op <= 6
UPDATE item SET doubled = doubled + 2, title = 'NEW ' || :op WHERE id = :id;
INSERT INTO book SELECT id, 1 FROM item WHERE id = :id;
\elif :op <= 8
INSERT INTO item (id, doubled, title) VALUES (:fresh, 2, 'FRESH') ON CONFLICT (id) DO UPDATE SET doubled = item.doubled + 2;
INSERT INTO book VALUES (:fresh, 1);
\else
SELECT FROM item WHERE id = :id FOR NO KEY UPDATE;
\endif
COMMIT;
PGBENCH

# Write for a number of seconds; an application at each of two isolation levels.
sub writers
{
	my ($seconds, $name) = @_;
	my @runs;
	for my $isolation ('READ COMMITTED', 'REPEATABLE READ')
	{
		my $file = $node->basedir . "/$name-" . lc($isolation =~ s/ /_/r) . '.sql';
		append_to_file($file, ($common . $application{$name}) =~ s/:isolation/$isolation/r) unless -e $file;
		my $log = '';
		push @runs, [ IPC::Run::start(
				[ 'pgbench', '-n', '-T', $seconds, '-c', 2, '-j', 1, '--max-tries=1000000', '-f', $file,
					'-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$log, '2>&1'), \$log ];
	}
	return @runs;
}

sub errors_of
{
	my @runs = @_;
	my $errors = '';
	for (@runs)
	{
		$_->[0]->finish;
		$errors .= ${ $_->[1] } if $? != 0 || ${ $_->[1] } =~ /ERROR/;
	}
	return $errors;
}

sub sides_agree
{
	my ($what) = @_;
	is( $node->safe_psql('postgres', q{SELECT count(*) FROM item WHERE doubled IS DISTINCT FROM n * 2 OR title IS DISTINCT FROM upper(label)}),
		0, "$what: both sides agree in every row");
	is( $node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT id, n FROM item WHERE n <> 0 EXCEPT ALL
			SELECT id, sum(change) FROM book GROUP BY id HAVING sum(change) <> 0) AS x}), 0, "$what: no write was lost");
	is( $node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT id, sum(change) FROM book GROUP BY id HAVING sum(change) <> 0
			EXCEPT ALL SELECT id, n FROM item WHERE n <> 0) AS x}), 0, "$what: and none was made up");
	return;
}

$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')}) for 1 .. 2;
my @runs = writers(30, 'old');
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')});
$node->poll_query_until('postgres', 'SELECT sum(next_block) * 100 >= sum(end_block) * 30 FROM _dualwrite.backfill')
	or die 'the backfill does not get on';
$node->stop('immediate');
$_->[0]->finish for @runs;
$node->start;
ok($node->safe_psql('postgres', 'SELECT sum(next_block) * 100 >= sum(end_block) * 10 FROM _dualwrite.backfill') eq 't',
	'after a crash the backfill goes on where it was');
@runs = writers(8, 'old');
$node->poll_query_until('postgres', q{SELECT backfill_percent = 100 FROM dualwrite.status}) or die 'the backfill does not end';
is(errors_of(@runs), '', 'no writer saw an error that it did not earn');
$node->safe_psql('postgres', q{CALL dualwrite.run('m', 'verify', '10 min')});
sides_agree('backfill');
is($node->safe_psql('postgres', 'SELECT count(*) FROM dualwrite.dead_letters'), 0, 'no dead letter');

# both applications, up to cutover and back
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')});
@runs = (writers(8, 'old'), writers(8, 'new'));
$node->safe_psql('postgres', q{SELECT dualwrite.set_read_percent('m', 100); CALL dualwrite.wait('m', '10 min')});
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')});
$node->safe_psql('postgres', q{SELECT dualwrite.rollback('m')});
$node->safe_psql('postgres', q{SELECT dualwrite.resume('m'); SELECT dualwrite.set_read_percent('m', 100); CALL dualwrite.wait('m', '10 min')});
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')});
is(errors_of(@runs), '', 'neither application saw an error');
sides_agree('cutover');
is($node->safe_psql('postgres', q{SELECT different FROM dualwrite.reconcile('m')}), 0, 'and the comparison says so, too');

# a subscriber
my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->start;
$publisher->safe_psql('postgres', <<SQL);
CREATE TABLE replicated (id int PRIMARY KEY, status text NOT NULL);
INSERT INTO replicated SELECT g, 'before' FROM generate_series(1, 100) AS g;
CREATE PUBLICATION p FOR TABLE replicated;
SQL
$node->safe_psql('postgres', <<SQL);
CREATE TABLE replicated (id int PRIMARY KEY, status text NOT NULL, state text);
SELECT dualwrite.create_migration('r', 'replicated', 'replicated', '{"state": "upper(status)"}', '{"status": "lower(state)"}');
SELECT dualwrite.advance('r');
SQL
$node->safe_psql('postgres', q{SELECT dualwrite.advance('r')});
my $connection = $publisher->connstr . ' dbname=postgres';
$node->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$connection' PUBLICATION p");
$node->wait_for_subscription_sync($publisher, 's');
$publisher->safe_psql('postgres', <<SQL);
UPDATE replicated SET status = 'after' WHERE id % 2 = 0;
INSERT INTO replicated VALUES (101, 'inserted');
DELETE FROM replicated WHERE id = 1;
SQL
$publisher->wait_for_catchup('s');
is($node->safe_psql('postgres', q{SELECT count(*), count(*) FILTER (WHERE state = upper(status)), count(*) FILTER (WHERE state = 'AFTER') FROM replicated}),
	'100|100|50', 'logical apply is followed');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION s');
$publisher->stop;
$node->stop;
done_testing();
