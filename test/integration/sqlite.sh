#!/usr/bin/env bash
# SQLite on a view: a reader that opened the database read-only while it lay in the lower layer goes on reading while a
# writer changes it, which copies it up. In rollback mode and in WAL, with read() and with mmap. The reader has to see
# every committed row: where it keeps reading the lower file (as the kernel's overlayfs documents, and fuse-overlayfs
# has been reported to), it sees old pages beside new ones, and reports a malformed database.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

lower=$scratch/lower
mkdir "$lower"
for mode in delete wal; do
  for size in 0 268435456; do
    sqlite3 "$lower/$mode-$size.db" >/dev/null <<SQL
PRAGMA journal_mode = $mode;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, payload BLOB);
CREATE INDEX item_name ON item (name);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO item SELECT i, 'name ' || (i * 7919 % 20011), randomblob(100) FROM n;
SQL
  done
done
rm -f "$lower"/*-wal "$lower"/*-shm
listing "$lower" >"$scratch/lower.before"
overlay a "$lower"
cd "$scratch/a/merged"

# A sqlite3 that stays: `ask SQL` sends a statement and gives its answer up to the end mark.
start_reader() { # database, mmap size
  coproc READER { exec sqlite3 -batch "file:$1?mode=ro" 2>&1; }
  reader=$READER_PID
  ask "PRAGMA mmap_size = $2" >/dev/null
}
ask() {
  local line answer=
  printf '%s;\n.print --end--\n' "$1" >&"${READER[1]}"
  while IFS= read -r -t 60 line <&"${READER[0]}" && [ "$line" != --end-- ]; do answer+=$line$'\n'; done
  printf %s "$answer"
}
stop_reader() {
  # Closing its input ends it; the exit code is that of the last statement.
  local input=${READER[1]}
  exec {input}>&-
  wait "$reader"
}

for mode in delete wal; do
  for size in 0 268435456; do
    database=$mode-$size.db
    title="$mode, $([ "$size" = 0 ] && echo read || echo mmap)"
    write() { sqlite3 -batch "$database" "PRAGMA mmap_size = $size; $1" >/dev/null; }

    start_reader "$database" "$size"
    check "$title: the reader counts the lower rows" equal "$(ask 'SELECT count(*) FROM item')" 20000
    check "$title: the reader holds the lower file open" test -e "/proc/$reader/fd"
    check "$title: nothing is copied up yet" fails test -e "$scratch/a/upper/$database"
    check "$title: a writer inserts" write \
      "INSERT INTO item SELECT id + 20000, 'new ' || id, randomblob(300) FROM item"
    check "$title: which copied it up, or its log" compgen -G "$scratch/a/upper/$database*"
    check "$title: the reader sees all rows" equal "$(ask 'SELECT count(*), sum(id) FROM item')" '40000|800020000'
    check "$title: a writer changes every row" write "UPDATE item SET name = 'changed ' || id, payload = randomblob(200)"
    check "$title: the reader sees the change" equal \
      "$(ask "SELECT count(*) FROM item WHERE name = 'changed ' || id")" 40000
    check "$title: the reader finds it whole" equal "$(ask 'PRAGMA integrity_check')" ok
    check "$title: a checkpoint, and a deletion" write \
      "PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM item WHERE id % 2; PRAGMA wal_checkpoint(TRUNCATE)"
    check "$title: the reader counts what is left" equal "$(ask 'SELECT count(*) FROM item')" 20000
    check "$title: VACUUM" write VACUUM
    check "$title: the reader finds it whole again" equal "$(ask 'PRAGMA integrity_check')" ok
    check "$title: by its index too" equal "$(ask "SELECT count(*) FROM item WHERE name GLOB 'changed *'")" 20000
    check "$title: an open read transaction keeps its snapshot" equal "$(
      ask 'BEGIN' >/dev/null
      ask 'SELECT count(*) FROM item'
    )" 20000
    ask ROLLBACK >/dev/null

    # Two writers and the reader at once; the locks are the kernel's.
    several_writers() {
      local writer pids=()
      for writer in 1 2; do
        for _ in $(seq 15); do
          echo ".timeout 60000"
          echo "INSERT INTO item (name, payload) VALUES ('by $writer', randomblob(1000));"
        done | sqlite3 -batch "$database" &
        pids+=($!)
      done
      for writer in "${pids[@]}"; do wait "$writer"; done
    }
    check "$title: two writers at once" several_writers
    check "$title: the reader sees what both wrote" equal \
      "$(ask "SELECT count(*) FROM item WHERE name GLOB 'by *'")" 30
    status=0
    stop_reader || status=$?
    check "$title: the reader ended well" equal "$status" 0
    check "$title: a new reader agrees" equal \
      "$(sqlite3 -readonly "$database" 'PRAGMA integrity_check; SELECT count(*) FROM item')" $'ok\n20030'
  done
done

cd /
check 'mounting it again works' remount a "$lower"
for database in "$scratch"/a/merged/*.db; do
  check "$(basename "$database") is whole after it" equal "$(sqlite3 "$database" 'PRAGMA integrity_check')" ok
done
check 'the lower layer is untouched' diff "$scratch/lower.before" <(listing "$lower")
finish
