# shellcheck shell=bash
#
# suite.sh: run the tests of one kind and keep count. Sourced by test/run after cluster.sh.
#
# Every kind records each test with dw_record; a tool that dies without saying why is a failed
# test, never a silent one.

DW_KINDS=(lint regress isolation pgtap tap)
DW_PRELOAD=${DW_PRELOAD:-1}		# 0: clusters without shared_preload_libraries
DW_ACCEPT=0				# 1: outputs that differ become the expected ones
# Comparisons as fast as they can, whoever else wants the machine: nothing here is to wait for how busy it is. What is set
# aside is tested where it is asked for by name (configure).
DW_PACE=("dualwrite.reconcile_share = 100" "dualwrite.reconcile_nice = 0")
# seconds for one file of pgtap or tap: for one that hangs, not one that is slow; one that was asked to take longer may
DW_FILE_LIMIT=$((900 + ${DW_RECONCILE_SECONDS:-0}))
DW_KIND_LIMIT=1500			# seconds for all regress or all isolation tests
declare -A DW_PASSED=() DW_FAILED=() DW_SKIPPED=()

# What no server log may contain: crashes, failed assertions, leaks.
DW_BAD_LOG='TRAP: |PANIC: |terminated by signal (4|6|7|8|11)\b|(refcount|reference) leak|resource was not closed'

# $1: kind; $2: ok, FAILED or skipped; $3: name; $4: remark; $5: how many tests it stands for
dw_record()
{
	local count=${5:-1}

	case $2 in
		ok) DW_PASSED[$1]=$((${DW_PASSED[$1]:-0} + count)) ;;
		FAILED) DW_FAILED[$1]=$((${DW_FAILED[$1]:-0} + count)) ;;
		skipped) DW_SKIPPED[$1]=$((${DW_SKIPPED[$1]:-0} + count)) ;;
	esac
	printf '%-8s %-40s %s\n' "$2" "$1/$3" "${4:-}"
}

# Show the part of a log that explains a failure, indented; every statement, every success is too much.
# $1: file; $2: lines
dw_show()
{
	[[ -s $1 ]] || return 0
	printf '         --- %s\n' "${1#"$DW_WORK"/}"
	grep -vE ' LOG:  statement: |^ok [0-9]+ ' "$1" | tail -n "$2" | sed 's/^/         /' || true
}

# The tests of a kind there are, by name.
dw_tests_of()
{
	local src=$DW_SOURCE/test

	case $1 in
		lint) dw_lint_names ;;
		regress) find "$src/sql" -name '*.sql' -printf '%f\n' 2>/dev/null | sed 's/\.sql$//' | sort ;;
		isolation) find "$src/specs" -name '*.spec' -printf '%f\n' 2>/dev/null | sed 's/\.spec$//' | sort ;;
		pgtap) find "$src/pgtap" -name '*.sql' -printf '%f\n' 2>/dev/null | sed 's/\.sql$//' | sort ;;
		tap) find "$src/t" -name '*.pl' -printf '%f\n' 2>/dev/null | sed 's/\.pl$//' | sort ;;
	esac
}

# Make and start the cluster of a kind.
dw_kind_cluster()
{
	local settings=("${DW_PACE[@]}")

	[[ $DW_PRELOAD -eq 1 ]] || settings+=("shared_preload_libraries = ''")
	dw_cluster_make "$1" "${settings[@]}" && dw_cluster_start "$1" && dw_cluster_use "$1"
}

# Stop the cluster of a kind and look through its log.
dw_kind_end()
{
	if ! dw_cluster_stop "$1" >"$DW_WORK/$1/stop.log" 2>&1; then
		dw_record "$1" FAILED shutdown "the server did not stop"
		dw_show "$DW_WORK/$1/stop.log" 10
		dw_show "$DW_WORK/$1/log" 40
	fi
	dw_check_log "$1" "$DW_WORK/$1/log"
}

# Lines of server logs that must not be there. The apply worker of 17 does not close partitions whose AFTER triggers it has
# fired, with anybody's triggers and without dualwrite, too: that much is allowed in the log of a server called subscriber.
dw_bad_lines()
{
	local log

	for log; do
		case $log in
			*_subscriber.log) grep -HnE "$DW_BAD_LOG" "$log" | grep -v 'resource was not closed: relation' ;;
			*) grep -HnE "$DW_BAD_LOG" "$log" ;;
		esac
	done 2>/dev/null || true
}

