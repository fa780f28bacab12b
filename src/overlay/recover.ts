/**
 * Taking over from a daemon that died: the table as its journal has it, and the one change that it may have been making.
 *
 * An inode comes back with its number and its names alone. What it stands for on the layers is looked up when it is first asked for
 * (materialise), so that a mount with a hundred thousand known inodes answers at once. Invariant: the parents of an inode that is
 * looked up are so as well, hence only the ways from the kernel (View.inode) and downwards (lookup.ts) have to look.
 */
import * as sys from '../sys/index.js'
import type { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import type { KernelSide } from '../fuse/filesystem.js'
import type { ChangeRequest } from '../fuse/request-journal.js'
import type { Journal, OpenFacts } from './journal.js'
import type { DirInode, Inode } from './inode.js'
import { DirReal, type Layer, Real } from './layer.js'
import type { Predecessor } from './predecessor.js'
import { dropMarker } from './create.js'
import { findAgain, lowerPositive, probe, resolve, upperKey } from './lookup.js'
import type { View } from './view.js'
import { whiteOut } from './whiteout.js'

/** The kernel's side while there is no session yet: it has nothing of this daemon's, and is told of nothing. */
export const NOBODY: KernelSide = {
  registerFile: (_nodeid, fd) => sys.close(fd),
  showFiles: () => undefined,
  tellFiles: () => undefined,
  limit: () => undefined,
  fileOf: () => undefined,
  unregisterFile: () => undefined,
  followAttributes: () => undefined,
  answerNames: () => undefined,
  takeIssued: () => [],
  newest: new Float64Array(1),
  answersChanged: () => undefined,
  hasWork: () => undefined,
  registered: () => 0,
  pin: () => undefined,
  invalidateInode: () => undefined,
  afterInvalidating: () => Promise.resolve(),
  invalidateEntry: () => undefined,
  deleteEntry: () => undefined,
  openBacking: () => undefined,
  closeBacking: () => undefined,
}

/** Looks up what an inode from the journal, and all above it, stands for. What is not found is ESTALE to whoever asks (View.at). */
export function materialise(view: View, inode: Inode): void {
  const waiting = [inode]
  for (let last = waiting.at(-1); last !== undefined; last = waiting.at(-1)) {
    const above = last.recovered ? recoveredParents(last) : []
    waiting.push(...above)
    if (above.length > 0) continue
    waiting.pop()
    if (!last.recovered) continue
    findReals(view, last)
    // A tree may be deeper than there are descriptors. Who asks for what is below has none of the cache's yet.
    if (waiting.length > 0) view.fds.nextRequest()
  }
}

function recoveredParents({ parent, aliases }: Inode): DirInode[] {
  const parents = (aliases ?? []).map(alias => alias.parent)
  if (parent !== null) parents.unshift(parent)
  return parents.filter(dir => dir.recovered)
}

function findReals(view: View, inode: Inode): void {
  inode.recovered = false
  try {
    if (inode.parent !== null) findAgain(view, inode, inode.parent, inode.name)
  } catch (error) {
    // A disk that fails now may answer the next time.
    inode.recovered = true
    throw error
  }
}

/** What the predecessor said just before it made the change. */
export interface Announced {
  /** Milliseconds since 1970. */
  readonly time: number
  /** The upper object that gets a name: upperKey. */
  readonly moved: string | undefined
  /** The tables were brought in line as well: of an exchange, which looks the same before and after. */
  readonly complete: boolean
}

/** File times come from a clock that stands still for up to 10 ms. */
const CLOCK_SLACK_MS = 50

/** Fills a fresh table from a journal; then {@link settle}. */
export class Restorer {
  /** What was open in the mode io=passthrough. */
  readonly opens = new Map<Inode, OpenFacts>()
  /** Whose setuid and setgid the kernel may believe in although a write has taken them. */
  readonly suspects = new Map<Inode, number>()
  private readonly orphans = new Map<number, Fd>()
  private readonly idle: Inode[] = []

  constructor(private readonly view: View) {}

  /** All inodes, under their last names; first of all. */
  inodes(before: Predecessor): void {
    this.view.table.goOn(before)
  }

  /** The kernel has given all its references back, or never got one. */
  unreferenced(nodeid: number): void {
    const inode = this.view.table.get(nodeid)
    if (inode !== undefined) this.idle.push(inode)
  }

  linked(nodeid: number, key: string): void {
    const { table } = this.view
    const inode = table.get(nodeid)
    if (inode === undefined) return
    if (key === '') table.clearLink(inode)
    else table.setLink(inode, key)
  }

  opened(nodeid: number, facts: OpenFacts): void {
    const inode = this.view.table.get(nodeid)
    if (inode === undefined) return
    if (facts.cached <= 0 && facts.passthrough <= 0) this.opens.delete(inode)
    else this.opens.set(inode, facts)
  }

  suspected(nodeid: number, bits: number | undefined): void {
    const inode = this.view.table.get(nodeid)
    if (inode === undefined) return
    if (bits === undefined) this.suspects.delete(inode)
    else this.suspects.set(inode, bits)
  }

  /** The order of a directory's listing; undefined when there is none any more. */
  listing(nodeid: number, order: string[] | undefined): void {
    const dir = this.view.table.get(nodeid)
    if (dir?.isDir() === true) dir.oldOrder = order ?? null
  }

  listed(nodeid: number, name: string): void {
    const dir = this.view.table.get(nodeid)
    if (dir?.isDir() === true) dir.oldOrder?.push(name)
  }

  unlisted(nodeid: number, name: string): void {
    const dir = this.view.table.get(nodeid)
    const order = dir?.isDir() === true ? dir.oldOrder : null
    const at = order?.lastIndexOf(name) ?? -1
    if (order != null && at >= 0) order[at] = ''
  }

  /** Where an object without a name is on a lower layer, or its data. */
  below(nodeid: number, what: 'lower' | 'data', layer: number, path: string): void {
    const { view } = this
    const inode = view.table.get(nodeid)
    const found = [view.upper, ...view.lowers, ...view.dataOnly].find(each => each?.index === layer)
    if (inode === undefined || found == null) return
    const real = realAt(found, path, inode.isDir())
    if (what === 'data') inode.data = real
    else if (!inode.isDir()) inode.lower = real
    else if (real instanceof DirReal) inode.lower = real
  }

  /** The object of an inode, kept by its descriptor. */
  orphan(nodeid: number, fd: Fd): void {
    const { upper } = this.view
    if (upper !== null) sys.coverAlike(fd.n, upper.rootFd.n)
    if (this.view.table.get(nodeid) === undefined || this.orphans.has(nodeid)) {
      fd.close()
      return
    }
    this.orphans.set(nodeid, fd)
  }

  /**
   * Finds out whether the change was made before the daemon died, and if it was, brings the tables in line and does what is left to
   * do. Doing this twice comes to the same. From here on `journal` is told of everything.
   */
  settle(journal: Journal, change: ChangeRequest | undefined, announced: Announced | undefined): boolean {
    const { view } = this
    for (const [nodeid, fd] of this.orphans) {
      const inode = view.table.get(nodeid)
      if (inode !== undefined) inode.orphan = fd
    }
    view.table.journal = journal
    view.fds.nextRequest()
    this.root()
    // What was not announced was not made: then no layer is asked, which might not answer.
    const done = change !== undefined && announced !== undefined && settle(view, change, announced)
    this.finish()
    return done
  }

  /** The kernel always knows the root, which has no record. */
  private root(): void {
    const { root } = this.view.table
    root.nlookup = 1
    root.recovered = false
  }

  /** What has a name needs no descriptor; what neither the kernel nor a child refers to goes. */
  private finish(): void {
    const { view } = this
    for (const inode of view.table.asked()) if (inode.orphan !== null && !inode.nameless) view.unhold(inode)
    // Those that only a child referred to go with it.
    for (const inode of this.idle) if (inode.nlookup === 0) view.table.dropIfUnused(inode)
  }
}

function realAt(layer: Layer, path: string, isDir: boolean): Real {
  const parts = path.split('/')
  let parent = layer.root
  for (const part of parts.slice(0, -1)) {
    parent = new DirReal(layer, parent, part)
    parent.passage = true
  }
  const name = parts.at(-1) ?? ''
  return isDir ? new DirReal(layer, parent, name) : new Real(layer, parent, name)
}

function settle(view: View, change: ChangeRequest, announced: Announced): boolean {
  try {
    switch (change.kind) {
      case 'create':
        return created(view, change, announced)
      case 'remove':
        return removed(view, change)
      case 'link':
        return linked(view, change, announced)
      case 'rename':
        return renamed(view, change, announced)
    }
  } catch (error) {
    // The layers do not answer: then the request will not either, or does what is right by then.
    if (error instanceof SysError) return false
    throw error
  }
}

function dirOf(view: View, nodeid: number): DirInode | undefined {
  const inode = view.table.get(nodeid)
  if (inode?.isDir() !== true) return undefined
  if (inode.recovered) materialise(view, inode)
  return inode
}

/** The upper object called `name`; undefined where there is none, or a whiteout. */
function upperObject(view: View, dir: DirInode, name: string): sys.Stat | undefined {
  if (dir.upper === null) return undefined
  const probed = probe(view, dir.upper, name, false)
  return typeof probed === 'string' ? undefined : probed
}

function created(view: View, change: ChangeRequest & { kind: 'create' }, announced: Announced): boolean {
  const parent = dirOf(view, change.parent)
  if (parent === undefined) return false
  if (parent.children.has(change.name)) return true
  const stat = upperObject(view, parent, change.name)
  if (stat === undefined) return false
  const [sec, nsec] =
    (stat.mask & sys.STATX_BTIME) === 0 ? [stat.ctime, stat.ctimeNsec] : [stat.btime, stat.btimeNsec]
  if (sec * 1000 + nsec / 1e6 < announced.time - CLOCK_SLACK_MS) return false
  dropMarker(view, parent, view.upperFd(parent), change.name)
  return true
}

function removed(view: View, change: ChangeRequest & { kind: 'remove' }): boolean {
  const parent = dirOf(view, change.parent)
  if (parent === undefined) return false
  const inode = parent.children.get(change.name)
  if (resolve(view, parent, change.name) !== undefined) return false
  if (inode !== undefined) view.table.removeName(inode, parent, change.name)
  return true
}

function linked(view: View, change: ChangeRequest & { kind: 'link' }, announced: Announced): boolean {
  const parent = dirOf(view, change.parent)
  const inode = view.table.get(change.inode)
  if (parent === undefined || inode === undefined || announced.moved === undefined) return false
  if (parent.children.get(change.name) === inode) return true
  const stat = upperObject(view, parent, change.name)
  if (stat === undefined || upperKey(stat) !== announced.moved) return false
  view.table.addName(inode, parent, change.name)
  view.unhold(inode)
  inode.recovered = true
  view.table.setLink(inode, announced.moved)
  dropMarker(view, parent, view.upperFd(parent), change.name)
  return true
}

function renamed(view: View, change: ChangeRequest & { kind: 'rename' }, announced: Announced): boolean {
  const from = dirOf(view, change.parent)
  const to = dirOf(view, change.newParent)
  if (from === undefined || to === undefined || announced.moved === undefined) return false
  const stat = upperObject(view, to, change.newName)
  if (stat === undefined || upperKey(stat) !== announced.moved) return false
  const atOld = upperObject(view, from, change.name)
  // Two names of one object: rename(2) of these does nothing.
  if (atOld !== undefined && upperKey(atOld) === announced.moved) return false
  const aside = from.children.get('')
  if (!announced.complete) moveNames(view, from, to, change)
  else if (aside !== undefined) view.table.removeName(aside, from, '')
  if (!change.exchange) {
    const needed = from.merges && lowerPositive(view, from, change.name)
    const upper = from.upper === null ? 'absent' : probe(view, from.upper, change.name, false)
    if (needed && upper === 'absent') whiteOut(view, from, change.name)
    if (!needed && upper === 'hidden') sys.unlinkat(view.upperFd(from), change.name, 0)
  }
  dropMarker(view, to, view.upperFd(to), change.newName)
  return true
}

/** The names may have changed hands in part: the steps are those of `move` and `exchangePlaces` in rename.ts, in that order. */
function moveNames(
  view: View,
  from: DirInode,
  to: DirInode,
  change: ChangeRequest & { kind: 'rename' },
): void {
  const { table } = view
  const { name, newName } = change
  const atTo = to.children.get(newName)
  const atFrom = from.children.get(name)
  if (!change.exchange) {
    if (atFrom === undefined) return
    if (atTo !== undefined && atTo !== atFrom) table.removeName(atTo, to, newName)
    if (atTo !== atFrom) table.addName(atFrom, to, newName)
    table.removeName(atFrom, from, name)
    return
  }
  const aside = from.children.get('')
  const target = aside ?? atTo
  const source = atFrom !== undefined && atFrom !== target ? atFrom : atTo
  if (target === undefined || source === undefined || source === target) return
  if (aside === undefined) table.addName(target, from, '')
  if (to.children.get(newName) === target) table.removeName(target, to, newName)
  if (to.children.get(newName) !== source) table.addName(source, to, newName)
  if (from.children.get(name) === source) table.removeName(source, from, name)
  if (from.children.get(name) !== target) table.addName(target, from, name)
  table.removeName(target, from, '')
}
