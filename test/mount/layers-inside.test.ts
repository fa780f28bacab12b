import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { lamina, runAsNobody, Scratch, unavailable, type Mount } from './fixture.js'

/** Layers below the mountpoint, as enroot mounts them: the mount hides their names, and goes on over what they are. */

const skip = unavailable('lamina') ?? false

function inside(
  scratch: Scratch,
  options: readonly string[] = [],
  subject: 'lamina' | 'kernel' = 'lamina',
): Mount {
  const root = scratch.mkdir('R')
  const lower = scratch.mkdir('R/lower')
  fs.mkdirSync(path.join(lower, 'dir/sub'), { recursive: true })
  fs.writeFileSync(path.join(lower, 'dir/sub/file'), 'below')
  fs.writeFileSync(path.join(lower, 'gone'), '')
  const upper = scratch.mkdir('R/upper')
  return scratch.mount({
    subject,
    lowers: [lower],
    upper,
    work: scratch.mkdir('R/work'),
    mountpoint: root,
    options,
  })
}

function change(root: string): unknown {
  fs.appendFileSync(path.join(root, 'dir/sub/file'), ' and above')
  fs.rmSync(path.join(root, 'gone'))
  fs.mkdirSync(path.join(root, 'upper'))
  fs.writeFileSync(path.join(root, 'upper/own'), 'a name of the view')
  return fs.readdirSync(root, { recursive: true }).sort()
}

const CHANGED = ['dir', 'dir/sub', 'dir/sub/file', 'upper', 'upper/own']

t.test(
  'layers inside the mountpoint: as the kernel mounts them, with and without a keeper',
  { skip },
  async t => {
    for (const [name, options] of [
      ['kernel', []],
      ['lamina', []],
      ['passthrough', ['io=passthrough']],
      ['keeper', ['keeper=1']],
    ] as const) {
      using scratch = new Scratch(`inside-${name}`)
      const mount = inside(scratch, options, name === 'kernel' ? 'kernel' : 'lamina')
      t.strictSame(change(mount.mountpoint), CHANGED, name)
      if (name === 'keeper') {
        lamina('daemon', 'restart', mount.mountpoint)
        t.strictSame(fs.readdirSync(mount.mountpoint, { recursive: true }).sort(), CHANGED, 'after a restart')
        fs.writeFileSync(path.join(mount.mountpoint, 'later'), '')
      }
      if (name !== 'kernel')
        t.match(
          lamina('diff', mount.mountpoint),
          /^C \/dir\nC \/dir\/sub\nC \/dir\/sub\/file\nD \/gone\n(A \/later\n)?A \/upper\nA \/upper\/own\n$/,
          'diff reads the upperdir, not what the view shows under its name',
        )
      mount.unmount()
      t.strictSame(fs.readdirSync(scratch.path('R/upper/dir/sub')), ['file'])
      t.equal(fs.readFileSync(scratch.path('R/upper/dir/sub/file'), 'utf8'), 'below and above')
      t.strictSame(fs.readdirSync(scratch.path('R/upper/upper')), ['own'], 'upper itself took the changes')
    }
  },
)

t.test('layers inside the mountpoint, by an ordinary user', { skip }, async t => {
  const script = `
    mkdir -p R/lower/dir R/upper R/work
    echo below > R/lower/dir/file; echo gone > R/lower/gone
    "$node" "$lamina" mount -o "lowerdir=$PWD/R/lower,upperdir=$PWD/R/upper,workdir=$PWD/R/work$extra" R
    cat R/dir/file; echo more >> R/dir/file; rm R/gone; ls R
    "$node" "$lamina" diff R
    case "$extra" in *keeper*) "$node" "$lamina" daemon restart R >/dev/null; cat R/dir/file;; esac
    "$node" "$lamina" umount R
    cat R/upper/dir/file`
  for (const [how, within] of [
    ['fusermount3', ''],
    ['a user namespace', 'unshare -Urm'],
  ] as const)
    for (const extra of ['', ',keeper=1']) {
      using scratch = new Scratch('inside-user')
      const ran = runAsNobody(scratch, `extra=${extra}\n${script}`, within)
      t.equal(ran.status, 0, `${how}${extra}: ${ran.stderr}`)
      const again = extra === '' ? '' : 'below\nmore\n'
      t.equal(ran.stdout, `below\ndir\nC /dir\nC /dir/file\nD /gone\n${again}below\nmore\n`, how + extra)
    }
})
