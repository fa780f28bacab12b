#!/usr/bin/env bash
# PostgreSQL on a view whose lower layer holds the cluster: all of its processes are killed with -9 under load, and then the
# daemon is. After each recovery the books of pgbench balance, every commit that was told is there, the indexes agree with
# their tables (amcheck), and in the end so do all page checksums.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
if [ -z "$bin" ] || [ ! -x "$bin/pgbench" ] || ! id postgres >/dev/null 2>&1; then
  echo 'PostgreSQL is not installed'
  exit 77
fi
chmod 755 "$scratch"
lower=$scratch/lower
mkdir "$lower" "$scratch/run"
chown postgres: "$lower" "$scratch/run"
as_postgres() { (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups env PATH="$bin:$PATH" LC_ALL=C "$@"); }

check 'a cluster is made' as_postgres initdb --no-sync --data-checksums --auth=trust -D "$lower/data"
cat >>"$lower/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$scratch/run'
shared_buffers = 16MB
max_connections = 20
CONF
data=$scratch/a/merged/data

start() { as_postgres pg_ctl -w -t 60 -D "$1" -l "$scratch/run/log" start; }
stop() { as_postgres pg_ctl -w -t 60 -m fast -D "$1" stop; }
ask() { as_postgres psql -h "$scratch/run" -XAtq -c "$1" postgres; }
fill_below() {
  start "$lower/data"
  as_postgres pgbench -h "$scratch/run" -i -s 1 -q postgres
  ask 'CREATE EXTENSION amcheck'
  stop "$lower/data"
}
check 'it starts below, is filled, and stops' fill_below
listing "$lower" >"$scratch/lower.before"
overlay a "$lower"

# The cluster's processes: they work in its directory.
cluster() {
  local pid
  for pid in $(pgrep -u postgres); do
    if [[ "$(readlink "/proc/$pid/cwd")" == "$data"* ]]; then echo "$pid"; fi
  done
}
# Kills all of them (the file names the postmaster), and what the postmaster was just starting: one that is left waits for ever for what the dead ones held.
kill_cluster() {
  local pids master
  master=$(head -n 1 "$1")
  for _ in $(seq 200); do
    pids=$(cluster)
    # shellcheck disable=SC2086 # a list of pids
    if [ -n "$pids" ]; then kill -KILL $pids 2>/dev/null || true; fi
    # The next postmaster does not start while there is a process of its predecessor's number.
    if [ -z "$pids" ] && ! kill -0 "$master" 2>/dev/null; then return 0; fi
    sleep 0.05
  done
  return 1
}
load() { as_postgres pgbench -h "$scratch/run" -n -c 4 -T 20 postgres >"$scratch/run/bench" 2>&1; }
# Rows of history are commits; told from outside, so that they are known after the crash.
tell() {
  local i=0
  while i=$((i + 1)) && ask "INSERT INTO told VALUES ($i)" 2>/dev/null; do echo "$i" >"$scratch/run/told"; done
}
balanced() {
  equal "$(ask "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
    (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history),
    (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history),
    (SELECT count(*) FROM pgbench_accounts), (SELECT count(*) FROM pgbench_history) > 0")" 't|t|t|100000|t'
}
told_is_there() {
  equal "$(ask "SELECT count(*) >= $(cat "$scratch/run/told"), count(*) = max(i) FROM told")" 't|t'
}
indexes() {
  ask "SELECT count(bt_index_check(c.oid, true)) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relpersistence = 'p' AND i.indisvalid"
}
sound() { # title
  check "$1: it recovers" start "$data"
  check "$1: the books balance" balanced
  check "$1: every commit is there" told_is_there
  check "$1: the indexes agree with the tables" indexes
}

check 'it starts on the view' start "$data"
check 'a table more' ask 'CREATE TABLE told (i int PRIMARY KEY)'
for round in 1 2; do
  ask 'TRUNCATE told'
  load &
  tell &
  sleep 1.5
  kill_cluster "$data/postmaster.pid"
  wait
  sound "kill $round"
done
ask 'TRUNCATE told'
load &
tell &
sleep 1
pid=$(lamina stats --format json "$scratch/a/merged" | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p')
cp "$data/postmaster.pid" "$scratch/run/master"
kill -KILL "$pid"
kill_cluster "$scratch/run/master"
wait
umount -l "$scratch/a/merged"
for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
overlay a "$lower"
sound 'the daemon is killed'
check 'it stops' stop "$data"
check 'all page checksums are right' as_postgres pg_checksums --check -D "$data"
check 'the lower layer is untouched' diff "$scratch/lower.before" <(listing "$lower")
finish
