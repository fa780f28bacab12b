/** Reads a predecessor's state into a fresh overlay. */
import { Frame, isRelease, readChange, readForgets } from '../../fuse/index.js'
import type { Announced, Overlay, Restorer } from '../../overlay/index.js'
import { JournalLog, KIND } from './journal-log.js'
import { readLog } from './known-inodes.js'
import { AT, REQUEST_ROOM, SAID, type StateMemory } from './memory.js'
import type { Shelf } from './shelf.js'
import { type Outstanding, SETTLED, StateJournal, type TakeBack } from './state-journal.js'

/**
 * From here on the overlay knows what its predecessor knew, and writes into the same state. To be done before the first request.
 * Dying within it, at any point, leaves a state from which this can be done again.
 * @throws Error when the state is damaged
 */
export function recoverOverlay(
  memory: StateMemory,
  shelf: Shelf,
  overlay: Overlay,
): { journal: StateJournal; closing: number } {
  const log = new JournalLog(memory)
  const restorer = overlay.restore()
  const outstanding = new Map<number, Outstanding>()
  const { inodes, others } = readLog(log)
  restorer.inodes(inodes)
  for (const nodeid of inodes.unreferenced) restorer.unreferenced(nodeid)
  let opened: OpenRecord | undefined
  for (const slot of others) {
    apply(log, slot, restorer, outstanding)
    if (log.kindAt(slot) === KIND.opens) opened = openRecord(log, slot)
  }
  overlay.usedUp(memory.double(AT.lastId))
  for (const [nodeid, fd] of shelf.take()) restorer.orphan(nodeid, fd)

  const undo = takeBackFrom(overlay)
  const journal = new StateJournal(memory, log, shelf, () => overlay.inodes(), undo, outstanding)
  journal.adopt(restorer.opens, restorer.suspects)
  settleLast(memory, restorer, journal, opened, undo)
  forgetRest(memory, overlay, undo)
  const wanted = new Map<number, number>()
  for (const inode of overlay.askedFor()) if (inode.orphan !== null) wanted.set(inode.nodeid, inode.orphan.n)
  shelf.settle(wanted)
  return { journal, closing: opened?.open === false ? opened.backingId : 0 }
}

export function takeBackFrom(overlay: Overlay): TakeBack {
  return {
    count: nodeid => overlay.references(nodeid),
    forget: nodeid => overlay.forget(nodeid, 1),
    release: (nodeid, handle) => overlay.release(nodeid, handle),
  }
}

/** One daemon leaves one at most, but several may have died in a row. */
const MOST_STRAYS = 8

/**
 * Ids of backing files that are open for nobody: `closing`, which the predecessor may not have got round to, and what it may have got
 * after the last one that it noted. The kernel gives numbers out in turn.
 */
export function strayBackings(memory: StateMemory, closing: number): number[] {
  const last = memory.u32(AT.lastBacking)
  const after = Array.from({ length: MOST_STRAYS }, (_, i) => last + 1 + i)
  return closing === 0 ? after : [closing, ...after]
}

/** A record of KIND.opens. */
interface OpenRecord {
  readonly nodeid: number
  readonly backingId: number
  readonly writers: number
  /** Whether a passthrough handle is left. */
  readonly open: boolean
  readonly unique: number
  readonly change: number
}

function openRecord(log: JournalLog, slot: number): OpenRecord {
  const [backingId = 0, writers = 0, unique = 0, change = 0] = log.textAt(slot).split(',').map(Number)
  return { nodeid: log.nodeidAt(slot), backingId, writers, open: log.otherAt(slot) > 0, unique, change }
}

/** A record that is neither an inode nor a name. */
function apply(
  log: JournalLog,
  slot: number,
  restorer: Restorer,
  outstanding: Map<number, Outstanding>,
): void {
  const [nodeid, other, small, text] = [
    log.nodeidAt(slot),
    log.otherAt(slot),
    log.smallAt(slot),
    log.textAt(slot),
  ]
  switch (log.kindAt(slot)) {
    case KIND.linked:
      return restorer.linked(nodeid, text)
    case KIND.below:
      return restorer.below(nodeid, small === 0 ? 'lower' : 'data', other, text)
    case KIND.opens: {
      const { backingId, writers } = openRecord(log, slot)
      return restorer.opened(nodeid, { cached: small, passthrough: other, writers, backingId })
    }
    case KIND.listing:
      return restorer.listing(nodeid, text.split('\0'))
    case KIND.listed:
      return restorer.listed(nodeid, text)
    case KIND.unlisted:
      return restorer.unlisted(nodeid, text)
    case KIND.unlist:
      return restorer.listing(nodeid, undefined)
    case KIND.settled: {
      const references = text === '' ? [] : text.split(',').map(Number)
      outstanding.set(nodeid, { flags: small, references, opened: other })
      return
    }
    case KIND.answered:
      outstanding.clear()
      return
    case KIND.suspect:
      return restorer.suspected(nodeid, other === 0 ? undefined : small)
    case KIND.inode:
    case KIND.named:
    case KIND.unnamed:
    case 0:
  }
}

