/** A writable layer for one build step: mounted while the step runs, then packed into a layer, then gone. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import type { Digest } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Driver } from '../drivers/driver.js'
import { packTree } from '../layer-tar.js'
import type { Lease } from '../leases.js'
import type { Scratch, Store } from '../store.js'

/**
 * Runs `work` in the merged tree of `chain` and stores what it changed.
 * @returns the new top of the stack: `chain` itself where nothing changed
 */
export async function changeTree(
  store: Store,
  chain: Digest | undefined,
  lease: Lease,
  work: (rootfs: Fd, path: string, scratch: Scratch) => Promise<void>,
  signal?: AbortSignal,
): Promise<Digest | undefined> {
  const driver = await store.drivers.chosen()
  await using scratch = store.scratch()
  const box = { dir: scratch.make('box'), stack: store.layers.stack(chain) }
  await driver.prepare(box)
  const target = scratch.make('merged')
  await driver.mount(box, { target })
  try {
    using rootfs = sys.openat(sys.AT_FDCWD, fromUtf8(target), sys.O_RDONLY | sys.O_DIRECTORY)
    const before = sys.statFd(rootfs.n)
    await work(rootfs, target, scratch)
    // The step's own mountpoints and copies touched the root directory's times; its content decides about a layer.
    sys.utimensAt(rootfs.n, '', before.atime, before.atimeNsec, before.mtime, before.mtimeNsec)
    await driver.settle(target)
  } finally {
    await driver.unmount(target, { force: true })
  }
  try {
    for await (const _ of driver.changes(box)) {
      await using tree = await driver.layerTree(box, signal)
      const layer = await store.layers.add(packTree(tree.dir, store.ownership, signal), lease, {
        trusted: true,
        ...(signal === undefined ? {} : { signal }),
      })
      return store.layers.link(layer.diffId, chain, lease)
    }
    return chain
  } finally {
    await driver.remove(box)
  }
}

/** Shows the tree of a chain, read-only, while `work` runs: COPY --from, bind mounts of RUN. */
export async function readTree<T>(
  store: Store,
  chain: Digest | undefined,
  work: (path: string) => Promise<T>,
): Promise<T> {
  const driver: Driver = await store.drivers.chosen()
  await using scratch = store.scratch()
  const target = join(scratch.dir, 'tree')
  mkdirSync(target, { mode: 0o755 })
  await driver.mountReadOnly(store.layers.stack(chain), target)
  try {
    return await work(target)
  } finally {
    await driver.unmount(target, { force: true })
  }
}
