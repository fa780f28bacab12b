import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { Machine, unavailable, USER, type Ran, type RunOptions } from './machine.js'

/** Every way in which tools start the mount program, and what they see of it. */

const missing = unavailable('mount.fuse3')

/** One overlay in a directory of its own: `l1` over `l2`, `u`, `w`, `m`. */
class Place {
  readonly dir: string

  constructor(
    readonly machine: Machine,
    name: string,
    owner = 0,
  ) {
    this.dir = path.join(owner === 0 ? machine.root : machine.home, name)
    for (const sub of ['l1', 'l2', 'u', 'w', 'm']) fs.mkdirSync(path.join(this.dir, sub), { recursive: true })
    fs.writeFileSync(path.join(this.dir, 'l1/a'), 'one')
    fs.writeFileSync(path.join(this.dir, 'l2/a'), 'hidden')
    fs.writeFileSync(path.join(this.dir, 'l2/b'), 'two')
    if (owner !== 0) {
      for (const at of ['.', 'l1', 'l1/a', 'l2', 'l2/a', 'l2/b', 'u', 'w', 'm']) {
        fs.chownSync(path.join(this.dir, at), owner, owner)
      }
    }
  }

  at(name: string): string {
    return path.join(this.dir, name)
  }

  get layers(): string {
    return `lowerdir=${this.at('l1')}:${this.at('l2')},upperdir=${this.at('u')},workdir=${this.at('w')}`
  }

  /** Source, type and flags of the mount, from inside the machine. */
  async shown(): Promise<{ source: string; type: string; flags: string[] } | undefined> {
    const mounts = await this.machine.sh('cat /proc/self/mounts')
    const line = mounts.split('\n').find(fields => fields.split(' ')[1] === this.at('m'))
    if (line === undefined) return undefined
    const [source = '', , type = '', flags = ''] = line.split(' ')
    return { source, type, flags: flags.split(',') }
  }

  /** The merged view answers, takes a change, and ends by umount with nothing left. */
  async worksAndEnds(t: Test, writable = true): Promise<void> {
    t.equal(await this.machine.sh(`cat ${this.at('m')}/a ${this.at('m')}/b`), 'onetwo')
    const write = await this.machine.run('sh', ['-c', `echo new > ${this.at('m')}/new`])
    t.equal(write.code === 0, writable, writable ? 'can be written' : 'cannot be written')
    if (writable) t.ok(fs.existsSync(this.at('u/new')), 'the change is in upperdir')
    await this.machine.ok('umount', [this.at('m')])
    t.strictSame(await this.machine.settled(), [], 'nothing left')
    fs.rmSync(this.at('u/new'), { force: true })
  }
}

