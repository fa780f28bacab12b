# shellcheck shell=bash
# Sourced by the scripts beside it, each of which is run by hand as `bash test/integration/NAME.sh`, as root, without
# arguments. A script makes what it needs in a directory of its own, mounts with bin/lamina.js, prints `ok` or
# `not ok` for each check, and leaves nothing mounted, running or on disk, also when it fails.
#
#   overlay NAME LOWER [OPTIONS]   mounts a view over LOWER (top:…:bottom) at $scratch/NAME/merged; upper and work beside it
#   readonly_view NAME LOWER       the same without an upper
#   check 'what must hold' COMMAND…   a command or function; its output is shown when it fails
#   finish                         unmounts, checks that nothing is left, and exits
set -euo pipefail
export LC_ALL=C

if [ "$(id -u)" -ne 0 ]; then
  echo 'needs root: it mounts, changes owners and uses chroot'
  exit 77
fi
# A mount namespace of its own: what is mounted here is in nobody's way, and nobody who starts a namespace of theirs
# meanwhile (a container, another test) keeps a copy of it, and thereby its daemon, alive.
if [ "${LAMINA_TEST_NAMESPACE:-}" != "$PPID" ]; then
  # unshare executes bash in its own process, whose parent is the same as that of this one.
  LAMINA_TEST_NAMESPACE=$PPID exec unshare --mount --propagation private bash "$0" "$@"
fi
unset LAMINA_TEST_NAMESPACE

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# LAMINA_TEST_DIR: where to work, when the default (TMPDIR, else /tmp) is too small or not what is to be tested.
scratch=$(mktemp -d "${LAMINA_TEST_DIR:-${TMPDIR:-/tmp}}/lamina-$(basename "$0" .sh)-XXXXXX")
scratch=$(realpath "$scratch")
checks=0
failed=0
mounts=() # mountpoints, in the order in which they were mounted; all kinds

lamina() { node "$project/bin/lamina.js" "$@"; }

# Every mountpoint below $scratch that the kernel still knows, the last one first.
mounted_below() {
  awk -v root="$scratch/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | tac
}

