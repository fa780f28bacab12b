import { randomBytes } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { gunzipSync, gzipSync } from 'node:zlib'
import t from 'tap'
import { compress, decompress, detectCompression, type OciError } from '../../src/oci/index.js'
import { unzstdInJavaScript } from '../../src/oci/compression.js'
import { ZstdFrames } from '../../src/oci/zstd-frames.js'
import { findProgram } from '../../src/oci/program-stream.js'
import { chunked, collect } from './oci-fixture.js'

/** Three megabytes that pack well, and some that do not. */
const data = Buffer.concat([
  Buffer.alloc(3_000_000, 'compressible text, again and again. '),
  randomBytes(500_000),
])
const noZstd = findProgram('zstd') === undefined && 'needs zstd'

const pack = (program: string, ...args: string[]) =>
  execFileSync(program, args, { input: data, maxBuffer: 1 << 26 })

async function unpack(packed: Buffer, chunk = 65_536): Promise<Buffer> {
  return collect((await decompress(chunked(packed, chunk))).data)
}

t.test('compression is told by content', async t => {
  t.equal(detectCompression(gzipSync('x')), 'gzip')
  t.equal(detectCompression(Buffer.from([0x28, 0xb5, 0x2f, 0xfd])), 'zstd')
  t.equal(detectCompression(Buffer.from([0x53, 0x2a, 0x4d, 0x18])), 'zstd', 'a skippable frame')
  t.equal(detectCompression(Buffer.from('BZh9')), 'bzip2')
  t.equal(detectCompression(Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0])), 'xz')
  t.equal(detectCompression(Buffer.from('ustar')), 'plain')
  t.equal(detectCompression(Buffer.alloc(0)), 'plain')
  t.equal(detectCompression(Buffer.from([0x1f])), 'plain')
})

t.test('plain data passes through, in chunks of one byte too', async t => {
  const small = Buffer.from('hello')
  t.same(await unpack(small, 1), small)
  t.same(await unpack(Buffer.alloc(0)), Buffer.alloc(0))
})

t.test('gzip: ours is read by gzip, gzip’s by us; several members are one stream', async t => {
  const ours = await collect(compress(chunked(data, 100_000), 'gzip'))
  t.ok(gunzipSync(ours).equals(data))
  t.ok(execFileSync('gzip', ['-dc'], { input: ours, maxBuffer: 1 << 26 }).equals(data))
  t.ok(
    (await collect(compress(chunked(data, 7777), 'gzip'))).equals(ours),
    'the same bytes however the input is cut',
  )
  for (const chunk of [1000, 1 << 20]) t.ok((await unpack(ours, chunk)).equals(data))
  t.ok(
    (await unpack(Buffer.concat([gzipSync(data.subarray(0, 5)), gzipSync(data.subarray(5))]))).equals(data),
  )
  t.same(
    gunzipSync(await collect(compress(chunked(Buffer.alloc(0)), 'gzip'))),
    Buffer.alloc(0),
    'nothing is a stream too',
  )
})

t.test('zstd both ways, several frames, and in JavaScript alone', { skip: noZstd }, async t => {
  const theirs = pack('zstd', '-cq')
  t.ok((await unpack(theirs)).equals(data))
  const ours = await collect(compress(chunked(data), 'zstd'))
  t.ok(execFileSync('zstd', ['-dcq'], { input: ours, maxBuffer: 1 << 26 }).equals(data))
  const twice = Buffer.concat([theirs, theirs])
  t.ok((await unpack(twice)).equals(Buffer.concat([data, data])))
  t.ok((await collect(unzstdInJavaScript(chunked(theirs, 10_000), 'x'))).equals(data))
  t.ok((await collect(unzstdInJavaScript(chunked(twice, 100_000), 'x'))).equals(Buffer.concat([data, data])))
  const long = pack('zstd', '-cq', '-19', '--long=27')
  t.ok((await unpack(long)).equals(data))
})

