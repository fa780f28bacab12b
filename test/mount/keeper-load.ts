/**
 * One user of a mount, until the file STOP is there, who checks every answer: `node keeper-load.js KIND DIRECTORY STOP SEED`.
 * Ends with 0 when nothing was wrong. Never run by itself: keeper-kill.test.ts starts several while it kills the daemon.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { Random } from '../fuzz/random.js'

const [kind = '', given = '', stop = '', seed = '1'] = process.argv.slice(2)
/** A file that is there while the disk may be full: then a load begins anew, elsewhere. */
const full = process.env['LAMINA_FULL']
let dir = given
const random = new Random(Number(seed))
const below = (n: number): number => Math.floor(random.next() * n)
const goesOn = (): boolean => !fs.existsSync(stop)
let turns = 0

/** What was read is not what was written: never a full disk's fault. */
class Mismatch extends Error {}

function check(right: boolean, what: string): void {
  if (!right) throw new Mismatch(`${kind} ${dir}, turn ${turns}: ${what}`)
}

function bytes(length: number): Buffer {
  const fill = below(256)
  const data = Buffer.alloc(length, fill)
  for (let i = 0; i < length; i += 97) data[i] = below(256)
  return data
}

const LOADS: Record<string, () => void> = {
  /** Writes, truncations and reads of one file against a copy in memory, as fsx does; sometimes under another name, or none. */
  fsx() {
    const file = path.join(dir, 'fsx')
    let model = Buffer.alloc(0)
    let fd = fs.openSync(file, 'w+')
    let name: string | undefined = file
    while (goesOn()) {
      turns++
      const at = below(200_000)
      switch (below(8)) {
        case 0: {
          fs.ftruncateSync(fd, at)
          const cut = Buffer.alloc(at)
          model.copy(cut)
          model = cut
          break
        }
        case 1: {
          if (name === undefined) break
          const next = path.join(dir, `fsx-${below(3)}`)
          fs.renameSync(name, next)
          name = next
          break
        }
        case 2:
          if (below(4) > 0) break
          // The object goes on without a name; then a new one takes over.
          if (name !== undefined) fs.unlinkSync(name)
          name = undefined
          break
        case 3:
          if (name !== undefined) break
          fs.closeSync(fd)
          name = file
          fd = fs.openSync(file, 'w+')
          model = Buffer.alloc(0)
          break
        case 4:
        case 5: {
          const data = bytes(1 + below(60_000))
          const written = fs.writeSync(fd, data, 0, data.length, at)
          // What fitted was written: a full disk says so at the next write.
          if (full !== undefined && written < data.length)
            fs.writeSync(fd, data, written, data.length - written, at + written)
          else check(written === data.length, 'a short write')
          if (model.length < at + data.length) {
            const longer = Buffer.alloc(at + data.length)
            model.copy(longer)
            model = longer
          }
          data.copy(model, at)
          break
        }
        default: {
          const length = 1 + below(60_000)
          const found = Buffer.alloc(length)
          const n = fs.readSync(fd, found, 0, length, at)
          check(found.subarray(0, n).equals(model.subarray(at, at + length)), `other data at ${at}`)
        }
      }
      check(fs.fstatSync(fd).size === model.length, `another size than ${model.length}`)
    }
    fs.closeSync(fd)
  },

  /** Creates, links, renames and removes in two directories, and knows after each call what must be there. */
  names() {
    const dirs = ['one', 'two'].map(name => path.join(dir, name))
    for (const each of dirs) fs.mkdirSync(each)
    const model = new Map<string, string>()
    const place = (): string => path.join(dirs[below(2)] ?? '', `n${below(30)}`)
    const fails = (what: () => void, code: string): void => {
      try {
        what()
      } catch (error) {
        check((error as NodeJS.ErrnoException).code === code, `${String(error)} in place of ${code}`)
        return
      }
      check(false, `no ${code}`)
    }
    while (goesOn()) {
      turns++
      const [a, b] = [place(), place()]
      const [inA, inB] = [model.get(a), model.get(b)]
      switch (below(8)) {
        case 0: {
          const text = `${turns}`
          const create = (): void => fs.writeFileSync(a, text, { flag: 'wx' })
          if (inA !== undefined) fails(create, 'EEXIST')
          else create()
          if (inA === undefined) model.set(a, text)
          break
        }
        case 1:
          if (inA === undefined) fails(() => fs.unlinkSync(a), 'ENOENT')
          else fs.unlinkSync(a)
          model.delete(a)
          break
        case 2:
        case 3:
          if (inA === undefined) fails(() => fs.renameSync(a, b), 'ENOENT')
          else {
            fs.renameSync(a, b)
            if (a !== b && !(inB !== undefined && same(a, b))) model.delete(a)
            model.set(b, inA)
          }
          break
        case 4:
          if (inA === undefined) fails(() => fs.linkSync(a, b), 'ENOENT')
          else if (inB !== undefined) fails(() => fs.linkSync(a, b), 'EEXIST')
          else {
            fs.linkSync(a, b)
            model.set(b, inA)
          }
          break
        case 5: {
          const made = path.join(dir, `d${below(5)}`)
          fs.mkdirSync(made)
          fs.symlinkSync('x', path.join(made, 's'))
          fs.renameSync(made, `${made}-moved`)
          check(fs.readlinkSync(path.join(`${made}-moved`, 's')) === 'x', 'another link')
          fs.unlinkSync(path.join(`${made}-moved`, 's'))
          fs.rmdirSync(`${made}-moved`)
          break
        }
        default:
          if (inA === undefined) fails(() => fs.readFileSync(a), 'ENOENT')
          else check(fs.readFileSync(a, 'utf8') === inA, `${a} is another file`)
      }
      if (turns % 50 === 0) {
        for (const each of dirs) {
          const shown = fs.readdirSync(each).sort()
          const expected = [...model.keys()].filter(name => path.dirname(name) === each)
          check(
            shown.join() ===
              expected
                .map(name => path.basename(name))
                .sort()
                .join(),
            `listed ${shown.join()}, not ${expected.join()}`,
          )
        }
      }
    }

    /** rename(2) of two names of one object leaves both. */
    function same(a: string, b: string): boolean {
      return fs.existsSync(a) && fs.statSync(a).ino === fs.statSync(b).ino
    }
  },

  /** Directories of more entries than one listing carries, removed while they are read. */
  listings() {
    while (goesOn()) {
      turns++
      const made = path.join(dir, `many-${turns}`)
      fs.mkdirSync(made)
      const names = Array.from({ length: 400 }, (_, i) => `entry-with-a-longer-name-${i}`)
      for (const name of names) fs.writeFileSync(path.join(made, name), '')
      check(fs.readdirSync(made).length === names.length, 'a listing that is not whole')
      // rm -r removes while it reads.
      execFileSync('rm', ['-r', made])
    }
  },

  /** Files of the lower layer, changed for the first time. */
  copyup() {
    const lower = fs.readdirSync(path.join(dir, '..', 'from-below')).sort()
    for (const name of lower) {
      if (!goesOn()) break
      turns++
      const file = path.join(dir, '..', 'from-below', name)
      const fd = fs.openSync(file, 'r+')
      const before = fs.readFileSync(file)
      const reader = fs.openSync(file, 'r')
      fs.writeSync(fd, 'changed', 0)
      const seen = Buffer.alloc(7)
      fs.readSync(reader, seen, 0, 7, 0)
      check(seen.toString() === 'changed', 'a reader from before sees what was')
      const after = fs.readFileSync(file)
      check(after.subarray(7).equals(before.subarray(7)), 'the rest has changed')
      fs.closeSync(fd)
      fs.closeSync(reader)
      if (turns % 3 === 0) fs.unlinkSync(file)
      else if (turns % 3 === 1) fs.chmodSync(file, 0o600)
    }
  },

  tar() {
    const source = path.join(dir, 'source')
    fs.mkdirSync(source)
    for (let i = 0; i < 60; i++) fs.writeFileSync(path.join(source, `f${i}`), bytes(below(20_000)))
    const sum = (where: string): string => {
      const hash = createHash('sha256')
      for (const name of fs.readdirSync(where).sort())
        hash.update(name).update(fs.readFileSync(path.join(where, name)))
      return hash.digest('hex')
    }
    const expected = sum(source)
    while (goesOn()) {
      turns++
      const target = path.join(dir, `t${turns}`)
      fs.mkdirSync(target)
      execFileSync('sh', ['-c', `tar -C '${source}' -cf - . | tar -C '${target}' -xf -`], {
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      check(sum(target) === expected, 'what was unpacked differs')
      fs.rmSync(target, { recursive: true })
    }
  },

  git() {
    const git = (...args: string[]): string =>
      execFileSync('git', ['-C', dir, '-c', 'user.name=t', '-c', 'user.email=t@example.invalid', ...args], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      })
    git('init', '-q')
    let commits = 0
    // Once at least: on a busy machine the time may be over by now.
    do {
      turns++
      for (let i = 0; i < 10; i++) fs.writeFileSync(path.join(dir, `f${below(40)}`), bytes(below(5000)))
      git('add', '-A')
      git('commit', '-q', '--allow-empty', '-m', `turn ${turns}`)
      commits++
      if (turns % 5 === 0) git('gc', '-q')
    } while (goesOn())
    check(Number(git('rev-list', '--count', 'HEAD')) === commits, 'commits are missing')
    check(git('status', '--porcelain') === '', 'the tree is not clean')
    git('fsck', '--strict')
  },

  sqlite() {
    const script = `
import os, sqlite3, sys, random
db = sqlite3.connect(sys.argv[1], timeout=60)
random.seed(int(sys.argv[3]))
db.execute('pragma journal_mode=' + ('wal' if int(sys.argv[3]) % 2 else 'delete'))
db.execute('create table t (k integer primary key, v text)')
n = 0
while not os.path.exists(sys.argv[2]):
    with db:
        for _ in range(5):
            db.execute('insert into t (v) values (?)', ('x' * random.randrange(2000),)); n += 1
        db.execute('update t set v = v || 1 where k = ?', (random.randrange(n) + 1,))
assert db.execute('select count(*) from t').fetchone()[0] == n
assert db.execute('pragma integrity_check').fetchone()[0] == 'ok'
db.close()
print(n)
`
    turns = Number(
      execFileSync('python3', ['-c', script, path.join(dir, 'db'), stop, seed], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'inherit'],
      }),
    )
  },
}

const load = LOADS[kind]
if (load === undefined) throw new Error(`no load called ${kind}`)
for (let again = 1; ; again++) {
  try {
    fs.mkdirSync(dir, { recursive: true })
    load()
    break
  } catch (error) {
    if (full === undefined || error instanceof Mismatch || !ofFullDisk(error)) throw error
    while (fs.existsSync(full) && goesOn()) execFileSync('sleep', ['0.2'])
    fs.rmSync(dir, { recursive: true, force: true })
    dir = `${given}-${again}`
  }
}
process.stdout.write(`${kind}: ${turns} turns\n`)

function ofFullDisk(error: unknown): boolean {
  const { code, stderr } = error as NodeJS.ErrnoException & { stderr?: unknown }
  // Programs say it in many ways.
  return code === 'ENOSPC' || /No space left|disk is full/.test(String(stderr)) || fs.existsSync(full ?? '')
}