# $1: kind; the rest: server logs
dw_check_log()
{
	local kind=$1 found=$DW_WORK/$1.found

	shift
	dw_bad_lines "$@" >"$found"
	if [[ -s $found ]]; then
		dw_record "$kind" FAILED server_log "crashes, failed assertions or leaks"
		dw_show "$found" 20
	else
		dw_record "$kind" ok server_log
	fi
}

# Read what pg_regress prints (15 in its own words, later versions as TAP) and record each test.
# $1: kind; sets DW_SEEN to the names read, each between blanks
dw_read_regress()
{
	local line name result ms old new

	old='^(test)? +([A-Za-z0-9_]+) +\.\.\. +(ok|FAILED).* ([0-9]+) ms'
	new='^(ok|not ok) +[0-9]+ +[-+] +([A-Za-z0-9_]+) +([0-9]+) ms'
	DW_SEEN=' '
	while IFS= read -r line; do
		printf '%s\n' "$line" >>"$DW_WORK/$1/output"
		if [[ $line =~ $old ]]; then
			name=${BASH_REMATCH[2]} result=${BASH_REMATCH[3]} ms=${BASH_REMATCH[4]}
		elif [[ $line =~ $new ]]; then
			name=${BASH_REMATCH[2]} result=${BASH_REMATCH[1]} ms=${BASH_REMATCH[3]}
			[[ $result == ok ]] || result=FAILED
		else
			continue
		fi
		DW_SEEN+="$name "
		dw_record "$1" "$result" "$name" "$((ms / 1000)).$((ms % 1000 / 100)) s"
	done
}

# Show how the output differs from what was expected; take it as the expected output from now on if
# that was asked for (--accept).
# $1: kind
dw_show_diffs()
{
	local dir=$DW_WORK/src kept=$DW_WORK/$1 name

	cp -r "$dir/regression.diffs" "$dir/results" "$kept/"
	head -n 400 "$kept/regression.diffs" | sed "s#$dir/##g" >"$kept/diffs"
	dw_show "$kept/diffs" 400
	[[ $(wc -l <"$kept/regression.diffs") -le 400 ]] || dw_say "         ... and more in $kept/regression.diffs"
	[[ $DW_ACCEPT -eq 1 ]] || return 0
	for name in $DW_SEEN; do
		cmp -s "$dir/results/$name.out" "$dir/expected/$name.out" && continue
		cp "$dir/results/$name.out" "$DW_SOURCE/expected/"
		dw_say "accepted: expected/$name.out"
	done
}

