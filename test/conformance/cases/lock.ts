import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import { chmod, join, open, overwrite, python, write } from '../posix.js'
import type { Cases } from '../run.js'

/** A second process that says what it may lock. */
const ASK = `
import subprocess
def ask(kind, start=0, length=0):
    code = '''
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
r = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi", %s, 0, %d, %d, 0))
t, _, s, l, p = struct.unpack("hhqqi", r[:28] if len(r) >= 28 else r + bytes(28 - len(r)))
print({fcntl.F_RDLCK: "read", fcntl.F_WRLCK: "write", fcntl.F_UNLCK: "free"}[t], s, l)
''' % ('fcntl.F_' + kind + 'LCK', start, length)
    return subprocess.run([sys.executable, '-c', code, A[0]], capture_output=True, check=True).stdout.decode().split()
def lock(fd, kind, start, length):
    return E(lambda: fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack('hhqqi', getattr(fcntl, 'F_' + kind + 'LCK'), 0, start, length, 0)) and None)
`

export const locks: Cases = {
  'flock is held by a descriptor, also over copy-up': {
    lowers: [dir => write(join(dir, 'f'), 'x')],
    run: c => {
      using a = open(join(c.dir, 'f'), sys.O_RDONLY)
      using b = open(join(c.dir, 'f'), sys.O_RDONLY)
      assert.ok(sys.flock(a.n, sys.LOCK_EX | sys.LOCK_NB))
      assert.equal(sys.flock(b.n, sys.LOCK_EX | sys.LOCK_NB), false)
      assert.equal(sys.flock(b.n, sys.LOCK_SH | sys.LOCK_NB), false)
      overwrite(join(c.dir, 'f'), 'y')
      chmod(join(c.dir, 'f'), 0o600)
      using late = open(join(c.dir, 'f'), sys.O_RDWR)
      assert.equal(sys.flock(late.n, sys.LOCK_EX | sys.LOCK_NB), false)
      sys.flock(a.n, sys.LOCK_UN)
      assert.ok(sys.flock(b.n, sys.LOCK_SH | sys.LOCK_NB))
      assert.ok(sys.flock(late.n, sys.LOCK_SH | sys.LOCK_NB))
    },
  },

  'a read lease is broken by who opens for writing, also after copy-up': {
    lowers: [dir => write(join(dir, 'f'), 'x')],
    run: c => {
      const seen = python(
        `
import signal, subprocess
broken = []
signal.signal(signal.SIGIO, lambda *_: broken.append(1))
fd = os.open(A[0], os.O_RDONLY)
def another(flags):
    code = 'import os, sys; os.close(os.open(sys.argv[1], int(sys.argv[2])))'
    p = subprocess.run([sys.executable, '-c', code, A[0], str(flags | os.O_NONBLOCK)], capture_output=True)
    return 'ok' if p.returncode == 0 else p.stderr.decode().strip().split(':')[0]
r = [E(lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK))]
os.chmod(A[0], 0o600)
r += [fcntl.fcntl(fd, fcntl.F_GETLEASE), another(os.O_RDONLY), len(broken), another(os.O_WRONLY), len(broken)]
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
r += [another(os.O_WRONLY), E(lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)), fcntl.fcntl(fd, fcntl.F_GETLEASE)]
print(json.dumps(r))`,
        join(c.dir, 'f'),
      )
      c.note('seen', seen)
    },
  },

  'record locks between processes': {
    lowers: [dir => write(join(dir, 'f'), 'x'.repeat(1000))],
    run: c =>
      c.note(
        'seen',
        python(
          `${ASK}
fd = os.open(A[0], os.O_RDWR)
r = [ask('WR')]
r += [lock(fd, 'WR', 100, 50), ask('WR'), ask('RD', 120, 10), ask('WR', 150, 10)]
r += [lock(fd, 'RD', 300, 10), ask('RD', 300, 10), ask('WR', 300, 10)]
r += [lock(fd, 'UN', 0, 0), ask('WR')]
print(json.dumps(r))`,
          join(c.dir, 'f'),
        ),
      ),
  },

  'record locks go when any descriptor of the process is closed': c => {
    write(join(c.dir, 'f'), 'x'.repeat(1000))
    c.note(
      'seen',
      python(
        `${ASK}
fd = os.open(A[0], os.O_RDWR); other = os.open(A[0], os.O_RDWR)
r = [lock(fd, 'WR', 0, 0), ask('WR')]
os.close(other)
r.append(ask('WR'))
print(json.dumps(r))`,
        join(c.dir, 'f'),
      ),
    )
  },

  'locks of open file descriptions': c => {
    write(join(c.dir, 'f'), 'x')
    c.note(
      'seen',
      python(
        `
F_OFD_SETLK = 37
a = os.open(A[0], os.O_RDWR); b = os.open(A[0], os.O_RDWR)
def lock(fd, kind):
    return E(lambda: fcntl.fcntl(fd, F_OFD_SETLK, struct.pack('hhqqi4x', getattr(fcntl, 'F_' + kind + 'LCK'), 0, 0, 0, 0)) and None)
r = [lock(a, 'WR'), lock(b, 'RD'), lock(a, 'RD'), lock(b, 'RD'), lock(a, 'UN'), lock(b, 'WR')]
print(json.dumps(r))`,
        join(c.dir, 'f'),
      ),
    )
  },

  'SQLite writes, locks and checks a database that was in the lower layer, with an older reader open': {
    on: ['plain', 'lamina'],
    lowers: [
      dir => {
        python(
          `
import sqlite3
db = sqlite3.connect(A[0].decode()); db.execute('create table t (n integer)'); db.executemany('insert into t values (?)', [(i,) for i in range(1000)]); db.commit(); db.close()
print('0')`,
          join(dir, 'db'),
        )
      },
    ],
    run: c =>
      c.note(
        'seen',
        python(
          `
import sqlite3
path = A[0].decode()
reader = sqlite3.connect(path, timeout=0.1)
r = [reader.execute('select count(*) from t').fetchone()[0]]
writer = sqlite3.connect(path, timeout=0.1)
for i in range(50):
    writer.execute('insert into t values (?)', (i,)); writer.commit()
    r.append(reader.execute('select count(*) from t').fetchone()[0])
writer.execute('begin exclusive')
try:
    reader.execute('select count(*) from t').fetchone(); r.append('not locked')
except sqlite3.OperationalError as e: r.append(str(e))
writer.commit()
writer.execute('delete from t where n % 2 = 0'); writer.commit(); writer.execute('vacuum')
r.append(reader.execute('select count(*) from t').fetchone()[0])
r.append(reader.execute('pragma integrity_check').fetchone()[0])
writer.execute('pragma journal_mode=wal'); writer.execute('insert into t values (1)'); writer.commit()
r.append(reader.execute('select count(*) from t').fetchone()[0])
reader.close(); writer.close()
print(json.dumps(r))`,
          join(c.dir, 'db'),
        ),
      ),
  },

  'SQLite in the upper layer, rollback journal and WAL': c =>
    c.note(
      'seen',
      python(
        `
import sqlite3
r = []
for mode in ('delete', 'wal', 'truncate', 'persist'):
    path = A[0].decode() + mode
    db = sqlite3.connect(path); r.append(db.execute('pragma journal_mode=' + mode).fetchone()[0])
    db.execute('create table t (n integer, s text)')
    for i in range(20):
        db.executemany('insert into t values (?, ?)', [(j, 'x' * 100) for j in range(50)]); db.commit()
    db.execute('delete from t where n < 25'); db.commit()
    db.close(); db = sqlite3.connect(path)
    r.append(db.execute('select count(*) from t').fetchone()[0]); r.append(db.execute('pragma integrity_check').fetchone()[0]); db.close()
print(json.dumps(r))`,
        join(c.dir, 'db'),
      ),
    ),
}
