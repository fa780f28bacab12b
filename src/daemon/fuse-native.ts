/**
 * `--transport fuse-native`: the overlay served through the npm package of that name, which is libfuse 2.9's high level. For
 * comparison, and as a second opinion on the overlay: slower than the own transport, and it cannot express everything
 * (docs/architecture/daemon.md).
 */
import { readdirSync, readlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { toUtf8 } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { PathCalls, PathFiles, type Attr, type SessionCounters, type SessionEnd } from '../fuse/index.js'
import type { Overlay } from '../overlay/index.js'
import { FuseMountError } from './mount-fuse.js'
import type { MountSpec } from './spec.js'

/** What a daemon does with whoever serves its requests. */
export interface Serving {
  readonly ended: Promise<SessionEnd>
  counters(): SessionCounters
  close(): Promise<void>
}

type Signal = (result: number, ...values: unknown[]) => void
type Done = (result: number, value?: unknown) => void

/** The part of fuse-native's class that is used. Its `_op_` methods are what native code calls. */
interface FuseNative {
  _fuseOptions: () => string
  _op_getxattr: (signal: Signal, path: string, name: string, value: Buffer) => void
  _op_listxattr: (signal: Signal, path: string, list: Buffer) => void
  mount(done: (error: Error | null) => void): void
}
type FuseNativeClass = new (mountpoint: string, ops: object, options: { timeout: false }) => FuseNative

/** Milliseconds between two looks at whether libfuse has ended: it tells nobody. */
const LOOK = 100

/** @throws FuseMountError that says how to get what is missing */
function load(): FuseNativeClass {
  const require = createRequire(import.meta.url)
  try {
    return require('fuse-native') as FuseNativeClass
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const text = message.split('\n')[0] ?? ''
    const hint = text.includes('libfuse')
      ? 'libfuse.so.2 is missing: install it (Debian, Ubuntu: apt-get install libfuse2)'
      : code === 'MODULE_NOT_FOUND'
        ? 'the optional package fuse-native is not installed: npm install fuse-native'
        : `the package fuse-native does not load here (${text}): npm rebuild fuse-native`
    throw new FuseMountError(`--transport fuse-native: ${hint}; or leave --transport away`)
  }
}

/** Mounts and resolves when the mount works. @throws FuseMountError */
export async function serveByFuseNative(spec: MountSpec, overlay: Overlay): Promise<Serving> {
  const Fuse = load()
  if (spec.overlay.options.size !== undefined) {
    throw new FuseMountError('--transport fuse-native keeps no size limit: leave size= or --transport away')
  }
  const before = new Set(devices())
  const files = new PathFiles()
  const calls = new PathCalls(overlay.served(), files)
  overlay.attach(files)
  const mountpoint = toUtf8(spec.overlay.mountpoint)
  const fuse = new Fuse(mountpoint, operations(calls), { timeout: false })
  fuse._fuseOptions = () => optionString(spec)
  correct(fuse, calls)
  await new Promise<void>((resolve, reject) => {
    fuse.mount(error => {
      if (error === null) resolve()
      else reject(new FuseMountError(`mounting at '${mountpoint}' by fuse-native failed: ${error.message}`))
    })
  })
  const device = devices().find(fd => !before.has(fd))
  let end: (end: SessionEnd) => void = () => undefined
  const ended = new Promise<SessionEnd>(resolve => {
    end = resolve
  })
  const timer = setInterval(() => {
    if (device === undefined || !devices().includes(device)) finish({ reason: 'unmounted', errno: E.ENODEV })
  }, LOOK)
  const finish = (how: SessionEnd): void => {
    clearInterval(timer)
    files.close()
    end(how)
  }
  return {
    ended,
    counters: () => counters(calls, files),
    close: () => {
      finish({ reason: 'closed', errno: 0 })
      return Promise.resolve()
    },
  }
}

/** Open descriptors of /dev/fuse: libfuse closes its own when the mount is gone. */
function devices(): string[] {
  return readdirSync('/proc/self/fd').filter(fd => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === '/dev/fuse'
    } catch {
      return false
    }
  })
}

