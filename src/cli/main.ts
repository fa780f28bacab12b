import { Command, CommanderError, Option } from 'commander'
import { commandLine } from './argv.js'
import { addGroupExamples, EXIT_CODES_AND_MORE, registerHelp } from './help.js'
import { CliError, FORMATS } from './output.js'
import { addShortWord, groupOfShortWord, refuseElsewhere, SHORT_WORDS } from './short-words.js'
import { version } from './version.js'

/**
 * The `lamina` program. A command group is one file in commands/ that exports `register(program)`, and one line here.
 *
 * Only the group of the command that was asked for is loaded: starting fast is part of mounting fast. A group's file
 * imports at its top what its definitions need, and the rest inside its actions (`await import(…)`).
 */
const GROUPS: readonly { commands: readonly string[]; load: () => Promise<Group> }[] = [
  { commands: ['mount', 'umount', 'mounts', 'stats'], load: () => import('./commands/mount.js') },
  { commands: ['daemon'], load: () => import('./commands/daemon.js') },
  { commands: ['doctor'], load: () => import('./commands/doctor.js') },
  { commands: ['diff'], load: () => import('./commands/diff.js') },
  { commands: ['image'], load: () => import('./commands/image.js') },
  { commands: ['layer'], load: () => import('./commands/layer.js') },
  { commands: ['login', 'logout'], load: () => import('./commands/registry.js') },
  { commands: ['build'], load: () => import('./commands/build.js') },
  { commands: ['commit'], load: () => import('./commands/commit.js') },
  { commands: ['system', 'info'], load: () => import('./commands/system.js') },
  { commands: ['container'], load: () => import('./commands/container.js') },
  { commands: ['plugin'], load: () => import('./commands/plugin.js') },
  { commands: ['run', 'exec'], load: () => import('./commands/run.js') },
  {
    commands: ['start', 'stop', 'restart', 'kill', 'wait', 'logs'],
    load: () => import('./commands/lifecycle.js'),
  },
  { commands: ['unshare'], load: () => import('./commands/unshare.js') },
  { commands: ['volume'], load: () => import('./commands/volume.js') },
  { commands: ['completion', '__complete'], load: () => import('./commands/completion.js') },
]

interface Group {
  register: (program: Command) => void
}

/** Their exit code is that of what they run. */
const RUNNING: readonly string[] = ['run', 'exec']

const isRunning = ([first = '', second = '']: readonly string[]): boolean =>
  RUNNING.includes(first === 'container' ? second : first)

/** 0: done; 1: it failed, stderr says why in one line; 2: it was asked wrongly; 130: ended by Ctrl-C. */
export async function main(args: readonly string[] = commandLine()): Promise<number> {
  process.stdout.on('error', endQuietly)
  process.removeAllListeners('warning').on('warning', warn)
  try {
    refuseElsewhere(args[0])
    const program = await createProgram(args)
    await program.parseAsync([...args], { from: 'user' })
    return typeof process.exitCode === 'number' ? process.exitCode : 0
  } catch (error) {
    const code = report(error, args.includes('--debug'))
    // 1 and 2 could be the command's own. As Docker has it.
    return isRunning(args) && (code === 1 || code === 2) ? 125 : code
  }
}

/** Ours are lines for people; Node's own are for developers, and said where something asks for them. */
function warn({ name, message, stack }: Error): void {
  if (name === 'LaminaWarning') process.stderr.write(`lamina: ${message}\n`)
  else if (!process.execArgv.includes('--no-warnings')) process.stderr.write(`${stack ?? message}\n`)
}

/** `lamina … | head` has read enough: ends as SIGPIPE ends other programs. Whoever streams bytes handles it himself. */
function endQuietly(error: NodeJS.ErrnoException): void {
  if (process.stdout.listenerCount('error') > 1) return
  if (error.code === 'EPIPE') process.exit(141)
  throw error
}

/** The program with the groups that `args` need, or with all of them. */
export async function createProgram(args: readonly string[] | 'all'): Promise<Command> {
  const program = asProgram(new Command('lamina'))
  const word = args === 'all' ? undefined : args[0]
  if (word === '--version' || word === '-V') return program
  const isShort = word !== undefined && SHORT_WORDS.includes(word)
  const wanted = isShort ? undefined : GROUPS.find(group => group.commands.includes(word ?? ''))
  if (!isShort)
    for (const group of wanted === undefined ? GROUPS : [wanted]) (await group.load()).register(program)
  if (wanted === undefined) {
    for (const short of isShort ? [word] : SHORT_WORDS) {
      const group = GROUPS.find(one => one.commands.includes(groupOfShortWord(short) ?? ''))
      if (group !== undefined) addShortWord(program, short, (await group.load()).register, asProgram)
    }
  }
  for (const group of program.commands) addGroupExamples(group)
  registerHelp(program)
  return program
}

/** What commands take over from the program that they are defined in. */
function asProgram(program: Command): Command {
  return program
    .description('An overlay filesystem in user space, and the storage manager that goes with it')
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand(false)
    .configureHelp({ showGlobalOptions: true })
    .showSuggestionAfterError(true)
    .exitOverride()
    .enablePositionalOptions()
    .addHelpText('after', EXIT_CODES_AND_MORE)
}

/** `--format table|json`, as every command that prints a list has it. */
export function formatOption(): Option {
  return new Option('--format <format>', 'how to print').choices(FORMATS).default('table')
}

/** Prints an error as its kind deserves and gives the exit code. */
function report(error: unknown, withStack: boolean): number {
  if (error instanceof CommanderError) {
    // commander has printed the message already; --help and --version arrive here too.
    return error.exitCode === 0 ? 0 : 2
  }
  const message = error instanceof Error ? error.message : String(error)
  process.stderr.write(`lamina: ${message}\n`)
  if (withStack && error instanceof Error) process.stderr.write(`${error.stack ?? ''}\n`)
  return error instanceof CliError ? error.exitCode : 1
}
