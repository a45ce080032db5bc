# Comparisons find nothing while eight writers change whatever they like, keys included: everything that is reported is real.
# Passes run all the time, complete ones and such of what has changed, by two workers, and beside them the foreground.
#
# DW_RECONCILE_SECONDS=3600 makes an hour of it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = int(($ENV{DW_RECONCILE_SECONDS} // 60) / 2);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'dualwrite'\nmax_worker_processes = 20\nautovacuum_naptime = 1\ndeadlock_timeout = 100ms");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION dualwrite;
CREATE TABLE a (id int PRIMARY KEY, t text, w int);
CREATE TABLE an (id bigint PRIMARY KEY, w int, t text, own int DEFAULT 1);
CREATE TABLE b (id int, g int, t text, w int, PRIMARY KEY (g, id)) PARTITION BY LIST (g);
CREATE TABLE b0 PARTITION OF b FOR VALUES IN (0);
CREATE TABLE b1 PARTITION OF b DEFAULT;
CREATE TABLE bn (id int, g int, t text, w int, PRIMARY KEY (id, g)) PARTITION BY HASH (id);
CREATE TABLE bn0 PARTITION OF bn FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE bn1 PARTITION OF bn FOR VALUES WITH (MODULUS 2, REMAINDER 1);

-- Anything that can happen to a row.  Whose key is taken by another one has to give way, as in any application.
CREATE FUNCTION write(tbl text, x int, y int, what int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE what
		WHEN 0, 1 THEN
			EXECUTE format('INSERT INTO %I (id, t, w) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', tbl) USING x, 'in' || y, y % 10;
		WHEN 2, 3, 4 THEN
			EXECUTE format('UPDATE %I SET t = $2, w = w + 1 WHERE id = $1', tbl) USING x, repeat('x', y % 3000);
		WHEN 5 THEN
			EXECUTE format('DELETE FROM %I WHERE id = $1', tbl) USING x;
		WHEN 6 THEN
			EXECUTE format('UPDATE %I SET id = $2 WHERE id = $1', tbl) USING x, y;
		WHEN 7 THEN
			EXECUTE format('WITH gone AS (DELETE FROM %I WHERE id = $1 RETURNING *) SELECT FROM gone', tbl) USING x;
			EXECUTE format('INSERT INTO %I (id, t, w) VALUES ($1, ''again'', $2)', tbl) USING x, y % 10;
		WHEN 8 THEN
			EXECUTE format('UPDATE %I SET w = w + 1 WHERE id BETWEEN $1 AND $1 + 5', tbl) USING x;
		WHEN 9 THEN
			EXECUTE format('INSERT INTO %I (id, t, w) SELECT g, ''many'', 5 FROM generate_series($1, $1 + 5) AS g ON CONFLICT DO NOTHING', tbl) USING x;
		WHEN 10 THEN
			BEGIN
				EXECUTE format('UPDATE %I SET w = -1 WHERE id = $1', tbl) USING x;
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN
				EXECUTE format('UPDATE %I SET w = w + 2 WHERE id = $1', tbl) USING y;
			END;
	END CASE;
EXCEPTION WHEN unique_violation THEN
	NULL;
END $$;
CREATE FUNCTION write_b(x int, y int, what int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE what % 5
		WHEN 0 THEN INSERT INTO b VALUES (x, y % 3, 'in', y % 10) ON CONFLICT DO NOTHING;
		WHEN 1 THEN UPDATE b SET w = (w + 1) % 10, t = 'up' WHERE id = x;
		WHEN 2 THEN DELETE FROM b WHERE id = x AND g = y % 3;
		WHEN 3 THEN UPDATE b SET g = (g + 1) % 3 WHERE id = x AND g = y % 3;
		WHEN 4 THEN UPDATE b SET id = y WHERE id = x;
	END CASE;
EXCEPTION WHEN unique_violation THEN
	NULL;
END $$;

INSERT INTO a SELECT g, 'a' || g, g FROM generate_series(1, 20000) AS g;
INSERT INTO b SELECT g, g % 3, 'b' || g, g % 10 FROM generate_series(1, 5000) AS g;
SELECT dualwrite.create_migration('a', 'a', 'an');
SELECT dualwrite.create_migration('b', 'b', 'bn', filter => 'w <> 7');
ALTER SYSTEM SET dualwrite.max_workers = 8;
ALTER SYSTEM SET dualwrite.reconcile_workers = 2;
ALTER SYSTEM SET dualwrite.reconcile_chunk_ms = 10;
ALTER SYSTEM SET dualwrite.throttle_max_active_per_core = 0;
ALTER SYSTEM SET dualwrite.throttle_max_lock_wait = 0;
SELECT pg_reload_conf();
SQL
$node->safe_psql('postgres', "CALL dualwrite.run('$_', timeout => '10 min')") for 'a', 'b';
$node->safe_psql('postgres', "SELECT dualwrite.configure('$_', 'reconcile_interval', '1 ms')") for 'a', 'b';

my $variables = "\\set x random_zipfian(1, 24000, 1.1)\n\\set y random(1, 24000)\n\\set what random(0, 10)\n";
my %script = (
	old => "${variables}SELECT write('a', :x, :y, :what);\n",
	new => "${variables}SELECT write('an', :x, :y, :what);\n",
	b => "\\set x random(1, 6000)\n\\set y random(1, 6000)\n\\set what random(0, 4)\nSELECT write_b(:x, :y, :what);\n",
	both => "${variables}BEGIN;\nSELECT write('a', :x, :y, :what);\nSELECT write_b(:x % 6000, :y % 6000, :what);\nCOMMIT;\n",
);
append_to_file($node->basedir . "/$_.pgbench", $script{$_}) for keys %script;

# Writers for a while; comparisons of all kinds meanwhile.  Returns how many the foreground made.
sub compare_under_load
{
	my ($duration, @scripts) = @_;
	my ($in, $out, $err, $made) = ('', '', '', 0);
	my $writers = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 8, '-T', $duration, '--max-tries=1000', (map { ('-f', $node->basedir . "/$_.pgbench") } @scripts), $node->connstr('postgres') ],
		'<', \$in, '>', \$out, '2>', \$err);

	# both kinds of comparison, however long one takes
	while ($writers->pumpable || $made < 2)
	{
		$writers->pump_nb if $writers->pumpable;
		$node->safe_psql('postgres', "SELECT dualwrite.configure('$_', 'reconcile_full_interval', '" . ($made % 2 ? '1 day' : '0') . "')") for 'a', 'b';
		# so many by the interval in between
		my $id = $node->safe_psql('postgres', 'SELECT max(id) FROM _dualwrite.reconcile_pass');
		$node->poll_query_until('postgres', "SELECT count(*) > 8 FROM _dualwrite.reconcile_pass WHERE finished_at IS NOT NULL AND id > $id")
			or die 'no comparison ends';
		is($node->safe_psql('postgres', "SELECT sum(missing + extra + different) FROM dualwrite.reconcile('a')"), '0', 'in the foreground')
			if $made++ % 10 == 0;
	}
	$writers->finish;
	ok(!$writers->result && $err !~ /aborted/, 'nothing but retries happened to the writers') or diag($err);
	is($node->safe_psql('postgres', "SELECT coalesce(string_agg(row(d.*)::text, '; '), '') FROM dualwrite.drift d"), '', 'no drift was ever reported');
	is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT kind, ', ' ORDER BY kind) FROM dualwrite.drift_history WHERE NOT (missing + extra + different > 0)"),
		'full, incremental', 'by comparisons of both kinds');
	return $made;
}

cmp_ok(compare_under_load($seconds, 'old', 'b', 'both'), '>', 0, 'phase verify');
is($node->safe_psql('postgres', "SELECT dualwrite.advance('a')"), 'read_switch', 'both sides are written from now on');
cmp_ok(compare_under_load($seconds, 'old', 'new', 'b', 'both'), '>', 0, 'phase read_switch');

# the same comparisons would have seen it
$node->safe_psql('postgres', q{SET session_replication_role = replica; ALTER TABLE an DISABLE TRIGGER USER; UPDATE an SET w = -7 WHERE id = (SELECT min(id) FROM an)});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM dualwrite.drift WHERE kind = 'different'}) or die 'what differs is not found';
pass('what differs is found');
note($node->safe_psql('postgres', "SELECT kind, count(*), sum(rows_compared) FROM dualwrite.drift_history GROUP BY 1"));

$node->stop;
done_testing();
