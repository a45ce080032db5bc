# The library loads in one session, or when the server starts; a server that has it preloaded stops, crashes, restarts and
# promotes like any other, with the extension in some database or in none.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $status = q{SELECT count(*) FROM dualwrite.status};

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION dualwrite');
is($primary->safe_psql('postgres', $status), '0', 'works with nothing preloaded');
$primary->safe_psql('postgres', 'DROP EXTENSION dualwrite');
$primary->stop;

$primary->append_conf('postgresql.conf', q{shared_preload_libraries = 'dualwrite'});
$primary->start;
is($primary->safe_psql('postgres', 'SELECT 1'), '1', 'starts preloaded with the extension nowhere');
$primary->safe_psql('postgres', 'CREATE DATABASE app');
$primary->safe_psql('app', 'CREATE EXTENSION dualwrite');
is($primary->safe_psql('app', $status), '0', 'works preloaded');

$primary->stop('immediate');
$primary->start;
is($primary->safe_psql('app', $status), '0', 'works after a crash');

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);
is($standby->safe_psql('app', $status), '0', 'can be read on a standby');

$primary->stop('fast');
$standby->promote;
is($standby->safe_psql('app', $status), '0', 'works on a promoted standby');
$standby->safe_psql('app', 'DROP EXTENSION dualwrite');
$standby->safe_psql('postgres', 'DROP DATABASE app');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'app'}),
	'0', 'a database that had the extension can be dropped');
$standby->stop('fast');

my $logs = slurp_file($primary->logfile) . slurp_file($standby->logfile);
unlike($logs, qr/background worker "[^"]*dualwrite[^"]*" \(PID \d+\) was terminated by signal (?!3|9)/i,
	'no worker crashed by itself');

done_testing();
