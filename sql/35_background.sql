-- Backfill and queue: what the workers do by themselves, and what is left to the user.
CREATE PROCEDURE dualwrite.backfill(migration text)
	LANGUAGE c AS 'MODULE_PATHNAME', 'dw_backfill';
COMMENT ON PROCEDURE dualwrite.backfill(text) IS
	'copy history in this session, where no worker can: batch by batch, committing after each, then the keys that are due in the queue, and the constraints that can be made valid';

CREATE PROCEDURE dualwrite.deliver(migration text)
	LANGUAGE c AS 'MODULE_PATHNAME', 'dw_deliver';
COMMENT ON PROCEDURE dualwrite.deliver(text) IS
	'bring the keys that are due in the queue to agreement in this session, where no worker can or background work is paused: some keys a transaction';

CREATE FUNCTION dualwrite.retry(migration text, key jsonb = NULL) RETURNS bigint
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_retry';
COMMENT ON FUNCTION dualwrite.retry(text, jsonb) IS
	'try dead letters again now, all of the migration or those of one key; keys that wait for their next attempt are tried now, too; returns the number of dead letters';

CREATE FUNCTION dualwrite.discard_dead(migration text, key jsonb, reason text) RETURNS bigint
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_discard_dead';
COMMENT ON FUNCTION dualwrite.discard_dead(text, jsonb, text) IS
	'give up the dead letters of a key, with the reason in the audit; returns their number';

CREATE FUNCTION dualwrite.throttle(migration text, ratio numeric, until interval = '1 hour') RETURNS timestamptz
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_throttle_sql';
COMMENT ON FUNCTION dualwrite.throttle(text, numeric, interval) IS
	'for this long, copy at a share of the full speed whatever the signals say: 1 full speed, 0.25 a quarter, 0 not at all; the caps in rows/s and MB/s still hold; NULL goes by the signals again; returns the end of it';
