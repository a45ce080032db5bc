# What a phase change looks like from other sessions: who is in its way, what it holds while it waits, and that a crash in
# the middle leaves either phase, whole.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('ladder');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'dualwrite'
max_prepared_transactions = 10
max_worker_processes = 20
});
$node->start;

$node->safe_psql('postgres', q{
	CREATE EXTENSION dualwrite;
	CREATE TABLE o (id serial PRIMARY KEY, a text);
	CREATE TABLE n (id bigserial PRIMARY KEY, a text);
	INSERT INTO o (a) SELECT g FROM generate_series(1, 100) g;
	SELECT dualwrite.create_migration('m', 'o', 'n');
	SELECT dualwrite.configure('m', 'lock_timeout_ms', '20');
});

sub phase
{
	return $node->safe_psql('postgres', q{SELECT phase FROM dualwrite.status WHERE migration = 'm'});
}

# Who is in the way is named

my $blocker = $node->background_psql('postgres');
$blocker->query_safe(q{SET application_name = 'in the way'; BEGIN; INSERT INTO o (a) VALUES ('x');});
my $pid = $blocker->query_safe('SELECT pg_backend_pid()');
my ($rc, $out, $err) = $node->psql('postgres', q{\set VERBOSITY verbose
SELECT dualwrite.advance('m')});
like($err, qr/55P03: could not lock table public\.o within 20 ms, in \d+ attempts/, 'a lock that is not to be had');
like($err, qr/Process $pid \(application "in the way", idle in transaction\) holds RowExclusiveLock; its transaction is [0-9:]+ old\./,
	'names who holds what, and since when');
is(phase(), 'defined', 'and leaves the phase as it was');

$blocker->query_safe(q{PREPARE TRANSACTION 'forgotten'});
($rc, $out, $err) = $node->psql('postgres', q{SELECT dualwrite.advance('m')});
like($err, qr/Prepared transaction "forgotten" holds RowExclusiveLock; it is [0-9:]+ old\./, 'a prepared transaction is named, too');
like($err, qr/HINT:.*ROLLBACK PREPARED/, 'with what to do about it');
$blocker->query_safe(q{ROLLBACK PREPARED 'forgotten'});
is($node->safe_psql('postgres', q{SELECT dualwrite.advance('m')}), 'shadow', 'then it goes');

# A role's own settings do not matter

$node->safe_psql('postgres', q{ALTER ROLE CURRENT_USER SET lock_timeout = '1 d'});
$node->safe_psql('postgres', q{ALTER ROLE CURRENT_USER SET deadlock_timeout = '1 min'});
$blocker->query_safe(q{BEGIN; INSERT INTO o (a) VALUES ('x');});
my $begun = time;
($rc, $out, $err) = $node->psql('postgres', q{SELECT dualwrite.advance('m')});
like($err, qr/could not lock table/, 'a role that would wait for a day');
cmp_ok(time - $begun, '<', 60, 'does not');
$blocker->query_safe('COMMIT');
$node->safe_psql('postgres', q{ALTER ROLE CURRENT_USER RESET ALL});

# While it waits, wait holds nothing

$node->safe_psql('postgres', q{CALL dualwrite.run('m', 'cutover', '10 min')});
my $waiter = $node->background_psql('postgres', on_error_stop => 0);
$waiter->query_safe(q{SET application_name = 'waiter'});
$waiter->query_until(qr/begun/, "\\echo begun\nCALL dualwrite.wait('m', '1 day');\n");
my $waiting = q{FROM pg_stat_activity WHERE application_name = 'waiter' AND query LIKE 'CALL%' AND state = 'active'
	AND wait_event_type = 'Extension'};
$node->poll_query_until('postgres', "SELECT count(*) = 1 $waiting") or die 'nobody waits';
$node->poll_query_until('postgres', "SELECT count(*) = 1 $waiting AND backend_xmin IS NULL AND backend_xid IS NULL")
	or die 'it holds a snapshot';
# it may have begun to look again between one view and the other
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 AND EXISTS (SELECT $waiting) FROM pg_locks WHERE locktype <> 'virtualxid'
	AND pid = (SELECT pid FROM pg_stat_activity WHERE application_name = 'waiter')"), 'no lock');
my $first = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
ok($node->poll_query_until('postgres', "SELECT xact_start > '$first' FROM pg_stat_activity WHERE application_name = 'waiter'"),
	'and no transaction from one look to the next');
is($node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waiter'}), 't',
	'it can be cancelled');
ok($node->poll_query_until('postgres', q{SELECT state = 'idle' FROM pg_stat_activity WHERE application_name = 'waiter'}),
	'at once');
$waiter->quit;

# A crash while the change waits for its locks, and one right after it

$node->safe_psql('postgres', q{SELECT dualwrite.rollback('m', 'verify')});
$node->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'lock_timeout_ms', '400')});
$blocker->query_safe(q{BEGIN; INSERT INTO o (a) VALUES ('lost');});
my $driver = $node->background_psql('postgres', on_error_stop => 0);
$driver->query_until(qr/begun/, "\\echo begun\nSELECT dualwrite.rollback('m', 'defined');\n");
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted})
	or die 'nobody waits for a lock';
$node->stop('immediate');
$driver->{run}->finish;
$blocker->{run}->finish;
$node->start;
is(phase(), 'verify', 'a crash in the middle leaves the phase as it was');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE '_dualwrite%' AND tgenabled = 'A'}), '8',
	'and the triggers');
