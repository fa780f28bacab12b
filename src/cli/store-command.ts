/** What every command on the store has: --root, --storage-driver, one-line errors, and a Ctrl-C that cleans up. */
import type { Command } from 'commander'
import type { Store } from '../manager/store.js'
import type { StoreError } from '../manager/store-error.js'
import { CliError } from './output.js'

interface StoreOptions {
  root?: string
  storageDriver?: string
}

/** Adds the options of the store to a command. */
export function onStore(command: Command): Command {
  return command
    .option('--root <dir>', 'the store (default: LAMINA_ROOT, /var/lib/lamina, or ~/.local/share/lamina)')
    .option('--storage-driver <name>', 'auto, fuse, overlay2, btrfs or vfs (also: LAMINA_STORAGE_DRIVER)')
}

/**
 * Runs `body` on the store. The signal aborts on the first Ctrl-C or SIGTERM: the body then undoes what it has begun
 * and throws; the exit code is 130 or 143. A second Ctrl-C ends the process as it is; the next command sweeps.
 */
export async function withStore<T>(
  command: Command,
  body: (store: Store, signal: AbortSignal) => Promise<T> | T,
  /** `ownSignals`: the body does with SIGINT and SIGTERM what it likes. */
  { ownSignals = false }: { readonly ownSignals?: boolean } = {},
): Promise<T> {
  await enterNamespace()
  const { Store } = await import('../manager/store.js')
  const { CommandError, StoreError } = await import('../manager/store-error.js')
  const options: StoreOptions = command.optsWithGlobals()
  const interrupt = new AbortController()
  let received: NodeJS.Signals | undefined
  const onSignal = (signal: NodeJS.Signals): void => {
    if (received !== undefined) process.exit(130)
    received = signal
    interrupt.abort(new CliError('interrupted', signal === 'SIGTERM' ? 143 : 130))
  }
  if (!ownSignals) process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
  try {
    using store = await Store.open({
      ...(options.root === undefined ? {} : { root: options.root }),
      ...(options.storageDriver === undefined ? {} : { driver: options.storageDriver }),
    })
    return await body(store, interrupt.signal)
  } catch (failure) {
    const error = failure instanceof Error && 'suppressed' in failure ? failure.suppressed : failure
    if (received !== undefined) throw new CliError('interrupted', received === 'SIGTERM' ? 143 : 130)
    if (!(error instanceof StoreError)) throw error
    throw inOneLine(error, error instanceof CommandError ? error.exitCode : undefined)
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
  }
}

/** For an ordinary user: this very command once more, in his user namespace. Nothing may have been done before. */
export async function enterNamespace(program?: readonly string[]): Promise<void> {
  if (process.geteuid?.() === 0) return
  const { enterUserNamespace } = await import('../manager/rootless/user-namespace.js')
  await oneLine(() => enterUserNamespace(program))
}

/** After a mount: an ordinary user who looks for it from outside sees an empty directory. */
export function tellNamespace(): void {
  if (process.env['LAMINA_ENTERED'] !== '1') return
  process.stderr.write("lamina: mounted in this user's namespace: 'lamina unshare' is where it can be seen\n")
}

/** Ends an ordinary user's namespace. */
export async function endNamespace(): Promise<void> {
  if (process.geteuid?.() === 0) throw new CliError('root has no user namespace of his own', 2)
  const { endUserNamespace } = await import('../manager/rootless/user-namespace.js')
  await oneLine(endUserNamespace)
}

async function oneLine(work: () => Promise<unknown>): Promise<void> {
  const { StoreError } = await import('../manager/store-error.js')
  try {
    await work()
  } catch (error) {
    throw error instanceof StoreError ? inOneLine(error) : error
  }
}

function inOneLine({ message, hint, code }: StoreError, exitCode = code === 'invalid' ? 2 : 1): CliError {
  return new CliError(hint === undefined ? message : `${message}: ${hint}`, exitCode)
}

/** Standard output as a place for bytes. @throws CliError on a terminal */
export function stdoutForBytes(what: string): NodeJS.WriteStream {
  if (process.stdout.isTTY)
    throw new CliError(`refusing to write ${what} to a terminal: redirect it, or use -o FILE`, 2)
  return process.stdout
}

export function shortTime(milliseconds: number | undefined): string {
  if (milliseconds === undefined || milliseconds <= 0) return 'unknown'
  const seconds = Math.max(0, (Date.now() - milliseconds) / 1000)
  const units: [string, number][] = [
    ['year', 31_557_600],
    ['month', 2_629_800],
    ['week', 604_800],
    ['day', 86_400],
    ['hour', 3600],
    ['minute', 60],
  ]
  for (const [unit, length] of units) {
    const n = Math.floor(seconds / length)
    if (n >= 1) return `${n} ${unit}${n === 1 ? '' : 's'} ago`
  }
  return 'just now'
}
