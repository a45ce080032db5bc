# The new table is on another server: keys are queued and delivered, the server may be away, rows are split among servers.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IPC::Run ();

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'dualwrite'\nmax_worker_processes = 20");
$node->start;
my %far = map {
	my $far = PostgreSQL::Test::Cluster->new($_);
	$far->init;
	$far->start;
	($_ => $far);
} qw(north south);

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub await { $node->poll_query_until('postgres', "SELECT $_[0]") or die "waited in vain for: $_[0]" }
sub delivered { return await("NOT EXISTS (SELECT FROM _dualwrite.queue q JOIN _dualwrite.mapping m ON m.id = q.mapping_id
	JOIN _dualwrite.migration g ON g.id = m.migration_id WHERE g.name = '$_[0]' AND NOT q.dead)") }
sub differing { return sql("SELECT sum(missing + extra + different) FROM dualwrite.reconcile('$_[0]')") }

sql('CREATE EXTENSION dualwrite; CREATE EXTENSION postgres_fdw;');
for my $name (sort keys %far)
{
	sql(sprintf("CREATE SERVER $name FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%d', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name;", $far{$name}->host, $far{$name}->port));
}

# Queued delivery

$far{north}->safe_psql('postgres', 'CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL, price numeric, seen int DEFAULT 7)');
sql(q{
	CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, cents int);
	INSERT INTO items SELECT g, 'item ' || g, g FROM generate_series(1, 3000) AS g;
	CREATE FOREIGN TABLE items_far (id bigint NOT NULL, name text NOT NULL, price numeric) SERVER north OPTIONS (table_name 'items');
	SELECT dualwrite.create_migration('q', 'items', 'items_far', '{"price": "cents / 100.0"}', '{"cents": "(price * 100)::int"}', delivery => 'queued');
});
sql(q{CALL dualwrite.run('q', timeout => '10 min')});
my $mine = q{SELECT id, name, cents / 100.0 FROM items ORDER BY 1};
my $theirs = q{SELECT id, name, price FROM items ORDER BY 1};
is($far{north}->safe_psql('postgres', $theirs), sql($mine), 'history is copied to the other server');
is($far{north}->safe_psql('postgres', 'SELECT DISTINCT seen FROM items'), '7', 'columns that are not mapped have its defaults');

# the key is queued in the writer's transaction
is(sql(q{SELECT dualwrite.pause('q'); BEGIN; UPDATE items SET cents = 0 WHERE id = 1; ROLLBACK; SELECT count(*) FROM dualwrite.queue}), "\n0",
	'what was rolled back is not queued');
is(sql(q{BEGIN; UPDATE items SET cents = 0 WHERE id = 1; SELECT count(*) FROM dualwrite.queue; COMMIT}), '1', 'and what is written, at once');
sql(q{SELECT dualwrite.resume('q')});
delivered('q');
is($far{north}->safe_psql('postgres', 'SELECT price FROM items WHERE id = 1'), '0.00000000000000000000', 'it is delivered');

# it is delivered at least once: a key that has been delivered may be delivered again
sql(q{INSERT INTO _dualwrite.queue (mapping_id, direction, key) SELECT q.id, 'forward', jsonb_build_object('id', g)
	FROM _dualwrite.mapping q, generate_series(1, 500) AS g;
	SELECT dualwrite.retry('q')});
delivered('q');
is($far{north}->safe_psql('postgres', $theirs), sql($mine), 'a second delivery changes nothing');

# the other server is away: the application does not notice, nothing has failed, and all of it arrives later
$far{north}->stop('immediate');
sql(q{
	INSERT INTO items SELECT g, 'new ' || g, g FROM generate_series(10001, 11000) AS g;
	UPDATE items SET name = name || '!' WHERE id % 3 = 0;
	DELETE FROM items WHERE id % 7 = 0;
});
pass('writers write while the other server is away');
await(q{(SELECT count(*) > 2 FROM dualwrite.queue WHERE sqlstate LIKE '08%')});
is(sql(q{SELECT count(*) FILTER (WHERE dead), max(attempts) FROM _dualwrite.queue}), '0|0', 'which costs no key an attempt');
cmp_ok(sql(q{SELECT count(*) FILTER (WHERE sqlstate IS NOT NULL)::float8 / count(*) FROM _dualwrite.queue}), '<', 0.1,
	'nor is every key tried while nothing can be reached');
