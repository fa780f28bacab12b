/**
 * The merged listing of one directory, kept exact by every change while it is held.
 *
 * A cookie is the position of an entry, and which beginning its reader began with. Positions never move: a removed entry leaves a
 * gap, a new one is appended. So a reader that goes on from its cookie sees every entry that was there all the time exactly once,
 * without a handle (opendir sends no message), and two readers do not disturb each other. A reader stops where the list ended when it began:
 * one that renames what it reads would come to the new names for ever.
 */

/** Cookies 1 and 2 follow `.` and `..`; behind them a reader begins. */
const DOTS = 3
/** Beginnings that are told apart. Cookies of the first 16 million positions have 31 bits, as some old programs need. */
const BEGINNINGS = 128

/** Where a reader of a listing goes on, and where it stops. */
export interface Place {
  readonly at: number
  readonly end: number
  /** Of the entry at a position, for this reader. */
  readonly cookieOf: (at: number) => number
}

/** Is told what becomes of a listing. */
export interface KeptListing {
  listed(name: string): void
  unlisted(name: string): void
  dropped(): void
}

export class Listing {
  readonly names: (string | undefined)[] = []
  /** DT_ value per position. */
  readonly types: number[] = []
  /** Index of the first of the directory's real directories (upper first) that has the name. */
  readonly from: number[] = []
  /** Real inode number per position, as that directory gave it. */
  readonly inos: number[] = []
  /** Whether a real directory further down has a visible entry of that name as well. */
  readonly more: boolean[] = []
  /** When it was read last, milliseconds since the epoch; 0: nobody has a cookie. */
  readAt = 0
  /** A reader may go on in it after this daemon: the journal has it, and is told of changes. */
  kept: KeptListing | null = null
  private readonly positions = new Map<string, number>()
  private gaps = 0
  /** Where the list ended, by beginning. */
  private readonly ends: number[] = []
  private beginning = 0

  /** Where the reader is that was given `cookie` last. */
  placeOf(cookie: number): Place {
    const beginning = cookie < DOTS ? this.begin() : cookie % BEGINNINGS
    return {
      at: cookie < DOTS ? 0 : Math.floor(cookie / BEGINNINGS) - DOTS + 1,
      // One that began with a predecessor stops where the list ends now.
      end: (this.ends[beginning] ??= this.names.length),
      cookieOf: at => (at + DOTS) * BEGINNINGS + beginning,
    }
  }

  /** Beginnings with the same end are one. Of more than {@link BEGINNINGS} at a time the oldest get a later end. */
  private begin(): number {
    if (this.ends[this.beginning] !== this.names.length) this.beginning = (this.beginning + 1) % BEGINNINGS
    this.ends[this.beginning] = this.names.length
    return this.beginning
  }

  get size(): number {
    return this.positions.size
  }

  /** More gaps than entries: better made anew when somebody starts reading. */
  get worn(): boolean {
    return this.gaps > 64 && this.gaps > this.positions.size
  }

  /** The same entries at new positions. */
  withoutGaps(): Listing {
    const listing = new Listing()
    for (const [name, at] of this.positions)
      listing.add(name, this.types[at] ?? 0, this.inos[at] ?? 0, this.from[at] ?? 0, this.more[at])
    return listing
  }

  position(name: string): number | undefined {
    return this.positions.get(name)
  }

  add(name: string, type: number, ino: number, from: number, more = false): void {
    const old = this.positions.get(name)
    const at = old ?? this.names.length
    this.positions.set(name, at)
    this.names[at] = name
    this.types[at] = type
    this.inos[at] = ino
    this.from[at] = from
    this.more[at] = more
    if (old === undefined) this.kept?.listed(name)
  }

  /** A position at which a predecessor had something that is gone. */
  addGap(): void {
    this.names.push(undefined)
    this.gaps++
  }

  remove(name: string): void {
    const at = this.positions.get(name)
    if (at === undefined) return
    this.positions.delete(name)
    this.names[at] = undefined
    this.gaps++
    this.kept?.unlisted(name)
  }

  /** The entry now (also) exists in upper: copied up, or created over. */
  movedUp(name: string): void {
    const at = this.positions.get(name)
    if (at === undefined) return
    this.more[at] = this.more[at] === true || (this.from[at] ?? 0) > 0
    this.from[at] = 0
  }

  /** The real number of an entry that is another object now. */
  renumbered(name: string, ino: number): void {
    const at = this.positions.get(name)
    if (at !== undefined) this.inos[at] = ino
  }
}
