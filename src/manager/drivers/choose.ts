/** Which driver runs, and why the others do not. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { didYouMean } from '../../base/nearest.js'
import type { Layers } from '../layers.js'
import type { Ownership } from '../rootless/store-ids.js'
import { SnapshotKeeper } from '../snapshot-keeper.js'
import type { StoreContext } from '../store-context.js'
import { StoreError } from '../store-error.js'
import { BtrfsDriver } from './btrfs.js'
import {
  DRIVER_NAMES,
  UNSUPPORTED_DRIVERS,
  type Availability,
  type Driver,
  type DriverName,
} from './driver.js'
import { FuseDriver } from './fuse.js'
import { Overlay2Driver } from './overlay2.js'
import { VfsDriver } from './vfs.js'

/** 'auto', or the name of a driver; anything else is answered with what to use. */
export type DriverChoice = string

export interface DriverReport extends Availability {
  readonly name: DriverName
  readonly chosen: boolean
}

/**
 * The order of `auto`. overlay2 first: the kernel serves every request itself. fuse next: it needs nothing of the
 * backing filesystem, and works for an ordinary user. vfs last: it always works and costs a copy a container. btrfs
 * only when asked for: on btrfs the overlays work as well and share the page cache between containers.
 */
const AUTO_ORDER: readonly DriverName[] = ['overlay2', 'fuse', 'vfs']

export class Drivers {
  readonly #drivers: Record<DriverName, Driver>
  #chosen: Promise<Driver> | undefined
  readonly #ownership: Ownership

  constructor(
    context: StoreContext,
    layers: Layers,
    readonly choice: DriverChoice,
  ) {
    const keeper = new SnapshotKeeper(context)
    this.#drivers = {
      fuse: new FuseDriver(context.paths.scratch, context.ownership),
      overlay2: new Overlay2Driver(context.paths.scratch, context.claims),
      btrfs: new BtrfsDriver(context.paths.root, keeper, chainId => layers.parentStack(chainId)),
      vfs: new VfsDriver(keeper),
    }
    this.#ownership = context.ownership
  }

  /** The driver of an existing container: what it was made with, whatever is chosen now. */
  named(name: string): Driver {
    const known = DRIVER_NAMES.find(driver => driver === name)
    if (known !== undefined) return this.#drivers[known]
    const instead = UNSUPPORTED_DRIVERS[name]
    throw new StoreError(
      'unsupported',
      instead === undefined
        ? `no such storage driver: ${name}${didYouMean(name, [...DRIVER_NAMES, 'auto'])}`
        : `storage driver ${name}: ${instead}`,
      `drivers are ${DRIVER_NAMES.join(', ')} and auto`,
    )
  }

  /** Whether a driver can run here, with the layers as this store has them. */
  async #probe(driver: Driver): Promise<Availability> {
    if (this.#ownership === 'xattr' && driver.name !== 'fuse') {
      return {
        available: false,
        reason: 'owners of files are in attributes in this store, which only fuse shows',
      }
    }
    return await driver.probe()
  }

  /** The driver for new mounts. @throws StoreError when the one that was named cannot run */
  chosen(): Promise<Driver> {
    this.#chosen ??= this.#choose()
    return this.#chosen
  }

  async #choose(): Promise<Driver> {
    if (this.choice !== 'auto') {
      const driver = this.named(this.choice)
      const { available, reason } = await this.#probe(driver)
      if (available) return driver
      throw new StoreError(
        'unsupported',
        `storage driver ${driver.name} cannot run here: ${reason}`,
        "try '--storage-driver auto'",
      )
    }
    const reasons: string[] = []
    for (const name of AUTO_ORDER) {
      const { available, reason } = await this.#probe(this.#drivers[name])
      if (available) return this.#drivers[name]
      reasons.push(`${name}: ${reason}`)
    }
    throw new StoreError('unsupported', `no storage driver can run here (${reasons.join('; ')})`)
  }

  async report(): Promise<DriverReport[]> {
    const chosen = await this.chosen().then(
      driver => driver.name,
      () => undefined,
    )
    const reports: DriverReport[] = []
    for (const name of DRIVER_NAMES) {
      const availability = await this.#probe(this.#drivers[name])
      reports.push({ name, chosen: name === chosen, ...availability })
    }
    return reports
  }

  /** Removes what may be a box of any driver: its row, which would say which, is gone or was never made. */
  async removeBox(dir: string): Promise<void> {
    const kind: DriverName = existsSync(join(dir, 'tree')) ? 'btrfs' : 'overlay2'
    await this.#drivers[kind].remove({ dir })
  }
}
