import * as sys from '../../src/sys/index.js'
import {
  chmod,
  chown,
  join,
  link,
  mkdir,
  mknod,
  setxattr,
  symlink,
  truncate,
  utimens,
  write,
} from '../conformance/posix.js'
import type { Random } from './random.js'

/** Few names, so that operations meet; the odd ones are not UTF-8, or as long as a name can be. */
export function namesUpTo(longest: number): string[] {
  return ['a', 'b', 'c', 'd', 'e', 'f', '\xff\xfe', 'n'.repeat(longest)]
}

const DEPTH = 3

export function bytes(seed: number, length: number): Buffer {
  const data = Buffer.allocUnsafe(length)
  for (let i = 0; i < length; i++) data[i] = (seed * 17 + i * 31 + (i >> 8)) & 255
  return data
}

/** One random tree; a layer that is not the bottom one also has whiteouts and opaque directories. */
export function fillLayer(
  random: Random,
  dir: string,
  bottom: boolean,
  names: readonly string[],
  depth = 0,
  files: string[] = [],
): void {
  for (const name of names) {
    const path = join(dir, name)
    const kind = random.weighted({
      nothing: 3,
      file: 4,
      dir: depth < DEPTH ? 4 : 0,
      symlink: 1,
      fifo: 0.3,
      link: files.length > 0 ? 0.5 : 0,
      whiteout: bottom ? 0 : 1.5,
    })
    switch (kind) {
      case 'nothing':
        continue
      case 'file':
        write(path, bytes(random.below(256), random.pick([0, 1, 100, 4096, 10_000])))
        if (random.chance(0.1)) truncate(path, 50_000)
        files.push(path)
        break
      case 'dir':
        mkdir(path)
        fillLayer(random, path, bottom, names, depth + 1, files)
        if (!bottom && random.chance(0.2)) setxattr(path, 'trusted.overlay.opaque', 'y')
        break
      case 'symlink':
        symlink(random.pick(['a', 'b/c', '../a', 'nowhere']), path)
        break
      case 'fifo':
        mknod(path, sys.S_IFIFO | 0o600)
        break
      case 'link':
        link(random.pick(files), path)
        continue
      case 'whiteout':
        mknod(path, sys.S_IFCHR, 0)
        continue
    }
    if (random.chance(0.3)) chown(path, random.pick([0, 1000, 2000]), random.pick([0, 1000, 2000]))
    if (kind !== 'symlink' && random.chance(0.4))
      chmod(path, random.pick(kind === 'dir' ? DIR_MODES : FILE_MODES))
    if ((kind === 'file' || kind === 'dir') && random.chance(0.3)) setxattr(path, 'user.layer', 'value')
    utimens(path, { sec: 1000, nsec: 1 }, { sec: random.below(900_000_000), nsec: random.below(1e9) })
  }
}

export const FILE_MODES = [0o644, 0o600, 0o666, 0o444, 0o755, 0o4755, 0o2755, 0]
export const DIR_MODES = [0o755, 0o777, 0o700, 0o1777, 0o2775, 0o555]
