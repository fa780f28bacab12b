/**
 * INIT: which features of the kernel a mount uses.
 * Features are agreed on by flag, never by version: what is wanted is masked with what the kernel offered.
 */
import { E } from '../base/errno.js'
import type { Connection } from './filesystem.js'
import {
  FUSE_KERNEL_MINOR_VERSION,
  FUSE_KERNEL_VERSION,
  FUSE_OLDEST_MINOR_VERSION,
  INIT_FLAG,
  type InitFlag,
} from './flags.js'
import type { Frame } from './frame.js'
import { InitIn, InitInCompat, InitOut } from './structs.js'

/** What the daemon wishes for. Absent kernel features are left out silently; ask the Connection what is in force. */
export interface InitParameters {
  /** The kernel collects writes and owns size and mtime of dirty files. Excludes passthrough. */
  writebackCache: boolean
  /** Opens may name a backing file for the kernel to read and write itself. Needs CAP_SYS_ADMIN. */
  passthrough: boolean
  /** The kernel caches and checks system.posix_acl_*. Turns default_permissions on. */
  posixAcl: boolean
  /** The daemon applies the umask (it must where default ACLs are). */
  dontMask: boolean
  /** The daemon clears setuid, setgid and security.capability on write, truncate and chown. */
  handleKillprivV2: boolean
  /** Opens of files send nothing once one was answered ENOSYS. */
  noOpenSupport: boolean
  /** The same of directories; the kernel then caches listings. */
  noOpendirSupport: boolean
  /** `auto`: the kernel decides by whether entries are looked up after being listed. */
  readdirplus: 'always' | 'auto' | 'never'
  /** LOOKUP and READDIR of one directory at the same time. */
  parallelDirops: boolean
  asyncDio: boolean
  cacheSymlinks: boolean
  /** Page cache is dropped only when told to, not whenever mtime or size changed. */
  explicitInvalData: boolean
  /**
   * OPEN carries O_TRUNC and truncates. Only where every open is sent: with zero-message opens no OPEN would arrive
   * to carry it, the kernel would not send a SETATTR(size=0) either, and the truncation would be lost. It is
   * therefore left out when noOpenSupport is in force.
   */
  atomicOTrunc: boolean
  /** LOOKUP of "." and "..", for export over NFS. */
  exportSupport: boolean
  /** SETXATTR says whether the caller may keep setgid when an ACL is set. */
  setxattrExt: boolean
  /**
   * The kernel sends the parent's group along when the caller is in it by a supplementary group. Not needed: the VFS
   * strips setgid itself (mode_strip_sgid) before the request is made.
   */
  createSuppGroup: boolean
  /** FUSE_NOTIFY_RESEND: a new daemon asks for the requests that its predecessor left unanswered. */
  hasResend: boolean
  /**
   * The mount may be idmapped. Requests that create nothing then come with uid and gid 0xffffffff. Must only be set
   * where the mount has default_permissions: the kernel refuses the whole connection otherwise.
   */
  allowIdmap: boolean
  /** mmap(MAP_SHARED) of FOPEN_DIRECT_IO handles. */
  directIoAllowMmap: boolean
  /** STATX for what fuse_attr lacks (birth time); false answers it ENOSYS, once for the mount. */
  statx: boolean
  /** Bytes in one READ; the kernel has at most 256 pages unless fs.fuse.max_pages_limit was raised. */
  maxRead: number
  /** Bytes in one WRITE: what a pipe has room for that any user may have, with the head (native/pipe.h). Not more than maxRead. */
  maxWrite: number
  /** Unrequested work (read-ahead, writeback) in flight; the kernel's default of 12 starves four threads. */
  maxBackground: number
  congestionThreshold: number
  /** Bytes; the kernel lowers it to read_ahead_kb of the mount's bdi (128 KiB unless raised there). */
  maxReadahead: number
}

export const INIT_DEFAULTS: Readonly<InitParameters> = Object.freeze({
  writebackCache: false,
  passthrough: false,
  posixAcl: true,
  dontMask: true,
  handleKillprivV2: true,
  noOpenSupport: true,
  noOpendirSupport: true,
  readdirplus: 'auto',
  parallelDirops: true,
  asyncDio: true,
  cacheSymlinks: true,
  explicitInvalData: true,
  atomicOTrunc: false,
  exportSupport: false,
  setxattrExt: true,
  createSuppGroup: false,
  hasResend: true,
  allowIdmap: false,
  directIoAllowMmap: true,
  statx: true,
  maxRead: 1024 * 1024,
  maxWrite: 512 * 1024,
  maxBackground: 64,
  congestionThreshold: 48,
  maxReadahead: 1024 * 1024,
} satisfies InitParameters)

