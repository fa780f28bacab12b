/** Samples of one measure of one subject, and what is said about them. */

export interface Summary {
  median: number
  min: number
  max: number
  count: number
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const high = sorted[middle]
  if (high === undefined) return NaN
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? high) + high) / 2
}

export function summary(values: readonly number[]): Summary {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values), count: values.length }
}

/** What is measured: lower is better, in every unit. */
export type Unit = 'ms' | 'µs' | 'ms/GiB' | 'MiB' | 'bytes'

export class Results {
  /** By measure ("find-ls cold"), then by subject. */
  readonly samples = new Map<string, Map<string, number[]>>()
  readonly units = new Map<string, Unit>()
  /** Requests that the kernel sent to ours in the last sample of a measure. */
  readonly requests = new Map<string, Map<string, Record<string, number>>>()
  /** Why a subject has no result: by "measure subject". */
  readonly failures = new Map<string, string>()

  add(measure: string, subject: string, value: number, unit: Unit): void {
    this.units.set(measure, unit)
    let of = this.samples.get(measure)
    if (of === undefined) this.samples.set(measure, (of = new Map()))
    const values = of.get(subject)
    if (values === undefined) of.set(subject, [value])
    else values.push(value)
  }

  addRequests(measure: string, subject: string, requests: Record<string, number>): void {
    let of = this.requests.get(measure)
    if (of === undefined) this.requests.set(measure, (of = new Map()))
    of.set(subject, requests)
  }

  summary(measure: string, subject: string): Summary | undefined {
    const values = this.samples.get(measure)?.get(subject)
    return values === undefined ? undefined : summary(values)
  }

  /** How many times the other's time `subject` takes: medians of one run. */
  ratio(measure: string, subject: string, other: string): number | undefined {
    const a = this.summary(measure, subject)
    const b = this.summary(measure, other)
    return a === undefined || b === undefined || b.median === 0 ? undefined : a.median / b.median
  }
}