is($node->safe_psql('postgres', q{SELECT dualwrite.rollback('m', 'defined')}), 'defined', 'it can be called again');
$node->stop('immediate');
$node->start;
is(phase(), 'defined', 'a crash afterwards leaves the new phase');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE '_dualwrite%'}), '0', 'and nothing else');

# Both sides under load, while the ladder goes up and down: nobody fails, no row is lost.  Each application has rows of its
# own: the same row on both sides at one moment is a deadlock that no order of locks avoids.

my $old_script = $node->basedir . '/old.sql';
append_to_file($old_script, q{
\set i random(1, 50)
BEGIN;
UPDATE o SET a = a || '.' WHERE id = :i;
INSERT INTO o (a) VALUES ('old side');
COMMIT;
});
my $new_script = $node->basedir . '/new.sql';
append_to_file($new_script, q{
\set i random(51, 100)
BEGIN;
UPDATE n SET a = a || ',' WHERE id = :i;
INSERT INTO n (a) VALUES ('new side');
COMMIT;
});

# Start an application; what it says is in the hash that is returned.
sub start_load
{
	my ($script, $clients, $seconds) = @_;
	my %load = (out => '', err => '');

	$load{run} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', $clients, '-T', $seconds, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'>', \$load{out}, '2>', \$load{err});
	return \%load;
}

sub end_load
{
	my ($load) = @_;

	$load->{run}->finish;
	$load->{done} = $load->{out} =~ /number of transactions actually processed: (\d+)/ ? $1 : 0;
	cmp_ok($load->{done}, '>', 0, 'there was load');
	return;
}

sub sides_agree
{
	my ($name) = @_;

	is($node->safe_psql('postgres', q{SELECT count(*) FROM o FULL JOIN n USING (id) WHERE o.a IS DISTINCT FROM n.a}), '0', $name);
	return;
}

my $load = start_load($old_script, 3, 5);
for (1 .. 2)
{
	$node->safe_psql('postgres', q{CALL dualwrite.run('m', 'verify', '10 min')});
	is($node->safe_psql('postgres', q{SELECT dualwrite.rollback('m', 'shadow')}), 'shadow', 'down under load of the old side');
}
$node->safe_psql('postgres', q{CALL dualwrite.run('m', 'cutover', '10 min')});
is(phase(), 'cutover', 'and up under load of the old side');
end_load($load);
is($load->{err} =~ /ERROR/ ? $load->{err} : '', '', 'none of its statements failed');
sides_agree('both sides agree');
my $old_rows = $load->{done};

$load = start_load($old_script, 2, 5);
my $new_load = start_load($new_script, 2, 5);
for (1 .. 3)
{
	is($node->safe_psql('postgres', q{SELECT dualwrite.rollback('m')}), 'read_switch', 'down from cutover under load of both sides');
	$node->safe_psql('postgres', q{CALL dualwrite.run('m', 'cutover', '10 min')});
}
is(phase(), 'cutover', 'and up again');
end_load($_) for $load, $new_load;
is($_->{err} =~ /ERROR/ ? $_->{err} : '', '', 'none of its statements failed') for $load, $new_load;
sides_agree('both sides agree');
$old_rows += $load->{done};
my $new_rows = $new_load->{done};

# Turning the new application away while it writes: its next statement fails, what it has written is on the old side

$load = start_load($old_script, 2, 5);
# goes on until it is turned away
$new_load = start_load($new_script, 2, 3600);
$node->poll_query_until('postgres', "SELECT count(*) > $new_rows + 10 FROM o WHERE a = 'new side'") or die 'no load';
$node->safe_psql('postgres', q{SELECT dualwrite.rollback('m')});
is($node->safe_psql('postgres', q{SELECT dualwrite.rollback('m', force => true)}), 'verify', 'down to verify by force');
end_load($_) for $load, $new_load;
is($load->{err} =~ /ERROR/ ? $load->{err} : '', '', 'the old application goes on');
like($new_load->{err}, qr/is the new side of migration "m", which is in phase "verify"|duplicate key/, 'the new one is turned away');
sides_agree('both sides agree');
$old_rows += $load->{done};
is($node->safe_psql('postgres', q{SELECT count(*) FROM o WHERE a = 'old side'}), $old_rows, 'every row of the old application is there');
is($node->safe_psql('postgres', q{SELECT count(*) FROM o WHERE a = 'new side'}),
	$node->safe_psql('postgres', q{SELECT count(*) FROM n WHERE a = 'new side'}), 'and every row of the new one');

# The last step, while the new application writes

$node->safe_psql('postgres', q{SELECT dualwrite.configure('m', 'gate_soak', '0')});
$node->safe_psql('postgres', q{SELECT dualwrite.resume('m')});
$node->safe_psql('postgres', q{CALL dualwrite.run('m', 'cutover', '10 min')});
$new_load = start_load($new_script, 3, 3);
$node->safe_psql('postgres', q{CALL dualwrite.wait('m', '10 min')});
is($node->safe_psql('postgres', q{SELECT dualwrite.advance('m')}), 'complete', 'to complete under load of the new side');
end_load($new_load);
is($new_load->{err} =~ /ERROR/ ? $new_load->{err} : '', '', 'which does not notice');

$node->stop;
done_testing();
