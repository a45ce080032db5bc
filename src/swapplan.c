/*
 * swapplan.c: what a swap of names would do, and what cannot follow the name.
 *
 * At a swap the new table takes the old one's name, and the old one is called <name>_dualwrite_old.  Whatever else users reach by
 * the name has to come along: grants, row security, publications, views, comments, statistics targets, the names of keys
 * and of the sequences behind them.  What is meant by the table and not by its name (foreign keys, views, functions that
 * take its row) stays with the old table's OID; where that can be mended it is a step of the plan, and otherwise a problem
 * that the user reads of before anything has changed.
 *
 * Each kind of thing is one query of the table below.  A query gives steps, problems or both; the names in its statements are
 * those that tables have once they are renamed, those in its undo the ones that they have now.
 *
 * Nothing here may change anything, lock a user's table or depend on who asks: gates and views ask.
 */
#include "postgres.h"

#include "owner.h"
#include "sql.h"
#include "swapplan.h"
#include "tables.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* What is added to the old table's name. */
#define ASIDE "dualwrite_old"

/* Two tables that swap names. */
typedef struct SwapPair
{
	Oid			old_table;
	Oid			new_table;
	char	   *name;			/* qualified: of the old table now, of the new one then */
	char	   *new_name;		/* qualified: of the new table now */
	char	   *aside;			/* qualified: of the old table then */
	char	   *aside_name;		/* the same without its schema */
} SwapPair;

/*
 * Arguments of all queries: $1 old table, $2 new table, $3 name of the new one then, $4 its name now, $5 name of the old
 * one then, $6 role whose rights are asked for (null: a superuser's), $7 migration.  Their result: object, statement,
 * undo, problem, hint, role to run as, relation to lock.
 */
#define NUM_ARGS 7
#define PROBLEM(object, problem, hint) \
	"SELECT " object ", NULL::text, NULL::text, " problem ", " hint ", NULL::text, NULL::oid "

/* Rows a and b of pg_attribute: can an expression over the one be read as one over the other? */
#define SAME_USE \
	"(a.atttypid = b.atttypid AND a.attcollation = b.attcollation OR a.atttypid IN (20, 21, 23) AND b.atttypid IN (20, 21, 23))"
#define ROLE_NAME(role) "CASE " role " WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(" role ")) END"

/* Nothing helps here but the hint. */
#define REFUSALS \
	PROBLEM("$4", "'it is a foreign table'", "'Leave the setting off, and let the application name the new table.'") \
	"FROM pg_class n WHERE n.oid = $2 AND n.relkind = 'f' UNION ALL " \
	PROBLEM("$4", "format('it is not in the schema of %s', $3)", "format('Run ALTER TABLE %s SET SCHEMA %I.', $4, o.relnamespace::regnamespace)") \
	"FROM pg_class o, pg_class n WHERE o.oid = $1 AND n.oid = $2 AND o.relnamespace <> n.relnamespace UNION ALL " \
	PROBLEM("$4", "format('it belongs to another role than %s', $3)", "format('Run ALTER TABLE %s OWNER TO %I.', $4, pg_get_userbyid(o.relowner))") \
	"FROM pg_class o, pg_class n WHERE o.oid = $1 AND n.oid = $2 AND o.relowner <> n.relowner UNION ALL " \
	PROBLEM("$3", "format('role %s may not create tables in the schema', $6)", "format('Run GRANT CREATE ON SCHEMA %s TO %I, or let a superuser do it.', o.relnamespace::regnamespace, $6)") \
	"FROM pg_class o WHERE o.oid = $1 AND NOT has_schema_privilege($6, o.relnamespace, 'CREATE') UNION ALL " \
	/* changes are applied to the table of that name, but only if the subscription has it: they would be passed over in silence */ \
	PROBLEM("s.srrelid::regclass::text", "format('subscription %I applies changes to it, by name', u.subname)", \
			"format('Leave the setting off, or end subscription %I first.', u.subname)") \
	"FROM pg_subscription_rel s JOIN pg_subscription u ON u.oid = s.srsubid WHERE s.srrelid IN ($1, $2) UNION ALL " \
	PROBLEM("format('migration \"%s\"', m.name)", "format('the expression for %s names one of the tables, and would mean the other one', x.what)", \
			"'Leave the setting off, or do without the sub-select.'") \
	"FROM _dualwrite.migration m JOIN _dualwrite.mapping p ON p.migration_id = m.id," \
	" LATERAL (SELECT 'column ' || quote_ident(c.column_name), c.expression FROM _dualwrite.mapping_column c WHERE c.mapping_id = p.id" \
	" UNION ALL SELECT 'what column ' || quote_ident(d.column_name) || ' depends on', d.query FROM _dualwrite.dependency d WHERE d.mapping_id = p.id" \
	" UNION ALL SELECT 'the filter', p.filter_expression) x (what, text), unnest(ARRAY[$3, $4]) t (name)" \
	" WHERE m.phase <> 'complete' AND x.text ~ ('(^|[^[:alnum:]_$.\"])' || regexp_replace(t.name, '([^[:alnum:]_])', '\\\\\\1', 'g') || '($|[^[:alnum:]_$\"])')"

