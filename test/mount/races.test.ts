import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { Random } from '../fuzz/random.js'
import { Scratch, unavailable } from './fixture.js'
import { act, Acting, ACTS, ORDERS, shown, STATES } from './race-operations.js'

/**
 * Two callers do one of twenty operations each on the same name, at the same moment. Both get what they would get one after the other
 * on the kernel's overlayfs, in one order or the other, or what the kernel's overlayfs gave to such a race; and so is what is there
 * afterwards. LAMINA_RACES=N sets how often each pair meets (npm run test:races: 15), LAMINA_SEED=N the dice.
 */

const ROUNDS = Number(process.env['LAMINA_RACES'] ?? 1)
const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() % 1_000_000)
/** Turns of an empty loop that one of them may be late. */
const LATEST = 5000

const skip = unavailable('lamina') ?? unavailable('kernel') ?? false

class Pair implements AsyncDisposable {
  private readonly shared = new SharedArrayBuffer(8)
  private readonly workers = [0, 1].map(
    side =>
      new Worker(fileURLToPath(new URL('./race-worker.js', import.meta.url)), {
        workerData: { shared: this.shared, side },
      }),
  )
  private turn = 0

  async meet(
    dir: string,
    names: readonly [string, string],
    delays: readonly [number, number],
  ): Promise<string> {
    this.turn++
    const said = await Promise.all(
      this.workers.map(
        (worker, side) =>
          new Promise<string>(resolve => {
            worker.once('message', resolve)
            worker.postMessage({ name: names[side], dir, turn: this.turn, delay: delays[side] })
          }),
      ),
    )
    return `${said.join(', ')}: ${shown(dir)}`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.workers.map(worker => worker.terminate()))
  }
}

t.test('two callers on one name get what the kernel could give them', { skip }, async t => {
  t.comment(`seed ${SEED}`)
  const random = new Random(SEED)
  using ours = new Scratch('races-lamina', 90)
  using theirs = new Scratch('races-kernel', 90)
  const names = Object.keys(ACTS)
  const states = Object.keys(STATES)
  const cases = names.flatMap(a =>
    names.flatMap(b =>
      Array.from({ length: ROUNDS }, (_, round) => ({
        a,
        b,
        state: states[(round + random.below(3)) % 3] ?? '',
      })),
    ),
  )
  for (const lower of [ours.mkdir('lower0'), theirs.mkdir('lower0')])
    for (const [i, { state }] of cases.entries())
      for (const which of ['race', 'ab', 'ba']) {
        const dir = path.join(lower, `${which}-${i}`)
        fs.mkdirSync(dir)
        STATES[state]?.(path.join(dir, 'x'), path.join(dir, 'y'))
      }
  const lamina = ours.overlay('lamina')
  const kernel = theirs.overlay('kernel')
  await using pair = new Pair()
  const wrong: string[] = []
  let raced = 0
  for (const [i, { a, b, state }] of cases.entries()) {
    if (i % 100 === 0) for (const each of [ours, theirs]) each.renew()
    const delays = [random.below(2) * random.below(LATEST), random.below(2) * random.below(LATEST)] as const
    const found = await pair.meet(path.join(lamina.mountpoint, `race-${i}`), [a, b], delays)
    raced++
    const inOrder = (which: string, first: string, second: string): string => {
      const dir = path.join(kernel.mountpoint, `${which}-${i}`)
      const said = [act(first, dir), act(second, dir)]
      return `${(which === 'ab' ? said : said.reverse()).join(', ')}: ${shown(dir)}`
    }
    const possible = [inOrder('ab', a, b), inOrder('ba', b, a)]
    if (possible.includes(found)) continue
    const dir = path.join(kernel.mountpoint, `race-${i}`)
    possible.push(await pair.meet(dir, [a, b], delays))
    if (possible.includes(found) || (await kernelCan(pair, kernel.mountpoint, a, b, state, found, possible)))
      continue
    wrong.push(`${state}: ${a} | ${b}: ${found} in place of ${[...new Set(possible)].join(' or ')}`)
  }
  t.same(wrong, [], `${raced} races`)
  // Nothing that somebody was told exists is lost to others: what is shown now is shown by a new mount as well.
  const before = cases.map((_, i) => shown(path.join(lamina.mountpoint, `race-${i}`)))
  using again = lamina.remount()
  const after = cases.map((_, i) => shown(path.join(again.mountpoint, `race-${i}`)))
  t.same(after, before)
})

/** Whether the kernel's overlayfs gives the same in some order of the system calls, or when it is raced often; over upper objects. */
async function kernelCan(
  pair: Pair,
  mountpoint: string,
  a: string,
  b: string,
  state: string,
  found: string,
  possible: string[],
): Promise<boolean> {
  const fresh = (name: string): string => {
    const dir = path.join(mountpoint, name)
    fs.rmSync(dir, { recursive: true, force: true })
    fs.mkdirSync(dir)
    STATES[state]?.(path.join(dir, 'x'), path.join(dir, 'y'))
    return dir
  }
  for (const [i, order] of ORDERS.entries()) {
    const dir = fresh(`order-${i}`)
    const acting = [new Acting(a, dir, true), new Acting(b, dir, true)] as const
    for (const turn of order) acting[turn].step()
    possible.push(`${acting.map(each => each.outcome).join(', ')}: ${shown(dir)}`)
    if (possible.at(-1) === found) return true
  }
  for (let i = 0; i < 100; i++) {
    const dir = fresh(`again-${i}`)
    const delay = (i * 97) % LATEST
    possible.push(await pair.meet(dir, [a, b], i % 2 === 0 ? [delay, 0] : [0, delay]))
    if (possible.at(-1) === found) return true
  }
  return false
}
