/** What was measured over a time, as SVG: one panel for each measure, kills as ticks, episodes as bands. */

export interface Series {
  readonly label: string
  readonly unit: string
  /** A logarithmic scale, for what spans several powers of ten. */
  readonly logarithmic?: boolean
  readonly lines: readonly { readonly name: string; readonly values: readonly (number | undefined)[] }[]
}

export interface Episode {
  readonly from: number
  readonly to: number
  readonly what: string
}

const COLOURS = ['#1565c0', '#ef6c00', '#00897b']
const BANDS: Readonly<Record<string, string>> = { 'disk full': '#fde0dc', 'memory short': '#e8eaf6' }
const [LEFT, WIDTH, HEIGHT, GAP, TOP] = [90, 900, 140, 46, 60]

/** `seconds`: when each value was taken; `kills` and episodes in the same time. */
export function plot(
  title: string,
  seconds: readonly number[],
  series: readonly Series[],
  kills: readonly number[],
  episodes: readonly Episode[],
): string {
  const end = Math.max(1, seconds.at(-1) ?? 1)
  const x = (second: number): string => (LEFT + (second / end) * WIDTH).toFixed(1)
  const parts: string[] = []
  for (const [i, { label, unit, logarithmic = false, lines }] of series.entries()) {
    const top = TOP + i * (HEIGHT + GAP)
    const all = lines.flatMap(line => line.values).filter(value => value !== undefined)
    const scale = (value: number): number => (logarithmic ? Math.log10(Math.max(value, 0.01)) : value)
    const high = Math.max(...all.map(scale), logarithmic ? 1 : 1e-9)
    const low = logarithmic ? Math.floor(Math.min(...all.map(scale), 0)) : 0
    const y = (value: number): string =>
      (top + HEIGHT - ((scale(value) - low) / (high - low)) * HEIGHT).toFixed(1)
    for (const { from, to, what } of episodes)
      parts.push(
        `<rect x="${x(from)}" y="${top}" width="${(((to - from) / end) * WIDTH).toFixed(1)}" height="${HEIGHT}" fill="${BANDS[what] ?? '#eee'}"><title>${what}</title></rect>`,
      )
    for (const kill of kills)
      parts.push(
        `<line x1="${x(kill)}" x2="${x(kill)}" y1="${top + HEIGHT}" y2="${top + HEIGHT + 4}" stroke="#c62828"/>`,
      )
    const steps = logarithmic
      ? Array.from({ length: Math.floor(high) - low + 1 }, (_, step) => 10 ** (low + step))
      : [0, high / 2, high]
    for (const step of steps)
      parts.push(
        `<line x1="${LEFT}" x2="${LEFT + WIDTH}" y1="${y(step)}" y2="${y(step)}" stroke="#ddd"/>`,
        `<text x="${LEFT - 6}" y="${y(step)}" dy="4" text-anchor="end">${Number(step.toPrecision(3))}</text>`,
      )
    parts.push(`<text x="${LEFT}" y="${top - 8}" class="label">${label}, ${unit}</text>`)
    for (const [at, { name, values }] of lines.entries()) {
      const points = values.flatMap((value, sample) =>
        value === undefined ? [] : [`${x(seconds[sample] ?? 0)},${y(value)}`],
      )
      const colour = COLOURS[at % COLOURS.length] ?? '#000'
      parts.push(
        `<polyline points="${points.join(' ')}" fill="none" stroke="${colour}"/>`,
        `<text x="${LEFT + WIDTH - 10 - at * 130}" y="${top - 8}" text-anchor="end" fill="${colour}">${name}</text>`,
      )
    }
  }
  const bottom = TOP + series.length * (HEIGHT + GAP)
  for (let minute = 0; minute * 60 <= end; minute += Math.max(1, Math.round(end / 600)))
    parts.push(
      `<text x="${x(minute * 60)}" y="${bottom - GAP + 20}" text-anchor="middle">${minute} min</text>`,
    )
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${LEFT + WIDTH + 30}" height="${bottom}" font-family="sans-serif" font-size="10">
<style>.label { font-size: 12px }</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="20" y="20" font-size="14">${title}</text>
<text x="20" y="36">red ticks: a daemon is killed; red bands: the disk is full; blue bands: memory is short</text>
${parts.join('\n')}
</svg>
`
}
