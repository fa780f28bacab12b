/**
 * What a dispatcher tells whoever keeps a mount's state for a successor: which request is being served. JavaScript serves one at a
 * time, so a daemon that dies leaves at most one change that was made and not answered; everything else that was not answered was not
 * begun, or can be done again (a READ, a WRITE at its offset, an fsync).
 */
import type { Frame } from './frame.js'
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
