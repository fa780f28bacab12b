import { readFileSync, readlinkSync } from 'node:fs'
import { fromUtf8, type ByteName } from '../base/bytes.js'

/**
 * Arguments without loss. Node decodes argv as UTF-8 and turns every other byte into U+FFFD. Here such a byte becomes
 * the lone surrogate U+DC80 to U+DCFF (Python's "surrogateescape"): an ordinary argument is an ordinary string, and
 * {@link bytesOf} gives back exactly what was typed.
 */

/** The arguments after the script's name. */
export function commandLine(): string[] {
  const args = process.argv.slice(2)
  if (!args.some(arg => arg.includes('\ufffd'))) return args
  // NUL-terminated, in one piece; what belongs to node itself comes first.
  const raw = readFileSync('/proc/self/cmdline', 'latin1').split('\0').slice(0, -1)
  return raw.slice(raw.length - args.length).map(decode)
}

/** Bytes to a string: UTF-8 where it is UTF-8, a lone surrogate for every other byte. */
export function decode(bytes: ByteName): string {
  const buffer = Buffer.from(bytes, 'latin1')
  const text = buffer.toString('utf8')
  if (!text.includes('\ufffd')) return text
  let out = ''
  for (let at = 0; at < buffer.length;) {
    const one = characterAt(buffer, at)
    out += one ?? String.fromCharCode(0xdc00 + (buffer[at] ?? 0))
    at += one === undefined ? 1 : Buffer.byteLength(one)
  }
  return out
}

/** The well-formed UTF-8 character at `at`, or undefined. */
function characterAt(buffer: Buffer, at: number): string | undefined {
  for (let length = 1; length <= 4 && at + length <= buffer.length; length++) {
    const bytes = buffer.subarray(at, at + length)
    const text = bytes.toString('utf8')
    if (Buffer.from(text, 'utf8').equals(bytes)) return text
  }
  return undefined
}

/** The bytes of an argument, or of a part of one. */
export function bytesOf(argument: string): ByteName {
  // Without the u flag a surrogate is one char; the second of a pair never stands after a plain character.
  return argument.replace(/[\ud800-\udbff][\udc00-\udfff]|[^]/g, c => {
    const code = c.charCodeAt(0)
    return c.length === 1 && code >= 0xdc80 && code <= 0xdcff ? String.fromCharCode(code & 0xff) : fromUtf8(c)
  })
}

/** The working directory; `process.cwd()` would lose bytes that are not UTF-8. @throws when it was removed */
export function workingDirectory(): ByteName {
  const path = readlinkSync('/proc/self/cwd', 'latin1')
  if (path.endsWith(' (deleted)')) process.cwd() // throws ENOENT, unless that is just its name
  return path
}
