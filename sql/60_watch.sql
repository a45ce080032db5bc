/*
 * What users watch.  The views belong to the extension's owner and read its tables for whoever may read the view.
 * Values of user rows are shown only to those who may read them where they come from.
 */
CREATE FUNCTION dualwrite.configure(migration text, setting text, value text) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_configure_sql';
COMMENT ON FUNCTION dualwrite.configure(text, text, text) IS
	'gives a setting its value for one migration; NULL goes back to the server-wide one. See dualwrite.settings for names, units and meaning';

CREATE FUNCTION dualwrite.reset_stats(migration text) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_reset_stats_sql';
COMMENT ON FUNCTION dualwrite.reset_stats(text) IS
	'sets the counters of dualwrite.mirror_stats to zero for one migration';

CREATE FUNCTION _dualwrite.setting_list(OUT setting text, OUT value text, OUT default_value text, OUT unit text, OUT meaning text)
	RETURNS SETOF record
	LANGUAGE c STABLE
	AS 'MODULE_PATHNAME', 'dw_setting_list_sql';
COMMENT ON FUNCTION _dualwrite.setting_list() IS 'server-wide settings of dualwrite';

CREATE FUNCTION _dualwrite.mirror_counters(mapping_id int, direction text, OUT inserts bigint, OUT updates bigint,
		OUT deletes bigint, OUT skipped bigint, OUT failed bigint, OUT queued bigint, OUT total_ms double precision,
		OUT p50_us double precision, OUT p99_us double precision, OUT since timestamptz, OUT own_ms double precision,
		OUT own_p50_us double precision, OUT own_p99_us double precision) RETURNS SETOF record
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'dw_mirror_counters_sql';
COMMENT ON FUNCTION _dualwrite.mirror_counters(int, text) IS 'counters of one direction of a mapping; no row where nothing was counted';

CREATE FUNCTION _dualwrite.worker_list(OUT pid int, OUT migration_id int, OUT role text, OUT state text, OUT since timestamptz)
	RETURNS SETOF record
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_worker_list_sql';
COMMENT ON FUNCTION _dualwrite.worker_list() IS 'processes of this database, wanted or running, from shared memory';

CREATE FUNCTION _dualwrite.origin() RETURNS text
	LANGUAGE c STABLE
	AS 'MODULE_PATHNAME', 'dw_origin_sql';
COMMENT ON FUNCTION _dualwrite.origin() IS 'tells this database from the one that a dump came from: system identifier and database';

CREATE FUNCTION _dualwrite.may_read(relation oid) RETURNS boolean
	LANGUAGE sql STABLE
	RETURN COALESCE((has_table_privilege(relation, 'SELECT')
			OR (has_table_privilege(relation, 'SELECT') IS NOT NULL
				AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
					AND NOT has_column_privilege(relation, a.attnum, 'SELECT'))))
		AND NOT row_security_active(relation), false);
COMMENT ON FUNCTION _dualwrite.may_read(oid) IS 'may the caller see every column of every row of this table?';

CREATE FUNCTION _dualwrite.bar(percent numeric) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT
	RETURN '[' || repeat('#', floor(percent / 5)::int) || repeat('.', 20 - floor(percent / 5)::int) || ']';
COMMENT ON FUNCTION _dualwrite.bar(numeric) IS 'a percentage as twenty characters';

/*
 * Share of the backfill done, by blocks: exact, and independent of statistics.  Rows are estimated: of each range by what
 * was read of it where that is enough to go by, else by the statistics, else like the other ranges; NULL where there is
 * nothing to go by.
 */
CREATE VIEW _dualwrite.backfill_progress AS
	SELECT h.mapping_id,
		bool_and(h.finished) AS finished,
		sum(h.blocks_done) AS blocks_done,
		sum(h.blocks) AS blocks,
		sum(h.rows_done)::bigint AS rows_done,
		(sum(h.rows_total) + coalesce(sum(h.blocks) FILTER (WHERE h.rows_total IS NULL), 0)
			* CASE WHEN bool_and(h.rows_total IS NOT NULL) THEN 0
				WHEN sum(h.blocks_done) >= 10 THEN sum(h.rows_done) / sum(h.blocks_done) END)::bigint AS rows_total,
		min(h.started_at) AS started_at,
		max(h.updated_at) AS updated_at,
		ARRAY(SELECT DISTINCT t FROM _dualwrite.backfill o, unnest(o.throttled_by) AS t
			WHERE o.mapping_id = h.mapping_id AND o.finished_at IS NULL ORDER BY t) AS throttled_by
	FROM (
		SELECT b.mapping_id, b.end_block - b.first_block AS blocks, b.rows_done, b.started_at,
			b.finished_at IS NOT NULL AS finished,
			coalesce(b.finished_at, b.updated_at) AS updated_at,
			CASE WHEN b.finished_at IS NULL THEN least(b.next_block, b.end_block) ELSE b.end_block END - b.first_block AS blocks_done,
			CASE
				WHEN b.finished_at IS NOT NULL OR b.next_block >= b.end_block THEN b.rows_done
				WHEN b.next_block >= b.first_block + 10 THEN b.rows_done * ((b.end_block - b.first_block)::numeric / (b.next_block - b.first_block))
				WHEN c.reltuples >= 0 AND c.relpages > 0 THEN (c.reltuples::numeric / c.relpages) * (b.end_block - b.first_block)
			END AS rows_total
		FROM _dualwrite.backfill b LEFT JOIN pg_class c ON c.oid = b.heap) h
	GROUP BY h.mapping_id;

