/** Runs one command in a root filesystem: by an OCI runtime, else in namespaces made with unshare(1). */
import { randomBytes } from 'node:crypto'
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { RunningProcess } from './containers/uses.js'
import type { Fd } from '../base/fd.js'
import * as sys from '../sys/index.js'
import { enteringProgram, enteringRequest } from './namespaces/entering.js'
import { PROGRAM_FD, REQUEST_FD, type EnterRequest } from './namespaces/request.js'
import { writeBundle, type BundleOptions } from './oci-bundle.js'
import { findProgram, findRuntime, runtimeCommand } from './oci-runtime.js'
import { StoreError } from './store-error.js'
import { passOn, passTerminal, Pipes, safeStreams } from './streams.js'

export interface RunOptions extends BundleOptions {
  /** What the runtime calls the container. */
  readonly id?: string
  /** A directory of one's own, for the bundle. */
  readonly scratch: string
  /** Standard input, output and error. */
  readonly stdio: readonly ['ignore' | 'inherit', 'pipe' | 'inherit', 'pipe' | 'inherit']
  readonly signal?: AbortSignal
  /** An OCI runtime writes the pid here when the command is there. */
  readonly pidFile?: string
  /** Told before an OCI runtime starts. */
  readonly onRuntime?: (process: RunningProcess) => void
  /** Told of the process, to read its output. */
  readonly onStart?: (child: ChildProcess) => void
}

const ENTER = fileURLToPath(new URL('namespaces/program.js', import.meta.url))

/** The exit code; 128 and the signal's number for a command that was killed. */
export async function runProcess(options: RunOptions): Promise<number> {
  options.signal?.throwIfAborted()
  const runtime = findRuntime()
  if (runtime === undefined) return await runInNamespaces(options)
  const id = options.id ?? `lamina-${randomBytes(6).toString('hex')}`
  const bundle = join(options.scratch, 'bundle')
  writeBundle(bundle, options)
  const command = runtimeCommand(runtime)
  options.onRuntime?.({ kind: 'runtime', command, id })
  const pidFile = options.pidFile === undefined ? [] : ['--pid-file', options.pidFile]
  const words = [...command, 'run', '--bundle', bundle, ...pidFile, id]
  // Ended through the runtime: it kills what runs inside and removes its state.
  const stop = (): void =>
    void spawn(command[0] ?? '', [...command.slice(1), 'delete', '--force', id], { stdio: 'ignore' })
  return await execute(words, options, stop)
}

/** For hosts without a runtime: the same mounts, namespaces, capabilities and system calls; no cgroup, so no devices. */
async function runInNamespaces(options: RunOptions): Promise<number> {
  const unshare = findProgram('unshare')
  if (unshare === undefined) {
    throw new StoreError('unsupported', 'nothing here can run a command in an image', 'install crun or runc')
  }
  if (options.ids !== undefined) {
    throw new StoreError('unsupported', '--uidmap needs an OCI runtime', 'install crun or runc')
  }
  const namespaces = ['--mount', '--pid', '--uts', '--ipc', '--cgroup', '--propagation', 'private']
  if (options.network === 'none') namespaces.push('--net')
  const words = [unshare, ...namespaces, '--fork', '--kill-child', '--', process.execPath, ENTER]
  const bundle = bundleOf(options)
  const request: EnterRequest = { bundle }
  return await execute(words, options, child => child.kill('SIGKILL'), {
    bytes: JSON.stringify(request),
    terminal: options.terminal === true,
  })
}

/** One more command beside the process `pid`, the first of a container that {@link runProcess} started without a runtime. */
export async function enterNamespaces(
  pid: number,
  bundle: BundleOptions,
  stdin: 'ignore' | 'inherit',
  onStart: (child: ChildProcess) => void,
): Promise<number> {
  using program = enteringProgram()
  const options = { stdio: [stdin, 'inherit', 'inherit'] as const, onStart }
  // In the child it is the descriptor behind the others.
  const words = [`/proc/self/fd/${PROGRAM_FD}`, String(REQUEST_FD)]
  return await execute(words, options, child => child.kill('SIGKILL'), {
    bytes: enteringRequest(bundle, pid),
    terminal: bundle.terminal === true,
    program,
  })
}

/** What the entering program needs of the options, which hold functions too. */
function bundleOf(options: RunOptions): BundleOptions {
  const { rootfs, args, env, cwd, user, hostname, network, readOnly, mounts, terminal, security } = options
  return {
    rootfs,
    args,
    env,
    cwd,
    user,
    network,
    ...(hostname === undefined ? {} : { hostname }),
    ...(readOnly === undefined ? {} : { readOnly }),
    ...(mounts === undefined ? {} : { mounts }),
    ...(terminal === undefined ? {} : { terminal }),
    ...(security === undefined ? {} : { security }),
  }
}

/** What is started without a runtime. */
interface Entering {
  /** Read from {@link REQUEST_FD}. */
  readonly bytes: Buffer | string
  /** It gets a terminal of its own. */
  readonly terminal: boolean
  /** For {@link PROGRAM_FD}. */
  readonly program?: Fd
}

/** Runs what starts a command in a container, to its end. */
export async function execute(
  words: readonly string[],
  options: Pick<RunOptions, 'stdio' | 'signal' | 'onStart' | 'terminal'>,
  stop: (child: ChildProcess) => void,
  entering?: Entering,
): Promise<number> {
  const [program = '', ...args] = words
  const ownTerminal = entering?.terminal === true
  // A runtime passes this terminal on itself.
  const wanted = ownTerminal ? (['ignore', 'ignore', 'inherit'] as const) : options.stdio
  const used = options.terminal === true || ownTerminal ? [...wanted] : safeStreams(wanted)
  const [ours, theirs] = ownTerminal ? sys.socketpair(sys.SOCK_STREAM | sys.SOCK_NONBLOCK) : []
  using socket = ours
  const pipes = new Pipes(used)
  const stdio: StdioOptions = [...pipes.stdio]
  if (entering !== undefined) stdio.push('pipe', theirs?.n ?? 'ignore', entering.program?.n ?? 'ignore')
  // What this process was started with is not for a container: a directory among it leads out of any root (CVE-2024-21626).
  sys.closeOnExec(3)
  const child = spawn(program, args, { stdio })
  theirs?.close()
  pipes.attach(child)
  const requests = child.stdio[REQUEST_FD]
  if (entering !== undefined && requests !== null && requests !== undefined && 'end' in requests) {
    // It may have ended before it read: its exit code says so.
    requests.on('error', () => undefined)
    requests.end(entering.bytes)
  }
  options.onStart?.(child)
  if (!ownTerminal) passOn(child, wanted, used)
  const terminal = socket === undefined ? undefined : passTerminal(child, socket)
  const onAbort = (): void => stop(child)
  options.signal?.addEventListener('abort', onAbort)
  try {
    const code = await new Promise<number>((resolve, reject) => {
      child.once('error', reject)
      child.once('exit', (status, signal) => resolve(status ?? 128 + signalNumber(signal)))
    })
    await pipes.ended()
    await terminal
    options.signal?.throwIfAborted()
    return code
  } finally {
    options.signal?.removeEventListener('abort', onAbort)
  }
}

function signalNumber(signal: NodeJS.Signals | null): number {
  return signal === 'SIGKILL' ? 9 : signal === 'SIGINT' ? 2 : 15
}
