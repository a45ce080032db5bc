/*
 * Comparing both sides, and bringing them to agreement.
 */
CREATE FUNCTION dualwrite.reconcile(migration text, sample_percent numeric DEFAULT 100, background boolean DEFAULT false,
		OUT old_table regclass, OUT new_table regclass, OUT rows_compared bigint,
		OUT missing bigint, OUT extra bigint, OUT different bigint) RETURNS SETOF record
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_reconcile_sql';
COMMENT ON FUNCTION dualwrite.reconcile(text, numeric, boolean) IS
	'compares both sides of each mapping and writes what differs to dualwrite.drift; repairs nothing. sample_percent: share of the keys, chosen by hash; background: let a worker do it, and return what the last complete comparison found';

CREATE FUNCTION dualwrite.repair(migration text, key jsonb DEFAULT NULL, new_table regclass DEFAULT NULL,
		dry_run boolean DEFAULT false, max_keys bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_repair_sql';
COMMENT ON FUNCTION dualwrite.repair(text, jsonb, regclass, boolean, bigint) IS
	'brings the keys of dualwrite.drift, or one key, to agreement from the side that is the truth; returns how many were written. What was overwritten stays in dualwrite.drift. Keys that others are writing are skipped with a NOTICE; dry_run only counts; max_keys: look at about so many. One transaction, whose rows stay locked to its end: for very many keys CALL dualwrite.repair_all';

CREATE PROCEDURE dualwrite.repair_all(migration text, new_table regclass DEFAULT NULL, max_keys_per_second integer DEFAULT NULL)
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'dw_repair_all_sql';
COMMENT ON PROCEDURE dualwrite.repair_all(text, regclass, integer) IS
	'repairs all keys of dualwrite.drift as dualwrite.repair does, but some hundred a transaction, committing after each, and not while sessions wait for the tables or the server is overloaded; max_keys_per_second slows it down further. Can be cancelled and called again. Not in a transaction block';

CREATE FUNCTION dualwrite.ignore_drift(migration text, key jsonb, reason text) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_ignore_drift_sql';
COMMENT ON FUNCTION dualwrite.ignore_drift(text, jsonb, text) IS
	'leaves a key of dualwrite.drift as it is until one of its rows changes; the reason goes to dualwrite.events';

CREATE FUNCTION dualwrite.diagnose(migration text, OUT severity text, OUT what text, OUT detail text, OUT hint text)
	RETURNS SETOF record
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'dw_diagnose_sql';
COMMENT ON FUNCTION dualwrite.diagnose(text) IS
	'what is off with a migration now (severity error, warning or info) and what to do about it; no rows when all is well. Changes nothing and waits for nobody';
