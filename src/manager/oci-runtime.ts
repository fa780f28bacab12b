/** Which program runs containers and RUN steps, and how it is started. */
import { accessSync, constants, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { inUserNamespace } from './rootless/standing.js'

/** A program of PATH, or `undefined`. */
export function findProgram(name: string): string | undefined {
  const dirs = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/usr/bin', '/sbin', '/bin']
  for (const dir of name.includes('/') ? [''] : dirs) {
    const path = name.includes('/') ? name : join(dir, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not here.
    }
  }
  return undefined
}

/** The OCI runtime: LAMINA_RUNTIME (a name, a path, or none), else crun, else runc. */
export function findRuntime(): string | undefined {
  const named = process.env['LAMINA_RUNTIME']
  if (named !== undefined && named !== '') return named === 'none' ? undefined : findProgram(named)
  // crun refuses hosts with cgroups of both versions; runc runs there as it is.
  const order = hasHybridCgroups() && !inUserNamespace() ? ['runc', 'crun'] : ['crun', 'runc']
  return order.map(findProgram).find(path => path !== undefined)
}

/** The words that start a runtime; its own arguments follow. */
export function runtimeCommand(runtime: string): string[] {
  if (inUserNamespace()) return [runtime, ...withoutRoot(basename(runtime))]
  const unshare = findProgram('unshare')
  if (basename(runtime) !== 'crun' || !hasHybridCgroups() || unshare === undefined) return [runtime]
  // In a mount namespace where the second version is out of sight.
  const script = 'umount /sys/fs/cgroup/unified && exec "$@"'
  return [unshare, '--mount', '--propagation', 'private', '--', 'sh', '-c', script, 'sh', runtime]
}

/** Its state where this user may write, and no cgroup: nothing here needs one, and few hosts delegate any. */
function withoutRoot(name: string): string[] {
  const run = process.env['LAMINA_RUN'] ?? process.env['XDG_RUNTIME_DIR']
  const state = run === undefined || run === '' ? [] : ['--root', join(run, name)]
  if (name === 'crun') return [...state, '--cgroup-manager=disabled']
  return name === 'runc' ? [...state, '--rootless=true'] : state
}

function hasHybridCgroups(): boolean {
  try {
    return /^\S+ \/sys\/fs\/cgroup\/unified cgroup2 /m.test(readFileSync('/proc/self/mounts', 'latin1'))
  } catch {
    return false
  }
}