# Regress and isolation tests go through the Makefile's installcheck, which has their options.
# $1: regress or isolation; the rest: names
dw_run_regress()
{
	local kind=$1 status lists=(REGRESS= ISOLATION= TAP_TESTS=) dir=$DW_WORK/src name missing=()

	shift
	# A test without expected output shall show what it printed, not stop the others.
	for name in "$@"; do
		[[ -e $dir/expected/$name.out ]] || dw_run touch "$dir/expected/$name.out"
	done
	dw_kind_cluster "$kind" || { dw_record "$kind" FAILED startup "no cluster"; return 0; }
	case $kind in
		regress) lists[0]="REGRESS=$*" ;;
		isolation) lists[1]="ISOLATION=$*" ;;
	esac
	status=0
	dw_run timeout -k 20 "$DW_KIND_LIMIT" make -C "$DW_WORK/src" -s PG_CONFIG="$DW_PG_CONFIG" with_llvm=no \
		installcheck "${lists[@]}" 2>&1 </dev/null | dw_read_regress "$kind" || status=${PIPESTATUS[0]}

	for name in "$@"; do
		[[ $DW_SEEN == *" $name "* ]] || missing+=("$name")
	done
	if [[ ${#missing[@]} -gt 0 ]]; then
		for name in "${missing[@]}"; do
			dw_record "$kind" FAILED "$name" "gave no result; exit status of all: $status"
		done
		dw_show "$DW_WORK/$kind/output" 30
	elif [[ $status -ne 0 && ${DW_FAILED[$kind]:-0} -eq 0 ]]; then
		dw_record "$kind" FAILED installcheck "exit status $status"
		dw_show "$DW_WORK/$kind/output" 30
	fi
	[[ ! -s $dir/regression.diffs ]] || dw_show_diffs "$kind"
	rm -rf "$dir/regression.diffs" "$dir/results"
	dw_kind_end "$kind"
}

# Run one file that prints TAP, and record it: each assertion is a test.
# $1: kind; $2: name; $3: log; the rest: the command
dw_run_tap()
{
	local kind=$1 name=$2 log=$3 start status=0 ok bad skipped

	shift 3
	start=$(dw_now)
	dw_run timeout -k 20 "$DW_FILE_LIMIT" "$@" >"$log" 2>&1 </dev/null || status=$?
	skipped=$(grep -ciE '^ok [0-9]+.*# skip|^not ok .*# todo|^1\.\.0 # skip' "$log" || true)
	ok=$(grep -E '^ok [0-9]+' "$log" | grep -ciEv '# skip' || true)
	bad=$(grep -E '^not ok ' "$log" | grep -ciEv '# todo' || true)

	if [[ $status -ne 0 && $bad -eq 0 ]]; then
		bad=1
		case $status in
			124 | 137) printf '# gave up after %s seconds\n' "$DW_FILE_LIMIT" >>"$log" ;;
			*) printf '# no assertion failed, but the exit status was %s\n' "$status" >>"$log" ;;
		esac
	elif [[ $((ok + bad + skipped)) -eq 0 ]]; then
		bad=1
		printf '# no assertion was made\n' >>"$log"
	fi
	[[ $ok -eq 0 ]] || DW_PASSED[$kind]=$((${DW_PASSED[$kind]:-0} + ok))
	[[ $skipped -eq 0 ]] || dw_record "$kind" skipped "$name" "$(grep -iE -m 1 -o '# (skip|todo).*' "$log" || true)" "$skipped"
	if [[ $bad -gt 0 ]]; then
		dw_record "$kind" FAILED "$name" "$bad of $((ok + bad)), $(dw_seconds "$start") s" "$bad"
		if grep -qE '^not ok ' "$log"; then
			grep -E '^(not ok|#)' "$log" | head -n 100 | sed 's/^/         /'
		else
			dw_show "$log" 40
		fi
		return 1
	fi
	[[ $ok -eq 0 ]] || dw_record "$kind" ok "$name" "$ok assertions, $(dw_seconds "$start") s" 0
}

# A PostgreSQL built from source has no pgTAP: borrow the packaged one, which is SQL only.
dw_find_pgtap()
{
	local own packaged

	own=$("$DW_PG_CONFIG" --sharedir)/extension
	packaged=/usr/share/postgresql/$DW_MAJOR/extension
	[[ -e $own/pgtap.control ]] || cp "$packaged"/pgtap* "$own/" 2>/dev/null
}

dw_run_pgtap()
{
	local name file db

	dw_find_pgtap || {
		dw_record pgtap skipped "$#_files" "pgTAP for PostgreSQL $DW_MAJOR is not installed" $#
		return 0
	}
	dw_kind_cluster pgtap || { dw_record pgtap FAILED startup "no cluster"; return 0; }
	dw_run psql -qX -v ON_ERROR_STOP=1 -c 'CREATE DATABASE pgtap_template' -c '\c pgtap_template' -c 'CREATE EXTENSION pgtap' \
		-f "$DW_WORK/src/test/lib/pgtap.sql" >/dev/null || { dw_record pgtap FAILED startup "no template"; return 0; }
	for name in "$@"; do
		file=$DW_WORK/src/test/pgtap/$name.sql
		db=pgtap_$name
		if ! dw_run psql -qX -v ON_ERROR_STOP=1 -c "CREATE DATABASE \"$db\" TEMPLATE pgtap_template" \
			-c "\\c \"$db\"" -c 'CREATE EXTENSION dualwrite' >"$DW_WORK/pgtap/$name.log" 2>&1; then
			dw_record pgtap FAILED "$name" "CREATE EXTENSION"
			dw_show "$DW_WORK/pgtap/$name.log" 20
			continue
		fi
		dw_run_tap pgtap "$name" "$DW_WORK/pgtap/$name.log" pg_prove -v -d "$db" "$file" || true
		if ! dw_run dropdb --force "$db" >"$DW_WORK/pgtap/$name.drop" 2>&1; then
			dw_record pgtap FAILED "$name" "DROP DATABASE afterwards"
			dw_show "$DW_WORK/pgtap/$name.drop" 10
		fi
	done
	dw_kind_end pgtap
}

