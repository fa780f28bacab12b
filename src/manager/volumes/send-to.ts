/** Hands a backup to a program that keeps backups. Their own settings (passwords, remotes) are in their environment. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { pipeline } from 'node:stream/promises'
import type { ByteSource } from '../../oci/index.js'
import { findProgram } from '../oci-runtime.js'
import { StoreError } from '../store-error.js'

interface Tool {
  /** Whether it packs by itself: then it gets the plain tar, whose unchanged parts it can find again. */
  readonly packs: boolean
  readonly args: (place: string, name: string) => string[]
}

const TOOLS: Readonly<Record<string, Tool>> = {
  restic: {
    packs: true,
    args: (place, name) => [
      '-r',
      place,
      'backup',
      '--stdin',
      '--stdin-filename',
      `${name}.tar`,
      '--tag',
      'lamina',
    ],
  },
  rclone: {
    packs: false,
    args: (place, name) => ['rcat', /[/:]$/.test(place) ? `${place}${name}.tar.zst` : place],
  },
}

export interface Destination {
  readonly packs: boolean
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
  return {
    packs: tool.packs,
    send: async (source, name, signal) => {
      const child = spawn(program, tool.args(place, name), { stdio: ['pipe', 'inherit', 'inherit'] })
      const ended = once(child, 'close')
      // A program that ends early closes the pipe: its exit code is the better message.
      const sent = pipeline(source, child.stdin, signal === undefined ? {} : { signal }).catch(
        (error: unknown) => error,
      )
      const [code, killedBy] = (await ended) as [number | null, string | null]
      const failure: unknown = await sent
      if (code !== 0)
        throw new StoreError('failed', `${kind} ended with ${code ?? killedBy}; see its message above`)
      if (failure instanceof Error) throw failure
    },
  }
}
