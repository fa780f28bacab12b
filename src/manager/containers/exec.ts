/** `exec`: one more process in a container that a `run` keeps running. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { processConfig } from '../oci-bundle.js'
import { enterNamespaces, execute } from '../run-process.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { specOf, type ProcessSpec } from './container-spec.js'
import { bundleOf, NO_PROCESS, withVariables } from './process.js'
import { withSignals } from './run.js'
import { childrenOf, runningIn } from './uses.js'

export interface ExecOptions {
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly workdir?: string
  readonly user?: string
  readonly terminal: boolean
  readonly interactive: boolean
}

/** Returns the exit code. @throws StoreError invalid where nothing runs in the container */
export async function execInContainer(store: Store, ref: string, options: ExecOptions): Promise<number> {
  const container = store.containers.find(ref)
  const running = runningIn(store, container.id).find(one => one.kind !== 'starting')
  const rootfs = store.containers.mountpoint(container)
  if (running === undefined || rootfs === undefined) {
    throw new StoreError(
      'invalid',
      `nothing runs in container ${container.name}`,
      `'lamina start ${container.name}' runs its command, 'lamina run' one in a new container`,
    )
  }
  const first: ProcessSpec = specOf(container).process ?? NO_PROCESS
  const wanted: ProcessSpec = {
    ...first,
    entrypoint: [],
    args: options.args,
    env: withVariables([...first.env], options.env),
    terminal: options.terminal,
    ...(options.workdir === undefined ? {} : { workdir: options.workdir }),
    ...(options.user === undefined ? {} : { user: options.user }),
  }
  const bundle = bundleOf(store, container, rootfs, wanted)
  const stdin = options.interactive || options.terminal ? 'inherit' : 'ignore'
  if (running.kind === 'namespaces') {
    // unshare(1) itself stays in the pid namespace that it came from; its child is the first in the new one.
    const [inside = running.pid] = childrenOf(running.pid)
    return await withSignals(started => enterNamespaces(inside, bundle, stdin, started))
  }
  await using scratch = store.scratch()
  const file = join(scratch.dir, 'process.json')
  writeFileSync(file, JSON.stringify(processConfig(bundle)))
  const words = [...running.command, 'exec', '--process', file, running.id]
  const stdio = [stdin, 'inherit', 'inherit'] as const
  return await withSignals(async onStart => {
    const how = { stdio, terminal: options.terminal, onStart }
    return await execute(words, how, child => child.kill('SIGKILL'))
  })
}
