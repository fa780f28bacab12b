/**
 * vfs: a full copy of the stack for every writable layer. Slow and large, works on any filesystem; where the
 * filesystem shares data between copies (btrfs, XFS), the copy costs metadata alone.
 */
import { mkdirSync, mkdtempSync } from 'node:fs'
import { join } from 'node:path'
import * as sys from '../../sys/index.js'
import { treeChanges, type Change } from '../changes.js'
import { applyLayer, writeChanges } from '../copy-tree.js'
import { detachWithin } from '../mount-table.js'
import { removeTree } from '../remove-tree.js'
import { openAll } from '../stack-roots.js'
import { treeUsage } from '../tree-usage.js'
import { makeLayerWhiteout } from '../layer-form.js'
import type { SnapshotKeeper } from '../snapshot-keeper.js'
import { bindMount, unmountTarget } from './bind.js'
import type { Availability, Box, Driver, LayerTree, MountRequest, Stack, Usage } from './driver.js'

export class VfsDriver implements Driver {
  readonly name = 'vfs'

  constructor(readonly snapshots: SnapshotKeeper) {}

  probe(): Promise<Availability> {
    if (sys.geteuid() !== 0) {
      return Promise.resolve({ available: false, reason: 'bind mounts need root (or a user namespace)' })
    }
    return Promise.resolve({ available: true, reason: 'full copies, on any filesystem' })
  }

  async prepare(box: Box): Promise<void> {
    const tree = treeOf(box)
    mkdirSync(tree, { recursive: true, mode: 0o755 })
    await layOut(box.stack, tree)
  }

  mount(box: Box, request: MountRequest): Promise<void> {
    bindMount(treeOf(box), request.target, request.readOnly === true)
    return Promise.resolve()
  }

  async mountReadOnly(stack: Stack, target: string): Promise<void> {
    const tree = await this.snapshots.get('vfs', stack, async dir => {
      const inner = join(dir, 'tree')
      mkdirSync(inner, { mode: 0o755 })
      await layOut(stack, inner)
    })
    bindMount(join(tree, 'tree'), target, true)
  }

  unmount(target: string, options?: { readonly force?: boolean }): Promise<void> {
    unmountTarget(target, options?.force === true)
    return Promise.resolve()
  }

  settle(): Promise<void> {
    // A bind mount is the tree itself.
    return Promise.resolve()
  }

  changes(box: Box): Generator<Change, void, void> {
    return wholeTreeChanges(box)
  }

  layerTree(box: Box, signal?: AbortSignal): Promise<LayerTree> {
    return changesAsLayer(box, signal)
  }

  usage(box: Box): Promise<Usage> {
    return Promise.resolve(treeUsage(treeOf(box)))
  }

  async remove(box: Pick<Box, 'dir'>): Promise<void> {
    detachWithin(box.dir)
    await removeTree(box.dir)
  }
}

/** Where a driver of whole trees keeps the tree of a box. */
export function treeOf(box: Pick<Box, 'dir'>): string {
  return join(box.dir, 'tree')
}

/** Makes the merged view of `stack` in the empty directory `tree`, from the bottom layer up. */
async function layOut(stack: Stack, tree: string): Promise<void> {
  using roots = openAll([tree, ...stack.dirs])
  const [target = -1, ...layers] = roots.fds
  for (const layer of layers.reverse()) await applyLayer(layer, target)
}

/** By comparing the whole tree with the stack it came from. */
export function* wholeTreeChanges(box: Box): Generator<Change, void, void> {
  using roots = openAll([treeOf(box), ...box.stack.dirs])
  const [tree = -1, ...below] = roots.fds
  yield* treeChanges(below, [tree])
}

/** What a whole tree changes, written as a layer into a scratch directory of the box. */
export async function changesAsLayer(box: Box, signal?: AbortSignal): Promise<LayerTree> {
  const dir = mkdtempSync(join(box.dir, 'commit-'))
  try {
    using roots = openAll([treeOf(box), dir])
    const [tree = -1, out = -1] = roots.fds
    await writeChanges(tree, wholeTreeChanges(box), out, makeLayerWhiteout, signal)
  } catch (error) {
    await removeTree(dir)
    throw error
  }
  return { dir, [Symbol.asyncDispose]: () => removeTree(dir) }
}