const PAGE = 4096
/** Flags that say what the kernel can; they are in force whenever they are offered. */
const KERNEL_ABILITIES: readonly InitFlag[] = ['HAS_IOCTL_DIR', 'HAS_EXPIRE_ONLY', 'INIT_EXT']
/** Buffers of 32 pages are what a kernel without FUSE_MAX_PAGES sends. */
const MAX_PAGES_WITHOUT_FLAG = 32

function wantedFlags(p: InitParameters, offered: (flag: InitFlag) => boolean): Set<InitFlag> {
  const wanted = new Set<InitFlag>([
    'ASYNC_READ',
    'BIG_WRITES',
    'MAX_PAGES',
    'ABORT_ERROR',
    ...KERNEL_ABILITIES,
  ])
  const want = (on: boolean, ...flags: InitFlag[]) => {
    if (on) for (const flag of flags) wanted.add(flag)
  }
  // Passthrough and the writeback cache exclude each other: the kernel ignores the former when it sees both.
  const passthrough = p.passthrough && !p.writebackCache && offered('PASSTHROUGH')
  want(passthrough, 'PASSTHROUGH')
  want(p.writebackCache, 'WRITEBACK_CACHE')
  want(p.posixAcl, 'POSIX_ACL')
  want(p.dontMask, 'DONT_MASK')
  want(p.handleKillprivV2, 'HANDLE_KILLPRIV_V2')
  want(p.noOpenSupport, 'NO_OPEN_SUPPORT')
  want(p.noOpendirSupport, 'NO_OPENDIR_SUPPORT')
  want(p.readdirplus !== 'never', 'DO_READDIRPLUS')
  want(p.readdirplus === 'auto', 'READDIRPLUS_AUTO')
  want(p.parallelDirops, 'PARALLEL_DIROPS')
  want(p.asyncDio, 'ASYNC_DIO')
  want(p.cacheSymlinks, 'CACHE_SYMLINKS')
  want(p.explicitInvalData, 'EXPLICIT_INVAL_DATA')
  want(!p.explicitInvalData, 'AUTO_INVAL_DATA')
  want(p.atomicOTrunc && !(p.noOpenSupport && offered('NO_OPEN_SUPPORT')), 'ATOMIC_O_TRUNC')
  want(p.exportSupport, 'EXPORT_SUPPORT')
  want(!p.exportSupport, 'NO_EXPORT_SUPPORT')
  want(p.setxattrExt, 'SETXATTR_EXT')
  want(p.createSuppGroup, 'CREATE_SUPP_GROUP')
  want(p.hasResend, 'HAS_RESEND')
  want(p.allowIdmap, 'ALLOW_IDMAP')
  want(p.directIoAllowMmap, 'DIRECT_IO_ALLOW_MMAP')
  return wanted
}

/** What was agreed on. Plain data: a daemon that takes a connection over is given its predecessor's. */
export interface ConnectionState {
  major: number
  minor: number
  flags: InitFlag[]
  /** Everything the kernel offered, for `lamina doctor` and bug reports. */
  offered: InitFlag[]
  maxWrite: number
  maxReadahead: number
  statx: boolean
}

export class NegotiatedConnection implements Connection {
  readonly major: number
  readonly minor: number
  readonly maxWrite: number
  readonly maxReadahead: number
  readonly statx: boolean
  private readonly flags: ReadonlySet<string>
  private readonly offeredFlags: ReadonlySet<string>

  constructor(state: ConnectionState) {
    this.major = state.major
    this.minor = state.minor
    this.maxWrite = state.maxWrite
    this.maxReadahead = state.maxReadahead
    this.statx = state.statx
    this.flags = new Set(state.flags)
    this.offeredFlags = new Set(state.offered)
  }

  /** Whether a flag (`'WRITEBACK_CACHE'`) is in force. */
  has(flag: string): boolean {
    return this.flags.has(flag)
  }

  /** Whether the kernel knows the flag at all. */
  offers(flag: string): boolean {
    return this.offeredFlags.has(flag)
  }

  toJSON(): ConnectionState {
    return {
      major: this.major,
      minor: this.minor,
      flags: [...this.flags] as InitFlag[],
      offered: [...this.offeredFlags] as InitFlag[],
      maxWrite: this.maxWrite,
      maxReadahead: this.maxReadahead,
      statx: this.statx,
    }
  }
}

