# shellcheck shell=bash
#
# cluster.sh: build dualwrite and run it in throwaway clusters. Shared by test/run and test/demo/run.
#
# The extension is installed into a private copy of the PostgreSQL installation inside the work
# directory (PostgreSQL finds its files relative to its own binary), so nothing of the machine's
# own installation changes and several runs can go on side by side.
#
# Use:
#	. test/lib/cluster.sh
#	dw_clean_environment
#	dw_need_packages $(dw_build_packages 15)
#	dw_workdir demo
#	dw_install /usr/lib/postgresql/15/bin/pg_config		sets DW_BIN, DW_PG_CONFIG, DW_VERSION
#	dw_build /path/to/the/source
#	dw_cluster_make main "work_mem = '64MB'"
#	dw_cluster_start main
#	dw_cluster_use main					psql, pgbench ... now go there
#	dw_run psql -c 'SELECT 1'
#	dw_cluster_stop main
#
# What is still running at the end is stopped, and the work directory removed, by the EXIT trap
# that dw_workdir sets; a script that wants a trap of its own calls dw_cleanup last in it.

# shellcheck source=test/lib/base.sh
. "${BASH_SOURCE[0]%/*}/base.sh"

DW_BIN=''			# directory of postgres, psql, pgbench ...
DW_PG_CONFIG=''			# pg_config of the private installation
DW_VERSION=''			# e.g. 15.20
DW_MAJOR=''			# e.g. 15
declare -A DW_PORT=()		# port of each cluster, by its name

# A port that nothing listens on. The servers listen on a Unix socket in a private directory only,
# so nobody can take it in between.
dw_free_port()
{
	local port taken

	taken=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || true)
	while :; do
		port=$((20000 + RANDOM % 12000))
		[[ $taken == *":$(printf '%04X' "$port") "* || " ${DW_PORT[*]} " == *" $port "* ]] || break
	done
	printf '%s' "$port"
}

# Copy a PostgreSQL installation to $DW_WORK/inst: the programs as files, because the server looks
# for the rest beside the place where its binary really is; all else as links.
# $1: the pg_config of the installation to copy
dw_install()
{
	local inst=$DW_WORK/inst option dir

	[[ -x $1 ]] || dw_die "no pg_config at $1"
	DW_VERSION=$("$1" --version)
	DW_VERSION=${DW_VERSION#PostgreSQL }
	DW_VERSION=${DW_VERSION%% *}
	# shellcheck disable=SC2034
	DW_MAJOR=${DW_VERSION%%[!0-9]*}

	dir=$("$1" --bindir)
	DW_BIN=$inst$dir
	DW_PG_CONFIG=$DW_BIN/pg_config
	mkdir -p "$DW_BIN"
	cp -L "$dir"/* "$DW_BIN/"
	for option in --sharedir --pkglibdir; do
		dir=$("$1" $option)
		mkdir -p "$inst$dir"
		cp -rs "$dir/." "$inst$dir/"
		find "$inst$dir" -name 'dualwrite*' -delete
	done
	for option in --includedir --includedir-server; do
		dir=$("$1" $option)
		[[ ! -e $inst$dir ]] || continue
		mkdir -p "$inst${dir%/*}"
		ln -s "$dir" "$inst$dir"
	done
	dw_give "$inst"
	export PATH=$DW_BIN:$PATH
}

# Build a copy of the source, in $DW_WORK/src, and install it into the private installation.
# Bitcode for JIT is left out: it takes as long again and no test looks at it.
# $1: the top of the source
dw_build()
{
	local src=$DW_WORK/src log=$DW_WORK/build.log

	mkdir "$src"
	tar -C "$1" --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
		--exclude='./sql/dualwrite--*.sql' --exclude=./results --exclude=./tmp_check -cf - . | tar -C "$src" -xf -
	dw_give "$src"
	if ! dw_run make -s -C "$src" -j"$(nproc)" with_llvm=no PG_CONFIG="$DW_PG_CONFIG" all install >"$log" 2>&1; then
		head -n 80 "$log" >&2
		return 1
	fi
}

# Make a cluster, not yet running.
# $1: name; the other arguments: lines for postgresql.conf, which win over the ones set here
dw_cluster_make()
{
	local name=$1 dir=$DW_WORK/$1

	shift
	DW_PORT[$name]=$(dw_free_port)
	mkdir "$dir"
	dw_give "$dir"
	dw_run "$DW_BIN/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
		>"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; return 1; }
	cat >>"$dir/data/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$DW_WORK/s'
		port = ${DW_PORT[$name]}
		fsync = off
		wal_level = replica
		max_connections = 60
		max_prepared_transactions = 10
		max_worker_processes = 20
		shared_preload_libraries = 'dualwrite'
		jit = off
		log_checkpoints = off
		log_autovacuum_min_duration = -1
		log_line_prefix = '%m [%p] %q%a %d '
	CONF
	[[ $# -eq 0 ]] || printf '%s\n' "$@" >>"$dir/data/postgresql.conf"
}

dw_cluster_start()
{
	local dir=$DW_WORK/$1

	dw_run "$DW_BIN/pg_ctl" -D "$dir/data" -l "$dir/log" -s -w -t 60 start </dev/null || {
		tail -n 40 "$dir/log" >&2
		return 1
	}
}

# $2: how: fast (the default), smart, immediate
dw_cluster_stop()
{
	dw_run "$DW_BIN/pg_ctl" -D "$DW_WORK/$1/data" -s -w -t 120 -m "${2:-fast}" stop
}

# Point psql and the like at a cluster.
dw_cluster_use()
{
	export PGHOST=$DW_WORK/s PGPORT=${DW_PORT[$1]} PGUSER=postgres PGDATABASE=postgres
}
