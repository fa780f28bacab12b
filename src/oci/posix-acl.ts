/**
 * POSIX ACLs: text (SCHILY.acl.* of GNU tar and star) to the binary attribute of Linux.
 * Sources: linux/posix_acl_xattr.h (version 2, little endian); acl(5) "ACL text forms"; star(5).
 */
import { readFileSync } from 'node:fs'
import { OciError } from './error.js'

export const aclAccess = 'system.posix_acl_access'
export const aclDefault = 'system.posix_acl_default'

const version = 2
const noId = 0xffffffff
const Tag = { userObj: 0x01, user: 0x02, groupObj: 0x04, group: 0x08, mask: 0x10, other: 0x20 } as const
/** An ACL on ext4 holds a few hundred; the attribute at most 64 KiB. */
const maxEntries = 8191

export interface AclEntry {
  tag: number
  perm: number
  id: number
}

/**
 * `user::rwx,user:lisa:r-x,group::r-x,mask::rwx,other::r--`, entries parted by commas or lines, perhaps with a numeric
 * id in a fourth field (star). Names without it are looked up in /etc/passwd and /etc/group, as tar does.
 * @throws OciError `malformed`, or `unsupported` for an unknown name
 */
export function parseAclText(text: string): AclEntry[] {
  const entries: AclEntry[] = []
  for (const part of text.split(/[,\n]/)) {
    const line = part.replace(/#.*/, '').trim()
    if (line === '') continue
    const [kind = '', name = '', perms = '', id] = line.split(':')
    // mask and other may come as `mask:rwx`
    const perm = parsePerm(perms === '' && !/^\d+$/.test(name) ? name : perms)
    const named = perms !== '' && name !== ''
    const tag = tagOf(kind, named)
    if (tag === undefined || perm === undefined)
      throw new OciError('malformed', `'${line.slice(0, 60)}' is not an ACL entry`)
    const qualified = tag === Tag.user || tag === Tag.group
    entries.push({
      tag,
      perm,
      id: qualified ? resolveId(tag === Tag.user ? 'passwd' : 'group', name, id) : noId,
    })
    if (entries.length > maxEntries) throw new OciError('limit', 'an ACL has too many entries')
  }
  // the kernel wants tags in this order, ids ascending
  return entries.sort((a, b) => a.tag - b.tag || a.id - b.id)
}

function tagOf(kind: string, named: boolean): number | undefined {
  switch (kind) {
    case 'user':
    case 'u':
      return named ? Tag.user : Tag.userObj
    case 'group':
    case 'g':
      return named ? Tag.group : Tag.groupObj
    case 'mask':
    case 'm':
      return Tag.mask
    case 'other':
    case 'o':
      return Tag.other
    default:
      return undefined
  }
}

function parsePerm(text: string): number | undefined {
  if (!/^[r-][w-][x-]$/.test(text)) return undefined
  return (text[0] === 'r' ? 4 : 0) | (text[1] === 'w' ? 2 : 0) | (text[2] === 'x' ? 1 : 0)
}

function resolveId(database: 'passwd' | 'group', name: string, id: string | undefined): number {
  for (const digits of [id, name])
    if (digits !== undefined && /^\d{1,10}$/.test(digits)) return Number(digits)
  try {
    for (const line of readFileSync(`/etc/${database}`, 'latin1').split('\n')) {
      const fields = line.split(':')
      if (fields[0] === name && fields[2] !== undefined) return Number(fields[2])
    }
  } catch {
    // no such file: no such name
  }
  throw new OciError(
    'unsupported',
    `an ACL names ${database === 'group' ? 'group' : 'user'} '${name}', unknown here`,
  )
}

export function encodeAcl(entries: readonly AclEntry[]): Buffer {
  const buffer = Buffer.alloc(4 + 8 * entries.length)
  buffer.writeUInt32LE(version, 0)
  entries.forEach(({ tag, perm, id }, i) => {
    buffer.writeUInt16LE(tag, 4 + 8 * i)
    buffer.writeUInt16LE(perm, 6 + 8 * i)
    buffer.writeUInt32LE(id >>> 0, 8 + 8 * i)
  })
  return buffer
}

/** Gives `value` with every named user and group passed through `map`; undefined when it is not a version 2 ACL. */
export function mapAclIds(
  value: Buffer,
  map: (id: number, kind: 'uid' | 'gid') => number,
): Buffer | undefined {
  if (value.length < 4 || (value.length - 4) % 8 !== 0 || value.readUInt32LE(0) !== version) return undefined
  const result = Buffer.from(value)
  for (let at = 4; at < result.length; at += 8) {
    const tag = result.readUInt16LE(at)
    if (tag === Tag.user) result.writeUInt32LE(map(result.readUInt32LE(at + 4), 'uid') >>> 0, at + 4)
    if (tag === Tag.group) result.writeUInt32LE(map(result.readUInt32LE(at + 4), 'gid') >>> 0, at + 4)
  }
  return result
}

/** The text form with numeric ids, entries parted by commas; undefined when `value` is not a version 2 ACL. */
export function formatAclText(value: Buffer): string | undefined {
  if (value.length < 4 || (value.length - 4) % 8 !== 0 || value.readUInt32LE(0) !== version) return undefined
  const parts: string[] = []
  for (let at = 4; at < value.length; at += 8) {
    const tag = value.readUInt16LE(at)
    const perm = value.readUInt16LE(at + 2)
    const rwx = `${perm & 4 ? 'r' : '-'}${perm & 2 ? 'w' : '-'}${perm & 1 ? 'x' : '-'}`
    const id = tag === Tag.user || tag === Tag.group ? String(value.readUInt32LE(at + 4)) : ''
    const kind = tagNames.get(tag)
    if (kind === undefined) return undefined
    parts.push(`${kind}:${id}:${rwx}`)
  }
  return parts.join(',')
}

const tagNames = new Map<number, string>([
  [Tag.userObj, 'user'],
  [Tag.user, 'user'],
  [Tag.groupObj, 'group'],
  [Tag.group, 'group'],
  [Tag.mask, 'mask'],
  [Tag.other, 'other'],
])
