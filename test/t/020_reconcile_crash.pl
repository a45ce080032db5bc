# A comparison goes on where it was when the server crashed, and tells whoever listens what it has found.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 200000;
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'dualwrite'");
$node->start;

$node->safe_psql('postgres', qq{
	CREATE EXTENSION dualwrite;
	CREATE TABLE o (id int PRIMARY KEY, a text);
	CREATE TABLE n (id bigint PRIMARY KEY, a text);
	INSERT INTO o SELECT g, 'a' || g FROM generate_series(1, $rows) g;
	SELECT dualwrite.create_migration('m', 'o', 'n');
	SELECT dualwrite.configure('m', 'reconcile_chunk_ms', '1');
	SELECT dualwrite.configure('m', 'reconcile_workers', '2');
});
$node->safe_psql('postgres', q{CALL dualwrite.run('m', timeout => '10 min')});

my $idle = q{SELECT NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)};
my $begin = q{SELECT count(*) FROM dualwrite.reconcile('m', background => true)};
my $last = q{FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1};

$node->poll_query_until('postgres', $idle) or die 'the first comparison does not end';

# Crash in the middle of it, three times in one pass; it waits by itself where that is to be.
sub hold_at
{
	my ($compared) = @_;

	$node->safe_psql('postgres', qq{SELECT dualwrite.configure('m', 'throttle_query',
		'SELECT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL AND rows_compared >= $compared)')});
	return;
}

hold_at(0);
$node->safe_psql('postgres', $begin);
my $pass = $node->safe_psql('postgres', "SELECT id $last");
for my $seen (1, 2, 3)
{
	my $want = int($rows * $seen / 4);

	hold_at($want);
	$node->poll_query_until('postgres', "SELECT rows_compared >= $want AND throttled_by = '{throttle query}' $last") or die 'it does not get as far as that';
	is($node->safe_psql('postgres', "SELECT finished_at IS NULL $last"), 't', "under way before crash $seen");
	cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM _dualwrite.reconcile_range'), '>', 2 - $seen, 'ranges are left');
	$node->stop('immediate');
	$node->start;
}
$node->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'throttle_query', NULL)});
$node->poll_query_until('postgres', $idle) or die 'the comparison does not end';
is($node->safe_psql('postgres', "SELECT id, rows_compared, missing + extra + different $last"), "$pass|$rows|0",
	'the same pass has compared every row once');

# drift is told by the worker, in the log and to whoever listens
$node->safe_psql('postgres', q{
	ALTER TABLE n DISABLE TRIGGER USER;
	DELETE FROM n WHERE id = 77;
	ALTER TABLE n ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete",
		ENABLE ALWAYS TRIGGER "~dualwrite_flush", ENABLE ALWAYS TRIGGER "!dualwrite_truncate";
});
my $position = -s $node->logfile;
my $heard = $node->safe_psql('postgres', qq{
	LISTEN dualwrite;
	$begin;
	DO \$\$ BEGIN WHILE EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL) LOOP PERFORM pg_sleep(0.01); END LOOP; END \$\$;
	-- the end of a comparison is there to be seen a moment before its notification is sent; one of our own comes after it
	NOTIFY dualwrite, 'the end';
	SELECT 1;
});
like($heard, qr/Asynchronous notification "dualwrite" with payload "\{"alert": "drift", "migration": "m", .*"differing": 1, /,
	'a notification');
like(slurp_file($node->logfile, $position), qr/WARNING:  migration "m": 1 of $rows rows differ between public\.o and public\.n/, 'a warning in the log');

$node->stop;
done_testing();
