#!/usr/bin/env bash
# SQLite whose writer is killed with -9 again and again, over a database from the lower layer, with a reader that has it open since
# before the copy-up: every commit that was told is there, no money is lost, and the pages are whole. In rollback mode and in
# WAL, with read() and with mmap. At last the daemon is killed under the writer, too.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

rounds=${LAMINA_ROUNDS:-3}
lower=$scratch/lower
mkdir "$lower"
for mode in delete wal; do
  for size in 0 268435456; do
    sqlite3 "$lower/$mode-$size.db" >/dev/null <<SQL
PRAGMA journal_mode = $mode;
CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, filler BLOB);
CREATE TABLE log (id INTEGER PRIMARY KEY, note TEXT);
CREATE INDEX account_balance ON account (balance);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
INSERT INTO account SELECT i, 1000, randomblob(200) FROM n;
SQL
  done
done
rm -f "$lower"/*-wal "$lower"/*-shm
listing "$lower" >"$scratch/lower.before"
overlay a "$lower"

# Moves money about for ever, and tells each commit once it has returned.
write_on() { # database, mmap size, file to tell in
  {
    echo ".timeout 20000"
    echo "PRAGMA mmap_size = $2;"
    echo "PRAGMA synchronous = FULL;"
    for _ in $(seq 100000); do
      echo "BEGIN IMMEDIATE;"
      echo "UPDATE account SET balance = balance - 7, filler = randomblob(200) WHERE id = abs(random()) % 3000 + 1;"
      echo "UPDATE account SET balance = balance + 7 WHERE id = (SELECT abs(random()) % 3000 + 1) AND changes() = 1;"
      echo "INSERT INTO log (note) SELECT CASE (SELECT sum(balance) FROM account) WHEN 3000000 THEN 'even' ELSE 'odd' END;"
      echo "COMMIT;"
      echo "SELECT max(id) FROM log;"
    done
  } | exec sqlite3 -batch "$1" >>"$3" 2>/dev/null
}

consistent() { # database, file of what was told, sqlite3's options
  local told
  told=$(grep -E '^[0-9]+$' "$2" | tail -n 1)
  equal "$(sqlite3 "${@:3}" -cmd '.timeout 20000' "$1" \
    "PRAGMA integrity_check; SELECT count(*) >= ${told:-0}, count(*) = max(id) OR count(*) = 0 FROM log;")" $'ok\n1|1'
}
# A transfer may come to naught when the second half finds no row; then the sum is off by 7, and the log says so.
sums() {
  local off
  off=$(sqlite3 -cmd '.timeout 20000' "$1" "SELECT (3000000 - sum(balance)) % 7 FROM account")
  equal "$off" 0
}

killed_writer() { # database, mmap size, file
  setsid bash -c "$(declare -f write_on); write_on '$1' '$2' '$3'" &
  local leader=$!
  sleep "0.$((RANDOM % 400 + 150))"
  kill -KILL -- "-$leader" 2>/dev/null || true
  wait "$leader" 2>/dev/null || true
}

for mode in delete wal; do
  for size in 0 268435456; do
    database=$scratch/a/merged/$mode-$size.db
    told=$scratch/told-$mode-$size
    : >"$told"
    title="$mode, $([ "$size" = 0 ] && echo read || echo mmap)"
    coproc READER { exec sqlite3 -batch "file:$database?mode=ro" 2>&1; }
    reader=$READER_PID
    ask() {
      local line answer=
      printf '%s;\n.print --end--\n' "$1" >&"${READER[1]}"
      while IFS= read -r -t 30 line <&"${READER[0]}" && [ "$line" != --end-- ]; do answer+=$line$'\n'; done
      printf %s "$answer"
    }
    ask ".timeout 20000" >/dev/null
    ask "PRAGMA mmap_size = $size" >/dev/null
    check "$title: a reader is there first" equal "$(ask 'SELECT sum(balance) FROM account')" 3000000
    for round in $(seq "$rounds"); do
      killed_writer "$database" "$size" "$told"
      check "$title, kill $round: whole, and every commit is there" consistent "$database" "$told"
      check "$title, kill $round: no transfer is half there" sums "$database"
      check "$title, kill $round: the reader from before finds it whole" equal "$(ask 'PRAGMA integrity_check')" ok
      check "$title, kill $round: and sees what others see" equal "$(ask 'SELECT count(*) FROM log')" \
        "$(sqlite3 -readonly "$database" 'SELECT count(*) FROM log')"
    done
    check "$title: there were commits" test -s "$told"
    input=${READER[1]}
    exec {input}>&-
    wait "$reader" || true
  done
done

# The daemon dies under the writer.
database=$scratch/a/merged/wal-0.db
told=$scratch/told-wal-0
pid=$(lamina stats --format json "$scratch/a/merged" | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p')
setsid bash -c "$(declare -f write_on); write_on '$database' 0 '$told'" &
writer=$!
sleep 0.5
kill -KILL "$pid"
wait "$writer" || true
umount -l "$scratch/a/merged"
for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
overlay a "$lower"
check 'the daemon was killed: whole, and every commit is there' consistent "$database" "$told"
check 'the daemon was killed: no transfer is half there' sums "$database"
check 'the lower layer is untouched' diff "$scratch/lower.before" <(listing "$lower")
finish
