import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import * as sys from '../../src/sys/index.js'
import {
  asUser,
  getxattr,
  listxattr,
  ls,
  outcome,
  removexattr,
  setxattr,
  text,
} from '../conformance/posix.js'
import { Machine, unavailable as noMachine, USER } from '../dropin/machine.js'
import { Scratch, unavailable, type Mount } from '../mount/fixture.js'

/**
 * The owner of a file or directory of a layer writes attributes of overlays on it: he is to gain nothing by that, neither other owners, modes
 * and devices, nor what he may not read. `user.` can be written by anybody on what is his; `trusted.` and `security.` by root only.
 */

const skip = unavailable('lamina') ?? false
const OWNER = 1000
const SECRET = 'of root alone'
const OVERRIDES = [
  'user.containers.override_stat',
  'user.fuseoverlayfs.override_stat',
  'security.fuseoverlayfs.override_stat',
]
const isOverride = (attr: string): boolean => OVERRIDES.includes(attr)

const asOwner = <T>(fn: () => T): T => asUser(OWNER, OWNER, fn)

/** A directory of that user's, in which he has made `make`. */
function owned(dir: string, make: () => void): void {
  fs.mkdirSync(dir, { recursive: true })
  fs.chownSync(dir, OWNER, OWNER)
  asOwner(make)
}

/** What nobody but root may see, in a layer of root's. */
function plantSecrets(lower: string): void {
  fs.mkdirSync(path.join(lower, 'private'), { mode: 0o700, recursive: true })
  fs.writeFileSync(path.join(lower, 'private/key'), SECRET)
  fs.writeFileSync(path.join(lower, 'secret'), SECRET, { mode: 0o600 })
}

/** A directory and files that say of themselves that they are root's private ones, by attributes of `prefix`. */
function plantThieves(dir: string, prefix: string): void {
  for (const [name, target] of [
    ['thief', '/private'],
    ['private2', 'private'],
  ] as const) {
    fs.mkdirSync(path.join(dir, name))
    setxattr(path.join(dir, name), `${prefix}redirect`, target)
  }
  for (const [name, target] of [
    ['copy', '/secret'],
    ['copy2', 'secret'],
    ['copy3', '/private/key'],
  ] as const) {
    const file = path.join(dir, name)
    fs.writeFileSync(file, '', { mode: 0o644 })
    setxattr(file, `${prefix}metacopy`, '')
    setxattr(file, `${prefix}redirect`, target)
    fs.truncateSync(file, SECRET.length)
  }
}

/** All that an ordinary user can read in the view. */
function readable(root: string): string {
  const seen: string[] = []
  const visit = (dir: string): void => {
    for (const name of attempt(() => fs.readdirSync(dir)) ?? []) {
      const at = path.join(dir, name)
      seen.push(name)
      const stat = attempt(() => fs.lstatSync(at))
      if (stat?.isDirectory() === true) visit(at)
      else if (stat?.isFile() === true) seen.push(attempt(() => fs.readFileSync(at, 'latin1')) ?? '')
    }
  }
  asUser(2000, 2000, () => visit(root))
  return seen.join('\n')
}

function attempt<T>(fn: () => T): T | undefined {
  try {
    return fn()
  } catch {
    return undefined
  }
}

function plantOverrides(dir: string): void {
  setxattr(dir, 'user.containers.override_stat', '0:0:0755')
  for (const [name, attr, value] of [
    ['sh', 'user.containers.override_stat', '0:0:4755'],
    ['sh2', 'user.fuseoverlayfs.override_stat', '0:0:06755:file'],
    ['disk', 'user.containers.override_stat', '1000:1000:0666:block-7-0'],
    ['mem', 'user.fuseoverlayfs.override_stat', '1000:1000:0666:char-1-1'],
  ] as const) {
    fs.writeFileSync(path.join(dir, name), name, { mode: 0o755 })
    setxattr(path.join(dir, name), attr, value)
  }
}

