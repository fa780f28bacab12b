import { CliError } from './output.js'

/** Collects an option that may be repeated. */
export const append = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value]

/** `a=b` and `c` (an empty value) as a record. @throws CliError without a key */
export function keyValues(option: string, words: readonly string[] | undefined): Record<string, string> {
  const pairs = (words ?? []).map((word): [string, string] => {
    const equals = word.indexOf('=')
    const key = equals < 0 ? word : word.slice(0, equals)
    if (key === '') throw new CliError(`${option} ${word}: write KEY=VALUE`, 2)
    return [key, equals < 0 ? '' : word.slice(equals + 1)]
  })
  return Object.fromEntries(pairs)
}
