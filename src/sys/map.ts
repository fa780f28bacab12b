import { SysError } from '../base/sys-error.js'
import { addon } from './addon.js'

/**
 * The first `length` bytes of a file (a memfd) as memory that is shared with every process that maps it. The file must not become
 * shorter. @throws SysError EINVAL for a file that is, ENOMEM
 */
export function mapFile(fd: number, length: number): ArrayBuffer {
  const memory = addon.mapFile(fd, length)
  if (typeof memory === 'number') throw new SysError(-memory, 'mmap')
  return memory
}
