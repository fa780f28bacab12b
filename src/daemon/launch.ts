import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { closeSync, openSync, statSync } from 'node:fs'
import type { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { toUtf8 } from '../base/bytes.js'
import { encodeSpec, type MountSpec } from './spec.js'

/**
 * Starting a daemon. It is a process of its own: a process that touched its own mount would wait for itself.
 *
 * Descriptor 3 of the daemon is a socket to whoever starts it. One line goes in (the MountSpec), one comes out:
 * `{"ready":…}` when the mount is there, or `{"error":"…"}`. A detached daemon then closes it; one that is bound to its starter
 * keeps it, and unmounts when it reads end-of-file: its starter is gone.
 */
export type StartupReply = { ready: { pid: number; notes?: string[] } } | { error: string }

export interface LaunchOptions {
  /** The daemon shares this process's group (Ctrl-C reaches it), standard output and error, and ends with it. */
  foreground?: boolean
  /** The daemon ends with this process, in whatever way that ends. Implied by `foreground`. */
  bound?: boolean
  /** A file to which the daemon's standard error is appended; without one it goes nowhere. */
  log?: string
}

export interface Launched {
  pid: number
  /** What the layers make impossible, a line each for people. */
  notes: readonly string[]
  /** Resolves when the daemon has ended, with its exit code. */
  ended: Promise<number>
  kill: (signal: NodeJS.Signals) => void
  /** Whether the daemon's end is something that this process stays for. */
  setRef: (on: boolean) => void
}

/** Mounting failed; the message is one line for people. Nothing is mounted and no process is left. */
export class MountError extends Error {}

/** Threads for copy-up, fsync and the like. libuv's default of 4 lets four slow ones stop everything else. */
const THREADS = '16'

/** A reply longer than this is no reply of ours. */
const REPLY_LIMIT = 65_536

/** Starts the daemon and waits until the mount is there. @throws MountError */
export async function launch(spec: MountSpec, options: LaunchOptions = {}): Promise<Launched> {
  const main = mainFile()
  const foreground = options.foreground === true
  const bound = foreground || options.bound === true
  const log = options.log === undefined ? undefined : openLog(options.log)
  const output = log ?? (foreground ? 'inherit' : 'ignore')
  const stdio: StdioOptions = ['ignore', foreground ? 'inherit' : output, output, 'pipe']
  let child: ChildProcess
  try {
    const env: NodeJS.ProcessEnv = { ...process.env, UV_THREADPOOL_SIZE: THREADS }
    // Node 20 reads these certificates when it starts, whoever needs them: half of its start, and a daemon speaks to no server.
    delete env['NODE_EXTRA_CA_CERTS']
    if (spec.debug) env['LAMINA_DEBUG'] ??= 'fuse,overlay,daemon'
    if (bound) env['LAMINA_BOUND'] = '1'
    // The mountpoint is for people who look at ps; the daemon takes it from the spec.
    const daemon = [process.execPath, main, toUtf8(spec.overlay.mountpoint)]
    const [program = '', ...args] = [...(spec.keeper ? keeperProgram() : []), ...daemon]
    child = spawn(program, args, {
      cwd: '/',
      detached: !foreground,
      env,
      stdio,
    })
  } finally {
    if (log !== undefined) closeSync(log)
  }
  const exited = new Promise<number>(resolve => {
    child.once('exit', (code, signal) => resolve(code ?? (signal === null ? 1 : 128)))
    child.once('error', () => resolve(1))
  })
  const reply = await startup(child, spec)
  if ('error' in reply) {
    await exited
    throw new MountError(reply.error)
  }
  const channel = child.stdio[3] as Socket
  const setRef = (on: boolean): void => {
    if (on) child.ref()
    else child.unref()
    // It reads nothing more: it is only there to break when this process ends.
    channel.unref()
  }
  if (!bound) channel.destroy()
  setRef(foreground)
  const { pid, notes = [] } = reply.ready
  return { pid, notes, ended: exited, kill: signal => void child.kill(signal), setRef }
}

/** The keeper's file, where it was built: beside the addon. A mount without it lives as long as its daemon. */
export function keeperProgram(): string[] {
  const places = ['build/Release', `prebuilds/linux-${process.arch}`]
  const files = places.map(place =>
    fileURLToPath(new URL(`../../../${place}/lamina-keeper`, import.meta.url)),
  )
  return files.filter(file => statSync(file, { throwIfNoEntry: false }) !== undefined).slice(0, 1)
}

/** What Node runs for a daemon. */
export function mainFile(): string {
  return fileURLToPath(new URL('../../../bin/daemon.js', import.meta.url))
}

function openLog(path: string): number {
  try {
    return openSync(path, 'a', 0o600)
  } catch (error) {
    throw new MountError(`cannot write the log: ${(error as Error).message}`)
  }
}

/** Sends the spec and takes the one line of answer. */
function startup(child: ChildProcess, spec: MountSpec): Promise<StartupReply> {
  return new Promise(resolve => {
    child.once('error', error => resolve({ error: `cannot start the daemon: ${error.message}` }))
    const channel = child.stdio[3] as Socket | null | undefined
    if (channel === null || channel === undefined) return
    let input = ''
    channel.setEncoding('utf8')
    channel.on('data', (chunk: string) => {
      input += chunk
      const end = input.indexOf('\n')
      if (end >= 0) resolve(JSON.parse(input.slice(0, end)) as StartupReply)
      else if (input.length > REPLY_LIMIT) channel.destroy()
    })
    channel.on('error', () => channel.destroy())
    channel.on('close', () => {
      // Without an answer: it crashed before it could say anything.
      const say = (how: string): void =>
        resolve({ error: `the daemon ended before the mount was there (${how})` })
      if (child.exitCode !== null || child.signalCode !== null)
        say(child.signalCode ?? `exit ${child.exitCode}`)
      else child.once('exit', (code, signal) => say(signal ?? `exit ${code}`))
    })
    channel.write(`${encodeSpec(spec)}\n`)
  })
}
