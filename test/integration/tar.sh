#!/usr/bin/env bash
# tar of 20,000 files out of a view and into one, with every attribute and checksum compared; then rm -rf of them.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

# 20,000 files in 400 directories, and among them what archives get wrong: hard links, symlinks, holes, a fifo, a
# device, an empty directory, names with blanks, newlines and bytes that are no UTF-8, modes, owners, old times, xattrs.
lower=$scratch/lower
mkdir "$lower"
seq 20000 | awk -v root="$lower" '
  { directory = sprintf("%s/d%02d/e%02d", root, $1 % 20, int($1 / 20) % 20)
    if (!(directory in made)) { system("mkdir -p " directory); made[directory] = 1 }
    file = directory "/file" $1
    for (line = 0; line <= $1 % 50; line++) print $1, line > file
    close(file) }'
mkdir -p "$lower/odd/empty"
(
  cd "$lower/odd"
  echo one >first
  ln first second
  ln first ../d00/third
  ln -s first symlink
  ln -s /nowhere/at/all dangling
  truncate -s 40M holes
  printf data | dd of=holes bs=1 seek=20000000 conv=notrunc status=none
  mkfifo fifo
  mknod device c 1 7
  : >' blank '
  : >$'new\nline'
  : >$'\xff\xfe'
  : >"$(printf 'n%.0s' $(seq 255))"
  echo setuid >setuid
  chown 1234:5678 setuid
  chmod 6755 setuid
  chmod 000 first
  setfattr -n user.kept -v value second
  touch -d '1999-12-31 23:59:59.123456789' fifo symlink -h
  chmod 1777 empty
)
touch -d '2020-02-02' "$lower"
listing "$lower" >"$scratch/lower.before"
tree_tar() { tar --sparse --xattrs --xattrs-include='user.*' --sort=name "$@"; }

mkdir -p "$scratch/a/upper"
touch -r "$lower" "$scratch/a/upper" # the root of a view is that of upper
overlay a "$lower"
cd "$scratch/a/merged"
check 'the view shows the lower layer as it is' diff "$scratch/lower.before" <(listing .)
check 'tar of the view' tree_tar -C . -cf "$scratch/view.tar" .
check 'tar of the lower layer' tree_tar -C "$lower" -cf "$scratch/lower.tar" .
check 'both archives hold the same' diff <(tar -tvvf "$scratch/view.tar") <(tar -tvvf "$scratch/lower.tar")
check 'tar --compare of the archive against the view' tree_tar -C . -df "$scratch/view.tar"
check 'nothing was copied up' equal "$(find "$scratch/a/upper" -mindepth 1 | wc -l)" 0

mkdir copy
check 'tar into the view' tree_tar -C copy -xpf "$scratch/view.tar"
check 'what was unpacked is what was packed' same_tree copy "$lower"
check 'it is the same on disk' same_tree "$scratch/a/upper/copy" "$lower"
check 'hard links are one file' equal "$(stat -c '%h %i' copy/odd/first)" "$(stat -c '%h %i' copy/d00/third)"
check 'the holes are holes' test "$(stat -c %b "$scratch/a/upper/copy/odd/holes")" -lt 1000
check 'the xattr is there' equal "$(getfattr --only-values -n user.kept copy/odd/first)" value
check 'unpacking once more over it' tree_tar -C copy -xpf "$scratch/view.tar"
check 'nothing changed by it' same_tree copy "$lower"

check 'rm -rf of the copy' rm -rf copy
check 'nothing of it is left on disk' equal "$(find "$scratch/a/upper" -mindepth 1 | wc -l)" 0
check 'tar over the lower files themselves' tree_tar -C . -xpf "$scratch/view.tar"
check 'they are as before' same_tree . "$lower" loose
cd /
check 'mounting it again works' remount a "$lower"
check 'the same tree after it' same_tree "$scratch/a/merged" "$lower" loose

cd "$scratch/a/merged"
check 'rm -rf of half of the lower files' rm -rf d0? odd
check 'they are gone' equal "$(find . | grep -c '^./d0\|^./odd')" 0
check 'the other half is there' equal "$(find d1? -type f | wc -l)" 10000
check 'upper says so with ten and one whiteouts' equal "$(find "$scratch/a/upper" -maxdepth 1 -type c | wc -l)" 11
check 'lamina diff names the deleted' equal "$(lamina diff "$scratch/a/upper" | grep -c '^D')" 11
check 'rm -rf of the rest' rm -rf d1?
check 'the view is empty' equal "$(find . -mindepth 1 | wc -l)" 0
cd /
check 'the lower layer is untouched' diff "$scratch/lower.before" <(listing "$lower")
finish
