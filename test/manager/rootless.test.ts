import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { busyboxRoot, Machine, unavailable, USER } from '../dropin/machine.js'

/**
 * The manager as an ordinary user has it who owns a range of subordinate ids: store, layers, images, containers, run, build,
 * volumes, limits. What is on disk is looked at from outside.
 */

const missing = unavailable('newuidmap', 'busybox', 'crun', 'runc', 'mkfs.btrfs')

if (missing !== undefined) {
  t.test('rootless', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  const user = { user: true } as const
  const lamina = async (...args: string[]): Promise<string> =>
    (await machine.ok(machine.lamina, args, user)).trim()
  const refused = async (...args: string[]): Promise<string> => {
    const { code, stderr } = await machine.run(machine.lamina, args, user)
    if (code === 0) throw new Error(`lamina ${args.join(' ')} went well`)
    return stderr
  }
  const inContainer = async (name: string): Promise<boolean> =>
    (await machine.run(machine.lamina, ['exec', name, 'true'], user)).code === 0
  const pause = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 50))
  const store = path.join(machine.home, '.local/share/lamina')
  const tree = path.join(machine.home, 'tree')
  busyboxRoot(tree)
  fs.symlinkSync('busybox', path.join(tree, 'bin/df'))
  // As a root filesystem has it that root has unpacked; the user gets his own with `lamina unshare`.
  await machine.ok('chown', ['-R', `${USER.uid}:${USER.uid}`, tree])

  // Mounted before the user's namespace is made: nothing of this machine propagates.
  const disk = path.join(machine.root, 'disk')
  fs.mkdirSync(disk)
  await machine.sh(
    `cd ${machine.root}; truncate -s 128M disk.img; mkfs.btrfs -q disk.img; mount -o loop disk.img disk
     mkdir disk/user; chown ${USER.uid}:${USER.uid} disk/user; tar -C ${tree} -cf box.tar .`,
  )

  await t.test('a store of his own; files keep their owners, as subordinate ids on disk', async t => {
    t.match(await lamina('info', '--format', '{{.root}} {{.driver}} {{.rootless}}'), `${store} overlay2 true`)
    await lamina('unshare', 'chown', '1000:1000', path.join(tree, 'srv/big/f1'))
    await lamina('image', 'import', tree, 'box')
    const layer = path.join(store, 'layers', fs.readdirSync(path.join(store, 'layers'))[0] ?? '', 'diff')
    const owner = (name: string): number => fs.lstatSync(path.join(layer, name)).uid
    t.equal(owner('bin/busybox'), USER.uid, "root's is the user's")
    t.equal(owner('srv/big/f1'), USER.subids + 999)
    t.equal((await lamina('system', 'check')).trim(), 'Nothing is wrong.')
  })

  await t.test('layers and images go out and come in', async t => {
    const id = await lamina('image', 'inspect', '--format', '{{.id}}', 'box')
    await machine.sh(
      `${machine.lamina} image save box | ${machine.lamina} --help >/dev/null
       ${machine.lamina} image save -o box.tar box
       tar -cf plain.tar -C tree etc; ${machine.lamina} layer create plain.tar >/dev/null
       ${machine.lamina} image rm box; ${machine.lamina} image load -q < box.tar`,
      user,
    )
    t.equal(await lamina('image', 'inspect', '--format', '{{.id}}', 'box'), id)
    t.equal(fs.statSync(path.join(machine.home, 'box.tar')).uid, USER.uid)
  })

  await t.test('a device in an image is left out, and told', async t => {
    await machine.sh(
      `cd ${machine.root}; mkdir dev; mknod dev/sda b 8 0; echo x > dev/file; tar -cf dev.tar -C dev .`,
    )
    const { code, stderr } = await machine.run(
      machine.lamina,
      ['image', 'import', path.join(machine.root, 'dev.tar'), 'dev'],
      user,
    )
    t.equal(code, 0)
    t.match(stderr, /device node 'sda' \(8:0\) was left out/)
  })

  await t.test('mounts outlive the command, and all commands see them', async t => {
    await lamina('container', 'create', '--name', 'one', '-v', 'data:/data', '--tmpfs', '/mem:size=1m', 'box')
    const merged = await lamina('container', 'mount', 'one')
    t.throws(() => fs.statSync(path.join(merged, 'bin')), 'not mounted outside')
    await lamina(
      'unshare',
      'sh',
      '-ec',
      `echo new > ${merged}/new; chown 7:7 ${merged}/new; rm ${merged}/srv/big/f2`,
    )
    await lamina('unshare', 'sh', '-ec', `echo kept > ${merged}/data/kept; mountpoint -q ${merged}/mem`)
    t.equal(
      await lamina('container', 'diff', 'one'),
      'A /data\nA /mem\nA /new\nC /srv\nC /srv/big\nD /srv/big/f2',
    )
    await machine.sh(`echo in > file; ${machine.lamina} container cp file one:/copied`, user)
    t.equal(
      (await machine.sh(`${machine.lamina} container cp one:/new - | tar -tv`, user))
        .slice(0, 30)
        .split(' ')[1],
      '7/7',
    )
    t.match(await refused('container', 'rm', 'one'), /is mounted on/)
    await lamina('container', 'umount', 'one')
    await lamina('container', 'commit', 'one', 'changed')
    t.equal(await lamina('run', '--rm', 'changed', 'stat', '-c', '%u:%g', '/new'), '7:7')
    await machine.sh(`${machine.lamina} container export one | tar -t | grep -q copied`, user)
    await lamina('container', 'rm', 'one')
  })

  await t.test('run and exec: by crun, by runc, and without either', async t => {
    const script =
      'touch /mine; chown 33:33 /mine; stat -c %u /mine; id -u; cat /proc/self/uid_map | tail -1; cat /srv/big/f1'
    for (const runtime of ['crun', 'runc', 'none']) {
      const ran = await machine.ok(machine.lamina, ['run', '--rm', 'box', 'sh', '-ec', script], {
        ...user,
        env: { LAMINA_RUNTIME: runtime },
      })
      t.match(ran, new RegExp(`^33\n0\n +1 +${USER.subids} +65536\n1`), runtime)
      const alone = await machine.run(
        machine.lamina,
        [
          'run',
          '--rm',
          '-u',
          '1000',
          '--network',
          'none',
          '--read-only',
          'box',
          'sh',
          '-c',
          'id -u; ! touch /x && exit 3',
        ],
        { ...user, env: { LAMINA_RUNTIME: runtime } },
      )
      t.equal(`${alone.stdout}${alone.code}`, '1000\n3', `${runtime}, another user, no network, read-only`)
      const inside = await machine.sh(
        `${machine.lamina} run --rm --name up box sh -c 'trap "exit 0" TERM; : > /ready; while :; do sleep 0.1; done' & run=$!
         until ${machine.lamina} exec up sh -c '[ -e /ready ] && echo inside' 2>/dev/null; do sleep 0.1; done
         kill -TERM $run; wait $run`,
        { ...user, env: { LAMINA_RUNTIME: runtime } },
      )
      t.match(inside, /^inside\n/, `exec in ${runtime}`)
    }
    const killed = machine.run(machine.lamina, ['run', '--rm', '--name', 'dead', 'box', 'sleep', '60'], user)
    while (!(await inContainer('dead'))) await pause()
    await machine.sh(`kill -KILL $(pgrep -u ${USER.uid} -f '[r]un --rm --name dead')`, user)
    t.equal(
      await lamina('container', 'ls', '-a', '--format', '{{.name}}'),
      '',
      'what a killed command left is ended',
    )
    await killed
    t.match(
      await lamina('run', '--rm', '-v', '/:/host', 'box', 'ls', '/host'),
      /^etc$/m,
      'with all that is mounted below',
    )
    t.equal(
      await lamina('run', '--rm', '--uidmap', '0:5000:1000', 'box', 'stat', '-c', '%u', '/bin/busybox'),
      '0',
    )
    t.match(
      await refused('run', '--rm', '-u', '70000', 'box', 'true'),
      /^lamina: user 70000 is none of the ids of this user namespace .*subuid.*\n$/,
    )
  })

  await t.test('a build, with steps of other users', async t => {
    fs.writeFileSync(
      path.join(machine.home, 'Containerfile'),
      'FROM box\nRUN mkdir /work && chown 1000:1000 /work\nCOPY --chown=33:33 file /srv/file\nUSER me\nRUN echo x > /work/x\nRUN rm /work/x; id -u > /work/y\n',
    )
    const built = await machine.run(machine.lamina, ['build', '-t', 'built', machine.home], user)
    t.equal(built.code, 0, built.stderr)
    t.equal(
      await lamina('run', '--rm', '-u', '0', 'built', 'sh', '-c', 'stat -c %u /srv/file; cat /work/*'),
      '33\n1000',
    )
  })

  await t.test('volumes and limits', async t => {
    await lamina(
      'run',
      '-d',
      '--name',
      'behind',
      'box',
      'sh',
      '-c',
      'hostname; cat /etc/hostname; sleep 1; exit 4',
    )
    t.equal(await lamina('wait', 'behind'), '4')
    const [own, written] = (await lamina('logs', 'behind')).split('\n')
    t.equal(own, written)
    await lamina('start', 'behind')
    t.equal(await lamina('stop', '-t', '0', 'behind'), 'behind')
    await lamina('container', 'rm', 'behind')
    await lamina('run', '--rm', '-v', 'data:/d', 'box', 'sh', '-ec', 'echo two > /d/two; chown 33 /d/two')
    await lamina('volume', 'backup', '-o', `${machine.home}/data.tar.zst`, 'data')
    await lamina('volume', 'restore', `${machine.home}/data.tar.zst`, 'again')
    await lamina('volume', 'clone', 'again', 'third')
    await lamina('volume', 'snapshot', 'create', 'third', 'early')
    t.equal(
      await lamina(
        'run',
        '--rm',
        '-v',
        'third:/d',
        '-v',
        `${machine.home}/tree/etc:/host:ro`,
        'box',
        'sh',
        '-c',
        'cat /d/*; stat -c %u /d/two /host/passwd',
      ),
      'kept\ntwo\n33\n0',
    )
    await lamina('volume', 'create', '-o', 'size=2m', 'small')
    t.match(
      await refused(
        'run',
        '--rm',
        '-v',
        'small:/d',
        'box',
        'dd',
        'if=/dev/zero',
        'of=/d/big',
        'bs=1M',
        'count=3',
      ),
      /No space left/,
    )
    t.match(
      await refused(
        'run',
        '--rm',
        '--storage-opt',
        'size=2m',
        'box',
        'dd',
        'if=/dev/zero',
        'of=/big',
        'bs=1M',
        'count=3',
      ),
      /No space left/,
    )
    await lamina('volume', 'create', '-o', 'type=tmpfs', '-o', 'device=tmpfs', 'memory')
    t.match(await lamina('run', '--rm', '-v', 'memory:/d', 'box', 'mount'), /^tmpfs on \/d /m)
    await lamina('volume', 'create', '-o', 'type=ext4', '-o', 'device=/dev/null', 'disk')
    t.match(
      await refused('run', '--rm', '-v', 'disk:/d', 'box', 'true'),
      /^lamina: mount: .*: an ordinary user can mount tmpfs and binds; .*\n$/,
    )
    t.match(await lamina('system', 'df'), /^Images +4 /m)
    t.match(await lamina('system', 'prune', '--all', '--dry-run'), /Would free/)
    t.equal(await lamina('volume', 'rm', 'again'), 'again')
    t.equal(await lamina('system', 'check'), 'Nothing is wrong.')
  })

  await t.test('the other drivers: whole copies, and btrfs', async t => {
    for (const driver of ['vfs', 'btrfs']) {
      const root = `${disk}/user/${driver}`
      const said = await machine.sh(
        `$L image import ${machine.root}/box.tar box >/dev/null
         $L run --name one box sh -ec 'echo x > /x; chown 5:6 /x; rm /srv/big/f3'
         $L container diff one; $L container commit one two >/dev/null; $L container rm one
         $L run --rm two sh -c 'stat -c %u:%g /x; ls /srv/big/f3' 2>/dev/null || true
         $L system prune --all >/dev/null; $L system check; ls $LAMINA_ROOT/snapshots $LAMINA_ROOT/layers`,
        { ...user, env: { L: machine.lamina, LAMINA_ROOT: root, LAMINA_STORAGE_DRIVER: driver } },
      )
      t.match(
        said,
        new RegExp(
          `^D /srv/big/f3\\nA /x\\n(.*\\n)*one\\n5:6\\nNothing is wrong.\\n.*layers:\\n\\n.*snapshots:\\n$`,
          'm',
        ),
        driver,
      )
    }
  })

  await t.test('a program with the library is told what to do, or does it itself', async t => {
    const api = path.join(machine.root, 'project/dist/src/index.js')
    const program = path.join(machine.home, 'program.mjs')
    const write = (first: string): void =>
      fs.writeFileSync(
        program,
        `import { Store, enterUserNamespace } from '${api}'\n${first}\nusing store = await Store.open()
console.log(store.images.list().length > 0, process.argv[2])`.replace('using store', 'const store'),
      )
    write('')
    const alone = await machine.run(process.execPath, [program, 'x'], user)
    t.match(alone.stderr, /a store needs this user's namespace/)
    t.equal(await lamina('unshare', process.execPath, program, 'x'), 'true x')
    write('await enterUserNamespace()')
    t.equal(await machine.ok(process.execPath, [program, 'y z'], user), 'true y z\n')
  })
}
