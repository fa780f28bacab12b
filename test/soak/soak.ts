/**
 * `npm run soak -- [MINUTES]` (60; or LAMINA_SOAK_MINUTES): mixed load on one mount with a keeper, whose daemon is killed again and again, whose
 * disk runs full and whose memory gets short. No program may see another error than a full disk, and memory, descriptors and latency
 * must not grow. Ends with 0 then; leaves soak.svg and soak.csv in dist/soak.
 */
import { execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { Random } from '../fuzz/random.js'
import { PROJECT, Scratch, type Mount } from '../mount/fixture.js'
import { MemoryLimit } from './memory-limit.js'
import { type Episode, plot } from './plot.js'

const MINUTES = Number(process.argv[2] ?? process.env['LAMINA_SOAK_MINUTES'] ?? 60)
const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() % 1_000_000)
const IO = process.env['LAMINA_IO'] ?? 'cached'
const LOADS = ['fsx', 'names', 'listings', 'copyup', 'tar', 'git', 'sqlite']
const DISK_MIB = 512
/** What the daemon and its keeper may have while memory is short. */
const SHORT_MIB = 90
/** Seconds: between two kills on average, and from one episode to the next; and how long that takes. */
const KILL_EVERY = 8
const EPISODE_EVERY = 60
const EPISODE = 12
const SAMPLE = 2

process.env['LAMINA_KEEPER_DEATHS'] = '0'
const random = new Random(SEED)
const later = (seconds: number): Promise<void> => new Promise(resolve => setTimeout(resolve, seconds * 1000))
const out = path.join(PROJECT, 'dist/soak')
fs.mkdirSync(out, { recursive: true })

using scratch = new Scratch('soak', 300)
process.env['LAMINA_RUN'] = scratch.mkdir('run')
const log = (process.env['LAMINA_LOG'] = scratch.path('log'))
const image = scratch.path('image')
fs.closeSync(fs.openSync(image, 'w'))
fs.truncateSync(image, DISK_MIB << 20)
execFileSync('mkfs.ext4', ['-q', '-F', image])
const disk = scratch.mkdir('disk')
execFileSync('mount', ['-o', 'loop', image, disk])
const below = path.join(scratch.mkdir('lower0'), 'from-below')
fs.mkdirSync(below)
for (let i = 0; i < 2000; i++)
  fs.writeFileSync(path.join(below, `file-${i}`), Buffer.alloc(random.below(20_000) + 7, `${i}`))
const [upper, work] = ['upper', 'work'].map(name => path.join(disk, name)) as [string, string]
for (const each of [upper, work]) fs.mkdirSync(each)
const mount = scratch.mount({
  subject: 'lamina',
  lowers: [scratch.path('lower0')],
  upper,
  work,
  mountpoint: scratch.mkdir('mnt'),
  options: ['keeper=1', `io=${IO}`],
})
const memory = MemoryLimit.of([mount.keeper ?? 0, mount.pid ?? 0])

const stop = scratch.path('stop')
const full = scratch.path('full')
const started = Date.now()
const now = (): number => (Date.now() - started) / 1000
const kills: number[] = []
const episodes: Episode[] = []
const samples: Sample[] = []
let over = false

interface Sample {
  second: number
  daemon: number | undefined
  keeper: number | undefined
  fds: number | undefined
  inodes: number | undefined
  latency: number
}

const faults: string[] = []
const loads = LOADS.map(load => run(load))
const tasks = [killing(), troubling(), sampling()]
await later(MINUTES * 60)
over = true
await Promise.all(tasks)
fs.writeFileSync(stop, '')
for (const said of await Promise.all(loads))
  if (!said.startsWith('ok ')) faults.push(said)
  else process.stdout.write(`${said.slice(3)}\n`)
memory?.[Symbol.dispose]()
report()
try {
  mount.unmount()
} catch (error) {
  faults.push(String(error))
}
execFileSync('umount', [disk])
for (const fault of faults) process.stderr.write(`${fault}\n`)
process.exitCode = faults.length > 0 ? 1 : 0

function run(load: string): Promise<string> {
  const program = path.join(PROJECT, 'dist/test/mount/keeper-load.js')
  const child = spawn(
    process.execPath,
    [program, load, path.join(mount.mountpoint, `${load}-dir`), stop, String(random.below(1e6))],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LAMINA_FULL: full } },
  )
  let text = ''
  child.stdout.on('data', (data: Buffer) => (text += data.toString()))
  child.stderr.on('data', (data: Buffer) => (text += data.toString()))
  return new Promise(resolve => {
    child.on('close', code => {
      resolve(code === 0 ? `ok ${text.trim()}` : `${load} ended with ${code}: ${text.slice(-3000)}`)
    })
  })
}

async function killing(): Promise<void> {
  while (!over) {
    await later(random.next() * 2 * KILL_EVERY)
    scratch.renew()
    const { pid } = mount
    if (pid === undefined || over) continue
    process.kill(pid, 'SIGKILL')
    kills.push(now())
  }
}

async function troubling(): Promise<void> {
  for (let turn = 0; !over; turn++) {
    for (let left = EPISODE_EVERY; left > 0 && !over; left--) await later(1)
    if (over) return
    const from = now()
    const what = turn % 2 === 0 ? 'disk full' : 'memory short'
    if (what === 'disk full') await fillDisk()
    else await shorten()
    episodes.push({ from, to: now(), what })
  }
}

