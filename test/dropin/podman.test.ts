import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { entriesOf } from './layer-entries.js'
import { busyboxRoot, Machine, unavailable, which } from './machine.js'
import { Store } from './store.js'

/**
 * Podman and Buildah with `fuse-lamina` as mount_program, as root and as an ordinary user, against the same with
 * fuse-overlayfs. With --timestamp an image's id is a digest of every byte of its layers and of its history, so equal ids say
 * that both mount programs showed and stored the same.
 */

const CONTAINERFILE = `FROM localhost/base
RUN mkdir -p /data/deep/er && echo a > /data/a && ln /data/a /data/deep/hard && ln -s ../a /data/deep/soft
COPY tree /copied
RUN rm /etc/group && rm -rf /var && mkdir /var && echo new > /var/new
RUN mv /data/deep /data/moved && chmod 1777 /data && chown 12:34 /data/a
COPY --chown=5:6 file /data/moved/file
RUN rm -rf /copied/a/b && mkdir /copied/a/b && echo x > /copied/a/b/x && mkfifo /copied/fifo
ENV A=b
RUN for i in 0 1 2 3 4 5 6 7 8 9; do echo $i > /data/n$i; done; chmod 2755 /data/n1; touch -d '2001-02-03 04:05:06' /data/n2
RUN rm /data/n3 && echo again > /data/n3 && rm /data/n4 && mkdir /data/n4 && cat /data/moved/hard >> /data/n5
WORKDIR /work/dir
RUN mv /copied /elsewhere && truncate -s 10M /sparse && chmod 600 /srv/big/f7 && echo "$A" >> /srv/big/f8
RUN ["/bin/sh", "-c", "find /srv -type f | wc -l > /count; test $(cat /count) = 50; rm -rf /srv; mkdir -p /srv/big; chown 1000:1000 /srv"]
`

/** What a container does to its root: everything that an overlay answers differently from a plain directory. */
const CHANGES = `
set -e
echo written > /new; mkdir /dir; echo in > /dir/file; ln /dir/file /dir/hard
rm /data/n0; rm -rf /elsewhere/a; mkdir /elsewhere/a; echo over > /elsewhere/a/one
mv /data/moved /data/again 2>/dev/null || { cp -a /data/moved /data/again; rm -r /data/moved; }
chmod 700 /bin/busybox; chown 1000:1000 /data/n1; touch -d '2010-01-01 00:00:00' /data/n6
ln -s /nowhere /link; mkfifo /pipe
cat /data/n7 /data/n7 > /data/n8; mv /data/n8 /data/n9
( cd /dir; exec 3<>/data/n5; echo tail >&3; rm /data/n5; cat <&3 >/dev/null )
find / -xdev -type f | wc -l
ls /data
`

const programs = ['podman', 'buildah', 'runc', 'crun', 'busybox', 'newuidmap', 'fusermount3']
const missing = unavailable(...programs)
const peer = which('fuse-overlayfs')

