/** The contents of a directory into another, as far as the tree shows them and the selection has them. */
import type { Fd } from '../../base/fd.js'
import { toUtf8, type ByteName } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'
import type { Copier } from '../copy-tree.js'
import { StoreError } from '../store-error.js'
import type { Selection } from './copy-selection.js'
import { makeRoom } from './copy-target.js'
import { joined, type SourceTree } from './source-tree.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

export interface Walk {
  readonly source: SourceTree
  readonly selection: Selection
  /** Its target's root is the directory that is copied to, so that hard links are found again. */
  readonly copier: Copier
  /** What is left out besides. */
  readonly skip?: (stat: Stat, path: ByteName) => boolean
}

/** @param path of the directory `from` in the source tree, without symlinks */
export async function copyContents(walk: Walk, from: number, to: Fd, path: ByteName): Promise<void> {
  await copyInto(walk, from, new TargetDirectory(to), path, '')
}

/** @param below the directory that is copied: what the selection's patterns count from */
async function copyInto(
  walk: Walk,
  from: number,
  to: TargetDirectory,
  path: ByteName,
  below: ByteName,
): Promise<void> {
  const { source, selection, copier } = walk
  for (const { name, stat } of source.list(from, path)) {
    const as = joined(below, name)
    const selected = selection.has(as)
    if (!sys.S_ISDIR(stat.mode)) {
      if (!selected || walk.skip?.(stat, as) === true) continue
      makeRoom(to.fd, name)
      await copier.object(from, name, stat, to.fd, as)
    } else if (selected || selection.mayHaveBelow(as)) {
      using child = sys.openat(from, name, OPEN_DIR)
      using target = new TargetDirectory(undefined, to, name, joined(path, name))
      if (selected) void target.fd
      await copyInto(walk, child.n, target, joined(path, name), as)
      // What is only on the way to something selected, and was there before, stays as it was.
      if (target.exists && (selected || target.made)) copier.metadata(child.n, '', stat, target.fd, '')
    }
  }
}

/** A directory of the target, made when something comes into it. */
class TargetDirectory implements Disposable {
  #fd: Fd | undefined
  #made = false

  constructor(
    readonly own: Fd | undefined,
    readonly parent?: TargetDirectory,
    readonly name: ByteName = '',
    /** In messages. */
    readonly path: ByteName = '',
  ) {}

  get fd(): number {
    if (this.own !== undefined) return this.own.n
    this.#fd ??= this.#open(this.parent?.fd ?? -1)
    return this.#fd.n
  }

  get exists(): boolean {
    return this.own !== undefined || this.#fd !== undefined
  }

  /** It was not there before. */
  get made(): boolean {
    return this.#made
  }

  #open(parent: number): Fd {
    const existing = sys.statAt(parent, this.name)
    if (existing === undefined) {
      sys.mkdirat(parent, this.name, 0o700)
      this.#made = true
    } else if (!sys.S_ISDIR(existing.mode)) {
      throw new StoreError(
        'failed',
        `cannot copy the directory '${toUtf8(this.path)}' over what is no directory`,
      )
    }
    return sys.openat(parent, this.name, OPEN_DIR)
  }

  [Symbol.dispose](): void {
    this.#fd?.close()
  }
}
