import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { spawnSync } from 'node:child_process'
import { t, type Test } from 'tap'
import { Bench, isRoot, leftovers } from './fixture.js'

/** docker cp, rule by rule; and what a hostile image does with symlinks. */

const skip = isRoot ? false : 'needs root'

function withContainer(t: Test, files: Record<string, string>, links: Record<string, string> = {}): Bench {
  const bench = new Bench(t)
  const tree = bench.tree('tree', files)
  for (const [name, target] of Object.entries(links)) symlinkSync(target, `${tree}/${name}`)
  bench.run('image', 'import', tree, 'img')
  bench.run('container', 'create', '--name', 'c1', '-v', 'data:/data', 'img')
  return bench
}

/** What lies at a path of the container. */
function inside(bench: Bench, path: string): string {
  const root = bench.run('container', 'mount', 'c1').trim()
  try {
    return readFileSync(root + path, 'utf8')
  } finally {
    bench.run('container', 'umount', 'c1')
  }
}

t.test('where a copy goes, in and out', { skip }, t => {
  const bench = withContainer(t, { 'etc/conf': 'conf\n', 'srv/a/one': '1', 'srv/a/b/two': '2' })
  bench.tree('host', { file: 'file\n', 'dir/x': 'x', 'dir/sub/y': 'y' })
  const host = (name: string): string => bench.path('host', name)
  const cp = (...words: string[]): string => bench.run('container', 'cp', ...words)

  cp(host('file'), 'c1:/etc/new')
  t.equal(inside(bench, '/etc/new'), 'file\n', 'a new name')
  cp(host('file'), 'c1:/etc')
  t.equal(inside(bench, '/etc/file'), 'file\n', 'into a directory')
  cp(host('file'), 'c1:/etc/conf')
  t.equal(inside(bench, '/etc/conf'), 'file\n', 'over a file')
  cp(host('dir'), 'c1:/made')
  t.equal(inside(bench, '/made/sub/y'), 'y', 'a directory becomes the one that was not there')
  cp(host('dir'), 'c1:/srv')
  t.equal(inside(bench, '/srv/dir/x'), 'x', 'and goes into the one that was')
  cp(host('dir') + '/.', 'c1:/srv/a')
  t.equal(inside(bench, '/srv/a/sub/y'), 'y', 'DIR/. is what is in it')
  t.equal(inside(bench, '/srv/a/one'), '1', 'what was there stays')
  cp(host('file'), 'c1:/data/in-volume')
  const volume = bench.run('volume', 'inspect', '--format', '{{.mountpoint}}', 'data').trim()
  t.equal(readFileSync(`${volume}/in-volume`, 'utf8'), 'file\n', 'a volume is part of the container')

  cp('c1:/srv/a', bench.path('out'))
  t.equal(readFileSync(bench.path('out/b/two'), 'utf8'), '2')
  cp('c1:/srv/a', bench.path('out'))
  t.equal(readFileSync(bench.path('out/a/b/two'), 'utf8'), '2')
  cp('c1:srv/a/one', bench.path('one'))
  t.equal(readFileSync(bench.path('one'), 'utf8'), '1', 'a path is from the root, with or without a slash')

  const wrong = (...words: string[]): string => {
    const { status, stderr } = bench.lamina('container', 'cp', ...words)
    t.not(status, 0)
    t.equal(stderr.split('\n').length, 2, 'one line')
    return stderr
  }
  t.match(wrong(host('file'), 'c1:/etc/none/'), /no such directory/)
  t.match(wrong(host('file'), 'c1:/none/file'), /is not there/)
  t.match(wrong(host('dir'), 'c1:/etc/conf'), /to the file/)
  t.match(wrong('c1:/nowhere', '.'), /no such file/)
  t.match(wrong(host('file'), host('two')), /CONTAINER:PATH/)
  t.match(wrong('c1:/a', 'c1:/b'), /only one/)
  bench.tree('clash', { 'etc/conf/x': '' })
  t.match(wrong(bench.path('clash') + '/.', 'c1:/'), /over a file of that name/)
  t.same(leftovers(bench.root), [])
  t.end()
})

t.test('owners: those at the destination, or with -a those of the source', { skip }, t => {
  const bench = withContainer(t, { f: 'f' })
  bench.tree('host', { file: 'x' })
  chownSync(bench.path('host/file'), 1234, 1235)
  bench.run('container', 'cp', bench.path('host/file'), 'c1:/plain')
  bench.run('container', 'cp', '-a', bench.path('host/file'), 'c1:/kept')
  bench.run('container', 'cp', 'c1:/kept', bench.path('mine'))
  bench.run('container', 'cp', '-a', 'c1:/kept', bench.path('theirs'))
  t.equal(statSync(bench.path('mine')).uid, 0)
  t.equal(statSync(bench.path('theirs')).uid, 1234)
  const root = bench.run('container', 'mount', 'c1').trim()
  t.equal(statSync(`${root}/plain`).uid, 0)
  t.equal(statSync(`${root}/kept`).gid, 1235)
  bench.run('container', 'umount', 'c1')
  t.end()
})

