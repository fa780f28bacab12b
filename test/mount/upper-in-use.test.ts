import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { lamina, PROJECT, runAsNobody, Scratch, unavailable } from './fixture.js'

/** Who has an upperdir: what is refused, and by which line, what is waited for, and what is taken over. */

const skip = unavailable('lamina') ?? false
const LAMINA = path.join(PROJECT, 'bin/lamina.js')

/** A mount of lower, upper and work at `name`, in a mount namespace of its own that ends with the script. */
function mountApart(scratch: Scratch, options = '', then = ''): ChildProcess | undefined {
  for (const name of ['lower', 'upper', 'work', 'apart']) scratch.mkdir(name)
  const script = `"${process.execPath}" "${LAMINA}" mount -o "${layers(scratch)}${options}" "${scratch.path('apart')}" && echo first > "${scratch.path('apart/file')}"`
  const argv = ['-m', '--propagation', 'private', 'sh', '-ec', `${script}\n${then}`]
  if (then === '') {
    execFileSync('unshare', argv)
    return undefined
  }
  const child = spawn('unshare', argv, { stdio: ['pipe', 'pipe', 'inherit'] })
  return child
}

const layers = (scratch: Scratch): string =>
  `lowerdir=${scratch.path('lower')},upperdir=${scratch.path('upper')},workdir=${scratch.path('work')}`

const first = (child: ChildProcess): Promise<void> =>
  new Promise(resolve => child.stdout?.once('data', () => resolve()))

function refused(t: Test, scratch: Scratch): string {
  const argv = [LAMINA, 'mount', '-o', layers(scratch), scratch.mkdir('second')]
  const { status, stderr } = spawnSync(process.execPath, argv, { encoding: 'utf8' })
  t.not(status, 0, 'refused')
  t.equal(stderr.trimEnd().split('\n').length, 1, 'in one line')
  return stderr
}

t.test('a mount in a namespace with nobody but its daemon is taken over', { skip }, async t => {
  for (const options of ['', ',keeper=1']) {
    using scratch = new Scratch('yields')
    process.env['LAMINA_RUN'] = scratch.mkdir('run')
    mountApart(scratch, options)
    const before = fs.readdirSync(scratch.path('run')).filter(name => name.endsWith('.json'))
    t.equal(before.length, 1)
    const mount = scratch.mount({
      subject: 'lamina',
      lowers: [scratch.path('lower')],
      upper: scratch.path('upper'),
      work: scratch.path('work'),
      mountpoint: scratch.mkdir('mnt'),
    })
    t.equal(fs.readFileSync(path.join(mount.mountpoint, 'file'), 'utf8'), 'first\n')
    t.notOk(fs.existsSync(scratch.path('run', before[0] ?? '')), 'the first daemon has ended')
  }
})

t.test(
  'a mount that somebody can reach in another namespace is refused, and who that is',
  { skip },
  async t => {
    using scratch = new Scratch('reached')
    process.env['LAMINA_RUN'] = scratch.mkdir('run')
    const child = mountApart(scratch, '', `echo ready; exec cat`) as ChildProcess
    await first(child)
    t.match(
      refused(t, scratch),
      new RegExp(
        `^lamina: upperdir '.*/upper' is in use by the mount at '.*/apart' \\(pid \\d+\\) in another mount namespace, used by pid ${child.pid} \\(cat\\)\\n$`,
      ),
    )
    const view = scratch.mount({
      subject: 'lamina',
      lowers: [scratch.path('upper'), scratch.path('lower')],
      mountpoint: scratch.mkdir('view'),
    })
    t.equal(
      fs.readFileSync(path.join(view.mountpoint, 'file'), 'utf8'),
      'first\n',
      'its upper can be looked at',
    )
    t.throws(() => fs.writeFileSync(path.join(view.mountpoint, 'file'), ''), { code: 'EROFS' })
    view.unmount()
    const namespace = fs.openSync(`/proc/${child.pid}/ns/mnt`, 'r')
    child.kill('SIGKILL')
    await new Promise(resolve => child.once('exit', resolve))
    t.match(
      refused(t, scratch),
      new RegExp(`kept open by pid ${process.pid} \\(`),
      'nor while the namespace is held',
    )
    fs.closeSync(namespace)
    scratch
      .mount({
        subject: 'lamina',
        lowers: [scratch.path('lower')],
        upper: scratch.path('upper'),
        work: scratch.path('work'),
        mountpoint: scratch.mkdir('mnt'),
      })
      .unmount()
  },
)