/* Rights on a table or a sequence that the other one does not give. */
#define GRANTS \
	"SELECT format('privilege %s of %s on %s', o.privilege_type, o.who, $3)," \
	" format('GRANT %s ON %s %s TO %s%s', o.privilege_type, o.kind, $3, o.who, CASE WHEN o.grantable THEN ' WITH GRANT OPTION' END)," \
	" format('REVOKE %s%s ON %s %s FROM %s CASCADE', CASE WHEN n.grantee IS NOT NULL THEN 'GRANT OPTION FOR ' END, o.privilege_type, o.kind, $4, o.who)," \
	" NULL, NULL, NULL, NULL::oid" \
	" FROM (SELECT x.grantee, x.privilege_type, bool_or(x.is_grantable) AS grantable, " ROLE_NAME("x.grantee") " AS who," \
	" CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind" \
	" FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = $1 AND x.grantee <> c.relowner GROUP BY 1, 2, 4, 5) o" \
	" LEFT JOIN (SELECT x.grantee, x.privilege_type, bool_or(x.is_grantable) AS grantable" \
	" FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = $2 GROUP BY 1, 2) n USING (grantee, privilege_type)" \
	" WHERE n.grantee IS NULL OR o.grantable AND NOT n.grantable ORDER BY o.who, o.privilege_type"

#define COLUMN_GRANTS \
	"SELECT format('privilege %s of %s on column %s.%I', x.privilege_type, w.who, $3, a.attname)," \
	" format('GRANT %s (%I) ON TABLE %s TO %s%s', x.privilege_type, b.attname, $3, w.who, CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END)," \
	" format('REVOKE %s (%I) ON TABLE %s FROM %s CASCADE', x.privilege_type, b.attname, $4, w.who)," \
	" CASE WHEN b.attname IS NULL THEN 'the new table has no such column' END," \
	" 'Grant what that role needs on the new table, and waive the gate.', NULL, NULL::oid" \
	" FROM pg_attribute a CROSS JOIN LATERAL aclexplode(a.attacl) x CROSS JOIN LATERAL (SELECT " ROLE_NAME("x.grantee") ") w (who)" \
	" LEFT JOIN pg_attribute b ON b.attrelid = $2 AND b.attname = a.attname AND b.attnum > 0 AND NOT b.attisdropped" \
	" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (SELECT FROM aclexplode(b.attacl) y" \
	" WHERE y.grantee = x.grantee AND y.privilege_type = x.privilege_type AND (y.is_grantable OR NOT x.is_grantable))" \
	" ORDER BY a.attnum, w.who, x.privilege_type"

#define ROW_SECURITY \
	"SELECT 'row security of ' || $3, format('ALTER TABLE %s %s ROW LEVEL SECURITY', $3, f.put), format('ALTER TABLE %s %s ROW LEVEL SECURITY', $4, f.back)," \
	" NULL, NULL, NULL, NULL::oid FROM pg_class o, pg_class n, LATERAL (VALUES" \
	" (o.relrowsecurity AND NOT n.relrowsecurity, 'ENABLE', 'DISABLE')," \
	" (o.relforcerowsecurity AND NOT n.relforcerowsecurity, 'FORCE', 'NO FORCE')) f (wanted, put, back)" \
	" WHERE o.oid = $1 AND n.oid = $2 AND f.wanted"

/* A policy under the same name on the new table is the user's answer. */
#define POLICIES \
	"SELECT format('policy %I on %s', p.polname, $3)," \
	" format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, $3, CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END," \
	" CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END," \
	" (SELECT string_agg(" ROLE_NAME("r") ", ', ') FROM unnest(p.polroles) r)," \
	" ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')," \
	" format('DROP POLICY %I ON %s', p.polname, $4)," \
	" 'it looks at columns that the new table has not, or with another type: ' || (SELECT string_agg(DISTINCT quote_ident(a.attname), ', ') FROM pg_depend d" \
	" JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = d.refobjsubid WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid" \
	" AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid > 0" \
	" AND NOT EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = $2 AND b.attname = a.attname AND " SAME_USE "))," \
	" format('Run CREATE POLICY %I ON %s …, as it shall be there.', p.polname, $4), pg_get_userbyid(n.relowner)::text, NULL::oid" \
	" FROM pg_policy p JOIN pg_class o ON o.oid = p.polrelid JOIN pg_class n ON n.oid = $2" \
	" WHERE p.polrelid = $1 AND o.relrowsecurity AND NOT EXISTS (SELECT FROM pg_policy q WHERE q.polrelid = $2 AND q.polname = p.polname) ORDER BY p.polname"