t.test('a tar in and out', { skip }, t => {
  const bench = withContainer(t, { 'srv/a/one': '1', 'srv/a/b/two': '2', 'etc/conf': 'c' })
  const list = (path: string): string[] => {
    const input = bench.run('container', 'cp', path, '-')
    const out = spawnSync('tar', ['-t'], { input, encoding: 'utf8' })
    return out.stdout.split('\n').filter(Boolean).sort()
  }
  t.same(list('c1:/srv/a'), ['a/', 'a/b/', 'a/b/two', 'a/one'])
  t.same(list('c1:/etc/conf'), ['conf'])
  bench.tree('host', { 'p/q': 'from a tar\n' })
  const tar = spawnSync('tar', ['-cz', '-C', bench.path('host'), 'p']).stdout
  t.equal(bench.laminaWith({ input: tar }, 'container', 'cp', '-', 'c1:/srv').status, 0)
  t.equal(inside(bench, '/srv/p/q'), 'from a tar\n')
  t.match(bench.laminaWith({ input: tar }, 'container', 'cp', '-', 'c1:/etc/conf').stderr, /is no directory/)
  t.end()
})

t.test('symlinks of an image lead to places in it only', { skip }, t => {
  const outside = new Bench(t)
  outside.tree('target', { secret: 'secret\n' })
  const target = outside.path('target')
  const bench = withContainer(
    t,
    { 'real/inner': 'inner\n' },
    {
      up: '../../../../../../../../../../..' + target,
      absolute: target,
      file: `${target}/secret`,
      dangling: `${target}/made`,
      proc: '/proc/self/root' + target,
      relative: 'real/inner',
    },
  )
  bench.tree('host', { evil: 'evil\n' })
  const evil = bench.path('host/evil')
  for (const link of ['up', 'absolute', 'proc']) {
    bench.lamina('container', 'cp', evil, `c1:/${link}`)
    bench.lamina('container', 'cp', evil, `c1:/${link}/secret`)
    const read = bench.lamina('container', 'cp', `c1:/${link}/secret`, bench.path('stolen'))
    t.not(read.status, 0, `${link} does not lead out`)
    t.notOk(existsSync(bench.path('stolen')))
  }
  bench.lamina('container', 'cp', evil, 'c1:/file')
  bench.lamina('container', 'cp', evil, 'c1:/dangling')
  t.equal(readFileSync(`${target}/secret`, 'utf8'), 'secret\n', 'the host is as it was')
  t.notOk(existsSync(`${target}/made`))
  t.notOk(existsSync(`${target}/evil`))

  bench.run('container', 'cp', 'c1:/relative', bench.path('link'))
  t.equal(readlinkSync(bench.path('link')), 'real/inner', 'a symlink is copied as one')
  bench.run('container', 'cp', '-L', 'c1:/relative', bench.path('followed'))
  t.equal(readFileSync(bench.path('followed'), 'utf8'), 'inner\n')
  bench.run('container', 'cp', evil, 'c1:/relative')
  t.equal(inside(bench, '/real/inner'), 'evil\n', 'copied to a symlink: to what it names')
  const root = bench.run('container', 'mount', 'c1').trim()
  t.ok(lstatSync(`${root}/relative`).isSymbolicLink())
  bench.run('container', 'umount', 'c1')
  t.end()
})

t.test('hard links, sparse files and special files arrive as such', { skip }, t => {
  const bench = withContainer(t, { f: 'f' })
  mkdirSync(bench.path('h'))
  writeFileSync(bench.path('h/a'), 'linked')
  spawnSync('ln', [bench.path('h/a'), bench.path('h/b')])
  spawnSync('mkfifo', [bench.path('h/pipe')])
  spawnSync('truncate', ['-s', '64M', bench.path('h/sparse')])
  bench.run('container', 'cp', bench.path('h'), 'c1:/h')
  const root = bench.run('container', 'mount', 'c1').trim()
  t.equal(statSync(`${root}/h/a`).ino, statSync(`${root}/h/b`).ino)
  t.ok(statSync(`${root}/h/pipe`).isFIFO())
  t.equal(statSync(`${root}/h/sparse`).blocks, 0)
  bench.run('container', 'umount', 'c1')
  t.end()
})
