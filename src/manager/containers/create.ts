/** Making and removing containers together with the volumes that they use. */
import type { Digest } from '../../oci/index.js'
import type { Claim } from '../claims.js'
import type { ContainerRecord } from '../containers.js'
import type { LeasedUse } from './container-record.js'
import type { IdMaps } from '../drivers/driver.js'
import type { MountSpec, VolumeMount } from '../mounts/mount-spec.js'
import type { SecurityOptions } from '../security/security-options.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import type { ContainerSpec, ProcessSpec } from './container-spec.js'
import { checkHostname, splitHost } from './etc-files.js'
import { endProcess, openLease, runningIn } from './uses.js'

export interface CreateWithMounts {
  readonly name?: string | undefined
  /** An image; or `chain`; or neither: an empty stack. */
  readonly image?: string | undefined
  readonly chain?: Digest | undefined
  readonly labels?: Readonly<Record<string, string>>
  /** In the order in which they were given. */
  readonly mounts?: readonly MountSpec[]
  readonly readOnly?: boolean
  readonly size?: number
  readonly ids?: IdMaps
  readonly security?: SecurityOptions
  readonly process?: ProcessSpec
  /** Of the command that makes it, from the same moment on. */
  readonly use?: LeasedUse
}

/**
 * Makes a container, and those of its volumes that do not exist. VOLUME paths of the image become anonymous volumes
 * unless something is mounted there.
 * @throws StoreError invalid for two mounts on one target; what was made for the container is undone
 */
export async function createContainer(store: Store, options: CreateWithMounts): Promise<ContainerRecord> {
  checkProcess(options.process)
  const mounts = withImageVolumes(store, options)
  refuseDoubles(mounts)
  const claim = openLease(store)
  try {
    return await createLeased(store, options, mounts, claim.id)
  } finally {
    // Of a container that was not made, the volumes go.
    await endLease(store, claim)
  }
}

/** What is the lease's own goes; where that cannot be, or the command is killed before it, by the next command. */
async function endLease(store: Store, claim: Claim): Promise<void> {
  try {
    await store.volumes.endLease(claim.id)
    claim.release()
  } catch (error) {
    claim.abandon()
    throw error
  }
}

function checkProcess(process: ProcessSpec | undefined): void {
  if (process?.hostname !== undefined) checkHostname(process.hostname)
  for (const entry of process?.addHosts ?? []) splitHost(entry, process?.network ?? 'host')
}

async function createLeased(
  store: Store,
  options: CreateWithMounts,
  mounts: readonly MountSpec[],
  lease: string,
): Promise<ContainerRecord> {
  const volumes: { target: string; volume: string }[] = []
  const resolved: MountSpec[] = []
  for (const mount of mounts) {
    if (mount.type !== 'volume') {
      resolved.push(mount)
      continue
    }
    const name = await useVolume(store, mount, lease)
    volumes.push({ target: mount.target, volume: name })
    // By name: that is what a mount after a crash can still find.
    resolved.push({ ...mount, name })
  }
  const spec: ContainerSpec = {
    mounts: resolved,
    readOnly: options.readOnly === true,
    ...(options.size === undefined ? {} : { size: options.size }),
    ...(options.ids === undefined ? {} : { ids: options.ids }),
    ...(options.security === undefined ? {} : { security: options.security }),
    ...(options.process === undefined ? {} : { process: options.process }),
  }
  return await store.containers.create({
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.image === undefined ? {} : { image: options.image }),
    ...(options.chain === undefined ? {} : { chain: options.chain }),
    ...(options.use === undefined ? {} : { use: options.use }),
    labels: options.labels ?? {},
    spec,
    volumes,
    madeBy: lease,
  })
}

/** Finds or makes it; the lease keeps it. Returns its name. */
async function useVolume(store: Store, mount: VolumeMount, lease: string): Promise<string> {
  for (let tries = 1; ; tries += 1) {
    const existing = mount.name === undefined ? undefined : store.volumes.lookup(mount.name)
    const volume =
      existing ??
      (await store.volumes.create({
        name: mount.name,
        anonymous: mount.name === undefined,
        options: mount.options,
        labels: mount.labels,
        madeBy: lease,
      }))
    try {
      return (await store.volumes.acquire(volume.name, `command:${lease}`)).name
    } catch (error) {
      // Removed since we found it, perhaps by a command that had made it and failed.
      if (!isNotFound(error) || tries >= 10) throw error
    }
  }
}

