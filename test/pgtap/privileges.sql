-- Who may do what. Nobody but the tables' owner and superusers drives; monitors look; whoever writes the old table needs
-- nothing of ours; values are for those who may read the tables.
SELECT no_plan();

DO $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY ARRAY['dw_owner', 'dw_app', 'dw_watcher', 'dw_reader', 'dw_nobody']
	LOOP
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
			EXECUTE format('CREATE ROLE %I', name);
		END IF;
	END LOOP;
END
$$;
GRANT CREATE, USAGE ON SCHEMA public TO dw_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
GRANT dualwrite_monitor TO dw_watcher, dw_reader;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dualwrite TO dw_owner;

-- what PUBLIC may call: that which tells a side, and trigger functions
SELECT set_eq(
	$$SELECT DISTINCT p.proname::text FROM pg_proc p
		WHERE p.pronamespace IN ('dualwrite'::regnamespace, '_dualwrite'::regnamespace)
			AND p.prorettype <> 'trigger'::regtype AND has_function_privilege('dw_nobody', p.oid, 'EXECUTE')$$,
	$$SELECT DISTINCT p.proname::text FROM pg_proc p
		WHERE p.pronamespace = 'dualwrite'::regnamespace
			AND p.proname IN ('read_side', 'serves', 'serves_support', 'truth', 'shadow_read')$$,
	'PUBLIC may call only what applications ask for a side');
SELECT ok(has_schema_privilege('dw_nobody', 'dualwrite', 'USAGE'), 'schema dualwrite is open');
SELECT ok(NOT has_schema_privilege('dw_nobody', '_dualwrite', 'USAGE'), 'schema _dualwrite is not');
SELECT is_empty(
	$$SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace IN ('dualwrite'::regnamespace, '_dualwrite'::regnamespace) AND c.relkind IN ('r', 'v', 'S')
			AND (has_table_privilege('dw_nobody', c.oid, 'SELECT') OR has_table_privilege('dw_nobody', c.oid, 'INSERT'))$$,
	'PUBLIC reads and writes nothing');
SELECT is_empty(
	$$SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = '_dualwrite'::regnamespace AND c.relkind IN ('r', 'v')
		AND has_table_privilege('dw_watcher', c.oid, 'SELECT, INSERT, UPDATE, DELETE')$$,
	'a monitor has no way to the tables behind the views');

-- the owner of both tables, who is nothing else, drives
SET ROLE dw_owner;
CREATE TABLE public.accounts (id int PRIMARY KEY, owner text, balance numeric);
CREATE TABLE public.accounts_new (id bigint PRIMARY KEY, owner text, balance numeric);
INSERT INTO accounts VALUES (1, 'ann', 10), (2, 'bob', 20);
SELECT lives_ok($$SELECT dualwrite.create_migration('accounts', 'accounts', 'accounts_new')$$, 'the owner defines');
SELECT lives_ok($$SELECT dualwrite.configure('accounts', 'reconcile_interval', '0')$$, 'the owner configures');
SELECT dualwrite.advance('accounts') AS phase \gset
SELECT is(:'phase'::text, 'shadow', 'the owner advances');
SELECT dualwrite.advance('accounts') AS phase \gset
SELECT is(:'phase'::text, 'dual_write', 'and again');
RESET ROLE;

-- a writer of the old table needs no right on anything else
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO dw_app;
SET ROLE dw_app;
SELECT lives_ok($$INSERT INTO accounts VALUES (3, 'cid', 30)$$, 'a writer goes on inserting');
SELECT lives_ok($$UPDATE accounts SET balance = 31 WHERE id = 3$$, 'and updating');
SELECT lives_ok($$DELETE FROM accounts WHERE id = 3$$, 'and deleting');
SELECT lives_ok($$INSERT INTO accounts VALUES (4, 'dee', 40)$$, 'and inserting again');
SELECT throws_ok($$SELECT * FROM accounts_new$$, '42501', NULL, 'without any right on the new table');
SELECT is(dualwrite.read_side('accounts'), 'old', 'it may ask where to read');
SELECT throws_ok($$SELECT dualwrite.advance('accounts')$$, '42501', NULL, 'but not drive');
SELECT throws_ok($$SELECT dualwrite.configure('accounts', 'gate_soak', '0')$$, '42501', NULL, 'nor configure');
SELECT throws_ok($$SELECT * FROM dualwrite.status$$, '42501', NULL, 'nor watch');
RESET ROLE;
SELECT results_eq($$SELECT id, owner, balance FROM accounts_new ORDER BY id$$, $$VALUES (4::bigint, 'dee', 40::numeric)$$,
	'what it wrote is mirrored');

