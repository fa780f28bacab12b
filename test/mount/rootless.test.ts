import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { Machine, unavailable, USER } from '../dropin/machine.js'
import * as sys from '../../src/sys/index.js'

/**
 * Ordinary users: through fusermount3, as root of a namespace that has one id, and as root of one with a range of them.
 * What is left in upperdir is looked at from outside, and with the kernel's overlayfs from inside.
 */

const missing = unavailable('fusermount3', 'newuidmap', 'setfattr')

/** Changes of every kind, for a shell in the mount's root. What it prints is compared. */
const CHANGES = `
set -e
rm gone; rm -r dir; mkdir dir; echo new > dir/new
echo more >> file; chmod 600 exec; ln hard hard2; mv moved elsewhere
mkdir own; mv own renamed; ln -s to link; mkfifo pipe
setfattr -n user.kept -v yes file
rm -r whole; touch touched; mv touched hard
`
const LOOK = `find . -mindepth 1 -printf '%p %y %m %s %n %l\\n' | sort | grep -v '^./\\(dir\\|renamed\\|merged\\|hard\\)\\(/sub\\)\\? d'; cat file dir/new hard; getfattr -n user.kept --only-values file`

function plant(dir: string, owner: number): void {
  const lower = path.join(dir, 'l')
  for (const sub of ['l/dir/sub', 'l/whole/tree', 'l/merged', 'u', 'w', 'm', 'm2']) {
    fs.mkdirSync(path.join(dir, sub), { recursive: true })
  }
  for (const name of [
    'gone',
    'file',
    'exec',
    'hard',
    'moved',
    'dir/hidden',
    'whole/tree/leaf',
    'merged/below',
  ]) {
    fs.writeFileSync(path.join(lower, name), `${name}\n`)
  }
  const all = ['.', ...fs.readdirSync(dir, { recursive: true, encoding: 'utf8' })]
  for (const name of all) fs.lchownSync(path.join(dir, name), owner, owner)
}

function place(machine: Machine, name: string): string {
  const dir = path.join(machine.home, name)
  plant(dir, USER.uid)
  return dir
}

const layers = (dir: string): string => `lowerdir=${dir}/l,upperdir=${dir}/u,workdir=${dir}/w`

/** What upperdir must hold after {@link CHANGES}, by the namespace of its attributes. */
function checkUpper(t: Test, dir: string): void {
  const at = (name: string): string => path.join(dir, 'u', name)
  for (const name of ['gone', 'moved', 'whole']) {
    const stat = sys.statAt(sys.AT_FDCWD, at(name))
    t.ok(
      stat !== undefined && sys.S_ISCHR(stat.mode) && stat.rdev === 0,
      `${name} is a whiteout the kernel knows`,
    )
  }
  const attr = (name: string, of: string): string | undefined =>
    sys.getxattrAt(sys.AT_FDCWD, at(of), name)?.toString()
  t.equal(attr('user.overlay.opaque', 'dir'), 'y', 'user.overlay.opaque on a directory made anew')
  t.equal(attr('trusted.overlay.opaque', 'dir'), undefined)
  t.equal(attr('user.kept', 'file'), 'yes')
  t.strictSame(fs.readdirSync(path.join(dir, 'w/work')), [], 'workdir is clean')
}

