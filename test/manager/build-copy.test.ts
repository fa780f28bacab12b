import { chmodSync, linkSync, mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { readTree } from '../../src/manager/build/step-box.js'
import { isRoot, leftovers, run } from './fixture.js'
import { BuildBench } from './build-bench.js'

/** COPY, ADD and WORKDIR make the files, owners and modes that BuildKit makes. */

const skip = !isRoot && 'needs root'

/** A base with users, as a Containerfile's beginning. */
const USERS = `FROM scratch
COPY <<passwd <<group /etc/
root:x:0:0::/root:/bin/sh
node:x:1000:1001::/home/node:/bin/sh
passwd
node:x:1001:
extra:x:3000:
group
`

const below = (tree: readonly string[], ...names: string[]): string[] =>
  tree.filter(line =>
    names.some(name => line === name || line.startsWith(`${name} `) || line.startsWith(`${name}/`)),
  )

void t.test('WORKDIR belongs to the user of the stage, with all that it makes', { skip }, async t => {
  const bench = await BuildBench.open(t)
  const { tree } = await bench.build(`${USERS}WORKDIR /before
USER node
WORKDIR /home/node/app
WORKDIR sub
USER 7
WORKDIR /seven
USER node:extra
WORKDIR /before/extra
USER nobody-here
WORKDIR /unknown
`)
  t.same(below(tree, 'before', 'home', 'seven', 'unknown'), [
    'before d 755 0:0',
    'before/extra d 755 1000:3000',
    'home d 755 1000:1001',
    'home/node d 755 1000:1001',
    'home/node/app d 755 1000:1001',
    'home/node/app/sub d 755 1000:1001',
    'seven d 755 7:7',
    'unknown d 755 0:0',
  ])
})

void t.test('wildcards: none matches beside others, nothing at all is an error', { skip }, async t => {
  const bench = await BuildBench.open(t)
  const context = bench.bench.tree('context', {
    'package.json': '{}',
    'a/x/f': '1',
    'b/x/f': '22',
    '[odd]': 'o',
  })
  const { tree } = await bench.build(
    `FROM scratch
COPY package.json yarn.lock* none?.[a-z] /app/
COPY */x/? /many/
COPY [[]odd] ../package.json /odd/
COPY package.j[^x]on /negated/
`,
    { context },
  )
  t.same(
    tree.filter(line => line.includes(' f ')),
    [
      'app/package.json f 644 0:0 2',
      'many/f f 644 0:0 2',
      'negated/package.json f 644 0:0 2',
      'odd/[odd] f 644 0:0 1',
      'odd/package.json f 644 0:0 2',
    ],
  )
  const fails = async (line: string, message: RegExp): Promise<void> => {
    await t.rejects(bench.build(`FROM scratch\n${line}\n`, { context }), message, line)
  }
  await fails(
    'COPY yarn.lock* none* /app/',
    /line 2: nothing in the build context matches 'yarn.lock\*', 'none\*'/,
  )
  await fails('COPY none/*.x package.json /app/', /'none\/\*\.x' is not in the build context/)
  await fails('COPY package.json nope /app/', /'nope' is not in the build context/)
  await fails('COPY package.js[ /app/', /has a \[ without its \]/)
  await fails('COPY * /file', /several files cannot go to '\/file'/)
  t.same(leftovers(bench.bench.root), [])
})

void t.test('what .dockerignore hides leaves no trace', { skip }, async t => {
  const bench = await BuildBench.open(t)
  const context = bench.bench.tree('context', {
    'node_modules/secret/lib/f': 'x',
    'src/a.txt': 'y',
    'src/deep/er/kept.md': 'k',
    'src/deep/gone.txt': 'g',
    'only/hidden/f': 'h',
    'README.md': 'z',
  })
  mkdirSync(join(context, 'empty'))
  symlinkSync('../only/hidden', join(context, 'src/link'))
  chmodSync(join(context, 'src/deep'), 0o711)
  await t.test('with patterns and exceptions', async t => {
    const { tree } = await bench.build('FROM scratch\nCOPY . /d/\nADD src /s/\n', {
      context,
      ignore: '*\n!src\nsrc/deep\n!src/deep/er/*.md\n',
    })
    t.same(tree, [
      'd d 755 0:0',
      'd/src d 755 0:0',
      'd/src/a.txt f 644 0:0 1',
      'd/src/deep d 711 0:0',
      'd/src/deep/er d 755 0:0',
      'd/src/deep/er/kept.md f 644 0:0 1',
      'd/src/link l 0:0 -> ../only/hidden',
      's d 755 0:0',
      's/a.txt f 644 0:0 1',
      's/deep d 711 0:0',
      's/deep/er d 755 0:0',
      's/deep/er/kept.md f 644 0:0 1',
      's/link l 0:0 -> ../only/hidden',
    ])
  })
  await t.test('not by a symlink either, nor by its name', async t => {
    const ignore = 'only/hidden\n'
    const hidden =
      /'(src\/link|only\/hidden\/f)' is not in the build context \(a pattern of .dockerignore hides it\)/
    await t.rejects(bench.build('FROM scratch\nCOPY src/link /x/\n', { context, ignore }), hidden)
    await t.rejects(bench.build('FROM scratch\nCOPY only/hidden/f /x/\n', { context, ignore }), hidden)
    await t.rejects(
      bench.build('FROM scratch\nCOPY only/hidden/* /x/\n', { context, ignore }),
      /'only\/hidden\/\*' is not in the build context/,
    )
    const { tree } = await bench.build('FROM scratch\nCOPY only /x/\n', { context, ignore })
    t.same(tree, ['x d 755 0:0'])
  })
  await t.test('in the cache', async t => {
    const ignore = '*\n!src/a.txt\n'
    const file = 'FROM scratch\nCOPY . /d/\n'
    t.same((await bench.build(file, { context, ignore })).cached, [])
    writeFileSync(join(context, 'only/hidden/f'), 'changed')
    mkdirSync(join(context, 'new/hidden/directories'), { recursive: true })
    t.same((await bench.build(file, { context, ignore })).cached, ['COPY . /d/'])
    writeFileSync(join(context, 'src/a.txt'), 'changed')
    t.same((await bench.build(file, { context, ignore })).cached, [])
  })
})

void t.test('--exclude counts from each source', { skip }, async t => {
  const bench = await BuildBench.open(t)
  const context = bench.bench.tree('context', {
    'app/storage/views/v': '1',
    'app/storage/cache/c': '2',
    'app/a.log': '3',
    'app/a.txt': '4',
    'app/deep/b.log': '5',
    'one.log': '6',
    'one.txt': '7',
  })
  const { tree } = await bench.build(
    `FROM scratch
COPY --exclude=storage/views --exclude=*.log app /app/
COPY --exclude=**/*.log --exclude=storage --exclude=!storage/cache/c app/ /b
COPY --exclude=*.log one.* /single/
ADD --exclude=* app /none/
`,
    { context },
  )
  t.same(
    tree.filter(line => !/^\S+ d/.test(line) || line.includes('storage') || line.startsWith('none')),
    [
      'app/a.txt f 644 0:0 1',
      'app/deep/b.log f 644 0:0 1',
      'app/storage d 755 0:0',
      'app/storage/cache d 755 0:0',
      'app/storage/cache/c f 644 0:0 1',
      'b/a.txt f 644 0:0 1',
      'b/storage d 755 0:0',
      'b/storage/cache d 755 0:0',
      'b/storage/cache/c f 644 0:0 1',
      'none d 755 0:0',
      'single/one.txt f 644 0:0 1',
    ],
  )
})

void t.test(
  '--parents keeps the path behind the pivot, with its directories as they are',
  { skip },
  async t => {
    const bench = await BuildBench.open(t)
    const context = bench.bench.tree('context', {
      'x/y/a.json': '1',
      'x/y/deep/a.json': '22',
      'z/a.json': '333',
      'x/y/n.txt': '4444',
    })
    chmodSync(join(context, 'x/y'), 0o750)
    symlinkSync('x', join(context, 'l'))
    const { tree } = await bench.build(
      `FROM scratch
COPY --parents ./x/./y/*.txt /p/
COPY --parents x/y/a.json z/a.json /q/
COPY --parents ./**/a.json /r/
COPY --parents --exclude=**/deep x/y /s
COPY --parents no*/thing /nothing/
COPY --parents --chmod=0600 x/./y/n.txt /t/
`,
      { context },
    )
    t.same(tree, [
      'nothing d 755 0:0',
      'p d 755 0:0',
      'p/y d 750 0:0',
      'p/y/n.txt f 644 0:0 4',
      'q d 755 0:0',
      'q/x d 755 0:0',
      'q/x/y d 750 0:0',
      'q/x/y/a.json f 644 0:0 1',
      'q/z d 755 0:0',
      'q/z/a.json f 644 0:0 3',
      'r d 755 0:0',
      'r/x d 755 0:0',
      'r/x/y d 750 0:0',
      'r/x/y/a.json f 644 0:0 1',
      'r/x/y/deep d 755 0:0',
      'r/x/y/deep/a.json f 644 0:0 2',
      'r/z d 755 0:0',
      'r/z/a.json f 644 0:0 3',
      's d 755 0:0',
      's/x d 755 0:0',
      's/x/y d 750 0:0',
      's/x/y/a.json f 644 0:0 1',
      's/x/y/n.txt f 644 0:0 4',
      't d 600 0:0',
      't/y d 600 0:0',
      't/y/n.txt f 600 0:0 4',
    ])
    await t.rejects(
      bench.build('FROM scratch\nCOPY --parents x/nope /p/\n', { context }),
      /'x\/nope' is not in the build context/,
    )
    await t.rejects(
      bench.build('FROM scratch\nCOPY --parents l/y/a.json /p/\n', { context }),
      /leads through a symlink/,
    )
  },
)

void t.test('--chmod and --chown: octal, symbolic, and of what is made on the way', { skip }, async t => {
  const bench = await BuildBench.open(t)
  const context = bench.bench.tree('context', { 'd/f': '1', 'd/sub/x': '2', run: '3' })
  chmodSync(join(context, 'd/f'), 0o666)
  chmodSync(join(context, 'run'), 0o4755)
  chmodSync(join(context, 'd/sub'), 0o124)
  const { tree } = await bench.build(
    `${USERS}COPY --chmod=go-w d/f /f1
COPY --chmod=u=rw,g=r,o=r d/f /f2
COPY --chmod=a+X d /d
COPY --chmod=u=rwX,go=g-w run /r1
COPY --chmod=u-s,+t run /r2
COPY --chmod=2750 --chown=node run /made/on/way
COPY --chown=node:extra --chmod=u+rw,g+r,o-x,o+w d /e
COPY run /setuid
`,
    { context },
  )
  t.same(below(tree, 'f1', 'f2', 'd', 'r1', 'r2', 'made', 'e', 'setuid'), [
    'd d 755 0:0',
    'd/f f 666 0:0 1',
    'd/sub d 135 0:0',
    'd/sub/x f 644 0:0 1',
    'e d 755 1000:3000',
    'e/f f 666 1000:3000 1',
    'e/sub d 766 1000:3000',
    'e/sub/x f 646 1000:3000 1',
    'f1 f 644 0:0 1',
    'f2 f 644 0:0 1',
    'made d 750 1000:1001',
    'made/on d 750 1000:1001',
    'made/on/way f 2750 1000:1001 1',
    'r1 f 755 0:0 1',
    'r2 f 1755 0:0 1',
    'setuid f 4755 0:0 1',
  ])
  for (const mode of ['64a', '10000', 'u=q', '']) {
    await t.rejects(
      bench.build(`FROM scratch\nCOPY --chmod=${mode} run /\n`, { context }),
      /--chmod=.* is no mode/,
      mode,
    )
  }
  await t.rejects(
    bench.build('FROM scratch\nCOPY --chown=nobody-here run /\n', { context }),
    /the image has no user 'nobody-here'/,
  )
})

void t.test('ADD: archives of every age, their owners or the ones asked for', { skip }, async t => {
  const bench = await BuildBench.open(t)
  const context = bench.bench.tree('context', { 's/f': '1' })
  const tar = (name: string, ...options: string[]): void =>
    void run('tar', [
      '--owner=1234',
      '--group=2345',
      ...options,
      '-cf',
      join(context, name),
      '-C',
      context,
      's',
    ])
  tar('v7.tar', '--format=v7')
  tar('a.tgz', '-z')
  tar('a.txz', '-J')
  writeFileSync(join(context, 'empty.tar'), Buffer.alloc(10240))
  const { tree } = await bench.build(
    `${USERS}ADD v7.tar /v7/
ADD --chown=node:extra a.tgz /owned/
ADD *.t?z /both
ADD --unpack=false a.tgz /kept/
ADD empty.tar /file/
`,
    { context },
  )
  t.same(
    below(tree, 'v7', 'owned', 'both', 'kept', 'file').filter(line => !line.startsWith('kept/')),
    [
      'both d 755 0:0',
      'both/s d 755 1234:2345',
      'both/s/f f 644 1234:2345 1',
      'file d 755 0:0',
      'file/empty.tar f 644 0:0 10240',
      'kept d 755 0:0',
      'owned d 755 1000:3000',
      'owned/s d 755 1000:3000',
      'owned/s/f f 644 1000:3000 1',
      'v7 d 755 0:0',
      'v7/s d 755 1234:2345',
      'v7/s/f f 644 1234:2345 1',
    ],
  )
  t.equal(below(tree, 'kept/a.tgz').length, 1)
})

void t.test(
  'symlinks at the destination are followed within the root, dangling ones too',
  { skip },
  async t => {
    const bench = await BuildBench.open(t)
    const outside = bench.bench.tree('outside', { f: 'host' })
    const context = bench.bench.tree('context', { f: 'new', 'd/g': 'in', 'base/real/there': 'old' })
    symlinkSync(join(outside, 'f'), join(context, 'base/dangling'))
    symlinkSync('../../../../../..' + join(outside, 'new'), join(context, 'base/upward'))
    symlinkSync('/real', join(context, 'base/dir'))
    symlinkSync('real/there', join(context, 'base/file'))
    symlinkSync('/loop', join(context, 'base/loop'))
    symlinkSync('x', join(context, 'base/real/f'))
    const { tree } = await bench.build(
      `FROM scratch
COPY base /
COPY f /dangling
COPY f /upward
COPY f /file
COPY f /dir/
COPY d /dir/more
WORKDIR /dir/made
`,
      { context },
    )
    t.same(
      below(tree, outside.slice(1)).filter(line => !line.endsWith(' d 755 0:0')),
      [`${outside.slice(1)}/f f 644 0:0 3`, `${outside.slice(1)}/new f 644 0:0 3`],
    )
    t.same(below(tree, 'real', 'dangling', 'dir', 'file'), [
      `dangling l 0:0 -> ${join(outside, 'f')}`,
      'dir l 0:0 -> /real',
      'file l 0:0 -> real/there',
      'real d 755 0:0',
      'real/f f 644 0:0 3',
      'real/made d 755 0:0',
      'real/more d 755 0:0',
      'real/more/g f 644 0:0 2',
      'real/there f 644 0:0 3',
    ])
    t.equal(statSync(join(outside, 'f')).size, 4, 'the host is as it was')
    await t.rejects(
      bench.build('FROM scratch\nCOPY base /\nCOPY f /loop\n', { context }),
      /line 3: .*symbolic links.*loop/,
    )
  },
)

void t.test(
  'hard links stay within one source; a symlink as a source is what it leads to',
  { skip },
  async t => {
    const bench = await BuildBench.open(t)
    const context = bench.bench.tree('context', { 'd/one': '1' })
    mkdirSync(join(context, 'd/sub'))
    linkSync(join(context, 'd/one'), join(context, 'd/sub/two'))
    symlinkSync('d/one', join(context, 'link'))
    const { tree, id } = await bench.build('FROM scratch\nCOPY d /d\nCOPY link lin* /l/\n', { context })
    t.same(below(tree, 'l'), ['l d 755 0:0', 'l/link f 644 0:0 1'])
    await readTree(bench.store, bench.store.images.find(id).chainId, path => {
      t.equal(statSync(join(path, 'd/one')).ino, statSync(join(path, 'd/sub/two')).ino)
      return Promise.resolve()
    })
    symlinkSync('nowhere', join(context, 'broken'))
    await t.rejects(
      bench.build('FROM scratch\nCOPY brok* /l/\n', { context }),
      /'broken' is not in the build context/,
    )
  },
)
