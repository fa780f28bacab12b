const TAG: Readonly<Record<string, number>> = { u: 0x01, U: 0x02, g: 0x04, G: 0x08, m: 0x10, o: 0x20 }
const NO_ID = 0xffffffff

/**
 * The value of system.posix_acl_access or _default, from the short text of setfacl: `u::rw-,u:1000:rw-,g::r--,m::rw-,o::---`.
 * Source: linux/posix_acl_xattr.h, version 2.
 */
export function acl(text: string): Buffer {
  const entries = text.split(',').map(entry => {
    const [who = '', id = '', permissions = ''] = entry.split(':')
    const tag = TAG[id === '' ? who : who.toUpperCase()] ?? 0
    const bits =
      (permissions.includes('r') ? 4 : 0) |
      (permissions.includes('w') ? 2 : 0) |
      (permissions.includes('x') ? 1 : 0)
    return { tag, bits, id: id === '' ? NO_ID : Number(id) }
  })
  const bytes = Buffer.alloc(4 + entries.length * 8)
  bytes.writeUInt32LE(2, 0)
  entries.forEach(({ tag, bits, id }, i) => {
    bytes.writeUInt16LE(tag, 4 + i * 8)
    bytes.writeUInt16LE(bits, 6 + i * 8)
    bytes.writeUInt32LE(id, 8 + i * 8)
  })
  return bytes
}
