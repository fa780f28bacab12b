/**
 * `npm run fuzz:bytes -- [--minutes M] [--seed S] [--replay FILE] [TARGET…]`: damaged input for whatever reads bytes that others may have
 * written. An input that makes code run which none has made run before becomes a seed of further ones. What breaks something is
 * left in dist/fuzz, and belongs into test/fuzz/fixtures/TARGET under a name that says what it did.
 */
import { createHash, randomInt } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { PROJECT } from '../mount/fixture.js'
import { Coverage } from './bytes/coverage.js'
import { mutate } from './bytes/mutate.js'
import type { Target } from './bytes/target.js'
import { TARGETS, type TargetName } from './bytes/targets.js'
import { Random } from './random.js'

/** Inputs between two looks at the coverage, which takes about a millisecond. */
const BATCH = 32
const LONGEST = 1 << 17
/**
 * An input that takes longer, milliseconds, hangs. Recovery state may have a record as long as a half, 250 MB, which is summed when it is
 * sealed and when it is checked: up to 11 s.
 */
const SLOWEST = 30_000

const { values, positionals } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string' },
    replay: { type: 'string' },
  },
  allowPositionals: true,
})
const seed = Number(values.seed ?? randomInt(2 ** 31))
const names = Object.keys(TARGETS).filter(name => positionals.length === 0 || positionals.includes(name))
for (const name of names as TargetName[]) {
  const target = await TARGETS[name]()
  try {
    if (values.replay !== undefined) await target.run(readFileSync(values.replay))
    else await fuzz(name, target, Number(values.minutes) * 60_000)
  } finally {
    target.close()
  }
}

async function fuzz(name: string, target: Target, milliseconds: number): Promise<void> {
  const random = new Random(seed)
  const coverage = new Coverage(target.covers)
  const corpus = [...target.seeds]
  for (const each of corpus) await attempt(name, target, each)
  coverage.grew()
  const atFirst = coverage.size
  let count = 0
  for (const until = Date.now() + milliseconds; Date.now() < until;) {
    const batch: Buffer[] = []
    for (let i = 0; i < BATCH; i++) {
      // Young ones more often: what they reach is less known.
      const parent = random.chance(0.5) ? random.pick(corpus) : random.pick(corpus.slice(-16))
      const input = mutate(parent, corpus, random, LONGEST)
      batch.push(input)
      await attempt(name, target, input)
    }
    count += batch.length
    if (!coverage.grew()) continue
    // One of them: the second run says which, as far as it does the same again.
    corpus.push(random.pick(batch))
    for (const input of batch) {
      await attempt(name, target, input)
      if (coverage.grew()) corpus.push(input)
    }
  }
  coverage.close()
  console.log(
    `${name}: seed ${seed}, ${count} inputs in ${(milliseconds / 60_000).toFixed(1)} min, ${corpus.length} kept, ` +
      `${atFirst} -> ${coverage.size} block counts`,
  )
}

async function attempt(name: string, target: Target, input: Buffer): Promise<void> {
  const started = Date.now()
  try {
    await target.run(input)
    if (Date.now() - started < SLOWEST) return
    throw new Error(`took ${Date.now() - started} ms`)
  } catch (error) {
    const directory = join(PROJECT, 'dist/fuzz')
    mkdirSync(directory, { recursive: true })
    const file = join(directory, `${name}-${createHash('sha256').update(input).digest('hex').slice(0, 12)}`)
    writeFileSync(file, input)
    console.error(`${name}, seed ${seed}:`, error)
    console.error(`again: npm run fuzz:bytes -- --replay ${file} ${name}`)
    process.exit(1)
  }
}
