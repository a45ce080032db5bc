# Random transactions against mirrored tables in each phase, on both sides once both are written: after each one both sides
# agree, and what the application sees (row counts, errors) is what it sees on tables that are not mirrored.
#
# A failing run prints its seed; DW_FUZZ_SEED=n repeats it, DW_FUZZ_ROUNDS=n makes it longer or shorter.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{DW_FUZZ_SEED} // int(time() * 1000) % 1_000_000;
my $rounds = $ENV{DW_FUZZ_ROUNDS} // 80;
srand($seed);
note("seed $seed");

my $node = PostgreSQL::Test::Cluster->new('fuzz');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'dualwrite'\nmax_prepared_transactions = 10\n");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION dualwrite;

-- a plain pair, a filtered one into partitions, and parent and child; each with a control table that nothing mirrors
CREATE TABLE a (id int PRIMARY KEY, v text, w int, note text);
CREATE TABLE an (w int, id bigint PRIMARY KEY, v text, own text DEFAULT 'own');
CREATE TABLE b (id int, g int, v text, live bool DEFAULT true, PRIMARY KEY (g, id)) PARTITION BY LIST (g);
CREATE TABLE b0 PARTITION OF b FOR VALUES IN (0);
CREATE TABLE b1 (v text, junk int, live bool DEFAULT true, g int NOT NULL, id int NOT NULL);
ALTER TABLE b1 DROP COLUMN junk;
ALTER TABLE b ATTACH PARTITION b1 FOR VALUES IN (1);
CREATE TABLE b2 PARTITION OF b DEFAULT;
CREATE TABLE bn (id int, g int, v text, live bool, own int DEFAULT 7, PRIMARY KEY (id, g)) PARTITION BY HASH (id);
CREATE TABLE bn0 PARTITION OF bn FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE bn1 (live bool, v text, own int DEFAULT 7, id int NOT NULL, g int NOT NULL);
ALTER TABLE bn ATTACH PARTITION bn1 FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE bn2 PARTITION OF bn FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE TABLE p (id int PRIMARY KEY, v text);
CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE, v text);
CREATE TABLE pn (id int PRIMARY KEY, v text);
CREATE TABLE cn (id int PRIMARY KEY, p int REFERENCES pn ON DELETE CASCADE ON UPDATE CASCADE, v text);
CREATE SCHEMA control;
CREATE TABLE control.a (LIKE a INCLUDING ALL);
CREATE TABLE control.b (LIKE b INCLUDING ALL) PARTITION BY LIST (g);
CREATE TABLE control.b0 PARTITION OF control.b FOR VALUES IN (0);
CREATE TABLE control.b1 PARTITION OF control.b FOR VALUES IN (1);
CREATE TABLE control.b2 PARTITION OF control.b DEFAULT;
CREATE TABLE control.p (LIKE p INCLUDING ALL);
CREATE TABLE control.c (LIKE c INCLUDING ALL, FOREIGN KEY (p) REFERENCES control.p ON DELETE CASCADE ON UPDATE CASCADE);

-- triggers of the application that write other rows and other tables
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF;
	IF tg_op = 'UPDATE' AND new.w = 3 THEN
		UPDATE a SET v = v || '*', w = 4 WHERE id BETWEEN new.id AND new.id + 1;
	ELSIF tg_op = 'DELETE' AND old.w = 5 THEN
		INSERT INTO a VALUES (old.id + 1, 'reborn', 6) ON CONFLICT (id) DO UPDATE SET v = 'overwritten';
	ELSIF tg_op = 'INSERT' AND new.w = 2 THEN
		UPDATE a SET w = 7 WHERE id = new.id;
	ELSIF tg_op = 'INSERT' AND new.w = 8 THEN
		DELETE FROM a WHERE id = new.id;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER meddle AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION meddle();
CREATE TRIGGER meddle AFTER INSERT OR UPDATE OR DELETE ON control.a FOR EACH ROW EXECUTE FUNCTION meddle();

