import { ftruncateSync, mkdirSync, mkdtempSync, openSync, closeSync, rmSync, unlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { JournalLog } from '../../src/daemon/recovery/journal-log.js'
import { StateMemory } from '../../src/daemon/recovery/memory.js'
import { recoverOverlay, strayBackings, takeBackFrom } from '../../src/daemon/recovery/recover.js'
import { Shelf } from '../../src/daemon/recovery/shelf.js'
import { StateJournal } from '../../src/daemon/recovery/state-journal.js'
import { Frame } from '../../src/fuse/frame.js'
import type { Connection, KernelSide } from '../../src/fuse/filesystem.js'
import { DEFAULT_OPTIONS, type MountOptions, type OverlayConfig } from '../../src/overlay/config.js'
import { type HandedLayer, type HandedLayers, Overlay } from '../../src/overlay/index.js'
import { NOBODY } from '../../src/overlay/recover.js'
import type { Fd } from '../../src/base/fd.js'
import * as sys from '../../src/sys/index.js'

/** A mount without a kernel: one state, and the daemons that follow each other over it. A daemon dies by being left alone. */
export class Succession implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), 'lamina-recovery-'))
  readonly memory: StateMemory
  private readonly file: number
  private readonly sockets
  private readonly config: OverlayConfig
  private readonly first: Overlay
  private work: Fd | null = null
  overlay: Overlay
  journal: StateJournal
  /** Backing files that are open, as the kernel would have it. */
  readonly backings = new Set<number>()
  private lastBacking = 0
  private generation = 0

  constructor(
    private readonly passthrough: boolean,
    options: Partial<MountOptions> = {},
  ) {
    for (const name of ['lower', 'upper', 'work', 'mnt']) mkdirSync(join(this.root, name))
    this.file = openSync(join(this.root, 'state'), 'w+')
    unlinkSync(join(this.root, 'state'))
    ftruncateSync(this.file, 512 << 20)
    this.sockets = [0, 1].flatMap(() => sys.socketpair(sys.SOCK_SEQPACKET | sys.SOCK_NONBLOCK))
    this.config = {
      lower: [join(this.root, 'lower')],
      upper: join(this.root, 'upper'),
      work: join(this.root, 'work'),
      mountpoint: join(this.root, 'mnt'),
      options: { ...DEFAULT_OPTIONS, ...options, io: passthrough ? 'passthrough' : 'cached' },
    }
    this.memory = new StateMemory(this.file)
    this.memory.begin()
    const overlay = (this.first = this.overlay = Overlay.open(this.config))
    const log = new JournalLog(this.memory)
    this.journal = new StateJournal(
      this.memory,
      log,
      this.shelf(),
      () => overlay.inodes(),
      takeBackFrom(overlay),
    )
    overlay.keep(this.journal)
    this.attach()
  }

  private shelf(): Shelf {
    return new Shelf(this.sockets.map(fd => fd.n))
  }

  private attach(): void {
    const kernel: KernelSide = {
      ...NOBODY,
      openBacking: () => {
        this.backings.add(++this.lastBacking)
        return this.lastBacking
      },
      closeBacking: id => void this.backings.delete(id),
    }
    this.overlay.attach(kernel)
    const { passthrough } = this
    const connection: Pick<Connection, 'has'> = { has: flag => passthrough && flag === 'PASSTHROUGH' }
    this.overlay.init(connection as Connection)
  }

  /** The next daemon, over the descriptors that a keeper would have kept. Gives the backing files that it closes. */
  takeOver(): number[] {
    this.memory.check()
    const layers = this.layers()
    // An overlay leaves this one to the end of its process.
    this.work = layers.upper?.workdir ?? null
    this.overlay = Overlay.takeOver(this.config, layers, ++this.generation, null, Infinity)
    const { journal, closing } = recoverOverlay(this.memory, this.shelf(), this.overlay)
    this.journal = journal
    this.overlay.sweep()
    this.attach()
    const strays = strayBackings(this.memory, closing)
    for (const id of strays) this.backings.delete(id)
    return strays
  }

  /** Closes what the last one that took over has open. */
  bury(): void {
    if (this.overlay !== this.first) void this.overlay.close()
    this.work?.close()
    this.work = null
    this.overlay = this.first
  }

  /** The layers' descriptors, one more time: whoever closes an overlay closes those that it has. */
  private layers(): HandedLayers {
    const { layers } = this.first.handOver()
    const again = (fd: Fd): Fd => sys.openat(fd.n, '.', sys.O_PATH | sys.O_DIRECTORY)
    const below = ({ rootFd, facts }: HandedLayer): HandedLayer => ({ rootFd: again(rootFd), facts })
    const { upper } = layers
    return {
      ...layers,
      upper: upper && {
        ...upper,
        rootFd: again(upper.rootFd),
        workdir: again(upper.workdir),
        work: again(upper.work),
        index: upper.index && again(upper.index),
      },
      lowers: layers.lowers.map(below),
      dataOnly: layers.dataOnly.map(below),
    }
  }

  /** Puts a frame where the channel reads them to. */
  read(message: Buffer): Frame {
    const { offset } = this.memory.input
    message.copy(this.memory.bytes, offset)
    return this.memory.frame()
  }

  /** Tells the journal that this request is served from now on, as dispatch does; `again`: sent a second time. */
  begin(message: Buffer, again = false): ReturnType<StateJournal['begin']> {
    const memory = new ArrayBuffer((message.length + 47) & ~7)
    message.copy(Buffer.from(memory))
    const frame = new Frame(memory)
    if (again) new Uint32Array(memory)[3] = (frame.high(8) | 0x8000_0000) >>> 0
    return this.journal.begin(frame, message.length, message.readUInt32LE(4))
  }

  [Symbol.dispose](): void {
    for (const fd of this.sockets) fd.close()
    closeSync(this.file)
    rmSync(this.root, { recursive: true, force: true })
  }
}
