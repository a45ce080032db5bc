/*
 * Constraints that the new side should have: asked for by a mapping, or there but NOT VALID.
 */
CREATE VIEW dualwrite.constraints AS
	SELECT v.migration, v.old_table, v.new_table, c.kind, c.columns, c.constraint_name, c.definition,
		CASE
			WHEN c.holds THEN 'met'
			WHEN k.violations > 0 THEN 'violated'
			WHEN c.validated THEN 'validated'
			WHEN c.enforced THEN 'added'
			WHEN k.violations = 0 THEN 'clean'
			ELSE 'waiting'
		END AS state,
		k.violations,
		CASE WHEN v.visible THEN k.sample_keys END AS sample_keys,
		k.checked_at,
		CASE WHEN NOT c.holds AND k.next_check_at > clock_timestamp() THEN k.next_check_at END AS next_check_at,
		CASE WHEN v.visible THEN k.message END AS message
	FROM _dualwrite.visible_mapping v
	JOIN _dualwrite.mapping m ON m.id = v.id
	CROSS JOIN LATERAL (
		SELECT 'not_null' AS kind, ARRAY[a.attname::text] AS columns, h.conname AS constraint_name, 'NOT NULL' AS definition,
			a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conrelid = a.attrelid AND n.contype = 'n'
				AND NOT n.convalidated AND a.attnum = ANY (n.conkey)) AS holds,
			coalesce(h.convalidated, false) AS validated, h.oid IS NOT NULL AS enforced,
			true AS asked, format('dualwrite_not_null_%s_', a.attnum) AS name
		FROM _dualwrite.mapping_column w
		JOIN pg_attribute a ON a.attrelid = m.new_table AND a.attname = w.column_name AND NOT a.attisdropped
		LEFT JOIN pg_constraint h ON h.conrelid = a.attrelid AND h.contype = 'c'
			AND starts_with(h.conname::text, format('dualwrite_not_null_%s_', a.attnum))
		WHERE w.mapping_id = m.id AND w.direction = 'forward' AND w.not_null
		UNION ALL
		SELECT CASE n.contype WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign_key' ELSE 'not_null' END,
			ARRAY(SELECT a.attname::text FROM unnest(n.conkey) WITH ORDINALITY u (attnum, ordinal)
				JOIN pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = u.attnum ORDER BY u.ordinal),
			n.conname, pg_get_constraintdef(n.oid), false, false, true, false, n.conname::text
		FROM pg_constraint n
		WHERE n.conrelid = m.new_table AND n.contype IN ('c', 'f', 'n') AND NOT n.convalidated
			AND n.conname !~ '^dualwrite_not_null_[0-9]+_') c
	LEFT JOIN LATERAL (
		SELECT l.* FROM _dualwrite.constraint_check l
		WHERE l.mapping_id = m.id
			AND CASE WHEN c.asked THEN starts_with(l.constraint_name::text, c.name) ELSE l.constraint_name::text = c.name END
		ORDER BY l.next_check_at DESC LIMIT 1) k ON true;
COMMENT ON VIEW dualwrite.constraints IS 'constraints that the new side should have by cutover: NOT NULL that a mapping asks for, and CHECKs and foreign keys of the new table that are NOT VALID';
COMMENT ON COLUMN dualwrite.constraints.migration IS 'name of the migration';
COMMENT ON COLUMN dualwrite.constraints.old_table IS 'old table';
COMMENT ON COLUMN dualwrite.constraints.new_table IS 'new table';
COMMENT ON COLUMN dualwrite.constraints.kind IS 'not_null, check or foreign_key';
COMMENT ON COLUMN dualwrite.constraints.columns IS 'of the new table, that it is about';
COMMENT ON COLUMN dualwrite.constraints.constraint_name IS 'its name on the new table, where it is there; for NOT NULL that is asked for, of the CHECK that stands in for it';
COMMENT ON COLUMN dualwrite.constraints.definition IS 'what it says';
COMMENT ON COLUMN dualwrite.constraints.state IS 'waiting: not looked at yet; violated: rows are in the way; clean: none is; added: enforced for what is written; validated: holds for all rows; met: done';
COMMENT ON COLUMN dualwrite.constraints.violations IS 'rows that violated it at the last look; NULL: none yet since the phase began';
COMMENT ON COLUMN dualwrite.constraints.sample_keys IS 'keys of some of them; NULL for those who may not read the tables';
COMMENT ON COLUMN dualwrite.constraints.checked_at IS 'when that was';
COMMENT ON COLUMN dualwrite.constraints.next_check_at IS 'when it will be looked at again by itself; dualwrite.check_constraints does it now';
COMMENT ON COLUMN dualwrite.constraints.message IS 'why it is not further; NULL for those who may not read the tables';

CREATE FUNCTION dualwrite.check_constraints(migration text) RETURNS bigint
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_check_constraints_sql';
COMMENT ON FUNCTION dualwrite.check_constraints(text) IS
	'has the constraints that are not met looked at again now, in the background, as after rows have been mended; returns their number';