t.test('zstd frames are cut where they end, however the stream comes', { skip: noZstd }, async t => {
  const text = randomBytes(20_000)
  const one = execFileSync('zstd', ['-cq'], { input: text })
  const tiny = execFileSync('zstd', ['-cq', '--no-check'], { input: 'x' })
  const runs = execFileSync('zstd', ['-cq'], { input: Buffer.alloc(1_000_000) })
  const empty = execFileSync('zstd', ['-cq'], { input: '' })
  const skippable = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 5, 0, 0, 0, 1, 2, 3, 4, 5])
  const noBody = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0])
  const all = [one, skippable, tiny, runs, empty, noBody, tiny]
  const stream = Buffer.concat(all)
  for (const chunk of [1, 3, 1000, 1 << 20]) {
    const frames = new ZstdFrames(chunked(stream, chunk), 'x')
    const seen: Buffer[] = []
    while (await frames.more()) seen.push(await collect(frames.frame()))
    t.same(
      seen.map(frame => frame.length),
      all.map(frame => (frame === skippable || frame === noBody ? 0 : frame.length)),
    )
  }
  const expected = Buffer.concat([text, Buffer.from('x'), Buffer.alloc(1_000_000), Buffer.from('x')])
  t.ok((await unpack(stream)).equals(expected))
  for (const length of [one.length + 7, one.length + 15, stream.length - 1, stream.length - 9]) {
    const frames = new ZstdFrames(chunked(stream.subarray(0, length)), 'x')
    const whole = async () => {
      while (await frames.more()) await collect(frames.frame())
    }
    await t.rejects(whole(), { code: 'truncated' }, `cut at ${length}`)
  }
  const bad = new ZstdFrames(chunked(Buffer.concat([tiny, Buffer.from('junk junk')])), 'x')
  await collect(bad.frame())
  await t.rejects(collect(bad.frame()), { code: 'malformed' })
})

t.test('bzip2 and xz through their programs', async t => {
  for (const program of ['bzip2', 'xz']) {
    if (findProgram(program) === undefined) t.pass(`no ${program} here`)
    else t.ok((await unpack(pack(program, '-c'))).equals(data), program)
  }
})

t.test('truncated and damaged streams are errors', async t => {
  const packed: [string, Buffer][] = [['gzip', gzipSync(data)]]
  if (noZstd === false) packed.push(['zstd', pack('zstd', '-cq')])
  for (const [name, bytes] of packed) {
    for (const length of [5, 100, bytes.length >> 1, bytes.length - 1]) {
      await t.rejects(unpack(bytes.subarray(0, length)), { name: 'OciError' }, `${name} cut at ${length}`)
      if (name === 'zstd') {
        await t.rejects(
          collect(unzstdInJavaScript(chunked(bytes.subarray(0, length)), 'x')),
          { name: 'OciError' },
          `fzstd cut at ${length}`,
        )
      }
    }
    const bad = Buffer.from(bytes)
    bad.fill(0x55, 1000, 1100)
    await t.rejects(unpack(bad), { name: 'OciError' }, `${name} damaged`)
  }
})

t.test('an error of the source is the error of the result, and nothing hangs', async t => {
  const packed = gzipSync(data)
  async function* failing() {
    yield packed.subarray(0, 10_000)
    throw new Error('disk on fire')
  }
  await t.rejects(collect((await decompress(failing())).data), { message: 'disk on fire' })
  await t.rejects(collect(compress(failing(), 'gzip')), { message: 'disk on fire' })
  if (noZstd === false) await t.rejects(collect(compress(failing(), 'zstd')), { message: 'disk on fire' })
})

t.test('a reader that stops early ends what is behind it', async t => {
  for (const packed of [gzipSync(data), ...(noZstd === false ? [pack('zstd', '-cq')] : [])]) {
    let closed = false
    async function* source() {
      try {
        yield* chunked(packed, 1000)
      } finally {
        closed = true
      }
    }
    for await (const chunk of (await decompress(source())).data) {
      t.ok(chunk.length > 0)
      break
    }
    t.ok(closed)
  }
})

t.test('a bomb is refused after the free part, whatever packed it', async t => {
  const zeros = gzipSync(Buffer.alloc(40 << 20))
  let seen = 0
  const error: unknown = await (async () => {
    for await (const chunk of (await decompress(chunked(zeros), { limit: { ratio: 100, free: 1 << 20 } }))
      .data)
      seen += chunk.length
  })().catch((error: unknown) => error)
  t.equal((error as OciError).code, 'limit')
  t.ok(seen < 8 << 20, 'early')
})
