/**
 * `--chmod=u=rwX,go-w`: symbolic modes as chmod(1) has them, umask 0.
 * Source: POSIX chmod, "Extended description"; BSD setmode(3), which BuildKit's parser is a translation of.
 */

/** A directory's or file's mode (07777), from the one that it had. */
export type ChangeMode = (mode: number, isDirectory: boolean) => number

/** Others have neither set-id bits nor the sticky one. */
const WHO: Readonly<Record<string, number>> = { u: 0o5700, g: 0o3070, o: 0o0007 }
const EVERYBODY = 0o7777

/** @returns undefined for what is no mode */
export function parseSymbolicMode(text: string): ChangeMode | undefined {
  const changes: ChangeMode[] = []
  for (const clause of text.split(',')) {
    const match = /^([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)$/.exec(clause)
    if (match === null) return undefined
    const who = match[1] as string
    const mask =
      who === '' || who.includes('a')
        ? EVERYBODY
        : [...who].reduce((sum, each) => sum | (WHO[each] as number), 0)
    for (const [, operator, what] of (match[2] as string).matchAll(/([-+=])([rwxXst]*(?![ugo])|[ugo])/g)) {
      changes.push(change(operator as string, what as string, mask))
    }
  }
  // X asks for what was there before the first change
  return (mode, isDirectory) => {
    const executable = isDirectory || (mode & 0o111) !== 0
    return changes.reduce((now, each) => each(now, executable), mode)
  }
}

function change(operator: string, what: string, mask: number): ChangeMode {
  return (mode, executable) => {
    const bits = bitsOf(what, mode, executable || operator === '-') & mask
    if (operator === '+') return mode | bits
    if (operator === '-') return mode & ~bits
    // a copy (u=g) is of the three bits alone
    return (mode & ~(mask & (/[ugo]/.test(what) ? 0o777 : 0o6777))) | bits
  }
}

function bitsOf(what: string, mode: number, executable: boolean): number {
  if (what === 'u') return ((mode >> 6) & 7) * 0o111
  if (what === 'g') return ((mode >> 3) & 7) * 0o111
  if (what === 'o') return (mode & 7) * 0o111
  let bits = 0
  for (const letter of what) {
    if (letter === 'r') bits |= 0o444
    else if (letter === 'w') bits |= 0o222
    else if (letter === 'x' || (letter === 'X' && executable)) bits |= 0o111
    else if (letter === 's') bits |= 0o6000
    else if (letter === 't') bits |= 0o1000
  }
  return bits
}
