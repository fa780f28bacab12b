import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Random } from '../fuzz/random.js'
import { PROJECT, Scratch, unavailable, type Mount } from './fixture.js'

/**
 * The daemon of a mount with a keeper is killed at random moments, while several programs work in it. None of them may notice: no call
 * fails, and all find what they have written. LAMINA_KILLS=N sets how often (npm run test:keeper: 240), LAMINA_SEED=N the dice.
 */

const KILLS = Number(process.env['LAMINA_KILLS'] ?? 24)
const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() % 1_000_000)
/** Kills of one mount. */
const ROUND = 60
/** A new daemon needs some time to be there; a kill while it starts is part of the test. */
const SHORTEST = 40
const LONGEST = 900

const skip = unavailable('lamina') ?? false
t.setTimeout(Math.max(160, KILLS * 4) * 1000)

process.env['LAMINA_KEEPER_DEATHS'] = '0'
// Other programs that look for mounts do not look here.
using runDirectory = new Scratch('keeper-run', 0)
process.env['LAMINA_RUN'] = runDirectory.mkdir('run')

for (const [i, { options, loads }] of [
  { options: [], loads: ['fsx', 'names', 'listings', 'copyup'] },
  { options: ['redirect_dir=on', 'metacopy=on'], loads: ['git', 'tar', 'sqlite', 'copyup', 'fsx'] },
].entries()) {
  await t.test(`killed under ${loads.join(', ')}; ${options.join() || 'defaults'}`, { skip }, async t => {
    t.comment(`seed ${SEED + i}`)
    const random = new Random(SEED + i)
    for (let left = Math.ceil(KILLS / 2); left > 0; left -= ROUND) {
      const kills = Math.min(left, ROUND)
      using scratch = new Scratch(`keeper-${i}`, 120)
      plant(scratch.mkdir('lower0'), random)
      const log = (process.env['LAMINA_LOG'] = scratch.path('log'))
      const mount = scratch.overlay('lamina', 1, ['keeper=1', `fsname=keeper-${i}`, ...options])
      const said = await underLoad(scratch, mount, loads, kills, random)
      t.same(
        said.filter(line => !line.startsWith('ok ')),
        [],
        said.join('; '),
      )
      // Whatever else ends a daemon says so there.
      const others = fs
        .readFileSync(log, 'utf8')
        .split('\n')
        .filter(line => !/signal 9|serves the mount|^$/.test(line))
      t.same(others, [], 'no daemon died but those that were killed')
      t.equal(deaths(mount), kills, `${kills} daemons have died`)
      mount.unmount()
    }
  })
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
  const seconds = Math.ceil((kills * (SHORTEST + LONGEST)) / 2000) + 2
  const ended = loads.map((load, i) =>
    run(
      load,
      path.join(mount.mountpoint, `${load}-dir`),
      seconds,
      Math.floor(random.next() * 1e6) * 2 + (i & 1),
    ),
  )
  let last: number | undefined
  for (let kill = 0; kill < kills; kill++) {
    scratch.renew()
    await new Promise(resolve => setTimeout(resolve, SHORTEST + random.next() * (LONGEST - SHORTEST)))
    const { pid } = mount
    // None yet, or the one that was killed before and is not gone yet.
    if (pid === undefined || pid === last) kill--
    else process.kill(pid, 'SIGKILL')
    last = pid
  }
  scratch.renew()
  return Promise.all(ended)
}

function run(load: string, dir: string, seconds: number, seed: number): Promise<string> {
  const program = path.join(PROJECT, 'dist/test/mount/keeper-load.js')
  const child = spawn(
    process.execPath,
    ['--enable-source-maps', program, load, dir, String(seconds), String(seed)],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  let text = ''
  child.stdout.on('data', (data: Buffer) => (text += data.toString()))
  child.stderr.on('data', (data: Buffer) => (text += data.toString()))
  return new Promise(resolve => {
    child.on('close', code => {
      resolve(code === 0 ? `ok ${text.trim()}` : `${load} ended with ${code}: ${text.slice(0, 3000)}`)
    })
  })
}

function deaths(mount: Mount): number {
  return (mount.stats() as { deaths?: { count: number } }).deaths?.count ?? -1
}
