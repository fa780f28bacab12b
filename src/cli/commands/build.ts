import { writeFileSync } from 'node:fs'
import { Option, type Command } from 'commander'
import type { BuildInput } from '../build-input.js'
import {
  parseCachePlace,
  parseOutput,
  push,
  sendCacheTo,
  takeCacheFrom,
  writeOutput,
} from '../build-output.js'
import { wordsOf } from '../help.js'
import type { CacheEntry } from '../../manager/build/cache-image.js'
import type { ImageRecord } from '../../manager/images.js'
import { CliError, print } from '../output.js'
import { ProgressBars } from '../progress.js'
import { onStore, withStore } from '../store-command.js'
import { choice } from './image-transfer.js'

const append = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value]

interface BuildArguments {
  file?: string
  tag?: string[]
  buildArg?: string[]
  label?: string[]
  secret?: string[]
  ssh?: string[]
  allow?: string[]
  target?: string
  cache: boolean
  noCacheFilter?: string[]
  cacheFrom?: string[]
  cacheTo?: string[]
  buildContext?: string[]
  output?: string[]
  push?: boolean
  progress: string
  addHost?: string[]
  metadataFile?: string
  pull: string | true
  network: string
  platform?: string
  iidfile?: string
  quiet?: boolean
  insecure?: boolean
}

/** `lamina build` and `lamina image build`: a Containerfile becomes an image. */
export function register(program: Command): void {
  define(program.command('build'))
}

export function define(command: Command): void {
  onStore(command)
    .description('build an image from a Containerfile or Dockerfile')
    .argument(
      '[context]',
      'the directory whose files COPY and ADD see; - reads a tar of it, or a Containerfile alone, from standard input',
      '.',
    )
    .option(
      '-f, --file <path>',
      'the Containerfile; - is standard input (default: Containerfile or Dockerfile of the context)',
    )
    .option('-t, --tag <name>', 'a name for the image; may be repeated', append)
    .option('--build-arg <name=value>', 'a value for an ARG; without =, from the environment', append)
    .option('--label <name=value>', 'one more label', append)
    .option(
      '--secret <id=name,src=file>',
      'for RUN --mount=type=secret; env=VARIABLE in place of src, or neither',
      append,
    )
    .option('--ssh <default|id=path>', "for RUN --mount=type=ssh: an agent's socket, or keys", append)
    .option('--allow <what>', 'let RUN ask for it: network.host', append)
    .option('--target <stage>', 'the stage to build; the last one otherwise')
    .option(
      '--build-context <name=dir>',
      'one more context, or docker-image://REF, oci-layout://PATH',
      append,
    )
    .option('--no-cache', 'carry out every step')
    .addOption(noCacheFilter())
    .option('--cache-from <place>', 'steps from REF, type=registry,ref=REF or type=local,src=DIR', append)
    .option(
      '--cache-to <place>',
      'steps to type=registry,ref=REF or type=local,dest=DIR; mode=max: all',
      append,
    )
    .option('--pull [when]', 'missing, always or never; alone: always', 'missing')
    .option('--network <mode>', 'of RUN: host (default) or none', 'host')
    .option('--add-host <name:ip>', 'a line of /etc/hosts of RUN; may be repeated', append)
    .option('--platform <os/arch>', 'of the image, and of those that it stands on')
    .option(
      '-o, --output <dest>',
      'also to DIR, or type=local|tar|oci|docker|image,dest=…; - is a tar',
      append,
    )
    .option('--push', 'push each name of the image')
    .option('--progress <how>', 'auto, plain, tty or quiet', 'auto')
    .option('--iidfile <file>', 'write the ID of the image to a file')
    .option('--metadata-file <file>', 'write names and digests of the image to a file, as JSON')
    .option('--insecure', 'registries over plain HTTP')
    .option('-q, --quiet', 'print the ID alone; output of steps only when one fails')
    .addHelpText(
      'after',
      `
Each instruction that changes files makes a layer; unchanged ones come from the cache and say CACHED.

Examples:
  ${wordsOf(command)} -t app:1 .
  ${wordsOf(command)} -t app:test --target test --build-arg VERSION=2 -f docker/Containerfile .
  git archive HEAD | ${wordsOf(command)} -o type=local,dest=out -`,
    )
    .action(async (asked: string, options: BuildArguments, self: Command) => {
      const { context, pull } = pullAndContext(asked, options.pull, self.args)
      const outputs = (options.output ?? []).map(parseOutput)
      const toStdout = outputs.filter(output => output.dest === '-').length
      if (toStdout > 1) throw new CliError('only one --output can be standard output', 2)
      const from = (options.cacheFrom ?? []).map(text => parseCachePlace('--cache-from', text))
      const to = (options.cacheTo ?? []).map(text => parseCachePlace('--cache-to', text))
      const progress = choice('--progress', options.progress, ['auto', 'plain', 'tty', 'quiet'])
      const quiet = options.quiet === true || progress === 'quiet'
      if (progress === 'tty' && !process.stderr.isTTY)
        throw new CliError('--progress tty: there is no terminal')
      // What an output takes is not mixed with what is told.
      const say = (text: string | Buffer): void =>
        void (toStdout > 0 ? process.stderr : process.stdout).write(text)
      await withStore(self, async (store, signal) => {
        const { readInput, readNamedContexts } = await import('../build-input.js')
        const { buildImage } = await import('../../manager/build/build.js')
        const { entitlements, secretSources, sshSources } = await import('../build-secrets.js')
        const { parseContainerfile } = await import('../../oci/containerfile.js')
        const { parseDockerignore } = await import('../../oci/dockerignore.js')
        const { parsePlatform } = await import('../../oci/platform.js')
        await using scratch = context === '-' ? store.scratch() : undefined
        const input: BuildInput = await readInput(
          context,
          options.file,
          () => `${scratch?.dir ?? ''}/context`,
          signal,
        )
        const transfer = { signal, ...(options.insecure === true ? { insecure: true } : {}) }
        for (const place of from) await takeCacheFrom(store, place, transfer)
        using bars = new ProgressBars()
        const held: Buffer[] = []
        const entries: CacheEntry[] = []
        try {
          const image = await buildImage(store, {
            ...transfer,
            containerfile: parseContainerfile(input.text),
            ...(input.context === undefined ? {} : { context: input.context }),
            ...(input.ignore === undefined ? {} : { ignore: parseDockerignore(input.ignore) }),
            ...(input.contextOwners === undefined ? {} : { contextOwners: input.contextOwners }),
            contexts: await readNamedContexts(options.buildContext ?? [], store, options.platform, signal),
            names: options.tag ?? [],
            args: pairs(options.buildArg ?? [], '--build-arg', process.env),
            labels: pairs(options.label ?? [], '--label'),
            secrets: secretSources(options.secret ?? [], process.env),
            ssh: sshSources(options.ssh ?? [], process.env),
            allow: entitlements(options.allow ?? []),
            ...(options.target === undefined ? {} : { target: options.target }),
            useCache: options.cache,
            uncachedStages: (options.noCacheFilter ?? []).flatMap(names => names.split(',')),
            pull,
            network: choice('--network', options.network === 'default' ? 'host' : options.network, [
              'host',
              'none',
            ]),
            ...(options.addHost === undefined ? {} : { addHosts: options.addHost }),
            ...(options.platform === undefined
              ? {}
              : { platform: parsePlatform(onePlatform(options.platform)) }),
            onProgress: event => {
              if (progress !== 'plain')
                bars.update(event.id, event.label, event.done, event.total, event.status)
            },
            onStep: step => {
              if (quiet) held.length = 0
              else if (step.state === 'begins') say(`STEP ${step.number}/${step.total}: ${step.text}\n`)
              else if (step.state === 'cached') say('  CACHED\n')
            },
            onOutput: chunk => void (quiet ? held.push(chunk) : say(chunk)),
            onCacheEntry: entry => entries.push(entry),
          })
          for (const output of outputs) await writeOutput(store, image, output, options.tag ?? [], transfer)
          for (const place of to) await sendCacheTo(store, place, entries, image, transfer)
          const digest = options.push === true ? await push(store, options.tag ?? [], transfer) : undefined
          if (options.iidfile !== undefined) writeFileSync(options.iidfile, image.id)
          if (options.metadataFile !== undefined)
            writeFileSync(options.metadataFile, metadata(image, options.tag ?? [], digest))
          if (toStdout === 0) print(image.id)
        } catch (error) {
          if (quiet && held.length > 0) process.stderr.write(Buffer.concat(held))
          throw error
        }
      })
    })
}

