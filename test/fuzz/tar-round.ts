/**
 * One round of the tar fuzzer: an archive, made from a seed and then damaged, is unpacked. Whatever it is, the result is
 * either an error of a known kind or a tree that goes out again byte for byte, and nothing outside has changed.
 */
import { SysError } from '../../src/base/sys-error.js'
import { applyTar, digestOf, OciError, recordTarSplit, replayTarSplit, tarTree } from '../../src/oci/index.js'
import * as sys from '../../src/sys/index.js'
import { chunked, collect, listTree, pax, Place, sealed, tar, type RawEntry } from '../unit/oci-fixture.js'
import { Random } from './random.js'

const names = [
  ...[
    'a',
    'b',
    'd/',
    'd/a',
    'd/e/',
    'd/e/f',
    '.wh.a',
    '.wh.d',
    'd/.wh..wh..opq',
    'd/.wh.a',
    './',
    '/abs',
    '\xff\xfe',
    'docs/',
    '\xe7\x9b\xae',
    's',
    'l',
  ],
]
const types = ['0', '0', '0', '0', '5', '5', '1', '2', '6', '7', 'D', 'V', '\0', '3']
const targets = ['a', 'd/a', 'd/e/f', 'b', './a', 'd']
const hostileNames = ['../x', 'd/../a', 's/a', '.wh...', 'd/e/f/g', '']
const hostileTypes = ['S', '9', 'M', 'x']
const hostileTargets = ['..', '/', 's', '.wh.a', '../../etc', '']
const paxKeys: [string, string[]][] = [
  ['path', ['a', 'd/x', '../y', 'n'.repeat(300), 'd/', 'docs/\xe7\x9b\xae\xe5\xbd\x95', 'docs/x/']],
  ['hdrcharset', ['BINARY']],
  ['LIBARCHIVE.xattr.user.b', ['', 'eHg=', '%']],
  ['GNU.sparse.offset', ['0', '1,2']],
  ['GNU.sparse.numbytes', ['3']],
  ['linkpath', targets],
  ['size', ['0', '5', '512', '99999999999999', 'x', '']],
  ['mtime', ['1', '-1.5', '1e9', '99999999999999999', '1.999999999999']],
  ['uid', ['0', '70000', '-1', '4294967295', '4294967294']],
  ['SCHILY.xattr.user.a', ['x', '', '\0\xff']],
  ['SCHILY.xattr.trusted.overlay.opaque', ['y']],
  ['SCHILY.acl.access', ['user::rwx,group::r-x,other::---', 'user:5:rwx', 'junk']],
  ['GNU.sparse.map', ['0,1', '5,2,1,1', '', '1', '0,3,10,2']],
  ['GNU.sparse.size', ['20', '0', '-4']],
  ['GNU.sparse.major', ['1']],
  ['GNU.sparse.minor', ['0']],
  ['GNU.sparse.realsize', ['20', '1000000']],
  ['GNU.sparse.name', ['sp', '../sp']],
]

function makeArchive(random: Random): Buffer {
  const parts: (Buffer | RawEntry)[] = []
  const count = random.below(12) + 1
  for (let i = 0; i < count; i++) {
    const entry: RawEntry = {
      name: random.pick(random.chance(0.03) ? hostileNames : names),
      type: random.pick(random.chance(0.02) ? hostileTypes : types),
      mode: random.below(0o10000),
      mtime: random.below(2_000_000_000),
    }
    // of other types no data follows; a few that say so are damage enough
    if ('07\0DV'.includes(entry.type ?? '0') ? random.chance(0.5) : random.chance(0.01)) {
      entry.data = Buffer.alloc(random.below(2000), 0x30 + random.below(60))
    }
    if (entry.type === '1' || entry.type === '2')
      entry.linkName = random.pick(random.chance(0.2) ? hostileTargets : targets)
    if (random.chance(0.15)) {
      entry.pax = {}
      for (let n = random.below(4); n >= 0; n--) {
        const [key, values] = random.pick(paxKeys)
        entry.pax[key] = random.pick(values)
      }
    }
    if (random.below(20) === 0) parts.push(pax({ [random.pick(paxKeys)[0]]: 'x' }, 'g'))
    if (random.below(20) === 0)
      parts.push({
        name: 'L',
        type: random.pick(['L', 'K']),
        data: `d/${'n'.repeat(random.below(200))}${random.pick(['', '', '/'])}\0`,
      })
    parts.push(entry)
  }
  return tar(...parts)
}

