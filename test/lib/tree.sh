# shellcheck shell=bash
#
# tree.sh: run test/run inside a tree of another Debian release, for the PostgreSQL versions that
# this machine's release does not carry. Sourced by test/run after base.sh.
#
# The tree is made once by debootstrap and kept in a cache directory. Only the base system is made
# here; test/run inside it installs what it needs, as on any bare machine.

dw_tree_dir()
{
	printf '%s/dualwrite-test/%s' "${XDG_CACHE_HOME:-/var/cache}" "${DW_SUITE[$1]}"
}

# Where this machine's own packages come from, by its package manager's configuration; empty when
# that does not say, and debootstrap's default serves.
dw_tree_mirror()
{
	local codename

	codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		sed -n "s#^Debian|$codename|main|\(https\?://.*\)#\1#p" | head -n 1
}

# A proxy that only the package manager knows of is passed on.
dw_tree_proxy()
{
	local proxy=''

	proxy=$(apt-config shell proxy Acquire::http::Proxy 2>/dev/null) && eval "$proxy"
	[[ -z $proxy || -n ${http_proxy:-} ]] || export http_proxy=$proxy
}

# $1: version
dw_tree_make()
{
	local tree suite=${DW_SUITE[$1]} mirror log
	local options=(--variant=minbase)

	tree=$(dw_tree_dir "$1")
	[[ ! -e $tree ]] || return 0
	dw_need_packages debootstrap
	dw_tree_proxy
	mirror=$(dw_tree_mirror)
	[[ $mirror != https* ]] || options+=(--include=ca-certificates)
	dw_say "making a tree of Debian $suite in $tree"
	dw_as_root mkdir -p "${tree%/*}"
	dw_as_root rm -rf --one-file-system "$tree.new"
	log=$(mktemp)
	# shellcheck disable=SC2086
	if ! dw_as_root debootstrap "${options[@]}" "$suite" "$tree.new" $mirror >"$log" 2>&1 </dev/null; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
	dw_as_root mv "$tree.new" "$tree"
}

# Run test/run inside the tree. Mounts and processes live in namespaces of their own, so that nothing is
# left behind however it ends; where that is not allowed the tree is used without /proc.
# $1: version; the rest: arguments of test/run
dw_tree_run()
{
	local tree source enter=() status=0

	tree=$(dw_tree_dir "$1")
	source=$(dw_as_root mktemp -d "$tree/tmp/dw-source.XXXXXX")
	tar -C "$DW_SOURCE" --exclude=./.git --exclude='*.o' --exclude='*.so' -cf - . | dw_as_root tar -C "$source" -xf -
	dw_as_root chmod 755 "$source"
	[[ ! -e /etc/resolv.conf ]] || dw_as_root cp -L /etc/resolv.conf "$tree/etc/resolv.conf"
	if dw_as_root unshare --mount --pid --fork mount -t proc proc "$tree/proc" 2>/dev/null; then
		enter=(unshare --mount --pid --fork --kill-child)
	fi
	# Not exec'ed: the shell stays as the namespace's first process, and takes care of orphans.
	# shellcheck disable=SC2016
	dw_as_root "${enter[@]}" bash -c '
		tree=$1; shift
		if [ $$ -eq 1 ]; then
			mount -t proc proc "$tree/proc"
			mount -t tmpfs tmpfs "$tree/dev/shm"
		fi
		chroot "$tree" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
		exit $?
	' tree "$tree" ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
		DW_ROOT_LABEL="$tree" bash "${source#"$tree"}/test/run" --here --pg "$@" </dev/null || status=$?
	dw_as_root rm -rf "$source"
	return "$status"
}
