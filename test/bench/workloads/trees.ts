import fs from 'node:fs'
import path from 'node:path'
import { makeListedTree, makeTree, text } from '../inputs.js'
import type { Sample, Workload } from '../sample.js'
import { loop, loopBeside, run, runQuietly } from '../tool.js'

/** Looking at many files: find, ls, stat, and reading small ones. */

const list = (sample: Sample): string => path.join(sample.input.extra, 'list')
/** Microseconds for each. */
const perCall = (operation: string, sample: Sample, where = sample.path): number => {
  const { total, count } = loop(operation, where, list(sample))
  return total / count / 1000
}

/** stat(1) asks for no more than it prints. Microseconds for each, its own part included. */
function statAll(sample: Sample): number {
  const started = process.hrtime.bigint()
  runQuietly('xargs', ['-a', list(sample), 'stat', '-c', '%s'], { cwd: sample.path })
  return Number(process.hrtime.bigint() - started) / 1000 / sample.input.scaled(10_000)
}

const findLs: Workload = {
  name: 'find-ls',
  what: 'find -ls of 50,000 files, cold and again',
  changes: false,
  prepare: input => void makeTree(input.lower, input.scaled(50_000), 20),
  run: async sample => {
    await sample.cold()
    await sample.time('cold', () => runQuietly('find', [sample.path, '-ls']))
    await sample.time('warm', () => runQuietly('find', [sample.path, '-ls']))
    await sample.time('ls -lR first', () => runQuietly('ls', ['-lR', sample.path]))
    await sample.time('ls -lR again', () => runQuietly('ls', ['-lR', sample.path]))
  },
}

const stat: Workload = {
  name: 'stat',
  what: 'stat of each of 10,000 files: first, again, and of names that are missing',
  changes: false,
  prepare: input => makeListedTree(input.lower, path.join(input.extra, 'list'), input.scaled(10_000), 20),
  run: async sample => {
    await sample.fresh()
    await sample.take('first', 'µs', () => statAll(sample))
    await sample.take('again', 'µs', () => statAll(sample))
    // As Node.js does it: with the time of birth, which a daemon is asked for by another request.
    await sample.fresh()
    await sample.take('with birth time first', 'µs', () => perCall('stat', sample))
    await sample.take('with birth time again', 'µs', () => perCall('stat', sample))
    await sample.take('missing', 'µs', () => perCall('missing', sample))
    await sample.take('missing again', 'µs', () => perCall('missing', sample))
  },
}

const readSmall: Workload = {
  name: 'read-small',
  what: 'open, read, close of 10,000 files of 4 KiB: cold, first after the mount, and again',
  changes: false,
  prepare: input => makeListedTree(input.lower, path.join(input.extra, 'list'), input.scaled(10_000), 4096),
  run: async sample => {
    await sample.cold()
    await sample.take('cold', 'µs', () => perCall('read', sample))
    await sample.fresh()
    await sample.take('first', 'µs', () => perCall('read', sample))
    await sample.take('again', 'µs', () => perCall('read', sample))
    await sample.take('by grep -r', 'ms', () =>
      elapsed(() => runQuietly('grep', ['-rc', 'cat', sample.path + '/d0'])),
    )
  },
}

/** grep says 1 when nothing matches: the text has no cat in it, but -c prints every file, and 1 is not a failure here. */
function elapsed(action: () => void): number {
  const started = process.hrtime.bigint()
  try {
    action()
  } catch (error) {
    if (!String(error).includes('exit 1:')) throw error
  }
  return Number(process.hrtime.bigint() - started) / 1e6
}

const readUpper: Workload = {
  name: 'read-upper',
  what: 'open, read, close of 5,000 files of 4 KiB that lie in the upper layer: first after the mount, and again',
  changes: true,
  prepare: input => {
    const names = Array.from({ length: input.scaled(5000) }, (_, i) => `f${i}`)
    fs.writeFileSync(path.join(input.extra, 'list'), names.join('\n'))
  },
  run: async sample => {
    loop('create', sample.path, list(sample))
    sample.settle()
    await sample.fresh()
    await sample.take('first', 'µs', () => perCall('read', sample))
    await sample.take('again', 'µs', () => perCall('read', sample))
  },
}

const bigDirectory: Workload = {
  name: 'big-directory',
  what: 'ls of a directory of 100,000 files: cold and again; ls -l',
  changes: false,
  prepare: input => {
    const directory = path.join(input.lower, 'big')
    fs.mkdirSync(directory)
    for (let i = 0; i < input.scaled(100_000); i++)
      fs.writeFileSync(path.join(directory, `name-of-file-${i}`), '')
  },
  run: async sample => {
    const directory = path.join(sample.path, 'big')
    await sample.cold()
    await sample.time('ls cold', () => runQuietly('ls', [directory]))
    await sample.time('ls warm', () => runQuietly('ls', [directory]))
    await sample.fresh()
    await sample.time('ls -l first', () => runQuietly('ls', ['-l', directory]))
    await sample.time('ls -l again', () => runQuietly('ls', ['-l', directory]))
  },
}

const merged: Workload = {
  name: 'merged-find',
  what: 'find -ls of 10,000 files in directories that exist in both layers, half of the files in each',
  changes: true,
  prepare: input => void makeTree(input.lower, input.scaled(10_000), 20),
  run: async sample => {
    const directories = run('find', [sample.path, '-mindepth', '2', '-type', 'd']).trim().split('\n')
    for (const directory of directories)
      for (let i = 0; i < 50; i++) fs.writeFileSync(path.join(directory, `upper${i}`), text(20, i))
    sample.settle()
    await sample.fresh()
    await sample.time('first', () => runQuietly('find', [sample.path, '-ls']))
    await sample.time('again', () => runQuietly('find', [sample.path, '-ls']))
  },
}

const clients: Workload = {
  name: 'clients',
  what: 'one, two and four processes at once, each opening and reading all of 5,000 small files',
  changes: false,
  prepare: input => makeListedTree(input.lower, path.join(input.extra, 'list'), input.scaled(5000), 1000),
  run: async sample => {
    for (const count of [1, 2, 4]) {
      await sample.fresh()
      await sample.take(`${count}`, 'ms', async () => {
        const processes = Array.from({ length: count }, () => loopBeside('read', sample.path, list(sample)))
        return Math.max(...(await Promise.all(processes)).map(result => result.total)) / 1e6
      })
    }
  },
}

export const TREES: readonly Workload[] = [findLs, stat, readSmall, readUpper, bigDirectory, merged, clients]