function expectPlain(t: Test, root: string, when: string): void {
  const types = new Map(fs.readdirSync(root, { withFileTypes: true }).map(entry => [entry.name, entry]))
  for (const name of ['sh', 'sh2', 'disk', 'mem']) {
    const stat = fs.lstatSync(path.join(root, name))
    t.ok(stat.isFile() && types.get(name)?.isFile() === true, `${name} is a file ${when}`)
    t.equal(stat.uid, OWNER, `${name} is its owner's ${when}`)
    t.equal(stat.mode & 0o7000, 0, `${name} sets no id ${when}`)
  }
}

for (const options of [[], ['xattr_permissions=1'], ['io=passthrough'], ['userxattr', 'keeper=1']]) {
  t.test(
    `override_stat of a layer's owner is not believed (${options.join(',') || 'defaults'})`,
    { skip },
    t => {
      using scratch = new Scratch('override-owner')
      owned(scratch.path('lower0'), () => plantOverrides(scratch.path('lower0')))
      using mount = scratch.overlay('lamina', 1, options)
      expectPlain(t, mount.mountpoint, 'below')
      asOwner(() => fs.appendFileSync(path.join(mount.mountpoint, 'sh'), '!'))
      for (const name of ['sh2', 'disk', 'mem']) fs.utimesSync(path.join(mount.mountpoint, name), 1, 1)
      expectPlain(t, mount.mountpoint, 'copied up')
      for (const name of ['sh', 'sh2', 'disk', 'mem'])
        t.notOk(
          listxattr(scratch.path('upper', name)).some(attr => attr.startsWith('user.') && isOverride(attr)),
          `${name} was copied up without it`,
        )
      t.end()
    },
  )
}

t.test(
  'xattr_permissions=2 believes it where the root of the layer has it, and nowhere else',
  { skip },
  t => {
    using scratch = new Scratch('override-layer')
    owned(scratch.path('lower0'), () => plantOverrides(scratch.path('lower0')))
    owned(scratch.path('lower1/home'), () => plantOverrides(scratch.path('lower1/home')))
    using mount = scratch.overlay('lamina', 2, ['xattr_permissions=2'])
    const stat = fs.lstatSync(path.join(mount.mountpoint, 'sh'))
    t.strictSame([stat.uid, stat.mode & 0o7777], [0, 0o4755], 'as was asked for')
    t.ok(fs.lstatSync(path.join(mount.mountpoint, 'disk')).isBlockDevice())
    expectPlain(t, path.join(mount.mountpoint, 'home'), 'in a layer without the mark')
    t.end()
  },
)

for (const options of [[], ['xattr_permissions=2']]) {
  t.test(
    `override_stat cannot be seen, set or removed through the view (${options.join(',') || 'defaults'})`,
    { skip },
    t => {
      using scratch = new Scratch('override-view')
      owned(scratch.path('lower0'), () => {
        fs.writeFileSync(scratch.path('lower0/below'), '', { mode: 0o755 })
        setxattr(scratch.path('lower0/below'), OVERRIDES[0]!, '0:0:4755')
      })
      fs.mkdirSync(scratch.path('upper'))
      fs.chownSync(scratch.path('upper'), OWNER, OWNER)
      using mount = scratch.overlay('lamina', 1, options)
      if (options.length > 0) fs.chownSync(mount.mountpoint, OWNER, OWNER)
      const below = path.join(mount.mountpoint, 'below')
      const own = path.join(mount.mountpoint, 'own')
      asOwner(() => fs.writeFileSync(own, ''))
      for (const who of ['the owner', 'root']) {
        const as = who === 'root' ? <T>(fn: () => T): T => fn() : asOwner
        for (const attr of OVERRIDES) {
          for (const file of [mount.mountpoint, below, own]) {
            as(() => {
              const set = outcome(() => setxattr(file, attr, '0:0:4755'))
              t.equal(set, 'EPERM', `${who} cannot set ${attr} on ${path.basename(file)}`)
              t.equal(getxattr(file, attr), undefined)
              t.match(String(outcome(() => removexattr(file, attr))), /^(EPERM|ENODATA)$/)
            })
          }
        }
        t.strictSame(
          as(() => listxattr(below)),
          [],
          'nor is it listed',
        )
      }
      mount.unmount()
      if (options.length === 0)
        for (const name of ['', 'own'])
          t.strictSame(listxattr(scratch.path('upper', name)).filter(isOverride), [])
      using again = scratch.overlay('lamina', 1)
      t.equal(fs.statSync(path.join(again.mountpoint, 'own')).mode & 0o7000, 0)
      t.equal(fs.statSync(path.join(again.mountpoint, 'below')).mode & 0o7000, 0)
      t.end()
    },
  )
}

