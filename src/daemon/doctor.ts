/** What this host can do for a mount, what is lost without it, and how to get it. Each finding is tried out where that harms nobody. */
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmdirSync, statSync } from 'node:fs'
import { release, tmpdir } from 'node:os'
import { join } from 'node:path'
import * as sys from '../sys/index.js'
import { SysError } from '../base/sys-error.js'
import { INIT_FLAG, type InitFlag } from '../fuse/index.js'
import { subordinateIds } from './doctor-ids.js'
import { keeperProgram } from './launch.js'

export interface Finding {
  name: string
  /** `missing`: something is lost without it; `fatal`: nothing can be mounted. */
  state: 'ok' | 'missing' | 'fatal' | 'unknown'
  /** What was found. */
  found: string
  /** What is lost; '' where nothing is. */
  without: string
  /** How to get it; '' where there is nothing to do. */
  remedy: string
}

export function examineHost(): Finding[] {
  const offered = offeredByKernel()
  return [
    kernel(),
    device(),
    helper(),
    feature(
      offered,
      'HAS_RESEND',
      'requests survive the daemon',
      '6.9',
      'a daemon that dies fails the requests in flight with EIO',
    ),
    feature(
      offered,
      'PASSTHROUGH',
      'passthrough',
      '6.9',
      'io=passthrough is not to be had; files are read and written through the daemon',
    ),
    feature(
      offered,
      'ALLOW_IDMAP',
      'idmapped mounts',
      '6.12',
      'a mount cannot be idmapped (uidmapping= does that in the daemon)',
    ),
    privilege(),
    ioUring(offered),
    userNamespaces(),
    subordinateIds(),
    overlay(),
    descriptors(),
    keeper(),
  ]
}

function finding(name: string, good: boolean, found: string, without = '', remedy = ''): Finding {
  return good
    ? { name, state: 'ok', found, without: '', remedy: '' }
    : { name, state: 'missing', found, without, remedy }
}

function text(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1').trim()
  } catch {
    return undefined
  }
}

const OLDEST_KERNEL = 504

function kernel(): Finding {
  const found = release()
  const [major = 0, minor = 0] = found.split('.').map(Number)
  if (major * 100 + minor >= OLDEST_KERNEL) return finding('kernel', true, `Linux ${found}`)
  const remedy = 'run Linux 5.4 or newer'
  return {
    name: 'kernel',
    state: 'fatal',
    found: `Linux ${found}`,
    without: 'nothing can be mounted',
    remedy,
  }
}

function device(): Finding {
  const name = '/dev/fuse'
  const fatal = (found: string, remedy: string): Finding => ({
    name,
    state: 'fatal',
    found,
    without: 'nothing can be mounted',
    remedy,
  })
  const stat = statSync(name, { throwIfNoEntry: false })
  if (stat === undefined) return fatal('not there', 'modprobe fuse; in a container: --device /dev/fuse')
  const mode = (stat.mode & 0o777).toString(8).padStart(4, '0')
  try {
    sys.openat(sys.AT_FDCWD, name, sys.O_RDWR).close()
    return finding(name, true, `mode ${mode}`)
  } catch (error) {
    return fatal(
      `mode ${mode}, ${error instanceof Error ? error.message : String(error)}`,
      `chmod 666 ${name}`,
    )
  }
}

