import * as sys from '../../src/sys/index.js'

import { exists, outcome } from '../conformance/posix.js'
import { compare, walk, type Tree } from '../conformance/tree.js'
import { isOurs, Scratch, type Mount, type Subject } from '../mount/fixture.js'
import { AT_COMPLETION, NOT_YET_COPIED, reasonFor, type Facts } from './differences.js'
import { nextOperation, type Known } from './generate.js'
import { fillLayer, namesUpTo } from './layers.js'
import { apply, timeOf, type Operation, type Side } from './operation.js'
import { Random } from './random.js'

/** Two overlays of one random lower tree, taken through the same operations. */
export interface Plan {
  left: Exclude<Subject, 'plain'>
  right: Exclude<Subject, 'plain'>
  /** Of the layers and, when generated, of the operations. */
  seed: number
  /** Of the two mounts. */
  leftOptions: readonly string[]
  rightOptions: readonly string[]
  /** Bytes of the longest name, at most 255. With long names the kernel's redirects (at most 256 bytes) soon end in EXDEV. */
  longest: number
}

export interface Failure {
  /** Place of the last operation in `operations`. */
  at: number
  operations: Operation[]
  what: string[]
}

export interface Outcome {
  done: number
  /** How often each reason of the table of differences was used. */
  excused: Map<string, number>
  failure?: Failure
}

export const LAYERS = 3
/** How often the generator looks at what is there. */
const REFRESH = 25

/** Runs given operations. */
export function replay(plan: Plan, operations: readonly Operation[]): Promise<Outcome> {
  return run(plan, at => operations[at])
}

/** Generates and runs operations until `enough` says so. */
export function generate(plan: Plan, enough: (done: number) => boolean): Promise<Outcome> {
  const random = new Random(plan.seed ^ 0x5eed)
  let known: Known = { paths: [], dirs: [''], names: [] }
  return run(plan, (at, session) => {
    if (enough(at)) return undefined
    if (at % REFRESH === 0) known = session.look()
    return nextOperation(random, known)
  })
}

async function run(
  plan: Plan,
  next: (at: number, session: Session) => Operation | undefined,
): Promise<Outcome> {
  using scratch = new Scratch(`fuzz-${plan.left}-${plan.right}`, 120)
  const session = new Session(plan, scratch)
  const operations: Operation[] = []
  try {
    for (let at = 0; ; at++) {
      if (at % 200 === 0) {
        scratch.renew()
        // So that a signal is heard.
        await new Promise(resolve => setImmediate(resolve))
      }
      const operation = next(at, session)
      const last = operation === undefined
      operations.push(operation ?? { op: 'swap' })
      const what = session.step(operations[at]!)
      if (what.length > 0)
        return { done: at + 1, excused: session.excused, failure: { at, operations, what } }
      if (last) return { done: at, excused: session.excused }
    }
  } finally {
    session.close()
  }
}

class Session {
  readonly excused = new Map<string, number>()
  private readonly sides: [Side, Side]
  private mounts: [Mount, Mount]
  /** Slots opened read-only while the file was in a lower layer. */
  private readonly openedLower = new Set<number>()

  constructor(
    private readonly plan: Plan,
    scratch: Scratch,
  ) {
    const random = new Random(plan.seed)
    const lowers = Array.from({ length: LAYERS }, (_, i) => scratch.mkdir(`l${i}`))
    lowers.forEach((dir, i) => fillLayer(random, dir, i === LAYERS - 1, namesUpTo(plan.longest)))
    const mount = (subject: Exclude<Subject, 'plain'>, name: string, options: readonly string[]): Mount =>
      scratch.mount({
        subject,
        lowers,
        upper: scratch.mkdir(`${name}u`),
        work: scratch.mkdir(`${name}w`),
        mountpoint: scratch.mkdir(name),
        // The kernel's overlayfs opens devices of its layers, too.
        options: isOurs(subject) ? ['dev', ...options] : options,
      })
    this.metacopy = [...plan.leftOptions, ...plan.rightOptions].includes('metacopy=on')
    this.mounts = [mount(plan.left, 'left', plan.leftOptions), mount(plan.right, 'right', plan.rightOptions)]
    this.remember = (...mounts) => scratch.mounts.push(...mounts)
    this.sides = [
      { subject: plan.left, root: this.mounts[0].mountpoint, slots: new Map() },
      { subject: plan.right, root: this.mounts[1].mountpoint, slots: new Map() },
    ]
  }

  private readonly metacopy: boolean
  private readonly remember: (...mounts: Mount[]) => void

  /** One line for each difference. */
  step(operation: Operation): string[] {
    switch (operation.op) {
      case 'remount':
      case 'swap':
        return this.again(operation.op === 'swap')
      case 'tree':
        return this.trees()
      default:
        return this.both(operation)
    }
  }

