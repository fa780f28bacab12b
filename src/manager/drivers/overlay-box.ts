/** What the two drivers whose writable layer is an upperdir (fuse, overlay2) have in common. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import { layerChanges, type Change } from '../changes.js'
import { detachWithin } from '../mount-table.js'
import { removeTree } from '../remove-tree.js'
import { openAll } from '../stack-roots.js'
import { treeUsage } from '../tree-usage.js'
import type { Box, LayerTree, Usage } from './driver.js'

export function upperOf(box: Pick<Box, 'dir'>): string {
  return join(box.dir, 'diff')
}

export function workOf(box: Pick<Box, 'dir'>): string {
  return join(box.dir, 'work')
}

/**
 * The lower directories of an overlay. A stack may have a layer twice (a file copied to the same place again), which the
 * kernel refuses: all of its lower occurrence is hidden by the upper one.
 */
export function lowersOf({ dirs }: Pick<Box['stack'], 'dirs'>): string[] {
  return [...new Set(dirs)]
}

/**
 * The upper's root shows as the merged root: it takes owner, mode and times from the top layer's, as a copy-up of
 * the root directory would.
 */
export function prepareUpper(box: Box): void {
  mkdirSync(upperOf(box), { recursive: true, mode: 0o755 })
  mkdirSync(workOf(box), { recursive: true, mode: 0o700 })
  const top = box.stack.dirs[0]
  if (top === undefined) return
  using from = sys.openat(sys.AT_FDCWD, fromUtf8(top), sys.O_RDONLY | sys.O_DIRECTORY)
  using to = sys.openat(sys.AT_FDCWD, fromUtf8(upperOf(box)), sys.O_RDONLY | sys.O_DIRECTORY)
  const stat = sys.statFd(from.n)
  sys.fchown(to.n, stat.uid, stat.gid)
  sys.fchmod(to.n, stat.mode & 0o7777)
  sys.utimensAt(to.n, '', stat.atime, stat.atimeNsec, stat.mtime, stat.mtimeNsec)
}

/** By walking the upper alone. */
export function* upperChanges(box: Box): Generator<Change, void, void> {
  using roots = openAll([upperOf(box), ...box.stack.dirs])
  const [upper = -1, ...below] = roots.fds
  yield* layerChanges(upper, below)
}

export function upperTree(box: Box): LayerTree {
  return { dir: upperOf(box), [Symbol.asyncDispose]: () => Promise.resolve() }
}

export function upperUsage(box: Box): Usage {
  return treeUsage(upperOf(box))
}

export async function removeBox(box: Pick<Box, 'dir'>): Promise<void> {
  detachWithin(box.dir)
  await removeTree(box.dir)
}
