import { join } from 'node:path'
import { PROJECT } from './tool.js'

/** What the manager's benchmark does, in Lamina's words and in podman's: one image from a tar to a registry and back. */

export interface Place {
  readonly rootfs: string
  /** Packages that `apt-get install` gets as files, so that no network is in the time. */
  readonly debs: readonly string[]
  /** An empty filesystem. */
  readonly disk: string
  /** Of a registry on loopback. */
  readonly port: number
}

export interface Step {
  readonly name: string
  /** Shell text that is not timed. */
  readonly before?: string
  readonly command: readonly string[]
  /** Shell text that prints where the image's tree is now, untouched. */
  readonly tree?: string
}

export interface Subject {
  readonly name: string
  readonly steps: (place: Place) => Step[]
}

/** 53 small changes. */
const change =
  'touch etc/new; rm -f etc/motd; mkdir -p srv/d; for i in $(seq 50); do echo $i > srv/d/$i; done'

const install =
  'DEBIAN_FRONTEND=noninteractive chroot "$1" sh -c "apt-get -qq install -y --no-install-recommends /tmp/debs/*.deb >/dev/null"'

interface Words {
  readonly import: string[]
  readonly save: string[]
  readonly remove: string[]
  readonly load: string[]
  readonly loadElsewhere: string[]
  readonly create: string[]
  readonly mount: string[]
  readonly diff: string[]
  readonly commit: (image: string) => string[]
  readonly unmount: string[]
  readonly removeContainer: string[]
  readonly push: string[]
  readonly removeAll: string[]
  readonly pull: string[]
  readonly df: string[]
}

function steps(place: Place, words: Words): Step[] {
  const mount = words.mount.map(word => `'${word}'`).join(' ')
  const at = `"$(${mount})"`
  const names = place.debs.map(path => `'${path}'`).join(' ')
  return [
    { name: 'import', command: words.import },
    { name: 'save', command: words.save },
    { name: 'remove', command: words.remove },
    { name: 'load', command: words.load },
    { name: 'create', command: words.create },
    { name: 'mount', command: words.mount, tree: mount },
    { name: 'diff (small change)', before: `cd ${at}; ${change}`, command: words.diff },
    { name: 'commit (small change)', command: words.commit('bench:small') },
    ...(place.debs.length === 0
      ? []
      : [
          {
            name: 'apt-get install',
            before: `cd ${at}; mkdir -p tmp/debs; cp ${names} tmp/debs/`,
            command: ['sh', '-euc', install.replace('"$1"', at)],
          },
          { name: 'commit (install)', command: words.commit('bench:2') },
        ]),
    { name: 'unmount', command: words.unmount },
    { name: 'remove container', command: words.removeContainer },
    { name: 'load elsewhere', command: words.loadElsewhere },
    { name: 'push', command: words.push },
    { name: 'remove all', command: words.removeAll },
    { name: 'pull', command: words.pull },
    { name: 'system df', command: words.df },
  ]
}

function lamina(driver: string): Subject {
  return {
    name: `lamina ${driver}`,
    steps: place => {
      const { disk, port } = place
      const of = (root: string, ...args: string[]): string[] => [
        'env',
        `LAMINA_ROOT=${join(disk, root)}`,
        `LAMINA_STORAGE_DRIVER=${driver}`,
        process.execPath,
        join(PROJECT, 'bin/lamina.js'),
        ...args,
      ]
      const l = (...args: string[]): string[] => of('s', ...args)
      const image = place.debs.length === 0 ? 'bench:small' : 'bench:2'
      const remote = `127.0.0.1:${port}/bench:2`
      return steps(place, {
        import: l('image', 'import', place.rootfs, 'bench'),
        save: l('image', 'save', '-o', join(disk, 'saved.tar'), 'bench'),
        remove: l('image', 'rm', 'bench'),
        load: l('image', 'load', join(disk, 'saved.tar')),
        loadElsewhere: of('e', 'image', 'load', join(disk, 'saved.tar')),
        create: l('container', 'create', '--name', 'cc', 'bench'),
        mount: l('container', 'mount', 'cc'),
        diff: l('container', 'diff', 'cc'),
        commit: name => l('commit', 'cc', name),
        unmount: l('container', 'umount', '--all', 'cc'),
        removeContainer: l('container', 'rm', 'cc'),
        push: l('image', 'push', image, remote),
        removeAll: l('image', 'prune', '--all'),
        pull: l('image', 'pull', remote),
        df: l('system', 'df'),
      })
    },
  }
}

