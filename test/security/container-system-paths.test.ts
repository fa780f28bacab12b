import { spawnSync, type SpawnSyncReturns } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { t } from 'tap'
import { importRootfs } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { skipBox, withBox } from '../manager/box-image.js'
import { lacking, leftovers, PROJECT, run, type Bench } from '../manager/fixture.js'
import { runtimes } from './runtimes.js'

/**
 * Images in which the places where a container's system mounts go are something else: what is mounted, masked, made or opened there
 * stays in the container, or it is refused in one line.
 */

t.setTimeout(280_000)

/** Symlinks (`-> target`) and files (text) by path. */
type Places = Readonly<Record<string, string>>

/** @param outside a directory of the host's */
const hostile = (outside: string): Readonly<Record<string, Places>> => ({
  'to the host': { proc: `-> ${outside}`, sys: `-> ${outside}`, dev: `-> ${outside}` },
  'up and up': {
    proc: `-> ../../../../../../..${outside}`,
    sys: `-> ../../../../../../..${outside}/dir`,
    dev: `-> ../../../../../../..${outside}/dir`,
  },
  'through a descriptor': {
    proc: '-> /proc/self/fd/7',
    sys: '-> /proc/1/root/sys',
    dev: `-> /proc/1/root${outside}`,
  },
  'sys to the host': { sys: `-> ${outside}` },
  'dev to the host': { dev: `-> ${outside}` },
  'to each other': { proc: '-> sys', sys: '-> dev', 'dev/x': 'x' },
  'in a circle': { proc: '-> sys', sys: '-> proc', dev: '-> dev' },
  'to the root': { proc: '-> /', sys: '-> .', dev: '-> ..' },
  files: { proc: 'x', sys: 'x', dev: 'x' },
  'below them': {
    'dev/null': `-> ${outside}/file`,
    'dev/console': `-> ${outside}/file`,
    'dev/ptmx': `-> ${outside}/file`,
    'dev/pts': `-> ${outside}/dir`,
    'dev/shm': `-> ${outside}/dir`,
    'dev/mqueue': `-> ${outside}/dir`,
    'dev/fd': `-> ${outside}/dir`,
    'proc/self': `-> ${outside}/dir`,
    'proc/sys': `-> ${outside}/dir`,
    'proc/kcore': `-> ${outside}/file`,
    'sys/firmware': `-> ${outside}/dir`,
  },
})

/** What a command does with them. Nothing of it may fail in a way that ends the command. */
const SCRIPT = `cat /secret /dev/secret /proc/secret /sys/secret /proc/keys 2>/dev/null
  for path in /dev/null /dev/console /dev/ptmx /dev/shm/made /proc/self/attr/exec /proc/sysrq-trigger /proc/sys/kernel/domainname /sys/made
  do (echo written > $path) 2>/dev/null; done
  mkdir /dev/made /proc/made /sys/made 2>&1 | cat - >/tmp/said
  echo end`

const TERMINAL = 'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))'

function inTerminal(
  bench: Bench,
  env: NodeJS.ProcessEnv,
  words: readonly string[],
): SpawnSyncReturns<string> {
  const program = [process.execPath, join(PROJECT, 'bin/lamina.js')]
  return spawnSync('python3', ['-c', TERMINAL, ...program, ...words], {
    encoding: 'utf8',
    input: '',
    timeout: 60_000,
    env: { ...process.env, LAMINA_ROOT: bench.root, ...env },
  })
}

