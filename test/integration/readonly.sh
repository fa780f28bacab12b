#!/usr/bin/env bash
# A view without an upper layer, and one with an upper layer that is mounted read-only: everything can be read, and
# every kind of change fails with EROFS and leaves the layers as they are.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

mkdir -p "$scratch/top/shared" "$scratch/bottom/shared" "$scratch/bottom/hidden"
echo top >"$scratch/top/shared/both"
echo bottom >"$scratch/bottom/shared/both"
echo bottom >"$scratch/bottom/shared/below"
echo bottom >"$scratch/bottom/hidden/file"
ln -s shared/both "$scratch/top/link"
mknod "$scratch/top/hidden" c 0 0
printf '#!/bin/sh\necho it runs\n' >"$scratch/bottom/program"
chmod 755 "$scratch/bottom/program"
setfattr -n user.note -v here "$scratch/bottom/program"
dd if=/dev/urandom of="$scratch/bottom/big" bs=1M count=16 status=none
listing "$scratch/top" >"$scratch/top.before"
listing "$scratch/bottom" >"$scratch/bottom.before"

readonly_view a "$scratch/top:$scratch/bottom"
mkdir -p "$scratch/b/upper" "$scratch/b/work" "$scratch/b/merged"
echo upper >"$scratch/b/upper/only-upper"
check 'mounting an upper layer read-only' lamina mount --read-only --lower "$scratch/top" --lower "$scratch/bottom" \
  --upper "$scratch/b/upper" --work "$scratch/b/work" "$scratch/b/merged"
mounts+=("$scratch/b/merged")

refused() {
  local output
  if output=$("$@" 2>&1); then
    echo "succeeded: $*"
    return 1
  fi
  case $output in
    *'Read-only file system'*) ;;
    *)
      echo "$output"
      return 1
      ;;
  esac
}

for name in a b; do
  cd "$scratch/$name/merged"
  check "$name: the upper one of two files is shown" equal "$(cat shared/both)" top
  check "$name: directories are merged" equal "$(echo shared/*)" 'shared/below shared/both'
  check "$name: a whiteout hides" fails test -e hidden
  check "$name: a symlink leads through the view" equal "$(cat link)" top
  check "$name: a program runs" equal "$(./program)" 'it runs'
  check "$name: xattrs are read" equal "$(getfattr --only-values -n user.note program)" here
  check "$name: contents are the same" cmp big "$scratch/bottom/big"
  check "$name: the mount says ro" grep -q "^[^ ]* $scratch/$name/merged [^ ]* ro," /proc/mounts
  check "$name: no write to a file" refused dd of=shared/both if=/dev/zero count=1 conv=notrunc status=none
  check "$name: no truncate" refused truncate -s 0 big
  check "$name: no new file" refused touch new
  check "$name: no mkdir" refused mkdir new
  check "$name: no symlink" refused ln -s x new
  check "$name: no hard link" refused ln big new
  check "$name: no fifo" refused mkfifo new
  check "$name: no unlink" refused rm -f big
  check "$name: no rmdir" refused rmdir shared
  check "$name: no rename" refused mv -T big new
  check "$name: no chmod" refused chmod 600 program
  check "$name: no chown" refused chown 1:1 program
  check "$name: no touch" refused touch program
  check "$name: no setxattr" refused setfattr -n user.note -v there program
  check "$name: no ACL" refused setfacl -m u:1:r program
  cd /
done
check 'b: upper is shown' equal "$(cat "$scratch/b/merged/only-upper")" upper
check 'b: upper is as it was' equal "$(ls -A "$scratch/b/upper")" only-upper
check 'the top layer is untouched' diff "$scratch/top.before" <(listing "$scratch/top")
check 'the bottom layer is untouched' diff "$scratch/bottom.before" <(listing "$scratch/bottom")

# A remount that makes it writable must not work where there is no upper.
check 'a view without upper stays read-only' bash -c "mount -o remount,rw '$scratch/a/merged' 2>/dev/null; ! touch '$scratch/a/merged/new' 2>/dev/null"
finish
