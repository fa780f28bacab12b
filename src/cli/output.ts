import { toUtf8, type ByteName } from '../base/bytes.js'

/** What the program says, to people and to programs. */

/** A failure that is told in one line, without a stack. `exitCode` 1: it failed; 2: it was asked wrongly. */
export class CliError extends Error {
  constructor(
    message: string,
    readonly exitCode = 1,
  ) {
    super(message)
  }
}

/**
 * A name for people: bytes that are not UTF-8, control characters and backslashes are escaped, so that one name is one
 * line and nothing in it speaks to the terminal.
 */
export function printable(name: ByteName): string {
  return toUtf8(name.replaceAll('\\', '\\\\')).replace(/[\x00-\x1f\x7f-\x9f]/g, c => {
    const short = { '\n': '\\n', '\t': '\\t', '\r': '\\r' }[c]
    return short ?? `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`
  })
}

/**
 * A name for JSON: `{ path }`, and where the bytes are not UTF-8 (so that `path` can only be read by people)
 * `{ path, pathBase64 }` with the exact bytes.
 */
export function jsonName(key: string, name: ByteName): Record<string, string> {
  const bytes = Buffer.from(name, 'latin1')
  const text = bytes.toString('utf8')
  if (Buffer.from(text, 'utf8').equals(bytes)) return { [key]: text }
  return { [key]: toUtf8(name), [`${key}Base64`]: bytes.toString('base64') }
}

export type Format = 'table' | 'json'
export const FORMATS: readonly Format[] = ['table', 'json']

export function print(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`)
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value, undefined, 2))
}

/** Columns as wide as their widest cell, two spaces between them; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const cells = [head, ...rows.map(row => row.map(String))]
  const widths = head.map((_h, column) => Math.max(...cells.map(row => width(row[column] ?? ''))))
  const numeric = head.map(
    (_h, column) => rows.length > 0 && rows.every(row => typeof row[column] === 'number'),
  )
  return cells
    .map(row =>
      row
        .map((cell, column) => {
          const space = ' '.repeat((widths[column] ?? 0) - width(cell))
          return numeric[column] === true ? space + cell : cell + space
        })
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u

/** Columns on a terminal: code points, without combining marks, wide ones twice. */
function width(text: string): number {
  if (/^[\x20-\x7e]*$/.test(text)) return text.length
  let columns = 0
  for (const c of text) columns += /\p{Mark}/u.test(c) ? 0 : WIDE.test(c) ? 2 : 1
  return columns
}

/** `12345678` → `12.3 MB`, as Docker prints sizes. */
export function humanSize(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  let unit = 0
  let value = bytes
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit] ?? ''}`
}
