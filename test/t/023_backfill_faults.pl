# A backfill that cannot go on, or may not, or has too much to do: errors that repeat, rows that all fail, settings changed in the
# configuration file, writers who never stop, and a session that copies by itself.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
max_worker_processes = 20
dualwrite.throttle_max_active_per_core = 0
dualwrite.throttle_max_lock_wait = 0
log_line_prefix = '%n %b: '
log_statement = none
CONF
$node->start;
$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE trouble (kind text);
-- immutable only in name: it does what the table says
CREATE FUNCTION value_of(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS \$\$
BEGIN
	IF EXISTS (SELECT FROM public.trouble WHERE kind = 'disk full') THEN
		RAISE disk_full USING MESSAGE = 'the disk is full, let us say';
	ELSIF EXISTS (SELECT FROM public.trouble WHERE kind = 'refuse') THEN
		RAISE EXCEPTION 'this value is refused';
	ELSIF EXISTS (SELECT FROM public.trouble WHERE kind = 'slow') THEN
		PERFORM pg_catalog.pg_sleep(0.001);
	END IF;
	RETURN v;
END \$\$;
SQL

sub migration
{
	my ($name, $rows, $settings) = @_;

	$node->safe_psql('postgres', <<SQL);
CREATE TABLE old_$name (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
INSERT INTO old_$name SELECT g, 'v' || g FROM generate_series(1, $rows) AS g;
CREATE TABLE new_$name (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('$name', 'old_$name', 'new_$name', '{"v": "public.value_of(v)"}', '{"v": "v"}');
SQL
	$node->safe_psql('postgres', "SELECT dualwrite.configure('$name', '$_', '$settings->{$_}')") foreach keys %$settings;
	$node->safe_psql('postgres', "SELECT dualwrite.advance('$name')") for 1 .. 3;
}

sub trouble { $node->safe_psql('postgres', "TRUNCATE trouble; INSERT INTO trouble VALUES ('$_[0]')"); }

sub wait_for
{
	my ($query, $what) = @_;

	ok($node->poll_query_until('postgres', $query), $what) or diag($node->safe_psql('postgres', 'TABLE dualwrite.workers; TABLE dualwrite.progress'));
}

sub ends
{
	my ($name) = @_;

	wait_for("SELECT backfill_percent = 100 AND queued = 0 FROM dualwrite.status WHERE migration = '$name'", "$name: it ends");
	is($node->safe_psql('postgres', "SELECT count(*) FROM old_$name o FULL JOIN new_$name n ON o = n WHERE o IS NULL OR n IS NULL"), '0', "$name: both sides agree");
}

# An error that says nothing about a row comes again with every attempt: each waits for twice as long as the one before, it is shown,
# the mirror goes on, and when the cause is gone so does the copy.
trouble('disk full');
migration('full', 3000, {});
wait_for(q{SELECT state = 'failing' AND last_error LIKE 'the disk is full%' FROM dualwrite.workers WHERE migration = 'full'}, 'full: the error is shown');
is($node->safe_psql('postgres', q{TRUNCATE trouble; INSERT INTO old_full VALUES (5000, 'written'); SELECT v FROM new_full WHERE id = 5000;
	INSERT INTO trouble VALUES ('disk full')}), 'written', 'full: the mirror goes on');
my $failed = qr/^(\d+\.\d+) dualwrite worker: ERROR:  the disk is full/m;
my @at;
foreach (1 .. 1200)
{
	@at = slurp_file($node->logfile) =~ /$failed/g;
	last if @at >= 4;
	usleep(100_000);
}
cmp_ok($at[$_] - $at[ $_ - 1 ], '>=', 0.95 * 2**($_ - 1), "full: attempt $_ has waited") foreach 1 .. 3;
$node->restart;
$node->safe_psql('postgres', 'TRUNCATE trouble');
ends('full');
wait_for(q{SELECT count(*) = 1 AND bool_and(last_error IS NULL) FROM dualwrite.workers WHERE migration = 'full'}, 'full: the error is forgotten, even one of a process before this one');
is($node->safe_psql('postgres', q{SELECT dualwrite.rollback('full', 'defined')}), 'defined', 'full: done');

# Every row fails: all of them are queued with their reason, the copy ends, and the log says so in a few lines, not in thousands.
trouble('refuse');
my $before = () = slurp_file($node->logfile) =~ /\n/g;
migration('refused', 3000, { queue_max_attempts => 1 });
wait_for(q{SELECT backfill_percent = 100 AND dead = 3000 FROM dualwrite.status WHERE migration = 'refused'}, 'refused: the copy ends, all keys are dead letters');
is($node->safe_psql('postgres', q{SELECT count(*), min(message), max(sqlstate) FROM dualwrite.dead_letters}), '3000|this value is refused|P0001', 'refused: with their reason');
my $after = () = slurp_file($node->logfile) =~ /\n/g;
cmp_ok($after - $before, '<', 200, 'refused: the log has a few lines about it');
like(slurp_file($node->logfile), qr/WARNING:  migration "refused": key .* could not be brought to agreement.*\n.*DETAIL:  The last error was: this value is refused/, 'refused: among them the first');
$node->safe_psql('postgres', q{TRUNCATE trouble; SELECT dualwrite.retry('refused')});
ends('refused');
$node->safe_psql('postgres', q{SELECT dualwrite.rollback('refused', 'defined')});

# At full speed, with no pause between batches: what the configuration file says counts from the next batch on.
trouble('slow');
migration('fast', 30_000, {});
wait_for('SELECT sum(rows_done) > 0 FROM _dualwrite.backfill', 'fast: under way');
$node->safe_psql('postgres', q{ALTER SYSTEM SET dualwrite.throttle_query = 'SELECT true'});
$node->reload;
wait_for(q{SELECT throttled_by = '{"throttle query"}' FROM dualwrite.progress WHERE migration = 'fast'}, 'fast: a setting of the server is noticed');
is($node->safe_psql('postgres', 'SELECT bool_or(finished_at IS NULL) FROM _dualwrite.backfill'), 't', 'fast: in the middle of it');
$node->safe_psql('postgres', 'TRUNCATE trouble');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET dualwrite.throttle_query');
$node->reload;
ends('fast');
$node->safe_psql('postgres', q{SELECT dualwrite.rollback('fast', 'defined')});

# Writers who insert and update faster than it may copy: it ends all the same, since it owes only what was there when it began.
# Many small batches meanwhile, and the extension's own tables stay small: nearly all updates of them are HOT.
migration('endless', 30_000, { backfill_max_rows_per_second => 3000, backfill_batch_ms => 1 });
my $writer = $node->basedir . '/writer.sql';
append_to_file($writer, <<'PGBENCH');
\set id random(1, 30000)
INSERT INTO old_endless SELECT nextval('more'), 'more' FROM generate_series(1, 100);
UPDATE old_endless SET v = 'updated' WHERE id = :id;
PGBENCH
$node->safe_psql('postgres', 'CREATE SEQUENCE more START 100000');
my $writers = IPC::Run::start([ 'pgbench', '-n', '-T', '600', '-c', 2, '-f', $writer, '-h', $node->host, '-p', $node->port, 'postgres' ], '>', \my $out, '2>', \my $err);
wait_for('SELECT bool_and(finished_at IS NOT NULL) FROM _dualwrite.backfill', 'endless: it ends while they go on');
$writers->pump_nb;
ok($writers->pumpable, 'endless: indeed they do');
$writers->signal('TERM');
$writers->finish;
is($node->safe_psql('postgres', q{SELECT pg_relation_size('old_endless') / current_setting('block_size')::int > sum(end_block) FROM _dualwrite.backfill}), 't', 'endless: beyond what it had to copy');
unlike($err, qr/ERROR|FATAL/, 'endless: no error of theirs');
ends('endless');
wait_for(q{SELECT n_tup_upd > 100 AND n_tup_hot_upd >= 0.9 * n_tup_upd FROM pg_stat_all_tables WHERE relid = '_dualwrite.backfill'::regclass},
	'endless: the table of progress is updated in place')
	or diag($node->safe_psql('postgres', q{SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_all_tables WHERE relid = '_dualwrite.backfill'::regclass}));
cmp_ok($node->safe_psql('postgres', q{SELECT pg_relation_size('_dualwrite.backfill') / current_setting('block_size')::int}), '<=', 20, 'endless: and stays small');
$node->safe_psql('postgres', q{SELECT dualwrite.rollback('endless', 'defined')});

# Several workers, a table that references another one: none of them begins with it before all of them are through with the other.
$node->safe_psql('postgres', <<SQL);
CREATE TABLE old_child (id int PRIMARY KEY, v int);
CREATE TABLE old_parent (id int PRIMARY KEY, v int);
INSERT INTO old_child SELECT g, 1 + g % 20000 FROM generate_series(1, 20000) AS g;
INSERT INTO old_parent SELECT g, g FROM generate_series(1, 120000) AS g;
CREATE TABLE new_parent (LIKE old_parent INCLUDING ALL);
CREATE TABLE new_child (id int PRIMARY KEY, v int REFERENCES new_parent);
SELECT dualwrite.create_migration('family', 'old_child', 'new_child');
SELECT dualwrite.add_mapping('family', 'old_parent', 'new_parent', '{}', '{}', NULL, NULL);
SELECT dualwrite.configure('family', 'backfill_workers', '2');
SELECT dualwrite.configure('family', 'backfill_max_rows_per_second', '2000');
SQL
$node->safe_psql('postgres', q{SELECT dualwrite.advance('family')}) for 1 .. 3;
wait_for(q{SELECT count(pid) = 2 AND bool_and(doing LIKE 'old_parent: block %') AND (SELECT bool_and(heap = 'old_parent'::regclass OR rows_done = 0) FROM _dualwrite.backfill)
	FROM dualwrite.workers WHERE migration = 'family'}, 'family: two copy the parent, and nobody its child');
$node->safe_psql('postgres', q{SELECT dualwrite.configure('family', 'backfill_max_rows_per_second', NULL)});
wait_for(q{SELECT backfill_percent = 100 AND queued = 0 AND dead = 0 FROM dualwrite.status WHERE migration = 'family'}, 'family: both are copied');
is($node->safe_psql('postgres', q{SELECT sum(rows_queued), sum(rows_copied) FROM _dualwrite.backfill}), '0|140000', 'family: and no child was without its parent');
$node->safe_psql('postgres', q{SELECT dualwrite.rollback('family', 'defined')});

# A session of one's own holds no snapshot between batches, either.
$node->safe_psql('postgres', q{CREATE TABLE own_old (id int PRIMARY KEY, v text); INSERT INTO own_old SELECT g, 'v' FROM generate_series(1, 30000) AS g;
	CREATE TABLE own_new (LIKE own_old INCLUDING ALL);
	SELECT dualwrite.create_migration('own', 'own_old', 'own_new');
	SELECT dualwrite.configure('own', 'backfill_max_rows_per_second', '1000');
	SELECT dualwrite.pause('own')});
$node->safe_psql('postgres', q{SELECT dualwrite.advance('own')}) for 1 .. 3;
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_until(qr/started/, "\\echo started\nCALL dualwrite.backfill('own');\n");
foreach my $statement ('CREATE INDEX CONCURRENTLY own_v ON own_old (v)', 'CREATE INDEX CONCURRENTLY own_new_v ON own_new (v)', 'VACUUM own_old',
	q{SET lock_timeout = '5s'; ALTER TABLE own_old ALTER v SET STATISTICS 50})
{
	is($node->psql('postgres', $statement), 0, "own: $statement goes through");
}
is($node->safe_psql('postgres', q{SELECT bool_or(finished_at IS NULL), sum(rows_done) > 0 FROM _dualwrite.backfill}), 't|t', 'own: while it is under way');
$node->safe_psql('postgres', q{SELECT dualwrite.configure('own', 'backfill_max_rows_per_second', NULL)});
wait_for('SELECT bool_and(finished_at IS NOT NULL) FROM _dualwrite.backfill', 'own: a setting is noticed, and it ends');
$session->quit;

$node->stop;
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|leak|deadlock detected/, 'nothing leaked');
done_testing();
