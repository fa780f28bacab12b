/**
 * Patterns of paths as .dockerignore, `--exclude` and `--parents` have them: Go's filepath.Match with `**`, and `!` for
 * exceptions; the last pattern that says something counts. What holds for a directory holds for all below it.
 * Source: moby/patternmatcher, which BuildKit and Buildah use (MatchesUsingParentResults).
 */
import { toUtf8, type ByteName } from '../base/bytes.js'
import { OciError } from './error.js'

interface Pattern {
  /** Begins with `!`. */
  readonly exception: boolean
  readonly expression: RegExp
  /** What lies in front of everything that it can match, with a slash at the end; undefined: anywhere. */
  readonly prefix: string | undefined
}

/** By pattern: it matched this path or a directory above it. */
type Matched = readonly boolean[]

/** Directories whose results are kept; a tree has few that are open at once. */
const KEPT = 4096

export class PathPatterns {
  readonly #patterns: readonly Pattern[]
  readonly #exceptions: readonly Pattern[]
  readonly #directories = new Map<ByteName, Matched>()

  /** @throws OciError malformed */
  constructor(patterns: readonly string[]) {
    this.#patterns = patterns.map(each => each.trim()).flatMap(each => (each === '' ? [] : [parse(each)]))
    this.#exceptions = this.#patterns.filter(pattern => pattern.exception)
  }

  /** `path` relative to where the patterns count from; '' matches nothing. */
  matches(path: ByteName): boolean {
    return path !== '' && isMatch(this.#patterns, this.#resultsOf(path))
  }

  /** `path` is a directory that matches: an exception may take something in it back. */
  mayExceptBelow(path: ByteName): boolean {
    return mayMatchBelow(this.#exceptions, path)
  }

  /** `path` is a directory that does not match: something in it may. */
  mayMatchBelow(path: ByteName): boolean {
    return mayMatchBelow(this.#patterns, path)
  }

  #resultsOf(path: ByteName): Matched {
    const slash = path.lastIndexOf('/')
    if (slash < 0) return results(this.#patterns, path, undefined)
    const parent = path.slice(0, slash)
    let above = this.#directories.get(parent)
    if (above === undefined) {
      above = this.#resultsOf(parent)
      if (this.#directories.size >= KEPT) this.#directories.clear()
      this.#directories.set(parent, above)
    }
    return results(this.#patterns, path, above)
  }
}

/** A pattern that could not change the verdict is not asked, and then does not count for what is below either. */
function results(patterns: readonly Pattern[], path: ByteName, above: Matched | undefined): Matched {
  const text = toUtf8(path)
  let matched = false
  return patterns.map((pattern, i) => {
    const match = above?.[i] === true || (pattern.exception === matched && pattern.expression.test(text))
    if (match) matched = !pattern.exception
    return match
  })
}

function isMatch(patterns: readonly Pattern[], results: Matched): boolean {
  const last = results.lastIndexOf(true)
  return last >= 0 && patterns[last]?.exception === false
}

function mayMatchBelow(patterns: readonly Pattern[], path: ByteName): boolean {
  const dir = `${toUtf8(path)}/`
  return patterns.some(
    ({ prefix }) => prefix === undefined || prefix.startsWith(dir) || dir.startsWith(prefix),
  )
}

function parse(text: string): Pattern {
  const exception = text.startsWith('!')
  const cleaned = cleanPath(exception ? text.slice(1) : text)
  const literal = cleaned.replace(/\/\*\*?$/, '')
  return {
    exception,
    expression: expressionOf(cleaned),
    prefix: /[*?[\]\\^]/.test(literal) ? undefined : `${literal}/`,
  }
}

/** As Go's filepath.Clean with leading slashes removed. */
export function cleanPath(path: string): string {
  const parts: string[] = []
  for (const part of path.trim().split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop()
    else parts.push(part)
  }
  return parts.join('/') || '.'
}

/** @throws OciError malformed for a class without an end */
function expressionOf(pattern: string): RegExp {
  const parts = [...pattern]
  // `**name` ends in name, whatever is in front; with another wildcard behind, a whole directory or nothing is.
  const onlyLeading = pattern.startsWith('**') && !/[*?[\]\\]/.test(pattern.slice(2))
  let source = ''
  for (let i = 0; i < parts.length; i += 1) {
    const char = parts[i] as string
    if (char === '*' && parts[i + 1] === '*') {
      i += 1
      const slash = parts[i + 1] === '/'
      if (slash) i += 1
      if (i + 1 >= parts.length) source += '.*'
      else source += onlyLeading && !slash ? '.*' : '(?:.*/)?'
    } else if (char === '*') source += '[^/]*'
    else if (char === '?') source += '[^/]'
    else if (char === '[') {
      const [expression, end] = characterClass(parts, i)
      source += expression
      i = end
    } else if (char === '\\' && i + 1 < parts.length) {
      i += 1
      source += literally(parts[i] as string)
    } else source += literally(char)
  }
  try {
    return new RegExp(`^(?:${source})$`, 'su')
  } catch {
    // a range such as z-a
    throw new OciError('malformed', `'${pattern}' is no pattern`)
  }
}

/** One component of a pattern, as Go's filepath.Match has it. @throws OciError malformed */
export function componentExpression(part: string): RegExp {
  return expressionOf(part.replace(/\*{2,}/g, '*'))
}

export function hasWildcard(part: string): boolean {
  return /^(?:[^\\*?[]|\\.)*[*?[]/s.test(part)
}

/** The characters that stand for themselves in `part`, which has no wildcard. */
export function withoutEscapes(part: string): string {
  return part.replace(/\\(.)/gs, '$1')
}

function characterClass(parts: readonly string[], start: number): [expression: string, end: number] {
  let i = start + 1
  let source = '['
  if (parts[i] === '^') {
    source += '^/'
    i += 1
  }
  for (const first = i; ; i += 1) {
    let char = parts[i]
    if (char === ']' && i > first) return [`${source}]`, i]
    if (char === '\\') char = parts[++i]
    else if (char === '-' && i > first && parts[i + 1] !== ']') {
      source += '-'
      continue
    }
    if (char === undefined) {
      throw new OciError('malformed', `the pattern '${parts.join('')}' has a [ without its ]`)
    }
    source += /[\\\]^-]|\[/.test(char) ? `\\${char}` : char
  }
}

function literally(char: string): string {
  return char.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')
}
