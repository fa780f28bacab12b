/**
 * Snapshots of a volume: copies that stand still, data shared where the filesystem can (reflink). One is the directory
 * volumes/DIR/snapshots/NAME, which appears by one rename: there is no row that could say otherwise.
 */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { copyPlainTree, type CopyPlainOptions } from './copy-plain.js'
import { checkVolumeName, type VolumeRecord } from './volume-record.js'

export interface Snapshot {
  readonly name: string
  /** 32 hex digits: which snapshot it is, whatever has this name later. */
  readonly id: string
  readonly created: number
  /** Absolute path of the copy. */
  readonly tree: string
}

const RECORD = 'snapshot.json'

function snapshotsOf(store: Store, volume: VolumeRecord): string {
  return join(store.paths.volumes, volume.dir, 'snapshots')
}

/** Copies the volume, which somebody keeps in use meanwhile. @throws StoreError exists */
export async function takeSnapshot(
  store: Store,
  volume: VolumeRecord,
  name: string,
  options: CopyPlainOptions = {},
): Promise<Snapshot> {
  checkVolumeName(name)
  const home = snapshotsOf(store, volume)
  if (existsSync(join(home, name))) throw alreadyThere(volume, name)
  mkdirSync(home, { recursive: true, mode: 0o700 })
  await using scratch = store.scratch()
  const made = scratch.make('snapshot')
  const tree = scratch.make('snapshot/tree')
  {
    const flags = sys.O_RDONLY | sys.O_DIRECTORY
    using from = sys.openat(sys.AT_FDCWD, fromUtf8(volume.mountpoint), flags)
    using to = sys.openat(sys.AT_FDCWD, fromUtf8(tree), flags)
    await copyPlainTree(from.n, to.n, { signal: options.signal, onBytes: options.onBytes })
  }
  const id = randomBytes(16).toString('hex')
  writeFileSync(join(made, RECORD), JSON.stringify({ id, created: Date.now() }))
  using dir = sys.openat(sys.AT_FDCWD, fromUtf8(made), sys.O_RDONLY | sys.O_DIRECTORY)
  await sys.syncfs(dir.n)
  try {
    sys.renameat2(
      sys.AT_FDCWD,
      fromUtf8(made),
      sys.AT_FDCWD,
      fromUtf8(join(home, name)),
      sys.RENAME_NOREPLACE,
    )
  } catch (error) {
    if (error instanceof SysError && error.errno === E.EEXIST) throw alreadyThere(volume, name)
    throw error
  }
  return findSnapshot(store, volume, name)
}

export function listSnapshots(store: Store, volume: VolumeRecord): Snapshot[] {
  const home = snapshotsOf(store, volume)
  const names = existsSync(home) ? readdirSync(home) : []
  return names.map(name => findSnapshot(store, volume, name)).sort((a, b) => a.created - b.created)
}

/** @throws StoreError not-found */
export function findSnapshot(store: Store, volume: VolumeRecord, name: string): Snapshot {
  const dir = join(snapshotsOf(store, volume), name)
  if (name.includes('/') || !existsSync(join(dir, RECORD))) {
    throw new StoreError(
      'not-found',
      `volume ${volume.name} has no snapshot ${name}`,
      `see 'lamina volume snapshot ls ${volume.name}'`,
    )
  }
  const record = JSON.parse(readFileSync(join(dir, RECORD), 'utf8')) as Pick<Snapshot, 'id' | 'created'>
  return { name, id: record.id, created: record.created, tree: join(dir, 'tree') }
}

/** @throws StoreError not-found */
export async function removeSnapshot(store: Store, volume: VolumeRecord, name: string): Promise<void> {
  findSnapshot(store, volume, name)
  // Gone by one rename; a crash after it leaves a scratch directory to the next sweep.
  await using scratch = store.scratch()
  const from = fromUtf8(join(snapshotsOf(store, volume), name))
  sys.renameat2(sys.AT_FDCWD, from, sys.AT_FDCWD, fromUtf8(join(scratch.dir, 'snapshot')))
}

function alreadyThere(volume: VolumeRecord, name: string): StoreError {
  return new StoreError(
    'exists',
    `volume ${volume.name} has a snapshot ${name} already`,
    'remove it first, or choose another name',
  )
}