  private both(operation: Exclude<Operation, { op: 'remount' | 'swap' | 'tree' }>): string[] {
    const facts: Facts = {
      openedLower: 'slot' in operation && this.openedLower.has(operation.slot),
      copiedUpOnOneSide: this.copiedUpOnOneSide(this.pathOf(operation)),
      metacopy: this.metacopy,
    }
    const left = apply(operation, this.sides[0])
    const right = apply(operation, this.sides[1])
    if (operation.op === 'open') {
      this.openedLower.delete(operation.slot)
      if (left === 'ok' && (operation.flags & sys.O_ACCMODE) === sys.O_RDONLY)
        this.openedLower.add(operation.slot)
      // Where one open failed the slots would differ from here on.
      if (left !== right) for (const side of this.sides) this.closeSlot(side, operation.slot)
    }
    if (JSON.stringify(left) === JSON.stringify(right)) return []
    const reason = reasonFor(
      operation,
      { subject: this.plan.left, result: left },
      { subject: this.plan.right, result: right },
      facts,
    )
    if (reason === undefined)
      return [`${this.plan.left}: ${JSON.stringify(left)}`, `${this.plan.right}: ${JSON.stringify(right)}`]
    this.excuse(reason)
    return []
  }

  private excuse(reason: string): void {
    this.excused.set(reason, (this.excused.get(reason) ?? 0) + 1)
  }

  /** The view's path that an operation is about, as the left side has it. */
  private pathOf(operation: Operation): string | undefined {
    if ('path' in operation) return operation.path
    const fd = 'slot' in operation ? this.sides[0].slots.get(operation.slot) : undefined
    if (fd === undefined) return undefined
    const path = sys.readlinkat(sys.AT_FDCWD, `/proc/self/fd/${fd.n}`)
    return path.startsWith(`${this.sides[0].root}/`) ? path.slice(this.sides[0].root.length + 1) : undefined
  }

  private copiedUpOnOneSide(path: string | undefined): boolean {
    if (path === undefined) return false
    const [left, right] = this.mounts.map(mount =>
      outcome(() => exists(`${mount.request.upper ?? ''}/${path}`)),
    )
    return left !== right
  }

  /** What holds for `path`, or for another name of the same file on either side. */
  private anyName(path: string, trees: readonly Tree[], holds: (name: string) => boolean): boolean {
    return trees.some(tree => {
      const inode = tree.get(path)?.inode
      return [...tree].some(([name, entry]) => entry.inode === inode && holds(name))
    })
  }

  /** Unmounts and mounts both; with `swap`, each takes over the upperdir that the other has written. */
  private again(swap: boolean): string[] {
    const before = this.trees()
    if (before.length > 0) return before
    for (const side of this.sides) for (const slot of [...side.slots.keys()]) this.closeSlot(side, slot)
    this.openedLower.clear()
    const [a, b] = this.mounts
    a.unmount()
    b.unmount()
    if (swap) {
      const [{ upper: ua, work: wa }, { upper: ub, work: wb }] = [a.request, b.request]
      Object.assign(a.request, { upper: ub, work: wb })
      Object.assign(b.request, { upper: ua, work: wa })
    }
    this.mounts = [a.remount(), b.remount()]
    this.remember(...this.mounts)
    return this.trees().map(line => `after ${swap ? 'the swap of upperdirs' : 'the remount'}: ${line}`)
  }

  /** Compares the two views whole. */
  private trees(): string[] {
    const [left, right] = this.sides.map(side => comparable(walk(side.root, ghosts(side)))) as [Tree, Tree]
    const allow = (path: string, field: string, a: unknown, b: unknown): boolean => {
      const holds = (what: (name: string) => boolean): boolean => this.anyName(path, [left, right], what)
      if (field === 'mtime' && this.metacopy && (a === 'now' || b === 'now')) {
        this.excuse(AT_COMPLETION)
        return true
      }
      if (!NOT_YET_COPIED.fields.has(field) || !holds(name => this.copiedUpOnOneSide(name))) return false
      this.excuse(NOT_YET_COPIED.reason)
      return true
    }
    return compare(left, right, { allow }).slice(0, 20)
  }

  /** What the left view holds. */
  look(): Known {
    const paths: string[] = []
    const dirs = ['']
    for (const [path, entry] of walk(this.sides[0].root, {
      contents: false,
      xattr: () => false,
      ...ghosts(this.sides[0]),
    })) {
      if (path !== '') paths.push(path)
      if (path !== '' && entry.kind === 'dir') dirs.push(path)
    }
    return { paths, dirs, names: namesUpTo(this.plan.longest) }
  }

  private closeSlot(side: Side, slot: number): void {
    side.slots.get(slot)?.close()
    side.slots.delete(slot)
  }

  close(): void {
    for (const side of this.sides) for (const slot of [...side.slots.keys()]) this.closeSlot(side, slot)
  }
}

function ghosts(side: Side): { passOverGhosts: boolean } {
  return { passOverGhosts: side.subject === 'kernel' }
}

/** Times that nobody set differ by microseconds. */
function comparable(tree: Tree): Tree {
  for (const entry of tree.values()) {
    const [sec = '0', nsec = '0'] = entry.mtime.split('.')
    entry.mtime = timeOf(Number(sec), Number(nsec))
  }
  return tree
}
