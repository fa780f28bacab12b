import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import * as sys from '../../src/sys/index.js'
import { getxattr, listxattr, outcome, setxattr } from '../conformance/posix.js'
import { Machine, PLAIN, unavailable as noMachine, USER } from '../dropin/machine.js'
import { Scratch, unavailable } from '../mount/fixture.js'

/**
 * Published faults of overlayfs, by number: rights that a file got by being seen, or copied up, through an overlay. What would gain
 * something is a copy of cat, which is asked for a file of root's.
 */

const skip = unavailable('lamina') ?? false
const SECRET = 'of root alone'
const CAPABILITY = 'security.capability'
t.setTimeout(240_000)

/** vfs_cap_data with CAP_DAC_READ_SEARCH, effective. Source: linux/capability.h */
const READS_ALL = Buffer.from('0100000204000000000000000000000000000000', 'hex')

/** In which user namespace, by its root's id on the host, the file has a capability; 0 is everywhere. */
function capabilityOf(file: string): number | undefined {
  const value = sys.getxattrAt(sys.AT_FDCWD, file, CAPABILITY)
  if (value === undefined) return undefined
  return value[3] === 3 ? value.readUInt32LE(20) : 0
}

type Right = 'setuid' | 'capability'
const RIGHTS: readonly Right[] = ['setuid', 'capability']

function plantPrograms(dir: string): void {
  for (const right of RIGHTS) {
    const file = path.join(dir, right)
    fs.copyFileSync('/bin/cat', file)
    if (right === 'setuid') fs.chmodSync(file, 0o4755)
    else setxattr(file, CAPABILITY, READS_ALL)
  }
}

function readsAs(uid: number, program: string, secret: string): string {
  return spawnSync(program, [secret], { uid, gid: uid, encoding: 'utf8' }).stdout
}

for (const [layer, options, gained] of [
  ['lower0', [], ''],
  ['lower1', [], ''],
  ['upper', [], ''],
  ['lower1', ['suid'], SECRET],
] as const) {
  t.test(
    `CVE-2023-0386: the view of a nosuid ${layer} gains nobody ${gained === '' ? 'anything' : 'more than asked'} (${options.join() || 'defaults'})`,
    { skip },
    t => {
      using scratch = new Scratch('nosuid')
      const secret = scratch.path('secret')
      fs.writeFileSync(secret, SECRET, { mode: 0o600 })
      const foreign = scratch.mkdir('foreign')
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'nosuid,mode=755', 'foreign', foreign])
      try {
        const at = (name: string): string => (name === layer ? path.join(foreign, name) : scratch.path(name))
        const above = layer === 'upper' ? foreign : scratch.root
        const [upper, work] = [path.join(above, 'upper'), path.join(above, 'work')]
        for (const dir of [upper, work, at('lower0'), at('lower1')]) fs.mkdirSync(dir)
        plantPrograms(at(layer))
        using mount = scratch.mount({
          subject: 'lamina',
          lowers: [at('lower0'), at('lower1')],
          upper,
          work,
          mountpoint: scratch.mkdir('mnt'),
          options,
        })
        for (const when of ['as it is', 'copied up']) {
          for (const right of RIGHTS) {
            const file = path.join(mount.mountpoint, right)
            if (when === 'copied up') fs.utimesSync(file, 1, 1)
            t.equal(readsAs(1000, file, secret), gained, `${right}, ${when}`)
          }
        }
        t.equal(readsAs(0, path.join(mount.mountpoint, 'setuid'), secret), SECRET, 'it is a program')
      } finally {
        execFileSync('umount', [foreign])
      }
      t.end()
    },
  )
}

t.test('no mount is nosuid without reason', { skip }, t => {
  using scratch = new Scratch('nosuid-not')
  fs.writeFileSync(scratch.path('secret'), SECRET, { mode: 0o600 })
  plantPrograms(scratch.mkdir('lower0'))
  using mount = scratch.overlay('lamina', 1)
  for (const right of RIGHTS)
    t.equal(readsAs(1000, path.join(mount.mountpoint, right), scratch.path('secret')), SECRET, right)
  t.end()
})

