import { parseDigest, type Digest } from './digest.js'
import { OciError } from './error.js'
import {
  asArray,
  asObject,
  asStringMap,
  asStrings,
  optionalString,
  parseJsonObject,
  type JsonObject,
} from './json.js'
import { maxLayers } from './manifest.js'
import type { Platform } from './platform.js'

/** Bytes. containers/image allows 4 MiB for a manifest and no more than this for a config in memory. */
export const maxConfigSize = 16 << 20

/** How a container of the image is run. Source: OCI image-spec config.md; Healthcheck, OnBuild, Shell are docker's. */
export interface RunConfig extends JsonObject {
  User?: string
  ExposedPorts?: Record<string, object>
  Env?: string[]
  Entrypoint?: string[] | null
  Cmd?: string[] | null
  Volumes?: Record<string, object>
  WorkingDir?: string
  Labels?: Record<string, string>
  StopSignal?: string
  Shell?: string[]
  OnBuild?: string[]
  Healthcheck?: JsonObject
}

export interface History extends JsonObject {
  created?: string
  created_by?: string
  author?: string
  comment?: string
  /** The step made no layer. */
  empty_layer?: boolean
}

export interface ImageConfig extends JsonObject {
  created?: string
  author?: string
  architecture: string
  os: string
  variant?: string
  config?: RunConfig
  rootfs: { type: 'layers'; diff_ids: Digest[] }
  history?: History[]
}

/**
 * Reads an image config; unknown fields are kept (docker's container_config, moby.buildkit.*, …).
 * @throws OciError `malformed` or `limit`
 */
export function parseConfig(bytes: Buffer): ImageConfig {
  const object = parseJsonObject(bytes, maxConfigSize, 'image config')
  const rootfs = asObject(object['rootfs'], 'image config: rootfs')
  if (rootfs['type'] !== 'layers')
    throw new OciError('unsupported', 'image config: rootfs.type is not "layers"')
  const diffIds = asArray(rootfs['diff_ids'], maxLayers, 'image config: rootfs.diff_ids')
  const config: ImageConfig = {
    ...object,
    architecture: optionalString(object['architecture'], 'image config: architecture', 128) ?? '',
    os: optionalString(object['os'], 'image config: os', 128) ?? '',
    rootfs: {
      ...rootfs,
      type: 'layers',
      diff_ids: diffIds.map((d, i) => parseDigest(d, `rootfs.diff_ids[${i}]`)),
    },
  }
  const history = asArray(object['history'], 16_384, 'image config: history')
  if (history.length > 0)
    config.history = history.map((h, i) => readHistory(h, `image config: history[${i}]`))
  else delete config.history
  if (object['config']) config.config = readRunConfig(object['config'])
  else delete config.config
  return config
}

function readHistory(value: unknown, what: string): History {
  const object = asObject(value, what)
  const history: History = { ...object }
  for (const key of ['created', 'created_by', 'author', 'comment'] as const) {
    const text = optionalString(object[key], `${what}.${key}`, 1 << 20)
    if (text === undefined) delete history[key]
    else history[key] = text
  }
  if (typeof object['empty_layer'] !== 'boolean') delete history.empty_layer
  return history
}

function readRunConfig(value: unknown): RunConfig {
  const what = 'image config: config'
  const object = asObject(value, what)
  const config: RunConfig = { ...object }
  const texts = ['User', 'WorkingDir', 'StopSignal'] as const
  for (const key of texts) {
    const text = optionalString(object[key], `${what}.${key}`, 1 << 16)
    if (text === undefined) delete config[key]
    else config[key] = text
  }
  const lists = ['Env', 'Entrypoint', 'Cmd', 'Shell', 'OnBuild'] as const
  for (const key of lists) {
    if (object[key] === undefined || object[key] === null) continue
    config[key] = asStrings(object[key], 65_536, `${what}.${key}`)
  }
  if (object['Labels']) config.Labels = asStringMap(object['Labels'], 65_536, `${what}.Labels`)
  for (const key of ['ExposedPorts', 'Volumes'] as const) {
    if (object[key] === undefined || object[key] === null) delete config[key]
    else config[key] = asObject(object[key], `${what}.${key}`) as Record<string, object>
  }
  return config
}

export function configPlatform(config: ImageConfig): Platform {
  return {
    os: config.os || 'linux',
    architecture: config.architecture,
    ...(config.variant === undefined ? {} : { variant: config.variant }),
  }
}

/** History entries paired with the layer that each one made, in order; surplus layers come with an empty history. */
export function historyOfLayers(config: ImageConfig): History[] {
  const steps = (config.history ?? []).filter(step => step.empty_layer !== true)
  return config.rootfs.diff_ids.map((_, i) => steps[i] ?? {})
}
