import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import { fromUtf8 } from '../base/bytes.js'
import * as sys from '../sys/index.js'
import type { DriverReport } from './drivers/choose.js'
import type { Store } from './store.js'
import { UNSUPPORTED_DRIVERS, type IdMaps } from './drivers/driver.js'
import { inUserNamespace, ownIds } from './rootless/standing.js'
import type { Ownership } from './rootless/store-ids.js'
import { causeOf } from './store-error.js'
import { findRuntime } from './oci-runtime.js'

export interface StoreInfo {
  readonly root: string
  readonly filesystem: string
  readonly rootless: boolean
  /** Of the user namespace; absent for root of the host. */
  readonly ids: IdMaps | undefined
  /** Where owners of files are kept: in the files, or in an attribute beside them. */
  readonly ownership: Ownership
  /** The driver of new containers; absent where none can run. */
  readonly driver: string | undefined
  /** Why none can run, or not the one that was asked for. */
  readonly driverProblem: string | undefined
  readonly driverChoice: string
  readonly drivers: readonly DriverReport[]
  readonly otherDrivers: Readonly<Record<string, string>>
  readonly runtime: string | undefined
  readonly kernel: string
  readonly node: string
  readonly images: number
  readonly layers: number
  readonly containers: number
  readonly volumes: number
  readonly mounts: number
  /** Bytes free on the store's filesystem. */
  readonly free: number
}

export async function storeInfo(store: Store): Promise<StoreInfo> {
  const drivers = await store.drivers.report()
  const count = (table: string): number =>
    store.db.get<{ n: number }>(`SELECT count(*) AS n FROM ${table}`)?.n ?? 0
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(store.root), sys.O_RDONLY | sys.O_DIRECTORY)
  const fs = sys.fstatfs(root.n)
  return {
    root: store.root,
    filesystem: filesystemOf(sys.statFd(root.n).mntId),
    rootless: inUserNamespace(),
    ids: inUserNamespace() ? ownIds() : undefined,
    ownership: store.ownership,
    driver: drivers.find(driver => driver.chosen)?.name,
    driverProblem: await store.drivers.chosen().then(
      () => undefined,
      (error: unknown) => causeOf(error),
    ),
    driverChoice: store.drivers.choice,
    drivers,
    otherDrivers: UNSUPPORTED_DRIVERS,
    runtime: findRuntime(),
    kernel: release(),
    node: process.versions.node,
    images: count('images'),
    layers: count('layers'),
    containers: count('containers'),
    volumes: count('volumes'),
    mounts: count('mounts'),
    free: fs.bavail * fs.frsize,
  }
}

/** The type of a mount, by its id in /proc/self/mountinfo. */
function filesystemOf(mntId: number): string {
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    if (!line.startsWith(`${mntId} `)) continue
    return line.split(' - ')[1]?.split(' ')[0] ?? 'unknown'
  }
  return 'unknown'
}