t.test('a device of a layer is not opened through the view, copied up or not', { skip }, t => {
  using scratch = new Scratch('nodev')
  const open = (file: string): unknown => outcome(() => fs.closeSync(fs.openSync(file, 'r')))
  for (const name of ['null', 'null2'])
    execFileSync('mknod', ['-m', '666', path.join(scratch.mkdir('lower0'), name), 'c', '1', '3'])
  t.equal(open(scratch.path('lower0/null')), 'ok', 'it can be opened below')
  const mount = scratch.overlay('lamina', 1)
  fs.utimesSync(path.join(mount.mountpoint, 'null2'), 1, 1)
  execFileSync('mknod', ['-m', '666', path.join(mount.mountpoint, 'new'), 'c', '1', '3'])
  for (const name of ['null', 'null2', 'new']) {
    const file = path.join(mount.mountpoint, name)
    t.equal(open(file), 'EACCES', `${name}, root`)
    t.not(spawnSync('cat', [file], { uid: 1000, gid: 1000 }).status, 0, `${name}, an ordinary user`)
  }
  using asked = mount.remount(['dev'])
  t.equal(open(path.join(asked.mountpoint, 'null')), 'ok', 'dev asks for it')
  t.end()
})

const missing = noMachine('setfattr', 'newuidmap')
t.test('user namespaces', { skip: missing ?? false }, async t => {
  await using machine = await Machine.start()
  const namespace = (script: string): Promise<string> =>
    machine.ok('unshare', ['-Um', '--map-root-user', '--map-auto', 'sh', '-ec', script], { user: true })
  const layers = (dir: string): string => `lowerdir=${dir}/l,upperdir=${dir}/u,workdir=${dir}/w`
  const cap = `setfattr -n ${CAPABILITY} -v 0x${READS_ALL.toString('hex')}`
  /** Once its daemon has ended. */
  const unmounted = (dir: string): string =>
    `umount ${dir}/m; for i in $(seq 100); do flock -n ${dir}/u true && break; sleep 0.03; done`

  /** Layers of `owner`'s with programs `names` in the lower one, and a file of root's that those are asked for. */
  const place = (name: string, owner: number, names: readonly string[]): string => {
    const dir = path.join(machine.home, name)
    for (const sub of ['', 'l', 'u', 'w', 'm']) {
      fs.mkdirSync(path.join(dir, sub))
      fs.chownSync(path.join(dir, sub), owner, owner)
    }
    for (const program of names) {
      fs.copyFileSync('/bin/cat', path.join(dir, 'l', program))
      fs.chownSync(path.join(dir, 'l', program), USER.uid, USER.uid)
    }
    fs.writeFileSync(path.join(dir, 'secret'), SECRET, { mode: 0o600 })
    return dir
  }

  /** Nobody outside of the namespace gains anything by the program, which may be in a view of the machine's. */
  const expectHelpless = async (t: Test, dir: string, file: string): Promise<void> => {
    for (const user of [true, 'plain'] as const) {
      t.equal((await machine.run(file, [`${dir}/secret`], { user })).stdout, '', `${file} reads nothing`)
      t.equal((await machine.run(file, ['/proc/self/comm'], { user })).code, 0, `${file} is a program`)
    }
  }
  const expectWorthless = async (t: Test, dir: string, file: string): Promise<void> => {
    t.equal(capabilityOf(file), USER.uid, `${file} has a capability of that namespace`)
    await expectHelpless(t, dir, file)
  }

  await t.test('a capability of the host would be seen', async t => {
    const dir = place('control', USER.uid, ['prog'])
    setxattr(`${dir}/l/prog`, CAPABILITY, READS_ALL)
    t.equal(await machine.ok(`${dir}/l/prog`, [`${dir}/secret`], { user: 'plain' }), SECRET)
  })

  for (const program of ['lamina mount', 'fuse-lamina']) {
    const [name = '', ...words] = program.split(' ')
    const mountIt = (dir: string): string =>
      [path.join(machine.root, 'bin', name), ...words, '-o', layers(dir), `${dir}/m`].join(' ')
    const label = name.replace('fuse-', 'f')

    await t.test(
      `CVE-2021-3493: capabilities set through a view in a user namespace (${program})`,
      async t => {
        const dir = place(`own-${label}`, USER.uid, ['prog'])
        await namespace(`${mountIt(dir)}
        ${cap} ${dir}/m/prog
        cp ${dir}/m/prog ${dir}/m/new; ${cap} ${dir}/m/new
        if ${dir}/m/prog ${dir}/secret; then exit 3; fi
        ${unmounted(dir)}`)
        for (const prog of ['prog', 'new']) await expectWorthless(t, dir, `${dir}/u/${prog}`)
      },
    )

    await t.test(`CVE-2021-3493: the same through a view of root's (${program})`, async t => {
      const dir = place(`root-${label}`, 0, ['prog', 'other'])
      fs.chownSync(`${dir}/l/other`, 0, 0)
      await machine.sh(mountIt(dir))
      await namespace(`${cap} ${dir}/m/prog; if ${cap} ${dir}/m/other; then exit 3; fi`)
      await expectHelpless(t, dir, `${dir}/m/prog`)
      await machine.sh(unmounted(dir))
      await expectWorthless(t, dir, `${dir}/u/prog`)
      t.notOk(fs.existsSync(`${dir}/u/other`), "a file of root's is left alone")
    })

    await t.test(`CVE-2023-2640, CVE-2023-32629: capabilities that are copied up (${program})`, async t => {
      const dir = place(`copied-${label}`, USER.uid, ['prog', 'later'])
      await namespace(`${cap} ${dir}/l/prog; ${cap} ${dir}/l/later
        ${mountIt(dir)}
        touch ${dir}/m/prog
        mv ${dir}/m/later ${dir}/m/moved
        ${unmounted(dir)}`)
      for (const prog of ['prog', 'moved']) await expectWorthless(t, dir, `${dir}/u/${prog}`)
      // Root copies up what that user has made.
      fs.rmSync(`${dir}/u/prog`)
      await machine.sh(mountIt(dir))
      await machine.sh(`touch ${dir}/m/prog`)
      await expectHelpless(t, dir, `${dir}/m/prog`)
      await machine.sh(unmounted(dir))
      await expectWorthless(t, dir, `${dir}/u/prog`)
    })

    await t.test(`CVE-2023-2640, CVE-2023-32629: marks of overlays pass by no way (${program})`, async t => {
      const dir = place(`marks-${label}`, USER.uid, ['prog', 'later'])
      setxattr(`${dir}/l/prog`, 'user.overlay.redirect', '/secret')
      setxattr(`${dir}/l/prog`, 'user.overlay.metacopy', '')
      setxattr(`${dir}/l/later`, 'trusted.overlay.redirect', '/secret')
      await namespace(`${mountIt(dir)}
        for mark in redirect metacopy opaque; do
          if setfattr -n trusted.overlay.$mark -v y ${dir}/m/later; then exit 4; fi
          setfattr -n user.overlay.$mark -v y ${dir}/m/later || true
        done
        touch ${dir}/m/later
        mkdir ${dir}/m/dir; setfattr -n user.overlay.redirect -v /secret ${dir}/m/dir || true
        ${unmounted(dir)}`)
      for (const file of ['later', 'dir'])
        for (const mark of ['redirect', 'metacopy'])
          for (const prefix of ['trusted.overlay.', 'user.overlay.'])
            t.equal(getxattr(`${dir}/u/${file}`, prefix + mark), undefined, `${prefix}${mark} of ${file}`)
      t.notOk(listxattr(`${dir}/u/later`).some(attr => attr.startsWith('trusted.')))
    })

    await t.test(`CVE-2023-0386: an owner who is not of the namespace (${program})`, async t => {
      const dir = place(`owner-${label}`, USER.uid, [])
      plantPrograms(`${dir}/l`)
      fs.mkdirSync(`${dir}/l/dir`)
      fs.chownSync(`${dir}/l/capability`, PLAIN.uid, PLAIN.uid)
      await namespace(`${mountIt(dir)}
        for file in ${RIGHTS.join(' ')} dir; do touch ${dir}/m/$file || true; done
        touch ${dir}/m/dir/new || true; mv ${dir}/m/dir ${dir}/m/dir2 || true
        ${unmounted(dir)}`)
      const above = fs.readdirSync(`${dir}/u`, { recursive: true, encoding: 'utf8' })
      for (const file of above) {
        const stat = fs.lstatSync(path.join(dir, 'u', file))
        for (const id of [stat.uid, stat.gid])
          t.ok(
            id === USER.uid || (id >= USER.subids && id < USER.subids + 65_536),
            `${file} is the user's: ${id}`,
          )
        if (!stat.isFile()) continue
        t.not(capabilityOf(path.join(dir, 'u', file)), 0, `${file} has no capability on the host`)
        const ran = await machine.run(`${dir}/u/${file}`, [`${dir}/secret`], { user: 'plain' })
        t.equal(ran.stdout, '', `${file} reads nothing`)
      }
    })
  }
  t.strictSame(await machine.settled(), [])
})
