/**
 * Damaged requests: whatever comes, dispatch does not throw, the filesystem sees only names that an entry can have, and
 * there is exactly one reply where one is due. FUZZ_SEED and FUZZ_ROUNDS change the run; the seed is printed.
 */
import t from 'tap'
import { Dispatcher } from '../../src/fuse/dispatch.js'
import { Op, type OpName } from '../../src/fuse/opcodes.js'
import { ReplayTransport } from '../../src/fuse/transport-replay.js'
import { DummyFs } from './fuse-dummy-fs.js'
import { InHeader } from '../../src/fuse/structs.js'
import { FrameJudge } from './fuse-frame-judge.js'
import { EXAMPLES, frame } from './fuse-frames.js'

const seed = Number(process.env['FUZZ_SEED'] ?? 20240611)
const rounds = Number(process.env['FUZZ_ROUNDS'] ?? 300)

/** mulberry32 */
function random(state: number): (below: number) => number {
  return below => {
    state = (state + 0x6d2b79f5) | 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return Math.floor((((x ^ (x >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}

function damage(message: Buffer, next: (below: number) => number): Buffer {
  let out = Buffer.from(message)
  switch (next(6)) {
    case 0: // cut
      out = out.subarray(0, next(out.length + 1))
      break
    case 1: // cut, with a header that agrees
      out = out.subarray(0, InHeader.size + next(out.length - InHeader.size + 1))
      out.writeUInt32LE(out.length, 0)
      break
    case 2: // garbage in the arguments
      for (let i = InHeader.size; i < out.length; i++) if (next(3) === 0) out[i] = next(256)
      break
    case 3: // extreme words
      for (let at = InHeader.size; at + 4 <= out.length; at += 4)
        if (next(3) === 0)
          out.writeUInt32LE([0xffff_ffff, 0x8000_0000, 0x7fff_ffff, 0][next(4)] as number, at)
      break
    case 4: {
      // longer than it should be
      const more = Buffer.alloc(next(5000))
      for (let i = 0; i < more.length; i++) more[i] = next(256)
      out = Buffer.concat([out, more])
      out.writeUInt32LE(out.length, 0)
      break
    }
    default: {
      // garbage all over, but for the length
      for (let i = 4; i < out.length; i++) if (next(4) === 0) out[i] = next(256)
      break
    }
  }
  return out
}

t.test(`damaged frames of every opcode, seed ${seed}`, async t => {
  const next = random(seed)
  const judge = new FrameJudge()
  let wrong = 0
  for (const op of Object.keys(EXAMPLES) as OpName[]) {
    const whole = frame(op, EXAMPLES[op])
    for (let round = 0; round < rounds; round++) {
      const fault = await judge.feed(round === 0 ? whole : damage(whole, next))
      if (fault === undefined) continue
      wrong++
      if (wrong < 5) t.fail(`${op} round ${round}: ${fault}`)
    }
  }
  t.equal(wrong, 0)
  t.strictSame(judge.faults, [])
  t.equal(judge.pending, 0)
  t.equal(Op.DESTROY, 38)
})

t.test('random bytes with no shape at all', async t => {
  const next = random(seed ^ 0x5eed)
  const faults: unknown[] = []
  const transport = new ReplayTransport(64 * 1024)
  const dispatcher = new Dispatcher(new DummyFs(), transport, { onFault: fault => faults.push(fault) })
  transport.start(
    length => dispatcher.handle(length),
    () => undefined,
  )
  for (let round = 0; round < 3000; round++) {
    const message = Buffer.alloc(next(400))
    for (let i = 0; i < message.length; i++) message[i] = next(256)
    if (message.length >= 8 && next(2) === 0) {
      message.writeUInt32LE(message.length, 0)
      message.writeUInt32LE(next(60), 4)
    }
    transport.feed(message)
  }
  t.strictSame(faults, [])
})
