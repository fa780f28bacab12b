import type { Results } from './statistics.js'
import { number } from './report.js'

/** A chart of a run, as SVG: for each measure, one bar for each subject, on a logarithmic scale around the kernel's time. */

const COLOURS = ['#9e9e9e', '#424242', '#ef6c00', '#f9a825', '#1565c0', '#00897b']
const LEFT = 250
const WIDTH = 560
const BAR = 11
const GAP = 10

const escape = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

export function chart(results: Results, subjects: readonly string[], title: string): string {
  const base = subjects.includes('kernel') ? 'kernel' : (subjects[0] ?? '')
  const measures = [...results.samples.keys()].filter(
    measure => results.ratio(measure, base, base) !== undefined,
  )
  const ratios = measures.flatMap(measure =>
    subjects.map(subject => results.ratio(measure, subject, base) ?? 1),
  )
  // Whole powers of ten around everything; at least one on each side.
  const low = Math.min(-1, Math.floor(Math.log10(Math.min(...ratios, 1))))
  const high = Math.max(1, Math.ceil(Math.log10(Math.max(...ratios, 1))))
  const x = (ratio: number): number => LEFT + ((Math.log10(ratio) - low) / (high - low)) * WIDTH
  const parts: string[] = []
  const add = (...lines: string[]): void => void parts.push(...lines)

  const top = 78
  let y = top
  for (const measure of measures) {
    const shown = subjects.filter(subject => results.ratio(measure, subject, base) !== undefined)
    const middle = y + (shown.length * BAR) / 2 + 4
    add(`<text x="${LEFT - 10}" y="${middle}" text-anchor="end">${escape(measure)}</text>`)
    for (const subject of shown) {
      const ratio = results.ratio(measure, subject, base) ?? 1
      const from = Math.min(x(1), x(ratio))
      const length = Math.max(1, Math.abs(x(ratio) - x(1)))
      const colour = COLOURS[subjects.indexOf(subject) % COLOURS.length] ?? '#000'
      const of = results.summary(measure, subject)
      const value = of === undefined ? '' : `${number(of.median)} ${results.units.get(measure) ?? ''}`
      add(
        `<rect x="${from.toFixed(1)}" y="${y}" width="${length.toFixed(1)}" height="${BAR - 2}" fill="${colour}"><title>${escape(`${measure}, ${subject}: ${value}, ${number(ratio)} times the time of ${base}`)}</title></rect>`,
        `<text class="value" x="${(Math.max(x(1), x(ratio)) + 4).toFixed(1)}" y="${y + 8}">${number(ratio)}</text>`,
      )
      y += BAR
    }
    y += GAP
  }

  const grid: string[] = []
  for (let power = low; power <= high; power++) {
    const at = x(10 ** power).toFixed(1)
    grid.push(
      `<line x1="${at}" x2="${at}" y1="${top - 6}" y2="${y}" class="${power === 0 ? 'one' : 'grid'}"/>`,
      `<text class="value" x="${at}" y="${top - 12}" text-anchor="middle">${10 ** power}</text>`,
    )
  }
  const legend = subjects.map((subject, i) => {
    const at = 20 + i * 140
    return `<rect x="${at}" y="34" width="12" height="12" fill="${COLOURS[i % COLOURS.length] ?? ''}"/><text x="${at + 18}" y="44">${escape(subject)}</text>`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${LEFT + WIDTH + 60}" height="${y + 20}" font-family="sans-serif" font-size="12">
<style>.grid { stroke: #ddd } .one { stroke: #424242 } .value { font-size: 9px; fill: #555 }</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="20" y="20" font-size="14">${escape(`${title}: time relative to ${base}, logarithmic; shorter is faster`)}</text>
${legend.join('\n')}
${grid.join('\n')}
${parts.join('\n')}
</svg>
`
}
