import type { Command } from 'commander'
import { containerOptions, onContainer, type ContainerArguments } from '../container-options.js'
import { append } from '../key-values.js'
import { CliError } from '../output.js'
import { onStore, withStore } from '../store-command.js'

interface RunArguments extends ContainerArguments {
  rm?: boolean
  interactive?: boolean
  tty?: boolean
  env?: string[]
  workdir?: string
  user?: string
  network: string
  hostname?: string
  entrypoint?: string
}

/** `lamina run`: a command in a new container. */
export function register(program: Command): void {
  onContainer(onStore(program.command('run')))
    .description('run a command in a new container; its exit code is passed on')
    .argument('<image>')
    .argument('[command...]', "the image's own otherwise")
    .option('--rm', 'remove the container and its anonymous volumes afterwards')
    .option('-i, --interactive', 'pass standard input on')
    .option('-t, --tty', 'give it this terminal, standard input too')
    .option(
      '-e, --env <name=value>',
      'a variable; NAME alone takes the value from here; may be repeated',
      append,
    )
    .option('-w, --workdir <dir>', 'where it starts; made if missing')
    .option('-u, --user <user>', 'NAME, UID, NAME:GROUP or UID:GID')
    .option('--network <mode>', 'host or none', 'host')
    .option('--hostname <name>', 'the beginning of the ID otherwise')
    .option('--entrypoint <program>', "instead of the image's")
    .passThroughOptions()
    .addHelpText(
      'after',
      `
Exit code: the command's; 128 and the signal's number for a command that a signal ended.

Examples:
  lamina run --rm -it debian:12
  lamina run --rm -v data:/var/lib/postgresql -u postgres postgres:15 psql --version`,
    )
    .action(async (image: string, words: string[], options: RunArguments, command: Command) => {
      const { network } = options
      if (network !== 'host' && network !== 'none')
        throw new CliError(`--network takes host or none, not ${network}`, 2)
      if (options.tty === true && !process.stdin.isTTY) {
        throw new CliError('standard input is not a terminal: leave -t out', 2)
      }
      if (options.tty === true && !process.stdout.isTTY) {
        throw new CliError('standard output is not a terminal: leave -t out', 2)
      }
      process.exitCode = await withStore(
        command,
        async store => {
          const { runContainer } = await import('../../manager/containers/run.js')
          return await runContainer(store, {
            ...(await containerOptions(options)),
            image,
            entrypoint: options.entrypoint === undefined ? undefined : [options.entrypoint].filter(Boolean),
            interactive: options.interactive === true,
            remove: options.rm === true,
            process: {
              args: words,
              env: environment(options.env ?? []),
              network,
              terminal: options.tty === true,
              ...(options.workdir === undefined ? {} : { workdir: options.workdir }),
              ...(options.user === undefined ? {} : { user: options.user }),
              ...(options.hostname === undefined ? {} : { hostname: options.hostname }),
            },
          })
        },
        { ownSignals: true },
      )
    })
}

/** As Docker: NAME alone is this process's value, and nothing where it has none. */
function environment(words: readonly string[]): string[] {
  return words.flatMap(word => {
    if (word.startsWith('=') || word === '') throw new CliError(`--env ${word}: write NAME=VALUE`, 2)
    if (word.includes('=')) return [word]
    const value = process.env[word]
    return value === undefined ? [] : [`${word}=${value}`]
  })
}