for (const options of [
  [],
  ['redirect_dir=on', 'metacopy=on'],
  ['index=on'],
  ['io=passthrough', 'metacopy=on'],
]) {
  t.test(
    `a redirect or metacopy of an ordinary user's leads nowhere as root (${options.join(',') || 'defaults'})`,
    { skip },
    t => {
      using scratch = new Scratch('user-redirect')
      plantSecrets(scratch.path('lower1'))
      const lower = scratch.path('lower0/home')
      const upper = scratch.path('upper/mine')
      for (const dir of [scratch.path('lower0'), scratch.path('upper')]) fs.mkdirSync(dir)
      owned(lower, () => plantThieves(lower, 'user.overlay.'))
      owned(upper, () => {
        setxattr(upper, 'user.overlay.impure', 'y')
        plantThieves(upper, 'user.overlay.')
      })
      using mount = scratch.overlay('lamina', 2, options)
      // Twice: what was asked for by name a second time is answered natively.
      for (let i = 0; i < 3; i++) {
        const seen = readable(mount.mountpoint)
        t.notMatch(seen, SECRET)
        t.equal(seen.split('\n').filter(name => name === 'key').length, 0, 'no name of it either')
      }
      t.equal(fs.readFileSync(path.join(mount.mountpoint, 'secret'), 'utf8'), SECRET, 'root sees it')
      // Written to, it is what it was.
      asOwner(() => fs.appendFileSync(path.join(mount.mountpoint, 'mine/copy'), '.'))
      t.equal(text(scratch.path('upper/mine/copy')), `${'\0'.repeat(SECRET.length)}.`)
      t.end()
    },
  )
}

/** Who does what in both: what is shown of it, an error by its name. */
function look(mount: Mount, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(
    names.map(name => {
      const at = path.join(mount.mountpoint, name)
      return [name, outcome(() => (fs.lstatSync(at).isDirectory() ? ls(at) : fs.readFileSync(at, 'latin1')))]
    }),
  )
}

t.test(
  'userxattr: redirects and metacopies are refused as the kernel refuses them',
  { skip: skip !== false ? skip : (unavailable('kernel') ?? false) },
  t => {
    using scratch = new Scratch('userxattr')
    plantSecrets(scratch.mkdir('lower1'))
    const lower = scratch.path('lower0/home')
    fs.mkdirSync(scratch.path('lower0'))
    owned(lower, () => plantThieves(lower, 'user.overlay.'))
    for (const subject of ['lamina', 'kernel']) {
      const upper = scratch.mkdir(`upper-${subject}`)
      setxattr(upper, 'user.overlay.impure', 'y')
      plantThieves(upper, 'user.overlay.')
    }
    const names = ['thief', 'private2', 'copy', 'copy2', 'copy3']
    const [ours, theirs] = scratch.beside([scratch.path('lower0'), scratch.path('lower1')], {
      lamina: ['userxattr'],
      kernel: ['userxattr'],
    })
    const seen = look(ours, names)
    t.strictSame(seen, look(theirs, names))
    t.strictSame(new Set(Object.values(seen)), new Set(['EPERM']))
    t.notMatch(readable(ours.mountpoint), SECRET)
    theirs.unmount()
    using asked = ours.remount(['userxattr', 'redirect_dir=follow', 'metacopy=on'])
    t.strictSame(
      look(asked, names),
      {
        thief: ['key'],
        private2: ['key'],
        copy: SECRET,
        copy2: SECRET,
        copy3: SECRET,
      },
      'followed where it was asked for',
    )
    t.end()
  },
)

