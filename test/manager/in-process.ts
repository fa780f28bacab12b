import { main } from '../../src/cli/main.js'
import type { Bench } from './fixture.js'

/**
 * `lamina` in this process: what the program does and prints, without the time that starting it takes. Only for
 * commands that write text to standard output and start no others on it.
 */
export class InProcess {
  constructor(readonly bench: Bench) {}

  async lamina(...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
    const said = { stdout: '', stderr: '' }
    const before = { root: process.env['LAMINA_ROOT'], code: process.exitCode }
    const originals = { stdout: process.stdout.write, stderr: process.stderr.write }
    process.env['LAMINA_ROOT'] = this.bench.root
    for (const name of ['stdout', 'stderr'] as const) {
      process[name].write = (chunk: string | Uint8Array): boolean => {
        said[name] += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8')
        return true
      }
    }
    try {
      return { status: await main(args), ...said }
    } finally {
      process.stdout.write = originals.stdout
      process.stderr.write = originals.stderr
      process.exitCode = before.code
      if (before.root === undefined) delete process.env['LAMINA_ROOT']
      else process.env['LAMINA_ROOT'] = before.root
    }
  }

  /** Standard output of a command that must succeed. */
  async run(...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.lamina(...args)
    if (status !== 0) throw new Error(`lamina ${args.join(' ')} ended with ${status}: ${stderr}`)
    return stdout
  }
}
