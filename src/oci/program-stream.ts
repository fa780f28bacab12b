import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { asBuffer, OciError, type ByteSource } from './error.js'

const found = new Map<string, string | undefined>()

/** The program's path in $PATH, or undefined. Looked up once. */
export function findProgram(name: string): string | undefined {
  if (found.has(name)) return found.get(name)
  let result: string | undefined
  for (const directory of (process.env['PATH'] ?? '/usr/bin:/bin').split(delimiter)) {
    const path = join(directory || '.', name)
    try {
      accessSync(path, constants.X_OK)
      result = path
      break
    } catch {
      // not here
    }
  }
  found.set(name, result)
  return result
}

/**
 * Passes `source` through a filter program. The program is ended when the reader stops early.
 * @throws OciError `malformed` with the program's last line when it exits with an error
 */
export async function* throughProgram(
  source: ByteSource,
  path: string,
  args: readonly string[],
  what: string,
): AsyncGenerator<Buffer, void, void> {
  const child = spawn(path, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint = (complaint + text).slice(-2000)))
  const exited = new Promise<string | undefined>(resolve => {
    child.once('error', error => resolve(error.message))
    child.once('close', (code, signal) => {
      if (code === 0) return resolve(undefined)
      resolve(complaint.trim().split('\n').at(-1) || `exit ${code ?? signal ?? 'unknown'}`)
    })
  })
  // a filter that stopped reading answers with EPIPE; its exit code says why
  child.stdin.on('error', () => undefined)
  let sourceFailed = false
  let sourceError: unknown
  let stopped = false
  const feeding = (async () => {
    try {
      for await (const chunk of source) {
        if (stopped || child.stdin.destroyed) break
        if (!child.stdin.write(asBuffer(chunk))) {
          await new Promise<void>(resolve => {
            const done = () => {
              child.stdin.off('drain', done).off('close', done)
              resolve()
            }
            child.stdin.on('drain', done).on('close', done)
            if (child.stdin.destroyed) done()
          })
        }
      }
      child.stdin.end()
    } catch (error) {
      sourceFailed = true
      sourceError = error
      child.kill('SIGKILL')
    }
  })()
  try {
    for await (const chunk of child.stdout) yield chunk as Buffer
    const failure = await exited
    if (failure !== undefined) {
      if (sourceFailed) throw sourceError
      throw new OciError('malformed', `${what}: ${failure}`)
    }
    await feeding
    if (sourceFailed) throw sourceError
  } finally {
    stopped = true
    child.kill('SIGKILL')
    child.stdin.destroy()
    child.stdout.destroy()
    await exited
  }
}