t.test('userxattr: a lower file still leads to a data-only layer, and to nothing else', { skip }, t => {
  using scratch = new Scratch('userxattr-data')
  plantSecrets(scratch.path('lower1'))
  fs.writeFileSync(path.join(scratch.mkdir('data'), 'content'), 'content')
  const lower = scratch.mkdir('lower0')
  plantThieves(lower, 'user.overlay.')
  for (const [name, target] of [
    ['good', '/content'],
    ['relative', 'content'],
  ] as const) {
    fs.writeFileSync(path.join(lower, name), '')
    setxattr(path.join(lower, name), 'user.overlay.metacopy', '')
    setxattr(path.join(lower, name), 'user.overlay.redirect', target)
    fs.truncateSync(path.join(lower, name), 7)
  }
  using mount = scratch.mount({
    subject: 'lamina',
    lowers: [lower, scratch.path('lower1'), '', scratch.path('data')],
    mountpoint: scratch.mkdir('mnt'),
    options: ['userxattr'],
  })
  t.equal(text(path.join(mount.mountpoint, 'good')), 'content')
  t.equal(
    outcome(() => text(path.join(mount.mountpoint, 'relative'))),
    'EIO',
  )
  t.equal(
    outcome(() => text(path.join(mount.mountpoint, 'copy'))),
    'EIO',
  )
  t.notMatch(readable(mount.mountpoint), SECRET)
  t.end()
})

t.test('marks that only hide are read in both namespaces', { skip }, t => {
  using scratch = new Scratch('both-namespaces')
  const lower = scratch.path('lower1')
  for (const dir of ['a', 'b', 'c', 'd']) {
    fs.mkdirSync(path.join(lower, dir), { recursive: true })
    fs.writeFileSync(path.join(lower, dir, 'below'), '')
  }
  for (const [dir, attr, value] of [
    ['a', 'user.overlay.opaque', 'y'],
    ['b', 'trusted.overlay.opaque', 'y'],
    ['c', 'user.fuseoverlayfs.opaque', 'y'],
    ['d', 'user.overlay.opaque', 'x'],
  ] as const) {
    fs.mkdirSync(scratch.path('lower0', dir), { recursive: true })
    setxattr(scratch.path('lower0', dir), attr, value)
  }
  setxattr(scratch.path('lower0'), 'user.overlay.opaque', 'x')
  fs.writeFileSync(scratch.path('lower0/d/below'), '')
  setxattr(scratch.path('lower0/d/below'), 'user.overlay.whiteout', 'y')
  for (const options of [[], ['userxattr']]) {
    using mount = scratch.overlay('lamina', 2, options)
    for (const dir of ['a', 'b', 'c', 'd'])
      t.strictSame(fs.readdirSync(path.join(mount.mountpoint, dir)), [], dir)
  }
  t.end()
})

t.test('numbers and link counts of an ordinary user are his own', { skip }, t => {
  using scratch = new Scratch('user-origin')
  fs.writeFileSync(path.join(scratch.mkdir('lower0'), 'victim'), '')
  fs.linkSync(scratch.path('lower0/victim'), scratch.path('lower0/victim2'))
  const handle = sys.nameToHandle(sys.AT_FDCWD, scratch.path('lower0/victim'), 0)!
  const head = Buffer.from([0, 0xfb, 21 + handle.handle.length, 0, handle.type])
  const uuid = sys.getFsUuid(fs.openSync(scratch.root, 'r')) ?? Buffer.alloc(16)
  const origin = Buffer.concat([head, uuid, handle.handle])
  const upper = scratch.path('upper')
  owned(upper, () => {
    setxattr(upper, 'user.overlay.impure', 'y')
    fs.writeFileSync(path.join(upper, 'mine'), '')
    setxattr(path.join(upper, 'mine'), 'user.overlay.origin', origin)
    setxattr(path.join(upper, 'mine'), 'user.overlay.nlink', 'U+5')
  })
  using mount = scratch.overlay('lamina', 1)
  const [mine, victim] = ['mine', 'victim'].map(name => fs.statSync(path.join(mount.mountpoint, name)))
  t.not(mine?.ino, victim?.ino)
  t.equal(mine?.nlink, 1)
  t.end()
})

