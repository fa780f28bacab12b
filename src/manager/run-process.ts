/** Runs one command in a root filesystem: by an OCI runtime, else in namespaces made with unshare(1) and chroot(1). */
import { randomBytes } from 'node:crypto'
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { join } from 'node:path'
import { writeBundle, type BundleOptions } from './oci-bundle.js'
import { findProgram, findRuntime, runtimeCommand } from './oci-runtime.js'
import { StoreError } from './store-error.js'

export interface RunOptions extends BundleOptions {
  /** A directory of one's own, for the bundle. */
  readonly scratch: string
  readonly stdio: StdioOptions
  readonly signal?: AbortSignal
  /** Told of the process, to read its output. */
  readonly onStart?: (child: ChildProcess) => void
}

/** The exit code; 128 and the signal's number for a command that was killed. */
export async function runProcess(options: RunOptions): Promise<number> {
  options.signal?.throwIfAborted()
  const runtime = findRuntime()
  if (runtime === undefined) return await runInNamespaces(options)
  const id = `lamina-${randomBytes(6).toString('hex')}`
  const bundle = join(options.scratch, 'bundle')
  writeBundle(bundle, options)
  const command = runtimeCommand(runtime)
  const words = [...command, 'run', '--bundle', bundle, id]
  // Ended through the runtime: it kills what runs inside and removes its state.
  const stop = (): void =>
    void spawn(command[0] ?? '', [...command.slice(1), 'delete', '--force', id], { stdio: 'ignore' })
  return await execute(words, options, stop)
}

/** For hosts without a runtime. Same mounts and namespaces, capabilities not dropped: for builds of one's own files. */
async function runInNamespaces(options: RunOptions): Promise<number> {
  const unshare = findProgram('unshare')
  if (unshare === undefined) {
    throw new StoreError('unsupported', 'nothing here can run a command in an image', 'install crun or runc')
  }
  const namespaces = [
    '--mount',
    '--pid',
    '--fork',
    '--kill-child',
    '--uts',
    '--ipc',
    '--propagation',
    'private',
  ]
  if (options.network === 'none') namespaces.push('--net')
  const mounts = (options.mounts ?? []).flatMap(mount => [
    mount.type,
    mount.source,
    mount.target.replace(/^\/+/, ''),
    mount.options.join(','),
  ])
  const { user } = options
  const groups = user.groups.length > 0 ? user.groups.join(',') : ''
  const script = `
    set -e; path=$PATH; PATH=/usr/sbin:/usr/bin:/sbin:/bin; root=$1; spec=$2; groups=$3; cwd=$4; shift 4
    mount --rbind "$root" "$root"; cd "$root"
    mkdir -p proc sys dev
    mount -t proc proc proc; mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
    mount -t tmpfs -o mode=755,nosuid tmpfs dev
    mkdir -p dev/pts dev/shm; mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
    mount -t tmpfs -o mode=1777,nosuid,nodev,noexec shm dev/shm
    for node in null zero full random urandom tty; do : > dev/$node; mount --bind /dev/$node dev/$node; done
    ln -s /proc/self/fd dev/fd; ln -s /proc/self/fd/0 dev/stdin; ln -s /proc/self/fd/1 dev/stdout; ln -s /proc/self/fd/2 dev/stderr; ln -s pts/ptmx dev/ptmx
    while [ "$1" != -- ]; do
      case $1 in
        bind) if [ -d "$2" ]; then mkdir -p "./$3"; else mkdir -p "./$(dirname "$3")"; [ -e "./$3" ] || : > "./$3"; fi
              mount --rbind "$2" "./$3"; case ",$4," in *,ro,*) mount -o remount,bind,ro "./$3";; esac ;;
        tmpfs) mkdir -p "./$3"; mount -t tmpfs \${4:+-o "$4"} tmpfs "./$3" ;;
      esac
      shift 4
    done
    shift
    chroot=$(command -v chroot); PATH=$path
    exec "$chroot" --userspec="$spec" --groups="$groups" "$root" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$cwd" "$@"`
  const words = [
    unshare,
    ...namespaces,
    '--',
    'sh',
    '-c',
    script,
    'sh',
    options.rootfs,
    `${user.uid}:${user.gid}`,
    groups,
    options.cwd,
    ...mounts,
    '--',
    ...options.args,
  ]
  return await execute(words, options, child => child.kill('SIGKILL'), options.env)
}

async function execute(
  words: readonly string[],
  options: RunOptions,
  stop: (child: ChildProcess) => void,
  env?: readonly string[],
): Promise<number> {
  const [program = '', ...args] = words
  const child = spawn(program, args, {
    stdio: options.stdio,
    ...(env === undefined
      ? {}
      : {
          env: Object.fromEntries(
            env.map(entry => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]),
          ),
        }),
  })
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