CREATE VIEW dualwrite.status AS
	SELECT g.name AS migration, g.phase, g.phase_since,
		CASE WHEN g.phase IN ('cutover', 'complete') THEN 'new' ELSE 'old' END AS truth,
		CASE
			WHEN g.phase IN ('cutover', 'complete') OR g.phase = 'read_switch' AND g.read_percent = 100 THEN 'new'
			WHEN g.phase = 'read_switch' AND g.read_percent > 0 THEN trim_scale(g.read_percent) || ' % new'
			ELSE 'old'
		END AS reads,
		CASE WHEN g.phase NOT IN ('defined', 'shadow', 'dual_write') THEN b.percent END AS backfill_percent,
		CASE WHEN d.compared OR d.open > 0 THEN d.open END AS open_drift,
		q.waiting + r.waiting AS queued,
		q.dead,
		_dualwrite.blocked_by(g.name) AS blocked_by,
		_dualwrite.next_step(g.name) AS next_step,
		g.paused OR (g.phase NOT IN ('defined', 'complete') AND g.origin <> _dualwrite.origin()) AS paused
	FROM _dualwrite.migration g
	CROSS JOIN LATERAL (
		SELECT CASE WHEN bool_and(p.finished) THEN 100
				WHEN count(*) > 0 THEN trim_scale(round(least(100.0 * sum(p.blocks_done) / nullif(sum(p.blocks), 0), 99.9), 1))
			END AS percent
		FROM _dualwrite.mapping m JOIN _dualwrite.backfill_progress p ON p.mapping_id = m.id
		WHERE m.migration_id = g.id) b
	CROSS JOIN LATERAL (
		SELECT count(*) FILTER (WHERE NOT e.dead) AS waiting, count(*) FILTER (WHERE e.dead) AS dead
		FROM _dualwrite.mapping m JOIN _dualwrite.queue e ON e.mapping_id = m.id
		WHERE m.migration_id = g.id) q
	CROSS JOIN LATERAL (
		SELECT count(*) AS waiting FROM _dualwrite.mapping m JOIN _dualwrite.recheck e ON e.mapping_id = m.id
		WHERE m.migration_id = g.id) r
	CROSS JOIN LATERAL (
		SELECT coalesce(sum((SELECT count(*) FROM _dualwrite.drift f WHERE f.mapping_id = m.id AND f.state = 'open')
				+ (SELECT coalesce(sum(cardinality(b.keys)), 0) FROM _dualwrite.drift_bundle b WHERE b.mapping_id = m.id AND b.settled)), 0)::bigint AS open,
			bool_and(EXISTS (SELECT FROM _dualwrite.reconcile_pass p WHERE p.mapping_id = m.id AND p.finished_at IS NOT NULL
				AND p.started_at >= coalesce((SELECT max(s.started_at) FROM _dualwrite.backfill s WHERE s.mapping_id = m.id), '-infinity'))) AS compared
		FROM _dualwrite.mapping m WHERE m.migration_id = g.id) d
	ORDER BY g.name;

/* Rows of a table with its partitions, by the statistics; NULL where there are none. */
CREATE FUNCTION _dualwrite.estimated_rows(relation oid) RETURNS double precision
	LANGUAGE sql STABLE
	RETURN (SELECT CASE WHEN bool_and(c.reltuples >= 0) THEN sum(c.reltuples) END FROM pg_class c
		WHERE c.relkind NOT IN ('p', 'I')
			AND (c.oid = relation OR c.oid IN (SELECT t.relid FROM pg_partition_tree(relation) t)));
COMMENT ON FUNCTION _dualwrite.estimated_rows(oid) IS 'rows of a table with its partitions, by the statistics';

/* The comparison under way of each mapping, else the last one. */
CREATE VIEW _dualwrite.reconcile_progress AS
	SELECT DISTINCT ON (p.mapping_id) p.mapping_id, p.finished_at IS NOT NULL AS finished, p.rows_compared, p.started_at, p.updated_at,
		CASE WHEN p.finished_at IS NOT NULL THEN p.rows_compared ELSE e.rows END AS rows_total,
		CASE
			WHEN p.finished_at IS NOT NULL THEN 100
			WHEN p.stage = 'begin' THEN 0
			WHEN p.stage <> 'compare' THEN 99
			WHEN p.in_step THEN round(least(100.0 * p.rows_compared / nullif(e.rows, 0), 98.9), 1)
			ELSE least(round(100.0 - 100.0 * (SELECT count(*) FROM _dualwrite.reconcile_range r WHERE r.pass = p.id) / greatest(p.ranges, 1), 1), 98.9)
		END AS percent,
		p.finished_at IS NULL AND p.stage = 'compare' AS steady,
		CASE WHEN p.finished_at IS NULL THEN p.throttled_by ELSE '{}' END AS throttled_by
	FROM _dualwrite.reconcile_pass p
	JOIN _dualwrite.mapping m ON m.id = p.mapping_id
	CROSS JOIN LATERAL (SELECT CASE WHEN p.sample_percent > 0
		THEN greatest(_dualwrite.estimated_rows(m.old_table) * p.sample_percent::float8 / 100, p.rows_compared)::bigint END AS rows) e
	WHERE p.background OR p.finished_at IS NOT NULL
	ORDER BY p.mapping_id, p.finished_at IS NOT NULL, p.id DESC;

/*
 * How far each ANALYZE of this database has come with the table, or partition, in hand.  Runs as the extension's owner: what
 * a process of another role is at is not for everybody to see, and these are numbers.
 */
