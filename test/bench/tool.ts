import { spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** Starting the ordinary tools that are measured, and the project's own. A tool that fails ends the sample. */

/** The project's directory, from dist/test/bench. */
export const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..')

export interface ToolOptions {
  cwd?: string
  env?: Record<string, string>
  input?: string
}

/** What a tool sees of the environment: nothing of the caller's settings. */
function environment(more: Record<string, string> = {}): Record<string, string> {
  return {
    PATH: process.env['PATH'] ?? '/usr/bin:/bin:/usr/sbin:/sbin',
    LC_ALL: 'C',
    HOME: '/nonexistent',
    ...more,
  }
}

/** Runs to the end. @returns standard output @throws Error with what it wrote to standard error */
export function run(command: string, args: readonly string[], options: ToolOptions = {}): string {
  const done = spawnSync(command, args, {
    env: environment(options.env),
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.input === undefined ? {} : { input: options.input }),
  })
  if (done.status !== 0) {
    const why = done.error?.message ?? `${done.signal ?? `exit ${done.status}`}: ${done.stderr.slice(-2000)}`
    throw new Error(`${command} ${args.join(' ').slice(0, 300)}: ${why}`)
  }
  return done.stdout
}

/** As run(), with standard output thrown away by the kernel: what a long `find -ls` prints costs its reader nothing. */
export function runQuietly(command: string, args: readonly string[], options: ToolOptions = {}): void {
  const done = spawnSync(command, args, {
    env: environment(options.env),
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  })
  if (done.status !== 0)
    throw new Error(
      `${command} ${args.join(' ').slice(0, 300)}: exit ${done.status}: ${done.stderr.slice(-2000)}`,
    )
}

/** Starts one that runs beside others. */
export async function runBeside(
  command: string,
  args: readonly string[],
  options: ToolOptions = {},
): Promise<string> {
  const child = spawn(command, args, {
    env: environment(options.env),
    stdio: ['ignore', 'pipe', 'inherit'],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  })
  const output: Buffer[] = []
  child.stdout.on('data', (data: Buffer) => output.push(data))
  return await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', code => {
      if (code === 0) resolve(Buffer.concat(output).toString())
      else reject(new Error(`${command} ${args.join(' ').slice(0, 300)}: exit ${code}`))
    })
  })
}

export function lamina(...args: string[]): string {
  return run(process.execPath, [path.join(PROJECT, 'bin/lamina.js'), ...args], {
    env:
      process.env['XDG_RUNTIME_DIR'] === undefined ? {} : { XDG_RUNTIME_DIR: process.env['XDG_RUNTIME_DIR'] },
  })
}

/** Whether a program is on PATH. */
export function installed(command: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some(dir => fs.existsSync(path.join(dir, command)))
}

/** Result of one loop of syscalls: see loop.ts. */
export interface LoopResult {
  /** How many were done. */
  count: number
  /** Nanoseconds for all of them. */
  total: number
  /** Nanoseconds of single ones, sorted; empty where only the total was measured. */
  each: number[]
}

const LOOP = path.join(PROJECT, 'dist/test/bench/loop.js')

export function loop(operation: string, directory: string, list: string): LoopResult {
  return JSON.parse(run(process.execPath, [LOOP, operation, directory, list])) as LoopResult
}

export async function loopBeside(operation: string, directory: string, list: string): Promise<LoopResult> {
  return JSON.parse(await runBeside(process.execPath, [LOOP, operation, directory, list])) as LoopResult
}
