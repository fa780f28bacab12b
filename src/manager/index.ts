/** The storage manager as a library: `import { Store } from 'laminafs'`. */
export { Store, type StoreOptions } from './store.js'
export { StoreError, type StoreErrorCode } from './store-error.js'
export type { ChainRecord, LayerRecord } from './layers.js'
export type { HistoryEntry, ImageRecord, Removed } from './images.js'
export type { ContainerRecord, CreateContainer, MountContainer } from './containers.js'
export type { Change as TreeChange } from './changes.js'
export { DRIVER_NAMES, type Availability, type Driver, type DriverName } from './drivers/driver.js'
export { installImage, loadImages, type LoadOptions, type TransferEvent } from './image-install.js'
export { saveImages, saveToDirectory, type SaveOptions } from './image-save.js'
export { commitContainer, commitUpper, importRootfs, type NewImageOptions } from './image-create.js'
export { exportContainer, exportImage } from './image-export.js'
export { diskUsage, type DiskUsage } from './disk-usage.js'
export { checkStore, type CheckOptions, type Problem } from './check.js'
export { pruneSystem, type Pruned, type PruneOptions } from './system-prune.js'
export { storeInfo, type StoreInfo } from './info.js'
export { pullImage, type PullOptions, type RegistryAccess } from './image-pull.js'
export { pushImage, type PushOptions } from './image-push.js'
export { buildImage, type BuildOptions, type StepReport } from './build/build.js'
export { enterUserNamespace } from './rootless/user-namespace.js'
export { Volumes, type CreateVolume, type PrunedVolumes, type VolumeRecord } from './volumes/volumes.js'
export { parseVolumeFilter, type VolumeFilter } from './volumes/volume-filter.js'
export { backupVolume, cloneVolume, type BackupOptions } from './volumes/volume-transfer.js'
export { restoreVolume, type RestoreOptions } from './volumes/volume-restore.js'
export { exploreImage, type Exploration } from './explore.js'
export {
  createContainer,
  pruneContainers,
  removeContainer,
  type CreateWithMounts,
} from './containers/create.js'
export { parseMountFlag, parseTmpfsFlag, parseVolumeFlag, type MountSpec } from './mounts/mount-spec.js'
