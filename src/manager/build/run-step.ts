/** RUN: a command in the tree of a step. */
import { existsSync, lstatSync, readdirSync, realpathSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Fd } from '../../base/fd.js'
import { resolveUser } from '../container-user.js'
import { withVariable } from '../config-change.js'
import type { BundleMount } from '../oci-bundle.js'
import { runProcess } from '../run-process.js'
import { StoreError } from '../store-error.js'
import { noteKeeper, noteProcess } from './step-process.js'

export interface RunStep {
  readonly rootfs: Fd
  readonly path: string
  readonly scratch: string
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly workingDir: string | undefined
  readonly user: string | undefined
  readonly network: 'host' | 'none'
  readonly mounts: readonly BundleMount[]
  /** Told of output as it comes. */
  readonly onOutput: (chunk: Buffer) => void
  readonly signal?: AbortSignal
}

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Bytes of output that are repeated with the error. */
const TAIL = 8192

/** @throws StoreError failed, with the end of its output, when the command does not exit with 0 */
export async function runStep(step: RunStep): Promise<void> {
  const user = resolveUser(step.rootfs.n, step.user ?? '')
  let env = [...step.env]
  if (!env.some(entry => entry.startsWith('PATH='))) env.unshift(DEFAULT_PATH)
  if (!env.some(entry => entry.startsWith('HOME='))) env = withVariable(env, 'HOME', user.home)
  const mounts = [...networkFiles(step), ...step.mounts]
  const stubs = new Stubs(
    step.path,
    mounts.map(mount => mount.target),
  )
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
    cwd: step.workingDir ?? '/',
    user,
    network: step.network,
    mounts,
    scratch: step.scratch,
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
  stubs.remove()
  if (code !== 0) {
    throw new StoreError('failed', `RUN ${step.args.join(' ')} ended with ${code}`, undefined, {
      cause: new Error(tail.toString('utf8')),
    })
  }
}

/** The host's resolver and names, so that package managers reach what the host reaches. */
function networkFiles(step: RunStep): BundleMount[] {
  if (step.network === 'none') return []
  const mounts: BundleMount[] = []
  if (existsSync('/etc/resolv.conf')) {
    mounts.push({
      type: 'bind',
      source: realpathSync('/etc/resolv.conf'),
      target: '/etc/resolv.conf',
      options: ['ro'],
    })
  }
  const hosts = join(step.scratch, 'hosts')
  writeFileSync(hosts, '127.0.0.1\tlocalhost lamina\n::1\tlocalhost\n')
  mounts.push({ type: 'bind', source: hosts, target: '/etc/hosts', options: ['ro'] })
  return mounts
}

/**
 * The empty files and directories that a runtime makes to mount on. They are the runtime's and no part of the layer:
 * what was not there before and is empty afterwards goes.
 */
class Stubs {
  readonly #made: string[] = []

  constructor(rootfs: string, targets: readonly string[]) {
    for (const target of ['/proc', '/dev', '/sys', ...targets]) {
      // Each missing directory on the way, outermost first.
      let path = rootfs
      for (const part of target.split('/').filter(each => each !== '')) {
        path = join(path, part)
        const stat = lstatSync(path, { throwIfNoEntry: false })
        // Beyond a symlink nothing is known about what will be made where.
        if (stat?.isSymbolicLink() === true) break
        if (stat === undefined && !this.#made.includes(path)) this.#made.push(path)
      }
    }
  }

  remove(): void {
    for (const path of this.#made.reverse()) {
      const stat = lstatSync(path, { throwIfNoEntry: false })
      if (stat === undefined) continue
      if (stat.isDirectory() && readdirSync(path).length === 0) rmdirSync(path)
      else if (stat.isFile() && stat.size === 0) rmSync(path)
    }
  }
}
