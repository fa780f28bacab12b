/**
 * The grammar of one `-o` string.
 *
 * Options are separated by commas; empty ones (`a,,b`, a trailing comma) are skipped. A backslash takes the next
 * character's meaning away, so `\,` is a comma inside a value, `\:` a colon inside a layer's path; `\054` is the byte
 * of that octal number, as libfuse reads it. A value that begins with `"` runs to the next `"` (mount(8) writes
 * SELinux contexts so).
 */

/** Splits at commas that count. Backslashes stay, for {@link splitList} and {@link unescape}. */
export function splitOptions(string: string): string[] {
  const words: string[] = []
  let word = ''
  for (let i = 0; i < string.length; i++) {
    const c = string.charAt(i)
    if (c === '\\') {
      word += c + string.charAt(++i)
    } else if (c === '"' && word.endsWith('=') && closingQuote(string, i) > 0) {
      const end = closingQuote(string, i)
      word += string.slice(i + 1, end).replace(/[\\,]/g, '\\$&')
      i = end
    } else if (c === ',') {
      if (word !== '') words.push(word)
      word = ''
    } else {
      word += c
    }
  }
  if (word !== '') words.push(word)
  return words
}

/** The index of the quote that ends a quoted value, or -1: then the quote is an ordinary character. */
function closingQuote(string: string, open: number): number {
  const close = string.indexOf('"', open + 1)
  const after = string.charAt(close + 1)
  return close > 0 && (after === '' || after === ',') ? close : -1
}

/** Resolves backslashes. */
export function unescape(value: string): string {
  return value.replace(/\\([0-3][0-7][0-7]|[^])/g, (_all, c: string) =>
    c.length === 3 ? String.fromCharCode(parseInt(c, 8)) : c,
  )
}

/**
 * The value of `lowerdir=`: paths separated by `:`, top first; after a `::` each further path, again after `::`, is a
 * data-only layer. Single empty elements at the ends are skipped.
 * Source: Documentation/filesystems/overlayfs.rst, "Data-only lower layers"
 */
export function splitList(value: string): { lower: string[]; dataOnly: string[] } {
  const elements: string[] = ['']
  for (let i = 0; i < value.length; i++) {
    const c = value.charAt(i)
    if (c === ':') elements.push('')
    else elements[elements.length - 1] += c === '\\' ? c + value.charAt(++i) : c
  }
  const lower: string[] = []
  const dataOnly: string[] = []
  let afterEmpty = false
  for (const element of elements) {
    if (element === '') {
      afterEmpty = lower.length > 0
      continue
    }
    if (afterEmpty || dataOnly.length > 0) dataOnly.push(unescape(element))
    else lower.push(unescape(element))
    afterEmpty = false
  }
  return { lower, dataOnly }
}