CREATE FUNCTION _dualwrite.analyze_progress(OUT relation oid, OUT percent numeric) RETURNS SETOF record
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	BEGIN ATOMIC
		SELECT a.relid, CASE
				WHEN a.phase = 'acquiring inherited sample rows' THEN
					round((a.child_tables_done + coalesce(a.sample_blks_scanned / nullif(a.sample_blks_total, 0)::numeric, 0))
						* 90 / greatest(a.child_tables_total, a.child_tables_done + 1), 1)
				WHEN a.phase = 'acquiring sample rows' THEN coalesce(round(90.0 * a.sample_blks_scanned / nullif(a.sample_blks_total, 0), 1), 0)
				WHEN a.phase LIKE 'computing%' THEN 90
				WHEN a.phase = 'finalizing analyze' THEN 99
				ELSE 0
			END
		FROM pg_stat_progress_analyze a WHERE a.datname = current_database() AND a.relid IS NOT NULL;
	END;
COMMENT ON FUNCTION _dualwrite.analyze_progress() IS 'tables of this database that are being analyzed, and the share done';

/*
 * The same for CREATE INDEX.  A concurrent build reads the table twice: once to build, once to find what was written
 * meanwhile, and waits for others in between and at the end.
 */
CREATE FUNCTION _dualwrite.build_progress(OUT pid int, OUT relation oid, OUT percent numeric) RETURNS SETOF record
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	BEGIN ATOMIC
		SELECT p.pid, p.relid, round(CASE
				WHEN p.phase = 'building index: scanning table' THEN 50 * b.done
				WHEN p.phase LIKE 'building index%' THEN 50 + 10 * coalesce(p.tuples_done / nullif(p.tuples_total, 0)::numeric, 0)
				WHEN p.phase = 'waiting for writers before validation' THEN 60
				WHEN p.phase = 'index validation: scanning index' THEN 60 + 10 * b.done
				WHEN p.phase = 'index validation: sorting tuples' THEN 70
				WHEN p.phase = 'index validation: scanning table' THEN 70 + 29 * b.done
				WHEN p.phase = 'waiting for old snapshots' THEN 99
				ELSE 0
			END, 1)
		FROM pg_stat_progress_create_index p
		CROSS JOIN LATERAL (SELECT coalesce(p.blocks_done / nullif(p.blocks_total, 0)::numeric, 0)) AS b (done)
		WHERE p.datname = current_database() AND p.relid IS NOT NULL;
	END;
COMMENT ON FUNCTION _dualwrite.build_progress() IS 'tables of this database for which an index is being built, and the share done';

/* Indexes that were taken away, by new table, while one of them is not there again or the table is not analyzed since. */
CREATE VIEW _dualwrite.index_progress AS
	SELECT a.migration_id, a.new_table, bool_and(a.built_at IS NOT NULL) AS built,
		trim_scale(round((100.0 * count(a.built_at) + coalesce(max(b.percent) FILTER (WHERE a.built_at IS NULL), 0)) / count(*), 1)) AS percent
	FROM _dualwrite.index_away a
	JOIN pg_class c ON c.oid = a.new_table
	LEFT JOIN _dualwrite.build_progress() b ON b.relation = a.new_table AND b.pid = a.pid
	GROUP BY a.migration_id, a.new_table
	HAVING bool_or(a.analyzed_at IS NULL);

CREATE VIEW dualwrite.progress AS
	SELECT s.migration, s.old_table, s.new_table, s.stage, s.rows_done, s.rows_total, s.percent,
		CASE WHEN s.seconds > 0 THEN round((s.rows_done / s.seconds)::numeric) END AS rows_per_second,
		CASE WHEN s.moving AND s.seconds >= 2 AND s.percent > 0 AND s.percent < 100
			THEN date_trunc('second', clock_timestamp() + make_interval(secs => s.seconds * ((100 - s.percent) / s.percent)::float8)) END AS eta,
		s.throttled_by,
		_dualwrite.bar(s.percent) AS bar
	FROM (
		SELECT g.name AS migration, m.old_table, m.new_table, m.ordinal, coalesce(w.stage, 'backfill') AS stage, p.rows_done, p.rows_total,
			CASE WHEN w.stage IS NOT NULL THEN w.percent WHEN p.finished THEN 100
				ELSE trim_scale(round(least(100.0 * p.blocks_done / nullif(p.blocks, 0), 99.9), 1)) END AS percent,
			extract(epoch FROM CASE WHEN p.finished THEN p.updated_at ELSE clock_timestamp() END - p.started_at)::float8 AS seconds,
			NOT g.paused AND NOT p.finished AND w.stage IS NULL AND p.updated_at > clock_timestamp() - interval '1 minute' AS moving,
			p.throttled_by
		FROM _dualwrite.migration g
		JOIN _dualwrite.mapping m ON m.migration_id = g.id
		JOIN _dualwrite.backfill_progress p ON p.mapping_id = m.id
		LEFT JOIN _dualwrite.index_progress i ON i.migration_id = g.id AND i.new_table = m.new_table AND p.finished
		/* a mapping is closed together with the ANALYZE, when every block is read; or that comes after its indexes */
		LEFT JOIN LATERAL (SELECT trim_scale(max(n.percent)) AS percent FROM _dualwrite.analyze_progress() n
			WHERE n.relation = m.new_table OR n.relation IN (SELECT t.relid FROM pg_partition_tree(m.new_table) t)) a
			ON CASE WHEN p.finished THEN i.built ELSE p.blocks_done >= p.blocks END
		LEFT JOIN LATERAL (SELECT CASE WHEN a.percent IS NOT NULL OR i.built THEN 'analyze' ELSE 'indexes' END AS stage,
				CASE WHEN a.percent IS NOT NULL OR i.built THEN coalesce(a.percent, 0) ELSE i.percent END AS percent) w
			ON a.percent IS NOT NULL OR i.built IS NOT NULL
		WHERE g.phase = 'backfill'
		UNION ALL
		SELECT g.name, m.old_table, m.new_table, m.ordinal, 'reconcile', p.rows_compared, p.rows_total, trim_scale(p.percent),
			extract(epoch FROM CASE WHEN p.finished THEN p.updated_at ELSE clock_timestamp() END - p.started_at)::float8,
			NOT g.paused AND p.steady AND p.updated_at > clock_timestamp() - interval '1 minute',
			p.throttled_by
		FROM _dualwrite.migration g
		JOIN _dualwrite.mapping m ON m.migration_id = g.id
		JOIN _dualwrite.reconcile_progress p ON p.mapping_id = m.id
		WHERE g.phase IN ('verify', 'read_switch', 'cutover')
	) s
	ORDER BY s.migration, s.ordinal;

