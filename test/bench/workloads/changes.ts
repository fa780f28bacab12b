import fs from 'node:fs'
import path from 'node:path'
import { GIT, makeCProject, makeNpmProject, makeRepository, makeTree, npmEnvironment } from '../inputs.js'
import type { Workload } from '../sample.js'
import { installed, loop, run, runQuietly } from '../tool.js'

/** Making, changing and removing many files, mostly by the programs that people run. */

const create: Workload = {
  name: 'create',
  what: 'creating 10,000 files of 4 KiB in one directory, and removing them',
  changes: true,
  makesFiles: true,
  prepare: input => {
    const names = Array.from({ length: input.scaled(10_000) }, (_, i) => `f${i}`)
    fs.writeFileSync(path.join(input.extra, 'list'), names.join('\n'))
  },
  run: async sample => {
    const list = path.join(sample.input.extra, 'list')
    const perCall = (operation: string): number => {
      const { total, count } = loop(operation, sample.path, list)
      return total / count / 1000
    }
    await sample.take('write', 'µs', () => perCall('create'))
    sample.settle()
    await sample.take('unlink', 'µs', () => perCall('unlink'))
  },
}

const untar: Workload = {
  name: 'untar',
  what: 'tar -x of 20,000 files, then rm -rf of them',
  changes: true,
  makesFiles: true,
  prepare: input => {
    const tree = path.join(input.extra, 'tree')
    fs.mkdirSync(tree)
    makeTree(tree, input.scaled(20_000), 3000)
    run('tar', ['-C', tree, '-cf', path.join(input.extra, 'tree.tar'), '.'])
    run('rm', ['-rf', tree])
  },
  run: async sample => {
    const target = path.join(sample.path, 'tree')
    fs.mkdirSync(target)
    await sample.time('', () =>
      runQuietly('tar', ['-C', target, '-xf', path.join(sample.input.extra, 'tree.tar')]),
    )
    sample.settle()
    await sample.time('rm -rf', () => runQuietly('rm', ['-rf', target]))
  },
}

const removeLower: Workload = {
  name: 'rm-lower',
  what: 'rm -rf of a lower tree of 20,000 files',
  changes: true,
  prepare: input => void makeTree(path.join(input.lower, 'tree'), input.scaled(20_000), 3000),
  run: async sample => {
    await sample.fresh()
    await sample.time('', () => runQuietly('rm', ['-rf', path.join(sample.path, 'tree')]))
  },
}

const overwrite: Workload = {
  name: 'untar-over-lower',
  what: 'tar -x of 5,000 files over those of the lower layer, which replaces each',
  changes: true,
  makesFiles: true,
  prepare: input => {
    makeTree(input.lower, input.scaled(5000), 3000)
    run('tar', ['-C', input.lower, '-cf', path.join(input.extra, 'tree.tar'), '.'])
  },
  run: async sample => {
    await sample.fresh()
    await sample.time('', () =>
      runQuietly('tar', ['-C', sample.path, '-xf', path.join(sample.input.extra, 'tree.tar')]),
    )
  },
}

const git: Workload = {
  name: 'git',
  what: 'git status (first and again) and git checkout of another branch, in a repository of 20,000 files',
  changes: true,
  makesFiles: true,
  prepare: input => makeRepository(path.join(input.lower, 'repository'), input.scaled(20_000)),
  missing: () => (installed('git') ? undefined : 'git is not installed'),
  run: async sample => {
    const repository = path.join(sample.path, 'repository')
    const command = (...args: string[]): void => runQuietly('git', ['-C', repository, ...args], { env: GIT })
    await sample.fresh()
    await sample.time('status first', () => command('status', '--porcelain'))
    await sample.time('status again', () => command('status', '--porcelain'))
    await sample.time('checkout', () => command('checkout', '-q', 'other'))
    await sample.time('checkout back', () => command('checkout', '-q', 'main'))
  },
}

const npm: Workload = {
  name: 'npm-ci',
  what: 'npm ci of 80 packages of 51 files, from local archives, and once more over what it made',
  changes: true,
  makesFiles: true,
  prepare: input => makeNpmProject(input.lower, input.scaled(80), path.join(input.extra, 'cache')),
  missing: () => (installed('npm') ? undefined : 'npm is not installed'),
  run: async sample => {
    const ci = (): void =>
      runQuietly('npm', ['ci'], {
        cwd: path.join(sample.path, 'project'),
        env: npmEnvironment(path.join(sample.input.extra, 'cache')),
      })
    await sample.time('', ci)
    sample.settle()
    await sample.time('again', ci)
  },
}

const compile: Workload = {
  name: 'compile',
  what: 'make -j2 of 200 C files',
  changes: true,
  prepare: input => makeCProject(input.lower, input.scaled(200)),
  missing: () => (installed('cc') && installed('make') ? undefined : 'cc or make is not installed'),
  run: async sample => {
    await sample.fresh()
    await sample.time('', () => runQuietly('make', ['-s', '-j2', '-C', sample.path]))
    await sample.time('nothing to do', () => runQuietly('make', ['-s', '-C', sample.path]))
  },
}

const chmodTree: Workload = {
  name: 'chmod-tree',
  what: 'chmod -R of 10,000 lower files of 4 KiB, which copies them up',
  changes: true,
  makesFiles: true,
  prepare: input => void makeTree(input.lower, input.scaled(10_000), 4096),
  run: async sample => {
    await sample.fresh()
    await sample.time('', () => runQuietly('chmod', ['-R', 'u=rw,go=,a+X', sample.path]))
  },
}

export const CHANGES: readonly Workload[] = [
  create,
  untar,
  removeLower,
  overwrite,
  git,
  npm,
  compile,
  chmodTree,
]
