/**
 * What a dispatcher tells whoever keeps a mount's state for a successor: which request is being served. JavaScript serves one at a
 * time, so a daemon that dies leaves at most one change that was made and not answered; everything else that was not answered was not
 * begun, or can be done again (a READ, a WRITE at its offset, an fsync).
 */
import { type Frame, HIGH, LOW } from './frame.js'
import { Op } from './opcodes.js'
import * as S from './structs.js'

/** What became of a request that a dead predecessor was serving, found out before the kernel sends it again. */
export interface Settled {
  /** It was carried out: only the answer is missing. */
  readonly done: boolean
  /** Whether what SETXATTR or REMOVEXATTR is about was there before; undefined where that was not noted. */
  readonly before: boolean | undefined
}

export interface RequestJournal {
  /** The request in `frame` is served from now on; gives what is known of it when it comes a second time. */
  begin(frame: Frame, length: number, op: number): Settled | undefined
  /** No change is under way any more: the request is answered, or has changed nothing and waits to be run anew. */
  changed(): void
  /** A FORGET or BATCH_FORGET, which the kernel never sends again. */
  beginForget(frame: Frame): void
  /** Entry number `index` of it is carried out next: `nodeid` loses `count` references. */
  forgetting(index: number, nodeid: number, count: number): void
}

/** Opcodes whose arguments a successor needs, to see whether the change was made; of the others the header is enough. */
const CHANGES: ReadonlySet<number> = new Set([
  Op.CREATE,
  Op.MKNOD,
  Op.MKDIR,
  Op.SYMLINK,
  Op.LINK,
  Op.UNLINK,
  Op.RMDIR,
  Op.RENAME,
  Op.RENAME2,
])

export function isChange(op: number): boolean {
  return CHANGES.has(op)
}

/** A change as the kernel asked for it. */
export type ChangeRequest =
  | { readonly kind: 'create'; readonly parent: number; readonly name: string }
  | { readonly kind: 'remove'; readonly parent: number; readonly name: string }
  | { readonly kind: 'link'; readonly inode: number; readonly parent: number; readonly name: string }
  | {
      readonly kind: 'rename'
      readonly parent: number
      readonly name: string
      readonly newParent: number
      readonly newName: string
      readonly exchange: boolean
    }

export function isRelease(frame: Frame): boolean {
  return frame.u32(S.InHeader.at.opcode) === Op.RELEASE
}

/** What a FORGET or BATCH_FORGET gives back, in order; nothing for any other frame, or a cut one. */
export function* readForgets(frame: Frame): Generator<{ nodeid: number; nlookup: number }> {
  const op = frame.u32(S.InHeader.at.opcode)
  const args = S.InHeader.size
  if (op === Op.FORGET) yield { nodeid: frame.u64(S.InHeader.at.nodeid), nlookup: frame.u64(args) }
  if (op !== Op.BATCH_FORGET) return
  const room = Math.floor((frame.bytes.length - args - S.BatchForgetIn.size) / S.ForgetOne.size)
  const count = Math.min(frame.u32(args), room)
  for (let i = 0; i < count; i++) {
    const at = args + S.BatchForgetIn.size + i * S.ForgetOne.size
    yield { nodeid: frame.u64(at), nlookup: frame.u64(at + S.ForgetOne.at.nlookup) }
  }
}

/**
 * Writes a BATCH_FORGET to byte `to` of the memory, with the `count` entries that are at byte `from`. Whoever finds it half written
 * finds no request.
 */
export function writeBatchForget(
  memory: { readonly words: Uint32Array; readonly bytes: Buffer },
  to: number,
  from: number,
  count: number,
  unique: { readonly high: number; readonly low: number },
): void {
  const { words, bytes } = memory
  const { at, size } = S.InHeader
  const entries = to + size + S.BatchForgetIn.size
  const opcode = (to + at.opcode) >>> 2
  words[opcode] = 0
  words.fill(0, (to + at.unique) >>> 2, entries >>> 2)
  words[(to + at.len) >>> 2] = entries - to + count * S.ForgetOne.size
  words[((to + at.unique) >>> 2) + HIGH] = unique.high
  words[((to + at.unique) >>> 2) + LOW] = unique.low
  words[(to + size) >>> 2] = count
  bytes.copy(bytes, entries, from, from + count * S.ForgetOne.size)
  words[opcode] = Op.BATCH_FORGET
}

const RENAME_EXCHANGE = 2

/** Bytes of arguments before the first name. */
const BEFORE_NAME: Readonly<Record<number, number>> = {
  [Op.CREATE]: S.CreateIn.size,
  [Op.MKNOD]: S.MknodIn.size,
  [Op.MKDIR]: S.MkdirIn.size,
  [Op.LINK]: S.LinkIn.size,
  [Op.RENAME]: S.RenameIn.size,
  [Op.RENAME2]: S.Rename2In.size,
}

/** Reads a frame that may be cut off behind its names; `undefined` for what changes no name. */
export function readChange(frame: Frame): ChangeRequest | undefined {
  const op = frame.u32(S.InHeader.at.opcode)
  if (!isChange(op)) return undefined
  const parent = frame.u64(S.InHeader.at.nodeid)
  const args = S.InHeader.size
  const nameAt = args + (BEFORE_NAME[op] ?? 0)
  const name = text(frame, nameAt)
  if (name === undefined) return undefined
  switch (op) {
    case Op.UNLINK:
    case Op.RMDIR:
      return { kind: 'remove', parent, name }
    case Op.LINK:
      return { kind: 'link', inode: frame.u64(args), parent, name }
    case Op.RENAME:
    case Op.RENAME2: {
      const newName = text(frame, nameAt + name.length + 1)
      if (newName === undefined) return undefined
      const flags = op === Op.RENAME2 ? frame.u32(args + S.Rename2In.at.flags) : 0
      const exchange = (flags & RENAME_EXCHANGE) !== 0
      return { kind: 'rename', parent, name, newParent: frame.u64(args), newName, exchange }
    }
    default:
      return { kind: 'create', parent, name }
  }
}

function text(frame: Frame, at: number): string | undefined {
  const end = frame.bytes.indexOf(0, at)
  return end <= at ? undefined : frame.bytes.toString('latin1', at, end)
}
