import { goalRows } from './goals.js'
import type { Results } from './statistics.js'

/** The tables on standard output. */

/** Columns as wide as they need; the first `left` of them to the left. */
export function table(head: readonly string[], rows: readonly (readonly string[])[], left = 1): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map(row => (row[i] ?? '').length)))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (i < left ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  ')
      .trimEnd()
  return [line(head), ...rows.map(line)].join('\n')
}

/** Three digits that mean something. */
export function number(value: number): string {
  if (value >= 1000) return Math.round(value).toString()
  if (value >= 100) return value.toFixed(0)
  return value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

/** Medians, with the spread in brackets: half the distance from the least to the most, in percent of the median. */
export function timesTable(results: Results, subjects: readonly string[]): string {
  const rows = [...results.samples.keys()].map(measure => [
    measure,
    results.units.get(measure) ?? '',
    ...subjects.map(subject => {
      const of = results.summary(measure, subject)
      if (of === undefined) return '-'
      const spread = of.median === 0 ? 0 : ((of.max - of.min) / 2 / of.median) * 100
      return `${number(of.median)} (${spread.toFixed(0)}%)`
    }),
  ])
  return table(['MEDIAN', 'UNIT', ...subjects], rows, 2)
}

/** How many times the kernel's, and fuse-overlayfs's, time each of ours takes. */
export function ratiosTable(results: Results, subjects: readonly string[]): string {
  const ours = subjects.filter(subject => subject.startsWith('lamina'))
  const others = subjects.filter(subject => !subject.startsWith('lamina'))
  const head = ours.flatMap(subject => others.map(other => `${subject.replace('lamina ', '')}/${other}`))
  const rows = [...results.samples.keys()].map(measure => [
    measure,
    ...ours.flatMap(subject =>
      others.map(other => {
        const ratio = results.ratio(measure, subject, other)
        return ratio === undefined ? '-' : number(ratio)
      }),
    ),
  ])
  return table(['RATIO (below 1: ours is faster)', ...head], rows)
}

export function goalsTable(results: Results): string {
  const rows = goalRows(results)
  return rows.length === 0 ? '' : table(['GOAL', 'SUBJECT', 'WANTED', 'IS', ''], rows, 3)
}
