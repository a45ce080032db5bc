/*
 * Reads.  read_side, serves and truth are for applications, so for everybody: they tell no more than a name's phase.
 */
GRANT USAGE ON SCHEMA dualwrite TO PUBLIC;

CREATE FUNCTION dualwrite.read_side(migration text) RETURNS text
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'dw_read_side_sql';
COMMENT ON FUNCTION dualwrite.read_side(text) IS
	'side that serves this transaction''s reads, old or new: by phase, percentage and setting dualwrite.read_side, as the caller''s snapshot sees them';

CREATE FUNCTION dualwrite.read_side(migration text, bucket anyelement) RETURNS text
	LANGUAGE c STABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'dw_read_side_bucket_sql';
COMMENT ON FUNCTION dualwrite.read_side(text, anyelement) IS
	'side that serves reads of this bucket (a customer, a key), old or new: the same in every session, whatever the type that the bucket''s text has';

CREATE FUNCTION dualwrite.read_side(migration text, bucket text) RETURNS text
	LANGUAGE c STABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'dw_read_side_bucket_sql';
COMMENT ON FUNCTION dualwrite.read_side(text, text) IS
	'side that serves reads of this bucket, given as text or as a literal';

CREATE FUNCTION dualwrite.truth(migration text) RETURNS text
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'dw_truth_sql';
COMMENT ON FUNCTION dualwrite.truth(text) IS
	'side that wins when the two disagree, old up to and including read_switch, then new, as the caller''s snapshot sees it';

CREATE FUNCTION dualwrite.serves_support(internal) RETURNS internal
	LANGUAGE c STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'dw_serves_support_sql';
COMMENT ON FUNCTION dualwrite.serves_support(internal) IS
	'tells the planner what share of the rows dualwrite.serves lets through';

CREATE FUNCTION dualwrite.serves(migration text, side text) RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'dw_serves_sql';
COMMENT ON FUNCTION dualwrite.serves(text, text) IS
	'whether a side, old or new, serves any reads at all; read views ask it once a statement';

CREATE FUNCTION dualwrite.serves(migration text, side text, VARIADIC bucket "any") RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE SUPPORT dualwrite.serves_support
	AS 'MODULE_PATHNAME', 'dw_serves_bucket_sql';
COMMENT ON FUNCTION dualwrite.serves(text, text, "any") IS
	'whether a side, old or new, serves reads of this bucket; read views ask it for the key of each row';

CREATE FUNCTION dualwrite.create_read_view(migration text, view_name text, new_table regclass DEFAULT NULL,
		strategy text DEFAULT 'switch', shape text DEFAULT 'new') RETURNS regclass
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_create_read_view_sql';
COMMENT ON FUNCTION dualwrite.create_read_view(text, text, regclass, text, text) IS
	'creates a view of the new (or old) table''s columns that reads whichever side serves; strategies: switch, old, new, fallback, merge';
REVOKE ALL ON FUNCTION dualwrite.create_read_view(text, text, regclass, text, text) FROM PUBLIC;

CREATE FUNCTION dualwrite.drop_read_view(view_name text) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_drop_read_view_sql';
COMMENT ON FUNCTION dualwrite.drop_read_view(text) IS
	'drops a view that create_read_view made';
REVOKE ALL ON FUNCTION dualwrite.drop_read_view(text) FROM PUBLIC;

CREATE FUNCTION dualwrite.write_read_view() RETURNS trigger
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_write_read_view';
COMMENT ON FUNCTION dualwrite.write_read_view() IS
	'trigger of a read view: writes the table whose columns the view has, with the rights of the caller; the mirror takes it to the other side';
