/** Reads a predecessor's state into a fresh overlay. */
import { Frame, readChange, readForgets } from '../../fuse/index.js'
import type { Announced, Overlay, Restorer } from '../../overlay/index.js'
import { JournalLog, KIND, type LogRecord } from './journal-log.js'
import { AT, REQUEST_ROOM, SAID, type StateMemory } from './memory.js'
import type { Shelf } from './shelf.js'
import { type Outstanding, SETTLED, StateJournal } from './state-journal.js'

const UNIQUE = AT.request + 8

/**
 * From here on the overlay knows what its predecessor knew, and writes into the same state. To be done before the first request.
 * Dying within it, at any point, leaves a state from which this can be done again.
 * @throws Error when the state is damaged
 */
export function recoverOverlay(memory: StateMemory, shelf: Shelf, overlay: Overlay): StateJournal {
  const log = new JournalLog(memory)
  const restorer = overlay.restore()
  const records = [...log.records()]
  const outstanding = new Map<number, Outstanding>()
  for (const record of records) {
    if (record.kind !== KIND.inode || record.dead) continue
    restorer.inode(record.nodeid, record.small * 0o10000, record.ino, record.nlookup, record.slot)
  }
  for (const record of records) apply(record, restorer, outstanding)
  overlay.usedUp(memory.double(AT.lastId))
  for (const [nodeid, fd] of shelf.take()) restorer.orphan(nodeid, fd)

  const forget = (nodeid: number): void => overlay.forget(nodeid, 1)
  const journal = new StateJournal(memory, log, shelf, () => overlay.inodes(), forget, outstanding)
  settleLast(memory, restorer, journal)
  forgetRest(memory, overlay)
  const wanted = new Map<number, number>()
  for (const inode of overlay.inodes()) if (inode.orphan !== null) wanted.set(inode.nodeid, inode.orphan.n)
  shelf.settle(wanted)
  return journal
}

function apply(record: LogRecord, restorer: Restorer, outstanding: Map<number, Outstanding>): void {
  const { kind, nodeid, other, small, text } = record
  switch (kind) {
    case KIND.inode:
      if (!record.dead && other !== 0) restorer.named(nodeid, other, text)
      return
    case KIND.named:
      return restorer.named(nodeid, other, text)
    case KIND.unnamed:
      return restorer.unnamed(nodeid, other, text)
    case KIND.linked:
      return restorer.linked(nodeid, text)
    case KIND.below:
      return restorer.below(nodeid, small === 0 ? 'lower' : 'data', other, text)
    case KIND.opens: {
      const [backingId = 0, writers = 0] = text.split(',').map(Number)
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
      outstanding.set(nodeid, { flags: small, references })
      return
    }
    case KIND.answered:
      outstanding.clear()
  }
}

/** The request that was being served: was its change made, and what would its answer have given away? */
function settleLast(memory: StateMemory, restorer: Restorer, journal: StateJournal): void {
  if (memory.u32(AT.serving) === 0) {
    restorer.settle(journal, undefined, undefined)
    return
  }
  const unique = (memory.u32(UNIQUE + 4) & 0x7fff_ffff) * 2 ** 32 + memory.u32(UNIQUE)
  const known = journal.outstanding.get(unique)
  const done = (known?.flags ?? 0) & SETTLED.done
  const copy = Buffer.from(memory.bytes.subarray(AT.request, AT.request + REQUEST_ROOM))
  const frame = new Frame(copy.buffer.slice(copy.byteOffset, copy.byteOffset + copy.length) as ArrayBuffer)
  // What was found done before stays done, although its second answer announced nothing.
  const made = restorer.settle(journal, done !== 0 ? undefined : readChange(frame), announcedIn(memory))
  const said = memory.u32(AT.said)
  const before = (said & SAID.before) !== 0 ? SETTLED.before : 0
  const notBefore = (said & SAID.notBefore) !== 0 ? SETTLED.notBefore : 0
  const flags = (known?.flags ?? 0) | (made ? SETTLED.done : 0) | before | notBefore
  const request: Outstanding = { flags, references: memory.references() }
  if (flags !== 0 || request.references.length > 0) {
    journal.outstanding.set(unique, request)
    journal.settled(unique, request)
  }
  memory.setU32(AT.serving, 0)
}

/** A FORGET that was read is not sent again: what was not done of it is done now. */
function forgetRest(memory: StateMemory, overlay: Overlay): void {
  const frame = memory.frame()
  const done = memory.forgottenOf(frame.high(8), frame.low(8))
  let index = 0
  for (const { nodeid, nlookup } of readForgets(frame)) {
    if (index++ < done) continue
    memory.setU32(AT.forgotten, index)
    overlay.forget(nodeid, nlookup)
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
