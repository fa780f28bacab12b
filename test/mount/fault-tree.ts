import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import * as sys from '../../src/sys/index.js'
import { type Random } from '../fuzz/random.js'

/**
 * A tree in memory, changed in step with one on a mount: single system calls only, so that after a crash the mount must show
 * exactly the state before the call that failed or the state after it.
 */

/** One object; hard links share it. */
interface Node {
  kind: 'file' | 'dir' | 'link'
  /** Content of a file, target of a symlink. */
  data: string
  mode: number
  xattr: string
  /** Milliseconds; undefined once something has written to it. */
  mtime: number | undefined
}

export interface Operation {
  readonly name: string
  readonly paths: readonly string[]
  /** On the mount. */
  run(root: string): void
  /** In memory. */
  apply(tree: Tree): void
  /** In memory: what it may leave that is neither before nor after it. */
  begin?(tree: Tree): void
}

/** Values of an entry that compare. */
type Entry = string

export class Tree {
  readonly nodes = new Map<string, Node>()

  constructor(nodes: Iterable<[string, Node]> = []) {
    this.nodes = new Map(nodes)
  }

  copy(): Tree {
    // Links stay links: one copy for each object.
    const seen = new Map<Node, Node>()
    const copyOf = (node: Node): Node => {
      let copy = seen.get(node)
      if (copy === undefined) seen.set(node, (copy = { ...node }))
      return copy
    }
    return new Tree([...this.nodes].map(([at, node]): [string, Node] => [at, copyOf(node)]))
  }

  entries(): Map<string, Entry> {
    return new Map([...this.nodes].map(([at, node]) => [at, describe(node)]))
  }

  paths(...kinds: Node['kind'][]): string[] {
    return [...this.nodes].filter(([, node]) => kinds.includes(node.kind)).map(([at]) => at)
  }

  below(dir: string): string[] {
    return [...this.nodes.keys()].filter(at => at.startsWith(`${dir}/`))
  }

  get(at: string): Node {
    const node = this.nodes.get(at)
    if (node === undefined) throw new Error(`no ${at} in the model`)
    return node
  }

  move(from: string, to: string): void {
    this.remove(to)
    for (const at of [from, ...this.below(from)]) {
      this.nodes.set(to + at.slice(from.length), this.get(at))
      this.nodes.delete(at)
    }
  }

  remove(at: string): void {
    for (const inner of [at, ...this.below(at)]) this.nodes.delete(inner)
  }
}

function describe(node: Node): Entry {
  const { kind, data, mode, xattr } = node
  if (kind === 'link') return `link ${data}`
  const content = kind === 'dir' ? '' : `${data.length}:${digest(data)}`
  return `${kind} ${mode.toString(8)} ${content} ${xattr} ${kind === 'dir' ? '' : (node.mtime ?? '-')}`
}

const digest = (data: string): string => createHash('md5').update(data, 'latin1').digest('hex').slice(0, 12)

/** What a mount shows, for comparison with `tree` (whose unknown times are not compared). */
export function shownEntries(root: string, tree: Tree): Map<string, Entry> {
  const shown = new Map<string, Entry>()
  const walk = (dir: string): void => {
    for (const name of fs.readdirSync(path.join(root, dir)).sort()) {
      const at = dir === '' ? name : `${dir}/${name}`
      const full = path.join(root, at)
      const stat = fs.lstatSync(full)
      const kind = stat.isDirectory() ? 'dir' : stat.isSymbolicLink() ? 'link' : 'file'
      const data =
        kind === 'file' ? fs.readFileSync(full, 'latin1') : kind === 'link' ? fs.readlinkSync(full) : ''
      const xattr = kind === 'link' ? '' : (sys.getxattrAt(sys.AT_FDCWD, full, 'user.k')?.toString() ?? '')
      const mtime = tree.nodes.get(at)?.mtime === undefined ? undefined : Math.floor(stat.mtimeMs)
      shown.set(at, describe({ kind, data, mode: stat.mode & 0o7777, xattr, mtime }))
      if (kind === 'dir') walk(at)
    }
  }
  walk('')
  return shown
}