const INIT_EXT = 2 ** INIT_FLAG.INIT_EXT

export type InitAnswer =
  | { kind: 'agreed'; connection: NegotiatedConnection }
  /** The kernel speaks a newer major version and asks again with ours. */
  | { kind: 'again' }
  | { kind: 'refused'; errno: number; reason: string }

/**
 * Reads fuse_init_in at `at` (of `length` bytes) and writes fuse_init_out at `outAt`.
 * Preconditions: `length` is at least that of the 7.6 struct, 16 bytes.
 */
export function negotiate(
  input: Frame,
  at: number,
  length: number,
  out: Frame,
  outAt: number,
  parameters: InitParameters,
): InitAnswer {
  const major = input.u32(at + InitIn.at.major)
  const kernelMinor = input.u32(at + InitIn.at.minor)
  out.words.fill(0, outAt >>> 2, (outAt + InitOut.size) >>> 2)
  out.setU32(outAt + InitOut.at.major, FUSE_KERNEL_VERSION)
  out.setU32(outAt + InitOut.at.minor, FUSE_KERNEL_MINOR_VERSION)
  if (major > FUSE_KERNEL_VERSION) return { kind: 'again' }
  if (major < FUSE_KERNEL_VERSION || kernelMinor < FUSE_OLDEST_MINOR_VERSION) {
    const need = `${FUSE_KERNEL_VERSION}.${FUSE_OLDEST_MINOR_VERSION} (Linux 5.4)`
    return {
      kind: 'refused',
      errno: E.EPROTO,
      reason: `the kernel speaks FUSE ${major}.${kernelMinor}, at least ${need} is needed`,
    }
  }
  const minor = Math.min(kernelMinor, FUSE_KERNEL_MINOR_VERSION)
  const low = input.u32(at + InitIn.at.flags)
  const extended = (low & INIT_EXT) !== 0 && length >= InitIn.size
  const high = extended ? input.u32(at + InitIn.at.flags2) : 0
  const offered = (flag: InitFlag): boolean => {
    const bit = INIT_FLAG[flag]
    return bit < 32 ? ((low >>> bit) & 1) === 1 : ((high >>> (bit - 32)) & 1) === 1
  }

  const flags = [...wantedFlags(parameters, offered)].filter(offered)
  let outLow = 0
  let outHigh = 0
  for (const flag of flags) {
    const bit = INIT_FLAG[flag]
    if (bit < 32) outLow += 2 ** bit
    else outHigh += 2 ** (bit - 32)
  }

  const has = (flag: InitFlag) => flags.includes(flag)
  const wantedPages = Math.max(1, Math.ceil(parameters.maxRead / PAGE))
  const maxPages = has('MAX_PAGES')
    ? Math.min(wantedPages, 0xffff)
    : Math.min(wantedPages, MAX_PAGES_WITHOUT_FLAG)
  const maxWrite = Math.min(Math.max(1, Math.ceil(parameters.maxWrite / PAGE)), maxPages) * PAGE
  const maxReadahead = Math.min(parameters.maxReadahead, input.u32(at + InitIn.at.max_readahead))

  out.setU32(outAt + InitOut.at.minor, minor)
  out.setU32(outAt + InitOut.at.max_readahead, maxReadahead)
  out.setU32(outAt + InitOut.at.flags, outLow)
  out.setU32(outAt + InitOut.at.flags2, outHigh)
  out.setU16(outAt + InitOut.at.max_background, Math.min(parameters.maxBackground, 0xffff))
  out.setU16(outAt + InitOut.at.congestion_threshold, Math.min(parameters.congestionThreshold, 0xffff))
  out.setU32(outAt + InitOut.at.max_write, maxWrite)
  out.setU32(outAt + InitOut.at.time_gran, 1)
  out.setU16(outAt + InitOut.at.max_pages, has('MAX_PAGES') ? maxPages : 0)
  // One filesystem may lie below: the backing file's own. 2 would allow an overlay as backing file of this mount.
  out.setU32(outAt + InitOut.at.max_stack_depth, has('PASSTHROUGH') ? 1 : 0)

  const offeredFlags = (Object.keys(INIT_FLAG) as InitFlag[]).filter(offered)
  const statx = parameters.statx
  return {
    kind: 'agreed',
    connection: new NegotiatedConnection({
      major,
      minor,
      flags,
      offered: offeredFlags,
      maxWrite,
      maxReadahead,
      statx,
    }),
  }
}

export const INIT_IN_SMALLEST = InitInCompat
