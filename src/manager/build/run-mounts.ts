/**
 * `RUN --mount=…` carried out: what a step sees besides its tree, and what is not in its layer. Each source is resolved in
 * the tree that it is of and taken by descriptor; nothing that a stage, an image, a context or a cache contains is ever
 * joined to a path of the host.
 * Source: docs.docker.com/reference/dockerfile, "RUN --mount"; moby/buildkit dockerfile2llb, convert_runmount.go
 */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { fromUtf8 } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import { SCRIPTS, type RunMount, type SecretRunMount, type SshRunMount } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import { resolveWorkdir } from '../config-change.js'
import { cloneTree, makeTmpfs } from '../mounts/mount-tree.js'
import { openInRoot } from '../mounts/target.js'
import { splitHost } from '../containers/etc-files.js'
import { StoreError } from '../store-error.js'
import { copyPlainTree } from '../volumes/copy-plain.js'
import type { CacheMounts, WantedCache } from './cache-mounts.js'
import { SshSocket, type SshAgents } from './ssh-agents.js'
import type { StepMemory } from './step-memory.js'
import type { StepViews, ViewSource } from './step-views.js'

export type SecretSource = { readonly file: string } | { readonly value: string }

export interface MountSources {
  readonly views: StepViews
  /** The tree of a stage, image or named context; of the build context where nothing is named. */
  readonly viewOf: (from: string | undefined) => Promise<ViewSource>
  readonly caches: CacheMounts
  readonly memory: StepMemory
  readonly secrets: Readonly<Record<string, SecretSource>>
  readonly ssh: SshAgents
  readonly workingDir: string | undefined
  /** Of the step. */
  readonly rootfs: Fd
}

/** A detached mount, and where it goes. */
export interface PreparedMount {
  readonly tree: Fd
  readonly target: string
  /** Left out where the tree has something that it cannot be mounted on. */
  readonly optional?: boolean
}

export interface PreparedMounts {
  /** Parents before children. */
  readonly mounts: readonly PreparedMount[]
  /** Variables that no other ones replace. */
  readonly env: readonly (readonly [name: string, value: string])[]
}

/** Source: moby/buildkit session/secrets/secretsprovider */
const MAX_SECRET = 500 * 1024

const SAFE = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOEXEC

/** The mounts of one step. Sockets and descriptors are its own until it is disposed. */
export class RunMounts implements Disposable {
  readonly #held: Disposable[] = []
  readonly #env: (readonly [string, string])[] = []
  readonly #mounts: PreparedMount[] = []

  constructor(readonly sources: MountSources) {}

  /** The host's resolver and names, so that package managers reach what the host reaches. */
  addNetworkFiles(addHosts: readonly string[] = []): void {
    if (existsSync('/etc/resolv.conf')) {
      const path = fromUtf8(realpathSync('/etc/resolv.conf'))
      const tree = cloneTree(sys.AT_FDCWD, path, { recursive: false, readOnly: true })
      this.#add(tree, '/etc/resolv.conf', true)
    }
    const { memory } = this.sources
    const name = memory.name('hosts')
    const added = addHosts.map(entry => splitHost(entry, 'host')).map(host => `${host.address}\t${host.name}`)
    const lines = ['127.0.0.1\tlocalhost lamina', '::1\tlocalhost', ...added]
    memory.file(name, Buffer.from(`${lines.join('\n')}\n`), { mode: 0o644 })
    this.#add(memory.tree(name, sys.MOUNT_ATTR_RDONLY), '/etc/hosts', true)
  }

  async prepare(
    wanted: readonly RunMount[],
    script: { readonly name: string; readonly content: string } | undefined,
  ): Promise<PreparedMounts> {
    const caches = await this.#caches(wanted)
    for (const mount of wanted) {
      if (mount.type === 'secret') this.#secret(mount)
      else if (mount.type === 'ssh') await this.#ssh(mount)
      else this.#add(await this.#tree(mount, caches), mount.target)
    }
    if (script !== undefined) this.#script(script)
    const depth = (path: string): number => path.split('/').length
    const mounts = [...this.#mounts].sort((a, b) => depth(a.target) - depth(b.target))
    return { mounts, env: this.#env }
  }

  #add(tree: Fd, target: string, optional = false): void {
    this.#held.push(tree)
    const path = resolveWorkdir(this.sources.workingDir, target)
    if (path === '/') throw new StoreError('invalid', 'RUN --mount cannot have the target /')
    this.#mounts.push({ tree, target: path, optional })
  }

  async #tree(
    mount: Extract<RunMount, { type: 'bind' | 'cache' | 'tmpfs' }>,
    caches: ReadonlyMap<RunMount, Fd>,
  ): Promise<Fd> {
    if (mount.type === 'tmpfs') return this.#tmpfs(mount)
    const root = caches.get(mount) ?? (await this.#view(mount))
    // What the cache began with was taken from the source already.
    const source = mount.type === 'cache' && mount.from !== undefined ? '' : mount.source
    using place = openSource(root, source, nameOf(mount))
    const tree = cloneTree(place.n, '', { recursive: false, readOnly: mount.readOnly })
    // A device of an image is one in its own container alone, where the runtime says which.
    sys.mountSetattr(tree.n, '', 0, { set: sys.MOUNT_ATTR_NODEV })
    return tree
  }

  async #view({ from, readOnly }: Extract<RunMount, { type: 'bind' | 'cache' }>): Promise<Fd> {
    const source = await this.sources.viewOf(from)
    return await this.sources.views.open(from ?? '', source, !readOnly)
  }

