# What dualwrite.mirror_stats counts, with the library preloaded and without: every mirrored row of every session once, by mapping and
# direction, each database its own.  Where nothing is preloaded a session that has never written sees the same as one that has.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($clients, $transactions) = (4, 100);

# Six mirrored rows on each side that is written, some of them put off; of what is undone nothing; a failure in every tenth.
my $old_side = <<'PGBENCH';
\set k :base + :client_id * 1000000 + :n * 10
BEGIN;
INSERT INTO o VALUES (:k + 1, 'a', 1), (:k + 2, 'b', 1), (:k + 3, 'c', 1);
UPDATE o SET v = 'changed' WHERE id IN (:k + 1, :k + 2);
UPDATE o SET note = 1 WHERE id = :k + 1;
DELETE FROM o WHERE id = :k + 3;
SAVEPOINT s;
DELETE FROM o WHERE id IN (:k + 1, :k + 2);
ROLLBACK TO s;
COMMIT;
BEGIN;
INSERT INTO o VALUES (:k + 5, 'undone', 1);
ROLLBACK;
\if :n % 10 = 0
CALL attempt('INSERT INTO o VALUES (' || :k + 6 || ', ''bad'', 1)');
\endif
\set n :n + 1
PGBENCH
(my $new_side = $old_side) =~ s/INTO o VALUES/INTO n (id, v, w) VALUES/g;
$new_side =~ s/UPDATE o SET note/UPDATE n SET own/;
$new_side =~ s/(UPDATE|FROM) o/$1 n/g;
$new_side =~ s/\\if.*?\\endif\n//s;

my $scripts = 0;	# each with keys of its own

sub run_writers
{
	my ($node, $db, $script) = @_;
	my $file = $node->basedir . '/' . ++$scripts . '.sql';

	append_to_file($file, $script);
	return IPC::Run::start([ 'pgbench', '-n', '-c', $clients, '-t', $transactions, '-D', 'n=0', '-D', 'base=' . 10_000_000 * $scripts, '-f', $file, '-h', $node->host, '-p', $node->port, $db ],
		'>', \my $out, '2>', \my $err);
}

my $counts = q{SELECT string_agg(concat_ws(' ', migration, direction, inserts, updates, deletes, skipped, failed, queued), '; ' ORDER BY migration, direction) FROM dualwrite.mirror_stats};
my $n = $clients * $transactions;
my ($i, $u, $d, $f) = (3 * $n, 2 * $n, $n, $n / 10);

for my $preloaded (1, 0)
{
	my $what = $preloaded ? 'preloaded' : 'nothing preloaded';
	my $node = PostgreSQL::Test::Cluster->new($preloaded ? 'preloaded' : 'plain');

	$node->init;
	$node->append_conf('postgresql.conf', "max_prepared_transactions = 2\nmax_worker_processes = 20\n" . ($preloaded ? "shared_preload_libraries = 'dualwrite'" : ''));
	$node->start;
	# the same ids in each database, in another order
	for my $db (qw(one two))
	{
		$node->safe_psql('postgres', "CREATE DATABASE $db");
		$node->safe_psql($db, <<'SQL');
CREATE EXTENSION dualwrite;
CREATE TABLE o (id int PRIMARY KEY, v text, w int, note int);
CREATE TABLE n (w int, id bigint PRIMARY KEY, v text CHECK (v <> 'bad'), own int);
CREATE PROCEDURE attempt(statement text) LANGUAGE plpgsql AS $$ BEGIN EXECUTE statement; EXCEPTION WHEN check_violation THEN NULL; END $$;
SQL
		$node->safe_psql($db, "SELECT dualwrite.create_migration('m', 'o', 'n', reverse => '{\"note\": null}')");
		$node->safe_psql($db, "CALL dualwrite.run('m', 'verify')");
		is($node->safe_psql($db, $counts), 'm forward 0 0 0 0 0 0', "$what, $db: nothing yet");
	}
	my @writers = (run_writers($node, 'one', $old_side), run_writers($node, 'one', $old_side), run_writers($node, 'two', $old_side));
	ok($_->finish, "$what: writers") for @writers;
	my ($i2, $u2, $d2, $f2) = map { 2 * $_ } ($i, $u, $d, $f);
	is($node->safe_psql('one', $counts), "m forward $i2 $u2 $d2 " . 2 * $n . " $f2 0", "$what: every row of every session is counted once");
	is($node->safe_psql('two', $counts), "m forward $i $u $d $n $f 0", "$what: each database has its own");
	is($node->safe_psql('one', 'SELECT total_ms > 0 AND own_ms > 0 AND (p50_us IS NULL OR p50_us > 0 AND p99_us >= p50_us) FROM dualwrite.mirror_stats'), 't', "$what: and its times");
	is($node->safe_psql('one', 'SELECT p50_us > 0 AND own_p50_us > 0 FROM dualwrite.mirror_stats'), 't', "$what: with percentiles") if $preloaded;
	# a prepared transaction counts where it was made
	$node->safe_psql('two', "BEGIN; INSERT INTO o VALUES (-1, 'prepared', 1); PREPARE TRANSACTION 'x'");
	$node->safe_psql('two', "COMMIT PREPARED 'x'");
	is($node->safe_psql('two', 'SELECT inserts FROM dualwrite.mirror_stats'), $i + 1, "$what: a prepared transaction");
	# one migration's counters are set back, the other database's stay
	$node->safe_psql('one', "SELECT dualwrite.reset_stats('m')");
	is($node->safe_psql('one', $counts), 'm forward 0 0 0 0 0 0', "$what: set back");
	is($node->safe_psql('two', 'SELECT inserts FROM dualwrite.mirror_stats'), $i + 1, "$what: those of another database are not");
	# both directions at once
	$node->safe_psql('one', "CALL dualwrite.run('m', 'read_switch'); SELECT dualwrite.reset_stats('m')");
	@writers = (run_writers($node, 'one', $old_side), run_writers($node, 'one', $new_side));
	ok($_->finish, "$what: writers of both sides") for @writers;
	is($node->safe_psql('one', $counts), "m forward $i $u $d $n $f 0; m reverse $i $u $d $n 0 0", "$what: each direction has its own");
	is($node->safe_psql('one', 'SELECT count(*) FROM o FULL JOIN n USING (id) WHERE (o.v, o.w) IS DISTINCT FROM (n.v, n.w)'), '0', "$what: and both sides agree");
	# they are of this run of the server
	$node->restart;
	is($node->safe_psql('two', $counts), 'm forward 0 0 0 0 0 0', "$what: a restart begins anew");
	$node->safe_psql('two', 'UPDATE o SET w = 2 WHERE id = -1');
	is($node->safe_psql('two', $counts), 'm forward 0 1 0 0 0 0', "$what: and goes on");
	$node->stop;
	is(slurp_file($node->logfile) =~ /(leak.*|TRAP.*|no counters.*)/ ? $1 : '', '', "$what: nothing in the log");
}
done_testing();
