/**
 * A process that uses the view while its lower layers change: live-lower.test.ts starts it. Arguments: role, the view, the lower layer, upper, the
 * file of times, and a seed. It says what is wrong, a line each, and ends when its standard input does.
 */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { Random } from '../fuzz/random.js'
import { FILES, fileOf, Times, wrong } from './live-lower-content.js'

const [role = '', view = '', upper = '', times = '', seed = '0'] = process.argv.slice(2)
const random = new Random(Number(seed))
const changes = new Times(times)
let running = true
let done = 0
process.stdin.resume().on('end', () => (running = false))

/** What may happen to whoever uses names that others remove; EINTR is what a file that was cut while it was read may give. */
const EXPECTED = new Set(['ENOENT', 'ENOTDIR', 'ENOTEMPTY', 'EEXIST', 'EISDIR', 'EINTR'])
/** Of a file that was removed before the daemon had opened it, by who had. Node has no name for it. */
const ESTALE = 116

function attempt(what: string, act: () => void): void {
  try {
    act()
    done++
  } catch (error) {
    const { code = '', errno, message } = error as NodeJS.ErrnoException
    if (!EXPECTED.has(code) && errno !== -ESTALE) say(`${role}: ${what}: ${message}`)
  }
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}

/** What was read between two moments in which the file rested is one content, whole. NUL bytes were never written. */
function check(index: number, what: string, content: Buffer, before: number): void {
  // What the editor has added.
  const added = content.subarray(-9).toString('latin1') === 'appended\n' ? 9 : 0
  const found = wrong(content.subarray(0, content.length - added), changes.rested(index, before))
  if (found !== undefined)
    say(`${role}: ${what}: ${found}: ${JSON.stringify(content.toString('latin1').slice(0, 80))}`)
}

function read(): void {
  const index = random.below(FILES)
  const name = path.join(view, fileOf(index))
  attempt(name, () => {
    const before = changes.now(index)
    check(index, name, fs.readFileSync(name), before)
  })
  attempt(name, () => fs.statSync(name))
  attempt(view, () => fs.readdirSync(path.dirname(name)))
}

/** A file in pieces, by a descriptor. */
function readSlowly(): void {
  const index = random.below(FILES)
  const name = path.join(view, fileOf(index))
  attempt(name, () => {
    const before = changes.now(index)
    const fd = fs.openSync(name, 'r')
    try {
      const parts: Buffer[] = []
      for (let at = 0; ;) {
        const part = Buffer.alloc(1 + random.below(6000))
        const n = fs.readSync(fd, part, 0, part.length, at)
        if (n === 0) break
        parts.push(part.subarray(0, n))
        at += n
      }
      check(index, name, Buffer.concat(parts), before)
    } finally {
      fs.closeSync(fd)
    }
  })
}

let edited = 0
/** Each of these files is edited once, so that what upper has of it is a copy of the lower one. */
function edit(): void {
  const index = edited++
  if (index >= FILES / 4) {
    running = false
    return
  }
  const file = fileOf(index)
  const name = path.join(view, file)
  attempt(name, () => {
    const before = changes.now(index)
    const kind = index % 3
    if (kind === 0) fs.appendFileSync(name, 'appended\n')
    else if (kind === 1) fs.chmodSync(name, 0o640)
    else execFileSync('sed', ['-i', '$a appended', name], { stdio: 'pipe' })
    const content = fs.readFileSync(path.join(upper, file))
    const lines = content.toString('latin1').replace(/appended\n$/, '')
    check(index, `upper ${file}`, Buffer.from(lines, 'latin1'), before)
  })
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
}

/** Directories are removed through the view, and made anew. */
function remove(): void {
  const dir = path.join(view, `gone${random.below(4)}`)
  attempt(dir, () => fs.rmSync(dir, { recursive: true, force: true }))
  attempt(dir, () => fs.mkdirSync(dir))
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50)
}

const ROLES: Readonly<Record<string, () => void>> = { read, readSlowly, edit, remove }
const act = ROLES[role]
if (act === undefined) throw new Error(`no such role: ${role}`)

function some(): void {
  for (let i = 0; i < 8 && running; i++) act?.()
  if (running) setImmediate(some)
  else {
    say(`done ${done}`)
    process.exit(0)
  }
}
some()
