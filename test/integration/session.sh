#!/bin/bash
# What a new user of the storage manager types, from an image to a backup: a database in a container with a named volume,
# which outlives the container; a second container that shares it; backup and restore; a tmpfs; a bind mount; prune.
# The database is the host's own sqlite3 in a tree with busybox. TREE: a root filesystem with sqlite3 and /bin/sh instead,
# e.g. of `debootstrap --variant=minbase --include=sqlite3 bookworm TREE`.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

for program in sqlite3 busybox; do
  command -v "$program" >/dev/null || {
    echo "needs $program"
    exit 77
  }
done

export LAMINA_ROOT=$scratch/store
tree=${TREE:-$scratch/tree}
if [ -z "${TREE:-}" ]; then
  mkdir -p "$tree"/{bin,etc,tmp,var/lib/db,usr}
  cp /bin/busybox "$tree/bin/"
  for name in sh cat echo ls rm mount dd sleep; do ln -s busybox "$tree/bin/$name"; done
  cp "$(command -v sqlite3)" "$tree/bin/"
  ldd "$(command -v sqlite3)" | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "$tree$(dirname "$lib")"
    cp -L "$lib" "$tree$lib"
  done
  echo 'root:x:0:0::/root:/bin/sh' >"$tree/etc/passwd"
fi

in_db() { lamina run --rm -v "$1:/var/lib/db" debian sqlite3 /var/lib/db/shop.db "$2"; }
volumes() { lamina volume ls -q | sort | tr '\n' ' '; }

check 'an image from a tree' lamina image import "$tree" debian
check 'a database in a container with a named volume' \
  in_db shop 'create table t(n); insert into t values (1), (2), (3)'
check 'the container is gone' equal "$(lamina container ls -a -q)" ''
check 'the data is not' equal "$(in_db shop 'select sum(n) from t')" 6

# In the background, until a file appears; and then until the one who made it has ended, too.
lamina run --rm --name reader -v shop:/shop:ro debian sh -c 'while [ ! -e /tmp/end ]; do sleep 0.1; done; sleep 1' &
runner=$!
wait_for() {
  for _ in $(seq 300); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  return 1
}
check 'a second container shares the volume' wait_for lamina exec reader ls /shop/shop.db
check 'which it cannot write to' fails lamina exec reader sh -c 'echo > /shop/x'
check 'a volume in use is not removed' fails lamina volume rm shop
check 'nor is its backup taken behind the back of who has it' \
  fails lamina volume backup -o "$scratch/early" shop
check 'exec runs beside it' lamina exec reader sh -c 'echo > /tmp/end'
ended=0
wait "$runner" || ended=$?
check 'and ends it' equal "$ended" 0

check 'a backup' lamina volume backup -o "$scratch/shop.tar.zst" shop
in_backup() { zstd -dc "$scratch/shop.tar.zst" | tar -t | grep "$1" >/dev/null; }
check 'GNU tar reads it' in_backup data/shop.db
check 'restored under another name' lamina volume restore "$scratch/shop.tar.zst" copy
check 'with the same data' equal "$(in_db copy 'select count(*) from t')" 3
check 'of its own' in_db copy 'delete from t'
check 'the first one has its rows' equal "$(in_db shop 'select count(*) from t')" 3

secret=secret-$$-$RANDOM-on-no-disk
# By standard input: the store keeps the command line.
in_memory() { echo "$secret" | lamina run --rm -i --tmpfs /run debian sh -c 'cat > /run/s; cat /run/s'; }
check 'a tmpfs' equal "$(in_memory)" "$secret"
check 'whose content is nowhere on disk afterwards' fails grep -rq "$secret" "$scratch/store"

mkdir "$scratch/here"
echo outside >"$scratch/here/a"
check 'a bind mount, seen from inside' \
  equal "$(lamina run --rm -v "$scratch/here:/here" debian sh -c 'cat /here/a; echo inside > /here/b')" outside
check 'and from outside' equal "$(cat "$scratch/here/b")" inside

lamina run --name kept -v /anonymous debian sh -c 'echo kept > /file' || true
check 'what a container changed' equal "$(lamina container diff kept | grep file)" 'A /file'
check 'a limit' fails lamina run --rm --storage-opt size=4m debian dd if=/dev/zero of=/big bs=1M count=8
check 'prune removes what nothing uses' lamina volume prune
check 'and nothing else' equal "$(volumes | wc -w)" 3
check 'an image of the container' lamina container commit kept kept-image
check 'has what it wrote' equal "$(lamina run --rm kept-image cat /file)" kept
check 'the container goes, with its anonymous volume' lamina container rm -v kept
check 'the named ones stay' equal "$(volumes)" 'copy shop '
check 'all of them go when asked for' lamina volume prune --all
check 'none is left' equal "$(volumes)" ''
check 'the store is sound' lamina system check
unset LAMINA_ROOT
finish