/** To commander, what begins with `--no-` takes a value away; this one has one. */
function noCacheFilter(): Option {
  const option = new Option('--no-cache-filter <stage>', 'carry out every step of a stage').argParser(append)
  option.negate = false
  return option
}

const PULL = ['missing', 'always', 'never'] as const

/** `--pull` alone takes no value: in `build --pull .` the dot is the context. */
function pullAndContext(
  context: string,
  pull: string | true,
  words: readonly string[],
): { context: string; pull: (typeof PULL)[number] } {
  if (pull === true || pull === 'true') return { context, pull: 'always' }
  if (pull === 'false') return { context, pull: 'missing' }
  const known = PULL.find(each => each === pull)
  if (known !== undefined) return { context, pull: known }
  if (words.length > 0) throw new CliError(`--pull takes ${PULL.join(', ')}, not ${pull}`, 2)
  return { context: pull, pull: 'always' }
}

function onePlatform(text: string): string {
  if (text.includes(',')) throw new CliError(`--platform ${text}: a build makes an image for one platform`, 2)
  return text
}

/** As buildx names them. */
function metadata(image: ImageRecord, names: readonly string[], digest: string | undefined): string {
  return `${JSON.stringify(
    {
      'containerimage.config.digest': image.id,
      ...(digest === undefined ? {} : { 'containerimage.digest': digest }),
      ...(names.length === 0 ? {} : { 'image.name': names.join(',') }),
    },
    undefined,
    2,
  )}\n`
}

/** `A=b`; with an environment, `A` alone takes its value from there. */
function pairs(words: readonly string[], option: string, env?: NodeJS.ProcessEnv): Record<string, string> {
  const found: Record<string, string> = {}
  for (const word of words) {
    const equals = word.indexOf('=')
    if (equals > 0) found[word.slice(0, equals)] = word.slice(equals + 1)
    else if (env !== undefined && equals < 0) {
      const value = env[word]
      if (value !== undefined) found[word] = value
    } else throw new CliError(`${option} ${word} is not NAME=VALUE`, 2)
  }
  return found
}
