#!/bin/bash
# The session of a new user (test/integration/session.sh), and what else has a command in both, typed to Lamina and to Podman side by
# side: exit codes and output are compared, what differs is listed. docs/podman.md has the list, with reasons.
#   npm run session:podman [-- --all]      --all: also what is the same. As root; needs podman, sqlite3, busybox.
set -euo pipefail
export LC_ALL=C
if [ "${LAMINA_TEST_NAMESPACE:-}" != "$PPID" ]; then
  LAMINA_TEST_NAMESPACE=$PPID exec unshare --mount --propagation private bash "$0" "$@"
fi
unset LAMINA_TEST_NAMESPACE
all=${1:-}
project=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/lsession-XXXX")")
umount /sys/fs/cgroup/unified 2>/dev/null || true # crun refuses the hybrid kind
mount -t tmpfs tmpfs /run                         # Podman keeps locks and its state there

mounted() { awk -v root="$dir/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | tac; }
trap 'mounted | xargs -r umount -l; rm -rf "$dir"' EXIT

tree=$dir/tree
mkdir -p "$tree"/{bin,etc,tmp,var/lib/db,usr,run,srv}
cp /bin/busybox "$tree/bin/"
for name in sh cat echo ls rm mount dd sleep id df stat mkdir touch env true cut tail; do ln -s busybox "$tree/bin/$name"; done
cp "$(command -v sqlite3)" "$tree/bin/"
ldd "$(command -v sqlite3)" | grep -o '/[^ ]*' | while read -r lib; do
  mkdir -p "$tree$(dirname "$lib")"
  cp -L "$lib" "$tree$lib"
done
printf 'root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n' >"$tree/etc/passwd"
echo seed >"$tree/srv/seed"

lamina() { LAMINA_ROOT=$dir/lamina.store node "$project/bin/lamina.js" "$@"; }
podman() {
  command podman --root "$dir/podman.store" --runroot "$dir/podman.run" --storage-driver overlay \
    --cgroup-manager cgroupfs --events-backend none --tmpdir "$dir/podman.tmp" "$@"
}
run() { # everything that is not what is compared: no network in either, no limits in Podman
  if [ "$engine" = podman ]; then podman run --network none --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@"; else lamina run --network none "$@"; fi
}
engine() { "$engine" "$@"; }
image() {
  if [ "$engine" = podman ]; then tar -C "$tree" -c . | podman import -q - debian; else lamina image import "$tree" debian; fi
}
in_db() { run --rm -v "$1:/var/lib/db" debian sqlite3 /var/lib/db/shop.db "$2"; }
mounted_file() { cat "$(engine container mount "$1")/$2"; }
background() { # NAME SECONDS: a container of each that shares the volume
  local engine
  for engine in lamina podman; do
    run --rm --name "$1" -v shop:/shop:ro debian sleep "$2" >/dev/null 2>&1 </dev/null &
    for _ in $(seq 100); do
      if engine exec "$1" ls >/dev/null 2>&1; then break; fi
      sleep 0.1
    done
  done
}

# What differs in any two runs: ids, sizes, dates, where the stores are.
plain() {
  sed -E "s|$dir/$engine\.[a-z]*|STORE|g; s|$dir|DIR|g; s/(sha256:)?[0-9a-f]{64}/ID/g; s/\b[0-9a-f]{12}\b/ID/g" |
    sed -E "s/[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+( ?[+-][0-9]{4}|Z)?( UTC)?/DATE/g; s/^time=\"DATE\" //; s/[[:space:]]+$//"
}
same=0
differs=0
step() { # NAME COMMAND… : as it is typed, for both
  local name=$1 engine code
  shift
  for engine in lamina podman; do
    code=0
    ("$@") >"$dir/$engine.out" 2>"$dir/$engine.err" </dev/null || code=$?
    { echo "exit $code" && plain <"$dir/$engine.out"; } >"$dir/$engine.said"
    plain <"$dir/$engine.err" >"$dir/$engine.complaint"
  done
  if cmp -s "$dir/lamina.said" "$dir/podman.said"; then
    same=$((same + 1))
    [ "$all" != --all ] || echo "same     $name"
    return
  fi
  differs=$((differs + 1))
  echo "DIFFERS  $name: $*"
  for engine in lamina podman; do
    sed "s/^/         $engine: /" "$dir/$engine.said"
    sed "s/^/         $engine says: /" "$dir/$engine.complaint" | head -3
  done
}

step 'image from a tree' image
step 'database in a named volume' in_db shop 'create table t(n); insert into t values (1), (2), (3)'
step 'containers are gone with --rm' engine container ls -a -q
step 'the data stays' in_db shop 'select sum(n) from t'
step 'exit code of the command' run --rm debian sh -c 'exit 7'
# shellcheck disable=SC2016
step 'killed command' run --rm debian sh -c 'sh -c "kill -9 \$\$"'
step 'no such command' run --rm debian nosuch
step 'not a program' run --rm debian /etc/passwd
step 'no such image' run --rm --pull never nosuch true
step 'unknown option' run --nonsense debian true
step 'user by name' run --rm -u web debian id
step 'user and group' run --rm -u 5:6 debian id
step 'no such user' run --rm -u nobody debian id
# shellcheck disable=SC2016 # for the shell inside
step 'variables' run --rm -e A=b -e HOME debian sh -c 'echo "$A $PATH"'
step 'working directory is made' run --rm -w /made/here debian sh -c 'pwd; stat -c "%a %u" .'
step 'hostname' run --rm --hostname box debian cat /etc/hostname
step 'read-only' run --rm --read-only debian sh -c 'echo > /x'
step 'read-only, /tmp' run --rm --read-only debian sh -c 'echo > /tmp/x'
step 'a new volume takes the content' run --rm -v filled:/srv debian cat /srv/seed
step 'nocopy' run --rm -v empty:/srv:nocopy debian ls /srv
step 'anonymous volume' run --rm -v /anonymous debian ls -d /anonymous
step 'and goes with --rm' engine volume ls -q
step 'tmpfs' run --rm --tmpfs /t:size=64k debian sh -c 'df -k /t | tail -1; stat -c %a /t; dd if=/dev/zero of=/t/x bs=1k count=100 2>/dev/null'
step 'tmpfs by --mount' run --rm --mount type=tmpfs,dst=/t,tmpfs-size=64k,tmpfs-mode=0700 debian stat -c %a /t
mkdir "$dir/here" && echo outside >"$dir/here/a"
step 'bind' run --rm -v "$dir/here:/here" debian cat /here/a
step 'bind ro' run --rm -v "$dir/here:/here:ro" debian sh -c 'echo > /here/x'
step 'bind by --mount' run --rm --mount "type=bind,src=$dir/here,dst=/here,ro" debian cat /here/a
step 'missing source, -v' run --rm -v "$dir/nosuch:/here" debian ls /here
rmdir "$dir/nosuch" 2>/dev/null || true
step 'missing source, --mount' run --rm --mount "type=bind,src=$dir/nosuch,dst=/here" debian ls /here
step 'two mounts on one target' run --rm -v /x -v "$dir/here:/x" debian true
step 'a target that is not absolute' run --rm -v "shop:relative" debian true
step 'unknown mount option' run --rm -v shop:/x:nonsense debian true
step 'volume create' engine volume create --label tier=gold made
step 'the same again' engine volume create made
step 'volume of tmpfs' engine volume create -o type=tmpfs -o device=tmpfs -o o=size=64k,mode=1777 ram
step 'is a tmpfs' run --rm -v ram:/ram debian sh -c 'df -k /ram | tail -1 | cut -c 1-30; stat -c %a /ram'
step 'volume of a directory' engine volume create -o type=none -o o=bind -o "device=$dir/here" here
step 'shows it' run --rm -v here:/h debian cat /h/a
step 'volume of nothing' engine volume create -o type=none -o o=bind -o "device=$dir/nosuch" broken
step 'cannot be mounted' run --rm -v broken:/h debian ls /h
step 'unknown volume option' engine volume create -o nonsense=1 odd
step 'volume ls' engine volume ls --filter label=tier=gold --format '{{.Name}} {{.Driver}}'
step 'volume inspect' engine volume inspect --format '{{.Name}} {{json .Labels}}' made
step 'no such volume' engine volume inspect nosuch
background reader 300
step 'exec' engine exec reader ls /shop/shop.db
step 'exec, read-only volume' engine exec reader sh -c 'echo > /shop/x'
step 'exec, no such command' engine exec reader nosuch
step 'a volume in use' engine volume rm shop
step 'a running container' engine container rm reader
step 'with force' engine container rm -f reader
wait || true
step 'create' engine container create --name web -v made:/data -v /anonymous debian sh
step 'the name is taken' engine container create --name web debian sh
step 'mounted' mounted_file web srv/seed
step 'where' engine container mount web
step 'two uses, one ends' engine container umount web
step 'still mounted' engine container mount --format '{{.Name}}'
step 'the other ends' engine container umount web
echo new >"$dir/new"
step 'cp in' engine container cp "$dir/new" web:/srv/new
cp_out() { engine container cp web:/srv/new - | tar -tv | sed 's/ 20.*:[0-9]* / DATE /'; }
step 'cp out' cp_out
step 'cp of nothing' engine container cp web:/nosuch "$dir/out"
step 'diff' engine container diff web
step 'commit' engine container commit web committed
step 'has it' run --rm committed cat /srv/new
tar_of() { engine container export web | tar -t | grep '^srv' | sort; }
step 'export' tar_of
step 'rename' engine container rename web old
step 'rm of the old name' engine container rm web
step 'a volume of a container that does not run' engine volume rm made
step 'rm -v' engine container rm -v old
step 'the named volume stays' engine volume inspect --format '{{.Name}}' made
step 'volume rm' engine volume rm made
step 'rm of none' engine volume rm made
step 'rm --force of none' engine volume rm --force made
limited() { run --rm --storage-opt size=4m debian dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; }
step 'a limit' limited
run_kept() { run --name kept debian sh -c 'echo kept > /file'; }
step 'a container that stays' run_kept
step 'container prune' engine container prune -f
backup() {
  if [ "$engine" = podman ]; then podman volume export -o "$dir/$engine.backup" shop; else lamina volume backup -o "$dir/$engine.backup" shop; fi
}
step 'backup of a volume' backup
restore() {
  if [ "$engine" = podman ]; then
    podman volume create copy >/dev/null && podman volume import copy "$dir/$engine.backup"
  else lamina volume restore "$dir/$engine.backup" copy >/dev/null; fi
}
step 'restored' restore
step 'has the same' in_db copy 'select count(*) from t'
anonymous_left() { run -v /left --name lefty debian true && engine container rm lefty; }
step 'an anonymous volume is left' anonymous_left
prune_counts() {
  engine volume prune -f >/dev/null
  engine volume ls -q
}
step 'volume prune' prune_counts
echo "$same the same, $differs different"
