import t from 'tap'
import { shown } from '../fuzz/operation.js'
import { generate, type Plan } from '../fuzz/session.js'
import { unavailable } from '../mount/fixture.js'

/** A fixed number of random operations; `npm run fuzz` does as many as asked for. LAMINA_SEED repeats one run. */
const SEEDS =
  process.env['LAMINA_SEED'] === undefined ? [1, 2, 3, 4, 5] : [Number(process.env['LAMINA_SEED'])]
const OPERATIONS = 1000

const reason = unavailable('kernel') ?? unavailable('lamina')
for (const seed of SEEDS)
  t.test(
    `${OPERATIONS} random operations on the kernel's overlayfs and on ours, seed ${seed}`,
    { skip: reason ?? false },
    async child => {
      const plan: Plan = {
        left: 'kernel',
        right: 'lamina',
        seed,
        leftOptions: ['redirect_dir=off', 'index=off', 'metacopy=off', 'xino=off'],
        rightOptions: [],
        longest: 255,
      }
      const { failure, excused, done } = await generate(plan, count => count >= OPERATIONS)
      for (const [why, count] of excused) child.comment(`${count} differences on purpose: ${why}`)
      if (failure !== undefined) {
        const last = failure.operations.slice(Math.max(0, failure.at - 30), failure.at + 1)
        child.fail(failure.what.join('\n'), { seed, done, operations: last.map(shown) })
        child.comment(`again, and smaller: npm run fuzz -- --seed ${seed} --ops ${OPERATIONS}`)
      } else child.pass(`${done} operations, all alike`)
      child.end()
    },
  )