function damage(random: Random, archive: Buffer): Buffer {
  let bytes = Buffer.from(archive)
  for (let n = random.below(4); n > 0; n--) {
    const at = random.below(bytes.length)
    switch (random.below(6)) {
      case 0:
        bytes[at] = random.below(256)
        break
      case 1:
        bytes = bytes.subarray(0, at)
        break
      case 2: // a header field changed, the checksum right
        if (bytes.length >= 512) {
          const block = Math.floor(at / 512) * 512
          if (block + 512 > bytes.length) break
          bytes[block + random.below(500)] = random.pick([
            0,
            0x20,
            0x2f,
            0x37,
            0x80,
            0xff,
            0x30 + random.below(10),
          ])
          sealed(bytes.subarray(block, block + 512))
        }
        break
      case 3: // blocks given twice
        bytes = Buffer.concat([
          bytes.subarray(0, at - (at % 512)),
          bytes.subarray(Math.max(0, at - 1024 - (at % 512))),
        ])
        break
      case 4: // a block missing
        bytes = Buffer.concat([bytes.subarray(0, at - (at % 512)), bytes.subarray(at - (at % 512) + 512)])
        break
      case 5:
        bytes.fill(random.below(256), at, Math.min(bytes.length, at + random.below(64)))
    }
    if (bytes.length === 0) break
  }
  return bytes
}

export type RoundResult = 'unpacked' | 'refused'

/** @throws when something is wrong; `seed` makes the same round again */
export async function tarRound(seed: number): Promise<RoundResult> {
  const random = new Random(seed)
  const whole = makeArchive(random)
  const archive = random.below(3) === 0 ? whole : damage(random, whole)
  using place = new Place()
  using around = sys.openat(sys.AT_FDCWD, place.path, sys.O_RDONLY | sys.O_DIRECTORY)
  using split = place.open('split')
  sys.openat(around.n, 'x', sys.O_WRONLY | sys.O_CREAT, 0o600).close()
  const before = listTree(around.n).filter(line => !line.startsWith('root'))
  const options = {
    whiteouts: 'overlay',
    record: recordTarSplit(split.n),
    limits: { bytes: 1 << 24 },
  } as const
  let failure: unknown
  try {
    await applyTar(place.root.n, chunked(archive, random.below(3000) + 1), options)
  } catch (error) {
    failure = error
  }
  const relevant = (line: string) => !line.startsWith('root') && !line.startsWith('split')
  const after = listTree(around.n).filter(relevant)
  if (after.join('\n') !== before.filter(relevant).join('\n'))
    throw new Error(`something outside changed: ${after.join('\n')}`)
  if (failure !== undefined) {
    if (failure instanceof OciError || failure instanceof SysError) return 'refused'
    throw failure
  }
  const back = await collect(replayTarSplit(split.n, place.root.n))
  if (!back.equals(archive)) throw new Error('the replay is another archive')
  // out and in again: the same tree
  const out = await collect(tarTree(place.root.n, { contents: 'layer' }))
  using again = new Place()
  await applyTar(again.root.n, chunked(out), { whiteouts: 'overlay' })
  const twice = await collect(tarTree(again.root.n, { contents: 'layer' }))
  if (digestOf(out) !== digestOf(twice)) {
    throw new Error(
      `not the same tree:\n${listTree(place.root.n).join('\n')}\n\n${listTree(again.root.n).join('\n')}`,
    )
  }
  return 'unpacked'
}