/**
 * Attributes are not cached: libfuse has an inode for each path, so what changes through one name of a file would stay old
 * under the other.
 */
function optionString(spec: MountSpec): string {
  const escape = (text: string): string => toUtf8(text).replace(/[\\,]/g, '\\$&')
  const options = [
    ...spec.flags,
    `fsname=${escape(spec.source)}`,
    `subtype=${escape(spec.subtype)}`,
    ...['default_permissions', 'use_ino', 'big_writes', 'attr_timeout=0', 'entry_timeout=1'],
  ]
  if (process.geteuid?.() === 0) {
    // libfuse leaves both out unless told.
    options.push(...['suid', 'dev'].filter(flag => !spec.flags.some(other => other === `no${flag}`)))
  }
  if (spec.allowOther ?? process.geteuid?.() === 0) options.push('allow_other')
  return `-o${options.join(',')}`
}

/** fuse-native's operations. They end by `done(0 or -errno, value)`. */
function operations(calls: PathCalls): object {
  const simple =
    (name: string, call: (...args: never[]) => unknown) =>
    (...args: unknown[]): void => {
      const done = args.pop() as Done
      void calls
        .run(name, () => call(...(args as never[])))
        .then(({ errno, value }) => {
          // Numbers of read and write take the place of the errno.
          if (errno !== 0) done(errno)
          else done(0, value)
        })
    }
  const counted =
    (name: string, call: (handle: number, buffer: Buffer, offset: number) => number) =>
    (_path: string, handle: number, buffer: Buffer, _length: number, offset: number, done: Done): void => {
      void calls
        .run(name, () => call(handle, buffer, offset))
        .then(({ errno, value }) => {
          done(errno === 0 ? (value ?? 0) : errno)
        })
    }
  const time = (ms: number): { sec: number; nsec: number } => ({
    sec: Math.floor(ms / 1000),
    nsec: Math.round(ms % 1000) * 1e6,
  })
  return {
    getattr: simple('GETATTR', (path: string) => statOf(calls.getattr(path))),
    // fuse-native asks this by path too.
    fgetattr: simple('GETATTR', (path: string) => statOf(calls.getattr(path))),
    statfs: simple('STATFS', () => {
      const { namelen, ...rest } = calls.statfs()
      return { ...rest, favail: rest.ffree, fsid: 0, flag: 0, namemax: namelen }
    }),
    readdir: (path: string, done: (errno: number, names?: string[], stats?: object[]) => void) => {
      void calls
        .run('READDIR', () => calls.readdir(path))
        .then(({ errno, value }) => {
          if (errno !== 0) done(errno)
          else done(0, value?.names, value?.stats)
        })
    },
    readlink: simple('READLINK', (path: string) => calls.readlink(path)),
    truncate: simple('SETATTR', (path: string, size: number) => calls.setattr(path, { size })),
    ftruncate: simple('SETATTR', (path: string, fd: number, size: number) =>
      calls.setattr(path, { size }, fd),
    ),
    chmod: simple('SETATTR', (path: string, mode: number) => calls.setattr(path, { mode: mode & 0o7777 })),
    chown: simple('SETATTR', (path: string, uid: number, gid: number) =>
      calls.setattr(path, { ...(uid === 0xffffffff ? {} : { uid }), ...(gid === 0xffffffff ? {} : { gid }) }),
    ),
    utimens: simple('SETATTR', (path: string, atime: number, mtime: number) =>
      calls.setattr(path, { atime: time(atime), mtime: time(mtime) }),
    ),
    mknod: simple('MKNOD', (path: string, mode: number, dev: number) => calls.mknod(path, mode, dev)),
    mkdir: simple('MKDIR', (path: string, mode: number) => calls.mkdir(path, mode)),
    symlink: simple('SYMLINK', (target: string, path: string) => calls.symlink(target, path)),
    link: simple('LINK', (path: string, other: string) => calls.link(path, other)),
    unlink: simple('UNLINK', (path: string) => calls.unlink(path)),
    rmdir: simple('RMDIR', (path: string) => calls.rmdir(path)),
    rename: simple('RENAME', (path: string, to: string) => calls.rename(path, to)),
    open: simple('OPEN', (path: string, flags: number) => calls.open(path, flags)),
    create: simple('CREATE', (path: string, mode: number) => calls.create(path, mode)),
    release: simple('RELEASE', (_path: string, fd: number) => calls.release(fd)),
    read: counted('READ', (fd, into, offset) => calls.read(fd, into, offset)),
    write: counted('WRITE', (fd, from, offset) => calls.write(fd, from, offset)),
    fsync: simple('FSYNC', (_path: string, datasync: number, fd: number) => calls.fsync(fd, datasync !== 0)),
    fsyncdir: simple('FSYNCDIR', (path: string, datasync: number) => calls.fsyncdir(path, datasync !== 0)),
    setxattr: simple('SETXATTR', (path: string, name: string, value: Buffer, _at: number, flags: number) =>
      // The memory is libfuse's.
      calls.setxattr(path, name, Buffer.from(value), flags),
    ),
    getxattr: simple('GETXATTR', () => undefined),
    listxattr: simple('LISTXATTR', () => undefined),
    removexattr: simple('REMOVEXATTR', (path: string, name: string) => calls.removexattr(path, name)),
  }
}