#define COMMENTS \
	"SELECT 'comment on ' || $3, format('COMMENT ON TABLE %s IS %L', $3, obj_description($1, 'pg_class')), format('COMMENT ON TABLE %s IS NULL', $4)," \
	" NULL, NULL, NULL, NULL::oid WHERE obj_description($1, 'pg_class') IS NOT NULL AND obj_description($2, 'pg_class') IS NULL" \
	" UNION ALL SELECT format('comment on column %s.%I', $3, a.attname), format('COMMENT ON COLUMN %s.%I IS %L', $3, a.attname, col_description($1, a.attnum))," \
	" format('COMMENT ON COLUMN %s.%I IS NULL', $4, a.attname), NULL, NULL, NULL, NULL::oid" \
	" FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = $2 AND b.attname = a.attname AND b.attnum > 0 AND NOT b.attisdropped" \
	" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND col_description($1, a.attnum) IS NOT NULL AND col_description($2, b.attnum) IS NULL"

/* What ANALYZE is told of a column. */
#define STATISTICS \
	"SELECT format('statistics target of column %s.%I', $3, a.attname), format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', $3, a.attname, a.attstattarget)," \
	" format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS -1', $4, a.attname), NULL, NULL, NULL, NULL::oid" \
	" FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = $2 AND b.attname = a.attname AND b.attnum > 0 AND NOT b.attisdropped" \
	" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) >= 0 AND coalesce(b.attstattarget, -1) < 0" \
	" UNION ALL SELECT format('%s of column %s.%I', v.option, $3, a.attname), format('ALTER TABLE %s ALTER COLUMN %I SET (%s)', $3, a.attname, v.option)," \
	" format('ALTER TABLE %s ALTER COLUMN %I RESET (%s)', $4, a.attname, split_part(v.option, '=', 1)), NULL, NULL, NULL, NULL::oid" \
	" FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = $2 AND b.attname = a.attname AND b.attnum > 0 AND NOT b.attisdropped, unnest(a.attoptions) v (option)" \
	" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND v.option ~ '^n_distinct'" \
	" AND NOT EXISTS (SELECT FROM unnest(b.attoptions) w (option) WHERE split_part(w.option, '=', 1) = split_part(v.option, '=', 1))"

/* Columns that say which row a published change is about; null: there are none. */
#define IDENTITY(class) \
	"(SELECT array_agg(a.attname ORDER BY a.attname) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)" \
	" WHERE i.indrelid = " class ".oid AND (" class ".relreplident = 'd' AND i.indisprimary OR i.indisreplident AND " class ".relreplident = 'i'))"

/*
 * Subscribers know tables by name: the old table leaves its publications, which have no table of its new name, and the new one
 * takes its place, with the same columns and filter.
 */
#define PUBLICATIONS \
	"SELECT format('publication %I', p.pubname), s.statement, s.undo, t.problem, t.hint, NULL, NULL::oid" \
	" FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class o ON o.oid = $1 JOIN pg_class n ON n.oid = $2" \
	" CROSS JOIN LATERAL (SELECT ' (' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a" \
	" WHERE a.attrelid = $1 AND a.attnum = ANY (r.prattrs)) || ')', ' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')'," \
	" " IDENTITY("o") ", " IDENTITY("n") ") q (columns, filter, old_identity, new_identity)" \
	" CROSS JOIN LATERAL (SELECT (SELECT string_agg(DISTINCT quote_ident(a.attname), ', ') FROM pg_attribute a WHERE a.attrelid = $1 AND (a.attnum = ANY (r.prattrs)" \
	" OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid" \
	" AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = a.attnum))" \
	" AND NOT EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = $2 AND b.attname = a.attname AND " SAME_USE "))) u (misfits)" \
	" CROSS JOIN LATERAL (SELECT CASE WHEN NOT pg_has_role($6, p.pubowner, 'USAGE') THEN format('role %s may not change it', $6)" \
	" WHEN u.misfits IS NOT NULL THEN 'the new table has not, or with another type, columns of its list or filter: ' || u.misfits" \
	" WHEN (p.pubupdate OR p.pubdelete) AND o.relreplident <> 'n' AND n.relreplident <> 'f' AND q.new_identity IS NULL THEN 'the new table has no replica identity'" \
	" WHEN (q.columns IS NOT NULL OR q.filter IS NOT NULL) AND n.relreplident <> 'f' AND q.new_identity IS DISTINCT FROM q.old_identity THEN" \
	" 'it has a column list or a filter, and the tables have different replica identities' END," \
	" format('Let a superuser run ALTER PUBLICATION %I DROP TABLE %s, and publish the new table after the cutover.', p.pubname, $3)) t (problem, hint)" \
	" CROSS JOIN LATERAL (VALUES (1, format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, $5)," \
	" format('ALTER PUBLICATION %I ADD TABLE %s%s%s', p.pubname, $3, q.columns, q.filter))," \
	" (2, format('ALTER PUBLICATION %I ADD TABLE %s%s%s', p.pubname, $3, q.columns, q.filter)," \
	" format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, $4))) s (ordinal, statement, undo)" \
	" WHERE r.prrelid = $1 AND (s.ordinal = 1 OR t.problem IS NULL AND NOT EXISTS (SELECT FROM pg_publication_rel m WHERE m.prpubid = p.oid AND m.prrelid = $2))" \
	" ORDER BY p.pubname, s.ordinal"

