/** Builds request frames for tests, from the layouts that decode reads them with. */
import { fromUtf8 } from '../../src/base/bytes.js'
import type { Layout } from '../../src/fuse/layout.js'
import { OPCODES, Op, type OpName } from '../../src/fuse/opcodes.js'
import { InHeader } from '../../src/fuse/structs.js'

export interface FrameSpec {
  unique?: bigint
  nodeid?: number
  uid?: number
  gid?: number
  pid?: number
  /** Fields of the input struct; those not given are 0. */
  fields?: Record<string, number | bigint>
  /** Each gets its NUL. Byte strings. */
  names?: string[]
  data?: Buffer
  /** Another input struct than the table's. */
  struct?: Layout
  /** Extensions, a multiple of 8 bytes. */
  extensions?: Buffer
}

export function put(
  buffer: Buffer,
  base: number,
  struct: Layout,
  values: Record<string, number | bigint>,
): void {
  for (const [name, value] of Object.entries(values)) {
    const field = struct.fields[name]
    if (field === undefined) throw new Error(`${struct.name} has no ${name}`)
    const at = base + field.offset
    if (field.size === 8) buffer.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), at)
    else if (field.size === 4) buffer.writeUInt32LE(Number(value) >>> 0, at)
    else buffer.writeUInt16LE(Number(value), at)
  }
}

export function frame(op: OpName, spec: FrameSpec = {}): Buffer {
  const struct = spec.struct ?? OPCODES[Op[op]]?.input
  const head = Buffer.alloc(InHeader.size)
  const body = Buffer.alloc(struct?.size ?? 0)
  if (struct !== undefined) put(body, 0, struct, spec.fields ?? {})
  const names = (spec.names ?? []).map(name => Buffer.from(`${name}\0`, 'latin1'))
  const extensions = spec.extensions ?? Buffer.alloc(0)
  const message = Buffer.concat([head, body, ...names, spec.data ?? Buffer.alloc(0), extensions])
  put(message, 0, InHeader, {
    len: message.length,
    opcode: Op[op],
    unique: spec.unique ?? 2n,
    nodeid: spec.nodeid ?? 1,
    uid: spec.uid ?? 1000,
    gid: spec.gid ?? 1000,
    pid: spec.pid ?? 42,
    total_extlen: extensions.length / 8,
  })
  return message
}

/** What a Linux 6.18 kernel sends first. */
export function initFrame(fields: Record<string, number> = {}, struct?: Layout): Buffer {
  const values = struct === undefined ? { flags2: 0xffff_ffff } : {}
  return frame('INIT', {
    nodeid: 0,
    fields: { major: 7, minor: 45, max_readahead: 131072, flags: 0xffff_ffff, ...values, ...fields },
    ...(struct === undefined ? {} : { struct }),
  })
}

/** A complete request of every opcode, such as a kernel would send. */
export const EXAMPLES: { readonly [K in OpName]: FrameSpec } = {
  LOOKUP: { names: ['passwd'] },
  FORGET: { fields: { nlookup: 1 } },
  GETATTR: {},
  SETATTR: { fields: { valid: 0x1ff, mode: 0o644, uid: 1, gid: 2, size: 3 } },
  READLINK: {},
  SYMLINK: { names: ['link', '../target'] },
  MKNOD: { fields: { mode: 0o100644 }, names: ['node'] },
  MKDIR: { fields: { mode: 0o755, umask: 0o22 }, names: ['dir'] },
  UNLINK: { names: ['gone'] },
  RMDIR: { names: ['gone'] },
  RENAME: { fields: { newdir: 1 }, names: ['a', 'b'] },
  LINK: { fields: { oldnodeid: 2 }, names: ['hard'] },
  OPEN: {},
  READ: { fields: { size: 4096 } },
  WRITE: { fields: { size: 5 }, data: Buffer.from('hello') },
  STATFS: {},
  RELEASE: {},
  FSYNC: {},
  SETXATTR: { fields: { size: 3 }, names: ['user.a'], data: Buffer.from('abc') },
  GETXATTR: { fields: { size: 100 }, names: ['user.a'] },
  LISTXATTR: { fields: { size: 100 } },
  REMOVEXATTR: { names: ['user.a'] },
  FLUSH: {},
  INIT: { nodeid: 0, fields: { major: 7, minor: 45, flags: 0xffff_ffff, flags2: 0xffff_ffff } },
  OPENDIR: {},
  READDIR: { fields: { size: 4096 } },
  RELEASEDIR: {},
  FSYNCDIR: {},
  GETLK: {},
  SETLK: {},
  SETLKW: {},
  ACCESS: {},
  CREATE: { fields: { flags: 0o101, mode: 0o644 }, names: ['new'] },
  INTERRUPT: { fields: { unique: 2 } },
  BMAP: {},
  DESTROY: {},
  IOCTL: { fields: { cmd: 0x80086601, out_size: 8 } },
  POLL: {},
  NOTIFY_REPLY: {},
  BATCH_FORGET: { fields: { count: 2 }, data: Buffer.alloc(32) },
  FALLOCATE: { fields: { length: 10 } },
  READDIRPLUS: { fields: { size: 4096 } },
  RENAME2: { fields: { newdir: 1, flags: 1 }, names: ['a', 'b'] },
  LSEEK: { fields: { whence: 3 } },
  COPY_FILE_RANGE: { fields: { nodeid_out: 2, len: 10 } },
  SETUPMAPPING: {},
  REMOVEMAPPING: { fields: { count: 0 } },
  SYNCFS: {},
  TMPFILE: { fields: { mode: 0o600 }, data: Buffer.from(fromUtf8('/\0'), 'latin1') },
  STATX: { fields: { sx_mask: 0xfff } },
  COPY_FILE_RANGE_64: { fields: { nodeid_out: 2, len: 10 } },
}
