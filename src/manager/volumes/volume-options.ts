/**
 * Options of the local volume driver, as Docker has them: `type`, `o` and `device` are what mount(8) takes as -t, -o
 * and its source. The mount is made by mount(8) itself, so that its helpers (nfs, cifs) work and its words are those
 * that the user knows.
 * Source: docs.docker.com/engine/reference/commandline/volume_create, "Driver-specific options"
 */
import { spawnSync } from 'node:child_process'
import { didYouMean } from '../../base/nearest.js'
import { parseSize } from '../mounts/size.js'
import { findProgram } from '../oci-runtime.js'
import { inUserNamespace } from '../rootless/standing.js'
import { StoreError } from '../store-error.js'

export type VolumeOptions = Readonly<Record<string, string>>

const KNOWN = ['size', 'type', 'o', 'device']

/** @throws StoreError invalid, unsupported: told before anything is made */
export function checkVolumeOptions(options: VolumeOptions): void {
  for (const key of Object.keys(options)) {
    if (!KNOWN.includes(key)) {
      throw new StoreError(
        'invalid',
        `'${key}' is not an option of a volume${didYouMean(key, KNOWN)}`,
        `known are ${KNOWN.join(', ')}`,
      )
    }
  }
  if (sizeOf(options) !== undefined) {
    if (Object.keys(options).length === 1) return
    throw new StoreError(
      'invalid',
      "'size' limits a plain volume, not one with mount options",
      'a filesystem of its own has its own: -o type=tmpfs -o device=tmpfs -o o=size=64m',
    )
  }
  if (Object.keys(options).length === 0) return
  for (const key of ['type', 'device'] as const) {
    if (options[key] === undefined || options[key] === '') {
      throw new StoreError(
        'invalid',
        `a volume with mount options needs '${key}' too`,
        '-o type=none -o o=bind -o device=/srv/data, or -o type=tmpfs -o device=tmpfs',
      )
    }
  }
}

/** Bytes that the volume may take. @throws StoreError invalid */
export function sizeOf(options: VolumeOptions): number | undefined {
  const { size } = options
  if (size === undefined) return undefined
  const bytes = parseSize(size, 'the volume option size')
  if (bytes > 0) return bytes
  throw new StoreError('invalid', 'a volume cannot have the size 0', '-o size=1g')
}

/** Whether the volume is only there while mounted. */
export function isMountedVolume(options: VolumeOptions): boolean {
  return options['type'] !== undefined || options['size'] !== undefined
}

/** @throws StoreError failed with what mount(8) said */
export function mountByOptions(options: VolumeOptions, target: string): void {
  const mount = findProgram('mount')
  if (mount === undefined) throw new StoreError('unsupported', 'mount(8) is not installed')
  const args = ['-n', '-t', options['type'] ?? 'none']
  if (options['o'] !== undefined && options['o'] !== '') args.push('-o', options['o'])
  args.push('--', options['device'] ?? 'none', target)
  const { status, stderr, error } = spawnSync(mount, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  if (status === 0) return
  const said = error?.message ?? stderr.trim().replace(/\s+/g, ' ')
  const hint =
    'an ordinary user can mount tmpfs and binds; filesystems of devices and of the network take root'
  throw new StoreError(
    'failed',
    said === '' ? `mount(8) ended with ${status}` : said,
    inUserNamespace() ? hint : undefined,
  )
}
