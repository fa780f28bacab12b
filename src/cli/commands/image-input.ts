import { createReadStream, existsSync, statSync } from 'node:fs'
import { CliError } from '../output.js'

export interface Input {
  readonly path?: string
  readonly total?: number
}

/** A path, `-`, or standard input where there is something to read. */
export function inputOf(path: string | undefined, what: string): Input {
  if (path === undefined || path === '-') {
    if (process.stdin.isTTY) throw new CliError(`no ${what}: name a file, or pipe one to standard input`, 2)
    return {}
  }
  if (!existsSync(path)) throw new CliError(`cannot read ${path}: no such file or directory`)
  const stat = statSync(path)
  return stat.isFile() ? { path, total: stat.size } : { path }
}

export function openInput(input: Input): AsyncIterable<Uint8Array> {
  if (input.path !== undefined) return createReadStream(input.path, { highWaterMark: 1 << 20 })
  return process.stdin
}
