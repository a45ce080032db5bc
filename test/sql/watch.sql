-- Settings, and what the views show. No worker's doings are shown here: their time is their own.
\set VERBOSITY default
CREATE TABLE watch_old (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE watch_new (id bigint PRIMARY KEY, name text NOT NULL CHECK (name <> 'bad'));
INSERT INTO watch_old SELECT g, 'n' || g FROM generate_series(1, 5) g;
SELECT dualwrite.create_migration('watch', 'watch_old', 'watch_new');

-- every setting, with its default
SET dualwrite.reconcile_share = 25;
SET dualwrite.reconcile_nice = 19;
SELECT setting, value, default_value, unit FROM dualwrite.settings ORDER BY setting;
SELECT count(*) FROM dualwrite.settings WHERE meaning IS NULL OR meaning = '';

-- one migration's own value, and back
SELECT dualwrite.configure('watch', 'gate_soak', '2 hours');
SELECT dualwrite.configure(migration => 'watch', setting => 'throttle_max_wal_rate', value => '64MB');
SELECT dualwrite.configure('watch', 'mirror_on_error', 'queue');
SELECT migration, setting, value, default_value FROM dualwrite.settings WHERE migration IS NOT NULL ORDER BY setting;
SELECT dualwrite.configure('watch', 'gate_soak', NULL);
SELECT dualwrite.configure('watch', 'gate_soak', NULL);
SELECT dualwrite.configure('watch', 'throttle_max_wal_rate', NULL);
SELECT dualwrite.configure('watch', 'mirror_on_error', NULL);
SELECT count(*) FROM dualwrite.settings WHERE migration IS NOT NULL;
SELECT actor = current_user AS by_me, event, detail FROM dualwrite.events WHERE migration = 'watch' AND event = 'configure' LIMIT 4;

-- what is no setting, or no value of one
SELECT dualwrite.configure('watch', 'gate_soap', '1 day');
SELECT dualwrite.configure('watch', NULL, '1 day');
SELECT dualwrite.configure('watch', 'gate_soak', 'a fortnight');
SELECT dualwrite.configure('watch', 'gate_soak', '-1 day');
SELECT dualwrite.configure('watch', 'gate_soak', '');
SELECT dualwrite.configure('watch', 'backfill_batch_ms', 'fast');
SELECT dualwrite.configure('watch', 'backfill_batch_ms', '0');
SELECT dualwrite.configure('watch', 'backfill_batch_ms', '99999999999');
SELECT dualwrite.configure('watch', 'throttle_max_wal_rate', '64 parsecs');
SELECT dualwrite.configure('watch', 'drift_alert_rate', '2');
SELECT dualwrite.configure('watch', 'drift_alert_rate', 'NaN');
SELECT dualwrite.configure('watch', 'reconcile_repair', 'perhaps');
SELECT dualwrite.configure('watch', 'mirror_on_error', 'ignore');
SELECT dualwrite.configure('watch', 'reconcile_share', '0');
SELECT dualwrite.configure('watch', 'reconcile_share', '101');
SELECT dualwrite.configure('watch', 'reconcile_share', 'half');
SELECT dualwrite.configure('watch', 'reconcile_nice', '20');
SELECT dualwrite.configure('watch', 'reconcile_nice', '-1');
SELECT dualwrite.configure('watch', 'max_workers', '2');
SELECT dualwrite.configure('nowhere', 'gate_soak', '1 day');
SELECT dualwrite.configure(NULL, 'gate_soak', '1 day');
SELECT count(*) FROM dualwrite.settings WHERE migration IS NOT NULL;

-- the server-wide values are settings of the server
SET dualwrite.gate_soak = '3 days';
SET dualwrite.drift_alert_rate = 0.0002;
SELECT setting, value, default_value FROM dualwrite.settings WHERE value <> default_value ORDER BY setting;
SET dualwrite.gate_soak = 'soon';
SET dualwrite.reconcile_repair = 'perhaps';
SET dualwrite.gate_soap = 1;
SET dualwrite.reconcile_share = 0;
SET dualwrite.reconcile_nice = 20;
RESET dualwrite.gate_soak;
RESET dualwrite.drift_alert_rate;
SHOW dualwrite.gate_soak;
SET dualwrite.read_side = 'both';

-- somebody else's migration
CREATE ROLE watch_stranger;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dualwrite TO watch_stranger;
SET ROLE watch_stranger;
SELECT dualwrite.configure('watch', 'gate_soak', '0');
SELECT dualwrite.reset_stats('watch');
SET dualwrite.gate_soak = '0';
SET dualwrite.read_side = 'new';
RESET dualwrite.read_side;
RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA dualwrite FROM watch_stranger;
DROP ROLE watch_stranger;

-- columns of the views
SELECT c.relname AS view, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'dualwrite'::regnamespace AND c.relname IN
	('status', 'progress', 'drift', 'drift_summary', 'mirror_stats', 'queue', 'dead_letters', 'events', 'workers', 'mappings', 'settings')
GROUP BY c.relname ORDER BY c.relname;

-- a migration that has only been defined
SELECT migration, phase, truth, reads, backfill_percent, open_drift, queued, dead, paused FROM dualwrite.status;
SELECT * FROM dualwrite.progress;
SELECT * FROM dualwrite.workers;
SELECT * FROM dualwrite.drift_summary;
\x
SELECT * FROM dualwrite.mappings;
\x

-- counters: of what was committed, and of failures
SELECT dualwrite.advance('watch');
SELECT dualwrite.advance('watch');
INSERT INTO watch_old VALUES (10, 'ten'), (11, 'eleven');
UPDATE watch_old SET name = 'zehn' WHERE id = 10;
DELETE FROM watch_old WHERE id = 11;
BEGIN;
INSERT INTO watch_old VALUES (12, 'twelve');
ROLLBACK;
BEGIN;
INSERT INTO watch_old VALUES (13, 'thirteen');
SAVEPOINT s;
INSERT INTO watch_old VALUES (14, 'fourteen');
ROLLBACK TO s;
SAVEPOINT t;
INSERT INTO watch_old VALUES (15, 'fifteen');
RELEASE t;
COMMIT;
\set VERBOSITY terse
INSERT INTO watch_old VALUES (16, 'bad');
\set VERBOSITY default
-- a server-wide value that compiled mappings hold counts at once
SET dualwrite.mirror_on_error = 'queue';
INSERT INTO watch_old VALUES (17, 'bad');
SELECT key, sqlstate, message FROM dualwrite.queue WHERE migration = 'watch';
RESET dualwrite.mirror_on_error;
\set VERBOSITY terse
INSERT INTO watch_old VALUES (18, 'bad');
\set VERBOSITY default
SELECT old_table, new_table, direction, inserts, updates, deletes, failed, queued, total_ms > 0 AS timed,
	p50_us > 0 AND p50_us <= p99_us AS percentiles, since < now() AS since
FROM dualwrite.mirror_stats WHERE migration = 'watch';
SELECT dualwrite.reset_stats('watch');
SELECT direction, inserts, updates, deletes, failed, queued, total_ms, p50_us, p99_us FROM dualwrite.mirror_stats WHERE migration = 'watch';

SELECT dualwrite.rollback('watch', 'defined');
SELECT dualwrite.drop_migration('watch');
SELECT event FROM dualwrite.events WHERE migration = 'watch' GROUP BY event ORDER BY event;
DROP TABLE watch_old, watch_new;
