#!/bin/bash
# N containers of one image at once: created, mounted, written to, unmounted, removed; seconds of each step, and what a
# mounted one costs in processes and memory (PSS: shared pages are counted once). Root; podman beside it where it is installed.
#   bash test/bench/many.sh [N] [DRIVER…]      default: 100 fuse overlay2
set -euo pipefail
if [ "${LAMINA_TEST_NAMESPACE:-}" != "$PPID" ]; then
  LAMINA_TEST_NAMESPACE=$PPID exec unshare --mount --propagation private bash "$0" "$@"
fi
n=${1:-100}
shift || true
drivers=("$@")
[ ${#drivers[@]} -gt 0 ] || drivers=(fuse overlay2)
project=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/lmany-XXXX")
lamina() { node "$project/bin/lamina.js" "$@"; }

mounted() { awk -v root="$dir/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | tac; }
trap 'mounted | xargs -r umount -l; rm -rf "$dir"' EXIT

now() { date +%s.%N; }
step() { # NAME COMMAND… : seconds in all, and of one
  local name=$1 start end
  shift
  start=$(now)
  "$@"
  end=$(now)
  awk -v name="$name" -v s="$start" -v e="$end" -v n="$n" \
    'BEGIN { printf "  %-9s %7.2f s  %6.3f s each\n", name, e - s, (e - s) / n }'
}
memory() { # PIDs on standard input
  local pid
  while read -r pid; do cat "/proc/$pid/smaps_rollup" 2>/dev/null; done |
    awk -v n="$n" '/^Pss:/ { pss += $2; p++ } END { printf "  memory    %.1f MB in %d processes, %.1f MB a container\n", pss / 1000, p, pss / 1000 / n }'
}
each() { for i in $(seq "$n"); do "$@" "c$i" >/dev/null; done; }

mkdir -p "$dir/tree/data"
for i in $(seq 500); do echo "$i" >"$dir/tree/data/f$i"; done

for driver in "${drivers[@]}"; do
  echo "lamina $driver, $n containers"
  export LAMINA_ROOT=$dir/$driver LAMINA_STORAGE_DRIVER=$driver LAMINA_RUN=$dir/run
  lamina image import "$dir/tree" img >/dev/null
  create() { lamina container create --name "$1" img; }
  step create each create
  step mount each lamina container mount
  for path in "$LAMINA_ROOT"/containers/*/merged; do echo "$path"; done >"$dir/paths"
  fill() { while read -r path; do echo written >>"$path/data/f1"; done <"$dir/paths"; }
  step write fill
  sync
  { [ "$driver" != fuse ] || cat "$dir"/run/*.json | grep -o '"pid": *[0-9]*' | grep -o '[0-9]*'; } | memory
  step umount each lamina container umount
  step remove each lamina container rm
  lamina system check
done

if command -v podman >/dev/null; then
  echo "podman overlay, $n containers"
  podman() { command podman --root "$dir/podman" --runroot "$dir/pr" --storage-driver overlay "$@"; }
  tar -C "$dir/tree" -c . | podman import -q - img >/dev/null
  pcreate() { podman create --name "$1" img true; }
  step create each pcreate
  step mount each podman mount
  step umount each podman umount
  step remove each podman rm
fi
