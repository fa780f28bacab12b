/** Containers as rows, and what is asked of them. */
import type { Digest } from '../../oci/index.js'
import type { BindMount } from '../mounts/mount-spec.js'
import { StoreError } from '../store-error.js'

export interface ContainerRecord {
  /** 64 hex digits. */
  readonly id: string
  readonly name: string
  readonly image: Digest | undefined
  readonly chainId: Digest | undefined
  readonly driver: string
  readonly labels: Readonly<Record<string, string>>
  /** What create was asked for, beyond the columns; its shape is that of whoever created the container. */
  readonly spec: unknown
  readonly created: number
}

export interface CreateContainer {
  readonly name?: string
  /** A reference of an image; or `chain`; or neither, for an empty stack. */
  readonly image?: string
  readonly chain?: Digest
  readonly labels?: Readonly<Record<string, string>>
  readonly spec?: object
  /** In use from the same moment on. */
  readonly volumes?: readonly { readonly target: string; readonly volume: string }[]
  /** The lease under which volumes were made for it: they are its own from the same moment on. */
  readonly madeBy?: string
  readonly use?: LeasedUse
}

/** For as long as a command holds the claim on this lease: see containers/uses.ts. */
export interface LeasedUse {
  readonly lease: string
  /** The container goes with the command. */
  readonly remove: boolean
}

export interface MountContainer {
  /** Where; by default containers/ID/merged of the store. */
  readonly target?: string
  readonly readOnly?: boolean
  readonly use?: LeasedUse
  /** Files of the host's at these places too, where the rootfs lets them be mounted. */
  readonly mounts?: readonly BindMount[]
}

export interface UnmountContainer {
  /** Every use, not one. */
  readonly all?: boolean
  /** Although processes use it. */
  readonly force?: boolean
  /** The use that ends: the one of {@link MountContainer}. */
  readonly lease?: string
}

export interface ContainerRow {
  id: string
  name: string
  image: Digest | null
  chain_id: Digest | null
  driver: string
  labels: string
  spec: string
  created: number
}

/** @throws StoreError invalid. Source: moby daemon/names */
export function checkContainerName(name: string): void {
  if (/^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/.test(name)) return
  throw new StoreError(
    'invalid',
    `'${name}' is not a container name`,
    'letters, digits, _ . - and at least two',
  )
}

export function toContainer(row: ContainerRow): ContainerRecord {
  return {
    id: row.id,
    name: row.name,
    image: row.image ?? undefined,
    chainId: row.chain_id ?? undefined,
    driver: row.driver,
    labels: JSON.parse(row.labels) as Record<string, string>,
    spec: JSON.parse(row.spec) as unknown,
    created: row.created,
  }
}
