/**
 * The user namespace of an ordinary user: one for each runtime directory, together with a mount namespace, kept by the process
 * `lamina-userns hold`. All commands of the user enter it, so all see the same mounts, and what is mounted outlives the
 * command. Root, also root of a namespace that somebody else has made, needs none.
 *
 * The file `userns` in the runtime directory says which it is (native/userns). It counts while it is locked. A holder that was
 * killed does not end the namespaces while a mount's daemon or a container lives in them: then the next command starts a new
 * holder in the same ones, else in new ones, where everything is as after a reboot.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import type { Socket } from 'node:net'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fromUtf8, type ByteName } from '../../base/bytes.js'
import { type Fd } from '../../base/fd.js'
import { runDirectory } from '../../daemon/client.js'
import * as sys from '../../sys/index.js'
import { findProgram } from '../oci-runtime.js'
import { StoreError } from '../store-error.js'
import { endHolders, processesIn, survivor, usersOf } from './namespace-users.js'
import { idMapsOf, isOrdinary, namespacesOf, type Namespaces } from './standing.js'
import { sameIds, spelled, wantedIds, type WantedIds } from './subordinate-ids.js'

/** How long another command may take to make the namespaces, milliseconds. */
const START_LIMIT = 30_000

/** How long a holder may take to end, milliseconds. */
const END_LIMIT = 5_000

export interface UserNamespace extends Namespaces {
  /** The state file. */
  readonly file: string
  /** Of the process that keeps it. */
  readonly pid: number
  /** What the user should know, a line each. */
  readonly notes: readonly string[]
}

/**
 * Becomes `program`, or this very command, in the user's namespace. Returns where there is nothing to enter: for root, and
 * where this process is in it already.
 * @throws StoreError unsupported where the host allows no user namespace
 */
export async function enterUserNamespace(program?: readonly string[]): Promise<void> {
  if (!isOrdinary()) return
  const { file, notes } = await ensureUserNamespace()
  for (const note of notes) process.stderr.write(`lamina: ${note}\n`)
  const words = program === undefined ? thisCommand() : program.map(fromUtf8)
  const env = {
    ...process.env,
    LAMINA_RUN: runDirectory(),
    HOME: homedir(),
    // Whether its user will come out of the namespace with it.
    LAMINA_ENTERED: program === undefined ? '1' : '0',
  }
  sys.exec(fromUtf8(helper()), ['lamina-userns', 'enter', fromUtf8(file), ...words], variables(env))
}

/** The namespaces of this user, made where there are none. */
export async function ensureUserNamespace(): Promise<UserNamespace> {
  const file = join(runDirectory(), 'userns')
  const wanted = wantedIds()
  const until = Date.now() + START_LIMIT
  for (let pause = 2; Date.now() < until; pause = Math.min(pause * 2, 50)) {
    const state = lockState(file)
    if (state !== undefined) {
      using held = state
      return await startHolder(file, held, wanted)
    }
    const running = readState(file)
    if (running !== undefined) {
      const ids = idMapsOf(running.pid)
      if (sameIds(ids, wanted.maps)) return { file, ...running, notes: [] }
      const users = usersOf(running)
      if (users.length > 0) return { file, ...running, notes: [othersIds(ids.uid.length, users)] }
      // Nobody is in it but its keeper: made anew, with the ids that the user has now.
      endHolders(running)
    }
    await new Promise(resolve => setTimeout(resolve, pause))
  }
  throw new StoreError(
    'failed',
    `the user namespace is not there after ${START_LIMIT / 1000} s: ${file} is locked by a process that does not finish`,
    `'fuser -v ${file}' names it`,
  )
}

/**
 * Ends the namespaces, and with them what the kernel has mounted there. Returns whether there were any.
 * @throws StoreError in-use while anything lives in them
 */
export async function endUserNamespace(): Promise<boolean> {
  const file = join(runDirectory(), 'userns')
  const running = readState(file)
  if (running === undefined) return false
  const users = usersOf(running)
  if (users.length > 0) {
    throw new StoreError(
      'in-use',
      `process ${users.slice(0, 3).join(', ')} is in the user namespace`,
      "unmount the containers and end what runs ('lamina ps', 'lamina mounts')",
    )
  }
  endHolders(running)
  const until = Date.now() + END_LIMIT
  while (processesIn(running).length > 0 && Date.now() < until)
    await new Promise(resolve => setTimeout(resolve, 2))
  return true
}

