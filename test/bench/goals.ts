import type { Results } from './statistics.js'

/** What the project wants to reach, as ratios of medians in one run; and where a run stands. */

export interface Goal {
  measure: string
  subject: 'lamina cached' | 'lamina passthrough'
  /** At most this many times the time of the other. */
  most: Partial<Record<'fuse-overlayfs' | 'kernel', number>>
  /** At most this value, whatever others take. */
  limit?: number
  /** At most `times` the value of another measure of its own. */
  own?: { measure: string; times: number }
}

const cached = (measure: string, fuseOverlayfs: number | undefined, kernel: number | undefined): Goal => ({
  measure,
  subject: 'lamina cached',
  most: {
    ...(fuseOverlayfs === undefined ? {} : { 'fuse-overlayfs': fuseOverlayfs }),
    ...(kernel === undefined ? {} : { kernel }),
  },
})
const passthrough = (measure: string, fuseOverlayfs: number, kernel: number): Goal => ({
  ...cached(measure, fuseOverlayfs, kernel),
  subject: 'lamina passthrough',
})

/** 1 stands for "not slower"; "times faster" is its inverse. */
export const GOALS: readonly Goal[] = [
  cached('stat again', 1, 1),
  cached('find-ls warm', 1, 1),
  cached('find-ls ls -lR again', 1, 1),
  cached('read-small again', 1 / 8, 1),
  cached('find-ls cold', 1 / 2, 3),
  cached('read-small cold', 1 / 1.5, 6),
  cached('untar', 1 / 1.5, 3),
  cached('npm-ci', 1 / 1.5, 3),
  cached('git checkout', 1 / 1.5, 3),
  cached('untar rm -rf', 1 / 1.5, 4),
  cached('rm-lower', 1 / 1.5, 4),
  passthrough('fio write 1M', 1 / 2, 1 / 0.95),
  passthrough('fio write 4k random', 1 / 2, 1 / 0.95),
  passthrough('fio read 1M warm', 1 / 2, 1 / 0.95),
  passthrough('fio read 4k random warm', 1 / 2, 1 / 0.95),
  cached('fio write 1M', 1, 1 / 0.6),
  cached('fio-lower read 1M warm', 1, 1 / 0.95),
  cached('fio-lower read 4k random warm', 1, 1 / 0.95),
  cached('copy-up first write', 1, 1),
  {
    measure: 'ls-during-copy-up during',
    subject: 'lamina cached',
    most: {},
    own: { measure: 'ls-during-copy-up alone', times: 2 },
  },
  cached('big-directory ls cold', 1 / 2, 3),
  { measure: 'mount command to first stat', subject: 'lamina cached', most: {}, limit: 200 },
  { measure: 'memory at rest', subject: 'lamina cached', most: {}, limit: 70 },
  { measure: 'memory an inode', subject: 'lamina cached', most: {}, limit: 500 },
  {
    measure: 'memory after forget',
    subject: 'lamina cached',
    most: {},
    own: { measure: 'memory at rest', times: 1.1 },
  },
]

/** One line for each goal that this run says something about: measure, subject, what is wanted, what is, whether. */
export function goalRows(results: Results): string[][] {
  const rows: string[][] = []
  const add = (goal: Goal, wanted: string, is: number | undefined, most: number, digits = 2): void => {
    if (is === undefined) return
    rows.push([
      goal.measure,
      goal.subject,
      wanted,
      is.toFixed(digits),
      is <= most ? 'reached' : 'NOT reached',
    ])
  }
  for (const goal of GOALS) {
    for (const other of ['fuse-overlayfs', 'kernel'] as const) {
      const most = goal.most[other]
      if (most === undefined) continue
      // Two medians that differ by less than a twentieth are the same.
      const margin = most === 1 ? 1.05 : most
      add(goal, `<= ${most.toFixed(2)} x ${other}`, results.ratio(goal.measure, goal.subject, other), margin)
    }
    const own = results.summary(goal.measure, goal.subject)?.median
    if (goal.limit !== undefined)
      add(goal, `<= ${goal.limit} ${results.units.get(goal.measure) ?? ''}`, own, goal.limit, 0)
    if (goal.own !== undefined) {
      const base = results.summary(goal.own.measure, goal.subject)?.median
      const ratio = own === undefined || base === undefined ? undefined : own / base
      add(goal, `<= ${goal.own.times} x ${goal.own.measure}`, ratio, goal.own.times)
    }
  }
  return rows
}