#define PUBLISHED_BY_NAME \
	PROBLEM("format('publication %I', p.pubname)", "format('it publishes both tables by their names: its subscribers would need a table %s', $5)", \
			"'Waive the gate if nobody subscribes to it, or once the subscribers are ready.'") \
	"FROM pg_publication p WHERE p.puballtables OR EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_class o ON o.relnamespace = s.pnnspid" \
	" WHERE s.pnpubid = p.oid AND o.oid = $1) UNION ALL " \
	PROBLEM("format('publication %I', p.pubname)", "format('it publishes the new table, by name: its subscribers would get it as %s', $3)", \
			"format('Run ALTER PUBLICATION %I DROP TABLE %s, or waive the gate once the subscribers are ready.', p.pubname, $4)") \
	"FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE r.prrelid = $2" \
	" AND NOT EXISTS (SELECT FROM pg_publication_rel m WHERE m.prpubid = p.oid AND m.prrelid = $1)"

/* Relations that the rules of a view read. */
#define READS(view, relation) \
	"EXISTS (SELECT FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid" \
	" WHERE w.ev_class = " view " AND d.refclassid = 'pg_class'::regclass AND d.refobjid = " relation ")"

/*
 * A view's text, read again when the names are swapped, means the new table.  The server replaces a view only where the types
 * of its columns stay, hence the look at those it reads.  A view of several old tables is replaced once.
 */
#define VIEWS \
	"SELECT CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' ELSE 'rule of table ' END || c.oid::regclass," \
	" v.text, v.text, t.problem, CASE WHEN c.relkind IN ('v', 'm') THEN 'Drop it and create it anew after the cutover, or waive the gate: it goes on reading the old table, which is kept up to date until complete.'" \
	" ELSE 'Drop the rule and create it anew after the cutover.' END, pg_get_userbyid(c.relowner)::text, c.oid" \
	" FROM pg_class c CROSS JOIN LATERAL (SELECT CASE WHEN c.relkind = 'v' THEN format('CREATE OR REPLACE VIEW %s%s AS %s', c.oid::regclass," \
	" ' WITH (' || array_to_string(c.reloptions, ', ') || ')', rtrim(pg_get_viewdef(c.oid), ';')) END) v (text)" \
	" CROSS JOIN LATERAL (SELECT (SELECT string_agg(DISTINCT quote_ident(a.attname), ', ') FROM _dualwrite.mapping p" \
	" JOIN pg_rewrite w ON w.ev_class = c.oid JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid" \
	" AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.old_table::oid AND d.refobjsubid > 0" \
	" JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid" \
	" WHERE p.migration_id = $7 AND NOT EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = p.new_table::oid AND b.attname = a.attname" \
	" AND b.atttypid = a.atttypid AND b.atttypmod = a.atttypmod AND b.attcollation = a.attcollation))) u (misfits)" \
	" CROSS JOIN LATERAL (SELECT CASE WHEN c.relkind = 'm' THEN 'the server cannot replace a materialized view'" \
	" WHEN c.relkind <> 'v' THEN 'it reads the old table'" \
	" WHEN EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.rulename <> '_RETURN') THEN 'it has rules of its own'" \
	" WHEN EXISTS (SELECT FROM _dualwrite.mapping p WHERE p.migration_id = $7 AND " READS("c.oid", "p.new_table::oid") ") THEN 'it reads the new side, too'" \
	" WHEN u.misfits IS NOT NULL THEN 'the new table has not, or with another type, columns that it reads: ' || u.misfits" \
	" WHEN NOT has_schema_privilege(c.relowner, c.relnamespace, 'CREATE') THEN 'its owner may not create views in its schema' END) t (problem)" \
	" WHERE c.oid IN (SELECT w.ev_class FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid" \
	" WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1) AND c.oid <> $1 AND c.oid <> $2" \
	" AND NOT EXISTS (SELECT FROM _dualwrite.read_view r WHERE r.view::oid = c.oid)" \
	" AND NOT EXISTS (SELECT FROM _dualwrite.mapping p WHERE p.migration_id = $7 AND p.old_table::oid < $1 AND " READS("c.oid", "p.old_table::oid") ")" \
	" ORDER BY c.oid"

/* Tables that reference the old one, unless they reference the new one, too, or belong to the old side themselves. */
#define REFERENCES \
	PROBLEM("format('foreign key %I of table %s', k.conname, k.conrelid::regclass)", "'it references the old table'", \
			"format('Run ALTER TABLE %s ADD FOREIGN KEY … REFERENCES %s NOT VALID, and VALIDATE it; drop the other one before complete.', k.conrelid::regclass, $4)") \
	"FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = $1 AND k.conrelid <> $1 AND k.conparentid = 0" \
	" AND NOT EXISTS (SELECT FROM _dualwrite.mapping p WHERE p.migration_id = $7 AND p.old_table::oid = k.conrelid)" \
	" AND NOT EXISTS (SELECT FROM pg_constraint x WHERE x.contype = 'f' AND x.confrelid = $2 AND x.conrelid = k.conrelid AND x.conkey = k.conkey) ORDER BY 1"