# The Perl modules of PostgreSQL's own tests come with the server's development files.
dw_run_perl()
{
	local pgxs perl name dir log

	pgxs=$("$DW_PG_CONFIG" --pgxs)
	pgxs=${pgxs%/src/makefiles/pgxs.mk}
	perl=$pgxs/src/test/perl
	if [[ ! -e $perl/PostgreSQL/Test/Cluster.pm ]]; then
		dw_record tap skipped "$#_files" "this PostgreSQL came without PostgreSQL::Test" $#
		return 0
	fi
	mkdir "$DW_WORK/tap"
	printf '%s\n' "${DW_PACE[@]}" >"$DW_WORK/tap/pace.conf"
	for name in "$@"; do
		dir=$DW_WORK/tap/$name
		mkdir "$dir"
		dw_give "$DW_WORK/tap"
		if ! dw_run_tap tap "$name" "$dir/output" env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE \
			TMPDIR="$DW_WORK/s" TESTDIR="$dir" TESTDATADIR="$dir/tmp_check" TESTLOGDIR="$dir/tmp_check/log" \
			PG_REGRESS="$pgxs/src/test/regress/pg_regress" PG_TEST_TIMEOUT_DEFAULT=300 \
			TEMP_CONFIG="$DW_WORK/tap/pace.conf" \
			prove -v -I "$perl" -I "$DW_WORK/src/test/t" "$DW_WORK/src/test/t/$name.pl"; then
			# a crash says most, then what made the script end; only then what the servers said
			dw_bad_lines "$dir"/tmp_check/log/*.log | cut -c1-300 | sed 's/^/         /'
			for log in "$dir/tmp_check/log/regress_log_$name" "$dir"/tmp_check/log/*.log; do
				dw_show "$log" 40
			done
		fi
	done
	dw_check_log tap "$DW_WORK"/tap/*/tmp_check/log/*.log
}

# $1: kind; the rest: names of tests
dw_run_kind()
{
	local kind=$1 start

	shift
	[[ $# -gt 0 ]] || return 0
	start=$(dw_now)
	dw_say ''
	dw_say "$kind ($#):"
	case $kind in
		lint) dw_run_lint "$@" ;;
		regress | isolation) dw_run_regress "$kind" "$@" ;;
		pgtap) dw_run_pgtap "$@" ;;
		tap) dw_run_perl "$@" ;;
	esac
	dw_say "$kind: $(dw_seconds "$start") s"
}

# One line of totals: "N passed, N failed", with ", N skipped" where there are any.
dw_totals()
{
	printf '%d passed, %d failed' "$1" "$2"
	[[ $3 -eq 0 ]] || printf ', %d skipped' "$3"
	printf '\n'
}

# Totals by kind, then of all as the last line. False when something failed, or nothing ran.
dw_report()
{
	local kind passed=0 failed=0 skipped=0

	dw_say ''
	dw_say "PostgreSQL $DW_VERSION:"
	for kind in "${DW_KINDS[@]}"; do
		[[ -n ${DW_PASSED[$kind]:-}${DW_FAILED[$kind]:-}${DW_SKIPPED[$kind]:-} ]] || continue
		printf '  %-10s ' "$kind"
		dw_totals "${DW_PASSED[$kind]:-0}" "${DW_FAILED[$kind]:-0}" "${DW_SKIPPED[$kind]:-0}"
		passed=$((passed + ${DW_PASSED[$kind]:-0}))
		failed=$((failed + ${DW_FAILED[$kind]:-0}))
		skipped=$((skipped + ${DW_SKIPPED[$kind]:-0}))
	done
	[[ $failed -eq 0 && $passed -gt 0 ]] || DW_KEEP=1
	dw_say_kept
	dw_totals $passed $failed $skipped
	[[ $failed -eq 0 && $passed -gt 0 ]]
}
