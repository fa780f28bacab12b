import type { Command } from 'commander'
import { CliError } from './output.js'

/** What help says beyond commander's lists; man-pages.ts reads the same. */

/** What `lamina --help` and lamina(1) end with. */
export const EXIT_CODES_AND_MORE = `
Exit codes:
  0  done
  1  it failed; one line on standard error says why
  2  it was asked wrongly
  125, 126, 127  run and exec: it failed before the command ran; the command cannot be run; there is none
  130, 143  ended by Ctrl-C, by SIGTERM, after cleaning up
  run and exec give the exit code of their command: 128 and the number for one that a signal ended.

Environment:
  LAMINA_ROOT  the store; /var/lib/lamina, of an ordinary user $XDG_DATA_HOME/lamina or ~/.local/share/lamina otherwise
  LAMINA_RUN  where daemons and an ordinary user's namespace are found; /run/lamina, $XDG_RUNTIME_DIR/lamina otherwise
  LAMINA_STORAGE_DRIVER  auto, fuse, overlay2, btrfs or vfs
  LAMINA_RUNTIME  what runs containers: a program, or none; crun or runc otherwise
  LAMINA_LOG, LAMINA_DEBUG  a daemon's log file, and what goes into it: fuse,overlay,sys,daemon,store

Examples:
  lamina mount --lower base --upper upper --work work merged
  lamina run --rm -it debian:12
  lamina help volume create`

/** Unlike commander's own: also of `volume create`, and a command that is not there is an error that says so. */
export function registerHelp(program: Command): void {
  program
    .command('help')
    .description('print the help of a command')
    .argument('[command...]')
    .addHelpText('after', '\nExample:\n  lamina help volume create')
    .action((words: string[]) => {
      let command = program
      for (const [index, word] of words.entries()) {
        const found = command.commands.find(one => one.name() === word || one.aliases().includes(word))
        if (found === undefined) {
          const missing = words.slice(0, index + 1).join(' ')
          const list = ['lamina help', ...words.slice(0, index)].join(' ')
          throw new CliError(`there is no command '${missing}': '${list}' lists those that there are`, 2)
        }
        command = found
      }
      command.outputHelp()
    })
}

/** The first example of each of the first three commands of a group. */
export function addGroupExamples(group: Command): void {
  if (group.commands.length === 0) return
  for (const command of group.commands) addGroupExamples(command)
  group.addHelpText('after', () => {
    const examples = subcommandsOf(group).map(command => extraHelp(command).examples.split('\n')[0] ?? '')
    const lines = examples.filter(line => line !== '').slice(0, 3)
    return `\nExamples:\n${lines.map(line => `  ${line}`).join('\n')}`
  })
}

/** What is typed: `lamina volume create`. */
export function wordsOf(command: Command): string {
  return command.parent === null ? command.name() : `${wordsOf(command.parent)} ${command.name()}`
}

/** Without `help` and what is hidden. */
export function subcommandsOf(command: Command): Command[] {
  const all = command.createHelp().visibleCommands(command)
  return all.filter(one => one.name() !== 'help')
}

/** What addHelpText put after commander's lists: prose, and the examples. */
export function extraHelp(command: Command): { readonly text: string; readonly examples: string } {
  let whole = ''
  const before = command.configureOutput()
  command.configureOutput({ ...before, writeOut: text => (whole += text) })
  command.outputHelp()
  command.configureOutput(before)
  const extra = whole.slice(command.helpInformation().length)
  const [text = '', examples = ''] = extra.split(/^Examples?:\n/m)
  return { text: text.trim(), examples: examples.replace(/^ {2}/gm, '').trimEnd() }
}