-- catches errors as applications do
CREATE PROCEDURE attempt(statement text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
EXCEPTION WHEN unique_violation OR foreign_key_violation OR cardinality_violation THEN
	NULL;
END $$;

SELECT dualwrite.create_migration('a', 'a', 'an');
SELECT dualwrite.create_migration('b', 'b', 'bn', filter => 'live');
SELECT dualwrite.create_migration('pc');
SELECT dualwrite.add_mapping('pc', 'p', 'pn');
SELECT dualwrite.add_mapping('pc', 'c', 'cn');
INSERT INTO a SELECT g, 'a' || g, g % 10 FROM generate_series(1, 20) g;
INSERT INTO b SELECT g, g % 4, 'b' || g, g % 3 > 0 FROM generate_series(1, 20) g;
INSERT INTO p SELECT g, 'p' || g FROM generate_series(1, 8) g;
INSERT INTO c SELECT g, 1 + g % 8, 'c' || g FROM generate_series(1, 16) g;
INSERT INTO control.a TABLE a;
INSERT INTO control.b TABLE b;
INSERT INTO control.p TABLE p;
INSERT INTO control.c TABLE c;
SQL

sub any { return $_[ int(rand(@_)) ]; }
sub number { return int(rand($_[0])); }
sub key { return 1 + number(24); }

my $n = 0;
sub text { return "'t" . ++$n . "'"; }

my %statement = (
	a => sub {
		my $k = key();
		return any(
			sub { "INSERT INTO a VALUES ($k, " . text() . ", " . number(10) . ") ON CONFLICT DO NOTHING" },
			sub { "INSERT INTO a VALUES ($k, " . text() . ", " . number(10) . "), (" . ($k + 1) . ", " . text() . ", 1) ON CONFLICT (id) DO UPDATE SET v = excluded.v" },
			sub { "INSERT INTO a SELECT g, " . text() . ", g % 10 FROM generate_series(" . ($k + 30) . ", " . ($k + 36) . ") g ON CONFLICT DO NOTHING" },
			sub { "UPDATE a SET v = " . text() . ", w = " . number(10) . " WHERE id = $k" },
			sub { "UPDATE a SET v = " . text() . " WHERE id % 3 = " . number(3) },
			sub { "UPDATE a SET note = " . text() . " WHERE id < $k" },
			sub { "UPDATE a SET w = (w + 1) % 10 WHERE id BETWEEN $k AND " . ($k + 3) },
			sub { "UPDATE a SET id = id + 40 WHERE id = $k" },
			sub { "UPDATE a SET id = id - 40 WHERE id > 40 AND id - 40 NOT IN (SELECT id FROM a)" },
			sub { "DELETE FROM a WHERE id = $k" },
			sub { "DELETE FROM a WHERE w = " . number(10) . " AND id > 5" },
			sub { "WITH gone AS (DELETE FROM a WHERE id = $k RETURNING *) INSERT INTO a SELECT id, v || '~', w FROM gone" },
			sub { "MERGE INTO a USING (VALUES ($k, " . text() . "), (" . ($k + 1) . ", " . text() . ")) s(id, v) ON s.id = a.id WHEN MATCHED AND a.w = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v, 1)" },
			sub { "DO \$\$ DECLARE r record; BEGIN FOR r IN SELECT * FROM a WHERE id < $k ORDER BY id LOOP UPDATE a SET w = 0, v = 'loop' WHERE id = r.id; EXIT WHEN r.id > 5; END LOOP; END \$\$" },
			sub { "DO \$\$ DECLARE cur CURSOR FOR SELECT * FROM a WHERE id = $k FOR UPDATE; r record; BEGIN OPEN cur; FETCH cur INTO r; IF FOUND THEN DELETE FROM a WHERE CURRENT OF cur; END IF; CLOSE cur; END \$\$" },
			sub { number(4) == 0 ? "TRUNCATE a" : "UPDATE a SET v = v" },
			sub { "CALL attempt('UPDATE a SET id = id + 1 WHERE id = $k')" },
			sub { "CALL attempt('INSERT INTO a VALUES (900, NULL, 2), ($k, NULL, 2), (901, NULL, 8)')" })->();
	},
	b => sub {
		my ($k, $g) = (key(), number(4));
		return any(
			sub { "INSERT INTO b VALUES ($k, $g, " . text() . ", " . any('true', 'false') . ") ON CONFLICT DO NOTHING" },
			sub { "INSERT INTO b SELECT x, x % 4, " . text() . " FROM generate_series($k, " . ($k + 5) . ") x ON CONFLICT (g, id) DO UPDATE SET v = excluded.v" },
			sub { "UPDATE b SET v = " . text() . " WHERE id = $k" },
			sub { "UPDATE b SET live = NOT live WHERE id BETWEEN $k AND " . ($k + 4) },
			sub { "CALL attempt('UPDATE b SET g = $g WHERE id = $k')" },
			sub { "CALL attempt('UPDATE b SET g = (g + 1) % 4')" },
			sub { "CALL attempt('UPDATE b SET g = (g + 1) % 4, id = id + 1, live = true WHERE g = $g')" },
			sub { "UPDATE b SET id = id + 30 WHERE id = $k AND g = $g" },
			sub { "DELETE FROM b WHERE id = $k" },
			sub { "DELETE FROM b WHERE g = $g AND id > 12" },
			sub { number(4) == 0 ? any("TRUNCATE b", "DELETE FROM b") : "UPDATE b SET v = v WHERE g = $g" },
			sub { "WITH gone AS (DELETE FROM b WHERE id = $k RETURNING *) INSERT INTO b SELECT id, (g + 1) % 4, v, true FROM gone ON CONFLICT DO NOTHING" })->();
	},
	pc => sub {
		my ($k, $q) = (1 + number(12), 1 + number(20));
		return any(
			sub { "INSERT INTO p VALUES ($k, " . text() . ") ON CONFLICT (id) DO UPDATE SET v = excluded.v" },
			sub { "CALL attempt('INSERT INTO c VALUES ($q, $k, NULL)')" },
			sub { "CALL attempt('UPDATE c SET p = $k WHERE id BETWEEN $q AND " . ($q + 2) . "')" },
			sub { "CALL attempt('UPDATE p SET id = $k WHERE id = " . (1 + number(12)) . "')" },
			sub { "CALL attempt('UPDATE p SET id = id + 1')" },
			sub { "CALL attempt('UPDATE c SET id = id + 1 WHERE id = $q')" },
			sub { "DELETE FROM p WHERE id = $k" },
			sub { "DELETE FROM c WHERE id = $q" },
			sub { "UPDATE c SET v = " . text() },
			sub { "CALL attempt('WITH np AS (INSERT INTO p VALUES (" . ($k + 20) . ") RETURNING id) INSERT INTO c SELECT " . ($q + 20) . ", id FROM np')" },
			sub { "WITH dc AS (DELETE FROM c WHERE p = $k) DELETE FROM p WHERE id = $k" },
			sub { number(5) == 0 ? any("TRUNCATE p, c", "TRUNCATE p CASCADE", "TRUNCATE c") : "UPDATE p SET v = v" })->();
	});

# The same on the new side, once it may be written.
my %reverse = (
	a => sub {
		my $k = key();
		return any(
			sub { "INSERT INTO an (id, v, w) VALUES ($k, " . text() . ", 1) ON CONFLICT (id) DO UPDATE SET v = excluded.v" },
			sub { "UPDATE an SET v = " . text() . " WHERE id % 3 = 1" },
			sub { "UPDATE an SET own = " . text() . " WHERE id < $k" },
			sub { "UPDATE an SET id = id + 60 WHERE id = $k AND id + 60 NOT IN (SELECT id FROM an)" },
			sub { "DELETE FROM an WHERE id = $k" },
			sub { number(5) == 0 ? "TRUNCATE an" : "UPDATE an SET w = 9" })->();
	},
	b => sub {
		my ($k, $g) = (key(), number(4));
		return any(
			sub { "INSERT INTO bn (id, g, v, live) VALUES ($k + 60, $g, " . text() . ", true) ON CONFLICT DO NOTHING" },
			sub { "UPDATE bn SET v = " . text() . " WHERE g = $g" },
			sub { "UPDATE bn SET id = id + 100 WHERE id = $k" },
			sub { "DELETE FROM bn WHERE id = $k" })->();
	},
	pc => sub {
		my ($k, $q) = (1 + number(12), 1 + number(20));
		return any(
			sub { "INSERT INTO pn VALUES ($k, " . text() . ") ON CONFLICT (id) DO UPDATE SET v = excluded.v" },
			sub { "CALL attempt('INSERT INTO cn VALUES ($q, $k, NULL)')" },
			sub { "CALL attempt('UPDATE pn SET id = $k + 30 WHERE id = $k')" },
			sub { "DELETE FROM pn WHERE id = $k" },
			sub { "UPDATE cn SET v = " . text() },
			sub { "DELETE FROM cn WHERE id = $q" })->();
	});

my %agree = (
	a => [ 'SELECT id::bigint, v, w FROM a', 'SELECT id, v, w FROM an' ],
	b => [ 'SELECT id, g, v, live FROM b WHERE live', 'SELECT id, g, v, live FROM bn' ],
	pc => [ 'SELECT 1 AS t, id, NULL::int AS p, v FROM p UNION ALL SELECT 2, id, p, v FROM c',
		'SELECT 1 AS t, id, NULL::int AS p, v FROM pn UNION ALL SELECT 2, id, p, v FROM cn' ]);
my %controlled = (
	a => [ 'TABLE a', 'TABLE control.a' ],
	b => [ 'TABLE b', 'TABLE control.b' ],
	pc => [ 'SELECT 1 AS t, id, NULL::int AS p, v FROM p UNION ALL SELECT 2, id, p, v FROM c',
		'SELECT 1 AS t, id, NULL::int AS p, v FROM control.p UNION ALL SELECT 2, id, p, v FROM control.c' ]);

sub differ
{
	my ($left, $right) = @{ $_[0] };
	return "SELECT count(*) FROM ((($left) EXCEPT ALL ($right)) UNION ALL (($right) EXCEPT ALL ($left))) d;\n";
}

# A transaction of one to four statements, some of them undone.
sub transaction
{
	my ($kind, $both) = @_;
	my $make = sub { ($both && number(2) ? $reverse{$kind} : $statement{$kind})->() };
	my @lines;

	for (1 .. 1 + number(4))
	{
		if (number(5) == 0)
		{
			push @lines, 'SAVEPOINT s', $make->(), any('ROLLBACK TO s', 'RELEASE s');
		}
		else
		{
			push @lines, $make->();
		}
	}
	return @lines;
}

my @levels = ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');

# Some rounds in one session; dies with what was run when the sides disagree.
sub fuzz
{
	my ($name, $count, $both, $checked) = @_;
	my $script = "\\set ON_ERROR_STOP 0\n\\set VERBOSITY terse\n";
	my @log;

	for my $i (1 .. $count)
	{
		for my $kind (sort keys %statement)
		{
			my @lines = transaction($kind, $both);
			my $begin = 'BEGIN ISOLATION LEVEL ' . any(@levels);
			my $end = any('COMMIT', 'COMMIT', 'COMMIT', 'ROLLBACK', "PREPARE TRANSACTION 'f'; COMMIT PREPARED 'f'");

			push @log, [ $kind, $begin, @lines, $end ];
			$script .= "\\echo = $#log\n" . join(";\n", $begin, @lines, $end) . ";\n";
			$script .= "\\echo sides\n" . differ($agree{$kind}) if $checked;
			next if $both;
			# errors must come at the same places, or the control goes its own way
			$script .= "SET search_path = control, public;\n" . join(";\n", $begin, @lines, $end) . ";\nRESET search_path;\n";
			$script .= "\\echo control\n" . differ($controlled{$kind});
		}
	}
	my ($stdout, $stderr);
	my $rc = $node->psql('postgres', $script, stdout => \$stdout, stderr => \$stderr, extra_params => ['-q']);
	my ($current, $what, $bad) = (-1, '', undef);
	for (split /\n/, $stdout)
	{
		if (/^= (\d+)$/) { $current = $1; }
		elsif (/^(sides|control)$/) { $what = $1; }
		elsif (/^(\d+)$/ && $1 > 0 && $what ne '') { $bad //= "$what: $1 differ after round $current"; }
	}
	$bad //= 'psql ended with ' . $rc if $rc != 0;
	ok(!defined $bad, "$name: $count rounds");
	if (defined $bad)
	{
		diag("seed $seed, $bad");
		diag(join(";\n", @{ $log[$_] })) for grep { $_ >= 0 } ($current < $#log ? $current - 3 .. $current : ());
		my ($at) = $bad =~ /round (\d+)/;
		diag(join(";\n", @{ $log[$at] })) if defined $at;
		diag(substr($stderr, -2000));
	}
	# what no application has earned: internal errors, refusals, failures to serialize in a single session
	my @unearned = grep { /ERROR/ && !/duplicate key|foreign key|current transaction|prepared transaction|savepoint "s" does not exist|affect row a second time/ } split /\n/, $stderr;
	is(join("\n", @unearned), '', "$name: no error that was not earned");
	return;
}

sub to_phase
{
	my ($phase) = @_;
	for my $m (qw(a b pc))
	{
		$node->safe_psql('postgres', "CALL dualwrite.wait('$m', '10 min')") if $phase ne 'shadow';
		$node->safe_psql('postgres', "SELECT dualwrite.advance('$m', '$phase')");
	}
	return;
}

to_phase('shadow');
fuzz('shadow', $rounds, 0, 0);
to_phase('dual_write');
fuzz('dual_write', $rounds, 0, 0);
$node->safe_psql('postgres', "SELECT dualwrite.pause('$_')") for qw(a b pc);
to_phase('backfill');
fuzz('backfill', $rounds, 0, 0);
$node->safe_psql('postgres', "SELECT dualwrite.resume('$_')") for qw(a b pc);
$node->safe_psql('postgres', "CALL dualwrite.run('$_', 'verify')") for qw(a b pc);
$node->safe_psql('postgres', differ($agree{$_})) eq '0' or fail("$_: both sides agree after the backfill") for qw(a b pc);
fuzz('verify', $rounds, 0, 1);
$node->safe_psql('postgres', "SELECT dualwrite.configure('$_', 'mirror_on_error', 'queue')") for qw(a b pc);
fuzz('verify, mirror_on_error = queue', $rounds, 0, 1);
$node->safe_psql('postgres', "SELECT dualwrite.configure('$_', 'mirror_on_error', 'abort')") for qw(a b pc);
$node->safe_psql('postgres', "CALL dualwrite.run('$_', 'read_switch')") for qw(a b pc);
fuzz('read_switch, old side', $rounds, 0, 1);
fuzz('read_switch, both sides', $rounds, 1, 1);

$node->stop;
is(slurp_file($node->logfile) =~ /(leak.*|TRAP.*)/ ? $1 : '', '', 'no leak');
done_testing();
