/*
 * Secondary indexes of new tables that were taken away before a copy (setting backfill_indexes), and are built again after it.
 */
CREATE VIEW dualwrite.indexes AS
	SELECT v.migration, a.new_table, a.index_name::text COLLATE "default" AS index_name,
		format('CREATE INDEX %I ON %I.%I %s', a.index_name, n.nspname, c.relname, a.body) COLLATE "default" AS definition,
		CASE
			WHEN a.built_at IS NOT NULL AND a.message IS NOT NULL THEN 'given up'
			WHEN a.built_at IS NOT NULL THEN 'built'
			WHEN b.percent IS NOT NULL THEN 'building'
			WHEN a.failures > 0 THEN 'failed'
			ELSE 'taken away'
		END AS state,
		CASE
			WHEN a.built_at IS NOT NULL THEN a.built_at
			WHEN b.percent IS NOT NULL OR a.failures > 0 THEN a.started_at
			ELSE a.taken_at
		END AS since,
		CASE WHEN a.built_at IS NOT NULL OR b.percent IS NOT NULL
			THEN round(extract(epoch FROM coalesce(a.built_at, clock_timestamp()) - a.started_at), 1) END AS seconds,
		CASE WHEN a.built_at IS NOT NULL AND a.message IS NULL THEN 100 WHEN a.built_at IS NULL THEN trim_scale(b.percent) END AS percent,
		CASE WHEN v.visible THEN a.message END AS error,
		CASE WHEN a.built_at IS NULL AND b.percent IS NULL AND a.failures > 0 THEN a.next_attempt_at END AS next_attempt_at
	FROM _dualwrite.index_away a
	JOIN pg_class c ON c.oid = a.new_table
	JOIN pg_namespace n ON n.oid = c.relnamespace
	CROSS JOIN LATERAL (SELECT g.name AS migration, _dualwrite.may_read(a.new_table) AS visible FROM _dualwrite.migration g
		WHERE g.id = a.migration_id) v
	LEFT JOIN LATERAL (SELECT p.percent FROM _dualwrite.build_progress() p WHERE p.relation = a.new_table AND p.pid = a.pid
		/* one after the other: the one that was begun last */
		AND a.started_at = (SELECT max(o.started_at) FROM _dualwrite.index_away o WHERE o.new_table = a.new_table)) b ON true
	ORDER BY v.migration, a.id;
COMMENT ON VIEW dualwrite.indexes IS 'indexes of new tables that were taken away before a copy, to be built again after it (setting backfill_indexes)';
COMMENT ON COLUMN dualwrite.indexes.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.indexes.new_table IS 'table that the index belongs to';
COMMENT ON COLUMN dualwrite.indexes.index_name IS 'its name, in the schema of the table';
COMMENT ON COLUMN dualwrite.indexes.definition IS 'what it is; a worker builds it CONCURRENTLY';
COMMENT ON COLUMN dualwrite.indexes.state IS 'taken away; building; failed: it will be tried again; built; given up: see error';
COMMENT ON COLUMN dualwrite.indexes.since IS 'since when: it was taken away, the last attempt began, it is there again';
COMMENT ON COLUMN dualwrite.indexes.seconds IS 'time that building it took, or has taken so far';
COMMENT ON COLUMN dualwrite.indexes.percent IS 'share of the build that is done';
COMMENT ON COLUMN dualwrite.indexes.error IS 'why the last attempt failed, or why it was given up; NULL for those who may not read the table';
COMMENT ON COLUMN dualwrite.indexes.next_attempt_at IS 'when it will be tried again by itself; dualwrite.retry_indexes does it now';

CREATE FUNCTION dualwrite.retry_indexes(migration text) RETURNS bigint
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_retry_indexes_sql';
COMMENT ON FUNCTION dualwrite.retry_indexes(text) IS
	'has indexes that were taken away and could not be built tried again now, in the background; returns how many are not built yet';

CREATE FUNCTION dualwrite.forget_index(migration text, new_table regclass, index_name text, reason text) RETURNS void
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_forget_index_sql';
COMMENT ON FUNCTION dualwrite.forget_index(text, regclass, text, text) IS
	'gives an index up that was taken away: it is not built again; its definition stays in dualwrite.events';
