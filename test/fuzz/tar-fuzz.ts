import { randomInt } from 'node:crypto'
import { parseArgs } from 'node:util'
import { tarRound } from './tar-round.js'

/** `node .ci/run.js test/fuzz/tar-fuzz.js [--rounds N] [--seed S]`: damaged archives, until one breaks something. */
const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '20000' }, seed: { type: 'string' } },
})
const first = Number(values.seed ?? randomInt(2 ** 31))
const counts = { unpacked: 0, refused: 0 }
for (let seed = first; seed < first + Number(values.rounds); seed++) {
  try {
    counts[await tarRound(seed)]++
  } catch (error) {
    console.error(`seed ${seed}:`, error)
    console.error(`again: node .ci/run.js test/fuzz/tar-fuzz.js --rounds 1 --seed ${seed}`)
    process.exit(1)
  }
}
console.log(
  `seeds ${first} to ${first + Number(values.rounds) - 1}: ${counts.unpacked} unpacked, ${counts.refused} refused`,
)
