import { OciError, TarReader } from '../../../src/oci/index.js'
import { entry, header, padded, pax, sealed, tar } from '../../unit/oci-fixture.js'
import { isFault, type Target } from './target.js'

/** The framing of archives. However the bytes come, the entries are the same, and every byte is data or kept for the exact copy. */
export function tarReader(): Target {
  const map = padded(Buffer.from('1\n0\n3\n'))
  const gnu = header({ name: 'gnu', type: 'S', size: 4, magic: 'ustar  \0' })
  ;[0, 4].forEach((value, i) => gnu.write(`${value.toString(8).padStart(11, '0')}\0`, 386 + 12 * i, 'latin1'))
  gnu.write('00000000100\0', 483, 'latin1')
  return {
    seeds: [
      tar(
        { name: 'd/', type: '5' },
        { name: 'd/f', data: 'hello' },
        { name: 'l', type: '1', linkName: 'd/f' },
      ),
      tar({ name: 'docs/', data: 'hi\n', pax: { path: 'docs/\xe7\x9b\xae', size: '3', mtime: '-1.5' } }),
      tar(pax({ mtime: '5', comment: 'x' }, 'g'), { name: 'f', type: '\0' }),
      tar(entry({ name: '././@LongLink', type: 'L', data: 'd/long/\0', magic: 'ustar  \0' }), {
        name: 'd/',
        type: '\0',
      }),
      tar(
        { name: 'x', data: 'abc', pax: { 'GNU.sparse.size': '9', 'GNU.sparse.map': '0,3' } },
        {
          name: 'GNUSparseFile.0/y',
          data: Buffer.concat([map, Buffer.from('abc')]),
          pax: {
            'GNU.sparse.major': '1',
            'GNU.sparse.minor': '0',
            'GNU.sparse.realsize': '9',
            'GNU.sparse.name': 'y',
          },
        },
      ),
      Buffer.concat([sealed(gnu), padded(Buffer.from('data')), tar({ name: 'last' })]),
      tar({ name: 'a', pax: { 'SCHILY.xattr.user.a': '', 'LIBARCHIVE.xattr.user.b': 'eHg=' } }),
    ],
    covers: ['/src/oci/tar-reader', '/src/oci/tar-entry', '/src/oci/tar-format'],
    run(input) {
      const whole = read(input, input.length || 1)
      for (const size of [input.length < 4096 ? 1 : 97, 511]) {
        const parts = read(input, size)
        if (JSON.stringify(parts) !== JSON.stringify(whole))
          throw new Error(`another archive in pieces of ${size}`)
      }
    },
    close: () => undefined,
  }
}

function read(input: Buffer, pieces: number): unknown {
  const entries: unknown[] = []
  let bytes = 0
  const reader = new TarReader({
    entry(found) {
      // What has a member of its own for each attribute.
      entries.push({
        ...found,
        xattrs: [...(found.xattrs ?? [])].map(([key, value]) => [key, value.toString('hex')]),
      })
      return found.size % 2 === 0 ? 'store' : 'skip'
    },
    data: chunk => void (bytes += chunk.length),
    entryEnd: () => undefined,
    raw: chunk => void (bytes += chunk.length),
  })
  try {
    for (let at = 0; at < input.length; at += pieces) reader.write(input.subarray(at, at + pieces))
    reader.finish()
  } catch (error) {
    if (isFault(error) || !(error instanceof OciError)) throw error
    // Where it stops depends on the pieces only where the end is missing.
    return [entries, error.code]
  }
  if (bytes !== input.length) throw new Error(`${bytes} of ${input.length} bytes were given on`)
  return entries
}
