-- The extension comes and goes without a trace, more than once in a session, and needs nothing preloaded.
SELECT extname, extversion, extrelocatable FROM pg_extension WHERE extname = 'dualwrite';
DROP EXTENSION dualwrite;

CREATE VIEW left_behind AS
  SELECT 'schema' AS what, nspname::text AS name FROM pg_namespace WHERE nspname IN ('dualwrite', '_dualwrite')
  UNION ALL
  SELECT 'function', p.oid::regprocedure::text FROM pg_proc p WHERE p.probin LIKE '%dualwrite%'
  UNION ALL
  SELECT 'event trigger', evtname FROM pg_event_trigger WHERE evtfoid::regproc::text LIKE '%dualwrite%'
  UNION ALL
  SELECT 'trigger', t.tgname || ' on ' || t.tgrelid::regclass FROM pg_trigger t WHERE t.tgfoid::regproc::text LIKE '%dualwrite%';
SELECT * FROM left_behind;

CREATE EXTENSION dualwrite;
SELECT nspname FROM pg_namespace WHERE nspname IN ('dualwrite', '_dualwrite') ORDER BY nspname;
DROP EXTENSION dualwrite;
SELECT * FROM left_behind;

-- a rolled-back installation neither
BEGIN;
CREATE EXTENSION dualwrite;
ROLLBACK;
SELECT * FROM left_behind;

DROP VIEW left_behind;
CREATE EXTENSION dualwrite;
