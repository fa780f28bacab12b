import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { JournalLog, KIND } from '../../src/daemon/recovery/journal-log.js'
import { StateMemory } from '../../src/daemon/recovery/memory.js'
import { Random } from '../fuzz/random.js'
import { PROJECT, Scratch, unavailable, type Mount } from './fixture.js'

/**
 * The daemon of a mount with a keeper is killed at random moments, while several programs work in it. None of them may notice: no call
 * fails, and all find what they have written. Two mounts at a time, one in each io mode. LAMINA_KILLS=N sets how often in all (npm run
 * test:keeper: 1000), LAMINA_SEED=N the dice, LAMINA_IO=MODE one of them.
 */

const KILLS = Number(process.env['LAMINA_KILLS'] ?? 200)
const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() % 1_000_000)
/** Kills of one mount. */
const ROUND = 60
/** Milliseconds that a daemon lives at most, from its start or, every other time, from when it serves. */
const LONGEST = 300

const skip = unavailable('lamina') ?? false
t.jobs = 2

process.env['LAMINA_KEEPER_DEATHS'] = '0'
// Other programs that look for mounts do not look here.
using runDirectory = new Scratch('keeper-run', 0)
process.env['LAMINA_RUN'] = runDirectory.mkdir('run')

const LOADS = [
  { options: [], loads: ['fsx', 'names', 'listings', 'copyup'] },
  { options: ['redirect_dir=on', 'metacopy=on'], loads: ['git', 'tar', 'sqlite', 'copyup', 'fsx'] },
]

const MODES = (process.env['LAMINA_IO'] ?? 'cached,passthrough').split(',')
const lanes = MODES.map((io, lane) =>
  t.test(`killed under load, io=${io}`, { skip }, async t => {
    const seed = SEED + lane
    t.comment(`seed ${seed}`)
    const random = new Random(seed)
    let part = lane
    for (let left = Math.ceil(KILLS / MODES.length); left > 0; part++) {
      const kills = Math.min(Math.ceil(KILLS / MODES.length / 2), left, ROUND)
      left -= kills
      const { options = [], loads = [] } = LOADS[part % LOADS.length] ?? {}
      await round(t, [`io=${io}`, ...options], loads, kills, random)
    }
  }),
)
await Promise.all(lanes)

async function round(
  t: Test,
  options: readonly string[],
  loads: readonly string[],
  kills: number,
  random: Random,
): Promise<void> {
  using scratch = new Scratch('keeper-kill', 120)
  plant(scratch.mkdir('lower0'), random)
  const log = (process.env['LAMINA_LOG'] = scratch.path('log'))
  const mount = scratch.overlay('lamina', 1, [
    'keeper=1',
    `fsname=${path.basename(scratch.root)}`,
    ...options,
  ])
  const said = await underLoad(scratch, mount, loads, kills, random)
  t.same(
    said.filter(line => !line.startsWith('ok ')),
    [],
    `${options.join()}: ${said.join('; ')}`,
  )
  // Whatever else ends a daemon says so there.
  const others = fs
    .readFileSync(log, 'utf8')
    .split('\n')
    .filter(line => !/signal 9|serves the mount|^$/.test(line))
  t.same(others, [], 'no daemon died but those that were killed')
  t.equal(deaths(mount), kills, `${kills} daemons have died`)
  const kept = await leftOver(mount)
  for (const line of kept) t.comment(line)
  t.equal(mount.stats().inodes, 1, `nothing is counted that the kernel has given back: ${kept.join('; ')}`)
  mount.unmount()
}

function plant(lower: string, random: Random): void {
  const below = path.join(lower, 'from-below')
  fs.mkdirSync(below)
  for (let i = 0; i < 300; i++)
    fs.writeFileSync(
      path.join(below, `file-${i}`),
      Buffer.alloc(Math.floor(random.next() * 90_000) + 7, `${i}`),
    )
}

/** One line for each load: what it said, with `ok ` in front when it ended well. */
async function underLoad(
  scratch: Scratch,
  mount: Mount,
  loads: readonly string[],
  kills: number,
  random: Random,
): Promise<string[]> {
  const stop = scratch.path('stop')
  const ended = loads.map((load, i) =>
    run(
      load,
      path.join(mount.mountpoint, `${load}-dir`),
      stop,
      Math.floor(random.next() * 1e6) * 2 + (i & 1),
    ),
  )
  for (let kill = 0, last: number | undefined; kill < kills; kill++) {
    scratch.renew()
    let pid = last
    while (pid === undefined || pid === last) {
      await later(3)
      pid = mount.pid
    }
    // So that there is some progress, however busy the machine is.
    while (kill % 2 === 0 && !serves(mount)) await later(10)
    await later(random.next() * LONGEST)
    if (kill9(pid)) last = pid
    else kill--
  }
  scratch.renew()
  fs.writeFileSync(stop, '')
  return Promise.all(ended)
}

/** False: there is no such process; it was none of the daemons, but what one starts its holder of descriptors by. */
function kill9(pid: number): boolean {
  try {
    return process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    throw error
  }
}

function later(milliseconds: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, milliseconds))
}

/** Whether the daemon has said so: its record is written when requests are answered. */
function serves(mount: Mount): boolean {
  const { pid, keeper } = mount
  const directory = process.env['LAMINA_RUN'] ?? ''
  const file = fs.readdirSync(directory).find(name => name.endsWith(`-${keeper}.json`))
  if (file === undefined || pid === undefined) return false
  return fs.readFileSync(path.join(directory, file), 'utf8').includes(`"pid":${pid},`)
}

function run(load: string, dir: string, stop: string, seed: number): Promise<string> {
  const program = path.join(PROJECT, 'dist/test/mount/keeper-load.js')
  const child = spawn(process.execPath, ['--enable-source-maps', program, load, dir, stop, String(seed)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  child.stdout.on('data', (data: Buffer) => (text += data.toString()))
  child.stderr.on('data', (data: Buffer) => (text += data.toString()))
  return new Promise(resolve => {
    child.on('close', code => {
      resolve(code === 0 ? `ok ${text.trim()}` : `${load} ended with ${code}: ${text.slice(0, 3000)}`)
    })
  })
}

/** What the journal has of inodes that nobody can use any more. */
async function leftOver(mount: Mount): Promise<string[]> {
  mount.dropCaches()
  for (let tries = 0; tries < 100 && mount.stats().inodes > 1; tries++) await later(50)
  if (mount.stats().inodes === 1) return []
  const fds = `/proc/${mount.keeper}/fd`
  const state = fs.readdirSync(fds).find(fd => fs.readlinkSync(path.join(fds, fd)).includes('lamina-state'))
  const memory = new StateMemory(fs.openSync(path.join(fds, state ?? ''), 'r+'))
  const log = new JournalLog(memory)
  const found: string[] = []
  const live = new Set<number>()
  log.check(slot => {
    if (log.kindAt(slot) === KIND.inode) live.add(log.nodeidAt(slot))
  })
  log.check(slot => {
    const [kind, nodeid, other] = [log.kindAt(slot), log.nodeidAt(slot), log.otherAt(slot)]
    if (!live.has(nodeid)) return
    found.push(`kind ${kind} of ${nodeid}: ${other} '${log.textAt(slot)}', nlookup ${log.nlookupAt(slot)}`)
  })
  return found
}

function deaths(mount: Mount): number {
  return (mount.stats() as { deaths?: { count: number } }).deaths?.count ?? -1
}
