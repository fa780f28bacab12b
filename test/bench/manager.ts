import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { subjects, type Place, type Subject } from './manager-steps.js'
import { median } from './statistics.js'
import { PROJECT } from './tool.js'

/**
 * The manager beside podman, step by step on one image, in one run:
 *
 *   npm run bench:manager -- [ROOTFS.tar] [--rounds 3] [--subject 'lamina fuse'] [--install pkg,pkg] [--layers 1000]
 *
 * ROOTFS.tar is a plain root filesystem with a shell; without one, debootstrap makes it (and needs the network, as `--install` does,
 * before anything is measured). Needs root, podman, umoci, skopeo and docker-registry. Subjects take turns; the trees that they make of the
 * image are compared file by file (type, mode, owner, size, times, target, attributes, content);
 * each sample has a new ext4 on a loop device, since a filesystem on which much was just removed is slow in making files
 * (ext4 looks for inodes that were not freed in the last minute). Prints the median of each step in seconds, and Lamina's memory.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '3' },
    subject: { type: 'string', multiple: true },
    install: { type: 'string', default: '' },
    layers: { type: 'string', default: '1000' },
  },
})
const [given] = positionals
if (given !== undefined && !existsSync(given)) throw new Error(`there is no ${given}`)

const PORT = 5999
// podman takes no --runroot of more than 50 characters.
const dir = mkdtempSync(join(tmpdir(), 'lmb-'))

interface Timing {
  readonly seconds: number
  /** Megabytes of the largest process. */
  readonly memory: number
}

