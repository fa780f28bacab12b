/**
 * Names are bytes. A path component or path is a latin1 string: one char (0 to 0xff) per byte, so that no name is
 * lost, and names are cheap strings and Map keys. UTF-8 exists only at the edge: arguments, messages.
 */
export type ByteName = string

const NOT_ASCII = /[^\0-\x7f]/

export function fromUtf8(text: string): ByteName {
  return NOT_ASCII.test(text) ? Buffer.from(text, 'utf8').toString('latin1') : text
}

/** For people to read: UTF-8 where the bytes are UTF-8, `\xNN` for every other byte. Never fails. */
export function toUtf8(name: ByteName): string {
  if (!NOT_ASCII.test(name)) return name
  const bytes = toBuffer(name)
  const text = bytes.toString('utf8')
  if (!text.includes('\ufffd')) return text
  return decodeLossy(bytes)
}

export function toBuffer(name: ByteName): Buffer {
  return Buffer.from(name, 'latin1')
}

export function fromBuffer(bytes: Uint8Array): ByteName {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

/** Length in bytes of the well-formed UTF-8 sequence at `at`, 0 when there is none. */
function sequenceAt(bytes: Buffer, at: number): number {
  const lead = bytes[at] ?? 0
  if (lead < 0x80) return 1
  // Overlong forms (c0, c1, e0 80…, f0 80…), surrogates (ed a0…) and what lies above U+10FFFF are not well-formed.
  const length =
    lead >= 0xc2 && lead <= 0xdf ? 2 : lead >= 0xe0 && lead <= 0xef ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0
  if (length === 0 || at + length > bytes.length) return 0
  const second = bytes[at + 1] ?? 0
  const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
  const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
  if (second < low || second > high) return 0
  for (let i = 2; i < length; i++) {
    if (((bytes[at + i] ?? 0) & 0xc0) !== 0x80) return 0
  }
  return length
}

function decodeLossy(bytes: Buffer): string {
  let out = ''
  for (let at = 0; at < bytes.length;) {
    const length = sequenceAt(bytes, at)
    if (length === 0) {
      out += '\\x' + (bytes[at] ?? 0).toString(16).padStart(2, '0')
      at += 1
    } else {
      out += bytes.toString('utf8', at, at + length)
      at += length
    }
  }
  return out
}
