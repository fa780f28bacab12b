import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { busyboxRoot, Machine, PLAIN, unavailable, USER, type RunOptions } from '../dropin/machine.js'

/**
 * The user namespace itself: who makes it, who keeps it, and what becomes of it when its keeper is killed, the ranges change,
 * or there are none.
 */

const missing = unavailable('newuidmap', 'busybox', 'crun')

if (missing !== undefined) {
  t.test('user namespaces', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  const user = { user: true } as const
  const plain = { user: 'plain' } as const
  const lamina = async (as: RunOptions, ...args: string[]): Promise<string> =>
    (await machine.ok(machine.lamina, args, as)).trim()
  const refused = async (as: RunOptions, ...args: string[]): Promise<string> => {
    const { code, stderr } = await machine.run(machine.lamina, args, as)
    if (code === 0) throw new Error(`lamina ${args.join(' ')} went well`)
    return stderr
  }
  const tree = path.join(machine.root, 'tree')
  busyboxRoot(tree)
  fs.symlinkSync('busybox', path.join(tree, 'bin/df'))
  fs.chownSync(path.join(tree, 'srv/big/f1'), 33, 33)
  await machine.sh(`tar -C ${tree} -cf ${machine.root}/box.tar .`)
  const box = path.join(machine.root, 'box.tar')
  /** PID USER MOUNT of the state file. */
  const state = async (as: RunOptions = user): Promise<readonly string[]> =>
    (await machine.sh('cat $XDG_RUNTIME_DIR/lamina/userns', as)).split(' ')
  const kill = (pid: string | undefined): void => {
    process.kill(Number(pid), 'SIGKILL')
    while (fs.existsSync(`/proc/${pid}`)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2)
  }
  const inodes = async (as: RunOptions = user): Promise<string> =>
    await lamina(as, 'unshare', 'sh', '-c', 'readlink /proc/self/ns/user /proc/self/ns/mnt')
  const etc = (file: string, line: string): void => {
    // In place: the file is a mount.
    fs.writeFileSync(path.join(machine.root, 'etc', file), `${line}\n`)
  }
  const ranges = (start: number, count = 65_536): void => {
    for (const file of ['subuid', 'subgid']) etc(file, `${USER.name}:${start}:${count}`)
  }

  await t.test('ten commands at once make one namespace', async t => {
    const seen = await machine.sh(
      `for i in 0 1 2 3 4 5 6 7 8 9; do ${machine.lamina} unshare readlink /proc/self/ns/mnt & done; wait`,
      user,
    )
    t.equal(seen.trim().split('\n').length, 10)
    t.equal(new Set(seen.trim().split('\n')).size, 1)
    t.equal(await lamina(user, 'unshare', 'id', '-u'), '0')
    t.equal((await machine.run(machine.lamina, ['unshare', 'sh', '-c', 'exit 7'], user)).code, 7)
    await lamina(user, 'image', 'import', box, 'box')
  })

  await t.test('commands killed while they make it leave none behind, or a good one', async t => {
    for (let round = 0; round < 8; round++) {
      const wait = `0.${String(30 + round * 15).padStart(3, '0')}`
      await machine.sh(
        `${machine.lamina} unshare --end; ${machine.lamina} unshare true & sleep ${wait}; kill -KILL $! 2>/dev/null || true`,
        user,
      )
      t.equal(await lamina(user, 'unshare', 'id', '-u'), '0')
    }
    t.equal(machine.pidsNamed('lamina-holder').length, 1)
  })

  await t.test(
    'a keeper that was killed while a mount lives: the next command goes on with the same mounts',
    async t => {
      await lamina(user, 'container', 'create', '--name', 'kept', '--storage-opt', 'size=4m', 'box')
      const merged = await lamina(user, 'container', 'mount', 'kept')
      const before = await inodes()
      const [pid] = await state()
      kill(pid)
      t.equal(await inodes(), before, 'the same namespaces')
      t.not((await state())[0], pid)
      t.equal(await lamina(user, 'unshare', 'cat', `${merged}/srv/big/f1`), '1\n'.repeat(100).trim())
      t.match(await refused(user, 'unshare', '--end'), /^lamina: process \d+ is in the user namespace/)
      // As when the last login ends and the next one begins.
      await machine.sh('rm -r $XDG_RUNTIME_DIR/lamina/userns', user)
      t.equal(await inodes(), before, 'also when the state file is gone')
      await lamina(user, 'container', 'umount', 'kept')
    },
  )

  await t.test('a keeper that was killed with nothing else: all is as after a reboot', async t => {
    const [pid] = await state()
    // A mount of the kernel's has no process that keeps it.
    await lamina(user, 'container', 'create', '--name', 'gone', 'box')
    const merged = await lamina(user, 'container', 'mount', 'gone')
    await lamina(user, 'container', 'mount', 'gone')
    await lamina(user, 'unshare', 'sh', '-c', `echo x > ${merged}/written`)
    for (const each of machine.pidsNamed('lamina-holder')) kill(String(each))
    // The state file now names a pid that somebody else could have.
    t.equal(
      await lamina(user, 'container', 'ls', '-a', '--format', '{{.name}} {{.mountpoint}}'),
      'kept \ngone',
    )
    t.not((await state())[0], pid)
    t.equal(await lamina(user, 'system', 'check'), 'Nothing is wrong.')
    t.equal(await lamina(user, 'container', 'diff', 'gone'), 'A /written')
    t.equal(await lamina(user, 'container', 'mount', 'gone'), merged)
    await lamina(user, 'container', 'umount', 'gone')
    t.match(await lamina(user, 'container', 'rm', 'gone'), 'gone')
  })

  await t.test('a stale state file, of a pid that is another process now', async t => {
    await lamina(user, 'unshare', '--end')
    const [, ...rest] = await state()
    for (const text of [`1 ${rest.join(' ')}`, 'rubbish', '']) {
      await machine.sh(`printf '%s' '${text}' > $XDG_RUNTIME_DIR/lamina/userns`, user)
      t.equal(await lamina(user, 'unshare', 'id', '-u'), '0')
      await lamina(user, 'unshare', '--end')
    }
  })

  await t.test('a second live namespace may not use the store', async t => {
    await lamina(user, 'info')
    t.match(
      await refused({ ...user, env: { LAMINA_RUN: path.join(machine.home, 'run') } }, 'image', 'ls'),
      /^lamina: the store .* is in use in the namespace of process \d+ .*: set LAMINA_RUN to .*\n$/,
    )
    await lamina({ ...user, env: { LAMINA_RUN: path.join(machine.home, 'run') } }, 'unshare', '--end')
    const root = await machine.run(machine.lamina, [
      '--root',
      `${machine.home}/.local/share/lamina`,
      'image',
      'ls',
    ])
    const asRoot = await machine.run(machine.lamina, [
      'image',
      'ls',
      '--root',
      `${machine.home}/.local/share/lamina`,
    ])
    t.match(root.stderr + asRoot.stderr, /belongs to the user namespace of uid 12345: use it as that user/)
  })

  await t.test('ranges that changed after the store was made are told; more of them are welcome', async t => {
    await lamina(user, 'container', 'mount', 'kept')
    ranges(300_000)
    const busy = await machine.run(machine.lamina, ['image', 'ls'], user)
    t.match(busy.stderr, /^lamina: the user namespace in use has other ids than .* process \d+ has ended\n$/)
    t.equal(busy.code, 0, 'what is in use goes on')
    await lamina(user, 'container', 'umount', 'kept')
    t.match(
      await refused(user, 'image', 'ls'),
      /^lamina: the store .* was made with the uids 0:12345:1 1:200000:65536, this user namespace has 0:12345:1 1:300000:65536: give .*\n$/,
    )
    ranges(USER.subids, 100_000)
    t.match(await lamina(user, 'info', '--format', '{{.rootless}}'), 'true')
    t.match(await lamina(user, 'run', '--rm', '-u', '90000', 'box', 'id', '-u'), '90000')
    ranges(USER.subids)
    t.match(await refused(user, 'image', 'ls'), /was made with the uids 0:12345:1 1:200000:100000, /)
    ranges(USER.subids, 100_000)
    t.match(await lamina(user, 'image', 'ls'), 'box')
  })

  await t.test('ranges that newuidmap refuses', async t => {
    await lamina(user, 'unshare', '--end')
    etc('subuid', `${USER.name}:${USER.uid}:10`)
    t.match(
      await refused(user, 'image', 'ls'),
      /^lamina: cannot map the ids 0:12345:1 1:12345:10: newuidmap: .*: the range .*\n$/,
    )
    t.strictSame(machine.pidsNamed('lamina-holder'), [], 'nothing is left')
    ranges(USER.subids, 100_000)
  })

  await t.test('without newuidmap there is one id: said once, and a store with more is refused', async t => {
    await machine.sh('mount --bind /dev/null /usr/bin/newuidmap')
    t.match(
      await refused(user, 'image', 'ls'),
      /^lamina: this user namespace has one id, .*: newuidmap is not installed: .*uidmap.*\nlamina: the store .* was made with .*install newuidmap.*\n$/,
    )
    await machine.sh('umount /usr/bin/newuidmap')
    t.match(await lamina(user, 'image', 'ls'), 'box', 'installed, it is used at once')
  })

  await t.test('a user without ranges: owners in an attribute, all is root', async t => {
    const first = await machine.run(machine.lamina, ['image', 'import', box, 'box'], plain)
    t.equal(first.code, 0)
    t.match(
      first.stderr,
      /^lamina: this user namespace has one id, .*no range for plain: 'usermod .* plain' as root gives him one\n$/,
    )
    t.match(await lamina(plain, 'info', '--format', '{{.driver}} {{.ownership}}'), 'fuse xattr')
    const layers = path.join(machine.plainHome, '.local/share/lamina/layers')
    const file = path.join(layers, fs.readdirSync(layers)[0] ?? '', 'diff/srv/big/f1')
    t.equal(fs.statSync(file).uid, PLAIN.uid)
    t.equal(
      await lamina(
        plain,
        'run',
        '--rm',
        '-v',
        'data:/data',
        '--storage-opt',
        'size=4m',
        'box',
        'sh',
        '-ec',
        'id -u; echo more >> /srv/big/f1; stat -c %u /srv/big/f1; echo x > /data/x; ! chown 5 /data/x 2>/dev/null',
      ),
      '0\n0',
    )
    await machine.sh(`${machine.lamina} image save -o saved.tar box`, plain)
    const owners = await machine.sh(
      `mkdir s; tar -xf saved.tar -C s; for l in $(find s -type f); do tar --numeric-owner -tvf $l srv/big/f1 ./srv/big/f1 2>/dev/null || true; done | head -1`,
      plain,
    )
    t.match(owners, / 33\/33 /, 'the image goes out with its owners')
    t.match(
      await refused(plain, 'run', '--rm', '-u', 'me', 'box', 'id'),
      /^lamina: user 1000 is none of the ids of this user namespace \(0:12346:1\): .*subuid.*\n$/,
    )
    fs.writeFileSync(
      path.join(machine.root, 'Containerfile'),
      'FROM box\nRUN echo built > /built\nCOPY box.tar /\n',
    )
    t.equal((await machine.run(machine.lamina, ['build', '-q', '-t', 'built', machine.root], plain)).code, 0)
    t.equal(await lamina(plain, 'run', '--rm', 'built', 'cat', '/built'), 'built')
    t.match(
      await refused(plain, 'container', 'create', '--storage-driver', 'vfs', 'box'),
      /owners of files are in attributes in this store/,
    )
  })

  await t.test('who gets ranges later goes on with the store that he has', async t => {
    for (const file of ['subuid', 'subgid'])
      fs.appendFileSync(path.join(machine.root, 'etc', file), `${PLAIN.uid}:500000:1000\n`)
    const ran = await machine.run(
      machine.lamina,
      [
        'run',
        '--rm',
        'box',
        'sh',
        '-c',
        'stat -c %u /srv/big/f1; chown 7 /srv/big/f1; stat -c %u /srv/big/f1; tail -1 /proc/self/uid_map',
      ],
      plain,
    )
    t.match(ran.stdout, /^33\n7\n +1 +500000 +1000\n$/, ran.stderr)
    t.match(await lamina(plain, 'info', '--format', '{{.driver}} {{.ownership}}'), 'fuse xattr')
    await lamina(plain, 'unshare', '--end')
  })

  await t.test('a host without user namespaces says so', async t => {
    // The limit belongs to a user namespace, so one is made to have it.
    const { stderr } = await machine.run('sh', [
      '-c',
      `unshare -U sleep 30 & pid=$!
       until [ "$(readlink /proc/$pid/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
       for map in uid_map gid_map; do echo '0 0 1000000' > /proc/$pid/$map; done
       nsenter -U -t $pid sh -c 'echo 0 > /proc/sys/user/max_user_namespaces
         exec setpriv --reuid=${USER.uid} --regid=${USER.uid} --clear-groups \
           env HOME=${machine.home} LAMINA_RUN=${machine.home}/none ${machine.lamina} image ls'
       kill $pid`,
    ])
    t.match(
      stderr,
      /^lamina: cannot make a user namespace: unshare: .*: they are turned off: 'sysctl -w user.max_user_namespaces=.*\n$/,
    )
  })

  await t.test('nothing is left when all have ended', async t => {
    await lamina(user, 'unshare', '--end')
    t.strictSame(await machine.settled(), [])
  })
}
