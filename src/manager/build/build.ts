/**
 * The builder: a Containerfile becomes an image. Each instruction that changes files is a layer; what a step made is
 * found again in the build cache by the digest of everything it depends on: the stack below, the run config, the
 * instruction, its arguments, and the contents that COPY and ADD bring.
 */
import { fromUtf8 } from '../../base/bytes.js'
import {
  expandWord,
  hostPlatform,
  parseInstruction,
  readStep,
  type BuildStep,
  type Containerfile,
  type CopyStep,
  type Digest,
  parsePlatform,
  type ImageConfig,
  type Instruction,
  type PathPatterns,
  type Platform,
  type RunStep,
  type Stage,
} from '../../oci/index.js'
import { applyConfigStep, commandLine, isConfigStep } from '../config-change.js'
import { emptyConfig, historyStep, record, withLayer } from '../image-create.js'
import type { ImageRecord } from '../images.js'
import type { Lease } from '../leases.js'
import type { Store } from '../store.js'
import { StoreError, causeOf } from '../store-error.js'
import { BaseImages, type BaseImageOptions } from './base-images.js'
import type { CacheEntry } from './cache-image.js'
import { cacheKey, copiedContents } from './cache-key.js'
import { copyFiles } from './copy-files.js'
import { workdirOwner } from './copy-owner.js'
import { CopyTarget } from './copy-target.js'
import { checkSources, isRemote, RemoteFiles } from './remote-files.js'
import { runInstruction, type Entitlement } from './run-instruction.js'
import type { SecretSource } from './run-mounts.js'
import type { SourceTree } from './source-tree.js'
import { Sources, type NamedContext } from './sources.js'
import { SshAgents, type SshSource } from './ssh-agents.js'
import { StageGraph } from './stage-graph.js'
import { changeTree } from './step-box.js'
import { viewDigest, type ViewSource } from './step-views.js'
import { BuildVariables } from './variables.js'

export interface BuildOptions extends BaseImageOptions {
  readonly containerfile: Containerfile
  /** Directory of the build context; absent where there is none. */
  readonly context?: string
  /** What of it the build does not see. */
  readonly ignore?: PathPatterns
  /** The context came as an archive, whose owners count. */
  readonly contextOwners?: boolean
  /** By the names under which FROM, COPY --from and bind mounts know them. */
  readonly contexts?: Readonly<Record<string, NamedContext>>
  readonly names?: readonly string[]
  readonly args?: Readonly<Record<string, string>>
  readonly labels?: Readonly<Record<string, string>>
  /** A stage's name or number; the last one otherwise. */
  readonly target?: string
  readonly useCache?: boolean
  /** Stages whose steps are carried out whatever the cache has. */
  readonly uncachedStages?: readonly string[]
  readonly network?: 'host' | 'none'
  /** `NAME:IP`, for /etc/hosts of RUN. */
  readonly addHosts?: readonly string[]
  /** Of the image that is made, and of images that it stands on. */
  readonly platform?: Platform
  /** By id, for RUN --mount=type=secret. */
  readonly secrets?: Readonly<Record<string, SecretSource>>
  /** By id, for RUN --mount=type=ssh. */
  readonly ssh?: Readonly<Record<string, SshSource>>
  /** What RUN may ask for beyond the usual. */
  readonly allow?: readonly Entitlement[]
  /** Bytes that ADD downloads of one URL at most. */
  readonly maxDownload?: number
  readonly onStep?: (step: StepReport) => void
  readonly onOutput?: (chunk: Buffer) => void
  /** Each step that the build cache has now, for {@link cacheImage}. */
  readonly onCacheEntry?: (entry: CacheEntry) => void
}

export interface StepReport {
  /** Of the stages that are needed, counted from 1. */
  readonly number: number
  readonly total: number
  /** The instruction, on one line. */
  readonly text: string
  readonly state: 'begins' | 'cached' | 'done'
}

/** Where a stage stands. */
interface StageState {
  chain: Digest | undefined
  config: ImageConfig
  /** This stage has said CMD itself: an ENTRYPOINT then leaves it. */
  hasCmd: boolean
}

/** @throws StoreError failed for a RUN that fails, OciError for what is wrong in the file; no layer of that step stays */
export async function buildImage(store: Store, options: BuildOptions): Promise<ImageRecord> {
  using lease = store.lease()
  await using remote = new RemoteFiles(store, { max: options.maxDownload, signal: options.signal })
  await using ssh = new SshAgents(store, options.ssh ?? {})
  const builder = new Builder(store, lease, remote, ssh, options)
  const { config } = await builder.build()
  const finished = finish(config, options)
  const image = record(store, finished, {})
  store.db.transaction(() => {
    for (const name of options.names ?? []) store.images.tag(image.id, name)
  })
  return store.images.find(image.id)
}

