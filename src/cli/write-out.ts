import { createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { compress, type ByteSource, type Compression } from '../oci/index.js'
import { CliError } from './output.js'
import { ProgressBars } from './progress.js'
import { stdoutForBytes } from './store-command.js'

export interface WriteOut {
  readonly compression?: string
  readonly total?: number
  readonly signal?: AbortSignal
}

/** Writes a stream to a file (complete or not at all) or to standard output. */
export async function writeOut(
  source: ByteSource,
  output: string | undefined,
  what: string,
  options: WriteOut = {},
): Promise<void> {
  using bars = new ProgressBars()
  const counted = counting(source, done => bars.update('out', 'writing', done, options.total))
  const bytes = compressed(counted, options.compression ?? 'plain')
  const signal = options.signal === undefined ? {} : { signal: options.signal }
  if (output === undefined || output === '-') {
    try {
      await pipeline(bytes, stdoutForBytes(what), { ...signal, end: false })
    } finally {
      // A reader that went away ends the pipeline before its source has cleaned up.
      await counted.return()
    }
    return
  }
  const temporary = `${output}.${process.pid}.partial`
  try {
    await pipeline(bytes, createWriteStream(temporary, { flags: 'wx' }), signal)
    await rename(temporary, output)
  } catch (error) {
    await counted.return()
    await rm(temporary, { force: true })
    throw error
  }
}

function compressed(source: ByteSource, kind: string): ByteSource {
  const known: readonly Compression[] = ['plain', 'gzip', 'zstd']
  const wanted = known.find(name => name === kind)
  if (wanted === undefined) throw new CliError(`--compression takes plain, gzip or zstd, not ${kind}`, 2)
  return wanted === 'plain' ? source : compress(source, wanted)
}

async function* counting(source: ByteSource, onBytes: (done: number) => void): ByteGenerator {
  let done = 0
  for await (const chunk of source) {
    done += chunk.length
    onBytes(done)
    yield chunk
  }
}

type ByteGenerator = AsyncGenerator<Uint8Array, void, void>
