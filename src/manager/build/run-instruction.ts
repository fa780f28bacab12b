/** A RUN of a Containerfile: what it may have, what it sees, and the layer that it makes. */
import { join } from 'node:path'
import type { Digest, RunConfig, RunStep } from '../../oci/index.js'
import { commandLine } from '../config-change.js'
import type { Lease } from '../leases.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { CacheMounts } from './cache-mounts.js'
import type { SecretSource } from './run-mounts.js'
import { runStep } from './run-step.js'
import type { SshAgents } from './ssh-agents.js'
import { changeTree } from './step-box.js'
import { StepViews, type ViewSource } from './step-views.js'

/** What a Containerfile may ask for only where the caller has said so (`--allow`). */
export const ENTITLEMENTS = ['network.host', 'security.insecure'] as const
export type Entitlement = (typeof ENTITLEMENTS)[number]

export interface RunOptions {
  /** Of steps that name none; naming the host's here allows it. */
  readonly network?: 'host' | 'none'
  /** `NAME:IP`, for /etc/hosts of steps that have the network. */
  readonly addHosts?: readonly string[]
  readonly allow?: readonly Entitlement[]
  /** By id, for RUN --mount=type=secret. */
  readonly secrets?: Readonly<Record<string, SecretSource>>
  readonly signal?: AbortSignal
  readonly onOutput?: (chunk: Buffer) => void
}

export interface RunInstruction {
  readonly step: RunStep
  /** Of the stage, so far. */
  readonly chain: Digest | undefined
  readonly config: RunConfig
  readonly env: readonly string[]
  readonly viewOf: (from: string | undefined) => Promise<ViewSource>
  readonly ssh: SshAgents
}

/** @returns the new top of the stack: `chain` itself where nothing changed */
export async function runInstruction(
  store: Store,
  lease: Lease,
  { step, chain, config, env, viewOf, ssh }: RunInstruction,
  options: RunOptions,
): Promise<Digest | undefined> {
  const network = networkOf(step, options)
  if (step.security === 'insecure') {
    throw new StoreError('unsupported', 'RUN --security=insecure is not supported', 'steps run confined')
  }
  const { signal, secrets = {}, onOutput = () => undefined } = options
  // Before anything is mounted: what a source names may have to be built or pulled first.
  const sources = new Map<string | undefined, ViewSource>()
  for (const mount of step.mounts) {
    if (mount.type === 'bind') sources.set(mount.from, await viewOf(mount.from))
    else if (mount.type === 'cache' && mount.from !== undefined) {
      sources.set(mount.from, await viewOf(mount.from))
    }
  }
  const known = (from: string | undefined): Promise<ViewSource> => {
    const source = sources.get(from)
    return source === undefined ? viewOf(from) : Promise.resolve(source)
  }
  return await changeTree(
    store,
    chain,
    lease,
    async (rootfs, path, scratch) => {
      using caches = new CacheMounts(join(store.root, 'build-mounts'), scratch.dir, signal, () =>
        store.sweep(),
      )
      await using views = new StepViews(store, scratch)
      await runStep({
        rootfs,
        path,
        scratch: scratch.dir,
        args: commandLine(config, step.command),
        env,
        workingDir: config.WorkingDir,
        user: config.User,
        network,
        addHosts: options.addHosts,
        mounts: step.mounts,
        script: step.script,
        sources: { views, viewOf: known, caches, secrets, ssh },
        onOutput,
        ...(signal === undefined ? {} : { signal }),
      })
    },
    signal,
  )
}

/** @throws StoreError where the step asks for more than the build was given */
function networkOf(
  { network }: RunStep,
  { network: usual = 'host', allow = [] }: RunOptions,
): 'host' | 'none' {
  if (network === 'default') return usual
  if (network === 'host' && usual !== 'host' && !allow.includes('network.host')) {
    throw new StoreError(
      'invalid',
      'RUN --network=host is not allowed in a build with --network none',
      'give --allow network.host',
    )
  }
  return network
}
