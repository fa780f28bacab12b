/** The storage manager as a library: `import { Store } from 'laminafs'`. */
import type { Keys } from '../base/nearest.js'
import * as build from './build/build.js'
import type { BuildOptions } from './build/build.js'
import * as check from './check.js'
import type { CheckOptions } from './check.js'
import { streamWithOptions, withOptions } from './check-options.js'
import * as containers from './containers/create.js'
import type { CreateWithMounts } from './containers/create.js'
import * as create from './image-create.js'
import type { NewImageOptions } from './image-create.js'
import * as installing from './image-install.js'
import type { InstallOptions, LoadOptions } from './image-install.js'
import * as pull from './image-pull.js'
import type { PullOptions, RegistryAccess } from './image-pull.js'
import * as push from './image-push.js'
import type { PushOptions } from './image-push.js'
import * as saving from './image-save.js'
import type { SaveOptions } from './image-save.js'
import * as prune from './system-prune.js'
import type { PruneOptions } from './system-prune.js'
import * as restore from './volumes/volume-restore.js'
import type { RestoreOptions } from './volumes/volume-restore.js'
import * as volumes from './volumes/volume-transfer.js'
import type { BackupOptions } from './volumes/volume-transfer.js'

export { Store, type StoreOptions } from './store.js'
export { StoreError, type StoreErrorCode } from './store-error.js'
export type { ChainRecord, LayerRecord } from './layers.js'
export type { HistoryEntry, ImageRecord, Removed } from './images.js'
export type { ContainerRecord, CreateContainer, MountContainer } from './containers.js'
export type { Change as TreeChange } from './changes.js'
export { DRIVER_NAMES, type Availability, type Driver, type DriverName } from './drivers/driver.js'
export type { LoadOptions, TransferEvent } from './image-install.js'
export type { SaveOptions } from './image-save.js'
export type { NewImageOptions } from './image-create.js'
export { exportContainer, exportImage } from './image-export.js'
export { diskUsage, type DiskUsage } from './disk-usage.js'
export type { CheckOptions, Problem } from './check.js'
export type { Pruned, PruneOptions } from './system-prune.js'
export { storeInfo, type StoreInfo } from './info.js'
export type { PullOptions, RegistryAccess } from './image-pull.js'
export type { PushOptions } from './image-push.js'
export type { BuildOptions, StepReport } from './build/build.js'
export { enterUserNamespace } from './rootless/user-namespace.js'
export { Volumes, type CreateVolume, type PrunedVolumes, type VolumeRecord } from './volumes/volumes.js'
export { parseVolumeFilter, type VolumeFilter } from './volumes/volume-filter.js'
export type { BackupOptions } from './volumes/volume-transfer.js'
export type { RestoreOptions } from './volumes/volume-restore.js'
export { exploreImage, type Exploration } from './explore.js'
export type { CreateWithMounts } from './containers/create.js'
export { parseMountFlag, parseTmpfsFlag, parseVolumeFlag, type MountSpec } from './mounts/mount-spec.js'

const access: Keys<RegistryAccess> = { insecure: true, credentials: true }
const install: Keys<InstallOptions> = {
  platform: true,
  signal: true,
  onProgress: true,
  parallel: true,
  keepBlobs: true,
}
const save: Keys<SaveOptions> = { format: true, compression: true, signal: true }
const pulled: Keys<PullOptions> = { ...install, ...access, keepName: true }
const loaded: Keys<LoadOptions> = { ...install, name: true }
const pushed: Keys<PushOptions> = {
  ...access,
  to: true,
  compression: true,
  signal: true,
  onProgress: true,
  parallel: true,
}
const newImage: Keys<NewImageOptions> = {
  name: true,
  author: true,
  comment: true,
  changes: true,
  platform: true,
  signal: true,
  onBytes: true,
}
const transfer = { signal: true, onBytes: true } as const
const backup: Keys<BackupOptions> = {
  ...transfer,
  live: true,
  freeze: true,
  since: true,
  snapshot: true,
  plain: true,
}
const restored: Keys<RestoreOptions> = { ...transfer, what: true, then: true, size: true }
const checked: Keys<CheckOptions> = { repair: true, content: true, signal: true, onLayer: true }
const pruned: Keys<PruneOptions> = { all: true, blobs: true, dryRun: true }
const created: Keys<CreateWithMounts> = {
  name: true,
  image: true,
  chain: true,
  labels: true,
  mounts: true,
  readOnly: true,
  size: true,
  ids: true,
  security: true,
  process: true,
  use: true,
}
const built: Keys<BuildOptions> = {
  ...access,
  pull: true,
  signal: true,
  onProgress: true,
  containerfile: true,
  context: true,
  ignore: true,
  contextOwners: true,
  contexts: true,
  names: true,
  args: true,
  labels: true,
  target: true,
  useCache: true,
  network: true,
  platform: true,
  secrets: true,
  ssh: true,
  allow: true,
  addHosts: true,
  uncachedStages: true,
  onCacheEntry: true,
  maxDownload: true,
  onStep: true,
  onOutput: true,
}

// With a check of their options: one that does not exist is an error. Each is described where it is made.
export const pullImage = withOptions(pull.pullImage, 2, pulled)
export const pushImage = withOptions(push.pushImage, 2, pushed)
export const loadImages = withOptions(installing.loadImages, 2, loaded)
export const installImage = withOptions(installing.installImage, 4, install)
export const saveImages = streamWithOptions(saving.saveImages, 2, save)
export const saveToDirectory = withOptions(saving.saveToDirectory, 3, save)
export const importRootfs = withOptions(create.importRootfs, 2, newImage)
export const commitContainer = withOptions(create.commitContainer, 2, newImage)
export const commitUpper = withOptions(create.commitUpper, 3, newImage)
export const buildImage = withOptions(build.buildImage, 1, built)
export const backupVolume = streamWithOptions(volumes.backupVolume, 2, backup)
export const cloneVolume = withOptions(volumes.cloneVolume, 3, backup)
export const restoreVolume = withOptions(restore.restoreVolume, 3, restored)
export const checkStore = withOptions(check.checkStore, 1, checked)
export const pruneSystem = withOptions(prune.pruneSystem, 1, pruned)
export const createContainer = withOptions(containers.createContainer, 1, created)
export const removeContainer = withOptions(containers.removeContainer, 2, { force: true, volumes: true })
export const pruneContainers = withOptions(containers.pruneContainers, 1, { dryRun: true, wanted: true })
