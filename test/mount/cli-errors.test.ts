import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { mountTmpfs, PROJECT, Scratch, umount, unavailable } from './fixture.js'

/*
 * A mount that cannot be: one line on stderr, an exit code, nothing mounted and no process (Scratch looks for both).
 */

const skip = unavailable('lamina') ?? false

interface Outcome {
  status: number | null
  stderr: string
}

function lamina(args: readonly string[], env: NodeJS.ProcessEnv = {}): Outcome {
  return run([path.join(PROJECT, 'bin/lamina.js'), ...args], env)
}

function dropIn(args: readonly string[], cwd?: string): Outcome {
  return run([path.join(PROJECT, 'bin/fuse-lamina.js'), ...args], {}, cwd)
}

function run(argv: string[], env: NodeJS.ProcessEnv, cwd?: string): Outcome {
  const done = spawnSync(process.execPath, argv, {
    encoding: 'utf8',
    timeout: 20_000,
    env: { ...process.env, ...env },
    ...(cwd === undefined ? {} : { cwd }),
  })
  return { status: done.status, stderr: done.stderr }
}

/** lower, upper, work and mnt, made. */
function directories(scratch: Scratch): { lower: string; upper: string; work: string; mnt: string } {
  return {
    lower: scratch.mkdir('lower'),
    upper: scratch.mkdir('upper'),
    work: scratch.mkdir('work'),
    mnt: scratch.mkdir('mnt'),
  }
}

function options(lower: string, upper?: string, work?: string): string {
  return [
    `lowerdir=${lower}`,
    ...(upper === undefined ? [] : [`upperdir=${upper}`]),
    ...(work === undefined ? [] : [`workdir=${work}`]),
  ].join(',')
}

/** Both programs refuse, in one line that matches, and mount nothing. */
function refused(t: Test, mnt: string, list: string, message: RegExp): void {
  for (const outcome of [lamina(['mount', '-o', list, mnt]), dropIn(['-o', list, mnt])]) {
    t.not(outcome.status, 0)
    t.match(outcome.stderr, message)
    t.equal(outcome.stderr.trimEnd().split('\n').length, 1, 'one line')
    t.notMatch(outcome.stderr, /\n {4}at /, 'no stack')
  }
  t.notMatch(fs.readFileSync('/proc/self/mountinfo', 'utf8'), ` ${mnt} `)
}

t.test('a lowerdir that does not exist', { skip }, async t => {
  using scratch = new Scratch('missing-lower')
  const { lower, upper, work, mnt } = directories(scratch)
  refused(t, mnt, options(`${lower}:${scratch.path('none')}`), /lowerdir '.*\/none' does not exist/)
  refused(t, mnt, options(lower, scratch.path('none'), work), /upperdir '.*\/none' does not exist/)
  refused(t, mnt, options(lower, upper, scratch.path('none')), /workdir '.*\/none' does not exist/)
  refused(t, scratch.path('none'), options(lower), /mountpoint '.*\/none' does not exist/)
})

t.test('a layer or mountpoint that is no directory', { skip }, async t => {
  using scratch = new Scratch('no-directory')
  const { lower, mnt } = directories(scratch)
  fs.writeFileSync(scratch.path('file'), '')
  refused(t, mnt, options(scratch.path('file')), /lowerdir '.*\/file' is not a directory/)
  refused(t, scratch.path('file'), options(lower), /mountpoint '.*\/file' is not a directory/)
  refused(t, mnt, options(scratch.path('file/deeper')), /is not a directory/)
})

t.test('a workdir on another filesystem than upperdir', { skip }, async t => {
  using scratch = new Scratch('other-fs')
  const { lower, upper, work, mnt } = directories(scratch)
  mountTmpfs(work, 'size=1m')
  try {
    refused(t, mnt, options(lower, upper, work), /workdir '.*' is on another filesystem than upperdir/)
  } finally {
    umount(work)
  }
})