t.test('a lock of somebody who keeps no record here is told by pid', { skip }, async t => {
  using scratch = new Scratch('unknown')
  process.env['LAMINA_RUN'] = scratch.mkdir('run')
  const child = mountApart(scratch, '', `echo ready; exec cat`) as ChildProcess
  await first(child)
  const pid = (
    JSON.parse(
      fs.readFileSync(
        scratch.path('run', fs.readdirSync(scratch.path('run')).find(name => name.endsWith('.json')) ?? ''),
        'utf8',
      ),
    ) as { pid: number }
  ).pid
  process.env['LAMINA_RUN'] = scratch.mkdir('run2')
  t.match(refused(t, scratch), new RegExp(`in use by another mount \\(pid ${pid} holds its lock\\)`))
  child.stdin?.end()
  await new Promise(resolve => child.once('exit', resolve))
  process.kill(pid, 'SIGTERM')
  while (fs.existsSync(`/proc/${pid}/fd/0`)) await new Promise(resolve => setTimeout(resolve, 5))
})

t.test('an ordinary user: a mount of a user namespace whose last process was killed', { skip }, async t => {
  using scratch = new Scratch('rootless-yields')
  const ran = runAsNobody(
    scratch,
    `
    mkdir lower upper work m1 m2
    export all="lowerdir=$PWD/lower,upperdir=$PWD/upper,workdir=$PWD/work"
    inside() { unshare -Urm sh -ec "$1"; }
    inside '"$node" "$lamina" mount -o $all m1; echo first > m1/file'
    inside '"$node" "$lamina" mount -o $all m2; cat m2/file; sleep 1000 & echo $! > sleeper'
    if inside '"$node" "$lamina" mount -o $all m1' 2>said; then exit 3; fi
    sed "s/.*pid/pid/" said
    kill -9 $(cat sleeper)
    while grep -q sleep /proc/$(cat sleeper)/comm 2>/dev/null; do :; done
    inside '"$node" "$lamina" mount -o $all,keeper=1 m1; cat m1/file; "$node" "$lamina" umount m1'
    `,
  )
  t.equal(ran.status, 0, ran.stderr)
  t.match(ran.stdout, /^first\npid \d+ \(sleep\)\nfirst\n$/)
})

t.test(
  "the kernel's overlay: by what its upperdir is, not by what it was called",
  { skip: unavailable('kernel') ?? skip },
  async t => {
    using scratch = new Scratch('by-object')
    process.env['LAMINA_RUN'] = scratch.mkdir('run')
    for (const name of ['lower', 'a/upper', 'a/work', 'b/upper', 'b/work', 'name', 'mnt', 'kernel'])
      scratch.mkdir(name)
    const run = (program: string, ...argv: string[]): void => {
      execFileSync(program, argv)
    }
    const name = scratch.path('name')
    const list = `lowerdir=${scratch.path('lower')},upperdir=${name}/upper,workdir=${name}/work`
    run('mount', '--bind', scratch.path('a'), name)
    run('mount', '-t', 'overlay', 'overlay', '-o', list, scratch.path('kernel'))
    const mountHere = () =>
      spawnSync(process.execPath, [LAMINA, 'mount', '-o', list, scratch.path('mnt')], { encoding: 'utf8' })
    t.match(mountHere().stderr, /upperdir '.*' is in use by the kernel's overlay mount at '.*\/kernel'/)
    run('umount', name)
    run('mount', '--bind', scratch.path('b'), name)
    t.equal(mountHere().stderr, '', 'another upper of the same name is free')
    fs.writeFileSync(scratch.path('mnt/own'), '')
    lamina('umount', scratch.path('mnt'))
    t.ok(fs.existsSync(scratch.path('b/upper/own')))
    run('umount', name)
    run('umount', scratch.path('kernel'))
  },
)