-- the right to call does not make an owner
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dualwrite TO dw_nobody;
SET ROLE dw_nobody;
SELECT throws_ok($$SELECT dualwrite.pause('accounts')$$, '42501', NULL, 'who may call may not drive others'' migrations');
SELECT throws_ok($$SELECT dualwrite.create_migration('theft', 'accounts', 'accounts_new')$$, '42501', NULL,
	'nor define one over others'' tables');
SELECT throws_ok($$SELECT dualwrite.reset_stats('accounts')$$, '42501', NULL, 'nor reset counters');
SELECT throws_ok($$SELECT dualwrite.reconcile('accounts')$$, '42501', NULL, 'nor compare');
RESET ROLE;

-- drift: one row different, one missing; and a queued key and a dead letter
ALTER TABLE accounts DISABLE TRIGGER ALL;
UPDATE accounts SET balance = 99 WHERE id = 4;
ALTER TABLE accounts ENABLE TRIGGER ALL;
SELECT dualwrite.install_triggers('accounts') AS installed \gset
SELECT isnt_empty($$SELECT * FROM dualwrite.reconcile('accounts')$$, 'a superuser compares');
INSERT INTO _dualwrite.queue (mapping_id, direction, key, next_attempt_at, sqlstate, message, dead)
	SELECT id, 'forward', '{"id": 77}', 'infinity', '23514', 'secret in a message', dead
	FROM _dualwrite.mapping, (VALUES (false), (true)) AS d (dead);
INSERT INTO _dualwrite.worker (migration_id, role, state, last_error, last_error_at)
	SELECT id, 'queue', 'failing', 'a secret in an error', now() FROM _dualwrite.migration WHERE name = 'accounts';
SELECT dualwrite.ignore_drift('accounts', (SELECT key FROM dualwrite.drift WHERE migration = 'accounts' LIMIT 1), 'seen');

PREPARE as_seen AS
	SELECT (SELECT count(*) FROM dualwrite.drift WHERE migration = 'accounts') > 0 AS drift,
		(SELECT count(key) + count(old_values) + count(new_values) FROM dualwrite.drift WHERE migration = 'accounts') > 0 AS drift_values,
		(SELECT count(key) + count(message) FROM dualwrite.queue WHERE migration = 'accounts') AS queue_values,
		(SELECT count(key) + count(message) FROM dualwrite.dead_letters WHERE migration = 'accounts') AS dead_values,
		(SELECT count(*) FROM dualwrite.queue WHERE migration = 'accounts' AND sqlstate = '23514') AS queued;
PREPARE told AS
	SELECT (SELECT count(last_error) FROM dualwrite.workers WHERE migration = 'accounts' AND last_error_at IS NOT NULL) > 0 AS errors,
		(SELECT count(*) FROM dualwrite.events WHERE migration = 'accounts' AND detail ->> 'key' IS NOT NULL) > 0 AS keys,
		(SELECT count(*) FROM dualwrite.diagnose('accounts') WHERE detail ~ 'secret') > 0 AS diagnosis;

SELECT results_eq('as_seen', $$VALUES (true, true, 2::bigint, 2::bigint, 1::bigint)$$, 'a superuser sees values');
SELECT results_eq('told', 'VALUES (true, true, true)', 'in errors of workers and in the audit, too');
SET ROLE dw_watcher;
SELECT results_eq('as_seen', $$VALUES (true, false, 0::bigint, 0::bigint, 1::bigint)$$, 'a monitor sees that there is drift, but no values');
SELECT results_eq('told', 'VALUES (false, false, false)', 'nor any in errors of workers and in the audit');
SELECT isnt_empty($$SELECT * FROM dualwrite.status WHERE migration = 'accounts'$$, 'a monitor reads status');
SELECT lives_ok(format('SELECT * FROM dualwrite.%I', c.relname), 'a monitor reads ' || c.relname)
	FROM pg_class c WHERE c.relnamespace = 'dualwrite'::regnamespace AND c.relkind = 'v' ORDER BY c.relname;
SELECT lives_ok($$SELECT * FROM dualwrite.gates('accounts')$$, 'and gates');
SELECT throws_ok($$SELECT dualwrite.pause('accounts')$$, '42501', NULL, 'but drives nothing');
SELECT throws_ok($$SELECT * FROM dualwrite.preview('accounts')$$, '42501', NULL, 'nor looks at rows');
RESET ROLE;