export function programInPath(program: string): string | undefined {
  return (process.env['PATH'] ?? '/usr/bin:/bin')
    .split(':')
    .map(directory => join(directory, program))
    .find(file => {
      try {
        accessSync(file, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}

function helper(): Finding {
  const file = programInPath('fusermount3') ?? programInPath('fusermount')
  const setuid = file !== undefined && (statSync(file).mode & 0o4000) !== 0 && statSync(file).uid === 0
  const others = /^\s*user_allow_other\b/m.test(text('/etc/fuse.conf') ?? '')
  const found =
    file === undefined
      ? 'not installed'
      : `${file}${setuid ? '' : ', not setuid root'}${others ? ', allow_other for all' : ''}`
  return finding(
    'fusermount3',
    setuid,
    found,
    'ordinary users cannot mount (root and user namespaces can)',
    file === undefined ? 'apt-get install fuse3' : `chmod u+s ${file}`,
  )
}

/** The INIT flags that the kernel offers, from a mount that nobody sees for longer than a moment; undefined without privilege. */
function offeredByKernel(): Set<InitFlag> | undefined {
  if (!sys.hasCapability(sys.CAP_SYS_ADMIN)) return undefined
  const directory = mkdtempSync(join(tmpdir(), 'lamina-doctor-'))
  try {
    using fuse = sys.openat(sys.AT_FDCWD, '/dev/fuse', sys.O_RDWR)
    const ids = `user_id=${process.geteuid?.() ?? 0},group_id=${process.getegid?.() ?? 0}`
    sys.mount('lamina-doctor', directory, 'fuse', 0, `fd=${fuse.n},rootmode=40000,${ids}`)
    try {
      // INIT waits in the device. Nothing else will: who looks in here meanwhile is let go by the unmount.
      const frame = Buffer.alloc(8192)
      const length = sys.preadSync(fuse.n, frame, 0, frame.length, -1)
      return flagsOf(frame, length)
    } finally {
      sys.umount2(directory, sys.MNT_DETACH | sys.UMOUNT_NOFOLLOW)
    }
  } catch (error) {
    if (error instanceof SysError) return undefined
    throw error
  } finally {
    rmdirSync(directory)
  }
}

/** fuse_in_header is 40 bytes; fuse_init_in has flags at 12 and flags2 at 16. Source: linux/fuse.h */
function flagsOf(frame: Buffer, length: number): Set<InitFlag> {
  const low = frame.readUInt32LE(40 + 12)
  const high = length >= 40 + 20 ? frame.readUInt32LE(40 + 16) : 0
  const names = Object.keys(INIT_FLAG) as InitFlag[]
  return new Set(
    names.filter(name => {
      const bit = INIT_FLAG[name]
      return bit < 32 ? (low >>> bit) & 1 : (high >>> (bit - 32)) & 1
    }),
  )
}

function feature(
  offered: Set<InitFlag> | undefined,
  flag: InitFlag,
  name: string,
  since: string,
  without: string,
): Finding {
  if (offered === undefined) {
    const remedy = `root sees it; Linux ${since} and newer have it`
    return { name, state: 'unknown', found: 'cannot be asked without CAP_SYS_ADMIN', without, remedy }
  }
  const good = offered.has(flag)
  return finding(
    name,
    good,
    good ? `FUSE_${flag}` : `no FUSE_${flag}`,
    without,
    `run Linux ${since} or newer`,
  )
}

function privilege(): Finding {
  const root = sys.geteuid() === 0
  const admin = sys.hasCapability(sys.CAP_SYS_ADMIN)
  return finding(
    'privilege',
    root && admin,
    `uid ${sys.geteuid()}, ${admin ? 'with' : 'without'} CAP_SYS_ADMIN`,
    'no passthrough, no trusted.overlay.* attributes, layers are not cloned (mounts below a layer show through)',
    'run as root, or in a user namespace (podman unshare)',
  )
}

function ioUring(offered: Set<InitFlag> | undefined): Finding {
  const disabled = text('/proc/sys/kernel/io_uring_disabled')
  const parameter = text('/sys/module/fuse/parameters/enable_uring')
  const here = offered?.has('OVER_IO_URING') === true || parameter === 'Y'
  const found = [
    `kernel.io_uring_disabled=${disabled ?? 'absent'}`,
    `fuse.enable_uring=${parameter ?? 'absent'}`,
  ].join(', ')
  return finding(
    'io_uring',
    here && (disabled === undefined || disabled === '0'),
    found,
    'nothing today: the daemon takes its requests from the device (docs/decisions/001 says why)',
    parameter === undefined
      ? 'run Linux 6.14 or newer with CONFIG_FUSE_IO_URING'
      : 'echo Y > /sys/module/fuse/parameters/enable_uring; sysctl kernel.io_uring_disabled=0',
  )
}

function userNamespaces(): Finding {
  const most = Number(text('/proc/sys/user/max_user_namespaces') ?? 0)
  const clone = text('/proc/sys/kernel/unprivileged_userns_clone')
  const restricted = text('/proc/sys/kernel/apparmor_restrict_unprivileged_userns')
  const found = [
    `max_user_namespaces=${most}`,
    ...(clone === undefined ? [] : [`unprivileged_userns_clone=${clone}`]),
    ...(restricted === undefined ? [] : [`apparmor_restrict_unprivileged_userns=${restricted}`]),
  ].join(', ')
  return finding(
    'user namespaces',
    most > 0 && clone !== '0' && restricted !== '1',
    found,
    'rootless containers, and mounts of ordinary users without fusermount3',
    'sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0',
  )
}

function overlay(): Finding {
  const here = (text('/proc/filesystems') ?? '').split('\n').some(line => line.endsWith('\toverlay'))
  const loadable = existsSync(`/lib/modules/${release()}/kernel/fs/overlayfs`)
  return finding(
    "kernel's overlayfs",
    here || loadable,
    here ? 'there' : loadable ? 'a module, not loaded' : 'not in this kernel',
    'the storage driver overlay2; fuse takes its place',
    'modprobe overlay',
  )
}

/** As many as the daemon is glad to have: it works with 1,024, opening and closing directories as it goes. */
const COMFORTABLE = 65_536

function descriptors(): Finding {
  const { hard } = sys.getrlimitNofile()
  const [used = 0, , most = 0] = (text('/proc/sys/fs/file-nr') ?? '').split(/\s+/).map(Number)
  const enough = hard >= COMFORTABLE && most - used > COMFORTABLE
  return finding(
    'descriptors',
    enough,
    `${hard} for a process, ${most - used} free on this host`,
    'directories of large trees are opened again and again, and fewer unlinked open files outlive a daemon',
    `LimitNOFILE=${COMFORTABLE * 16} in the service, or ulimit -Hn; sysctl fs.file-max`,
  )
}

function keeper(): Finding {
  const file = keeperProgram()[0]
  return finding(
    'keeper',
    file !== undefined,
    file ?? 'not built',
    'a mount ends with its daemon (keeper=1 does nothing)',
    'npm run build:native',
  )
}
