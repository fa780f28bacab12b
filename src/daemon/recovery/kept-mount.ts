/**
 * One mount as its keeper has it: the first daemon writes it down, every later one reads it. What the kernel knows of the mount is in
 * the journal; this is the rest, which does not change.
 */
import type { Fd } from '../../base/fd.js'
import {
  type ConnectionState,
  type KeptInput,
  type NegotiatedConnection as Negotiated,
} from '../../fuse/index.js'
import {
  Overlay,
  type HandedLayer,
  type HandedLayers,
  type HandedUpper,
  type Mountpoint,
  type RootFacts,
} from '../../overlay/index.js'
import type { PatientLayers } from '../patient-layers.js'
import type { MountRecord } from '../run-dir.js'
import { decodeSpec, encodeSpec, type MountSpec } from '../spec.js'
import { issuePlaces, JournalLog } from './journal-log.js'
import { HeldTable } from './held-table.js'
import type { KeeperLink } from './keeper-link.js'
import { AT, SAID, StateMemory } from './memory.js'
import { recoverOverlay, strayBackings, takeBackFrom } from './recover.js'
import { Shelf } from './shelf.js'
import { StateJournal } from './state-journal.js'

interface Written {
  spec: string
  connection: ConnectionState
  record: MountRecord
  mountpoint: Mountpoint | null
  cloned: boolean
  /** What is known of the layers, in the order of their descriptors, which the keeper has behind the device. */
  upper: (Pick<HandedUpper, 'facts' | 'prefix' | 'features'> & { indexed: boolean }) | null
  lowers: readonly RootFacts[]
  dataOnly: readonly RootFacts[]
  /** PatientLayers.numbers, and those for a daemon whose predecessor has hung in a call on a layer. */
  patience: readonly number[]
  hungPatience: readonly number[]
  /** Whether PatientLayers.pulse is there. */
  pulse: boolean
}

/** What a predecessor handed over. */
export interface Handed {
  readonly memory: StateMemory
  readonly written: Written
  readonly spec: MountSpec
  readonly device: Fd
  readonly layers: HandedLayers
  readonly pulse: Fd | null
}

/** How often the heart beats while the event loop turns: so many times in the watchdog's time. */
const BEATS = 8

export class KeptMount {
  private constructor(
    private readonly link: KeeperLink,
    private readonly memory: StateMemory,
    readonly journal: StateJournal,
    /** Id of a backing file that the predecessor may not have got round to closing. */
    private readonly closing = 0,
  ) {}

  /** For the first daemon; before the first request. */
  static begin(link: KeeperLink, overlay: Overlay): KeptMount {
    const memory = new StateMemory(link.memory)
    memory.begin()
    const shelf = new Shelf(link.shelves, new HeldTable(memory))
    const log = new JournalLog(memory)
    const journal = new StateJournal(memory, log, shelf, () => overlay.inodes(), takeBackFrom(overlay))
    overlay.keep(journal)
    return new KeptMount(link, memory, journal)
  }

  /** Hands everything to the keeper: the mount is there, and outlives this daemon from now on. */
  write(
    spec: MountSpec,
    connection: Negotiated,
    record: MountRecord,
    overlay: Overlay,
    patience: Pick<PatientLayers, 'numbers' | 'ifHung' | 'pulse'>,
    device: number,
  ): void {
    const { layers, mountpoint } = overlay.handOver()
    const { upper, lowers, dataOnly } = layers
    const { pulse } = patience
    const written: Written = {
      spec: encodeSpec(spec),
      connection: connection.toJSON(),
      record,
      mountpoint,
      cloned: layers.cloned,
      upper: upper === null ? null : { ...describe(upper), indexed: upper.index !== null },
      lowers: lowers.map(({ facts }) => facts),
      dataOnly: dataOnly.map(({ facts }) => facts),
      patience: patience.numbers,
      hungPatience: patience.ifHung,
      pulse: pulse !== null,
    }
    this.memory.writeMount(JSON.stringify(written))
    const above = upper === null ? [] : [upper.rootFd, upper.workdir, upper.work, upper.index]
    const below = [...lowers, ...dataOnly].map(({ rootFd }) => rootFd)
    this.link.keep([device, ...[...above, ...below, pulse].flatMap(fd => (fd === null ? [] : [fd.n]))])
  }

