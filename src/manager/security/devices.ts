/** Which devices a container may use. Source: OCI runtime-spec config-linux.md "Allowed Device list"; moby oci/defaults.go */
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { StoreError } from '../store-error.js'

/** `--device`. */
export interface DeviceSpec {
  /** On the host: a device, or a directory of devices. */
  readonly source: string
  /** Absolute in the container. */
  readonly target: string
  /** Of `r`, `w`, `m`. */
  readonly access: string
}

/** A device node of the host, found when the container starts. */
export interface DeviceNode {
  readonly source: string
  readonly path: string
  readonly type: 'b' | 'c'
  readonly major: number
  readonly minor: number
  readonly access: string
  /** Permission bits. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

interface CgroupRule {
  readonly allow: boolean
  readonly type?: 'b' | 'c'
  readonly major?: number
  readonly minor?: number
  readonly access: string
}

const character = (major: number, minor?: number): CgroupRule => ({
  allow: true,
  type: 'c',
  major,
  ...(minor === undefined ? {} : { minor }),
  access: 'rwm',
})

/**
 * As Docker has it: nothing, but any node can be made (it cannot be opened then), and null, zero, full, random, urandom, tty, console,
 * ptmx and pseudoterminals can be used.
 */
const RULES: readonly CgroupRule[] = [
  { allow: false, access: 'rwm' },
  { allow: true, type: 'c', access: 'm' },
  { allow: true, type: 'b', access: 'm' },
  ...[3, 5, 7, 8, 9].map(minor => character(1, minor)),
  ...[0, 1, 2].map(minor => character(5, minor)),
  character(136),
]

/** For `linux.resources.devices`. */
export function cgroupRules(devices: readonly DeviceNode[]): CgroupRule[] {
  const own = devices.map(({ type, major, minor, access }) => ({ allow: true, type, major, minor, access }))
  return [...RULES, ...own]
}

/**
 * `/dev/x`, `/dev/x:rwm`, `/dev/x:/dev/y`, `/dev/x:/dev/y:rwm`.
 * @throws StoreError invalid
 */
export function parseDevice(text: string): DeviceSpec {
  const [source = '', ...rest] = text.split(':')
  const last = rest.at(-1)
  const access = last !== undefined && /^[rwm]{1,3}$/.test(last) ? last : undefined
  const target = (access === undefined ? rest : rest.slice(0, -1))[0] ?? source
  const fields = 1 + (access === undefined ? 0 : 1) + (target === source && rest[0] !== source ? 0 : 1)
  if (!source.startsWith('/') || !target.startsWith('/') || rest.length + 1 !== fields) {
    throw new StoreError(
      'invalid',
      `--device ${text} is not understood`,
      'write /dev/HOST[:/dev/CONTAINER][:rwm]',
    )
  }
  return { source, target, access: access ?? 'rwm' }
}

/**
 * The nodes behind specs, those of a directory too.
 * @throws StoreError invalid for what is no device
 */
export function deviceNodes(specs: readonly DeviceSpec[]): DeviceNode[] {
  return specs.flatMap(spec => {
    const found = nodesAt(spec)
    if (found.length > 0) return found
    throw new StoreError(
      'invalid',
      `--device ${spec.source}: there is no device`,
      "'ls -l' of it begins with b or c",
    )
  })
}

function nodesAt(spec: DeviceSpec): DeviceNode[] {
  const { source, target, access } = spec
  const stat = statSync(source, { throwIfNoEntry: false })
  if (stat?.isDirectory() === true) {
    return readdirSync(source).flatMap(name =>
      nodesAt({ source: join(source, name), target: join(target, name), access }),
    )
  }
  const type = stat?.isBlockDevice() === true ? 'b' : stat?.isCharacterDevice() === true ? 'c' : undefined
  if (stat === undefined || type === undefined) return []
  const { uid, gid, rdev } = stat
  return [{ source, path: target, type, ...split(rdev), access, mode: stat.mode & 0o777, uid, gid }]
}

/** A dev_t. Source: glibc bits/sysmacros.h */
function split(rdev: number): { readonly major: number; readonly minor: number } {
  const number = BigInt(rdev)
  const major = ((number >> 8n) & 0xfffn) | ((number >> 32n) & 0xfffff000n)
  const minor = (number & 0xffn) | ((number >> 12n) & 0xffffff00n)
  return { major: Number(major), minor: Number(minor) }
}