/** Lines that differ, for the report; empty when equal. */
export function differences(expected: Map<string, Entry>, shown: Map<string, Entry>): string[] {
  return [...new Set([...expected.keys(), ...shown.keys()])]
    .filter(at => expected.get(at) !== shown.get(at))
    .map(at => `${at}: expected ${expected.get(at) ?? 'nothing'}, is ${shown.get(at) ?? 'nothing'}`)
}

const TIME = 1_600_000_000_000

/** Fills lower layers, top first, and gives what they show together. */
export function plantLayers(dirs: readonly string[], random: Random): Tree {
  const tree = new Tree()
  for (const dir of [...dirs].reverse()) {
    for (let d = 0; d < 6; d++) {
      for (const sub of [`d${d}`, `d${d}/s`]) {
        fs.mkdirSync(path.join(dir, sub), { recursive: true })
        tree.nodes.set(sub, { kind: 'dir', data: '', mode: 0o755, xattr: '', mtime: undefined })
      }
      for (let f = 0; f < 5; f++) {
        const at = f < 3 ? `d${d}/f${f}` : `d${d}/s/f${f}`
        // Some so large that their copy takes longer than a system call.
        const data = `${at}:${random.below(1000)};`.repeat(f === 0 ? 40_000 : 1 + random.below(2000))
        fs.writeFileSync(path.join(dir, at), data, 'latin1')
        fs.chmodSync(path.join(dir, at), 0o640)
        fs.utimesSync(path.join(dir, at), TIME / 1000, TIME / 1000)
        tree.nodes.set(at, { kind: 'file', data, mode: 0o640, xattr: '', mtime: TIME })
      }
    }
  }
  return tree
}

