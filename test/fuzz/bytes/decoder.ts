import { Dispatcher } from '../../../src/fuse/dispatch.js'
import { OPCODES, type OpName } from '../../../src/fuse/opcodes.js'
import { InHeader } from '../../../src/fuse/structs.js'
import { ReplayTransport } from '../../../src/fuse/transport-replay.js'
import { DummyFs } from '../../unit/fuse-dummy-fs.js'
import { EXAMPLES, frame, initFrame } from '../../unit/fuse-frames.js'
import type { Target } from './target.js'

/** A request, as the device gives it. Each that can be answered is, once; the filesystem sees no name that an entry cannot have. */
export function decoder(): Target {
  const faults: unknown[] = []
  const fs = new DummyFs()
  const transport = new ReplayTransport(64 * 1024)
  const dispatcher = new Dispatcher(fs, transport, { onFault: fault => faults.push(fault) })
  transport.start(
    length => dispatcher.handle(length),
    () => undefined,
  )
  transport.feed(initFrame())
  return {
    seeds: [initFrame(), ...(Object.keys(EXAMPLES) as OpName[]).map(op => frame(op, EXAMPLES[op]))],
    covers: ['/src/fuse/'],
    async run(input) {
      // Nine of ten are told their true length, or little would get past the first look.
      const message = Buffer.from(input)
      if (message.length >= 4 && message[message.length - 1] !== 7) message.writeUInt32LE(message.length, 0)
      transport.replies.length = 0
      fs.calls.length = 0
      transport.feed(message)
      await Promise.resolve()
      const readable = message.length >= InHeader.size
      const op = readable ? message.readUInt32LE(InHeader.at.opcode) : 0
      const due = readable && OPCODES[op]?.replied !== false ? 1 : 0
      if (faults.length > 0) throw faults.pop()
      if (transport.replies.length !== due)
        throw new TypeError(`${transport.replies.length} replies in place of ${due}`)
      for (const [method, ...args] of fs.calls) {
        if (method.includes('xattr') || method === 'symlink') continue
        for (const arg of args)
          if (typeof arg === 'string' && (arg === '' || arg.length > 255 || /^\.{1,2}$|[/\0]/.test(arg)))
            throw new TypeError(`${method} is given the name '${arg}'`)
      }
    },
    close: () => undefined,
  }
}
