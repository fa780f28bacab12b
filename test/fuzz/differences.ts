import type { Subject } from '../mount/fixture.js'
import type { Json } from '../conformance/posix.js'
import type { Operation } from './operation.js'

/** What is known of an operation besides its results. */
export interface Facts {
  /** The slot was opened read-only while the file was in a lower layer. */
  openedLower: boolean
  /** The file is in one side's upperdir and still below on the other. */
  copiedUpOnOneSide: boolean
  /** With metacopy=on. */
  metacopy: boolean
}

/** Two results that may differ, with the reason. */
export interface Difference {
  /** On which side. */
  subject: Subject
  reason: string
  covers(operation: Operation, other: Json, own: Json, facts: Facts): boolean
}

const READS: ReadonlySet<Operation['op']> = new Set([
  'pread',
  'fstat',
  'fchmod',
  'fsync',
  'fallocate',
  'ftruncate',
])

const AT_FIRST_WRITE = 'opening for writing copies up in the kernel; ours copies up at the first change'

export const AT_COMPLETION =
  'opening a metacopy file for writing copies its data in the kernel, and changes its mtime by that; ours copies at the first write'

function without(field: string, result: Json): string {
  return JSON.stringify(result, (key, value: unknown) => (key === field ? undefined : value))
}

const asksStat = (operation: Operation): boolean => operation.op === 'stat' || operation.op === 'fstat'

/** Of whole trees: fields that may differ for a file that only one side has copied up. */
export const NOT_YET_COPIED = { fields: new Set(['nlink', 'inode']), reason: AT_FIRST_WRITE } as const

export const DIFFERENCES: readonly Difference[] = [
  {
    subject: 'kernel',
    reason:
      'a descriptor opened read-only before copy-up keeps showing the lower file (Documentation/filesystems/overlayfs.rst, "Non-standard behavior"); ours shows the copy',
    covers: (operation, _other, _own, facts) => facts.openedLower && READS.has(operation.op),
  },
  {
    subject: 'lamina',
    reason: `${AT_FIRST_WRITE}, so that until then st_nlink of a lower hard link counts the lower names`,
    covers: (operation, other, own, facts) =>
      facts.copiedUpOnOneSide && asksStat(operation) && without('nlink', other) === without('nlink', own),
  },
  {
    subject: 'kernel',
    reason: AT_COMPLETION,
    covers: (operation, other, own, facts) =>
      facts.metacopy &&
      asksStat(operation) &&
      JSON.stringify([own, other]).includes('"mtime":"now"') &&
      without('mtime', other) === without('mtime', own),
  },
]

/** Why the two results may differ; undefined when they may not. */
export function reasonFor(
  operation: Operation,
  left: { subject: Subject; result: Json },
  right: { subject: Subject; result: Json },
  facts: Facts,
): string | undefined {
  for (const difference of DIFFERENCES) {
    if (difference.subject === left.subject && difference.covers(operation, right.result, left.result, facts))
      return difference.reason
    if (
      difference.subject === right.subject &&
      difference.covers(operation, left.result, right.result, facts)
    )
      return difference.reason
  }
  return undefined
}