/* Migrations whose tables the reader may see, every row of them. */
CREATE VIEW _dualwrite.visible_migration AS
	SELECT g.name AS migration FROM _dualwrite.migration g
	WHERE NOT EXISTS (SELECT FROM _dualwrite.mapping m WHERE m.migration_id = g.id
		AND NOT (_dualwrite.may_read(m.old_table) AND _dualwrite.may_read(m.new_table)));

/* Mappings with what their reader may see: asked once a mapping, not once a row. */
CREATE VIEW _dualwrite.visible_mapping AS
	SELECT m.id, g.name AS migration, m.ordinal, m.old_table, m.new_table,
		_dualwrite.may_read(m.old_table) AND _dualwrite.may_read(m.new_table) AS visible
	FROM _dualwrite.mapping m JOIN _dualwrite.migration g ON g.id = m.migration_id
	OFFSET 0;

CREATE VIEW dualwrite.drift AS
	SELECT m.migration, m.old_table, m.new_table,
		CASE WHEN m.visible THEN d.key END AS key,
		d.kind, d.columns,
		CASE WHEN m.visible THEN d.old_values END AS old_values,
		CASE WHEN m.visible THEN d.new_values END AS new_values,
		d.detected_at, d.state, d.closed_at,
		CASE WHEN m.visible THEN d.reason END AS reason
	FROM _dualwrite.drift d JOIN _dualwrite.visible_mapping m ON m.id = d.mapping_id
	UNION ALL
	SELECT m.migration, m.old_table, m.new_table, CASE WHEN m.visible THEN k.key END, b.kind,
		CASE WHEN b.kind <> 'different' THEN '{}'::text[] END, NULL, NULL, b.detected_at, 'open', NULL, NULL
	FROM _dualwrite.drift_bundle b JOIN _dualwrite.visible_mapping m ON m.id = b.mapping_id, unnest(b.keys) AS k (key)
	WHERE b.settled;

CREATE VIEW dualwrite.drift_summary AS
	SELECT g.name AS migration, m.old_table, m.new_table, p.finished_at AS last_pass_at, p.rows_compared,
		CASE WHEN p.id IS NOT NULL OR o.total > 0 THEN o.missing END AS missing,
		CASE WHEN p.id IS NOT NULL OR o.total > 0 THEN o.extra END AS extra,
		CASE WHEN p.id IS NOT NULL OR o.total > 0 THEN o.different END AS different,
		r.drift_rate,
		coalesce(r.drift_rate > r.alert_rate, false) AS alert
	FROM _dualwrite.migration g
	JOIN _dualwrite.mapping m ON m.migration_id = g.id
	LEFT JOIN LATERAL (
		SELECT p.id, p.finished_at, p.rows_compared, greatest(p.rows_compared, p.rows_total) AS rows_total FROM _dualwrite.reconcile_pass p
		WHERE p.mapping_id = m.id AND p.finished_at IS NOT NULL ORDER BY p.id DESC LIMIT 1) p ON true
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(d.keys) FILTER (WHERE d.kind = 'missing'), 0)::bigint AS missing,
			coalesce(sum(d.keys) FILTER (WHERE d.kind = 'extra'), 0)::bigint AS extra,
			coalesce(sum(d.keys) FILTER (WHERE d.kind = 'different'), 0)::bigint AS different,
			coalesce(sum(d.keys), 0)::bigint AS total
		FROM (SELECT f.kind, count(*) AS keys FROM _dualwrite.drift f WHERE f.mapping_id = m.id AND f.state = 'open' GROUP BY f.kind
			UNION ALL
			SELECT b.kind, sum(cardinality(b.keys)) FROM _dualwrite.drift_bundle b WHERE b.mapping_id = m.id AND b.settled GROUP BY b.kind) d) o
	CROSS JOIN LATERAL (
		SELECT CASE WHEN p.id IS NOT NULL THEN trim_scale(round(o.total / greatest(p.rows_total, 1)::numeric, 12)) END AS drift_rate,
			coalesce((SELECT s.value FROM _dualwrite.setting s WHERE s.migration_id = g.id AND s.setting = 'drift_alert_rate'),
				(SELECT l.value FROM _dualwrite.setting_list() l WHERE l.setting = 'drift_alert_rate'))::numeric AS alert_rate) r
	ORDER BY g.name, m.ordinal;

CREATE VIEW dualwrite.drift_history AS
	SELECT g.name AS migration, m.old_table, m.new_table, p.started_at, p.finished_at,
		CASE p.sample_percent WHEN 100 THEN 'full' WHEN 0 THEN 'incremental' ELSE 'sample' END AS kind,
		p.rows_compared, p.missing, p.extra, p.different, p.repaired,
		trim_scale(round((p.missing + p.extra + p.different) / greatest(p.rows_compared, p.rows_total, 1)::numeric, 12)) AS drift_rate
	FROM _dualwrite.reconcile_pass p
	JOIN _dualwrite.mapping m ON m.id = p.mapping_id
	JOIN _dualwrite.migration g ON g.id = m.migration_id
	WHERE p.finished_at IS NOT NULL
	ORDER BY p.id;

