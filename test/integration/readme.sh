#!/bin/bash
# What README.md shows is what happens: each line behind a `$` in its sessions is typed here, and what comes is compared with what
# stands below it. Ids, dates, pids and counts aside. README's `tree` is busybox with the host's sqlite3 here; TREE names another.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

for program in sqlite3 busybox; do
  command -v "$program" >/dev/null || {
    echo "needs $program"
    exit 77
  }
done
readme=$(dirname "$0")/../../README.md
readme=$(realpath "$readme")
export LAMINA_ROOT=$scratch/store LAMINA_RUN=$scratch/run # of which `lamina mounts` lists

# Of any two runs different; columns are as wide as what stands in them.
plain() {
  sed -E "s|$scratch/demo|/tmp/demo|g; s/(sha256:)?[0-9a-f]{64}/ID/g; s/[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]+/DATE/; s/[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{5}/DATE/" |
    sed -E 's/[0-9.]+ kB/N kB/; s/^total [0-9]+/total N/; s/ +[0-9]+  (cached|passthrough)/ PID \1/; s/^([A-Z]{2,}) +[0-9]+$/\1 N/; s/^([-dlc][rwx-]{9}).*(DATE)/\1 \2/' |
    sed -E 's/ +/ /g; s/ $//'
}

# The lines that README's line brings; a line of three dots stands for any number of them.
same() { # FILE FILE
  if grep -qx '…' "$1"; then
    grep -vx '…' "$1" | while read -r line; do grep -qxF -- "$line" "$2" || [ "${line#[A-Z]*N}" = "" ] || return 1; done
  else cmp -s "$1" "$2"; fi
}

lines=0
typed() { # COMMAND, and what README has below it in $scratch/expected
  (eval "$1") >"$scratch/said" 2>&1 </dev/null || true
  plain <"$scratch/said" >"$scratch/said.plain"
  plain <"$scratch/expected" >"$scratch/expected.plain"
  lines=$((lines + 1))
  check "$1" same "$scratch/expected.plain" "$scratch/said.plain"
  same "$scratch/expected.plain" "$scratch/said.plain" || diff "$scratch/expected.plain" "$scratch/said.plain" || true
}

session() { # NUMBER of the console block
  local line command=
  awk -v wanted="$1" '/^```console/ { n++; on = n == wanted; next } /^```/ { on = 0 } on' "$readme" >"$scratch/block"
  while IFS= read -r line; do
    if [ "${line#\$ }" != "$line" ]; then
      [ -z "$command" ] || typed "$command"
      command=${line#\$ }
      : >"$scratch/expected"
    else echo "$line" >>"$scratch/expected"; fi
  done <"$scratch/block"
  typed "$command"
}

mkdir -p "$scratch/demo"
cd "$scratch/demo" || exit 1
mkdir base upper work merged
for name in kept changed removed; do echo "$name" >"base/$name"; done
session 1
session 2

tree=${TREE:-}
if [ -z "$tree" ]; then
  tree=$scratch/demo/tree
  mkdir -p tree/{bin,etc,tmp,var/lib/db,usr}
  cp /bin/busybox tree/bin/
  for name in sh cat echo ls rm sleep df tail true; do ln -s busybox "tree/bin/$name"; done
  cp "$(command -v sqlite3)" tree/bin/
  ldd "$(command -v sqlite3)" | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "tree$(dirname "$lib")"
    cp -L "$lib" "tree$lib"
  done
  echo 'root:x:0:0::/root:/bin/sh' >tree/etc/passwd
else ln -s "$tree" tree; fi
session 3
check 'all sessions were found' test "$lines" -ge 20
lamina container prune >/dev/null
check 'the store is sound' lamina system check
unset LAMINA_ROOT
finish