  /**
   * What the predecessor handed over, before anything is asked of a layer.
   * @throws Error when the state is damaged, or of another version
   */
  static handed(link: KeeperLink): Handed {
    const memory = new StateMemory(link.memory)
    memory.check()
    const written = JSON.parse(memory.readMount()) as Written
    const fds = link.kept ?? []
    const next = (): Fd => {
      const fd = fds.shift()
      if (fd === undefined) throw new Error('the keeper has not kept all descriptors')
      return fd
    }
    const device = next()
    const upper = written.upper === null ? null : upperFrom(written.upper, next)
    const layerFrom = (facts: RootFacts): HandedLayer => ({ rootFd: next(), facts })
    const lowers = written.lowers.map(layerFrom)
    const dataOnly = written.dataOnly.map(layerFrom)
    const layers = { upper, lowers, dataOnly, cloned: written.cloned }
    return {
      memory,
      written,
      spec: decodeSpec(written.spec),
      device,
      layers,
      pulse: written.pulse ? next() : null,
    }
  }

  /** Whether a daemon that takes over has to find out about a change, for which layers may have to answer. */
  static isChanging({ memory }: Handed): boolean {
    return memory.u32(AT.serving) !== 0 && (memory.u32(AT.said) & SAID.changing) !== 0
  }

  /** @throws Error when the state is damaged */
  static takeOver(
    link: KeeperLink,
    { memory, written, spec, layers }: Handed,
  ): { kept: KeptMount; overlay: Overlay } {
    const generation = memory.u32(AT.generation) + 1
    memory.setU32(AT.generation, generation)
    const overlay = Overlay.takeOver(
      spec.overlay,
      layers,
      generation,
      written.mountpoint,
      Date.parse(written.record.since),
    )
    const shelf = new Shelf(link.shelves, new HeldTable(memory))
    const { journal, closing } = recoverOverlay(memory, shelf, overlay)
    return { kept: new KeptMount(link, memory, journal, closing), overlay }
  }

  /** Requests are served from now on: also those of a predecessor. */
  ready(spec: MountSpec, record: MountRecord, recordPath: string): void {
    if (spec.watchdog > 0) setInterval(() => this.beat(), (spec.watchdog * 1000) / BEATS).unref()
    this.link.ready({
      mountpoint: record.mountpoint,
      device: record.device,
      record: recordPath,
      watchdog: spec.watchdog,
      watchdogAction: spec.watchdogAction,
      patient: spec.patience !== 'off',
    })
  }

  private beat(): void {
    this.memory.setU32(AT.beat, this.memory.u32(AT.beat) + 1)
  }

  /** Where the frame being handled is kept. */
  get input(): KeptInput {
    return { ...this.memory.input, issues: issuePlaces(this.memory) }
  }

  /** The last request that was noted: read it before the first one is served. */
  lastUnique(): number {
    return this.memory.unique()
  }

  /** Of whom the kernel was told to ask again in the last moments of the predecessor: the telling may be lost. */
  notices(): number[] {
    return this.memory.notices()
  }

  /** Ids of backing files that no answer carries. */
  strayBackings(): number[] {
    return strayBackings(this.memory, this.closing)
  }

  ending(): void {
    this.link.ending()
  }

  replaceBy(program: string, main: string): void {
    this.link.replaceBy(program, main)
  }

  /** Deaths so far, and the last one: when (ISO 8601) and how. */
  deaths(): { count: number; last?: { time: string; cause: string } } {
    const count = this.memory.u32(AT.deaths)
    if (count === 0) return { count }
    const status = this.memory.u32(AT.lastStatus)
    const signal = status & 0x7f
    const cause = signal === 0 ? `exit code ${(status >>> 8) & 0xff}` : `signal ${signal}`
    return { count, last: { time: new Date(this.memory.double(AT.lastDeath)).toISOString(), cause } }
  }
}

/** What is known of upper, but for its descriptors. */
function describe({
  facts,
  prefix,
  features,
}: HandedUpper): Pick<HandedUpper, 'facts' | 'prefix' | 'features'> {
  return { facts, prefix, features }
}

function upperFrom({ indexed, ...known }: NonNullable<Written['upper']>, next: () => Fd): HandedUpper {
  return { ...known, rootFd: next(), workdir: next(), work: next(), index: indexed ? next() : null }
}