/** What the caller says of the image, whatever the file does. */
function finish(config: ImageConfig, { labels = {}, platform }: BuildOptions): ImageConfig {
  const named =
    Object.keys(labels).length === 0
      ? config
      : { ...config, config: { ...config.config, Labels: { ...config.config?.Labels, ...labels } } }
  if (platform === undefined) return named
  const { os, architecture, variant } = platform
  return { ...named, os, architecture, ...(variant === undefined ? {} : { variant }) }
}

class Builder {
  readonly #graph: StageGraph
  readonly #sources: Sources
  readonly #images: BaseImages
  readonly #done = new Map<number, Promise<StageState>>()
  readonly #total: number
  #number = 0
  readonly #platform: Platform
  readonly #globals: BuildVariables

  constructor(
    readonly store: Store,
    readonly lease: Lease,
    readonly remote: RemoteFiles,
    readonly ssh: SshAgents,
    readonly options: BuildOptions,
  ) {
    const { containerfile, context, ignore, contextOwners } = options
    this.#platform = options.platform ?? hostPlatform()
    this.#globals = BuildVariables.globals(containerfile, options.args ?? {}, this.#platform)
    this.#images = new BaseImages(store, lease, options)
    const local = context === undefined ? undefined : { dir: context, ignore, owners: contextOwners }
    this.#sources = new Sources(store, local, options.contexts)
    this.#graph = new StageGraph(
      containerfile,
      this.#globals.lookup(),
      name => this.#sources.named(name) !== undefined,
    )
    this.#total = [...this.#graph.needed(this.#graph.target(options.target))].reduce(
      (sum, index) => sum + 1 + (this.#graph.stages[index]?.instructions.length ?? 0),
      0,
    )
  }

  build(): Promise<StageState> {
    return this.#build(this.#graph.target(this.options.target))
  }

  #build(index: number): Promise<StageState> {
    const known = this.#done.get(index)
    if (known !== undefined) return known
    const stage = this.#graph.stages[index]
    if (stage === undefined) throw new Error(`there is no stage ${index}`)
    const building = this.#buildStage(stage)
    this.#done.set(index, building)
    return building
  }

  async #buildStage(stage: Stage): Promise<StageState> {
    const base = this.#graph.base(stage)
    // Stages that this one needs come first, so that the output reads from top to bottom.
    const parent = this.#graph.index(base, stage.index)
    const before = parent === undefined ? undefined : await this.#build(parent)
    for (const instruction of stage.instructions) {
      const from = instruction.flags.find(flag => flag.name === 'from')?.value
      const other = from === undefined ? undefined : this.#graph.index(from, stage.index)
      if (other !== undefined) await this.#build(other)
    }
    const report = this.#begin(stage.from)
    const state =
      before === undefined
        ? await this.#located(stage.from, () => this.#from(base, stage))
        : { ...before, hasCmd: false }
    report('done')
    const triggers = state.config.config?.OnBuild ?? []
    if (triggers.length > 0)
      state.config = { ...state.config, config: { ...state.config.config, OnBuild: [] } }
    const variables = this.#globals.forStage()
    const { escape } = this.options.containerfile
    for (const trigger of triggers) {
      await this.#step(state, parseInstruction(trigger, escape, stage.from.line), variables, stage)
    }
    for (const instruction of stage.instructions) await this.#step(state, instruction, variables, stage)
    return state
  }

  #begin(instruction: Instruction): (state: 'cached' | 'done') => void {
    this.#number += 1
    const report = {
      number: this.#number,
      total: Math.max(this.#total, this.#number),
      text: instructionLine(instruction),
    }
    this.options.onStep?.({ ...report, state: 'begins' })
    return state => this.options.onStep?.({ ...report, state })
  }

  /** What a stage stands on that is no stage. */
  async #from(name: string, stage: Stage): Promise<StageState> {
    const platform = this.#platformOf(stage)
    const named = this.#sources.named(name)
    if (named !== undefined && 'dir' in named) {
      const all = { ...readStep(parseInstruction('COPY / /', '\\', 1), () => undefined) } as CopyStep
      const state = { chain: undefined, config: emptyConfig(platform ?? this.#platform), hasCmd: false }
      const chain = await this.#copy(state, { ...all, from: name }, stage)
      const layer = chain === undefined ? undefined : this.store.layers.getChain(chain)
      return layer === undefined
        ? state
        : { ...state, chain, config: withLayer(state.config, layer.diffId, `FROM ${name}`) }
    }
    if (name === 'scratch' && named === undefined)
      return { chain: undefined, config: emptyConfig(this.#platform), hasCmd: false }
    const image = await this.#images.find(named?.image ?? name, platform)
    return { chain: image.chainId, config: this.store.images.config(image.id), hasCmd: false }
  }

  /** Asked for by FROM, or by the build. */
  #platformOf({ platform }: Stage): Platform | undefined {
    if (platform === undefined) return this.options.platform
    return parsePlatform(expandWord(platform, this.#globals.lookup(), this.options.containerfile.escape))
  }

  async #step(
    state: StageState,
    instruction: Instruction,
    variables: BuildVariables,
    stage: Stage,
  ): Promise<void> {
    const { signal, containerfile } = this.options
    signal?.throwIfAborted()
    const report = this.#begin(instruction)
    const run = state.config.config ?? {}
    const step = readStep(instruction, variables.lookup(run.Env), containerfile.escape)
    if (step.kind === 'arg') {
      variables.declare(step.args)
      report('done')
      return
    }
    const key = await this.#located(instruction, () => {
      if (step.kind === 'add') checkSources(step)
      return this.#cacheKey(state, step, variables, stage)
    })
    const hadCmd = state.hasCmd
    if (step.kind === 'cmd') state.hasCmd = true
    const told = `${instruction.keyword} ${instruction.args}`.slice(0, 200)
    const done = (how: 'cached' | 'done'): void => {
      this.options.onCacheEntry?.({ key, instruction: told, chainId: state.chain, config: state.config })
      report(how)
    }
    const cached = this.#mayCache(stage) ? this.store.buildCache.find(key) : undefined
    if (cached !== undefined && (cached.chainId === undefined || this.lease.keepChain(cached.chainId))) {
      state.chain = cached.chainId
      state.config = cached.config
      done('cached')
      return
    }
    await this.#located(instruction, () =>
      this.#carryOut({ state, hadCmd }, step, instruction, variables, stage),
    )
    this.store.buildCache.add(key, { chainId: state.chain, config: state.config }, told)
    done('done')
  }

  #mayCache({ name, index }: Stage): boolean {
    const { useCache, uncachedStages = [] } = this.options
    const names = [name, `${index}`]
    return useCache !== false && !uncachedStages.some(each => names.includes(each.toLowerCase()))
  }

  /** Errors say in which line. */
  async #located<T>(instruction: Instruction, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (this.options.signal?.aborted === true) throw error
      const [cause, hint] =
        error instanceof StoreError ? [error.cause ?? error, error.hint] : [error, undefined]
      throw new StoreError('failed', `line ${instruction.line}: ${causeOf(error)}`, hint, { cause })
    }
  }

  async #carryOut(
    { state, hadCmd }: { state: StageState; hadCmd: boolean },
    step: BuildStep,
    instruction: Instruction,
    variables: BuildVariables,
    stage: Stage,
  ): Promise<void> {
    const run = { ...state.config.config }
    const before = state.chain
    let createdBy = instructionLine(instruction)
    if (step.kind === 'run') {
      createdBy = variables.createdBy(run.Env, commandLine(run, step.command))
      state.chain = await this.#run(state, step, variables, stage)
    } else if (step.kind === 'copy' || step.kind === 'add') {
      state.chain = await this.#copy(state, step, stage)
    } else if (isConfigStep(step)) {
      applyConfigStep(run, step)
      // A CMD of the base image was an argument of its own ENTRYPOINT.
      if (step.kind === 'entrypoint' && !hadCmd) delete run.Cmd
      state.config = { ...state.config, config: run }
      if (step.kind === 'workdir') state.chain = await this.#workdir(state, run.WorkingDir ?? '/')
    }
    const chain = state.chain
    if (chain !== undefined && chain !== before) {
      const layer = this.store.layers.getChain(chain)
      if (layer === undefined) throw new Error('the layer that was just made is gone')
      state.config = withLayer(state.config, layer.diffId, createdBy)
    } else {
      const history = [...(state.config.history ?? []), historyStep(createdBy, undefined, true)]
      state.config = { ...state.config, history }
    }
  }

  async #run(
    state: StageState,
    step: RunStep,
    variables: BuildVariables,
    stage: Stage,
  ): Promise<Digest | undefined> {
    const config = state.config.config ?? {}
    const env = variables.environment(config.Env ?? [])
    const viewOf = (from: string | undefined): Promise<ViewSource> => this.#viewOf(from, stage)
    const { ssh } = this
    const instruction = { step, chain: state.chain, config, env, viewOf, ssh }
    return await runInstruction(this.store, this.lease, instruction, this.options)
  }

  /** What a mount of RUN is taken from. */
  async #viewOf(from: string | undefined, stage: Stage): Promise<ViewSource> {
    const context = this.#sources.local(from)
    if (context !== undefined) return { kind: 'local', context }
    if (from === undefined || from === 'scratch') return { kind: 'layers', chain: undefined }
    return { kind: 'layers', chain: await this.#chainOf(from, stage) }
  }

  async #copy(state: StageState, step: CopyStep, stage: Stage): Promise<Digest | undefined> {
    const workingDir = state.config.config?.WorkingDir
    const { signal } = this.options
    const urls = step.sources.filter(source => isRemote(step, source))
    const remote = await this.remote.fetch(step, urls)
    const local = { ...step, sources: step.sources.filter(source => !isRemote(step, source)) }
    return await this.#withSource(local, stage, source =>
      changeTree(
        this.store,
        state.chain,
        this.lease,
        rootfs => copyFiles(local, source, rootfs.n, workingDir, signal, remote),
        signal,
      ),
    )
  }

  async #withSource<T>(step: CopyStep, stage: Stage, work: (source: SourceTree) => Promise<T>): Promise<T> {
    const { from } = step
    // Nothing of it is read: only what the file itself and URLs bring.
    if (from === undefined && step.sources.length === 0)
      return await this.#sources.withLocal({ dir: '/' }, undefined, work)
    const local = this.#sources.local(from)
    if (local !== undefined) return await this.#sources.withLocal(local, from, work)
    return await this.#sources.withChain(await this.#chainOf(from ?? '', stage), `'${from}'`, work)
  }

  /** The stack of a stage or image that is copied from. */
  async #chainOf(from: string, stage: Stage): Promise<Digest | undefined> {
    const index = this.#graph.index(from, stage.index)
    if (index !== undefined) return (await this.#build(index)).chain
    const named = this.#sources.named(from)
    const image = named !== undefined && 'image' in named ? named.image : from
    return (await this.#images.find(image, this.options.platform)).chainId
  }

  /** WORKDIR makes its directory, which belongs to the user of the stage. */
  async #workdir(state: StageState, path: string): Promise<Digest | undefined> {
    if (path === '/') return state.chain
    return await changeTree(this.store, state.chain, this.lease, rootfs => {
      const owner = workdirOwner(rootfs.n, state.config.config?.User)
      new CopyTarget(rootfs.n, { ...owner, mode: 0o755 }).directory(fromUtf8(path)).close()
      return Promise.resolve()
    })
  }

  /** The digest of everything that decides what the step makes. */
  async #cacheKey(
    state: StageState,
    step: BuildStep,
    variables: BuildVariables,
    stage: Stage,
  ): Promise<string> {
    const parts: unknown[] = [step.kind === 'entrypoint' && state.hasCmd]
    if (step.kind === 'run') {
      const { network = 'host', addHosts = [] } = this.options
      parts.push(variables.environment(state.config.config?.Env ?? []), network, addHosts)
      for (const mount of step.mounts) {
        if (mount.type !== 'bind' && (mount.type !== 'cache' || mount.from === undefined)) continue
        const source = await this.#viewOf(mount.from, stage)
        parts.push(source.kind === 'layers' ? (source.chain ?? '') : viewDigest(source, mount.source))
      }
    } else if (step.kind === 'copy' || step.kind === 'add') {
      parts.push(await this.#contentDigest(step, stage))
    }
    return cacheKey(state.chain, state.config, this.#platform, step, parts)
  }

  async #contentDigest(step: CopyStep, stage: Stage): Promise<unknown> {
    // A stage's or image's own identity says enough, and costs no reading.
    if (step.from !== undefined && this.#sources.local(step.from) === undefined)
      return await this.#chainOf(step.from, stage)
    const local = step.sources.filter(source => !isRemote(step, source))
    const contents = await this.#withSource({ ...step, sources: local }, stage, tree =>
      Promise.resolve(copiedContents({ ...step, sources: local }, tree)),
    )
    return local.length === step.sources.length ? contents : [contents, ...(await this.remote.identity(step))]
  }
}

function instructionLine(instruction: Instruction): string {
  const flags = instruction.flags.map(flag => `--${flag.name}${flag.value === '' ? '' : `=${flag.value}`} `)
  return `${instruction.keyword} ${flags.join('')}${instruction.args}`
}
