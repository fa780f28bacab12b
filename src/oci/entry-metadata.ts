/**
 * Owner, attributes, mode and times of what is unpacked. In all of it `name` '' is the object behind `fd` itself.
 */
import { errnoMessage, E } from '../base/errno.js'
import { toUtf8 } from '../base/bytes.js'
import { SysError } from '../base/sys-error.js'
import * as format from '../format/index.js'
import * as sys from '../sys/index.js'
import { OciError } from './error.js'
import { toHost, type IdMap } from './id-map.js'
import { aclAccess, aclDefault, encodeAcl, mapAclIds, parseAclText } from './posix-acl.js'
import type { TarEntry } from './tar-format.js'

const maxWarnings = 100

export interface MetadataOptions {
  readonly ids: IdMap | undefined
  /** Instead of the archive's owners, and of root where it names none. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined
  /** See ExtractOptions. */
  readonly ownership: 'chown' | 'xattr' | 'ignore'
  /** The tree is a layer, or becomes one: attributes that mean something to overlays are escaped or left out. */
  readonly overlay: boolean
  /** What chown would not change, when new objects get their creator's ids. */
  readonly self: readonly [uid: number, gid: number] | undefined
}

export class EntryMetadata {
  /** One line each, at most 100. */
  readonly warnings: string[] = []
  /** Of the entry at hand, for warnings. */
  path = ''

  constructor(readonly options: MetadataOptions) {}

  finishObject(entry: TarEntry, fd: number, name: string): void {
    this.chown(entry, fd, name)
    if (entry.xattrs !== undefined || entry.acls !== undefined) this.xattrs(entry, fd, name)
    const mode = this.options.ownership === 'xattr' ? entry.mode | 0o600 : entry.mode
    if (name === '') sys.fchmod(fd, mode)
    else sys.chmodAt(fd, name, mode)
    this.times(entry, fd, name)
  }

  chown(
    entry: { uid: number; gid: number; mode?: number },
    fd: number,
    name: string,
  ): [uid: number, gid: number] {
    const uid = this.options.owner?.uid ?? toHost(this.options.ids?.uid, entry.uid, 'uid')
    const gid = this.options.owner?.gid ?? toHost(this.options.ids?.gid, entry.gid, 'gid')
    if (this.options.ownership === 'chown') {
      if (this.options.self === undefined || uid !== this.options.self[0] || gid !== this.options.self[1])
        sys.fchownat(fd, name, uid, gid)
    } else if (this.options.ownership === 'xattr') {
      // symlinks have no user attributes; their owner hardly matters
      const stat = sys.statAt(fd, name)
      if (stat !== undefined && !sys.S_ISLNK(stat.mode)) {
        this.overrideStat({ uid, gid, mode: entry.mode ?? 0o755 }, fd, name)
      }
    }
    return [uid, gid]
  }

  overrideStat(
    entry: { uid: number; gid: number; mode: number },
    fd: number,
    name: string,
    type?: number,
    rdev?: number,
  ): void {
    const value = format.formatOverrideStat({
      uid: entry.uid,
      gid: entry.gid,
      mode: entry.mode,
      ...(type === undefined ? {} : { type }),
      ...(rdev === undefined ? {} : { rdev }),
    })
    sys.setxattrAt(fd, name, format.OVERRIDE_STAT_CONTAINERS, value)
  }

  xattrs(
    entry: TarEntry,
    fd: number,
    name: string,
    directory?: { acls: [name: string, value: Buffer][] | undefined },
  ): void {
    const attributes = new Map(entry.xattrs)
    try {
      if (entry.acls?.access !== undefined && !attributes.has(aclAccess)) {
        attributes.set(aclAccess, encodeAcl(parseAclText(entry.acls.access)))
      }
      if (entry.acls?.default !== undefined && !attributes.has(aclDefault)) {
        attributes.set(aclDefault, encodeAcl(parseAclText(entry.acls.default)))
      }
    } catch (error) {
      if (!(error instanceof OciError) || error.code !== 'unsupported') throw error
      this.warn(`'${toUtf8(this.path)}': ${error.message}; the ACL was left out`)
    }
    for (const [attr, value] of attributes) {
      let stored = attr
      if (attr === aclAccess || attr === aclDefault) {
        const mapped = mapAclIds(value, (id, kind) => toHost(this.options.ids?.[kind], id, kind))
        if (mapped === undefined) throw new OciError('malformed', 'an ACL attribute is damaged')
        if (directory !== undefined) (directory.acls ??= []).push([attr, mapped])
        else this.setXattr(fd, name, attr, mapped)
        continue
      }
      if (this.options.overlay) {
        // Otherwise an archive could redirect or hide what is in other layers.
        stored = format.escapeXattr(attr)
      }
      // In whatever tree: it would be somebody else's word for who owns what, once that is mounted as a layer.
      if (format.isOverrideStat(attr) || (this.options.overlay && format.isPrivateXattr(stored))) {
        this.warn(`'${toUtf8(this.path)}': attribute ${toUtf8(attr)} belongs to overlays and was left out`)
        continue
      }
      this.setXattr(fd, name, stored, value)
    }
  }

  setXattr(fd: number, name: string, attr: string, value: Buffer): void {
    try {
      sys.setxattrAt(fd, name, attr, value)
    } catch (error) {
      // What this filesystem or this user cannot have is said, as docker and tar do; a full disk is an error.
      const tolerated: readonly number[] = [E.EPERM, E.EOPNOTSUPP, E.EINVAL, E.EACCES]
      if (!(error instanceof SysError) || !tolerated.includes(error.errno)) throw error
      this.warn(
        `'${toUtf8(this.path)}': attribute ${toUtf8(attr)} was left out: ${errnoMessage(error.errno)}`,
      )
    }
  }

  dropXattrs(fd: number): void {
    for (const attr of sys.listxattrAt(fd, '')) {
      if (format.isPrivateXattr(attr) || attr.startsWith('security.selinux')) continue
      sys.removexattrAt(fd, '', attr)
    }
  }

  times(entry: { mtime: number; mtimeNsec: number }, fd: number, name: string): void {
    sys.utimensAt(fd, name, entry.mtime, entry.mtimeNsec, entry.mtime, entry.mtimeNsec)
  }

  warn(line: string): void {
    if (this.warnings.length < maxWarnings) this.warnings.push(line)
    else if (this.warnings.length === maxWarnings) this.warnings.push('… and more')
  }
}
