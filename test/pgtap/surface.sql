-- What users see: functions with their arguments, views with their columns, and who may call what. Arguments and columns
-- may be added at the end; nothing here may go away or change its name.
SELECT no_plan();

CREATE TEMP TABLE wanted_function (name text, arguments text, returns text);
INSERT INTO wanted_function VALUES
	('create_migration', 'migration text, old_table regclass, new_table regclass, forward jsonb, reverse jsonb, filter text, key_columns text[], delivery text', NULL),
	('add_mapping', 'migration text, old_table regclass, new_table regclass, forward jsonb, reverse jsonb, filter text, key_columns text[], delivery text, owns text', NULL),
	('drop_mapping', 'migration text', NULL),
	('drop_migration', 'migration text', NULL),
	('configure', 'migration text, setting text, value text', NULL),
	('preview', 'migration text, rows integer', 'SETOF record'),
	('advance', 'migration text, to_phase text, force boolean, waive text[], reason text', 'text'),
	('rollback', 'migration text, to_phase text, force boolean, reason text', 'text'),
	('gates', 'migration text', 'SETOF record'),
	('wait', 'migration text, timeout interval', NULL),
	('run', 'migration text, to_phase text, timeout interval', NULL),
	('throttle', 'migration text, ratio numeric, until interval', 'timestamp with time zone'),
	('pause', 'migration text', NULL),
	('resume', 'migration text', NULL),
	('set_read_percent', 'migration text, percent numeric', NULL),
	('drop_old', 'migration text, dry_run boolean', NULL),
	('read_side', 'migration text', 'text'),
	('read_side', 'migration text, bucket anyelement', 'text'),
	('create_read_view', 'migration text, view_name text, new_table regclass, strategy text, shape text', NULL),
	('drop_read_view', 'view_name text', NULL),
	('shadow_read', 'migration text, old_query text, new_query text, args text[]', 'SETOF record'),
	('reconcile', 'migration text, sample_percent numeric, background boolean', 'SETOF record'),
	('repair', 'migration text, key jsonb, new_table regclass, dry_run boolean', NULL),
	('retry', 'migration text, key jsonb', NULL),
	('check_constraints', 'migration text', 'bigint'),
	('discard_dead', 'migration text, key jsonb, reason text', NULL),
	('ignore_drift', 'migration text, key jsonb, reason text', NULL),
	('reset_stats', 'migration text', NULL);

-- the input arguments of every function of the schema, by name and type
CREATE TEMP VIEW seen_function AS
	SELECT p.proname::text AS name, p.oid, p.prorettype, p.proretset,
		(SELECT string_agg(coalesce(p.proargnames[a.n], '?') || ' ' || format_type(a.type, NULL), ', ' ORDER BY a.n)
		 FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(type, n)) AS arguments,
		pg_get_function_arguments(p.oid) AS declared
	FROM pg_proc p
	WHERE p.pronamespace = 'dualwrite'::regnamespace;

SELECT ok(EXISTS (SELECT FROM seen_function s
				  WHERE s.name = w.name AND (s.arguments = w.arguments OR starts_with(s.arguments, w.arguments || ', '))),
		  format('%s(%s)', w.name, w.arguments))
FROM wanted_function w ORDER BY w.name, w.arguments;

SELECT ok(EXISTS (SELECT FROM seen_function s
				  WHERE s.name = w.name AND CASE WHEN s.proretset THEN 'SETOF ' ELSE '' END || s.prorettype::regtype = w.returns),
		  format('%s returns %s', w.name, w.returns))
FROM wanted_function w WHERE w.returns IS NOT NULL ORDER BY w.name, w.arguments;

SELECT is(s.prokind, 'p', s.proname || ' is a procedure')
FROM pg_proc s WHERE s.pronamespace = 'dualwrite'::regnamespace AND s.proname IN ('wait', 'run') ORDER BY s.proname;