if (missing !== undefined) {
  t.test('mount forms', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  // mount.fuse3 looks for the program on PATH.
  const env = { PATH: `${path.dirname(machine.fuseLamina)}:${process.env['PATH'] ?? ''}` }
  const lamina = (args: readonly string[], options: RunOptions = {}): Promise<Ran> =>
    machine.run(machine.fuseLamina, args, { env, ...options })
  const said = (ran: Ran): Pick<Ran, 'code' | 'stdout' | 'stderr'> => ({
    code: ran.code,
    stdout: ran.stdout,
    stderr: ran.stderr,
  })
  const quiet = { code: 0, stdout: '', stderr: '' }

  await t.test('mount -t fuse.fuse-lamina', async t => {
    const place = new Place(machine, 'mount8')
    const ran = await machine.run(
      'mount',
      ['-t', 'fuse.fuse-lamina', 'overlay', place.at('m'), '-o', place.layers],
      { env },
    )
    t.strictSame(said(ran), quiet)
    t.match(await place.shown(), { type: 'fuse.fuse-lamina' })
    await place.worksAndEnds(t)
  })

  await t.test('mount.fuse3 overlay TARGET -o X -o Y -t NAME, as containerd has it', async t => {
    const place = new Place(machine, 'fuse3')
    const [lower = '', ...rest] = place.layers.split(/,(?=upperdir)/)
    const args = ['overlay', place.at('m'), '-o', lower, '-o', rest.join(','), '-t', 'fuse-lamina']
    t.strictSame(said(await machine.run('mount.fuse3', args, { env })), quiet)
    await place.worksAndEnds(t)
  })

  await t.test('mount.fuse3 fuse-lamina#overlay', async t => {
    const place = new Place(machine, 'hash')
    const args = ['fuse-lamina#overlay', place.at('m'), '-o', place.layers]
    t.strictSame(said(await machine.run('mount.fuse3', args, { env })), quiet)
    await place.worksAndEnds(t)
  })

  await t.test('a line of fstab, mounted by its mountpoint, and with mount -a once only', async t => {
    const place = new Place(machine, 'fstab')
    const options = `${place.layers},fsname=overlay,nofail,_netdev,x-systemd.requires=/,noatime`
    const fstab = place.at('fstab')
    fs.writeFileSync(fstab, `overlay ${place.at('m')} fuse.fuse-lamina ${options} 0 0\n`)
    t.strictSame(said(await machine.run('mount', ['-T', fstab, place.at('m')], { env })), quiet)
    await place.worksAndEnds(t)
    t.equal((await machine.run('mount', ['-T', fstab, '-a'], { env })).code, 0)
    t.equal((await machine.run('mount', ['-T', fstab, '-a'], { env })).code, 0, 'already there')
    t.match(await place.shown(), { source: 'overlay', type: 'fuse.fuse-lamina' })
    await place.worksAndEnds(t)
  })

  await t.test('under the name fuse-overlayfs', async t => {
    const place = new Place(machine, 'name')
    const link = place.at('fuse-overlayfs')
    fs.symlinkSync('../project/bin/fuse-lamina.js', link)
    t.strictSame(said(await machine.run(link, ['-o', place.layers, place.at('m')])), quiet)
    await place.worksAndEnds(t)
  })

  await t.test('relative layers and mountpoint, against the working directory', async t => {
    const place = new Place(machine, 'relative')
    const ran = await lamina(['-o', 'lowerdir=l1:./l2,upperdir=u/../u,workdir=w', 'm'], { cwd: place.dir })
    t.strictSame(said(ran), quiet)
    await place.worksAndEnds(t)
  })

  await t.test('several -o, -oX, empty options, a trailing comma, private', async t => {
    const place = new Place(machine, 'several')
    const args = [
      '-olowerdir=l1:l2',
      '-o',
      'upperdir=u,,workdir=w,',
      '-o',
      ',private',
      '-o',
      '',
      'overlay',
      'm',
    ]
    t.strictSame(said(await lamina(args, { cwd: place.dir })), quiet)
    await place.worksAndEnds(t)
  })

  await t.test('options after the mountpoint; every flag that a caller may pass on', async t => {
    const place = new Place(machine, 'flags')
    const flags =
      'allow_root,allow_other,default_permissions,suid,dev,exec,noatime,diratime,splice_read,splice_write,splice_move,' +
      'kernel_cache,max_write=65536,rw,threaded=1,fast_ino=1,context=system_u:object_r:container_file_t:s0,plugins=x:y,' +
      'fsname=named,subtype=overlaid'
    t.strictSame(said(await lamina(['overlay', place.at('m'), '-o', `${place.layers},${flags}`])), quiet)
    const shown = await place.shown()
    t.match(shown, { source: 'named', type: 'fuse.overlaid' })
    t.notOk(shown?.flags.includes('nosuid'))
    t.notOk(shown?.flags.includes('nodev'))
    await place.worksAndEnds(t)
  })

  await t.test('defaults as root: noatime, default_permissions, allow_other, suid', async t => {
    const place = new Place(machine, 'defaults')
    await lamina(['-o', place.layers, place.at('m')])
    const { flags = [] } = (await place.shown()) ?? {}
    for (const flag of ['rw', 'noatime', 'default_permissions', 'allow_other'])
      t.ok(flags.includes(flag), flag)
    t.notOk(flags.includes('nosuid'))
    await place.worksAndEnds(t)
  })

  await t.test('commas and colons in names, escaped', async t => {
    const place = new Place(machine, 'od,d:näme')
    const escaped = place.layers.replaceAll('od,d:näme', 'od\\,d\\:näme')
    t.strictSame(said(await lamina(['-o', escaped, place.at('m')])), quiet)
    await place.worksAndEnds(t)
  })

  await t.test('an unknown option is named on standard error and ignored', async t => {
    const place = new Place(machine, 'unknown')
    const ran = await lamina(['--strange', '-o', `${place.layers},foo,bar=1`, place.at('m')])
    t.equal(ran.code, 0)
    for (const option of ['--strange', 'foo', 'bar=1'])
      t.match(ran.stderr, `unknown argument ignored: ${option}\n`)
    await place.worksAndEnds(t)
  })

  await t.test('lowerdir alone is read-only', async t => {
    const place = new Place(machine, 'readonly')
    t.strictSame(said(await lamina(['-o', 'lowerdir=l1:l2', 'm'], { cwd: place.dir })), quiet)
    t.ok((await place.shown())?.flags.includes('ro'))
    await place.worksAndEnds(t, false)
  })

  await t.test('-o ro with an upperdir', async t => {
    const place = new Place(machine, 'ro')
    t.strictSame(said(await lamina(['-o', `${place.layers},ro`, place.at('m')])), quiet)
    await place.worksAndEnds(t, false)
  })

  await t.test('-V, --version, -h, --help', async t => {
    for (const flag of ['-V', '--version']) {
      const ran = await lamina([flag])
      t.equal(ran.code, 0)
      t.match(ran.stdout, /^fuse-lamina: version \d+\.\d+\.\d+\n/)
    }
    for (const flag of ['-h', '--help']) {
      const ran = await lamina([flag])
      t.equal(ran.code, 0)
      t.match(ran.stdout, /^usage: fuse-lamina /)
    }
  })

  await t.test('whoever waits for end of file on any descriptor is released', async t => {
    const place = new Place(machine, 'eof')
    // Standard input, output and error are pipes, and so is 9; `run` waits for the end of all that it reads.
    const script = `
      exec 9>&1
      setsid "$@"
      code=$?
      exec >&- 2>&- 9>&-
      exit $code`
    const began = Date.now()
    const ran = await machine.run('bash', [
      '-c',
      script,
      'sh',
      machine.fuseLamina,
      '-o',
      place.layers,
      place.at('m'),
    ])
    t.strictSame(said(ran), quiet)
    t.comment(`mounted in ${Date.now() - began} ms`)
    t.ok(ran.took < 4000, 'and no four seconds later')
    await place.worksAndEnds(t)
  })

  await t.test('closed standard input, output and error', async t => {
    const place = new Place(machine, 'closed')
    await machine.sh(
      `exec "$0" -o ${place.layers} ${place.at('m')} <&- >&- 2>&-`.replace('"$0"', machine.fuseLamina),
    )
    await place.worksAndEnds(t)
    const failed = await machine.run('sh', [
      '-c',
      `${machine.fuseLamina} -o lowerdir=/nowhere ${place.at('m')} <&- >&- 2>&-`,
    ])
    t.equal(failed.code, 1, 'failure is told by the exit code')
  })

  await t.test('the daemon outlives its starter, its process group and its session', async t => {
    const place = new Place(machine, 'session')
    await machine.run('setsid', [
      '-w',
      'sh',
      '-c',
      `${machine.fuseLamina} -o ${place.layers} ${place.at('m')}; kill -HUP 0; kill -9 0`,
    ])
    await place.worksAndEnds(t)
  })

  await t.test('failures: one line, exit 1, nothing mounted', async t => {
    const place = new Place(machine, 'failures')
    fs.writeFileSync(place.at('file'), '')
    const cases: [string, string[], RegExp][] = [
      ['no mountpoint', ['-o', 'lowerdir=l1'], /no mountpoint/],
      ['no lowerdir', ['-o', 'upperdir=u,workdir=w', 'm'], /no lowerdir/],
      ['a layer that is not there', ['-o', 'lowerdir=l1:gone', 'm'], /lowerdir '.*gone' does not exist/],
      ['a layer that is a file', ['-o', 'lowerdir=file', 'm'], /not a directory/],
      ['a mountpoint that is not there', ['-o', 'lowerdir=l1', 'gone'], /mountpoint '.*gone' does not exist/],
      ['upperdir without workdir', ['-o', 'lowerdir=l1,upperdir=u', 'm'], /needs a workdir/],
      ['a mapping of two numbers', ['-o', 'lowerdir=l1,uidmapping=0:1', 'm'], /uidmapping=0:1/],
    ]
    for (const [name, args, message] of cases) {
      const ran = await lamina(args, { cwd: place.dir })
      t.equal(ran.code, 1, name)
      t.match(ran.stderr, message)
      t.equal(ran.stderr.trimEnd().split('\n').length, 1, 'one line')
      t.equal(ran.stdout, '')
    }
    t.strictSame(await machine.settled(), [])
  })

  await t.test('500 lower layers with long paths', async t => {
    const place = new Place(machine, 'many')
    const long = path.join(place.dir, 'x'.repeat(180))
    const layers = Array.from({ length: 500 }, (_v, i) => path.join(long, `${i}`))
    for (const [i, layer] of layers.entries()) {
      fs.mkdirSync(path.join(layer, 'dir'), { recursive: true })
      fs.writeFileSync(path.join(layer, `f${i}`), `${i}`)
      fs.writeFileSync(path.join(layer, 'dir', `d${i}`), '')
      fs.writeFileSync(path.join(layer, 'top'), `${i}`)
    }
    const options = `lowerdir=${layers.join(':')}:${place.at('l1')}:${place.at('l2')},upperdir=${place.at('u')},workdir=${place.at('w')}`
    t.ok(options.length > 100_000)
    t.strictSame(said(await lamina(['-o', options, place.at('m')])), quiet)
    t.equal(await machine.sh(`cat ${place.at('m')}/top ${place.at('m')}/f499`), '0499')
    t.equal((await machine.sh(`ls ${place.at('m')}/dir | wc -l`)).trim(), '500')
    await place.worksAndEnds(t)
  })

  await t.test('an ordinary user mounts through fusermount3, and unmounts with it', async t => {
    const place = new Place(machine, 'user', USER.uid)
    t.strictSame(said(await lamina(['-o', place.layers, place.at('m')], { user: true })), quiet)
    const { flags = [] } = (await place.shown()) ?? {}
    t.ok(flags.includes('nosuid') && flags.includes('nodev'), 'fusermount3 insists on nosuid and nodev')
    t.ok(flags.includes(`user_id=${USER.uid}`))
    t.equal(await machine.ok('cat', [place.at('m/a')], { user: true }), 'one')
    await machine.ok('sh', ['-c', `echo x >> ${place.at('m/b')}; rm ${place.at('m/a')}`], { user: true })
    t.equal(await machine.ok('ls', [place.at('m')], { user: true }), 'b\n')
    await machine.ok('fusermount3', ['-u', place.at('m')], { user: true })
    t.strictSame(await machine.settled(), [])
  })
}
