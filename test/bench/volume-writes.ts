/**
 * Writing to a volume, as a container has it, against writing to a directory of the same filesystem: alternating runs, the median
 * of each, and the ratio of their speeds. Goal: at least 0.98, a volume is a bind mount. `npm run bench:volume [-- RUNS]`, as root.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { Bench } from '../manager/fixture.js'

const RUNS = Number(process.argv[2] ?? 15)
const MB = 1 << 20

function stream(dir: string, size: number, chunk: number): void {
  const file = join(dir, 'stream')
  const data = Buffer.alloc(chunk, 'x')
  const fd = openSync(file, 'w')
  for (let done = 0; done < size; done += chunk) writeSync(fd, data)
  fsyncSync(fd)
  closeSync(fd)
  rmSync(file)
}

function synced(dir: string): void {
  const fd = openSync(join(dir, 'log'), 'w')
  const line = Buffer.alloc(4096, 'x')
  for (let i = 0; i < 200; i += 1) {
    writeSync(fd, line)
    fsyncSync(fd)
  }
  closeSync(fd)
}

function small(dir: string): void {
  const home = join(dir, 'small')
  mkdirSync(home)
  for (let i = 0; i < 2000; i += 1) writeFileSync(join(home, `f${i}`), 'x'.repeat(2000))
  rmSync(home, { recursive: true })
}

const WORKLOADS: Readonly<Record<string, (dir: string) => void>> = {
  '256 MB in MB, then fsync': dir => stream(dir, 256 * MB, MB),
  '64 MB in 4 KiB, then fsync': dir => stream(dir, 64 * MB, 4096),
  '200 times 4 KiB and fsync': synced,
  '2000 files made, written, removed': small,
}

const ends: (() => unknown)[] = []
try {
  const bench = new Bench({ teardown: end => void ends.push(end) })
  bench.run('image', 'import', bench.tree('tree', { 'etc/passwd': '' }), 'img')
  bench.run('container', 'create', '--name', 'one', '--storage-driver', 'fuse', '-v', 'data:/data', 'img')
  const volume = join(bench.run('container', 'mount', 'one').trim(), 'data')
  const plain = bench.tree('plain', {})
  mkdirSync(plain)
  for (const [name, work] of Object.entries(WORKLOADS)) {
    const times: Record<'plain' | 'volume', number[]> = { plain: [], volume: [] }
    // One unmeasured run of each, then in turns, each first as often as second.
    for (let run = -1; run < RUNS; run += 1) {
      const order = run % 2 === 0 ? (['plain', 'volume'] as const) : (['volume', 'plain'] as const)
      for (const which of order) {
        const begin = process.hrtime.bigint()
        // A container's paths are short: how deep the store lies is not the volume's doing.
        process.chdir(which === 'plain' ? plain : volume)
        work('.')
        if (run >= 0) times[which].push(Number(process.hrtime.bigint() - begin) / 1e6)
      }
    }
    const [a, b] = [median(times.plain), median(times.volume)]
    const pairs = median(times.plain.map((time, i) => time / (times.volume[i] ?? NaN)))
    console.log(
      `${name.padEnd(34)} directory ${a.toFixed(1)} ms, volume ${b.toFixed(1)} ms: ` +
        `${(a / b).toFixed(3)} of its speed; median of the pairs ${pairs.toFixed(3)}`,
    )
  }
  process.chdir('/')
  bench.run('container', 'umount', 'one')
} finally {
  process.chdir('/')
  for (const end of ends) end()
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((x, y) => x - y)
  const middle = sorted.length >> 1
  const [low = NaN, high = NaN] = [sorted[sorted.length % 2 === 0 ? middle - 1 : middle], sorted[middle]]
  return (low + high) / 2
}
