/**
 * `npm run bench:keeper [-- PAIRS]`: what a keeper costs. Each workload runs on a mount with and on one without a keeper in turn, and
 * what counts is the ratio within each pair: the noise of a machine that does other things is in both. The processor time of the
 * daemon (all its threads, nanoseconds) is steadier than the clock. Needs root.
 */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { makeTree } from './inputs.js'
import { median } from './statistics.js'
import { PROJECT, runQuietly } from './tool.js'

const PAIRS = 15
const FILES = 3000
const LAMINA = path.join(PROJECT, 'bin/lamina.js')

interface Cost {
  /** Nanoseconds. */
  clock: number
  processor: number
}

interface Place {
  root: string
  mountpoint: string
  archive: string
}

/** In this order, in one mount. */
const WORKLOADS: Readonly<Record<string, (place: Place) => void>> = {
  'find -ls, first': ({ mountpoint }) => {
    runQuietly('find', [path.join(mountpoint, 'tree'), '-ls'])
  },
  'read small files, first': ({ mountpoint }) => {
    runQuietly('tar', ['-cf', '/dev/zero', '-C', mountpoint, 'tree'])
  },
  'read small files, again': ({ mountpoint }) => {
    runQuietly('tar', ['-cf', '/dev/zero', '-C', mountpoint, 'tree'])
  },
  untar: ({ mountpoint, archive }) => {
    runQuietly('tar', ['-xf', archive, '-C', mountpoint])
  },
  'copy up': ({ mountpoint }) => {
    runQuietly('chmod', ['-R', 'g+w', path.join(mountpoint, 'tree', 'd1')])
  },
  'rm -rf of upper': ({ mountpoint }) => {
    runQuietly('rm', ['-rf', path.join(mountpoint, 'unpacked')])
  },
  'rm -rf of lower': ({ mountpoint }) => {
    runQuietly('rm', ['-rf', path.join(mountpoint, 'tree')])
  },
}

/** Of all threads that live, nanoseconds. */
function processorTime(pids: readonly number[]): number {
  let sum = 0
  for (const pid of pids) {
    for (const thread of fs.readdirSync(`/proc/${pid}/task`)) {
      const [ran = '0'] = fs.readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')
      sum += Number(ran)
    }
  }
  return sum
}

function served(mountpoint: string): number[] {
  return fs
    .readdirSync('/proc')
    .filter(name => /^[0-9]+$/.test(name))
    .filter(pid => {
      try {
        return fs.readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').includes(mountpoint)
      } catch {
        return false
      }
    })
    .map(Number)
}

function round(root: string, archive: string, keeper: boolean): Map<string, Cost> {
  const costs = new Map<string, Cost>()
  const at = (name: string): string => path.join(root, name)
  for (const name of ['upper', 'work', 'mnt']) fs.mkdirSync(at(name))
  const mountpoint = at('mnt')
  const options = `keeper=${keeper ? 1 : 0},lowerdir=${at('lower')},upperdir=${at('upper')},workdir=${at('work')}`
  execFileSync(process.execPath, [LAMINA, 'mount', '-o', options, mountpoint])
  const pids = served(mountpoint)
  for (const [name, work] of Object.entries(WORKLOADS)) {
    const [clock, processor] = [process.hrtime.bigint(), processorTime(pids)]
    work({ root, mountpoint, archive })
    costs.set(name, {
      clock: Number(process.hrtime.bigint() - clock),
      processor: processorTime(pids) - processor,
    })
  }
  execFileSync(process.execPath, [LAMINA, 'umount', mountpoint])
  for (const name of ['upper', 'work', 'mnt']) fs.rmSync(at(name), { recursive: true })
  return costs
}

/** The median, and between which two samples that of all possible ones lies, with a probability of 95 percent at least. */
function interval(ratios: readonly number[]): string {
  if (ratios.length === 0) return 'nothing to do'
  const sorted = [...ratios].sort((a, b) => a - b)
  const n = sorted.length
  // The binomial distribution of how many samples lie below the true median.
  let below = 0
  let term = 0.5 ** n
  let k = 0
  for (; k < n / 2; k++) {
    below += term
    if (below > 0.025) break
    term *= (n - k) / (k + 1)
  }
  const low = sorted[Math.max(0, k - 1)] ?? NaN
  const high = sorted[n - Math.max(1, k)] ?? NaN
  return `${median(ratios).toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})`
}

function main(): void {
  const pairs = Number(process.argv[2] ?? PAIRS)
  if (!Number.isInteger(pairs) || pairs < 1) {
    process.stderr.write(`npm run bench:keeper [-- PAIRS]: '${process.argv[2]}' is no number of pairs\n`)
    process.exitCode = 1
    return
  }
  const root = fs.mkdtempSync(path.join(os.tmpdir(), 'lamina-keeper-cost-'))
  try {
    fs.mkdirSync(path.join(root, 'lower', 'tree'), { recursive: true })
    makeTree(path.join(root, 'lower', 'tree'), FILES, 1000)
    fs.mkdirSync(path.join(root, 'unpacked'))
    makeTree(path.join(root, 'unpacked'), FILES, 1000)
    const archive = path.join(root, 'archive.tar')
    runQuietly('tar', ['-cf', archive, '-C', root, 'unpacked'])
    round(root, archive, true)
    const ratios = new Map(
      Object.keys(WORKLOADS).map(name => [name, { clock: [] as number[], processor: [] as number[] }]),
    )
    for (let pair = 0; pair < pairs; pair++) {
      // Which of the two comes first changes, so that what drifts favours none.
      const first = round(root, archive, pair % 2 === 0)
      const second = round(root, archive, pair % 2 !== 0)
      const [kept, bare] = pair % 2 === 0 ? [first, second] : [second, first]
      for (const [name, of] of ratios) {
        const [a, b] = [kept.get(name), bare.get(name)]
        if (a === undefined || b === undefined) continue
        of.clock.push(a.clock / b.clock)
        // Nothing at all where the kernel has everything already.
        if (b.processor > 0) of.processor.push(a.processor / b.processor)
      }
    }
    console.log(
      `keeper=1 against keeper=0, ${pairs} pairs, median of the ratios and 95 percent interval; load ${os.loadavg()[0]?.toFixed(1)}`,
    )
    console.log(`${''.padEnd(26)}${"daemon's processor time".padEnd(30)}clock`)
    for (const [name, { clock, processor }] of ratios)
      console.log(`${name.padEnd(26)}${interval(processor).padEnd(30)}${interval(clock)}`)
    const all = (of: 'clock' | 'processor'): string =>
      interval([...ratios.values()].flatMap(each => each[of]))
    console.log(`${'all'.padEnd(26)}${all('processor').padEnd(30)}${all('clock')}`)
  } finally {
    fs.rmSync(root, { recursive: true, force: true })
  }
}

main()
