# Shadow reads and what needs a server of its own: a cancel from outside, a crash, a standby.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'dualwrite'");
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION dualwrite;
	CREATE TABLE o (id int PRIMARY KEY, v text);
	CREATE TABLE n (id int PRIMARY KEY, v text);
	INSERT INTO o SELECT g, 'v' || g FROM generate_series(1, 100) AS g;
	SELECT dualwrite.create_migration('m', 'o', 'n');
});
$primary->safe_psql('postgres', q{CALL dualwrite.run('m', 'verify', '10 min')});

my $counts = q{SELECT agreed, mismatched, errors, skipped FROM dualwrite.shadow_reads WHERE migration = 'm'};
my $agree = q{SELECT v FROM dualwrite.shadow_read('m', 'SELECT v FROM o WHERE id = 7', 'SELECT v FROM n WHERE id = 7') AS t (v text)};
my $differ = q{SELECT v FROM dualwrite.shadow_read('m', 'SELECT v FROM o WHERE id = 7', 'SELECT v FROM n WHERE id = 8') AS t (v text)};

# A cancel from outside means the statement, not the other side's query.  (The budget stays: a slow machine is neither out of time nor worth
# an entry.)
$primary->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'shadow_read_max_ms', '600000'); SELECT dualwrite.configure('m', 'shadow_read_slow_factor', '0')});
my $sleeper = $primary->background_psql('postgres', on_error_stop => 0);
$sleeper->query_until(qr/^$/, q{SELECT * FROM dualwrite.shadow_read('m', 'SELECT v FROM o WHERE id = 7', 'SELECT pg_sleep(600)::text') AS t (v text);} . "\n");
$primary->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%shadow_read%'});
$primary->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%shadow_read%'});
$primary->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
is($sleeper->query($agree), 'v7', 'the session goes on after a cancel');
like($sleeper->{stderr}, qr/canceling statement due to user request/, 'which its client was told of');
$sleeper->quit;
is($primary->safe_psql('postgres', $counts), '1|0|0|0', 'and nothing else was counted');

# A lock on the other side's table is not waited for long, whatever the budget is.
my $locker = $primary->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE n');
is($primary->safe_psql('postgres', $agree), 'v7', 'a lock on the other side');
$locker->query_safe('COMMIT');
$locker->quit;
is($primary->safe_psql('postgres', $counts), '1|0|0|1', 'is a read that is skipped');

# SELECTs of clients are sampled by any protocol.
my $sum = q{SELECT agreed + mismatched + errors + skipped FROM dualwrite.shadow_reads WHERE migration = 'm'};
my $before = $primary->safe_psql('postgres', $sum);
append_to_file($primary->basedir . '/select.sql', "\\set id random(1, 100)\nSELECT v FROM o WHERE id = :id;\n");
$primary->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'shadow_read_auto_percent', '100')});
$primary->command_ok(['pgbench', '-n', '-M', $_, '-t', '20', '-f', $primary->basedir . '/select.sql', 'postgres'], "pgbench -M $_")
	foreach qw(simple extended prepared);
$primary->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'shadow_read_auto_percent', NULL)});
is($primary->safe_psql('postgres', $sum) - $before, 60, 'each of its statements was compared');
is($primary->safe_psql('postgres', $counts), '61|0|0|1', 'and agreed');
$primary->safe_psql('postgres', q{SELECT dualwrite.reset_shadow_reads('m')});
$primary->safe_psql('postgres', $agree);

# The worker writes the counts down; a crash takes no more than what came after.
$primary->safe_psql('postgres', $differ);
$primary->safe_psql('postgres', q{SELECT dualwrite.reconcile('m', background => true)});
ok($primary->poll_query_until('postgres', q{SELECT agreed = 1 AND mismatched = 1 FROM _dualwrite.shadow_read}), 'the worker writes the counts down');
$primary->stop('immediate');
$primary->start;
is($primary->safe_psql('postgres', $counts), '1|1|0|0', 'they are there after a crash');
$primary->safe_psql('postgres', $agree);
is($primary->safe_psql('postgres', $counts), '2|1|0|0', 'and are added to');
is($primary->safe_psql('postgres', q{SELECT old_answer, new_answer FROM dualwrite.shadow_read_mismatches}), '[{"v":"v7"}]|[{"v":"v8"}]', 'mismatches as well');

# A standby returns the rows and does no more.
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', $agree), 'v7', 'a standby returns rows');
is($standby->safe_psql('postgres', $differ), 'v7', 'of the truth');
is($standby->safe_psql('postgres', $counts), $primary->safe_psql('postgres', q{SELECT agreed, mismatched, errors, skipped FROM _dualwrite.shadow_read}),
	'and shows what it was sent, but counts nothing');
$standby->stop;
$primary->stop;
done_testing();
