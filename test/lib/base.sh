# shellcheck shell=bash
#
# base.sh: what every script of test/ needs before there is a server: messages, packages, an
# unprivileged user, a work directory that is removed at the end.
#
# It must never end a process that it did not start, and never write outside its work directory,
# apart from installing packages.
#
# Functions begin with dw_, variables that callers may read with DW_.

# The release of Debian that carries each PostgreSQL version.
# shellcheck disable=SC2034
declare -A DW_SUITE=([15]=bookworm [17]=trixie [18]=sid)

DW_WORK=''			# the work directory, once dw_workdir has made it
DW_KEEP=${DW_KEEP:-0}		# 1: leave the work directory behind; dw_say_kept says where it is
DW_USER=''			# whom servers run as

dw_say()
{
	printf '%s\n' "$*"
}

dw_warn()
{
	printf '%s\n' "$*" >&2
}

dw_die()
{
	dw_warn "${0##*/}: $*"
	exit 2
}

# Seconds with one decimal since a time that dw_now gave.
dw_now()
{
	local t=${EPOCHREALTIME/[.,]/}

	printf '%s' "${t%???}"
}

dw_seconds()
{
	local ms=$(($(dw_now) - $1))

	printf '%d.%d' $((ms / 1000)) $((ms % 1000 / 100))
}

# Settings of the caller's own PostgreSQL life must not reach the tests.
dw_clean_environment()
{
	local name

	for name in ${!PG@}; do
		[[ $name == PG_CONFIG ]] || unset "$name"
	done
	unset LANGUAGE
	export LC_ALL=C.UTF-8
}

# Run a command as root: directly, or through sudo.
dw_as_root()
{
	if [[ $EUID -eq 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		dw_die "needs root for: $* (run as root, or install sudo)"
	fi
}

# Run a command as the user that servers run as. The environment is passed on.
dw_run()
{
	if [[ $EUID -eq 0 ]]; then
		runuser -u "$DW_USER" -- "$@"
	else
		"$@"
	fi
}

# PostgreSQL refuses to run as root; when root, take the packages' own user, or nobody.
dw_choose_user()
{
	if [[ $EUID -ne 0 ]]; then
		DW_USER=$(id -un)
	elif getent passwd postgres >/dev/null; then
		DW_USER=postgres
	else
		DW_USER=nobody
	fi
}

dw_package_installed()
{
	[[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Install the packages named that are missing. Debian's server packages would create and start a
# cluster of their own; that is switched off for the time of the installation.
dw_need_packages()
{
	local package missing=() off=/etc/postgresql-common/createcluster.d/dualwrite-test.conf log status

	command -v dpkg-query >/dev/null || return 0
	for package in "$@"; do
		dw_package_installed "$package" || missing+=("$package")
	done
	[[ ${#missing[@]} -gt 0 ]] || return 0

	if [[ $EUID -ne 0 ]] && ! command -v sudo >/dev/null; then
		dw_die "these packages are missing and only root may install them: ${missing[*]}"
	fi
	dw_say "installing packages: ${missing[*]}"
	log=$(mktemp)
	dw_as_root mkdir -p "${off%/*}"
	printf 'create_main_cluster = off\n' | dw_as_root tee "$off" >/dev/null
	status=0
	{
		dw_as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 update ||
			dw_warn "apt-get update failed; going on with the lists there are"
		dw_as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 \
			-o APT::Keep-Downloaded-Packages=false install --no-install-recommends "${missing[@]}"
	} </dev/null >"$log" 2>&1 || status=$?
	dw_as_root rm -f "$off"
	if [[ $status -ne 0 ]]; then
		grep -vE '^(Get:|Selecting|Preparing|Unpacking|Setting up|Reading) ' "$log" | tail -n 60 >&2
		rm -f "$log"
		dw_die "could not install: ${missing[*]}"
	fi
	rm -f "$log"
}

# Packages to build and run dualwrite on one PostgreSQL version, and to test it.
dw_build_packages()
{
	printf '%s\n' make gcc libc6-dev "postgresql-$1" "postgresql-server-dev-$1"
}

dw_test_packages()
{
	printf '%s\n' perl libipc-run-perl "postgresql-$1-pgtap" libtap-parser-sourcehandler-pgtap-perl
}

# Make the work directory, on a short path (a Unix socket's path is at most 107 bytes), and change
# into it. It is removed when the shell exits, with whatever still runs from inside it.
# $1: what it is for, one short word
dw_workdir()
{
	dw_choose_user
	DW_WORK=$(mktemp -d "${TMPDIR:-/tmp}/dw-$1.XXXXXX")
	trap dw_cleanup EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	mkdir "$DW_WORK/home" "$DW_WORK/s"
	dw_give "$DW_WORK"
	dw_run test -w "$DW_WORK/home" || dw_die "user $DW_USER cannot write to $DW_WORK; set TMPDIR to a directory open to all"
	export HOME=$DW_WORK/home
	cd "$DW_WORK" || exit 2
}

# Hand files over to the user that servers run as.
dw_give()
{
	[[ $EUID -ne 0 ]] || chown -R "$DW_USER": "$@"
}

# Stop the servers of the work directory, whoever started them (a test killed half-way leaves
# its own). A pid file is believed only if the process works in that directory.
dw_stop_servers()
{
	local file pid

	find "$DW_WORK" -name postmaster.pid 2>/dev/null | while IFS= read -r file; do
		read -r pid <"$file" || continue
		[[ $pid =~ ^[0-9]+$ ]] || continue
		[[ ! -e /proc/self || $(dw_run readlink "/proc/$pid/cwd" 2>/dev/null) == "${file%/*}" ]] || continue
		kill -QUIT "$pid" 2>/dev/null || continue
		timeout 20 tail --pid="$pid" -f /dev/null || true
	done
}

dw_say_kept()
{
	[[ $DW_KEEP -ne 1 ]] || dw_say "kept: ${DW_ROOT_LABEL:-}$DW_WORK"
}

dw_cleanup()
{
	local status=$?

	trap - EXIT
	trap '' HUP INT TERM
	cd /
	if [[ -n $DW_WORK && -d $DW_WORK ]]; then
		dw_stop_servers
		if [[ $DW_KEEP -ne 1 ]]; then
			rm -rf "$DW_WORK"
		fi
	fi
	exit "$status"
}
