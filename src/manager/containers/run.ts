/** `run`: a command in a container of its own, from create to the exit code. */
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import type { ChildProcess } from 'node:child_process'
import { fromUtf8 } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import { resolveWorkdir, withVariable } from '../config-change.js'
import { resolveUser } from '../container-user.js'
import type { MountSpec } from '../mounts/mount-spec.js'
import { makeInRoot } from '../mounts/target.js'
import { findRuntime } from '../oci-runtime.js'
import { runProcess } from '../run-process.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import type { ProcessSpec } from './container-spec.js'
import { createContainer, removeContainer, type CreateWithMounts } from './create.js'

export interface RunContainer extends CreateWithMounts {
  readonly image: string
  readonly process: ProcessSpec
  /** Words instead of the image's ENTRYPOINT; `[]` takes it away. */
  readonly entrypoint?: readonly string[] | undefined
  /** Standard input is passed on. */
  readonly interactive: boolean
  /** The container and its anonymous volumes go afterwards. */
  readonly remove: boolean
}

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** What a user sends to a program by its pid; SIGWINCH and SIGCHLD are the terminal's and the runtime's business. */
const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const

/**
 * Runs the command and returns its exit code, or 128 and the number of the signal that ended it. Signals that this
 * process receives meanwhile are passed on.
 * @throws StoreError; with `remove` nothing is left behind
 */
export async function runContainer(store: Store, options: RunContainer): Promise<number> {
  const mounts = [...(options.mounts ?? []), ...resolver(options)]
  for (const { target } of mounts) refuseSystemTarget(target)
  const container = await createContainer(store, { ...options, mounts })
  try {
    const rootfs = await store.containers.mount(container.id)
    try {
      return await start(store, container.id, rootfs, options)
    } finally {
      await store.containers.unmount(container.id, { force: options.remove })
    }
  } finally {
    if (options.remove) await removeContainer(store, container.id, { force: true, volumes: true })
  }
}

async function start(store: Store, id: string, rootfs: string, options: RunContainer): Promise<number> {
  const config = store.images.config(store.images.find(options.image).id).config ?? {}
  const { process: wanted } = options
  const entrypoint = options.entrypoint ?? config.Entrypoint ?? []
  // An entrypoint of one's own does not get the image's CMD.
  const command =
    wanted.args.length > 0 || options.entrypoint !== undefined ? wanted.args : (config.Cmd ?? [])
  const args = [...entrypoint, ...command]
  if (args.length === 0) {
    throw new StoreError('invalid', `image ${options.image} has no command`, 'name one after the image')
  }
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(rootfs), sys.O_PATH | sys.O_DIRECTORY)
  const user = resolveUser(root.n, wanted.user ?? config.User ?? '')
  const cwd = resolveWorkdir('/', wanted.workdir ?? (config.WorkingDir || '/'))
  if (cwd !== '/') makeInRoot(root.n, fromUtf8(cwd), 'directory').close()
  const hostname = wanted.hostname ?? id.slice(0, 12)
  let env: string[] = [...(config.Env ?? [])]
  if (!env.some(entry => entry.startsWith('PATH='))) env.unshift(DEFAULT_PATH)
  env = withVariable(env, 'HOSTNAME', hostname)
  if (wanted.terminal) env = withVariable(env, 'TERM', 'xterm')
  for (const entry of wanted.env) {
    const equals = entry.indexOf('=')
    env = withVariable(env, entry.slice(0, equals), entry.slice(equals + 1))
  }
  if (!env.some(entry => entry.startsWith('HOME='))) env = withVariable(env, 'HOME', user.home)
  await using scratch = store.scratch()
  let child: ChildProcess | undefined
  const onSignal = (signal: NodeJS.Signals): void => forward(child, signal)
  for (const signal of FORWARDED) process.on(signal, onSignal)
  try {
    return await runProcess({
      rootfs,
      args,
      env,
      cwd,
      user,
      hostname,
      network: wanted.network,
      terminal: wanted.terminal,
      readOnly: options.readOnly === true,
      scratch: scratch.dir,
      stdio: [options.interactive || wanted.terminal ? 'inherit' : 'ignore', 'inherit', 'inherit'],
      onStart: started => (child = started),
    })
  } finally {
    for (const signal of FORWARDED) process.off(signal, onSignal)
  }
}

/** A runtime passes signals on itself; unshare(1) does not, so there they go to what it started. */
function forward(child: ChildProcess | undefined, signal: NodeJS.Signals): void {
  if (child?.pid === undefined) return
  if (findRuntime() !== undefined) {
    child.kill(signal)
    return
  }
  const path = `/proc/${child.pid}/task/${child.pid}/children`
  for (const pid of readFileSync(path, 'latin1').split(' ').filter(Boolean)) process.kill(Number(pid), signal)
}

/** With the host's network the host's resolver. By descriptor, as every mount: images have symlinks there. */
function resolver(options: RunContainer): MountSpec[] {
  const target = '/etc/resolv.conf'
  const taken = options.mounts?.some(mount => mount.target === target || mount.target === '/etc') === true
  if (options.process.network === 'none' || taken || !existsSync(target)) return []
  return [
    {
      type: 'bind',
      source: realpathSync(target),
      target,
      readOnly: true,
      propagation: 'rprivate',
      recursive: false,
      createSource: false,
    },
  ]
}

/** These belong to the runtime, which would hide what is mounted there. */
function refuseSystemTarget(target: string): void {
  if (!/^\/(proc|sys|dev)(\/|$)/.test(target)) return
  throw new StoreError('unsupported', `run cannot mount on ${target}`, '/proc, /sys and /dev are its own')
}