function sh(script: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync('sh', ['-euc', script, 'sh', ...args], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  if (status !== 0) throw new Error(`${script}: ${stderr}`)
  return stdout
}

function time(command: readonly string[]): Timing {
  const report = join(dir, 'time')
  const { status, stderr } = spawnSync('/usr/bin/time', ['-f', '%e %M', '-o', report, ...command], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  if (status !== 0) throw new Error(`${command.join(' ')} ended with ${status}: ${stderr}`)
  const [seconds = NaN, kilobytes = NaN] = readFileSync(report, 'utf8').trim().split(' ').map(Number)
  return { seconds, memory: kilobytes / 1000 }
}

/** A new filesystem of its own for one sample. */
function withDisk<T>(work: (disk: string) => T): T {
  const disk = join(dir, 'd')
  mkdirSync(disk, { recursive: true })
  sh(
    'rm -f "$1.img"; truncate -s 24G "$1.img"; mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 "$1.img"; mount -o loop "$1.img" "$1"',
    disk,
  )
  try {
    return work(disk)
  } finally {
    const below = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map(line => line.split(' ')[1] ?? '')
      .filter(target => target === disk || target.startsWith(`${disk}/`))
    for (const target of below.reverse()) spawnSync('umount', ['-l', target])
    rmSync(`${disk}.img`, { force: true })
  }
}

/** A registry that starts empty. */
function withRegistry<T>(disk: string, work: () => T): T {
  const config = join(disk, 'registry.yml')
  writeFileSync(
    config,
    `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${disk}/registry}}\nhttp: {addr: '127.0.0.1:${PORT}'}\n`,
  )
  const pid = sh('docker-registry serve "$1" >/dev/null 2>&1 & echo $!', config).trim()
  const answers =
    'for i in $(seq 100); do (echo > /dev/tcp/127.0.0.1/$0) 2>/dev/null && exit 0; sleep 0.1; done; exit 1'
  if (spawnSync('bash', ['-c', answers, String(PORT)]).status !== 0)
    throw new Error('docker-registry does not start')
  try {
    return work()
  } finally {
    spawnSync('kill', [pid])
  }
}

/** A small Debian with Python and C headers: about 20,000 entries. */
function makeRootfs(): string {
  const script = `debootstrap --variant=minbase --include=python3,libc6-dev,perl bookworm "$1/root" >"$1/log" 2>&1 || { tail "$1/log" >&2; exit 1; }
    rm -f "$1"/root/var/cache/apt/archives/*.deb
    tar -C "$1/root" --numeric-owner --xattrs -cf "$1/rootfs.tar" .; rm -rf "$1/root"`
  sh(script, dir)
  return join(dir, 'rootfs.tar')
}

/** Every entry of a tree, and what is in it, a line each. Times in seconds: docker-archives have no more. */
function describe(tree: string): string[] {
  const script = `cd "$1"
    find . -mindepth 1 \\( -type d -printf '%P|%y|%m|%U:%G||%l|%Ts\\n' -o -printf '%P|%y|%m|%U:%G|%s|%l|%Ts\\n' \\)
    find . -type f -print0 | xargs -0 -r sha256sum
    getfattr -R -h -d -m - . 2>/dev/null | grep -v '^$\\|selinux' || true`
  return sh(script, tree).split('\n').sort()
}

/** Of each subject, once: what it makes of the image. */
const trees = new Map<string, string[]>()

/** Where trees differ from the first one, for people. */
function comparison(): string {
  const [first, ...others] = [...trees]
  if (first === undefined) return ''
  const expected = new Set(first[1])
  const lines = others.map(([name, entries]) => {
    const found = new Set(entries)
    const lacks = first[1].filter(entry => !found.has(entry))
    const has = entries.filter(entry => !expected.has(entry))
    if (lacks.length + has.length === 0) return `${name}: the same tree as ${first[0]}`
    const some = [...lacks.map(line => `  - ${line}`), ...has.map(line => `  + ${line}`)].slice(0, 12)
    return `${name}: ${lacks.length + has.length} lines are not as in ${first[0]}\n${some.join('\n')}`
  })
  return `${first[1].filter(line => line.includes('|')).length} entries\n${lines.join('\n')}\n`
}

function sample(subject: Subject, place: Omit<Place, 'disk'>): Map<string, Timing> {
  return withDisk(disk =>
    withRegistry(disk, () => {
      const timings = new Map<string, Timing>()
      for (const step of subject.steps({ ...place, disk })) {
        if (step.before !== undefined) sh(step.before)
        const timing = time(step.command)
        timings.set(step.name, timing)
        if (step.tree !== undefined && !trees.has(subject.name))
          trees.set(subject.name, describe(sh(step.tree).trim()))
        process.stderr.write(
          `${subject.name}: ${step.name} ${timing.seconds} s, ${timing.memory.toFixed(0)} MB\n`,
        )
      }
      return timings
    }),
  )
}

/** `system df` and `layer ls` of a store with many layers, in seconds. */
function manyLayers(count: number): Map<string, number[]> {
  return withDisk(disk => {
    const store = join(disk, 's')
    const make = `import { Store } from ${JSON.stringify(join(PROJECT, 'dist/src/index.js'))}
      import { mkdirSync, writeFileSync } from 'node:fs'
      const store = await Store.open({ root: ${JSON.stringify(store)} })
      mkdirSync(${JSON.stringify(join(disk, 't'))})
      let chain
      for (let i = 0; i < ${count}; i++) {
        writeFileSync(${JSON.stringify(join(disk, 't/f'))}, String(i))
        const lease = store.lease()
        const layer = await store.layers.addTree(${JSON.stringify(join(disk, 't'))}, lease)
        chain = store.layers.link(layer.diffId, i % 50 === 0 ? undefined : chain, lease)
        store.layers.pin(chain)
        lease[Symbol.dispose]()
      }
      store.close()`
    spawnSync(process.execPath, ['--input-type=module', '-e', make], { stdio: 'inherit' })
    const lamina = [process.execPath, join(PROJECT, 'bin/lamina.js')]
    const found = new Map<string, number[]>()
    for (let i = 0; i < 7; i += 1) {
      for (const command of [['system', 'df'], ['layer', 'ls'], ['--version']]) {
        const words = command[0] === '--version' ? command : [...command, '--root', store]
        const taken = time([...lamina, ...words]).seconds
        found.set(command.join(' '), [...(found.get(command.join(' ')) ?? []), taken])
      }
    }
    return found
  })
}

try {
  const packages = values.install.split(',').filter(name => name !== '')
  const debs = join(dir, 'debs')
  mkdirSync(debs)
  if (packages.length > 0) sh('cd "$1"; shift; apt-get -qq download "$@" >/dev/null', debs, ...packages)
  const rootfs = given ?? makeRootfs()
  const place = { rootfs, debs: readdirSync(debs).map(name => join(debs, name)), port: PORT }
  const chosen = subjects.filter(({ name }) => values.subject === undefined || values.subject.includes(name))
  const results = new Map<string, Map<string, Timing[]>>(chosen.map(({ name }) => [name, new Map()]))
  for (let round = 0; round < Number(values.rounds); round += 1) {
    for (const subject of chosen.map((_, index) => chosen[(index + round) % chosen.length] as Subject)) {
      const into = results.get(subject.name)
      for (const [step, timing] of sample(subject, place))
        into?.set(step, [...(into.get(step) ?? []), timing])
    }
  }
  const rows = [...new Set([...results.values()].flatMap(timings => [...timings.keys()]))]
  const cell = (name: string, row: string): string => {
    const timings = results.get(name)?.get(row)
    return timings === undefined ? '-' : median(timings.map(each => each.seconds)).toFixed(2)
  }
  const lines = [
    ['seconds', ...chosen.map(subject => subject.name)],
    ...rows.map(row => [row, ...chosen.map(({ name }) => cell(name, row))]),
  ]
  const widths = (lines[0] ?? []).map((_, i) => Math.max(...lines.map(line => line[i]?.length ?? 0)))
  for (const line of lines) {
    process.stdout.write(
      `${line
        .map((text, i) => text.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd()}\n`,
    )
  }
  process.stdout.write(`\n${comparison()}`)
  const memory = [...results]
    .filter(([name]) => name.startsWith('lamina'))
    .flatMap(([, timings]) => [...timings.values()].flat().map(each => each.memory))
  const megabytes = (statSync(rootfs).size / 1e6).toFixed(0)
  process.stdout.write(
    `\nimage: ${megabytes} MB as a tar; ${values.rounds} rounds; Lamina's largest process: ${Math.max(...memory).toFixed(0)} MB\n`,
  )
  const count = Number(values.layers)
  if (count > 0) {
    const all = [...manyLayers(count)].map(([what, seconds]) => `${what} ${median(seconds).toFixed(2)} s`)
    process.stdout.write(`with ${count} layers: ${all.join(', ')}\n`)
  }
} finally {
  rmSync(dir, { recursive: true, force: true })
}
