/**
 * Which objects a COPY or ADD brings: sources with their wildcards, then what --exclude takes away and --parents picks
 * below each. Copying and the digest for the cache walk the same selection.
 * Source: moby/buildkit frontend/dockerfile/dockerfile2llb/convert_copy.go, tonistiigi/fsutil/copy.
 */
import { fromUtf8, toUtf8, type ByteName } from '../../base/bytes.js'
import {
  componentExpression,
  hasWildcard,
  PathPatterns,
  withoutEscapes,
  type CopyStep,
} from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import { byteOrder } from '../byte-order.js'
import { StoreError } from '../store-error.js'
import { joined, type SourceTree } from './source-tree.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

/** One thing that is copied: a file, or a directory whose contents are. */
export interface Selected {
  /** The name that a file has at the destination. */
  readonly name: ByteName
  /** Where it is in the tree, without symlinks. */
  readonly path: ByteName
  readonly selection: Selection
}

/** Patterns count from the directory that is copied. */
export class Selection {
  constructor(
    readonly include: PathPatterns | undefined,
    readonly exclude: PathPatterns | undefined,
  ) {}

  has(path: ByteName): boolean {
    return this.include?.matches(path) !== false && this.exclude?.matches(path) !== true
  }

  /** A directory that is not selected itself: something below may be. */
  mayHaveBelow(path: ByteName): boolean {
    if (this.exclude?.matches(path) === true && !this.exclude.mayExceptBelow(path)) return false
    return this.include === undefined || this.include.matches(path) || this.include.mayMatchBelow(path)
  }
}

/**
 * What the sources of a step mean. A wildcard may match nothing beside others that do.
 * @throws StoreError not-found for a name that is not there, and where there is nothing to copy at all
 */
export function selectSources(step: CopyStep, tree: SourceTree): Selected[] {
  const exclude = step.exclude.length === 0 ? undefined : new PathPatterns(step.exclude.map(withoutSlash))
  const found = step.sources.flatMap(source =>
    step.parents ? withParents(source, tree, exclude) : plain(source, tree, exclude),
  )
  if (found.length === 0 && step.sources.length > 0 && step.inline.length === 0 && !step.parents) {
    const names = step.sources.map(source => `'${source}'`).join(', ')
    throw new StoreError('not-found', `nothing in ${tree.what} matches ${names}`)
  }
  return found
}

function plain(source: string, tree: SourceTree, exclude: PathPatterns | undefined): Selected[] {
  return expand(source, tree).map(({ name, path }) => ({
    name,
    path,
    selection: new Selection(undefined, exclude),
  }))
}

/** `--parents a/./b/c`: what is behind the pivot is kept of the path, and is a pattern with `**`. */
function withParents(source: string, tree: SourceTree, exclude: PathPatterns | undefined): Selected[] {
  const pivot = source.indexOf('/./')
  const base = pivot < 0 ? '' : cleaned(source.slice(0, pivot))
  const pattern = cleaned(pivot < 0 ? source : source.slice(pivot + 3))
  if (!hasWildcard(base) && !hasWildcard(pattern)) {
    const literal = fromUtf8(withoutEscapes(joined(base, pattern)))
    const path = tree.resolve(literal)
    if (path === undefined) throw tree.notFound(source, literal)
    if (path !== literal) {
      throw new StoreError(
        'unsupported',
        `--parents with '${source}', which leads through a symlink`,
        `name what it leads to: '${toUtf8(path)}'`,
      )
    }
  }
  const include = pattern === '' ? undefined : new PathPatterns([pattern])
  return expand(base, tree).map(({ name, path }) => ({
    name,
    path,
    selection: new Selection(include, exclude),
  }))
}

/** Without `.`, `..` and slashes too many; '' is the root. */
function cleaned(path: string): string {
  const parts: string[] = []
  for (const part of path.split('/')) {
    if (part === '..') parts.pop()
    else if (part !== '' && part !== '.') parts.push(part)
  }
  return parts.join('/')
}

function withoutSlash(pattern: string): string {
  return pattern.replace(/^(!?)\/+/, '$1')
}

/**
 * Wildcards: symlinks are followed before the first one and at the end, not in between.
 * @throws StoreError not-found where there is no wildcard and nothing; OciError malformed
 */
function expand(source: string, tree: SourceTree): { name: ByteName; path: ByteName }[] {
  const parts = cleaned(source).split('/')
  const first = parts.findIndex(hasWildcard)
  const literal = fromUtf8((first < 0 ? parts : parts.slice(0, first)).map(withoutEscapes).join('/'))
  const path = tree.resolve(literal)
  if (path === undefined) throw tree.notFound(source, literal)
  if (first < 0) return [{ name: lastPart(literal), path }]
  const matchers = parts.slice(first).map(componentExpression)
  return matching(tree, path, matchers).map(found => {
    const path = tree.resolve(found)
    if (path === undefined) throw tree.notFound(toUtf8(found), found)
    return { name: lastPart(found), path }
  })
}

function matching(tree: SourceTree, path: ByteName, matchers: readonly RegExp[]): ByteName[] {
  const [matcher, ...rest] = matchers
  if (matcher === undefined) return [path]
  using fd = tree.open(path)
  if (!sys.S_ISDIR(sys.statFd(fd.n).mode)) return []
  using dir = sys.openat(fd.n, '.', OPEN_DIR)
  return tree
    .list(dir.n, path)
    .filter(({ name, stat }) => matcher.test(toUtf8(name)) && (rest.length === 0 || sys.S_ISDIR(stat.mode)))
    .map(({ name }) => name)
    .sort(byteOrder)
    .flatMap(name => matching(tree, joined(path, name), rest))
}

export function lastPart(path: ByteName): ByteName {
  return path.slice(path.lastIndexOf('/') + 1)
}
