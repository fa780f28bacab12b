import { fromUtf8 } from '../base/bytes.js'
import { tarTree } from '../oci/index.js'
import * as sys from '../sys/index.js'
import type { Store } from './store.js'

/** The merged tree of an image as a plain tar, read through a mount of its own. */
export async function* exportImage(
  store: Store,
  ref: string,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const image = store.images.find(ref)
  using lease = store.lease()
  if (image.chainId !== undefined) lease.keepChain(image.chainId)
  await using scratch = store.scratch()
  const target = scratch.make('merged')
  const driver = await store.drivers.chosen()
  await driver.mountReadOnly(store.layers.stack(image.chainId), target)
  try {
    yield* plainTar(target, signal)
  } finally {
    await driver.unmount(target, { force: true })
  }
}

/** The merged tree of a container, mounted for as long as it takes. */
export async function* exportContainer(
  store: Store,
  ref: string,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const target = await store.containers.mount(ref)
  try {
    // A copy of the rootfs' own mount: volumes and the like are not the container's to export.
    using alone = sys.openTree(sys.AT_FDCWD, fromUtf8(target), sys.OPEN_TREE_CLONE)
    yield* tarTree(alone.n, { contents: 'plain', root: true, signal })
  } finally {
    await store.containers.unmount(ref)
  }
}

async function* plainTar(
  dir: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, void> {
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(dir), sys.O_RDONLY | sys.O_DIRECTORY)
  yield* tarTree(root.n, { contents: 'plain', root: true, signal })
}