  #tmpfs({ target, size, readOnly }: Extract<RunMount, { type: 'tmpfs' }>): Fd {
    // As runtimes have it: the mode of what it lies on.
    const path = resolveWorkdir(this.sources.workingDir, target)
    using below = openInRoot(this.sources.rootfs.n, fromUtf8(path))
    const mode = below === undefined ? [] : [`mode=${(sys.statFd(below.n).mode & 0o7777).toString(8)}`]
    const limit = size === undefined || size === '0' ? [] : [`size=${size}`]
    return makeTmpfs(['exec', ...mode, ...limit], readOnly)
  }

  async #caches(wanted: readonly RunMount[]): Promise<Map<RunMount, Fd>> {
    const mounts = wanted.filter(mount => mount.type === 'cache')
    const caches: WantedCache[] = []
    for (const mount of mounts) {
      if (mount.from === undefined) {
        caches.push({ mount, fill: () => Promise.resolve() })
        continue
      }
      const source = await this.sources.viewOf(mount.from)
      const base = source.kind === 'layers' ? (source.chain ?? 'scratch') : `dir:${source.context.dir}`
      caches.push({ mount, base, fill: dir => this.#fill(mount, source, dir) })
    }
    const opened = await this.sources.caches.open(caches)
    this.#held.push(...opened)
    return new Map(opened.map((fd, index) => [mounts[index] as RunMount, fd]))
  }

  /** A cache that begins as a copy of a tree. */
  async #fill(mount: Extract<RunMount, { type: 'cache' }>, source: ViewSource, dir: Fd): Promise<void> {
    const root = await this.sources.views.open(mount.from ?? '', source, false)
    using from = openSource(root, mount.source, nameOf(mount))
    const stat = sys.statFd(from.n)
    if (!sys.S_ISDIR(stat.mode)) {
      throw new StoreError('invalid', `${nameOf(mount)}: '${mount.source}' is no directory`)
    }
    using tree = sys.openat(from.n, '.', sys.O_RDONLY | sys.O_DIRECTORY)
    await copyPlainTree(tree.n, dir.n)
  }

  #secret(mount: SecretRunMount): void {
    const source = Object.hasOwn(this.sources.secrets, mount.id) ? this.sources.secrets[mount.id] : undefined
    if (source === undefined) {
      if (!mount.required) return
      throw new StoreError(
        'invalid',
        `the build needs the secret '${mount.id}'`,
        `give it with --secret id=${mount.id},src=FILE`,
      )
    }
    const data = readSecret(mount.id, source)
    if (mount.env !== undefined) this.#env.push([mount.env, data.toString('utf8')])
    if (mount.target === undefined) return
    const { memory } = this.sources
    const name = memory.name('secret')
    memory.file(name, data, { mode: 0o400, ...mount })
    this.#add(memory.tree(name, SAFE | sys.MOUNT_ATTR_RDONLY), mount.target)
  }

  async #ssh(mount: SshRunMount): Promise<void> {
    const agent = await this.sources.ssh.socketOf(mount.id)
    if (agent === undefined) {
      if (!mount.required) return
      throw new StoreError(
        'invalid',
        `the build needs the SSH agent '${mount.id}'`,
        `give it with --ssh ${mount.id === 'default' ? 'default' : `${mount.id}=SOCKET`}`,
      )
    }
    const { memory } = this.sources
    const name = memory.name('ssh')
    this.#held.push(await SshSocket.listen(`${memory.shortPath}/${name}`, agent))
    memory.own(name, { mode: 0o600, ...mount })
    const count = this.#env.filter(([variable]) => variable === SSH_VARIABLE).length
    const target = mount.target ?? `/run/buildkit/ssh_agent.${count}`
    // The first one is the one that programs find.
    if (count === 0) this.#env.push([SSH_VARIABLE, resolveWorkdir(this.sources.workingDir, target)])
    this.#add(memory.tree(name, SAFE), target)
  }

  #script({ name, content }: { readonly name: string; readonly content: string }): void {
    const { memory } = this.sources
    const dir = memory.directory()
    memory.file(`${dir}/${name}`, Buffer.from(content), { mode: 0o755 })
    this.#add(memory.tree(dir, sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_RDONLY), SCRIPTS)
  }

  [Symbol.dispose](): void {
    for (const each of this.#held.splice(0).reverse()) each[Symbol.dispose]()
  }
}

const SSH_VARIABLE = 'SSH_AUTH_SOCK'

function nameOf(mount: Extract<RunMount, { type: 'bind' | 'cache' }>): string {
  if (mount.type === 'cache') return `the cache '${mount.id}'`
  return mount.from === undefined ? 'the build context' : `'${mount.from}'`
}

/** An O_PATH descriptor; `..` and symlinks end in the root. */
function openSource(root: Fd, source: string, what: string): Fd {
  const inside = resolveWorkdir('/', source)
  const found = openInRoot(root.n, fromUtf8(inside === '/' ? '.' : inside))
  if (found !== undefined) return found
  throw new StoreError('not-found', `'${source}' is not in ${what}`)
}

function readSecret(id: string, source: SecretSource): Buffer {
  const data = 'value' in source ? Buffer.from(source.value) : readBounded(id, source.file)
  if (data.length <= MAX_SECRET) return data
  throw new StoreError('invalid', `the secret '${id}' has more than ${MAX_SECRET} bytes`)
}

function readBounded(id: string, file: string): Buffer {
  try {
    if (statSync(file).size > MAX_SECRET) return Buffer.alloc(MAX_SECRET + 1)
    return readFileSync(file)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new StoreError('invalid', `cannot read the secret '${id}': ${why}`)
  }
}
