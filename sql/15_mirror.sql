/*
 * The functions behind the triggers that dualwrite.advance puts on users' tables.  PUBLIC may execute them, since whoever
 * writes the table fires them; called in any other way they raise an error.
 */
CREATE FUNCTION _dualwrite.mirror() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'dw_trigger_mirror';
COMMENT ON FUNCTION _dualwrite.mirror() IS 'row trigger: makes a write on the other side of the mapping, or refuses it';

CREATE FUNCTION _dualwrite.mirror_flush() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'dw_trigger_flush';
COMMENT ON FUNCTION _dualwrite.mirror_flush() IS 'statement trigger: ends what the row triggers of the statement began';

CREATE FUNCTION _dualwrite.mirror_truncate() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'dw_trigger_truncate';
COMMENT ON FUNCTION _dualwrite.mirror_truncate() IS 'statement trigger: TRUNCATE on the other side of the mapping';

CREATE FUNCTION _dualwrite.mirror_lookup() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'dw_trigger_lookup';
COMMENT ON FUNCTION _dualwrite.mirror_lookup() IS 'row trigger of a table that a mapping looks up: brings the rows that depend on it up to date';

CREATE FUNCTION _dualwrite.mirror_lookup_truncate() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'dw_trigger_lookup_truncate';
COMMENT ON FUNCTION _dualwrite.mirror_lookup_truncate() IS 'statement trigger of such a table: has the rows that depend on it brought up to date in the background';

CREATE FUNCTION _dualwrite.mirror_columns() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'dw_trigger_columns';
COMMENT ON FUNCTION _dualwrite.mirror_columns() IS 'row trigger: in place, lets the columns of one side follow those of the other, or refuses the write';
