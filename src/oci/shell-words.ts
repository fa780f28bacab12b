/**
 * Words and variables of a Containerfile. Source: moby/buildkit frontend/dockerfile/shell/lex.go and its tests; the
 * manual's "Environment replacement".
 */
import { OciError } from './error.js'

/** The value of a variable; undefined when it is not set. */
export type Lookup = (name: string) => string | undefined

export type EscapeChar = '\\' | '`'

interface Cursor {
  text: string
  at: number
}

function unexpected(what: string, text: string): OciError {
  return new OciError('malformed', `${what} in '${text.length > 80 ? `${text.slice(0, 80)}…` : text}'`)
}

/** One word: variables replaced, quotes and escapes removed. */
export function expandWord(text: string, lookup: Lookup, escape: EscapeChar = '\\'): string {
  return expandUntil({ text, at: 0 }, lookup, escape, '')
}

/** Variables replaced, then split at blanks that are not quoted. A variable's own blanks split too. */
export function expandWords(text: string, lookup: Lookup, escape: EscapeChar = '\\'): string[] {
  return splitWords(text, escape).flatMap(word => {
    const expanded = expandWord(word, lookup, escape)
    const isBareVariable = /\$/.test(word) && !/["']/.test(word)
    return isBareVariable ? expanded.split(/\s+/).filter(part => part !== '') : [expanded]
  })
}

/** Split at blanks that are not quoted or escaped; quotes and escapes stay. */
export function splitWords(text: string, escape: EscapeChar = '\\'): string[] {
  const words: string[] = []
  let word = ''
  let inWord = false
  let quote = ''
  for (let i = 0; i < text.length; i++) {
    const char = text[i] as string
    if (quote !== '') {
      word += char
      if (char === escape && quote === '"' && i + 1 < text.length) word += text[++i] as string
      else if (char === quote) quote = ''
      continue
    }
    if (/\s/.test(char)) {
      if (inWord) words.push(word)
      word = ''
      inWord = false
      continue
    }
    inWord = true
    word += char
    if (char === '"' || char === "'") quote = char
    else if (char === escape && i + 1 < text.length) word += text[++i] as string
  }
  if (inWord) words.push(word)
  return words
}

/** Text in which only variables count and quotes stay as they are: the body of an unquoted heredoc. */
export function expandHeredoc(text: string, lookup: Lookup): string {
  const cursor: Cursor = { text, at: 0 }
  let out = ''
  while (cursor.at < text.length) {
    const char = text[cursor.at] as string
    if (char === '\\' && /[$\\]/.test(text[cursor.at + 1] ?? '')) {
      out += text[cursor.at + 1] as string
      cursor.at += 2
    } else if (char === '$') out += variable(cursor, lookup, '\\')
    else {
      out += char
      cursor.at++
    }
  }
  return out
}

function expandUntil(cursor: Cursor, lookup: Lookup, escape: EscapeChar, stop: string): string {
  const { text } = cursor
  let out = ''
  while (cursor.at < text.length) {
    const char = text[cursor.at] as string
    if (stop !== '' && stop.includes(char)) return out
    switch (char) {
      case "'": {
        const end = text.indexOf("'", cursor.at + 1)
        if (end === -1) throw unexpected('unterminated single quote', text)
        out += text.slice(cursor.at + 1, end)
        cursor.at = end + 1
        break
      }
      case '"':
        cursor.at++
        out += doubleQuoted(cursor, lookup, escape)
        break
      case '$':
        out += variable(cursor, lookup, escape)
        break
      default:
        if (char === escape) {
          cursor.at++
          if (cursor.at < text.length) out += text[cursor.at++] as string
        } else {
          out += char
          cursor.at++
        }
    }
  }
  if (stop !== '') throw unexpected(`missing '${stop}'`, text)
  return out
}

function doubleQuoted(cursor: Cursor, lookup: Lookup, escape: EscapeChar): string {
  const { text } = cursor
  let out = ''
  while (cursor.at < text.length) {
    const char = text[cursor.at] as string
    if (char === '"') {
      cursor.at++
      return out
    }
    if (char === '$') out += variable(cursor, lookup, escape)
    else if (char === escape) {
      const next = text[cursor.at + 1]
      if (next === undefined) break
      // before anything else the escape stays
      out += next === '"' || next === '$' || next === escape ? next : char + next
      cursor.at += 2
    } else {
      out += char
      cursor.at++
    }
  }
  throw unexpected('unterminated double quote', text)
}

/** At a `$`. */
function variable(cursor: Cursor, lookup: Lookup, escape: EscapeChar): string {
  const { text } = cursor
  cursor.at++
  if (text[cursor.at] !== '{') {
    const name = nameAt(text, cursor.at)
    if (name === '') return '$'
    cursor.at += name.length
    return lookup(name) ?? ''
  }
  cursor.at++
  const name = nameAt(text, cursor.at)
  if (name === '') throw unexpected('bad variable name', text)
  cursor.at += name.length
  const value = lookup(name)
  const rest = text.slice(cursor.at)
  const match = /^(?::[-+?]|[-+?]|##?|%%?|\/\/?|\})/.exec(rest)
  if (match === null) throw unexpected(`unsupported modifier in \${${name}…}`, text)
  const operator = match[0]
  cursor.at += operator.length
  if (operator === '}') return value ?? ''
  if (operator.startsWith('/')) return replaced(cursor, lookup, escape, value ?? '', operator === '//')
  const word = expandUntil(cursor, lookup, escape, '}')
  cursor.at++
  const isSet = operator.startsWith(':') ? value !== undefined && value !== '' : value !== undefined
  switch (operator) {
    case ':-':
    case '-':
      return isSet ? (value as string) : word
    case ':+':
    case '+':
      return isSet ? word : ''
    case ':?':
    case '?':
      if (!isSet) throw new OciError('malformed', `${name}: ${word || 'is not set'}`)
      return value as string
    default:
      return trimmed(value ?? '', operator, word)
  }
}

function replaced(cursor: Cursor, lookup: Lookup, escape: EscapeChar, value: string, all: boolean): string {
  const pattern = expandUntil(cursor, lookup, escape, '/}')
  let replacement = ''
  if (cursor.text[cursor.at] === '/') {
    cursor.at++
    replacement = expandUntil(cursor, lookup, escape, '}')
  }
  cursor.at++
  if (pattern === '') return value
  return value.replace(new RegExp(globSource(pattern, true), all ? 'g' : ''), () => replacement)
}

function trimmed(value: string, operator: string, pattern: string): string {
  const greedy = operator.length === 2
  if (operator.startsWith('#')) return value.replace(new RegExp(`^(?:${globSource(pattern, greedy)})`), '')
  // a suffix: the shortest one begins at the last possible place
  const whole = new RegExp(`^(?:${globSource(pattern, true)})$`)
  const starts = Array.from({ length: value.length + 1 }, (_, i) => i)
  for (const start of greedy ? starts : starts.reverse())
    if (whole.test(value.slice(start))) return value.slice(0, start)
  return value
}

/** `*` and `?` of the shell as a regular expression. */
function globSource(pattern: string, greedy: boolean): string {
  return pattern.replace(/\\(.)|([*?])|([^\w\s])/gs, (_, escaped?: string, glob?: string, other?: string) => {
    if (glob === '*') return greedy ? '[^]*' : '[^]*?'
    if (glob === '?') return '[^]'
    return `\\${escaped ?? other ?? ''}`.replace(/^\\(?=\w)/, '')
  })
}

function nameAt(text: string, at: number): string {
  // positional and special parameters are one character: $1, $@; the builder sets none of them
  return /^(?:[A-Za-z_]\w*|[\d@*#])/.exec(text.slice(at, at + 256))?.[0] ?? ''
}