const missing = noMachine('setfattr', 'newuidmap')
t.test('rootless', { skip: missing ?? false }, async t => {
  await using machine = await Machine.start()
  const layers = (dir: string): string => `lowerdir=${dir}/l,upperdir=${dir}/u,workdir=${dir}/w`
  const place = (name: string, owner: number): string => {
    const dir = path.join(machine.home, name)
    for (const sub of ['l', 'u', 'w', 'm']) fs.mkdirSync(path.join(dir, sub), { recursive: true })
    for (const sub of ['', 'l', 'u', 'w', 'm']) fs.chownSync(path.join(dir, sub), owner, owner)
    return dir
  }

  await t.test('root of a user namespace sets no override_stat through a view of root', async t => {
    const dir = place('view', 0)
    fs.writeFileSync(path.join(dir, 'l/file'), '')
    for (const at of [path.join(dir, 'l/file'), path.join(dir, 'u')]) fs.chownSync(at, USER.uid, USER.uid)
    await machine.ok(machine.fuseLamina, ['-o', layers(dir), `${dir}/m`])
    for (const name of OVERRIDES) {
      const set = `setfattr -n ${name} -v 0:0:4755 ${dir}/m/file ${dir}/m`
      const ran = await machine.run('unshare', ['-Ur', 'sh', '-c', set], { user: true })
      t.not(ran.code, 0, name)
    }
    await machine.ok('umount', [`${dir}/m`])
    t.strictSame(await machine.settled(), [])
    t.strictSame(listxattr(path.join(dir, 'u')).filter(isOverride), [])
    t.notOk(fs.existsSync(path.join(dir, 'u/file')), 'nothing was copied up for it')
  })

  await t.test('a view in a user namespace follows no redirect of its layers, as the kernel', async t => {
    const dir = place('namespace', USER.uid)
    fs.writeFileSync(path.join(dir, 'l/secret'), SECRET, { mode: 0o600 })
    fs.mkdirSync(path.join(dir, 'l/private'))
    fs.writeFileSync(path.join(dir, 'l/private/key'), SECRET)
    for (const name of ['secret', 'private', 'private/key'])
      fs.chownSync(path.join(dir, 'l', name), USER.uid, USER.uid)
    asUser(USER.uid, USER.uid, () => {
      setxattr(path.join(dir, 'u'), 'user.overlay.impure', 'y')
      plantThieves(path.join(dir, 'u'), 'user.overlay.')
    })
    const seen = await machine.ok(
      'unshare',
      [
        '-Um',
        '--map-root-user',
        '--map-auto',
        'sh',
        '-ec',
        `cd ${dir}
        look() { for name in thief private2 copy copy2 copy3; do cat m/$name 2>&1 || ls m/$name 2>&1; done | sed 's/^[a-z]*: //' || true; }
        ${machine.fuseLamina} -o ${layers(dir)} m; look > seen; umount m
        for i in $(seq 100); do flock -n u true && break; sleep 0.03; done
        mount -t overlay -o ${layers(dir)},userxattr overlay m; look > kernel; umount m
        diff kernel seen >&2
        cat seen`,
      ],
      { user: true },
    )
    t.notMatch(seen, SECRET)
    t.match(seen, /Operation not permitted/)
    t.strictSame(await machine.settled(), [])
  })
})