CREATE VIEW dualwrite.mirror_stats AS
	SELECT g.name AS migration, m.old_table, m.new_table, d.direction,
		coalesce(c.inserts, 0) AS inserts, coalesce(c.updates, 0) AS updates, coalesce(c.deletes, 0) AS deletes,
		coalesce(c.skipped, 0) AS skipped, coalesce(c.failed, 0) AS failed, coalesce(c.queued, 0) AS queued,
		coalesce(c.total_ms, 0) AS total_ms, c.p50_us, c.p99_us, c.since,
		coalesce(c.own_ms, 0) AS own_ms, c.own_p50_us, c.own_p99_us
	FROM _dualwrite.migration g
	JOIN _dualwrite.mapping m ON m.migration_id = g.id
	CROSS JOIN (VALUES (1, 'forward'), (2, 'reverse')) AS d (ordinal, direction)
	LEFT JOIN LATERAL _dualwrite.mirror_counters(m.id, d.direction) c ON true
	WHERE c.since IS NOT NULL OR d.direction = 'forward' OR g.phase IN ('read_switch', 'cutover')
	ORDER BY g.name, m.ordinal, d.ordinal;

CREATE VIEW dualwrite.queue AS
	SELECT m.migration, m.old_table, m.new_table,
		CASE WHEN m.visible THEN q.key END AS key,
		q.enqueued_at, q.attempts, q.next_attempt_at, q.sqlstate,
		CASE WHEN m.visible THEN q.message END AS message,
		q.direction
	FROM _dualwrite.queue q JOIN _dualwrite.visible_mapping m ON m.id = q.mapping_id
	WHERE NOT q.dead;

CREATE VIEW dualwrite.dead_letters AS
	SELECT m.migration, m.old_table, m.new_table,
		CASE WHEN m.visible THEN q.key END AS key,
		q.enqueued_at, q.attempts, q.next_attempt_at, q.sqlstate,
		CASE WHEN m.visible THEN q.message END AS message,
		q.direction
	FROM _dualwrite.queue q JOIN _dualwrite.visible_mapping m ON m.id = q.mapping_id
	WHERE q.dead;

CREATE VIEW dualwrite.events AS
	SELECT e.migration, e.occurred_at, e.actor, e.event, e.from_phase, e.to_phase, e.waived, e.reason,
		CASE WHEN NOT e.detail ? 'key' OR e.migration IN (SELECT v.migration FROM _dualwrite.visible_migration v)
				/* tables may be gone: who owns the extension reads it all anyway */
				OR pg_has_role(current_user, (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = '_dualwrite'), 'USAGE')
			THEN e.detail ELSE e.detail || '{"key": null}' END AS detail
	FROM _dualwrite.event e
	ORDER BY e.id;

CREATE VIEW dualwrite.workers AS
	SELECT w.pid, g.name AS migration, coalesce(w.role, 'worker') AS role, coalesce(w.state, 'stopped') AS state,
		CASE
			WHEN w.role = 'backfill' THEN (SELECT string_agg(format('%s: block %s of %s', b.heap, b.next_block, b.end_block), ', ' ORDER BY b.ordinal, b.heap, b.first_block)
				FROM _dualwrite.backfill b JOIN _dualwrite.mapping m ON m.id = b.mapping_id
				WHERE m.migration_id = g.id AND b.finished_at IS NULL AND b.next_block < b.end_block AND b.pid = w.pid)
			WHEN w.role = 'reconcile' THEN (SELECT CASE WHEN p.throttled_by <> '{}' AND p.throttled_by <> '{share}' THEN 'waits: ' || array_to_string(p.throttled_by, ', ')
					ELSE format('%s: %s rows compared%s%s', m.old_table, p.rows_compared,
						CASE p.sample_percent WHEN 0 THEN ' of those that have changed' ELSE '' END,
						CASE WHEN p.throttled_by = '{share}' THEN ', makes way for sessions (reconcile_share)' ELSE '' END) END
				FROM _dualwrite.reconcile_pass p JOIN _dualwrite.mapping m ON m.id = p.mapping_id
				WHERE m.migration_id = g.id AND p.finished_at IS NULL AND p.background AND p.epoch = g.epoch ORDER BY p.id LIMIT 1)
			WHEN w.role = 'queue' THEN (SELECT format('%s keys queued', count(*))
				FROM _dualwrite.queue q JOIN _dualwrite.mapping m ON m.id = q.mapping_id WHERE m.migration_id = g.id AND NOT q.dead)
			WHEN w.role = 'indexes' THEN (SELECT format('%s: builds %I', i.new_table, i.index_name) FROM _dualwrite.index_away i
				JOIN pg_class c ON c.oid = i.new_table WHERE i.migration_id = g.id AND i.built_at IS NULL AND i.pid = w.pid ORDER BY i.started_at DESC LIMIT 1)
		END AS doing,
		w.since, CASE WHEN g.name IN (SELECT v.migration FROM _dualwrite.visible_migration v) THEN e.last_error END AS last_error, e.last_error_at
	FROM _dualwrite.migration g
	LEFT JOIN _dualwrite.worker_list() w ON w.migration_id = g.id
	LEFT JOIN LATERAL (
		SELECT k.last_error, k.last_error_at FROM _dualwrite.worker k WHERE k.migration_id = g.id
		UNION ALL
		SELECT i.message, i.started_at FROM _dualwrite.index_away i JOIN pg_class c ON c.oid = i.new_table
		WHERE i.migration_id = g.id AND i.built_at IS NULL AND i.failures > 0
		ORDER BY 2 DESC NULLS LAST LIMIT 1) e ON true
	WHERE w.migration_id IS NOT NULL OR g.phase NOT IN ('defined', 'complete')
	ORDER BY g.name;

