/**
 * `--freeze`: nothing can write to the filesystem that a volume is, for as long as its backup takes. fsfreeze(8) does it, in a
 * process that thaws when its standard input ends: also when this command is killed.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { findProgram } from '../oci-runtime.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import type { VolumeRecord } from './volume-record.js'

const SCRIPT = '"$1" --freeze "$2" && echo frozen && { read -r end; "$1" --unfreeze "$2"; }'

/** @throws StoreError unsupported with the reason */
export async function freezeVolume(store: Store, volume: VolumeRecord): Promise<AsyncDisposable> {
  const refuse = (reason: string): StoreError =>
    new StoreError(
      'unsupported',
      `volume ${volume.name} cannot be frozen: ${reason}`,
      'unmount its containers, or take it as it is with --live',
    )
  if (statSync(volume.mountpoint).dev === statSync(store.root).dev) {
    throw refuse("it lies on the store's own filesystem, and this command would stand still with it")
  }
  const fsfreeze = findProgram('fsfreeze')
  if (fsfreeze === undefined) throw refuse('fsfreeze(8) is not installed (Debian: util-linux)')
  const child = spawn('sh', ['-c', SCRIPT, 'sh', fsfreeze, volume.mountpoint], {
    stdio: ['pipe', 'pipe', 'pipe'],
    // A Ctrl-C at the terminal is for us; it thaws when we have ended.
    detached: true,
  })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (said += chunk))
  const ended = once(child, 'close')
  const first = await Promise.race([once(child.stdout, 'data'), ended.then(() => undefined)])
  if (first === undefined) throw refuse(said.trim().split('\n').at(-1) ?? 'fsfreeze(8) failed')
  return {
    [Symbol.asyncDispose]: async () => {
      child.stdin.end()
      await ended
    },
  }
}