function podman(driver: string): Subject {
  return {
    name: `podman ${driver}`,
    steps: place => {
      const { disk, port } = place
      const of = (root: string, ...args: string[]): string[] => [
        'podman',
        ...[
          '--root',
          join(disk, root),
          '--runroot',
          join(disk, `${root}r`),
          '--tmpdir',
          join(disk, `${root}t`),
        ],
        ...['--storage-driver', driver, '--cgroup-manager', 'cgroupfs', '--events-backend', 'file'],
        ...args,
      ]
      const p = (...args: string[]): string[] => of('s', ...args)
      const image = place.debs.length === 0 ? 'bench:small' : 'bench:2'
      const remote = `127.0.0.1:${port}/bench:2`
      return steps(place, {
        import: p('import', place.rootfs, 'localhost/bench'),
        save: p('save', '-o', join(disk, 'saved.tar'), 'localhost/bench'),
        remove: p('rmi', 'localhost/bench'),
        load: p('load', '-i', join(disk, 'saved.tar')),
        loadElsewhere: of('e', 'load', '-i', join(disk, 'saved.tar')),
        create: p('create', '--name', 'cc', 'localhost/bench', '/bin/true'),
        mount: p('mount', 'cc'),
        diff: p('diff', 'cc'),
        commit: name => p('commit', '-q', 'cc', name),
        unmount: p('umount', '-f', 'cc'),
        removeContainer: p('rm', 'cc'),
        push: p('push', '--tls-verify=false', image, remote),
        removeAll: p('rmi', '--all', '--force'),
        pull: p('pull', '--tls-verify=false', remote),
        df: p('system', 'df'),
      })
    },
  }
}

/** Image specification and nothing else: no store, no driver; skopeo moves its layouts. A layer is a walk of the whole tree. */
const umoci: Subject = {
  name: 'umoci',
  steps: ({ rootfs, debs, disk, port }) => {
    const layout = join(disk, 'layout')
    const bundle = join(disk, 'bundle')
    const tree = join(bundle, 'rootfs')
    const sh = (script: string, ...args: string[]): string[] => ['sh', '-euc', script, 'sh', ...args]
    const copy = (...args: string[]): string[] => ['skopeo', 'copy', '--insecure-policy', '--quiet', ...args]
    const saved = `docker-archive:${join(disk, 'saved.tar')}`
    const last = debs.length === 0 ? 'small' : '2'
    const remote = `docker://127.0.0.1:${port}/bench:2`
    const make =
      'umoci init --layout "$1"; umoci new --image "$1:latest"; umoci raw add-layer --image "$1:latest" "$2"'
    const names = debs.map(path => `'${path}'`).join(' ')
    return [
      { name: 'import', command: sh(make, layout, rootfs) },
      { name: 'save', command: copy(`oci:${layout}:latest`, `${saved}:bench:latest`) },
      { name: 'remove', command: sh('umoci rm --image "$1:latest"; umoci gc --layout "$1"', layout) },
      { name: 'load', command: copy(saved, `oci:${layout}:latest`) },
      {
        name: 'mount',
        command: ['umoci', 'unpack', '--image', `${layout}:latest`, bundle],
        tree: `echo '${tree}'`,
      },
      {
        name: 'commit (small change)',
        before: `cd '${tree}'; ${change}`,
        command: ['umoci', 'repack', '--refresh-bundle', '--image', `${layout}:small`, bundle],
      },
      ...(debs.length === 0
        ? []
        : [
            {
              name: 'apt-get install',
              before: `cd '${tree}'; mkdir -p tmp/debs; cp ${names} tmp/debs/`,
              command: sh(install, tree),
            },
            {
              name: 'commit (install)',
              command: ['umoci', 'repack', '--refresh-bundle', '--image', `${layout}:2`, bundle],
            },
          ]),
      { name: 'remove container', command: ['rm', '-rf', bundle] },
      { name: 'load elsewhere', command: copy(saved, `oci:${join(disk, 'elsewhere')}:latest`) },
      { name: 'push', command: copy('--dest-tls-verify=false', `oci:${layout}:${last}`, remote) },
      { name: 'remove all', command: ['rm', '-rf', layout] },
      { name: 'pull', command: copy('--src-tls-verify=false', remote, `oci:${layout}:2`) },
    ]
  },
}

export const subjects: readonly Subject[] = [
  lamina('overlay2'),
  podman('overlay'),
  lamina('fuse'),
  lamina('vfs'),
  podman('vfs'),
  umoci,
]
