import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { existsSync, readFileSync, readdirSync, statSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { t } from 'tap'
import { importRootfs } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { skipBox, withBox } from './box-image.js'
import { Bench, lacking, leftovers, PROJECT } from './fixture.js'

const skip = skipBox

for (const runtime of ['', 'none']) {
  t.test(
    `run ${runtime === '' ? 'in an OCI runtime' : 'without a runtime'}: output, exit code, user, volumes, --rm`,
    { skip },
    async t => {
      const bench = await withBox(t)
      const env = { LAMINA_RUNTIME: runtime, LAMINA_STORAGE_DRIVER: 'overlay2' }
      const lamina = (...args: string[]) =>
        bench.laminaWith({ env, input: 'typed\n' }, 'run', '--rm', ...args)
      const first = lamina(
        '-i',
        '-v',
        'data:/var/data',
        '-v',
        '/anon',
        '--tmpfs',
        '/t',
        '-e',
        'A=b c',
        '-u',
        'web',
        '-w',
        '/made/here',
        'box',
        'sh',
        '-c',
        'cat; cat /var/data/seed; echo "$A $COLOUR"; id -u; echo $PWD; ls -d /anon /t; exit 7',
      )
      t.equal(first.status, 7, first.stderr)
      t.equal(first.stdout, 'typed\nseed\nb c red\n33\n/made/here\n/anon\n/t\n')
      const second = lamina('-v', 'data:/keep', 'box', 'sh', '-c', 'echo more > /keep/more')
      t.equal(second.status, 0, second.stderr)
      t.equal(
        lamina(
          '-v',
          'data:/keep:ro',
          'box',
          'sh',
          '-c',
          'cat /keep/more; touch /keep/x 2>&1; kill -TERM $$; exit 3',
        ).stdout.split('\n')[0],
        'more',
      )
      t.equal(lamina('box').stdout, 'the command\n')
      const refused = lamina('-v', 'data:/dev/x', 'box')
      t.match(refused.stderr, /run cannot mount on \/dev\/x/)
      t.equal(refused.status, 125)
      t.equal(lamina('--network', 'x', 'box').status, 125)
      const missing = lamina('box', 'nosuch')
      t.match(missing.stderr, /^lamina: there is no program 'nosuch' in the image: PATH is \/usr.*\n$/)
      t.equal(missing.status, 127)
      t.equal(lamina('box', '/etc/passwd').status, 126)
      t.equal(lamina('-w', '/bin', 'box', './sh', '-c', 'exit 1').status, 1)
      using store = await bench.open()
      t.same(
        store.volumes.list().map(volume => volume.name),
        ['data'],
        'anonymous volumes went, the named one stayed',
      )
      t.same(store.containers.list(), [])
      t.same(leftovers(bench.root), [])
    },
  )
}

t.test('a signal reaches the command, and nothing is left of it', { skip }, async t => {
  const bench = await withBox(t)
  const script = 'trap "echo got it; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
  const child = spawn(
    process.execPath,
    [join(PROJECT, 'bin/lamina.js'), 'run', '--rm', 'box', 'sh', '-c', script],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, LAMINA_ROOT: bench.root, LAMINA_STORAGE_DRIVER: 'overlay2' },
    },
  )
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    said += chunk
    if (said === 'ready\n') child.kill('SIGTERM')
  })
  const code = await new Promise(resolve => child.once('close', resolve))
  t.equal(said, 'ready\ngot it\n')
  t.equal(code, 9)
  t.same(leftovers(bench.root), [])
  t.ok(readFileSync('/etc/resolv.conf'), 'the host has its own still')
})

