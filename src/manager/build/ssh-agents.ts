/**
 * `--ssh`: agents that `RUN --mount=type=ssh` may ask. A step gets a socket of its own, with the owner and mode that it
 * asks for, and this process carries bytes between it and the agent. Keys that are given as files are held by ssh-agent(1).
 * Source: docs.docker.com/reference/dockerfile, "RUN --mount=type=ssh"; draft-miller-ssh-agent
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { fromUtf8 } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import { findProgram } from '../oci-runtime.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'

export type SshSource = { readonly socket: string } | { readonly keys: readonly string[] }

export class SshAgents implements AsyncDisposable {
  readonly #started = new Map<string, Promise<string>>()
  readonly #ends: (() => Promise<void> | void)[] = []

  constructor(
    readonly store: Store,
    /** By id. */
    readonly sources: Readonly<Record<string, SshSource>>,
  ) {}

  /** The socket of the agent; `undefined` where the build was given none. */
  async socketOf(id: string): Promise<string | undefined> {
    const source = Object.hasOwn(this.sources, id) ? this.sources[id] : undefined
    if (source === undefined) return undefined
    if ('socket' in source) return source.socket
    const started = this.#started.get(id) ?? this.#start(source.keys)
    this.#started.set(id, started)
    return await started
  }

  /**
   * Its command reads our pipe: it ends with us, however that happens, and the agent sees that.
   * Source: ssh-agent(1), "If a command line is given"
   */
  async #start(keys: readonly string[]): Promise<string> {
    const [agent, add] = ['ssh-agent', 'ssh-add'].map(findProgram)
    if (agent === undefined || add === undefined) {
      throw new StoreError(
        'unsupported',
        `--ssh with a key (${keys[0]}) needs ssh-agent(1), which is not installed here`,
        'install openssh-client, or give the socket of an agent',
      )
    }
    const scratch = this.store.scratch()
    this.#ends.push(() => scratch[Symbol.asyncDispose]())
    const root = sys.openat(sys.AT_FDCWD, fromUtf8(scratch.dir), sys.O_PATH | sys.O_DIRECTORY)
    this.#ends.push(() => root.close())
    // The store's own path may be too long for a socket.
    const socket = `/proc/${process.pid}/fd/${root.n}/agent`
    const child = spawn(agent, ['-a', socket, 'sh', '-c', 'echo $SSH_AGENT_PID; exec cat'], {
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    const pid = Number(await firstLine(child))
    this.#ends.push(async () => {
      process.kill(pid)
      const closed = once(child, 'close')
      child.stdin.end()
      await closed
    })
    for (const key of keys) addKey(add, key, socket)
    return socket
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#ends.splice(0).reverse()) await end()
  }
}

/** It listens when its command runs. */
async function firstLine(child: ChildProcess): Promise<string> {
  const said = await new Promise<string>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', () => resolve(''))
    child.stdout?.once('data', data => resolve(String(data)))
  })
  if (said === '') throw new StoreError('failed', 'ssh-agent does not start')
  return said
}

function addKey(add: string, key: string, socket: string): void {
  const { status, stderr } = spawnSync(add, ['-q', key], {
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, SSH_AUTH_SOCK: socket, SSH_ASKPASS_REQUIRE: 'never' },
  })
  if (status === 0) return
  const said = stderr.trim().split('\n').at(-1) ?? ''
  throw new StoreError(
    'failed',
    `ssh-agent does not take the key ${key}${said === '' ? '' : `: ${said}`}`,
    'one with a passphrase must be in an agent of yours: --ssh default',
  )
}

/** A socket for one step, which leads to the agent's. */
export class SshSocket implements Disposable {
  readonly #server: Server
  readonly #open = new Set<Socket>()

  private constructor(readonly agent: string) {
    this.#server = createServer(client => this.#carry(client))
  }

  /** @param path of 107 bytes at most */
  static async listen(path: string, agent: string): Promise<SshSocket> {
    const socket = new SshSocket(agent)
    socket.#server.listen(path)
    await once(socket.#server, 'listening')
    return socket
  }

  #carry(client: Socket): void {
    const server = connect(this.agent)
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#open.add(socket)
      socket.on('error', () => other.destroy())
      socket.on('close', () => this.#open.delete(socket))
      socket.pipe(other)
    }
  }

  [Symbol.dispose](): void {
    this.#server.close()
    for (const socket of this.#open) socket.destroy()
  }
}
