# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the scripts share. To be sourced, after `set -euo pipefail`.

# The project's folder: on the host where it was cloned to, in the build root /kvm_inspect.
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
build=$top/build
# An ordinary user's lacks the folders of chroot and other tools of root.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# What a make says to those below it is not for ours: with -j they would look for its job server.
unset MAKEFLAGS MFLAGS MAKELEVEL

# die MESSAGE: ends the script.
die() {
	printf '%s: error: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# step NAME TEXT COMMAND ARGS...: runs the command with its output in build/log/NAME.log, and shows
# the text and how long it took; on a terminal, how long it has taken so far. When this script is
# interrupted or told to end, the command ends, too.
step() {
	local name=$1 text=$2 begin=$SECONDS log=$build/log/$1.log job
	shift 2
	mkdir -p "$build/log"
	printf '%-52s ' "$text ..."
	# With job control it is a process group, which can be ended as a whole. Not run in a
	# condition: there, bash would go on after an error.
	set -m
	(
		set -e +m
		"$@"
	) >"$log" 2>&1 </dev/null &
	job=$!
	set +m
	# shellcheck disable=SC2064 # the job of now
	trap "kill -KILL -- -$job; printf ' interrupted\n'; exit 130" INT TERM HUP
	while [[ -t 1 ]] && kill -0 "$job" 2>/dev/null; do
		printf '\r%-52s %4d s' "$text ..." $((SECONDS - begin))
		sleep 1
	done
	if wait "$job"; then
		[[ ! -t 1 ]] || printf '\r%-52s ' "$text ..."
		printf '%4d s\n' $((SECONDS - begin))
		trap - INT TERM HUP
	else
		printf 'failed\n'
		tail -n 20 -- "$log" >&2
		die "$text failed, see build/log/$name.log"
	fi
}

# missing_tools TOOL...: those of the tools that are not on the PATH, one a line.
missing_tools() {
	local tool
	for tool; do
		type -P "$tool" >/dev/null || printf '%s\n' "$tool"
	done
}

# Sets the array `namespace` to a command that runs another as root of its own mount and PID
# namespace, and for an ordinary user of a user namespace, too. All processes in it end with it.
# In the user namespace, root is the calling user, and the other ids are his subordinate ones.
set_namespace() {
	namespace=(unshare --mount --pid --fork --kill-child)
	[[ $EUID -ne 0 ]] || return 0
	local file
	for file in /etc/subuid /etc/subgid; do
		grep -qsE "^($(id -un)|$EUID):" "$file" ||
			die "no subordinate ids in $file; as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
	done
	namespace+=(--map-root-user --map-auto)
	"${namespace[@]}" true 2>/dev/null ||
		die "cannot make a user namespace; as root: apt-get install uidmap, and see that user namespaces are allowed"
}