$far{north}->start;
delivered('q');
is($far{north}->safe_psql('postgres', $theirs), sql($mine), 'all of it arrives when it is back');
is(sql(q{SELECT count(*) FROM dualwrite.dead_letters}), '0', 'without dead letters');
is(differing('q'), '0', 'and both sides agree');

# comparing while others write: keys in flight are no drift
my $script = $node->basedir . '/writers.sql';
append_to_file($script, q{
\set id random(1, 12000)
\set cents random(0, 1000000)
INSERT INTO items VALUES (:id, 'w', :cents) ON CONFLICT (id) DO UPDATE SET cents = excluded.cents;
DELETE FROM items WHERE id = (:id + 1) % 12000;
});
my $writers = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-t', '1500', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \my $out, '2>', \my $err);
my ($found, $passes) = (0, 0);
while ($passes < 3 || $writers->pumpable)
{
	$found += differing('q');
	$passes++;
	$writers->pump_nb if $writers->pumpable;
}
ok($writers->finish, "writers ($passes comparisons beside them)") or diag $err;
is($found, 0, 'no key in flight is taken for drift');
delivered('q');
is($far{north}->safe_psql('postgres', $theirs), sql($mine), 'everything written meanwhile has arrived');
$far{north}->safe_psql('postgres', q{DELETE FROM items WHERE id = (SELECT min(id) FROM items); INSERT INTO items VALUES (99999, 'x', 1)});
is(differing('q'), '2', 'real drift is found');
is(sql(q{SELECT dualwrite.repair('q')}), '2', 'and repaired');
is(differing('q'), '0', 'over there');
is(sql(q{SELECT dualwrite.rollback('q', 'defined'); SELECT dualwrite.drop_migration('q')}), "defined\n", 'gone');

# Inline over postgres_fdw: the same transaction, as long as both can commit

sql(q{SELECT dualwrite.create_migration('i', 'items', 'items_far', '{"price": "cents / 100.0"}', '{"cents": "(price * 100)::int"}');
	SELECT dualwrite.configure('i', 'reconcile_interval', '0');});
sql(q{CALL dualwrite.run('i', timeout => '10 min')});
sql(q{UPDATE items SET name = 'inline' WHERE id = (SELECT max(id) FROM items)});
is($far{north}->safe_psql('postgres', $theirs), sql($mine), 'inline: the other server has it when the application has committed');
sql(q{BEGIN; DELETE FROM items; ROLLBACK});
is($far{north}->safe_psql('postgres', $theirs), sql($mine), 'inline: what is rolled back here is rolled back there');

# its window: the other server has committed, and then this one cannot (here: a serialization failure at COMMIT)
my ($one, $two) = split /\|/, sql('SELECT min(id), max(id) FROM items');
sql('CREATE EXTENSION dblink');
my $connect = sprintf("host=%s port=%d dbname=postgres", $node->host, $node->port);
my ($code, undef, $error) = $node->psql('postgres', qq{
	SELECT dblink_connect('other', '$connect');
	SELECT dblink_exec('other', 'BEGIN ISOLATION LEVEL SERIALIZABLE');
	SELECT * FROM dblink('other', 'SELECT count(*) FROM items WHERE id IN ($one, $two)') AS t (n bigint);
	BEGIN ISOLATION LEVEL SERIALIZABLE;
	SELECT count(*) FROM items WHERE id IN ($one, $two);
	UPDATE items SET name = 'half' WHERE id = $one;
	SELECT dblink_exec('other', 'UPDATE items SET name = ''whole'' WHERE id = $two');
	SELECT dblink_exec('other', 'COMMIT');
	COMMIT;
});
like($error, qr/could not serialize access/, 'inline: a transaction fails at COMMIT');
isnt(sql("SELECT name FROM items WHERE id = $one"), 'half', 'inline: here it has not happened');
is($far{north}->safe_psql('postgres', "SELECT name FROM items WHERE id = $one"), 'half', 'inline: there it has');
is(differing('i'), '1', 'inline: which a comparison finds');
sql(q{SELECT dualwrite.configure('i', 'reconcile_repair', 'on'); SELECT count(*) FROM dualwrite.reconcile('i', background => true)});
await(q{NOT EXISTS (SELECT FROM dualwrite.drift WHERE state = 'open')});
is($far{north}->safe_psql('postgres', $theirs), sql($mine), 'inline: and the background repairs');

