# shellcheck shell=bash
#
# tree.sh: run test/run inside a tree of another Debian release, for the PostgreSQL versions that
# this machine's release does not carry. Sourced by test/run after base.sh.
#
# The tree is made once by debootstrap and kept in a cache directory. Only the base system is made
# here; test/run inside it installs what it needs, as on any bare machine.

DW_ENTER=()			# how to enter a tree

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
	log=$(mktemp)
	# shellcheck disable=SC2016,SC2086
	if ! dw_as_root flock "$tree.lock" bash -c '
		tree=$1; shift
		[ ! -e "$tree" ] || exit 0
		rm -rf --one-file-system "$tree.new"
		debootstrap "$@" && mv "$tree.new" "$tree"
	' tree "$tree" "${options[@]}" "$suite" "$tree.new" $mirror >"$log" 2>&1 </dev/null; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
}

# How to enter a tree: with mounts and processes in namespaces of their own, so that nothing is left
# behind however it ends. In a chroot, whose root is no mount point, propagation cannot be changed; the
# mounts are then taken away at the end by hand. Where mounting is not allowed at all, DW_ENTER is empty.
# $1: tree
dw_tree_enter()
{
	local propagation

	for propagation in private unchanged; do
		DW_ENTER=(unshare --mount --pid --fork --kill-child --propagation "$propagation")
		# shellcheck disable=SC2016
		! dw_as_root "${DW_ENTER[@]}" sh -c 'mount -t proc proc "$1/proc" && umount "$1/proc"' tree "$1" 2>/dev/null || return 0
	done
	DW_ENTER=()
}

# Without /proc systemd-tmpfiles fails, and with it the installation of packages that call it; what it would
# make, no test needs.
# $1: tree
dw_tree_without_proc()
{
	local file=/usr/bin/systemd-tmpfiles

	[[ ! -e $1$file.distrib && ! -L $1$file ]] || return 0
	dw_as_root chroot "$1" dpkg-divert --local --rename --divert "$file.distrib" --add "$file" >/dev/null
	dw_as_root ln -s true "$1$file"
}

# Run test/run inside the tree.
# $1: version; the rest: arguments of test/run
dw_tree_run()
{
	local tree source status=0

	tree=$(dw_tree_dir "$1")
	source=$(dw_as_root mktemp -d "$tree/tmp/dw-source.XXXXXX")
	tar -C "$DW_SOURCE" --exclude=./.git --exclude='*.o' --exclude='*.so' -cf - . | dw_as_root tar -C "$source" -xf -
	dw_as_root chmod 755 "$source"
	[[ ! -e /etc/resolv.conf ]] || dw_as_root cp -L /etc/resolv.conf "$tree/etc/resolv.conf"
	dw_tree_enter "$tree"
	[[ ${#DW_ENTER[@]} -gt 0 ]] || dw_tree_without_proc "$tree"
	# Not exec'ed: the shell stays as the namespace's first process, and takes care of orphans.
	# shellcheck disable=SC2016
	dw_as_root "${DW_ENTER[@]}" bash -c '
		tree=$1; shift
		[ $$ -ne 1 ] || { mount -t proc proc "$tree/proc"; mount -t tmpfs tmpfs "$tree/dev/shm"; }
		chroot "$tree" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
		status=$?
		[ $$ -ne 1 ] || umount --lazy "$tree/dev/shm" "$tree/proc"
		exit $status
	' tree "$tree" ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
		DW_ROOT_LABEL="$tree" bash "${source#"$tree"}/test/run" --here --pg "$@" </dev/null || status=$?
	dw_as_root rm -rf "$source"
	return "$status"
}
