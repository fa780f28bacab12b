import { Dispatcher } from '../../src/fuse/dispatch.js'
import { OPCODES } from '../../src/fuse/opcodes.js'
import { InHeader } from '../../src/fuse/structs.js'
import { ReplayTransport } from '../../src/fuse/transport-replay.js'
import { DummyFs } from './fuse-dummy-fs.js'
import { initFrame } from './fuse-frames.js'

/** A dispatcher that is fed frames which may be damaged, and what must hold whatever they are. */
export class FrameJudge {
  /** Unexpected exceptions. */
  readonly faults: unknown[] = []
  private readonly fs = new DummyFs()
  private readonly transport = new ReplayTransport(64 * 1024)
  private readonly dispatcher: Dispatcher

  constructor() {
    this.dispatcher = new Dispatcher(this.fs, this.transport, { onFault: fault => this.faults.push(fault) })
    this.transport.start(
      length => this.dispatcher.handle(length),
      () => undefined,
    )
    this.transport.feed(initFrame())
  }

  /** Requests without an answer. */
  get pending(): number {
    return this.dispatcher.pending
  }

  /**
   * What was wrong with the answer, if anything: a frame that can be answered is, once, with its own number, and the filesystem sees
   * only names that an entry can have.
   */
  async feed(message: Buffer): Promise<string | undefined> {
    const { fs, transport } = this
    // DESTROY may come out of garbage; nothing else may end the filesystem.
    transport.replies.length = 0
    fs.calls.length = 0
    transport.feed(message)
    await Promise.resolve()
    const readable = message.length >= InHeader.size
    const opcode = readable ? message.readUInt32LE(InHeader.at.opcode) : 0
    const due = readable && OPCODES[opcode]?.replied !== false ? 1 : 0
    const { length } = transport.replies
    if (length !== due) return `${length} replies, ${due} due`
    if (length === 1 && transport.replies[0]?.unique !== message.readBigUInt64LE(InHeader.at.unique))
      return 'the reply to another request'
    return this.misnamed()
  }

  /** String arguments of all methods are entry names, but symlink's target and attributes. */
  private misnamed(): string | undefined {
    for (const [method, ...args] of this.fs.calls) {
      if (method.includes('xattr') || method === 'symlink') continue
      for (const arg of args)
        if (typeof arg === 'string' && (arg === '' || arg.length > 255 || /^\.{1,2}$|[/\0]/.test(arg)))
          return `${method} is given the name '${arg}'`
    }
    return undefined
  }
}