# a server that is away makes writes fail, or queues them
$far{north}->stop('immediate');
($code, undef, $error) = $node->psql('postgres', "UPDATE items SET name = 'lost' WHERE id = $one");
isnt($code, 0, 'inline: no write without the other server');
isnt(sql("SELECT name FROM items WHERE id = $one"), 'lost', 'inline: on either side');
sql(q{SELECT dualwrite.configure('i', 'mirror_on_error', 'queue')});
sql("UPDATE items SET name = 'kept' WHERE id = $one");
is(sql(q{SELECT count(*) FROM dualwrite.queue}), '1', 'inline, mirror_on_error = queue: the key waits');
$far{north}->start;
delivered('i');
is($far{north}->safe_psql('postgres', $theirs), sql($mine), 'inline, mirror_on_error = queue: and arrives');
sql(q{SELECT dualwrite.rollback('i', 'defined'); SELECT dualwrite.drop_migration('i')});

# Shards: one old table, two foreign ones, by filter; and a partitioned table whose partitions are foreign

for my $name (sort keys %far)
{
	$far{$name}->safe_psql('postgres', 'CREATE TABLE shard (region text, id int, v text, PRIMARY KEY (region, id));
		CREATE TABLE part (region text, id int, v text, PRIMARY KEY (region, id))');
	sql("CREATE FOREIGN TABLE shard_$name (region text NOT NULL, id int NOT NULL, v text) SERVER $name OPTIONS (table_name 'shard')");
}
sql(q{
	CREATE TABLE world (region text NOT NULL, id int PRIMARY KEY, v text);
	INSERT INTO world SELECT CASE g % 3 WHEN 0 THEN 'n' ELSE 's' END, g, 'v' || g FROM generate_series(1, 1500) AS g;
	ALTER TABLE world ADD UNIQUE (region, id);
	SELECT dualwrite.create_migration('s', 'world', 'shard_north', filter => 'region = ''n''', key_columns => '{region,id}', delivery => 'queued');
	SELECT dualwrite.add_mapping('s', 'world', 'shard_south', filter => 'region = ''s''', key_columns => '{region,id}', delivery => 'queued');
	CREATE TABLE parted (region text NOT NULL, id int NOT NULL, v text) PARTITION BY LIST (region);
	CREATE FOREIGN TABLE parted_north PARTITION OF parted FOR VALUES IN ('n') SERVER north OPTIONS (table_name 'part');
	CREATE FOREIGN TABLE parted_south PARTITION OF parted FOR VALUES IN ('s') SERVER south OPTIONS (table_name 'part');
	SELECT dualwrite.create_migration('p', 'world', 'parted', key_columns => '{region,id}', delivery => 'queued');
});
sub agrees
{
	my ($what) = @_;

	for my $table (qw(shard part))
	{
		is($far{north}->safe_psql('postgres', "SELECT * FROM $table ORDER BY 2"), sql(q{SELECT * FROM world WHERE region = 'n' ORDER BY 2}), "$what: $table north");
		is($far{south}->safe_psql('postgres', "SELECT * FROM $table ORDER BY 2"), sql(q{SELECT * FROM world WHERE region = 's' ORDER BY 2}), "$what: $table south");
	}
	is(differing('s') + differing('p'), 0, "$what: no drift");
}
for my $name (qw(s p))
{
	sql(qq{CALL dualwrite.run('$name', timeout => '10 min')});
}
agrees('copied');
sql(q{
	UPDATE world SET region = CASE region WHEN 'n' THEN 's' ELSE 'n' END WHERE id % 5 = 0;
	UPDATE world SET v = v || '!' WHERE id % 7 = 0;
	DELETE FROM world WHERE id % 11 = 0;
	INSERT INTO world SELECT 'n', g, 'late' FROM generate_series(2001, 2050) AS g;
});
delivered($_) for qw(s p);
agrees('rows that move between servers');

# one server away does not keep what is for the other one waiting
$far{south}->stop('immediate');
sql(q{
	UPDATE world SET v = 'while south is away' WHERE id BETWEEN 1 AND 200;
	UPDATE world SET region = CASE region WHEN 'n' THEN 's' ELSE 'n' END WHERE id BETWEEN 301 AND 310;
});
await(q{NOT EXISTS (SELECT FROM dualwrite.queue WHERE new_table = 'shard_north'::regclass OR new_table = 'parted'::regclass AND key->>'region' = 'n')});
is($far{north}->safe_psql('postgres', 'SELECT * FROM shard ORDER BY 2'), sql(q{SELECT * FROM world WHERE region = 'n' ORDER BY 2}),
	'shards: the other one goes on');
is($far{north}->safe_psql('postgres', 'SELECT * FROM part ORDER BY 2'), sql(q{SELECT * FROM world WHERE region = 'n' ORDER BY 2}),
	'partitions: the other one goes on');
$far{south}->start;
delivered($_) for qw(s p);
agrees('both back');

# drift on each of them is found by key, and repaired over there; each shard's by its own mapping
sub damage
{
	for my $server (['north', 'n'], ['south', 's'])
	{
		for my $table (qw(shard part))
		{
			$far{$server->[0]}->safe_psql('postgres', "DELETE FROM $table WHERE id IN (SELECT id FROM $table ORDER BY id LIMIT 2);
				UPDATE $table SET v = 'damaged' WHERE id IN (SELECT id FROM $table ORDER BY id LIMIT 3);
				INSERT INTO $table VALUES ('$server->[1]', 9001, 'extra')");
		}
	}
}
my $kinds = q{SELECT string_agg(format('%s missing, %s extra, %s different', missing, extra, different), '; ' ORDER BY new_table::text)};
damage();
is(sql("$kinds FROM dualwrite.reconcile('s')"), '2 missing, 1 extra, 3 different; 2 missing, 1 extra, 3 different', 'shards: drift on both servers');
is(sql("$kinds FROM dualwrite.reconcile('p')"), '4 missing, 2 extra, 6 different', 'partitions: drift on both servers');
is(sql(q{SELECT string_agg(DISTINCT key->>'region', ',' ORDER BY key->>'region') FROM dualwrite.drift WHERE migration = 'p' AND kind = 'extra'}), 'n,s',
	'partitions: by key');
is(sql(q{SELECT dualwrite.repair('s', new_table => 'shard_north')}), '6', 'shards: one is repaired');
is(differing('s'), '6', 'shards: and not the other one');
is(sql(q{SELECT dualwrite.repair('s') + dualwrite.repair('p')}), '18', 'shards and partitions: all are repaired');
agrees('repaired');
damage();
for my $name (qw(s p))
{
	sql(qq{SELECT dualwrite.configure('$name', 'reconcile_interval', '0'); SELECT dualwrite.configure('$name', 'reconcile_repair', 'on')});
	sql(qq{SELECT count(*) FROM dualwrite.reconcile('$name', background => true)});
}
await(q{NOT EXISTS (SELECT FROM _dualwrite.reconcile_pass WHERE finished_at IS NULL)});
is(sql(q{SELECT string_agg(k.repaired::text, ',' ORDER BY k.new_table::text) FROM (SELECT DISTINCT ON (h.new_table) h.new_table, h.repaired
	FROM dualwrite.drift_history h WHERE h.migration IN ('s', 'p') ORDER BY h.new_table, h.finished_at DESC) AS k}), '12,6,6', 'in the background as well');
agrees('repaired in the background');

$_->stop for $node, values %far;
done_testing();
