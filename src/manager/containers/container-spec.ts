/** What a container was created with, beyond its row: JSON in `containers.spec`. */
import type { IdMaps, IdRange } from '../drivers/driver.js'
import type { MountSpec } from '../mounts/mount-spec.js'
import type { SecurityOptions } from '../security/security-options.js'

export interface ContainerSpec {
  readonly mounts: readonly MountSpec[]
  /** The rootfs, not what is mounted in it. */
  readonly readOnly: boolean
  /** Bytes that the writable layer may take. */
  readonly size?: number
  /** Ids of the container and of the host; the same otherwise. */
  readonly ids?: IdMaps
  /** Beyond Docker's defaults, or less. */
  readonly security?: SecurityOptions
  /** What `run` and `bundle` start. */
  readonly process?: ProcessSpec
}

export interface ProcessSpec {
  /** Instead of the image's CMD. */
  readonly args: readonly string[]
  /** Instead of the image's ENTRYPOINT; `[]` takes it away. */
  readonly entrypoint?: readonly string[]
  /** `A=b`, in order; added to the image's. */
  readonly env: readonly string[]
  readonly workdir?: string
  readonly user?: string
  readonly hostname?: string
  /** `NAME:IP`, for /etc/hosts. */
  readonly addHosts?: readonly string[]
  readonly network: 'host' | 'none'
  readonly terminal: boolean
}

/** The container's root as the host counts: who makes what a mount needs in the rootfs. */
export function rootOf({ ids }: ContainerSpec): { readonly uid: number; readonly gid: number } {
  const host = (ranges: readonly IdRange[] = []): number =>
    ranges.find(range => range.container === 0)?.host ?? ranges[0]?.host ?? 0
  return { uid: host(ids?.uid), gid: host(ids?.gid) }
}

const NOTHING: ContainerSpec = { mounts: [], readOnly: false }

/** A container that the library created without a spec has none. */
export function specOf(container: { readonly spec?: unknown }): ContainerSpec {
  const { spec } = container
  return typeof spec === 'object' && spec !== null && 'mounts' in spec ? (spec as ContainerSpec) : NOTHING
}