t.test('a workdir that is reached through another mount of the same filesystem', { skip }, async t => {
  using scratch = new Scratch('other-mount')
  const { lower, upper, work, mnt } = directories(scratch)
  execFileSync('mount', ['--bind', work, work])
  try {
    refused(t, mnt, options(lower, upper, work), /workdir '.*' is on another mount than upperdir/)
  } finally {
    umount(work)
  }
})

t.test('a workdir that holds what no overlay made', { skip }, async t => {
  using scratch = new Scratch('foreign-work')
  const { lower, upper, work, mnt } = directories(scratch)
  fs.writeFileSync(path.join(work, 'thesis.txt'), 'years')
  refused(t, mnt, options(lower, upper, work), /workdir '.*' is not empty \('thesis.txt'\)/)
  fs.renameSync(path.join(work, 'thesis.txt'), path.join(work, 'work'))
  refused(t, mnt, options(lower, upper, work), /workdir '.*' is not empty/)
  t.equal(fs.readFileSync(path.join(work, 'work'), 'utf8'), 'years', 'and it is still there')
})

t.test('an upperdir that a live mount uses', { skip }, async t => {
  using scratch = new Scratch('upper-in-use')
  const mount = scratch.overlay('lamina')
  const { upper = '', work = '' } = mount.request
  const [other, otherWork] = [scratch.mkdir('other'), scratch.mkdir('other-work')]
  const lower = scratch.mkdir('lower')
  refused(
    t,
    other,
    options(lower, upper, otherWork),
    /upperdir '.*' is in use by the mount at '.*\/mnt' \(pid \d+\)/,
  )
  refused(
    t,
    other,
    options(lower, scratch.mkdir('other-upper'), work),
    /workdir '.*' is in use by the mount at/,
  )
  t.ok(mount.alive())
})

t.test(
  "an upperdir that the kernel's overlayfs uses",
  { skip: skip || unavailable('kernel') || false },
  async t => {
    using scratch = new Scratch('upper-in-kernel')
    const mount = scratch.overlay('kernel')
    const lower = scratch.mkdir('lower')
    // The fixture names the kernel's directories relative to the mountpoint's parent, so name them here in full.
    mount.unmount()
    const list = options(lower, mount.request.upper, mount.request.work)
    execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', list, mount.mountpoint])
    try {
      refused(
        t,
        scratch.mkdir('other'),
        list,
        /upperdir '.*' is in use by the kernel's overlay mount at '.*\/mnt'/,
      )
    } finally {
      umount(mount.mountpoint)
    }
  },
)

t.test('layers that lie in one another', { skip }, async t => {
  using scratch = new Scratch('nested')
  const { lower, upper, work, mnt } = directories(scratch)
  const inner = scratch.mkdir('lower/up')
  const innerWork = scratch.mkdir('lower/work')
  refused(t, mnt, options(lower, inner, innerWork), /upperdir '.*' is inside lowerdir/)
  refused(t, mnt, options(lower, upper, innerWork), /workdir '.*' is inside lowerdir/)
  refused(t, mnt, options(scratch.mkdir('upper/low'), upper, work), /lowerdir '.*' is inside upperdir/)
  refused(t, mnt, options(lower, upper, upper), /upperdir '.*' is the same directory as workdir/)
  refused(t, mnt, options(lower, lower, work), /upperdir '.*' is the same directory as lowerdir/)
  fs.symlinkSync(lower, scratch.path('link'))
  refused(t, mnt, options(lower, scratch.path('link/up'), work), /upperdir '.*' is inside lowerdir/)
})

t.test('a name that is too long', { skip }, async t => {
  using scratch = new Scratch('too-long')
  const { lower, mnt } = directories(scratch)
  refused(t, mnt, options(scratch.path('x'.repeat(256))), /lowerdir '.*' ?: name too long/)
  refused(t, mnt, options(`${lower}${'/.'.repeat(3000)}`), /lowerdir '.*': name too long/)
  refused(t, mnt, `${options(lower)},fsname=${'f'.repeat(5000)}`, /fsname is too long/)
  refused(t, mnt, `${options(lower)},subtype=${'f'.repeat(100)}`, /subtype/)
})

