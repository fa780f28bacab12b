import type { Command } from 'commander'
import type { ProcessSpec } from '../../manager/containers/container-spec.js'
import {
  containerOptions,
  environment,
  onContainer,
  onProcess,
  processOptions,
  type ContainerArguments,
  type ProcessArguments,
} from '../container-options.js'
import { append } from '../key-values.js'
import { CliError, print } from '../output.js'
import { onStore, withStore } from '../store-command.js'

interface RunArguments extends ContainerArguments, ProcessArguments {
  detach?: boolean
  rm?: boolean
  interactive?: boolean
  tty?: boolean
}

interface ExecArguments {
  interactive?: boolean
  tty?: boolean
  env?: string[]
  workdir?: string
  user?: string
}

/** `lamina run`: a command in a new container. `lamina exec`: another one in it. */
export function register(program: Command): void {
  onProcess(onContainer(onStore(program.command('run'))))
    .description('run a command in a new container; its exit code is passed on')
    .argument('<image>')
    .argument('[command...]', "the image's own otherwise")
    .option('-d, --detach', 'in the background: print the ID, and return when the command runs')
    .option('--rm', 'remove the container and its anonymous volumes afterwards')
    .option('-i, --interactive', 'pass standard input on')
    .option('-t, --tty', 'give it this terminal, standard input too')
    .passThroughOptions()
    .addHelpText(
      'after',
      `
Exit code: the command's; 128 and the signal's number for a command that a signal ended.

Examples:
  lamina run --rm -it debian:12
  lamina run -d --name db -v data:/var/lib/postgresql postgres:15; lamina logs db; lamina stop db
  lamina run --rm -v data:/var/lib/postgresql -u postgres postgres:15 psql --version`,
    )
    .action(async (image: string, words: string[], options: RunArguments, command: Command) => {
      if (options.detach === true && (options.tty === true || options.interactive === true)) {
        const way = "leave -i and -t out; 'lamina exec -it' gives a terminal to a shell beside it"
        throw new CliError(`a command in the background has neither input nor terminal: ${way}`, 2)
      }
      refuseNoTerminal(options.tty === true)
      const process_ = processOptions(words, options, options.tty === true)
      if (options.detach === true) {
        await runInBackground({ image, process: process_ }, options, command)
        return
      }
      process.exitCode = await withStore(
        command,
        async store => {
          const { runContainer } = await import('../../manager/containers/run.js')
          return await runContainer(store, {
            ...(await containerOptions(options)),
            image,
            interactive: options.interactive === true,
            remove: options.rm === true,
            process: process_,
          })
        },
        { ownSignals: true },
      )
    })

  onStore(program.command('exec'))
    .description("run one more command in a container that 'lamina run' keeps running")
    .argument('<container>')
    .argument('<command...>')
    .option('-i, --interactive', 'pass standard input on')
    .option('-t, --tty', 'give it this terminal, standard input too')
    .option(
      '-e, --env <name=value>',
      'a variable; NAME alone takes the value from here; may be repeated',
      append,
    )
    .option('-w, --workdir <dir>', "instead of the container's")
    .option('-u, --user <user>', 'NAME, UID, NAME:GROUP or UID:GID')
    .passThroughOptions()
    .addHelpText(
      'after',
      `
Exit code: the command's.

Example:
  lamina exec -it web sh`,
    )
    .action(async (ref: string, words: string[], options: ExecArguments, command: Command) => {
      refuseNoTerminal(options.tty === true)
      process.exitCode = await withStore(
        command,
        async store => {
          const { execInContainer } = await import('../../manager/containers/exec.js')
          return await execInContainer(store, ref, {
            args: words,
            env: environment(options.env ?? []),
            terminal: options.tty === true,
            interactive: options.interactive === true,
            ...(options.workdir === undefined ? {} : { workdir: options.workdir }),
            ...(options.user === undefined ? {} : { user: options.user }),
          })
        },
        { ownSignals: true },
      )
    })
}

async function runInBackground(
  what: { readonly image: string; readonly process: ProcessSpec },
  options: RunArguments,
  command: Command,
): Promise<void> {
  await withStore(command, async (store, signal) => {
    const { runDetached } = await import('../../manager/containers/detached.js')
    const run = {
      ...(await containerOptions(options)),
      ...what,
      interactive: false,
      remove: options.rm === true,
    }
    print(await runDetached(store, run, signal))
  })
}

function refuseNoTerminal(wanted: boolean): void {
  for (const [name, stream] of [
    ['input', process.stdin],
    ['output', process.stdout],
  ] as const) {
    if (wanted && !stream.isTTY) throw new CliError(`standard ${name} is not a terminal: leave -t out`, 2)
  }
}