CREATE VIEW dualwrite.mappings AS
	SELECT g.name AS migration, m.old_table, m.new_table, m.forward, m.reverse, m.filter,
		m.key_columns::text[] AS key_columns, m.old_key_columns::text[] AS old_key_columns,
		m.delivery, m.owns,
		(SELECT jsonb_object_agg(c.column_name, c.expression) FROM _dualwrite.mapping_column c
			WHERE c.mapping_id = m.id AND c.direction = 'forward') AS new_columns,
		(SELECT jsonb_object_agg(c.column_name, c.expression) FROM _dualwrite.mapping_column c
			WHERE c.mapping_id = m.id AND c.direction = 'reverse') AS old_columns,
		m.old_name, m.new_name
	FROM _dualwrite.migration g JOIN _dualwrite.mapping m ON m.migration_id = g.id
	ORDER BY g.name, m.ordinal;

CREATE VIEW dualwrite.settings AS
	SELECT s.setting, s.value, s.default_value, s.unit, s.meaning, NULL::text AS migration
	FROM _dualwrite.setting_list() s
	UNION ALL
	SELECT s.setting, o.value, s.value, s.unit, s.meaning, g.name
	FROM _dualwrite.setting o
	JOIN _dualwrite.migration g ON g.id = o.migration_id
	JOIN _dualwrite.setting_list() s ON s.setting = o.setting;

COMMENT ON VIEW dualwrite.status IS 'one row a migration: where it stands, what is in the way, what to call next';
COMMENT ON COLUMN dualwrite.status.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.status.phase IS 'rung of the ladder: defined, shadow, dual_write, backfill, verify, read_switch, cutover or complete';
COMMENT ON COLUMN dualwrite.status.phase_since IS 'when it got there';
COMMENT ON COLUMN dualwrite.status.truth IS 'side that wins when the two disagree: old or new';
COMMENT ON COLUMN dualwrite.status.reads IS 'side that read_side and the read views answer from: old, new, or the share of new';
COMMENT ON COLUMN dualwrite.status.backfill_percent IS 'share of history copied, by blocks of the old table; NULL before the backfill has begun';
COMMENT ON COLUMN dualwrite.status.open_drift IS 'keys known to differ; NULL before the first comparison';
COMMENT ON COLUMN dualwrite.status.queued IS 'keys waiting in the queue, and changes of looked-up rows waiting for a second look';
COMMENT ON COLUMN dualwrite.status.dead IS 'queued keys whose attempts are used up';
COMMENT ON COLUMN dualwrite.status.blocked_by IS 'gates that are not met for the next step up';
COMMENT ON COLUMN dualwrite.status.next_step IS 'what to call next, or what to wait for';
COMMENT ON COLUMN dualwrite.status.paused IS 'background work is paused, or was by a restore from a dump, until dualwrite.resume';

COMMENT ON VIEW dualwrite.progress IS 'background work in hand, one row a mapping';
COMMENT ON COLUMN dualwrite.progress.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.progress.old_table IS 'old table of the mapping';
COMMENT ON COLUMN dualwrite.progress.new_table IS 'new table of the mapping';
COMMENT ON COLUMN dualwrite.progress.stage IS 'backfill; indexes: those taken away before it are built again; analyze: all rows are copied, the new table gets its statistics; reconcile: the comparison in hand, else the last one';
COMMENT ON COLUMN dualwrite.progress.rows_done IS 'rows of the old table read, or rows compared';
COMMENT ON COLUMN dualwrite.progress.rows_total IS 'rows there are to do, estimated; NULL when there is nothing to estimate from';
COMMENT ON COLUMN dualwrite.progress.percent IS 'share of the stage done; of a comparison, the old side counts as one half; of indexes, all of them alike; of analyze, of the partition in hand';
COMMENT ON COLUMN dualwrite.progress.rows_per_second IS 'rows a second since it began';
COMMENT ON COLUMN dualwrite.progress.eta IS 'when it will be finished at this speed; NULL when it stands still, has only just begun, or nobody can know';
COMMENT ON COLUMN dualwrite.progress.throttled_by IS 'signals that hold it back; override: dualwrite.throttle holds; share: a comparison rests between slices while client sessions are at work (reconcile_share)';
COMMENT ON COLUMN dualwrite.progress.bar IS 'the percentage as a picture';

COMMENT ON VIEW dualwrite.drift IS 'keys whose two sides disagree, or did; values only for those who may read both tables';
COMMENT ON COLUMN dualwrite.drift.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.drift.old_table IS 'old table of the mapping';
COMMENT ON COLUMN dualwrite.drift.new_table IS 'new table of the mapping';
COMMENT ON COLUMN dualwrite.drift.key IS 'key columns of the new table; NULL for those who may not read both tables';
COMMENT ON COLUMN dualwrite.drift.kind IS 'missing: no new row; extra: no old row; different';
COMMENT ON COLUMN dualwrite.drift.columns IS 'columns of the new table that differ; NULL for keys behind drift_max_keys, which are kept without values';
COMMENT ON COLUMN dualwrite.drift.old_values IS 'the old row mapped, under the names of the new columns; NULL for those who may not read both tables';
COMMENT ON COLUMN dualwrite.drift.new_values IS 'the new row; NULL for those who may not read both tables';
COMMENT ON COLUMN dualwrite.drift.detected_at IS 'when a comparison first saw it';
COMMENT ON COLUMN dualwrite.drift.state IS 'open; repaired: written by repair and not yet compared again; ignored; gone: seen to agree again';
COMMENT ON COLUMN dualwrite.drift.closed_at IS 'when it was repaired, or seen to agree';
COMMENT ON COLUMN dualwrite.drift.reason IS 'why it is ignored, or could not be repaired';

