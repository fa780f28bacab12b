/** Hands a backup to a program that keeps backups. Their own settings (passwords, remotes) are in their environment. */
import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { once } from 'node:events'
import type { Writable } from 'node:stream'
import type { ByteSource } from '../../oci/index.js'
import { findProgram } from '../oci-runtime.js'
import { StoreError } from '../store-error.js'

interface Tool {
  /** Whether it packs by itself: then it gets the plain tar, whose unchanged parts it can find again. */
  readonly packs: boolean
  /** What it calls the backup of a volume. */
  readonly target: (place: string, name: string) => string
  readonly send: (place: string, target: string) => string[]
  /** Where a backup that is still being written could be taken for a whole one: its name until then, and what follows. */
  readonly partial?: {
    readonly commit: (from: string, to: string) => string[]
    readonly discard: (from: string) => string[]
  }
}

const TOOLS: Readonly<Record<string, Tool>> = {
  // Makes the snapshot when it has all of it.
  restic: {
    packs: true,
    target: (_place, name) => `${name}.tar`,
    send: (place, target) => [
      '-r',
      place,
      'backup',
      '--stdin',
      '--stdin-filename',
      target,
      '--tag',
      'lamina',
    ],
  },
  // Many of its remotes truncate the file of that name first, and fill it then.
  rclone: {
    packs: false,
    target: (place, name) => (/[/:]$/.test(place) ? `${place}${name}.tar.zst` : place),
    send: (_place, target) => ['rcat', target],
    partial: {
      commit: (from, to) => ['moveto', from, to],
      discard: from => ['deletefile', from],
    },
  },
}

export interface Destination {
  readonly packs: boolean
  /** @throws StoreError failed; nothing that could be taken for a backup is kept then */
  send(source: ByteSource, name: string, signal?: AbortSignal): Promise<void>
}

/** `restic:REPOSITORY`, `rclone:REMOTE:PATH`. @throws StoreError invalid; unsupported where the program is missing */
export function parseDestination(text: string): Destination {
  const [, kind = '', place = ''] = /^([a-z]+):(.+)$/s.exec(text) ?? []
  const tool = TOOLS[kind]
  if (tool === undefined) {
    throw new StoreError(
      'invalid',
      `--to ${text} is not understood`,
      'restic:REPOSITORY or rclone:REMOTE:PATH',
    )
  }
  const program = findProgram(kind)
  if (program === undefined) {
    throw new StoreError('unsupported', `${kind} is not installed`, `Debian: apt-get install ${kind}`)
  }
  const run = async (args: string[]): Promise<void> => {
    const [code, signal] = (await once(
      spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'] }),
      'close',
    )) as [number | null, string | null]
    if (code !== 0) throw ended(kind, code ?? signal)
  }
  return {
    packs: tool.packs,
    send: async (source, name, signal) => {
      const target = tool.target(place, name)
      const { partial } = tool
      if (partial === undefined) {
        await feed(kind, program, tool.send(place, target), source, signal)
        return
      }
      const begun = `${target}.partial`
      try {
        await feed(kind, program, tool.send(place, begun), source, signal)
        await run(partial.commit(begun, target))
      } catch (error) {
        // Where nothing has been written this fails as well, and what went wrong is known already.
        await run(partial.discard(begun)).catch(() => undefined)
        throw error
      }
    },
  }
}

/** Milliseconds for a program to clean up in. */
const PATIENCE = 10_000

/** A source that fails must not look like one that ends: the program is killed before its input is closed. */
async function feed(
  kind: string,
  program: string,
  args: string[],
  source: ByteSource,
  signal?: AbortSignal,
): Promise<void> {
  const child = spawn(program, args, { stdio: ['pipe', 'inherit', 'inherit'] })
  const closed = once(child, 'close') as Promise<[number | null, string | null]>
  const gone = closed.then(
    () => true,
    () => true,
  )
  let failure: unknown
  try {
    await pump(source, child, gone, signal)
  } catch (error) {
    failure = error
    // It cleans up by itself, and never reads the end of its input meanwhile.
    child.kill('SIGINT')
    const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE)
    await gone
    clearTimeout(timer)
  }
  child.stdin.destroy()
  const [code, killedBy] = await closed
  if (failure instanceof Error) throw failure
  if (code !== 0) throw ended(kind, code ?? killedBy)
}

async function pump(
  source: ByteSource,
  child: ChildProcessByStdio<Writable, null, null>,
  gone: Promise<boolean>,
  signal: AbortSignal | undefined,
): Promise<void> {
  // A program that ends early closes the pipe: its exit code is the better message.
  child.stdin.on('error', () => undefined)
  for await (const chunk of source) {
    signal?.throwIfAborted()
    if (child.exitCode !== null || child.signalCode !== null) return
    if (!child.stdin.write(chunk))
      await Promise.race([once(child.stdin, 'drain').catch(() => undefined), gone])
  }
  signal?.throwIfAborted()
  child.stdin.end()
  await gone
}

function ended(kind: string, how: number | string | null): StoreError {
  return new StoreError('failed', `${kind} ended with ${how}; see its message above`)
}
