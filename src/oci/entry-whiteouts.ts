/** `.wh.` entries of a layer: whiteouts and opaque directories of a dialect, or removals where layers are laid over each other. */
import { toUtf8 } from '../base/bytes.js'
import * as format from '../format/index.js'
import * as sys from '../sys/index.js'
import { OciError } from './error.js'
import { parentOf, type LayerTree } from './layer-tree.js'

const createFlags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW

export interface WhiteoutOptions {
  readonly tree: LayerTree
  /** The tree is a layer. */
  readonly overlay: boolean
  readonly dialect: format.WhiteoutDialect
  readonly prefix: format.OverlayPrefix
  /** With `apply`: what this archive brought, which its own whiteouts do not touch. */
  readonly own: ReadonlySet<string> | undefined
}

export class EntryWhiteouts {
  count = 0

  constructor(readonly options: WhiteoutOptions) {}

  /** The entry `path`, whose last name is the marker `name`. */
  apply(path: string, name: string): void {
    const parentPath = parentOf(path)
    this.count++
    if (name === format.WH_OPAQUE) {
      const self = this.options.tree.directory(parentPath)
      if (this.options.own !== undefined) this.#removeForeign(self, parentPath)
      else this.makeOpaque(self, '')
      return
    }
    const hidden = format.hiddenByMarker(name)
    // .wh..wh.plnk and other bookkeeping of aufs
    if (hidden === undefined) return
    if (hidden === '.' || hidden === '..' || hidden.includes('/')) {
      throw new OciError('unsafe', `the whiteout hides '${toUtf8(hidden)}'`)
    }
    const parent = this.options.tree.directory(parentPath)
    const target = parentPath === '' ? hidden : `${parentPath}/${hidden}`
    if (this.options.own !== undefined) {
      if (this.options.own.has(target)) this.#removeForeignBelow(parent, hidden, target)
      else this.options.tree.remove(parent, hidden, target)
      return
    }
    const there = sys.statAt(parent, hidden)
    if (there !== undefined) {
      // Of this layer itself: a whiteout hides only what is below, so a directory of this layer becomes opaque.
      if (sys.S_ISDIR(there.mode)) this.makeOpaque(parent, hidden)
      return
    }
    if (this.options.dialect === 'xattr') this.#announceXattrWhiteouts(parent)
    if (this.options.dialect === 'file' && this.isWhiteout(parent, hidden)) return
    format.makeWhiteout(parent, hidden, this.options.dialect, this.options.prefix)
  }

  isWhiteout(parent: number, name: string): boolean {
    if (!this.options.overlay || this.count === 0) return false
    switch (this.options.dialect) {
      case 'char': {
        const stat = sys.statAt(parent, name)
        return stat !== undefined && format.isCharWhiteout(stat)
      }
      case 'xattr': {
        const stat = sys.statAt(parent, name)
        return stat !== undefined && format.mayBeXattrWhiteout(stat) && format.hasWhiteoutXattr(parent, name)
      }
      case 'file':
        return sys.statAt(parent, format.WH_PREFIX + name) !== undefined
    }
  }

  /** Removes our whiteout of `name`, if there is one. */
  takeWhiteout(parent: number, name: string): boolean {
    if (!this.isWhiteout(parent, name)) return false
    sys.unlinkat(parent, this.options.dialect === 'file' ? format.WH_PREFIX + name : name)
    return true
  }

  makeOpaque(dirFd: number, name: string): void {
    if (!this.options.overlay) return
    if (this.options.dialect !== 'file') {
      format.setOpaque(dirFd, name, this.options.prefix)
      return
    }
    using self = sys.openat(dirFd, name === '' ? '.' : name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
    if (sys.statAt(self.n, format.WH_OPAQUE) === undefined) {
      sys.openat(self.n, format.WH_OPAQUE, createFlags, 0o600).close()
    }
  }

  #announceXattrWhiteouts(dirFd: number): void {
    const attr = `${this.options.prefix}opaque`
    if (sys.getxattrAt(dirFd, '', attr) === undefined) {
      sys.setxattrAt(dirFd, '', attr, Buffer.from(format.OPAQUE_HAS_XATTR_WHITEOUTS))
    }
  }

  /** `apply`: everything in this directory that the archive did not bring itself. */
  #removeForeign(dirFd: number, path: string): void {
    using fd = sys.openat(dirFd, '.', sys.O_RDONLY | sys.O_DIRECTORY)
    for (const name of sys.listDir(fd.n).names) {
      const child = path === '' ? name : `${path}/${name}`
      if (this.options.own?.has(child) === true) this.#removeForeignBelow(fd.n, name, child)
      else this.options.tree.remove(fd.n, name, child)
    }
  }

  #removeForeignBelow(parentFd: number, name: string, path: string): void {
    const stat = sys.statAt(parentFd, name)
    if (stat === undefined || !sys.S_ISDIR(stat.mode)) return
    using fd = sys.openat(parentFd, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
    this.#removeForeign(fd.n, path)
  }
}
