# A comparison makes way for client sessions: it rests while any is at work, and its processes stand behind others.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'dualwrite'
dualwrite.throttle_max_active_per_core = 0
dualwrite.max_workers = 4
CONF
$node->start;

# Whoever looks must not be taken for an application: a walsender is no client session to make way for.
sub ask
{
	my ($query) = @_;
	my ($status, $answer, $error) = $node->psql('postgres', $query, replication => 'database');

	die "$query: $error" if $status != 0;
	return $answer;
}

# Wait for a condition.
sub await
{
	my ($condition, $what) = @_;
	my $give_up = time() + 180;

	until (ask("SELECT ($condition) IS TRUE") eq 't')
	{
		return fail("$what: waited in vain") if time() > $give_up;
		usleep(20_000);
	}
	return pass($what);
}

sub configure { my ($setting, $value) = @_; ask("SELECT dualwrite.configure('m', '$setting', '$value')"); return; }

my $unfinished = 'SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL';

# A comparison of 2 ms every ten rows: seconds at full speed, minutes where it works for 2 % of the time.
sub begin { ask(q{SELECT count(*) FROM dualwrite.reconcile('m', background => true)}); return; }
sub ended { return await("NOT EXISTS ($unfinished)", shift) }

sub eventually
{
	my ($condition) = @_;
	my $give_up = time() + 180;

	usleep(20_000) until $condition->() || time() > $give_up;
	return $condition->();
}

# What it says: at the pass under way.
sub rests { return await("EXISTS ($unfinished AND throttled_by = '{share}')", shift) }

sub a_session_at_work
{
	my $at_work = $node->background_psql('postgres', on_error_stop => 0);

	$at_work->query_until(qr/started/, "\\echo started\nSELECT pg_sleep(600);\n");
	await(q{EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND state = 'active')}, 'a session is at work');
	return $at_work;
}