CREATE TEMP TABLE wanted_view (name text, columns text[]);
INSERT INTO wanted_view VALUES
	('status', '{migration,phase,phase_since,truth,reads,backfill_percent,open_drift,queued,dead,blocked_by,next_step}'),
	('progress', '{migration,old_table,new_table,stage,rows_done,rows_total,percent,rows_per_second,eta,throttled_by,bar}'),
	('drift', '{migration,old_table,new_table,key,kind,columns,old_values,new_values,detected_at,state}'),
	('drift_summary', '{migration,old_table,new_table,last_pass_at,rows_compared,missing,extra,different,drift_rate,alert}'),
	('mirror_stats', '{migration,old_table,new_table,direction,inserts,updates,deletes,skipped,failed,queued,total_ms,p50_us,p99_us,since}'),
	('queue', '{migration,old_table,new_table,key,enqueued_at,attempts,next_attempt_at,sqlstate,message}'),
	('dead_letters', '{migration,old_table,new_table,key,enqueued_at,attempts,next_attempt_at,sqlstate,message}'),
	('events', '{migration,occurred_at,actor,event,from_phase,to_phase,waived,reason,detail}'),
	('workers', '{pid,migration,role,state,doing,since,last_error}'),
	('constraints', '{migration,old_table,new_table,kind,columns,constraint_name,definition,state,violations,sample_keys,checked_at,next_check_at,message}'),
	('shadow_reads', '{migration}'),
	('shadow_read_mismatches', '{migration}'),
	('mappings', '{migration}'),
	('settings', '{setting,value,default_value,unit,meaning}');

SELECT is(
	(SELECT array_agg(a.attname::text ORDER BY a.attnum)
	 FROM pg_attribute a
	 WHERE a.attrelid = to_regclass('dualwrite.' || v.name) AND a.attnum BETWEEN 1 AND cardinality(v.columns)),
	v.columns, 'columns of ' || v.name)
FROM wanted_view v WHERE v.name NOT IN ('mappings', 'settings', 'shadow_reads', 'shadow_read_mismatches') ORDER BY v.name;

SELECT ok(
	v.columns <@ (SELECT array_agg(a.attname::text) FROM pg_attribute a WHERE a.attrelid = to_regclass('dualwrite.' || v.name)),
	'columns of ' || v.name)
FROM wanted_view v WHERE v.name IN ('mappings', 'settings', 'shadow_reads', 'shadow_read_mismatches') ORDER BY v.name;

-- Control is for those to whom it was granted; routing reads is for every application.
SELECT is_empty(
	$$ SELECT s.oid::regprocedure FROM seen_function s
	   WHERE s.name NOT IN ('read_side', 'serves', 'serves_support', 'truth', 'shadow_read', 'write_read_view') AND has_function_privilege('public', s.oid, 'EXECUTE') $$,
	'PUBLIC may execute no control function');

CREATE TEMP TABLE wanted_setting AS
	SELECT unnest('{backfill_max_rows_per_second,backfill_workers,backfill_batch_ms,throttle_max_replication_lag,throttle_max_wal_rate,
		throttle_max_active_per_core,throttle_query,mirror_on_error,shadow_discard,queue_max_attempts,queue_backoff,reconcile_interval,
		reconcile_repair,drift_alert_rate,gate_soak,gate_shadow_agreement,gate_shadow_min_reads,cutover_swap_names,lock_timeout_ms,
		events_retention,backfill_max_mb_per_second,throttle_max_standby_absence,throttle_max_slot_retention,throttle_max_archive_backlog,
		throttle_max_lock_wait,throttle_max_autovacuum,throttle_max_xmin_age,reconcile_share,reconcile_nice}'::text[]) AS name;

SELECT is_empty(
	$$ SELECT name FROM wanted_setting EXCEPT SELECT setting FROM dualwrite.settings $$,
	'every setting is in dualwrite.settings');

SELECT is_empty(
	$$ SELECT 'dualwrite.' || name FROM wanted_setting EXCEPT SELECT name FROM pg_settings $$,
	'every setting has its server-wide default');

SELECT * FROM finish();
