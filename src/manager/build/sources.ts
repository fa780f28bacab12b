/** The trees that steps read: the build context, those of `--build-context`, of other stages and of images. */
import { fromUtf8 } from '../../base/bytes.js'
import type { Digest, PathPatterns } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { SourceTree } from './source-tree.js'
import { readTree } from './step-box.js'

/** Files of whoever builds. */
export interface LocalContext {
  readonly dir: string
  /** What .dockerignore says. */
  readonly ignore?: PathPatterns | undefined
  /** They came as an archive, whose owners count. Else all is root's. */
  readonly owners?: boolean | undefined
}

/** What a name stands for, whatever the Containerfile and the registries say of it. */
export type NamedContext = LocalContext | { readonly image: string }

export class Sources {
  readonly #named: ReadonlyMap<string, NamedContext>

  constructor(
    readonly store: Store,
    readonly context: LocalContext | undefined,
    named: Readonly<Record<string, NamedContext>> = {},
  ) {
    this.#named = new Map(Object.entries(named).map(([name, context]) => [shortName(name), context]))
  }

  named(name: string): NamedContext | undefined {
    return this.#named.get(shortName(name))
  }

  /** The directory that `from` of a step stands for; undefined where it is a stage's or an image's tree. */
  local(from: string | undefined): LocalContext | undefined {
    if (from !== undefined) {
      const named = this.named(from)
      return named !== undefined && 'dir' in named ? named : undefined
    }
    if (this.context === undefined) {
      throw new StoreError('invalid', 'this build has no context', 'name a directory')
    }
    return this.context
  }

  /** Opens a context for as long as `work` takes. */
  async withLocal<T>(
    context: LocalContext,
    from: string | undefined,
    work: (tree: SourceTree) => Promise<T> | T,
  ): Promise<T> {
    const what = from === undefined ? 'the build context' : `the build context '${from}'`
    using root = openDirectory(context.dir)
    return await work(new SourceTree(root.n, what, context.ignore, context.owners ?? false))
  }

  /** Mounts the tree of a stage or image for as long as `work` takes. */
  async withChain<T>(
    chain: Digest | undefined,
    from: string,
    work: (tree: SourceTree) => Promise<T>,
  ): Promise<T> {
    return await readTree(this.store, chain, async path => {
      using root = openDirectory(path)
      return await work(new SourceTree(root.n, from))
    })
  }
}

/** Names are the same in upper and lower case, and `debian:latest` is `debian`. */
function shortName(name: string): string {
  return name.toLowerCase().replace(/:latest$/, '')
}

function openDirectory(path: string) {
  return sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_RDONLY | sys.O_DIRECTORY)
}
