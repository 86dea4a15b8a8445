# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the scripts share. To be sourced, after `set -euo pipefail`.

# The project's folder: on the host where it was cloned to, in the build root /kvm_inspect.
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
build=$top/build
# An ordinary user's lacks the folders of chroot and other tools of root.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# Do not inherit the outer make's job server.
unset MAKEFLAGS MFLAGS MAKELEVEL

# die MESSAGE: ends the script.
die() {
	printf '%s: error: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# lock NAME: waits until no other script has this lock. It is released when this script and all
# that it has started have ended.
lock() {
	mkdir -p "$build"
	exec 9>>"$build/.$1.lock"
	flock --nonblock 9 || {
		echo 'Waiting for another make in this folder ...'
		flock 9
	}
}

# stamped LOCK STAMP INPUTS COMMAND ARGS...: runs the command under the lock, unless the file STAMP
# says that it has run with the same inputs.
stamped() {
	local lock=$1 stamp=$2 inputs=$3
	shift 3
	[[ ! -e $stamp || $(<"$stamp") != "$inputs" ]] || return 0
	lock "$lock"
	# Another script may have run it meanwhile.
	[[ ! -e $stamp || $(<"$stamp") != "$inputs" ]] || return 0
	rm -f "$stamp"
	"$@"
	printf '%s\n' "$inputs" >"$stamp"
}

# excerpt LOG: shows a part of the log of a step that has failed. For scripts to replace.
excerpt() {
	tail -n 20 -- "$1"
}

# took SECONDS NAME: notes how long something took, for the table at the end of the tests.
took() {
	mkdir -p "$build/log"
	printf '%s\t%s\n' "$1" "$2" >>"$build/log/times"
}

# step [--late] NAME TEXT COMMAND ARGS...: runs the command with its output in build/log/NAME.log,
# and shows the text and how long it took; on a terminal also while it runs. --late is for what
# often has nothing to do: it shows nothing in the first seconds. When this script is interrupted or
# told to end, the command ends, too.
step() {
	local late=0
	if [[ $1 == --late ]]; then
		late=3
		shift
	fi
	local name=$1 text=$2 begin=$SECONDS log=$build/log/$1.log line shown='' job
	shift 2
	mkdir -p "$build/log"
	printf -v line '%-52s ' "$text ..."
	[[ ! -t 1 ]] || line=$'\r'$line
	# With job control the command is a process group, which can be ended as a whole. It runs in
	# no condition: there, bash would go on after an error.
	set -m
	(
		set -e +m
		"$@"
	) >"$log" 2>&1 </dev/null &
	job=$!
	set +m
	# shellcheck disable=SC2064 # this very job
	trap "kill -KILL -- -$job 2>/dev/null; printf ' interrupted\n'; exit 130" INT TERM HUP
	while kill -0 "$job" 2>/dev/null; do
		if [[ $((SECONDS - begin)) -ge $late ]]; then
			shown=yes
			[[ -t 1 ]] || break
			printf '%s%4d s' "$line" $((SECONDS - begin))
		fi
		sleep 0.2
	done
	# Only a terminal can show the line a second time.
	if [[ -n $shown && ! -t 1 ]]; then
		printf '%s' "$line"
		line=
	fi
	if wait "$job"; then
		[[ $late -gt 0 && -z $shown ]] || printf '%s%4d s\n' "$line" $((SECONDS - begin))
		[[ -z $shown && $late -gt 0 ]] || took $((SECONDS - begin)) "$text"
		trap - INT TERM HUP
	else
		printf '%sfailed\n' "$line"
		excerpt "$log" >&2
		die "$text failed, see build/log/$name.log"
	fi
}

# missing_tools TOOL...: prints those of the tools that are not on the PATH, one a line.
missing_tools() {
	local tool
	for tool; do
		type -P "$tool" >/dev/null || printf '%s\n' "$tool"
	done
}

# Sets the array `namespace` to a command that runs another as root in mount and PID namespaces of
# its own, and for an ordinary user in a user namespace, too. All processes in it end with it, and
# it ends with the process that has started it, even if that is killed. In the user namespace, root
# is the calling user, and the other ids are that user's subordinate ones. Bubblewrap alone has a
# single id, with which apt cannot work.
set_namespace() {
	namespace=(setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child)
	[[ $EUID -ne 0 ]] || return 0
	local file ids
	for file in /etc/subuid /etc/subgid; do
		grep -qsE "^($(id -un)|$EUID):" "$file" && continue
		# The first ids that nobody has.
		ids=$(cat /etc/subuid /etc/subgid 2>/dev/null | awk -F: 'BEGIN { first = 100000 }
			$2 + $3 > first { first = $2 + $3 }
			END { print first "-" first + 65535 }')
		die "$(id -un) has no subordinate ids in $file; as root:" \
			"usermod --add-subuids $ids --add-subgids $ids $(id -un)"
	done
	namespace+=(--map-root-user --map-auto)
	"${namespace[@]}" true 2>/dev/null ||
		die 'cannot make a user namespace; as root: apt-get install uidmap, and see that' \
			'sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone' \
			'are not 0'
}