/* What fires, or is filled in, when the application writes: the new table has its own, or the user says so. */
#define BEHAVIOUR \
	PROBLEM("format('trigger %I on %s', t.tgname, $3)", "'it is on the old table and not on the new one'", \
			"format('Create a trigger of that name on %s, or waive the gate.', $4)") \
	"FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND f.pronamespace <> '_dualwrite'::regnamespace" \
	" AND NOT EXISTS (SELECT FROM pg_trigger x WHERE x.tgrelid = $2 AND x.tgname = t.tgname) UNION ALL " \
	PROBLEM("format('rule %I on %s', w.rulename, $3)", "'it is on the old table and not on the new one'", \
			"format('Create a rule of that name on %s, or waive the gate.', $4)") \
	"FROM pg_rewrite w WHERE w.ev_class = $1 AND NOT EXISTS (SELECT FROM pg_rewrite x WHERE x.ev_class = $2 AND x.rulename = w.rulename) UNION ALL " \
	PROBLEM("format('default of column %s.%I', $3, a.attname)", "'the old table has one and the new one has none'", \
			"format('Run ALTER TABLE %s ALTER COLUMN %I SET DEFAULT …, or waive the gate.', $4, a.attname)") \
	"FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = $2 AND b.attname = a.attname AND b.attnum > 0 AND NOT b.attisdropped" \
	" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND (a.atthasdef OR a.attidentity <> '')" \
	" AND NOT b.atthasdef AND b.attidentity = '' UNION ALL " \
	PROBLEM("format('security label of provider %I on %s', l.provider, $3)", "'it is on the old table and not on the new one'", \
			"format('Label table %s, too.', $4)") \
	"FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = $1 AND NOT EXISTS (SELECT FROM pg_seclabel x JOIN pg_attribute b" \
	" ON b.attrelid = $2 AND b.attnum = x.objsubid WHERE x.classoid = l.classoid AND x.objoid = $2 AND x.provider = l.provider AND x.label = l.label" \
	" AND b.attname = (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum = l.objsubid)" \
	" UNION ALL SELECT FROM pg_seclabel x WHERE x.classoid = l.classoid AND x.objoid = $2 AND x.objsubid = 0 AND l.objsubid = 0" \
	" AND x.provider = l.provider AND x.label = l.label)"

/* Whatever else hangs on the table or its row type: functions of SQL with a parsed body, arguments, columns, policies. */
#define OTHERS \
	PROBLEM("DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)", "'it uses the old table, or its row type'", \
			"'Create it anew on the new table after the cutover, and waive the gate.'") \
	"FROM pg_class o JOIN pg_type y ON y.oid = o.reltype JOIN pg_depend d ON d.deptype = 'n' AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid" \
	" OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (y.oid, y.typarray))" \
	" WHERE o.oid = $1 AND d.classid NOT IN ('pg_rewrite'::regclass, 'pg_publication_rel'::regclass, 'pg_constraint'::regclass, 'pg_attrdef'::regclass)" \
	" AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = d.objid AND i.indrelid = $1))" \
	" AND NOT (d.classid = 'pg_policy'::regclass AND EXISTS (SELECT FROM pg_policy p WHERE p.oid = d.objid AND p.polrelid = $1))" \
	" AND NOT (d.classid = 'pg_trigger'::regclass AND EXISTS (SELECT FROM pg_trigger t WHERE t.oid = d.objid AND t.tgrelid = $1))" \
	" AND NOT (d.classid = 'pg_statistic_ext'::regclass AND EXISTS (SELECT FROM pg_statistic_ext s WHERE s.oid = d.objid AND s.stxrelid = $1))" \
	" ORDER BY 1"

/* What follows the name of a table, in the order of its steps. */
static const struct
{
	const char *query;
	bool		refused;		/* its problems: to go on without would open or silence something */
}			followers[] =
{
	{REFUSALS, true},
	{GRANTS, false},
	{COLUMN_GRANTS, false},
	{ROW_SECURITY, true},
	{POLICIES, true},
	{COMMENTS, false},
	{STATISTICS, false},
	{PUBLICATIONS, true},
	{PUBLISHED_BY_NAME, false},
	{VIEWS, false},
	{REFERENCES, false},
	{BEHAVIOUR, false},
	{OTHERS, false},
};

static const char sequence_grants[] = GRANTS;

static char *
keep(const DwSwapPlan *plan, const char *text)
{
	return text ? MemoryContextStrdup(plan->context, text) : NULL;
}