function othersIds(ranges: number, users: readonly number[]): string {
  const has = ranges > 1 ? 'other ids than /etc/subuid and /etc/subgid say now' : 'one id only'
  return `the user namespace in use has ${has}; it is made anew when process ${users.slice(0, 3).join(', ')} has ended`
}

/** The state file, locked; `undefined` where somebody else has the lock. */
function lockState(file: string): Fd | undefined {
  const flags = sys.O_RDWR | sys.O_CREAT | sys.O_NOFOLLOW
  const fd = sys.openat(sys.AT_FDCWD, fromUtf8(file), flags, 0o600)
  if (sys.flock(fd.n, sys.LOCK_EX | sys.LOCK_NB)) {
    // Removed since we opened it (a runtime directory ends with the last login)? Then nobody would find it again.
    const named = statSync(file, { throwIfNoEntry: false })
    if (named?.ino === sys.statFd(fd.n).ino) return fd
  }
  fd.close()
  return undefined
}

/** What a locked state file says; `undefined` while it is being written, or when its process has just ended. */
function readState(file: string): (Namespaces & { readonly pid: number }) | undefined {
  try {
    const match = /^(\d+) (\d+) (\d+) (\d+) \w+\n/.exec(readFileSync(file, 'latin1'))
    const [pid = 0, user = 0, mount = 0, pidNamespace = 0] = match?.slice(1).map(Number) ?? []
    if (match === null) return undefined
    if (statSync('/proc/self/ns/pid').ino !== pidNamespace) {
      throw new StoreError(
        'unsupported',
        `the user namespace of ${file} belongs to another pid namespace`,
        'name another runtime directory in LAMINA_RUN here',
      )
    }
    const is = namespacesOf(pid)
    return is.user === user && is.mount === mount ? { pid, user, mount } : undefined
  } catch (error) {
    if (error instanceof StoreError) throw error
    return undefined
  }
}

// ---- starting

async function startHolder(file: string, state: Fd, wanted: WantedIds): Promise<UserNamespace> {
  const left = survivor()
  const words =
    left === undefined
      ? [randomBytes(8).toString('hex')]
      : [left.id, left.pid, left.user, left.mount].map(String)
  const child = spawn(helper(), ['hold', ...words], {
    cwd: '/',
    detached: true,
    env: { LAMINA_RUN: runDirectory() },
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', state.n],
  })
  const channel = new Conversation(child)
  try {
    let line = await channel.next()
    if (line.startsWith('U ')) {
      channel.say(giveIds(Number(line.slice(2)), wanted) ? 'm' : 's')
      line = await channel.next()
    }
    if (!line.startsWith('R ')) throw explained(line.replace(/^E /, ''))
    const pid = Number(line.slice(2))
    const notes = wanted.alone === undefined ? [] : [aloneNote(wanted.alone)]
    return { file, pid, ...namespacesOf(pid), notes: left === undefined ? notes : [] }
  } finally {
    channel.end()
  }
}

function aloneNote(why: string): string {
  return `this user namespace has one id, so every file in it is shown as root's: ${why}`
}

/** Lines of the helper's socket, which may break at any time. */
class Conversation {
  readonly #socket: Socket
  readonly #lines: string[] = []
  #input = ''
  #over: string | undefined
  #wake: () => void = () => undefined

