import fs from 'node:fs'
import path from 'node:path'
import { makeFile, makeListedTree, text, treeNames } from '../inputs.js'
import type { Sample, Workload } from '../sample.js'
import { median } from '../statistics.js'
import { loop, runBeside } from '../tool.js'

/** The daemon itself: mounting, what it does beside a long copy, and its memory. */

const mounting: Workload = {
  name: 'mount',
  what: 'from the command to the mount, the first stat in it, and unmounting',
  changes: false,
  prepare: input => fs.writeFileSync(path.join(input.lower, 'file'), 'x'),
  subjects: subject => subject.name !== 'plain',
  run: async sample => {
    await sample.unmount()
    const started = process.hrtime.bigint()
    sample.mount()
    fs.statSync(path.join(sample.path, 'file'))
    sample.record('command to first stat', Number(process.hrtime.bigint() - started) / 1e6, 'ms')
    const ending = process.hrtime.bigint()
    await sample.unmount()
    sample.record('unmount', Number(process.hrtime.bigint() - ending) / 1e6, 'ms')
  },
}

/** Directories of 20 files, each of which is listed once: a listing that nothing has in its cache. */
const DIRECTORIES = 2000

const busy: Workload = {
  name: 'ls-during-copy-up',
  what: 'listing directories of 20 files (median of each) while nothing else runs, and while a file of 4 GiB is copied up',
  changes: true,
  prepare: input => {
    const names = Array.from({ length: DIRECTORIES }, (_, i) => `d${i}`)
    for (const name of names) {
      fs.mkdirSync(path.join(input.lower, name))
      for (let i = 0; i < 20; i++) fs.writeFileSync(path.join(input.lower, name, `file${i}`), text(20, i))
    }
    fs.writeFileSync(path.join(input.extra, 'before'), names.slice(0, DIRECTORIES / 4).join('\n'))
    fs.writeFileSync(path.join(input.extra, 'during'), names.slice(DIRECTORIES / 4).join('\n'))
    makeFile(path.join(input.lower, 'big'), input.scaled(4096))
  },
  subjects: subject => subject.name !== 'plain',
  run: async sample => {
    await sample.fresh()
    sample.settle()
    const listing = (list: string): number[] =>
      loop('each:list', sample.path, path.join(sample.input.extra, list)).each
    const before = listing('before')
    sample.record('alone', median(before) / 1000, 'µs')
    // `conv=notrunc`: the file is copied up, and one block of it is changed.
    const copying = runBeside('dd', [
      'if=/dev/zero',
      `of=${path.join(sample.path, 'big')}`,
      'bs=4k',
      'count=1',
      'conv=notrunc',
      'status=none',
    ])
    const during = listing('during')
    await copying
    sample.record('during', median(during) / 1000, 'µs')
    sample.record('during, the longest', (during.at(-1) ?? 0) / 1000, 'µs')
  },
}

/** Resident memory of the daemon, in bytes. */
function resident(sample: Sample): number {
  const pid = sample.subject.pid(sample.place)
  if (pid === undefined) throw new Error('there is no daemon')
  const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024
}

const pause = (milliseconds: number): Promise<void> =>
  new Promise(resolve => setTimeout(resolve, milliseconds))

const memory: Workload = {
  name: 'memory',
  what: 'resident memory of the daemon: at rest, after stat of 1,000,000 files, and after the kernel has forgotten them',
  changes: false,
  prepare: input => {
    makeListedTree(input.lower, path.join(input.extra, 'list'), input.scaled(1_000_000), 0)
  },
  subjects: subject => subject.name !== 'plain' && subject.name !== 'kernel',
  run: async sample => {
    await sample.fresh()
    const rest = resident(sample)
    sample.record('at rest', rest / (1 << 20), 'MiB')
    const list = path.join(sample.input.extra, 'list')
    loop('stat', sample.path, list)
    const full = resident(sample)
    sample.record('after stat', full / (1 << 20), 'MiB')
    sample.record('an inode', (full - rest) / treeNames(sample.input.scaled(1_000_000)).length, 'bytes')
    fs.writeFileSync('/proc/sys/vm/drop_caches', '2')
    // The daemon reads the FORGETs, and its collector gives memory back when it is idle.
    let least = resident(sample)
    for (let i = 0; i < 100 && least > rest * 1.1; i++) {
      await pause(100)
      least = Math.min(least, resident(sample))
    }
    sample.record('after forget', least / (1 << 20), 'MiB')
  },
}

export const DAEMON: readonly Workload[] = [mounting, busy, memory]
