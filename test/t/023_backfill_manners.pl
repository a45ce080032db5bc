# Manners of the backfill: what others do to the tables goes through while it is under way, nobody waits long for it nor it for
# anybody, nothing is written to the old table, and the extension's own tables stay small.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# whoever waits for a lock for longer than deadlock_timeout is in the log
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
max_worker_processes = 20
deadlock_timeout = '5s'
log_lock_waits = on
log_line_prefix = '%b %p: '
dualwrite.throttle_max_active_per_core = 0
dualwrite.throttle_max_lock_wait = '0'
CONF
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION dualwrite;
	CREATE EXTENSION pageinspect;
	CREATE TABLE old_item (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
	INSERT INTO old_item SELECT g, repeat('x', 100) FROM generate_series(1, 100000) AS g;
	CREATE TABLE new_item (LIKE old_item INCLUDING ALL);
	SELECT dualwrite.create_migration('m', 'old_item', 'new_item');
	SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '500');
	SELECT dualwrite.configure('m', 'backfill_workers', '2');
});
$node->safe_psql('postgres', 'VACUUM (FREEZE, ANALYZE) old_item');
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')}) for 1 .. 2;

# Every page of the old table but the last, which the application writes below: any write would move its LSN, a row lock too.
my $pages = q{
	SELECT count(*), max(h.lsn), sum(hashtextextended(h.lsn::text || '|' || h.lower || '|' || h.upper || '|' || h.flags || '|' || h.prune_xid, b))
	FROM generate_series(0, pg_relation_size('old_item') / current_setting('block_size')::int - 2) AS b, page_header(get_raw_page('old_item', b::int)) AS h};
my $before = $node->safe_psql('postgres', $pages);
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')});

my $done = 'SELECT coalesce(sum(rows_done), 0) FROM _dualwrite.backfill';

sub goes_on
{
	my ($name) = @_;
	my $at = $node->safe_psql('postgres', $done);

	is($node->safe_psql('postgres', q{SELECT bool_or(finished_at IS NULL) FROM _dualwrite.backfill}), 't', "$name: it is under way");
	ok($node->poll_query_until('postgres', "SELECT ($done) > $at"), "$name: and goes on");
}

goes_on('at the beginning');
# these wait for every transaction that is older, or for a lock that conflicts with every reader's but for a batch
foreach my $statement ('CREATE INDEX CONCURRENTLY old_v ON old_item (v)', 'CREATE INDEX CONCURRENTLY new_v ON new_item (v)',
	'DROP INDEX CONCURRENTLY old_v', 'DROP INDEX CONCURRENTLY new_v', 'ANALYZE old_item', 'VACUUM new_item', 'REINDEX TABLE CONCURRENTLY new_item',
	"SET lock_timeout = '5s'; ALTER TABLE old_item ALTER v SET STATISTICS 50",
	"SET lock_timeout = '5s'; ALTER TABLE new_item SET (fillfactor = 90)")
{
	is($node->psql('postgres', $statement), 0, "$statement goes through");
}
goes_on('beside these');

# A lock that somebody keeps: it does not queue up behind it, where it would hold up all others.
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE new_item IN SHARE MODE');
my $at = $node->safe_psql('postgres', $done);
is($node->psql('postgres', $_), 0, "$_ beside a lock that is kept")
	foreach 'CREATE INDEX CONCURRENTLY old_v ON old_item (v)', 'DROP INDEX CONCURRENTLY old_v', q{BEGIN; SET LOCAL lock_timeout = '5s'; LOCK TABLE new_item IN SHARE MODE; COMMIT};
is($node->safe_psql('postgres', $done), $at, 'it does nothing meanwhile');
$locker->query_safe('COMMIT');
$locker->quit;
goes_on('after a lock that was kept');

# Paused: nothing more is done once the workers say so.
$node->safe_psql('postgres', q{SELECT dualwrite.pause('m')});
# a batch that was under way has a lock on the new table
$node->safe_psql('postgres', 'BEGIN; LOCK TABLE new_item IN SHARE MODE; COMMIT');
$at = $node->safe_psql('postgres', $done);
$node->safe_psql('postgres', q{INSERT INTO old_item VALUES (200001, 'mirrored')});
is($node->safe_psql('postgres', 'SELECT v FROM new_item WHERE id = 200001'), 'mirrored', 'mirrors go on while it is paused');
is($node->safe_psql('postgres', $done), $at, 'it does not');
$node->safe_psql('postgres', q{SELECT dualwrite.resume('m')});
goes_on('resumed');

$node->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', NULL)});
$node->poll_query_until('postgres', q{SELECT bool_and(finished_at IS NOT NULL) FROM _dualwrite.backfill}) or die 'the backfill does not end';
is($node->safe_psql('postgres', 'SELECT count(*) FROM old_item o FULL JOIN new_item n USING (id) WHERE o.v IS DISTINCT FROM n.v'), '0', 'everything is copied');

is($node->safe_psql('postgres', $pages), $before, 'not one page of the old table was written');
my $size = $node->safe_psql('postgres', q{SELECT pg_relation_size('_dualwrite.backfill') + pg_relation_size('_dualwrite.worker')});
cmp_ok($size, '<=', 40 * 8192, "the extension's own tables stay small");

# Gone under its hands: the tables, then the database.
$node->safe_psql('postgres', q{SELECT dualwrite.rollback('m', 'defined')});
$node->safe_psql('postgres', 'TRUNCATE new_item');
$node->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'backfill_max_rows_per_second', '3000')});
$node->safe_psql('postgres', q{SELECT dualwrite.advance('m')}) for 1 .. 3;
$node->poll_query_until('postgres', "SELECT ($done) > 0") or die 'the backfill does not begin';
is($node->psql('postgres', "SET lock_timeout = '5s'; DROP TABLE new_item CASCADE"), 0, 'DROP TABLE goes through');
$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/dualwrite \w+ \d+: LOG:  process \d+ still waiting/, 'no process of ours waited for a lock for long');
unlike($log, qr/client backend \d+: LOG:  process \d+ still waiting/, 'nor anybody for one of ours');
unlike($log, qr/TRAP|PANIC|terminated by signal|leak/, 'nothing crashed or leaked');
done_testing();
