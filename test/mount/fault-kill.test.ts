import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Random } from '../fuzz/random.js'
import {
  differences,
  nextOperation,
  plantLayers,
  shownEntries,
  type Tree,
  type Operation,
} from './fault-tree.js'
import { Scratch, unavailable, type Mount } from './fixture.js'

/**
 * kill -9 of the daemon at random moments. Every call that returned before must be there at the next mount, the one that was
 * under way wholly or not at all, nothing in workdir, and the kernel's overlayfs must show the same over the same upper.
 *
 * LAMINA_KILLS=N sets how often (default 80), LAMINA_SEED=N the dice.
 */

const KILLS = Number(process.env['LAMINA_KILLS'] ?? 80)
const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() % 1_000_000)
/** Kills for one set of layers: what one crash left is the start of the next. */
const ROUNDS = 15
/** How many of the calls before a crash a failure prints. */
const LOG = Number(process.env['LAMINA_LOG'] ?? 6)

/** What callers get from a connection without a daemon. */
const DEAD = new Set(['ENOTCONN', 'ECONNABORTED'])
const DEAD_ERRNOS = new Map([
  [107, 'ENOTCONN'],
  [103, 'ECONNABORTED'],
  [18, 'EXDEV'],
])

const skip = unavailable('lamina') ?? false
const kernel = unavailable('kernel') === undefined

for (const [i, options] of [
  [],
  ['redirect_dir=on'],
  ['metacopy=on', 'redirect_dir=on'],
  ['index=off'],
].entries()) {
  const name = `killed at random moments, ${options.length === 0 ? 'defaults' : options.join(',')}`
  await t.test(name, { skip }, async t => {
    t.comment(`seed ${SEED + i}`)
    const random = new Random(SEED + i)
    let left = Math.ceil(KILLS / 4)
    const totals: Totals = { calls: 0, kills: 0, happened: 0 }
    for (let set = 0; left > 0; set++) {
      using scratch = new Scratch(`kill-${i}-${set}`, 170)
      const state: State = {
        tree: plantLayers([scratch.mkdir('lower0'), scratch.mkdir('lower1')], random),
        pending: undefined,
        done: [],
      }
      const rounds = Math.min(ROUNDS, left)
      left -= rounds
      for (let round = 0; round <= rounds; round++) {
        scratch.renew()
        const faults = await oneRound(scratch, options, random, state, totals, round === rounds)
        if (faults.length > 0) {
          t.fail(`kill ${totals.kills}, set ${set}`, {
            faults,
            seed: SEED + i,
            before: state.done.slice(-LOG),
          })
          return
        }
      }
    }
    t.pass(
      `${totals.kills} kills after ${totals.calls} calls; ${totals.happened} of the last calls had happened`,
    )
  })
}

interface Totals {
  calls: number
  kills: number
  happened: number
}

interface State {
  tree: Tree
  /** The call that was under way when the daemon died. */
  pending: Operation | undefined
  done: string[]
}

/** Looks at what the last crash left, by the kernel's overlayfs and by ours, and crashes again unless it is the `last` time. */
async function oneRound(
  scratch: Scratch,
  options: readonly string[],
  random: Random,
  state: State,
  totals: Totals,
  last: boolean,
): Promise<string[]> {
  if (kernel && totals.kills > 0) {
    const mount = scratch.mount({
      subject: 'kernel',
      lowers: [scratch.path('lower0'), scratch.path('lower1')],
      upper: scratch.mkdir('upper'),
      work: scratch.mkdir('work'),
      mountpoint: scratch.mkdir('mnt'),
      options: [
        'redirect_dir=on',
        'xino=off',
        `index=${options.includes('index=off') ? 'off' : 'on'}`,
        'metacopy=on',
      ],
    })
    const faults = settle(mount, state, totals)
    mount.unmount()
    if (faults.length > 0) return ["by the kernel's overlayfs:", ...faults]
  }
  const mount = scratch.overlay('lamina', 2, options)
  const left = fs.readdirSync(path.join(scratch.path('work'), 'work')).filter(name => name !== 'incompat')
  if (left.length > 0) return [`in workdir after the mount: ${left.join(' ')}`]
  const faults = settle(mount, state, totals)
  if (faults.length > 0) return faults
  if (last) {
    mount.unmount()
    return []
  }
  state.done = []
  state.pending = await untilKilled(mount, state.tree, random, state.done)
  totals.kills++
  totals.calls += state.done.length
  mount.kill()
  return []
}

/** The mount shows the tree without the call that was under way, or with it; from now on the tree is what it shows. */
function settle(mount: Mount, state: State, totals: Totals): string[] {
  const { tree, pending } = state
  const without = differs(mount, tree)
  if (without.length === 0) return []
  if (pending === undefined) return without
  if (pending.begin !== undefined) {
    const begun = tree.copy()
    pending.begin(begun)
    if (differs(mount, begun).length === 0) {
      state.tree = begun
      return []
    }
  }
  const after = tree.copy()
  pending.apply(after)
  const difference = differs(mount, after)
  if (difference.length > 0) {
    return [
      `half of ${pending.name} ${pending.paths.join(' ')}`,
      ...without.map(line => `as before it: ${line}`),
      ...difference.map(line => `as after it: ${line}`),
    ]
  }
  totals.happened++
  state.tree = after
  state.pending = undefined
  return []
}

function differs(mount: Mount, tree: Tree): string[] {
  return differences(tree.entries(), shownEntries(mount.mountpoint, tree))
}

/** Calls until the daemon is dead; gives the one that did not return. */
async function untilKilled(
  mount: Mount,
  tree: Tree,
  random: Random,
  done: string[],
): Promise<Operation | undefined> {
  // Another process: these calls are synchronous. busybox and coreutils both take fractions.
  const after = 0.005 + random.next() * 0.12
  const killer = spawn('sh', ['-c', `sleep ${after.toFixed(4)}; kill -9 ${mount.pid ?? 0}`], {
    stdio: 'ignore',
  })
  const killed = new Promise(resolve => killer.once('exit', resolve))
  try {
    for (;;) {
      const operation = nextOperation(tree, random)
      if (operation === undefined) continue
      try {
        operation.run(mount.mountpoint)
      } catch (error) {
        const code = codeOf(error)
        if (code === 'EXDEV') continue // a directory from below, without redirect_dir: nothing has happened
        if (DEAD.has(code)) return operation
        throw new Error(`${operation.name} ${operation.paths.join(' ')}: ${String(error)}`, { cause: error })
      }
      operation.apply(tree)
      done.push(`${operation.name} ${operation.paths.join(' ')}`)
    }
  } finally {
    await killed
  }
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return ''
  if ('code' in error && typeof error.code === 'string') return error.code
  return 'errno' in error && typeof error.errno === 'number' ? (DEAD_ERRNOS.get(error.errno) ?? '') : ''
}
