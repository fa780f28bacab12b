/**
 * Storage drivers: how a stack of layers, and one writable layer on top, become a directory that a process can use.
 *
 * Words. A *stack* is the layer directories of a chain, top first, in overlay form; drivers never change them. A
 * *box* is the directory of one writable layer, `containers/ID/`, which belongs to the driver that prepared it; its
 * content is that driver's own business. A *target* is the directory where the merged view appears.
 *
 * The life of a box: `prepare` makes it (after that, a crash loses nothing: everything a mount needs is in it and in
 * the stack). `mount` and `unmount` may follow each other any number of times, also after a reboot. While mounted or
 * not, `changes` lists what the writable layer changes, `layerTree` gives the same as a directory in overlay form to
 * pack into a layer (commit), and `usage` says what it takes. `remove` ends it; the box is then gone, also when it was
 * only half prepared. `mountReadOnly` shows a stack without a box (image mount).
 *
 * Durability and "in use" are the store's: it writes rows before and after, and never calls two methods on one box at
 * once.
 */
import type { Change } from '../changes.js'

export const DRIVER_NAMES = ['fuse', 'overlay2', 'btrfs', 'vfs'] as const
export type DriverName = (typeof DRIVER_NAMES)[number]

/** Names that users know from other tools and that Lamina does not implement, with what to say. */
export const UNSUPPORTED_DRIVERS: Readonly<Record<string, string>> = {
  aufs: "aufs is no part of Linux (it needs a patched kernel); use 'overlay2' or 'fuse', which read aufs whiteouts",
  zfs: "the zfs driver needs the out-of-tree ZFS module and a pool; use 'vfs' or 'fuse' on a ZFS dataset",
  devicemapper: "devicemapper was removed from Docker 25; use 'overlay2' or 'fuse'",
  overlay: "the driver is called 'overlay2'",
  'fuse-overlayfs': "the driver is called 'fuse'",
}

export interface Availability {
  readonly available: boolean
  /** One clause: why not, or what it stands on ("kernel 6.18, upperdir on ext4"). */
  readonly reason: string
}

/** A stack as a driver gets it. */
export interface Stack {
  /** Names the stack; `undefined` for the empty one. */
  readonly chainId: string | undefined
  /** Absolute paths of the layer directories, top first. */
  readonly dirs: readonly string[]
}

export interface Box {
  /** Absolute path of containers/ID; made by the store, empty before `prepare`. */
  readonly dir: string
  readonly stack: Stack
}

export interface MountRequest {
  readonly target: string
  /** A descriptor that whoever goes on mounting keeps open meanwhile, also when this process dies: a claim. */
  readonly hold?: number
  /** Bytes that the writable layer may hold; only `fuse` can keep it. */
  readonly size?: number
  readonly readOnly?: boolean
  /** The ids that the mount shows for those of the layers; only `fuse` can. */
  readonly ids?: IdMaps
}

/** `length` ids from `container` on (in the layers) are shown as those from `host` on. */
export interface IdRange {
  readonly container: number
  readonly host: number
  readonly length: number
}

export interface IdMaps {
  readonly uid: readonly IdRange[]
  readonly gid: readonly IdRange[]
}

export interface Usage {
  /** Bytes allocated by the writable layer alone. */
  readonly bytes: number
  readonly entries: number
}

/** A directory in overlay form, and what to do when done with it. */
export interface LayerTree extends AsyncDisposable {
  readonly dir: string
}

export interface Driver {
  readonly name: DriverName
  /** Whether it can run here and now. Tries the real thing where a look is not proof. */
  probe(): Promise<Availability>
  prepare(box: Box): Promise<void>
  /** @throws StoreError with what the kernel or the daemon said */
  mount(box: Box, request: MountRequest): Promise<void>
  mountReadOnly(stack: Stack, target: string): Promise<void>
  /** Ends one mount of either kind. `force` detaches although it is in use. */
  unmount(target: string, options?: { readonly force?: boolean }): Promise<void>
  /** Brings what processes wrote through `target` to the box's own directories. */
  settle(target: string): Promise<void>
  changes(box: Box): AsyncIterable<Change> | Iterable<Change>
  layerTree(box: Box, signal?: AbortSignal): Promise<LayerTree>
  usage(box: Box): Promise<Usage>
  remove(box: Pick<Box, 'dir'>): Promise<void>
}
