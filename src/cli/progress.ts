/**
 * Progress bars: one line a transfer, on a terminal only. Bytes, rate, time left. Nothing is shown for what takes less
 * than half a second.
 */
import { humanSize } from './output.js'

const REFRESH = 100
const QUIET = 500
/** Milliseconds over which the rate is averaged. */
const WINDOW = 3000

interface Bar {
  label: string
  done: number
  total: number | undefined
  status: string | undefined
  readonly samples: [time: number, done: number][]
}

export class ProgressBars implements Disposable {
  readonly #bars = new Map<string, Bar>()
  readonly #out = process.stderr
  readonly #begin = Date.now()
  #timer: NodeJS.Timeout | undefined
  #lines = 0

  /** Whether anybody looks. */
  get shown(): boolean {
    return this.#out.isTTY
  }

  /** `done` of `total` bytes; a `status` ("already exists", "done") ends the bar. */
  update(id: string, label: string, done: number, total: number | undefined, status?: string): void {
    if (!this.shown) return
    const now = Date.now()
    let bar = this.#bars.get(id)
    if (bar === undefined) {
      bar = { label, done, total, status, samples: [] }
      this.#bars.set(id, bar)
    }
    bar.label = label
    bar.done = done
    bar.total = total
    bar.status = status
    bar.samples.push([now, done])
    while (bar.samples.length > 2 && now - (bar.samples[0]?.[0] ?? now) > WINDOW) bar.samples.shift()
    this.#timer ??= setInterval(() => this.#draw(), REFRESH).unref()
  }

  #draw(): void {
    if (Date.now() - this.#begin < QUIET) return
    const rows = Math.max(1, (this.#out.rows ?? 24) - 1)
    const columns = this.#out.columns ?? 80
    const all = [...this.#bars.values()]
    // Where there are more transfers than lines, the finished ones scroll out of sight first.
    const bars =
      all.length <= rows ? all : [...all.filter(bar => bar.status === undefined), ...all].slice(0, rows)
    const up = this.#lines > 0 ? `\x1b[${this.#lines}A` : ''
    const text = bars.map(bar => `\x1b[2K${drawBar(bar, columns)}\n`).join('')
    this.#out.write(up + text)
    this.#lines = bars.length
  }

  /** The last state stays on the screen. */
  [Symbol.dispose](): void {
    if (this.#timer === undefined) return
    clearInterval(this.#timer)
    if (this.#lines > 0) this.#draw()
  }
}

function drawBar(bar: Bar, columns: number): string {
  const label = bar.label.padEnd(14).slice(0, Math.max(14, Math.min(bar.label.length, 30)))
  if (bar.status !== undefined) return `${label} ${bar.status}`.slice(0, columns - 1)
  const [first, last] = [bar.samples[0], bar.samples.at(-1)]
  const span = first !== undefined && last !== undefined ? last[0] - first[0] : 0
  const rate = span > 0 ? (((last?.[1] ?? 0) - (first?.[1] ?? 0)) * 1000) / span : undefined
  const speed = rate === undefined ? '' : `${humanSize(Math.round(rate))}/s`
  if (bar.total === undefined || bar.total === 0) {
    return `${label} ${humanSize(bar.done)}  ${speed}`.slice(0, columns - 1)
  }
  const part = Math.min(1, bar.done / bar.total)
  const left = rate !== undefined && rate > 0 ? clock((bar.total - bar.done) / rate) : '--:--'
  const figures = ` ${humanSize(bar.done)}/${humanSize(bar.total)}  ${speed}  ${left}`
  const width = Math.max(5, Math.min(40, columns - label.length - figures.length - 5))
  const filled = Math.floor(part * width)
  const line = `${label} [${'='.repeat(filled)}${filled < width ? '>' : ''}${' '.repeat(Math.max(0, width - filled - 1))}]${figures}`
  return line.slice(0, columns - 1)
}

function clock(seconds: number): string {
  const whole = Math.min(359_999, Math.ceil(seconds))
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60]
  const tail = `${String(m).padStart(2, '0')}:${String(s).padStart(2, '0')}`
  return h > 0 ? `${h}:${tail}` : tail
}