function withImageVolumes(store: Store, options: CreateWithMounts): MountSpec[] {
  const mounts = [...(options.mounts ?? [])]
  if (options.image === undefined) return mounts
  const config = store.images.config(store.images.find(options.image).id)
  for (const path of Object.keys(config.config?.Volumes ?? {})) {
    const target = path.replace(/\/+$/, '')
    if (!target.startsWith('/') || mounts.some(mount => mount.target === target)) continue
    mounts.push({
      type: 'volume',
      name: undefined,
      target,
      readOnly: false,
      noCopy: false,
      options: {},
      labels: {},
    })
  }
  return mounts
}

function refuseDoubles(mounts: readonly MountSpec[]): void {
  const seen = new Set<string>()
  for (const { target } of mounts) {
    if (seen.has(target))
      throw new StoreError('invalid', `two mounts have the target ${target}`, 'give each its own')
    seen.add(target)
  }
}

/** Removes a container; with `volumes` its anonymous volumes too, unless another container has them. */
export async function removeContainer(
  store: Store,
  ref: string,
  options: { readonly force?: boolean; readonly volumes?: boolean } = {},
): Promise<string[]> {
  const container = store.containers.find(ref)
  const anonymous = store.db.all<{ name: string }>(
    'SELECT DISTINCT v.name FROM volume_users AS u JOIN volumes AS v ON v.name = u.volume WHERE u.container = ? AND v.anonymous = 1',
    container.id,
  )
  const running = runningIn(store, container.id)
  if (running.length > 0 && options.force !== true) {
    throw new StoreError(
      'in-use',
      `container ${container.name} is running`,
      `'lamina stop ${container.name}' ends it, or remove it with --force`,
    )
  }
  for (const process of running) endProcess(process)
  // The anonymous volumes are the lease's from the moment on at which the container is gone: killed in between, they still go.
  const claim = openLease(store)
  const lease = options.volumes === true ? claim.id : undefined
  try {
    await store.containers
      .remove(container.id, { force: options.force === true, lease })
      .catch((error: unknown) => {
        // The `run --rm` whose process has just been ended was faster.
        if (running.length === 0 || !isNotFound(error)) throw error
      })
  } finally {
    await endLease(store, claim)
  }
  return options.volumes === true
    ? anonymous.map(({ name }) => name).filter(name => store.volumes.lookup(name) === undefined)
    : []
}

const isNotFound = (error: unknown): boolean => error instanceof StoreError && error.code === 'not-found'

/** Containers that are not mounted. Returns them, and the bytes of their writable layers. */
export async function pruneContainers(
  store: Store,
  options: { readonly dryRun?: boolean; readonly wanted?: (container: ContainerRecord) => boolean } = {},
): Promise<{ names: string[]; bytes: number }> {
  const names: string[] = []
  let bytes = 0
  for (const container of store.containers.list()) {
    if (store.containers.mountpoint(container) !== undefined) continue
    if (options.wanted?.(container) === false) continue
    const usage = await store.containers.usage(container)
    try {
      if (options.dryRun !== true) await store.containers.remove(container.id)
    } catch (error) {
      // Mounted or removed since we looked.
      if (error instanceof StoreError && (error.code === 'in-use' || error.code === 'not-found')) continue
      throw error
    }
    names.push(container.name)
    bytes += usage.bytes
  }
  return { names, bytes }
}

/** `KEY` or `KEY=VALUE`. */
export function hasLabel(container: Pick<ContainerRecord, 'labels'>, label: string): boolean {
  const equals = label.indexOf('=')
  const value = container.labels[equals < 0 ? label : label.slice(0, equals)]
  return value !== undefined && (equals < 0 || value === label.slice(equals + 1))
}