async function fillDisk(): Promise<void> {
  const filler = path.join(disk, 'filler')
  fs.writeFileSync(full, '')
  const fd = fs.openSync(filler, 'w')
  const until = Date.now() + EPISODE * 1000
  while (Date.now() < until) {
    try {
      for (let i = 0; i < 8; i++) fs.writeSync(fd, Buffer.alloc(1 << 20, 1))
    } catch {
      // Full. What others free is taken as well.
    }
    await later(0.05)
  }
  fs.closeSync(fd)
  fs.unlinkSync(filler)
  // What was begun while the disk was full may fail a little later.
  await later(5)
  fs.unlinkSync(full)
}

async function shorten(): Promise<void> {
  if (memory === undefined) return
  memory.set(SHORT_MIB << 20)
  await later(EPISODE)
  memory.set(undefined)
}

async function sampling(): Promise<void> {
  for (let i = 0; !over; i++) {
    const name = path.join(mount.mountpoint, `probe-${i}`)
    const before = performance.now()
    fs.existsSync(name)
    const latency = performance.now() - before
    const { pid, keeper } = mount
    samples.push({
      second: now(),
      daemon: residentOf(pid),
      keeper: residentOf(keeper),
      fds: descriptorsOf(pid),
      inodes: inodesOf(mount),
      latency,
    })
    await later(SAMPLE)
  }
}

function residentOf(pid: number | undefined): number | undefined {
  try {
    const text = fs.readFileSync(`/proc/${pid}/status`, 'utf8')
    const kib = /VmRSS:\s+(\d+) kB/.exec(text)?.[1]
    return kib === undefined ? undefined : Number(kib) / 1024
  } catch {
    return undefined
  }
}

function descriptorsOf(pid: number | undefined): number | undefined {
  try {
    return fs.readdirSync(`/proc/${pid}/fd`).length
  } catch {
    return undefined
  }
}

function inodesOf(of: Mount): number | undefined {
  try {
    return of.stats().inodes
  } catch {
    // No daemon at this moment.
    return undefined
  }
}

function report(): void {
  const seconds = samples.map(sample => sample.second)
  const values = (key: keyof Sample): (number | undefined)[] => samples.map(sample => sample[key])
  const title = `Lamina, ${MINUTES} minutes of ${LOADS.join(', ')} in io=${IO}: ${kills.length} kills, ${episodes.length} episodes`
  const svg = plot(
    title,
    seconds,
    [
      {
        label: 'Resident memory',
        unit: 'MiB',
        lines: [
          { name: 'daemon', values: values('daemon') },
          { name: 'keeper', values: values('keeper') },
        ],
      },
      {
        label: 'Open descriptors of the daemon',
        unit: 'number',
        lines: [{ name: 'daemon', values: values('fds') }],
      },
      { label: 'Inodes known', unit: 'number', lines: [{ name: 'kernel', values: values('inodes') }] },
      {
        label: 'Lookup of a name that is not there',
        unit: 'ms',
        logarithmic: true,
        lines: [{ name: 'latency', values: values('latency') }],
      },
    ],
    kills,
    episodes,
  )
  fs.writeFileSync(path.join(out, 'soak.svg'), svg)
  const columns = ['second', 'daemon', 'keeper', 'fds', 'inodes', 'latency'] as const
  const rows = samples.map(sample => columns.map(column => sample[column]?.toFixed(2) ?? '').join(','))
  fs.writeFileSync(path.join(out, 'soak.csv'), `${columns.join(',')}\n${rows.join('\n')}\n`)
  const sorted = samples.map(sample => sample.latency).sort((a, b) => a - b)
  const at = (share: number): string => (sorted[Math.floor(sorted.length * share)] ?? 0).toFixed(1)
  process.stdout.write(
    `seed ${SEED}: ${title}; latency median ${at(0.5)} ms, 95 % ${at(0.95)}, 99 % ${at(0.99)}; ${path.join(out, 'soak.svg')}\n`,
  )
  for (const key of ['keeper', 'daemon', 'fds'] as const) grows(key)
  const others = fs
    .readFileSync(log, 'utf8')
    .split('\n')
    .filter(line => !/signal 9|serves the mount|^$/.test(line))
  if (others.length > 0) faults.push(`the log: ${others.slice(0, 20).join('\n')}`)
}

/** The median of the last quarter against that of the second: a leak shows, a cache that fills does not. */
function grows(key: 'keeper' | 'daemon' | 'fds'): void {
  const found = samples.map(sample => sample[key]).filter(value => value !== undefined)
  const median = (part: number[]): number => part.sort((a, b) => a - b)[part.length >> 1] ?? 0
  const quarter = Math.floor(found.length / 4)
  const [early, late] = [median(found.slice(quarter, 2 * quarter)), median(found.slice(3 * quarter))]
  process.stdout.write(
    `${key}: median ${early.toFixed(1)} in the second quarter, ${late.toFixed(1)} in the last\n`,
  )
  if (late > early * 1.5 + 4) faults.push(`${key} grows: ${early.toFixed(1)} to ${late.toFixed(1)}`)
}