/** The request that was being served: was its change made, and what would its answer have given away? */
function settleLast(
  memory: StateMemory,
  restorer: Restorer,
  journal: StateJournal,
  opened: OpenRecord | undefined,
  { count }: TakeBack,
): void {
  const references = memory.references()
  const last = references.at(-1)
  // Listed, and not counted any more.
  if (last !== undefined && count(last.nodeid) < last.total) references.pop()
  if (memory.u32(AT.serving) === 0) {
    restorer.settle(journal, undefined, undefined)
    return
  }
  const unique = memory.unique()
  const known = journal.outstanding.get(unique)
  const done = (known?.flags ?? 0) & SETTLED.done
  const copy = Buffer.from(memory.bytes.subarray(AT.request, AT.request + REQUEST_ROOM))
  const frame = new Frame(copy.buffer.slice(copy.byteOffset, copy.byteOffset + copy.length) as ArrayBuffer)
  // What was found done before stays done, although its second answer announced nothing.
  const made = restorer.settle(journal, done !== 0 ? undefined : readChange(frame), announcedIn(memory))
  const said = memory.u32(AT.said)
  const before = (said & SAID.before) !== 0 ? SETTLED.before : 0
  const notBefore = (said & SAID.notBefore) !== 0 ? SETTLED.notBefore : 0
  // Counted already: a handle that it opened is taken back when it comes again, one that it closed is not closed twice.
  const handle = opened?.unique === unique ? opened.change : 0
  const closed = handle < 0 && isRelease(frame)
  const flags =
    ((known?.flags ?? 0) & ~(-1 << SETTLED.handle)) |
    (made || closed ? SETTLED.done : 0) |
    before |
    notBefore |
    (handle > 0 ? handle << SETTLED.handle : 0)
  const request: Outstanding = {
    flags,
    references: references.map(({ nodeid }) => nodeid),
    opened: handle > 0 ? (opened?.nodeid ?? 0) : 0,
  }
  if (flags !== 0 || request.references.length > 0) {
    journal.outstanding.set(unique, request)
    journal.settled(unique, request)
  }
  memory.setU32(AT.serving, 0)
}

/** A FORGET that was read is not sent again: what was not done is done now, of that which was begun, and then of those taken in. */
function forgetRest(memory: StateMemory, overlay: Overlay, takeBack: TakeBack): void {
  finishForget(memory, overlay, takeBack)
  if (memory.bringForgets()) finishForget(memory, overlay, takeBack)
}

function finishForget(memory: StateMemory, overlay: Overlay, { count }: TakeBack): void {
  const frame = memory.frame()
  const [high, low] = [frame.high(8), frame.low(8)]
  if (memory.isTakenIn(high, low)) return
  const begun = memory.forgottenOf(high, low)
  let index = 0
  for (const { nodeid, nlookup } of readForgets(frame)) {
    const at = index++
    if (at < begun - 1) continue
    const now = count(nodeid)
    const leaves = at < begun ? memory.u32(AT.leaves[at & 1] as number) : Math.max(0, now - nlookup)
    memory.setU32(AT.leaves[at & 1] as number, leaves)
    memory.setForgetting(high, low, index)
    overlay.forget(nodeid, Math.max(0, now - leaves))
  }
}

function announcedIn(memory: StateMemory): Announced | undefined {
  const said = memory.u32(AT.said)
  if ((said & SAID.changing) === 0) return undefined
  const moved = `${memory.double(AT.movedDev)}:${memory.u32(AT.movedHi)}:${memory.u32(AT.movedLo)}`
  return {
    time: memory.double(AT.saidTime),
    moved: (said & SAID.moved) === 0 ? undefined : moved,
    complete: (said & SAID.complete) !== 0,
  }
}