if (missing !== undefined) {
  t.test('podman and buildah', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  const context = prepare(machine)
  for (const user of [false, true]) {
    const who = user ? 'an ordinary user' : 'root'
    await t.test(`Podman as ${who}: build, run, diff, export, commit, remove, prune`, async t => {
      const seen = []
      for (const program of [machine.fuseLamina, ...(peer === undefined ? [] : [peer])]) {
        seen.push(await podmanRound(t, machine, program, user, context))
      }
      compare(t, seen)
    })
    await t.test(`Buildah as ${who}: from, mount, run, copy, commit, remove`, async t => {
      const seen = []
      for (const program of [machine.fuseLamina, ...(peer === undefined ? [] : [peer])]) {
        seen.push(await buildahRound(t, machine, program, user, context))
      }
      compare(t, seen)
    })
  }
}

/** The base image's archive, and the directory of a build. */
interface Context {
  base: string
  build: string
}

function prepare(machine: Machine): Context {
  const base = path.join(machine.root, 'base')
  busyboxRoot(base)
  const build = path.join(machine.root, 'build')
  fs.mkdirSync(path.join(build, 'tree/a/b'), { recursive: true })
  fs.writeFileSync(path.join(build, 'tree/a/one'), 'one\n')
  fs.chmodSync(path.join(build, 'tree/a/one'), 0o4755)
  fs.writeFileSync(path.join(build, 'tree/a/b/two'), 'two\n')
  fs.symlinkSync('one', path.join(build, 'tree/a/link'))
  fs.writeFileSync(path.join(build, 'file'), 'file\n')
  fs.writeFileSync(path.join(build, 'Containerfile'), CONTAINERFILE)
  return { base, build }
}

interface Round {
  program: string
  /** Everything that must be the same whichever program mounts, by name. */
  results: Record<string, unknown>
  /** Entries of each layer of the built image, in order. */
  layers: string[][]
}

async function podmanRound(
  t: Test,
  machine: Machine,
  program: string,
  user: boolean,
  context: Context,
): Promise<Round> {
  const store = new Store(machine, `podman-${path.basename(program)}`, program, user)
  const tar = path.join(machine.root, 'base.tar')
  if (!fs.existsSync(tar))
    await machine.ok('tar', ['-C', context.base, '--sort=name', '--owner=0', '--group=0', '-cf', tar, '.'])
  await store.podman(['import', '--quiet', tar, 'localhost/base'])
  const started = Date.now()
  await store.podman(['build', '--quiet', '--layers', '--timestamp=0', '--tag=ten', ...Store.LIMITS, '.'], {
    cwd: context.build,
  })
  t.comment(`${path.basename(program)}: built in ${((Date.now() - started) / 1000).toFixed(1)} s`)
  const results: Record<string, unknown> = {}
  results['image'] = (await store.podman(['images', '--quiet', '--no-trunc', 'ten'])).trim()
  const layers = await savedLayers(machine, store)

  const run = ['run', '--name=c', ...Store.LIMITS, 'ten', 'sh', '-c', CHANGES]
  results['said by the container'] = await store.podman(run)
  results['diff'] = (await store.podman(['diff', 'c'])).split('\n').sort()
  const exported = path.join(store.dir, 'export.tar')
  await store.podman(['export', `--output=${exported}`, 'c'])
  results['export'] = entriesOf(exported)
  await store.podman(['commit', '--quiet', 'c', 'committed'])
  results['in what was committed'] = await store.podman([
    'run',
    '--rm',
    '--read-only',
    ...Store.LIMITS,
    'committed',
    'sh',
    '-c',
    'cat /new /dir/hard /elsewhere/a/one /data/n9; ls /data /elsewhere/a; stat -c "%a %u:%g %h %n" /bin/busybox /data/n1 /dir/file',
  ])
  await store.podman(['start', '--attach', 'c']).catch(() => undefined) // a second start finds its changes done
  await store.podman(['rm', 'c'])
  await store.podman(['rmi', '--all', '--force'])
  await store.podman(['system', 'prune', '--all', '--force', '--volumes'])
  t.strictSame(store.layers(), [], `${path.basename(program)}: no layer left`)
  if (user) await store.podman(['system', 'migrate']) // ends the process that holds the user's namespace
  t.strictSame(await machine.settled(), [], `${path.basename(program)}: no mount and no process left`)
  return { program, results, layers }
}

async function savedLayers(machine: Machine, store: Store): Promise<string[][]> {
  const out = path.join(store.dir, 'saved.tar')
  await store.podman(['save', '--quiet', '--format=docker-archive', `--output=${out}`, 'ten'])
  const dir = path.join(store.dir, 'saved')
  fs.mkdirSync(dir)
  await machine.ok('tar', ['-C', dir, '-xf', out])
  const [manifest] = JSON.parse(fs.readFileSync(path.join(dir, 'manifest.json'), 'utf8')) as {
    Layers: string[]
  }[]
  return (manifest?.Layers ?? []).map(layer => entriesOf(path.join(dir, layer)))
}

async function buildahRound(
  t: Test,
  machine: Machine,
  program: string,
  user: boolean,
  context: Context,
): Promise<Round> {
  const store = new Store(machine, `buildah-${path.basename(program)}`, program, user)
  // Copied into a working container made from nothing: an image without podman.
  const said = await store.buildahScript(
    `
scratch=$(B from scratch)
m=$(B mount $scratch)
cp -a "$BASE/." $m/
B umount $scratch >/dev/null
B commit --quiet --timestamp=0 --rm $scratch base
w=$(B from --network=none base)
B run $LIMITS $w sh -c 'rm -rf /srv/big/f1*; mkdir /new; echo one > /new/one; ln /new/one /new/two; chmod 4711 /bin/busybox'
B copy $w "$BUILD/tree" /copied
m=$(B mount $w)
find $m -mindepth 1 | wc -l
rm -r $m/etc; mkdir $m/etc; echo hand > $m/etc/hand; mv $m/copied/a $m/moved; cp -a $m/moved $m/twice
cat $m/copied/../moved/one
B config --env X=1 $w
B umount $w >/dev/null
B commit --quiet --timestamp=0 $w made
B run $LIMITS $w sh -c 'cat /etc/hand; ls /srv/big | wc -l'
B images --quiet --no-trunc made
B rm --all >/dev/null
B rmi --all --force >/dev/null
`,
    { BASE: context.base, BUILD: context.build, LIMITS: `--runtime=${store.runtime}` },
  )
  t.strictSame(store.layers(), [], `${path.basename(program)}: no layer left`)
  t.strictSame(await machine.settled(), [], `${path.basename(program)}: no mount and no process left`)
  return { program, results: { said }, layers: [] }
}

function compare(t: Test, [ours, theirs]: Round[]): void {
  if (ours === undefined) return
  if (theirs === undefined) {
    t.pass('not compared with fuse-overlayfs, which is not installed')
    return
  }
  t.equal(ours.layers.length, theirs.layers.length, 'as many layers')
  for (const [i, layer] of ours.layers.entries())
    t.strictSame(layer, theirs.layers[i], `layer ${i} is the same`)
  for (const [name, value] of Object.entries(ours.results)) t.strictSame(value, theirs.results[name], name)
}
