import { spawn } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { t, type Test } from 'tap'
import { importRootfs } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { Bench, isRoot, lacking, leftovers, PROJECT } from './fixture.js'

t.setTimeout(180_000)
const BUSYBOX = '/bin/busybox'
const skip = !isRoot
  ? 'needs root'
  : (lacking('busybox') ?? (existsSync(BUSYBOX) ? false : 'no static busybox'))

/** A store with the image `box`: busybox and three users. */
async function withBox(t: Test): Promise<Bench> {
  const bench = new Bench(t)
  const tree = bench.tree('tree', {
    'etc/passwd': 'root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n',
    'var/data/seed': 'seed\n',
  })
  mkdirSync(join(tree, 'bin'))
  copyFileSync(BUSYBOX, join(tree, 'bin/busybox'))
  chmodSync(join(tree, 'bin/busybox'), 0o755)
  for (const name of ['sh', 'cat', 'id', 'echo', 'sleep', 'ls', 'env', 'touch'])
    symlinkSync('busybox', join(tree, 'bin', name))
  symlinkSync('../../../../run/resolv', join(tree, 'etc/resolv.conf'))
  const store = await bench.open()
  await importRootfs(store, packTree(tree), {
    name: 'box',
    changes: ['ENV COLOUR=red', 'CMD ["echo","the command"]'],
  })
  store.close()
  return bench
}

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
      t.match(lamina('-v', 'data:/dev/x', 'box').stderr, /run cannot mount on \/dev\/x/)
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
