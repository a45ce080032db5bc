-- Moving a migration: up and down the ladder, waiting, reads, and the end of the old side.

-- Sequences whose numbers two sides take turns with, and what they go back to (src/sequences.h).
CREATE TABLE _dualwrite.key_sequence (
	sequence regclass PRIMARY KEY,
	migration_id int NOT NULL REFERENCES _dualwrite.migration ON DELETE CASCADE,
	increment bigint NOT NULL,
	start_value bigint NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('_dualwrite.key_sequence',
	'WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = sequence)');

-- How a swap of names is taken back (src/swap.c): statements, with the names that tables have when they are run.
CREATE TABLE _dualwrite.swap_step (
	migration_id int NOT NULL REFERENCES _dualwrite.migration ON DELETE CASCADE,
	ordinal int NOT NULL,
	rename boolean NOT NULL,			-- a must, and in reverse order before all others
	relation regclass,					-- renamed or replaced
	during text,						-- its name while names are swapped: schema-qualified, quoted
	object text NOT NULL,
	undo text NOT NULL,
	run_as text,						-- role; null: the extension's owner
	PRIMARY KEY (migration_id, ordinal)
);
SELECT pg_catalog.pg_extension_config_dump('_dualwrite.swap_step',
	'WHERE relation IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = relation)');

CREATE FUNCTION dualwrite.advance(migration text, to_phase text DEFAULT NULL, force boolean DEFAULT false,
	waive text[] DEFAULT '{}', reason text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'dualwrite_advance' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dualwrite.advance IS
'One phase up, if its gates are met. With to_phase: nothing to do if the migration is there already, an error unless it is the next. waive names gates of judgement that may be unmet, force waives all of those; no gate that guards rows can be passed. Returns the phase. Not in a transaction block.';

CREATE FUNCTION dualwrite.rollback(migration text, to_phase text DEFAULT NULL, force boolean DEFAULT false,
	reason text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'dualwrite_rollback' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dualwrite.rollback IS
'Down to to_phase, or one phase. Loses no accepted write of either side. Going below read_switch is refused while others write the new side, unless forced. Automatic repair stops until resume. Returns the phase. Not in a transaction block.';

CREATE FUNCTION dualwrite.gates(migration text, OUT gate text, OUT passed boolean, OUT detail text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'dualwrite_gates' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION dualwrite.gates IS
'What the next advance demands, and how things stand.';

CREATE PROCEDURE dualwrite.wait(migration text, timeout interval DEFAULT '1 hour')
	AS 'MODULE_PATHNAME', 'dualwrite_wait' LANGUAGE C;
COMMENT ON PROCEDURE dualwrite.wait IS
'Returns when the next advance would pass. Fails at once, with 55000, when a gate cannot pass by waiting, and with 57014 when the time is up. Keeps no snapshot or transaction open. Not in a transaction block.';

CREATE PROCEDURE dualwrite.run(migration text, to_phase text DEFAULT 'verify', timeout interval DEFAULT NULL)
	AS 'MODULE_PATHNAME', 'dualwrite_run' LANGUAGE C;
COMMENT ON PROCEDURE dualwrite.run IS
'Advances and waits, phase by phase, with notices of progress, up to to_phase (cutover at most; on the way there all reads are moved to the new side). At verify it returns after the first clean comparison. Calling it again goes on. Not in a transaction block.';

CREATE FUNCTION dualwrite.pause(migration text) RETURNS void
	AS 'MODULE_PATHNAME', 'dualwrite_pause' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dualwrite.pause IS
'Stops the background work of a migration; mirrors go on.';

CREATE FUNCTION dualwrite.resume(migration text) RETURNS void
	AS 'MODULE_PATHNAME', 'dualwrite_resume' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dualwrite.resume IS
'Lets the background work of a migration go on, automatic repair after a rollback included. After a restore from a dump it begins anew: up to phase verify everything is copied and compared again.';

CREATE FUNCTION dualwrite.set_read_percent(migration text, percent numeric) RETURNS void
	AS 'MODULE_PATHNAME', 'dualwrite_set_read_percent' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dualwrite.set_read_percent IS
'Share of reads, from 0 to 100, that the new side serves. In phase read_switch only.';

CREATE FUNCTION dualwrite.install_triggers(migration text) RETURNS integer
	AS 'MODULE_PATHNAME', 'dualwrite_install_triggers' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dualwrite.install_triggers IS
'Puts the triggers of a migration right where one was dropped or disabled, or where a new partition has none, and lets comparisons begin anew. Returns how many were made or enabled. Not in a transaction block.';

CREATE FUNCTION dualwrite.drop_old(migration text, dry_run boolean DEFAULT false) RETURNS integer
	AS 'MODULE_PATHNAME', 'dualwrite_drop_old' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dualwrite.drop_old IS
'Drops the old tables of a complete migration, or refuses with a list of what depends on them. dry_run: only tries it, and says what it would do. Returns the number of tables.';

CREATE FUNCTION dualwrite.swap_plan(migration text, OUT action text, OUT object text, OUT detail text, OUT hint text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'dualwrite_swap_plan' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 20;
COMMENT ON FUNCTION dualwrite.swap_plan IS
'What cutover_swap_names would do at cutover, and changes nothing: what is renamed, what follows the name, what stays with the old table unless you move it (gate swap_dependents, which can be waived), and what refuses the swap (gate swap_names).';

CREATE FUNCTION _dualwrite.blocked_by(migration text) RETURNS text[]
	AS 'MODULE_PATHNAME', 'dualwrite_blocked_by' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _dualwrite.blocked_by IS
'Names of the gates that the next advance would not pass.';

CREATE FUNCTION _dualwrite.next_step(migration text) RETURNS text
	AS 'MODULE_PATHNAME', 'dualwrite_next_step' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _dualwrite.next_step IS
'What to call next, or what is in the way.';
