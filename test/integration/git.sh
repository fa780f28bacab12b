#!/usr/bin/env bash
# git on a view: clone of a repository that lies in the lower layer, status, checkout of branches, commit, gc, fsck.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

export HOME=$scratch GIT_CONFIG_NOSYSTEM=1
git config --global user.name Lamina
git config --global user.email lamina@example.org
git config --global init.defaultBranch main
git config --global advice.detachedHead false

# 3,000 files in 150 directories; branch `other` changes 500, deletes 500, adds 500 and turns a file into a directory.
lower=$scratch/lower
git init -q "$lower/origin"
cd "$lower/origin"
for directory in $(seq 150); do
  mkdir -p "area$((directory % 10))/part$directory"
  for file in $(seq 20); do
    printf 'file %s of part %s\n%s\n' "$file" "$directory" "$(seq "$file" $((file + 40)))" \
      >"area$((directory % 10))/part$directory/f$file.txt"
  done
done
ln -s area1/part1/f1.txt link
printf '#!/bin/sh\necho run\n' >run.sh
chmod 755 run.sh
git add -A
git commit -q -m first
git checkout -q -b other
find area0 area1 -name 'f[1-9].txt' | sort | sed -n 1,500p | while read -r file; do echo changed >>"$file"; done
find area2 area3 -name '*.txt' | sort | sed -n 1,500p | xargs git rm -q
for file in $(seq 500); do echo "new $file" >"area4/new$file.txt"; done
git rm -q run.sh
mkdir run.sh
echo inside >run.sh/file
git add -A
git commit -q -m second
git checkout -q main
cd /
listing "$lower" >"$scratch/lower.before"

overlay a "$lower"
cd "$scratch/a/merged"

status_is_clean() {
  local changes
  changes=$(git -C "$1" status --porcelain)
  equal "$changes" ''
}
files_of_head() { git -C "$1" ls-tree -r --name-only HEAD | wc -l; }

check 'the repository in the lower layer has nothing to say' status_is_clean origin
check 'git clone of it, with hard links to its objects' git clone -q origin clone
check 'the clone is clean' status_is_clean clone
check 'the clone has all files' equal "$(files_of_head clone)" 3002
check 'git clone --no-local, through a pack' git clone -q --no-local origin packed
check 'checkout of the other branch in the clone' git -C clone checkout -q other
check 'it is clean' status_is_clean clone
check 'its content is that of the branch' equal "$(git -C clone diff origin/other --stat)" ''
check 'a file became a directory' test -f clone/run.sh/file
check 'checkout of the other branch over files of the lower layer' git -C origin checkout -q other
check 'it is clean too' status_is_clean origin
check 'deleted files are gone' equal "$(find origin/area2 origin/area3 -name '*.txt' | wc -l)" 100
check 'and back' git -C origin checkout -q main
check 'clean again' status_is_clean origin
check 'the directory is a file again, and executable' equal "$(origin/run.sh)" run

commit_and_merge() {
  git -C origin checkout -q -b topic
  echo topic >>origin/area9/part9/f1.txt
  git -C origin mv area9/part9/f2.txt area9/part9/renamed.txt
  git -C origin commit -q -a -m topic
  git -C origin checkout -q main
  git -C origin merge -q --no-edit topic
  git -C origin merge -q --no-edit other
}
check 'commit, rename and merge' commit_and_merge
check 'git stash and stash pop' bash -ec 'cd origin; echo x >>area5/part5/f1.txt; git stash -q; git diff --quiet; git stash pop -q; ! git diff --quiet; git checkout -q .'
check 'git gc, which replaces the loose objects of the lower layer' git -C origin gc -q --prune=now
check 'no loose object is left' equal "$(git -C origin count-objects)" '0 objects, 0 kilobytes'
check 'git fsck finds nothing' git -C origin fsck --full --strict --no-progress
check 'clean after gc' status_is_clean origin
check 'git worktree' git -C origin worktree add -q ../tree other
check 'git clean' bash -ec 'cd clone; mkdir -p junk/deep; touch junk/deep/x; git clean -qfdx; test ! -e junk'

cd /
check 'mounting it again works' remount a "$lower"
check 'the same state after it' status_is_clean "$scratch/a/merged/origin"
check 'the lower layer is untouched' diff "$scratch/lower.before" <(listing "$lower")
finish
