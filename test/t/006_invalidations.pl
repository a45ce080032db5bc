# The relation cache's entries are built anew while backends that have cached nothing else yet look at them: a session's first
# write reads catalogs for the triggers of both tables, and each such read may bring in what others have altered.
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
	CREATE TABLE o (id int PRIMARY KEY, a int, b text);
	CREATE TABLE n (id bigint PRIMARY KEY, a int CHECK (a > -1), b text) PARTITION BY HASH (id);
	CREATE TABLE n0 PARTITION OF n FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE n1 PARTITION OF n FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
	CREATE TRIGGER same BEFORE INSERT OR UPDATE ON o FOR EACH ROW EXECUTE FUNCTION same();
	CREATE TRIGGER same BEFORE INSERT OR UPDATE ON n FOR EACH ROW EXECUTE FUNCTION same();
	INSERT INTO o SELECT g, 0, 'x' FROM generate_series(1, 200) g;
	SELECT dualwrite.create_migration('m', 'o', 'n', filter => 'a >= 0');
	CALL dualwrite.run('m');
});

# a new session for each transaction; the locks of those who alter are of the kind that writers do not wait for
my %script = (
	update => "\\set id random(1, 200)\nUPDATE o SET a = a + 1 WHERE id = :id;\n",
	replace => "\\set id random(1, 200)\nBEGIN;\nDELETE FROM o WHERE id = :id;\nINSERT INTO o VALUES (:id, 1, 'y') ON CONFLICT DO NOTHING;\nCOMMIT;\n",
	alter => "\\set f random(50, 100)\n"
		. join('', map { "ALTER TABLE $_ SET (fillfactor = :f);\n" } 'o', 'n0', 'n1')
		. "ALTER TABLE n ALTER COLUMN a SET STATISTICS :f;\n");
append_to_file($node->basedir . "/$_.pgbench", $script{$_}) for keys %script;

my @writers = map { ('-f', $node->basedir . "/$_.pgbench") } 'update', 'replace';
my $altering = IPC::Run::start(
	[ 'pgbench', '-n', '-c', 1, '-T', 600, '-f', $node->basedir . '/alter.pgbench', $node->connstr('postgres') ],
	'<', '/dev/null', '>', '/dev/null', '2>', $node->basedir . '/alter.err');
my $version = q{SELECT string_agg(xmin::text, ' ' ORDER BY oid) FROM pg_class WHERE relname IN ('o', 'n0', 'n1')};
my $first = $node->safe_psql('postgres', $version);
my ($written, $refused) = run_command([ 'pgbench', '-n', '-C', '-c', 4, '-t', 400, @writers, $node->connstr('postgres') ]);
my $last = $node->safe_psql('postgres', $version);
ok($node->poll_query_until('postgres', "SELECT ($version) <> '$last'"), 'tables are altered still');
isnt($last, $first, 'and were meanwhile');
$altering->kill_kill;
like($written, qr{actually processed: 1600/1600}, 'every session could write') or diag($refused);
is($node->safe_psql('postgres', q{SELECT count(*) FROM o FULL JOIN n USING (id) WHERE (o.a = n.a AND o.b = n.b) IS NOT TRUE}),
	'0', 'and all of it arrived');

$node->stop;
done_testing();
