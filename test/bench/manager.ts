import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * The manager beside podman, step by step on one image, in one run: `node dist/test/bench/manager.js ROOTFS.tar [SUBJECT…]`.
 * ROOTFS.tar is a plain root filesystem with a shell (debootstrap). Needs root, podman and docker-registry. Prints seconds a
 * step and, for Lamina, the largest resident memory.
 */

const PROJECT = resolve(dirname(fileURLToPath(import.meta.url)), '../../..')
const LAMINA = join(PROJECT, 'bin/lamina.js')
const PORT = 5999

interface Step {
  readonly name: string
  readonly command: readonly string[]
}

interface Timing {
  readonly seconds: number
  /** Megabytes of the largest process. */
  readonly memory: number
}

function time(command: readonly string[]): Timing {
  const report = join(tmpdir(), `lamina-time-${process.pid}`)
  const [program = '', ...args] = command
  const { status, stderr } = spawnSync('/usr/bin/time', ['-f', '%e %M', '-o', report, program, ...args], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  if (status !== 0) throw new Error(`${command.join(' ')} ended with ${status}: ${stderr}`)
  const [seconds, kilobytes] = spawnSync('tail', ['-n1', report], { encoding: 'utf8' })
    .stdout.trim()
    .split(' ')
    .map(Number)
  rmSync(report)
  return { seconds: seconds ?? NaN, memory: (kilobytes ?? NaN) / 1000 }
}

const rootfs = process.argv[2]
if (rootfs === undefined || !existsSync(rootfs)) throw new Error('usage: manager.js ROOTFS.tar')
const dir = mkdtempSync(join(tmpdir(), 'lamina-manager-bench-'))
const change =
  'touch /etc/new; rm /etc/motd; mkdir -p /srv/d; i=0; while [ $i -lt 50 ]; do echo $i > /srv/d/$i; i=$((i+1)); done'

function laminaSteps(root: string, driver: string): Step[] {
  const l = (...args: string[]): string[] => [
    process.execPath,
    LAMINA,
    ...args,
    '--root',
    root,
    '--storage-driver',
    driver,
  ]
  // The writable layer by the library, in a process of its own as a command would be.
  const by = (code: string): string[] => [
    process.execPath,
    '--input-type=module',
    '-e',
    `import { Store } from ${JSON.stringify(join(PROJECT, 'dist/src/index.js'))}
     const store = await Store.open({ root: ${JSON.stringify(root)}, driver: '${driver}' })
     ${code}; store.close()`,
  ]
  return [
    { name: 'import', command: l('image', 'import', rootfs ?? '', 'bench') },
    { name: 'save', command: l('image', 'save', '-o', join(root, '../saved.tar'), 'bench') },
    { name: 'remove', command: l('image', 'rm', 'bench') },
    { name: 'load', command: l('image', 'load', join(root, '../saved.tar')) },
    { name: 'create', command: by(`await store.containers.create({ name: 'cc', image: 'bench' })`) },
    { name: 'mount', command: by(`await store.containers.mount('cc')`) },
    {
      name: '(change)',
      command: ['sh', '-c', `chroot "$(echo ${root}/containers/*/merged)" /bin/sh -c '${change}'`],
    },
    {
      name: 'diff',
      command: by(
        `for await (const change of store.containers.changes('cc')) console.log(change.kind, change.path)`,
      ),
    },
    { name: 'commit', command: l('commit', 'cc', 'bench:2') },
    { name: 'unmount', command: by(`await store.containers.unmount('cc', { all: true })`) },
    { name: 'remove container', command: by(`await store.containers.remove('cc')`) },
    { name: 'push', command: l('image', 'push', 'bench:2', `127.0.0.1:${PORT}/lamina-${driver}:2`) },
    { name: 'remove both', command: l('image', 'rm', 'bench', 'bench:2') },
    { name: 'pull', command: l('image', 'pull', `127.0.0.1:${PORT}/lamina-${driver}:2`) },
    { name: 'df', command: l('system', 'df') },
  ]
}

function podmanSteps(root: string, driver: string): Step[] {
  const options = [
    '--root',
    root,
    '--runroot',
    `${root}-run`,
    '--tmpdir',
    `${root}-tmp`,
    '--storage-driver',
    driver,
    '--cgroup-manager',
    'cgroupfs',
    '--events-backend',
    'file',
  ]
  const p = (...args: string[]): string[] => ['podman', ...options, ...args]
  return [
    { name: 'import', command: p('import', rootfs ?? '', 'bench') },
    { name: 'save', command: p('save', '-o', join(root, '../saved.tar'), 'bench') },
    { name: 'remove', command: p('rmi', 'bench') },
    { name: 'load', command: p('load', '-i', join(root, '../saved.tar')) },
    { name: 'create', command: p('create', '--name', 'c', 'localhost/bench', '/bin/true') },
    { name: 'mount', command: p('mount', 'c') },
    {
      name: '(change)',
      command: ['sh', '-c', `chroot "$(podman ${options.join(' ')} mount c)" /bin/sh -c '${change}'`],
    },
    { name: 'diff', command: p('diff', 'c') },
    { name: 'commit', command: p('commit', 'c', 'bench:2') },
    { name: 'unmount', command: p('umount', '-f', 'c') },
    { name: 'remove container', command: p('rm', 'c') },
    {
      name: 'push',
      command: p('push', '--tls-verify=false', 'bench:2', `127.0.0.1:${PORT}/podman-${driver}:2`),
    },
    { name: 'remove both', command: p('rmi', 'bench', 'bench:2') },
    { name: 'pull', command: p('pull', '--tls-verify=false', `127.0.0.1:${PORT}/podman-${driver}:2`) },
    { name: 'df', command: p('system', 'df') },
  ]
}

const registryConfig = join(dir, 'registry.yml')
writeFileSync(
  registryConfig,
  `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${dir}/registry}}\nhttp: {addr: '127.0.0.1:${PORT}'}\n`,
)
const registry = spawnSync(
  'sh',
  ['-c', 'docker-registry serve "$1" >/dev/null 2>&1 & echo $!', 'sh', registryConfig],
  { encoding: 'utf8' },
)
const wanted = process.argv.slice(3)
const subjects = [
  { name: 'lamina overlay2', steps: laminaSteps(join(dir, 'lo/store'), 'overlay2') },
  { name: 'podman overlay', steps: podmanSteps(join(dir, 'po/store'), 'overlay') },
  { name: 'lamina fuse', steps: laminaSteps(join(dir, 'lf/store'), 'fuse') },
  { name: 'lamina vfs', steps: laminaSteps(join(dir, 'lv/store'), 'vfs') },
  { name: 'podman vfs', steps: podmanSteps(join(dir, 'pv/store'), 'vfs') },
].filter(subject => wanted.length === 0 || wanted.includes(subject.name))
try {
  const results = new Map<string, Map<string, Timing>>()
  for (const { name, steps } of subjects) {
    const timings = new Map<string, Timing>()
    results.set(name, timings)
    const store = (steps[0]?.command.find(word => word.startsWith(dir)) ?? '').replace(/\/store$/, '')
    mkdirSync(store, { recursive: true })
    for (const step of steps) {
      const timing = time(step.command)
      timings.set(step.name, timing)
      process.stderr.write(`${name}: ${step.name} ${timing.seconds} s, ${timing.memory.toFixed(0)} MB\n`)
    }
  }
  const rows = [...(results.values().next().value?.keys() ?? [])].filter(name => !name.startsWith('('))
  const cells = rows.map(row => [
    row,
    ...subjects.map(({ name }) => results.get(name)?.get(row)?.seconds.toFixed(2) ?? '-'),
  ])
  const head = ['seconds', ...subjects.map(subject => subject.name)]
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map(line => line[i]?.length ?? 0)))
  for (const line of [head, ...cells])
    process.stdout.write(
      `${line
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd()}\n`,
    )
  const memory = [...results]
    .filter(([name]) => name.startsWith('lamina'))
    .flatMap(([, timings]) => [...timings.values()].map(each => each.memory))
  process.stdout.write(
    `\nimage: ${(statSync(rootfs).size / 1e6).toFixed(0)} MB as a tar; Lamina's largest process: ${Math.max(...memory).toFixed(0)} MB\n`,
  )
} finally {
  spawnSync('kill', [registry.stdout.trim()])
  for (const line of spawnSync('cat', ['/proc/self/mounts'], { encoding: 'utf8' })
    .stdout.split('\n')
    .reverse()) {
    const target = line.split(' ')[1] ?? ''
    if (target.startsWith(`${dir}/`)) spawnSync('umount', ['-l', target])
  }
  rmSync(dir, { recursive: true, force: true })
}
