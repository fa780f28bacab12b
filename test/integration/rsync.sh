#!/usr/bin/env bash
# rsync -aHAX into a view, out of it, and over it, with hard links, ACLs, xattrs, sparse files, devices and odd names;
# afterwards `rsync -n -i -c` has nothing to say.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

source=$scratch/source
mkdir -p "$source/many" "$source/odd/acl" "$scratch/lower"
for file in $(seq 2000); do echo "file $file" >"$source/many/f$file"; done
(
  cd "$source/odd"
  for name in one two three; do ln ../many/f1 "$name"; done
  ln -s one symlink
  ln symlink symlink-again
  truncate -s 50M sparse
  for offset in 1 20 48; do printf x | dd of=sparse bs=1M seek=$offset conv=notrunc status=none; done
  mkfifo fifo
  mknod block b 7 300
  mknod char c 300 70000
  : >$'\xff\xfe\x01'
  : >' '
  echo own >owned
  chown 4000000000:3999999999 owned
  chmod 4711 owned
  setfattr -n user.empty owned
  setfattr -n user.binary -v 0x00ff00ff owned
  setfattr -n trusted.by-root -v yes owned
  head -c 3000 /dev/zero | tr '\0' v >../long
  setfattr -n user.long -v "$(cat ../long)" owned
  setfacl -m u:1001:rw,g:1002:r,m::rw one
  setfacl -d -m u:1001:rwx,o::- acl
  setfacl -m u:1003:x acl
  touch -d '1970-01-01 00:00:01.000000001 UTC' one
  touch -d '2040-02-03 04:05:06.789' acl
  touch -h -d '2001-01-01' symlink
)
# rsync takes times of the same second as equal, and does not set them then: the root was made a moment ago.
touch -d '2010-01-01 00:00:00.123456789 UTC' "$source"

no_difference() {
  local differences
  differences=$(rsync -aHAX --numeric-ids --delete -n -i -c "$1/" "$2/")
  equal "$differences" ''
  same_tree "$1" "$2"
}

overlay a "$scratch/lower"
view=$scratch/a/merged
check 'rsync into the view' rsync -aHAX --numeric-ids --sparse "$source/" "$view/copy/"
check 'rsync finds no difference' no_difference "$source" "$view/copy"
# of_all DIR PROGRAM…: what it says of everything in there, by name: the order of a directory is nobody's business.
of_all() {
  local dir=$1
  shift
  (cd "$dir" && find . -print0 | LC_ALL=C sort -z | xargs -0 "$@")
}
check 'ACLs are equal' diff <(of_all "$source" getfacl -pn) <(of_all "$view/copy" getfacl -pn)
check 'xattrs are equal' diff <(of_all "$source" getfattr -dhm - -e hex) <(of_all "$view/copy" getfattr -dhm - -e hex)
check 'four names are one file' equal "$(stat -c %h "$view/copy/odd/one")" 4
check 'sparse is sparse' test "$(stat -c %b "$view/copy/odd/sparse")" -lt 2000
mkdir "$scratch/back"
check 'rsync back out of it' rsync -aHAX --numeric-ids --sparse "$view/copy/" "$scratch/back/"
check 'what came back is what was sent' no_difference "$source" "$scratch/back"
check 'mounting it again works' remount a "$scratch/lower"
check 'no difference after it' no_difference "$source" "$view/copy"
unmount a

# The source as lower layer: first nothing to do, then a changed tree is brought back to what it was.
listing "$source" >"$scratch/source.before"
mkdir -p "$scratch/b/upper"
touch -r "$source" "$scratch/b/upper" # the root of a view is that of upper
overlay b "$source" index=on # so that the names of a lower hard link stay one file
view=$scratch/b/merged
check 'a view over the source shows no difference' no_difference "$source" "$view"
check 'rsync over it does nothing' rsync -aHAX --numeric-ids -c --delete "$source/" "$view/"
check 'nothing came into upper by it' equal "$(find "$scratch/b/upper" -mindepth 1 -type f | wc -l)" 0
check 'a changed view' bash -ec "cd '$view'; rm -rf odd/acl many/f1?; mkdir many/new; echo x >>many/f500; chmod 600 odd/owned;
  setfacl -b odd/one; rm odd/two; echo other >odd/two; ln -sf elsewhere odd/symlink; mv many/f600 odd/"
check 'is brought back by rsync' rsync -aHAX --numeric-ids -c --delete "$source/" "$view/"
check 'rsync finds no difference then' no_difference "$source" "$view"
check 'rsync --inplace of a changed sparse file' bash -ec "printf y | dd of='$view/odd/sparse' bs=1M seek=30 conv=notrunc status=none
  rsync -aHAX --numeric-ids -c --inplace '$source/' '$view/'; cmp '$source/odd/sparse' '$view/odd/sparse'"
check 'the source is untouched' diff "$scratch/source.before" <(listing "$source")
finish
