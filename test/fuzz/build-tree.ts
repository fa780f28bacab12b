import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { createHash } from 'node:crypto'

/** Every path with its type, mode, owner, content or target, and the first name of a file with several. */
export function treeLines(root: string): string[] {
  const lines: string[] = []
  const first = new Map<number, string>()
  const walk = (dir: string, shown: string): void => {
    for (const name of readdirSync(Buffer.from(dir, 'latin1'), { encoding: 'latin1' }).sort()) {
      const path = Buffer.from(`${dir}/${name}`, 'latin1')
      const stat = lstatSync(path)
      const as = `${shown}/${Buffer.from(name, 'latin1').toString()}`
      const owner = `${stat.uid}:${stat.gid}`
      const mode = (stat.mode & 0o7777).toString(8)
      if (stat.isSymbolicLink()) lines.push(`${as} -> ${readlinkSync(path)} ${owner}`)
      else if (stat.isDirectory()) {
        lines.push(`${as}/ ${mode} ${owner}`)
        walk(path.toString('latin1'), as)
      } else {
        const content = createHash('sha256').update(readFileSync(path)).digest('hex').slice(0, 8)
        const link = stat.nlink > 1 ? ` = ${first.get(stat.ino) ?? as}` : ''
        if (stat.nlink > 1 && !first.has(stat.ino)) first.set(stat.ino, as)
        lines.push(`${as} ${mode} ${owner} ${content}${link}`)
      }
    }
  }
  walk(Buffer.from(root).toString('latin1'), '')
  return lines
}