/** A change that is possible now, or undefined when the dice fell on one that is not. */
export function nextOperation(tree: Tree, random: Random): Operation | undefined {
  const pick = (list: readonly string[]): string | undefined => list[random.below(Math.max(1, list.length))]
  const file = pick(tree.paths('file'))
  const dir = pick(tree.paths('dir'))
  const fresh = `${dir ?? ''}${dir === undefined ? '' : '/'}n${random.below(30)}`
  const other = pick([...tree.nodes.keys()])
  const number = random.below(1_000_000)
  const mode = [0o600, 0o644, 0o750, 0o4755][random.below(4)] ?? 0o600
  const has = (at: string): boolean => tree.nodes.has(at)
  switch (random.below(15)) {
    case 0:
    case 1:
      if (file === undefined) return undefined
      return op(
        'chmod',
        [file],
        root => fs.chmodSync(path.join(root, file), mode),
        t => void (t.get(file).mode = mode),
      )
    case 2:
      if (file === undefined) return undefined
      return op(
        'append',
        [file],
        root => append(path.join(root, file), `+${number}`),
        t => {
          const node = t.get(file)
          node.data += `+${number}`
          node.mtime = undefined
        },
        // write(2) sets the time before it looks whether its process was killed, and only then takes the data.
        t => void (t.get(file).mtime = undefined),
      )
    case 3:
      if (file === undefined) return undefined
      return op(
        'truncate',
        [file],
        root => fs.truncateSync(path.join(root, file), 100),
        t => {
          const node = t.get(file)
          node.data = node.data.slice(0, 100).padEnd(100, '\0')
          node.mtime = undefined
        },
      )
    case 4:
    case 5:
      if (file === undefined) return undefined
      return op(
        'unlink',
        [file],
        root => fs.unlinkSync(path.join(root, file)),
        t => t.remove(file),
      )
    case 6:
      if (has(fresh)) return undefined
      return op(
        'create',
        [fresh],
        root => fs.closeSync(fs.openSync(path.join(root, fresh), 'wx', 0o640)),
        t => void t.nodes.set(fresh, { kind: 'file', data: '', mode: 0o640, xattr: '', mtime: undefined }),
      )
    case 7:
      if (has(fresh)) return undefined
      return op(
        'mkdir',
        [fresh],
        root => fs.mkdirSync(path.join(root, fresh), 0o755),
        t => void t.nodes.set(fresh, { kind: 'dir', data: '', mode: 0o755, xattr: '', mtime: undefined }),
      )
    case 8: {
      const empty = pick(tree.paths('dir').filter(at => tree.below(at).length === 0))
      if (empty === undefined) {
        // Towards one.
        const least = tree.paths('dir').sort((a, b) => tree.below(a).length - tree.below(b).length)[0]
        const inner =
          least === undefined ? undefined : pick(tree.below(least).filter(at => tree.get(at).kind !== 'dir'))
        if (inner === undefined) return undefined
        return op(
          'unlink',
          [inner],
          root => fs.unlinkSync(path.join(root, inner)),
          t => t.remove(inner),
        )
      }
      return op(
        'rmdir',
        [empty],
        root => fs.rmdirSync(path.join(root, empty)),
        t => t.remove(empty),
      )
    }
    case 9:
    case 10: {
      const to = random.below(2) === 0 ? fresh : pick(tree.paths('file'))
      if (
        file === undefined ||
        to === undefined ||
        (has(to) && tree.get(to).kind !== 'file') ||
        same(tree, file, to)
      )
        return undefined
      return op(
        'rename',
        [file, to],
        root => fs.renameSync(path.join(root, file), path.join(root, to)),
        t => t.move(file, to),
      )
    }
    case 11: {
      if (dir === undefined || has(fresh) || fresh.startsWith(`${dir}/`)) {
        const target = `r${random.below(10)}`
        if (dir === undefined || has(target)) return undefined
        return renameDir(dir, target)
      }
      return renameDir(dir, fresh)
    }
    case 12:
      if (file === undefined || has(fresh)) return undefined
      return op(
        'link',
        [file, fresh],
        root => fs.linkSync(path.join(root, file), path.join(root, fresh)),
        t => void t.nodes.set(fresh, t.get(file)),
      )
    case 13:
      if (has(fresh)) return undefined
      return op(
        'symlink',
        [fresh],
        root => fs.symlinkSync(`to${number}`, path.join(root, fresh)),
        t =>
          void t.nodes.set(fresh, {
            kind: 'link',
            data: `to${number}`,
            mode: 0o777,
            xattr: '',
            mtime: undefined,
          }),
      )
    default: {
      const at = other
      if (at === undefined || tree.get(at).kind === 'link') return undefined
      return op(
        'setxattr',
        [at],
        root => sys.setxattrAt(sys.AT_FDCWD, path.join(root, at), 'user.k', Buffer.from(`${number}`)),
        t => void (t.get(at).xattr = `${number}`),
      )
    }
  }
}

function renameDir(from: string, to: string): Operation {
  return op(
    'rename of a directory',
    [from, to],
    root => fs.renameSync(path.join(root, from), path.join(root, to)),
    t => t.move(from, to),
  )
}

/** rename(2) of one name of a file to another one of it does nothing. */
function same(tree: Tree, one: string, two: string): boolean {
  return one === two || (tree.nodes.has(two) && tree.get(one) === tree.get(two))
}

function append(file: string, data: string): void {
  const fd = fs.openSync(file, 'a')
  try {
    fs.writeSync(fd, data)
  } finally {
    fs.closeSync(fd)
  }
}

function op(
  name: string,
  paths: readonly string[],
  run: (root: string) => void,
  apply: (tree: Tree) => void,
  begin?: (tree: Tree) => void,
): Operation {
  return { name, paths, run, apply, ...(begin && { begin }) }
}
