/**
 * What the journal says of the inodes, found by number and by directory, and read when somebody asks. Every record is looked at once,
 * which is what a takeover takes time for.
 */
import type { KnownInode, KnownName, Predecessor } from '../../overlay/index.js'
import { type JournalLog, KIND } from './journal-log.js'

/** In the table of slots: that inode was given. Slots are multiples of 8. */
const GIVEN = 1

export class KnownInodes implements Predecessor {
  /** Numbers and slots of the inodes, in the order of their records, which is nearly always that of the numbers. */
  private nodeids = new Float64Array(1024)
  private slots = new Uint32Array(1024)
  /** Index of the next inode whose record names the same directory; -1 none. */
  private next = new Int32Array(1024)
  private count = 0
  private given = 0
  /** By directory: the first and the last such index. */
  private readonly first = new Map<number, number>()
  private readonly last = new Map<number, number>()
  /** Names of those that are not called what their record says, or have several. */
  private readonly names = new Map<number, KnownName[]>()
  private readonly renamedInto = new Map<number, number[]>()
  private sorted = true
  private readonly byNumber = new Map<number, number>()
  private hand = 0
  /** Of inodes to which the kernel has no reference. */
  readonly unreferenced: number[] = []

  constructor(private readonly log: JournalLog) {}

  /** Of an inode that is not dead; in the order of the log. */
  add(slot: number): void {
    const { log } = this
    const at = this.count++
    if (at === this.slots.length) this.grow()
    const nodeid = log.nodeidAt(slot)
    this.nodeids[at] = nodeid
    this.slots[at] = slot
    this.next[at] = -1
    if (at > 0 && nodeid <= (this.nodeids[at - 1] as number)) this.sorted = false
    if (log.nlookupAt(slot) === 0) this.unreferenced.push(nodeid)
    const parent = log.otherAt(slot)
    if (parent === 0) return
    const before = this.last.get(parent)
    if (before === undefined) this.first.set(parent, at)
    else this.next[before] = at
    this.last.set(parent, at)
  }

  /** To be called before the first name. */
  complete(): void {
    if (!this.sorted)
      for (let at = 0; at < this.count; at++) this.byNumber.set(this.nodeids[at] as number, at)
  }

  /** It got a name, or lost one, after its record was written; in the order of the log. */
  renamed(nodeid: number, parent: number, name: string, gone: boolean): void {
    const at = this.find(nodeid)
    if (at < 0) return
    let names = this.names.get(nodeid)
    if (names === undefined) this.names.set(nodeid, (names = [...this.namesOf(at)]))
    const known = names.findIndex(each => each.parent === parent && each.name === name)
    if (gone && known >= 0) names.splice(known, 1)
    if (gone || known >= 0) return
    names.push({ parent, name })
    const into = this.renamedInto.get(parent)
    if (into === undefined) this.renamedInto.set(parent, [nodeid])
    else into.push(nodeid)
  }

  get left(): number {
    return this.count - this.given
  }

  take(nodeid: number): KnownInode | undefined {
    const at = this.find(nodeid)
    const slot = at < 0 ? GIVEN : (this.slots[at] as number)
    if ((slot & GIVEN) !== 0) return undefined
    const { log } = this
    this.slots[at] = slot | GIVEN
    this.given++
    return {
      nodeid,
      type: log.smallAt(slot) * 0o10000,
      ino: log.inoAt(slot),
      nlookup: log.nlookupAt(slot),
      slot,
      names: this.names.get(nodeid) ?? this.namesOf(at),
    }
  }

  childrenOf(nodeid: number): number[] {
    const found: number[] = []
    for (let at = this.first.get(nodeid) ?? -1; at >= 0; at = this.next[at] as number) {
      const child = this.nodeids[at] as number
      const names = this.names.get(child)
      if (names === undefined || names.some(each => each.parent === nodeid)) found.push(child)
    }
    for (const child of this.renamedInto.get(nodeid) ?? [])
      if (this.names.get(child)?.some(each => each.parent === nodeid) === true) found.push(child)
    return found
  }

  some(count: number): number[] {
    const found: number[] = []
    for (; this.hand < this.count && found.length < count; this.hand++)
      if (((this.slots[this.hand] as number) & GIVEN) === 0) found.push(this.nodeids[this.hand] as number)
    return found
  }

  private namesOf(at: number): KnownName[] {
    const slot = (this.slots[at] as number) & ~GIVEN
    const parent = this.log.otherAt(slot)
    return parent === 0 ? [] : [{ parent, name: this.log.textAt(slot) }]
  }

  private find(nodeid: number): number {
    if (!this.sorted) return this.byNumber.get(nodeid) ?? -1
    let low = 0
    let high = this.count - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const there = this.nodeids[middle] as number
      if (there === nodeid) return middle
      if (there < nodeid) low = middle + 1
      else high = middle - 1
    }
    return -1
  }

  private grow(): void {
    const size = this.slots.length * 2
    const copy = <T extends Float64Array | Uint32Array | Int32Array>(to: T, from: T): T => {
      to.set(from)
      return to
    }
    this.nodeids = copy(new Float64Array(size), this.nodeids)
    this.slots = copy(new Uint32Array(size), this.slots)
    this.next = copy(new Int32Array(size), this.next)
  }
}

/** Reads the whole log: the inodes, and the slots of all that is neither an inode nor a name, in order. @throws Error damaged */
export function readLog(log: JournalLog): { inodes: KnownInodes; others: number[] } {
  const inodes = new KnownInodes(log)
  const names: number[] = []
  const others: number[] = []
  log.check(slot => {
    const kind = log.kindAt(slot)
    if (kind === KIND.inode) inodes.add(slot)
    else if (kind === KIND.named || kind === KIND.unnamed) names.push(slot)
    else if (kind !== 0) others.push(slot)
  })
  inodes.complete()
  for (const slot of names) {
    const gone = log.kindAt(slot) === KIND.unnamed
    inodes.renamed(log.nodeidAt(slot), log.otherAt(slot), log.textAt(slot), gone)
  }
  return { inodes, others }
}