static void
add_step(DwSwapPlan *plan, DwSwapStep step)
{
	MemoryContext old = MemoryContextSwitchTo(plan->context);
	DwSwapStep *copy = palloc(sizeof(DwSwapStep));

	step.object = keep(plan, step.object);
	step.statement = keep(plan, step.statement);
	step.undo = keep(plan, step.undo);
	step.run_as = keep(plan, step.run_as);
	step.during = keep(plan, step.during);
	*copy = step;
	plan->steps = lappend(plan->steps, copy);
	MemoryContextSwitchTo(old);
}

static void
add_problem(DwSwapPlan *plan, const char *object, const char *problem, const char *hint, bool refused)
{
	MemoryContext old = MemoryContextSwitchTo(plan->context);
	DwSwapProblem *entry = palloc(sizeof(DwSwapProblem));

	entry->object = pstrdup(object);
	entry->problem = pstrdup(problem);
	entry->hint = pstrdup(hint);
	entry->refused = refused;
	plan->problems = lappend(plan->problems, entry);
	MemoryContextSwitchTo(old);
}

/* Rename the one aside, and give its name to the other.  owners: what rename wants beside the two names, for each of them. */
static void
exchange(DwSwapPlan *plan, const char *what, char *(*rename) (const char *, const char *, const char *),
		 const char *owners[2], Oid relations[2], Oid schema, const char *name, const char *new_name, const char *aside)
{
	const char *qualifier = get_namespace_name(schema);

	add_step(plan, (DwSwapStep)
			 {
				 .object = psprintf("%s %s is called %s", what, quote_identifier(name), quote_identifier(aside)),
					 .statement = rename(owners[0], name, aside),
					 .undo = rename(owners[0], aside, name),
					 .rename = true, .relation = relations[0], .during = quote_qualified_identifier(qualifier, aside)
			 });
	add_step(plan, (DwSwapStep)
			 {
				 .object = psprintf("%s %s is called %s", what, quote_identifier(new_name), quote_identifier(name)),
					 .statement = rename(owners[1], new_name, name),
					 .undo = rename(owners[1], name, new_name),
					 .rename = true, .relation = relations[1], .during = quote_qualified_identifier(qualifier, name)
			 });
}

/* schema: quoted */
static char *
rename_table(const char *schema, const char *from, const char *to)
{
	return psprintf("ALTER TABLE %s.%s RENAME TO %s", schema, quote_identifier(from), quote_identifier(to));
}

static char *
rename_sequence(const char *schema, const char *from, const char *to)
{
	return psprintf("ALTER SEQUENCE %s.%s RENAME TO %s", schema, quote_identifier(from), quote_identifier(to));
}

/* table: qualified, quoted */
static char *
rename_constraint(const char *table, const char *from, const char *to)
{
	return psprintf("ALTER TABLE %s RENAME CONSTRAINT %s TO %s", table, quote_identifier(from), quote_identifier(to));
}

/* Run one query of a kind that follows, and take its rows into the plan. */
static void
plan_followers(DwSwapPlan *plan, const char *query, bool refused, DwArg *args)
{
	DwSql		sql;
	uint64		count;

	dw_sql_begin(&sql);
	count = dw_sql(query, NUM_ARGS, args);
	for (uint64 i = 0; i < count; i++)
	{
		char	   *object = dw_sql_cstring(&sql, i, 1);
		char	   *problem = dw_sql_cstring(&sql, i, 4);
		bool		isnull;
		Datum		relation = dw_sql_value(i, 7, &isnull);

		if (problem != NULL)
			add_problem(plan, object, problem, dw_sql_cstring(&sql, i, 5), refused);
		else
			add_step(plan, (DwSwapStep)
					 {
						 .object = object, .statement = dw_sql_cstring(&sql, i, 2), .undo = dw_sql_cstring(&sql, i, 3),
							 .run_as = dw_sql_cstring(&sql, i, 6), .relation = isnull ? InvalidOid : DatumGetObjectId(relation)
					 });
	}
	dw_sql_end(&sql);
}

static bool
is_promised(const DwSwapPlan *plan, Oid schema, const char *name)
{
	const char *qualified = quote_qualified_identifier(get_namespace_name(schema), name);
	ListCell   *lc;

	foreach(lc, plan->asides)
		if (strcmp(lfirst(lc), qualified) == 0)
			return true;
	return false;
}

/*
 * The name that an old thing gets.  One that had to be cut may be somebody else's by accident: then a number is added.  exact: any other is
 * what users were told of, whoever has it.
 */
static char *
aside_name(DwSwapPlan *plan, const char *name, Oid schema, bool exact)
{
	char	   *aside = makeObjectName(name, NULL, ASIDE);
	bool		cut = strncmp(aside, name, strlen(name)) != 0;
	MemoryContext old;

	for (int i = 1; (cut || !exact) && (OidIsValid(get_relname_relid(aside, schema)) || is_promised(plan, schema, aside)); i++)
		aside = makeObjectName(name, NULL, psprintf(ASIDE "%d", i));
	old = MemoryContextSwitchTo(plan->context);
	plan->asides = lappend(plan->asides, quote_qualified_identifier(get_namespace_name(schema), aside));
	MemoryContextSwitchTo(old);
	return aside;
}

