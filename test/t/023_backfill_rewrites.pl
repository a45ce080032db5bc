# What others do to the tables in the middle of a backfill: rewritten in every way, emptied, partitions that come and go.  The worker
# is stopped when it has copied something, then it is done, and then the worker goes on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
dualwrite.throttle_max_active_per_core = 0
allow_in_place_tablespaces = on
CONF
$node->start;
$node->safe_psql('postgres', $_) foreach 'CREATE EXTENSION dualwrite', q{CREATE TABLESPACE elsewhere LOCATION ''}, <<SQL;
CREATE TABLE old_row (id int PRIMARY KEY, v text, junk int);
CREATE TABLE new_row (id bigint PRIMARY KEY, v text);
CREATE INDEX new_v ON new_row (left(v, 10));
SELECT dualwrite.create_migration('plain', 'old_row', 'new_row');
CREATE TABLE old_part (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE old_part_1 PARTITION OF old_part FOR VALUES FROM (0) TO (5000);
CREATE TABLE old_part_2 PARTITION OF old_part FOR VALUES FROM (5000) TO (10000);
CREATE TABLE old_part_3 PARTITION OF old_part FOR VALUES FROM (10000) TO (15000);
CREATE TABLE new_part (id int PRIMARY KEY, v text);
SELECT dualwrite.create_migration('parts', 'old_part', 'new_part');
SQL

sub filled
{
	my ($table, $from, $to) = @_;

	return "INSERT INTO $table (id, v) SELECT g, repeat('x', 100) || g FROM generate_series($from, $to) AS g;";
}

# Up to the middle of the copy.
sub begin
{
	my ($migration, $condition) = @_;
	my $gate = "SELECT coalesce(($condition), false) FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id JOIN _dualwrite.migration g ON g.id = m.migration_id WHERE g.name = ''$migration''";

	$node->safe_psql('postgres', "SELECT dualwrite.configure('$migration', 'throttle_query', '$gate')");
	$node->safe_psql('postgres', "SELECT dualwrite.advance('$migration')") for 1 .. 3;
	$node->poll_query_until('postgres', q{
		SELECT sum(rows_done) > 0 AND '{"throttle query"}' = ANY (array_agg(throttled_by::text)) AND bool_or(finished_at IS NULL AND next_block < end_block)
		FROM _dualwrite.backfill}) or die "the backfill of $migration does not get to its middle";
}

# To the end of it, and back.
sub finish
{
	my ($migration, $old, $new, $name, $differ) = @_;

	$node->safe_psql('postgres', "SELECT dualwrite.configure('$migration', 'throttle_query', NULL)");
	ok($node->poll_query_until('postgres', "SELECT backfill_percent = 100 AND queued = 0 AND dead = 0 FROM dualwrite.status WHERE migration = '$migration'"), "$name: it ends");
	is($node->safe_psql('postgres', "SELECT count(*) FROM $old o FULL JOIN $new n USING (id) WHERE o.v IS DISTINCT FROM n.v"), $differ // '0', "$name: both sides agree");
	$node->safe_psql('postgres', "SELECT dualwrite.rollback('$migration', 'defined')");
}

# Each statement, and what it makes of the file that the old table is in.
foreach my $case (
	[ 'VACUUM FULL old_row', 'another' ],
	[ 'CLUSTER old_row USING old_row_pkey', 'another' ],
	[ 'ALTER TABLE old_row SET TABLESPACE elsewhere', 'another' ],
	[ 'ALTER TABLE old_row ALTER junk TYPE bigint', 'another' ],
	[ 'ALTER TABLE old_row ADD more double precision DEFAULT random()', 'another' ],
	[ 'ALTER TABLE old_row ADD cheap int DEFAULT 7', 'the same' ],
	[ 'TRUNCATE old_row; ' . filled('old_row', 1, 500), 'another' ],
	[ 'DELETE FROM old_row WHERE id > 100; VACUUM old_row', 'the same' ],
	[ 'VACUUM FULL new_row', 'the same' ],
	[ 'CLUSTER new_row USING new_row_pkey', 'the same' ],
	[ 'ALTER TABLE new_row SET TABLESPACE elsewhere', 'the same' ],
	[ 'REINDEX TABLE new_row', 'the same' ],
	[ 'DROP INDEX new_v; CREATE INDEX new_v ON new_row (v)', 'the same' ])
{
	my ($statement, $file) = @$case;

	$node->safe_psql('postgres', 'TRUNCATE old_row; TRUNCATE new_row; ' . filled('old_row', 1, 6000) . ' DELETE FROM old_row WHERE id % 3 = 0');
	begin('plain', 'sum(b.rows_done) > 0');
	my $before = $node->safe_psql('postgres', q{SELECT pg_relation_filenode('old_row')});
	$node->safe_psql('postgres', $_) foreach map { s/^\s+//r } split(/; /, $statement);
	is($node->safe_psql('postgres', "SELECT pg_relation_filenode('old_row') = $before"), $file eq 'another' ? 'f' : 't', "$statement: $file file");
	finish('plain', 'old_row', 'new_row', $statement);
}

# What is in the middle here: the first partition is copied, the second one is begun with.
foreach my $case (
	[ 'CREATE TABLE old_part_4 PARTITION OF old_part FOR VALUES FROM (15000) TO (20000); ' . filled('old_part', 15000, 15999), '0' ],
	[ 'ALTER TABLE old_part DETACH PARTITION old_part_4', '0' ],
	[ 'ALTER TABLE old_part ATTACH PARTITION old_part_4 FOR VALUES FROM (15000) TO (20000)', '0' ],
	[ 'ALTER TABLE old_part DETACH PARTITION old_part_4 CONCURRENTLY', '0' ],
	[ 'DROP TABLE old_part_3', '0' ],
	# its rows had been copied: they are for the comparison to find
	[ 'ALTER TABLE old_part DETACH PARTITION old_part_1', '4999' ],
	[ 'ALTER TABLE old_part ATTACH PARTITION old_part_1 FOR VALUES FROM (0) TO (5000)', '0', 100 ])
{
	my ($statement, $differ, $middle) = @$case;

	$node->safe_psql('postgres', 'TRUNCATE old_part; TRUNCATE new_part');
	foreach my $part (1, 2, 3, 4)
	{
		my $name = "old_part_$part";

		next if $node->safe_psql('postgres', "SELECT to_regclass('$name') IS NULL") eq 't';
		$node->safe_psql('postgres', "TRUNCATE $name; " . filled($name, $part * 5000 - ($part == 1 ? 4999 : 5000), $part * 5000 - 1));
	}
	begin('parts', 'sum(b.rows_done) > ' . ($middle // 5100));
	$node->safe_psql('postgres', $_) foreach map { s/^\s+//r } split(/; /, $statement);
	finish('parts', 'old_part', 'new_part', $statement, $differ);
}

$node->stop;
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|leak|dualwrite worker.*ERROR/, 'no worker failed, nothing leaked');
done_testing();
