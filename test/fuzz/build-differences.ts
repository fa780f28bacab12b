/** Where Buildah 1.28 makes another tree than BuildKit and Lamina do: docs/build-differences.md has the same list. */
import type { GeneratedBuild } from './build-generate.js'

export interface Outcome {
  /** As treeLines gives them. */
  readonly lines: readonly string[]
  readonly error?: string
}

interface Entry {
  readonly isDirectory: boolean
  readonly mode: number
  readonly owner: string
  /** Content, and the other name of a hard link. */
  readonly rest: string
}

type Rule = (ours: Entry, theirs: Entry, file: string) => boolean

/** One path of both trees, which differs: each is explained by what Buildah does otherwise, in mode or in owner. */
const MODES: Readonly<Record<string, Rule>> = {
  'setuid and setgid are dropped': (ours, theirs) => theirs.mode === (ours.mode & 0o1777),
  'directories on the way are not of --chmod': (ours, theirs, file) =>
    ours.isDirectory &&
    theirs.mode === 0o755 &&
    file.includes(`--chmod=${ours.mode.toString(8).padStart(3, '0')}`),
  'directories on the way are not of --chmod=0…': (ours, theirs, file) =>
    ours.isDirectory && theirs.mode === 0o755 && file.includes(`--chmod=0${ours.mode.toString(8)}`),
}
const OWNERS: Readonly<Record<string, Rule>> = {
  'ADD --chown leaves the owners of archives': (_ours, theirs, file) =>
    theirs.owner === '12:34' && /^ADD .*--chown/m.test(file),
}

/** @returns the reasons, where every difference of two trees is a listed one */
export function listedDifference(
  { file }: GeneratedBuild,
  ours: Outcome,
  theirs: Outcome,
): string | undefined {
  if (theirs.error === undefined && ours.error?.includes('over what is no directory') === true)
    return 'a directory replaces, or goes through, a symlink below the destination'
  if (theirs.error === undefined && /'\S*[*?\]]\S*' is not in the build context/.test(ours.error ?? ''))
    return 'a wildcard below what is not there matches nothing'
  if (theirs.error === undefined && ours.error?.includes('a file over the directory') === true)
    return 'a file takes the place of a directory'
  if (theirs.error === undefined && ours.error?.includes('several files cannot go to') === true)
    return 'several files to one name: the last one stays'
  if (ours.error !== undefined || theirs.error !== undefined) return undefined
  const [mine, other] = [entries(ours.lines), entries(theirs.lines)]
  const reasons = new Set<string>()
  if (mine.size !== other.size) return undefined
  for (const [path, a] of mine) {
    const b = other.get(path)
    if (b === undefined || a.isDirectory !== b.isDirectory || a.rest !== b.rest) return undefined
    for (const [differs, rules] of [
      [a.mode !== b.mode, MODES],
      [a.owner !== b.owner, OWNERS],
    ] as const) {
      if (!differs) continue
      const reason = Object.keys(rules).find(name => rules[name]?.(a, b, file))
      if (reason === undefined) return undefined
      reasons.add(reason)
    }
  }
  return [...reasons].sort().join('; ')
}

/** Links have no mode: theirs is 777. */
function entries(lines: readonly string[]): Map<string, Entry> {
  return new Map(
    lines.map(line => {
      const [, path = line, mode = '777', owner = '', rest = ''] =
        /^(.*?\/?) ([0-7]+) (\d+:\d+)( [0-9a-f]{8}(?: = .*)?)?$/s.exec(line) ?? []
      return [path, { isDirectory: path.endsWith('/'), mode: Number.parseInt(mode, 8), owner, rest }]
    }),
  )
}
