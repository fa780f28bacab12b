/**
 * What a misspelt word was meant to be, for messages: "unknown option: nosiud (did you mean nosuid?)".
 */

/** Insertions, deletions, replacements and swaps of neighbours that make `b` of `a` (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: number[] = []
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      let least = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (same ? 0 : 1))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        least = Math.min(least, (before[j - 2] ?? 0) + 1)
      next.push(least)
    }
    before = row
    row = next
  }
  return row[b.length] ?? 0
}

/** The nearest of the words, if it is near: at most three letters, and less than half of them, are different. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  // Nobody means such a word, and what is compared is the length of both.
  if (word.length > 100) return undefined
  let best: string | undefined
  let least = 4
  for (const candidate of known) {
    const steps = distance(word.toLowerCase(), candidate.toLowerCase())
    if (steps < least && steps * 2 < Math.max(word.length, candidate.length))
      [best, least] = [candidate, steps]
  }
  return best
}

/** For the end of a clause about `word`: ` (did you mean nosuid?)`, or nothing. */
export function didYouMean(word: string, known: Iterable<string>): string {
  const meant = nearest(word, known)
  return meant === undefined ? '' : ` (did you mean ${meant}?)`
}

/** All keys of an interface, as a value: the compiler sees that none is missing. */
export type Keys<T> = Readonly<Record<keyof Required<T> & string, true>>

/** What is wrong with an object of options, if it has a key that is none of the known ones; TypeScript's callers hear of it earlier. */
export function unknownKey(options: object, known: Readonly<Record<string, true>>): string | undefined {
  const wrong = Object.keys(options).find(key => !Object.hasOwn(known, key))
  return wrong === undefined ? undefined : `unknown option: ${wrong}${didYouMean(wrong, Object.keys(known))}`
}