-- SELECT on both tables, whole or column by column, shows values; a column short of it or row security does not
GRANT SELECT ON accounts TO dw_reader;
SET ROLE dw_reader;
SELECT results_eq('as_seen', $$VALUES (true, false, 0::bigint, 0::bigint, 1::bigint)$$, 'the right to one table is not enough');
RESET ROLE;
GRANT SELECT (id, owner) ON accounts_new TO dw_reader;
SET ROLE dw_reader;
SELECT results_eq('as_seen', $$VALUES (true, false, 0::bigint, 0::bigint, 1::bigint)$$, 'nor that to some columns');
RESET ROLE;
GRANT SELECT (balance) ON accounts_new TO dw_reader;
SET ROLE dw_reader;
SELECT results_eq('as_seen', $$VALUES (true, true, 2::bigint, 2::bigint, 1::bigint)$$, 'the right to every column is');
RESET ROLE;
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
SET ROLE dw_reader;
SELECT results_eq('as_seen', $$VALUES (true, false, 0::bigint, 0::bigint, 1::bigint)$$, 'not under row security');
RESET ROLE;
ALTER TABLE accounts DISABLE ROW LEVEL SECURITY;

-- reading a literal runs the domains of its type: as the table's owner, whoever has the mapping read again
SET ROLE dw_owner;
CREATE TABLE ran_as (role name);
CREATE FUNCTION note_role(text) RETURNS boolean LANGUAGE plpgsql AS
	$$BEGIN INSERT INTO public.ran_as VALUES (current_user); RETURN true; END$$;
CREATE DOMAIN noted AS text CHECK (public.note_role(VALUE));
CREATE TABLE notes (id int PRIMARY KEY);
CREATE TABLE notes_new (id int PRIMARY KEY, v noted[], w int);
SELECT lives_ok($$SELECT dualwrite.create_migration('notes', 'notes', 'notes_new', forward => '{"v": "''{x}''::public.noted[]"}')$$,
	'a literal whose type has a domain in it');
RESET ROLE;
TRUNCATE ran_as;
SELECT lives_ok($$SELECT dualwrite.alter_mapping('notes', 'notes', 'notes_new', forward => '{"w": "id"}')$$, 'read again by a superuser');
SELECT set_eq('SELECT role FROM ran_as', $$VALUES ('dw_owner'::name)$$, 'but not run as one');
SELECT dualwrite.drop_migration('notes');
DROP TABLE notes, notes_new;
DROP DOMAIN noted;
DROP FUNCTION note_role;
DROP TABLE ran_as;

-- a migration without a table, or without one any more, belongs to whoever created it
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dualwrite TO dw_nobody;
GRANT USAGE, CREATE ON SCHEMA public TO dw_nobody;
SET ROLE dw_owner;
SELECT lives_ok($$SELECT dualwrite.create_migration('bare')$$, 'a migration without a mapping');
CREATE TABLE gone (id int PRIMARY KEY);
CREATE TABLE gone_new (id int PRIMARY KEY);
SELECT lives_ok($$SELECT dualwrite.create_migration('gone', 'gone', 'gone_new')$$, 'and one whose tables are dropped');
DROP TABLE gone, gone_new;
RESET ROLE;
SET ROLE dw_nobody;
CREATE TABLE mine (id int PRIMARY KEY);
CREATE TABLE mine_new (id int PRIMARY KEY);
SELECT throws_ok($$SELECT dualwrite.add_mapping('bare', 'mine', 'mine_new')$$, '42501', NULL, 'nobody else may add a mapping');
SELECT throws_ok($$SELECT dualwrite.configure('bare', 'gate_soak', '0')$$, '42501', NULL, 'or configure it');
SELECT throws_ok($$SELECT dualwrite.drop_migration('bare')$$, '42501', NULL, 'or drop it');
SELECT throws_ok($$SELECT dualwrite.drop_migration('gone')$$, '42501', NULL, 'nor the other one');
SELECT throws_ok($$SELECT dualwrite.pause('gone')$$, '42501', NULL, 'or pause it');
DROP TABLE mine, mine_new;
RESET ROLE;
SET ROLE dw_owner;
SELECT lives_ok($$SELECT dualwrite.drop_migration('bare')$$, 'its creator may');
RESET ROLE;
SELECT lives_ok($$SELECT dualwrite.drop_migration('gone')$$, 'and a superuser always');

