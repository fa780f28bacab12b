import type { OpName } from '../../../src/fuse/opcodes.js'
import { FrameJudge } from '../../unit/fuse-frame-judge.js'
import { EXAMPLES, frame, initFrame } from '../../unit/fuse-frames.js'
import type { Target } from './target.js'

/** A request, as the device gives it. */
export function decoder(): Target {
  const judge = new FrameJudge()
  return {
    seeds: [initFrame(), ...(Object.keys(EXAMPLES) as OpName[]).map(op => frame(op, EXAMPLES[op]))],
    covers: ['/src/fuse/'],
    async run(input) {
      // Nine of ten are told their true length, or little would get past the first look.
      const message = Buffer.from(input)
      if (message.length >= 4 && message[message.length - 1] !== 7) message.writeUInt32LE(message.length, 0)
      const wrong = await judge.feed(message)
      if (judge.faults.length > 0) throw judge.faults.pop()
      if (wrong !== undefined) throw new TypeError(wrong)
    },
    close: () => undefined,
  }
}
