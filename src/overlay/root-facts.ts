/**
 * What a layer's root says of itself, read when the mount begins. A daemon that takes over is told what its predecessor has read of the lower
 * ones, which change nothing of it: they may not answer by then.
 */
import * as sys from '../sys/index.js'
import { opaquenessFromXattrs, type OverlayPrefix } from '../format/index.js'
import { Ownership } from './ownership.js'

export interface RootFacts {
  readonly dev: number
  readonly inoHi: number
  readonly inoLo: number
  /** The attribute by which owners are kept below it; null where it names none. */
  readonly mark: string | null
  /** Whether xattr whiteouts may be in it: the kernel writes opaque=x on a layer's root that has them anywhere. */
  readonly xwhiteouts: boolean
  /** Whether an entry may carry an origin. */
  readonly impure: boolean
}

/** Asks the layer. `prefix`: the namespace of the mount's attributes. */
export function rootFacts(fd: number, prefix: OverlayPrefix): RootFacts {
  const { dev, inoHi, inoLo } = sys.statFd(fd)
  const names = sys.listxattrAt(fd, '')
  return {
    dev,
    inoHi,
    inoLo,
    mark: Ownership.markOf(names) ?? null,
    xwhiteouts: opaquenessFromXattrs(fd, '', names).xwhiteouts,
    impure: names.includes(prefix + 'impure'),
  }
}