-- whoever may reference the new table gets nobody's rights by the triggers of his own: neither its owner's nor, in the end, a superuser's
CREATE SCHEMA theirs AUTHORIZATION dw_nobody;
GRANT USAGE ON SCHEMA theirs TO dw_owner;
SET ROLE dw_owner;
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE parents_new (id int PRIMARY KEY);
CREATE TABLE audited_new (id int REFERENCES parents_new ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE fired (name text, who text);
CREATE FUNCTION note_fired() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN INSERT INTO public.fired VALUES (tg_name, current_user); RETURN NULL; END$$;
CREATE TRIGGER audit AFTER DELETE ON audited_new FOR EACH ROW EXECUTE FUNCTION note_fired();
GRANT REFERENCES ON parents_new TO dw_nobody;
GRANT INSERT ON fired TO dw_nobody;
GRANT INSERT, UPDATE, DELETE, SELECT ON parents TO dw_app;
RESET ROLE;
SET ROLE dw_nobody;
CREATE TABLE theirs.children (id int REFERENCES parents_new ON DELETE CASCADE);
CREATE TRIGGER theirs AFTER DELETE ON theirs.children FOR EACH ROW EXECUTE FUNCTION note_fired();
RESET ROLE;
SELECT dualwrite.create_migration('parents', 'parents', 'parents_new');
SELECT dualwrite.advance('parents') AS phase \gset
SELECT dualwrite.advance('parents') AS phase \gset
INSERT INTO parents SELECT generate_series(1, 4);
INSERT INTO theirs.children SELECT generate_series(1, 4);
INSERT INTO audited_new SELECT generate_series(1, 4);
SET SESSION AUTHORIZATION dw_app;
SELECT lives_ok('DELETE FROM public.parents WHERE id = 1', 'a mirrored row takes children of several owners along');
RESET SESSION AUTHORIZATION;
SELECT results_eq('SELECT * FROM fired ORDER BY 1', $$VALUES ('audit', 'dw_owner'), ('theirs', 'dw_nobody')$$,
	'the triggers of each fire with the rights of its owner');
SELECT is_empty('SELECT FROM theirs.children NATURAL JOIN audited_new WHERE id = 1', 'the children are gone');
-- what they defer
SET ROLE dw_nobody;
CREATE CONSTRAINT TRIGGER later AFTER DELETE ON theirs.children DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION note_fired();
RESET ROLE;
SELECT throws_ok('DELETE FROM parents WHERE id = 2', '42501', NULL, 'a trigger of others does not wait to fire as whoever commits');
-- nor what the owner defers, for a superuser who repairs
DROP TABLE theirs.children;
CREATE CONSTRAINT TRIGGER later AFTER DELETE ON audited_new DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION note_fired();
SELECT lives_ok('DELETE FROM parents WHERE id = 3', 'the owner''s own triggers are as deferred as on the old table');
BEGIN;
ALTER TABLE parents DISABLE TRIGGER "~dualwrite_delete";
DELETE FROM parents WHERE id = 4;
ALTER TABLE parents ENABLE ALWAYS TRIGGER "~dualwrite_delete";
COMMIT;
TRUNCATE fired;
SELECT dualwrite.advance('parents') AS phase \gset
CALL dualwrite.backfill('parents');
SELECT dualwrite.advance('parents') AS phase \gset
SELECT extra FROM dualwrite.reconcile('parents') \gset
SELECT is(:extra, 1, 'a row that is left over');
SET client_min_messages = error;
SELECT is(dualwrite.repair('parents')::int, 0, 'a superuser''s repair leaves nothing that would fire as he: the row is not repaired');
RESET client_min_messages;
SELECT is_empty('SELECT * FROM fired', 'and nothing fires');
SELECT dualwrite.rollback('parents', 'defined') AS phase \gset
SELECT dualwrite.drop_migration('parents');
DROP TABLE parents, parents_new, audited_new, fired;
DROP FUNCTION note_fired;
DROP SCHEMA theirs;

REVOKE ALL ON SCHEMA public FROM dw_nobody;

DELETE FROM _dualwrite.queue;
SELECT dualwrite.rollback('accounts', 'defined') AS phase \gset
SELECT lives_ok($$SELECT dualwrite.drop_migration('accounts')$$, 'dropped');
DROP TABLE accounts, accounts_new;
REVOKE ALL ON SCHEMA public FROM dw_owner;
REVOKE ALL ON ALL ROUTINES IN SCHEMA dualwrite FROM dw_owner, dw_nobody;
DROP ROLE dw_owner, dw_app, dw_watcher, dw_reader, dw_nobody;
SELECT * FROM finish();