for (const { name, env } of runtimes()) {
  t.test(
    `CVE-2025-31133, 52565, 52881: /proc, /sys and /dev of an image lead nowhere, ${name}`,
    { skip: skipBox || lacking('python3') || false },
    async t => {
      const bench = await withBox(t)
      const outside = bench.path('outside')
      const look = (): string =>
        run('sh', [
          '-c',
          'cd "$1" && find . -printf "%p %m %U %s %T@ %l\\n" | sort && cat file secret dir/secret',
          'sh',
          outside,
        ])
      mkdirSync(join(outside, 'dir'), { recursive: true })
      for (const file of ['file', 'secret', 'dir/secret']) writeFileSync(join(outside, file), 'HOSTSECRET')
      const before = look()
      const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
      const domain = readFileSync('/proc/sys/kernel/domainname', 'utf8')

      const images = Object.entries(hostile(outside))
      const store = await bench.open()
      for (const [index, [, places]] of images.entries()) {
        const tree = bench.path(`image${index}`)
        cpSync(bench.path('tree'), tree, { recursive: true, verbatimSymlinks: true })
        mkdirSync(join(tree, 'tmp'))
        for (const [path, what] of Object.entries(places)) {
          mkdirSync(dirname(join(tree, path)), { recursive: true })
          if (what.startsWith('-> ')) symlinkSync(what.slice(3), join(tree, path))
          else writeFileSync(join(tree, path), what)
        }
        await importRootfs(store, packTree(tree), { name: `image${index}` })
        rmSync(tree, { recursive: true })
      }
      store.close()
      for (const [index, [what]] of images.entries()) {
        // With a terminal, too: it is where /dev/console is made.
        for (const words of [[], ...(/^(dev|below)/.test(what) ? [['-t']] : [])]) {
          const command = ['run', '--rm', ...words, `image${index}`, 'sh', '-c', SCRIPT]
          const ran =
            words.length === 0 ? bench.laminaWith({ env }, ...command) : inTerminal(bench, env, command)
          const said = `${what} ${words.join('')}: ${ran.status} ${ran.stdout}${ran.stderr}`
          t.comment(said)
          if (ran.status === 0) t.match(ran.stdout, /^(.*\n)?end\r?\n$/s, said)
          else t.match((ran.stderr + (words.length > 0 ? ran.stdout : '')).trim(), /^.+$/, said)
          t.notMatch(ran.stdout + ran.stderr, 'HOSTSECRET', said)
          t.equal(look(), before, said)
        }
      }
      t.equal(readFileSync('/proc/self/mountinfo', 'utf8'), mounts, 'nothing is mounted')
      t.equal(readFileSync('/proc/sys/kernel/domainname', 'utf8'), domain)
      t.ok(spawnSync('test', ['-c', '/dev/null']).status === 0)
      t.same(leftovers(bench.root), [])
    },
  )

  t.test(`CVE-2024-45310: what is made to mount on is made inside, ${name}`, { skip: skipBox }, async t => {
    const bench = await withBox(t)
    const outside = bench.path('outside')
    mkdirSync(outside)
    const tree = bench.path('tree')
    symlinkSync(outside, join(tree, 'link'))
    symlinkSync(`../../../../../../../..${outside}`, join(tree, 'up'))
    symlinkSync(`${outside}/dangling`, join(tree, 'dangling'))
    const store = await bench.open()
    await importRootfs(store, packTree(tree), { name: 'links', changes: ['VOLUME /link/volume'] })
    store.close()
    const file = join(bench.tree('own', { file: 'text' }), 'file')
    const { status, stdout, stderr } = bench.laminaWith(
      { env },
      ...[
        'run',
        '--rm',
        '-v',
        `${file}:/link/a/file`,
        '-v',
        `${file}:/dangling`,
        '-v',
        `${bench.path('own')}:/up/b`,
      ],
      ...['--tmpfs', '/link/c/d', '--device', '/dev/null:/link/dev/nothing', '-w', '/link/work', 'links'],
      ...['sh', '-c', 'cat /link/a/file /dangling /up/b/file; ls /link'],
    )
    t.equal(status, 0, stderr)
    t.equal(stdout, 'texttexttexta\nb\nc\ndangling\ndev\nvolume\nwork\n')
    t.equal(run('ls', ['-A', outside]), '')
    t.same(leftovers(bench.root), [])
  })

  t.test(
    `--uidmap: /sys of the host is read-only with all that is mounted below it, ${name}`,
    { skip: skipBox || (name === 'none' && 'takes a runtime') },
    async t => {
      const bench = await withBox(t)
      const { status, stdout, stderr } = bench.laminaWith(
        { env: { ...env, LAMINA_STORAGE_DRIVER: 'fuse' } },
        ...['run', '--rm', '--uidmap', '0:100000:65536', 'box', 'cat', '/proc/self/mountinfo'],
      )
      t.equal(status, 0, stderr)
      const sys = stdout.split('\n').filter(line => /^\/sys(\/|$)/.test(line.split(' ')[4] ?? ''))
      t.not(sys.length, 0)
      t.same(
        sys.filter(line => !(line.split(' ')[5] ?? '').split(',').includes('ro')),
        [],
      )
    },
  )
}
