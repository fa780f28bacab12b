/** A short round of what `npm run fuzz:bytes` does for as long as it is told to: so that it goes on working. */
import t from 'tap'
import { mutate } from '../fuzz/bytes/mutate.js'
import { TARGETS, type TargetName } from '../fuzz/bytes/targets.js'
import { Random } from '../fuzz/random.js'

/** Inputs. */
const ROUNDS: Readonly<Record<TargetName, number>> = {
  decoder: 2000,
  control: 200,
  xattrs: 150,
  state: 1000,
  database: 20,
  tar: 300,
}

for (const [name, rounds] of Object.entries(ROUNDS) as [TargetName, number][]) {
  const skip = name === 'xattrs' && process.geteuid?.() !== 0 ? 'needs root' : false
  await t.test(`${name}: damaged input is taken or refused in order`, { skip }, async t => {
    const seed = Date.now() % 1_000_000
    const random = new Random(seed)
    const target = await TARGETS[name]()
    try {
      for (const each of target.seeds) await target.run(each)
      for (let i = 0; i < rounds; i++)
        await target.run(mutate(random.pick(target.seeds), target.seeds, random, 1 << 16))
      t.pass(`seed ${seed}`)
    } finally {
      target.close()
    }
  })
}
