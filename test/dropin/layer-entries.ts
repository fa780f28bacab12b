import { createHash, type Hash } from 'node:crypto'
import fs from 'node:fs'
import { TarReader, type TarEntry } from '../../src/oci/index.js'

/** What an archive holds, one line an entry, sorted: path, type, mode, owner, size, link, device, xattrs, SHA-256 of the data. */
export function entriesOf(file: string): string[] {
  const lines: string[] = []
  let entry: TarEntry | undefined
  let hash: Hash | undefined
  const reader = new TarReader({
    entry: given => {
      entry = given
      hash = createHash('sha256')
      return 'store'
    },
    data: chunk => void hash?.update(chunk),
    entryEnd: () => {
      if (entry !== undefined) lines.push(lineOf(entry, hash?.digest('hex') ?? ''))
    },
  })
  reader.write(fs.readFileSync(file))
  reader.finish()
  return lines.sort()
}

function lineOf(e: TarEntry, digest: string): string {
  const xattrs = [...(e.xattrs ?? [])].map(([name, value]) => `${name}=${value.toString('hex')}`).sort()
  const parts = [
    e.path.replace(/^\.\//, ''),
    e.type,
    e.mode.toString(8),
    `${e.uid}:${e.gid}`,
    `${e.size}`,
    e.linkPath,
    `${e.devMajor}:${e.devMinor}`,
    xattrs.join(','),
    digest.slice(0, 16),
  ]
  return parts.join(' | ')
}