# Processes whose command line names $scratch: daemons of ours, and whatever a check left running.
processes_below() {
  local cmdline pid
  for cmdline in /proc/[0-9]*/cmdline; do
    pid=${cmdline#/proc/}
    pid=${pid%/cmdline}
    if [ "$pid" = $$ ] || [ "$pid" = "$BASHPID" ]; then continue; fi
    if tr '\0' '\n' 2>/dev/null <"$cmdline" | grep -qF "$scratch/"; then echo "$pid"; fi
  done 2>/dev/null
}

# Runs on every exit: by force, because after a finished script there is nothing left to end.
clean_up() {
  local status=$? mountpoint pid
  trap - EXIT INT TERM HUP
  cd /
  while read -r mountpoint; do
    umount -l "$mountpoint" 2>/dev/null || true
  done < <(mounted_below)
  while read -r pid; do
    # Not of this script's own process group: that one may be the terminal's.
    kill -KILL "$pid" 2>/dev/null || true
  done < <(processes_below)
  rm -rf -- "$scratch"
  if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then echo "not ok - ended early (exit $status)"; fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

overlay() {
  local name=$1 lower=$2 options=${3:-}
  mkdir -p "$scratch/$name/upper" "$scratch/$name/work" "$scratch/$name/merged"
  lamina mount -o "lowerdir=$lower,upperdir=$scratch/$name/upper,workdir=$scratch/$name/work${options:+,$options}" \
    "$scratch/$name/merged"
  mounts+=("$scratch/$name/merged")
}

readonly_view() {
  mkdir -p "$scratch/$1/merged"
  lamina mount -o "lowerdir=$2" "$scratch/$1/merged"
  mounts+=("$scratch/$1/merged")
}

unmount() { lamina umount "$scratch/$1/merged"; }

# Mounts the same directories once more, as after a restart. Lower as for overlay().
remount() {
  unmount "$1"
  overlay "$@"
}

check() {
  local what=$1 status=0
  shift
  checks=$((checks + 1))
  # Not as the condition of an `if`: there a function would go on after a command of it that failed.
  set +e
  (
    set -e
    "$@"
  ) >"$scratch/output" 2>&1 </dev/null
  status=$?
  set -e
  if [ "$status" -eq 0 ]; then
    echo "ok $checks - $what"
  else
    failed=$((failed + 1))
    echo "not ok $checks - $what (exit $status)"
    head -c 20000 "$scratch/output" | head -n 60 | sed 's/^/    /'
  fi
}

# For check: succeeds when the command fails, and does not print what it said.
fails() {
  if "$@"; then
    echo "succeeded: $*"
    return 1
  fi
}

# equal A B: two texts.
equal() {
  [ "$1" = "$2" ] || {
    printf 'expected: %s\nfound:    %s\n' "$2" "$1"
    return 1
  }
}

# One line for everything in a tree: type, mode, owner, size, times, links, target, name; then the contents.
# Directories have no comparable size. A second argument leaves times out of directories ('loose').
listing() {
  local directory_time='%T@'
  [ "${2:-}" != loose ] || directory_time=-
  (
    cd "$1"
    find . \( -type d -printf "d %m %U:%G - $directory_time %p\n" \) -o \
      \( -type l -printf 'l %U:%G %T@ %p -> %l\n' \) -o \
      -printf '%y %m %U:%G %s %T@ %n %p\n' | sort
    find . -type f -print0 | sort -z | xargs -0 -r sha256sum
  )
}

# Both trees are equal, byte for byte and in every attribute of listing().
same_tree() {
  listing "$1" "${3:-}" >"$scratch/listing.a"
  listing "$2" "${3:-}" >"$scratch/listing.b"
  diff "$scratch/listing.a" "$scratch/listing.b"
}

# `lamina stats` counts a request that no handler expected as a fault.
no_faults() {
  local faults
  faults=$(lamina stats --format json "$1" | sed -n 's/^ *"faults": \([0-9]*\).*/\1/p')
  equal "$faults" 0
}

# Nothing that the workdir held for a moment may stay in it.
work_is_empty() {
  local left
  left=$(find "$1" -mindepth 2 ! -path "*/index/*" | head) # index/ is what index=on keeps, as the kernel does
  [ -z "$left" ] || {
    echo "left in workdir: $left"
    return 1
  }
}

nothing_left() {
  local left
  left=$(mounted_below)
  [ -z "$left" ] || {
    echo "still mounted: $left"
    return 1
  }
  # The daemon ends before `lamina umount` returns; other processes of a check may need a moment for their exit.
  for _ in $(seq 50); do
    left=$(processes_below)
    [ -n "$left" ] || return 0
    sleep 0.1
  done
  echo "still running: $left"
  # shellcheck disable=SC2086 # a list of pids
  ps -o pid,args -p ${left//$'\n'/,}
  return 1
}

finish() {
  local i
  cd /
  for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do
    # A script may have unmounted, and mounted something again, itself.
    grep -qF " ${mounts[i]} " /proc/self/mountinfo || continue
    local name=${mounts[i]#"$scratch"/} work=${mounts[i]%/merged}/work
    if ! stat -f -c %T "${mounts[i]}" | grep -q '^fuse'; then
      check "$name is unmounted" umount "${mounts[i]}"
      continue
    fi
    check "no fault while serving $name" no_faults "${mounts[i]}"
    check "$name is unmounted" lamina umount "${mounts[i]}"
    if [ -d "$work" ]; then check "nothing is left in ${work#"$scratch"/}" work_is_empty "$work"; fi
  done
  check 'no mount and no process is left' nothing_left
  echo "$((checks - failed)) of $checks checks passed"
  [ "$failed" -eq 0 ] || exit 1
  exit 0
}