t.test('a wrong option value', { skip }, async t => {
  using scratch = new Scratch('wrong-option')
  const { lower, mnt } = directories(scratch)
  refused(t, mnt, `${options(lower)},timeout=soon`, /option timeout=soon: expected seconds/)
  refused(t, mnt, 'ro', /no lowerdir given/)
})

t.test('an unknown option is an error of lamina mount and a remark of fuse-lamina', { skip }, async t => {
  using scratch = new Scratch('unknown-option')
  const { lower, mnt } = directories(scratch)
  const strict = lamina(['mount', '-o', `${options(lower)},frobnicate=3`, mnt])
  t.equal(strict.status, 2)
  t.match(strict.stderr, /unknown option: frobnicate=3/)
  const lenient = dropIn(['-o', `${options(lower)},frobnicate=3`, '--shiny', mnt])
  t.equal(lenient.status, 0)
  t.equal(lenient.stderr, 'unknown argument ignored: --shiny\nunknown argument ignored: frobnicate=3\n')
  t.equal(lamina(['umount', mnt]).status, 0)
})

t.test('a mountpoint that shows a Lamina mount already', { skip }, async t => {
  using scratch = new Scratch('already')
  const mount = scratch.overlay('lamina')
  const outcome = lamina(['mount', '--lower', scratch.mkdir('lower'), mount.mountpoint])
  t.equal(outcome.status, 1)
  t.match(outcome.stderr, /'.*\/mnt' is a Lamina mount already \(pid \d+\)/)
})

t.test('a mountpoint whose daemon was killed says so', { skip }, async t => {
  using scratch = new Scratch('dead')
  const { lower, mnt } = directories(scratch)
  t.equal(lamina(['mount', '--lower', lower, mnt]).status, 0)
  const pid = Number(execFileSync('pgrep', ['-f', '--', mnt], { encoding: 'utf8' }))
  process.kill(pid, 'SIGKILL')
  while (fs.existsSync(`/proc/${pid}/fd/0`)) await new Promise(resolve => setImmediate(resolve))
  const outcome = dropIn(['-o', options(lower), mnt])
  t.equal(outcome.status, 1)
  t.match(outcome.stderr, /^fuse-lamina: mountpoint '.*' is a dead FUSE mount .*; umount it first\n$/)
  t.equal(lamina(['umount', mnt]).status, 0, 'lamina umount takes it away')
})

t.test('no /dev/fuse, and no permission', { skip }, async t => {
  using scratch = new Scratch('no-device')
  const { lower, mnt } = directories(scratch)
  const mountIt = `node='${process.execPath}'; exec "$node" '${path.join(PROJECT, 'bin/lamina.js')}' mount --lower '${lower}' '${mnt}'`
  // A private mount namespace whose /dev has no fuse.
  const noDevice = spawnSync(
    'unshare',
    [
      '-m',
      '--propagation',
      'private',
      'sh',
      '-c',
      `mount -t tmpfs none /dev && mknod /dev/null c 1 3 && ${mountIt}`,
    ],
    { encoding: 'utf8', timeout: 20_000 },
  )
  t.equal(noDevice.status, 1)
  t.match(noDevice.stderr, /^lamina: no \/dev\/fuse: .*\n$/)
  // Somebody else's mountpoint, for a user who may not mount.
  const run = fs.mkdtempSync('/tmp/lamina-run-')
  fs.chownSync(run, 65534, 65534)
  const noPermission = spawnSync(
    'setpriv',
    ['--reuid=65534', '--regid=65534', '--clear-groups', 'sh', '-c', mountIt],
    {
      encoding: 'utf8',
      timeout: 20_000,
      env: { ...process.env, LAMINA_RUN: run },
    },
  )
  fs.rmSync(run, { recursive: true })
  t.equal(noPermission.status, 1)
  t.match(noPermission.stderr, /^lamina: no permission .*\n$/)
})
