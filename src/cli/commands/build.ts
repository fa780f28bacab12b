import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { wordsOf } from '../help.js'
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
  pull: string
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
      'the directory whose files COPY and ADD see; - reads the Containerfile from standard input',
      '.',
    )
    .option('-f, --file <path>', 'the Containerfile (default: Containerfile or Dockerfile of the context)')
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
    .option('--no-cache', 'carry out every step')
    .option('--pull <when>', 'missing, always or never', 'missing')
    .option('--network <mode>', 'of RUN: host or none', 'host')
    .option('--platform <os/arch>', 'of images that are pulled')
    .option('--iidfile <file>', 'write the ID of the image to a file')
    .option('--insecure', 'pull over plain HTTP')
    .option('-q, --quiet', 'print the ID alone; output of steps only when one fails')
    .addHelpText(
      'after',
      `
Each instruction that changes files makes a layer; unchanged ones come from the cache and say CACHED.

Examples:
  ${wordsOf(command)} -t app:1 .
  ${wordsOf(command)} -t app:test --target test --build-arg VERSION=2 -f docker/Containerfile .`,
    )
    .action(async (context: string, options: BuildArguments, self: Command) => {
      const input = readInput(context, options.file)
      await withStore(self, async (store, signal) => {
        const { buildImage } = await import('../../manager/build/build.js')
        const { entitlements, secretSources, sshSources } = await import('../build-secrets.js')
        const { parseContainerfile } = await import('../../oci/containerfile.js')
        const { parseDockerignore } = await import('../../oci/dockerignore.js')
        const { parsePlatform } = await import('../../oci/platform.js')
        using bars = new ProgressBars()
        const held: Buffer[] = []
        const quiet = options.quiet === true
        try {
          const image = await buildImage(store, {
            containerfile: parseContainerfile(input.text),
            ...(input.context === undefined ? {} : { context: input.context }),
            ...(input.ignore === undefined ? {} : { ignore: parseDockerignore(input.ignore) }),
            names: options.tag ?? [],
            args: pairs(options.buildArg ?? [], '--build-arg', process.env),
            labels: pairs(options.label ?? [], '--label'),
            secrets: secretSources(options.secret ?? [], process.env),
            ssh: sshSources(options.ssh ?? [], process.env),
            allow: entitlements(options.allow ?? []),
            ...(options.target === undefined ? {} : { target: options.target }),
            useCache: options.cache,
            pull: choice('--pull', options.pull, ['missing', 'always', 'never']),
            network: choice('--network', options.network, ['host', 'none']),
            ...(options.platform === undefined ? {} : { platform: parsePlatform(options.platform) }),
            ...(options.insecure === true ? { insecure: true } : {}),
            signal,
            onProgress: event => bars.update(event.id, event.label, event.done, event.total, event.status),
            onStep: step => {
              if (quiet) held.length = 0
              else if (step.state === 'begins') print(`STEP ${step.number}/${step.total}: ${step.text}`)
              else if (step.state === 'cached') print('  CACHED')
            },
            onOutput: chunk => void (quiet ? held.push(chunk) : process.stdout.write(chunk)),
          })
          if (options.iidfile !== undefined) writeFileSync(options.iidfile, image.id)
          print(image.id)
        } catch (error) {
          if (quiet && held.length > 0) process.stderr.write(Buffer.concat(held))
          throw error
        }
      })
    })
}

interface Input {
  readonly text: string
  readonly context?: string
  /** Text of .dockerignore. */
  readonly ignore?: string
}

function readInput(context: string, file: string | undefined): Input {
  if (context === '-') {
    if (process.stdin.isTTY) throw new CliError('no Containerfile: pipe one to standard input', 2)
    return { text: readFileSync(0, 'utf8') }
  }
  if (statSync(context, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw new CliError(`the build context ${context} is no directory`)
  }
  const names = file === undefined ? ['Containerfile', 'Dockerfile'].map(name => join(context, name)) : [file]
  const path = file === '-' ? '-' : names.find(name => existsSync(name))
  if (path === undefined) {
    throw new CliError(
      `no Containerfile or Dockerfile ${file === undefined ? `in ${context}` : `at ${file}`}: name one with -f`,
    )
  }
  const text = path === '-' ? readFileSync(0, 'utf8') : readFileSync(path, 'utf8')
  const ignoreFile = [
    `${path}.dockerignore`,
    join(context, '.containerignore'),
    join(context, '.dockerignore'),
  ].find(name => existsSync(name))
  return { text, context, ...(ignoreFile === undefined ? {} : { ignore: readFileSync(ignoreFile, 'utf8') }) }
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