for (const runtime of ['', 'none']) {
  t.test(
    `exec ${runtime === '' ? 'in an OCI runtime' : 'without a runtime'}: the container's mounts, ids and names`,
    { skip },
    async t => {
      const bench = await withBox(t)
      const env = { LAMINA_RUNTIME: runtime, LAMINA_STORAGE_DRIVER: 'overlay2' }
      const child = start(
        bench,
        env,
        ['--rm', '--name', 'web', '--tmpfs', '/t', '-e', 'A=b', '--hostname', 'box', 'box'],
        ['sh', '-c', 'touch /t/here; echo ready; while [ ! -e /t/end ]; do sleep 0.1; done; exit 4'],
      )
      await said(child, 'ready\n')
      const exec = (...words: string[]) => bench.laminaWith({ env, input: 'typed\n' }, 'exec', ...words)
      const first = exec(
        '-i',
        '-u',
        'web',
        '-w',
        '/var',
        '-e',
        'C=d',
        'web',
        'sh',
        '-c',
        'cat; ls /t; id -u; echo $A $C $PWD; hostname; exit 5',
      )
      t.equal(first.status, 5, first.stderr)
      t.equal(first.stdout, 'typed\nhere\n33\nb d /var\nbox\n')
      t.match(bench.lamina('container', 'rm', 'web').stderr, /is running/)
      t.match(exec('-u', 'web', 'web', 'id').stdout, /groups=33/, 'the primary group cannot be shed')
      t.equal(exec('web', 'nosuch').status, 127)
      const end = exec('web', 'touch', '/t/end')
      t.equal(end.status, 0, end.stderr)
      t.equal(await ended(child), 4)
      t.match(exec('web', 'ls').stderr, /web/)
      t.same(leftovers(bench.root), [])
    },
  )

  t.test(
    `a run ${runtime === '' ? 'in an OCI runtime' : 'without a runtime'} killed with -9 is ended by the next command`,
    { skip },
    async t => {
      const bench = await withBox(t)
      const env = { LAMINA_RUNTIME: runtime, LAMINA_STORAGE_DRIVER: 'overlay2' }
      const mark = `mark-${process.pid}-${runtime}`
      const child = start(
        bench,
        env,
        ['--rm', '-v', 'data:/data', '-v', '/anon', 'box'],
        ['sh', '-c', `echo ready; while :; do sleep 0.1; done; echo ${mark}`],
      )
      await said(child, 'ready\n')
      t.not(running(mark), 0)
      child.kill('SIGKILL')
      await ended(child)
      t.equal(bench.run('container', 'ls', '-a', '-q'), '', 'the container went with its command')
      t.equal(running(mark), 0, 'and so did the process')
      t.equal(bench.run('volume', 'ls', '-q'), 'data\n')
      t.equal(bench.lamina('system', 'check').status, 0)
      t.same(leftovers(bench.root), [])
    },
  )

  t.test(
    `an image ${runtime === '' ? 'in an OCI runtime' : 'without a runtime'} whose system directories are symlinks to the host`,
    { skip },
    async t => {
      const bench = await withBox(t)
      const outside = new Bench(t)
      const target = outside.tree('target', { kept: 'kept' })
      const store = await bench.open()
      const tree = bench.path('tree')
      for (const name of ['proc', 'dev', 'sys'])
        symlinkSync(`../../../../../../../../..${target}`, `${tree}/${name}`)
      await importRootfs(store, packTree(tree), { name: 'evil' })
      store.close()
      const before = readFileSync('/proc/self/mountinfo', 'utf8')
      bench.laminaWith(
        { env: { LAMINA_RUNTIME: runtime } },
        'run',
        '--rm',
        'evil',
        'sh',
        '-c',
        'echo > /dev/null',
      )
      t.same(readdirSync(target), ['kept'], 'nothing was made outside')
      t.equal(readFileSync('/proc/self/mountinfo', 'utf8'), before, 'and nothing mounted')
      t.same(leftovers(bench.root), [])
    },
  )
}

t.test(
  '--uidmap: root of the container is somebody else on the host, and root in the image',
  { skip: skip || lacking('crun') || false },
  async t => {
    const bench = await withBox(t)
    const words = [
      '--name',
      'mapped',
      '--uidmap',
      '0:100000:65536',
      '-v',
      'data:/var/data',
      '-w',
      '/made/here',
      'box',
    ]
    const script =
      'id -u; stat -c %u /bin/sh /made/here /var/data/seed; echo x > /file; echo y > /var/data/file; cat /proc/self/uid_map'
    const { status, stdout, stderr } = bench.lamina('run', ...words, 'sh', '-c', script)
    t.equal(status, 0, stderr)
    t.match(stdout, /^0\n0\n0\n0\n +0 +100000 +65536\n$/)
    using store = await bench.open()
    const box = store.containers.boxOf(store.containers.find('mapped'))
    t.equal(statSync(`${box.dir}/diff/file`).uid, 0, 'on disk as in the image')
    t.equal(
      statSync(`${store.volumes.find('data').mountpoint}/file`).uid,
      100000,
      'in a volume as on the host',
    )
    bench.run('container', 'cp', join(PROJECT, 'package.json'), 'mapped:/copied')
    t.equal(statSync(`${box.dir}/diff/copied`).uid, 0)
    t.match(bench.lamina('run', '--uidmap', '0:1', 'box').stderr, /CONTAINER:HOST:LENGTH/)
    t.same(leftovers(bench.root), [])
    t.notOk(existsSync(`/run/lamina-rootfs/${store.containers.find('mapped').id}`))
  },
)

