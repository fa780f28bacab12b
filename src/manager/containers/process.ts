/** What runs in a container: the image's config, and what its user asked for instead. */
import { resolve } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import { resolveWorkdir, withVariable } from '../config-change.js'
import { resolveUser } from '../container-user.js'
import type { ContainerRecord } from '../containers.js'
import { makeInRoot, openInRoot } from '../mounts/target.js'
import { writeBundle, type BundleOptions } from '../oci-bundle.js'
import type { Store } from '../store.js'
import { CommandError, StoreError } from '../store-error.js'
import { rootOf, specOf, type ProcessSpec } from './container-spec.js'
import { etcFiles, hostnameOf } from './etc-files.js'

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export const NO_PROCESS: ProcessSpec = { args: [], env: [], network: 'host', terminal: false }

/**
 * All that a runtime needs to know. The working directory is made where it is missing.
 * @throws StoreError invalid without a command; not-found for a user that the image does not have
 */
export function bundleOf(
  store: Store,
  container: ContainerRecord,
  rootfs: string,
  wanted: ProcessSpec,
): BundleOptions {
  const spec = specOf(container)
  const config = container.image === undefined ? {} : (store.images.config(container.image).config ?? {})
  const entrypoint = wanted.entrypoint ?? config.Entrypoint ?? []
  // An entrypoint of one's own does not get the image's CMD.
  const command = wanted.args.length > 0 || wanted.entrypoint !== undefined ? wanted.args : (config.Cmd ?? [])
  const args = [...entrypoint, ...command]
  if (args.length === 0) {
    throw new StoreError(
      'invalid',
      `the image of container ${container.name} has no command`,
      'name one after the image',
    )
  }
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(rootfs), sys.O_PATH | sys.O_DIRECTORY)
  const user = resolveUser(root.n, wanted.user ?? config.User ?? '', spec.ids)
  const cwd = resolveWorkdir('/', wanted.workdir ?? (config.WorkingDir || '/'))
  if (cwd !== '/' && !spec.readOnly) {
    const { uid, gid } = rootOf(spec)
    sys.asCreator(uid, gid, 0, () => makeInRoot(root.n, fromUtf8(cwd), 'directory')).close()
  }
  const hostname = hostnameOf(container, wanted)
  let env: string[] = [...(config.Env ?? [])]
  if (!env.some(entry => entry.startsWith('PATH='))) env.unshift(DEFAULT_PATH)
  env = withVariable(env, 'HOSTNAME', hostname)
  if (wanted.terminal) env = withVariable(env, 'TERM', 'xterm')
  env = withVariables(env, wanted.env)
  if (!env.some(entry => entry.startsWith('HOME='))) env = withVariable(env, 'HOME', user.home)
  checkProgram(root.n, args[0] ?? '', cwd, env)
  return {
    rootfs,
    args,
    env,
    cwd,
    user,
    hostname,
    network: wanted.network,
    terminal: wanted.terminal,
    readOnly: spec.readOnly,
    ...(spec.ids === undefined ? {} : { ids: spec.ids }),
    ...(spec.security === undefined ? {} : { security: spec.security }),
  }
}

/**
 * Runtimes say it each in its own way, and end with a code that a command could have given.
 * @throws CommandError
 */
function checkProgram(root: number, program: string, cwd: string, env: readonly string[]): void {
  const path = env.findLast(entry => entry.startsWith('PATH='))?.slice('PATH='.length) ?? ''
  const places = program.includes('/') ? [program] : path.split(':').map(dir => `${dir || '.'}/${program}`)
  let found = false
  for (const place of places.map(each => resolve(cwd, each))) {
    // Mounted by the runtime only.
    if (/^\/(proc|dev|sys)\//.test(place)) return
    try {
      using fd = openInRoot(root, fromUtf8(place))
      if (fd === undefined) continue
      const { mode } = sys.statFd(fd.n)
      if (sys.S_ISREG(mode) && (mode & 0o111) !== 0) return
      found = true
    } catch (error) {
      // Through a file, or links in a circle: no program either.
      if (!(error instanceof SysError)) throw error
    }
  }
  if (found)
    throw new CommandError(
      126,
      `'${program}' is in the image but no program`,
      'its mode must allow running it',
    )
  throw new CommandError(
    127,
    `there is no program '${program}' in the image`,
    program.includes('/') ? 'see what the image has' : `PATH is ${path}`,
  )
}

export function withVariables(env: string[], added: readonly string[]): string[] {
  return added.reduce((all, entry) => {
    const equals = entry.indexOf('=')
    return withVariable(all, entry.slice(0, equals), entry.slice(equals + 1))
  }, env)
}

/**
 * Mounts the container and writes DIR/config.json for it. The mount stays until `container umount`.
 * @returns the directory, absolute
 */
export async function writeContainerBundle(
  store: Store,
  ref: string,
  dir: string,
  args: readonly string[],
  terminal: boolean,
): Promise<string> {
  const container = store.containers.find(ref)
  const wanted = specOf(container).process ?? NO_PROCESS
  const rootfs = await store.containers.mount(container.id, { mounts: etcFiles(store, container, wanted) })
  try {
    const path = resolve(dir)
    const words = args.length > 0 ? { args, entrypoint: [] } : {}
    writeBundle(path, bundleOf(store, container, rootfs, { ...wanted, ...words, terminal }))
    return path
  } catch (error) {
    await store.containers.unmount(container.id)
    throw error
  }
}