if (missing !== undefined) {
  t.test('rootless', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  const lamina = machine.fuseLamina
  /** Root of a user namespace with the user's id alone. */
  const single = (script: string): Promise<string> =>
    machine.ok('unshare', ['-Urm', 'sh', '-ec', script], { user: true })
  /** Root of one with the user's id and 65536 more, as Podman makes it. */
  const range = (script: string): Promise<string> =>
    machine.ok('unshare', ['-Um', '--map-root-user', '--map-auto', 'sh', '-ec', script], { user: true })
  const waitForEnd = 'for i in $(seq 100); do flock -n u true && break; sleep 0.03; done'

  await t.test(
    'through fusermount3: full function, whiteouts included, for the mounting user alone',
    async t => {
      const dir = place(machine, 'plain')
      await machine.ok(lamina, ['-o', layers(dir), `${dir}/m`], { user: true })
      await machine.ok('sh', ['-c', `cd ${dir}/m; ${CHANGES}`], { user: true })
      const seen = await machine.ok('sh', ['-c', `cd ${dir}/m; ${LOOK}`], { user: true })
      t.match(seen, /^\.\/file f 644 10 1 $/m)
      const other = await machine.run('setpriv', ['--reuid=1', '--clear-groups', 'ls', `${dir}/m`])
      t.not(other.code, 0, 'others are kept out without allow_other')
      await machine.ok('fusermount3', ['-u', `${dir}/m`], { user: true })
      t.strictSame(await machine.settled(), [])
      checkUpper(t, dir)
    },
  )

  for (const [name, inside] of [
    ['unshare -Urm', single],
    ['a namespace with subordinate ids', range],
  ] as const) {
    await t.test(
      `${name}: full function; the kernel's overlayfs shows the same over the same upper`,
      async t => {
        const dir = place(machine, name.replace(/\W+/g, '-'))
        const seen = await inside(`
        cd ${dir}
        ${lamina} -o ${layers(dir)} m
        (cd m; ${CHANGES})
        (cd m; ${LOOK}) > seen
        umount m
        ${waitForEnd}
        mount -t overlay -o ${layers(dir)},userxattr overlay m2
        (cd m2; ${LOOK}) > kernel
        umount m2
        diff seen kernel
        cat seen`)
        t.match(seen, /^\.\/file f 644 10 1 $/m)
        t.match(seen, /^\.\/dir\/new f /m)
        t.notMatch(seen, /hidden|gone|leaf/)
        t.strictSame(await machine.settled(), [])
        checkUpper(t, dir)
      },
    )
  }

  await t.test('subordinate ids: owners are kept, and are the subordinate ones on disk', async t => {
    const dir = place(machine, 'owners')
    const seen = await range(`
      cd ${dir}
      ${lamina} -o ${layers(dir)} m
      chown 33:44 m/file; chown 0:7 m/dir; chmod 4711 m/file
      mkdir m/drop; chmod 1777 m/drop
      setpriv --reuid=1000 --regid=1000 --clear-groups touch m/drop/theirs
      setpriv --reuid=1000 --regid=1000 --clear-groups sh -c '! rm m/file && ! touch m/no' 2>/dev/null
      stat -c '%n %u:%g %a' m/file m/dir m/drop/theirs
      umount m`)
    t.equal(seen, 'm/file 33:44 4711\nm/dir 0:7 755\nm/drop/theirs 1000:1000 644\n')
    const stat = fs.statSync(path.join(dir, 'u/file'))
    t.strictSame([stat.uid, stat.gid], [USER.subids + 32, USER.subids + 43])
    t.strictSame(await machine.settled(), [])
  })

  await t.test(
    'one id: an owner that the namespace does not have is refused, and nothing is changed',
    async t => {
      const dir = place(machine, 'unmapped')
      const said = await single(`
      cd ${dir}
      ${lamina} -o ${layers(dir)} m
      ! chown 33:44 m/file 2>&1
      stat -c '%u:%g' m/file
      umount m`)
      t.match(said, /Invalid argument|Value too large/)
      t.match(said, /^0:0$/m)
      t.strictSame(await machine.settled(), [])
    },
  )

  await t.test("xattr_permissions=2: owners are in an attribute, on disk all is the user's", async t => {
    const dir = place(machine, 'kept')
    const seen = await range(`
      cd ${dir}
      ${lamina} -o ${layers(dir)},xattr_permissions=2 m
      chown 33:44 m/file; chmod 4755 m/file; mkfifo m/fifo; chown 5:6 m/fifo; ln -s to m/link; chown -h 7:7 m/link
      stat -c '%n %F %u:%g %a' m/file m/fifo
      umount m
      ${waitForEnd}
      ${lamina} -o ${layers(dir)},xattr_permissions=2 m
      stat -c '%n %F %u:%g %a' m/file m/fifo
      umount m`)
    const once = 'm/file regular file 33:44 4755\nm/fifo fifo 5:6 644\n'
    t.equal(seen, once + once)
    for (const name of ['file', 'fifo']) t.equal(fs.statSync(path.join(dir, 'u', name)).uid, USER.uid, name)
    t.equal(
      sys.getxattrAt(sys.AT_FDCWD, path.join(dir, 'u/file'), 'user.containers.override_stat')?.toString(),
      '33:44:4755',
    )
    t.strictSame(await machine.settled(), [])
  })

  await t.test("on the kernel's overlayfs, which refuses itself: whiteouts in attributes", async t => {
    // What a container's root filesystem is.
    const dir = machine.root + '/nested'
    fs.mkdirSync(dir)
    const seen = await machine.sh(`
      cd ${dir}
      mkdir kl ku kw k
      mount -t overlay -o lowerdir=kl,upperdir=ku,workdir=kw overlay k
      mkdir -p k/l/dir k/u k/w k/m
      echo a > k/l/dir/a; echo b > k/l/b
      ! mount -t overlay -o lowerdir=k/l,upperdir=k/u,workdir=k/w overlay k/m 2>/dev/null
      ${lamina} -o lowerdir=k/l,upperdir=k/u,workdir=k/w k/m
      rm k/m/b; rm -r k/m/dir; mkdir k/m/dir; echo c > k/m/dir/c
      umount k/m
      for i in $(seq 100); do flock -n k/u true && break; sleep 0.03; done
      ${lamina} -o lowerdir=k/l,upperdir=k/u,workdir=k/w k/m
      ls -A k/m k/m/dir
      umount k/m
      for i in $(seq 100); do flock -n k/u true && break; sleep 0.03; done
      umount k`)
    t.equal(seen, 'k/m:\ndir\n\nk/m/dir:\nc\n')
    t.strictSame(await machine.settled(), [])
  })

  await t.test('ours below the kernel and below ours, and ours above ours', async t => {
    const dir = machine.root + '/stack'
    fs.mkdirSync(dir)
    const seen = await machine.sh(`
      cd ${dir}
      mkdir -p l/dir u w m l2 u2 w2 m2
      echo a > l/dir/a; echo b > l/b; echo c > l/c
      ${lamina} -o lowerdir=l,upperdir=u,workdir=w m
      rm m/b; echo x > m/x
      change() { rm m2/x; rm -r m2/dir; mkdir m2/dir; echo n > m2/dir/n; echo d >> m2/c; }
      show() { (cd m2; find . -type f | sort; cat c dir/n); }
      echo "-- below the kernel"
      mount -t overlay -o lowerdir=m,upperdir=u2,workdir=w2 overlay m2; change; show; umount m2
      rm -rf u2 w2; mkdir u2 w2
      echo "-- below ours"
      ${lamina} -o lowerdir=m,upperdir=u2,workdir=w2 m2; change; show; umount m2
      for i in $(seq 100); do flock -n u2 true && break; sleep 0.03; done
      echo "-- above ours"
      mkdir m/u3 m/w3
      ${lamina} -o lowerdir=l,upperdir=m/u3,workdir=m/w3 m2; echo x > m2/x; change; show; umount m2
      for i in $(seq 100); do flock -n m/u3 true && break; sleep 0.03; done
      ${lamina} -o lowerdir=l,upperdir=m/u3,workdir=m/w3 m2; show; umount m2
      for i in $(seq 100); do flock -n m/u3 true && break; sleep 0.03; done
      echo "-- hidden"
      getfattr -Rdm '^trusted.overlay.overlay' m 2>/dev/null | wc -l
      umount m`)
    const changed = './c\n./dir/n\nc\nd\nn\n'
    const above = './b\n./c\n./dir/n\nc\nd\nn\n'
    t.equal(
      seen,
      `-- below the kernel\n${changed}-- below ours\n${changed}-- above ours\n${above}${above}-- hidden\n0\n`,
    )
    t.strictSame(await machine.settled(), [])
  })
}
