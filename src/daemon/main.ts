/**
 * What bin/daemon.js runs: takes its orders from descriptor 3 and hands over to serve.ts. Kept without imports of its own,
 * so that whatever fails, a missing addon included, is still told to whoever waits.
 */
import { readSync, writeSync } from 'node:fs'

/** To whoever started this process; see launch.ts. */
const STARTER = 3

function readLine(): string {
  const chunks: Buffer[] = []
  const chunk = Buffer.alloc(65_536)
  for (;;) {
    const length = readSync(STARTER, chunk)
    if (length === 0) throw new Error('nothing to mount was given: start lamina mount')
    const end = chunk.subarray(0, length).indexOf(10)
    chunks.push(Buffer.from(chunk.subarray(0, end < 0 ? length : end)))
    if (end >= 0) return Buffer.concat(chunks).toString('utf8')
  }
}

/** The daemon's life; ends the process. `started` is called once it serves. */
export async function main(started: () => void): Promise<never> {
  try {
    // A daemon that takes over finds all it needs in what the keeper has.
    const line = process.env['LAMINA_KEEPER_FDS'] === undefined ? readLine() : undefined
    const { serve, takeOver } = await import('./serve.js')
    process.exitCode = await (line === undefined ? takeOver(STARTER, started) : serve(line, STARTER, started))
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    const text = message.replaceAll('\n', ' ')
    try {
      writeSync(STARTER, `${JSON.stringify({ error: text })}\n`)
    } catch {
      process.stderr.write(`lamina: ${text}\n`)
    }
    process.exitCode = 1
  }
  // Nothing may keep a daemon without a mount alive, an idle control client for one.
  process.exit()
}
