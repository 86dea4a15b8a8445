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

# kernel_value NAME KEY: prints what tests/kernels.toml has under that key for the kernel NAME.
kernel_value() {
	awk -v name="$1" -v key="$2" '
	/^\[\[kernel\]\]/ { found = 0 }
	match($0, /^[a-z]+ = "/) {
		word = substr($0, 1, index($0, " ") - 1)
		value = substr($0, RLENGTH + 1)
		sub(/"[^"]*$/, "", value)
		if (word == "name") found = value == name
		else if (found && word == key) print value
	}' "$top/tests/kernels.toml"
}

# kernel_names: prints the names of the kernels in tests/kernels.toml.
kernel_names() {
	sed -n 's/^name = "\(.*\)"$/\1/p' "$top/tests/kernels.toml"
}

# release_of KDIR: prints the release of the kernel whose headers are there, or nothing.
release_of() {
	local file=$1/include/generated/utsrelease.h
	[[ ! -e $file ]] || sed -nE 's/.*UTS_RELEASE "(.*)".*/\1/p' "$file"
}

# series_of RELEASE: prints "7.3" for "7.3.4+deb13-amd64".
series_of() {
	local version=${1%%[-+]*}
	cut -d. -f1,2 <<<"${version%%~*}"
}

# source_version SOURCE: prints the version of the kernel's source in a folder or an archive, or
# nothing.
source_version() {
	local makefile
	if [[ -d $1 ]]; then
		makefile=$(cat -- "$1/Makefile" 2>/dev/null) || return 0
	else
		# GNU tar stops at the first one. The other ones are deeper.
		makefile=$(tar --extract --to-stdout --occurrence=1 --wildcards \
			--no-wildcards-match-slash --file="$1" '*/Makefile' 2>/dev/null) || return 0
	fi
	awk -F ' *= *' '$1 == "VERSION" { v = $2 } $1 == "PATCHLEVEL" { p = $2 }
		$1 == "SUBLEVEL" { s = $2 } END { if (v) print v "." p "." s }' <<<"$makefile"
}

# known_series: prints the series of kernels that the module is made for, the oldest first.
known_series() {
	sed -n 's/^series = "\(.*\)"$/\1/p' "$top/tests/kernels.toml" | sort -uV
}

# is_known_series RELEASE: whether tests/kernels.toml has a kernel of this one's series.
is_known_series() {
	known_series | grep -xF "$(series_of "$1")" >/dev/null
}

# unknown_series RELEASE: says why it may not build.
unknown_series() {
	local known newest
	known=$(known_series)
	printf 'kvm_inspect is made for Linux %s, not for %s: run one of those' \
		"${known//$'\n'/ and }" "$1"
	newest=$(printf '%s\n%s\n' "$known" "$(series_of "$1")" | sort -V | tail -n 1)
	[[ $newest == "$(series_of "$1")" ]] && echo ', or a newer kvm_inspect' || echo
}

# no_rust RELEASE: says that this kernel lacks Rust, and what to do.
no_rust() {
	printf '%s %s %s\n' \
		"kernel $1 has no support for Rust (CONFIG_RUST), as Debian 13's own 6.12;" \
		'install one of trixie-backports and boot it: apt install -t trixie-backports' \
		'linux-image-amd64 linux-headers-amd64'
}

# kernel_compiler CONFIG: prints the C compiler that built the kernel with this configuration.
kernel_compiler() {
	local name major
	name=$(sed -nE 's/^CONFIG_CC_VERSION_TEXT="([^ ]*).*/\1/p' "$1")
	if grep -qx CONFIG_CC_IS_CLANG=y "$1"; then
		major=$(($(sed -n 's/^CONFIG_CLANG_VERSION=//p' "$1") / 10000))
		name=clang
		! type -P "clang-$major" >/dev/null || name=clang-$major
	fi
	# It may be named by its path.
	printf '%s\n' "${name##*/}"
}

# compiler_variables COMPILER [host]: prints what tells make to use it, one a line.
compiler_variables() {
	case $1 in
	clang-*) echo "LLVM=-${1#clang-}" ;;
	clang) echo LLVM=1 ;;
	*)
		echo "CC=$1"
		[[ -z ${2-} ]] || echo "HOSTCC=$1"
		;;
	esac
}

# package_version PACKAGE REGEX: prints the newest version of a package that apt could install, and
# that the whole of the regular expression describes, or nothing.
package_version() {
	type -P apt-cache >/dev/null || return 0
	# Nothing is no failure.
	{ apt-cache madison "$1" 2>/dev/null | awk -F ' *[|] *' '{ print $2 }' |
		grep -m 1 -xE "$2"; } || true
}
