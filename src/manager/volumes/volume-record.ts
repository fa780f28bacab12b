/** Volumes as rows, and their names. */
import { join } from 'node:path'
import { StoreError } from '../store-error.js'
import type { VolumeOptions } from './volume-options.js'

export interface VolumeRecord {
  readonly name: string
  /** Made for one container, which did not name it: goes with it. */
  readonly anonymous: boolean
  readonly options: VolumeOptions
  readonly labels: Readonly<Record<string, string>>
  /** Name of its directory under volumes/. */
  readonly dir: string
  /** Absolute path of the data. */
  readonly mountpoint: string
  /** An image's content has been copied in, or it never shall. */
  readonly filled: boolean
  readonly created: number
}

export interface CreateVolume {
  /** 64 hex digits otherwise. */
  readonly name?: string | undefined
  readonly anonymous?: boolean
  readonly options?: VolumeOptions
  readonly labels?: Readonly<Record<string, string>>
  readonly filled?: boolean
  /** A lease: unless a container takes it, the volume goes with that. */
  readonly madeBy?: string
}

export interface VolumeRow {
  name: string
  anonymous: number
  options: string
  labels: string
  dir: string
  filled: number
  created: number
}

/** `volumes`: the directory that all of them are in. */
export function toVolume(row: VolumeRow, volumes: string): VolumeRecord {
  return {
    name: row.name,
    anonymous: row.anonymous === 1,
    options: JSON.parse(row.options) as Record<string, string>,
    labels: JSON.parse(row.labels) as Record<string, string>,
    dir: row.dir,
    mountpoint: join(volumes, row.dir, '_data'),
    filled: row.filled === 1,
    created: row.created,
  }
}

/** @throws StoreError invalid. Source: moby daemon/names */
export function checkVolumeName(name: string): void {
  if (/^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/.test(name) && name.length <= 255) return
  throw new StoreError(
    'invalid',
    `'${name}' is not a volume name`,
    'letters, digits, _ . - and at least two; for a directory of the host give its absolute path',
  )
}

export function alreadyThere(name: string): StoreError {
  return new StoreError(
    'exists',
    `a volume is already called ${name}`,
    'remove or rename it, or choose another name',
  )
}

export function sameOptions(volume: VolumeRecord, options: VolumeOptions): VolumeRecord {
  const text = (all: VolumeOptions): string => JSON.stringify(Object.entries(all).sort())
  if (Object.keys(options).length === 0 || text(volume.options) === text(options)) return volume
  throw new StoreError(
    'exists',
    `volume ${volume.name} exists with other options`,
    "see 'lamina volume inspect', or choose another name",
  )
}
