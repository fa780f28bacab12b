#!/usr/bin/env bash
# Overlays on overlays: the kernel's overlayfs with our view as lower layer, our view with the kernel's overlay as lower
# layer, and our view over our view; each of them written to.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

lower=$scratch/lower
mkdir -p "$lower/keep/deep" "$lower/change" "$lower/remove/deep"
for directory in keep/deep change remove/deep; do
  for file in $(seq 200); do echo "$directory $file" >"$lower/$directory/f$file"; done
done
listing "$lower" >"$scratch/lower.before"

# What is done in every stack, and what must come out of it.
work_in() {
  cd "$1"
  rm -rf remove
  mkdir remove
  echo new >remove/new
  for file in $(seq 100); do echo "changed $file" >>"change/f$file"; done
  mv change/f200 change/moved
  chmod 640 change/f199
  ln change/f198 change/linked
  rm keep/deep/f1
  echo again >keep/deep/f1
  setfattr -n user.test -v value change/f197
}
as_expected() {
  cd "$1"
  equal "$(ls remove)" new
  equal "$(tail -n 1 change/f100)" 'changed 100'
  equal "$(head -n 1 change/f100)" 'change 100'
  equal "$(cat change/moved)" 'change 200'
  fails test -e change/f200
  equal "$(stat -c %a change/f199)" 640
  equal "$(stat -c %h change/f198) $(stat -c %h change/linked)" '2 2'
  equal "$(cat keep/deep/f1)" again
  equal "$(getfattr --only-values -n user.test change/f197)" value
  equal "$(find . -type f | wc -l)" 402
}

kernel_overlay() {
  mkdir -p "$scratch/$1/upper" "$scratch/$1/work" "$scratch/$1/merged"
  mount -t overlay "kernel-$1" \
    -o "lowerdir=$2,upperdir=$scratch/$1/upper,workdir=$scratch/$1/work" "$scratch/$1/merged"
  mounts+=("$scratch/$1/merged")
}

readonly_view ro "$lower"
check "the kernel's overlay takes our read-only view as lower layer" kernel_overlay kernel-on-ro "$scratch/ro/merged"
mounts+=("$scratch/kernel-on-ro/merged")
check 'work in it' work_in "$scratch/kernel-on-ro/merged"
check 'the result is right' as_expected "$scratch/kernel-on-ro/merged"

overlay ours "$lower"
check 'work in our view' work_in "$scratch/ours/merged"
check 'the result is right' as_expected "$scratch/ours/merged"
listing "$scratch/ours/merged" >"$scratch/ours.before"

mkdir -p "$scratch/kernel-on-ours"
check "the kernel's overlay takes our writable view as lower layer" kernel_overlay kernel-on-ours "$scratch/ours/merged"
mounts+=("$scratch/kernel-on-ours/merged")
check 'it shows the same' as_expected "$scratch/kernel-on-ours/merged"
check 'changes in it stay out of ours' bash -ec "cd '$scratch/kernel-on-ours/merged'; rm -rf keep; echo x >>change/f1; echo y >z"
check 'ours is as it was' diff "$scratch/ours.before" <(listing "$scratch/ours/merged")

overlay ours-on-ours "$scratch/ours/merged"
check 'our view over our view shows the same' as_expected "$scratch/ours-on-ours/merged"
check 'changes in it' bash -ec "cd '$scratch/ours-on-ours/merged'; rm -rf keep; mkdir keep; echo x >>change/f1; mv change/moved keep/"
check 'are seen in it' equal "$(ls "$scratch/ours-on-ours/merged/keep")" moved
check 'and not below' diff "$scratch/ours.before" <(listing "$scratch/ours/merged")

overlay ours-on-kernel "$scratch/kernel-on-ours/merged"
check "our view over the kernel's overlay over our view" equal "$(cat "$scratch/ours-on-kernel/merged/z")" y
check 'work in the top one' bash -ec "cd '$scratch/ours-on-kernel/merged'; echo 2 >>z; rm -rf change; mkdir change; test ! -e keep"
check 'the middle one is as it was' equal "$(cat "$scratch/kernel-on-ours/merged/z")" y
check 'the bottom is untouched' diff "$scratch/lower.before" <(listing "$lower")

# An upper directory on one of our own views: the overlay's marks have to pass through as xattrs or whiteouts.
mkdir -p "$scratch/ours/merged/nested/upper" "$scratch/ours/merged/nested/work" "$scratch/nested/merged"
check 'a view whose upper lies in a view' lamina mount \
  -o "lowerdir=$lower,upperdir=$scratch/ours/merged/nested/upper,workdir=$scratch/ours/merged/nested/work" "$scratch/nested/merged"
mounts+=("$scratch/nested/merged")
check 'work in it' work_in "$scratch/nested/merged"
check 'the result is right' as_expected "$scratch/nested/merged"
finish
