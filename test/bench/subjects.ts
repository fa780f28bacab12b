import fs from 'node:fs'
import { createRequire } from 'node:module'
import { setTimeout as after } from 'node:timers/promises'
import { installed, lamina, run } from './tool.js'

/** What is compared: a directory without any overlay, the kernel's, and the ones in user space. */

/** The directories of one mount. */
export interface Place {
  /** Top first. */
  lower: string
  upper: string
  work: string
  merged: string
}

export interface Subject {
  /** As in results and on the command line. */
  name: string
  /** It is not among those that are compared as long as nobody asks for it. */
  onlyIfNamed?: boolean
  /** Why it cannot be measured here; undefined when it can. */
  missing(): string | undefined
  version(): string
  mount(place: Place): void
  /** Returns when it is unmounted. The daemons of others may then take two seconds to end, ours has ended. */
  unmount(place: Place): Promise<void>
  /** Of the daemon; undefined for the kernel's. */
  pid(place: Place): number | undefined
  /** Requests by name since the mount, where that is known. */
  requests?(place: Place): Record<string, number>
}

const kernelRelease = (): string => fs.readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim()
const firstVersion = (text: string): string => /(\d+\.\d+(\.\d+)?)/.exec(text)?.[1] ?? 'unknown'

/** The process whose command line names the mountpoint. */
export function daemonOf(mountpoint: string): number | undefined {
  for (const name of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    try {
      const args = fs.readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0')
      if (args.includes(mountpoint)) return Number(name)
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined
}

/** Waits until the kernel has let go of it: files that a tool closed a moment ago may keep it busy. */
async function umount(mountpoint: string): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      run('umount', [mountpoint])
      return
    } catch (error) {
      if (tries === 50) throw error
      await after(100)
    }
  }
}

const overlayOptions = (place: Place): string =>
  `lowerdir=${place.lower},upperdir=${place.upper},workdir=${place.work}`

const needsFuse = (): string | undefined => (fs.existsSync('/dev/fuse') ? undefined : 'there is no /dev/fuse')

export const PLAIN: Subject = {
  name: 'plain',
  missing: () => undefined,
  version: kernelRelease,
  mount: () => undefined,
  unmount: async () => undefined,
  pid: () => undefined,
}

const KERNEL: Subject = {
  name: 'kernel',
  missing: () =>
    fs.readFileSync('/proc/filesystems', 'utf8').includes('\toverlay\n')
      ? undefined
      : 'the kernel has no overlayfs',
  version: kernelRelease,
  mount: place => void run('mount', ['-t', 'overlay', 'bench', '-o', overlayOptions(place), place.merged]),
  unmount: place => umount(place.merged),
  pid: () => undefined,
}

const FUSE_OVERLAYFS: Subject = {
  name: 'fuse-overlayfs',
  missing: () =>
    needsFuse() ?? (installed('fuse-overlayfs') ? undefined : 'not installed (package fuse-overlayfs)'),
  version: () => firstVersion(/^fuse-overlayfs.*$/m.exec(run('fuse-overlayfs', ['--version']))?.[0] ?? ''),
  mount: place => void run('fuse-overlayfs', ['-o', `${overlayOptions(place)},allow_other`, place.merged]),
  unmount: place => umount(place.merged),
  pid: place => daemonOf(place.merged),
}

const UNIONFS: Subject = {
  name: 'unionfs-fuse',
  missing: () => needsFuse() ?? (installed('unionfs') ? undefined : 'not installed (package unionfs-fuse)'),
  version: () => firstVersion(/^unionfs-fuse.*$/m.exec(run('unionfs', ['--version']))?.[0] ?? ''),
  mount: place =>
    void run('unionfs', [
      '-o',
      'cow,hide_meta_files,allow_other',
      `${place.upper}=RW:${place.lower}=RO`,
      place.merged,
    ]),
  unmount: place => umount(place.merged),
  pid: place => daemonOf(place.merged),
}

interface Stats {
  pid: number
  requests: Record<string, number>
}
const stats = (place: Place): Stats => JSON.parse(lamina('stats', '--format', 'json', place.merged)) as Stats

function ours(io: string, more = ''): Subject {
  return {
    name: `lamina ${io}${more === '' ? '' : ` ${more}`}`,
    missing: () => needsFuse() ?? (io === 'passthrough' ? withoutPassthrough() : undefined),
    version: () => lamina('--version').trim(),
    mount: place =>
      void lamina(
        'mount',
        '-o',
        [overlayOptions(place), `io=${io}`, more].filter(o => o !== '').join(','),
        place.merged,
      ),
    unmount: async place => void lamina('umount', place.merged),
    pid: place => stats(place).pid,
    requests: place => stats(place).requests,
  }
}

/** The daemon that nobody keeps: what a keeper costs. */
const UNKEPT: Subject = { ...ours('cached', 'keeper=0'), onlyIfNamed: true }

/** The same overlay behind libfuse's high level, by the npm package: what a path-based API costs. */
const FUSE_NATIVE: Subject = {
  ...ours('cached'),
  name: 'fuse-native',
  missing: () => needsFuse() ?? withoutFuseNative(),
  version: () => (createRequire(import.meta.url)('fuse-native/package.json') as { version: string }).version,
  mount: place =>
    void lamina('mount', '--transport', 'fuse-native', '-o', overlayOptions(place), place.merged),
}

function withoutFuseNative(): string | undefined {
  try {
    createRequire(import.meta.url)('fuse-native')
    return undefined
  } catch (error) {
    const why = (error as Error).message.split('\n')[0] ?? ''
    return `${why} (npm install fuse-native; apt-get install libfuse2)`
  }
}

function withoutPassthrough(): string | undefined {
  const [major = 0, minor = 0] = kernelRelease()
    .split('.')
    .map(part => parseInt(part, 10))
  return major > 6 || (major === 6 && minor >= 9) ? undefined : 'needs Linux 6.9'
}

export const SUBJECTS: readonly Subject[] = [
  PLAIN,
  KERNEL,
  FUSE_OVERLAYFS,
  UNIONFS,
  ours('cached'),
  ours('passthrough'),
  FUSE_NATIVE,
  UNKEPT,
]