COMMENT ON VIEW dualwrite.drift_summary IS 'drift of each mapping in numbers';
COMMENT ON COLUMN dualwrite.drift_summary.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.drift_summary.old_table IS 'old table of the mapping';
COMMENT ON COLUMN dualwrite.drift_summary.new_table IS 'new table of the mapping';
COMMENT ON COLUMN dualwrite.drift_summary.last_pass_at IS 'end of the last comparison';
COMMENT ON COLUMN dualwrite.drift_summary.rows_compared IS 'rows that it compared';
COMMENT ON COLUMN dualwrite.drift_summary.missing IS 'open keys without a new row; NULL before the first comparison';
COMMENT ON COLUMN dualwrite.drift_summary.extra IS 'open keys without an old row; NULL before the first comparison';
COMMENT ON COLUMN dualwrite.drift_summary.different IS 'open keys whose rows differ; NULL before the first comparison';
COMMENT ON COLUMN dualwrite.drift_summary.drift_rate IS 'open keys as a share of the rows compared';
COMMENT ON COLUMN dualwrite.drift_summary.alert IS 'is the rate above drift_alert_rate?';

COMMENT ON VIEW dualwrite.drift_history IS 'each comparison that has ended, for as long as reconcile_retention says';
COMMENT ON COLUMN dualwrite.drift_history.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.drift_history.old_table IS 'old table';
COMMENT ON COLUMN dualwrite.drift_history.new_table IS 'new table';
COMMENT ON COLUMN dualwrite.drift_history.started_at IS 'when it began';
COMMENT ON COLUMN dualwrite.drift_history.finished_at IS 'when it ended';
COMMENT ON COLUMN dualwrite.drift_history.kind IS 'full; incremental: rows that have changed since an earlier one, and open drift; sample';
COMMENT ON COLUMN dualwrite.drift_history.rows_compared IS 'keys that it looked at';
COMMENT ON COLUMN dualwrite.drift_history.missing IS 'open drift that it saw: no new row';
COMMENT ON COLUMN dualwrite.drift_history.extra IS 'no old row';
COMMENT ON COLUMN dualwrite.drift_history.different IS 'rows that differ';
COMMENT ON COLUMN dualwrite.drift_history.repaired IS 'keys that it repaired';
COMMENT ON COLUMN dualwrite.drift_history.drift_rate IS 'drift that it saw as a share of all rows';

COMMENT ON VIEW dualwrite.mirror_stats IS 'what the mirrors did, one row a mapping and direction; kept in shared memory, so since the server started';
COMMENT ON COLUMN dualwrite.mirror_stats.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.mirror_stats.old_table IS 'old table of the mapping';
COMMENT ON COLUMN dualwrite.mirror_stats.new_table IS 'new table of the mapping';
COMMENT ON COLUMN dualwrite.mirror_stats.direction IS 'forward: old to new; reverse: new to old';
COMMENT ON COLUMN dualwrite.mirror_stats.inserts IS 'rows inserted, of transactions that committed or were prepared';
COMMENT ON COLUMN dualwrite.mirror_stats.updates IS 'rows updated, of transactions that committed or were prepared';
COMMENT ON COLUMN dualwrite.mirror_stats.deletes IS 'rows deleted, of transactions that committed or were prepared';
COMMENT ON COLUMN dualwrite.mirror_stats.skipped IS 'row events that had nothing to write: unmapped columns, filter';
COMMENT ON COLUMN dualwrite.mirror_stats.failed IS 'mirror writes that failed, whatever became of the transaction';
COMMENT ON COLUMN dualwrite.mirror_stats.queued IS 'keys queued';
COMMENT ON COLUMN dualwrite.mirror_stats.total_ms IS 'time spent in the mirrors, in milliseconds';
COMMENT ON COLUMN dualwrite.mirror_stats.p50_us IS 'half of the mirror writes took less than this, in microseconds; to about 5 %';
COMMENT ON COLUMN dualwrite.mirror_stats.p99_us IS '99 in 100 mirror writes took less than this, in microseconds; to about 5 %';
COMMENT ON COLUMN dualwrite.mirror_stats.since IS 'since when it is counted; NULL while nothing was';
COMMENT ON COLUMN dualwrite.mirror_stats.own_ms IS 'time that the application''s own writes of these rows took, mirrors left out, in milliseconds: the statement, its foreign keys and other triggers';
COMMENT ON COLUMN dualwrite.mirror_stats.own_p50_us IS 'half of the application''s own writes took less than this a row, in microseconds; of a statement of many rows, their mean';
COMMENT ON COLUMN dualwrite.mirror_stats.own_p99_us IS '99 in 100 of the application''s own writes took less than this a row, in microseconds';

COMMENT ON VIEW dualwrite.queue IS 'keys to be brought to agreement by a worker';
COMMENT ON COLUMN dualwrite.queue.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.queue.old_table IS 'old table of the mapping';
COMMENT ON COLUMN dualwrite.queue.new_table IS 'new table of the mapping';
COMMENT ON COLUMN dualwrite.queue.key IS 'key columns of the new table; NULL for those who may not read both tables';
COMMENT ON COLUMN dualwrite.queue.enqueued_at IS 'when it was queued';
COMMENT ON COLUMN dualwrite.queue.attempts IS 'attempts that failed';
COMMENT ON COLUMN dualwrite.queue.next_attempt_at IS 'when it will be tried next';
COMMENT ON COLUMN dualwrite.queue.sqlstate IS 'of the last failure';
COMMENT ON COLUMN dualwrite.queue.message IS 'of the last failure; NULL for those who may not read both tables';
COMMENT ON COLUMN dualwrite.queue.direction IS 'side that will be written: forward the new, reverse the old';

