# shellcheck shell=bash
#
# lint.sh: rules about the source and the catalog. Each is a function dw_lint_NAME that prints what
# breaks the rule, and nothing else; it runs in the top directory of the source.
#
# Needs only a shell, awk, grep and perl, so that every machine gives the same answer.

DW_LINT_SOURCE=(
	version_checks
	modules_documented
	whitespace
	tabs_in_c
	function_length
	expected_files
	versions_agree
	meta_json
	shell_syntax
	unfinished_work
)
DW_LINT_CATALOG=(
	comments_on_functions
	comments_on_views
	comments_on_columns
	arguments_named
)

dw_lint_names()
{
	printf '%s\n' "${DW_LINT_SOURCE[@]}" "${DW_LINT_CATALOG[@]}"
}

# Text files that people write.
dw_lint_files()
{
	find . \( -name .git -o -name expected -o -name results \) -prune -o -type f \
		\( -name '*.c' -o -name '*.h' -o -name '*.sql' -o -name '*.spec' -o -name '*.md' -o -name '*.sh' -o -name '*.pl' \
		-o -name '*.json' -o -name '*.control' -o -name Makefile -o -name run \) -print | grep -v '^\./sql/dualwrite--' | sort
}

# Differences between server versions live in one header.
dw_lint_version_checks()
{
	grep -n PG_VERSION_NUM src/*.c src/*.h | grep -v '^src/compat\.h:'
}

# src/README.md tells what each module is for.
dw_lint_modules_documented()
{
	local file name

	for file in src/*.c; do
		name=${file##*/}
		grep -qw "${name%.c}" src/README.md || printf '%s is not in src/README.md\n' "$file"
	done
}

dw_lint_whitespace()
{
	dw_lint_files | xargs grep -nE '[[:blank:]]+$|'$'\r'
	# shellcheck disable=SC2016
	dw_lint_files | xargs perl -e 'for (@ARGV) { local $/; open my $f, "<", $_ or die; my $t = <$f>;
		print "$_: no newline at the end\n" if length $t && $t !~ /\n\z/; print "$_: blank lines at the end\n" if $t =~ /\n\n\z/; }'
}

# C is indented by tabs of four columns.
dw_lint_tabs_in_c()
{
	grep -nE '^(	*)    ' src/*.c src/*.h
}

# A function that does not fit on two screens wants to be two functions.
dw_lint_function_length()
{
	awk 'FNR == 1 { start = 0 } /^\{/ { start = FNR } /^\}/ { if (start && FNR - start > 80)
		print FILENAME ":" start ": " FNR - start " lines"; start = 0 }' src/*.c
}

# Every test has its expected output, every expected output its test, and no two tests one name.
dw_lint_expected_files()
{
	local names name

	names=$({ dw_tests_of regress && dw_tests_of isolation; } | sort)
	uniq -d <<<"$names" | sed 's/$/: both a regress and an isolation test/'
	for name in $names; do
		[[ -e expected/$name.out ]] || printf 'expected/%s.out is missing\n' "$name"
	done
	for name in expected/*.out; do
		name=${name#expected/}
		name=${name%.out}
		grep -qxF -e "$name" -e "${name%_[1-9]}" <<<"$names" || printf 'expected/%s.out belongs to no test\n' "$name"
	done
}

dw_lint_versions_agree()
{
	local version

	version=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" dualwrite.control)
	[[ $(grep -cF "\"version\": \"$version\"" META.json) -eq 2 ]] || printf 'META.json does not say %s twice\n' "$version"
	grep -qE "^## ${version//./\\.}( |$)" CHANGELOG.md || printf 'CHANGELOG.md has no section %s\n' "$version"
}

dw_lint_meta_json()
{
	perl -MJSON::PP -e 'local $/; my $m = eval { decode_json(<STDIN>) } or do { print $@; exit };
		exists $m->{$_} or print "META.json: no $_\n" for qw(name version abstract maintainer license provides meta-spec)' <META.json
}

dw_lint_shell_syntax()
{
	local file

	for file in test/run test/lib/*.sh .ci/run test/demo/run; do
		[[ ! -e $file ]] || bash -n "$file" 2>&1
	done
}

dw_lint_unfinished_work()
{
	grep -rnwE 'T[O]DO|F[I]XME' src sql test Makefile
}

# The catalog, as CREATE EXTENSION makes it.
dw_lint_query()
{
	dw_run psql -qXAt -v ON_ERROR_STOP=1 -d lint -c "$1" 2>&1
}

dw_lint_comments_on_functions()
{
	dw_lint_query "SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'dualwrite'::regnamespace
		AND coalesce(obj_description(p.oid, 'pg_proc'), '') = '' ORDER BY 1::text"
}

dw_lint_comments_on_views()
{
	dw_lint_query "SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'dualwrite'::regnamespace
		AND c.relkind IN ('v', 'm', 'r', 'p', 'f') AND coalesce(obj_description(c.oid, 'pg_class'), '') = '' ORDER BY 1::text"
}

dw_lint_comments_on_columns()
{
	dw_lint_query "SELECT c.oid::regclass || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relnamespace = 'dualwrite'::regnamespace AND c.relkind IN ('v', 'm', 'r', 'p', 'f') AND a.attnum > 0
		AND NOT a.attisdropped AND coalesce(col_description(c.oid, a.attnum), '') = '' ORDER BY 1"
}

# Everything can be called by name, and what names a migration is called so.
dw_lint_arguments_named()
{
	dw_lint_query "SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'dualwrite'::regnamespace
		AND p.pronargs > 0 AND 'internal'::regtype <> ALL (p.proargtypes::oid[])
		AND (p.proargnames IS NULL OR '' = ANY (p.proargnames) OR 'migration_name' = ANY (p.proargnames)) ORDER BY 1::text"
}

# The catalog rules need a server with the extension in database "lint".
dw_lint_cluster()
{
	dw_kind_cluster lint &&
		dw_run psql -qX -v ON_ERROR_STOP=1 -c 'CREATE DATABASE lint' -c '\c lint' -c 'CREATE EXTENSION dualwrite' \
			>"$DW_WORK/lint/create.log" 2>&1
}

# $@: names of rules
dw_run_lint()
{
	local name found=$DW_WORK/lint.found cluster=none

	for name in "$@"; do
		if [[ $cluster == none && " ${DW_LINT_CATALOG[*]} " == *" $name "* ]]; then
			cluster=up
			dw_lint_cluster || cluster=down
		fi
		if [[ $cluster == down ]]; then
			dw_record lint FAILED "$name" "CREATE EXTENSION"
			dw_show "$DW_WORK/lint/create.log" 10
			continue
		fi
		(cd "$DW_WORK/src" && "dw_lint_$name") >"$found" 2>&1 || true
		if [[ -s $found ]]; then
			dw_record lint FAILED "$name" "$(wc -l <"$found") found"
			head -n 30 "$found" | sed 's/^/         /'
		else
			dw_record lint ok "$name"
		fi
	done
	[[ $cluster == none ]] || dw_kind_end lint
}
