# What is queued is dumped: a write of the new side that has not come back yet is not lost by a restore and a rollback.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'dualwrite'");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION dualwrite;
	CREATE TABLE o (id int PRIMARY KEY, v text);
	CREATE TABLE n (id bigint PRIMARY KEY, v text);
	INSERT INTO o SELECT g, 'v' FROM generate_series(1, 100) AS g;
	SELECT dualwrite.create_migration('m', 'o', 'n');
});
$node->safe_psql('postgres', q{CALL dualwrite.run('m', 'cutover', '10 min')});
$node->safe_psql('postgres', q{
	SELECT dualwrite.pause('m');
	-- as a row leaves it that follows from another mapping's
	ALTER TABLE n DISABLE TRIGGER USER;
	UPDATE n SET v = 'accepted by new' WHERE id = 7;
	INSERT INTO n VALUES (101, 'new');
	ALTER TABLE n ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete",
		ENABLE ALWAYS TRIGGER "~dualwrite_flush", ENABLE ALWAYS TRIGGER "!dualwrite_truncate";
	INSERT INTO _dualwrite.queue (mapping_id, direction, key) SELECT m.id, 'reverse', jsonb_build_object('id', g)
		FROM _dualwrite.mapping m, unnest('{7,101}'::int[]) AS g;
});
is($node->safe_psql('postgres', q{SELECT count(*), min(direction) FROM dualwrite.queue}), '2|reverse', 'on their way back');

my $dump = $node->backup_dir . '/dump.sql';
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_dump', '-p', $node->port, '-f', $dump, 'postgres' ], 'dump');
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-p', $node->port, '-d', 'restored', '-f', $dump ], 'restore');
is($node->safe_psql('restored', q{SELECT count(*), min(direction) FROM dualwrite.queue}), '2|reverse', 'the queue comes along');

my ($code, undef, $error) = $node->psql('restored', q{SELECT dualwrite.rollback('m', 'backfill')});
isnt($code, 0, 'no way down over them');
like($error, qr/writes of the new side are not on the old side yet.*CALL dualwrite\.deliver\('m'\)/s, 'and told what to do');
$node->safe_psql('restored', q{CALL dualwrite.deliver('m')});
is($node->safe_psql('restored', q{SELECT id, v FROM o WHERE id IN (7, 101) ORDER BY 1}), "7|accepted by new\n101|new", 'delivered');
is($node->safe_psql('restored', q{SELECT dualwrite.rollback('m', 'backfill')}), 'backfill', 'down');
$node->safe_psql('restored', q{SELECT dualwrite.resume('m')});
$node->poll_query_until('restored', q{SELECT passed FROM dualwrite.gates('m') WHERE gate = 'backfill'}) or die 'the copy does not end';
is($node->safe_psql('restored', q{SELECT count(*) FROM o JOIN n USING (id, v)}), '101', 'and nothing is lost');

($code, undef, $error) = $node->psql('postgres', q{BEGIN; CALL dualwrite.deliver('m')});
like($error, qr/cannot run inside a transaction block/, 'deliver commits as it goes');
$node->safe_psql('postgres', q{CALL dualwrite.deliver('m')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM o JOIN n USING (id, v)}), '101', 'it also works beside a paused worker');

$node->stop;
done_testing();
