/**
 * The one table of request types: decode, size checks, the debug printer and the counters read it.
 * It holds every opcode of protocol 7.45 and says of those that are not implemented why not.
 */
import type { Layout } from './layout.js'
import * as S from './structs.js'

export const Op = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  GETLK: 31,
  SETLK: 32,
  SETLKW: 33,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  BMAP: 37,
  DESTROY: 38,
  IOCTL: 39,
  POLL: 40,
  NOTIFY_REPLY: 41,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  SETUPMAPPING: 48,
  REMOVEMAPPING: 49,
  SYNCFS: 50,
  TMPFILE: 51,
  STATX: 52,
  COPY_FILE_RANGE_64: 53,
} as const
export type OpName = keyof typeof Op
export type Op = (typeof Op)[OpName]

/** Answered ENOSYS, or not at all: each has its reason in the table. */
export type UnsupportedOp =
  | typeof Op.FLUSH
  | typeof Op.GETLK
  | typeof Op.SETLK
  | typeof Op.SETLKW
  | typeof Op.ACCESS
  | typeof Op.BMAP
  | typeof Op.POLL
  | typeof Op.NOTIFY_REPLY
  | typeof Op.SETUPMAPPING
  | typeof Op.REMOVEMAPPING

export interface OpcodeInfo {
  readonly name: OpName
  /** The struct behind fuse_in_header, if any. */
  readonly input: Layout | undefined
  /** NUL-terminated strings behind the struct. */
  readonly names: 0 | 1 | 2
  /** Bytes behind the names: as many as a field of the input struct says. */
  readonly data: boolean
  /** What follows fuse_out_header in a successful reply; 'bytes' is a length only the request knows. */
  readonly output: Layout | 'bytes' | 'nothing'
  readonly replied: boolean
  /** Why it is not implemented. Replied ones are answered ENOSYS. */
  readonly unsupported: string | undefined
}

interface Row {
  in?: Layout
  names?: 1 | 2
  data?: true
  out?: Layout | 'bytes'
  noReply?: true
  unsupported?: string
}

const LOCKS =
  'FUSE_POSIX_LOCKS and FUSE_FLOCK_LOCKS are not negotiated: all callers are on this kernel, which keeps locks itself'
const DAX = 'virtio-fs only: needs a shared memory window (FUSE_MAP_ALIGNMENT), which /dev/fuse has not'

const ROWS: { readonly [K in OpName]: Row } = {
  LOOKUP: { names: 1, out: S.EntryOut },
  FORGET: { in: S.ForgetIn, noReply: true },
  GETATTR: { in: S.GetattrIn, out: S.AttrOut },
  SETATTR: { in: S.SetattrIn, out: S.AttrOut },
  READLINK: { out: 'bytes' },
  SYMLINK: { names: 2, out: S.EntryOut },
  MKNOD: { in: S.MknodIn, names: 1, out: S.EntryOut },
  MKDIR: { in: S.MkdirIn, names: 1, out: S.EntryOut },
  UNLINK: { names: 1 },
  RMDIR: { names: 1 },
  RENAME: { in: S.RenameIn, names: 2 },
  LINK: { in: S.LinkIn, names: 1, out: S.EntryOut },
  OPEN: { in: S.OpenIn, out: S.OpenOut },
  READ: { in: S.ReadIn, out: 'bytes' },
  WRITE: { in: S.WriteIn, data: true, out: S.WriteOut },
  STATFS: { out: S.StatfsOut },
  RELEASE: { in: S.ReleaseIn },
  FSYNC: { in: S.FsyncIn },
  SETXATTR: { in: S.SetxattrIn, names: 1, data: true },
  GETXATTR: { in: S.GetxattrIn, names: 1, out: 'bytes' },
  LISTXATTR: { in: S.GetxattrIn, out: 'bytes' },
  REMOVEXATTR: { names: 1 },
  FLUSH: {
    in: S.FlushIn,
    unsupported:
      'close(2) has nothing to hand on: data is written when WRITE is answered and locks are the kernel’s; ENOSYS stops them for good',
  },
  INIT: { in: S.InitIn, out: S.InitOut },
  OPENDIR: { in: S.OpenIn, out: S.OpenOut },
  READDIR: { in: S.ReadIn, out: 'bytes' },
  RELEASEDIR: { in: S.ReleaseIn },
  FSYNCDIR: { in: S.FsyncIn },
  GETLK: { in: S.LkIn, out: S.LkOut, unsupported: LOCKS },
  SETLK: { in: S.LkIn, unsupported: LOCKS },
  SETLKW: { in: S.LkIn, unsupported: LOCKS },
  ACCESS: {
    in: S.AccessIn,
    unsupported:
      'default_permissions makes the kernel check access(2) from attributes and ACLs; ENOSYS stops it for good',
  },
  CREATE: { in: S.CreateIn, names: 1, out: 'bytes' },
  INTERRUPT: { in: S.InterruptIn, noReply: true },
  BMAP: {
    in: S.BmapIn,
    out: S.BmapOut,
    unsupported: 'block numbers exist only for filesystems on one block device (fuseblk)',
  },
  DESTROY: {},
  IOCTL: { in: S.IoctlIn, data: true, out: 'bytes' },
  POLL: {
    in: S.PollIn,
    out: S.PollOut,
    unsupported:
      'regular files and directories are always ready, which the kernel answers itself after one ENOSYS',
  },
  NOTIFY_REPLY: {
    in: S.NotifyRetrieveIn,
    data: true,
    noReply: true,
    unsupported: 'the answer to FUSE_NOTIFY_RETRIEVE, which is never sent here',
  },
  BATCH_FORGET: { in: S.BatchForgetIn, data: true, noReply: true },
  FALLOCATE: { in: S.FallocateIn },
  READDIRPLUS: { in: S.ReadIn, out: 'bytes' },
  RENAME2: { in: S.Rename2In, names: 2 },
  LSEEK: { in: S.LseekIn, out: S.LseekOut },
  COPY_FILE_RANGE: { in: S.CopyFileRangeIn, out: S.WriteOut },
  SETUPMAPPING: { in: S.SetupmappingIn, unsupported: DAX },
  REMOVEMAPPING: { in: S.RemovemappingIn, data: true, unsupported: DAX },
  SYNCFS: { in: S.SyncfsIn },
  // The name of a TMPFILE is the kernel's placeholder "/", so it is data here and not a name.
  TMPFILE: { in: S.CreateIn, data: true, out: 'bytes' },
  STATX: { in: S.StatxIn, out: S.StatxOut },
  COPY_FILE_RANGE_64: { in: S.CopyFileRangeIn, out: S.CopyFileRangeOut },
}

/** One more than the highest opcode. */
export const OP_LIMIT = 54

/** Indexed by opcode; undefined where the protocol has none. */
export const OPCODES: readonly (OpcodeInfo | undefined)[] = (() => {
  const table: (OpcodeInfo | undefined)[] = new Array<OpcodeInfo | undefined>(OP_LIMIT).fill(undefined)
  for (const name of Object.keys(ROWS) as OpName[]) {
    const row = ROWS[name]
    table[Op[name]] = Object.freeze({
      name,
      input: row.in,
      names: row.names ?? 0,
      data: row.data ?? false,
      output: row.out ?? 'nothing',
      replied: row.noReply !== true,
      unsupported: row.unsupported,
    })
  }
  return Object.freeze(table)
})()

/** The name of an opcode, also of one that is not in the table. */
export function opName(opcode: number): string {
  return OPCODES[opcode]?.name ?? `OPCODE_${opcode}`
}