my $rows = 20000;
$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION dualwrite;
CREATE TABLE o (id int PRIMARY KEY, t text);
CREATE TABLE n (id bigint PRIMARY KEY, t text);
INSERT INTO o SELECT g, 'v' || g FROM generate_series(1, $rows) g;
CREATE FUNCTION slow(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
	\$\$ BEGIN IF right(t, 1) = '0' AND current_setting('application_name') = 'dualwrite: m' THEN PERFORM pg_catalog.pg_sleep(0.002); END IF; RETURN t; END \$\$;
SELECT dualwrite.create_migration('m', 'o', 'n', '{"t": "slow(t)"}', '{"t": "t"}');
SELECT dualwrite.configure('m', 'reconcile_interval', '0');
CALL dualwrite.run('m', timeout => '170 s');
SQL

# Somebody is at work: it rests, and says so without alarm
configure('reconcile_share', 2);
my $session = a_session_at_work();
begin();
rests('a comparison rests while a session is at work');
is(ask(q{SELECT throttled_by FROM dualwrite.progress}), '{share}', 'progress names it');
like(ask(q{SELECT doing FROM dualwrite.workers WHERE role = 'reconcile'}), qr/^o: \d+ rows compared, makes way for sessions \(reconcile_share\)$/,
	'and the worker is at it all the same');
my $at_rest = q{SELECT FROM pg_stat_activity a JOIN dualwrite.workers w USING (pid) WHERE w.role = 'reconcile' AND a.wait_event = 'Extension' AND a.xact_start};
await("EXISTS ($at_rest IS NULL) AND EXISTS ($unfinished)", 'between slices it holds neither snapshot nor lock');
# at 2 a spell of these slow rows is followed by a rest that outlasts the slice
configure('reconcile_share', 25);
await("EXISTS ($at_rest IS NOT NULL) AND EXISTS ($unfinished)", 'and within a slice it rests, too');

# Another setting counts from the next step on
configure('reconcile_share', 100);
ended('at 100 it goes on beside the session');
configure('reconcile_share', 2);
begin();
rests('at 2 it rests again');

# The session has gone: nothing is left to make way for.  At rest it would take minutes still, and the await would fail.
ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'});
ended('without anybody at work it goes at full speed');

# Whoever only waits for a migration is not at work
$session = $node->background_psql('postgres', on_error_stop => 0);
configure('gate_shadow_min_reads', 1000000);
$session->query_until(qr/started/, "\\echo started\nCALL dualwrite.wait('m', '1 hour');\n");
await(q{EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CALL dualwrite.wait%' AND wait_event = 'Extension')}, 'somebody waits for the gates');
begin();
ended('he is not made way for');
ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL dualwrite.wait%'});

# Low priority: a process of its own, which alone is of low priority, and is gone when the comparison has ended
sub niceness { return getpriority(0, shift) }
my $own = niceness(ask(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'}));
my $first = ask('SELECT pid FROM dualwrite.workers');
my $at_it = q{SELECT pid FROM dualwrite.workers WHERE role = 'reconcile' AND state = 'running'};

sub nice_of_helper
{
	my ($nice, $but) = @_;

	configure('reconcile_nice', $nice);
	await("(SELECT count(*) = 1 AND bool_and(pid NOT IN ($but)) FROM ($at_it) x) AND EXISTS ($unfinished AND throttled_by = '{share}')",
		"nice $nice: a process beside the first one compares");
	return ask($at_it);
}

SKIP:
{
	skip 'the server is of the lowest priority already', 17 if $own >= 18;
	$session = a_session_at_work();
	begin();
	rests('once more');
	is(ask($at_it), $first, 'nice 0: the first process compares');
	my $helper = nice_of_helper(18, $first);
	is(niceness($helper), 18, 'it stands behind all others');
	is(niceness($first), $own, 'and the first one where it stood');
	configure('reconcile_nice', 19);
	ok(eventually(sub { niceness($helper) == 19 }), 'lower still: the same process');
	my $other = nice_of_helper(17, "$first, $helper");
	is(niceness($other), 17, 'higher: another process');
	configure('reconcile_nice', 0);
	await("NOT EXISTS (SELECT FROM dualwrite.workers WHERE pid <> $first) AND EXISTS ($at_it AND pid = $first)", 'nice 0: the first process again, alone');
	configure('reconcile_share', 100);
	ended('to the end');

	# A whole one by helpers; only just behind others, so as not to wait for whatever else the machine has to do
	configure('reconcile_nice', $own + 1);
	begin();
	ended('a helper compares');
	await("(SELECT array_agg(pid) = '{$first}' FROM dualwrite.workers)", 'then there is one process again');
	is(ask('SELECT rows_compared, missing + extra + different FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1'), "$rows|0", 'every row once');

	# only reading is done at low priority: who writes rows is waited for
	$node->safe_psql('postgres', <<'SQL2');
CREATE TABLE repaired_by (pid int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.repaired_by VALUES (pg_backend_pid()); RETURN NEW; END $$;
BEGIN;
ALTER TABLE n DISABLE TRIGGER USER;
UPDATE n SET t = 'other' WHERE id = 77;
CREATE TRIGGER note BEFORE UPDATE ON n FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE n ENABLE ALWAYS TRIGGER "!dualwrite_write", ENABLE ALWAYS TRIGGER "~dualwrite_delete",
	ENABLE ALWAYS TRIGGER "~dualwrite_flush", ENABLE ALWAYS TRIGGER "!dualwrite_truncate", ENABLE ALWAYS TRIGGER note;
COMMIT;
SQL2
	configure('reconcile_repair', 'on');
	begin();
	ended('a comparison that finds something to repair');
	is(ask('SELECT repaired FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1'), '1', 'repaired');
	is(ask('SELECT array_agg(pid) FROM repaired_by'), "{$first}", 'by the first process, not at low priority');

	# no other process is to be had
	$node->safe_psql('postgres', 'ALTER SYSTEM SET dualwrite.max_workers = 1');
	$node->reload;
	begin();
	ended('where no process is free the first one compares');
	is(ask('SELECT rows_compared, missing + extra + different FROM _dualwrite.reconcile_pass ORDER BY id DESC LIMIT 1'), "$rows|0", 'every row once, again');
}

$node->stop('fast');
done_testing();