/** In fuse-native 2.2.6 a value longer than the caller's buffer makes libfuse send what lies behind it: it must be ERANGE. */
function correct(fuse: FuseNative, calls: PathCalls): void {
  const answer = (name: string, signal: Signal, into: Buffer, call: () => Buffer): void => {
    void calls.run(name, call).then(({ errno, value = Buffer.alloc(0) }) => {
      const fits = into.length === 0 || value.length <= into.length
      if (errno === 0 && fits && into.length > 0) value.copy(into)
      signal(errno !== 0 ? errno : fits ? value.length : -E.ERANGE, into.buffer)
    })
  }
  fuse._op_getxattr = (signal, path, name, value) => {
    answer('GETXATTR', signal, value, () => calls.getxattr(path, name))
  }
  fuse._op_listxattr = (signal, path, list) => {
    answer('LISTXATTR', signal, list, () => calls.listxattr(path))
  }
}

/** As fuse-native wants it: times in milliseconds, everything else in 32 bits but size and blocks. */
function statOf(attr: Attr): object {
  const ms = (sec: number, nsec: number): number => Math.max(0, sec * 1000 + Math.floor(nsec / 1e6))
  return {
    mode: attr.mode,
    uid: attr.uid,
    gid: attr.gid,
    size: attr.size,
    nlink: attr.nlink,
    ino: attr.ino,
    rdev: attr.rdev,
    blksize: attr.blksize,
    blocks: attr.blocks,
    atime: ms(attr.atime, attr.atimeNsec),
    mtime: ms(attr.mtime, attr.mtimeNsec),
    ctime: ms(attr.ctime, attr.ctimeNsec),
  }
}

function counters(calls: PathCalls, files: PathFiles): SessionCounters {
  const { requests, errors, faults } = calls
  return {
    requests: { ...requests },
    errors: { ...errors },
    waits: { ALL: calls.waits },
    replies: Object.values(requests).reduce((sum, count) => sum + count, 0),
    undelivered: 0,
    dropped: 0,
    faults,
    pending: 0,
    notifications: 0,
    dataPlane: {
      framesToJs: 0,
      readsInline: requests['READ'] ?? 0,
      readsThreaded: 0,
      writesInline: requests['WRITE'] ?? 0,
      writesThreaded: 0,
      bytesRead: 0,
      bytesWritten: 0,
      registered: files.count,
      wakeups: 0,
      followed: 0,
      namesAnswered: 0,
      attributesAnswered: 0,
    },
  }
}
