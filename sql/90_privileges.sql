/*
 * Who may do what.  Functions are for whoever was granted them, and check besides that the caller owns the tables;
 * views are for dualwrite_monitor.  To drive migrations of his own tables somebody needs:
 * GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dualwrite TO ...
 *
 * The monitor role belongs to the whole cluster, so it may exist already, and DROP EXTENSION leaves it.
 */
DO $$
BEGIN
	CREATE ROLE dualwrite_monitor NOLOGIN;
EXCEPTION
	WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

GRANT USAGE ON SCHEMA dualwrite TO PUBLIC;

DO $$
DECLARE
	routine record;
	/*
	 * What applications call: it tells no more than which side serves, or runs their own queries with their own rights.
	 */
	for_everybody CONSTANT text[] := '{read_side,serves,serves_support,truth,shadow_read}';
	/* What only looks; of schema _dualwrite, what views call, which runs as their reader. */
	for_monitors CONSTANT text[] := '{dualwrite.gates,dualwrite.diagnose,_dualwrite.blocked_by,_dualwrite.next_step,
		_dualwrite.setting_list,_dualwrite.mirror_counters,_dualwrite.shadow_counters,_dualwrite.worker_list,
		_dualwrite.may_read,_dualwrite.bar,_dualwrite.estimated_rows,_dualwrite.analyze_progress,_dualwrite.build_progress,_dualwrite.origin}';
BEGIN
	FOR routine IN
		SELECT p.oid::regprocedure AS signature, n.nspname, p.proname
		FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname IN ('dualwrite', '_dualwrite')
			/* a trigger function runs for whoever writes the table, and a dump is restored by its owner */
			AND p.prorettype <> 'pg_catalog.trigger'::pg_catalog.regtype
			AND NOT (n.nspname = 'dualwrite' AND p.proname = ANY (for_everybody))
	LOOP
		EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine.signature);
		IF routine.nspname || '.' || routine.proname = ANY (for_monitors) THEN
			EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO dualwrite_monitor', routine.signature);
		END IF;
	END LOOP;
END
$$;

DO $$
DECLARE
	view regclass;
BEGIN
	FOR view IN
		SELECT c.oid FROM pg_catalog.pg_class c
		WHERE c.relnamespace = 'dualwrite'::pg_catalog.regnamespace AND c.relkind = 'v'
	LOOP
		EXECUTE format('GRANT SELECT ON %s TO dualwrite_monitor', view);
	END LOOP;
END
$$;
