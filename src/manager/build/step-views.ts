/**
 * The trees that a RUN step sees beside its own: of stages, images, directories. What it writes to them goes to a layer of
 * their own, which is thrown away with the step; nobody's files are ever below a step as they are.
 */
import { mkdirSync } from 'node:fs'
import { fromUtf8 } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import type { Digest } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import { escapePath, startDaemon } from '../drivers/fuse.js'
import { prepareUpper, upperOf, workOf } from '../drivers/overlay-box.js'
import { resolveWorkdir } from '../config-change.js'
import { attach, cloneTree } from '../mounts/mount-tree.js'
import type { Scratch, Store } from '../store.js'
import { copyFiles } from './copy-files.js'
import { hidePaths } from './hide-paths.js'
import { sourceDigest } from './source-digest.js'
import { SourceTree } from './source-tree.js'
import type { LocalContext } from './sources.js'

export type ViewSource = { readonly kind: 'layers'; readonly chain: Digest | undefined } | LocalView

interface LocalView {
  readonly kind: 'local'
  readonly context: LocalContext
}

/** Of what a step can see of a context through a mount of `source`, for the build cache. */
export function viewDigest({ context }: LocalView, source: string): string {
  using root = openDirectory(context.dir)
  const tree = new SourceTree(root.n, CONTEXT, context.ignore, context.owners ?? false)
  const path = tree.resolve(fromUtf8(resolveWorkdir('/', source)))
  return path === undefined ? '' : sourceDigest(tree, path)
}

const CONTEXT = 'the build context'

function openDirectory(path: string): Fd {
  return sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_RDONLY | sys.O_DIRECTORY)
}

export class StepViews {
  readonly #unmounts: (() => Promise<void>)[] = []
  readonly #shared = new Map<string, Promise<Fd>>()
  #count = 0

  constructor(
    readonly store: Store,
    readonly scratch: Pick<Scratch, 'make'>,
  ) {}

  /**
   * The root of a view; open until {@link end}. Those that are only read are shared.
   * @param name the same for the same source
   */
  async open(name: string, source: ViewSource, writable: boolean): Promise<Fd> {
    if (writable) return await this.#make(source, true)
    const known = this.#shared.get(name)
    if (known !== undefined) return await known
    const made = this.#make(source, false)
    this.#shared.set(name, made)
    return await made
  }

  async #make(source: ViewSource, writable: boolean): Promise<Fd> {
    const dir = this.scratch.make(`view-${(this.#count += 1)}`)
    const target = this.scratch.make(`view-${this.#count}/tree`)
    if (source.kind === 'layers') await this.#mountLayers(dir, source.chain, target, writable)
    else await this.#mountLocal(dir, source, target)
    const root = sys.openat(sys.AT_FDCWD, fromUtf8(target), sys.O_PATH | sys.O_DIRECTORY)
    this.#unmounts.push(() => {
      root.close()
      return Promise.resolve()
    })
    return root
  }

  async #mountLayers(
    dir: string,
    chain: Digest | undefined,
    target: string,
    writable: boolean,
  ): Promise<void> {
    const driver = await this.store.drivers.chosen()
    const stack = this.store.layers.stack(chain)
    this.#unmounts.push(() => driver.unmount(target, { force: true }))
    if (!writable) {
      await driver.mountReadOnly(stack, target)
      return
    }
    const box = { dir: `${dir}/box`, stack }
    mkdirSync(box.dir, { mode: 0o700 })
    await driver.prepare(box)
    await driver.mount(box, { target })
  }

  /** As COPY would bring it: without what .dockerignore hides, and root's where owners do not count. */
  async #mountLocal(dir: string, { context }: LocalView, target: string): Promise<void> {
    using root = openDirectory(context.dir)
    const source = new SourceTree(root.n, CONTEXT, context.ignore, context.owners ?? false)
    const fuse = this.store.drivers.named('fuse')
    if (!(await fuse.probe()).available) {
      using copy = openDirectory(target)
      await copyFiles(WHOLE_TREE, source, copy.n, '/')
      return
    }
    // By descriptor into a place of ours: whatever happens to the path meanwhile, it is this directory.
    const lower = this.scratch.make(`view-${this.#count}/lower`)
    using place = sys.openat(sys.AT_FDCWD, fromUtf8(lower), sys.O_PATH | sys.O_DIRECTORY)
    using tree = cloneTree(root.n, '', { recursive: true, readOnly: true })
    attach(tree.n, place.n)
    this.#unmounts.push(() => {
      sys.umount2(fromUtf8(lower), sys.MNT_DETACH)
      return Promise.resolve()
    })
    const box = { dir, stack: { chainId: undefined, dirs: [lower] } }
    prepareUpper(box)
    using upper = openDirectory(upperOf(box))
    hidePaths(source.hidden(), root.n, upper.n)
    const options = [`upperdir=${escapePath(upperOf(box))}`, `workdir=${escapePath(workOf(box))}`]
    if (!source.owners) options.push('squash_to_root')
    this.#unmounts.push(() => fuse.unmount(target, { force: true }))
    await startDaemon([lower], [...options, 'redirect_dir=off', 'metacopy=off'], target)
  }

  /** Latest first. Nothing may be mounted from the views any more. */
  async end(): Promise<void> {
    for (const unmount of this.#unmounts.splice(0).reverse()) await unmount()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end()
  }
}

const WHOLE_TREE = {
  kind: 'copy' as const,
  sources: ['.'],
  inline: [],
  destination: '/',
  link: false,
  parents: false,
  exclude: [],
  keepGitDir: false,
}