#define SEQUENCE_OF(attribute) \
	"(SELECT s.oid, s.relname, s.relnamespace FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'" \
	" WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = " attribute ".attrelid" \
	" AND d.refobjsubid = " attribute ".attnum AND d.deptype IN ('a', 'i') ORDER BY d.deptype DESC, s.oid LIMIT 1)"

/* Sequences that columns of one name own on both sides; those in different schemas keep their names. */
#define SEQUENCES \
	"SELECT so.oid, sn.oid, so.relname::text, sn.relname::text, so.relnamespace, so.relnamespace = sn.relnamespace" \
	" FROM pg_attribute ao JOIN pg_attribute an ON an.attrelid = $2 AND an.attname = ao.attname AND an.attnum > 0 AND NOT an.attisdropped," \
	" LATERAL " SEQUENCE_OF("ao") " so, LATERAL " SEQUENCE_OF("an") " sn" \
	" WHERE ao.attrelid = $1 AND ao.attnum > 0 AND NOT ao.attisdropped ORDER BY ao.attnum"

/* One pair of sequences: its names, and the rights of whoever draws numbers by the column's default. */
static void
plan_sequence(DwSwapPlan *plan, Oid old_sequence, Oid new_sequence, Oid schema, bool rename)
{
	char	   *name = get_rel_name(old_sequence);
	char	   *now = dw_table_name(new_sequence);
	char	   *then = rename ? dw_table_name(old_sequence) : now;
	const char *qualifier = quote_identifier(get_namespace_name(schema));
	DwArg		args[NUM_ARGS] = {DW_OID(old_sequence), DW_OID(new_sequence), DW_TEXT(then), DW_TEXT(now), DW_TEXT(NULL),
	DW_TEXT(NULL), DW_INT4(0)};

	if (rename)
		exchange(plan, "sequence", rename_sequence, (const char *[]) {qualifier, qualifier},
				 (Oid[]) {old_sequence, new_sequence}, schema, name, get_rel_name(new_sequence), aside_name(plan, name, schema, false));
	plan_followers(plan, sequence_grants, false, args);
}

static void
plan_sequences(DwSwapPlan *plan, const SwapPair *pair)
{
	DwSql		sql;
	uint64		count;
	struct
	{
		Oid			old_sequence,
					new_sequence,
					schema;
		bool		rename;
	}		   *found;

	dw_sql_begin(&sql);
	count = dw_sql(SEQUENCES, 2, (DwArg[]) {DW_OID(pair->old_table), DW_OID(pair->new_table)});
	found = MemoryContextAlloc(sql.caller, sizeof(*found) * Max(count, 1));
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;

		found[i].old_sequence = DatumGetObjectId(dw_sql_value(i, 1, &isnull));
		found[i].new_sequence = DatumGetObjectId(dw_sql_value(i, 2, &isnull));
		found[i].schema = DatumGetObjectId(dw_sql_value(i, 5, &isnull));
		found[i].rename = DatumGetBool(dw_sql_value(i, 6, &isnull));
	}
	dw_sql_end(&sql);
	for (uint64 i = 0; i < count; i++)
		plan_sequence(plan, found[i].old_sequence, found[i].new_sequence, found[i].schema, found[i].rename);
}

#define COLUMN_NAMES(constraint) \
	"(SELECT array_agg(a.attname ORDER BY k.ordinality) FROM unnest(" constraint ".conkey) WITH ORDINALITY k (attnum, ordinality)" \
	" JOIN pg_attribute a ON a.attrelid = " constraint ".conrelid AND a.attnum = k.attnum)"

/* ON CONFLICT ON CONSTRAINT, and whoever reads the name in an error message: primary keys, and unique constraints on the same columns. */
#define CONSTRAINTS \
	"SELECT DISTINCT ON (o.conname) o.conname::text, n.conname::text FROM pg_constraint o JOIN pg_constraint n ON n.conrelid = $2 AND n.contype = o.contype" \
	" WHERE o.conrelid = $1 AND (o.contype = 'p' OR o.contype = 'u' AND " COLUMN_NAMES("o") " = " COLUMN_NAMES("n") \
	" AND NOT EXISTS (SELECT FROM pg_constraint e WHERE e.conrelid = $1 AND e.contype = 'u' AND e.conname < o.conname AND e.conkey = o.conkey))" \
	" ORDER BY o.conname, n.conname"

static void
plan_constraints(DwSwapPlan *plan, const SwapPair *pair)
{
	Oid			schema = get_rel_namespace(pair->old_table);
	DwSql		sql;
	uint64		count;
	char	  **names;

	dw_sql_begin(&sql);
	count = dw_sql(CONSTRAINTS, 2, (DwArg[]) {DW_OID(pair->old_table), DW_OID(pair->new_table)});
	names = MemoryContextAlloc(sql.caller, sizeof(char *) * 2 * Max(count, 1));
	for (uint64 i = 0; i < 2 * count; i++)
		names[i] = dw_sql_cstring(&sql, i / 2, 1 + (int) (i % 2));
	dw_sql_end(&sql);
	for (uint64 i = 0; i < count; i++)
		exchange(plan, "constraint", rename_constraint, (const char *[]) {pair->name, pair->new_name},
				 (Oid[]) {InvalidOid, InvalidOid}, schema, names[2 * i], names[2 * i + 1], aside_name(plan, names[2 * i], schema, false));
}

