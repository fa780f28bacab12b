/**
 * Where a volume's data is. A plain volume is the directory `_data`. One with mount options is what mount(8) puts there. One
 * with a size is a mount of Lamina's own daemon, which keeps the limit, over the directory `data`.
 */
import { chmodSync, mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import { unmountTarget } from '../drivers/bind.js'
import { escapePath, startDaemon } from '../drivers/fuse.js'
import { isAlive, isMounted } from '../mount-table.js'
import { treeUsage, type TreeUsage } from '../tree-usage.js'
import { mountByOptions, sizeOf, type VolumeOptions } from './volume-options.js'
import type { VolumeRecord } from './volume-record.js'

export interface VolumeUsage extends Omit<TreeUsage, 'entries'> {
  /** Not known where nothing was walked: the daemon of a volume with a size knows bytes. */
  readonly entries: number | undefined
}

/** Makes the directories of a new volume. Returns the one that its first content is written to. */
export function makeVolumeDirs(home: string, options: VolumeOptions): string {
  const make = (name: string, mode: number): string => {
    const path = join(home, name)
    mkdirSync(path, { recursive: true, mode })
    // The umask of whoever runs the command is not the volume's.
    chmodSync(path, mode)
    return path
  }
  const mountpoint = make('_data', 0o755)
  if (sizeOf(options) === undefined) return mountpoint
  make('work', 0o700)
  make('empty', 0o755)
  return make('data', 0o755)
}

/**
 * Brings the data of a volume to its mountpoint, where it is not there all the time.
 * @param hold the claim on it, for whoever goes on mounting when this process dies
 * @throws StoreError failed
 */
export async function mountVolume({ options, mountpoint }: VolumeRecord, hold: number): Promise<void> {
  const size = sizeOf(options)
  if (size === undefined && options['type'] === undefined) return
  if (isMounted(mountpoint)) {
    if (isAlive(mountpoint)) return
    unmountTarget(mountpoint, true)
  }
  if (size === undefined) {
    mountByOptions(options, mountpoint)
    return
  }
  const home = dirname(mountpoint)
  const at = (name: string): string => escapePath(join(home, name))
  const words = [`upperdir=${at('data')}`, `workdir=${at('work')}`, `size=${size}`]
  await startDaemon([join(home, 'empty')], words, mountpoint, hold)
}

/** What it takes on disk. One with mount options counts while it is mounted. */
export function volumeUsage({ options, mountpoint }: VolumeRecord): VolumeUsage {
  if (sizeOf(options) === undefined) return treeUsage(mountpoint)
  if (!isMounted(mountpoint) || !isAlive(mountpoint)) return treeUsage(join(dirname(mountpoint), 'data'))
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(mountpoint), sys.O_RDONLY | sys.O_DIRECTORY)
  const { blocks, bfree, frsize } = sys.fstatfs(root.n)
  const bytes = (blocks - bfree) * frsize
  return { bytes, size: bytes, entries: undefined }
}