COMMENT ON VIEW dualwrite.dead_letters IS 'queued keys whose attempts are used up: see dualwrite.retry and dualwrite.discard_dead';
COMMENT ON COLUMN dualwrite.dead_letters.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.dead_letters.old_table IS 'old table of the mapping';
COMMENT ON COLUMN dualwrite.dead_letters.new_table IS 'new table of the mapping';
COMMENT ON COLUMN dualwrite.dead_letters.key IS 'key columns of the new table; NULL for those who may not read both tables';
COMMENT ON COLUMN dualwrite.dead_letters.enqueued_at IS 'when it was queued';
COMMENT ON COLUMN dualwrite.dead_letters.attempts IS 'attempts that failed';
COMMENT ON COLUMN dualwrite.dead_letters.next_attempt_at IS 'when it would have been tried next';
COMMENT ON COLUMN dualwrite.dead_letters.sqlstate IS 'of the last failure';
COMMENT ON COLUMN dualwrite.dead_letters.message IS 'of the last failure; NULL for those who may not read both tables';
COMMENT ON COLUMN dualwrite.dead_letters.direction IS 'side that would be written: forward the new, reverse the old';

COMMENT ON VIEW dualwrite.events IS 'the audit: what was done to migrations, by whom, and why; nothing in it is ever changed';
COMMENT ON COLUMN dualwrite.events.migration IS 'name of the migration, which may be gone';
COMMENT ON COLUMN dualwrite.events.occurred_at IS 'when';
COMMENT ON COLUMN dualwrite.events.actor IS 'role that did it';
COMMENT ON COLUMN dualwrite.events.event IS 'what was done';
COMMENT ON COLUMN dualwrite.events.from_phase IS 'phase before';
COMMENT ON COLUMN dualwrite.events.to_phase IS 'phase after';
COMMENT ON COLUMN dualwrite.events.waived IS 'gates that were waived or forced';
COMMENT ON COLUMN dualwrite.events.reason IS 'as the actor gave it';
COMMENT ON COLUMN dualwrite.events.detail IS 'what else belongs to it; keys of rows only for those who may read the tables';

COMMENT ON VIEW dualwrite.workers IS 'background processes of this database: one for each migration that has background work, and its helpers';
COMMENT ON COLUMN dualwrite.workers.pid IS 'process; NULL while none runs';
COMMENT ON COLUMN dualwrite.workers.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.workers.role IS 'what it is at: queue, backfill, indexes or reconcile';
COMMENT ON COLUMN dualwrite.workers.state IS 'running; waiting for work; throttled; paused; failing, and to try again; starting; restarting; waiting for a process (dualwrite.max_workers); no free process (max_worker_processes, or for a helper dualwrite.max_workers); stopped';
COMMENT ON COLUMN dualwrite.workers.doing IS 'how far it has got';
COMMENT ON COLUMN dualwrite.workers.since IS 'last change of role or state';
COMMENT ON COLUMN dualwrite.workers.last_error IS 'error of work that has not succeeded since; NULL for those who may not read the tables';
COMMENT ON COLUMN dualwrite.workers.last_error_at IS 'when that was';

COMMENT ON VIEW dualwrite.mappings IS 'what each migration maps to what';
COMMENT ON COLUMN dualwrite.mappings.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.mappings.old_table IS 'old table';
COMMENT ON COLUMN dualwrite.mappings.new_table IS 'new table';
COMMENT ON COLUMN dualwrite.mappings.forward IS 'as declared: new column, expression over the old row';
COMMENT ON COLUMN dualwrite.mappings.reverse IS 'as declared: old column, expression over the new row';
COMMENT ON COLUMN dualwrite.mappings.filter IS 'as declared: which old rows have a new one';
COMMENT ON COLUMN dualwrite.mappings.key_columns IS 'columns of the new table that identify a row';
COMMENT ON COLUMN dualwrite.mappings.old_key_columns IS 'columns of the old table that do';
COMMENT ON COLUMN dualwrite.mappings.delivery IS 'inline: in the application''s transaction; queued: by a worker';
COMMENT ON COLUMN dualwrite.mappings.owns IS 'side whose rows the mapping brings into being and takes away: both, new, old or neither';
COMMENT ON COLUMN dualwrite.mappings.new_columns IS 'every mapped column of the new table with what it is made of';
COMMENT ON COLUMN dualwrite.mappings.old_columns IS 'every mapped column of the old table with what it is made of in reverse';
COMMENT ON COLUMN dualwrite.mappings.old_name IS 'name of the old table when it was mapped';
COMMENT ON COLUMN dualwrite.mappings.new_name IS 'name of the new table when it was mapped';

COMMENT ON VIEW dualwrite.settings IS 'every setting, server-wide, and below it what was configured for single migrations';
COMMENT ON COLUMN dualwrite.settings.setting IS 'name: for dualwrite.configure, and behind "dualwrite." in postgresql.conf';
COMMENT ON COLUMN dualwrite.settings.value IS 'value in force';
COMMENT ON COLUMN dualwrite.settings.default_value IS 'what it would be otherwise: the built-in default, or for a migration the server-wide value';
COMMENT ON COLUMN dualwrite.settings.unit IS 'of plain numbers';
COMMENT ON COLUMN dualwrite.settings.meaning IS 'what it does';
COMMENT ON COLUMN dualwrite.settings.migration IS 'migration it was configured for; NULL: server-wide';
