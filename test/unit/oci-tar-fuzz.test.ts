import t from 'tap'
import { tarRound } from '../fuzz/tar-round.js'

const asRoot = process.geteuid?.() === 0

t.test(
  'damaged archives are refused, or come out as they went in',
  { skip: !asRoot && 'needs root' },
  async t => {
    const counts = { unpacked: 0, refused: 0 }
    for (let seed = 1; seed <= 600; seed++) {
      try {
        counts[await tarRound(seed)]++
      } catch (error) {
        t.fail(`seed ${seed}: ${(error as Error).stack ?? String(error)}`)
      }
    }
    t.ok(counts.unpacked > 50 && counts.refused > 50, JSON.stringify(counts))
  },
)
