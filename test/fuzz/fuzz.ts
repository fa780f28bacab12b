import { randomInt } from 'node:crypto'
import fs from 'node:fs'
import { parseArgs } from 'node:util'
import { unavailable, type Subject } from '../mount/fixture.js'
import { minimise } from './minimise.js'
import { shown, type Operation } from './operation.js'
import { generate, replay, type Outcome, type Plan } from './session.js'

/** `npm run fuzz -- …`: random operations on two overlays in step. Exit status 1 when they differ. */

const USAGE = `npm run fuzz -- [--ops N | --minutes M] [--seed S] [--left SUBJECT] [--right SUBJECT] [--options O] [--replay FILE]
  --ops N        operations for each seed (default 5000)
  --minutes M    one seed after another for M minutes
  --seed S       the first seed (default: LAMINA_SEED, or random)
  --left, --right  kernel, fuse-overlayfs or lamina (default kernel and lamina)
  --options O    mount options of both, separated by commas
  --left-options, --right-options  of one of them
  --longest N    bytes of the longest name (default 255)
  --replay FILE  the operations of an earlier failure
  --no-minimise  print a failure as it is
  --save FILE    where a failure's operations are written (default fuzz-SEED.json)`

const { values } = parseArgs({
  options: {
    ops: { type: 'string', default: '5000' },
    minutes: { type: 'string' },
    seed: { type: 'string' },
    left: { type: 'string', default: 'kernel' },
    right: { type: 'string', default: 'lamina' },
    options: { type: 'string', default: '' },
    'left-options': { type: 'string', default: '' },
    'right-options': { type: 'string', default: '' },
    longest: { type: 'string', default: '255' },
    replay: { type: 'string' },
    save: { type: 'string' },
    'no-minimise': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}

const left = subject(values.left)
const right = subject(values.right)
const until = values.minutes === undefined ? undefined : Date.now() + Number(values.minutes) * 60_000
let seed = Number(values.seed ?? process.env['LAMINA_SEED'] ?? randomInt(2 ** 31))
let total = 0

if (values.replay !== undefined) {
  const saved = JSON.parse(fs.readFileSync(values.replay, 'utf8')) as { plan: Plan; operations: Operation[] }
  await report({ ...saved.plan, left, right }, await replay({ ...saved.plan, left, right }, saved.operations))
} else {
  do {
    const plan: Plan = {
      left,
      right,
      seed,
      leftOptions: optionsOf('left'),
      rightOptions: optionsOf('right'),
      longest: Number(values.longest),
    }
    const outcome = await generate(plan, done =>
      until === undefined ? done >= Number(values.ops) : done >= 5000 || Date.now() > until,
    )
    total += outcome.done
    await report(plan, outcome)
    seed = (seed + 1) % 2 ** 31
  } while (until !== undefined && Date.now() < until && process.exitCode === undefined)
  console.log(`${total} operations on ${left} and ${right}`)
}

async function report(plan: Plan, outcome: Outcome): Promise<void> {
  const { failure } = outcome
  console.log(
    `seed ${plan.seed}: ${outcome.done} operations, ${failure === undefined ? 'all alike' : 'a difference'}`,
  )
  for (const [reason, count] of outcome.excused) console.log(`  ${count} times: ${reason}`)
  if (failure === undefined) return
  process.exitCode = 1
  const smallest = values['no-minimise'] ? failure : await minimise(plan, failure, 90)
  const operations = smallest.operations.slice(0, smallest.at + 1)
  const file = values.save ?? `fuzz-${plan.seed}.json`
  fs.writeFileSync(file, JSON.stringify({ plan, operations }, undefined, 1))
  const from = Math.max(0, operations.length - 40)
  if (from > 0) console.log(`  … ${from} operations before`)
  for (const operation of operations.slice(from)) console.log(`  ${shown(operation)}`)
  for (const line of smallest.what) console.log(`    ${line}`)
  console.log(`  again: npm run fuzz -- --replay ${file}`)
}

function subject(name: string): Exclude<Subject, 'plain'> {
  if (name !== 'kernel' && name !== 'fuse-overlayfs' && name !== 'lamina') {
    console.error(`unknown subject '${name}'\n${USAGE}`)
    process.exit(2)
  }
  const reason = unavailable(name)
  if (reason !== undefined) {
    console.error(`${name}: ${reason}`)
    process.exit(2)
  }
  return name
}

function optionsOf(side: 'left' | 'right'): string[] {
  return [values.options, values[`${side}-options`]]
    .flatMap(text => text.split(','))
    .filter(option => option !== '')
}
