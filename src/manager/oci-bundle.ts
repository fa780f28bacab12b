/**
 * The runtime's view of a container: config.json of an OCI bundle.
 * Source: OCI runtime-spec config.md, config-linux.md; defaults as docker and podman have them.
 */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../base/bytes.js'
import * as sys from '../sys/index.js'
import type { ContainerUser } from './container-user.js'
import type { IdMaps, IdRange } from './drivers/driver.js'
import { hasOneId, inUserNamespace } from './rootless/standing.js'
import { cgroupRules, deviceNodes, type DeviceNode } from './security/devices.js'
import { capabilitiesOf, seccompOf, type SecurityOptions } from './security/security-options.js'
import { StoreError } from './store-error.js'

export interface BundleMount {
  readonly type: 'bind' | 'tmpfs'
  readonly source: string
  /** Absolute in the container. */
  readonly target: string
  readonly options: readonly string[]
}

export interface BundleOptions {
  /** Absolute path of the mounted root filesystem. */
  readonly rootfs: string
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly cwd: string
  readonly user: ContainerUser
  readonly hostname?: string
  /** `host`: the host's network; `none`: a loopback that is down. */
  readonly network: 'host' | 'none'
  readonly terminal?: boolean
  readonly readOnly?: boolean
  readonly mounts?: readonly BundleMount[]
  /** The container gets a user namespace with these ids. */
  readonly ids?: IdMaps
  /** Docker's defaults otherwise. */
  readonly security?: SecurityOptions
}

/** Source: moby oci/defaults.go. */
const MASKED = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
]
/** Absolute in the container. What is not there is no fault. */
export function maskedPaths(): string[] {
  const cpus = '/sys/devices/system/cpu'
  const throttles = existsSync(cpus) ? readdirSync(cpus).filter(name => /^cpu\d+$/.test(name)) : []
  const paths = throttles.map(name => `${cpus}/${name}/thermal_throttle`)
  return [...MASKED, ...paths.filter(path => existsSync(path))]
}

export const READ_ONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']

/** Node's own devices come from the runtime; these are the usual mounts around them. */
const SYSTEM_MOUNTS = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  {
    destination: '/dev/shm',
    type: 'tmpfs',
    source: 'shm',
    options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'],
  },
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
]

/** A sysfs belongs to a network namespace: root of another user namespace cannot mount one of the host's. */
const HOST_SYS = {
  destination: '/sys',
  type: 'bind',
  source: '/sys',
  options: ['rbind', 'rprivate', 'nosuid', 'noexec', 'nodev', 'ro', 'rro'],
}

/** The `process` of config.json, which is also what `exec` takes. */
export function processConfig(options: BundleOptions): object {
  const bounding = capabilitiesOf(options.security)
  const own = options.user.uid === 0 ? bounding : []
  return {
    terminal: options.terminal === true,
    user: { uid: options.user.uid, gid: options.user.gid, additionalGids: options.user.groups },
    args: options.args,
    env: options.env,
    cwd: options.cwd,
    capabilities: { bounding, effective: own, permitted: own, inheritable: [], ambient: [] },
    noNewPrivileges: options.security?.noNewPrivileges === true,
  }
}

const mapping = ({ container, host, length }: IdRange): object => ({
  containerID: container,
  hostID: host,
  size: length,
})

/** devpts with tty's group, where that exists. */
function systemMounts(hostSys: boolean): readonly { readonly type: string }[] {
  return SYSTEM_MOUNTS.map(mount => {
    if (mount.type === 'sysfs' && hostSys) return HOST_SYS
    const options = hasOneId() ? mount.options.filter(option => option !== 'gid=5') : mount.options
    return { ...mount, options }
  })
}

export function runtimeConfig(options: BundleOptions): object {
  const namespaces = [
    'pid',
    'ipc',
    'uts',
    'mount',
    'cgroup',
    ...(options.network === 'none' ? ['network'] : []),
  ]
  if (options.ids !== undefined) namespaces.push('user')
  const rootless = inUserNamespace()
  const devices = deviceNodes(options.security?.devices ?? [])
  if (rootless) refuseLimited(devices)
  const seccomp = seccompOf(options.security)
  const hostSys = (options.ids !== undefined || rootless) && options.network === 'host'
  return {
    ociVersion: '1.0.2',
    process: processConfig(options),
    root: { path: options.rootfs, readonly: options.readOnly === true },
    hostname: options.hostname ?? 'lamina',
    mounts: [
      ...systemMounts(hostSys),
      // In a user namespace no node can be made: the host's own is shown.
      ...(rootless ? devices.map(deviceMount) : []),
      ...(options.mounts ?? []).map(mount => ({
        destination: mount.target,
        type: mount.type,
        source: mount.source,
        options: mount.type === 'bind' ? ['rbind', 'rprivate', ...mount.options] : mount.options,
      })),
    ],
    linux: {
      // A device cgroup is not an ordinary user's to set; he can make no device either.
      ...(rootless
        ? {}
        : { devices: devices.map(deviceEntry), resources: { devices: cgroupRules(devices) } }),
      ...(seccomp === undefined ? {} : { seccomp }),
      namespaces: namespaces.map(type => ({ type })),
      ...(options.ids === undefined
        ? {}
        : { uidMappings: options.ids.uid.map(mapping), gidMappings: options.ids.gid.map(mapping) }),
      maskedPaths: maskedPaths(),
      readonlyPaths: READ_ONLY,
    },
  }
}

const deviceEntry = ({ path, type, major, minor, mode, uid, gid }: DeviceNode): object => ({
  path,
  type,
  major,
  minor,
  fileMode: mode,
  uid,
  gid,
})

const deviceMount = ({ source, path }: DeviceNode): object => ({
  destination: path,
  type: 'bind',
  source,
  options: ['bind', 'rprivate', 'nosuid', 'noexec'],
})

/**
 * Where no device cgroup is set, a node that is shown can be read and written by whom its mode allows.
 * @throws StoreError unsupported
 */
export function refuseLimited(devices: readonly DeviceNode[]): void {
  const limited = devices.find(({ access }) => !access.includes('r') || !access.includes('w'))
  if (limited === undefined) return
  throw new StoreError(
    'unsupported',
    `--device ${limited.source}:${limited.access}: reading and writing cannot be told apart here`,
    'that takes root and crun or runc; leave the letters out, or write rw',
  )
}

/**
 * Where the system mounts go, a rootfs has directories or nothing. runc 1.1 makes /dev/fd and others on the host where /dev is a symlink.
 * @throws StoreError invalid
 */
export function refuseElsewhere(rootfs: string): void {
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(rootfs), sys.O_PATH | sys.O_DIRECTORY)
  for (const name of ['proc', 'sys', 'dev']) {
    const stat = sys.statAt(root.n, name)
    if (stat === undefined || sys.S_ISDIR(stat.mode)) continue
    throw new StoreError(
      'invalid',
      `/${name} of the image is not a directory, so nothing can be mounted on it`,
    )
  }
}

/** Writes DIR/config.json. */
export function writeBundle(dir: string, options: BundleOptions): void {
  refuseElsewhere(options.rootfs)
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  writeFileSync(join(dir, 'config.json'), JSON.stringify(runtimeConfig(options), undefined, 2))
}