  constructor(child: ChildProcess) {
    this.#socket = child.stdio[3] as Socket
    child.once('error', error => this.#end(error.message))
    // Undefined where the program could not be started: the event says why.
    const socket = child.stdio[3] as Socket | undefined
    socket?.setEncoding('latin1').on('data', (chunk: string) => {
      this.#input += chunk
      const parts = this.#input.split('\n')
      this.#input = parts.pop() ?? ''
      this.#lines.push(...parts)
      this.#wake()
    })
    socket?.on('error', () => undefined).on('close', () => this.#end('lamina-userns has ended'))
    child.unref()
  }

  #end(why: string): void {
    this.#over ??= `E ${why}`
    this.#wake()
  }

  async next(): Promise<string> {
    for (;;) {
      const line = this.#lines.shift() ?? this.#over
      if (line !== undefined) return line
      await new Promise<void>(resolve => (this.#wake = resolve))
    }
  }

  say(word: string): void {
    this.#socket.write(word)
  }

  end(): void {
    ;(this.#socket as Socket | undefined)?.destroy()
  }
}

/** Whether `pid`'s namespace has more than one id now. @throws StoreError when it was to have, and newuidmap refuses */
function giveIds(pid: number, { maps, programs }: WantedIds): boolean {
  if (programs === undefined) return false
  for (const kind of ['uid', 'gid'] as const) {
    const triples = maps[kind].flatMap(({ container, host, length }) => [container, host, length].map(String))
    const { status, stderr, error } = spawnSync(programs[kind], [String(pid), ...triples], {
      encoding: 'utf8',
    })
    if (status === 0) continue
    const said = error?.message ?? stderr.trim().split('\n')[0] ?? ''
    throw new StoreError(
      'unsupported',
      `cannot map the ids ${spelled(maps[kind])}: ${said || `${programs[kind]} ended with ${status}`}`,
      `the range in /etc/sub${kind} must be free for this user, and ${programs[kind]} setuid root`,
    )
  }
  return true
}

/** The kernel says EPERM or ENOSPC for a number of reasons: these are what distributions do. */
function explained(said: string): StoreError {
  const message = `cannot make a user namespace: ${said}`
  const sysctl = (name: string): string | undefined => {
    try {
      return readFileSync(`/proc/sys/${name}`, 'latin1').trim()
    } catch {
      return undefined
    }
  }
  const hint =
    sysctl('user/max_user_namespaces') === '0'
      ? "they are turned off: 'sysctl -w user.max_user_namespaces=10000' as root"
      : sysctl('kernel/unprivileged_userns_clone') === '0'
        ? "they are turned off: 'sysctl -w kernel.unprivileged_userns_clone=1' as root"
        : sysctl('kernel/apparmor_restrict_unprivileged_userns') === '1'
          ? "AppArmor restricts them: 'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0' as root, or a profile for lamina-userns"
          : 'a container or a security policy may forbid it; root needs none'
  return new StoreError('unsupported', message, hint)
}

// ---- this command, once more

/** As it was typed: Node's own copy has lost bytes that are not UTF-8. */
function thisCommand(): ByteName[] {
  const words = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  if (!words.some(word => word.includes('\ufffd'))) return words.map(fromUtf8)
  const raw = readFileSync('/proc/self/cmdline', 'latin1').split('\0').slice(0, -1)
  return [fromUtf8(process.execPath), ...raw.slice(1)]
}

function variables(env: NodeJS.ProcessEnv): ByteName[] {
  const raw = new Map(
    readFileSync('/proc/self/environ', 'latin1')
      .split('\0')
      .map(entry => [entry.slice(0, entry.indexOf('=')), entry]),
  )
  return Object.entries(env).flatMap(([name, value]) => {
    if (value === undefined) return []
    return [value.includes('\ufffd') ? (raw.get(fromUtf8(name)) ?? '') : fromUtf8(`${name}=${value}`)]
  })
}

/** lamina-userns, where it was built: beside the addon. @throws StoreError unsupported */
function helper(): string {
  for (const place of ['build/Release', `prebuilds/linux-${process.arch}`]) {
    const path = fileURLToPath(new URL(`../../../../${place}/lamina-userns`, import.meta.url))
    const found = findProgram(path)
    if (found !== undefined) return found
  }
  throw new StoreError(
    'unsupported',
    'lamina-userns is missing, without which an ordinary user has no user namespace',
    "'npm run build:native' builds it",
  )
}

/** The failure of an ordinary user who is not in his namespace. */
export function notEntered(what: string): StoreError {
  return new StoreError(
    'unsupported',
    `${what} needs this user's namespace`,
    "start the program as 'lamina unshare PROGRAM', or let it call enterUserNamespace() first",
  )
}