/** A terminal of 33 lines (which a runtime may say a moment after the start), then of 44; then Ctrl-C. Prints what came, and the exit code. */
const TERMINAL = `
import pty, os, fcntl, termios, struct, sys, time
size = lambda fd, rows: fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, 77, 0, 0))
pid, fd = pty.fork()
if pid == 0:
  size(0, 33)
  os.execvp(sys.argv[1], sys.argv[1:])
out, typed = b'', 0
while True:
  try: out += os.read(fd, 4096)
  except OSError: break
  if b'ready' in out and typed == 0:
    typed = 1
    size(fd, 44)
  if b'44 77' in out and typed == 1:
    typed = 2
    os.write(fd, b'\\x03')
print(out.decode().replace('\\r\\n', ' '), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))`

for (const runtime of ['', 'none']) {
  t.test(
    `a terminal ${runtime === '' ? 'in an OCI runtime' : 'without a runtime'}: its size, a new size, Ctrl-C`,
    { skip: skip || lacking('python3') || false },
    async t => {
      const bench = await withBox(t)
      // In the very first moment crun's terminal has no size yet, and what is said then may be lost.
      const script =
        'until first=$(busybox stty size 2>/dev/null); [ -n "$first" ] && [ "$first" != "0 0" ]; do sleep 0.05; done; trap "echo $first; busybox stty size" WINCH; sleep 0.5; echo ready; while :; do sleep 0.1; done'
      const words = ['run', '--rm', '-it', 'box', 'sh', '-c', script]
      const { stdout, stderr } = spawnSync(
        'python3',
        ['-c', TERMINAL, process.execPath, join(PROJECT, 'bin/lamina.js'), ...words],
        {
          encoding: 'utf8',
          timeout: 60_000,
          env: { ...process.env, LAMINA_ROOT: bench.root, LAMINA_RUNTIME: runtime },
        },
      )
      t.equal(stdout, 'ready 33 77 44 77 ^C 130\n', stderr)
      t.same(leftovers(bench.root), [])
    },
  )
}

t.test('rm --force ends a run --rm, whoever of the two removes the container', { skip }, async t => {
  const bench = await withBox(t)
  for (let round = 0; round < 3; round += 1) {
    const child = start(
      bench,
      {},
      ['--rm', '--name', 'web', '-v', '/anonymous', 'box'],
      ['sh', '-c', 'echo ready; sleep 60'],
    )
    await said(child, 'ready\n')
    const { status, stderr } = bench.lamina('container', 'rm', '--force', '--volumes', 'web')
    t.equal(status, 0, stderr)
    t.equal(await ended(child), 137)
    t.equal(bench.run('container', 'ls', '-a', '-q') + bench.run('volume', 'ls', '-q'), '')
  }
  t.same(leftovers(bench.root), [])
})

t.test('a bundle for a runtime of one’s own', { skip: skip || lacking('crun') || false }, async t => {
  const bench = await withBox(t)
  bench.run(
    'container',
    'create',
    '--name',
    'one',
    '-e',
    'A=b',
    '-w',
    '/srv',
    'box',
    'sh',
    '-c',
    'echo $A $PWD',
  )
  const dir = bench.run('container', 'bundle', 'one', bench.path('bundle')).trim()
  const config = JSON.parse(readFileSync(`${dir}/config.json`, 'utf8')) as {
    process: { args: string[]; cwd: string }
    root: { path: string }
  }
  t.same(config.process.args, ['sh', '-c', 'echo $A $PWD'])
  t.equal(config.process.cwd, '/srv')
  t.ok(existsSync(`${config.root.path}/bin/busybox`), 'the rootfs is mounted')
  bench.run('container', 'umount', 'one')
  bench.run('container', 'commit', 'one', 'committed')
  t.match(bench.run('image', 'ls'), /committed/)
  t.same(leftovers(bench.root), [])
})

function start(bench: Bench, env: NodeJS.ProcessEnv, options: string[], words: string[]): ChildProcess {
  return spawn(process.execPath, [join(PROJECT, 'bin/lamina.js'), 'run', ...options, ...words], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, LAMINA_ROOT: bench.root, ...env },
  })
}

/** Waits for the first output; the rest goes nowhere. */
async function said(child: ChildProcess, text: string): Promise<void> {
  let all = ''
  await new Promise<void>((resolve, reject) => {
    child.stdout?.on('data', (chunk: Buffer) => {
      all += chunk.toString()
      if (all === text) resolve()
    })
    child.once('exit', () => reject(new Error(`the command ended: ${all}`)))
  })
}

async function ended(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode
  return await new Promise(resolve => child.once('exit', code => resolve(code)))
}

/** How many processes have the word in their command line. */
function running(word: string): number {
  return readdirSync('/proc').filter(name => {
    if (!/^\d+$/.test(name)) return false
    try {
      return readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(word)
    } catch {
      return false
    }
  }).length
}
