/**
 * What an upper directory changes, told from the upper directory alone: the layers below are not looked at.
 *
 * - `D`: a whiteout, in any dialect;
 * - `C`: an object that was copied up: it carries an origin attribute (or, a directory, is marked impure) and is not
 *   opaque and not redirected;
 * - `A`: everything else. A directory that was removed and made anew is opaque, and so `A`, with what is in it.
 *
 * What the upper directory does not record cannot be told: a copied-up file that was then renamed is `C` under its new
 * name, and a file that replaced a lower one by rename (as editors save) is `A`.
 */
import * as sys from '../sys/index.js'
import type { ByteName } from '../base/bytes.js'
import type { Fd } from '../base/fd.js'
import { hasOpaqueMarker, opaquenessFromXattrs } from './opaque.js'
import {
  hasWhiteoutXattr,
  hiddenByMarker,
  isCharWhiteout,
  isMarkerName,
  mayBeXattrWhiteout,
} from './whiteout.js'
import { FUSE_OVERLAYFS_PREFIX, OVERLAY_PREFIXES } from './xattr-names.js'

export type ChangeKind = 'A' | 'C' | 'D'

export interface Change {
  kind: ChangeKind
  /** From the root of the merged view, beginning with `/`. */
  path: ByteName
  /** Of what is there now; absent for `D`. */
  type?: 'directory' | 'file' | 'symlink' | 'device' | 'fifo' | 'socket'
  /** A directory that hides everything of its name below it. */
  opaque?: true
}

const ORIGIN_ATTRS = [...OVERLAY_PREFIXES, FUSE_OVERLAYFS_PREFIX].map(prefix => `${prefix}origin`)
const IMPURE_ATTRS = OVERLAY_PREFIXES.map(prefix => `${prefix}impure`)
const REDIRECT_ATTRS = OVERLAY_PREFIXES.map(prefix => `${prefix}redirect`)

const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

/**
 * The changes below `root` (a real descriptor, not O_PATH), sorted by name as bytes, a directory before what is in it.
 * Holds one descriptor a level.
 * @throws SysError EACCES, EIO, EMFILE
 */
export function* diffUpper(root: Fd): Generator<Change> {
  yield* diffDirectory(root, '')
}

function* diffDirectory(directory: Fd, path: ByteName): Generator<Change> {
  const attrs = sys.flistxattr(directory.n)
  const { xwhiteouts } = opaquenessFromXattrs(directory.n, '', attrs)
  for (const [name, entry] of [...entriesOf(directory)].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const at = `${path}/${name}`
    if (entry === 'whiteout') {
      yield { kind: 'D', path: at }
      continue
    }
    const stat = sys.statAt(directory.n, name)
    if (stat === undefined) continue // removed while we walk
    if (
      isCharWhiteout(stat) ||
      (xwhiteouts && mayBeXattrWhiteout(stat) && hasWhiteoutXattr(directory.n, name))
    ) {
      yield { kind: 'D', path: at }
    } else if (sys.S_ISDIR(stat.mode)) {
      using child = sys.openat(directory.n, name, DIRECTORY)
      const childAttrs = sys.flistxattr(child.n)
      const opaque = opaquenessFromXattrs(child.n, '', childAttrs).opaque || hasOpaqueMarker(child.n)
      const merged =
        !opaque && !has(childAttrs, REDIRECT_ATTRS) && has(childAttrs, [...ORIGIN_ATTRS, ...IMPURE_ATTRS])
      const change: Change = { kind: merged ? 'C' : 'A', path: at, type: 'directory' }
      if (opaque) change.opaque = true
      yield change
      yield* diffDirectory(child, at)
    } else {
      const copied = has(sys.listxattrAt(directory.n, name), ORIGIN_ATTRS)
      yield { kind: copied ? 'C' : 'A', path: at, type: typeOf(stat.mode) }
    }
  }
}

/** The names in a directory; a `.wh.NAME` marker stands as a whiteout of NAME, unless NAME itself is there too. */
function entriesOf(directory: Fd): Map<ByteName, 'object' | 'whiteout'> {
  const entries = new Map<ByteName, 'object' | 'whiteout'>()
  for (const name of sys.listDir(directory.n).names) {
    if (!isMarkerName(name)) {
      entries.set(name, 'object')
    } else {
      const hidden = hiddenByMarker(name)
      if (hidden !== undefined && !entries.has(hidden)) entries.set(hidden, 'whiteout')
    }
  }
  return entries
}

function has(attrs: readonly string[], wanted: readonly string[]): boolean {
  return attrs.some(attr => wanted.includes(attr))
}

function typeOf(mode: number): NonNullable<Change['type']> {
  if (sys.S_ISREG(mode)) return 'file'
  if (sys.S_ISLNK(mode)) return 'symlink'
  if (sys.S_ISFIFO(mode)) return 'fifo'
  if (sys.S_ISSOCK(mode)) return 'socket'
  return 'device'
}
