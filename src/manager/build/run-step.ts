/** RUN: a command in the tree of a step. */
import { fromUtf8 } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import type { RunMount } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import { resolveUser } from '../container-user.js'
import { withVariable } from '../config-change.js'
import { makeInRoot } from '../mounts/target.js'
import type { BundleMount } from '../oci-bundle.js'
import { runProcess } from '../run-process.js'
import { StoreError } from '../store-error.js'
import { RunMounts, type MountSources } from './run-mounts.js'
import { StepMemory } from './step-memory.js'
import { StepMounts } from './step-mounts.js'
import { noteKeeper, noteProcess } from './step-process.js'

export interface RunStepOptions {
  readonly rootfs: Fd
  readonly path: string
  readonly scratch: string
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly workingDir: string | undefined
  readonly user: string | undefined
  readonly network: 'host' | 'none'
  /** `NAME:IP`, for /etc/hosts. */
  readonly addHosts?: readonly string[] | undefined
  readonly mounts: readonly RunMount[]
  /** Of a heredoc with an interpreter of its own. */
  readonly script: { readonly name: string; readonly content: string } | undefined
  readonly sources: Omit<MountSources, 'memory' | 'workingDir' | 'rootfs'>
  /** Told of output as it comes. */
  readonly onOutput: (chunk: Buffer) => void
  readonly signal?: AbortSignal
}

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Bytes of output that are repeated with the error. */
const TAIL = 8192

/** @throws StoreError failed, with the end of its output, when the command does not exit with 0 */
export async function runStep(step: RunStepOptions): Promise<void> {
  const user = resolveUser(step.rootfs.n, step.user ?? '')
  using memory = new StepMemory(step.scratch)
  const { workingDir } = step
  using prepared = new RunMounts({ ...step.sources, memory, workingDir, rootfs: step.rootfs })
  if (step.network === 'host') prepared.addNetworkFiles(step.addHosts)
  const { mounts, env: added } = await prepared.prepare(step.mounts, step.script)
  using placed = new StepMounts(step.rootfs)
  let env = [...step.env]
  if (!env.some(entry => entry.startsWith('PATH='))) env.unshift(DEFAULT_PATH)
  if (!env.some(entry => entry.startsWith('HOME='))) env = withVariable(env, 'HOME', user.home)
  for (const [name, value] of added) env = withVariable(env, name, value)
  if (workingDir !== undefined) {
    const path = fromUtf8(workingDir)
    sys.asCreator(user.uid, user.gid, 0, () => makeInRoot(step.rootfs.n, path, 'directory')).close()
  }
  const late: BundleMount[] = []
  for (const mount of mounts) {
    const { tree, target } = mount
    if (isSystem(target)) late.push({ type: 'bind', source: memory.place(tree), target, options: [] })
    else placed.mount(mount)
  }
  let tail = Buffer.alloc(0)
  const onOutput = (chunk: Buffer): void => {
    tail = Buffer.concat([tail, chunk]).subarray(-TAIL)
    step.onOutput(chunk)
  }
  let inRuntime = false
  const code = await runProcess({
    rootfs: step.path,
    args: step.args,
    env,
    cwd: workingDir ?? '/',
    user,
    network: step.network,
    mounts: late,
    // The bundle has the environment, and that may have secrets.
    scratch: memory.path,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(step.signal === undefined ? {} : { signal: step.signal }),
    onRuntime: process => {
      inRuntime = true
      noteProcess(step.scratch, process)
    },
    onStart: child => {
      if (!inRuntime) noteKeeper(step.scratch, child.pid)
      child.stdout?.on('data', onOutput)
      child.stderr?.on('data', onOutput)
    },
  })
  if (code !== 0) {
    throw new StoreError('failed', `RUN ${step.args.join(' ')} ended with ${code}`, undefined, {
      cause: new Error(tail.toString('utf8')),
    })
  }
}

/** The runtime's own mounts would hide it: it mounts these itself, over a tmpfs of its own. */
function isSystem(target: string): boolean {
  return /^\/(proc|dev|sys)(\/|$)/.test(target)
}