static void
plan_tables(DwSwapPlan *plan, const SwapPair *pair)
{
	Oid			schema = get_rel_namespace(pair->old_table);
	const char *qualifier = quote_identifier(get_namespace_name(schema));
	char	   *name = get_rel_name(pair->old_table);

	if (OidIsValid(get_relname_relid(pair->aside_name, schema)))
		add_problem(plan, pair->aside, "the old table would get this name, and there is something that has it",
					"Rename or drop that.", true);
	exchange(plan, "table", rename_table, (const char *[]) {qualifier, qualifier},
			 (Oid[]) {pair->old_table, pair->new_table}, schema, name, get_rel_name(pair->new_table), pair->aside_name);
}

/* Everything that follows the names of a pair, once these are swapped. */
static void
plan_pair(DwSwapPlan *plan, const SwapPair *pair, int32 migration_id)
{
	char	   *role = superuser() ? NULL : GetUserNameFromId(dw_relation_owner(pair->old_table), false);
	DwArg		args[NUM_ARGS] = {DW_OID(pair->old_table), DW_OID(pair->new_table), DW_TEXT(pair->name), DW_TEXT(pair->new_name),
	DW_TEXT(pair->aside), DW_TEXT(role), DW_INT4(migration_id)};

	for (size_t i = 0; i < lengthof(followers); i++)
		plan_followers(plan, followers[i].query, followers[i].refused, args);
}

/* Has another mapping of the migration one of the two tables as well? */
static bool
is_shared(const DwMapping *mapping, List *mappings)
{
	ListCell   *lc;

	foreach(lc, mappings)
	{
		DwMapping  *other = lfirst(lc);

		if (other != mapping &&
			(other->old_table == mapping->old_table || other->new_table == mapping->new_table ||
			 other->old_table == mapping->new_table || other->new_table == mapping->old_table))
			return true;
	}
	return false;
}

/* Tables that swap names: one old, one new, and neither in another mapping. */
static List *
pairs_of(DwSwapPlan *plan, const DwMigration *migration)
{
	List	   *mappings = dw_mappings_of(migration->id);
	List	   *pairs = NIL;
	ListCell   *lc;

	foreach(lc, mappings)
	{
		DwMapping  *mapping = lfirst(lc);
		SwapPair   *pair;

		/* in place there is one name; a table that is gone is for other gates to say */
		if (mapping->old_table == mapping->new_table ||
			get_rel_name(mapping->old_table) == NULL || get_rel_name(mapping->new_table) == NULL)
			continue;
		if (is_shared(mapping, mappings))
		{
			add_problem(plan, psprintf("%s and %s", dw_table_name(mapping->old_table), dw_table_name(mapping->new_table)),
						"another mapping has one of them, too: which table gets the name is not clear",
						"Leave the setting off, and let the application name the new tables.", true);
			continue;
		}
		pair = palloc0(sizeof(SwapPair));
		pair->old_table = mapping->old_table;
		pair->new_table = mapping->new_table;
		pair->name = dw_table_name(mapping->old_table);
		pair->new_name = dw_table_name(mapping->new_table);
		pair->aside_name = aside_name(plan, get_rel_name(mapping->old_table), get_rel_namespace(mapping->old_table), true);
		pair->aside = quote_qualified_identifier(get_namespace_name(get_rel_namespace(mapping->old_table)), pair->aside_name);
		pairs = lappend(pairs, pair);
	}
	return pairs;
}

DwSwapPlan *
dw_swap_plan(const DwMigration *migration)
{
	DwSwapPlan *plan = palloc0(sizeof(DwSwapPlan));
	List	   *pairs;
	ListCell   *lc;

	plan->context = CurrentMemoryContext;
	if (migration->names_swapped)
		return plan;
	pairs = pairs_of(plan, migration);
	/* what is named by its table goes before the tables do */
	foreach(lc, pairs)
		plan_constraints(plan, lfirst(lc));
	foreach(lc, pairs)
		plan_tables(plan, lfirst(lc));
	foreach(lc, pairs)
		plan_sequences(plan, lfirst(lc));
	foreach(lc, pairs)
		plan_pair(plan, lfirst(lc), migration->id);
	return plan;
}

char *
dw_swap_problems(const DwSwapPlan *plan, bool refused)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, plan->problems)
	{
		DwSwapProblem *problem = lfirst(lc);

		if (problem->refused == refused)
			appendStringInfo(&text, "%s%s: %s", text.len > 0 ? "; " : "", problem->object, problem->problem);
	}
	return text.len > 0 ? text.data : NULL;
}
