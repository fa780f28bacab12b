import { SysError } from '../base/sys-error.js'
import { addon, type JournalAppend } from './addon.js'

/**
 * The first `length` bytes of a file (a memfd) as memory that is shared with every process that maps it. The file must not become
 * shorter. @throws SysError EINVAL for a file that is, ENOMEM
 */
export function mapFile(fd: number, length: number): ArrayBuffer {
  const memory = addon.mapFile(fd, length)
  if (typeof memory === 'number') throw new SysError(-memory, 'mmap')
  return memory
}

export type { JournalAppend } from './addon.js'

/**
 * What appends records to one half of a recovery journal: `size` bytes of `memory` from byte `half`. `tail`, `waste` and `lost` are where
 * words are that it writes: how much of the half counts, how much of that may say nothing any more (all records but those of
 * kind `inode`), and 1 once there was no room.
 */
export function journalWriter(
  memory: ArrayBuffer,
  half: number,
  size: number,
  words: { readonly tail: number; readonly waste: number; readonly lost: number },
  inode: number,
): JournalAppend {
  return addon.journalWriter(memory, half, size, words.tail, words.waste, words.lost, inode)
}
