/** Runs one command in a root filesystem: by an OCI runtime, else in namespaces made with unshare(1). */
import { randomBytes } from 'node:crypto'
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { RunningProcess } from './containers/uses.js'
import type { EnterRequest } from './namespaces/request.js'
import { writeBundle, type BundleOptions } from './oci-bundle.js'
import { findProgram, findRuntime, runtimeCommand } from './oci-runtime.js'
import { StoreError } from './store-error.js'

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

/** For hosts without a runtime: the same mounts, namespaces and capabilities; no seccomp, no cgroup. */
async function runInNamespaces(options: RunOptions): Promise<number> {
  const unshare = findProgram('unshare')
  if (unshare === undefined) {
    throw new StoreError('unsupported', 'nothing here can run a command in an image', 'install crun or runc')
  }
  if (options.ids !== undefined) {
    throw new StoreError('unsupported', '--uidmap needs an OCI runtime', 'install crun or runc')
  }
  const namespaces = ['--mount', '--pid', '--uts', '--ipc', '--propagation', 'private']
  if (options.network === 'none') namespaces.push('--net')
  const words = [unshare, ...namespaces, '--fork', '--kill-child', '--', process.execPath, ENTER]
  return await execute(words, options, child => child.kill('SIGKILL'), { bundle: bundleOf(options) })
}

/** One more command beside the child of `keeper`, which {@link runProcess} started without a runtime. */
export async function enterNamespaces(
  pid: number,
  bundle: BundleOptions,
  stdin: 'ignore' | 'inherit',
  onStart: (child: ChildProcess) => void,
): Promise<number> {
  const nsenter = findProgram('nsenter')
  if (nsenter === undefined) {
    throw new StoreError('unsupported', 'exec needs nsenter(1) here', 'install util-linux, crun or runc')
  }
  // The host's network is here already, and an ordinary user may not enter it.
  const net = bundle.network === 'host' ? [] : ['--net']
  const words = [nsenter, '--target', String(pid), '--uts', '--ipc', ...net, '--pid', '--']
  const options = { stdio: [stdin, 'inherit', 'inherit'] as const, onStart }
  const request = { pid, bundle }
  return await execute([...words, process.execPath, ENTER], options, child => child.kill('SIGKILL'), request)
}

/** What the entering program needs of the options, which hold functions too. */
function bundleOf(options: RunOptions): BundleOptions {
  const { rootfs, args, env, cwd, user, hostname, network, readOnly, mounts } = options
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
  }
}

async function execute(
  words: readonly string[],
  options: Pick<RunOptions, 'stdio' | 'signal' | 'onStart'>,
  stop: (child: ChildProcess) => void,
  request?: EnterRequest,
): Promise<number> {
  const [program = '', ...args] = words
  const stdio: StdioOptions = [...options.stdio, ...(request === undefined ? [] : ['pipe' as const])]
  const child = spawn(program, args, { stdio })
  const requests = child.stdio[3]
  if (request !== undefined && requests !== null && requests !== undefined && 'end' in requests) {
    // It may have ended before it read: its exit code says so.
    requests.on('error', () => undefined)
    requests.end(JSON.stringify(request))
  }
  options.onStart?.(child)
  const onAbort = (): void => stop(child)
  options.signal?.addEventListener('abort', onAbort)
  try {
    const code = await new Promise<number>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', (status, signal) => resolve(status ?? 128 + signalNumber(signal)))
    })
    options.signal?.throwIfAborted()
    return code
  } finally {
    options.signal?.removeEventListener('abort', onAbort)
  }
}

function signalNumber(signal: NodeJS.Signals | null): number {
  return signal === 'SIGKILL' ? 9 : signal === 'SIGINT' ? 2 : 15
}
